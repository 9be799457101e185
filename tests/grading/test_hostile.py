"""Hostile and broken submissions: each costs its owner the points, and nobody else anything."""

import csv
import json
import os
import socket
import sqlite3

import nbformat
import psutil
import pytest
from exercise_book import DICE, OWN, exercise_book, submission

from medtutor.grading.report import grade_all

LIMITS = {"seconds": 12, "cell": 3, "memory": 2048, "disk": 16}
#: Points of 01.1, 01.2 and 01.3.
ALL = {"01.1": 3, "01.2": 2, "01.3": 2}
NOTHING = {"01.1": 0, "01.2": 0, "01.3": 0}
REST = ALL | {"01.1": 0}

FIND_THE_PIPE = """
import json, os, stat
pipes = [n for n in range(3, 60) if os.path.exists(f"/proc/self/fd/{n}") and stat.S_ISFIFO(os.fstat(n).st_mode)]
def write(content):
    for pipe in pipes:
        try:
            os.write(pipe, content)
        except OSError:
            pass
def forge(message):
    content = json.dumps(message).encode()
    write(len(content).to_bytes(8, "big") + content)
"""
DISHONEST = "def dice(a, b):\n    "

#: Name of the attack: source of the cell 01.1, and the points that are left.
CELLS = {
    "loop": ("while True:\n    pass", REST),
    "loop-in-a-call": (DISHONEST + "while True: pass", REST),
    "stubborn-loop": ("import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass", NOTHING),
    "fork-bomb": ("import os\nwhile True:\n    os.fork()", REST),
    "shell-bomb": ("!:(){ :|:& };:", REST),
    "processes": ("import multiprocessing as m\nfor _ in range(999): m.Process(target=print).start()", REST),
    "threads": ("import threading, time\nthreading.stack_size(2**25)\nwhile True:\n"
                "    threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", None),
    "memory": ("hoard = []\nwhile True:\n    hoard.append(bytearray(10**8))", None),
    "memory-outside": ("import os\nfile = os.memfd_create('x')\nwhile True:\n    os.write(file, bytes(10**7))", REST),
    "disk": ("for n in range(9999):\n    for folder in ('/tmp', '/dev/shm', '/', '/var/tmp', '/dev'):\n"
             "        try:\n            open(f'{folder}/{n}', 'wb').write(bytes(10**7))\n        except OSError: pass",
             REST),
    "output": ("for _ in range(200):\n    print('x' * 10**6)\n" + DICE, ALL),
    "suicide": ("import os\nos._exit(0)", NOTHING),
    "murder": ("import os\nfor number in range(1, 9):\n    try: os.kill(number, 9)\n    except OSError: pass\n"
               "os.kill(os.getppid(), 9)\nos.kill(os.getpid(), 9)", NOTHING),
    "system-exit": ("raise SystemExit", REST),
    "solutions": ("text = open('<book>/chapters/exercises/01-masks.ipynb').read()", REST),
    "hidden-tests": ("text = open('<book>/chapters/exercises/01-hidden.py').read()", REST),
    "neighbour": ("text = open('<submissions>/good1.ipynb').read()", REST),
    "gradebook": ("import sqlite3\nsqlite3.connect('<report>/gradebook.sqlite').execute('DROP TABLE graded')", REST),
    "report": ("open('<report>/grades.csv', 'w').write('all full marks')", REST),
    "socket": ("import socket\nsocket.create_connection(('127.0.0.1', <port>), 2).send(b'the hidden tests')", REST),
    "patch": ("np.testing.assert_array_equal = lambda *_, **__: None\nimport pytest\n"
              "pytest.approx = lambda *_, **__: type('Yes', (), {'__eq__': lambda *_: True})()\n"
              + DISHONEST + "return 7.0", REST),
    "always-equal": ("class Yes(float):\n    __eq__ = __ge__ = __le__ = lambda *_: True\n    __hash__ = None\n"
                     + DISHONEST + "return Yes(0)", REST),
    "object-array": ("class Yes:\n    __eq__ = lambda *_: True\n" + DISHONEST + "return np.array([Yes()], object)",
                     REST),
    "forged-early": (FIND_THE_PIPE + "for _ in range(100):\n    forge({'id': '0' * 32, 'value': 1.0})\n"
                     + DISHONEST + "forge({'value': 1.0, 'id': None})\n    return 7.0", REST),
    "forged-frames": (FIND_THE_PIPE + "write(b'x' * 1000)", NOTHING),
    "forged-depth": (FIND_THE_PIPE + "content = b'[' * 10**6\nwrite(len(content).to_bytes(8, 'big') + content)",
                     NOTHING),
    "forged-flood": (FIND_THE_PIPE + "while True:\n    try: forge({'id': '0', 'value': 'x' * 10**6})\n"
                     "    except BaseException: pass", NOTHING),
    "forged-runner": ("import gc\nfor found in gc.get_objects():\n"
                      "    if type(found) is type(lambda: 0) and found.__name__ == 'answer':\n"
                      "        found.__globals__['answer'] = lambda *_: 7.0", NOTHING),
}


