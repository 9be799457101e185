"""Graded corruptions of pictures, and the noise of a CT at low dose.

A grade runs from 0, the picture itself, to 5; row i of a corruption depends on (seed, kind, i) and the grade only, and
the same random pattern grows with the grade.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom.texture import Draws, blur, cloud, noise
from medtutor.render.body import MU_WATER

KINDS = ("motion", "metal", "underexposure", "resolution", "contrast", "crop", "blocks")
PHOTONS = 3e6  # per ray in air at dose 1: about 15 HU in an adult's chest
PIXEL = 0.7  # mm: the pixel of a scanner, whose noise a picture of any size shows


def corrupt(image: Tensor, kind: str, grade: float | Tensor, seed: int = 0) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1], bone bright, corrupted to `grade`, 0 to 5 for all or (N,).

    motion: the picture smeared along a line. metal: a bright implant with dark and bright streaks. underexposure:
    Poisson noise of few photons. resolution: blur by a wide detector. contrast: towards grey, with a shifted gamma.
    crop: a turned, shifted and magnified frame. blocks: quantised cosine coefficients of 8x8 blocks, as in JPEG.
    Raises ValueError for an unknown kind or a grade out of range.
    """
    n = len(image)
    grade = torch.as_tensor(grade, dtype=torch.float32).expand(n)
    if kind not in KINDS:
        raise ValueError(f"unknown corruption {kind!r}; choose from {', '.join(KINDS)}")
    if n and (grade.amin() < 0 or grade.amax() > 5):
        raise ValueError(f"a grade lies between 0 and 5, but got {grade.min():g} to {grade.max():g}")
    draws, t = Draws(n, seed, f"corrupt/{kind}", 16), (grade / 5).view(-1, 1, 1, 1)
    changed = _EFFECTS[kind](image, t, draws, seed)
    return torch.where(t > 0, changed.clamp(0, 1), image)


