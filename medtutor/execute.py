"""Execute a chapter with papermill, and store what it measured."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medtutor import notebook

#: Packages whose versions decide what a chapter measures.
VERSIONED = ("medtutor", "torch", "monai", "numpy", "scikit-image", "matplotlib")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception that asyncio lets through: another one would end only the task that it meets."""


class ChapterFailed(Exception):
    """A chapter stopped: the message names the cell; `status` is the exit status that says how."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


def run(path: Path, parameters: dict[str, object], folder: Path, *, save: bool = False, timeout: int = 900) -> Path:
    """Execute the chapter at `path` and return the executed copy in `folder`, which is kept whatever happens.

    `parameters` override the cell tagged `parameters`; `timeout` is the most seconds one cell may take. With `save`
    outputs and execution facts go back into `path`, atomically. Raises ChapterFailed with the cell's number when a
    cell fails, takes too long or kills the kernel.
    """
    source = notebook.read(path)
    changed = {name: value for name, value in parameters.items() if notebook.parameters(source).get(name) != value}
    used = notebook.parameters(source) | changed
    stored = {"profile": "cpu", "seed": 0, "data": "phantom"}
    if save and (changed or any(used.get(name) != value for name, value in stored.items())):
        raise ValueError("--save stores the outputs of profile cpu, seed 0, data phantom; run it without other values")
    folder.mkdir(parents=True, exist_ok=True)
    executed, start = folder / f"{path.stem}-{used['profile']}.ipynb", time.perf_counter()
    with _kernel_environment(), _terminated_as_interrupt():
        _papermill(path, executed, changed, timeout)
    book = notebook.read(executed)
    book.metadata["medtutor"] = used | {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "source_sha256": notebook.fingerprint(book), "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_mb": _peak_memory_mb(), "versions": _versions()}
    notebook.write(book, executed)
    if save:
        _store(path, source, book)
    return executed


def _papermill(path: Path, executed: Path, parameters: dict, timeout: int) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.engines import NBClientEngine, papermill_engines

    class Sparing(NBClientEngine):
        """papermill writes the whole notebook before and after each cell: a sixth of a chapter's time in `smoke`."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, *args, **kwargs):
            always, written = nb_man.save, time.monotonic()

            def save(**changed):
                nonlocal written
                if time.monotonic() - written > 5:
                    always(**changed)
                    written = time.monotonic()

            nb_man.save = save
            try:
                return super().execute_managed_notebook(nb_man, *args, **kwargs)
            finally:
                del nb_man.save  # what follows writes the last state, also of a run that failed

    papermill_engines.register("sparing", Sparing)
    try:
        papermill.execute_notebook(str(path), str(executed), parameters=parameters, kernel_name="python3",
                                   engine_name="sparing",
                                   execution_timeout=timeout, progress_bar=True, cwd=str(notebook.book_root()),
                                   # ipykernel's own log: a notice about TCP in every run, tracebacks in a stopped one
                                   extra_arguments=["--log-level=CRITICAL"])
    except papermill.PapermillExecutionError as error:
        raise ChapterFailed(f"{_last_started(executed)} raised {error.ename}: {error.evalue}") from error
    except CellTimeoutError as error:
        raise ChapterFailed(f"{_last_started(executed)} took more than {timeout} s") from error
    except DeadKernelError as error:
        raise ChapterFailed(f"the kernel died in {_last_started(executed)}: out of memory, or the cell ended it",
                            138) from error


def _last_started(executed: Path) -> str:
    """The cell at which the run ended, counted as in the chapter: without the cells that papermill inserts."""
    inserted = {"injected-parameters", "papermill-error-cell-tag"}
    cells = [cell for cell in notebook.read(executed).cells if not inserted & set(notebook.tags(cell))]
    return f"cell {sum(bool(cell.metadata.papermill.start_time) for cell in cells)}"


@contextlib.contextmanager
def _kernel_environment():
    """Kernels see no live front end (figures play precomputed frames), and no profile but that of the parameters."""
    before = {name: os.environ.pop(name, None) for name in ("MEDTUTOR_LIVE", "MEDTUTOR_PROFILE")}
    os.environ["MEDTUTOR_LIVE"] = "0"
    try:
        yield
    finally:
        del os.environ["MEDTUTOR_LIVE"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextlib.contextmanager
def _terminated_as_interrupt():
    """Let SIGTERM unwind like Ctrl-C, so that papermill shuts its kernel down before this process ends."""

    def stop(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break the shutdown off
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Terminated:
        raise ChapterFailed("stopped by SIGTERM", 143) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _peak_memory_mb() -> int:
    """The largest resident size of any ended child of this process: the kernel, as one process runs one chapter."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _store(path: Path, source, executed) -> None:
    """Put outputs and execution facts into the notebook from which they came."""
    if notebook.fingerprint(notebook.read(path)) != notebook.fingerprint(source):
        raise ChapterFailed(f"{path.name} was edited while it ran, so its outputs are only in the executed copy")
    target = notebook.read(path)
    cells, results = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (target, executed))
    for cell, result in zip(cells, results, strict=True):
        cell.outputs, cell.execution_count = result.outputs, result.execution_count
    target.metadata["medtutor"] = executed.metadata["medtutor"]
    notebook.write(target, path)
