"""Build the website from stored and freshly executed notebooks: `python -m medtutor.site`.

The site is built from a staged copy, so that a reader's checkout stays as it was: chapters come with their stored
outputs, and those executed since (under runs/) come with the outputs of that execution.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from medtutor import notebook

PARTS = ("_config.yml", "_toc.yml", "book", "chapters")


def stage(root: Path, to: Path, executed: Path | None = None, profile: str = "cpu") -> list[str]:
    """Copy the book's sources from `root` to `to`, with the outputs of `profile` runs under `executed`.

    An executed copy whose code differs from the chapter's is left out: its outputs belong to another source.
    Returns the names of the chapters that came with fresh outputs.
    """
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for part in PARTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, to / part, ignore=ignored)
        else:
            shutil.copy2(root / part, to / part)
    fresh = []
    for stored in sorted((to / "chapters").glob("[0-9][0-9]-*.ipynb")):
        copy = executed / f"{stored.stem}-{profile}.ipynb" if executed else None
        if copy is None or not copy.exists():
            continue
        book = notebook.read(copy)
        if notebook.fingerprint(book) != notebook.fingerprint(notebook.read(stored)):
            print(f"{copy} was executed from another source than {stored.name}: stored outputs are used")
            continue
        for cell in book.cells:
            if "injected-parameters" in notebook.tags(cell):
                cell.metadata["tags"] = ["injected-parameters", "remove-cell"]
        notebook.write(book, stored)
        fresh.append(stored.stem)
    return fresh


def build(source: Path, to: Path) -> int:
    """Build the staged book at `source` into `to`/_build/html and return jupyter-book's exit status.

    Every build starts afresh: an incremental one would not repeat the warnings of pages that did not change.
    """
    for name in ("html", ".doctrees", ".jupyter_cache"):
        shutil.rmtree(to / "_build" / name, ignore_errors=True)
    # jupyter-book 1.x has no __main__; this finds the one of this Python, whatever PATH says.
    start = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*start, "build", str(source), "--path-output", str(to)]
    return subprocess.run([*command, "-q", "-W", "-n", "--keep-going"], stdout=subprocess.DEVNULL).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executed", type=Path, help="folder of executed copies, such as runs")
    parser.add_argument("--profile", default="cpu", help="whose executed copies are shown")
    parser.add_argument("--to", type=Path, default=Path("."), help="folder that gets _build/html")
    options = parser.parse_args()
    to = options.to.resolve()
    fresh = stage(notebook.book_root(), to / "_build" / "source", options.executed, options.profile)
    status = build(to / "_build" / "source", to)
    if status:
        raise SystemExit(f"the site was not built: see the warnings above (jupyter-book ended with {status})")
    if options.executed:
        print(f"Executed here: {', '.join(fresh) or 'none'}. All other chapters show their stored outputs.")
    print(f"The book is at {(to / '_build' / 'html' / 'index.html').as_uri()}")


if __name__ == "__main__":
    main()
