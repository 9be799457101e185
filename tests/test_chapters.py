"""Every stored chapter keeps the rules of the book."""

from pathlib import Path

import pytest

from medtutor import check, notebook

CHAPTERS = sorted((Path(__file__).parents[1] / "chapters").glob("[0-9][0-9]-*.ipynb"))


def test_there_is_a_chapter():
    assert CHAPTERS


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_sound(path):
    assert check.problems(path) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_sentence_is_lost_to_markup(path):
    """A line that begins with % is a comment, and text after `:class: warning` on its line becomes class names: both
    vanish from the page without a word."""
    lines = [line for cell in notebook.read(path).cells if cell.cell_type == "markdown"
             for line in cell.source.splitlines()]
    assert [line for line in lines
            if line.startswith("%") or line.startswith(":class:") and len(line.split()) > 3] == []
