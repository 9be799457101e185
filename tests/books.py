"""Build tiny books for the tests: a folder with book/ and chapters/, and notebooks from one line a cell."""

from pathlib import Path

import nbformat

PARAMETERS = ('profile = "cpu"\nseed = 0\ndata = "phantom"', "parameters")
TITLE = ("# A tiny chapter", "markdown")

#: A whole chapter in the book's form, small enough to execute in seconds.
TINY = (
    ("# A tiny chapter\n\nDoubling gives {glue:text}`answer` and {glue:text}`gain-idea`.", "markdown"),
    PARAMETERS,
    ("import numpy as np\n\nfrom medtutor import Lab", "imports"),
    ("lab = Lab('01', profile, seed, data)\nrng = np.random.default_rng(seed)",),
    ("(tiny-paper)=\n## Doubling", "markdown"),
    ("def double(x):\n    return 2 * x", "define"),
    ("lab.glue('answer', double(21), 'd')",),
    ("fact = lab.claim('tiny-paper', 'Doubling doubles', published='42', expected=42, measured=double(21),\n"
     "                 metric='product')",),
    ("easy = rng.normal(size=(len(lab.seeds), 30))\n"
     "gain = lab.compare('tiny-paper', 'One more is more', published='+1', idea=easy + 1 + rng.normal(size=30) / 10,\n"
     "                   baseline=easy, metric='score', key='gain')",),
)

PAPERS = """
- {id: tiny-paper, n: 1, title: On doubling, authors: Ada, year: 2020, venue: none, chapter: '01', kind: method}
- {id: later-paper, n: 2, title: On tripling, authors: Bob, year: 2021, venue: none, chapter: '02', kind: method}
"""


def notebook_of(*cells: tuple) -> nbformat.NotebookNode:
    """A notebook of (source, *tags); the tag `markdown` makes a text cell."""
    book = nbformat.v4.new_notebook(metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"}})
    for number, (source, *tags) in enumerate(cells):
        if "markdown" in tags:
            cell = nbformat.v4.new_markdown_cell(source)
        else:
            cell = nbformat.v4.new_code_cell(source, metadata={"tags": tags} if tags else {})
        cell.id = f"cell-{number}"
        book.cells.append(cell)
    return book


def make_book(root: Path, **chapters: tuple) -> Path:
    """A book at `root` with chapters named as keywords: `c01_tiny=TINY` is chapters/01-tiny.ipynb."""
    (root / "book").mkdir(parents=True, exist_ok=True)
    (root / "chapters").mkdir(exist_ok=True)
    (root / "book" / "papers.yml").write_text(PAPERS)
    for name, cells in chapters.items():
        nbformat.write(notebook_of(*cells), root / "chapters" / f"{name[1:].replace('_', '-')}.ipynb")
    return root
