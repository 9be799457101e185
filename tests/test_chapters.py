"""Every stored chapter keeps the rules of the book."""

from pathlib import Path

import pytest

from medtutor import check

CHAPTERS = sorted((Path(__file__).parents[1] / "chapters").glob("[0-9][0-9]-*.ipynb"))


def test_there_is_a_chapter():
    assert CHAPTERS


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_sound(path):
    assert check.problems(path) == []
