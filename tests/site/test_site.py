"""The built pages: nothing missing, nothing dangling, everything described."""

import re
from collections import Counter
from urllib.parse import unquote, urlparse

import pytest
import yaml
from conftest import HARMLESS

from medtutor import notebook

pytestmark = pytest.mark.site


def content(pages, site) -> dict:
    """The pages that the book itself writes, without those that only lead on."""
    return {path: soup for path, soup in pages.items() if path.relative_to(site).parts[0] in ("book", "chapters")
            and not soup.find("meta", {"http-equiv": "Refresh"})}


def test_every_page_of_the_table_of_contents_is_there(pages, site):
    toc = yaml.safe_load((notebook.book_root() / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    exercises = [section["file"] for chapter in chapters for section in chapter.get("sections", [])]
    files = [toc["root"], *(chapter["file"] for chapter in chapters), *exercises]
    files += [f"{exercise}-solutions" for exercise in exercises]
    missing = [file for file in files if site / f"{file}.html" not in pages]
    assert not missing
    assert len(content(pages, site)) == len(files)


def test_pages_have_a_language_a_title_and_one_heading(pages, site):
    for path, soup in content(pages, site).items():
        assert soup.html["lang"].startswith("en")
        assert soup.title.text.strip()
        assert len(soup.article.find_all("h1")) == 1, f"{path.name} needs one main heading"


def test_internal_links_lead_somewhere(pages, site):
    identities = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in pages.items()}
    broken = []
    for path, soup in pages.items():
        for anchor in soup.find_all("a", href=True):
            url = urlparse(anchor["href"])
            if url.scheme or url.netloc or not (url.path or url.fragment):
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchored = not url.fragment or target not in identities or unquote(url.fragment) in identities[target]
            if not target.exists() or not anchored:
                broken.append(f"{path.relative_to(site)}: {anchor['href']}")
    assert not broken, "\n".join(broken)


def test_files_that_pages_load_exist_and_come_from_here(pages, site):
    missing, foreign = [], []
    for path, soup in pages.items():
        loaded = [tag["src"] for tag in soup.find_all(["img", "script", "iframe"], src=True)]
        loaded += [tag["href"] for tag in soup.find_all("link", rel=["stylesheet", "icon", "preload"], href=True)]
        for address in loaded:
            url = urlparse(address)
            if url.netloc:
                foreign.append(address)
            elif url.scheme != "data" and not (path.parent / unquote(url.path)).exists():
                missing.append(f"{path.relative_to(site)}: {address}")
    assert not missing, "\n".join(missing)
    assert not foreign


def test_every_picture_is_described(pages, site):
    for path, soup in pages.items():
        for image in soup.find_all("img"):
            alt = image.get("alt", "").strip()
            assert alt, f"{path.relative_to(site)}: {image.get('src')} has no alt text"
            assert not alt.endswith((".png", ".svg", ".jpg")), f"{path.relative_to(site)}: {alt!r} names a file"


def test_tables_have_captions_and_scoped_headers(pages, site):
    for path in (site / "book").glob("*.html"):
        for table in pages[path].select("table.measured"):
            assert table.caption.text.strip(), path.name
            assert all(cell.get("scope") in ("col", "row") for cell in table.find_all("th")), path.name


def test_no_unresolved_marks_of_the_sources(pages, site):
    for path, soup in content(pages, site).items():
        prose = " ".join(p.text for p in soup.article.find_all(["p", "li", "td"]) if not p.find_parent("pre"))
        for mark in ("{glue", "{cite", "{term", "{numref", "{eq}", "```", ":::"):
            assert mark not in prose, f"{path.name} shows {mark}"


def test_every_paper_is_linked_to_its_section_or_marked_planned(pages, site):
    rows = pages[site / "book" / "papers.html"].select("table.papers tbody tr")
    papers = notebook.papers()
    assert len(rows) == len(papers) == 108
    by_title = {paper["title"]: paper for paper in papers}
    for row in rows:
        paper = by_title[row.select_one(".title").text]
        section = row.find_all("td")[0]
        if section.a:
            assert section.a["href"].endswith(f"#{paper['id']}")
        else:
            assert section.text == "planned"


def test_the_ledger_shows_every_claim_and_links_it_to_its_section(pages, site):
    soup = pages[site / "book" / "claims.html"]
    stored = []
    for path in (site.parent / "source" / "chapters").glob("*.ipynb"):
        stored += [(path.stem, claim) for claim in notebook.claims(notebook.read(path))]
    rows = soup.select("table.ledger tbody tr")
    shown = Counter((row.th.a["href"], row.select_one(".verdict").text) for row in rows)
    assert shown == Counter((f"../chapters/{stem}.html#{c['paper']}", c["verdict"]) for stem, c in stored)
    counts = {row.th.text: int(row.td.text) for row in soup.select("table.summary tbody tr")}
    assert {verdict: n for verdict, n in counts.items() if n} == Counter(c["verdict"] for _, c in stored)


def test_glossary_terms_are_unique_and_explained(pages, site):
    terms = pages[site / "book" / "glossary.html"].select("dl.glossary dt")
    names = [term.get_text(" ", strip=True).rstrip("# ").lower() for term in terms]
    assert len(names) >= 40
    assert len(names) == len(set(names))
    for term in terms:
        assert term.find_next_sibling("dd").text.strip()


def test_search_is_offered_once(pages, site):
    for path, soup in content(pages, site).items():
        assert len(soup.select("button.search-button-field")) == 1, path.name


CONFIG = yaml.safe_load((notebook.book_root() / "_config.yml").read_text(encoding="utf-8"))


def test_chapters_are_opened_and_downloaded_at_the_addresses_of_the_one_setting(pages, site):
    repository, branch = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
    owner, name = repository.split("/")[-2:]
    chapters = [path.relative_to(site).with_suffix(".ipynb").as_posix() for path in content(pages, site)
                if path.parent.name == "chapters"]
    assert chapters
    for chapter in chapters:
        links = {a["href"] for a in pages[site / chapter.replace(".ipynb", ".html")].find_all("a", href=True)}
        assert f"https://colab.research.google.com/github/{owner}/{name}/blob/{branch}/{chapter}" in links
        assert f"https://mybinder.org/v2/gh/{owner}/{name}/{branch}?urlpath=lab/tree/{chapter}" in links
        assert f"../_sources/{chapter}" in links
        sources = [[cell.source for cell in notebook.read(folder / chapter).cells]
                   for folder in (site / "_sources", notebook.book_root())]
        assert sources[0] == sources[1]


def test_every_mention_of_the_repository_is_the_one_of_the_setting():
    root, repository = notebook.book_root(), CONFIG["repository"]["url"]
    for path in [*root.glob("book/*.md"), root / "pyproject.toml", root / "CITATION.cff", root / "LICENSE-text"]:
        found = re.findall(r"https://github\.com/[\w-]+/medtutor\b", path.read_text(encoding="utf-8"))
        assert set(found) <= {repository}, path.name


def test_a_chapter_says_what_it_takes(pages, site):
    for path, soup in content(pages, site).items():
        if path.parent.name == "chapters":
            facts = soup.select_one(".chapter-facts").text
            assert re.search(r"[\d.]+ (min|s), [\d,]+ MB of memory, (nothing to download|downloads [\d,]+ MB)\.", facts)
            assert re.search(r"On real data, if you like: .+, ([\d.]+ MB|size unknown)\.$", facts), path.name


def test_other_addresses_lead_on(open_page, site):
    moved = yaml.safe_load((notebook.book_root() / "book" / "moved.yml").read_text(encoding="utf-8"))
    assert moved
    for old, new in moved.items():
        page = open_page(old)
        page.wait_for_url(f"**/{new}.html")
        assert page.get_by_role("heading", level=1).is_visible()
        assert not [problem for problem in page.problems if not HARMLESS.search(problem)]
    page = open_page("404")
    page.goto(page.url.replace("404.html", "book/executions.html#versions"))
    page.wait_for_url("**/book/status.html#versions")
    page = open_page("book/executions", java_script_enabled=False)
    page.wait_for_url("**/book/status.html")


def test_the_site_can_be_found_and_shared(pages, site):
    base = CONFIG["html"]["baseurl"]
    listed = re.findall("<loc>(.*?)</loc>", (site / "sitemap.xml").read_text(encoding="utf-8"))
    addresses = {f"{base}{path.relative_to(site).as_posix()}" for path in content(pages, site)}
    assert set(listed) == {address for address in addresses if not address.endswith("-solutions.html")}
    for path, soup in content(pages, site).items():
        card = {tag["property"]: tag["content"] for tag in soup.find_all("meta", property=True)}
        assert card["og:title"].strip()
        assert card["og:url"] == f"{base}{path.relative_to(site).as_posix()}"
        assert (site / card["og:image"].removeprefix(base)).exists()
    assert pages[site / "404.html"].select_one("a#home")["href"] == "book/index.html"
