"""Diffeomorphic warps with known inverses and Jacobians, in 2 or 3 dimensions, from stationary velocity fields.

Displacements and velocities (N, dims, *space) are in voxels, channels in the order of landmarks: x, y[, z] with the
last axis first. A displacement u takes a voxel x of the new image to the place x + u(x) of the old one.
Scaling and squaring after Arsigny et al., MICCAI 2006.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def places(shape: tuple[int, ...]) -> Tensor:
    """The voxel positions (1, dims, *shape) of a grid."""
    lines = (torch.arange(s, dtype=torch.float32) for s in shape)
    return torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1])[None]


def apply(image: Tensor, displacement: Tensor) -> Tensor:
    """`image` (N, C, *space) at x + displacement(x), linear, edges repeated."""
    where = places(displacement.shape[2:]).to(displacement.device) + displacement
    ends = torch.tensor(image.shape[:1:-1], device=where.device).view(1, -1, *[1] * (where.ndim - 2)) - 1
    return F.grid_sample(image, (2 * where / ends - 1).movedim(1, -1), padding_mode="border", align_corners=True)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement of x -> outer(inner(x))."""
    return inner + apply(outer, inner)


def exponentiate(velocity: Tensor, steps: int = 6) -> Tensor:
    """The displacement after unit time in a stationary velocity, by scaling and squaring; -velocity gives the inverse.

    2**steps should exceed the largest velocity in voxels.
    """
    flow = velocity / 2**steps
    for _ in range(steps):
        flow = compose(flow, flow)
    return flow


def jacobian(displacement: Tensor) -> Tensor:
    """Determinants (N, *space) of the derivative of x + u(x), central differences: not positive where the map folds,
    below 1 where the new image shows a structure larger than the old one."""
    dims = displacement.shape[1]
    axes = list(range(-1, -1 - dims, -1))
    rows = [torch.stack(torch.gradient(displacement[:, k], dim=axes), -1) for k in range(dims)]
    return torch.det(torch.stack(rows, -2) + torch.eye(dims, device=displacement.device))


def expansion(shape: tuple[int, ...], centre: Tensor, radius: float, factor: Tensor | float) -> Tensor:
    """Velocities (N, dims, *shape) that swell the ball (disc) of `radius` voxels at `centre` (N, dims) by `factor`,
    a number or (N,), in volume (area), exactly and evenly, and fade out within 2.5 times the larger radius."""
    dims, away = len(shape), places(shape) - centre.float().view(len(centre), -1, *[1] * len(shape))
    rate = (torch.as_tensor(factor).float().log() / dims).view(-1, 1, *[1] * dims)
    flat = radius * rate.clamp(min=0).exp() + 1
    fall = ((away.square().sum(1, keepdim=True).sqrt() - flat) / (1.5 * flat)).clamp(0, 1)
    return rate * away * (1 - fall**2 * (3 - 2 * fall))


def swelling(source: Tensor) -> Tensor:
    """The curl-free velocity whose divergence is `source` (N, *space) less its mean, by FFT: log-Jacobians grow along
    its flow as the source says."""
    axes = tuple(range(1, source.ndim))
    waves = torch.meshgrid(*(2 * math.pi * torch.fft.fftfreq(s) for s in source.shape[1:]), indexing="ij")
    square = sum(w * w for w in waves)
    square.view(-1)[0] = math.inf
    spectrum = torch.fft.fftn(source, dim=axes) / square
    return torch.stack([torch.fft.ifftn(-1j * w * spectrum, dim=axes).real for w in waves[::-1]], 1)
