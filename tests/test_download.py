"""Downloads from a real HTTP server on loopback that does to them what servers do."""

import contextlib
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medtutor import data
from medtutor.data import download, entry, store

BODY = b"PK" + hashlib.shake_256(b"body").digest(200_000)
HALF = 2**17  # a whole number of the chunks in which a file is written
HTML = b"<!DOCTYPE html><html>Quota exceeded</html>"


def serve(body=BODY, *, ranges=True, etag=None, kind="application/octet-stream", cut=None, length=True, claim=None):
    """A well-made answer; `cut` closes the connection after so many bytes, `claim` is a false Content-Range."""
    def answer(handler):
        wanted = handler.headers.get("Range")
        whole = not ranges or not wanted or handler.headers.get("If-Range", etag) != etag
        start = 0 if whole else int(wanted[6:-1])
        if start >= len(body):
            return handler.send_error(416)
        handler.send_response(200 if whole else 206)
        if not whole:
            handler.send_header("Content-Range", claim or f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.send_header("Content-Type", kind)
        if length:
            handler.send_header("Content-Length", str(len(body) - start))
        if etag:
            handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(body[start:cut])
    return answer


def fails(code):
    return lambda handler: handler.send_error(code)


def moved(to):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()
    return answer


class Site:
    """A server whose pages each give their answers in turn, the last one for ever; `asked` lists the requests."""

    def __init__(self):
        self.pages, self.asked, self.release = {}, [], threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append((self.path, self.headers.get("Range")))
                answers = site.pages.get(self.path, [fails(404)])
                with contextlib.suppress(OSError):
                    (answers.pop(0) if len(answers) > 1 else answers[0])(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def page(self, path, *answers):
        self.pages[path] = list(answers)
        return self.url(path)

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"


@pytest.fixture
def site():
    made = Site()
    yield made
    made.release.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty store and an empty cache."""
    monkeypatch.setenv("MEDTUTOR_DATA", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    return tmp_path / "store"


@pytest.fixture
def offer(monkeypatch):
    """Make a catalogue of one dataset `toy`: `offer(urls, body, unpack="zip")`."""
    def make(urls, body=BODY, name="toy", **fields):
        resource = {"path": "a/data.bin", "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(),
                    "urls": [urls] if isinstance(urls, str) else urls}
        wanted = {field.name for field in entry.fields(entry.Resource)}
        resource |= {key: fields.pop(key) for key in list(fields) if key in wanted and key != "urls"}
        row = {"title": "Toy", "task": "t", "modality": "m", "cases": 1, "shapes": "s", "licence": "CC0",
               "licence_url": "https://example.org/licence", "non_commercial": False, "citation": "Doe 2020",
               "source": "https://example.org/source", "original": "https://example.org", "megabytes": 0.2,
               "files": 0, "sha256": "", "loader": "toy", "download": [resource]} | fields
        text = json.dumps({name: row})
        parsed = entry.parse(text)
        monkeypatch.setattr(entry, "catalogue", lambda: parsed)
        monkeypatch.setattr(data, "catalogue", lambda: parsed)
        return text
    return make


def get(name="toy", **options):
    return data.get(name, **{"progress": False, "say": lambda text: None, "tries": 3, "backoff": 0.0001} | options)


def snapshot(folder):
    """Every file and folder with its bytes, but for the locks."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*")) if path.suffix != ".lock" and path.name != ".partial"}


@pytest.fixture
def earlier(place):
    """A store that holds another dataset already."""
    (place / "older").mkdir(parents=True)
    (place / "older" / "file.txt").write_text("old")
    row = {"name": "older", "licence": "kept", "sha256": {"file.txt": hashlib.sha256(b"old").hexdigest()}}
    (place / "MANIFEST.json").write_text(json.dumps([row]))
    return snapshot(place)


def refused(place, earlier, sentence, kind=ConnectionError, **options):
    """The call fails with one sentence that holds the pattern, and the store is what it was."""
    with pytest.raises(kind, match=sentence) as error:
        get(**options)
    assert "\n" not in str(error.value)
    assert snapshot(place) == earlier
    assert not data.available("toy")


