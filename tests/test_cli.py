"""The `medtutor` command: what it says, and with which status it ends."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from books import PARAMETERS, TINY, TITLE, make_book
from test_execute import printed, wait_until

from medtutor import cli, notebook

WIDTH = (PARAMETERS[0] + "\nwidth = 1", "parameters")


@pytest.mark.parametrize(("words", "said"), [
    (["run", "tinny"], "there is no chapter 'tinny'; try 01-tiny"),
    (["run", "01", "--profile", "smoky"], "there is no profile 'smoky'; try smoke"),
    (["run", "01", "--data", "hipocampus"], "there is no dataset 'hipocampus'; try hippocampus"),
    (["run", "01", "-p", "sead=3"], "there is no parameter 'sead'; try seed"),
    (["run", "01", "-p", "seed"], "a parameter is written name=value with a YAML value, but got 'seed'"),
    (["run", "01", "-p", "seed=[1"], "a parameter is written name=value with a YAML value, but got 'seed=[1'"),
    (["run", "01", "--profile", "smoke", "--save"], "--save stores the outputs of profile cpu"),
    (["start", "tinny"], "there is no chapter 'tinny'; try 01-tiny"),
    (["data", "hipocampus"], "there is no dataset 'hipocampus'; try hippocampus"),
])
def test_a_wrong_name_is_one_sentence_and_status_2(medtutor, tiny_book, words, said):
    status, out, err = medtutor(*words)
    assert status == 2
    assert err.startswith("medtutor: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert not (tiny_book / "runs").exists()


def test_a_wrong_name_in_a_real_process(tiny_book):
    run = subprocess.run([sys.executable, "-m", "medtutor", "run", "99"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "medtutor: there is no chapter '99'; try 01-tiny\n"


def test_a_folder_that_is_a_file_is_one_sentence(medtutor, tiny_book, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = medtutor("run", "01", "--to", str(tmp_path / "file"))
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "file" in err


def test_a_damaged_chapter_and_an_empty_book_are_one_sentence(medtutor, tiny_book):
    path = tiny_book / "chapters" / "01-tiny.ipynb"
    path.write_text(path.read_text()[:200])
    status, _, err = medtutor("run", "01")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "01-tiny.ipynb is not a readable notebook" in err
    path.unlink()
    status, _, err = medtutor("run", "all")
    assert (status, err) == (2, "medtutor: the book has no chapter yet\n")


def test_outside_of_a_book(medtutor, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDTUTOR_BOOK", str(tmp_path))
    status, _, err = medtutor("papers")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "set MEDTUTOR_BOOK" in err


def test_several_chapters_run_each_in_its_own_process_with_all_options(medtutor, tmp_path, monkeypatch):
    tell = "import os, json\nprint(json.dumps([profile, seed, data, width, os.getppid()]))"
    monkeypatch.setenv("MEDTUTOR_BOOK", str(make_book(tmp_path, c01_a=(TITLE, WIDTH, (tell,)),
                                                      c02_b=(TITLE, WIDTH, (tell,), ("1 / 0",)))))
    status, _, _ = medtutor("run", "01", "02", "--profile", "smoke", "--seed", "3", "-p", "width=7", "--to",
                            str(tmp_path / "out"), "--timeout", "30")
    assert status == 1
    told = [next(json.loads(text) for text in printed(tmp_path / "out" / f"{name}-smoke.ipynb") if text)
            for name in ("01-a", "02-b")]
    assert [row[:4] for row in told] == [["smoke", 3, "phantom", 7]] * 2
    assert len({told[0][4], told[1][4], os.getpid()}) == 3


def test_one_process_killed_takes_no_other_with_it_and_is_not_forgotten(monkeypatch, tmp_path):
    programs = ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
                f"open({str(tmp_path / 'second')!r}, 'w')", "raise SystemExit(1)"]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert cli._one_by_one([[sys.executable, "-c", program] for program in programs]) == 128 + signal.SIGKILL
    assert (tmp_path / "second").exists()
    assert cli._one_by_one([[sys.executable, "-c", "pass"]]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


PATIENT = """
import signal, sys, time

def tidy(number, frame):
    open("tidied", "a").write("x")
    sys.exit(128 + number)

signal.signal(signal.SIGINT, tidy)
signal.signal(signal.SIGTERM, tidy)
open("started", "w").close()
while True:
    signal.pause()
