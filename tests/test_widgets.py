"""`explore` as a reader meets it: a real browser, a real kernel, no network."""

import json
import re
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from medtutor import plot, widgets

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the widgets are not tested")
ALT = "A bright disc on a dark ground grows with its radius."


def disc(radius, colour="white"):
    y, x = np.mgrid[-16:16, -16:16]
    return (x**2 + y**2 < radius**2) * {"white": 1.0, "grey": 0.5}[colour]


def caption(radius, colour):
    return f"A {colour} disc covers {int((disc(radius, colour) > 0).sum())} pixels & <more>."


def html(draw=disc, caption=caption, start=None, alt=ALT, **controls):
    """What `explore` displays without a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        shown = []
        patch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
        widgets.explore(draw, alt=alt, caption=caption, start=start, **controls)
    (output,) = shown
    assert output["text/plain"] == alt
    return output["text/html"]


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch):
    monkeypatch.setenv("MEDTUTOR_LIVE", "0")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium, body, **options):
    """A page with `body`, with every request blocked; fails on a request, a console error or an exception."""
    context = chromium.new_context(**options)
    page, problems = context.new_page(), []
    context.route("**/*", lambda route: (problems.append(route.request.url), route.abort()))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.set_content(f"<!doctype html><html lang=en><title>t</title><main>{body}</main></html>")
    yield page
    context.close()
    assert problems == []


def state(widget):
    """The picture shown (its pixels, as a PNG), its description and the caption."""
    canvas = widget.locator("canvas")
    canvas.scroll_into_view_if_needed()
    shown = canvas.evaluate("canvas => canvas.toDataURL()")
    return shown, canvas.get_attribute("aria-label"), widget.locator("figcaption").text_content()


def still(widget):
    return widget.locator("img").get_attribute("alt"), widget.locator("figcaption").text_content()


@needs_browser
def test_every_frame_is_reached_by_keyboard_and_menu(chromium):
    radii, colours = [3, 6, 9], ["white", "grey"]
    with opened(chromium, html(radius=radii, colour=colours)) as page:
        widget, seen = page.locator(".medtutor-explore"), {}
        slider, menu = page.get_by_role("slider"), page.get_by_label("colour")
        for colour in colours:
            menu.select_option(label=colour)
            slider.focus()
            page.keyboard.press("Home")
            for radius in radii:
                source, alt, text = state(widget)
                assert text == caption(radius, colour)
                assert alt == f"{ALT} {text}"
                assert slider.get_attribute("aria-valuetext") == str(radius)
                seen[radius, colour] = source
                page.keyboard.press("ArrowRight")
        assert len(set(seen.values())) == 6
        # The browser shows the very pixels that were drawn.
        decoded = page.evaluate("""async source => {
            const image = new Image(); image.src = source; await image.decode();
            const canvas = document.createElement('canvas'); canvas.width = image.width; canvas.height = image.height;
            const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);
            return Array.from(context.getImageData(0, 0, image.width, image.height).data).filter((_, i) => i % 4 == 0)
        }""", seen[6, "grey"])
        assert np.array_equal(np.array(decoded).reshape(32, 32), (disc(6, "grey") * 255).round())


@needs_browser
def test_mouse_and_touch_move_the_slider(chromium):
    body = html(radius=[3, 6, 9], colour=["white"])
    with opened(chromium, body, has_touch=True, viewport={"width": 375, "height": 700}) as page:
        widget, slider = page.locator(".medtutor-explore"), page.get_by_role("slider", name="radius")
        before, box = state(widget), slider.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        middle = state(widget)
        page.touchscreen.tap(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
        page.wait_for_function("document.querySelector('input').value == '2'")
        after = state(widget)
        assert [s[2] for s in (before, middle, after)] == [caption(r, "white") for r in (3, 6, 9)]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert box["height"] >= 24


@needs_browser
def test_two_widgets_on_a_page_are_independent_even_when_equal(chromium):
    first, other = html(radius=[3, 6], colour=["white"]), html(radius=[4, 7], colour=["white", "grey"])
    with opened(chromium, first + other + first) as page:
        found = page.locator(".medtutor-explore")
        before = [state(found.nth(i)) for i in range(3)]
        found.nth(2).locator("input").first.focus()
        page.keyboard.press("ArrowRight")
        after = [state(found.nth(i)) for i in range(3)]
        assert after[:2] == before[:2]
        assert after[2][2] == caption(6, "white") != before[2][2]
        names = set(page.evaluate("Object.getOwnPropertyNames(window)"))
    with opened(chromium, "<img><script>(function () {})()</script>") as page:
        plain = set(page.evaluate("Object.getOwnPropertyNames(window)"))
    assert {name for name in names - plain if not name.isdigit()} == set()


@needs_browser
@pytest.mark.parametrize("wrap", ["sandbox", "reinserted"])
def test_it_runs_in_a_sandboxed_frame_and_when_a_front_end_inserts_it(chromium, wrap):
    body = html(radius=[3, 6], colour=["white"], start={"radius": 6})
    if wrap == "sandbox":  # Colab
        from html import escape
        page_body = f'<iframe sandbox="allow-scripts" srcdoc="{escape(body)}" width=600 height=600></iframe>'
    else:  # JupyterLab sets innerHTML, then replaces each script by a new one
        page_body = "<div id=cell></div>"
    with opened(chromium, page_body) as page:
        scope = page
        if wrap == "sandbox":
            scope = page.frame_locator("iframe")
        else:
            page.evaluate("""body => { const cell = document.getElementById('cell'); cell.innerHTML = body;
                cell.querySelectorAll('script').forEach(old => { const made = document.createElement('script');
                made.textContent = old.textContent; old.replaceWith(made); }); }""", body)
        widget = scope.locator(".medtutor-explore")
        assert state(widget)[2] == caption(6, "white")
        widget.locator("input").first.press("ArrowLeft")
        assert state(widget)[2] == caption(3, "white")


@needs_browser
def test_a_finger_drags_the_slider(chromium):
    body = html(radius=[3, 6, 9], colour=["white"])
    with opened(chromium, body, has_touch=True, viewport={"width": 375, "height": 700}) as page:
        box, touch = page.get_by_role("slider", name="radius").bounding_box(), page.context.new_cdp_session(page)
        y, seen = box["y"] + box["height"] / 2, []
        way = {"touchStart": [4], "touchMove": [box["width"] / 2, box["width"] - 4], "touchEnd": [None]}
        for kind, x in ((kind, x) for kind, stops in way.items() for x in stops):
            points = [] if x is None else [{"x": box["x"] + x, "y": y}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            seen.append(state(page.locator(".medtutor-explore"))[2])
        assert seen[0] == caption(3, "white")
        assert seen[-1] == caption(9, "white")


@needs_browser
def test_play_runs_through_the_values_once_and_pauses(chromium):
    with opened(chromium, html(caption=None, draw=disc, radius=list(range(3, 15)))) as page:
        widget, play = page.locator(".medtutor-explore"), page.get_by_role("button")
        state(widget)
        page.evaluate("""() => { window.seen = []; new MutationObserver(() => seen.push([
          document.querySelector('figcaption').textContent, document.querySelector('canvas').dataset.tile,
          document.querySelector('figcaption').ariaLive])).observe(
          document.querySelector('figcaption'), {childList: true}) }""")
        assert play.get_attribute("aria-label") == "Play radius"
        play.press("Enter")
        assert play.text_content() == "Pause"
        page.wait_for_function("seen.length >= 3")
        play.click()
        assert play.text_content() == "Play"
        play.click()
        page.wait_for_function("document.querySelector('input').value == '11'")
        page.wait_for_function("document.querySelector('button').textContent == 'Play'")
        captions = [text for text, _, _ in page.evaluate("seen")]
        assert captions == [f"radius: {radius}." for radius in range(4, 15)]
        spoken = [live for _, _, live in page.evaluate("seen")]
        assert [*spoken[:2], spoken[-1]] == ["off", "off", "polite"], "a film is not read out, its last frame is"
        play.click()  # from the end it starts again
        page.wait_for_function("document.querySelector('input').value == '0'")


@needs_browser
def test_a_reader_who_asked_for_less_motion_moves_on_one_value_a_press(chromium):
    with opened(chromium, html(caption=None, draw=disc, radius=[3, 6, 9, 12]), reduced_motion="reduce") as page:
        widget, button = page.locator(".medtutor-explore"), page.get_by_role("button")
        state(widget)
        started = page.evaluate("""() => { window.timers = 0; const real = setInterval;
          window.setInterval = (...all) => { timers++; return real(...all) } }""")
        assert started is None
        assert button.get_attribute("aria-label") == "Next radius"
        for radius in (6, 9, 12, 3):
            button.click()
            assert state(widget)[2] == f"radius: {radius}."
        assert page.evaluate("timers") == 0
        page.emulate_media(reduced_motion="no-preference")  # the page hears of it with its next frame
        page.wait_for_function("document.querySelector('button').ariaLabel == 'Play radius'")


@needs_browser
def test_the_first_frame_shows_without_javascript(chromium):
    body = html(radius=[3, 6], colour=["white"], start={"radius": 6})
    with opened(chromium, body, java_script_enabled=False) as page:
        assert still(page.locator(".medtutor-explore")) == (f"{ALT} {caption(6, 'white')}", caption(6, "white"))
        assert page.locator("img").bounding_box()["width"] == 320
        assert page.locator("input, select, button").count() == 0


@needs_browser
def test_twenty_figures_fit_on_one_page_and_wait_until_they_are_near(chromium):
    def noise(step, figure):
        return np.random.default_rng(step + 100 * figure).random((64, 64))

    body = "".join(html(lambda step, n=n: noise(step, n), caption=None, step=list(range(20))) for n in range(20))
    assert len(body.encode()) < 5_000_000
    with opened(chromium, body) as page:
        page.locator("canvas").first.wait_for()
        assert page.locator("img").count() >= 15
        last = page.locator(".medtutor-explore").last
        last.locator("input").press("End")  # the keyboard may be quicker than the eye
        assert state(last)[2] == "step: 19."
        assert page.locator("img").count() >= 10


@needs_browser
def test_the_place_of_the_picture_is_kept_when_the_frames_arrive(chromium):
    place = "document.getElementById('after').getBoundingClientRect().y"
    after = f"<p id=after>after</p><script>window.at = {place}</script>"
    with opened(chromium, html(radius=[3, 6, 9], colour=["white", "grey"]) + after) as page:
        page.locator("canvas").wait_for()
        assert page.evaluate(place) == page.evaluate("at") > 320


@needs_browser
def test_text_follows_the_page_colours_and_the_picture_stays_opaque(chromium):
    dark = "<style>body { background: #121212; color: #eeeeee }</style>"
    with opened(chromium, dark + html(radius=[3, 6], colour=["white"])) as page:
        colour = "e => getComputedStyle(e).color"
        assert page.locator("figcaption").evaluate(colour) == "rgb(238, 238, 238)"
        assert page.locator("label span").first.evaluate(colour) == "rgb(238, 238, 238)"
        assert page.locator("canvas").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"


def test_the_output_is_deterministic_self_contained_and_escaped():
    controls = {"radius": [3, 6], "colour": ["white", "grey"]}
    text = html(**controls)
    assert text == html(**controls)
    assert not re.search(r"(https?:)?//[a-z]|<link|require\(|@import", re.sub(r'"data:[^"]*"', "", text))
    assert "<more>" not in text
    assert text.count("</script>") == 1
    assert text != html(radius=[3, 7], colour=["white", "grey"])


def test_equal_frames_are_stored_once():
    few = html(draw=lambda step: disc(5), caption=None, step=[1])
    many = html(draw=lambda step: disc(5), caption=None, step=list(range(60)))
    sheets = [re.search('"sheet": "(.*?)"', text).group(1) for text in (few, many)]
    assert sheets[0] == sheets[1]


def test_default_caption_names_the_values_and_labels_of_pairs():
    text = html(draw=lambda dose, view: disc(5 + dose), caption=None, dose=[("low", 0), ("high", 1)], view=["PA", "AP"])
    captions = json.loads(re.search(r"var data = (\{.*?\}), ROW", text).group(1))["captions"]
    assert captions[2] == "dose: high, view: PA."


def test_noisy_frames_are_shrunk_into_the_budget_and_refused_where_none_fits():
    def noise(step, size):
        return np.random.default_rng(step).random((size, size))

    text = html(draw=lambda step: noise(step, 160), caption=None, step=list(range(30)))
    assert 50_000 < len(text.encode()) <= widgets.BYTES
    with pytest.raises(ValueError, match="do not fit into 250 kB"):
        html(draw=lambda step: noise(step, 400), caption=None, step=list(range(60)))


def test_a_figure_is_drawn_closed_and_kept_within_the_budget():
    from matplotlib import pyplot

    def draw(power):
        figure, axes = pyplot.subplots()
        axes.plot(np.linspace(0, 1, 50) ** power)
        return figure

    plot.style()
    text = html(draw=draw, caption=None, power=[0.5, 1, 2])
    assert not pyplot.get_fignums()
    assert len(text.encode()) < 80_000
    assert "0.5" in text


@pytest.mark.parametrize(("change", "sentence"), [
    ({"radius": list(range(121))}, "at most 120 combinations of values, but got 121"),
    ({"radius": []}, "'radius' needs at least one value"),
    ({}, "at least one control"),
    ({"alt": "disc", "radius": [1]}, "full sentence"),
    ({"radius": [1, 2], "start": {"radius": 5}}, "its values are"),
    ({"radius": [1, 2], "start": {"size": 1}}, "which are no controls"),
    ({"radius": [1, 2], "draw": lambda radius: np.zeros((radius, 4))}, "same size"),
    ({"radius": [1, 2], "draw": lambda radius: None}, "must return a figure or a picture"),
])
def test_misuse_gets_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        html(**{"draw": lambda radius: disc(radius), "caption": None} | change)
    assert "\n" not in str(error.value)


def test_with_a_front_end_the_figure_is_recomputed(monkeypatch):
    drawn = []

    def draw(radius, colour):
        drawn.append((radius, colour))
        if radius == 9:
            raise RuntimeError("too <large>")
        return disc(radius, colour)

    options = {"radius": [("small", 3), ("large", 6), ("huge", 9)], "colour": [("white", "white"), ("grey", "grey")]}
    box = widgets._live(draw, ALT, caption, options, {"radius": 1, "colour": 0})
    picture, slider, menu = box.children
    assert drawn == [(6, "white")]
    assert "A white disc" in picture.value
    menu.index = 1
    assert drawn[-1] == (6, "grey")
    assert "A grey disc" in picture.value
    slider.index = 2
    assert picture.value == "<pre>RuntimeError: too &lt;large&gt;</pre>"


def test_a_batch_run_is_not_live_and_a_front_end_is(tmp_path, monkeypatch):
    """nbclient (papermill, nbval) executes without stdin, an interactive front end with it."""
    import nbformat
    from jupyter_client.manager import start_new_kernel

    monkeypatch.delenv("MEDTUTOR_LIVE")
    code = "from medtutor import widgets; print(widgets.live())"
    manager, client = start_new_kernel()
    try:
        for interactive in (True, False):
            messages = []
            client.execute_interactive(code, allow_stdin=interactive, timeout=60, output_hook=messages.append)
            printed = "".join(message["content"].get("text", "") for message in messages)
            assert printed.strip() == str(interactive)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert notebook.cells[0].outputs[0]["text"].strip() == "False"
    for value in ("0", "1"):
        monkeypatch.setenv("MEDTUTOR_LIVE", value)
        assert widgets.live() == (value == "1")
