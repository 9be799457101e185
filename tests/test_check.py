"""Every rule for stored chapters: a sound chapter, broken in one way, gives exactly that problem."""

import json

import nbformat
import pytest

from medtutor import check, notebook
from medtutor.claims import MIME

PIXEL = "iVBORw0KGgo="


@pytest.fixture
def book(executed):
    """A fresh copy of the executed chapter, to break."""
    return notebook.read(executed)


@pytest.fixture
def problems(tmp_path):
    def found(book):
        path = tmp_path / "01-tiny.ipynb"
        notebook.write(book, path)
        return check.problems(path)

    return found


def refresh(book):
    """Give the fingerprint of changed code, as a new execution would."""
    book.metadata.medtutor.source_sha256 = notebook.fingerprint(book)


def code(book, tag=None):
    return next(cell for cell in book.cells if cell.cell_type == "code" and (not tag or tag in notebook.tags(cell)))


def claim_of(book, number):
    found = [o.data[MIME] for o in notebook.outputs(book) if MIME in o.get("data", {})]
    return found[number]


def test_the_executed_chapter_is_sound(executed):
    assert check.problems(executed) == []


def test_other_notebook_format(book, problems):
    book.nbformat_minor = 4
    for cell in book.cells:
        del cell["id"]
    assert problems(book) == ["is nbformat 4.4, not 4.5"]


@pytest.mark.parametrize("count", [0, 2])
def test_parameters_cell(book, problems, count):
    code(book, "parameters").metadata.tags = []
    for cell in book.cells[2:2 + count]:
        cell.metadata["tags"] = [*notebook.tags(cell), "parameters"]
    assert problems(book) == ["needs exactly one cell tagged 'parameters'"]


def test_file_size(book, problems):
    book.cells[0].source += "x" * 1_100_000
    (problem,) = problems(book)
    assert problem.startswith("is 1.1")
    assert problem.endswith("MB, more than 1.0 MB")


@pytest.mark.parametrize("place", ["source", "stream", "html"])
@pytest.mark.parametrize("folder", ["/home/ada", "/tmp/x", "/Users/ada", "/root/x", "/opt/conda"])
def test_path_of_a_machine(book, problems, place, folder):
    if place == "source":
        book.cells[0].source += f"\nSee {folder}/notes."
    elif place == "stream":
        output = nbformat.v4.new_output("stream", name="stderr", text=f"first\n{folder}/lib/x.py:3: UserWarning\n")
        code(book).outputs.append(output)
    else:
        code(book).outputs.append(nbformat.v4.new_output("display_data", {"text/html": f'<a href="{folder}/x">x</a>'}))
    assert problems(book) == [f"holds a path of a machine: {folder}"]


def test_web_addresses_are_no_paths_of_a_machine(book, problems):
    book.cells[0].source += "\nhttps://example.org/home/ada and books/tmp/x and a/opt/b"
    assert problems(book) == []


@pytest.mark.parametrize(("tag", "limit"), [("define", 40), ("imports", 25)])
def test_cell_length(book, problems, tag, limit):
    cell = code(book, tag)
    cell.source = "\n".join(["x = 1"] * limit)
    refresh(book)
    assert problems(book) == []
    cell.source += "\nx = 2"
    refresh(book)
    assert problems(book) == [f"cell {book.cells.index(cell) + 1} has {limit + 1} lines, more than {limit}"]


def test_number_that_was_not_glued(book, problems):
    book.cells[0].source += "\n{glue:text}`answer:.2f` {glue}`answer` {glue:text}`missing` {glue:text}`also`"
    assert problems(book) == ["names numbers that were not glued: also, missing"]


def test_error_output(book, problems):
    code(book).outputs.append(nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[]))
    assert problems(book) == ["holds an error output: KeyError"]


@pytest.mark.parametrize(("metadata", "expected"), [
    ({}, ["has a figure without alt text"]), ({"image/png": {"alt": ""}}, ["has a figure without alt text"]),
    ({"image/png": {"alt": "A liver."}}, [])])
def test_figure_without_alt_text(book, problems, metadata, expected):
    code(book).outputs.append(nbformat.v4.new_output("display_data", {"image/png": PIXEL}, metadata=metadata))
    assert problems(book) == expected


def test_no_claim(book, problems):
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if MIME not in output.get("data", {})]
    assert problems(book) == ["records no claim"]


def test_claim_of_a_smoke_run(book, problems):
    claim_of(book, 1)["verdict"] = "not evaluated"
    assert problems(book) == ["claim not evaluated: One more is more"]


@pytest.mark.parametrize("kept", [(), ("profile", "seed")])
def test_never_executed(book, problems, kept):
    book.metadata.medtutor = {key: book.metadata.medtutor[key] for key in kept}
    assert problems(book) == ["was never executed with --save"]


def test_source_newer_than_the_outputs(book, problems):
    code(book, "define").source += "\n# changed"
    assert problems(book) == ["has outputs of an older source; execute it again with --save"]
    book.cells[0].source += "\nMore prose."
    refresh(book)
    assert problems(book) == []


@pytest.mark.parametrize(("key", "value"), [("profile", "smoke"), ("seed", 1), ("data", "spleen")])
def test_outputs_of_other_parameters(book, problems, key, value):
    book.metadata.medtutor[key] = value
    assert problems(book) == ["holds outputs of other parameters than profile cpu, seed 0, data phantom"]


@pytest.mark.parametrize(("key", "value", "problem"), [
    ("seconds", 361.5, "took 361.5 s, more than 360 s"), ("seconds", 360, None),
    ("peak_memory_mb", 5000, "needed 5000 MB, more than 4096 MB"), ("peak_memory_mb", 4096, None)])
def test_budget(book, problems, key, value, problem):
    book.metadata.medtutor[key] = value
    assert problems(book) == ([problem] if problem else [])


def test_two_faults_are_two_problems(book, problems):
    book.metadata.medtutor.seed = 1
    code(book, "define").source += "\n# changed"
    assert len(problems(book)) == 2
    assert json.loads(json.dumps(problems(book))) == problems(book)
