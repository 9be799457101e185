"""The engine of the digital patient: N bodies made of convex parts, seen as CT and as X-ray.

Coordinates in mm, as in DICOM: x to the patient's left, y to the back (posterior), z to the head; the origin is the
isocentre. A part is the intersection of quadrics (ellipsoids, endless cylinders) and half-spaces, so it is convex and
a line crosses it in one interval. The CT value of a point is the background plus the sum of the deltas of the parts
that contain it, and the X-ray is the same sum with chords in place of membership: a closed form, without marching.
A row of a CT image is a line too: every part fills one interval of it.

Units: CT in HU, attenuation mu = MU_WATER * (1 + HU / 1000) in 1/mm, so that air (-1000 HU) attenuates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medtutor.render import kernels
from medtutor.render.shape import FAR, Shape, ellipsoid, half_space, rotation, tube

__all__ = ["Body", "Builder", "MU_WATER", "Shape", "VIEWS", "ellipsoid", "half_space", "rotation", "tube"]

MU_WATER = 0.02  # 1/mm, water at about 65 keV, the mean energy of a chest radiograph
VIEWS = {"PA": 0.0, "AP": 180.0, "lateral": 90.0}
_ACROSS = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]).double()  # u = y, v = z, t = x


@dataclass(frozen=True)
class _Solid:
    """A shape of every body, and what it paints."""

    fields: list[np.ndarray]  # as in `Shape`
    on: np.ndarray  # (N,): 1 where present, else 0
    delta: np.ndarray  # (modalities, N)
    organ: int


@dataclass(frozen=True)
class _Part:
    """The intersection of some solids, by index: the first, and those painted over it."""

    solids: tuple[int, ...]
    tags: frozenset[str]
    low: np.ndarray  # (3,): the corners of a box that no body's part leaves
    high: np.ndarray


class Builder:
    """Collects the parts of N bodies. `background` gives the value of air per modality."""

    def __init__(self, n: int, organs: Iterable[str], background: dict[str, float]):
        self.n, self.organs, self.background = n, tuple(organs), background
        self.solids: list[_Solid] = []
        self.parts: list[_Part] = []
        self.values = {None: {m: torch.full((n,), v, dtype=torch.float64) for m, v in background.items()}}

    def add(self, name: str, shape: Shape | list[Shape], within: str | None = None, over: Iterable[str] = (),
            organ: str | None = None, present: Tensor | None = None, **values: Tensor | float) -> None:
        """Add `shape` (or a tube's list of shapes) with an absolute value (N,) or float per modality.

        The shape must lie inside the part named `within` (air if None), whose value it replaces. It is painted over
        the parts named in `over`: on each intersection, convex too, their deltas are taken away. `organ` is one of
        the body's organs (None: not labelled); later parts win the label. Where `present` (N,) is False it is absent.
        """
        if within not in self.values:
            raise ValueError(f"{name} lies within {within!r}, which is no part yet; add that first")
        n, over, index, tags = self.n, set(over), self.organs.index(organ) if organ else -1, frozenset({name})
        on = np.ones(n) if present is None else present.double().expand(n).numpy()
        value = {m: torch.as_tensor(values.get(m, self.background[m]), dtype=torch.float64).expand(n)
                 for m in self.background}
        delta = np.stack([(value[m] - self.values[within][m]).numpy() for m in value])
        made = [[a.numpy() if len(a) == n else a.expand(n, *a.shape[1:]).numpy() for a in vars(one).values()]
                for one in (shape if isinstance(shape, list) else [shape])]
        middle, reach = np.stack([f[4] for f in made]), np.stack([f[5] for f in made])[..., None]
        low, high = (middle - reach).min(1), (middle + reach).max(1)
        covered = [p for p in self.parts if p.tags <= over] if over else []
        if covered:
            lows = np.maximum(low[:, None], [p.low for p in covered])
            highs = np.minimum(high[:, None], [p.high for p in covered])
            meet = (lows < highs).all(-1)
        for k, fields in enumerate(made):
            own = len(self.solids)
            for c in np.flatnonzero(meet[k]) if covered else ():
                self.parts.append(_Part((*covered[c].solids, own), covered[c].tags | tags, lows[k, c], highs[k, c]))
            self.parts.append(_Part((own,), tags, low[k], high[k]))
            self.solids.append(_Solid(fields, on, delta, index))
        self.values[name] = value

    def build(self, opaque: bool = False) -> Body:
        """The bodies that the parts make up. In an `opaque` one every part hides what was added before it, without
        `within` and `over`: any number of parts may overlap, but there are slices and volumes only."""
        form, centre, normal, offset, middle, reach = zip(*(s.fields for s in self.solids), strict=True)
        ends = np.cumsum([[0, 0]] + [[f.shape[1], h.shape[1]] for f, h in zip(form, normal, strict=True)], 0)
        cut = np.diff(ends[:, 1]) > 0  # what half-spaces cut gets a ball that bounds it
        middle, reach, on = np.stack(middle, 1), np.stack(reach, 1), np.stack([s.on for s in self.solids], 1)
        balls = np.eye(3) / reach[:, cut, None, None].clip(1e-3, FAR) ** 2
        form, centre = np.concatenate([*form, balls], 1), np.concatenate([*centre, middle[:, cut]], 1)
        planes = np.zeros((self.n, ends[-1, 1], 4))
        kernels.spread(kernels.trim, self.n, np.concatenate(normal, 1), np.concatenate(offset, 1), middle, reach,
                       ends[:, 1].copy(), planes, on)
        table, quadrics_of, planes_of, ball = [], [], [], ends[-1, 0] + cut.cumsum() - 1
        for p in self.parts:
            first = len(quadrics_of), len(planes_of)
            for s in p.solids:
                quadrics_of += range(ends[s, 0], ends[s + 1, 0])
                planes_of += range(ends[s, 1], ends[s + 1, 1])
            solid = len(quadrics_of)
            quadrics_of += [ball[s] for s in p.solids if cut[s]]
            table.append((first[0], len(quadrics_of), solid, first[1], len(planes_of)))
        # Each solid painted over a part takes away what was there: the sign changes once more.
        first = [p.solids[0] for p in self.parts]
        weight = np.stack([math.prod(-on[:, s] for s in p.solids) for p in self.parts], 1) * -1.0
        delta = np.stack([s.delta for s in self.solids], 2)[..., first] * weight
        return Body(self.n, self.organs, self.background, *map(torch.from_numpy, (form, centre, planes)),
                    torch.eye(4, dtype=torch.float64).expand(self.n, 4, 4),
                    tuple(np.array(a, dtype=np.int64) for a in (table, quadrics_of, planes_of)),
                    dict(zip(self.background, torch.from_numpy(delta), strict=True)), torch.from_numpy(weight),
                    np.array([self.solids[s].organ for s in first]), np.array([len(p.solids) == 1 for p in self.parts]),
                    opaque)


@dataclass(frozen=True)
class Body:
    """N bodies with the same P parts. `organs` names the label indices; `background` is the value of air.

    The quadrics have form (N, Q, 3, 3) and centre (N, Q, 3), as in `Shape`, the half-spaces are planes (N, H, 4), which
    are normal and minus offset, and `layout` says whose they are, as in `kernels`; all this in coordinates to which
    `frame` (N, 4, 4) maps those of the bodies. Per part: delta {modality: (N, P)}, weight (N, P), organ (P,), and
    `whole` (P,): it is not the intersection of a part with one painted over it. `opaque`: parts hide what came before.
    """

    n: int
    organs: tuple[str, ...]
    background: dict[str, float]
    form: Tensor
    centre: Tensor
    planes: Tensor
    frame: Tensor
    layout: tuple[np.ndarray, np.ndarray, np.ndarray]
    delta: dict[str, Tensor]
    weight: Tensor
    organ: np.ndarray
    whole: np.ndarray
    opaque: bool = False

    def __getitem__(self, rows: slice) -> Body:
        """Some of the patients."""
        cut = {k: getattr(self, k)[rows] for k in ("form", "centre", "planes", "frame", "weight")}
        return replace(self, n=len(range(self.n)[rows]), delta={m: d[rows] for m, d in self.delta.items()}, **cut)

    def moved(self, turn: Tensor | None = None, shift: Tensor | None = None) -> Body:
        """The bodies turned by `turn` (N, 3, 3) about the origin (a reflection is allowed), then moved by (N, 3) mm."""
        back = torch.eye(4, dtype=torch.float64).repeat(self.n, 1, 1)
        if turn is not None:
            back[:, :3, :3] = turn.double().mT
        if shift is not None:
            back[:, :3, 3:] = -back[:, :3, :3] @ shift.double().expand(self.n, 3)[..., None]
        return replace(self, frame=self.frame @ back)

    def _run(self, kernel, place: Tensor, columns: tuple[Tensor, ...], *rest) -> None:
        """Run a kernel on all patients; `place` and `columns` have a row a patient."""
        tables = self.form, self.centre, self.planes, place, *columns
        kernels.spread(kernel, self.n, *self.layout, *(t.contiguous().numpy() for t in tables),
                       *(r.numpy() if isinstance(r, Tensor) else r for r in rest))

    def _paint(self, kernel, place: Tensor, shape: tuple[int, ...], modality: str | None, labelled: bool, *where,
               ) -> tuple[Tensor | None, Tensor]:
        none = (0,) * len(shape)
        value = torch.full(shape, float(self.background[modality])) if modality else torch.zeros(none)
        label = torch.zeros(shape, dtype=torch.long)
        delta = self.delta[modality] if modality else self.weight
        delta = delta + self.background[modality] if modality and self.opaque else delta
        self._run(kernel, place, (delta, self.weight), self.organ, self.whole, *where, value,
                  label if labelled else label.new_zeros(none))
        return value if modality else None, label

    def sample(self, points: Tensor, modality: str | None = "ct", labelled: bool = True,
               ) -> tuple[Tensor | None, Tensor]:
        """Values (N, M) of a modality (None: skip) and organ indices (N, M) int64 at shared `points` (M, 3) in mm.
        Where organs overlap, the later part wins; 0 is "none of them", and everywhere without `labelled`."""
        self._see_through()
        there = points.double() @ self.frame[:, :3, :3].mT + self.frame[:, None, :3, 3]
        return self._paint(kernels.probe, there, (self.n, len(points)), modality, labelled)

    def _see_through(self) -> None:
        if self.opaque:
            raise ValueError("the parts of these bodies hide each other, so only slices and volumes show them")

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
        body = self.moved(shift=torch.stack([0 * level, 0 * level, -level], 1))
        fine = body._grid((1, size * oversample, size * oversample), (1.0, fov, fov), modality, False)[0]
        fine = fine.view(self.n, size, oversample, size, oversample).mean((2, 4))
        return fine, body._grid((1, size, size), (1.0, fov, fov), None, True)[1][:, 0]

    def volume(self, size: int | tuple[int, int, int], fov: float | tuple[float, float, float], modality: str = "ct",
               ) -> tuple[Tensor, Tensor]:
        """Values and labels (N, size, size, size) of the box of `fov` mm (z, y, x) at the isocentre, feet first; three
        sizes make (N, *size)."""
        fov = (fov,) * 3 if isinstance(fov, (int, float)) else fov
        return self._grid((size,) * 3 if isinstance(size, int) else size, fov, modality, True)

    def _grid(self, sizes: tuple[int, ...], fovs: tuple[float, ...], modality: str | None, labelled: bool,
              ) -> tuple[Tensor | None, Tensor]:
        """Values and labels (N, *sizes) at the centres of the voxels of a box (z, y, x) about the isocentre."""
        axes = np.array([_axis(s, f) for s, f in zip(sizes, fovs, strict=True)])
        return self._paint(kernels.fill, self.frame @ _ACROSS, (self.n, *sizes), modality, labelled, axes,
                           self.opaque)

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
        self._see_through()
        if view not in VIEWS and not isinstance(view, (int, float)):
            raise ValueError(f"view must be one of {', '.join(VIEWS)} or an angle in degrees, but got {view!r}")
        angle, mirror, k = math.radians(VIEWS.get(view, view)), -1 if view == "AP" else 1, 1 / source
        cos, sin = math.cos(angle), math.sin(angle)
        # The ray of pixel (u, v) holds the points (u right + v down + t beam) / (1 - k t): a projective map, under
        # which quadrics stay quadrics and planes stay planes, and all rays are parallel to t.
        place = torch.tensor([[mirror * cos, 0, sin, 0], [mirror * sin, 0, -cos, 0], [0, -1, 0, 0], [0, 0, -k, 1]],
                             dtype=torch.float64)
        slot, names = np.zeros_like(self.organ), list(organs)
        for c, name in enumerate(names):
            slot[self.organ == self.organs.index(name)] = c + 1
        line, start = torch.empty(self.n, size, size), _axis(size, fov)
        mask = torch.empty(self.n, len(names), size, size, dtype=torch.bool)
        gain = self.delta["ct"] * (MU_WATER / 1000)
        self._run(kernels.film, self.frame @ place, (gain, self.weight), slot, *start, k, line, mask)
        if k:
            u = torch.arange(size) * start[1] + start[0]
            line *= (1 + k * k * (u[:, None] ** 2 + u**2)).sqrt()
        return line, mask


def _axis(size: int, fov: float) -> tuple[float, float]:
    """First and step of the centres in mm of `size` pixels that span `fov`, about 0."""
    return -(size - 1) / 2 * (fov / size), fov / size
