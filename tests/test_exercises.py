"""Every exercise notebook of the book: sound for nbgrader, released without leaks, and hidden tests that can tell."""

import ast
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


def names_in(code):
    """What the statements of a cell bind."""
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Store)} | {node.name for node in ast.parse(code).body if hasattr(node, "name")}


@pytest.mark.parametrize("mutants", sorted(FOLDER.glob("[0-9][0-9]-mutants.yml")), ids=lambda path: path.name[:2])
def test_hidden_tests_accept_what_is_right_and_reject_what_is_wrong(mutants, tmp_path):
    path = next(FOLDER.glob(f"{mutants.name[:2]}-*.ipynb"))
    source = notebook.read(path)
    (tmp_path / "ada.ipynb").write_text(nbformat.writes(source))
    steps, _, _ = normalise(source, tmp_path / "ada.ipynb", "ada")
    # Without a sandbox and in one process, for time: every answer replaces that of one cell.
    with running(LIMITS | {"seconds": 300}, beside(path, "checks.py"), sandboxed=False) as process:
        student = Student("ada", process, LIMITS)
        assert [error for _, code in steps if (error := student.run(code))] == []

        def failures(exercise):
            return [test for test in examine(beside(path, "hidden.py"), student, exercise) if not test["passed"]]

        def failed(exercise, solution, answer):
            student.run(f"for name in {names_in(solution)}: globals().pop(name, None)")
            student.run(answer)
            found = failures(exercise)
            student.run(solution)
            return found

        found, solutions = [], dict(steps)
        for exercise, answers in yaml.safe_load(mutants.read_text(encoding="utf-8")).items():
            solution = solutions[exercise.replace(".", "-")]
            found += [f"the solution of {exercise} is rejected: {test}" for test in failures(exercise)]
            found += [f"{exercise}: a right answer is rejected: {test}" for answer in answers["right"]
                      for test in failed(exercise, solution, answer)]
            found += [f"{exercise}: {name!r} is accepted" for name, answer in answers["wrong"].items()
                      if not failed(exercise, solution, answer)]
        assert found == []
