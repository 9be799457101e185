"""`view`: slices with a window, an overlay, a threshold and a read-out of values, alive with and without a kernel.

One self-contained HTML output: the numbers travel as one lossless picture, and the browser does the rest.
"""

from __future__ import annotations

import io
import json
import math
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files

import numpy as np

from medtutor import plot

BYTES = 250_000
COLOURS = (*plot.PALETTE_ON_GREY, "#A6761D", "#B3B3B3")
LEVELS = (256, 128, 64, 32)
"""What is tried until the picture fits into BYTES: how many grey values it keeps."""
OUTCOMES = {"found": plot.SKY, "found where nothing is": plot.VERMILION, "missed": plot.YELLOW}


def view(image, *, alt: str, **options) -> None:
    """Show what `html` makes of an image; the options are described there."""
    from IPython.display import display

    display({"text/html": html(image, alt=alt, **options), "text/plain": plot.check_alt(alt)}, raw=True)


def html(image, *, alt: str, truth=None, probability=None, names: Sequence[str] = (), window=None, unit: str = "",
         axis: str = "slice", labels: Sequence | None = None, threshold: float = 0.5, start: int | None = None) -> str:
    """`image` (H, W) or (N, H, W) with controls for slice, level and width, and values that are read by pointing at it.

    `truth` are class indices, 0 as background and `names` for the others: their outlines are drawn. With
    `probability` in 0..1 as well, a control for the `threshold` colours what is found, missed, and found where nothing
    is, and the caption gives the Dice of what is shown. All of them are (H, W) or (N, H, W): what has one slice stays
    the same under all, so that probabilities after each epoch scrub over one image with `axis="epoch"`.
    `window` is (low, high) in the values of `image`, by default their range, `unit` is written behind them, `labels`
    name the slices, and `start` is the first one shown, by default the middle one.
    Raises ValueError where shapes do not agree or the numbers do not fit into 250 kB.
    """
    stacks = {"image": image, "truth": truth, "probability": probability}
    arrays = {name: _stack(name, array) for name, array in stacks.items() if array is not None}
    shape = np.broadcast_shapes(*_agreeing(arrays))
    arrays = {name: np.broadcast_to(array, shape) for name, array in arrays.items()}
    return render(arrays, plot.check_alt(alt), list(names), window, unit, axis, labels, threshold, start)


def render(arrays: dict, alt: str, names: list, window, unit: str, axis: str, labels, threshold: float, start) -> str:
    """The HTML for arrays (N, H, W) of one shape. The same content gives the same text."""
    image = arrays["image"].astype(float)
    count, height, width = image.shape
    low, high = float(image.min()), float(image.max())
    high = high if high > low else low + 1
    classes = int(arrays["truth"].max()) if "truth" in arrays else 0
    names = names or [f"class {c}" for c in range(1, classes + 1)]
    labels = [str(label) for label in (labels if labels is not None else range(1, count + 1))]
    if len(labels) != count or classes > len(names):
        raise ValueError(f"view shows {count} slices and {classes} classes, but got {len(labels)} labels and "
                         f"{len(names)} names")
    if "probability" in arrays and "truth" not in arrays:
        raise ValueError("view compares a probability with a truth, so give truth as well")
    scored, first = "probability" in arrays, count // 2 if start is None else range(count)[start]
    colours = list(OUTCOMES.values()) if scored else list(COLOURS)
    columns = math.ceil(math.sqrt(count))
    shown = window or (low, high)
    data = {"alt": alt, "slices": count, "width": width, "height": height, "columns": columns, "low": low, "high": high,
            "window": [float(v) for v in shown], "unit": f" {unit}".rstrip(), "digits": 0 if high - low > 20 else 2,
            "axis": axis, "labels": labels, "first": first, "names": [str(name) for name in names[:classes]],
            "threshold": threshold if scored else 0, "colours": [_rgb(colour) for colour in colours]}
    grey = ((image[first] - shown[0]) / (shown[1] - shown[0])).clip(0, 1)
    still = _webp(np.stack([(grey * 255).astype(np.uint8)] * 3, -1))
    bytes_ = [((image - low) / (high - low) * 255).round(), arrays.get("probability", 0 * image) * 255,
              arrays.get("truth", 0 * image)]
    for levels in LEVELS:
        made = _html(data, still, _sprite(bytes_, levels, columns), scored)
        if len(made.encode()) <= BYTES:
            return made
    raise ValueError(f"{count} slices of {width} x {height} do not fit into {BYTES // 1000} kB; "
                     "show fewer slices or smaller ones")


