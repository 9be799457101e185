"""What must hold for every stored chapter. `medtutor check` prints it, the tests assert it."""

from __future__ import annotations

import re
from pathlib import Path

from medtutor import notebook

SECONDS, MEMORY_MB, FILE_MB = 360, 4096, 1.0
DEFINE_LINES, OTHER_LINES = 40, 25
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|opt)/[\w.-]+")
GLUE_ROLE = re.compile(r"\{glue(?::\w*)?\}`([^`:]+)[^`]*`")


def problems(path: Path) -> list[str]:
    """Every rule that the chapter at `path` breaks, one sentence each; empty for a sound chapter."""
    book = notebook.read(path)
    return [*_form(path, book), *_cells(book), *_outputs(book), *_execution(book)]


def _form(path: Path, book) -> list[str]:
    found = []
    if (book.nbformat, book.nbformat_minor) != (4, 5):
        found.append(f"is nbformat {book.nbformat}.{book.nbformat_minor}, not 4.5")
    if sum("parameters" in notebook.tags(cell) for cell in book.cells) != 1:
        found.append("needs exactly one cell tagged 'parameters'")
    if path.stat().st_size > FILE_MB * 1e6:
        found.append(f"is {path.stat().st_size / 1e6:.2f} MB, more than {FILE_MB} MB")
    if MACHINE_PATH.search(path.read_text(encoding="utf-8")):
        found.append(f"holds a path of a machine: {MACHINE_PATH.search(path.read_text(encoding='utf-8')).group()}")
    return found


def _cells(book) -> list[str]:
    found = []
    for number, cell in enumerate(book.cells, start=1):
        if cell.cell_type == "code":
            limit = DEFINE_LINES if "define" in notebook.tags(cell) else OTHER_LINES
            lines = len(cell.source.splitlines())
            if lines > limit:
                found.append(f"cell {number} has {lines} lines, more than {limit}")
    named = {name for cell in book.cells if cell.cell_type == "markdown" for name in GLUE_ROLE.findall(cell.source)}
    if missing := sorted(named - notebook.glued(book).keys()):
        found.append(f"names numbers that were not glued: {', '.join(missing)}")
    return found


def _outputs(book) -> list[str]:
    found = []
    for output in notebook.outputs(book):
        if output.output_type == "error":
            found.append(f"holds an error output: {output.ename}")
        if "image/png" in output.get("data", {}) and not output.metadata.get("image/png", {}).get("alt"):
            found.append("has a figure without alt text")
    claims = notebook.claims(book)
    if not claims:
        found.append("records no claim")
    found += [f"claim not evaluated: {claim['statement']}" for claim in claims if claim["verdict"] == "not evaluated"]
    return found


def _execution(book) -> list[str]:
    facts = notebook.execution(book)
    if not {"source_sha256", "profile", "seed", "data", "seconds", "peak_memory_mb"} <= facts.keys():
        return ["was never executed with --save"]
    found = []
    if facts["source_sha256"] != notebook.fingerprint(book):
        found.append("has outputs of an older source; execute it again with --save")
    if (facts["profile"], facts["seed"], facts["data"]) != ("cpu", 0, "phantom"):
        found.append("holds outputs of other parameters than profile cpu, seed 0, data phantom")
    if facts["seconds"] > SECONDS:
        found.append(f"took {facts['seconds']} s, more than {SECONDS} s")
    if facts["peak_memory_mb"] > MEMORY_MB:
        found.append(f"needed {facts['peak_memory_mb']} MB, more than {MEMORY_MB} MB")
    return found
