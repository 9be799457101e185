"""Where datasets lie on this machine, and whether their files are what their list says.

A store is a folder with one folder a dataset and a `MANIFEST.json`: a list of objects with at least `name` and
`sha256`, which maps each file's path inside the dataset's folder to its hash. $MEDTUTOR_DATA names the store; the
user's cache folder holds another, for downloads where the first cannot be written. Only files in the list are read.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath

from medtutor.data.entry import Entry, safe


def root() -> Path:
    """The store on this machine; it need not exist."""
    named = os.environ.get("MEDTUTOR_DATA")
    return Path(named).expanduser() if named else _cache() / "data"


def places() -> list[Path]:
    """The stores in which datasets are looked for, in order."""
    return list(dict.fromkeys([root(), _cache() / "data"]))


def writable() -> Path:
    """The first store that this user may write, made where it is absent. Raises PermissionError without any."""
    for place in places():
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            if os.access(place, os.W_OK | os.X_OK):
                return place
    raise PermissionError(f"{' and '.join(map(str, places()))} cannot be written: set MEDTUTOR_DATA to another folder")


def how_to_get(entry: Entry) -> str:
    """One sentence on a dataset that is not on this machine."""
    ways = [entry.access.rstrip(".") or f"run `medtutor data get {entry.name}`" * bool(entry.download),
            f"put its folder {entry.name}/ there and run `medtutor data add {entry.name}`",
            "set MEDTUTOR_DATA to a folder that holds it"]
    return (f"the dataset {entry.name!r} ({entry.size_text()}, {entry.licence_text()}) is not in {root()}: "
            f"{', or '.join(filter(None, ways))}; its source is {entry.source}")


def listed(name: str, absent: str) -> tuple[Path, dict[str, str]]:
    """The folder of a dataset and the hashes of its files by path.

    Raises FileNotFoundError (with the text `absent`) where no store has it, ValueError for a bad manifest.
    """
    for place in places():
        hashes = next((row["sha256"] for row in rows(place) if row["name"] == name), {})
        if hostile := [path for path in hashes if not safe(path)]:
            raise ValueError(f"{place / 'MANIFEST.json'} lists {hostile[0]!r}, which leaves the folder of {name!r}; "
                             "do not use this store")
        if hashes and (place / name).is_dir():
            return place / name, hashes
    raise FileNotFoundError(absent)


def rows(place: Path) -> list[dict]:
    """The manifest of a store, empty where there is none. Raises ValueError for a bad one."""
    manifest = place / "MANIFEST.json"
    try:
        found = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else []
        return [row | {"name": str(row["name"]), "sha256": {str(a): str(b) for a, b in row["sha256"].items()}}
                for row in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{manifest} is not a list of datasets with `name` and `sha256` ({error}); "
                         "copy the dataset store again") from error


def add(place: Path, entry: Entry, tree: Path) -> Path:
    """Move a finished folder into a store, unless it is there, with its entry of the manifest; return where it is.

    In this order a run that is killed anywhere leaves a dataset that is whole or absent.
    """
    from filelock import FileLock

    target, work, hashes = place / entry.name, place / ".partial", {}
    work.mkdir(exist_ok=True)
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            hashes[path.relative_to(tree).as_posix()] = file_digest(file, "sha256").hexdigest()
    row = {"name": entry.name, "title": entry.title, "licence": entry.licence, "source": entry.source,
           "citation": entry.citation, "files": len(hashes), "sha256": hashes}
    with FileLock(work / "MANIFEST.lock"):
        kept = [known for known in rows(place) if known["name"] != entry.name]
        (work / "MANIFEST.json").write_text(json.dumps([*kept, row], indent=1), encoding="utf-8")
        if target.exists() and target != tree:
            os.replace(target, tree.with_name("replaced"))
        os.replace(work / "MANIFEST.json", place / "MANIFEST.json")
        if target != tree:
            os.replace(tree, target)
    return target


def verified(name: str, absent: str) -> tuple[dict[str, Path], str]:
    """The files of a dataset by path, and its `edition`, after checking every file against the manifest.

    READMEs are left out. What was checked is remembered by size and modification time, so that it costs nothing the
    second time. Raises FileNotFoundError (with the text `absent`) where the dataset is not on this machine, ValueError
    that names the first file that is missing or damaged.
    """
    folder, hashes = listed(name, absent)
    stamps, before = {}, _remembered(folder)
    for fault in _faults(folder, hashes, before, stamps):
        raise ValueError(f"{fault}; copy the dataset {name!r} again")
    if stamps != before:
        _remember(folder, stamps)
    return {path: folder / path for path in stamps}, edition({path: hashes[path] for path in stamps})


def faults(name: str, absent: str) -> list[str]:
    """A sentence on every file of a dataset that is missing or damaged; every file is read. Raises as `listed`."""
    return list(_faults(*listed(name, absent), {}, {}))


def _faults(folder: Path, hashes: dict[str, str], before: dict, stamps: dict) -> Iterator[str]:
    for path, expected in sorted(hashes.items()):
        if PurePosixPath(path).name == "README.md":
            continue
        try:
            status = (folder / path).stat()
            stamps[path] = [status.st_size, status.st_mtime_ns, expected]
            if before.get(path) != stamps[path]:
                with open(folder / path, "rb") as file:
                    found = file_digest(file, "sha256").hexdigest()
                if found != expected:
                    yield (f"{folder / path} is damaged: its sha256 is {found[:12]}..., the manifest says "
                           f"{expected[:12]}...")
        except OSError as error:
            yield f"{folder / path} is missing or cannot be read ({error.strerror})"


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