def broken_files(folder):
    """Files that are no notebooks, by the name of their owner."""
    whole = nbformat.writes(submission()).encode()
    (folder / "invalid.ipynb").write_bytes(whole[:len(whole) // 2])
    (folder / "text.ipynb").write_text("my answers are in the e-mail")
    (folder / "empty.ipynb").write_bytes(b"")
    (folder / "encoding.ipynb").write_bytes(bytes(range(256)) * 40)
    (folder / "depth.ipynb").write_bytes(b"[" * 10**6)
    (folder / "list.ipynb").write_text(json.dumps({"nbformat": 4, "metadata": {}, "cells": [1, {}]}))
    with (folder / "large.ipynb").open("wb") as stream:
        stream.truncate(100 * 10**6)
    return ["invalid", "text", "empty", "encoding", "depth", "list", "large"]


@pytest.fixture(scope="module")
def outcome(sandbox, tmp_path_factory):
    """All hostile submissions and some good ones, graded together: results by id, rows of the table, what is left."""
    root = tmp_path_factory.mktemp("hostile")
    folders = {name: root / name for name in ("book", "submissions", "report", "temporary")}
    exercise_book(folders["book"])
    for name in ("submissions", "temporary"):
        folders[name].mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDTUTOR_BOOK", str(folders["book"]))
        patch.setenv("TMPDIR", str(folders["temporary"]))
        places = folders | {"port": server.getsockname()[1]}
        for name, (source, _) in CELLS.items():
            for place, what in places.items():
                source = source.replace(f"<{place}>", str(what))
            nbformat.write(submission(c01_1=source), folders["submissions"] / f"{name}.ipynb")
        broken_files(folders["submissions"])
        for number in range(3):
            nbformat.write(submission(), folders["submissions"] / f"good{number}.ipynb")
        nbformat.write(submission(c01_2=OWN.replace("[9:11]", "[:11]")), folders["submissions"] / "wrong.ipynb")
        grade_all(folders["submissions"], folders["report"], "", 2, None, LIMITS, True)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    with sqlite3.connect(folders["report"] / "gradebook.sqlite") as book:
        results = {name: json.loads(result) for name, result in book.execute("SELECT student, result FROM graded")}
    with (folders["report"] / "grades.csv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    return results, rows, folders


def points(row):
    return {name: float(row[name]) for name in ALL}


@pytest.mark.parametrize("name", CELLS)
def test_an_attack_costs_its_owner_the_points_and_no_more_time_than_allowed(outcome, name):
    results, rows, _ = outcome
    left = CELLS[name][1]
    got = points(rows[name])
    assert got == left if left else got["01.1"] == 0
    assert results[name]["seconds"] <= LIMITS["seconds"] + 5


@pytest.mark.parametrize("name", ["solutions", "hidden-tests", "neighbour", "gradebook", "report", "socket"])
def test_nothing_outside_is_to_be_found(outcome, name):
    (note,) = outcome[0][name]["notes"]
    assert any(kind in note for kind in ("FileNotFoundError", "OperationalError", "ConnectionRefusedError")), note


@pytest.mark.parametrize("name", ["invalid", "text", "empty", "encoding", "depth", "list", "large"])
def test_a_file_that_is_no_notebook_gets_no_points_and_a_reason(outcome, name):
    results, rows, folders = outcome
    assert points(rows[name]) == NOTHING
    assert rows[name]["status"] == "unreadable"
    reason = "larger than 20 MB" if name == "large" else "not a notebook"
    assert reason in (folders["report"] / "feedback" / f"{name}.html").read_text()


def test_all_others_get_the_right_marks(outcome):
    _, rows, _ = outcome
    assert [points(rows[f"good{number}"]) for number in range(3)] == [ALL] * 3
    assert points(rows["wrong"]) == ALL | {"01.2": 0}


def test_nothing_is_left_running_or_on_disk(outcome):
    _, _, folders = outcome
    assert not [process for process in psutil.process_iter(["cmdline"])
                if "medtutor.grading.student" in (process.info["cmdline"] or [])]
    assert os.listdir(folders["temporary"]) == []
    assert sorted(path.name for path in folders["report"].iterdir()) == ["feedback", "gradebook.sqlite", "grades.csv"]
