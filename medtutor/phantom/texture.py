"""Randomness and detectors: per-patient random numbers, smooth noise, blur, exposure, radial outlines.

Every random number of patient i is a hash of (seed, stream, i) and its place, so that a patient is the same in a cohort
of 5 and of 5,000, and in every process.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from importlib.resources import files

import numpy as np
import torch
import yaml
from torch import Tensor

from medtutor.render import kernels


def rows(n: int, seed: int, stream: str, count: int, normal: bool = False) -> Tensor:
    """(n, count) random numbers, uniform in [0, 1) or standard normal; row i depends on (seed, stream, i) only."""
    key = np.frombuffer(blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "<u8")[0]
    out = torch.empty(n, count + count % 2)
    if out.numel() < 2**16:  # less work than starting threads
        kernels.random(0, n, key, out.numpy())
    else:
        kernels.spread(kernels.random, n, key, out.numpy())
    if normal:  # Box and Muller
        length, angle = (-2 * torch.log1p(-out[:, ::2])).sqrt(), 2 * math.pi * out[:, 1::2]
        out = torch.stack([length * angle.cos(), length * angle.sin()], -1).view(n, -1)
    return out[:, :count]


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


def table(name: str) -> dict:
    """The tables of a module, from NAME.yml beside it."""
    return yaml.load(files(__package__).joinpath(f"{name}.yml").read_text(encoding="utf-8"),
                     getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def chances(given: dict | None, default: dict[str, float], exclusive: bool = False, absent: bool = False) -> dict:
    """Probabilities by name: those `given`, the rest as in `default`, or 0 where names left out are `absent`.

    A probability is a number or a tensor; `exclusive` ones sum to 1 at most. Raises ValueError for names that are not
    in `default` and for what is no probability.
    """
    made = (dict.fromkeys(default, 0.0) if absent and given is not None else default) | (given or {})
    if (set(made) != set(default) or not all(0 <= torch.as_tensor(p).min() <= torch.as_tensor(p).max() <= 1
                                             for p in made.values()) or exclusive and sum(made.values()) > 1 + 1e-9):
        raise ValueError(f"prevalence needs probabilities of 0 to 1{' that sum to 1 at most' * exclusive} for names "
                         f"that you choose from {', '.join(default)}, but got {given}")
    return made


def each(n: int, name: str, given, low: float, high: float, drawn: Tensor | None = None, whole: bool = False) -> Tensor:
    """A number, or one per patient, as (n,), in the type of what was `drawn`, which stands in for None. Raises
    ValueError for other shapes, for values outside of `low` to `high`, and for fractions of what is `whole`."""
    made = torch.as_tensor(drawn if given is None else given, dtype=None if drawn is None else drawn.dtype)
    if made.shape not in ((), (n,)) or not ((made >= low) & (made <= high)).all() or whole and (made % 1).any():
        raise ValueError(f"{name} must be a{' whole' * whole} number from {low} to {high}, or one for each of the {n} "
                         f"patients, but got {given}")
    return made.expand(n)


def frames(n: int, count: int) -> dict[str, Tensor]:
    """`patient` and `visit` of n patients with `count` rows each."""
    return {"patient": torch.arange(n).repeat_interleave(count), "visit": torch.arange(count).repeat(n)}


def worded(attributes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The names of a column "attribute", and those of the values of each attribute."""
    return {"attribute": tuple(attributes)} | {f"attribute_{name}": tuple(words) for name, words in attributes.items()}


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
    """Gaussian blur of (N, C, H, W) by `sigma` pixels, edges repeated."""
    if sigma <= 0:
        return image
    offset = torch.arange(-max(1, math.ceil(3 * sigma)), max(1, math.ceil(3 * sigma)) + 1)
    kernel = torch.softmax(-0.5 * (offset.to(image.dtype) / sigma) ** 2, 0)
    for _ in range(2):  # a band matrix along the columns, then along the rows
        size = image.shape[-1]
        reach = (torch.arange(size)[:, None] + offset).clamp(0, size - 1)
        band = image.new_zeros(size, size).scatter_add_(1, reach, kernel.expand(size, -1))
        image = (image @ band.mT).mT
    return image


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
    middle = film[:, h // 8:h - h // 8, w // 6:w - w // 6].flatten(1)
    flat = torch.from_numpy(np.sort(middle.numpy(), axis=1))  # many times as fast as torch's sort
    low, high = (flat[:, int(q * (flat.shape[1] - 1))].view(-1, 1, 1) for q in (0.01, 0.97))
    film = ((film - low) / (high - low).clamp(min=1e-3)).mul(0.82).add(0.08).clamp(0, 1)
    return film ** torch.as_tensor(gamma, dtype=line.dtype).view(-1, 1, 1)


def unit_grid(size: int) -> tuple[Tensor, Tensor]:
    """x and y (size, size) of the pixel centres of a picture that spans [-1, 1]."""
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1
    return axis[None, :].expand(size, size), axis[:, None].expand(size, size)


def px(value: Tensor) -> Tensor:
    """(N,) made ready to meet pixels (N, H, W)."""
    return value[:, None, None]


def blend(under: Tensor, over: Tensor, alpha: Tensor) -> Tensor:
    """Pictures (N, C, H, W): `over` laid on `under` with opacity `alpha` (N, H, W)."""
    return under + (over - under) * alpha[:, None]


def lay(under: Tensor, over: Tensor | float, inside: Tensor) -> Tensor:
    """`over` laid on `under` with a soft edge: half at `inside` = 0, nearly all from 4 on."""
    return under + (over - under) * torch.sigmoid(inside)


def turned(x: Tensor, y: Tensor, centre: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates about `centre` (N, 2) along axes turned by `turn` (N,)."""
    dx, dy = x - px(centre[:, 0]), y - px(centre[:, 1])
    return dx * px(turn.cos()) + dy * px(turn.sin()), dy * px(turn.cos()) - dx * px(turn.sin())


def outline(angle: Tensor, amplitude: Tensor, phase: Tensor) -> Tensor:
    """Radial factors 1 + sum_k a_k cos(k angle + phase_k) for `angle` (N, ...), k = 1..K, coefficients (N, K)."""
    shape = (len(amplitude),) + (1,) * (angle.ndim - 1)
    total = torch.ones_like(angle)
    for k in range(amplitude.shape[1]):
        total = total + amplitude[:, k].view(shape) * torch.cos((k + 1) * angle + phase[:, k].view(shape))
    return total.clamp(min=0.15)


def radius_at(contour: Tensor, angle: Tensor) -> Tensor:
    """The outline's distance at `angle` (n, ...), from its distances (n, 720) all around."""
    index = (angle * (360 / math.pi)).round().long() % 720
    return contour.gather(1, index.flatten(1)).view(angle.shape)


def boxes(mask: Tensor) -> Tensor:
    """Boxes (N, K, 4) as x0, y0, x1, y1 in pixels, ends exclusive, of boolean layers (N, K, H, W); NaN where empty."""
    low, high = [], []
    for axis in (-2, -1):
        line = torch.from_numpy(mask.numpy().any(axis))  # many times as fast as torch's any
        place = torch.arange(line.shape[-1], dtype=torch.float32)
        low.append(torch.where(line, place, math.inf).amin(-1))
        high.append(torch.where(line, place + 1, -math.inf).amax(-1))
    return torch.where(mask.any(-1).any(-1)[..., None], torch.stack([*low, *high], -1), math.nan)


def strokes(ends: Tensor, width: Tensor, size: int, layer: Tensor | None = None, soft: tuple = (0.0,),
            least: tuple = (1.0,)) -> tuple[Tensor, Tensor]:
    """How much of each pixel, float32 (N, K, size, size), straight lines between `ends` (N, L, 2, 2) cover, x and y in
    pixels, `width` (N, L, 2) pixels wide at the ends, 0 for none; and where they are, boolean. Line l belongs to
    layer[l] of the K layers, whose edges fade over `soft` times the width; those thinner than `least` pixels count as
    that wide in the boolean layers."""
    cover, mask = (np.zeros((len(ends), len(soft), size, size), kind) for kind in (np.float32, bool))
    layer = torch.zeros(ends.shape[1], dtype=torch.int64) if layer is None else layer
    kernels.spread(kernels.strokes, len(ends), ends.numpy(), width.numpy(), layer.numpy(), np.array(soft),
                   np.array(least), cover, mask)
    return torch.from_numpy(cover), torch.from_numpy(mask)
