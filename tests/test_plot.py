"""Figures: readable, small, and never without alt text."""

import io
from base64 import b64decode

import numpy as np
import pytest
import torch
from matplotlib import colors, pyplot, rcParamsDefault
from PIL import Image

from medtutor import plot

ALT = "Two lines fall from one towards zero."


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda *data, **options: calls.append((*data, options)))
    return calls


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(plot.png(figure))).convert("RGB"))


def near(picture: np.ndarray, colour: str) -> int:
    """How many pixels have about this colour."""
    wanted = np.array(colors.to_rgb(colour)) * 255
    return int((np.abs(picture.astype(float) - wanted).max(-1) < 12).sum())


def test_show_displays_one_png_with_alt_text_and_closes_the_figure(shown):
    figure = pyplot.figure()
    plot.show(figure, alt="Two lines fall\n   from one towards zero.")
    ((data, options),) = shown
    assert options == {"raw": True, "metadata": {"image/png": {"alt": ALT}}}
    assert data["text/plain"] == ALT
    assert set(data) == {"image/png", "text/plain"}
    assert Image.open(io.BytesIO(b64decode(data["image/png"]))).format == "PNG"
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("alt", ["", "   ", None, "figure", "a loss curve", "A loss curve that falls"])
def test_show_refuses_a_figure_without_a_sentence(shown, alt):
    with pytest.raises(ValueError, match="alt must be a full sentence"):
        plot.show(plot.curves({"a": [1, 0]}), alt)
    assert shown == []


def test_with_alt_the_helpers_show_and_without_they_return(shown):
    assert plot.curves({"a": [1, 0]}, alt=ALT) is None
    assert len(shown) == 1
    assert plot.curves({"a": [1, 0]}).axes
    assert len(shown) == 1


def test_the_palette_survives_red_green_blindness():
    """Machado, Oliveira and Fernandes (2009), deuteranopia and protanopia at full severity, in linear RGB."""
    deuteran = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protan = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])

    def closest(palette, matrix):
        linear = np.array([colors.to_rgb(c) for c in palette]) ** 2.2 @ matrix.T
        seen = linear.clip(0, 1) ** (1 / 2.2)
        return min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])

    default = rcParamsDefault["axes.prop_cycle"].by_key()["color"][:8]
    for matrix in (deuteran, protan):
        assert closest(plot.PALETTE, matrix) > 1.5 * closest(default, matrix)
        assert closest(plot.PALETTE[:4], matrix) > 0.25
    assert len(set(plot.PALETTE)) == 8


def test_pictures_are_opaque_small_and_the_same_every_time():
    noise = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    file, again = (plot.png(plot.images([list(noise)] * 2, titles=["input", "result"])) for _ in range(2))
    assert file == again
    assert len(file) < 60_000
    picture = Image.open(io.BytesIO(file))
    assert picture.mode in ("P", "RGB")
    assert "transparency" not in picture.info
    assert tuple(np.asarray(picture.convert("RGB"))[0, 0]) == (255, 255, 255)
    assert picture.width <= plot.WIDTH * 110


@pytest.mark.parametrize("fill", [False, True])
def test_masks_are_drawn_in_the_colour_of_their_class(fill):
    mask = torch.zeros(32, 32, dtype=torch.long)
    mask[4:12, 4:12], mask[20:28, 20:32] = 1, 2
    dark = torch.zeros(1, 32, 32)
    picture = pixels(plot.images([dark], masks=[mask], fill=fill))
    for colour in plot.PALETTE_ON_GREY[:2]:
        shade = colors.to_hex(np.array(colors.to_rgb(colour)) * (0.45 if fill else 1))
        assert near(picture, shade) > 50
    assert near(picture, plot.PALETTE_ON_GREY[2]) == 0
    layers = torch.stack([mask == 1, mask == 2])
    assert np.array_equal(picture, pixels(plot.images([dark], masks=[layers], fill=fill)))


def test_an_empty_or_absent_mask_changes_nothing():
    image = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    bare = pixels(plot.images([image]))
    assert np.array_equal(bare, pixels(plot.images([image], masks=[None])))
    assert np.array_equal(bare, pixels(plot.images([image], masks=[torch.zeros(16, 16, dtype=torch.long)])))


def test_a_column_shares_its_grey_window():
    dim, bright = torch.full((1, 8, 8), 0.5), torch.full((1, 8, 8), 1.0)
    dim[0, 0, 0] = bright[0, 0, 0] = 0
    figure = plot.images([[dim, bright], [bright, bright]])
    windows = [ax.images[0].get_clim() for ax in figure.axes]
    assert windows == [(0.0, 1.0)] * 4
    assert plot.images([[dim]], window=(-1, 2)).axes[0].images[0].get_clim() == (-1, 2)


def test_layouts_of_the_same_picture_are_equal():
    colour = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = pixels(plot.images([colour]))
    for same in (colour.permute(1, 2, 0), (colour.permute(1, 2, 0) * 255).round().byte(), colour[None][0].numpy()):
        assert np.abs(pixels(plot.images([same])).astype(int) - expected).max() <= 2
    assert len(plot.images(torch.zeros(3, 1, 8, 8)).axes) == 3


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: plot.images([torch.zeros(2, 8, 8)]), "a picture must be"),
    (lambda: plot.images([torch.zeros(8, 8)], masks=[None, None]), "nested like rows"),
    (lambda: plot.intervals({"a": (0.5, 0.6, 0.7)}, "Dice"), "must hold its estimate"),
    (lambda: plot.intervals({"a": (0.5, 0.4, 0.7)}, "Dice", baseline="b"), "baseline must be one of"),
])
def test_misuse_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_intervals_draws_each_estimate_and_greys_the_baseline():
    figure = plot.intervals({"plain": (0.8, 0.7, 0.9), "idea": (0.85, 0.84, 0.86)}, "Dice", baseline="plain")
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["plain", "idea"]
    bars = [c.lines[2][0].get_segments()[0][:, 0] for c in ax.containers]
    assert np.allclose(bars, [[0.7, 0.9], [0.84, 0.86]])
    assert [c.lines[0].get_color() for c in ax.containers] == [plot.GREY, plot.BLUE]
    assert ax.yaxis_inverted()


def test_curves_differ_by_colour_and_dashes_and_smoothing_keeps_the_mean():
    noisy = np.random.default_rng(0).random(100)
    figure = plot.curves({"a": noisy, "b": torch.linspace(1, 0, 100)}, smooth=100)
    (ax,) = figure.axes
    a, b = ax.lines
    assert a.get_color() != b.get_color()
    assert a.get_linestyle() != b.get_linestyle()
    assert np.allclose(a.get_ydata(), [noisy.mean()])
    assert list(a.get_xdata()) == [100]
