"""The ledger, the paper index and the search are tools: rows are found, chosen and sorted, hits lead to their place."""

import pytest
import yaml

from medtutor import notebook

pytestmark = pytest.mark.site
ROWS = "[...document.querySelectorAll('table[data-tools] tbody tr')].filter(r => r.offsetParent)"


def shown(page, then: str) -> list:
    return page.evaluate(f"{ROWS}.map(row => {then})")


def test_the_ledger_is_chosen_by_menus_words_and_address(open_page):
    page = open_page("book/claims")
    every = shown(page, "row.dataset.verdict")
    for verdict in sorted(set(every)):
        page.locator("select[name=verdict]").select_option(verdict)
        assert shown(page, "row.dataset.verdict") == [verdict] * every.count(verdict)
        assert page.get_by_role("status").text_content() == f"{every.count(verdict)} of {len(every)} claims"
    page.locator("select[name=verdict]").select_option("all")
    paper = shown(page, "row.dataset.paper")[0]
    page.locator("select[name=paper]").select_option(paper)
    assert set(shown(page, "row.dataset.paper")) == {paper}
    page.get_by_label("Find").fill("no such words")
    assert shown(page, "1") == []
    page.goto(page.url + "?verdict=reversed")
    assert set(shown(page, "row.dataset.verdict")) == {"reversed"}


def test_a_column_sorts_up_down_and_back_by_keyboard(open_page):
    page = open_page("book/claims")
    before = shown(page, "row.textContent")
    head = page.locator("th", has=page.get_by_role("button", name="Verdict"))
    for order in ("ascending", "descending"):
        head.get_by_role("button").press("Enter")
        verdicts = shown(page, "row.dataset.verdict")
        assert verdicts == sorted(verdicts, reverse=order == "descending") != before
        assert head.get_attribute("aria-sort") == order
    head.get_by_role("button").press("Enter")
    assert shown(page, "row.textContent") == before


def test_the_ledger_and_the_index_are_whole_without_javascript(open_page):
    for name in ("book/claims", "book/papers"):
        page = open_page(name, java_script_enabled=False)
        rows = page.locator("table[data-tools] tbody tr")
        assert rows.count() == page.locator("table[data-tools] tbody tr:visible").count() > 0


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_the_index_finds_a_paper_by_method_title_author_and_year(open_page, size):
    page = open_page("book/papers", size)
    paper = next(paper for paper in notebook.papers() if paper["id"] == "msa-guided-attention")
    for words in (paper["id"], paper["title"].upper(), f"{paper['authors'].split()[0]} {paper['year']}"):
        page.get_by_label("Find").fill(words)
        titles = shown(page, "row.querySelector('.title').textContent")
        assert paper["title"] in titles
        assert len(titles) < 10
        assert page.locator("article section section:visible").count() <= len(titles), "empty parts are hidden"
    page.get_by_label("Find").fill("")
    page.get_by_label("Status").select_option("written")
    assert len(shown(page, "1")) == len([1 for link in shown(page, "row.cells[1].querySelector('a')?.href") if link])


def test_every_paper_leads_to_its_reference(open_page):
    page = open_page("book/papers")
    links = shown(page, "row.cells[2].querySelector('a').getAttribute('href')")
    assert links == [f"bibliography.html#ref-{paper['id']}" for paper in _in_reading_order()]


def _in_reading_order() -> list[dict]:
    by_number = {paper["n"]: paper for paper in notebook.papers()}
    chapters = yaml.safe_load((notebook.book_root() / "book" / "chapters.yml").read_text(encoding="utf-8"))
    return [by_number[n] for chapter in chapters for n in chapter["papers"]]


@pytest.mark.parametrize(("query", "place"), [
    ("cardiomegaly", "book/glossary"),
    ("MEDUSA", "chapters/01-unet-and-attention"),
    ("LightM-UNet lightweight UNet", "book/papers"),
])
def test_search_finds_terms_methods_and_titles_and_opens_the_hit(open_page, query, place):
    page = open_page("book/index")
    page.get_by_role("button", name="Search").first.click()
    page.locator("#pst-search-dialog input[name=q]").fill(query)
    page.keyboard.press("Enter")
    hit = page.locator(f"ul.search li a[href*='{place}.html']").first
    hit.wait_for(timeout=20_000)
    hit.click()
    page.wait_for_url(f"**/{place}.html*")
    words = [word.lower() for word in query.split()]
    assert all(word in page.locator("article").text_content().lower() for word in words)
