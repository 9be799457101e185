"""Organ surfaces of the digital patient: meshes with one vertex numbering, point clouds, and occupancy grids.

A surface is radial: from the middle of an organ, a ray in each direction of an icosphere runs to where it leaves the
organ for good, so vertex v means the same direction in every patient, and all meshes share their faces.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import abdomen, abdomen_anatomy, thorax
from medtutor.phantom.texture import Draws, rows
from medtutor.render.body import Body

ORGANS = ("liver", "spleen", "right kidney", "left kidney", "stomach", "heart", "right lung", "left lung")
SIX = (*ORGANS[:5], "pancreas")  # what `completion` shows
CHEST, BONES = ORGANS[5:], ("right ribs", "left ribs", "bone", "spine")
LIFT = 210.0  # mm from the isocentre of the abdomen up to that of the thorax
COARSE, FINE = (6.7, 5.0, 9.0), 56  # mm of the voxels (x, y, z) in which an organ is looked for; voxels across it


@lru_cache
def sphere(vertices: int = 642) -> tuple[Tensor, Tensor]:
    """Directions (V, 3), float64, and faces (F, 3), int64, normals outward, of an icosphere: the faces of all meshes
    of this module. Raises ValueError unless V is 42, 162, 642 or 2562."""
    from trimesh.creation import icosphere

    if vertices not in (42, 162, 642, 2562):
        raise ValueError(f"an icosphere has 42, 162, 642 or 2562 vertices, but got vertices={vertices}")
    ball = icosphere((42, 162, 642, 2562).index(vertices) + 1)
    return torch.tensor(ball.vertices), torch.tensor(ball.faces).long()


def cohort(n: int, size: int = 32, seed: int = 0, organs: tuple[str, ...] = ORGANS, vertices: int = 642,
           points: int = 256, noisy: bool = True) -> Cohort:
    """The `organs` of n patients, a row each, N = n * len(organs), in the order of patients; `label` (N,) is the index
    into `organs`, which are names["label"]. Patient i depends on `seed` and i only.

    `landmark` (N, V, 3) are the vertices of the mesh in mm (x to the patient's left, y to the back, z to the head)
    about the organ's middle; its faces are `sphere(vertices)[1]`. `volume` (N, 1, size, size, size) is the occupancy of
    the organ as (z, y, x), exact and not from the mesh: voxel i lies at (i - (size - 1) / 2) * spacing mm on each axis,
    and the cube bounds the mesh. `meta`: points (N, points, 3) in mm, uniform by area on the mesh, with `noisy` 0.4 mm
    off along the normal; normals (N, points, 3) of their faces, outward; area_cm2 and volume_ml (N,) of the mesh;
    spacing (N,) mm; centre (N, 3) mm, the middle's place in the body.

    Chest and abdomen are two bodies of the same stature, LIFT mm apart, without findings; the chest is that of
    `thorax.cohort`. The mesh of an organ has one sheet: hollows that a ray crosses are filled in it (the hilum of a
    kidney, what lies behind the heart of the left lung), cliffs are slopes, edges are round, and faces cut below the
    surface, so that its volume differs from that of the voxels by 2 %, up to 7. Raises ValueError for unknown organs.
    """
    if set(organs) - set(ORGANS) or not organs:
        raise ValueError(f"choose organs from {', '.join(ORGANS)}, but got {organs}")
    (ways, faces), bodies, made = sphere(vertices), _bodies(n, seed), []
    cell = torch.tensor(COARSE).double().expand(n, 3)
    coarse = [_labels(body, torch.zeros(n, 3), cell, 60).short() for body in bodies]
    for k, organ in enumerate(organs):
        body = bodies[organ in CHEST]
        middle, radius = _star(body, organ, ways, coarse[organ in CHEST])
        mesh = _eased(radius, faces)[..., None] * ways
        spacing = 2.06 * mesh.abs().amax((1, 2)) / size
        chance = rows(n, seed, f"surfaces {organ}", 4 * points).double().view(n, points, 4)
        place, normal, area, content = _scattered(mesh, faces, chance)
        off = 0.4 * noisy * torch.special.ndtri(chance[..., 3:].clamp(1e-4, 1 - 1e-4))
        meta = {"points": place + off * normal, "normals": normal, "area_cm2": area / 100, "volume_ml": content / 1000,
                "spacing": spacing, "centre": middle}
        grid = _is(_labels(body, middle, spacing[:, None].expand(n, 3), size), body, organ)
        made.append(Cohort(volume=grid[:, None].float(), landmark=mesh.float(), label=torch.full((n,), k),
                           meta={key: value.float() for key, value in meta.items()}))
    whole, order = Cohort.cat(made), torch.arange(n * len(organs)).view(-1, n).T.reshape(-1)
    units = dict.fromkeys(("landmark", "points", "centre", "spacing"), "mm") | {
        "area_cm2": "cm^2", "volume_ml": "ml", "volume": "occupancy, 0 or 1"}
    return replace(whole, patient=whole.patient % n, names={"label": organs}, units=units)[order]


def scene(organs: Cohort, count: int = 2, seed: int = 0) -> Cohort:
    """A row per patient of `cohort`, with `count` of the organs, drawn, as they lie in the body, about the mean of
    their middles: `landmark` (n, count V, 3), and meta points and normals (n, count P, 3) and part (n, count P), the
    organ of a point as an index into names["part"]. Raises ValueError where there are fewer organs."""
    (n, k), meta = (len(organs.patient.unique()), len(organs.names["label"])), organs.meta
    if not 1 <= count <= k:
        raise ValueError(f"count must be from 1 to {k}, the number of organs, but got {count}")
    row = Draws(n, seed, "surfaces scene", 8).uniform(0, 1, k).argsort(1)[:, :count] + k * torch.arange(n)[:, None]
    place = (meta["centre"][row] - meta["centre"][row].mean(1, keepdim=True))[:, :, None]
    meta = {"points": (meta["points"][row] + place).flatten(1, 2), "normals": meta["normals"][row].flatten(1, 2),
            "part": organs.label[row].repeat_interleave(meta["points"].shape[1], 1)}
    return Cohort(landmark=(organs.landmark[row] + place).flatten(1, 2), meta=meta, units=organs.units,
                  names={"part": organs.names["label"]})


def posed(clouds: Cohort, pose: float = 1.0, crop: float = 0.0, seed: int = 0) -> Cohort:
    """Rows of `cohort` or `scene`, each turned about the origin by up to 180 degrees times `pose` about a random axis,
    and zoomed by up to 1 +- 0.2 `pose`: landmarks, points and normals, not `volume`. More meta: turn (N, 3, 3), zoom
    (N,), and kept (N, P), False for exactly the share `crop` of the points that a random plane cuts off, so that
    points[kept].view(N, -1, 3) are partial clouds. Row i depends on `seed` and i. Raises ValueError out of range."""
    if not 0 <= pose <= 1 or not 0 <= crop < 1:
        raise ValueError(f"pose must be from 0 to 1 and crop from 0 to below 1, but got {pose} and {crop}")
    draws = Draws(len(clouds), seed, "surfaces pose", 16)
    axis, angle, zoom = draws.normal(0, 1, 3), math.pi * pose * draws.uniform(0, 1, 1), draws.uniform(-0.2, 0.2, 1, 1)
    x, y, z = (F.normalize(axis, dim=1) * angle).unbind(1)
    wheel = torch.stack([0 * x, -z, y, z, 0 * x, -x, -y, x, 0 * x], 1).view(-1, 3, 3)
    turn, zoom = torch.linalg.matrix_exp(wheel).float(), (1 + pose * zoom).float()
    place = clouds.meta["points"] @ turn.mT * zoom
    rank = (place.double() @ draws.normal(0, 1, 3, 1))[..., 0].argsort(1).argsort(1)
    meta = {"points": place, "normals": clouds.meta["normals"] @ turn.mT, "turn": turn, "zoom": zoom[:, 0, 0],
            "kept": rank >= round(crop * rank.shape[1])}
    return replace(clouds, landmark=clouds.landmark @ turn.mT * zoom, meta=clouds.meta | meta)


def completion(n: int, size: int = 32, seed: int = 0, organs: tuple[str, ...] = SIX) -> Cohort:
    """Abdomens of which one organ is left out: `volume` (n, K, size, size, size) is the occupancy of the K `organs` as
    (z, y, x), zero for the one that is left out, `label` (n,), the index into `organs`; `mask` (n, size, size, size)
    has them all, names["mask"]. The box is that of `abdomen.cohort`, 170 x 220 x 260 mm. Organs are coupled by the
    stature and where they touch. Raises ValueError for an organ that an abdomen does not label."""
    if set(organs) - set(abdomen.CLASSES[1:]) or not organs:
        raise ValueError(f"choose organs from {', '.join(abdomen.CLASSES[1:])}, but got {organs}")
    body = _bodies(n, seed)[0].moved(shift=torch.tensor([[0.0, 0, LIFT / 2]]))
    label, out = body.volume(size, abdomen.VOLUME_FOV)[1], Draws(n, seed, "surfaces gap", 2).uniform() * len(organs)
    layers = torch.stack([_is(label, body, o) for o in organs], 1)
    shown = layers & (torch.arange(len(organs)) != out.long()[:, None])[..., None, None, None]
    mask = (layers * torch.arange(1, len(organs) + 1).view(-1, 1, 1, 1)).amax(1)
    return Cohort(volume=shown.float(), label=out.long(), mask=mask,
                  names={"mask": ("background", *organs), "label": organs, "volume": organs},
                  units={"volume": "occupancy, 0 or 1"})


def shaded(clouds: Cohort, size: int = 64) -> Cohort:
    """The cohort with `image` (N, 1, size, size) in [0, 1]: its points, some ten thousand a row, from the front with
    the light at the upper left."""
    place, light = clouds.meta["points"].double(), clouds.meta["normals"] @ torch.tensor([-0.34, -0.56, 0.36])
    reach = 1.08 * place.abs().amax((1, 2))[:, None, None]
    spot = ((place[..., [0, 2]] * torch.tensor([1.0, -1.0]) / reach + 1) * size / 2).long().clamp(0, size - 1)
    near = (2000 * (1 - place[..., 1] / reach[..., 0])).round() + light.clamp(min=0) + 0.2  # nearness is whole
    image = near.new_zeros(len(near), size**2).scatter_reduce(1, spot[..., 1] * size + spot[..., 0], near, "amax")
    wide = size // 32 | 1  # of the gaps between points that are closed
    image = -F.max_pool2d(-F.max_pool2d(image.view(-1, 1, size, size), wide, 1, wide // 2), wide, 1, wide // 2)
    return replace(clouds, image=(image % 1).float())


def _bodies(n: int, seed: int) -> list[Body]:
    """Abdomen and thorax of n healthy adults in one frame, in mm; bones are left out, which would dent the lungs."""
    size = Draws(n, seed, "surfaces person", 4).normal(1, 0.06)
    belly = abdomen_anatomy.build(Draws(n, seed, "surfaces abdomen", 4096), dict.fromkeys(abdomen.PREVALENCE, 0.0))[0]
    chest, _, common, _ = next(thorax.patients(n, seed, dict.fromkeys(thorax.FINDINGS, 0.0)))
    soft = np.isin(np.array((*chest.organs, ""))[chest.organ], ("", *BONES), invert=True)
    chest = replace(chest, layout=(chest.layout[0][soft], *chest.layout[1:]), weight=chest.weight[:, soft],
                    delta={"ct": chest.delta["ct"][:, soft]}, organ=chest.organ[soft], whole=chest.whole[soft])
    where = (belly, size, -LIFT / 2), (chest, size * common["meta"]["scale"], LIFT / 2)
    return [body.moved(torch.eye(3) / scale[:, None, None], size[:, None] * torch.tensor([0, 0, up]))
            for body, scale, up in where]


def _is(label: Tensor, body: Body, organ: str) -> Tensor:
    """Where a label is that of an organ or of what lies in it, such as "liver tumour" in "liver"."""
    return torch.tensor([name.startswith(organ) for name in body.organs])[label]


def _labels(body: Body, middle: Tensor, cell: Tensor, size: int) -> Tensor:
    """Labels (N, size, size, size) in a box of voxels of `cell` (N, 3) mm about a point (N, 3)."""
    return body.moved(torch.diag_embed(cell), -middle / cell).volume(size, float(size))[1]


def _star(body: Body, organ: str, ways: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Middle (N, 3) of an organ, the mean of its voxels, and the distance (N, V) in mm from there to where the ray in
    each direction leaves it for good: where the occupancy of a fine grid, blurred by a voxel, falls through a half.
    `label` (N, 60, 60, 60) is that of a COARSE grid of the whole body."""
    coarse, axis = torch.tensor(COARSE).double(), torch.arange(60).double() - 29.5
    voxel = _is(label.long(), body, organ).double()
    shadow = torch.stack([voxel.sum(rest) for rest in ((1, 2), (1, 3), (2, 3))], 1)
    middle = shadow @ axis / shadow.sum(2) * coarse
    half = torch.where(shadow > 0, axis * coarse[:, None] - middle[..., None], 0.0).abs().amax(2) + coarse
    fine = _is(_labels(body, middle, half / (FINE / 2), FINE), body, organ)
    fine = F.avg_pool3d(fine[:, None].float(), 3, 1, 1)
    step = half.norm(dim=1)[:, None] / (2 * FINE)
    place = ways[:, None] * torch.arange(2 * FINE)[:, None] * (step / half)[:, None, None]
    seen = F.grid_sample(fine, place[:, None].float(), align_corners=False)[:, 0, 0]
    last = ((seen >= 0.5) * torch.arange(2 * FINE)).amax(2, keepdim=True).clamp(1, 2 * FINE - 2)
    inner, outer = seen.gather(2, last), seen.gather(2, last + 1)
    return middle, (last + (inner - 0.5) / (inner - outer).clamp(min=1e-3)).clamp(min=0.5)[..., 0] * step


def _eased(radius: Tensor, faces: Tensor) -> Tensor:
    """Distances (N, V) with slopes in place of cliffs: where a ray just misses a part that its neighbours meet, its
    distance moves to their mean, in eight steps."""
    edge = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    bend = 5 / radius.shape[1] ** 0.5  # of a cliff, in a logarithm; what is round bends less
    for _ in range(8):
        mean = torch.zeros_like(radius).index_add(1, edge[:, 0], radius[:, edge[:, 1]]) / edge[:, 0].bincount()
        radius = radius + ((mean / radius).log().abs() / bend - 0.4).clamp(0, 1) * (mean - radius)
    return radius


def _scattered(mesh: Tensor, faces: Tensor, chance: Tensor) -> tuple[Tensor, ...]:
    """Points (N, P, 3) uniform by area on meshes (N, V, 3), the normals of their faces, and area and
    volume (N,) of the meshes; `chance` (N, P, 3 or more) is uniform."""
    a, b, c = mesh[:, faces].unbind(2)
    cross = torch.linalg.cross(b - a, c - a)
    total = cross.norm(dim=-1).cumsum(1) / 2
    face = torch.searchsorted(total, chance[..., 0] * total[:, -1:]).clamp(max=len(faces) - 1)
    root, share = chance[..., 1:2].sqrt(), chance[..., 2:3]
    content = (a * cross).sum((1, 2)) / 6
    a, b, c, normal = (t.gather(1, face[..., None].expand(-1, -1, 3)) for t in (a, b, c, cross))
    place = (1 - root) * a + root * ((1 - share) * b + share * c)
    return place, normal / normal.norm(dim=-1, keepdim=True), total[:, -1], content
