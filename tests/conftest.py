"""Fixtures that several test files share."""

import signal
import sys

import pytest
from books import TINY, make_book
from hypothesis import settings

# A shell that starts the tests in the background lets them ignore Ctrl-C, and all that they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# `make test` tries the same examples each time; `pytest --hypothesis-profile=search` looks for others.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """A test sees the profile that it asks for, whatever the shell that started it has set."""
    for name in ("MEDTUTOR_PROFILE", "MEDTUTOR_BOOK", "MEDTUTOR_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tiny_book(tmp_path, monkeypatch):
    """A book of one unexecuted chapter, chapters/01-tiny.ipynb; MEDTUTOR_BOOK names it."""
    root = make_book(tmp_path / "tiny", c01_tiny=TINY)
    monkeypatch.setenv("MEDTUTOR_BOOK", str(root))
    return root


@pytest.fixture(scope="session")
def executed_book(tmp_path_factory):
    """The tiny book with its chapter executed in profile cpu and saved. Read it, do not change it."""
    from medtutor import execute

    root = make_book(tmp_path_factory.mktemp("executed"), c01_tiny=TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDTUTOR_BOOK", str(root))
        execute.run(root / "chapters" / "01-tiny.ipynb", {"profile": "cpu"}, root / "runs", save=True, timeout=120)
    return root


@pytest.fixture(scope="session")
def executed(executed_book):
    """The path of the executed chapter."""
    return executed_book / "chapters" / "01-tiny.ipynb"


@pytest.fixture
def medtutor(monkeypatch, capsys):
    """Run the command in this process: `medtutor("run", "01")` gives status, stdout and stderr."""
    from medtutor import cli

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["medtutor", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call
