"""The site in a real Chromium with no network: it fits the screen, loads its pictures and raises no errors."""

import re
import shutil

import pytest

pytestmark = pytest.mark.site
PAGES = ("book/index", "book/claims", "book/papers", "book/patient", "book/data", "book/status", "book/glossary",
         "chapters/01-unet-and-attention")
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
#: Errors of the theme and of the widget manager that do no harm.
HARMLESS = re.compile("THEBE_JS_URL|Got invalid theme mode|reading 'Queue'")

CONTRASTS = """() => {
  const luminance = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  return [...document.querySelectorAll(".verdict")].map(element => {
    const style = getComputedStyle(element);
    const [low, high] = [style.color, style.backgroundColor].map(c => luminance(numbers(c))).sort((a, b) => a - b);
    return [element.textContent, (high + 0.05) / (low + 0.05)];
  });
}"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, site):
    """`open_page(name, width, scheme)`: the page, with its uncaught errors in `page.errors`."""
    contexts = []

    def opened(name, width="desktop", scheme="light"):
        w, h = WIDTHS[width]
        context = browser.new_context(viewport={"width": w, "height": h}, color_scheme=scheme)
        contexts.append(context)
        context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(("file:", "data:"))
                      else route.abort())
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((site / f"{name}.html").as_uri(), wait_until="load")
        page.errors = errors
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_the_screen_with_all_pictures_and_no_errors(open_page, name, width):
    page = open_page(name, width)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, "the page scrolls sideways"
    broken = page.evaluate("[...document.images].filter(i => i.loading != 'lazy')"
                           ".filter(i => !i.complete || i.naturalWidth == 0).map(i => i.src)")
    assert not broken
    assert not [error for error in page.errors if not HARMLESS.search(error)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_verdicts_can_be_read_in_both_themes(open_page, scheme):
    page = open_page("book/claims", scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) >= 5
    assert min(ratio for _, ratio in contrasts) >= 4.5, contrasts


def test_wide_tables_scroll_in_their_own_box(open_page):
    page = open_page("book/claims", "phone")
    inside = page.evaluate("[...document.querySelectorAll('.table-scroll')].map(b => b.scrollWidth > b.clientWidth)")
    assert any(inside), "the ledger is wider than a phone, so its box scrolls"
    assert page.evaluate("[...document.querySelectorAll('article .table-scroll')].every(b => b.tabIndex === 0)")


def test_search_finds_a_clinical_term_without_a_server(open_page):
    page = open_page("search")
    page.goto(page.url + "?q=cardiomegaly")
    page.wait_for_selector("ul.search li a", timeout=10_000)
    found = page.eval_on_selector_all("ul.search li a", "all => all.map(a => a.href)")
    assert any("glossary" in link for link in found)
