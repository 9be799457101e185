"""One figure style for every chapter: colour-blind safe, opaque (so that dark mode stays readable), with alt text.

`images`, `intervals` and `curves` make the three figures that chapters need. With `alt` they show the figure, without
it they return it, for `show` or for `widgets.explore`.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PINK, SKY, YELLOW, BLACK)
"""The eight colours of Okabe and Ito (2008), reordered so that the first ones are far apart on white."""
GREY = "#767676"
LINES = ("-", "--", "-.", ":")
WIDTH = 6.4
"""Inches. With 11 pt text this keeps letters at about 9 CSS pixels on a phone 375 pixels wide."""


def style() -> dict:
    """Apply the house style to matplotlib, for figures that a chapter draws itself, and return its settings."""
    import matplotlib
    from cycler import cycler

    settings = {
        "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110,
        "savefig.dpi": 110, "figure.figsize": (WIDTH, 3.4), "figure.constrained_layout.use": True, "font.size": 11,
        "axes.titlesize": 11, "axes.labelsize": 11, "legend.fontsize": 10, "axes.spines.top": False,
        "axes.spines.right": False, "axes.prop_cycle": cycler(color=PALETTE), "lines.linewidth": 1.8,
        "legend.frameon": False, "image.cmap": "gray", "image.interpolation": "nearest",
    }
    matplotlib.rcParams.update(settings)
    return settings


def show(fig: Figure, alt: str) -> None:
    """Display `fig` as one PNG whose output metadata carry the alt text, and close it.

    Raises ValueError where `alt` is not at least a sentence that tells a blind reader what the figure shows.
    """
    from IPython.display import display
    from matplotlib import pyplot

    alt = check_alt(alt)
    data = {"image/png": b64encode(png(fig)).decode("ascii"), "text/plain": alt}
    pyplot.close(fig)
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def check_alt(alt: str) -> str:
    """`alt` on one line. Raises ValueError where it is shorter than a sentence."""
    text = " ".join(alt.split()) if isinstance(alt, str) else ""
    if len(text.split()) < 4 or text[-1] not in ".!?":
        raise ValueError(f"alt must be a full sentence that says what the figure shows, but got {alt!r}")
    return text


def png(fig: Figure) -> bytes:
    """`fig` as a PNG file, with a palette of 48 or 256 colours where that costs little. The error is squared, so that a
    few lines in a colour of their own count."""
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None})
    full, out = Image.open(buffer).convert("RGB"), io.BytesIO()
    for colours, cost in ((48, 2.5), (256, 5)):
        small = full.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        error = np.asarray(full, np.float32) - np.asarray(small.convert("RGB"), np.float32)
        if np.square(error).mean() < cost**2:
            break
    else:
        small = full
    small.save(out, format="png", optimize=True)
    return out.getvalue()


def images(rows: Sequence, titles: Sequence[str] | None = None, masks: Sequence | None = None, *,
           names: Sequence[str] | None = None, labels: Sequence[str] | None = None,
           window: tuple[float, float] | None = None, fill: bool = False, cmap: str = "gray",
           height: float | None = None, alt: str | None = None) -> Figure | None:
    """A grid of pictures, such as input, intermediate and result, with masks drawn over them.

    `rows` is one row of pictures (a list, or a stack such as (N, C, H, W)) or a list of such lists; `masks` is nested
    like it, with `None` where there is no mask. A picture is (H, W), (1, H, W), (3, H, W) or (H, W, 3), colour in
    0..1 or 0..255 (uint8); a mask is class indices (H, W) with 0 as background,
    or layers (K, H, W) that may overlap. `titles` head the columns, `labels` the rows, and `names` are the classes,
    one for each foreground class, for the legend. Grey pictures of one column share `window`, by default their range.
    `fill` overlays a mask; otherwise its contour is drawn. `height` is inches a row. Shows with `alt`, else returns.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    grid = [[_picture(p) for p in row] for row in _nested(rows)]
    columns = max(map(len, grid))
    overlay = _nested(masks) if masks is not None else [[None] * len(row) for row in grid]
    if [len(r) for r in overlay] != [len(r) for r in grid]:
        raise ValueError(f"masks must be nested like rows, but got {[len(r) for r in overlay]} masks "
                         f"for {[len(r) for r in grid]} pictures in the rows")
    style()
    ratio = grid[0][0].shape[0] / grid[0][0].shape[1]
    height = height or min(WIDTH / columns * ratio, 2.6)
    width = min(WIDTH, height / ratio * columns + 0.3 * bool(labels))
    fig = Figure(figsize=(width, height * len(grid) + 0.3 * bool(titles) + 0.35 * bool(names)))
    axes = fig.subplots(len(grid), columns, squeeze=False)
    for column in range(columns):
        own = window or _range([row[column] for row in grid if column < len(row) and row[column].ndim == 2])
        for row, ax in enumerate(axes[:, column]):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if column < len(grid[row]):
                ax.imshow(grid[row][column], cmap=cmap, vmin=own[0], vmax=own[1])
                draw_mask(ax, overlay[row][column], fill=fill)
    for ax, title in zip(axes[0], titles or [], strict=False):
        ax.set_title(title)
    for ax, label in zip(axes[:, 0], labels or [], strict=False):
        ax.set_ylabel(label)
    if names:
        keys = [Line2D([], [], color=c, lw=4, label=n) for n, c in zip(names, PALETTE_ON_GREY, strict=False)]
        fig.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 4))
    return _done(fig, alt)


