"""The judge: hidden tests in plain pytest, outside the sandbox, on answers that come out of it.

    @pytest.mark.points("01.1", 2)
    def test_empty_masks(student):
        \"\"\"Two empty masks agree perfectly: what should their Dice be?\"\"\"
        assert student("dice", np.zeros((4, 4)), np.zeros((4, 4))) == 1.0

The docstring is the feedback on a failure. The points of a test with parameters are earned where all its cases pass.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import secrets
import time
from pathlib import Path
from subprocess import Popen

import pytest

from medtutor import notebook
from medtutor.grading import beside
from medtutor.grading.channel import decode, encode, receive, send
from medtutor.grading.normalise import Unreadable, normalise
from medtutor.grading.sandbox import running

#: pytest without what takes time (tracebacks, other plugins, garbage collections) or leaves files.
QUIET = ["-qs", "-Wignore", "--tb=no", "--assert=plain", "--import-mode=importlib", "--disable-plugin-autoload",
         "-c", "/dev/null", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]


class StudentError(AssertionError):
    """The notebook gave no answer. The message is for the instructor: in a call it could carry hidden values.

    `public` is what the student is told: no more than the type of the error.
    """

    def __init__(self, message: str, public: str):
        super().__init__(message)
        self.public = public


class Student:
    """The fixture `student`: asks a student's process. `dead` says why there is no process to ask (any more)."""

    def __init__(self, identifier: str, process: Popen | None, limits: dict[str, int], dead: str = ""):
        self.id, self.dead, self._slow = identifier, dead, set()
        self._process, self._limits, self._started = process, limits, time.monotonic()

    def __call__(self, function: str, /, *args, **kwargs):
        """What the student's function returns. Raises StudentError where it raises, or returns no data, or once took
        too long: a loop without end should not use up the time of the other exercises."""
        if function in self._slow:
            raise StudentError("Timeout: it took too long before", "Your code takes too long.")
        return self._ask(name=function, args=encode(args), kwargs=encode(kwargs))

    def value(self, name: str):
        """A variable of the student's notebook."""
        return self._ask(name=name)

    def run(self, cell: str) -> str:
        """Execute a cell and return what it raised, or nothing."""
        try:
            self._ask(cell=cell)
        except StudentError as error:
            return str(error)
        return ""

    def _ask(self, **request):
        if self.dead:
            raise StudentError(self.dead, "")
        # A reply counts only for the request whose number it carries, and nobody knows that before it is asked.
        number = secrets.token_hex(16)
        try:
            send(self._process.stdin, request | {"id": number, "seconds": self._limits["cell"]})
            while (reply := receive(self._process.stdout))["id"] != number:
                pass
            if "value" in reply:
                return decode(reply["value"])
            error = str(reply["error"])[:300]
        except Exception:  # the process has ended, or what it wrote is no reply
            late = time.monotonic() - self._started > self._limits["seconds"] - 1
            self.dead = (f"The notebook took more than {self._limits['seconds']} seconds and was stopped." if late else
                         "The notebook ended early: it ran out of memory, ended itself, or wrote to the judge.")
            raise StudentError(self.dead, "") from None
        kind = error.partition(":")[0]
        if kind == "Timeout" and "args" in request:
            self._slow.add(request["name"])
        public = f"Your code raises {kind}." if hasattr(builtins, kind) else "Your code raises an error."
        own = {"NoData": "Your code gives something that is no number, text, list, tuple, dict, array or tensor.",
               "Timeout": "Your code takes too long."}
        raise StudentError(error, own.get(kind, public))


class Hidden:
    """The pytest plugin that gives hidden tests the student and notes which pass; of one exercise or of all ("")."""

    def __init__(self, student: Student, exercise: str):
        self.tests, self._student, self._exercise = {}, student, exercise

    @pytest.fixture
    def student(self) -> Student:
        return self._student

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = [item for item in items if self._exercise in ("", item.get_closest_marker("points").args[0])]

    def pytest_runtest_makereport(self, item, call) -> None:
        exercise, points = item.get_closest_marker("points").args
        test = self.tests.setdefault(item.originalname, {"exercise": exercise, "points": points, "passed": True})
        if call.excinfo:
            error = call.excinfo.value
            test |= {"passed": False, "error": f"{type(error).__name__}: {error}"[:500],
                     "feedback": f"{item.function.__doc__ or ''} {getattr(error, 'public', '')}".strip()}


def examine(hidden: Path, student: Student, exercise: str = "") -> list[dict]:
    """Run the hidden tests (of one exercise): for each exercise, points and passed; where not, feedback and error."""
    plugin, said = Hidden(student, exercise), io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main([*QUIET, "--rootdir", str(hidden.parent), str(hidden)], plugins=[plugin])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{hidden.name} cannot be run: {said.getvalue().strip()[-300:]}")
    return list(plugin.tests.values())


def grade(exercise: Path, submitted: Path, identifier: str, limits: dict[str, int], sandboxed: bool) -> dict:
    """Grade one file: `tests` as of `examine`, `status`, `notes` for the student, `written` answers by cell,
    `seconds` that it took once its process was ready."""
    steps, written, notes, dead = [], {}, [], ""
    try:
        steps, written, notes = normalise(notebook.read(exercise), submitted, identifier)
    except Unreadable as error:
        dead = str(error)
    with contextlib.ExitStack() as stack:
        process = None if dead else stack.enter_context(running(limits, beside(exercise, "checks.py"), sandboxed))
        student, start = Student(identifier, process, limits, dead), time.monotonic()
        notes += [f"{name}: {error}" for name, code in steps if not student.dead and (error := student.run(code))]
        tests = examine(beside(exercise, "hidden.py"), student)
    status = "unreadable" if dead else "stopped" if student.dead else "graded"
    notes += [student.dead] * (student.dead not in " ".join(notes))
    return {"tests": tests, "status": status, "notes": notes, "written": written, "seconds": time.monotonic() - start}
