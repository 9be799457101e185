"""What readers take along or never load: figures far down a page, PDFs, and the addresses of launch buttons."""

import re
import shutil
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import CHROMIUM, ROOT
from test_browser import CHAPTER
from test_site import CONFIG
from test_widgets import html

from medtutor import pdf
from medtutor import site as maker

sys.path.insert(0, str(ROOT / "book" / "_ext"))
pytestmark = pytest.mark.site


def test_twenty_figures_are_fetched_when_they_are_near(browser, tmp_path, monkeypatch):
    from medtutor_light import light_pictures

    def noise(step, figure):
        return np.random.default_rng(step + 100 * figure).random((64, 64))

    monkeypatch.setenv("MEDTUTOR_LIVE", "0")
    figures = [html(lambda step, n=n: noise(step, n), caption=None, step=list(range(20))) for n in range(20)]
    app = SimpleNamespace(outdir=tmp_path, srcdir=tmp_path, builder=SimpleNamespace(format="html", images={}))
    context = {"body": "".join(f"<section>{figure}</section>" for figure in figures), "pathto": lambda name, _: name}
    light_pictures(app, "page", "page.html", context, None)
    assert len(context["body"]) < 300_000
    (tmp_path / "page.html").write_text(f"<!doctype html><title>t</title>{context['body']}", encoding="utf-8")
    pictures = list((tmp_path / "_images").iterdir())
    assert len(pictures) == 20, "a sheet for each figure; stills as small as these stay in the page"
    assert sum(path.stat().st_size for path in [*pictures, tmp_path / "page.html"]) < 5_000_000

    page, asked = browser.new_page(viewport={"width": 1280, "height": 700}), set()

    def answer(route):
        path = tmp_path / route.request.url.removeprefix("http://book.test/")
        asked.add(path)
        route.fulfill(path=path) if path.exists() else route.abort()

    page.route("**/*", answer)
    page.goto("http://book.test/page.html", wait_until="load")
    page.locator("canvas").first.wait_for()
    assert len(asked.intersection(pictures)) < 10
    for figure in page.locator(".medtutor-explore").all():
        figure.scroll_into_view_if_needed()
        figure.locator("canvas").wait_for()
    assert asked.issuperset(pictures)
    page.close()


def test_every_page_of_the_book_is_printed_in_reading_order(names):
    printed = pdf.names(ROOT)
    assert printed[0] == "book/index"
    assert len(printed) == len(set(printed))
    pages = {name for name in names if name.split("/")[0] in ("book", "chapters")}
    assert set(printed) == {name for name in pages if not name.endswith("-solutions")}


@pytest.fixture(scope="module")
def printed(site, tmp_path_factory):
    """A copy of the site with the PDFs of the landing page and of one chapter, and the book of both."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium to print PDFs")
    folder = shutil.copytree(site, tmp_path_factory.mktemp("printed") / "html")
    return folder, pdf.make(folder, ["book/index", CHAPTER], CONFIG["html"]["baseurl"])


def test_a_chapter_and_the_book_are_printed_with_public_links_and_without_controls(printed):
    from pypdf import PdfReader

    folder, book = printed
    chapter, both = PdfReader(folder / pdf.path(CHAPTER)), PdfReader(book)
    assert len(both.pages) == len(chapter.pages) + len(PdfReader(folder / pdf.path("book/index")).pages)
    words = [re.sub(r"\s+", " ", "".join(page.extract_text() for page in file.pages)) for file in (chapter, both)]
    assert all("U-Nets that look around" in text for text in words)
    assert not any(word in words[0] for word in ("Show the code", "Skip to main content", "Back to top", "Search"))
    stills = BeautifulSoup((folder / f"{CHAPTER}.html").read_text(encoding="utf-8"), "html.parser").select("figcaption")
    assert all(still.text.split(".")[0] in words[0] for still in stills[:3]), "a figure to play with shows one frame"
    for file in (chapter, both):
        notes = [note.get_object() for page in file.pages for note in page.get("/Annots", [])]
        links = [note.get("/A", {}).get("/URI", "") for note in notes]
        assert any(link.startswith(CONFIG["html"]["baseurl"]) for link in links)
        assert not [link for link in links if "file:" in link or str(folder) in link]
        assert "U-Nets that look around" in [entry.title for entry in file.outline if not isinstance(entry, list)]


def test_pages_link_to_their_pdf_only_where_it_is_made(monkeypatch):
    from medtutor_theme import download_pdf

    def texts():
        buttons = [{"label": "download-source-button", "text": ".ipynb"},
                   {"label": "download-pdf-button", "text": ".pdf", "javascript": "window.print()"}]
        group = {"label": "download-buttons", "buttons": buttons}
        context = {"header_buttons": [group], "pathto": lambda name, _: f"../{name}"}
        download_pdf(SimpleNamespace(srcdir=ROOT), CHAPTER, "page.html", context, None)
        return [(made["text"], made.get("url", made.get("javascript"))) for made in group["buttons"][1:]]

    monkeypatch.delenv("MEDTUTOR_PDF", raising=False)
    assert texts() == [(".pdf", "window.print()")]
    monkeypatch.setenv("MEDTUTOR_PDF", "1")
    assert texts() == [(".pdf", f"../pdf/{CHAPTER}.pdf"), ("whole book, .pdf", "../pdf/book.pdf")]


def test_launch_buttons_follow_the_repository_and_the_hub(tmp_path):
    source = tmp_path / "source"
    (source / "chapters").mkdir(parents=True)
    config = {"title": "t", "execute": {"execute_notebooks": "off"}, "launch_buttons": CONFIG["launch_buttons"] | {
        "jupyterhub_url": "https://hub.example.edu"},
        "repository": {"url": "https://github.com/school/course", "branch": "autumn"}, "html": {
            "use_repository_button": True}}
    (source / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (source / "_toc.yml").write_text("format: jb-book\nroot: chapters/01-a\n", encoding="utf-8")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_markdown_cell("# A")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), source / "chapters" / "01-a.ipynb")
    assert maker.build(source, tmp_path) == 0
    page = (tmp_path / "_build" / "html" / "chapters" / "01-a.html").read_text(encoding="utf-8")
    links = {anchor["href"] for anchor in BeautifulSoup(page, "html.parser").find_all("a", href=True)}
    assert "https://colab.research.google.com/github/school/course/blob/autumn/chapters/01-a.ipynb" in links
    assert "https://mybinder.org/v2/gh/school/course/autumn?urlpath=lab/tree/chapters/01-a.ipynb" in links
    (hub,) = [link for link in links if link.startswith("https://hub.example.edu/hub/user-redirect/git-pull?")]
    assert "repo=https%3A//github.com/school/course&urlpath=lab/tree/course/chapters/01-a.ipynb&branch=autumn" in hub
