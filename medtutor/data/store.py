"""Where datasets lie on this machine, and whether their files are what their list says.

A store is a folder with one folder a dataset and a `MANIFEST.json`: a list of objects with at least `name` and
`sha256`, which maps each file's path inside the dataset's folder to its hash. $MEDTUTOR_DATA names the store; without
it, it is the user's cache folder. Only files in the list are ever read.
"""

from __future__ import annotations

import contextlib
import json
import os
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath

from medtutor.data.entry import Entry


def root() -> Path:
    """The store on this machine; it need not exist."""
    named = os.environ.get("MEDTUTOR_DATA")
    return Path(named).expanduser() if named else _cache() / "data"


def how_to_get(entry: Entry) -> str:
    """One sentence on a dataset that is not on this machine."""
    named = "MEDTUTOR_DATA" in os.environ
    return (f"the dataset {entry.name!r} ({entry.megabytes:g} MB, {entry.licence_text()}) is not in {root()}: either "
            f"put its folder {entry.name}/ and its entry of MANIFEST.json there, or set MEDTUTOR_DATA to "
            f"{'another' if named else 'a'} folder that holds both; its source is {entry.source}")


def listed(name: str, absent: str) -> tuple[Path, dict[str, str]]:
    """The folder of a dataset and the hashes of its files by path.

    Raises FileNotFoundError (with the text `absent`) where the store does not have it, ValueError for a bad manifest.
    """
    folder, manifest = root() / name, root() / "MANIFEST.json"
    if not folder.is_dir() or not manifest.is_file():
        raise FileNotFoundError(absent)
    try:
        rows = {row["name"]: row["sha256"] for row in json.loads(manifest.read_text(encoding="utf-8"))}
        hashes = {str(path): str(value) for path, value in rows.get(name, {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{manifest} is not a list of datasets with `name` and `sha256` ({error}); "
                         "copy the dataset store again") from error
    if not hashes:
        raise FileNotFoundError(absent)
    for path in hashes:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\\" in path:
            raise ValueError(f"{manifest} lists {path!r}, which leaves the folder of {name!r}; do not use this store")
    return folder, hashes


def verified(name: str, absent: str) -> tuple[dict[str, Path], str]:
    """The files of a dataset by path, and its `edition`, after checking every file against the manifest.

    READMEs are left out. What was checked is remembered by size and modification time, so that it costs nothing the
    second time. Raises FileNotFoundError (with the text `absent`) where the dataset is not on this machine, ValueError
    that names the first file that is missing or damaged.
    """
    folder, hashes = listed(name, absent)
    hashes = {path: value for path, value in sorted(hashes.items()) if PurePosixPath(path).name != "README.md"}
    stamps, before = {}, _remembered(folder)
    for path, expected in hashes.items():
        try:
            status = (folder / path).stat()
            stamps[path] = [status.st_size, status.st_mtime_ns, expected]
            if before.get(path) != stamps[path]:
                with open(folder / path, "rb") as file:
                    found = file_digest(file, "sha256").hexdigest()
                if found != expected:
                    raise ValueError(f"{folder / path} is damaged: its sha256 is {found[:12]}..., the manifest says "
                                     f"{expected[:12]}...; copy the dataset {name!r} again")
        except OSError as error:
            raise ValueError(f"{folder / path} is missing or cannot be read ({error.strerror}); "
                             f"copy the dataset {name!r} again") from error
    if stamps != before:
        _remember(folder, stamps)
    return {path: folder / path for path in hashes}, edition(hashes)


def edition(hashes: dict[str, str]) -> str:
    """One hash over the sorted lines `hash  path` of a dataset, as `sha256sum` prints them."""
    return sha256("\n".join(f"{value}  {path}" for path, value in sorted(hashes.items())).encode()).hexdigest()


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("medtutor"))


def _stamp(folder: Path) -> Path:
    return _cache() / "verified" / (sha256(str(folder.resolve()).encode()).hexdigest()[:24] + ".json")


def _remembered(folder: Path) -> dict[str, list]:
    try:
        stamps = json.loads(_stamp(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _remember(folder: Path, stamps: dict[str, list]) -> None:
    # A cache folder that cannot be written costs a second check next time, nothing else.
    with contextlib.suppress(OSError):
        path = _stamp(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps(stamps), encoding="utf-8")
        os.replace(temporary, path)
