"""The engine of the digital patient: N bodies made of convex parts, seen as CT and as X-ray.

Coordinates in mm, as in DICOM: x to the patient's left, y to the back (posterior), z to the head; the origin is the
isocentre. A part is the intersection of quadrics (ellipsoids, endless cylinders) and half-spaces, so it is convex and
a ray crosses it in one interval. The CT value of a point is the background plus the sum of the deltas of the parts
that contain it, and the X-ray is the same sum with chords in place of membership: a closed form, without marching.

Units: CT in HU, attenuation mu = MU_WATER * (1 + HU / 1000) in 1/mm, so that air (-1000 HU) attenuates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medtutor.phantom.shape import FAR, Shape, ellipsoid, everywhere, half_space, rotation, tube

__all__ = ["Body", "Builder", "MU_WATER", "Shape", "VIEWS", "ellipsoid", "half_space", "rotation", "tube"]

MU_WATER = 0.02  # 1/mm, water at about 65 keV, the mean energy of a chest radiograph
_BLOCK = 2**18  # numbers worked on at once: temporaries stay in the cache
VIEWS = {"PA": 0.0, "AP": 180.0, "lateral": 90.0}


@dataclass
class _Part:
    shape: Shape
    delta: dict[str, Tensor]  # modality -> (N,)
    weight: Tensor  # (N,): +1 where present, -1 where it takes its organ away, 0 where absent
    organ: int
    tags: frozenset[str]


class Builder:
    """Collects the parts of N bodies. `background` gives the value of air per modality."""

    def __init__(self, n: int, organs: Iterable[str], background: dict[str, float]):
        self.n, self.organs, self.background = n, tuple(organs), background
        self.parts: list[_Part] = []
        self.values = {None: {m: torch.full((n,), v, dtype=torch.float64) for m, v in background.items()}}

    def add(self, name: str, shape: Shape | list[Shape], within: str | None = None, over: Iterable[str] = (),
            organ: str | None = None, present: Tensor | None = None, **values: Tensor | float) -> None:
        """Add `shape` (or a tube's list of shapes) with an absolute value (N,) or float per modality.

        The shape must lie inside the part named `within` (air if None), whose value it replaces. It is painted over
        the parts named in `over`: on each intersection, convex too, their deltas are taken away. `organ` is one of
        the body's organs (None: not labelled); later parts win the label. Where `present` (N,) is False it is absent.
        """
        shapes = shape if isinstance(shape, list) else [shape]
        on = torch.ones(self.n) if present is None else present.double().expand(self.n)
        value = {m: torch.as_tensor(values.get(m, self.background[m]), dtype=torch.float64).expand(self.n)
                 for m in self.background}
        if within not in self.values:
            raise ValueError(f"{name} lies within {within!r}, which is no part yet; add that first")
        delta = {m: (value[m] - self.values[within][m]) * on for m in value}
        index = self.organs.index(organ) if organ else -1
        covered, over = [p for p in self.parts if p.tags <= set(over)], set(over)
        for one in shapes:
            one = replace(one, **{k: v.expand(self.n, *v.shape[1:]) for k, v in vars(one).items()})
            one = replace(one, reach=torch.where(on > 0, one.reach, 0.0))
            for p in covered:
                gap = (one.middle - p.shape.middle).norm(dim=-1) - one.reach - p.shape.reach
                if bool((gap < 0).any()):
                    self.parts.append(_Part(one & p.shape, {m: -d * on for m, d in p.delta.items()}, -p.weight * on,
                                            p.organ, p.tags | {name}))
            self.parts.append(_Part(one, delta, on, index, frozenset({name})))
        self.values[name] = value

    def build(self) -> Body:
        """The bodies, their parts grouped by the number of quadrics and half-spaces."""
        groups: dict[tuple[int, int], list[int]] = {}
        for order, part in enumerate(self.parts):  # few groups are fast: spare half-spaces hold everything
            planes = part.shape.normal.shape[1]
            room = next(h for h in (0, 2, 4, 7, planes) if h >= planes)
            part.shape = part.shape & everywhere(self.n, room - planes)
            groups.setdefault((part.shape.form.shape[1], room), []).append(order)
        made = []
        for orders in groups.values():
            parts = [self.parts[k] for k in orders]
            made.append(_Group(*(torch.stack([getattr(p.shape, k) for p in parts], 1) for k in
                                 ("form", "centre", "normal", "offset", "middle", "reach")),
                               {m: torch.stack([p.delta[m] for p in parts], 1) for m in self.background},
                               torch.stack([p.weight.double() for p in parts], 1),
                               torch.tensor([p.organ for p in parts]), torch.tensor(orders)))
        return Body(self.n, made, self.organs, self.background)


@dataclass(frozen=True)
class _Group:
    """P parts of N bodies with the same number of quadrics and half-spaces; as in `Shape`, after (N, P)."""

    form: Tensor
    centre: Tensor
    normal: Tensor
    offset: Tensor
    middle: Tensor
    reach: Tensor
    delta: dict[str, Tensor]
    weight: Tensor
    organ: Tensor
    order: Tensor

    def take(self, rows=slice(None), parts=slice(None)) -> _Group:
        cut = {k: v[rows][:, parts] for k, v in vars(self).items() if isinstance(v, Tensor) and v.ndim > 1}
        return replace(self, **cut, delta={m: d[rows][:, parts] for m, d in self.delta.items()},
                       organ=self.organ[parts], order=self.order[parts])


@dataclass(frozen=True)
class Body:
    """N bodies with the same list of parts. `organs` names the label indices; `background` is the value of air."""

    n: int
    groups: list[_Group]
    organs: tuple[str, ...]
    background: dict[str, float]

    def __getitem__(self, rows: slice) -> Body:
        """Some of the patients."""
        return replace(self, n=len(range(self.n)[rows]), groups=[g.take(rows) for g in self.groups])

    def moved(self, turn: Tensor | None = None, shift: Tensor | None = None) -> Body:
        """The bodies turned by `turn` (N, 3, 3) about the origin (a reflection is allowed), then moved by (N, 3) mm."""
        turn = (torch.eye(3) if turn is None else turn).double().expand(self.n, 3, 3)[:, None]
        shift = (torch.zeros(3) if shift is None else shift).double().expand(self.n, 3)[:, None]
        groups = []
        for g in self.groups:
            normal = torch.einsum("npij,nphj->nphi", turn, g.normal)
            groups.append(replace(
                g, normal=normal, offset=g.offset + (normal * shift[:, :, None]).sum(-1),
                form=turn[:, :, None] @ g.form @ turn[:, :, None].transpose(-1, -2),
                centre=torch.einsum("npij,npqj->npqi", turn, g.centre) + shift[:, :, None],
                middle=torch.einsum("npij,npj->npi", turn, g.middle) + shift))
        return replace(self, groups=groups)

    def sample(self, points: Tensor, modality: str | None = "ct", labelled: bool = True,
               ) -> tuple[Tensor | None, Tensor]:
        """Values (N, M) of a modality (None: skip) and organ indices (N, M) int64 at shared `points` (M, 3) in mm.
        Where organs overlap, the later part wins; 0 is "none of them", and everywhere without `labelled`."""
        shape = (self.n, len(points))
        value = None if modality is None else torch.full(shape, float(self.background[modality]))
        top, organ_of = torch.zeros(shape), torch.zeros(1 + sum(len(g.order) for g in self.groups), dtype=torch.long)
        for g in self.groups:
            organ_of[g.order + 1] = g.organ.clamp(min=0)
        step = 2048
        for a in range(0, len(points), step):
            block = points[a:a + step].double()
            low, high = block.amin(0), block.amax(0)
            monomials = _monomials3(block).float()
            for g in self.groups:
                nearest = torch.minimum(torch.maximum(g.middle, low), high)
                near = (g.middle - nearest).norm(dim=-1) <= g.reach
                rows_at_once = max(1, _BLOCK // max(1, int(near.any(0).sum()) * len(block)))
                for rows in _chunks(self.n, rows_at_once):
                    pick = near[rows].any(0).nonzero()[:, 0]
                    if value is None:
                        pick = pick[g.organ[pick] >= 0]
                    if len(pick) == 0:
                        continue
                    part = g.take(rows, pick)
                    inside = _inside(part, monomials)
                    if value is not None:
                        value[rows, a:a + step] += torch.bmm(part.delta[modality].float()[:, None], inside)[:, 0]
                    named = (part.organ >= 0).nonzero()[:, 0]
                    if len(named) and labelled:
                        rank = ((part.order + 1) * (part.weight > 0))[:, named].float()
                        best = inside[:, named].mul_(rank[..., None]).amax(1)
                        top[rows, a:a + step] = torch.maximum(top[rows, a:a + step], best)
        return value, organ_of[top.long()]

    def ct(self, points: Tensor) -> Tensor:
        """CT values (N, M) in HU at shared `points` (M, 3) in mm."""
        return self.sample(points, "ct", False)[0]

    def slice(self, level: Tensor | float, size: int, fov: float, modality: str = "ct", oversample: int = 2,
              ) -> tuple[Tensor, Tensor]:
        """Axial slices at height `level` (N,) mm: values (N, size, size) and labels, seen from the feet.

        Columns run to the patient's left and rows to the back, so the patient's right is at the image's left. The
        value of a pixel is the mean over oversample^2 points, the label that of its centre.
        """
        level = torch.as_tensor(level, dtype=torch.float64).expand(self.n)
        at_zero = self.moved(shift=torch.stack([0 * level, 0 * level, -level], 1))
        image, mask = [], []
        for rows in _chunks(self.n, 16):
            body = at_zero[rows]
            fine = body.sample(_plane(size * oversample, fov), modality, False)[0]
            fine = fine.view(-1, size, oversample, size, oversample)
            image.append(fine.mean((2, 4)))
            mask.append(body.sample(_plane(size, fov), None)[1].view(-1, size, size))
        return torch.cat(image), torch.cat(mask)

    def volume(self, size: int, fov: float | tuple[float, float, float], modality: str = "ct",
               ) -> tuple[Tensor, Tensor]:
        """Values and labels (N, size, size, size) of the box of `fov` mm (z, y, x) at the isocentre, feet first."""
        z, y, x = (fov,) * 3 if isinstance(fov, (int, float)) else fov
        grids = torch.meshgrid(*(_axis(size, f) for f in (z, y, x)), indexing="ij")
        points = torch.stack([grids[2], grids[1], grids[0]], -1).view(-1, 3)
        made = [self[rows].sample(points, modality) for rows in _chunks(self.n, 4)]
        return tuple(torch.cat(column).view(self.n, size, size, size) for column in zip(*made, strict=True))

    def xray(self, view: str | float = "PA", size: int = 64, fov: float = 360.0, source: float = math.inf) -> Tensor:
        """Line integrals of mu (N, size, size), without unit. See `film`."""
        return self.film(view, size, fov, source)[0]

    def projected(self, organ: str, view: str | float = "PA", size: int = 64, fov: float = 360.0,
                  source: float = math.inf) -> Tensor:
        """Boolean (N, size, size): the rays that cross the organ, other organs before or behind it or not."""
        return self.film(view, size, fov, source, (organ,))[1][:, 0]

    def film(self, view: str | float = "PA", size: int = 64, fov: float = 360.0, source: float = math.inf,
             organs: Iterable[str] = ()) -> tuple[Tensor, Tensor]:
        """Line integrals of mu (N, size, size) and projected masks (N, K, size, size) of K `organs`, in one pass.

        An angle in degrees turns the beam about z: 0 goes from back to front, 90 from the patient's right to the
        left, 180 from front to back; the image is seen from the detector, head up. "PA" is 0 and "lateral" is 90;
        "AP" is 180 shown as films are, with the patient's right at the image's left: for a parallel beam the same
        image as "PA". `source` is the distance in mm from the source to the isocentre (inf: parallel beam); `fov` is
        the width of the image in the plane of the isocentre. A mask holds rays that cross more than 0.01 mm.
        """
        if view not in VIEWS and not isinstance(view, (int, float)):
            raise ValueError(f"view must be one of {', '.join(VIEWS)} or an angle in degrees, but got {view!r}")
        angle = math.radians(VIEWS.get(view, view))
        right = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
        if view == "AP":
            right = -right
        beam = torch.tensor([math.sin(angle), -math.cos(angle), 0.0], dtype=torch.float64)
        frame = (beam, right, torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64))
        wanted = [self.organs.index(o) for o in organs]
        made = [self[rows]._film(frame, size, fov / size, 1 / source, wanted) for rows in _chunks(self.n, 16)]
        line = torch.cat([m[:, 0] for m in made])
        return line, torch.cat([m[:, 1:] for m in made]) > 0.01

    def _film(self, frame: tuple, size: int, pixel: float, k: float, wanted: list[int]) -> Tensor:
        total = torch.zeros(self.n, 1 + len(wanted), size * size)
        tiles = sorted({math.ceil(size * f) for f in (1 / 8, 3 / 16, 9 / 32, 7 / 16, 9 / 16, 11 / 16)}) + [size]
        for g in self.groups:
            depth = (g.middle @ frame[0]).abs().clamp(max=0.5 / k if k else FAR)
            need = (2 * g.reach * (1.1 / (1 - k * depth) if k else 1.0) / pixel).amax(0) + 3
            tile_of = torch.bucketize(need, torch.tensor(tiles[:-1], dtype=need.dtype))
            for t, tile in enumerate(tiles):
                pick = ((tile_of == t) & (g.reach > 0).any(0)).nonzero()[:, 0]
                step = max(1, _BLOCK // max(1, len(pick) * tile * tile))
                for rows in _chunks(self.n, step) if len(pick) else ():
                    _add_tiles(total[rows], g.take(rows, pick), frame, wanted, size, tile, pixel, k)
        if k:
            u = _axis(size, pixel * size).float()
            total *= (1 + k * k * (u[:, None] ** 2 + u**2)).sqrt().view(-1)
        return total.view(self.n, -1, size, size)


def _add_tiles(total: Tensor, g: _Group, frame: tuple, wanted: list[int], size: int, tile: int, pixel: float,
               k: float) -> None:
    """Add attenuation and organ weights times chord to `total` (N, 1 + K, size^2), each part on a window around it."""
    channels = torch.stack([g.delta["ct"] * (MU_WATER / 1000), *(g.weight * (g.organ == o) for o in wanted)], 1).float()
    beam, right, down = frame
    n, parts = g.reach.shape
    if tile == size:
        corner = torch.zeros(n, parts, 2, dtype=torch.long)
    else:
        grow = 1 / (1 + k * (g.middle @ beam))
        spot = torch.stack([g.middle @ down, g.middle @ right], -1) * grow[..., None] / pixel + (size - 1) / 2
        corner = (spot - (tile - 1) / 2).round().long().clamp(0, size - tile)
    at = (corner + (tile - 1) / 2 - (size - 1) / 2) * pixel
    origin = at[..., :1] * down + at[..., 1:] * right
    chord = _chords(g, origin, frame, tile, pixel, k)
    if tile == size:
        total += torch.bmm(channels, chord)
        return
    cell = (corner[..., 0, None] + torch.arange(tile)) * size
    index = (cell[..., None] + (corner[..., 1, None] + torch.arange(tile))[..., None, :]).view(n, -1)
    for c in range(channels.shape[1]):
        if channels[:, c].any():
            total[:, c].scatter_add_(1, index, (channels[:, c, :, None] * chord).view(n, -1))


def _chords(g: _Group, origin: Tensor, frame: tuple, tile: int, pixel: float, k: float) -> Tensor:
    """Chord of each part along each ray of its window, (N, P, tile^2), in units of the ray's direction vector.

    The ray of window pixel (u, v) is o + t d with o = origin + u right + v down and d = beam + k o. A quadric turns
    into a t^2 + 2 b t + c <= 0 whose coefficients are polynomials of u and v, so all rays are one matrix product.
    """
    beam, right, down = frame
    axis = _axis(tile, tile * pixel)
    v, u = (m.reshape(-1) for m in torch.meshgrid(axis, axis, indexing="ij"))
    monomials = torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v]).float()
    ray = torch.stack([beam + k * origin, (k * right).expand_as(origin), (k * down).expand_as(origin)], -2)
    low = high = None
    for q in range(g.form.shape[2]):
        place = torch.stack([origin - g.centre[:, :, q], right.expand_as(origin), down.expand_as(origin)], -2)
        form = g.form[:, :, q]
        a, b, c = (_product(x @ form @ y.transpose(-1, -2)) for x, y in ((ray, ray), (ray, place), (place, place)))
        c[..., 0] -= 1
        if k:
            a, b, c = (coefficient.float() @ monomials for coefficient in (a, b, c))
            a = a.clamp(min=1e-8)
            middle, half = -b / a, (b * b - a * c).clamp_(min=0).sqrt_() / a
        else:
            a, b = a[..., :1].clamp(min=1e-8), b[..., :3]
            square = _product(b[..., :, None] * b[..., None, :])
            half = (((square - a * c) / a**2).float() @ monomials).clamp_(min=0).sqrt_()
            if g.form.shape[2] == 1 and g.normal.shape[2] == 0:
                return half.mul_(2)
            middle = (-b / a).float() @ monomials[:3]
        low = middle - half if low is None else torch.maximum(low, middle - half)
        high = middle.add_(half) if high is None else torch.minimum(high, middle.add_(half))
    for h in range(g.normal.shape[2]):
        normal = g.normal[:, :, h, None]
        speed = (ray * normal).sum(-1)
        gap = torch.stack([g.offset[:, :, h] - (origin * normal[:, :, 0]).sum(-1), -(normal[:, :, 0] @ right),
                           -(normal[:, :, 0] @ down)], -1)
        if k:
            speed = speed.float() @ monomials[:3]
            speed = speed.abs().clamp(min=1e-7).copysign(speed)
            bound = (gap.float() @ monomials[:3]) / speed
        else:
            speed = speed[..., :1].abs().clamp(min=1e-7).copysign(speed[..., :1])
            bound = (gap / speed).float() @ monomials[:3]
        ahead = speed > 0  # a plane bounds the ray at one end only
        high = torch.minimum(high, bound + torch.where(ahead, 0.0, math.inf))
        low = torch.maximum(low, bound.sub_(torch.where(ahead, math.inf, 0.0)))
    return (high - low).clamp_(min=0)


def _product(table: Tensor) -> Tensor:
    """Coefficients of 1, u, v, u^2, uv, v^2 from the 3x3 table of products of two affine functions of (1, u, v)."""
    t = table
    return torch.stack([t[..., 0, 0], t[..., 0, 1] + t[..., 1, 0], t[..., 0, 2] + t[..., 2, 0], t[..., 1, 1],
                        t[..., 1, 2] + t[..., 2, 1], t[..., 2, 2]], -1)


def _inside(g: _Group, monomials: Tensor) -> Tensor:
    """1.0 where a point lies in a part, (N, P, M), for the monomials (10, M) of the points."""
    inside = None
    for q in range(g.form.shape[2]):
        a, c = g.form[:, :, q], g.centre[:, :, q]
        ac = torch.einsum("npij,npj->npi", a, c)
        coefficients = torch.stack([
            (c * ac).sum(-1) - 1, *(-2 * ac).unbind(-1), a[..., 0, 0], a[..., 1, 1], a[..., 2, 2],
            2 * a[..., 0, 1], 2 * a[..., 0, 2], 2 * a[..., 1, 2]], -1).float()
        test = coefficients @ monomials <= 0
        inside = test if inside is None else inside.logical_and_(test)
    for h in range(g.normal.shape[2]):
        coefficients = torch.cat([-g.offset[:, :, h, None], g.normal[:, :, h]], -1).float()
        test = coefficients @ monomials[:4] <= 0
        inside = test if inside is None else inside.logical_and_(test)
    return inside.float()


def _monomials3(p: Tensor) -> Tensor:
    x, y, z = p.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z])


def _axis(size: int, fov: float) -> Tensor:
    """Pixel centres in mm of `size` pixels that span `fov`, about 0."""
    return (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * (fov / size)


def _plane(size: int, fov: float) -> Tensor:
    y, x = torch.meshgrid(_axis(size, fov), _axis(size, fov), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], -1).view(-1, 3)


def _chunks(n: int, step: int) -> Iterator[slice]:
    return (slice(a, min(a + step, n)) for a in range(0, n, step))