"""
PARENT = """
import sys
from medtutor import cli
sys.exit(cli._one_by_one([[sys.executable, "-c", program] for program in sys.argv[1:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_many_stops_the_running_one_once_and_starts_no_other(tmp_path, number):
    run = subprocess.Popen([sys.executable, "-c", PARENT, PATIENT, "open('second', 'w')"], cwd=tmp_path)
    wait_until(lambda: (tmp_path / "started").exists() or run.poll() is not None)
    run.send_signal(number)
    assert run.wait(60) == 128 + number
    assert (tmp_path / "tidied").read_text() == "x"
    assert not (tmp_path / "second").exists()


def test_run_reports_time_memory_and_place(medtutor, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTUTOR_BOOK", str(make_book(tmp_path, c01_a=(TITLE, PARAMETERS, ("print(1)",)))))
    status, out, _ = medtutor("run", "1", "--to", str(tmp_path / "out"))
    assert status == 0
    assert re.fullmatch(r"01-a: [\d.]+ s, \d+ MB, executed copy .*/out/01-a-cpu.ipynb\n", out)


def test_papers_are_listed_with_their_status(medtutor, tiny_book):
    _, out, _ = medtutor("papers")
    assert [line.split()[:3] for line in out.splitlines()] == [["01", "written", "tiny-paper"],
                                                               ["02", "planned", "later-paper"]]
    _, out, _ = medtutor("papers", "--planned")
    assert [line.split()[2] for line in out.splitlines()] == ["later-paper"]


def test_claims_are_listed_with_verdict_and_numbers(medtutor, executed_book, monkeypatch):
    monkeypatch.setenv("MEDTUTOR_BOOK", str(executed_book))
    status, out, _ = medtutor("claims")
    first, second = out.splitlines()
    assert status == 0
    assert first == "01 tiny-paper: [matches] Doubling doubles Published: 42. Measured (product): 42."
    assert second.startswith("01 tiny-paper: [holds] One more is more")


def test_check_ends_with_1_where_a_chapter_is_not_sound(medtutor, executed_book, tiny_book, monkeypatch):
    status, out, _ = medtutor("check")
    assert status == 1
    assert "  - was never executed with --save\n" in out
    monkeypatch.setenv("MEDTUTOR_BOOK", str(executed_book))
    assert medtutor("check")[:2] == (0, "01-tiny: sound\n")


def test_data_lists_every_dataset_of_the_catalogue(medtutor, tmp_path, monkeypatch):
    from medtutor.data import catalogue, families

    monkeypatch.setenv("MEDTUTOR_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    status, out, _ = medtutor("data")
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()] == [[name, "not", "here"] for name in families()]
    assert all(name in out.replace(",", " ").split() for name in catalogue()), "sizes are named beside their set"
    assert "hippocampus" in medtutor("data", "hippocampus")[1]


def test_doctor_says_what_is_here(medtutor, tiny_book):
    status, out, err = medtutor("doctor")
    assert (status, err) == (0, "")
    lines = {line[3:].split()[0]: line for line in out.splitlines()}
    assert {"Python", "torch", "GPU", "disk", "book", "Chromium"} <= lines.keys()
    assert lines["book"].endswith("1 chapters")
    assert all(line.startswith(("ok ", "-- ")) for line in out.splitlines())


def test_help_without_arguments(medtutor):
    status, out, err = medtutor()
    assert status in (0, 2)
    for command in ("start", "run", "check", "papers", "claims", "data", "doctor"):
        assert command in out + err


def test_importing_the_package_loads_nothing_heavy():
    code = ("import sys, medtutor, medtutor.cli\n"
            "print([name for name in ('torch', 'numpy', 'monai', 'matplotlib', 'IPython', 'papermill') "
            "if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_run_with_the_embedded_data_holds_no_second_torch_beside_its_kernel(tiny_book):
    code = ("import sys\nfrom medtutor import cli, execute, notebook\n"
            "cli._validate(notebook.find('01'), {'profile': 'cpu', 'seed': 0, 'data': 'phantom'})\n"
            "print('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_lab_is_an_attribute_of_the_package():
    import medtutor as package
    from medtutor.lab import Lab

    assert package.Lab is Lab
    with pytest.raises(AttributeError, match="has no attribute 'Labb'"):
        _ = package.Labb


def test_the_written_chapter_of_the_tiny_book_is_the_one_that_runs(tiny_book):
    assert notebook.find("01").read_text() == (tiny_book / "chapters" / "01-tiny.ipynb").read_text()
    assert len(notebook.read(notebook.find("01")).cells) == len(TINY)
