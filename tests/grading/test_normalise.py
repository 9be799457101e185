"""What became of a notebook on its way through a student's hands, and what is run of it."""

import json

import nbformat
import pytest
from exercise_book import IMPORTS, source_notebook, submission

from medtutor.grading.normalise import Unreadable, normalise

ANSWER = "def dice(a, b):\n    return 1.0"


def cell_of(book, key):
    return next(cell for cell in book.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == key)


@pytest.fixture
def steps(tmp_path):
    """`steps(book)`: what is run, as (id, code), and the notes; `book` a notebook or the bytes of a file."""

    def run(book):
        path = tmp_path / "handed-in.ipynb"
        path.write_bytes(book if isinstance(book, bytes) else nbformat.writes(book).encode())
        made, _, notes = normalise(source_notebook(), path, "ada")
        return made, notes

    return run


def code(steps, key):
    return [text for name, text in steps if name == key]


def test_the_source_itself_is_run_in_its_order_with_the_id_of_the_file_and_without_self_checks(steps):
    made, notes = steps(submission())
    assert [name for name, _ in made] == ["imports", "student", "01-1", "01-2", "01-3"]
    assert code(made, "student") == ["STUDENT = 'ada'"]
    assert notes == []


def test_locked_cells_come_from_the_source(steps):
    book = submission(c01_1=ANSWER)
    cell_of(book, "imports").source = "import cheating"
    made, _ = steps(book)
    assert code(made, "imports") == [IMPORTS]
    assert code(made, "01-1") == [ANSWER]


def test_deleted_cells_are_restored_or_named(steps):
    book = submission()
    for key in ("imports", "01-2", "01-3-text"):
        book.cells.remove(cell_of(book, key))
    made, notes = steps(book)
    assert [name for name, _ in made] == ["imports", "student", "01-1", "01-3"]
    assert notes == ["01-2: this cell is missing."]


def test_reordered_cells_are_put_back(steps):
    book = submission(c01_1=ANSWER)
    book.cells.reverse()
    made, _ = steps(book)
    assert [name for name, _ in made] == ["imports", "student", "01-1", "01-2", "01-3"]


@pytest.mark.parametrize("stub_first", [True, False])
def test_the_answer_wins_over_a_copy_that_is_not_written_yet(steps, stub_first):
    book, copy = submission(c01_1=ANSWER), nbformat.from_dict(cell_of(submission(), "01-1"))
    copy.source = "def dice(a, b):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    copy.id = "another"
    place = book.cells.index(cell_of(book, "01-1"))
    book.cells.insert(place if stub_first else place + 1, copy)
    assert code(steps(book)[0], "01-1") == [copy.source, ANSWER]


def test_a_split_cell_runs_in_its_parts(steps):
    book = submission(c01_1="factor = 2")
    part = nbformat.from_dict(cell_of(book, "01-1"))
    part.update(source=ANSWER, id="another")
    book.cells.insert(book.cells.index(cell_of(book, "01-1")) + 1, part)
    assert code(steps(book)[0], "01-1") == ["factor = 2", ANSWER]


def test_new_cells_and_cells_that_lost_their_id_run_where_they_stand(steps):
    book = submission(c01_1=ANSWER)
    helper = nbformat.v4.new_code_cell("def helper(): pass")
    book.cells.insert(book.cells.index(cell_of(book, "01-1-text")) + 1, helper)
    made, _ = steps(book)
    assert made[2:4] == [("a cell after 01-1-text", "def helper(): pass"), ("01-1", ANSWER)]
    del cell_of(book, "01-1").metadata["nbgrader"]
    made, notes = steps(book)
    assert ("a cell after 01-1-text", ANSWER) in made
    assert notes == ["01-1: this cell is missing."]


def test_a_notebook_that_lost_all_its_metadata_still_runs_after_the_imports(steps):
    book = submission(c01_1=ANSWER)
    for cell in book.cells:
        cell.metadata = nbformat.from_dict({})
    made, _ = steps(book)
    assert made[0] == ("imports", IMPORTS)
    assert ("a cell after imports", ANSWER) in made


@pytest.mark.parametrize("version", [3, 4])
def test_older_formats_are_read(steps, version):
    book = submission(c01_1=ANSWER)
    if version == 3:
        old = json.loads(nbformat.writes(nbformat.convert(book, 3)))
    else:
        old = json.loads(nbformat.writes(book)) | {"nbformat_minor": 0}
        for cell in old["cells"]:
            del cell["id"]
    assert code(steps(json.dumps(old).encode())[0], "01-1") == [ANSWER]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_other_encodings_are_read(steps, encoding):
    text = nbformat.writes(submission(c01_1=ANSWER + "  # caf\u00e9"))
    (found,) = code(steps(text.encode(encoding))[0], "01-1")
    assert found.startswith(ANSWER)


@pytest.mark.parametrize("content", [
    b"", b"no", b"\xff\xfe\x00", b"[]", b"{}", b"[" * 10**6, b'{"nbformat": 4, "cells": 3}',
    b'{"cells": [{}], "nbformat": 4}',
    b'{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "code", "source": 1}]}',
    b'{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "code", "source": "", "metadata": 2}]}'])
def test_what_is_no_notebook_is_said_to_be_none(steps, content):
    with pytest.raises(Unreadable, match="not a notebook"):
        steps(content)


def test_a_file_that_is_too_large_is_not_even_read(tmp_path):
    with (tmp_path / "a.ipynb").open("wb") as stream:
        stream.truncate(100 * 10**6)
    with pytest.raises(Unreadable, match="larger than 20 MB"):
        normalise(source_notebook(), tmp_path / "a.ipynb", "ada")


def test_written_answers_are_kept_for_the_instructor(tmp_path):
    book = submission()
    cell_of(book, "01-3-why").source = "Because."
    nbformat.write(book, tmp_path / "a.ipynb")
    assert normalise(source_notebook(), tmp_path / "a.ipynb", "ada")[1] == {"01-3-why": "Because."}
