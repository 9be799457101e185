"""The week that book/instructors.md describes, command for command."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"```bash\n(.*?)```", (ROOT / "book" / "instructors.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def week(sandbox, tmp_path_factory):
    """A checkout in which all commands of the page were executed, with three submissions from Friday on."""
    checkout = tmp_path_factory.mktemp("week")
    for name in ("book", "chapters"):
        (checkout / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    known = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for number, block in enumerate(COMMANDS):
        if number == 1:
            hand_in(checkout)
        run = subprocess.run(["bash", "-euc", block], cwd=checkout, env=known, capture_output=True, text=True)
        assert run.returncode == 0, f"{block}\n{run.stderr}"
    return checkout


def hand_in(checkout):
    """The solution, what was handed out and nothing done, and the solution in nbgrader's folders."""
    name = "01-unet-and-attention.ipynb"
    (checkout / "submitted" / "cem" / "01").mkdir(parents=True)
    solved = (checkout / "course" / "instructor" / name).read_bytes()
    (checkout / "submitted" / "ada.ipynb").write_bytes(solved)
    (checkout / "submitted" / "bob_second-try.ipynb").write_bytes((checkout / "course" / "student" / name).read_bytes())
    (checkout / "submitted" / "cem" / "01" / name).write_bytes(solved)


def test_the_page_has_the_commands_of_a_week():
    assert [block.split()[:2] for block in COMMANDS] == [
        ["medtutor", "release"], ["medtutor", "grade"], ["mkdir", "-p"], ["medtutor", "grade"],
        ["medtutor", "quiz"]]


def test_solutions_get_all_points_and_stubs_none(week):
    with (week / "report" / "grades.csv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert {name: row["total"] == row["of"] for name, row in rows.items()} == {"ada": True, "bob": False, "cem": True}
    assert rows["bob"]["total"] == "0"
    assert {path.stem for path in (week / "report" / "feedback").iterdir()} == set(rows)


def test_nbgrader_takes_the_notebook_as_it_is(week):
    released = (week / "release" / "01" / "01-unet-and-attention.ipynb").read_text(encoding="utf-8")
    assert "YOUR CODE HERE" in released
    assert "BEGIN SOLUTION" not in released
    assert (week / "release" / "01" / "01-checks.py").exists()
