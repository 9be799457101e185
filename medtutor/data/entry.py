"""The catalogue of public datasets: `catalogue.yml`, parsed and validated."""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath

import yaml


@dataclass(frozen=True)
class Resource:
    """One file to download. `path` is its place in the dataset's folder, or the name of an archive (`unpack` zip or
    tar) whose members below `inside` are laid there. `urls` are mirrors in order, "drive:FILE_ID" for Google Drive.
    `sha256` may be "md5:..." where no other is published, `bytes` 0 where unknown; `content` is a media type or "any".
    """

    path: str
    urls: tuple[str, ...]
    sha256: str
    bytes: int = 0
    unpack: str = "none"
    inside: str = ""
    content: str = "any"


@dataclass(frozen=True)
class Entry:
    """One public dataset. `files` and `sha256` identify the edition that the book's numbers were measured on:
    the number of files without READMEs, and the hash of its sorted `hash  path` lines (`store.edition`); 0 and "" where
    no edition is known. `megabytes` is the size unpacked, 0 where unknown. `download` is what `medtutor data get`
    fetches; `access` says what to do for a set that only its source hands out. One with neither is copied by hand.
    """

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
    download: tuple[Resource, ...] = ()
    access: str = ""

    def size_text(self) -> str:
        return f"{self.megabytes:g} MB" if self.megabytes else "size unknown"

    def cases_text(self) -> str:
        return f"{self.cases:,} cases" if self.cases else "number of cases unknown"

    def licence_text(self) -> str:
        return f"{self.licence} ({self.licence_url})" + (", no commercial use" if self.non_commercial else "")


@cache
def catalogue() -> dict[str, Entry]:
    """Every dataset by name, in the order of the file."""
    return parse((Path(__file__).parent / "catalogue.yml").read_text(encoding="utf-8"))


def families() -> dict[str, list[str]]:
    """The names of the catalogue without those of other sizes, each with these: "pathmnist" has "pathmnist-64", ..."""
    names = list(catalogue())
    other = {name: re.sub(r"-\d+$", "", name) for name in names}
    return {name: [n for n in names if n != name and other[n] == name] for name in names
            if other[name] == name or other[name] not in names}


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


def safe(path: str) -> bool:
    """Whether a path from outside is relative, portable and stays below the folder that it is relative to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not {"..", "/", "//"} & set(parts) and path.isprintable() and not re.match(r"\w:|.*\\", path)


WEB, HEX = r"https?://.+", "64 hexadecimal digits"
KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool}
# What a field must look like; a list as its items, joined by blanks.
FORMS = {
    Entry: {"licence_url": (WEB, "a web address"), "source": (WEB, "a web address"), "original": (WEB, "a web address"),
            "sha256": ("([0-9a-f]{64})?", HEX)},
    Resource: {"urls": (r"(drive:\S+ )*https?://\S+( drive:\S+| https?://\S+)*",
                        "web addresses or drive:FILE_ID, one at least not on Drive"),
               "sha256": ("[0-9a-f]{64}|md5:[0-9a-f]{32}", f"{HEX}, or md5: and 32"),
               "unpack": ("zip|tar|none", "zip, tar or none")},
}


def _entry(name: str, row) -> Entry:
    row = _checked(Entry, row, f"dataset {name!r}")
    parts = [_checked(Resource, part, f"dataset {name!r}, download") for part in row.get("download", ())]
    resources = tuple(Resource(**part | {"urls": tuple(part["urls"])}) for part in parts)
    return Entry(name=name, **row | {"download": resources})


def _checked(kind: type, row, where: str) -> dict:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected fields, but got {row!r}")
    wanted = {field.name: field for field in fields(kind) if field.name != "name"}
    missing = [key for key, field in wanted.items() if key not in row and field.default is MISSING]
    if missing or (unknown := sorted(set(row) - set(wanted))):
        fault = f"lacks {', '.join(missing)}" if missing else f"has the unknown field {unknown[0]!r}"
        raise ValueError(f"{where} {fault}")
    for key, value in row.items():
        name = wanted[key].type if wanted[key].type in KINDS else "list"
        if not isinstance(value, KINDS.get(name, list)) or (name != "bool" and isinstance(value, bool)):
            raise ValueError(f"{where}: {key} must be of type {name}, but got {value!r}")
        form, words = FORMS[kind].get(key, (".*", ""))
        if not re.fullmatch(form, " ".join(map(str, value)) if name == "list" else str(value), re.DOTALL):
            raise ValueError(f"{where}: {key} must be {words}, but got {value!r}")
    return row
