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
#     name: call, patients (None: as asked)
CALLS = {
    "thorax X-ray 64x64": ("thorax.cohort(n, 64)", None),
    "thorax CT slice 64x64": ("thorax.cohort(n, 64, modality='ct')", None),
    "thorax CT volume 48^3": ("thorax.cohort(n, 48, modality='ct', kind='volume')", 12),
    "chest views 2 x 64x64": ("views.cohort(n, 64, depth=0)", None),
    "abdomen CT slice 64x64": ("abdomen.cohort(n, 64)", None),
    "abdomen MR slice 64x64": ("abdomen.cohort(n, 64, modality='mr')", None),
    "abdomen CT volume 48^3": ("abdomen.cohort(n, 48, kind='volume')", 12),
    "brain MR slice 64x64": ("brain.cohort(n, 64, kind='slice')", None),
    "brain MR volume 48^3": ("brain.cohort(n, 48)", 12),
    "heart MR frame 64x64": ("heart.cohort(n, 64, frames=8)", 32),
    "heart MR volume 48^3": ("heart.cohort(n, 48, kind='volume', frames=1)", 12),
    "ultrasound 64x64": ("ultrasound.cohort(n, 64)", None),
    "histology patch 64x64": ("histology.cohort(n, 64)", None),
    "fundus photograph 64x64": ("fundus.cohort(n, 64)", None),
    "skin photograph 64x64": ("skin.cohort(n, 64)", None),
    "wound photograph 64x64": ("wound.cohort(n, 64)", None),
    "endoscopy frame 64x64": ("endoscopy.cohort(n, 64, frames=20)", 12),
    "ECG sheet 64x64": ("ecg.cohort(n, 64)", None),
    "ECG signal, 12 leads": ("ecg.cohort(n, kind='signal')", None),
    "scene of lesions 64x64": ("scenes.cohort(n, 64)", None),
    "organ surface": ("surfaces.cohort(n, 32)", 12),
    "slide of 100 patches 32x32": ("histology.slides(n, 100, 32)", 12),
    "health record": ("events.cohort(n)", 3000),
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
        count = most or n
        rows = count if name.startswith("slide") else len(made(call, count))  # frames count, not videos
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
