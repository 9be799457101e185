"""One chest from several sides: line integrals, the CT of the same body, organs and landmarks in both, and rings of
landmarks for graph networks.

All lengths are true mm about the isocentre (axes as in `render.body`), and all fields of view are cubes about it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import thorax
from medtutor.phantom.texture import Draws, blur, noise, unit_grid
from medtutor.render.body import Body

ORGANS = ("right lung", "left lung", "heart", "aorta", "trachea", "spine", "right ribs", "left ribs", "mediastinum",
          "liver", "stomach", "bone")
SUPER = {"lungs": ORGANS[:2], "ribs": ORGANS[6:8], "skeleton": (*ORGANS[5:8], "bone"),
         "central": (*ORGANS[2:5], "mediastinum"), "below the diaphragm": ORGANS[9:11]}
LAYERS = (*ORGANS, "right nodule", "left nodule", *SUPER)  # of the projections
MARKS = (*(f"vertebra {j}" for j in range(17)), *(f"{side} rib {j}" for side in thorax.SIDES for j in range(11)),
         *LAYERS[12:14])


def cohort(n: int, size: int = 64, seed: int = 0, angles: tuple[float, ...] = (0.0, 90.0), depth: int = 32,
           fov: float = 400.0, source: float = math.inf, jitter: float = 1.0, noisy: bool = True, **people) -> Cohort:
    """n patients, V = len(angles) projections each; patient i depends on `seed` and i only, and is patient i of
    `thorax.cohort` with the same seed and `people` (prevalence, severity, age, sex, site, device as there), without
    arms and placed anew.

    `image` (n, V, size, size): line integrals of mu, MU_WATER * (1 + HU / 1000) per mm, of one photon energy, without
    unit or noise; angles in degrees as in `Body.film`: 0 is PA, 90 lateral, seen from the detector, head up. `source`:
    mm from the source to the isocentre, inf for a parallel beam; a finite one magnifies, masks and landmarks too.
    `volume` (n, 1, depth, depth, depth): the CT in HU / 1000 as (z, y, x), feet first, of the cube of `fov` mm that the
    images show too (only a body wider than that differs), and its `mask`, names["mask"]; findings count as the organ
    that holds them. depth=0 leaves both out. `landmark` (n, 41, 3) in mm, NaN where absent: vertebrae from the neck
    down, the sides of the ribs, the middles of a right and a left nodule.

    `meta`: xray (n, V, size, size), the same rays as a film in [0, 1] of a detector that nobody describes: several
    energies, scatter, blur, quantum noise, edge enhancement, gamma, vignetting, a little different for each patient;
    projected (n, V, K, size, size), the rays that cross each of names["projected"]: organs, nodules, and super-classes,
    which are unions; projection (n, V, 41, 2), the landmarks in pixels; anterior (n, 2) 1 for a right and a left nodule
    in front, 0 behind, -1 absent, which no report tells; spacing (n,) mm a pixel at the isocentre;
    severities, zones, age, sex and so on as in `thorax.cohort`. Raises ValueError as that does, and without angles.
    """
    if not angles:
        raise ValueError("angles must name a direction at least, such as (0.0, 90.0) for PA and lateral")
    bodies, pose, common, _ = next(thorax.patients(n, seed, jitter=jitter, **people))
    meta, (turn, shift), fine = common["meta"], thorax._placed(pose, jitter, 6, 8), 2 if size < 96 else 1
    scale = meta["scale"].double()[:, None]
    bodies = bodies.moved(turn / scale[..., None], shift - turn[:, :, 2] * thorax.CENTRE * scale)
    line = torch.stack([bodies.film(a, fine * size, fov, source)[0] for a in angles], 1)
    layers = torch.stack([bodies.film(a, size, fov, source, LAYERS[:14])[1] for a in angles], 1)
    union = [layers[:, :, [ORGANS.index(o) for o in parts]].any(2) for parts in SUPER.values()]
    marks, angle = _marks(bodies), torch.deg2rad(torch.tensor(angles).double())
    right, beam = (marks[..., 0, None] * x + marks[..., 1, None] * y for x, y in (
        (angle.cos(), angle.sin()), (angle.sin(), -angle.cos())))
    seen = torch.stack([right, -marks[..., 2:].expand_as(right)], -1) / (1 + beam / source)[..., None]
    meta |= {"xray": _film(line, layers[:, :, :2].any(2), meta, seed, noisy),
             "projected": torch.cat([layers, torch.stack(union, 2)], 2),
             "projection": (seen * size / fov + (size - 1) / 2).transpose(1, 2).float(),
             "anterior": torch.where(marks[:, -2:, 1].isnan(), -1, (marks[:, -2:, 1] < 14).long()),
             "spacing": torch.full((n,), fov / size)}
    common["names"] |= {"landmark": MARKS, "projected": LAYERS, "mask": ("background", *ORGANS)}
    if depth:
        value, label = bodies.volume(depth, fov)
        value = thorax.plausible(value, label, bodies.organs, meta)
        value = value + 12 * noise(n, seed, "views ct", (depth,) * 3) * noisy
        owner = torch.tensor([[_owner(o, side) for o in bodies.organs] for side in thorax.SIDES])
        common |= {"volume": value[:, None] / 1000, "mask": owner[(torch.arange(depth) * 2 >= depth).long(), label]}
    return Cohort(image=F.avg_pool2d(line, fine), landmark=marks.float(), **common, units={
        "image": "line integral of mu, no unit", "volume": "HU / 1000", "landmark": "mm", "projection": "pixels"})


def _owner(organ: str, side: str) -> int:
    """The class of an organ of the thorax on a side of the picture: what lies in a lung is lung, a broken rib is ribs,
    a hernia is stomach, 0 is nothing."""
    side = organ.split()[0] if organ.startswith(thorax.SIDES) else side
    host = "stomach" if organ == "hernia" else f"{side} ribs" if organ.endswith("fracture") else f"{side} lung"
    return 0 if organ == "background" else 1 + ORGANS.index(organ if organ in ORGANS else host)


def _marks(bodies: Body) -> Tensor:
    """(N, 41, 3) in mm: the middles of some of the solids that draw the body; NaN where a solid is absent."""
    made, back = [], torch.linalg.inv(bodies.frame)
    for organ in ("spine", "right ribs", "left ribs", *LAYERS[12:14]):
        part = np.flatnonzero((bodies.organ == bodies.organs.index(organ)) & bodies.whole)
        if organ.endswith("ribs"):  # the fifth of nine segments of each
            part = part[44:55]
        quadric = bodies.layout[1][bodies.layout[0][part, 0]]
        if organ == "spine":  # the bodies of the vertebrae are endless cylinders cut by the discs
            part, quadric = (k[bodies.form[0, quadric, 2, 2].numpy() == 0] for k in (part, quadric))
        place = bodies.centre[:, quadric] @ back[:, :3, :3].mT + back[:, None, :3, 3]
        made.append(torch.where(bodies.weight[:, part, None] != 0, place, math.nan) if len(part)
                    else place.new_full((bodies.n, 1, 3), math.nan))
    return torch.cat(made, 1)


def _film(line: Tensor, lungs: Tensor, meta: dict, seed: int, noisy: bool) -> Tensor:
    """Line integrals (N, V, fine, fine) -> films (N, V, H, W) in [0, 1], bone bright; `lungs` are their masks."""
    (n, v, size, _), draws = lungs.shape, Draws(len(lungs), seed, "views look", 16)
    look = thorax._LOOK[0] + thorax._SPREAD * (3 * torch.eye(11)[4] + draws.normal(0, 0.6, 11).float())  # sharp edges
    hard = -sum(torch.exp(-share * line) / 3 for share in (0.8, 1.0, 1.35)).log()  # soft rays are lost first
    body = {key: meta[key].repeat_interleave(v) for key in ("scale", "girth")}
    hard, lungs, look = hard.flatten(0, 1), lungs.flatten(0, 1), look.repeat_interleave(v, 0)
    film = thorax._developed(hard, lungs, look, seed, "/views", noisy, body, size)
    x, y = unit_grid(size)
    return (film.view(n, v, size, size) * (1 - draws.uniform(0.1, 0.4, 1, 1, 1) * (x**2 + y**2) / 2)).float()


def rings(nodes: tuple[int, ...] = (24, 24, 16)) -> Tensor:
    """Adjacency (K, K), float, of closed rings of so many nodes each, as `thorax.cohort(..., nodes=nodes)` draws them:
    in blocks, each node beside its two neighbours."""
    rolled = [torch.eye(count).roll(1, 0) for count in nodes]
    return torch.block_diag(*(ring + ring.mT for ring in rolled))


def occluded(films: Cohort, kind: str = "white", share: float = 0.3, seed: int = 0) -> Cohort:
    """Films of `thorax.cohort` with those rows of one lung, drawn, hidden that hold `share` of its mask: "white" the
    lowest, by a white patch as wide as the lung (half of it lies where the diaphragm hides the lung anyway), "black"
    any, by a black box. Landmarks and masks stay what they were; meta["hidden"] (N, H, W) says where. Raises ValueError
    for another kind or share."""
    if kind not in ("white", "black") or not 0 < share < 1:
        raise ValueError(f'kind must be "white" or "black" and share between 0 and 1, but got {kind!r} and {share}')
    draws, black = Draws(len(films), seed, "occluded", 4), kind == "black"
    lung = films.mask[torch.arange(len(films)), draws.chance(0.5).long()]
    below = 1 - lung.sum(2).cumsum(1) / lung.sum((1, 2)).clamp(min=1)[:, None]  # share of the lung below each row
    last = (1 - share) * draws.uniform()[:, None] if black else torch.zeros(len(films), 1)
    rows = ((below >= last) & (below < last + share))[:, :, None] & lung.any(2, keepdim=True)
    hidden = rows & (lung.any(1)[:, None] if black else lung)
    image = films.image * ~hidden[:, None] if black else torch.maximum(
        films.image, 0.9 * blur(hidden[:, None].float(), films.image.shape[-1] / 40))
    return replace(films, image=image, meta=films.meta | {"hidden": hidden})
