"""Every page in a real Chromium that reaches nothing but the site: complete, in place, and without errors."""

import pytest
from conftest import HARMLESS, SIZES

pytestmark = pytest.mark.site
CHAPTER = "chapters/01-unet-and-attention"


def complete(page) -> None:
    """Assert that all pictures have loaded, those further down too, and that every formula is set."""
    page.evaluate("""() => Promise.all([...document.images].map(image => {
      image.loading = 'eager'; return image.complete || image.decode().catch(() => {}) }))""")
    broken = page.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth == 0).map(i => i.src)")
    assert not broken
    if page.locator("article .math").count():
        unset = page.evaluate("""[...document.querySelectorAll('article .math')].filter(math =>
          !math.querySelector('mjx-container mjx-math') || math.querySelector('mjx-merror')).map(m => m.textContent)""")
        assert not unset, f"formulas that are not set: {unset}"
        fonts = page.evaluate("""document.fonts.ready.then(all =>
          [...all].filter(font => font.family.startsWith('MJX')).map(font => font.status))""")
        assert "loaded" in fonts
        assert "error" not in fonts


@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_complete_and_asks_nothing_of_other_hosts(open_page, names, size):
    for name in names:
        page = open_page(name, size)
        complete(page)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, f"{name} scrolls sideways"
        assert not [p for p in page.problems if not HARMLESS.search(p)], name
        page.context.close()


def test_pages_work_from_a_folder_without_a_server(open_page, site):
    for name in ("book/index", "book/notation", CHAPTER):
        page = open_page(name, at=site.as_uri())
        complete(page)
        assert not [p for p in page.problems if not HARMLESS.search(p)], name


def test_wide_tables_scroll_in_their_own_box_for_the_keyboard_too(open_page):
    page = open_page(CHAPTER, "phone")
    boxes = page.evaluate("""[...document.querySelectorAll(
      'article :is(.table-scroll, .pst-scrollable-table-container)')]
      .map(box => [box.scrollWidth > box.clientWidth, box.tabIndex === 0, box.ariaLabel])""")
    assert {wide for wide, _, _ in boxes} == {True, False}
    assert all(wide == reached == bool(name) for wide, reached, name in boxes)


@pytest.mark.parametrize("name", ["book/claims", "book/papers", "book/data", "book/status"])
def test_a_phone_stacks_the_cells_of_a_wide_table(open_page, name):
    page = open_page(name, "phone")
    rows = page.locator("table.stack tbody tr")
    assert rows.count()
    assert page.evaluate("[...document.querySelectorAll('.table-scroll')].every(b => b.scrollWidth <= b.clientWidth)")
    cell = rows.first.locator("td").last
    label = cell.get_attribute("data-label")
    assert label in cell.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert cell.bounding_box()["y"] > rows.first.locator("th").bounding_box()["y"]
    snapshot = page.locator("table.stack").first.aria_snapshot()
    assert "- rowheader" in snapshot
    assert "- cell" in snapshot


def test_formulas_and_pictures_are_there_without_javascript(open_page):
    page = open_page(CHAPTER, java_script_enabled=False)
    assert page.locator(".math mjx-math").count() == page.locator(".math").count() > 20
    assert page.locator(".medtutor-explore img").first.is_visible()


def test_search_finds_a_clinical_term_without_a_server(open_page, site):
    page = open_page("search", at=site.as_uri())
    page.goto(page.url + "?q=cardiomegaly")
    page.wait_for_selector("ul.search li a", timeout=10_000)
    found = page.eval_on_selector_all("ul.search li a", "all => all.map(a => a.href)")
    assert any("glossary" in link for link in found)


def test_a_missing_page_leads_back_from_any_depth(open_page, address, site):
    for name in ("gone", "chapters/gone", "book/old/gone"):
        page = open_page("404")
        page.evaluate("name => history.replaceState({}, '', name)", f"{address}/{name}.html")
        page.set_content((site / "404.html").read_text(encoding="utf-8"))
        assert page.evaluate("document.getElementById('home').href") == f"{address}/book/index.html"


def test_the_volume_of_the_patient_moves_without_a_kernel(open_page):
    page = open_page("book/patient", "phone", has_touch=True)
    viewer = page.locator(".medtutor-view")
    viewer.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.medtutor-view').dataset.ready == 'drawn'")
    before = viewer.locator("figcaption").text_content()
    viewer.get_by_role("slider", name="slice").press("ArrowRight")
    assert viewer.locator("figcaption").text_content() != before
    viewer.locator("canvas").tap()
    assert "HU" in viewer.locator("p[aria-live]").text_content()
    assert not [p for p in page.problems if not HARMLESS.search(p)]
