"""The site is built from a copy in which fresh executions replace stored outputs, and only where they belong."""

import json
from ast import literal_eval

import nbformat
import pytest
from nbformat import v4

from medtutor import notebook, site


def chapter(code: str, output: str, *more):
    cell = v4.new_code_cell(code, execution_count=1)
    cell.outputs = [v4.new_output("stream", name="stdout", text=output)]
    return v4.new_notebook(cells=[v4.new_markdown_cell("# A"), *more, cell])


@pytest.fixture
def book(tmp_path):
    """A minimal checkout with one chapter whose stored output is "stored"."""
    root = tmp_path / "root"
    (root / "book").mkdir(parents=True)
    (root / "chapters").mkdir()
    (root / "_config.yml").write_text("title: a\n")
    (root / "_toc.yml").write_text("format: jb-book\n")
    (root / "book" / "index.md").write_text("# A\n")
    nbformat.write(chapter("print(1)", "stored"), root / "chapters" / "01-a.ipynb")
    (root / "runs").mkdir()
    return root


def shown(folder) -> str:
    return notebook.read(folder / "chapters" / "01-a.ipynb").cells[-1].outputs[0].text


def snapshot(root) -> dict:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_fresh_outputs_are_shown_and_the_checkout_is_left_alone(book, tmp_path):
    nbformat.write(chapter("print(1)", "fresh"), book / "runs" / "01-a-cpu.ipynb")
    before = snapshot(book)
    assert site.stage(book, tmp_path / "staged", book / "runs") == ["01-a"]
    assert shown(tmp_path / "staged") == "fresh"
    assert snapshot(book) == before


@pytest.mark.parametrize(("code", "profile"), [("print(2)", "cpu"), ("print(1)", "gpu")])
def test_outputs_of_other_code_or_of_another_profile_are_not_shown(book, tmp_path, code, profile):
    nbformat.write(chapter(code, "fresh"), book / "runs" / f"01-a-{profile}.ipynb")
    assert site.stage(book, tmp_path / "staged", book / "runs") == []
    assert shown(tmp_path / "staged") == "stored"


def test_injected_parameters_are_not_shown(book, tmp_path):
    injected = v4.new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
    nbformat.write(chapter("print(1)", "fresh", injected), book / "runs" / "01-a-cpu.ipynb")
    assert site.stage(book, tmp_path / "staged", book / "runs") == ["01-a"]
    staged = notebook.read(tmp_path / "staged" / "chapters" / "01-a.ipynb")
    assert [cell.source for cell in staged.cells if "remove-cell" in notebook.tags(cell)] == ["seed = 1"]


def test_staging_again_drops_what_is_gone(book, tmp_path):
    site.stage(book, tmp_path / "staged")
    (book / "book" / "index.md").rename(book / "book" / "other.md")
    site.stage(book, tmp_path / "staged")
    assert [path.name for path in (tmp_path / "staged" / "book").iterdir()] == ["other.md"]


def npm_that(folder, command: str):
    """A folder to put on PATH whose npm does `command`."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{command}\n")
    (folder / "npm").chmod(0o755)
    return str(folder)


def test_packages_are_fetched_once_and_again_when_the_lock_changes(book, tmp_path, monkeypatch):
    (book / "package-lock.json").write_text("{}")
    monkeypatch.setenv("PATH", npm_that(tmp_path / "bin", "/bin/mkdir -p node_modules; echo >> called"))
    for _ in range(2):
        assert site.fetch(book) == book / "node_modules"
    assert len((book / "called").read_text()) == 1
    (book / "package-lock.json").write_text('{"packages": {}}')
    assert site.fetch(book)
    assert len((book / "called").read_text()) == 2


@pytest.mark.parametrize(("npm", "sentence"), [
    (None, "npm was not found: install Node.js 18 or newer"),
    ("echo 'npm error ENOTFOUND' >&2; exit 1", "npm could not fetch the packages of package-lock.json (npm error EN"),
])
def test_without_packages_one_sentence_says_so_and_the_book_is_still_staged(book, tmp_path, monkeypatch, capsys, npm,
                                                                            sentence):
    (book / "package-lock.json").write_text("{}")
    monkeypatch.setenv("PATH", npm_that(tmp_path / "bin", npm) if npm else str(tmp_path))
    assert site.fetch(book) is None
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1
    site.stage(book, tmp_path / "staged")
    site.vendor(None, tmp_path / "staged")
    assert list((tmp_path / "staged" / "_assets").rglob("*.js")) == []


def test_npm_packages_are_pinned_with_hashes_and_without_hosts():
    root = notebook.book_root()
    listed = json.loads((root / "package.json").read_text())
    lock = json.loads((root / "package-lock.json").read_text())["packages"]
    for name, version in (listed["dependencies"] | listed["devDependencies"]).items():
        assert lock[f"node_modules/{name}"]["version"] == version
    assert all(entry["integrity"].startswith("sha512-") for path, entry in lock.items() if path)
    assert not [path for path, entry in lock.items() if "resolved" in entry], "see .npmrc"


def test_glued_numbers_keep_their_form(book, tmp_path):
    """myst-nb evaluates what was glued: +0.100 would be shown as 0.1."""
    path = book / "chapters" / "01-a.ipynb"
    stored = nbformat.read(path, 4)
    stored.cells[-1].outputs = [v4.new_output("display_data", {notebook.GLUE_PREFIX + "text/plain": "+0.100"},
                                              metadata={"scrapbook": {"name": "gap"}})]
    nbformat.write(stored, path)
    site.stage(book, tmp_path / "staged")
    staged = notebook.read(tmp_path / "staged" / "chapters" / "01-a.ipynb")
    assert literal_eval(notebook.glued(staged)["gap"]) == "+0.100"