def _sampled(image: Tensor, angle: Tensor, zoom: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The picture turned by `angle` (rad), magnified, and moved by (x, y) in half widths; all (N,)."""
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    theta = torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1).float()
    return F.grid_sample(image, F.affine_grid(theta, list(image.shape), align_corners=False), align_corners=False,
                         padding_mode="border")


def _motion(image: Tensor, t: Tensor, draws: Draws, seed: int) -> Tensor:
    way, t = draws.uniform(0, math.pi), t.view(-1)
    steps = torch.linspace(-1, 1, 13)
    return sum(_sampled(image, 0 * t, 1 + 0 * t, 0.14 * t * s * way.cos(), 0.14 * t * s * way.sin())
               for s in steps) / len(steps)


def _metal(image: Tensor, t: Tensor, draws: Draws, seed: int) -> Tensor:
    h, w = image.shape[-2:]
    y, x = torch.meshgrid((torch.arange(h) + 0.5) * 2 / h - 1, (torch.arange(w) + 0.5) * 2 / w - 1, indexing="ij")
    cx, cy, phase = (v.float().view(-1, 1, 1, 1) for v in draws.uniform(-0.5, 0.5, 3).unbind(1))
    dx, dy = x - cx, y - cy
    far, angle = (dx**2 + dy**2).sqrt(), torch.atan2(dy, dx)
    rays = (2 * angle + 6 * phase).cos() + 0.7 * (6 * angle + 9 * phase).cos() + 0.5 * (14 * angle + phase).cos()
    size = 0.05 + 0.1 * t
    streaks = 0.35 * t * rays * torch.exp(-far / 0.7) * (far > size)
    return torch.where((dx.abs() < size) & (dy.abs() < 0.5 * size), 1.0, image + streaks)


def _underexposure(image: Tensor, t: Tensor, draws: Draws, seed: int) -> Tensor:
    light = torch.exp(-3.0 * image)  # bone is bright: few photons arrive
    counts = light * 10 ** (4.3 - 2.6 * t) * (64 / image.shape[-1]) ** 2
    white = noise(len(image), seed, "corrupt/underexposure", image.shape[1:])
    return -(light * (1 + white / counts.sqrt())).clamp(min=1e-3).log() / 3.0


def _resolution(image: Tensor, t: Tensor, draws: Draws, seed: int) -> Tensor:
    levels = [image.shape[-1] / 22 * s for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    stack, rows = torch.stack([blur(image, s) for s in levels]), torch.arange(len(image))
    place = (t * image.shape[-1] / 22 / levels[1]).clamp(max=3.999)
    low = place.long().view(-1)
    share = place % 1
    return (1 - share) * stack[low, rows] + share * stack[low + 1, rows]


def _contrast(image: Tensor, t: Tensor, draws: Draws, seed: int) -> Tensor:
    middle = image.mean((1, 2, 3), keepdim=True)
    up = torch.where(draws.chance(0.5), 1.0, -1.0).view(-1, 1, 1, 1).float()
    return (middle + (image - middle) * (1 - 0.75 * t)).clamp(0, 1) ** torch.exp(0.7 * t * up)


def _crop(image: Tensor, t: Tensor, draws: Draws, seed: int) -> Tensor:
    t, sign = t.view(-1), torch.where(draws.uniform(0, 1, 3) < 0.5, -1.0, 1.0)
    return _sampled(image, 0.35 * t * sign[:, 0], 1 + 0.35 * t, 0.22 * t * sign[:, 1], 0.22 * t * sign[:, 2])


def _blocks(image: Tensor, t: Tensor, draws: Draws, seed: int) -> Tensor:
    h, w = image.shape[-2:]
    k = torch.arange(8.0)
    basis = torch.cos(math.pi * k[:, None] * (2 * k + 1) / 16) * torch.where(k == 0, 0.125, 0.25).sqrt()[:, None]
    padded = F.pad(image, (0, -w % 8, 0, -h % 8), mode="replicate")
    tiles = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    waves = basis @ tiles @ basis.T
    step = (0.02 + 0.38 * t[..., None, None]) * (1 + 0.35 * (k[:, None] + k))
    coarse = basis.T @ ((waves / step).round() * step) @ basis
    return coarse.permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)[..., :h, :w]


_EFFECTS = dict(zip(KINDS, (_motion, _metal, _underexposure, _resolution, _contrast, _crop, _blocks), strict=True))


def kernels(slices: Cohort, roi: str, seed: int = 0) -> Cohort:
    """Noiseless CT slices, `image` (N, 1, S, S) in HU / 1000, through a soft and a sharp reconstruction kernel:
    `image` (N, 2, S, S), with the noise of one scan.

    First the class `roi` of names["mask"], such as "mass", gets a texture of 15 to 70 HU, a patient's own: meta
    texture_hu (N,). Soft: a Gaussian of 1.2 pixels and little noise. Sharp: an unsharp mask, and grain that
    neighbouring pixels share. Raises ValueError for a class that the mask does not have.
    """
    if roi not in slices.names.get("mask", ()):
        raise ValueError(f"roi must be one of {', '.join(slices.names.get('mask', ()))}, but got {roi!r}")
    n, size = len(slices), slices.image.shape[-1]
    rough, here = Draws(n, seed, "kernels", 2).uniform(15, 70).float(), slices.mask == slices.names["mask"].index(roi)
    texture = cloud(n, seed, "kernels/texture", size, max(2, size // 5), octaves=2) * rough.view(-1, 1, 1) / 1000
    sharp = slices.image + (here * texture)[:, None]
    soft, grain = blur(sharp, 1.2), blur(0.06 * noise(n, seed, "kernels/grain", (1, size, size)), 0.6)
    both = torch.cat([soft + 0.5 * blur(grain, 1.2), sharp + 0.9 * (sharp - soft) + grain], 1)
    return replace(slices, image=both, meta=slices.meta | {"texture_hu": rough},
                   names=slices.names | {"image": ("soft", "sharp")})


@lru_cache(4)
def _beams(size: int) -> tuple[Tensor, int, int]:
    """The sparse matrix (angles * bins, size * size) that sums a picture along parallel beams, in pixels."""
    angles, bins = math.ceil(1.2 * size), math.ceil(1.42 * size) | 1
    theta = (torch.arange(angles) + 0.5) * math.pi / angles
    axis = torch.arange(size) - (size - 1) / 2
    place = theta.cos()[:, None, None] * axis + theta.sin()[:, None, None] * axis[:, None] + (bins - 1) / 2
    place = place.view(angles, -1)
    low = place.floor().long()
    row = torch.arange(angles)[:, None] * bins + low
    column = torch.arange(size * size).expand_as(row)
    index = torch.cat([torch.stack([row, column]).flatten(1), torch.stack([row + 1, column]).flatten(1)], 1)
    weight = torch.cat([(1 - place + low).flatten(), (place - low).flatten()])
    beams = torch.sparse_coo_tensor(index, weight, (angles * bins, size * size), check_invariants=False)
    return beams.coalesce(), angles, bins


def low_dose(hu: Tensor, spacing: float, dose: float | Tensor, seed: int = 0, stream: str = "dose") -> Tensor:
    """CT slices (N, S, S) in HU with the noise of a scan at `dose` (1: standard; a number or (N,)), pixels of
    `spacing` mm.

    Noise of variance exp(path) / photons in every ray of a parallel scan goes through filtered backprojection with a
    Hann window, as in a scanner: its spectrum is the windowed ramp, it is strongest along dense paths (streaks between
    the shoulders), and its standard deviation is proportional to dose^(-1/2). It is that of pixels of PIXEL mm at any
    `spacing`: small pictures would hide it.
    """
    n, size = hu.shape[:2]
    beams, angles, bins = _beams(size)
    mu = (MU_WATER * (1 + hu / 1000)).clamp(min=0)
    path = (beams @ mu.reshape(n, -1).T).T.view(n, angles, bins) * spacing
    photons = PHOTONS * torch.as_tensor(dose, dtype=torch.float32).expand(n)[:, None, None]
    rays = (path.clamp(max=12).exp() / photons).sqrt() * noise(n, seed, f"rays/{stream}", (angles, bins))
    frequency = torch.fft.rfftfreq(2 * bins, PIXEL)
    window = frequency * (0.5 + 0.5 * torch.cos(math.pi * frequency / frequency[-1]))
    rays = torch.fft.irfft(torch.fft.rfft(rays, 2 * bins) * window, 2 * bins)[..., :bins]
    grain = (beams.T @ rays.reshape(n, -1).T).T.view(n, size, size) * (math.pi / angles)
    return hu + grain * (1000 / MU_WATER)
