"""Convex solids for the digital patient, N at a time: ellipsoids, cylinders, half-spaces, tubes. Lengths in mm."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

FAR = 1e6  # mm; larger than any body


def stack(*columns: Tensor | float, n: int | None = None) -> Tensor:
    """Points (N, K) of K numbers or (N,) tensors; N from the tensors, or n."""
    n = n or max((len(v) for v in columns if isinstance(v, Tensor) and v.ndim), default=1)
    return torch.stack([torch.as_tensor(v, dtype=torch.float64).expand(n) for v in columns], -1)


@dataclass(frozen=True)
class Shape:
    """N convex solids: the points p with (p - centre)^T form (p - centre) <= 1 for every one of Q quadrics and
    normal . p <= offset for every one of H half-spaces. `a & b` is the intersection.

    Shapes (float64): form (N, Q, 3, 3), centre (N, Q, 3), normal (N, H, 3), offset (N, H); the bounding sphere is
    middle (N, 3), reach (N,).
    """

    form: Tensor
    centre: Tensor
    normal: Tensor
    offset: Tensor
    middle: Tensor
    reach: Tensor

    def __and__(self, other: Shape) -> Shape:
        both = [torch.cat([getattr(self, k), getattr(other, k)], 1) for k in ("form", "centre", "normal", "offset")]
        inner = self.reach <= other.reach
        return Shape(*both, torch.where(inner[:, None], self.middle, other.middle),
                     torch.minimum(self.reach, other.reach))


def ellipsoid(centre: Tensor, radii: Tensor, turn: Tensor | None = None) -> Shape:
    """Ellipsoids at `centre` (N, 3) with semi-axes `radii` (N, 3) along the columns of the rotation `turn` (N, 3, 3).
    An infinite semi-axis makes an endless elliptical cylinder."""
    centre, radii = torch.broadcast_tensors(centre.double(), radii.double())
    form = torch.diag_embed(radii**-2)
    if turn is not None:
        turn = turn.double()
        form = turn @ form @ turn.transpose(-1, -2)
    none = centre.new_zeros(len(centre), 0)
    return Shape(form[:, None], centre[:, None], none[..., None].expand(-1, 0, 3), none, centre,
                 radii.amax(-1).clamp(max=FAR))


def half_space(normal: Tensor, point: Tensor) -> Shape:
    """The side of the plane through `point` (N, 3) or (3,) from which `normal` (N, 3) or (3,) points away."""
    normal, point = torch.broadcast_tensors(torch.atleast_2d(normal).double(), torch.atleast_2d(point).double())
    none = normal.new_zeros(len(normal), 0)
    return Shape(none[..., None, None].expand(-1, 0, 3, 3), none[..., None].expand(-1, 0, 3), normal[:, None],
                 (normal * point).sum(-1, keepdim=True), point, point.new_full((len(point),), FAR))


def opposite(half: Shape) -> Shape:
    """The other side of a half-space."""
    return replace(half, normal=-half.normal, offset=-half.offset)


def beside(solid: Shape, point: Tensor) -> Shape:
    """The half-space of `point` (N, 3) beyond the plane that touches an ellipsoid between its centre and the point."""
    arm = point - solid.centre[:, 0]
    normal = (solid.form[:, 0] @ arm[..., None])[..., 0]
    norm = (normal * arm).sum(-1, keepdim=True).sqrt()
    return half_space(-normal, solid.centre[:, 0] + arm / norm)


def tube(points: Tensor | list[Tensor], radius: Tensor | float) -> list[Shape]:
    """A curved tube along the polyline `points` (N, K, 3), or K points (N, 3), as K - 1 cylinder segments of one
    `radius` or (N,) or, where it tapers, (N, K - 1).

    Neighbours meet in the plane that bisects their angle, so they neither overlap nor leave a gap, and the tube keeps
    one value through every joint. Turns should stay below 90 degrees and segments longer than the radius.
    """
    points = (torch.stack(points, 1) if isinstance(points, list) else points).double()
    radius = torch.as_tensor(radius, dtype=torch.float64)
    radius = (radius[:, None] if radius.ndim == 1 else radius).expand(len(points), points.shape[1] - 1)
    step = points[:, 1:] - points[:, :-1]
    length = step.norm(dim=-1)
    along = step / length[..., None].clamp(min=1e-9)
    mitre = torch.cat([along[:, :1], along[:, :-1] + along[:, 1:], along[:, -1:]], 1)
    mitre = mitre / mitre.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    eye = torch.eye(3, dtype=torch.float64)
    form = (eye - along[..., :, None] * along[..., None, :]) / radius[..., None, None] ** 2
    normal = torch.stack([-mitre[:, :-1], mitre[:, 1:]], 2)
    offset = (normal * torch.stack([points[:, :-1], points[:, 1:]], 2)).sum(-1)
    middle = (points[:, :-1] + points[:, 1:]) / 2
    reach = ((length / 2 + radius) ** 2 + radius**2).sqrt()
    columns = (form.split(1, 1), middle.split(1, 1), normal.unbind(1), offset.unbind(1), middle.unbind(1),
               reach.unbind(1))
    return [Shape(*column) for column in zip(*columns, strict=True)]


def rotation(degrees: Tensor, axis: str) -> Tensor:
    """Rotations (N, 3, 3) by `degrees` (N,) about "x", "y" or "z"."""
    a = torch.deg2rad(torch.atleast_1d(degrees).double())
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    turn = torch.eye(3, dtype=torch.float64).repeat(len(a), 1, 1)
    turn[:, i, i], turn[:, j, j], turn[:, i, j], turn[:, j, i] = a.cos(), a.cos(), -a.sin(), a.sin()
    return turn
