"""Organ surfaces of the digital patient: meshes with one vertex numbering, point clouds, and occupancy grids.

A surface is radial: from the middle of an organ, a ray in each direction of an icosphere runs to where it leaves the
organ, so vertex v means the same direction in every patient, and all meshes of an organ share their faces.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import abdomen, thorax
from medtutor.phantom.body import Body
from medtutor.phantom.texture import Draws, rows

ORGANS = ("liver", "spleen", "right kidney", "left kidney", "stomach", "heart", "right lung", "left lung")
SIX = ("liver", "spleen", "right kidney", "left kidney", "stomach", "pancreas")  # what `completion` shows
CHEST = ("heart", "right lung", "left lung")
BONES = ("right ribs", "left ribs", "bone", "spine")
LIFT = 210.0  # mm from the isocentre of the abdomen up to that of the thorax
CELL = (6.7, 5.0, 9.0)  # mm, x, y, z


@lru_cache
def sphere(vertices: int = 642) -> tuple[Tensor, Tensor]:
    """Directions (V, 3), float64, and faces (F, 3), int64 with outward normals, of an icosphere. All meshes of this
    module have these faces. Raises ValueError unless V is 42, 162, 642 or 2562."""
    from trimesh.creation import icosphere

    counts = {42: 1, 162: 2, 642: 3, 2562: 4}
    if vertices not in counts:
        raise ValueError(f"an icosphere has {', '.join(map(str, counts))} vertices, but got vertices={vertices}")
    ball = icosphere(counts[vertices])
    return torch.tensor(ball.vertices), torch.tensor(ball.faces).long()


def cohort(n: int, size: int = 32, seed: int = 0, organs: tuple[str, ...] = ORGANS, together: int = 1,
           vertices: int = 642, points: int = 256, pose: float = 0.0, crop: float = 0.0, noisy: bool = True) -> Cohort:
    """The `organs` of n patients, a row each, N = n * len(organs), in the order of patients; `label` (N,) is the index
    into `organs`, which are names["label"]. With `together` = k > 1, a row per patient instead: a scene of k of the
    organs, drawn without repetition, as they lie in the body.

    `landmark` (N, k V, 3) are the vertices of the meshes in mm (x to the patient's left, y to the back, z to the head)
    about the organ's middle (a scene: the mean of the middles), V for each organ; faces are `sphere(vertices)[1]`, plus
    j V for the j-th of a scene. `volume` (N, k, size, size, size) is the occupancy of the same organs as (z, y, x),
    exact and not from the mesh: voxel i lies at (i - (size - 1) / 2) * spacing mm on each axis, and the cube bounds
    the mesh. `meta`: points (N, points, 3), uniform by area on the mesh, in mm, with `noisy` 0.4 mm off along the
    normal; normals (N, points, 3), outward, of the faces; part (N, points), which organ of `organs` a point belongs to;
    kept (N, points) False for exactly the share `crop` that a random plane cuts off; area_cm2 (N,) and volume_ml (N,)
    of the mesh; spacing (N,) mm; centre (N, 3) mm, the origin's place in the body; turn (N, 3, 3) and zoom (N,).

    `pose`: every row turned about a random axis by up to 180 degrees times `pose`, and zoomed by up to 1 +- 0.2 `pose`.
    Chest and abdomen are two bodies of one size, LIFT apart. Kidneys, spleen, stomach and heart are star-shaped or
    nearly so; what a ray cannot see from the middle (the tip of the liver's left lobe, the angle of the lung behind
    the diaphragm) is missing in the mesh and present in `volume`. Raises ValueError for unknown organs or numbers out
    of range.
    """
    if set(organs) - set(ORGANS) or not 1 <= together <= len(organs) or not 0 <= crop < 1 or not 0 <= pose <= 1:
        raise ValueError(f"choose organs from {', '.join(ORGANS)}, as many as together={together} asks at least, "
                         f"pose from 0 to 1 and crop below 1, but got {organs}, {pose} and {crop}")
    (ways, faces), bodies, draws = sphere(vertices), _bodies(n, seed), Draws(n, seed, "surfaces pose", 128)
    own, single = torch.tensor([ORGANS.index(o) for o in organs]), together == 1
    pick = torch.arange(len(organs)).expand(n, -1)[..., None] if single else (
        draws.uniform(0, 1, 8)[:, own].argsort(1)[:, None, :together])  # (n, G rows a patient, k)
    (groups, k), who = pick.shape[1:], torch.arange(n)[:, None, None]
    draws.next, slot = 8, own if single else own[:1] * 0  # an organ's own pose, whatever others are asked for
    bend, cut = draws.normal(0, 1, 8, 3)[:, slot], draws.normal(0, 1, 8, 3)[:, slot]
    bend = bend * (math.pi * pose * draws.uniform(0, 1, 8)[:, slot] / bend.norm(dim=-1))[..., None]
    zoom = 1 + pose * draws.uniform(-0.2, 0.2, 8)[:, slot]
    turn = torch.linalg.matrix_exp(torch.linalg.cross(
        *torch.broadcast_tensors(bend[..., None, :], torch.eye(3).double())).mT)
    middle, radius = (torch.stack(column, 1) for column in zip(
        *(_star(bodies[o in CHEST], o, ways) for o in organs), strict=True))
    origin = middle[who, pick].mean(2)
    mesh = (middle[who, pick] - origin[:, :, None])[..., None, :] + radius[who, pick][..., None] * ways
    mesh = mesh.flatten(2, 3) @ turn.mT * zoom[..., None, None]
    spacing = 2.06 * mesh.abs().amax((2, 3)) / size
    grid = torch.zeros(n, groups, k, size, size, size, dtype=torch.bool)
    for g in range(groups):
        scaled = turn[:, g] * (spacing / zoom)[:, g, None, None]
        shift = -(torch.linalg.inv(scaled.mT) @ origin[:, g, :, None])[..., 0]
        for o in pick[:, g].unique().tolist():
            body = bodies[organs[o] in CHEST]
            here = _is(body.moved(scaled, shift).volume(size, float(size))[1], body, organs[o])
            grid[:, g] |= (pick[:, g] == o)[..., None, None, None] & here[:, None]
    chance = torch.stack([rows(n, seed, f"surfaces points {s}", 4 * points) for s in slot.tolist()], 1).double()
    mesh, chance = mesh.flatten(0, 1), chance.view(-1, points, 4)
    place, normal, face, area, volume = _scattered(mesh, torch.cat([faces + j * vertices for j in range(k)]), chance)
    if noisy:
        place = place + 0.4 * normal * torch.special.ndtri(chance[..., 3:].clamp(1e-4, 1 - 1e-4))
    rank = (place @ cut.reshape(-1, 3, 1))[..., 0].argsort(1).argsort(1)
    meta = {"points": place, "normals": normal, "area_cm2": area / 100, "volume_ml": volume / 1000,
            "spacing": spacing.flatten(), "centre": origin.flatten(0, 1), "turn": turn.flatten(0, 1),
            "zoom": zoom.flatten()}
    exact = {"part": pick.reshape(-1, k).gather(1, face // len(faces)), "kept": rank >= round(crop * points)}
    return Cohort(volume=grid.flatten(0, 1).float(), landmark=mesh.float(), label=pick.flatten() if single else None,
                  names={"label" if single else "part": organs}, patient=torch.arange(n).repeat_interleave(groups),
                  meta={key: value.float() for key, value in meta.items()} | exact,
                  units=dict.fromkeys(("landmark", "points", "centre", "spacing"), "mm"))


def completion(n: int, size: int = 32, seed: int = 0, organs: tuple[str, ...] = SIX) -> Cohort:
    """Abdomens of which one organ is left out: `volume` (n, K, size, size, size) is the occupancy of the K `organs` as
    (z, y, x), zero for the one that is left out, `label` (n,), the index into `organs`; `mask` (n, size, size, size)
    has them all, names["mask"]. The box is that of `abdomen.cohort`, 170 x 220 x 260 mm. Organs are coupled by the
    size of the body and where they touch. Raises ValueError for an organ that an abdomen does not label."""
    if set(organs) - set(abdomen.CLASSES[1:]) or not organs:
        raise ValueError(f"choose organs from {', '.join(abdomen.CLASSES[1:])}, but got {', '.join(organs)}")
    out, up = Draws(n, seed, "surfaces gap", 2).uniform() * len(organs), torch.tensor([[0.0, 0, LIFT / 2]])
    body = _bodies(n, seed)[0].moved(shift=up)
    label = body.volume(size, abdomen.VOLUME_FOV)[1]
    layers = torch.stack([_is(label, body, o) for o in organs], 1)
    shown = layers & (torch.arange(len(organs)) != out.long()[:, None])[..., None, None, None]
    mask = (layers.long() * torch.arange(1, len(organs) + 1).view(-1, 1, 1, 1)).sum(1)
    return Cohort(volume=shown.float(), label=out.long(), mask=mask,
                  names={"mask": ("background", *organs), "label": organs, "volume": organs})


def shaded(clouds: Cohort, size: int = 64) -> Cohort:
    """The cohort with `image` (N, 1, size, size) in [0, 1]: its points, some ten thousand a row, from the front with
    the light at the upper left."""
    place, normal = clouds.meta["points"].double(), clouds.meta["normals"].double()
    reach = 1.08 * place.abs().amax((1, 2))[:, None, None]
    spot = ((place[..., [0, 2]] * torch.tensor([1.0, -1.0]) / reach + 1) * size / 2).long().clamp(0, size - 1)
    light = (normal @ torch.tensor([-0.45, -0.75, 0.48]).double()).clamp(min=0) * 0.75 + 0.2
    near = (2000 * (1 - place[..., 1] / reach[..., 0])).round() + light  # whole: nearness; the rest: light
    image = torch.zeros(len(place), size * size).double().scatter_reduce(1, spot[..., 1] * size + spot[..., 0], near,
                                                                        "amax")
    return replace(clouds, image=(image % 1).view(-1, 1, size, size).float())


def _bodies(n: int, seed: int) -> list[Body]:
    """Abdomen and thorax of n healthy adults in one frame, in mm: only the parts that name organs, without bones, which
    would dent the lungs."""
    person, none = Draws(n, seed, "surfaces person", 16), torch.zeros(n, 2).double()
    size, age, male, breath = person.normal(1, 0.06), person.uniform(20, 90), person.chance(0.5), person.normal(0, 0.4)
    belly, _ = abdomen.build(Draws(n, seed, "surfaces abdomen", 4096), male & False,
                             dict.fromkeys(abdomen.PREVALENCE, 0.0), False, None)
    healthy, made = {f: none if f in thorax.SIDED else none[:, 0] for f in thorax.FINDINGS}, []
    chest, facts = thorax.build(Draws(n, seed, "surfaces thorax", 4096), healthy, age, male, breath, arms=False)
    for body, scale, up in ((belly, size, -LIFT / 2), (chest, size * facts["scale"], LIFT / 2)):
        named = np.isin(np.array((*body.organs, ""))[body.organ], ("", *BONES), invert=True)
        body = replace(body, layout=(body.layout[0][named], *body.layout[1:]), weight=body.weight[:, named],
                       delta={"ct": body.delta["ct"][:, named]}, organ=body.organ[named], whole=body.whole[named])
        made.append(body.moved(torch.eye(3) / scale[:, None, None], size[:, None] * torch.tensor([0, 0, up])))
    return made


def _is(label: Tensor, body: Body, organ: str) -> Tensor:
    """Where a label is that of an organ or of what lies in it, such as "liver tumour" in "liver"."""
    return torch.tensor([name.startswith(organ) for name in body.organs])[label]


def _star(body: Body, organ: str, ways: Tensor) -> tuple[Tensor, Tensor]:
    """Middle (N, 3) of an organ, the mean of its voxels, and the distance (N, V) in mm from there to where the ray in
    each direction leaves it for good: to within 8 mm by voxels, then by halving."""
    cell, who = torch.tensor(CELL).double(), torch.arange(body.n)[:, None]
    voxel = _is(body.volume(60, tuple(60 * c for c in CELL[::-1]))[1], body, organ)
    share, axis = voxel.double() / voxel.sum((1, 2, 3)).view(-1, 1, 1, 1), torch.arange(60).double() - 29.5
    middle = torch.stack([share.sum(rest) @ axis for rest in ((1, 2), (1, 3), (2, 3))], 1) * cell
    radius = torch.full((body.n, len(ways)), 200.0).double()
    going = radius > 0
    while going.any():
        radius -= 2 * going
        x, y, z = ((middle[:, None] + radius[..., None] * ways) / cell + 30).long().clamp(0, 59).unbind(-1)
        going = going & ~voxel[who, z, y, x] & (radius > 0)
    radius = (radius - 8).clamp(min=0.5)
    for halving in range(10):
        further = radius + 8 / 2**halving
        there = body.sample(middle[:, None] + further[..., None] * ways, None)[1]
        radius = torch.where(_is(there, body, organ), further, radius)
    return middle, radius


def _scattered(mesh: Tensor, faces: Tensor, chance: Tensor) -> tuple[Tensor, ...]:
    """Points (N, P, 3) uniform by area on meshes (N, V, 3), the normal and index of their faces, and the area and the
    volume (N,) of the meshes; `chance` (N, P, 3 or more) is uniform."""
    a, b, c = mesh[:, faces].unbind(2)
    cross = torch.linalg.cross(b - a, c - a)
    area = cross.norm(dim=-1) / 2
    total = area.cumsum(1)
    face = torch.searchsorted(total, chance[..., 0] * total[:, -1:]).clamp(max=len(faces) - 1)
    root, share = chance[..., 1:2].sqrt(), chance[..., 2:3]
    a_, b_, c_, normal = (t.gather(1, face[..., None].expand(-1, -1, 3)) for t in (a, b, c, cross))
    place = (1 - root) * a_ + root * ((1 - share) * b_ + share * c_)
    return place, normal / normal.norm(dim=-1, keepdim=True), face, total[:, -1], (a * cross).sum((1, 2)) / 6
