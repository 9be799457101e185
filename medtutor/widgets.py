"""`explore`: a figure with controls that recomputes with a kernel and plays precomputed frames without one.

Without a kernel the whole widget is one HTML fragment: pictures as data URIs, native controls, no request, no library.
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

import numpy as np

from medtutor import plot

FRAMES = 120
BYTES = 250_000
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
    combinations = [dict(zip(options, c, strict=True)) for c in itertools.product(*options.values())]
    frames, captions, kinds = [], [], set()
    for combination in combinations:
        values = {name: value for name, (_, value) in combination.items()}
        frame, is_array = _frame(draw(**values))
        frames.append(frame)
        captions.append(str(caption(**values)))
        kinds.add((frame.size, is_array))
    if len(kinds) > 1:
        raise ValueError(f"every frame of explore must have the same size, but draw returned {sorted(kinds)}")
    (width, height), is_array = kinds.pop()
    at = 0
    for name, values in options.items():
        at = at * len(values) + first[name]
    data = {"alt": alt, "captions": captions, "labels": [[label for label, _ in v] for v in options.values()]}
    sources, index = _unique(_compress(frames, limit - 4_000 - 2 * len(json.dumps(data))))
    shown = _figure(sources[index[at]], f"{alt} {captions[at]}", captions[at], width, height, is_array)
    # The frame in the <img> is not stored twice: the script takes it from there.
    data |= {"first": index[at], "frames": sources[: index[at]] + [""] + sources[index[at] + 1 :], "index": index}
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    key = sha256((shown + text).encode()).hexdigest()[:16]
    inputs = "".join(_control(name, values, first[name]) for name, values in options.items())
    html = (f'<div class="medtutor-explore" data-medtutor="{key}" style="color:inherit;max-width:100%">{shown}'
            f'<div class="medtutor-controls" hidden>{inputs}</div></div>'
            f"<script>{SCRIPT.replace('KEY', json.dumps(key)).replace('DATA', text)}</script>")
    if len(html.encode()) > limit:
        raise ValueError(_too_heavy(len(frames)))
    return html


SCRIPT = """(function () {
  var data = DATA;
  document.querySelectorAll('[data-medtutor="' + KEY + '"]').forEach(function (root) {
    if (root.dataset.ready) return;
    root.dataset.ready = '1';
    var picture = root.querySelector('img'), caption = root.querySelector('figcaption');
    var inputs = Array.from(root.querySelectorAll('input, select')), frames = data.frames.slice();
    frames[data.first] = picture.src;
    function update() {
      var at = 0;
      inputs.forEach(function (input, i) {
        var labels = data.labels[i], chosen = +input.value;
        at = at * labels.length + chosen;
        if (input.type === 'range') {
          input.setAttribute('aria-valuetext', labels[chosen]);
          input.nextElementSibling.textContent = labels[chosen];
        }
      });
      picture.src = frames[data.index[at]];
      picture.alt = data.alt + ' ' + data.captions[at];
      if (caption.textContent !== data.captions[at]) caption.textContent = data.captions[at];
    }
    inputs.forEach(function (input) { input.addEventListener('input', update); });
    root.querySelector('.medtutor-controls').hidden = false;
    update();
  });
})();"""
# Found by attribute, not by document.currentScript or an id: JupyterLab re-creates script elements, and the same widget
# may be twice on a page. The controls stay hidden where no script runs, because they would do nothing.


def _figure(source: str, alt: str, caption: str, width: int, height: int, is_array: bool) -> str:
    wide = max(width, 320) if is_array else width
    pixels = "image-rendering:pixelated;" if is_array else ""
    return (f'<figure style="margin:0"><img src="{source}" alt="{escape(alt)}" width="{wide}" '
            f'height="{round(wide * height / width)}" style="max-width:100%;height:auto;background:#fff;{pixels}">'
            f'<figcaption aria-live="polite" style="color:inherit;min-height:1.5em">{escape(caption)}</figcaption>'
            "</figure>")


def _control(name: str, values: list[tuple], first: int) -> str:
    label = escape(name.replace("_", " "))
    row = "display:flex;gap:.6em;align-items:center;min-height:2.4em;flex-wrap:wrap"
    if _numeric(values):
        return (f'<label style="{row}"><span style="min-width:7em">{label}</span>'
                f'<input type="range" min="0" max="{len(values) - 1}" step="1" value="{first}" autocomplete="off" '
                f'aria-valuetext="{escape(values[first][0])}" style="flex:1 1 9em;max-width:24em;min-height:1.8em">'
                f'<span aria-hidden="true" style="min-width:3em">{escape(values[first][0])}</span></label>')
    choices = "".join(f'<option value="{i}"{" selected" * (i == first)}>{escape(v)}</option>'
                      for i, (v, _) in enumerate(values))
    return (f'<label style="{row}"><span style="min-width:7em">{label}</span>'
            f'<select autocomplete="off" style="font:inherit;min-height:1.8em">{choices}</select></label>')


def _live(draw: Callable, alt: str, caption: Callable[..., str], options: dict[str, list], first: dict):
    """The same figure and controls as ipywidgets; one frame is drawn for each change."""
    import ipywidgets

    picture, inputs = ipywidgets.HTML(), {}

    def update(_=None):
        values = {name: options[name][widget.index][1] for name, widget in inputs.items()}
        try:
            frame, is_array = _frame(draw(**values))
            text = str(caption(**values))
            picture.value = _figure(_uri(frame, None), f"{alt} {text}", text, *frame.size, is_array)
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


def _compress(frames: list, budget: int) -> list[str]:
    """Every frame as a data URI, at the first of SIZES whose sum is within `budget` characters.

    A few frames decide which sizes are worth trying on all of them, since encoding is what costs time.
    """
    different = list({frame.tobytes(): frame for frame in frames}.values())
    sample = different[:: max(1, len(different) // 3)][:4]
    for scale, quality in SIZES:
        mean = sum(len(_uri(frame, quality, scale)) for frame in sample) / len(sample)
        if mean * len(different) > 1.15 * budget:
            continue
        sources = {frame.tobytes(): _uri(frame, quality, scale) for frame in different}
        if sum(map(len, sources.values())) <= budget:
            return [sources[frame.tobytes()] for frame in frames]
    raise ValueError(_too_heavy(len(frames)))


def _uri(frame, quality: int | None, scale: float = 1.0) -> str:
    """A WebP file: exact without `quality`; with it the smaller of lossy and (for drawings) 64 colours, lossless."""
    from PIL import Image

    if scale != 1:
        frame = frame.resize([max(1, round(side * scale)) for side in frame.size], Image.Resampling.LANCZOS)
    versions = [(frame, {"quality": quality} if quality else {"lossless": True})]
    if quality and frame.getcolors(4096):
        few = frame.quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
        versions.append((few, {"lossless": True}))
    encoded = []
    for picture, options in versions:
        buffer = io.BytesIO()
        picture.save(buffer, format="webp", method=4, **options)
        encoded.append(buffer.getvalue())
    return "data:image/webp;base64," + b64encode(min(encoded, key=len)).decode("ascii")


def _unique(sources: list[str]) -> tuple[list[str], list[int]]:
    """The different frames, and for every combination which of them it shows."""
    kept = list(dict.fromkeys(sources))
    place = {source: i for i, source in enumerate(kept)}
    return kept, [place[source] for source in sources]


def _too_heavy(count: int) -> str:
    return (f"the {count} frames of explore do not fit into {BYTES // 1000} kB at any quality; "
            "use fewer values, a smaller figure or smoother pictures")