def test_a_download_is_laid_into_the_store_and_verified_like_any_other(site, place, earlier, offer):
    offer(site.page("/x", serve()))
    folder = get()
    assert folder == place / "toy"
    assert (folder / "a/data.bin").read_bytes() == BODY
    files, edition = store.verified("toy", "")
    assert (list(files), edition) == (["a/data.bin"], store.edition({"a/data.bin": hashlib.sha256(BODY).hexdigest()}))
    rows = json.loads((place / "MANIFEST.json").read_text())
    assert [row["name"] for row in rows] == ["older", "toy"]
    assert rows[0]["licence"] == "kept"
    after = snapshot(place)
    assert {key: after[key] for key in earlier if key != "MANIFEST.json"} == {
        key: value for key, value in earlier.items() if key != "MANIFEST.json"}
    assert set(after) - set(earlier) == {"toy", "toy/a", "toy/a/data.bin"}
    assert get() == folder
    assert len(site.asked) == 1


@pytest.mark.parametrize(("answers", "changes", "sentence"), [
    ([fails(404)], {}, r"'a/data.bin' of the dataset 'toy' could not be downloaded \(127.0.0.1:\d+: HTTP 404\); try "
                       r"again later, or get it by hand from https://example.org/source"),
    ([fails(403)], {}, "HTTP 403"),
    ([fails(503)], {}, "HTTP 503 after 0.0 MB, 3 times"),
    ([serve(HTML, kind="text/html; charset=utf-8")], {}, r"it sent a web page instead of data \(a login, a quota"),
    ([serve(HTML, kind="text/html")], {"bytes": 0}, "it sent a web page"),
    ([serve(b"\n " + HTML)], {"bytes": 0}, "it sent a web page"),
    ([serve(b'{"error": 1}', kind="application/json")], {"content": "application/zip"}, "it sent a web page"),
    ([serve(BODY[:-1] + b"?")], {}, r"its file is another than the catalogue's \(sha256 differs\)"),
    ([serve(BODY[:-1] + b"?")], {"sha256": "md5:" + hashlib.md5(BODY).hexdigest()}, r"\(md5 differs\)"),
    ([serve(BODY[:-1])], {}, "its file has 200001 bytes, not the 200002 of the catalogue"),
    ([serve(BODY[:-1])], {"bytes": 0}, "sha256 differs"),
    ([serve(BODY + b"more", length=False)], {}, "it sent more than the 200002 bytes of the catalogue"),
    ([moved("/login"), ], {}, "HTTP 404"),
])
def test_what_a_server_gets_wrong_is_one_sentence(site, place, earlier, offer, answers, changes, sentence):
    offer(site.page("/x", *answers), **changes)
    refused(place, earlier, sentence)


def test_a_redirect_to_a_login_page_is_no_data(site, place, earlier, offer):
    site.page("/login", serve(HTML, kind="text/html"))
    offer(site.page("/x", moved("/login")))
    refused(place, earlier, "it sent a web page")


@pytest.mark.parametrize("change", [{}, {"sha256": "md5:" + hashlib.md5(BODY).hexdigest()}, {"bytes": 0}])
@pytest.mark.parametrize("answers", [
    [fails(503), serve()],
    [fails(429), fails(500), serve()],
    [moved("/there")],
    [serve(length=False)],
    [serve(kind="text/plain")],
    [lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), serve()],
])
def test_what_passes_is_waited_for(site, place, offer, answers, change):
    site.page("/there", serve())
    offer(site.page("/x", *answers), **change)
    assert (get() / "a/data.bin").read_bytes() == BODY


