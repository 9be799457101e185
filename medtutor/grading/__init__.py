"""Exercises: released without solutions, graded in a sandbox.

The notebook `chapters/exercises/NN-slug.ipynb` holds prompts, solutions and self-checks in nbgrader's cell format.
Beside it lie `NN-checks.py` (self-check feedback), `NN-hidden.py` (hidden tests, plain pytest) and `NN-mutants.yml`
(answers on which the hidden tests are tested). Exercise 01.2 is solved in the cell with the id 01-2: nbgrader allows no
point in an id.
"""

from __future__ import annotations

from pathlib import Path

from medtutor.notebook import book_root, nearest, read


def exercises(chapter: str) -> Path:
    """The exercise notebook of a chapter ("01" or "1"). Raises ValueError where there is none."""
    found = {path.name[:2]: path for path in sorted((book_root() / "chapters/exercises").glob("[0-9][0-9]-*.ipynb"))}
    if chapter.zfill(2) not in found:
        raise ValueError(nearest("exercise notebook of chapter", chapter, found) if found else
                         "this copy of the book has no exercises in chapters/exercises")
    return found[chapter.zfill(2)]


def beside(notebook: Path, kind: str) -> Path:
    """The file of that kind ("hidden.py") that belongs to an exercise notebook."""
    return notebook.with_name(f"{notebook.name[:2]}-{kind}")


def given(chapter: str, *cell_ids: str) -> dict:
    """What the imports and these locked cells of a chapter's exercise notebook define: for hidden tests, which draw a
    student's personal data anew."""
    cells = {cell.metadata.nbgrader.grade_id: cell.source for cell in read(exercises(chapter)).cells}
    names = {"STUDENT": "nobody"}
    for cell_id in ("imports", *cell_ids):
        exec(cells[cell_id], names)
    return names
