"""Executing chapters for real: what is kept when a cell fails, dies, hangs or is stopped, and what is saved."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from books import PARAMETERS, TINY, TITLE, make_book, notebook_of

from medtutor import execute, notebook

TOUCH = "import pathlib\npathlib.Path('started').touch()\n"


def chapter(tmp_path, monkeypatch, *cells):
    """A book whose one chapter has a title, parameters, and `cells`."""
    monkeypatch.setenv("MEDTUTOR_BOOK", str(make_book(tmp_path, c01_x=(TITLE, PARAMETERS, *cells))))
    return tmp_path / "chapters" / "01-x.ipynb"


def printed(path):
    """The text that each code cell printed."""
    return ["".join(o.text for o in cell.outputs if o.output_type == "stream")
            for cell in notebook.read(path).cells if cell.cell_type == "code"]


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.05)


def processes_with(mark):
    """Processes, other than this one, whose environment holds `mark`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MEDTUTOR_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_save_stores_outputs_in_the_chapter_and_nothing_else(executed, executed_book):
    stored, source = notebook.read(executed), notebook_of(*TINY)
    assert [(c.id, c.cell_type, c.source, c.metadata) for c in stored.cells] == [
        (c.id, c.cell_type, c.source, c.metadata) for c in source.cells]
    assert stored.metadata.keys() == source.metadata.keys() | {"medtutor"}
    assert [c.execution_count for c in stored.cells if c.cell_type == "code"] == [1, 2, 3, 4, 5, 6, 7]
    copy = notebook.read(executed_book / "runs" / "01-tiny-cpu.ipynb")
    assert notebook.execution(copy) == notebook.execution(stored)
    assert notebook.claims(copy) == notebook.claims(stored) != []


def test_a_run_leaves_the_chapter_alone_and_its_kernel_sees_the_parameters(tmp_path, monkeypatch):
    path = chapter(tmp_path / "book", monkeypatch, (
        "import os\nprint(profile, seed, data, os.environ['MEDTUTOR_LIVE'], os.environ.get('MEDTUTOR_PROFILE'))\n"
        "print(os.getcwd())",))
    before = path.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MEDTUTOR_PROFILE", "gpu")
    monkeypatch.delenv("MEDTUTOR_LIVE", raising=False)
    executed = execute.run(path, {"profile": "smoke", "seed": 5}, Path("out", "deep"))
    assert executed.resolve() == tmp_path / "elsewhere" / "out" / "deep" / "01-x-smoke.ipynb"
    assert printed(executed)[-1].splitlines() == ["smoke 5 phantom 0 None", str(tmp_path / "book")]
    facts = notebook.execution(notebook.read(executed))
    assert (facts["profile"], facts["seed"], facts["data"]) == ("smoke", 5, "phantom")
    assert facts["source_sha256"] == notebook.fingerprint(notebook.read(path))
    assert path.read_bytes() == before
    assert (os.environ["MEDTUTOR_PROFILE"], "MEDTUTOR_LIVE" in os.environ) == ("gpu", False)


def test_a_failing_cell_is_named_as_in_the_chapter_and_the_copy_is_kept(tmp_path, monkeypatch):
    path = chapter(tmp_path, monkeypatch, ("print('early')",), ("Text.", "markdown"), ("print('half')\n1 / 0",),
                   ("print('never')",))
    with pytest.raises(execute.ChapterFailed, match="^cell 5 raised ZeroDivisionError: division by zero$") as error:
        # Another profile makes papermill insert a cell, which must not shift the number.
        execute.run(path, {"profile": "smoke"}, tmp_path / "runs")
    assert error.value.status == 1
    assert printed(tmp_path / "runs" / "01-x-smoke.ipynb") == ["", "", "early\n", "half\n", ""]


def test_a_killed_kernel_is_told_from_an_error(tmp_path, monkeypatch):
    path = chapter(tmp_path, monkeypatch, ("print('early')",),
                   ("import os\nprint('last words', flush=True)\nos._exit(1)",), ("print('never')",))
    with pytest.raises(execute.ChapterFailed, match="^the kernel died in cell 4: out of memory") as error:
        execute.run(path, {"profile": "cpu"}, tmp_path / "runs")
    assert error.value.status == 138
    assert printed(tmp_path / "runs" / "01-x-cpu.ipynb")[1] == "early\n"
    assert notebook.execution(notebook.read(path)) == {}


