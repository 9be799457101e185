"""Rate of the digital patient: images a second of every modality, and closed form against ray marching.

`python benchmarks/phantom_rate.py [patients]`. Warms up, then takes the median of five runs. The ratio compares the
radiograph with what one would otherwise do: sample the CT of the same body on a grid and sum it along the rays.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from medtutor.phantom import abdomen, thorax, wound
from medtutor.phantom.texture import Draws

SIZE = 64


def seconds(work: Callable[[], object], runs: int = 5) -> float:
    """Median wall time of `work` after one warm-up run."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(n: int = 48) -> None:
    few = max(n // 6, 1)
    rates = {
        "thorax X-ray 64x64": (n, lambda: thorax.cohort(n, SIZE)),
        "thorax CT slice 64x64": (n, lambda: thorax.cohort(n, SIZE, modality="ct")),
        "abdomen CT slice 64x64": (n, lambda: abdomen.cohort(n, SIZE)),
        "abdomen MR slice 64x64": (n, lambda: abdomen.cohort(n, SIZE, modality="mr")),
        "wound photograph 64x64": (n, lambda: wound.cohort(n, SIZE)),
        "thorax CT volume 32^3": (few, lambda: thorax.cohort(few, 32, modality="ct", kind="volume")),
        "abdomen CT volume 32^3": (few, lambda: abdomen.cohort(few, 32, kind="volume")),
    }
    print(f"{torch.get_num_threads()} threads, {n} patients, median of 5 runs")
    for name, (count, work) in rates.items():
        print(f"{name:24s} {count / seconds(work):8.1f} / s")
    draws = Draws(few, 0, "thorax", 640)
    none = {f: torch.zeros(few, 2) for f in thorax.SIDED} | {"cardiomegaly": torch.zeros(few)}
    bodies = thorax.build(draws, none)[0]
    closed = seconds(lambda: bodies.xray("PA", SIZE, thorax.FOV))
    marched = seconds(lambda: bodies.volume(SIZE, thorax.FOV)[0].sum(2), runs=1)
    print(f"closed form against marching a {SIZE}^3 CT of the same bodies: {marched / closed:.1f} times as fast")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
