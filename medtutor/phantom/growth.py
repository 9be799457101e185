"""Tumour growth by reaction and diffusion (Fisher-Kolmogorov), for N patients at once, in 1, 2 or 3 dimensions.

du/dt = div(D grad u) + rho u (1 - u) for the cell density u in [0, 1]; no flux leaves tissue, where D is zero beyond.
Lengths in mm, times in days. Ranges after Harpold, Alvord and Swanson, J Neuropathol Exp Neurol 66 (2007).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtutor.phantom.texture import Draws

GREY_TO_WHITE = 0.1  # diffusion in grey over diffusion in white matter
OEDEMA, CORE = 0.2, 0.6  # densities from which FLAIR shows oedema and T1 with contrast agent shows the core
RATE = (0.004, 0.015)  # range of rho, 1/day
FRONT_MM = (2.5, 6.0)  # range of sqrt(D / rho), the width of the invasive rim
RADIUS_MM = (8.0, 26.0)  # range of the front's distance from the seed at the first visit, had it gone straight


def diffusivity(grey: Tensor, white: Tensor, diffusion: Tensor) -> Tensor:
    """D (N, *space) in mm^2/day from tissue fractions (N, *space) and the value in white matter (N,).

    Zero where less than half of the voxel is brain tissue.
    """
    tissue = grey + white
    mixed = (white + GREY_TO_WHITE * grey) / tissue.clamp(min=1e-6)
    return wide(diffusion, grey) * torch.where(tissue >= 0.5, mixed, 0.0)


def seeded(diffusion: Tensor, centre: Tensor, spacing: float, sigma: float = 3.0, peak: float = 0.5) -> Tensor:
    """First density (N, *space): a Gaussian of `sigma` mm, of one voxel at least, at `centre` (N, dims) in voxels
    (x, y[, z]: the last axis first), where `diffusion` (N, *space) is not zero."""
    lines = [torch.arange(size, dtype=diffusion.dtype).view((-1,) + (1,) * axis)
             for axis, size in enumerate(diffusion.shape[:0:-1])]
    square = sum((line - wide(centre[:, axis], diffusion)) ** 2 for axis, line in enumerate(lines))
    return peak * torch.exp(-0.5 * square / max(sigma / spacing, 1.0) ** 2) * (diffusion > 0)


def grow(density: Tensor, diffusion: Tensor, rate: Tensor, days: Tensor, spacing: float, steps: int | None = None,
         ) -> Tensor:
    """Densities (N, T, *space) at `days` (N, T), increasing, from `density` (N, *space) at day 0.

    `diffusion` (N, *space) in mm^2/day, `rate` rho (N,) per day, `spacing` in mm. Explicit diffusion with harmonic
    means on the faces of voxels, the reaction solved exactly (Strang splitting); differentiable in every tensor.
    `steps` per interval: at least what stability asks; pass a bound that is the same for every patient where a
    result must not depend on the others. Raises ValueError when `steps` is too few or the days decrease.
    """
    dims = density.ndim - 1
    gap = torch.diff(days, dim=1, prepend=torch.zeros_like(days[:, :1]))
    if (gap < 0).any():
        raise ValueError("days must increase along each row, from 0 on")
    need = diffusion.flatten(1).amax(1)[:, None] * gap * 2 * dims / spacing**2  # steps at the limit of stability
    count = max(1, math.ceil(float(need.max()) * 1.1)) if steps is None else steps
    if need.max() > count:
        raise ValueError(f"{count} steps are too few for this diffusion and spacing; "
                         f"use {math.ceil(float(need.max()))} or more")
    alive = ((diffusion > 0) | (density > 0)).any(0).nonzero()
    low, high = (alive.amin(0), alive.amax(0) + 1) if len(alive) else (torch.zeros(dims), torch.ones(dims))
    box = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
    seen, part = density.new_zeros(len(density), gap.shape[1], *density.shape[1:]), density[box]
    inner = diffusion[box]  # beyond the box nothing diffuses
    sides = [inner.unfold(axis, 2, 1).unbind(-1) for axis in range(1, dims + 1)]
    faces = [2 * a * b / (a + b).clamp(min=1e-12) / spacing**2 for a, b in sides]
    for k in range(gap.shape[1]):
        step = wide(gap[:, k] / count, part)
        half, full = (torch.expm1(wide(rate, part) * step * share) for share in (0.5, 1.0))
        through = [face * step for face in faces]
        part = _react(part, half)
        for left in range(count, 0, -1):
            part = _react(_diffuse(part, through), full if left > 1 else half)
        seen[(slice(None), k, *box[1:])] = part
    return seen


def _react(density: Tensor, gain: Tensor) -> Tensor:
    """The logistic law over one step, in closed form; `gain` is exp(rho t) - 1."""
    return density * (1 + gain) / (1 + density * gain)


def _diffuse(density: Tensor, through: list[Tensor]) -> Tensor:
    after = density.clone()
    for axis, face in enumerate(through, 1):
        size = density.shape[axis] - 1
        flux = face * (density.narrow(axis, 1, size) - density.narrow(axis, 0, size))
        after.narrow(axis, 0, size).add_(flux)
        after.narrow(axis, 1, size).sub_(flux)
    return after


def patients(draws: Draws, dims: int, spacing: float, gap: float = 0.0) -> tuple[dict[str, Tensor], int]:
    """Parameters of n tumours: diffusion (mm^2/day, white matter), rate (1/day), day (of the first visit, from the
    seed on), and the steps that suffice for every patient up to that day, and for `gap` days between visits.

    Drawn are the rate, the front's width and its distance from the seed, since these decide what is seen; one image
    tells D * day and rho * day only.
    """
    rate, width = (torch.exp(draws.uniform(*map(math.log, ends))) for ends in (RATE, FRONT_MM))
    day = (draws.uniform(*RADIUS_MM) / (2 * width) + 2.5) / rate  # 2.5 / rho: until the front stands
    worst = FRONT_MM[1] ** 2 * max(RADIUS_MM[1] / (2 * FRONT_MM[1]) + 2.5, RATE[1] * gap)  # D * days
    parameters = {"diffusion": width**2 * rate, "rate": rate, "day": day}
    return {key: value.float() for key, value in parameters.items()}, math.ceil(worst * 2.2 * dims / spacing**2)


def wide(value: Tensor, like: Tensor) -> Tensor:
    """(N,) made ready to meet (N, *space)."""
    return value.view((-1,) + (1,) * (like.ndim - 1)).to(like.dtype)