def test_a_cell_that_takes_too_long_is_ended_and_named(tmp_path, monkeypatch):
    path = chapter(tmp_path, monkeypatch, ("print('early')",), ("while True:\n    pass",), ("print('never')",))
    with pytest.raises(execute.ChapterFailed, match="^cell 4 took more than 1 s$") as error:
        execute.run(path, {"profile": "cpu"}, tmp_path / "runs", timeout=1)
    assert error.value.status == 1
    assert printed(tmp_path / "runs" / "01-x-cpu.ipynb")[1] == "early\n"


@pytest.mark.parametrize(("number", "status", "said"), [
    (signal.SIGINT, 130, "01-x interrupted. The executed copy is in runs/."),
    (signal.SIGTERM, 143, "01-x failed: stopped by SIGTERM. The executed copy is in runs/."),
])
def test_a_stopped_run_leaves_no_kernel_behind(tmp_path, monkeypatch, number, status, said):
    chapter(tmp_path, monkeypatch, ("print('early')",), (TOUCH + "while True:\n    pass",))
    mark = uuid.uuid4().hex
    run = subprocess.Popen([sys.executable, "-m", "medtutor", "run", "01"], cwd=tmp_path, stderr=subprocess.PIPE,
                           text=True, env=os.environ | {"MEDTUTOR_TEST": mark})
    wait_until(lambda: (tmp_path / "started").exists() or run.poll() is not None)
    try:
        assert {process.pid for process in processes_with(mark)} > {run.pid}  # the run and its kernel
        run.send_signal(number)
        errors = run.communicate(timeout=60)[1]
        assert run.returncode == status, errors
        assert said in errors
        assert "Traceback" not in errors
        assert "IPKernelApp" not in errors
        wait_until(lambda: not processes_with(mark), seconds=10)
    finally:
        for process in processes_with(mark):
            process.kill()
    assert printed(tmp_path / "runs" / "01-x-cpu.ipynb")[1] == "early\n"


def test_sigterm_gets_through_a_busy_event_loop():
    async def message_handler():
        os.kill(os.getpid(), signal.SIGTERM)

    async def run():
        task = asyncio.ensure_future(message_handler())
        await asyncio.wait_for(asyncio.Event().wait(), 5)
        return task

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(execute.ChapterFailed, match="stopped by SIGTERM") as error, execute._terminated_as_interrupt():
        asyncio.run(run())
    assert error.value.status == 143
    assert signal.getsignal(signal.SIGTERM) == before


EDIT = "import pathlib\np = pathlib.Path('chapters/01-x.ipynb')\np.write_text(p.read_text().replace({!r}, {!r}))"


def test_code_edited_during_the_run_keeps_its_old_outputs(tmp_path, monkeypatch):
    path = chapter(tmp_path, monkeypatch, (EDIT.format("width = 1", "width = 2"),), ("width = 1\nprint(width)",))
    with pytest.raises(execute.ChapterFailed, match="01-x.ipynb was edited while it ran"):
        execute.run(path, {"profile": "cpu"}, tmp_path / "runs", save=True)
    assert "width = 2" in notebook.read(path).cells[-1].source
    assert printed(path) == ["", "", ""]
    assert printed(tmp_path / "runs" / "01-x-cpu.ipynb")[-1] == "1\n"


def test_prose_edited_during_the_run_is_kept_beside_the_new_outputs(tmp_path, monkeypatch):
    edit = EDIT.format("# A tiny chapter", "# A better title").replace("# A tiny", "# A ' 'tiny")
    path = chapter(tmp_path, monkeypatch, (edit,), ("print(3)",))
    execute.run(path, {"profile": "cpu"}, tmp_path / "runs", save=True)
    assert notebook.read(path).cells[0].source == "# A better title"
    assert printed(path)[-1] == "3\n"
    assert sorted(p.name for p in path.parent.iterdir()) == ["01-x.ipynb"]


@pytest.mark.parametrize("values", [{"profile": "smoke"}, {"profile": "cpu", "seed": 1}, {"data": "spleen"}])
def test_only_the_stored_parameters_can_be_saved(tmp_path, monkeypatch, values):
    path = chapter(tmp_path, monkeypatch, ("print(1)",))
    with pytest.raises(ValueError, match="--save stores the outputs of profile cpu, seed 0, data phantom"):
        execute.run(path, values, tmp_path / "runs", save=True)
    assert not (tmp_path / "runs").exists()


def test_a_further_parameter_cannot_be_saved_either(tmp_path, monkeypatch):
    root = make_book(tmp_path, c01_x=(TITLE, (PARAMETERS[0] + "\nwidth = 1", "parameters")))
    monkeypatch.setenv("MEDTUTOR_BOOK", str(root))
    with pytest.raises(ValueError, match="run it without other values"):
        execute.run(root / "chapters" / "01-x.ipynb", {"width": 2}, tmp_path / "runs", save=True)
