"""Scanners for heads made of tissue fractions: MR signals by the equations of the sequences, CT, sites, bias, noise."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from medtutor.phantom.texture import cloud, noise, table

CONTRASTS = ("t1", "t1ce", "t2", "flair", "pd", "fa", "ct")
TISSUE, SITES, _SHOWN = table("mri").values()
GADOLINIUM = 1 / 1100  # 1/ms added to 1/T1 of the enhancing rim


@lru_cache(64)
def levels(contrast: str, site: int) -> dict[str, float]:
    """The value of each of `TISSUE`: inversion recovery for t1 (as in MPRAGE) and flair, spin echo for t2 and pd, then
    scaled; for CT HU / 1000 + 1, so that air is 0."""
    def signal(tissue: str, scanner: dict) -> float:
        t1, t2, density, hu, fa = TISSUE[tissue]
        if contrast in ("ct", "fa"):
            return hu / 1000 + 1 if contrast == "ct" else fa
        rate = 1 / t1 / scanner["field"] + (GADOLINIUM if contrast == "t1ce" and tissue == "enhancing" else 0)
        if contrast in ("t2", "pd"):
            return density * (1 - math.exp(-5000 * rate)) * math.exp(-(scanner["te"] if contrast == "t2" else 12) / t2)
        tr, ti, te = (9000, scanner["ti"], 120) if contrast == "flair" else (2300, scanner["t1"], 4)
        return abs(density * (1 - 2 * math.exp(-ti * rate) + math.exp(-tr * rate))) * math.exp(-te / t2)

    tissue, shown = _SHOWN.get(contrast, (None, 1.0))
    scale = shown / signal(tissue, SITES[site]) * SITES[site]["gain"] if tissue else 1.0
    return {name: signal(name, SITES[site]) * scale for name in TISSUE}


def scan(tissue: dict[str, Tensor], layers: list[tuple[str, Tensor]], contrasts: tuple[str, ...], sites: Tensor,
         seed: int, stream: str, spacing: float, noisy: bool) -> Tensor:
    """Images (n, C, *space) of the fractions `tissue` (n, *space) of `TISSUE`, under `layers` of lesion weights, by
    the scanner `sites` (n,) of each patient: blur, bias field, grain of the tissue, Rician noise (CT: Gaussian)."""
    white = tissue["white"]
    n, size, dims = len(white), white.shape[-1], white.ndim - 1
    out = white.new_empty(n, len(contrasts), *white.shape[1:])
    for s in sites.unique().tolist():
        scanner, pick = SITES[s], sites == s
        bias = torch.exp(scanner["bias"] * cloud(n, seed, f"coil {s}", size, 2, dims)[pick]) if noisy else None
        for c, contrast in enumerate(contrasts):
            level, ct = levels(contrast, s), contrast == "ct"
            value = sum(level[name] * part[pick] for name, part in tissue.items())
            for name, weight in layers:
                value = torch.addcmul(value, weight[pick], level[name] - value)
            value = smooth(value[:, None], scanner["blur"] / spacing)[:, 0] - float(ct)
            if noisy:
                a, b = noise(n, seed, f"{stream} {s} {contrast}", (2, *white.shape[1:]))[pick].unbind(1)
                grain = 1 + 0.03 * cloud(n, seed, f"grain {contrast}", size, 20, dims)[pick]
                sigma = scanner["noise"]
                value = (value + 0.008 * smooth(a[:, None], 0.8)[:, 0] if ct else
                         ((value * bias * grain + sigma * a).square_() + (sigma * b).square_()).sqrt_())
            out[pick, c] = value
    return out


def smooth(image: Tensor, sigma: float, axes: tuple[int, ...] | None = None) -> Tensor:
    """Gaussian blur of (N, C, *space) by `sigma` voxels along `axes` (None: all of space), edges renormalised."""
    if sigma < 0.05:
        return image
    for axis in axes or range(2, image.ndim):
        place = torch.arange(image.shape[axis], dtype=image.dtype)
        weight = torch.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
        image = torch.tensordot(image, weight / weight.sum(1, keepdim=True), ([axis], [1])).movedim(-1, axis)
    return image
