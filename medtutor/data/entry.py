"""The catalogue of public datasets: `catalogue.yml`, parsed and validated."""

from __future__ import annotations

import difflib
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Entry:
    """One public dataset. `files` and `sha256` identify the edition that the book's numbers were measured on:
    the number of files without READMEs, and the hash of its sorted `hash  path` lines (`store.edition`)."""

    name: str
    title: str
    task: str
    modality: str
    cases: int
    shapes: str
    licence: str
    licence_url: str
    non_commercial: bool
    citation: str
    source: str
    original: str
    megabytes: float
    files: int
    sha256: str
    loader: str
    note: str = ""

    def licence_text(self) -> str:
        return f"{self.licence} ({self.licence_url})" + (", no commercial use" if self.non_commercial else "")


@cache
def catalogue() -> dict[str, Entry]:
    """Every dataset by name, in the order of the file."""
    return parse((Path(__file__).parent / "catalogue.yml").read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, Entry]:
    """The entries in the text of a catalogue. Raises ValueError that names the entry and the field at fault."""
    rows = yaml.safe_load(text)
    if not isinstance(rows, dict):
        raise ValueError("a catalogue maps the name of each dataset to its fields")
    return {name: _entry(name, row) for name, row in rows.items()}


def find(name: str) -> Entry:
    """The entry of a dataset. Raises ValueError with the nearest names for an unknown one."""
    known = catalogue()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4) or list(known)
        raise ValueError(f"there is no dataset {name!r}; try {', '.join(near)}")
    return known[name]


def _entry(name: str, row) -> Entry:
    if not isinstance(row, dict):
        raise ValueError(f"dataset {name!r}: expected fields, but got {row!r}")
    kinds = {"str": str, "int": int, "float": (int, float), "bool": bool}
    wanted = {field.name: field for field in fields(Entry) if field.name != "name"}
    missing = [key for key, field in wanted.items() if key not in row and field.default is MISSING]
    if missing or (unknown := sorted(set(row) - set(wanted))):
        fault = f"lacks {', '.join(missing)}" if missing else f"has the unknown field {unknown[0]!r}"
        raise ValueError(f"dataset {name!r} {fault}")
    for key, value in row.items():
        kind = wanted[key].type
        if not isinstance(value, kinds[kind]) or (kind != "bool" and isinstance(value, bool)):
            raise ValueError(f"dataset {name!r}: {key} must be of type {kind}, but got {value!r}")
    for key in ("licence_url", "source", "original"):
        if not row[key].startswith(("https://", "http://")):
            raise ValueError(f"dataset {name!r}: {key} must be a web address, but got {row[key]!r}")
    if len(row["sha256"]) != 64 or set(row["sha256"]) - set("0123456789abcdef"):
        raise ValueError(f"dataset {name!r}: sha256 must be 64 hexadecimal digits, but got {row['sha256']!r}")
    return Entry(name=name, **row)
