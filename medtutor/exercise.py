"""`check("03.2", answer)`: immediate, specific feedback for students.

The checkers of a chapter are a plain Python file beside its exercise notebook, `chapters/exercises/NN-checks.py`:

    from medtutor.exercise import Wrong, exercise, expect_shape

    @exercise("03.2")
    def dice_of_empty_masks(answer):
        expect_shape(answer, (4,))
        ...
        return "Right: two empty masks agree."

A checker returns what to say of a right answer and raises `Wrong` with a hint. A hint says what is wrong, never what
is right.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch


class Wrong(Exception):
    """The answer is not right; the message is the hint for the student."""


@dataclass(frozen=True)
class Feedback:
    """Whether an answer is right, and one or two sentences on it. True in a condition where it is right."""

    right: bool
    message: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return f"{'Right' if self.right else 'Not yet'}. {self.message}"

    def _repr_html_(self) -> str:
        mark, colour = ("\u2713 Right.", "#009E73") if self.right else ("\u2717 Not yet.", "#D55E00")
        return (f'<div role="status" style="border-left:.3em solid {colour};padding:.3em .8em">'
                f"<strong>{mark}</strong> {escape(self.message)}</div>")


def exercise(identifier: str) -> Callable[[Callable], Callable]:
    """Mark `checker(answer)` as the one for exercise `identifier`, such as "03.2"."""

    def mark(checker: Callable) -> Callable:
        checker.exercise = identifier
        return checker

    return mark


def checkers(chapter: str = "[0-9][0-9]") -> dict[str, Callable]:
    """The checker of every exercise of a chapter ("03"; by default of all), from `NN-checks.py` in the working folder,
    where a released notebook has it beside itself, else in the book's `chapters/exercises`."""
    from medtutor.notebook import book_root

    found: dict[str, Callable] = {}
    here = sorted(Path.cwd().glob(f"{chapter}-checks.py"))
    for path in here or sorted((book_root() / "chapters" / "exercises").glob(f"{chapter}-checks.py")):
        for value in runpy.run_path(str(path)).values():
            identifier = getattr(value, "exercise", None)
            if not isinstance(identifier, str):
                continue
            if identifier in found or not identifier.startswith(path.name[:2] + "."):
                raise ValueError(f"{path.name}: the exercise id {identifier!r} is taken or of another chapter; "
                                 f"ids of this file are unique and start with {path.name[:2]}.")
            found[identifier] = value
    return found


def check(identifier: str, answer) -> Feedback:
    """Feedback on `answer` to exercise `identifier`. Never raises on a wrong answer, whatever it is.

    Raises ValueError, with the nearest ids, for an unknown exercise.
    """
    known = checkers(identifier[:2]) if re.fullmatch(r"\d\d\..+", str(identifier)) else {}
    if identifier not in known:
        known = checkers()
        near = difflib.get_close_matches(str(identifier), known, n=3, cutoff=0.3) or sorted(known)[:5]
        raise ValueError(f"there is no exercise {identifier!r}; " + (f"try {', '.join(near)}" if near else
                         "this copy of the book has no exercises in chapters/exercises"))
    if answer is None or answer is Ellipsis or answer is NotImplemented:
        return Feedback(False, "There is no answer yet. Replace the placeholder and run the cell again.")
    try:
        return Feedback(True, known[identifier](answer) or "Well done.")
    except Wrong as hint:
        return Feedback(False, str(hint))
    except (Exception, SystemExit) as error:  # a student's function may raise anything: that is an answer too
        return Feedback(False, f"Your answer raised {type(error).__name__}: {error}. "
                               "Run it by itself on a small input and look at the last line of the message.")


def student_seed(student: str, exercise: str) -> int:
    """The seed of the data that `student` gets in `exercise`: the same on every machine, another for everybody else."""
    return int(hashlib.sha256(f"{student}/{exercise}".encode()).hexdigest()[:8], 16)


def ask(function, *given, none_is_right: bool = False, **options):
    """What the student's function returns for `given`, of whose tensors it gets copies.

    Raises Wrong where it is no function, is not written yet, or returns nothing, which `none_is_right` allows.
    """
    if not callable(function):
        raise Wrong("Hand in the function itself, by its name and without brackets.")
    try:
        answer = function(*(x.clone() if isinstance(x, torch.Tensor) else x for x in given), **options)
    except NotImplementedError:
        raise Wrong("There is no answer yet. Put your code in the place of `raise NotImplementedError()`, and run that "
                    "cell and this one.") from None
    if answer is None and not none_is_right:
        raise Wrong(f"`{getattr(function, '__name__', 'your function')}` returns nothing. Does it end with `return`?")
    return answer


def expect_type(answer, kind: type | tuple[type, ...], what: str = "your answer") -> None:
    """Raise Wrong where `answer` is not a `kind`. A bool is not taken for a number."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(answer, kinds) or isinstance(answer, bool) and bool not in kinds:
        names = " or ".join(k.__name__ for k in kinds)
        raise Wrong(f"{_start(what)} should be of type {names}, but it is of type {type(answer).__name__}.")


def expect_shape(answer, shape: tuple[int | None, ...], what: str = "your answer") -> None:
    """Raise Wrong where the shape is another; `None` stands for any length."""
    if not hasattr(answer, "shape"):
        raise Wrong(f"{_start(what)} should be a tensor or an array, but it is of type {type(answer).__name__}.")
    got = tuple(answer.shape)
    if len(got) != len(shape) or any(want is not None and want != have for want, have in zip(shape, got, strict=True)):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
        raise Wrong(f"{_start(what)} should have shape {wanted}, but it has shape {got}.")


def expect_range(answer, low: float, high: float, what: str = "your answer") -> None:
    """Raise Wrong where a value is not finite or lies outside [low, high]."""
    try:
        values = torch.as_tensor(answer, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{_start(what)} should be numbers, but it is of type {type(answer).__name__}.") from None
    if not values.isfinite().all():
        raise Wrong(f"{_start(what)} has values that are NaN or infinite. Look for a division by zero.")
    if values.numel() and not low <= float(values.min()) <= float(values.max()) <= high:
        raise Wrong(f"{_start(what)} should lie between {low:g} and {high:g}, "
                    f"but it goes from {float(values.min()):.4g} to {float(values.max()):.4g}.")


def misconception(answer, wrong, hint: str, tolerance: float = 1e-4) -> None:
    """Raise Wrong with `hint` where `answer` equals what a known error in reasoning gives."""
    if same(answer, wrong, tolerance):
        raise Wrong(hint)


def same(answer, other, tolerance: float = 1e-4) -> bool:
    """Whether two answers agree: numbers, tensors and arrays within `tolerance`, anything else by equality."""
    try:
        a, b = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (answer, other))
    except (TypeError, ValueError, RuntimeError):
        return type(answer) is type(other) and answer == other
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]