PALETTE_ON_GREY = (ORANGE, SKY, GREEN, YELLOW, VERMILION, PINK, BLUE, "#FFFFFF")
"""The palette in the order for masks: bright colours first, because they lie on dark pictures."""


def draw_mask(ax, mask, fill: bool = False) -> None:
    """Draw class indices (H, W), or layers (K, H, W), over the picture in `ax`, one colour a class."""
    from matplotlib.colors import to_rgb

    if mask is None:
        return
    mask = _numpy(mask)
    layers = mask if mask.ndim == 3 else [mask == c for c in range(1, int(mask.max()) + 1)]
    for layer, colour in zip(layers, PALETTE_ON_GREY * (1 + len(layers) // 8), strict=False):
        layer = np.asarray(layer, bool)
        if not layer.any():
            continue
        if fill:
            ax.imshow(np.stack([layer * v for v in (*to_rgb(colour), 0.45)], -1))
        else:
            # The frame of zeros closes the contour of a structure that touches the border.
            x, y = np.arange(-1, layer.shape[1] + 1), np.arange(-1, layer.shape[0] + 1)
            ax.contour(x, y, np.pad(layer, 1), levels=[0.5], colors=[colour], linewidths=1.6)
    ax.set(xlim=(-0.5, mask.shape[-1] - 0.5), ylim=(mask.shape[-2] - 0.5, -0.5))


def intervals(estimates: Mapping[str, tuple[float, float, float]], xlabel: str, *, baseline: str | None = None,
              alt: str | None = None) -> Figure | None:
    """Dots with error bars, one line a method. `estimates` maps a name to (estimate, low, high).

    The `baseline`, one of the names, is grey, with a line down the figure. Shows with `alt`, else returns the figure.
    """
    from matplotlib.figure import Figure

    if baseline is not None and baseline not in estimates:
        raise ValueError(f"baseline must be one of {list(estimates)}, but got {baseline!r}")
    style()
    fig = Figure(figsize=(WIDTH, 0.42 * len(estimates) + 0.9))
    ax = fig.subplots()
    for row, (name, (estimate, low, high)) in enumerate(estimates.items()):
        if not low <= estimate <= high:
            raise ValueError(f"the interval of {name!r} must hold its estimate, but got {(estimate, low, high)}")
        colour = GREY if name == baseline else BLUE
        ax.errorbar(estimate, row, xerr=[[estimate - low], [high - estimate]], fmt="o", color=colour, ms=7,
                    capsize=4, lw=2)
    if baseline is not None:
        ax.axvline(estimates[baseline][0], color=GREY, lw=1, ls="--", zorder=0)
    ax.set_yticks(range(len(estimates)), list(estimates))
    ax.set(xlabel=xlabel, ylim=(len(estimates) - 0.5, -0.5))
    ax.grid(axis="x", color="#DDDDDD", lw=0.8)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return _done(fig, alt)


def curves(series: Mapping[str, Sequence[float]], xlabel: str = "step", ylabel: str = "loss", *, smooth: int = 1,
           log: bool = False, alt: str | None = None) -> Figure | None:
    """One line for each series, such as training losses, told apart by colour and by dashes.

    `smooth` is the width of a running mean. Shows with `alt`, else returns the figure.
    """
    from matplotlib.figure import Figure

    style()
    fig = Figure(figsize=(WIDTH, 3.2))
    ax = fig.subplots()
    for number, (name, values) in enumerate(series.items()):
        values = np.asarray([float(v) for v in values])
        width = max(1, min(smooth, len(values)))
        values, x = np.convolve(values, np.full(width, 1 / width), "valid"), np.arange(width, len(values) + 1)
        ax.plot(x, values, LINES[number // len(PALETTE) % 4 if len(series) > 8 else number % 4], label=name,
                color=PALETTE[number % 8], marker="o" if len(values) < 15 else None, ms=4)
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    ax.grid(color="#DDDDDD", lw=0.8)
    if len(series) > 1:
        ax.legend()
    return _done(fig, alt)


def _done(fig: Figure, alt: str | None) -> Figure | None:
    return fig if alt is None else show(fig, alt)


def _numpy(array) -> np.ndarray:
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)


def _nested(rows) -> list:
    """`rows` as a list of rows: lists and tuples nest, arrays are pictures or stacks of pictures."""
    return [list(row) for row in rows] if isinstance(rows[0], (list, tuple)) else [list(rows)]


def _picture(array) -> np.ndarray:
    """(H, W) float, or (H, W, 3) in 0..1 for colour."""
    picture = _numpy(array)
    if picture.ndim == 3 and picture.shape[0] in (1, 3) and picture.shape[-1] != 3:
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 3 and picture.shape[-1] == 1:
        picture = picture[..., 0]
    if picture.ndim == 3 and picture.shape[-1] == 3:
        return np.clip(picture / (255 if picture.dtype == np.uint8 else 1), 0, 1).astype(float)
    if picture.ndim != 2:
        raise ValueError(f"a picture must be (H, W), (1, H, W), (3, H, W) or (H, W, 3), but got {picture.shape}")
    return picture.astype(float)


def _range(pictures: list[np.ndarray]) -> tuple[float | None, float | None]:
    if not pictures:
        return None, None
    return min(float(np.nanmin(p)) for p in pictures), max(float(np.nanmax(p)) for p in pictures)
