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

import torch

from medtutor.phantom.cache import cached
from medtutor.phantom.gallery import made
from medtutor.render.body import Body

SIZE = 64
#     name: call, most patients (None: as asked)
CALLS = {
    "thorax X-ray 64x64": ("thorax.cohort(n, 64)", None),
    "thorax CT slice 64x64": ("thorax.cohort(n, 64, modality='ct')", None),
    "thorax CT volume 48^3": ("thorax.cohort(n, 48, modality='ct', kind='volume')", 12),
    "abdomen CT slice 64x64": ("abdomen.cohort(n, 64)", None),
    "abdomen MR slice 64x64": ("abdomen.cohort(n, 64, modality='mr')", None),
    "abdomen CT volume 48^3": ("abdomen.cohort(n, 48, kind='volume')", 12),
    "brain MR slice 64x64": ("brain.cohort(n, 64, kind='slice')", None),
    "brain MR volume 48^3": ("brain.cohort(n, 48)", 12),
    "skin photograph 64x64": ("skin.cohort(n, 64)", None),
    "wound photograph 64x64": ("wound.cohort(n, 64)", None),
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
    for name, (call, most) in CALLS.items():
        count = min(most or n, n)
        rows = len(made(call, count).patient)  # frames and patches count, not sequences and slides
        print(f"{name:28s} {rows / seconds(lambda: made(call, count)):8.1f} / s", flush=True)  # noqa: B023
    from medtutor.phantom import thorax

    body, fov = bodies(n), 340.0
    closed, marched = seconds(lambda: body.xray("PA", SIZE, fov)), seconds(lambda: body.volume(SIZE, fov)[0].sum(2))
    print(f"closed form against marching a {SIZE}^3 CT of the same {len(body.organ)} parts: "
          f"{marched / closed:.0f} times as fast")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDTUTOR_CACHE"] = folder
        drawn, loaded = seconds(lambda: thorax.cohort(n, SIZE)), seconds(lambda: cached(thorax.cohort, n, SIZE))
        print(f"thorax X-rays from the cache: {drawn / loaded:.0f} times as fast, {n / loaded:.0f} / s")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