def test_pauses_double(site, place, offer, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    offer(site.page("/x", fails(503)))
    with pytest.raises(ConnectionError):
        get(tries=4, backoff=1.0)
    assert pauses == [2, 4, 8]


def test_a_trickle_is_no_failure_and_silence_is(site, place, earlier, offer):
    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        for start in range(0, len(BODY), 5000):
            handler.wfile.write(BODY[start:start + 5000])
            handler.wfile.flush()
            site.release.wait(0.005)

    offer(site.page("/x", lambda handler: site.release.wait(5)))
    refused(place, earlier, "the connection broke or stalled after 0.0 MB, 2 times", timeout=0.05, tries=2)
    offer(site.page("/x", trickle))
    assert (get(timeout=0.1) / "a/data.bin").read_bytes() == BODY


@pytest.mark.parametrize(("later", "etag", "ranges"), [
    ([serve(etag='"1"')], '"1"', [None, f"bytes={HALF}-"]),
    ([serve()], None, [None, f"bytes={HALF}-"]),
    ([serve(ranges=False)], None, [None, f"bytes={HALF}-"]),
    ([serve(etag='"2"')], '"1"', [None, f"bytes={HALF}-"]),
    ([fails(416), serve()], None, [None, f"bytes={HALF}-", None]),
    ([serve(claim="bytes 7-9/200002"), serve()], None, [None, f"bytes={HALF}-", None]),
    ([serve(claim="nonsense"), serve()], None, [None, f"bytes={HALF}-", None]),
])
@pytest.mark.parametrize("same_run", [True, False])
def test_a_broken_download_is_resumed_or_started_again(site, place, earlier, offer, later, etag, ranges, same_run):
    broken = serve(etag=etag, cut=HALF)
    offer(site.page("/x", broken, *([] if same_run else [fails(404)]), *later))
    if not same_run:
        with pytest.raises(ConnectionError, match="HTTP 404"):
            get()
        left = {key: value for key, value in snapshot(place).items() if not key.startswith(".partial")}
        assert left == earlier
        assert not data.available("toy")
        (part,) = place.rglob("*.part")
        assert part.read_bytes() == BODY[:HALF]
        ranges = [None, f"bytes={HALF}-", *ranges[1:]]
    assert (get() / "a/data.bin").read_bytes() == BODY
    assert [wanted for _, wanted in site.asked] == ranges
    assert [path.suffix for path in (place / ".partial").iterdir()] == [".lock", ".lock"]


def test_a_file_that_changed_between_tries_without_a_sign_is_fetched_anew(site, place, offer):
    other = BODY[:1000] + b"?" * (HALF - 1000)
    offer(site.page("/x", serve(other + BODY[HALF:], cut=HALF), serve()))
    assert (get() / "a/data.bin").read_bytes() == BODY
    assert [wanted for _, wanted in site.asked] == [None, f"bytes={HALF}-", None]


def test_a_changed_file_that_stays_wrong_ends(site, place, earlier, offer):
    offer(site.page("/x", serve(b"?" * len(BODY), cut=HALF), serve(b"?" * len(BODY))))
    refused(place, earlier, "sha256 differs")
    assert len(site.asked) == 3


def test_a_server_that_always_cuts_makes_progress_or_ends(site, place, offer):
    pieces = [serve(cut=end) for end in range(2**14, len(BODY), 2**14)]
    offer(site.page("/x", *pieces, serve()))
    assert (get(tries=2) / "a/data.bin").read_bytes() == BODY
    assert len(site.asked) == len(pieces) + 1


def test_a_server_that_never_gets_further_ends(site, place, offer):
    offer(site.page("/x", serve(cut=HALF, ranges=False)))
    with pytest.raises(ConnectionError, match="the connection broke or stalled after 0.1 MB, 3 times"):
        get()
    assert not data.available("toy")


def test_mirrors_are_tried_in_their_order_and_share_what_arrived(site, place, offer):
    first, second = site.page("/1", serve(cut=HALF), fails(404)), site.page("/2", serve(etag='"2"'))
    offer([first, second, site.page("/3", serve())])
    said = []
    get(say=said.append)
    assert site.asked == [("/1", None), ("/1", f"bytes={HALF}-"), ("/2", f"bytes={HALF}-")]
    assert re.match(r"Toy: 0.2 MB; licence CC0 \(https://example.org/licence\); please cite Doe 2020", said[0])
    assert re.match(r"127.0.0.1:\d+: HTTP 404; trying the next mirror", said[1])


def test_every_mirror_gives_its_reason(site, place, earlier, offer, monkeypatch):
    known = socket.getaddrinfo

    def lookup(host, *rest, **options):
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    port = socket.create_server(("127.0.0.1", 0))
    dead = f"http://127.0.0.1:{port.getsockname()[1]}/x"
    port.close()
    offer([dead, site.page("/1", fails(404))])
    refused(place, earlier, r"\(127.0.0.1:\d+: no connection; 127.0.0.1:\d+: HTTP 404\)")
    offer([dead, "http://nowhere.invalid/x"])
    refused(place, earlier, r"no connection to 127.0.0.1:\d+ or nowhere.invalid: this machine seems to be offline; "
                            "connect it, or copy 'toy' from a machine that has it")


def test_several_files_and_what_arrived_of_them_is_kept(site, place, earlier, offer):
    names = ["one.bin", "two.bin"]
    resources = [{"path": name, "urls": [site.page("/" + name, serve())], "bytes": len(BODY),
                  "sha256": hashlib.sha256(BODY).hexdigest()} for name in names]
    site.page("/two.bin", fails(404), serve())
    offer([], download=resources)
    with pytest.raises(ConnectionError, match="'two.bin' of the dataset 'toy'"):
        get()
    assert not data.available("toy")
    assert sorted(path.name for path in get().iterdir()) == names
    assert [path for path, _ in site.asked] == ["/one.bin", "/two.bin", "/two.bin"]


def test_google_drive_is_one_mirror_among_others(site, place, offer, monkeypatch):
    import gdown

    calls, real = [], gdown.download

    def drive(*, id, **options):
        calls.append(id)
        if id == "quota":
            raise gdown.exceptions.FileURLRetrievalError("Too many users have viewed\nthis file recently.")
        real(url=site.url("/" + id), **options)

    site.page("/page", serve(HTML))
    site.page("/good", fails(503), serve())
    monkeypatch.setattr(gdown, "download", drive)
    wrong = site.page("/x", fails(404))
    offer(["drive:quota", "drive:page", wrong], bytes=0)
    with pytest.raises(ConnectionError, match="Google Drive: it sent a web page"):
        get()
    said = []
    offer(["drive:quota", wrong, "drive:good"])
    assert (get(say=said.append) / "a/data.bin").read_bytes() == BODY
    assert "Google Drive: Too many users have viewed this file recently.; trying the next mirror" in said
    assert calls == ["quota", "page", "quota", "good", "good"]


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def tarred(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize(("kind", "pack"), [("zip", zipped), ("tar", tarred)])
def test_an_archive_is_unpacked_into_the_dataset(site, place, offer, kind, pack):
    body = pack({"task/images/1.bin": b"one", "task/labels.csv": b"two", "other/3": b"three"})
    offer(site.page("/x", serve(body)), body, path="x.archive", unpack=kind, inside="task")
    assert set(snapshot(get())) == {"images", "images/1.bin", "labels.csv"}
    assert sorted(store.verified("toy", "")[0]) == ["images/1.bin", "labels.csv"]


@pytest.mark.parametrize(("kind", "body", "sentence"), [
    ("zip", zipped({"a": b"fine", "../b": b"hostile"}), r"archive x.archive is refused: the path '../b' leaves"),
    ("tar", tarred({"a": b"fine", "/b": b"hostile"}), "the path '/b' leaves"),
    ("zip", zipped({"a": b"fine"})[:-30], "is not a zip file"),
    ("tar", tarred({"a": BODY})[:-9999], "is refused"),
    ("zip", zipped({"a": bytes(70_000_000)}), "it holds more than 1000000 files or 17 MB"),
], ids=["zip", "tar", "zip-cut", "tar-cut", "bomb"])
def test_a_hostile_archive_leaves_the_store_as_it_was(site, place, earlier, offer, kind, body, sentence):
    offer(site.page("/x", serve(body)), body, path="x.archive", unpack=kind)
    refused(place, earlier, sentence, ValueError)


def test_licences_are_shown_and_non_commercial_ones_ask(site, place, earlier, offer):
    offer(site.page("/x", serve()), non_commercial=True)
    said = []
    refused(place, earlier, "the licence of 'toy' forbids commercial use: read https://example.org/licence",
            PermissionError, say=said.append)
    assert "CC0 (https://example.org/licence), no commercial use" in said[0]
    assert site.asked == []
    assert get(accept=True) == place / "toy"


def test_data_by_registration_says_what_to_do(place, offer):
    offer([], download=[], access="Sign the agreement at https://example.org/sign.")
    with pytest.raises(PermissionError, match="Sign the agreement at https://example.org/sign, or put its folder"):
        get()
    offer([], download=[])
    with pytest.raises(FileNotFoundError, match="its source is https://example.org/source"):
        get()
    offer("https://example.org/x")
    with pytest.raises(FileNotFoundError, match="run `medtutor data get toy`"):
        data.verify("toy")


def test_a_damaged_download_is_fetched_again_and_replaced(site, place, offer):
    offer(site.page("/x", serve(), fails(404), serve()))
    file = get() / "a/data.bin"
    file.write_bytes(b"damaged")
    before = snapshot(place)
    with pytest.raises(ConnectionError):
        get()
    assert snapshot(place) == before
    assert [fault.split(":")[0] for fault in data.verify("toy")] == [f"{file} is damaged"]
    assert (get() / "a/data.bin").read_bytes() == BODY
    assert data.verify("toy") == []


def test_a_folder_of_the_user_is_never_replaced(site, place, offer):
    offer(site.page("/x", serve()))
    (place / "toy").mkdir(parents=True)
    (place / "toy/mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="does not list it: run `medtutor data add toy` if it is the dataset"):
        get()
    assert (place / "toy/mine.txt").read_text() == "mine"


def test_a_copy_of_the_user_is_added_as_it_is(place, earlier, offer, medtutor):
    offer([], download=[], access="Sign the agreement.")
    for made in ("toy", "toy/empty"):
        status, _, error = medtutor("data", "add", "toy")
        assert status == 2
        assert "Sign the agreement, or put its folder toy/ there and run `medtutor data add toy`" in error
        (place / made).mkdir()
    (place / "toy/mine.txt").write_text("mine")
    assert medtutor("data", "add", "toy") == (0, f"toy: here, {place / 'toy'}\n", "")
    assert data.verify("toy") == []
    assert list(store.verified("toy", "")[0]) == ["mine.txt"]
    assert get() == place / "toy"
    (place / "toy/mine.txt").write_text("changed")
    assert len(data.verify("toy")) == 1
    assert data.add("toy") == place / "toy"
    assert data.verify("toy") == []
    assert snapshot(place / "older") == {"file.txt": b"old"}
    assert [row["name"] for row in store.rows(place)] == ["older", "toy"]


def test_a_store_with_a_bad_manifest_is_not_written(site, place, offer):
    offer(site.page("/x", serve()))
    place.mkdir()
    (place / "MANIFEST.json").write_text("{")
    with pytest.raises(ValueError, match="is not a list of datasets"):
        get()
    assert (place / "MANIFEST.json").read_text() == "{"
    assert site.asked == []


def test_a_store_that_cannot_be_written_is_read_and_downloads_go_to_the_cache(site, place, tmp_path, offer, earlier,
                                                                              monkeypatch):
    offer(site.page("/x", serve()))
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place and may(path, mode))
    folder = get()
    assert folder.is_relative_to(tmp_path / "cache")
    assert snapshot(place) == earlier
    assert list(store.verified("toy", "")[0]) == ["a/data.bin"]
    assert store.listed("older", "")[0] == place / "older"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"cannot be written: set MEDTUTOR_DATA to another folder"):
        store.writable()


def test_the_disk_is_asked_first(site, place, earlier, offer, monkeypatch):
    offer(site.page("/x", serve()), bytes=10**9, unpack="zip", megabytes=500.0)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_400_000_000}))
    refused(place, earlier, r"'toy' needs 1500 MB in .*, but 1400 MB are free: free some space, or set MEDTUTOR_DATA",
            OSError)
    assert site.asked == []


