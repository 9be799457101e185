"""Make the student edition of an exercise notebook, prove that it gives nothing away, and the instructor's edition."""

from __future__ import annotations

import base64
import copy
import json
import re
import shutil
from pathlib import Path

import nbformat
import yaml

from medtutor import notebook
from medtutor.grading import beside

REGION = re.compile(r"^[^\n]*BEGIN (SOLUTION|HIDDEN TESTS|MARK SCHEME).*?END \1[^\n]*$", re.M | re.S)
STUBS = {"code": r"\s*# YOUR CODE HERE\s*raise NotImplementedError\(\)\s*", "markdown": r"\s*YOUR ANSWER HERE\s*"}
POINTS = re.compile(r'@pytest\.mark\.points\("(.+?)", (.+?)\).*?^def (\w+).*?"""(.*?)"""', re.M | re.S)
ROLES = ("grade_id", "grade", "solution", "locked", "points", "task", "schema_version", "cell_type")
#: A line of a solution of fewer characters, blanks not counted, is no secret: `return x`, `else:`.
SHORT = 12


def student_edition(source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`source` without solutions, hidden tests, outputs and further metadata; the cell `student` stays."""
    from nbgrader import preprocessors  # takes seconds

    book = copy.deepcopy(source)
    for name in ("ClearSolutions", "ClearHiddenTests", "ClearMarkScheme", "ClearOutput", "LockCells"):
        book, _ = getattr(preprocessors, name)().preprocess(book, {})
    book.metadata = _only(book.metadata, "kernelspec", "language_info")
    for cell, original in zip(book.cells, source.cells, strict=True):
        cell.metadata = _only(cell.metadata, "nbgrader", "deletable", "editable")
        if "nbgrader" in cell.metadata:
            cell.metadata["nbgrader"] = _only(cell.metadata.nbgrader, *ROLES)
            if cell.metadata.nbgrader.grade_id == "student":
                cell.source = original.source
    return book


def faults(source: nbformat.NotebookNode, edition: nbformat.NotebookNode) -> list[str]:
    """What is wrong with a student edition: solution lines in it, wherever, and changes outside solution regions."""
    found, secret, public = [], {}, ""
    if len(source.cells) != len(edition.cells):
        return [f"it has {len(edition.cells)} cells instead of {len(source.cells)}"]
    for number, (cell, released) in enumerate(zip(source.cells, edition.cells, strict=True)):
        regions, role = [match.span() for match in REGION.finditer(cell.source)], cell.metadata.get("nbgrader", {})
        if role.get("solution") and not regions and role["grade_id"] != "student":
            regions = [(0, len(cell.source))]
        ends = [0, *(place for span in regions for place in span), len(cell.source)]
        kept = [cell.source[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)]
        secret |= {_plain(line): number for a, b in regions for line in cell.source[a:b].splitlines()}
        public += _plain("\n".join(kept))
        form = STUBS.get(cell.cell_type, "").join(map(re.escape, kept))
        if not re.fullmatch(form, released.source) or cell.cell_type != released.cell_type:
            found.append(f"cell {number} differs from the source outside its solution")
    attached = [base64.b64decode(data).decode(errors="replace") for cell in edition.cells
                for files in cell.get("attachments", {}).values() for data in files.values()]
    everything = _plain(json.dumps(edition, ensure_ascii=False)) + _plain("\n".join(attached))
    return found + [f"it shows a line of the solution in cell {number}: {line}" for line, number in secret.items()
                    if len(line) >= SHORT and line not in public and line in everything]


def released(path: Path) -> nbformat.NotebookNode:
    """The student edition of the notebook at `path`. Raises ValueError where it would not be right."""
    source = notebook.read(path)
    edition = student_edition(source)
    if wrong := faults(source, edition):
        raise ValueError(f"{path.name} is not released: " + "; ".join(wrong))
    return edition


def release(path: Path, to: Path) -> None:
    """Write `to`/student and `to`/instructor, each with its notebook and the self-checks. Raises as `released`."""
    edition, with_notes = released(path), notebook.read(path)
    notes = ["# Marking notes", "", "| exercise | points | hidden test | who fails it reads |", "|---|---|---|---|"]
    for exercise, points, name, said in POINTS.findall(beside(path, "hidden.py").read_text(encoding="utf-8")):
        notes.append(f"| {exercise} | {points} | `{name}` | {' '.join(said.split())} |")
    notes += ["", "Wrong answers that these tests are known to refuse:", ""]
    for exercise, answers in yaml.safe_load(beside(path, "mutants.yml").read_text(encoding="utf-8")).items():
        notes.append(f"- {exercise}: {', '.join(answers['wrong'])}")
    with_notes.cells.insert(0, nbformat.v4.new_markdown_cell("\n".join(notes), id="marking-notes"))
    for name, book in (("student", edition), ("instructor", with_notes)):
        (to / name).mkdir(parents=True, exist_ok=True)
        notebook.write(book, to / name / path.name)
        shutil.copy(beside(path, "checks.py"), to / name)


def _only(metadata, *names: str) -> nbformat.NotebookNode:
    return nbformat.from_dict({name: metadata[name] for name in names if name in metadata})


def _plain(text: str) -> str:
    """Without blanks, quotes and backslashes: the same in a file of JSON as in the cell."""
    return re.sub(r'[\s"\\]', "", text)
