"""Build the website from stored and freshly executed notebooks: `python -m medtutor.site`.

The site is built from a staged copy, so that a reader's checkout stays as it was: chapters come with their stored
outputs, and those executed since (under runs/) come with the outputs of that execution.

What a page loads lies beside it. Scripts that come from npm are fetched once into node_modules/, in the versions of
package-lock.json, and copied into the site.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from medtutor import notebook

PARTS = ("_config.yml", "_toc.yml", "book", "chapters")
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")
"""What the pages use of MathJax: one script, its fonts, and the TeX extensions that it loads on demand."""
FONTS = ("source-sans-3/index", "source-sans-3/wght-italic", "source-serif-4/index", "source-code-pro/index")
"""Style sheets of fontsource packages; a browser loads only the files whose letters a page shows."""


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
        copy, book = executed / f"{stored.stem}-{profile}.ipynb" if executed else None, notebook.read(stored)
        if copy and copy.exists():
            run = notebook.read(copy)
            if notebook.fingerprint(run) == notebook.fingerprint(book):
                book = run
                fresh.append(stored.stem)
            else:
                print(f"{copy} was executed from another source than {stored.name}: stored outputs are used")
        for cell in book.cells:
            if "injected-parameters" in notebook.tags(cell):
                cell.metadata["tags"] = ["injected-parameters", "remove-cell"]
        for output in notebook.outputs(book):
            for mime in output.get("data", {}):
                if mime.startswith(notebook.GLUE_PREFIX):
                    # myst-nb reads a glued text as a Python literal: without quotes "+0.100" becomes 0.1
                    output.data[mime] = repr(output.data[mime])
        notebook.write(book, stored)
    return fresh


def fetch(root: Path) -> Path | None:
    """The folder of the npm packages of package-lock.json, fetched if need be; None where npm cannot give them.

    Then one sentence says what is missing, and formulas load MathJax from its public address.
    """
    lock, folder = root / "package-lock.json", root / "node_modules"
    done = folder / ".fetched.json"
    if done.exists() and done.read_bytes() == lock.read_bytes():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        missing = "npm was not found: install Node.js 18 or newer"
    else:
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        run = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if run.returncode == 0:
            shutil.copyfile(lock, done)
            return folder
        missing = f"npm could not fetch the packages of package-lock.json ({(run.stderr or '?').splitlines()[0]})"
    print(f"{missing}; the site is built without them, and its formulas need a network.", file=sys.stderr)
    return None


def vendor(packages: Path | None, source: Path) -> None:
    """Copy what pages load from `packages` to `source`/_assets/vendor, which the site serves as /vendor."""
    to = source / "_assets" / "vendor"
    to.mkdir(parents=True)
    if packages is None:
        return
    for part in MATHJAX:
        made, wanted = to / "mathjax" / part, packages / "mathjax" / "es5" / part
        made.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(wanted, made) if wanted.is_dir() else shutil.copyfile(wanted, made)
    sheets = [packages / "@fontsource-variable" / f"{sheet}.css" for sheet in FONTS]
    rules = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    (to / "fonts" / "files").mkdir(parents=True)
    (to / "fonts" / "fonts.css").write_text(rules, encoding="utf-8")
    for name in set(re.findall(r"files/[\w.-]+", rules)):
        shutil.copyfile(next(found for sheet in sheets if (found := sheet.parent / name).exists()), to / "fonts" / name)


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
    root, source = notebook.book_root(), to / "_build" / "source"
    fresh = stage(root, source, options.executed, options.profile)
    vendor(fetch(root), source)
    status = build(source, to)
    if status:
        raise SystemExit(f"the site was not built: see the warnings above (jupyter-book ended with {status})")
    if options.executed:
        print(f"Executed here: {', '.join(fresh) or 'none'}. All other chapters show their stored outputs.")
    print(f"The book is at {(to / '_build' / 'html' / 'index.html').as_uri()}")


if __name__ == "__main__":
    main()
