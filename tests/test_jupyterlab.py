"""The stored output of `explore` in a real JupyterLab: alive where trusted, elsewhere a still and its words."""

import pytest
from labs import jupyterlab
from test_widgets import ALT, caption, chromium, html, needs_browser, no_kernel, state, still  # noqa: F401

pytestmark = needs_browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves trusted.ipynb and untrusted.ipynb, both with the same output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDTUTOR_LIVE", "0")
        shown = html(radius=[3, 6, 9], colour=["white", "grey"], start={"radius": 6})
    with jupyterlab(tmp_path_factory.mktemp("lab"), {"text/html": shown, "text/plain": ALT}) as address:
        yield address


@pytest.fixture
def opened(lab, chromium):  # noqa: F811
    """`opened(name)`: the figure in the notebook of that name, in a page that reaches nothing but this JupyterLab."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(lab) else route.abort())

    def figure(name):
        page = context.new_page()
        page.goto(f"{lab}/doc/tree/{name}.ipynb")
        widget = page.locator(".medtutor-explore")
        widget.wait_for(timeout=60_000)
        return widget

    yield figure
    context.close()


def test_a_trusted_notebook_plays_its_stored_frames(opened):
    widget = opened("trusted")
    before = state(widget)
    assert before[1:] == (f"{ALT} {caption(6, 'white')}", caption(6, "white"))
    widget.get_by_role("slider").press("ArrowRight")
    larger = state(widget)
    assert larger[2] == caption(9, "white")
    widget.get_by_role("combobox").select_option(label="grey")
    grey = state(widget)
    assert grey[2] == caption(9, "grey")
    assert len({before[0], larger[0], grey[0]}) == 3
    widget.get_by_role("button", name="Next radius").click()  # one value a press, so that no clock decides
    assert state(widget)[2] == caption(3, "grey"), "from its last value it starts again"


def test_a_notebook_that_is_not_trusted_shows_the_still_and_its_words(opened):
    widget = opened("untrusted")
    assert still(widget) == (f"{ALT} {caption(6, 'white')}", caption(6, "white"))
    assert widget.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    assert widget.locator("input, select, button, canvas").count() == 0
