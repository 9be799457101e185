"""Everybody can read the site: no finding of axe-core, a way past the navigation, figures that hold their place."""

import pytest
from conftest import ROOT, SIZES
from test_browser import CHAPTER

pytestmark = pytest.mark.site
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_in_either_theme(open_page, names, size):
    findings = []
    for name in names:
        page = open_page(name, size, bypass_csp=True)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(f"(document.documentElement.dataset.theme ?? '{scheme}') == '{scheme}'")
            page.evaluate("Promise.all(document.getAnimations().map(animation => animation.finished))")
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            findings += [f"{name}, {scheme}: {v['id']}: {node['html'][:160]}" for v in found for node in v["nodes"]]
        page.context.close()
    assert not findings, "\n".join(findings)


def test_the_first_tab_stop_leads_past_the_navigation(open_page):
    page = open_page("book/index")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to main content"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main-content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_the_contents_of_a_page_open_as_a_drawer_and_close_again(open_page):
    page = open_page(CHAPTER)
    page.locator("button.secondary-toggle").click()
    drawer = page.locator("dialog.bd-sidebar-secondary[open]")
    assert drawer.get_by_text("Side by side").is_visible()
    page.keyboard.press("Escape")
    assert drawer.count() == 0


def test_a_line_of_120_characters_fits_into_the_column_and_text_stays_readable(open_page):
    page = open_page(CHAPTER)
    page.evaluate("document.fonts.ready")
    scrolling = page.evaluate("""[...document.querySelectorAll('.cell_input pre')].filter(pre => pre.offsetParent &&
      pre.scrollWidth > pre.clientWidth).map(pre => pre.textContent.split('\\n').map(l => l.length))""")
    assert not [max(lengths) for lengths in scrolling if max(lengths) <= 120]
    widths = page.evaluate("[...document.querySelectorAll('article section > p')].map(p => p.clientWidth)")
    assert max(widths) < 760


WATCH = """window.shifts = [];
  new PerformanceObserver(list => list.getEntries().forEach(entry => shifts.push([entry.value,
    entry.sources.map(source => source.node?.nodeName + '.' + source.node?.className)])))
    .observe({type: 'layout-shift', buffered: true})"""
WEIGHT = """[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]
  .reduce((sum, entry) => [sum[0] + entry.encodedBodySize, sum[1] + entry.decodedBodySize], [0, 0])"""


def read_through(page) -> None:
    """Scroll to the end of the page, and wait for every picture that loads on the way."""
    for y in range(0, page.evaluate("document.documentElement.scrollHeight"), 600):
        page.evaluate("y => { scrollTo(0, y); return new Promise(requestAnimationFrame) }", y)
    page.wait_for_function("""[...document.images].every(image => image.complete) &&
      [...document.querySelectorAll('.medtutor-view')].every(view => view.dataset.ready === 'drawn')""")


@pytest.mark.parametrize("size", SIZES)
def test_nothing_moves_while_a_page_loads_and_is_read(open_page, names, size):
    restless = {}
    for name in names:
        for _ in range(3):  # where other processes hold back a font once, it is not the page's fault
            page = open_page(name, size, before=WATCH)
            read_through(page)
            shifts = page.evaluate("shifts")
            page.context.close()
            if sum(value for value, _ in shifts) <= 0.05:
                break
        else:
            restless[name] = shifts
    assert not restless


def test_pages_are_light(open_page, names):
    """A first screen takes at most 0.7 MB over the network, and a page read to its end 1.5 MB, or 3 MB once unpacked.

    The gallery of the digital patient is a page of pictures and has 2.5 MB.
    """
    heavy = {}
    for name in names:
        page = open_page(name)
        first, _ = page.evaluate(WEIGHT)
        read_through(page)
        whole, unpacked = page.evaluate(WEIGHT)
        if first > 700_000 or whole > (2_500_000 if name == "book/patient" else 1_500_000) or unpacked > 3_000_000:
            heavy[name] = (first, whole, unpacked)
        page.context.close()
    assert not heavy, "bytes of the first screen, of the whole page, and unpacked"


def test_a_chapter_shows_its_first_words_within_a_second(browser, address):
    painted = []
    for _ in range(3):  # the quickest of three: other processes of a busy machine are not the page's fault
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/{CHAPTER}.html", wait_until="load")
        painted.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        page.close()
    assert min(painted) <= 1000
