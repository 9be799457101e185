"""A book with one small exercise notebook of three exercises, and submissions to it."""

from pathlib import Path

import nbformat
import yaml

IMPORTS = """import numpy as np

from medtutor.exercise import check, student_seed"""

DICE = '''def dice(a, b):
    """The Dice overlap of two boolean masks of the same shape, as a float; 1.0 where both are empty."""
    ### BEGIN SOLUTION
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0
    ### END SOLUTION
'''
OWN = '''data = np.random.default_rng(student_seed(STUDENT, "01.2")).normal(size=20)
middle = None
### BEGIN SOLUTION
middle = float(np.sort(data)[9:11].mean())
### END SOLUTION'''
SHIFT = '''def shift(image, rows=1):
    """`image` (H, W) moved down by `rows`; what enters is zero. The dtype stays."""
    ### BEGIN SOLUTION
    moved = np.zeros_like(image)
    moved[rows:] = image[:len(image) - rows]
    return moved
    ### END SOLUTION
'''
WHY = "### BEGIN SOLUTION\nBecause two empty masks agree.\n### END SOLUTION"

CHECKS = '''
from medtutor.exercise import Wrong, exercise, expect_type

@exercise("01.1")
def dice(answer):
    expect_type(answer, float, "the overlap")
    if answer > 1:
        raise Wrong("An overlap is at most one.")

@exercise("01.2")
def middle(answer):
    expect_type(answer, float, "the median")

@exercise("01.3")
def shift(answer):
    if answer[0, 0]:
        raise Wrong("The first row should be empty.")
'''

HIDDEN = '''
import numpy as np
import pytest

from medtutor.exercise import student_seed

A = np.array([[True, True], [False, False]])
B = np.array([[True, False], [True, False]])


@pytest.mark.points("01.1", 2)
@pytest.mark.parametrize(("a", "b", "wanted"), [(A, A, 1.0), (A, B, 0.5), (A, ~A, 0.0)])
def test_dice_of_masks(student, a, b, wanted):
    """Count the pixels in both masks twice, and divide by the two areas."""
    answer = student("dice", a, b)
    assert type(answer) is float
    assert answer == pytest.approx(wanted)


@pytest.mark.points("01.1", 1)
def test_dice_of_empty_masks(student):
    """What do two radiologists who both see nothing agree on?"""
    assert student("dice", A & ~A, A & ~A) == 1.0


@pytest.mark.points("01.2", 2)
def test_median_of_own_data(student):
    """Sort your own numbers and look at the middle."""
    data = np.random.default_rng(student_seed(student.id, "01.2")).normal(size=20)
    assert student.value("middle") == pytest.approx(np.median(data))


@pytest.mark.points("01.3", 1)
def test_shift_of_a_float_image(student):
    """Every row moves, and the last one leaves."""
    image = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(student("shift", image, rows=2), np.vstack([np.zeros((2, 3)), image[:2]]))


@pytest.mark.points("01.3", 1)
def test_shift_keeps_the_dtype(student):
    """An image of bytes should stay one."""
    assert student("shift", np.ones((3, 3), np.uint8)).dtype == np.uint8
'''

MUTANTS = {
    "01.1": {
        "right": ["def dice(a, b):\n    u = a.sum() + b.sum()\n    return float(2 * np.logical_and(a, b).sum() / u) "
                  "if u else 1.0"],
        "wrong": {"intersection over union": "def dice(a, b):\n    u = (a | b).sum()\n"
                                             "    return float((a & b).sum() / u) if u else 1.0",
                  "nothing for empty masks": "def dice(a, b):\n    return float(2 * (a & b).sum() / "
                                             "max(1, a.sum() + b.sum()))"}},
    "01.2": {"right": [OWN.replace("np.sort(data)[9:11].mean()", "np.median(data)")],
             "wrong": {"mean": OWN.replace("np.sort(data)[9:11].mean()", "data.mean()")}},
    "01.3": {"right": ["def shift(image, rows=1):\n    return np.vstack([0 * image[:rows], image[:-rows]])"],
             "wrong": {"rolls": "def shift(image, rows=1):\n    return np.roll(image, rows, 0)",
                       "floats": "def shift(image, rows=1):\n"
                                 "    return np.vstack([np.zeros((rows, image.shape[1])), image[:-rows]])"}},
}


def cell(key, source, kind="code", **roles):
    key = key.replace(".", "-")  # nbgrader allows no point in an id
    role = {"grade_id": key, "grade": False, "solution": False, "locked": True, "schema_version": 3, "cell_type": kind}
    new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
    made = new(source, metadata={"nbgrader": role | roles})
    made.id = f"cell-{key}"
    return made


def solution(key, source, **roles):
    return cell(key, source, solution=True, locked=False, **roles)


def self_check(key, answer, points):
    return cell(f"{key}-check", f'feedback = check("{key}", {answer})\ndisplay(feedback)\n'
                                "assert feedback, feedback.message", grade=True, points=points)


def source_notebook():
    """The instructor's notebook."""
    return nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[cell("title", "# Masks and rows", "markdown"), cell("imports", IMPORTS),
               solution("student", 'STUDENT = "your-id"'),
               cell("01.1-text", "Write `dice`.", "markdown"), solution("01.1", DICE),
               self_check("01.1", "dice(np.eye(2, dtype=bool), np.eye(2, dtype=bool))", 3),
               cell("01.2-text", "Find the median of your data.", "markdown"), solution("01.2", OWN),
               self_check("01.2", "middle", 2),
               cell("01.3-text", "Write `shift`.", "markdown"), solution("01.3", SHIFT),
               self_check("01.3", "shift(np.ones((2, 2)))", 2),
               solution("01.3-why", WHY, kind="markdown", grade=True, points=1)])


def exercise_book(root: Path) -> Path:
    """A book at `root` with the exercise notebook of chapter 01; returns the notebook's path."""
    folder = root / "chapters" / "exercises"
    folder.mkdir(parents=True)
    (root / "book").mkdir()
    nbformat.write(source_notebook(), folder / "01-masks.ipynb")
    (folder / "01-checks.py").write_text(CHECKS)
    (folder / "01-hidden.py").write_text(HIDDEN)
    (folder / "01-mutants.yml").write_text(yaml.safe_dump(MUTANTS))
    return folder / "01-masks.ipynb"


def submission(**answers):
    """The notebook of a student: the source with some solution cells replaced, `c01_1=...` for 01.1."""
    book = source_notebook()
    for name, text in answers.items():
        key = name[1:].replace("_", "-")
        (found,) = [c for c in book.cells if c.metadata.nbgrader.grade_id == key]
        found.source = text
    return book
