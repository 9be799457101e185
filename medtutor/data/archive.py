"""Zip and tar files from outside, unpacked as if they were hostile."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from stat import S_IFDIR, S_IFMT, S_IFREG
from types import SimpleNamespace

from medtutor.data.entry import safe

# Below this size nothing is a bomb, whatever its ratio.
SMALL = 2**24


def unpack(archive: Path, kind: str, folder: Path, inside: str = "", *, most_bytes: int = 2**40,
           most_files: int = 1_000_000, most_ratio: float = 100) -> None:
    """Write the members of a "zip" or a (compressed) "tar" that lie below `inside` into `folder`.

    Only plain files and folders are written, with no owner, mode or time of theirs. Raises ValueError, one sentence,
    for an archive that is damaged or encrypted, that holds links, devices, paths that leave the folder or collide,
    more than `most_files` members, or more bytes than `most_bytes` or than `most_ratio` times its own size. What was
    written until then stays in `folder` for the caller to remove.
    """
    largest = max(SMALL, int(most_ratio * archive.stat().st_size))
    written, seen, members = 0, {}, {"zip": _zip, "tar": _tar}[kind]
    bomb = f"it holds more than {most_files} files or {min(largest, most_bytes) / 1e6:.0f} MB"
    try:
        with open(archive, "rb") as file:
            for count, (name, size, plain, stream) in enumerate(members(file, largest, bomb), 1):
                path = _path(name, plain, seen)
                wanted = plain and path != PurePosixPath(inside) and path.is_relative_to(inside)
                if count > most_files or written + size * wanted > min(largest, most_bytes):
                    raise ValueError(bomb)
                if not wanted:
                    continue
                target, start = folder / path.relative_to(inside), written
                target.parent.mkdir(parents=True, exist_ok=True)
                with stream() as source, open(target, "xb") as sink:
                    while chunk := source.read(2**18):
                        written += len(chunk)
                        sink.write(chunk)
                if written - start != size:
                    raise ValueError(f"{name!r} is not as long as it says")
        if not any(folder.iterdir()):
            raise ValueError(f"it holds no file below {inside!r}")
    except Exception as error:  # the readers of archives raise a dozen kinds
        # A disk that is full or closed to us is not the archive's fault; a place before its start (EINVAL) is.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ValueError(f"the archive {archive.name} is refused: {error or 'it ends early'}") from error


def _zip(file, largest: int, bomb: str) -> Iterator[tuple]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if S_IFMT(info.external_attr >> 16) not in (0, S_IFREG, S_IFDIR):
                raise ValueError(f"{info.filename!r} is a link or a device")
            if info.flag_bits & 1:
                raise ValueError(f"{info.filename!r} is encrypted")
            # The original name: zipfile itself mends some hostile ones on some systems only.
            yield info.orig_filename, info.file_size, not info.is_dir(), partial(archive.open, info)


def _tar(file, largest: int, bomb: str) -> Iterator[tuple]:
    openers, total = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}, 0
    opener = openers.get(file.read(2), lambda plain: plain)
    file.seek(0)
    source = opener(file)

    def read(size: int) -> bytes:
        # tarfile takes headers of any size into memory.
        nonlocal total
        total += len(data := source.read(size))
        if total > 2 * largest:
            raise ValueError(bomb)
        return data

    with tarfile.open(fileobj=SimpleNamespace(read=read), mode="r|") as archive:
        for member in archive:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise ValueError(f"{member.name!r} is a link, a device or a sparse file")
            if member.name != ".":
                yield member.name, member.size, member.isreg(), partial(archive.extractfile, member)
    # The checksum of the compression stands behind the end of the archive.
    while read(2**18):
        pass


def _path(name: str, plain: bool, seen: dict[str, tuple[str, bool]]) -> PurePosixPath:
    """The path of a member, noted in `seen` with its folders. Raises ValueError where it is hostile or collides."""
    if not safe(name):
        raise ValueError(f"the path {name!r} leaves its folder or is not portable")
    path = PurePosixPath(name)
    for part in (*path.parents, path):
        # macOS and Windows take names that differ by case or by composed accents for one.
        key, is_file = unicodedata.normalize("NFC", str(part)).casefold(), plain and part == path
        if is_file and key in seen or seen.setdefault(key, (str(part), is_file)) != (str(part), is_file):
            raise ValueError(f"{name!r} and {seen[key][0]!r} are one path on some disks")
    return path
