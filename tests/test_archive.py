"""Archives from outside: every hostile one is one sentence, and nothing outside the folder is ever touched."""

import contextlib
import io
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medtutor.data import archive, entry

GOOD = {"a/1.txt": b"one", "a/b/2.bin": bytes(range(256)) * 40, "3.txt": b""}


def as_zip(members, change=lambda info: None):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            change(info)
            made.writestr(info, content)
    return file.getvalue()


def as_tar(members, change=lambda info: None, mode="w:gz", form=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            made.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return file.getvalue()


PACK = {"zip": as_zip, "tar": as_tar}


@pytest.fixture
def unpack(tmp_path):
    """Unpack these bytes beside a file that must stay what it is: `unpack("zip", content, inside="a")`."""
    (tmp_path / "beside.txt").write_text("beside")

    def call(kind, content, inside="", **limits):
        (tmp_path / "made.archive").write_bytes(content)
        (tmp_path / "out").mkdir()
        try:
            archive.unpack(tmp_path / "made.archive", kind, tmp_path / "out", inside, **limits)
        finally:
            assert {path.name for path in tmp_path.iterdir()} == {"beside.txt", "made.archive", "out"}
            assert (tmp_path / "beside.txt").read_text() == "beside"
        return {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
                for path in (tmp_path / "out").rglob("*") if path.is_file()}

    return call


@pytest.mark.parametrize("content", [
    ("zip", as_zip(GOOD)), *(("tar", as_tar(GOOD, mode=mode)) for mode in ("w", "w:gz", "w:bz2", "w:xz")),
    ("tar", as_tar(GOOD, form=tarfile.GNU_FORMAT)),
], ids=["zip", "tar", "gz", "bz2", "xz", "gnu"])
def test_a_good_archive_is_what_was_packed(unpack, content):
    assert unpack(*content) == GOOD


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("inside", ["a", "a/", "a/b"])
def test_a_part_of_an_archive_is_laid_at_the_top(unpack, kind, inside):
    top = inside.rstrip("/") + "/"
    assert unpack(kind, PACK[kind](GOOD), inside) == {
        name.removeprefix(top): content for name, content in GOOD.items() if name.startswith(top)}


def test_a_part_that_is_not_there_is_named(unpack):
    with pytest.raises(ValueError, match="made.archive is refused: it holds no file below 'c'"):
        unpack("zip", as_zip(GOOD), "c")


def test_folders_of_an_archive_and_its_owners_are_nothing_special(unpack, tmp_path):
    def program(info):
        info.mode, info.uid = 0o6777, 12345

    assert unpack("tar", as_tar({"./x/prog": b"#!/bin/sh"}, program)) == {"x/prog": b"#!/bin/sh"}
    assert not (tmp_path / "out/x/prog").stat().st_mode & 0o7111
    members = io.BytesIO()
    with tarfile.open(fileobj=members, mode="w") as made:
        for name in ("./", "./x/", "x"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            made.addfile(info)
        info = tarfile.TarInfo("x/y")
        made.addfile(info, io.BytesIO())
    (tmp_path / "out").rename(tmp_path / "first")
    (tmp_path / "second.tar").write_bytes(members.getvalue())
    (tmp_path / "second").mkdir()
    archive.unpack(tmp_path / "second.tar", "tar", tmp_path / "second")
    assert [path.name for path in (tmp_path / "second").rglob("*")] == ["x", "y"]


HOSTILE = ["../beside.txt", "a/../../beside.txt", "/etc/passwd", "//host/x", "C:/x", "c:x", "..\\beside.txt", "a\\b",
           "\\\\host\\x", "a/..", "a\nb", "bell\a", ".."]


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_path_is_refused(unpack, kind, name):
    with pytest.raises(ValueError, match=r"made.archive is refused: the path .* leaves its folder or is not portable"):
        unpack(kind, PACK[kind]({"fine": b"1", name: b"hostile"}))
    assert not entry.safe(name)


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("names", [("a", "A"), ("x/a", "X/b"), ("a", "a/b"), ("a/b", "a"), ("é", "e\u0301"),
                                   ("a", "./a"), ("STRASSE", "straße")])
def test_paths_that_collide_are_refused(unpack, kind, names):
    with pytest.raises(ValueError, match="are one path on some disks"):
        unpack(kind, PACK[kind](dict.fromkeys(names, b"1")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", PACK)
def test_a_member_that_comes_twice_is_refused(unpack, kind):
    def rename(info):
        setattr(info, "filename" if kind == "zip" else "name", "same")

    with pytest.raises(ValueError, match="'same' and 'same' are one path"):
        unpack(kind, PACK[kind]({"a": b"1", "b": b"2"}, rename))


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("target", ["../beside.txt", "/etc/passwd", "fine"])
def test_links_and_devices_in_a_tar_are_refused(unpack, type, target):
    def change(info):
        if info.name == "link":
            info.type, info.linkname, info.size = type, target, 0

    with pytest.raises(ValueError, match="'link' is a link, a device or a sparse file"):
        unpack("tar", as_tar({"fine": b"1", "link": b""}, change))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(unpack, kind):
    def change(info):
        info.external_attr = (kind | 0o777) << 16

    with pytest.raises(ValueError, match="'link' is a link or a device"):
        unpack("zip", as_zip({"link": b"/etc/passwd"}, change))


def test_files_below_a_link_are_never_written(unpack, tmp_path):
    def change(info):
        if info.name == "x":
            info.type, info.linkname, info.size = tarfile.SYMTYPE, "..", 0

    with pytest.raises(ValueError, match="'x' is a link"):
        unpack("tar", as_tar({"x": b"", "x/beside.txt": b"hostile"}, change))


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize(("members", "limits"), [
    ({"zeros": bytes(20_000_000)}, {}),
    ({f"{number}": bytes(3_000_000) for number in range(6)}, {}),
    ({"a": bytes(range(256)) * 8, "b": b"1"}, {"most_bytes": 2048}),
    ({str(number): b"" for number in range(4)}, {"most_files": 3}),
])
def test_bombs_are_refused_before_they_are_written(unpack, tmp_path, kind, members, limits):
    with pytest.raises(ValueError, match=r"it holds more than \d+ files or \d+ MB"):
        unpack(kind, PACK[kind](members), **limits)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= archive.SMALL + 4096


def test_what_is_skipped_is_not_counted_as_written(unpack):
    assert unpack("tar", as_tar({"skip": bytes(5000), "a/x": b"1"}), "a", most_bytes=10) == {"x": b"1"}


def test_a_header_of_a_tar_that_is_a_bomb_is_refused(unpack):
    def change(info):
        info.pax_headers = {"comment": "x" * 34_000_000}

    with pytest.raises(ValueError, match="it holds more than"):
        unpack("tar", as_tar({"a": b"1"}, change))


def lying(size: int) -> bytes:
    """A zip whose member holds 100 kB, but which gives another size in both of its headers."""
    content = bytearray(as_zip({"a": bytes(100_000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, size)
    return bytes(content)


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_001, 10_000_000])
def test_a_size_that_lies_is_refused(unpack, tmp_path, size):
    assert unpack("zip", as_zip({"a": bytes(100_000)})) == {"a": bytes(100_000)}
    (tmp_path / "out").rename(tmp_path / "made.archive.dir")
    (tmp_path / "made.archive").write_bytes(lying(size))
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="is refused: (Bad CRC-32|'a' is not as long as it says)"):
        archive.unpack(tmp_path / "made.archive", "zip", tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 100_000


def test_an_encrypted_zip_is_refused(unpack):
    content = bytearray(as_zip({"a": b"secret"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    with pytest.raises(ValueError, match="made.archive is refused: 'a' is encrypted"):
        unpack("zip", bytes(content))


@pytest.mark.parametrize(("kind", "content"), [
    ("zip", b""), ("zip", b"<html>quota</html>"), ("zip", as_zip(GOOD)[:-1]), ("zip", as_zip(GOOD)[:100]),
    ("zip", as_tar(GOOD)), ("zip", as_zip({})),
    ("tar", b""), ("tar", b"<html>quota</html>"), ("tar", as_tar(GOOD)[:-1]), ("tar", as_tar(GOOD)[:100]),
    ("tar", as_tar(GOOD, mode="w")[:2000]), ("tar", as_tar(GOOD, mode="w:xz")[:-20]), ("tar", as_zip(GOOD)),
    ("tar", as_tar(GOOD, mode="w:bz2")[:-20]), ("tar", as_tar({})), ("tar", b"\x1f\x8b" + bytes(100)),
], ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None)
def test_a_damaged_archive_is_one_sentence(unpack, kind, content):
    with pytest.raises(ValueError, match="the archive made.archive is refused: .") as error:
        unpack(kind, content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "content"), [
    ("zip", as_zip(GOOD)), ("tar", as_tar(GOOD)), ("tar", as_tar(GOOD, mode="w")),
], ids=["zip", "tar.gz", "tar"])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255), keep=st.floats(0, 1), cut=st.booleans())
@example(place=0.9921875, value=1, keep=0.0, cut=False)  # of the zip: its directory lies before its start
@settings(max_examples=60)
def test_no_damage_escapes_as_another_error_or_another_place(tmp_path_factory, kind, content, place, value, keep, cut):
    changed = bytearray(content)
    changed[int(place * len(changed))] ^= value
    folder = tmp_path_factory.mktemp("damage")
    (folder / "made").write_bytes(changed[:int(keep * len(changed))] if cut else changed)
    (folder / "out").mkdir()
    with contextlib.suppress(ValueError):
        archive.unpack(folder / "made", kind, folder / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["made", "out"]
