"""`view` in a real browser without a network: what it shows are the numbers that it was given."""

import re
from html import escape

import numpy as np
import pytest
from test_widgets import chromium, needs_browser, opened  # noqa: F401

from medtutor import viewer

ALT = "A bright ball on a dark ground, cut into slices."


def ball(n=5, size=24):
    z, y, x = np.mgrid[-2:2:n * 1j, -2:2:size * 1j, -2:2:size * 1j]
    return np.sqrt(x**2 + y**2 + z**2)


IMAGE = 200 - 300 * ball()
TRUTH = (ball() < 1.2).astype(int) + (ball() < 0.5)
PROBABILITY = 1 / (1 + np.exp(4 * (ball() - 1.5)))


def html(image=IMAGE, **options):
    with pytest.MonkeyPatch.context() as patch:
        shown = []
        patch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
        viewer.view(image, **{"alt": ALT} | options)
    return shown[0]["text/html"]


def drawn(page, n=0):
    """The pixels (H, W, 3) on the canvas of figure `n`."""
    page.wait_for_function(f"document.querySelectorAll('.medtutor-view')[{n}].dataset.ready == 'drawn'")
    flat = page.evaluate(f"""() => {{ const c = document.querySelectorAll('canvas')[{n}];
      return [c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data] }}""")
    return np.array(flat[1:]).reshape(-1, flat[0], 4)[..., :3]


def slide(page, name, value):
    page.get_by_role("slider", name=name).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})) }", str(value))


@needs_browser
def test_every_slice_under_every_window_is_the_image(chromium):  # noqa: F811
    with opened(chromium, html(window=(-400, 200), unit="HU")) as page:
        for n in (0, 2, 4):
            slide(page, "slice", n)
            for low, high in ((-400, 200), (-100, 100)):
                slide(page, "level", (low + high) / 2)
                slide(page, "width", high - low)
                shown = float(page.get_by_role("slider", name="width").input_value())
                middle = float(page.get_by_role("slider", name="level").input_value())
                expected = ((IMAGE[n] - middle) / shown * 255 + 127.5).clip(0, 255)
                step = np.ptp(IMAGE) / 255 / shown * 255
                assert np.abs(drawn(page)[..., 0] - expected).max() <= step / 2 + 1
        assert page.locator("figcaption").text_content().startswith("slice 5. Window:")


@needs_browser
@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_a_value_is_read_where_one_points(chromium, by):  # noqa: F811
    with opened(chromium, html(truth=TRUTH, names=["shell", "core"], unit="HU"), has_touch=True) as page:
        drawn(page)
        row, column, canvas = 9, 14, page.locator("canvas")
        box = canvas.bounding_box()
        x, y = box["x"] + (column + 0.5) / 24 * box["width"], box["y"] + (row + 0.5) / 24 * box["height"]
        if by == "mouse":
            page.mouse.move(x, y)
        elif by == "touch":
            page.touchscreen.tap(x, y)
        else:
            for key in ["ArrowUp"] * 3 + ["ArrowRight"] * 2:
                canvas.press(key)
        found = re.search(r"row (\d+), column (\d+): (-?\d+) HU, (\w+)", page.locator("p[aria-live]").text_content())
        assert found.group(1, 2) == (str(row), str(column))
        assert abs(int(found.group(3)) - IMAGE[2, row, column]) <= np.ptp(IMAGE) / 255
        assert found.group(4) == ["background", "shell", "core"][TRUTH[2, row, column]]


@needs_browser
def test_the_threshold_gives_the_dice_and_colours_of_what_is_shown(chromium):  # noqa: F811
    with opened(chromium, html(IMAGE[2], truth=TRUTH[2] > 0, probability=PROBABILITY[1:4], axis="epoch")) as page:
        for epoch in range(3):
            slide(page, "epoch", epoch)
            for cut in (0.2, 0.5, 0.8):
                slide(page, "threshold", cut)
                guess, truth = np.round(PROBABILITY[epoch + 1] * 255) / 255 >= cut, TRUTH[2] > 0
                dice = 2 * (guess & truth).sum() / (guess.sum() + truth.sum())
                text = page.locator("figcaption").text_content()
                assert text.startswith(f"epoch {epoch + 1}. ")
                assert text.endswith(f"At threshold {cut:.2f}: Dice {dice:.3f}.")
                coloured = np.ptp(drawn(page), axis=-1) > 20
                assert np.array_equal(coloured, guess | truth)
        page.get_by_label("overlay").uncheck()
        assert np.ptp(drawn(page), axis=-1).max() == 0


@needs_browser
def test_controls_work_by_keyboard_in_a_sandboxed_frame(chromium):  # noqa: F811
    frame = f'<iframe sandbox="allow-scripts" srcdoc="{escape(html())}" width=600 height=700></iframe>'
    with opened(chromium, frame) as page:
        inside = page.frame_locator("iframe")
        inside.get_by_role("slider", name="slice").press("End")
        assert inside.locator("figcaption").text_content().startswith("slice 5.")
        inside.get_by_role("slider", name="slice").press("Home")
        assert inside.locator("figcaption").text_content().startswith("slice 1.")


@needs_browser
def test_without_javascript_the_middle_slice_stands(chromium):  # noqa: F811
    with opened(chromium, html(), java_script_enabled=False) as page:
        assert page.get_by_alt_text(ALT).bounding_box()["width"] == 384
        assert page.locator("input").count() == 0


@needs_browser
def test_twenty_figures_wait_until_they_are_near(chromium):  # noqa: F811
    page_body = "".join(html(IMAGE + i) for i in range(20))
    assert len(page_body.encode()) < 5_000_000
    with opened(chromium, page_body) as page:
        drawn(page)
        assert page.locator("[data-ready=waiting]").count() >= 15
        page.locator(".medtutor-view").last.scroll_into_view_if_needed()
        page.wait_for_function("[...document.querySelectorAll('.medtutor-view')].at(-1).dataset.ready == 'drawn'")


def test_the_output_is_deterministic_self_contained_and_within_the_budget():
    noise = np.random.default_rng(0).random((12, 96, 96))
    text = html(noise)
    assert text == html(noise)
    assert len(text.encode()) <= viewer.BYTES
    assert not re.search(r"(https?:)?//[a-z]|<link|require\(|@import", re.sub(r'"data:[^"]*"', "", text))
    with pytest.raises(ValueError, match="do not fit into 250 kB"):
        html(np.random.default_rng(0).random((40, 128, 128)))


@pytest.mark.parametrize(("options", "sentence"), [
    ({"alt": "ball"}, "full sentence"),
    ({"truth": TRUTH[:, :9]}, "must agree in size"),
    ({"probability": PROBABILITY}, "give truth as well"),
    ({"probability": 2 * PROBABILITY, "truth": TRUTH}, "must lie in 0..1"),
    ({"labels": ["a"]}, "5 slices and 0 classes, but got 1 labels"),
    ({"image": np.full((4, 4), np.nan)}, "must be finite"),
])
def test_misuse_gets_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        html(**options)
