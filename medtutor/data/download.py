"""Datasets from the web into the store: pooch and gdown fetch, this adds what they lack.

Everything unfinished lies in the hidden folder `.partial/NAME` of the store: parts of files that a later call resumes,
and the unpacked tree until it is whole. A dataset is moved into the store only after every hash was right.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

from medtutor.data import archive, store
from medtutor.data.entry import Entry, Resource, find

ROOM = "free some space, or set MEDTUTOR_DATA to a folder on another disk"
OFFLINE = "no connection"
WEB_PAGE = "it sent a web page instead of data (a login, a quota or an error)"
# What servers give to their error pages. Names for binary files differ too much between servers to be compared.
PAGES = ("text/html", "application/xhtml+xml", "application/json", "application/xml", "text/xml")


def get(name: str, *, accept: bool = False, progress: bool = True, say: Callable[[str], object] = print,
        tries: int = 5, backoff: float = 1.0, timeout: float = 30.0) -> Path:
    """Download a dataset of the catalogue unless it is here, and return its folder in the store.

    `accept=True` says that you agree to a licence that forbids commercial use. A mirror that answers 5xx, breaks off
    or is silent for `timeout` seconds is tried `tries` times without progress, after pauses of `backoff` seconds that
    double. Of two processes that call this at once the second waits. Raises PermissionError where the data needs
    registration or your consent, FileNotFoundError where it has no address, ConnectionError with each mirror's reason,
    OSError for a full disk, ValueError for an archive that is damaged or hostile. The store then is as it was.
    """
    from filelock import FileLock, Timeout

    entry = find(name)
    if folder := _here(entry):
        return folder
    if not entry.download:
        raise (PermissionError if entry.access else FileNotFoundError)(store.how_to_get(entry))
    size = sum(resource.bytes for resource in entry.download) / 1e6
    size = f"{size:.1f} MB" if size else entry.size_text()
    say(f"{entry.title}: {size}; licence {entry.licence_text()}; please cite {entry.citation}")
    if entry.non_commercial and not accept:
        raise PermissionError(f"the licence of {name!r} forbids commercial use: read {entry.licence_url}, and if you "
                              "agree, say so with accept=True, or --yes on the command line")
    place = store.writable()
    work = place / ".partial" / name
    work.parent.mkdir(exist_ok=True)
    lock = FileLock(f"{work}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is getting {name!r}: waiting for it")
        held = lock.acquire()
    with held:
        if folder := _here(entry):
            return folder
        if (place / name).exists() and all(row["name"] != name for row in store.rows(place)):
            raise FileExistsError(f"{place / name} exists, but the manifest does not list it: run `medtutor data add "
                                  f"{name}` if it is the dataset, or move it away")
        try:
            return _bring(entry, place, work, say, tries=tries, backoff=backoff, timeout=timeout, progress=progress)
        except (OSError, ValueError) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            if full or isinstance(error, ValueError):
                shutil.rmtree(work)
            if full:
                raise OSError(f"the disk of {place} became full while {name!r} was written, nothing of it was kept: "
                              f"{ROOM}") from error
            raise
        finally:
            _clear(work / "tree", work / "replaced")
            with contextlib.suppress(OSError):
                work.rmdir()


def _here(entry: Entry) -> Path | None:
    """The folder of a dataset that is whole. A damaged one counts as absent where a new copy can replace it."""
    try:
        return store.verified(entry.name, "") and store.listed(entry.name, "")[0]
    except FileNotFoundError:
        return None
    except ValueError:
        if entry.download and (store.writable() / entry.name).is_dir():
            return None
        raise


def _bring(entry: Entry, place: Path, work: Path, say, **options) -> Path:
    tree = work / "tree"
    _clear(tree, work / "replaced")
    tree.mkdir(parents=True)
    files = {work / resource.path.replace("/", "-"): resource for resource in entry.download}
    need = sum(resource.bytes for resource in entry.download) - sum(path.stat().st_size for path in work.iterdir())
    need = max(need, 0) + entry.megabytes * 1e6 * any(resource.unpack != "none" for resource in entry.download)
    if need > (free := shutil.disk_usage(place).free):
        raise OSError(f"{entry.name!r} needs {need / 1e6:.0f} MB in {place}, but {free / 1e6:.0f} MB are free: {ROOM}")
    for file, resource in files.items():
        if not file.exists() or _fault(resource, file):
            _fetch(entry, resource, file, say, **options)
    for file, resource in files.items():
        if resource.unpack == "none":
            (tree / resource.path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, tree / resource.path)
        else:
            most = 4 * max(archive.SMALL, file.stat().st_size, int(entry.megabytes * 1e6)) if entry.megabytes else 2**40
            archive.unpack(file, resource.unpack, tree, resource.inside, most_bytes=most)
            file.unlink()
    return store.add(place, entry, tree)


def _fetch(entry: Entry, resource: Resource, file: Path, say, **options) -> None:
    """Bring one file from the first mirror that has it. Raises ConnectionError with every mirror's reason."""
    part, note, reasons = Path(f"{file}.part"), Path(f"{file}.note"), []
    for url in resource.urls:
        host = "Google Drive" if url.startswith("drive:") else urlsplit(url).netloc
        try:
            _mirror(url, resource, part, note, **options)
            _clear(note)
            return os.replace(part, file)
        except ValueError as error:
            reasons.append((host, str(error)))
            if url != resource.urls[-1]:
                say(f"{host}: {error}; trying the next mirror")
        finally:
            if part.exists() and not part.stat().st_size:
                _clear(part, note)
    if {reason for _, reason in reasons} == {OFFLINE}:
        hosts = " or ".join(host for host, _ in reasons)
        raise ConnectionError(f"no connection to {hosts}: this machine seems to be offline; connect it, "
                              f"or copy {entry.name!r} from a machine that has it into {store.root()}")
    told = "; ".join(f"{host}: {reason}" for host, reason in reasons)
    raise ConnectionError(f"{resource.path!r} of the dataset {entry.name!r} could not be downloaded ({told}); try "
                          f"again later, or get it by hand from {entry.source}")


