"""Every exercise notebook of the book: sound for nbgrader, released without leaks, and hidden tests that can tell."""

import copy
from pathlib import Path

import nbformat
import pytest
import yaml
from nbgrader.nbgraderformat import MetadataValidator

from medtutor import notebook
from medtutor.grading import beside
from medtutor.grading.judge import Student, examine
from medtutor.grading.normalise import normalise
from medtutor.grading.release import faults, student_edition
from medtutor.grading.sandbox import LIMITS, running

FOLDER = Path(__file__).parents[1] / "chapters" / "exercises"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]-*.ipynb"))


def exercise_of(mutants):
    return next(FOLDER.glob(f"{mutants.name[:2]}-*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exercise_notebook_is_sound_and_its_student_edition_gives_nothing_away(path):
    source = notebook.read(path)
    nbformat.validate(source)
    MetadataValidator().validate_nb(source)
    assert faults(source, student_edition(source)) == []
    points = {mark["exercise"] for mark in hidden_points(path)}
    roles = {cell.metadata.nbgrader.grade_id for cell in source.cells}
    assert {f"{name.replace('.', '-')}{end}" for name in points for end in ("", "-check")} <= roles


def hidden_points(path):
    return examine(beside(path, "hidden.py"), Student("ada", None, LIMITS, "Nothing was handed in."))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_hidden_tests_are_failed_by_who_hands_in_nothing_and_say_something(path):
    tests = hidden_points(path)
    assert tests
    assert not any(test["passed"] for test in tests)
    assert all(len(test["feedback"]) > 20 for test in tests)


@pytest.mark.parametrize("mutants", sorted(FOLDER.glob("[0-9][0-9]-mutants.yml")), ids=lambda path: path.name[:2])
def test_hidden_tests_accept_what_is_right_and_reject_what_is_wrong(mutants, tmp_path):
    path = exercise_of(mutants)
    source = notebook.read(path)
    (tmp_path / "ada.ipynb").write_text(nbformat.writes(source))
    steps, _, _ = normalise(source, tmp_path / "ada.ipynb", "ada")
    with running(LIMITS | {"seconds": 300}, beside(path, "checks.py"), sandboxed=False) as process:
        student = Student("ada", process, LIMITS)

        def failed(exercise, replaced="", by=""):
            """The hidden tests of the exercise that fail, with one cell replaced."""
            errors = [error for key, code in steps if (error := student.run(by if key == replaced else code))]
            assert replaced or not errors
            return [test for test in examine(beside(path, "hidden.py"), student)
                    if test["exercise"] == exercise and not test["passed"]]

        answers = yaml.safe_load(mutants.read_text(encoding="utf-8"))
        wrong = []
        for exercise, sources in answers.items():
            key = exercise.replace(".", "-")
            assert key in dict(steps), f"{path.name} has no cell {key}"
            assert failed(exercise) == [], f"the solution of {exercise} is rejected"
            for right in sources["right"]:
                wrong += [f"{exercise}: a right answer is rejected: {test}" for test in failed(exercise, key, right)]
            wrong += [f"{exercise}: {name!r} is accepted" for name, text in sources["wrong"].items()
                      if not failed(exercise, key, text)]
        assert wrong == []
