"""A book with a small exercise notebook, and the sandbox where this machine has one."""

import subprocess

import pytest
from exercise_book import exercise_book


@pytest.fixture
def exercise(tmp_path, monkeypatch):
    """The path of the exercise notebook; MEDTUTOR_BOOK names its book."""
    monkeypatch.setenv("MEDTUTOR_BOOK", str(tmp_path / "book-of-tests"))
    return exercise_book(tmp_path / "book-of-tests")


@pytest.fixture(scope="session")
def sandbox():
    """Skip where bubblewrap is missing or may not start."""
    try:
        run = subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("bubblewrap is not installed: install the package bubblewrap to test grading")
    if run.returncode:
        pytest.skip(f"bubblewrap may not start here: {run.stderr.strip()}")
