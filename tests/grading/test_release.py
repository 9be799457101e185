"""The student edition gives nothing away and is what nbgrader expects; the gate that proves it can say no."""

import base64
import copy
import json

import nbformat
import pytest
from exercise_book import DICE, exercise_book, source_notebook
from nbgrader.nbgraderformat import MetadataValidator

from medtutor import notebook
from medtutor.exercise import check
from medtutor.grading.release import faults, student_edition

LINE = "total = int(a.sum()) + int(b.sum())"


def cell_of(book, key):
    return next(cell for cell in book.cells if cell.metadata.nbgrader.grade_id == key.replace(".", "-"))


def test_a_student_gets_stubs_and_everything_else(exercise, medtutor, tmp_path):
    status, out, _ = medtutor("release", "1", "--to", str(tmp_path / "out"))
    assert status == 0
    assert "01-masks" in out
    released = notebook.read(tmp_path / "out" / "student" / "01-masks.ipynb")
    assert cell_of(released, "01.1").source.splitlines() == [
        *DICE.splitlines()[:2], "    # YOUR CODE HERE", "    raise NotImplementedError()"]
    assert cell_of(released, "student").source == 'STUDENT = "your-id"'
    assert cell_of(released, "01.3-why").source == "YOUR ANSWER HERE"
    assert faults(source_notebook(), released) == []
    MetadataValidator().validate_nb(released)
    assert not cell_of(released, "01.1-check").metadata.editable


def test_the_self_check_works_beside_the_released_notebook_alone(exercise, medtutor, tmp_path, monkeypatch):
    medtutor("release", "01", "--to", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path / "out" / "student")
    monkeypatch.setenv("MEDTUTOR_BOOK", str(tmp_path))
    assert check("01.1", 0.5)
    assert "at most one" in check("01.1", 1.5).message


def test_the_instructor_gets_solutions_and_marking_notes(exercise, medtutor, tmp_path):
    medtutor("release", "01", "--to", str(tmp_path / "out"))
    notes, *cells = notebook.read(tmp_path / "out" / "instructor" / "01-masks.ipynb").cells
    assert [cell.source for cell in cells] == [cell.source for cell in source_notebook().cells]
    assert "| 01.1 | 1 | `test_dice_of_empty_masks` | What do two radiologists who both see nothing " in notes.source
    assert "- 01.3: floats, rolls" in notes.source


def test_outputs_and_telling_metadata_of_the_source_do_not_come_along(tmp_path):
    source = source_notebook()
    cell_of(source, "01.1").outputs = [nbformat.v4.new_output("stream", text=LINE)]
    cell_of(source, "01.1").execution_count = 3
    cell_of(source, "01.1").metadata.solution_hint = LINE
    cell_of(source, "01.1").metadata.nbgrader.checksum = "of the solution"
    source.metadata.author_notes = LINE
    released = student_edition(source)
    assert faults(source, released) == []
    assert LINE not in nbformat.writes(released)
    assert "checksum" not in nbformat.writes(released)
    assert cell_of(released, "01.1").execution_count is None


def leak(edition, where):
    """Put a line of the solution into `edition`."""
    cell, encoded = cell_of(edition, "01.1"), base64.b64encode(f"see: {LINE}".encode()).decode()
    if where == "output":
        cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": f"<b>{LINE}</b>"})]
    elif where == "metadata":
        edition.metadata.notes = {"deep": [LINE.replace(" ", "   ")]}
    elif where == "metadata key":
        cell.metadata[LINE] = 1
    elif where == "attachment":
        cell_of(edition, "01.1-text").attachments = {"a.txt": {"text/plain": encoded}}


@pytest.mark.parametrize("where", ["output", "metadata", "metadata key", "attachment"])
def test_the_gate_finds_a_solution_line_wherever_it_hides(where):
    edition = student_edition(source_notebook())
    assert faults(source_notebook(), edition) == []
    leak(edition, where)
    (found,) = faults(source_notebook(), edition)
    assert found.startswith("it shows a line of the solution in cell 4: total=int(a.sum())")


@pytest.mark.parametrize("key", ["01.1", "01.1-text", "imports", "01.1-check", "student"])
def test_the_gate_finds_every_change_outside_the_solutions(key):
    edition = student_edition(source_notebook())
    cell_of(edition, key).source += "\nx = 1"
    (found,) = faults(source_notebook(), edition)
    assert "differs from the source outside its solution" in found
    del edition.cells[-1]
    assert faults(source_notebook(), edition) == ["it has 12 cells instead of 13"]


def test_short_lines_and_lines_that_are_public_anyway_are_no_leak():
    source = source_notebook()
    cell_of(source, "01.1-text").source = f"You may begin with `{LINE}`."
    cell_of(source, "01.3").source += "\n### BEGIN SOLUTION\nx = 1\n### END SOLUTION"
    cell_of(source, "imports").source += "\nx = 1"
    assert faults(source, student_edition(source)) == []


def test_a_notebook_whose_solution_would_get_out_is_not_written(tmp_path, monkeypatch, medtutor):
    path = exercise_book(tmp_path / "book-of-tests")
    monkeypatch.setenv("MEDTUTOR_BOOK", str(tmp_path / "book-of-tests"))
    source = source_notebook()
    encoded = base64.b64encode(LINE.encode()).decode()
    cell_of(source, "01.1-text").attachments = {"a.txt": {"text/plain": encoded}}
    nbformat.write(source, path)
    status, _, err = medtutor("release", "01", "--to", str(tmp_path / "out"))
    assert status == 2
    assert "01-masks.ipynb is not released: it shows a line of the solution in cell 4" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("chapter", "said"), [("02", "there is no exercise notebook of chapter '02'; try 01")])
def test_an_unknown_chapter_is_one_sentence(exercise, medtutor, tmp_path, chapter, said):
    assert medtutor("release", chapter, "--to", str(tmp_path)) == (2, "", f"medtutor: {said}\n")


def test_the_source_is_left_as_it_was():
    source = source_notebook()
    before = json.dumps(copy.deepcopy(source))
    student_edition(source)
    assert json.dumps(source) == before
