"""Reading and writing notebooks: names, fingerprints, definitions, and what an execution left in the outputs."""

import copy
import json
import os
import re

import nbformat
import pytest
from books import PARAMETERS, TINY, TITLE, make_book, notebook_of

from medtutor import notebook
from medtutor.claims import MIME


def test_fingerprint_follows_code_and_its_order_but_not_prose_outputs_or_parameters():
    book = notebook_of(*TINY)
    same = copy.deepcopy(book)
    same.cells[0].source += "\nMore prose."
    same.cells[3].execution_count = 7
    same.cells.insert(2, nbformat.v4.new_code_cell("profile = 'smoke'", metadata={"tags": ["injected-parameters"]}))
    same.cells.append(nbformat.v4.new_markdown_cell("The end."))
    assert notebook.fingerprint(same) == notebook.fingerprint(book)
    changes = [notebook_of(*TINY[:-1]), notebook_of(*TINY[:-2], TINY[-1], TINY[-2]), notebook_of(*TINY, ("x = 1",))]
    # A cell cut in two is other code, although the text joined together is the same.
    changes += [notebook_of(("ab",)), notebook_of(("a",), ("b",))]
    prints = {notebook.fingerprint(change) for change in [book, *changes]}
    assert len(prints) == len(changes) + 1


@pytest.mark.parametrize("name", ["01", "1", "tiny", "01-tiny", "01-tiny.ipynb", "chapters/01-tiny.ipynb"])
def test_a_chapter_has_many_names(tiny_book, name):
    assert notebook.find(name) == tiny_book / "chapters" / "01-tiny.ipynb"


def test_chapters_are_in_reading_order_and_nothing_else(tiny_book):
    make_book(tiny_book, c10_late=TINY, c02_next=TINY)
    make_book(tiny_book / "chapters" / "exercises", c01_tiny=TINY)
    (tiny_book / "chapters" / "draft.ipynb").write_text("{}")
    (tiny_book / "chapters" / "notes.md").write_text("")
    assert [path.stem for path in notebook.chapters()] == ["01-tiny", "02-next", "10-late"]
    assert notebook.find("10").stem == "10-late"


@pytest.mark.parametrize(("wanted", "near"), [("01-tny", "01-tiny"), ("42", "01-tiny"), ("", "01-tiny")])
def test_an_unknown_chapter_is_one_sentence_with_near_names(tiny_book, wanted, near):
    with pytest.raises(ValueError, match=f"there is no chapter '{wanted}'; try .*{near}"):
        notebook.find(wanted)


def test_a_book_without_chapters_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTUTOR_BOOK", str(make_book(tmp_path)))
    with pytest.raises(ValueError, match="there is no chapter '01'; try again when one is written"):
        notebook.find("01")


