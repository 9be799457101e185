"""Build the website from stored and freshly executed notebooks: `python -m medtutor.site`.

The site is built from a staged copy, so that a reader's checkout stays as it was: chapters come with their stored
outputs, and those executed since (under runs/) come with the outputs of that execution.

What a page loads lies beside it. MathJax and the fonts come from npm: they are fetched once into node_modules/, in the
versions of package-lock.json. Formulas are set when the site is built, so that a page needs no script to show them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import nbformat
import yaml

from medtutor import notebook, pdf
from medtutor.grading import beside, release

PARTS = ("_config.yml", "_toc.yml", "book", "chapters")
LETTERS = "output/chtml/fonts/woff-v2"
"""What the pages load of MathJax: its fonts."""
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


def exercise_pages(source: Path) -> None:
    """Make two pages of each staged exercise notebook: the student edition, and one of solutions at which no table of
    contents and no search points. What students work on is served as it is, under exercises/."""
    served = source / "_assets" / "exercises"
    for path in sorted((source / "chapters" / "exercises").glob("[0-9][0-9]-*.ipynb")):
        solutions, edition = notebook.read(path), release.released(path)
        served.mkdir(parents=True, exist_ok=True)
        notebook.write(edition, served / path.name)
        checks = shutil.copy(beside(path, "checks.py"), served)
        hidden = f"{path.stem}-solutions.ipynb"
        end = (source / "book" / "templates" / "exercises-end.txt").read_text(encoding="utf-8")
        end = end.format(notebook=path.name, checks=Path(checks).name, solutions=hidden)
        edition.cells.append(nbformat.v4.new_markdown_cell(end))
        notebook.write(edition, path)
        solutions.metadata["orphan"] = True
        for cell in solutions.cells:
            cell.source = re.sub(r"(?m)^.*(BEGIN|END) SOLUTION.*\n?", "", cell.source)
        solutions.cells[0].source = solutions.cells[0].source.replace("# Exercises", "# Solutions", 1)
        notebook.write(solutions, path.with_name(hidden))


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
    shutil.copytree(packages / "mathjax" / "es5" / LETTERS, to / "mathjax" / LETTERS)
    sheets = [packages / "@fontsource-variable" / f"{sheet}.css" for sheet in FONTS]
    rules = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    (to / "fonts" / "files").mkdir(parents=True)
    # "optional": letters that come late are used from the next page on, and nothing that is being read moves.
    (to / "fonts" / "fonts.css").write_text(rules.replace("display: swap", "display: optional"), encoding="utf-8")
    for name in set(re.findall(r"files/[\w.-]+", rules)):
        shutil.copyfile(next(found for sheet in sheets if (found := sheet.parent / name).exists()), to / "fonts" / name)


def build(source: Path, to: Path, link_pdf: bool = False) -> int:
    """Build the staged book at `source` into `to`/_build/html and return jupyter-book's exit status.

    With `link_pdf` the pages link to their PDFs, which are printed from the finished pages.
    Every build starts afresh: an incremental one would not repeat the warnings of pages that did not change.
    """
    for name in ("html", ".doctrees", ".jupyter_cache"):
        shutil.rmtree(to / "_build" / name, ignore_errors=True)
    # jupyter-book 1.x has no __main__; this finds the one of this Python, whatever PATH says.
    start = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*start, "build", str(source), "--path-output", str(to)]
    known = os.environ | {"MEDTUTOR_PDF": "1" if link_pdf else ""}
    return subprocess.run([*command, "-q", "-W", "-n", "--keep-going"], stdout=subprocess.DEVNULL, env=known).returncode


def typeset(packages: Path | None, html: Path) -> None:
    """Set the formulas of the pages under `html`. Raises SystemExit with the formula that MathJax cannot set."""
    if packages is None:
        return
    script = files("medtutor").joinpath("assets/typeset.js")
    words = [shutil.which("node"), script, (packages / "mathjax").resolve(), html / "vendor" / "mathjax", html]
    run = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"the formulas were not set: {run.stderr.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executed", type=Path, help="folder of executed copies, such as runs")
    parser.add_argument("--profile", default="cpu", help="whose executed copies are shown")
    parser.add_argument("--to", type=Path, default=Path("."), help="folder that gets _build/html")
    parser.add_argument("--pdf", action="store_true", help="print each page and the book, where there is Chromium")
    options = parser.parse_args()
    if options.pdf and not pdf.chromium():
        print("no Chromium was found: the site is built without its PDFs", file=sys.stderr)
        options.pdf = False
    to = options.to.resolve()
    root, source = notebook.book_root(), to / "_build" / "source"
    fresh = stage(root, source, options.executed, options.profile)
    exercise_pages(source)
    packages = fetch(root)
    vendor(packages, source)
    status = build(source, to, options.pdf)
    if status:
        raise SystemExit(f"the site was not built: see the warnings above (jupyter-book ended with {status})")
    html = to / "_build" / "html"
    typeset(packages, html)
    if options.pdf:
        base = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"]
        print(f"The book as PDF is at {pdf.make(html, pdf.names(root), base).as_uri()}")
    if options.executed:
        print(f"Executed here: {', '.join(fresh) or 'none'}. All other chapters show their stored outputs.")
    print(f"The book is at {(html / 'index.html').as_uri()}")


if __name__ == "__main__":
    main()
