"""The built website, once for all tests of this folder: as `make site` left it, else built now; and a real browser."""

import functools
import gzip
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
#: An error of the theme that does no harm: it tells of a theme "auto" that it then resolves.
HARMLESS = re.compile("Got invalid theme mode")


def built_site() -> Path:
    return Path(os.environ.get("MEDTUTOR_SITE", ROOT / "_build" / "html"))


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site; MEDTUTOR_SITE names another one."""
    folder = built_site()
    if not (folder / "index.html").exists():
        subprocess.run([sys.executable, "-m", "medtutor.site"], cwd=ROOT, check=True)
    if not (folder / "vendor" / "mathjax").is_dir():
        pytest.skip("the site was built without its npm packages: install Node.js and run `make site` again")
    return folder


@pytest.fixture(scope="session")
def pages(site) -> dict[Path, BeautifulSoup]:
    """Every page of the book by its path; the search and index pages of Sphinx included."""
    paths = sorted(p for p in site.rglob("*.html") if not {"_static", "_sources"} & set(p.relative_to(site).parts))
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in paths}


@pytest.fixture(scope="session")
def names(pages, site) -> list[str]:
    """Every page by its name, such as `book/claims`; pages that only lead on to another one left out."""
    read = [path for path, soup in pages.items() if not soup.find("meta", {"http-equiv": "Refresh"})]
    return [path.relative_to(site).with_suffix("").as_posix() for path in read]


@pytest.fixture(scope="session")
def address(site):
    """The site under a sub-path of a real server on the loopback interface, compressed, as it would be published."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return super().translate_path(path.removeprefix("/medtutor"))

        def do_GET(self):
            file = Path(self.translate_path(self.path))
            if not file.is_file() or file.suffix not in (".html", ".js", ".css"):
                return super().do_GET()
            content = gzip.compress(file.read_bytes(), 6)
            self.send_response(200)
            self.send_header("Content-Type", self.guess_type(file))
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/medtutor"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, site, address):
    """`open_page(name, size, scheme)`: the page with nothing but the site in reach; `before` is a script of its own.

    `page.problems` lists requests to other hosts, failed requests, uncaught errors and messages of kind error.
    """
    contexts = []

    def opened(name, size="desktop", scheme="light", at=address, before="", **options):
        w, h = SIZES[size]
        context = browser.new_context(viewport={"width": w, "height": h}, color_scheme=scheme, **options)
        contexts.append(context)
        page, problems = context.new_page(), []

        def only_here(route):
            here = route.request.url.startswith((at, "data:", "blob:"))
            if not here:
                problems.append(f"request to {route.request.url}")
            return route.continue_() if here else route.abort()

        context.route("**/*", only_here)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.add_init_script(before)
        page.goto(f"{at}/{name}.html", wait_until="load")
        page.problems = problems
        return page

    yield opened
    for context in contexts:
        context.close()