def test_the_book_is_found_from_a_folder_inside_it_and_its_absence_is_one_sentence(tiny_book, monkeypatch, tmp_path):
    monkeypatch.delenv("MEDTUTOR_BOOK")
    monkeypatch.chdir(tiny_book / "chapters")
    assert notebook.book_root() == tiny_book
    monkeypatch.setenv("MEDTUTOR_BOOK", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere.*set MEDTUTOR_BOOK"):
        notebook.book_root()


def test_definitions_execute_imports_and_define_cells_and_nothing_else(tmp_path):
    path = tmp_path / "03-x.ipynb"
    nbformat.write(notebook_of(
        TITLE, PARAMETERS, ("import math", "imports"), ("raise RuntimeError('an experiment ran')",),
        ("def area(r):\n    return math.pi * r**2", "define", "hide-input"), ("other = 1", "nbval-check-output"),
        ("def twice(r):\n    return 2 * area(r)", "define")), path)
    found = notebook.definitions(path)
    assert found.twice(1) == pytest.approx(2 * 3.14159, abs=1e-4)
    assert not hasattr(found, "other")
    assert not hasattr(found, "profile")


def test_definitions_of_a_chapter_by_its_number(tiny_book):
    assert notebook.definitions("01").double(4) == 8


def test_a_dataclass_can_be_defined_in_a_chapter(tmp_path):
    path = tmp_path / "04-x.ipynb"
    nbformat.write(notebook_of(("from dataclasses import dataclass", "imports"),
                               ("@dataclass\nclass Point:\n    x: int = 3", "define")), path)
    point = notebook.definitions(path).Point
    assert point().x == 3
    assert point.__annotations__ == {"x": int}


def test_a_definition_that_fails_names_chapter_and_cell(tmp_path):
    path = tmp_path / "05-x.ipynb"
    nbformat.write(notebook_of(TITLE, ("def f(:", "define")), path)
    with pytest.raises(SyntaxError) as error:
        notebook.definitions(path)
    assert error.value.filename == "05-x.ipynb[cell 1]"


def test_parameters_and_their_absence():
    assert notebook.parameters(notebook_of(TITLE, PARAMETERS)) == {"profile": "cpu", "seed": 0, "data": "phantom"}
    for cells in [(TITLE,), (PARAMETERS, PARAMETERS)]:
        with pytest.raises(ValueError, match="exactly one cell tagged 'parameters', but this one has [02]"):
            notebook.parameters(notebook_of(*cells))


def test_claims_are_read_back_from_an_execution(executed):
    fact, gain = notebook.claims(notebook.read(executed))
    assert (fact["paper"], fact["verdict"], fact["measured"], fact["seeds"]) == ("tiny-paper", "matches", 42.0, 0)
    assert (gain["verdict"], gain["seeds"], gain["metric"]) == ("holds", 3, "score")
    assert gain["interval"][0] < gain["difference"] < gain["interval"][1]
    assert gain["difference"] == pytest.approx(gain["measured"] - gain["baseline"])
    assert gain["difference"] == pytest.approx(1, abs=0.1)


def test_glued_numbers_are_read_back_from_an_execution(executed):
    found = notebook.glued(notebook.read(executed))
    assert found["answer"] == "42"
    assert found["gain-verdict"] == "holds"
    assert found.keys() == {"answer", *(f"gain-{part}" for part in ("idea", "baseline", "difference", "interval",
                                                                     "verdict"))}
    gain = notebook.claims(notebook.read(executed))[1]
    assert float(found["gain-idea"]) == pytest.approx(gain["measured"], abs=5e-4)


def test_execution_facts_are_read_back(executed):
    facts = notebook.execution(notebook.read(executed))
    assert facts.keys() == {"profile", "seed", "data", "date", "source_sha256", "seconds", "peak_memory_mb", "versions"}
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", facts["date"])
    assert (facts["profile"], facts["seed"], facts["data"]) == ("cpu", 0, "phantom")
    assert facts["source_sha256"] == notebook.fingerprint(notebook.read(executed))
    assert 0 < facts["seconds"] < 120
    assert facts["peak_memory_mb"] > 100  # a kernel with torch in it
    assert {"python", "torch", "numpy", "medtutor"} <= facts["versions"].keys()
    assert notebook.execution(notebook_of(*TINY)) == {}


def test_papers_are_written_where_a_chapter_labels_them(tiny_book):
    assert {row["id"]: row["status"] for row in notebook.papers()} == {
        "tiny-paper": "written", "later-paper": "planned"}


def test_write_keeps_what_read_gives(tmp_path):
    path = tmp_path / "a.ipynb"
    book = notebook_of(*TINY)
    notebook.write(book, path)
    assert notebook.read(path) == book
    assert os.stat(path).st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_half_way_leaves_the_old_notebook_and_no_litter(tmp_path):
    path = tmp_path / "a.ipynb"
    notebook.write(notebook_of(*TINY), path)
    before = path.read_bytes()
    broken = notebook_of(*TINY)
    broken.cells[3].outputs = [nbformat.v4.new_output("display_data", {MIME: {"measured": object()}})]
    with pytest.raises((TypeError, ValueError)):
        notebook.write(broken, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_killed_in_the_middle_leaves_the_old_notebook(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    notebook.write(notebook_of(*TINY), path)
    before = path.read_bytes()

    def half(book, stream):
        stream.write(json.dumps(book)[:100])
        stream.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(nbformat, "write", half)
    with pytest.raises(KeyboardInterrupt):
        notebook.write(notebook_of(*TINY, ("x = 1",)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "not json", "{}", "[]", '{"nbformat": 4, "nbformat_minor": 5}', "\x00\xff"])
def test_a_file_that_is_no_notebook_is_one_sentence(tmp_path, text):
    path = tmp_path / "a.ipynb"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="a.ipynb is not a readable notebook"):
        notebook.read(path)


def test_a_notebook_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        notebook.read(tmp_path / "a.ipynb")
