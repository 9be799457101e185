"""The `medtutor` command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from medtutor import notebook

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run, check and read the book.")
Chapters = Annotated[list[str], typer.Argument(help="Chapter numbers such as 01, or 'all'.")]


@app.command()
def start(chapter: Annotated[str, typer.Argument(help="Chapter number or name.")] = "01") -> None:
    """Open a chapter in JupyterLab."""
    raise typer.Exit(subprocess.run([sys.executable, "-m", "jupyterlab", str(notebook.find(chapter))]).returncode)


@app.command()
def run(chapters: Chapters, profile: str = "cpu", seed: int = 0, data: str = "phantom",
        parameter: Annotated[list[str] | None, typer.Option("-p", help="Further parameter as name=value.")] = None,
        to: Annotated[Path, typer.Option(help="Folder of the executed copies.")] = Path("runs"),
        save: Annotated[bool, typer.Option(help="Store the outputs in chapters/ (profile cpu).")] = False,
        timeout: Annotated[int, typer.Option(help="Most seconds for one cell.")] = 900) -> None:
    """Execute chapters with papermill; the executed copy is kept even when a cell fails."""
    paths = notebook.chapters() if chapters == ["all"] else [notebook.find(chapter) for chapter in chapters]
    if not paths:
        raise ValueError("the book has no chapter yet")
    if len(paths) > 1:
        # One process a chapter: each measures its own memory, and one that dies takes no other with it.
        options = ["--profile", profile, "--seed", str(seed), "--data", data, "--to", str(to)]
        options += ["--timeout", str(timeout), *["--save"] * save]
        options += [word for pair in parameter or [] for word in ("-p", pair)]
        command = [sys.executable, "-m", "medtutor", "run"]
        raise typer.Exit(_one_by_one([[*command, path.stem, *options] for path in paths]))
    values = {"profile": profile, "seed": seed, "data": data} | _further(parameter or [])
    _validate(paths[0], values)
    from medtutor import execute

    try:
        executed = execute.run(paths[0], values, to, save=save, timeout=timeout)
    except execute.ChapterFailed as error:
        typer.echo(f"{paths[0].stem} failed: {error}. The executed copy is in {to}/.", err=True)
        raise typer.Exit(error.status) from None
    except KeyboardInterrupt:
        typer.echo(f"{paths[0].stem} interrupted. The executed copy is in {to}/.", err=True)
        raise typer.Exit(130) from None
    facts = notebook.execution(notebook.read(executed))
    typer.echo(f"{paths[0].stem}: {facts['seconds']} s, {facts['peak_memory_mb']} MB, executed copy {executed}")


def _one_by_one(commands: list[list[str]]) -> int:
    """Run the commands in turn and return the worst exit status. Ctrl-C and SIGTERM are handed to the running one,
    which shuts its kernel down, and no other starts."""
    child, stopped, worst = None, 0, 0

    def stop(number, frame):
        nonlocal stopped
        stopped = number
        if child:
            child.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for command in commands:
            if stopped:
                break
            # A session of its own: Ctrl-C in a terminal reaches it once, through us, and not twice.
            child = subprocess.Popen(command, start_new_session=True)
            if stopped:
                child.send_signal(stopped)
            code = child.wait()
            worst = max(worst, code if code >= 0 else 128 - code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + stopped if stopped else worst


def _further(pairs: list[str]) -> dict[str, object]:
    import yaml

    values = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            value = ""
        if not value:
            raise ValueError(f"a parameter is written name=value with a YAML value, but got {pair!r}")
    return values


def _validate(path: Path, values: dict[str, object]) -> None:
    """Raise ValueError with the nearest names for an unknown parameter, profile or dataset."""
    known = notebook.parameters(notebook.read(path))
    for name in values:
        if name not in known:
            raise ValueError(notebook.nearest("parameter", name, known))
    if values["profile"] not in notebook.PROFILES:
        raise ValueError(notebook.nearest("profile", values["profile"], notebook.PROFILES))
    if values["data"] != "phantom":
        # Imported only here: torch comes with it, which this process would carry beside the kernel's.
        from medtutor.data import catalogue

        names = ["phantom", *catalogue()]
        if values["data"] not in names:
            raise ValueError(notebook.nearest("dataset", values["data"], names))


@app.command()
def check() -> None:
    """Check every stored chapter: form, outputs, fingerprint, claims, budget."""
    from medtutor.check import problems

    count = 0
    for path in notebook.chapters():
        found = problems(path)
        count += len(found)
        typer.echo(f"{path.stem}: {'sound' if not found else ''}")
        for problem in found:
            typer.echo(f"  - {problem}")
    raise typer.Exit(1 if count else 0)


@app.command()
def papers(planned: Annotated[bool, typer.Option(help="Only those without a chapter yet.")] = False) -> None:
    """List all papers of the book with their chapter and status."""
    for row in notebook.papers():
        if not planned or row["status"] == "planned":
            typer.echo(f"{row['chapter']}  {row['status']:8}{row['id']:32}{row['title']}")


@app.command()
def claims() -> None:
    """List every claim with its verdict and numbers."""
    from medtutor.claims import Claim

    for path in notebook.chapters():
        for row in notebook.claims(notebook.read(path)):
            typer.echo(f"{path.stem[:2]} {row['paper']}: {Claim(**row).text()}")


@app.command()
def data(words: Annotated[list[str] | None, typer.Argument(
            metavar="[ACTION] [NAME]...", help="list, get NAME, add NAME, verify [NAME], or only NAME.")] = None,
         yes: Annotated[bool, typer.Option("--yes", help="Accept a licence without commercial use.")] = False) -> None:
    """List, get, add (your own copy), verify and describe the public datasets."""
    from medtutor import data

    action, *names = words or ["list"]
    if action == "list":
        for name, sizes in data.families().items():
            entry, state = data.find(name), "here" if data.available(name) else "not here"
            way = "at its source" if entry.access else "download" if entry.download else "by hand"
            typer.echo(f"{name:19} {state:9} {way:14}{entry.size_text():>13}  {entry.licence}  {entry.task}"
                       + (f"; also {', '.join(sizes)}" if sizes else ""))
    elif action in ("add", "get") and not names:
        raise ValueError(f"say which dataset: medtutor data {action} NAME")
    elif action == "add":
        for name in names:
            typer.echo(f"{name}: here, {data.add(name)}")
    elif action == "get":
        for name in names:
            entry = data.find(name)
            ask = entry.non_commercial and entry.download and not yes and sys.stdin.isatty()
            accept = yes or ask and not data.available(name) and typer.confirm(f"{entry.licence_text()}: do you agree?")
            typer.echo(f"{name}: here, {data.get(name, accept=accept, progress=sys.stderr.isatty(), say=typer.echo)}")
    elif action == "verify":
        found = {name: data.verify(name) for name in names or filter(data.available, data.catalogue())}
        for name, faults in found.items():
            typer.echo(f"{name:19} {'damaged' if faults else 'sound'}")
            for fault in faults:
                typer.echo(f"  - {fault}")
        raise typer.Exit(1 if any(found.values()) else 0)
    else:
        for name in words:
            typer.echo(data.describe(name))


@app.command()
def release(chapters: Chapters, to: Annotated[Path, typer.Option(help="Folder that gets student/ and instructor/.")]
            ) -> None:
    """Make the student and the instructor edition of exercise notebooks; refuses where a solution would get out."""
    from medtutor import grading
    from medtutor.grading.release import release

    names = [path.name[:2] for path in notebook.chapters()] if chapters == ["all"] else chapters
    for path in map(grading.exercises, names):
        release(path, to)
        typer.echo(f"{path.stem}: student edition {to / 'student' / path.name}, solutions in {to / 'instructor'}")


@app.command()
def grade(submissions: Annotated[Path, typer.Argument(help="Folder of ID.ipynb, ID_any.ipynb or ID/any.ipynb.")],
          to: Annotated[Path, typer.Option(help="Folder of the gradebook, grades.csv and feedback/.")],
          chapter: Annotated[str, typer.Option(help="Chapter number; by default as the notebooks say.")] = "",
          deadline: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"])] = None,
          jobs: Annotated[int, typer.Option(help="How many at once; by default as many as there are cores.")] = 0,
          seconds: Annotated[int, typer.Option(min=1, help="Most seconds for one submission.")] = 120,
          unsafe: Annotated[bool, typer.Option("--unsafe-without-sandbox", help="Run students' code as you.")] = False
          ) -> None:
    """Run each submission in a sandbox and judge it from outside with the hidden tests."""
    if not unsafe and not shutil.which("bwrap"):
        raise ValueError("students' code runs in bubblewrap, which is not installed: apt install bubblewrap (or dnf). "
                         "On a machine that has nothing to lose, --unsafe-without-sandbox does without")
    from medtutor.grading.report import grade_all
    from medtutor.grading.sandbox import LIMITS

    limits = LIMITS | {"seconds": seconds}
    jobs = jobs or os.cpu_count()
    typer.echo(grade_all(submissions, to, chapter, jobs, deadline and deadline.astimezone(), limits, not unsafe))


@app.command()
def quiz(chapter: Annotated[str, typer.Argument(help="Chapter number or name.")],
         to: Annotated[Path, typer.Option(help="Folder that gets the file.")] = Path("."),
         format: Annotated[str, typer.Option(help="moodle (XML) or qti (1.2, for Canvas).")] = "moodle") -> None:
    """Write the quiz of a chapter as a file that a learning management system imports."""
    from medtutor import quiz

    typer.echo(f"{chapter}: {quiz.export(chapter, to, format)}")


@app.command()
def doctor() -> None:
    """Say what this machine has, and what to do about what it lacks."""
    import platform

    import torch

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    bwrap = shutil.which("bwrap")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    lines = [
        ("Python", platform.python_version(), sys.version_info >= (3, 11), "install Python 3.11 or newer"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads", True, ""),
        ("GPU", torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none: profile gpu will not run",
         True, ""),
        ("disk", f"{free:.0f} GB free", free > 3, "free at least 3 GB"),
        ("book", str(len(notebook.chapters())) + " chapters", True, ""),
        ("Chromium", chromium or "none", bool(chromium), "install it to run the browser tests (optional)"),
        ("bubblewrap", bwrap or "none", bool(bwrap), "install it to grade exercises (optional)"),
        ("MEDTUTOR_DATA", os.environ.get("MEDTUTOR_DATA", "not set: public data is looked for in the cache"), True, ""),
    ]
    for name, found, good, advice in lines:
        typer.echo(f"{'ok ' if good else '-- '} {name:14}{found}{'' if good else f' ({advice})'}")


def main() -> None:
    """Entry point: an error that the user can mend is one sentence on stderr and exit status 2."""
    # Idle threads of GNU OpenMP spin: two torch processes on the same cores become ten times slower. With a short spin
    # they do not, and one process alone is as fast. Read when torch is loaded, here and in kernels started from here.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        typer.echo(f"medtutor: {error}", err=True)
        raise SystemExit(2) from None