@pytest.fixture
def small_disk(place):
    """The store, empty, on a file system of 128 kB."""
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_becomes_full_is_left_as_it_was(small_disk, site, offer):
    for length in (False, True):
        offer(site.page("/x", serve(length=length)), bytes=0)
        refused(small_disk, {}, f"the disk of {small_disk} became full while 'toy' was written, nothing of it was kept",
                OSError)
    body = zipped({"a": bytes(300_000)})
    offer(site.page("/x", serve(body)), body, unpack="zip", megabytes=0.0)
    refused(small_disk, {}, "became full", OSError)


def test_a_read_only_file_system_is_a_mirror(small_disk, site, tmp_path, offer):
    offer(site.page("/x", serve(b"small")), b"small")
    get()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = snapshot(small_disk)
    assert get() == small_disk / "toy"
    (name,) = entry.catalogue()
    assert data.verify(name) == []
    offer(site.page("/y", serve()), name="other")
    assert get("other").is_relative_to(tmp_path / "cache")
    assert (data.available("other"), snapshot(small_disk)) == (True, before)


SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
from medtutor import data
from medtutor.data import download, entry
parsed = entry.parse(Path(sys.argv[1]).read_text())
entry.catalogue = lambda: parsed
{before}
print(data.get("toy", progress=False, tries=3, backoff=1e-4))
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Start a process of its own that gets the dataset: `elsewhere(catalogue, before="...")`."""
    started = []

    def start(catalogue, before="pass"):
        (tmp_path / "catalogue.json").write_text(catalogue)
        command = [sys.executable, "-c", SCRIPT.format(before=before), str(tmp_path / "catalogue.json")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_quota_is_a_full_disk(site, place, earlier, offer, elsewhere):
    text = offer(site.page("/x", serve()))
    process = elsewhere(text, "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))")
    _, said = process.communicate()
    assert "became full while 'toy' was written, nothing of it was kept" in said.splitlines()[-1]
    assert snapshot(place) == earlier


def test_two_processes_share_one_download(site, place, offer, elsewhere):
    begun = threading.Event()

    def slow(handler):
        begun.set()
        site.release.wait(10)
        serve()(handler)

    text = offer(site.page("/x", slow))
    first = elsewhere(text)
    assert begun.wait(10)
    second = elsewhere(text)
    for line in second.stdout:
        if line.startswith("another process is getting 'toy': waiting for it"):
            break
    site.release.set()
    for process in (first, second):
        out, error = process.communicate()
        assert (process.returncode, error) == (0, "")
        assert out.splitlines()[-1] == str(place / "toy")
    assert len(site.asked) == 1
    assert data.verify("toy") == []


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("before", [
    f"download.time.sleep = lambda seconds: {KILL}",
    f"download._fault = lambda *_: {KILL}",
    f"download.archive.unpack = lambda *_, **__: {KILL}",
    *(f"done, move = [], os.replace\nos.replace = lambda *paths: (done.append(paths), "
      f"{KILL} if len(done) > {count} else move(*paths))" for count in range(4)),
])
def test_a_killed_run_leaves_nothing_that_is_trusted(site, place, earlier, offer, elsewhere, before):
    body = zipped({"a": BODY, "b": b"small"})
    text = offer(site.page("/x", serve(body, cut=HALF), serve(body)), body, path="x.zip", unpack="zip")
    process = elsewhere(text, before)
    process.communicate()
    assert process.returncode == (0 if "> 3" in before else -9)
    assert not data.available("toy") or data.verify("toy") == []
    assert sorted(path.name for path in get().iterdir()) == ["a", "b"]
    assert data.verify("toy") == []
    assert [path.suffix for path in (place / ".partial").iterdir()] == [".lock", ".lock"]


def test_the_command_lists_gets_and_verifies(site, place, earlier, offer, medtutor):
    offer(site.page("/x", serve()))
    assert medtutor("data", "list") == medtutor("data")
    assert medtutor("data")[1].split() == ["toy", "not", "here", "download", "0.2", "MB", "CC0", "t"]
    status, out, error = medtutor("data", "get", "toy")
    assert (status, error) == (0, "")
    assert re.match(r"Toy: 0.2 MB; licence CC0 .*\ntoy: here, " + re.escape(str(place / "toy")) + "\n", out)
    assert medtutor("data")[1].split()[:2] == ["toy", "here"]
    assert str(place / "toy") in medtutor("data", "toy")[1]
    assert medtutor("data", "verify") == (0, f"{'toy':20}sound\n", "")
    (place / "toy/a/data.bin").write_bytes(b"")
    status, out, _ = medtutor("data", "verify", "toy")
    assert (status, out.splitlines()[0]) == (1, f"{'toy':20}damaged")
    assert "data.bin is damaged: its sha256 is" in out.splitlines()[1]


def test_the_command_asks_where_a_licence_forbids_commercial_use(site, place, offer, medtutor, monkeypatch):
    offer(site.page("/x", serve()), non_commercial=True)
    status, _, error = medtutor("data", "get", "toy")
    assert (status, error.startswith("medtutor: the licence of 'toy' forbids commercial use")) == (2, True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\ny\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert medtutor("data", "get", "toy")[0] == 2
    assert medtutor("data", "get", "toy")[0] == 0
    assert len(site.asked) == 1


def test_the_command_says_yes_and_names_what_it_lacks(site, place, offer, medtutor):
    offer(site.page("/x", serve()), non_commercial=True)
    assert medtutor("data", "get", "toy", "--yes")[0] == 0
    for words, sentence in ((["get", "toi"], "there is no dataset 'toi'; try toy"),
                            (["verify", "toi"], "there is no dataset 'toi'"),
                            (["get"], "say which dataset: medtutor data get NAME"),
                            (["add"], "say which dataset: medtutor data add NAME")):
        status, out, error = medtutor("data", *words)
        assert (status, out) == (2, "")
        assert error.startswith(f"medtutor: {sentence}")
