"""The student's side: `python -m medtutor.grading.student LIMITS`, which sandbox.py starts.

It runs the cells that the judge sends and answers the judge's calls. The student's code shares this process, so the
judge trusts nothing that comes out of it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

from IPython.core.interactiveshell import InteractiveShell

import medtutor.exercise  # noqa: F401  torch comes with it: loaded here, it is not on the notebook's time
from medtutor.grading.channel import decode, encode, receive, send


class Timeout(BaseException):
    """A cell or a call took too long. No `except Exception` of a student catches it."""


def stop(number, frame):
    raise Timeout("this took too long")


def answer(shell: InteractiveShell, request: dict):
    """Run a cell, read a variable, or call a function."""
    if "cell" in request:
        return shell.run_cell(request["cell"]).raise_error()
    if request["name"] not in shell.user_ns:
        raise NameError(f"the notebook defines no {request['name']}")
    value = shell.user_ns[request["name"]]
    return encode(value(*decode(request["args"]), **decode(request["kwargs"])) if "args" in request else value)


def main() -> None:
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    for name, most in json.loads(sys.argv[1]).items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    send(replies, "ready")
    for number in range(3):  # what a notebook prints is not wanted, and may be a gigabyte
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    signal.signal(signal.SIGALRM, stop)
    shell = InteractiveShell.instance()
    shell.history_manager.enabled, shell.showtraceback = False, lambda *_, **__: None
    while True:
        request = receive(requests)
        try:
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
            value = answer(shell, request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(replies, {"id": request["id"], "value": value})
        except BaseException as error:  # whatever a student's code raises, SystemExit too, is an answer
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(replies, {"id": request["id"], "error": f"{type(error).__name__}: {error}"[:300]})


if __name__ == "__main__":
    main()
