"""A folder of submissions becomes marks and feedback: once each, whatever happens in between."""

import csv
import os
import signal
import sqlite3
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from exercise_book import DICE, submission

IOU = "def dice(a, b):\n    return float((a & b).sum() / max(1, (a | b).sum()))"
SECRET = "def dice(a, b):\n    raise ValueError(f'<b>{a}</b>')"


@pytest.fixture
def put(exercise, tmp_path):
    """`put(name, hour, **answers)`: hand in a notebook as `name`.ipynb, at that hour of 30 November 2026."""

    def handed_in(name, hour=12, **answers):
        path = tmp_path / "submitted" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(submission(**answers), path)
        moment = time.mktime((2026, 11, 30, hour, 0, 0, 0, 0, -1))
        os.utime(path, (moment, moment))
        return path

    return handed_in


@pytest.fixture
def grade(medtutor, tmp_path):
    """`grade(...)`: run the command; the rows of the table by id, and what it said."""

    def run(*options):
        status, out, err = medtutor("grade", str(tmp_path / "submitted"), "--to", str(tmp_path / "report"), *options)
        assert status == 0, err
        assert out.strip() == str(tmp_path / "report" / "grades.csv")
        with open(out.strip(), newline="") as stream:
            return {row["id"]: row for row in csv.DictReader(stream)}

    return run


def page(tmp_path, student):
    return (tmp_path / "report" / "feedback" / f"{student}.html").read_text()


def test_marks_feedback_late_and_repeated_submissions(sandbox, put, grade, tmp_path):
    put("ada")
    put("bob_my-answers", 23, c01_1=IOU)
    put("cem/1/first", 10)
    put("cem/2/second", 11, c01_1=SECRET)
    (tmp_path / "submitted" / "cem" / "2" / "timestamp.txt").write_text("2026-11-30 09:00:00 UTC")
    put("=cmd|'A0'", 13)
    rows = grade("--deadline", "2026-11-30 22:00")
    assert {key: rows["ada"][key] for key in ("01.1", "01.2", "01.3", "total", "of", "status", "late")} == {
        "01.1": "3", "01.2": "2", "01.3": "2", "total": "7", "of": "7", "status": "graded", "late": ""}
    assert (rows["bob"]["01.1"], rows["bob"]["total"], rows["bob"]["late"]) == ("0", "4", "late")
    assert sorted(rows) == ["-cmd--A0-", "ada", "bob", "cem"]
    assert rows["cem"]["submissions"] == "2"
    assert "Count the pixels in both masks twice" in page(tmp_path, "bob")
    assert "after the" in page(tmp_path, "bob")
    assert "first.ipynb" in page(tmp_path, "cem")
    assert rows["cem"]["01.1"] == "3"  # by nbgrader's clock the other file came first


def test_the_last_submission_in_time_counts(sandbox, put, grade):
    put("ada/late/a", 15)
    put("ada/early/z", 9, c01_1=IOU)
    assert grade()["ada"]["total"] == "7"
    put("ada/early/z", 16, c01_1=IOU)
    assert grade()["ada"]["total"] == "4"


def test_a_students_error_shows_its_type_and_not_the_hidden_values(sandbox, put, grade, tmp_path):
    put("ada", c01_1=SECRET, c01_2="middle = 1 / 0")
    grade()
    assert "Your code raises ValueError." in page(tmp_path, "ada")
    assert "&lt;b&gt;" not in page(tmp_path, "ada")
    assert "01-2: ZeroDivisionError: division by zero" in page(tmp_path, "ada")
    with sqlite3.connect(tmp_path / "report" / "gradebook.sqlite") as book:
        assert "[ True  True]" in book.execute("SELECT result FROM graded").fetchone()[0]


def test_the_id_comes_from_the_file_and_not_from_the_notebook(sandbox, put, grade):
    put("ada", _student='STUDENT = "bob"')
    assert grade()["ada"]["01.2"] == "2"


def test_only_what_is_new_is_graded(sandbox, put, grade, tmp_path, exercise):
    def graded():
        with sqlite3.connect(tmp_path / "report" / "gradebook.sqlite") as book:
            return [row[0] for row in book.execute("SELECT student FROM graded ORDER BY rowid")]

    put("ada")
    grade()
    put("bob", c01_1=IOU)
    grade()
    assert graded() == ["ada", "bob"]
    put("bob", c01_1=DICE)
    assert grade()["bob"]["total"] == "7"
    assert graded() == ["ada", "bob", "bob"]
    hidden = exercise.with_name("01-hidden.py")
    hidden.write_text(hidden.read_text().replace('"01.3", 1)', '"01.3", 5)', 1))
    assert grade()["ada"]["total"] == "11"


def test_a_killed_run_keeps_what_is_done_and_leaves_nothing_running(sandbox, put, grade, tmp_path):
    put("ada", 9)
    put("slow", 10, c01_1="import time\ntime.sleep(60)")
    command = [sys.executable, "-m", "medtutor", "grade", str(tmp_path / "submitted"), "--to", str(tmp_path / "report"),
               "--jobs", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        # The progress bar says when the first is done, which is when the second starts.
        said = ""
        while "1/2" not in said:
            said += run.stderr.read(1)
        family = psutil.Process(run.pid).children(recursive=True)
        assert family
        run.send_signal(signal.SIGKILL)
        run.stderr.close()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    (tmp_path / "submitted" / "slow.ipynb").unlink()
    with sqlite3.connect(tmp_path / "report" / "gradebook.sqlite") as book:
        assert book.execute("SELECT student FROM graded").fetchall() == [("ada",)]
    assert grade()["ada"]["total"] == "7"


def test_without_bubblewrap_nothing_is_run_unless_it_is_said(put, medtutor, grade, tmp_path, monkeypatch):
    put("ada")
    monkeypatch.setattr("shutil.which", lambda *_: None)
    status, _, err = medtutor("grade", str(tmp_path / "submitted"), "--to", str(tmp_path / "report"))
    assert status == 2
    assert "apt install bubblewrap" in err
    assert not (tmp_path / "report").exists()
    assert grade("--unsafe-without-sandbox")["ada"]["total"] == "7"


@pytest.mark.parametrize(("make", "options", "said"), [
    (False, [], "no notebook with exercises of this book is in"),
    (True, ["--chapter", "07"], "there is no exercise notebook of chapter '07'; try 01"),
])
def test_what_cannot_be_graded_is_one_sentence(put, medtutor, tmp_path, make, options, said):
    (tmp_path / "submitted").mkdir()
    if make:
        put("ada")
    status, _, err = medtutor("grade", str(tmp_path / "submitted"), "--to", str(tmp_path / "report"),
                              "--unsafe-without-sandbox", *options)
    assert status == 2
    assert said in err
    assert len(err.splitlines()) == 1