def _mirror(url: str, resource: Resource, part: Path, note: Path, *, tries, backoff, **options) -> None:
    """Bring one file from one mirror into `part`, resuming what lies there. Raises ValueError with the reason."""
    import requests
    from urllib3.exceptions import NewConnectionError, ProxyError

    failures, furthest, transfer = 0, 0, _drive if url.startswith("drive:") else _http
    while True:
        have = part.stat().st_size if part.exists() else 0
        try:
            resumed = have == resource.bytes > 0 or transfer(url, resource, part, note, have, **options)
            if not (fault := _fault(resource, part)):
                return
            _clear(part, note)
            if not resumed:
                raise ValueError(fault)
            # The beginning may be of another file than the rest: once more from the start.
            continue
        except requests.HTTPError as error:
            status = error.response.status_code
            reason = f"HTTP {status}"
            if status == 416:
                _clear(part, note)
            elif status < 500 and status not in (408, 425, 429):
                raise ValueError(reason) from error
        except requests.exceptions.SSLError as error:
            raise ValueError("its certificate is not trusted (a proxy may stand between)") from error
        except requests.RequestException as error:
            cause, reason = getattr(error.args and error.args[0], "reason", None), "the connection broke or stalled"
            if isinstance(error, requests.ConnectTimeout) or isinstance(cause, (NewConnectionError, ProxyError)):
                raise ValueError(OFFLINE) from error
        size = part.stat().st_size if part.exists() else 0
        failures, furthest = (0, size) if size > furthest else (failures + 1, furthest)
        if failures >= tries:
            raise ValueError(f"{reason} after {size / 1e6:.1f} MB, {tries} times")
        time.sleep(backoff * 2**failures)


def _http(url: str, resource: Resource, part: Path, note: Path, have: int, *, progress: bool, timeout: float) -> bool:
    """Append what is missing to `part`, or write it anew where the server has another file or knows no ranges.

    Returns whether it was appended. pooch asks and writes; the answer is judged before the first byte is written.
    """
    import pooch
    import requests
    from tqdm.auto import tqdm

    start, size, headers = 0, 0, {"Accept-Encoding": "identity", "User-Agent": "medtutor"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if note.exists() and (said := note.read_text(encoding="utf-8")).startswith(f"{url} "):
            headers["If-Range"] = said.removeprefix(f"{url} ")

    def judge(response, **_):
        nonlocal start, size
        status, kind = response.status_code, response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if status in (200, 206) and kind != resource.content and kind in PAGES[:2 if resource.content == "any" else 5]:
            raise ValueError(WEB_PAGE)
        if status == 200:
            length = int(response.headers.get("Content-Length", resource.bytes))
            if resource.bytes and length != resource.bytes:
                raise ValueError(f"its file has {length} bytes, not the {resource.bytes} of the catalogue")
            if length > shutil.disk_usage(part.parent).free:
                raise OSError(errno.ENOSPC, "no room for the file")
            tags = [response.headers.get(key, "W/") for key in ("ETag", "Last-Modified")]
            note.write_text(next((f"{url} {tag}" for tag in tags if not tag.startswith("W/")), ""), encoding="utf-8")
            file.truncate(0)
        elif status == 206:
            start = size = have
            bar.update(have)
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                file.truncate(0)
                raise requests.ConnectionError("this is not the rest of the file")

    def write(chunk: bytes):
        nonlocal size
        size += len(chunk)
        if resource.bytes and size > resource.bytes:
            file.truncate(0)
            raise ValueError(f"it sent more than the {resource.bytes} bytes of the catalogue")
        file.write(chunk)
        bar.update(len(chunk))

    fetch = pooch.HTTPDownloader(chunk_size=2**14, headers=headers, hooks={"response": judge},
                                 timeout=(min(timeout, 10), timeout))
    shown = {"desc": resource.path, "unit": "B", "unit_scale": True, "total": resource.bytes or None}
    with open(part, "ab") as file, tqdm(**shown, disable=not progress) as bar:
        fetch(url, SimpleNamespace(write=write, flush=file.flush), None)
    if size < resource.bytes:
        raise requests.ConnectionError("the connection was closed early")
    return start > 0


def _drive(url: str, resource: Resource, part: Path, note: Path, have: int, *, progress: bool, timeout: float) -> bool:
    import gdown

    try:
        with open(part, "wb") as file:
            gdown.download(id=url.removeprefix("drive:"), output=file, quiet=not progress, timeout=timeout,
                           use_cookies=False)
    except gdown.exceptions.DownloadError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return False


def _fault(resource: Resource, file: Path) -> str:
    """Why a file is not the one of the catalogue; empty where it is."""
    algorithm, known = ("md5", resource.sha256[4:]) if ":" in resource.sha256 else ("sha256", resource.sha256)
    with open(file, "rb") as opened:
        if opened.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")) and resource.content != PAGES[0]:
            return WEB_PAGE
        opened.seek(0)
        found = file_digest(opened, algorithm).hexdigest()
    return "" if found == known else f"its file is another than the catalogue's ({algorithm} differs)"


def _clear(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
