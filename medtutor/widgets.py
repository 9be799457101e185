"""`explore`: a figure with controls that recomputes with a kernel and plays precomputed frames without one.

Without a kernel the whole widget is one HTML fragment: a still, all frames as one compressed sheet, native controls, no
request, no library. The still and its caption are what shows where no script may run.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from html import escape
from importlib.resources import files

import numpy as np

from medtutor import plot

FRAMES = 120
BYTES = 250_000
PIXELS = 16_000_000
"""The most that a browser must hold of one figure, 64 MB once decoded."""
SIZES = ((1.0, None), (1.0, 75), (1.0, 55), (0.75, 60), (0.6, 55), (0.5, 50), (0.4, 45), (0.33, 35))
"""What is tried until all frames fit into BYTES: scale, and WebP quality (None: exact)."""


def explore(draw: Callable, *, alt: str, caption: Callable[..., str] | None = None, start: Mapping | None = None,
            limit: int = BYTES, **controls: list) -> None:
    """Show `draw(**values)` with one control for each keyword, and let the reader change the values.

    `draw` returns a matplotlib figure, or a picture (H, W) or (H, W, 3) in 0..1 or 0..255 (uint8). Each control is a
    list of values, or of (label, value) pairs: numbers become a slider, anything else a menu. `alt` is a sentence that
    holds for every frame; `caption(**values)` returns the sentence for one frame (by default the values), which is also
    appended to the alt text. `start` gives first values, by default the first of each list. `limit` is the most bytes
    that all frames may take, at most 250 kB.

    With an interactive front end the figure is recomputed. Elsewhere (papermill, nbval, MEDTUTOR_LIVE=0) every
    combination is drawn once, at most 120 frames and 250 kB in one self-contained HTML output.
    Raises ValueError where a control is empty, or where there are too many or too heavy frames.
    """
    from IPython.display import display

    alt, options = plot.check_alt(alt), {name: _options(name, values) for name, values in controls.items()}
    count = math.prod(len(values) for values in options.values())
    if not options or count > FRAMES:
        raise ValueError(f"explore needs at least one control and at most {FRAMES} combinations of values, but got "
                         f"{count if options else 'none'}; use fewer values")
    first = {name: _position(name, values, (start or {})) for name, values in options.items()}
    if unknown := set(start or {}) - set(options):
        raise ValueError(f"start names {sorted(unknown)}, which are no controls; the controls are {list(options)}")
    caption = caption or partial(_values_as_text, options)
    if live():
        return display(_live(draw, alt, caption, options, first))
    html = render(draw, alt, caption, options, first, min(limit, BYTES))
    return display({"text/html": html, "text/plain": alt}, raw=True)


def live() -> bool:
    """Whether somebody sits in front of this kernel: MEDTUTOR_LIVE says so (0 or 1), else whether input() would work.

    papermill, nbclient and nbval execute cells with `allow_stdin=False`; JupyterLab, Colab and VS Code do not.
    """
    asked = os.environ.get("MEDTUTOR_LIVE", "")
    if asked in ("0", "1"):
        return asked == "1"
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def render(draw: Callable, alt: str, caption: Callable[..., str], options: dict[str, list], first: dict,
           limit: int = BYTES) -> str:
    """The self-contained HTML of `explore`, every frame precomputed. The same content gives the same text."""
    frames, captions = [], []
    for combination in itertools.product(*options.values()):
        values = {name: value for name, (_, value) in zip(options, combination, strict=True)}
        frames.append(_frame(draw(**values)))
        captions.append(str(caption(**values)))
    kinds = {(frame.size, is_array) for frame, is_array in frames}
    if len(kinds) > 1:
        raise ValueError(f"every frame of explore must have the same size, but draw returned {sorted(kinds)}")
    (size, is_array), at = kinds.pop(), 0
    for name, values in options.items():
        at = at * len(values) + first[name]
    different, index = _unique([frame for frame, _ in frames])
    controls = [{"name": name.replace("_", " "), "slider": _numeric(values), "first": first[name],
                 "labels": [label for label, _ in values]} for name, values in options.items()]
    data = {"alt": alt, "captions": captions, "controls": controls, "index": index}
    for scale, quality in _sizes(different, limit):
        sheet = _sheet([_scaled(frame, scale) for frame in different], quality)
        if len(sheet["sheet"]) <= limit:
            # The still stands for a moment, or where no script runs.
            source = _uri([_scaled(different[index[at]], scale)], min(quality or 60, 60))
            still = _figure(source, f"{alt} {captions[at]}", captions[at], *size, is_array)
            html = _html(data | sheet, still)
            if len(html.encode()) <= BYTES:
                return html
    raise ValueError(f"the {len(frames)} frames of explore do not fit into {BYTES // 1000} kB at any quality; "
                     "use fewer values, a smaller figure or smoother pictures")


def _html(data: dict, still: str) -> str:
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    key = sha256((still + text).encode()).hexdigest()[:16]
    lines = files("medtutor").joinpath("assets/explore.js").read_text(encoding="utf-8").splitlines()
    script = "\n".join(line for line in map(str.strip, lines) if not line.startswith("//"))
    return (f'<div class="medtutor-explore" data-medtutor="{key}" style="color:inherit;max-width:100%">{still}</div>'
            f"<script>{script.replace('KEY', json.dumps(key)).replace('DATA', text)}</script>")


def _figure(source: str, alt: str, caption: str, width: int, height: int, is_array: bool) -> str:
    wide = max(width, 320) if is_array else width
    pixels = "image-rendering:pixelated;" if is_array else ""
    return (f'<figure style="margin:0"><img src="{source}" alt="{escape(alt)}" width="{wide}" '
            f'height="{round(wide * height / width)}" style="max-width:100%;height:auto;background:#fff;{pixels}">'
            f'<figcaption aria-live="polite" style="color:inherit;min-height:1.5em">{escape(caption)}</figcaption>'
            "</figure>")


def _live(draw: Callable, alt: str, caption: Callable[..., str], options: dict[str, list], first: dict):
    """The same figure and controls as ipywidgets; one frame is drawn for each change."""
    import ipywidgets

    picture, inputs = ipywidgets.HTML(), {}

    def update(_=None):
        values = {name: options[name][widget.index][1] for name, widget in inputs.items()}
        try:
            frame, is_array = _frame(draw(**values))
            text = str(caption(**values))
            picture.value = _figure(_uri([frame], None), f"{alt} {text}", text, *frame.size, is_array)
        except Exception as error:
            picture.value = f"<pre>{escape(type(error).__name__)}: {escape(str(error))}</pre>"

    for name, values in options.items():
        kind = ipywidgets.SelectionSlider if _numeric(values) else ipywidgets.Dropdown
        inputs[name] = kind(options=[(label, i) for i, (label, _) in enumerate(values)], index=first[name],
                            description=name.replace("_", " "), style={"description_width": "initial"})
        inputs[name].observe(update, names="index")
    update()
    return ipywidgets.VBox([picture, *inputs.values()])


def _options(name: str, values) -> list[tuple[str, object]]:
    values = list(values)
    if not values:
        raise ValueError(f"the control {name!r} needs at least one value")
    pairs = all(isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], str) for v in values)
    return values if pairs else [(f"{v:g}" if isinstance(v, float) else str(v), v) for v in values]


def _numeric(values: list[tuple]) -> bool:
    return all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for _, v in values)


def _position(name: str, values: list[tuple], start: Mapping) -> int:
    if name not in start:
        return 0
    for i, (_, value) in enumerate(values):
        if value == start[name]:
            return i
    raise ValueError(f"start gives {name}={start[name]!r}, but its values are {[value for _, value in values]}")


def _values_as_text(options: dict[str, list], **values) -> str:
    labels = {n: next(label for label, v in options[n] if v is value) for n, value in values.items()}
    return ", ".join(f"{name.replace('_', ' ')}: {label}" for name, label in labels.items()) + "."


def _frame(drawn):
    """(PIL image in RGB, whether it was an array) from what `draw` returned."""
    from PIL import Image

    if hasattr(drawn, "savefig"):
        from matplotlib import pyplot
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        pyplot.close(drawn)
        return picture, False
    array = drawn.detach().cpu().numpy() if hasattr(drawn, "detach") else np.asarray(drawn)
    if array.dtype == object or not (array.ndim == 2 or array.ndim == 3 and array.shape[-1] == 3):
        raise ValueError(f"draw must return a figure or a picture (H, W) or (H, W, 3), but it returned "
                         f"{type(drawn).__name__} {array.shape if array.dtype != object else ''}".rstrip())
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array.astype(float)).clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(array).convert("RGB"), True


def _sizes(frames: list, limit: int):
    """Those of SIZES that may fit into `limit`. A few frames decide, since encoding is what costs time.

    Frames that resemble each other take less in one sheet than each alone, so the estimate is generous.
    """
    sample = frames[:: max(1, len(frames) // 3)][:4]
    for scale, quality in SIZES:
        mean = sum(len(_uri([_scaled(frame, scale)], quality)) for frame in sample) / len(sample)
        pixels = math.prod(frames[0].size) * scale**2 * len(frames)
        if mean * len(frames) < (2 if quality else 8) * limit and (pixels <= PIXELS or scale == SIZES[-1][0]):
            yield scale, quality


def _scaled(frame, scale: float):
    from PIL import Image

    return frame.resize([max(1, round(side * scale)) for side in frame.size], Image.Resampling.LANCZOS)


def _sheet(tiles: list, quality: int | None) -> dict:
    """All tiles in one picture, with what the script must know to find them."""
    width, height = tiles[0].size
    return {"width": width, "height": height, "columns": _columns(tiles), "sheet": _uri(tiles, quality)}


def _columns(tiles: list) -> int:
    """How many tiles a row make the sheet about square."""
    width, height = tiles[0].size
    return min(len(tiles), max(1, round(math.sqrt(len(tiles) * height / width))))


def _pasted(tiles: list):
    from PIL import Image

    (width, height), columns = tiles[0].size, _columns(tiles)
    sheet = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    return sheet


def _uri(tiles: list, quality: int | None) -> str:
    """The sheet as a WebP file: exact without `quality`; with it the smallest of lossy and, for drawings, lossless with
    64 colours a tile or 64 in all."""
    from PIL import Image

    def few(picture):
        return picture.quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")

    sheet = _pasted(tiles)
    versions = [(sheet, {"quality": quality} if quality else {"lossless": True})]
    if quality and all(tile.getcolors(4096) for tile in tiles):
        versions += [(_pasted([few(tile) for tile in tiles]), {"lossless": True}), (few(sheet), {"lossless": True})]
    encoded = []
    for picture, options in versions:
        buffer = io.BytesIO()
        picture.save(buffer, format="webp", method=4, **options)
        encoded.append(buffer.getvalue())
    return "data:image/webp;base64," + b64encode(min(encoded, key=len)).decode("ascii")


def _unique(frames: list) -> tuple[list, list[int]]:
    """The different frames, and for every combination which of them it shows."""
    kept = {frame.tobytes(): frame for frame in frames}
    place = {content: i for i, content in enumerate(kept)}
    return list(kept.values()), [place[frame.tobytes()] for frame in frames]
