"""The CT numbers along the centreline of a coronary artery: contrast agent, stenoses, calcifications."""

from __future__ import annotations

from math import nan

import torch
from torch import where

from medtutor.cohort import Cohort
from medtutor.phantom.texture import Draws, cloud, noise

PLACE = 32  # samples for each lesion


def cohort(n: int, length: int = 512, seed: int = 0, noisy: bool = True) -> Cohort:
    """n profiles: meta["signal"] (n, 1, length) in HU, 4 samples a mm; no pictures.

    `label` (n,) counts the stenoses (dips by 40 to 75 %) beyond the last of one to three calcifications (peaks of 400
    to 900 HU), 0 to 6. No two lesions share one of the P = length // 32 places along the vessel: meta["stenosis"] and
    meta["calcification"] (n, P) are their middles in samples, NaN where there is none. `noisy=False` leaves out the
    noise of the scanner. Patient i depends on seed, P and i only. Raises ValueError for a length below 320.
    """
    places = length // PLACE
    if places < 10:
        raise ValueError(f"length must be {10 * PLACE} or more, so that all lesions find a place, but got {length}")
    draws, time, place = Draws(n, seed, "vessel", 16 + 8 * places), torch.arange(length).double(), torch.arange(places)
    u = draws.uniform
    narrow, hard, rank = u(0, 7, 1).long(), u(1, 4, 1).long(), u(0, 1, places).argsort(1)
    stenosis, calcium = rank < narrow, (rank >= narrow) & (rank < narrow + hard)
    middle = (place + 0.5 + u(-0.2, 0.2, places)) * PLACE
    bell = torch.exp(-0.5 * ((time - middle[..., None]) / u(2.5, 5.5, places, 1)) ** 2)
    lumen = u(330, 460, 1) * (1 - u(0.1, 0.4, 1) * time / PLACE / places)  # the contrast agent thins out
    lumen = lumen + 14 * cloud(n, seed, "vessel lumen", length, 12, 1, 2)
    signal = lumen * (1 - (bell * (stenosis * u(0.4, 0.75, places))[..., None]).sum(1))
    signal = signal + (bell * (calcium * u(400, 900, places))[..., None]).sum(1)
    signal = signal + noisy * 14 * noise(n, seed, "vessel scanner", (length,))
    beyond = place > where(calcium, place, -1).amax(1, keepdim=True)
    meta = {"signal": signal[:, None].float(), "stenosis": where(stenosis, middle, nan).float(),
            "calcification": where(calcium, middle, nan).float()}
    return Cohort(label=(stenosis & beyond).sum(1), meta=meta, names={"label": tuple("0123456")},
                  units={"signal": "HU", "stenosis": "samples", "calcification": "samples"})