def _html(data: dict, still: str, sprite: str, scored: bool) -> str:
    text = json.dumps(data | {"sprite": sprite}, ensure_ascii=False).replace("<", "\\u003c")
    key = sha256(text.encode()).hexdigest()[:16]
    wide = max(data["width"], 384)
    keys = list(OUTCOMES) if scored else data["names"]
    chip = "display:inline-block;width:.8em;height:.8em;margin-right:.35em;border:1px solid currentColor;background:"
    legend = "".join(f'<span style="margin-right:1.2em;white-space:nowrap"><i style="{chip}rgb{tuple(colour)}"></i>'
                     f"{escape(name)}</span>" for name, colour in zip(keys, data["colours"] * len(keys), strict=False))
    script = files("medtutor").joinpath("assets/view.js").read_text(encoding="utf-8")
    return (f'<div class="medtutor-view" data-medtutor="{key}" style="color:inherit;max-width:100%">'
            f'<figure style="margin:0"><img src="{still}" alt="{escape(data["alt"])}" width="{wide}" '
            f'height="{round(wide * data["height"] / data["width"])}" style="max-width:100%;height:auto;display:block;'
            'background:#000;image-rendering:pixelated"><figcaption aria-live="polite" style="color:inherit;'
            f'min-height:1.5em"></figcaption></figure><p style="margin:0">{legend}</p></div>'
            f"<script>{script.replace('KEY', json.dumps(key)).replace('DATA', text)}</script>")


def _stack(name: str, array) -> np.ndarray:
    stack = array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
    if stack.ndim not in (2, 3) or not np.isfinite(stack.astype(float)).all():
        raise ValueError(f"{name} must be finite and (H, W) or (N, H, W), but got {stack.shape}")
    if name == "probability" and not 0 <= stack.min() <= stack.max() <= 1:
        raise ValueError(f"probability must lie in 0..1, but got {stack.min():g} to {stack.max():g}")
    return stack if stack.ndim == 3 else stack[None]


def _agreeing(arrays: dict) -> list[tuple]:
    shapes = [array.shape for array in arrays.values()]
    if len({shape[1:] for shape in shapes}) > 1 or len({shape[0] for shape in shapes} - {1}) > 1:
        raise ValueError(f"the pictures of view must agree in size, but got {dict(zip(arrays, shapes, strict=True))}")
    return shapes


def _rgb(colour: str) -> list[int]:
    return [int(colour[i:i + 2], 16) for i in (1, 3, 5)]


def _sprite(channels: list, levels: int, columns: int) -> str:
    """The channels (N, H, W) as one picture, `columns` tiles a row, the first of them on `levels` values."""
    step = 255 / (levels - 1)
    stack = np.stack([np.round(channels[0] / step) * step, *channels[1:]], -1).round().clip(0, 255).astype(np.uint8)
    rows = math.ceil(len(stack) / columns)
    page = np.zeros((rows * columns, *stack.shape[1:]), np.uint8)
    page[: len(stack)] = stack
    _, h, w, c = page.shape
    return _webp(page.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c))


def _webp(picture: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="webp", lossless=True, quality=100, method=4, exact=True)
    return "data:image/webp;base64," + b64encode(buffer.getvalue()).decode("ascii")
