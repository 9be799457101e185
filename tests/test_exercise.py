"""Feedback for students: specific, never an exception, never the solution."""

import pytest
import torch

from medtutor import exercise
from medtutor.exercise import Wrong, ask, check

CHECKS = '''
import torch
from medtutor.exercise import Wrong, exercise, expect_range, expect_shape, expect_type, misconception, same

helper = torch.nn.Linear(1, 1)

@exercise("07.1")
def count_parameters(answer):
    expect_type(answer, int, "the number of parameters")
    misconception(answer, 90, "Do not forget the bias of each output channel.")
    if not same(answer, 100):
        raise Wrong("Count the weights of one output channel first.")
    return "Right: 9 weights and a bias, ten times."

@exercise("07.2")
def softmax_twice(answer):
    """The student hands in a function."""
    value = answer(torch.zeros(4))
    expect_shape(value, (4,), "what your function returns")
    expect_range(value, 0, 1, "each probability")
'''


@pytest.fixture(autouse=True)
def book(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    folder = tmp_path / "chapters" / "exercises"
    folder.mkdir(parents=True)
    (folder / "07-checks.py").write_text(CHECKS)
    monkeypatch.setenv("MEDTUTOR_BOOK", str(tmp_path))
    return folder


def test_a_right_answer_is_true_and_explained():
    feedback = check("07.1", 100)
    assert feedback
    assert repr(feedback) == "Right. Right: 9 weights and a bias, ten times."
    assert check("07.2", lambda x: x.softmax(0)).message == "Well done."


@pytest.mark.parametrize(("answer", "hint"), [
    (90, "Do not forget the bias of each output channel."),
    (12, "Count the weights of one output channel first."),
    (100.0, "The number of parameters should be of type int, but it is of type float."),
    (True, "The number of parameters should be of type int, but it is of type bool."),
    (None, "There is no answer yet"),
    (..., "There is no answer yet"),
])
def test_each_wrong_answer_gets_its_own_hint_without_the_solution(answer, hint):
    feedback = check("07.1", answer)
    assert not feedback
    assert hint in feedback.message
    assert "100" not in repr(feedback) + feedback._repr_html_()


def wrong_shape(x):
    return x[:2]


def wrong_range(x):
    return x + 2


def divides(x):
    return x / 0


def raises(x):
    raise KeyError("logits")


def leaves(x):
    raise SystemExit(3)


@pytest.mark.parametrize(("answer", "hint"), [
    (wrong_shape, "should have shape (4,), but it has shape (2,)"),
    (wrong_range, "should lie between 0 and 1, but it goes from 2 to 2"),
    (divides, "NaN or infinite"),
    (raises, "Your answer raised KeyError: 'logits'"),
    (leaves, "Your answer raised SystemExit: 3"),
    (lambda x: "a", "should be a tensor or an array, but it is of type str"),
    ("not a function", "Your answer raised TypeError"),
    (lambda: 0, "Your answer raised TypeError"),
])
def test_a_handed_in_function_never_breaks_the_check(answer, hint):
    feedback = check("07.2", answer)
    assert not feedback
    assert hint in feedback.message


def test_html_is_escaped_and_says_it_in_words_not_only_in_colour(book):
    (book / "08-checks.py").write_text("from medtutor.exercise import *\nfrom medtutor.exercise import Wrong\n"
                                       "@exercise('08.1')\ndef f(answer):\n    raise Wrong('<b>no</b>')\n")
    html = check("08.1", 1)._repr_html_()
    assert "&lt;b&gt;no" in html
    assert "Not yet" in html
    assert 'role="status"' in html


@pytest.mark.parametrize("identifier", ["07.3", "7.1", "71", 7, "99.1"])
def test_an_unknown_id_names_the_nearest(identifier):
    with pytest.raises(ValueError, match=r"there is no exercise .*; try 07\.[12]"):
        check(identifier, 1)


def test_a_book_without_exercises_says_so(book):
    (book / "07-checks.py").unlink()
    with pytest.raises(ValueError, match="no exercises in chapters/exercises"):
        check("07.1", 1)


@pytest.mark.parametrize("second", ["07.1", "06.1"])
def test_ids_are_unique_and_belong_to_their_chapter(book, second):
    (book / "07-checks.py").write_text(CHECKS + f"\n@exercise('{second}')\ndef other(answer): pass\n")
    with pytest.raises(ValueError, match="07-checks.py"):
        check("07.1", 100)


def test_only_the_file_of_the_chapter_is_run(book):
    (book / "06-checks.py").write_text("raise RuntimeError('another chapter')")
    (book / "07-other.py").write_text("raise RuntimeError('not a checks file')")
    assert check("07.1", 100)


@pytest.mark.parametrize(("answer", "shape", "good"), [
    (torch.zeros(2, 3), (2, 3), True), (torch.zeros(2, 3), (None, 3), True), (torch.zeros(2, 3), (3, 2), False),
    (torch.zeros(2, 3), (2,), False), ([1, 2], (2,), False),
])
def test_expect_shape(answer, shape, good):
    if good:
        exercise.expect_shape(answer, shape)
    else:
        with pytest.raises(Wrong):
            exercise.expect_shape(answer, shape)


@pytest.mark.parametrize(("a", "b", "equal"), [
    (1, 1.0, True), (torch.ones(2), [1, 1.00001], True), (torch.ones(2), torch.ones(3), False), ("a", "a", True),
    ("a", "b", False), (1.0, "1.0", False), ({"a": 1}, {"a": 1}, True), (float("nan"), float("nan"), True),
])
def test_same(a, b, equal):
    assert exercise.same(a, b) is equal


def test_a_student_and_an_exercise_decide_the_seed_of_personal_data():
    seed = exercise.student_seed("ada", "01.2")
    assert seed == exercise.student_seed("ada", "01.2") == 0x071BC7BA
    assert len({seed, exercise.student_seed("bob", "01.2"), exercise.student_seed("ada", "01.3")}) == 3
    assert 0 <= seed < 2**32


def test_ask_hands_over_copies_and_names_what_is_missing():
    given = torch.zeros(2)
    assert ask(lambda x, by: x.add_(by), given, by=3).tolist() == [3, 3]
    assert given.tolist() == [0, 0]
    assert ask(lambda: None, none_is_right=True) is None

    def stub():
        raise NotImplementedError

    for wrong, said in ((3, "function itself"), (stub, "no answer yet"), (lambda: None, "returns nothing")):
        with pytest.raises(Wrong, match=said):
            ask(wrong)
