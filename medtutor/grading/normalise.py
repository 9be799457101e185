"""Bring a handed-in notebook back into the form of the instructor's source, whatever happened to its cells."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import nbformat

#: The largest file that is read, in bytes.
LARGEST = 20 * 2**20


class Unreadable(ValueError):
    """What was handed in is no notebook; the message tells its owner."""


def role(cell) -> dict:
    """What nbgrader's metadata say of a cell: grade_id, solution, grade, points ..."""
    return cell.metadata.get("nbgrader", {})


def normalise(source, path: Path, student: str) -> tuple[list[tuple[str, str]], dict[str, str], list[str]]:
    """What to run, as (id, code); the written answers, by id; and notes on what is missing.

    Cells come in the order of the source. Locked cells are the source's, solution cells the student's. Where one was
    copied or split, its parts run in their order, unanswered stubs first. Cells that the source does not have (new
    ones, or those that lost their id) run after the cell that they followed. Raises Unreadable.
    """
    known = {role(cell)["grade_id"]: cell for cell in source.cells if role(cell)}
    place = next(key for key, cell in known.items() if cell.cell_type == "code")
    own, extra = defaultdict(list), defaultdict(list)
    if path.stat().st_size > LARGEST:
        raise Unreadable(f"The file is larger than {LARGEST // 2**20} MB. Clear its outputs and hand it in again.")
    try:
        raw = path.read_bytes()
        # A character of another encoding spoils at most the line in which it stands.
        for cell in nbformat.reads(raw.decode(json.detect_encoding(raw), errors="replace"), as_version=4).cells:
            key = role(cell).get("grade_id")
            place = key if key in known else place
            if key in known or cell.cell_type == "code":
                (own if key in known else extra)[place].append("" + cell.source)
    except Exception as error:  # a damaged file fails in many ways
        raise Unreadable(f"The file is not a notebook ({type(error).__name__}).") from None
    steps, written, notes = [], {}, []
    for key, cell in known.items():
        answers = sorted(own[key], key=lambda text: "NotImplementedError" not in text)
        if key == "student":  # the id decides the data, so it comes from the roster
            answers = [f"STUDENT = {student!r}"]
        elif not role(cell).get("solution"):
            answers = [cell.source] * (not role(cell).get("grade"))  # a self-check decides nothing here
        elif not answers:
            notes.append(f"{key}: this cell is missing.")
        elif role(cell).get("grade"):
            written[key] = "\n\n".join(answers)
        steps += [(key, text) for text in answers if cell.cell_type == "code"]
        steps += [(f"a cell after {key}", text) for text in extra[key]]
    return steps, written, notes
