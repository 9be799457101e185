"""Grade a folder of submissions: a gradebook that survives being killed, a table of marks, a page for each student."""

from __future__ import annotations

import csv
import ctypes
import hashlib
import json
import multiprocessing
import re
import resource
import signal
import sqlite3
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime
from pathlib import Path

import jinja2
from dateutil.parser import parse
from tqdm import tqdm

from medtutor.grading import beside, exercises
from medtutor.grading.judge import grade
from medtutor.grading.normalise import LARGEST

CHAPTER = re.compile(rb'"grade_id": *"(\d\d)-')


def submissions(folder: Path) -> list[tuple[str, datetime, Path]]:
    """(id, time, file) of each notebook in `folder`, in the order of time.

    The id is the name of the folder below `folder`, else the file's name up to its first `_`. The time is that of
    nbgrader's timestamp.txt beside it, else of the file.
    """
    found = []
    for path in folder.rglob("*.ipynb"):
        first, *inside = path.relative_to(folder).parts
        if path.is_file() and ".ipynb_checkpoints" not in path.parts:
            stamp = path.with_name("timestamp.txt")
            time = parse(stamp.read_text()) if stamp.exists() else datetime.fromtimestamp(path.stat().st_mtime)
            # Table programs take a text that begins with = for a formula.
            name = re.sub(r"^\W|[^\w .@+-]", "-", first if inside else path.stem.partition("_")[0])
            found.append((name, time.astimezone(), path))
    return sorted(found, key=lambda one: one[1:])


def grade_all(folder: Path, to: Path, chapter: str, jobs: int, deadline: datetime | None, limits: dict[str, int],
              sandboxed: bool) -> Path:
    """Grade what is in `folder` and not yet in `to`/gradebook.sqlite, then write the reports; returns the table.

    One transaction a submission: a killed run continues where it was. The same file is graded again only where the
    exercise changed. Without a `chapter` the one to which most files belong is meant. Raises ValueError.
    """
    handed_in = submissions(folder)
    readable = [path for *_, path in handed_in if path.stat().st_size <= LARGEST]
    votes = Counter(number for path in readable for number in set(CHAPTER.findall(path.read_bytes())))
    if not handed_in or not (chapter or votes):
        raise ValueError(f"no notebook with exercises of this book is in {folder}; if they are damaged, say --chapter")
    exercise = exercises(chapter or votes.most_common(1)[0][0].decode())
    version = _digest(exercise) + _digest(beside(exercise, "hidden.py"))
    keys = {path: f"{version} {_digest(path)} {student}" for student, _, path in handed_in}
    to.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(to / "gradebook.sqlite") as book:
        book.execute("CREATE TABLE IF NOT EXISTS graded (key PRIMARY KEY, student, file, result)")
        results = {key: json.loads(result) for key, result in book.execute("SELECT key, result FROM graded")}
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _careful) as pool:
            waiting = {pool.submit(grade, exercise, path, student, limits, sandboxed): (student, path)
                       for student, _, path in handed_in if keys[path] not in results}
            for future in tqdm(as_completed(waiting), f"chapter {exercise.name[:2]}", len(waiting)):
                (student, path), result = waiting[future], future.result()
                results[keys[path]] = result
                row = keys[path], student, str(path), json.dumps(result)
                book.execute("INSERT OR REPLACE INTO graded VALUES (?, ?, ?, ?)", row)
                book.commit()
    return _write(to, exercise, deadline, [(*one, results[keys[one[2]]]) for one in handed_in])


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _careful() -> None:
    """A worker dies with its parent, and bubblewrap with the worker: it would wait for work for ever. What an answer
    may take in a hidden test is limited too: two harmless arrays can be a huge one when they are broadcast."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))


def _write(to: Path, exercise: Path, deadline: datetime | None, graded: list[tuple]) -> Path:
    """grades.csv and feedback/ID.html. Of several submissions of a student the last counts, and all are listed."""
    (to / "feedback").mkdir(exist_ok=True)
    template = jinja2.Template(Path(__file__).with_name("feedback.html").read_text(encoding="utf-8"), autoescape=True)
    students, rows = defaultdict(list), []
    for student, *submission in graded:
        students[student].append(submission)
    for student, handed_in in sorted(students.items()):
        time, path, result = handed_in[-1]
        points, most = Counter(), Counter()
        for test in result["tests"]:
            points[test["exercise"]] += test["points"] * test["passed"]
            most[test["exercise"]] += test["points"]
        facts = {"status": result["status"], "late": "late" if deadline and time > deadline else "",
                 "handed in": time.isoformat(" ", "seconds"), "file": path.name, "submissions": len(handed_in)}
        page = template.render(student=student, title=exercise.stem, points=points, most=most, facts=facts,
                               handed_in=handed_in, **result)
        (to / "feedback" / f"{student}.html").write_text(page, encoding="utf-8", errors="replace")
        rows.append({"id": student, **points, "total": points.total(), "of": most.total(), **facts})
    with (to / "grades.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return to / "grades.csv"
