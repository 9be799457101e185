"""Rate of the digital patient: images a second of every modality, closed form against ray marching, and the cache.

`python benchmarks/phantom_rate.py [patients]`. Warms up, then takes the median of five runs. The first ratio compares
the radiograph with what one would otherwise do: fill a CT volume of the same bodies and sum it along the rays; the
second compares loading a cohort from the cache with making it.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module

import torch

from medtutor.phantom.body import Body
from medtutor.phantom.cache import cached

SIZE = 64
#            module, patients (None: as asked), size, options
MODALITIES = {
    "thorax X-ray 64x64": ("thorax", None, SIZE, {}),
    "thorax CT slice 64x64": ("thorax", None, SIZE, {"modality": "ct"}),
    "thorax CT volume 48^3": ("thorax", 12, 48, {"modality": "ct", "kind": "volume"}),
    "abdomen CT slice 64x64": ("abdomen", None, SIZE, {}),
    "abdomen MR slice 64x64": ("abdomen", None, SIZE, {"modality": "mr"}),
    "abdomen CT volume 48^3": ("abdomen", 12, 48, {"kind": "volume"}),
    "brain MR volume 48^3": ("brain", 12, 48, {}),
    "skin photograph 64x64": ("skin", None, SIZE, {}),
    "wound photograph 64x64": ("wound", None, SIZE, {}),
}


def seconds(work: Callable[[], object], runs: int = 5) -> float:
    """Median wall time of `work` after one warm-up run."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bodies(n: int) -> Body:
    """The bodies behind n radiographs."""
    from medtutor.phantom import thorax

    kept, film = [], Body.film
    Body.film = lambda self, *a, **k: kept.append(self) or film(self, *a, **k)
    try:
        thorax.cohort(n, 16)
    finally:
        Body.film = film
    return kept[0]


def main(n: int = 256) -> None:
    print(f"{torch.get_num_threads()} threads, {n} patients, median of 5 runs")
    for name, (module, count, size, options) in MODALITIES.items():
        count, make = min(count or n, n), import_module(f"medtutor.phantom.{module}").cohort
        print(f"{name:24s} {count / seconds(lambda: make(count, size, **options)):8.1f} / s", flush=True)  # noqa: B023
    from medtutor.phantom import thorax

    body, fov = bodies(n), 340.0
    closed, marched = seconds(lambda: body.xray("PA", SIZE, fov)), seconds(lambda: body.volume(SIZE, fov)[0].sum(2))
    print(f"closed form against marching a {SIZE}^3 CT of the same {len(body.organ)} parts: "
          f"{marched / closed:.0f} times as fast")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDTUTOR_CACHE"] = folder
        made, loaded = seconds(lambda: thorax.cohort(n, SIZE)), seconds(lambda: cached(thorax.cohort, n, SIZE))
        print(f"thorax X-rays from the cache: {made / loaded:.0f} times as fast, {n / loaded:.0f} / s")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
