"""Scanners for heads made of tissue fractions: MR signals by the equations of the sequences, CT, sites, bias, noise."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from medtutor.phantom.texture import cloud, noise

CONTRASTS = ("t1", "t1ce", "t2", "flair", "pd", "fa", "ct")
#          T1 and T2 in ms at 3 T, proton density, HU, fractional anisotropy. Grey and white matter after Wansapura
#          et al., J Magn Reson Imaging 9 (1999); lesions between them and fluid, as plausible values.
TISSUE = {"fluid": (4300, 2000, 1.00, 8, 0.06), "grey": (1330, 105, 0.82, 38, 0.14),
          "white": (840, 78, 0.70, 29, 0.46), "ventricle": (4300, 2000, 1.00, 6, 0.04),
          "skull": (500, 6, 0.25, 850, 0.05), "scalp": (390, 70, 0.50, 10, 0.08),
          "white matter lesion": (1250, 150, 0.84, 23, 0.28), "infarct": (1900, 230, 0.92, 18, 0.14),
          "haemorrhage": (1150, 52, 0.80, 75, 0.12), "oedema": (1500, 155, 0.86, 21, 0.22),
          "enhancing": (1500, 125, 0.86, 40, 0.12), "necrosis": (2300, 300, 0.96, 14, 0.07)}
GADOLINIUM = 1 / 1100  # 1/ms added to 1/T1 of the enhancing rim
#         TI of T1, TE of T2 and TI of FLAIR in ms, bias field, noise, blur in mm, gain, T1 relative to 3 T
SITES = ({"t1": 1100, "te": 95, "ti": 2500, "bias": 0.08, "noise": 0.013, "blur": 0.0, "gain": 1.0, "field": 1.0},
         {"t1": 950, "te": 80, "ti": 2350, "bias": 0.22, "noise": 0.022, "blur": 0.9, "gain": 0.86, "field": 1.0},
         {"t1": 1200, "te": 110, "ti": 2100, "bias": 0.04, "noise": 0.032, "blur": 1.6, "gain": 1.12, "field": 0.8})
# the tissue that is made as bright as this, times the site's gain
_SHOWN = {"t1": ("white", 0.80), "t1ce": ("white", 0.58), "t2": ("fluid", 0.92), "flair": ("grey", 0.5),
          "pd": ("fluid", 0.85)}


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
