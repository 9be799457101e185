"""Randomness and detectors: per-patient random numbers, smooth noise, blur, exposure, radial outlines.

Every random number of patient i comes from a generator seeded by (seed, stream, i), so that a patient is the same in a
cohort of 5 and of 5,000, and in every process.
"""

from __future__ import annotations

import math
import zlib

import torch
import torch.nn.functional as F
from torch import Tensor


def rows(n: int, seed: int, stream: str, count: int, normal: bool = False) -> Tensor:
    """(n, count) random numbers, uniform in [0, 1) or standard normal; row i depends on (seed, stream, i) only."""
    out, generator = torch.empty(n, count), torch.Generator()
    for i in range(n):
        generator.manual_seed(zlib.crc32(f"{seed}/{stream}/{i}".encode()))
        out[i] = torch.randn(count, generator=generator) if normal else torch.rand(count, generator=generator)
    return out


class Draws:
    """Named-order random parameters of n patients (float64); the k-th request always gets the same columns.

    `budget` numbers per patient are drawn at once. Raises RuntimeError when a module asks for more.
    """

    def __init__(self, n: int, seed: int, stream: str, budget: int = 512):
        self.n, self.next = n, 0
        self.table = rows(n, seed, stream, budget).double()

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        """(n, *shape) uniform in [low, high)."""
        count = math.prod(shape)
        if self.next + count > self.table.shape[1]:
            raise RuntimeError(f"a patient needs more than {self.table.shape[1]} random numbers; raise the budget")
        block = self.table[:, self.next:self.next + count]
        self.next += count
        return (low + (high - low) * block).view(self.n, *shape)

    def normal(self, mean: float = 0.0, spread: float = 1.0, *shape: int) -> Tensor:
        """(n, *shape) normal, cut at 2.5 standard deviations so that no body falls apart."""
        u = self.uniform(1e-6, 1 - 1e-6, *shape)
        return mean + spread * torch.special.ndtri(u).clamp(-2.5, 2.5)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """(n, *shape) booleans."""
        return self.uniform(0, 1, *shape) < probability


def noise(n: int, seed: int, stream: str, shape: tuple[int, ...]) -> Tensor:
    """White standard normal noise (n, *shape)."""
    return rows(n, seed, stream, math.prod(shape), normal=True).view(n, *shape)


def cloud(n: int, seed: int, stream: str, size: int, cells: int, dims: int = 2, octaves: int = 1) -> Tensor:
    """Smooth random fields (n, *(size,) * dims) of zero mean and about unit spread; `cells` bumps per side in the
    first octave, twice as many and half as strong in each further one. The same field at every `size`."""
    total, power = 0.0, 0.0
    for k in range(octaves):
        count = cells * 2**k + 3
        field = noise(n, seed, f"{stream}/{k}", (count,) * dims)
        place = (torch.arange(size) + 0.5) / size * (count - 3) + 1
        spline = _cubic((place[:, None] - torch.arange(count)).abs())
        for _ in range(dims):
            field = torch.tensordot(field, spline, ([1], [1]))
        total, power = total + field * 0.5**k, power + 0.25**k
    return total / math.sqrt(power * 0.479**dims)  # 0.479: mean of the squared weights along one axis


def _cubic(t: Tensor) -> Tensor:
    """The cubic B-spline at distance t >= 0."""
    return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, C, H, W) by `sigma` pixels, edges repeated. A wide blur runs on a reduced image."""
    if sigma <= 0:
        return image
    if sigma > 4 and image.shape[-1] % 2 == 0 and image.shape[-2] % 2 == 0:
        small = blur(F.avg_pool2d(image, 2), sigma / 2)
        return F.interpolate(small, size=image.shape[-2:], mode="bilinear", align_corners=False)
    radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    n, c, h, w = image.shape
    flat = image.reshape(n * c, 1, h, w)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    return flat.view(n, c, h, w)


def expose(line: Tensor, white: Tensor, photons: Tensor | float = 2e4, scatter: float = 0.35, sharpness: float = 0.5,
           gamma: Tensor | float = 1.0) -> Tensor:
    """A radiograph (N, H, W) in [0, 1], bone bright, from line integrals of mu (N, H, W).

    Beer-Lambert transmission, scatter (a wide blur of it, `scatter` times the primary), detector blur of `sharpness`
    pixels, quantum noise for `photons` per pixel in air (N,), the logarithm, and the automatic window of a digital
    detector, between the 1st and 97th percentile of the picture's middle, then `gamma`. `white` is standard
    normal (N, H, W).
    """
    primary = torch.exp(-line)[:, None]
    light = primary + scatter * blur(primary, line.shape[-1] / 10)
    light = blur(light, sharpness)[:, 0]
    photons = torch.as_tensor(photons, dtype=line.dtype).view(-1, 1, 1)
    counts = light + (light / photons).sqrt() * white
    film = -counts.clamp(min=1e-4).log()
    h, w = film.shape[-2:]
    flat = film[:, h // 8:h - h // 8, w // 6:w - w // 6].flatten(1).sort(dim=1).values
    low, high = (flat[:, int(q * (flat.shape[1] - 1))].view(-1, 1, 1) for q in (0.01, 0.97))
    film = ((film - low) / (high - low).clamp(min=1e-3)).mul(0.82).add(0.08).clamp(0, 1)
    return film ** torch.as_tensor(gamma, dtype=line.dtype).view(-1, 1, 1)


def unit_grid(size: int) -> tuple[Tensor, Tensor]:
    """x and y (size, size) of the pixel centres of a picture that spans [-1, 1]."""
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1
    return axis[None, :].expand(size, size), axis[:, None].expand(size, size)


def outline(angle: Tensor, amplitude: Tensor, phase: Tensor) -> Tensor:
    """Radial factors 1 + sum_k a_k cos(k angle + phase_k) for `angle` (N, ...), k = 1..K, coefficients (N, K)."""
    shape = (len(amplitude),) + (1,) * (angle.ndim - 1)
    total = torch.ones_like(angle)
    for k in range(amplitude.shape[1]):
        total = total + amplitude[:, k].view(shape) * torch.cos((k + 1) * angle + phase[:, k].view(shape))
    return total.clamp(min=0.15)


def boxes(mask: Tensor) -> Tensor:
    """Boxes (N, K, 4) as x0, y0, x1, y1 in pixels, ends exclusive, of boolean layers (N, K, H, W); NaN where empty."""
    made = []
    for axis in (-2, -1):
        line = mask.any(axis)
        place = torch.arange(line.shape[-1], dtype=torch.float32)
        low = torch.where(line, place, math.inf).amin(-1)
        high = torch.where(line, place + 1, -math.inf).amax(-1)
        made.append((low, high))
    box = torch.stack([made[0][0], made[1][0], made[0][1], made[1][1]], -1)
    return torch.where(mask.any(-1).any(-1)[..., None], box, math.nan)
