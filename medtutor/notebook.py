"""Read notebooks: the definitions of a chapter for its tests, fingerprints, claims, glued numbers, execution facts.

An executed notebook carries everything in its own outputs and metadata. The site, the ledger and the tests read it
through this module and keep no files of their own.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from medtutor.claims import MIME as CLAIM_MIME

if TYPE_CHECKING:
    import nbformat  # takes 1.5 s (a grammar for addresses is compiled), and every chapter imports this module

GLUE_PREFIX = "application/papermill.record/"
#: The budgets of the parameter `profile`.
PROFILES = ("smoke", "cpu", "gpu")


def nearest(kind: str, wanted: str, known) -> str:
    """One sentence about an unknown name, with the nearest known ones."""
    near = difflib.get_close_matches(str(wanted), list(known), n=3, cutoff=0.4) or list(known)
    return f"there is no {kind} {wanted!r}; try {', '.join(near)}"


def book_root() -> Path:
    """The folder that holds `book/` and `chapters/`: $MEDTUTOR_BOOK, else the working folder or one above it,
    else the checkout in which this package lies."""
    named = os.environ.get("MEDTUTOR_BOOK")
    folders = [Path(named)] if named else [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parent.parent]
    for folder in folders:
        if (folder / "chapters").is_dir() and (folder / "book").is_dir():
            return folder
    raise FileNotFoundError(f"no chapters/ and book/ in {named or 'this folder or above it'}; "
                            "run this inside a checkout of the book or set MEDTUTOR_BOOK to it")


def chapters() -> list[Path]:
    """The chapter notebooks in reading order."""
    return sorted((book_root() / "chapters").glob("[0-9][0-9]-*.ipynb"))


def find(chapter: str) -> Path:
    """The notebook of a chapter named by its number ("01" or "1") or by number and slug.

    Raises ValueError with the nearest names for an unknown chapter.
    """
    paths = {path.stem: path for path in chapters()}
    wanted = Path(chapter).stem
    for stem, path in paths.items():
        if wanted in (stem, stem[:2], stem[:2].lstrip("0"), stem[3:]):
            return path
    near = difflib.get_close_matches(wanted, paths, n=3, cutoff=0.3) or list(paths)
    raise ValueError(f"there is no chapter {chapter!r}; try {', '.join(near[:5]) or 'again when one is written'}")


def read(path: str | Path) -> nbformat.NotebookNode:
    """The notebook at `path`, nbformat 4. Raises ValueError for a file that is not a notebook."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise
    except Exception as error:  # nbformat raises many types for a damaged file
        raise ValueError(f"{path} is not a readable notebook ({type(error).__name__}: {error})") from error


def write(book: nbformat.NotebookNode, path: str | Path) -> None:
    """Write atomically: a reader sees the old notebook or the new one, never half of one."""
    import nbformat

    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".ipynb")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            nbformat.write(book, stream)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def parameters(book) -> dict[str, object]:
    """Names and default values in the cell tagged `parameters`."""
    cells = [cell for cell in book.cells if "parameters" in tags(cell)]
    if len(cells) != 1:
        raise ValueError(f"a chapter needs exactly one cell tagged 'parameters', but this one has {len(cells)}")
    scope: dict[str, object] = {}
    exec(compile(cells[0].source, "parameters", "exec", dont_inherit=True), {}, scope)
    return scope


def fingerprint(book) -> str:
    """SHA-256 over the code cells. Prose may change without a new execution; code may not."""
    code = [cell.source for cell in book.cells if cell.cell_type == "code" and "injected-parameters" not in tags(cell)]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def outputs(book) -> list:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def claims(book) -> list[dict]:
    """The claims that the notebook's outputs hold, in order."""
    return [dict(o.data[CLAIM_MIME]) for o in outputs(book) if CLAIM_MIME in o.get("data", {})]


def glued(book) -> dict[str, str]:
    """Name and text of every glued number."""
    found = {}
    for output in outputs(book):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        if name:
            found[name] = output.data[GLUE_PREFIX + "text/plain"]
    return found


def execution(book) -> dict:
    """Facts of the stored execution: profile, seed, data, source_sha256, seconds, peak_memory_mb, versions."""
    return dict(book.metadata.get("medtutor", {}))


def definitions(chapter: str | Path) -> SimpleNamespace:
    """What a chapter defines: its cells tagged `imports` or `define`, executed in order and nothing else."""
    return _definitions(Path(chapter) if Path(chapter).suffix == ".ipynb" else find(str(chapter)))


@cache
def _definitions(path: Path) -> SimpleNamespace:
    book, scope = read(path), {"__name__": f"chapter_{path.stem[:2]}"}
    for number, cell in enumerate(book.cells):
        if cell.cell_type == "code" and {"imports", "define"} & set(tags(cell)):
            # Without dont_inherit the cell would get this module's `annotations` future, which breaks dataclasses.
            exec(compile(cell.source, f"{path.name}[cell {number}]", "exec", dont_inherit=True), scope)
    return SimpleNamespace(**scope)


def papers() -> list[dict]:
    """The rows of book/papers.yml, each with `status`: `written` where its chapter has a section so labelled,
    else `planned`."""
    import yaml

    rows = yaml.safe_load((book_root() / "book" / "papers.yml").read_text(encoding="utf-8"))
    labels = {line for path in chapters() for line in _label_lines(path)}
    return [row | {"status": "written" if f"({row['id']})=" in labels else "planned"} for row in rows]


def _label_lines(path: Path) -> list[str]:
    return [line.strip() for cell in read(path).cells if cell.cell_type == "markdown"
            for line in cell.source.splitlines() if line.startswith("(")]
