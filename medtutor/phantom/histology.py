"""Breast tissue under the microscope: patches and whole-slide bags with every nucleus known, and survival.

Lengths are micrometres from the centre of a picture that spans `fov`. Glands, nests, fat and lymphoid aggregates are
discs on a jittered lattice of a bent plane; nuclei are ellipses at places of a finer one that keep their distance.
Haematoxylin and eosin absorb light by the law of Beer and Lambert, or a dye of DNA fluoresces.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom.texture import Draws, blur, cloud, noise, unit_grid

KINDS = ("ductal carcinoma", "lobular carcinoma", "mucinous carcinoma", "medullary carcinoma")
LOOKS, ASPECTS = ("normal", *KINDS, "stroma"), ("layout", "shape", "texture")  # "stroma" is for patches of slides only
CELLS = ("epithelial nucleus", "fibroblast nucleus", "lymphocyte nucleus", "atypical nucleus", "mitosis")
CLASSES, LABS = ("stroma", "cytoplasm", "lumen", "fat", "mucin", *CELLS), ("balanced", "blue", "red", "faded")
RGB, PITCH, SITE, ROOM = ("red", "green", "blue"), 44.0, 7.2, 12.0  # lattices of discs and of nuclei; margin of pictures
# A look in a row: the chances (added up) that a disc is a gland, a nest, fat, lymphocytes; its least and largest radius;
# the chances (added up) that a place in the stroma holds a lymphocyte, a fibroblast; that a tumour cell divides.
LAYOUT = torch.tensor([[0.5, 0.5, 0.8, 0.81, 14, 22, 0.02, 0.18, 0], [0.06, 0.8, 0.82, 0.84, 17, 26, 0.05, 0.24, 0.015],
                       [0, 0, 0.12, 0.14, 13, 20, 0.03, 0.13, 0.002], [0, 0.6, 0.6, 0.6, 10, 19, 0.02, 0.25, 0.003],
                       [0, 0, 0, 0.2, 12, 20, 0.2, 0.24, 0.02], [0, 0, 0.14, 0.16, 13, 20, 0.02, 0.16, 0]])
# Epithelial nuclei of each look, then CELLS[1:]. Half the length, its spread, breadth / length, amount of dye, ragged
# outline, cell / nucleus; clumps of chromatin, dark rim, radius of the nucleolus.
NUCLEUS = torch.tensor([[4.3, 0.1, 0.72, 1, 0.08, 1.4, 0.12, 0.05, 0], [6.3, 0.17, 0.74, 1, 0.12, 1.4, 0.42, 0.25, 1.1],
                        [3.9, 0.08, 0.86, 1, 0.08, 1.5, 0.06, 0, 0], [4.8, 0.1, 0.8, 1, 0.09, 1.4, 0.2, 0.15, 0.8],
                        [6.8, 0.16, 0.86, 0.9, 0.1, 1.3, 0.32, 0.6, 1.6], [4.3, 0.1, 0.72, 1, 0.08, 1.4, 0.12, 0.05, 0],
                        [6.4, 0.2, 0.24, 1.2, 0.14, 1, 0.1, 0, 0], [3.2, 0.08, 0.94, 1.4, 0.06, 1, 0.15, 0, 0],
                        [9, 0.12, 0.74, 1.4, 0.18, 1.3, 0.42, 0.3, 1.9], [5.4, 0.1, 0.36, 2, 0.35, 2, 0, 0, 0]])
# Haematoxylin and eosin in CLASSES[:5]; their optical densities, red to blue; what each laboratory changes of both,
# of the colour of glass, and its lack of focus.
DYES = torch.tensor([[0.06, 0.38], [0.22, 0.36], [0.01, 0.02], [0.01, 0.015], [0.12, 0.05]])
INK = torch.tensor([0.6, 0.74, 0.36, 0.14, 0.82, 0.44])
LAB = torch.tensor([[0.0] * 10, [0.08, 0, -0.1, 0.06, -0.12, -0.1, -0.03, -0.02, 0, 0.15], [-0.06, 0.06, 0.08, -0.08, 0.14,
                    -0.02, 0, -0.01, -0.01, 0], [-0.16, -0.14, -0.02, -0.02, -0.24, -0.02, 0, -0.015, -0.05, 0.5]])


def cohort(n: int, size: int = 64, seed: int = 0, kind=None, layout=None, shape=None, texture=None, atypical=None, lab=None,
           variation: float = 1.0, fluorescence: bool = False, fov: float = 96.0, noisy: bool = True) -> Cohort:
    """n patches."""
    draws = Draws(n, seed, "histology patch", 32)
    look, rare, lab, dyes, survive = _patient(draws, kind, atypical, lab, variation)
    looks = {name: _each(n, name, look if given is None else given, 4).long()
             for name, given in (("layout", layout), ("shape", shape), ("texture", texture))}
    image, mask, meta = _tissue(n, size, seed, "histology patch", fov, *looks.values(), rare, *dyes, fluorescence, noisy)
    return _cohort(image, look, meta | looks | {"lab": lab} | survive(meta["cells"]), mask=mask)


def slides(n: int, patches: int = 100, size: int = 32, seed: int = 0, kind=None, share: float = 0.1, stroma: float = 0.7,
           atypical=None, lab=None, variation: float = 1.0, fov: float = 48.0, noisy: bool = True) -> Cohort:
    """n slides, a row per patch."""
    if patches < 1 or min(share, stroma) < 0 or share + stroma > 1:
        raise ValueError(f"slides need patches >= 1 and shares with a sum up to 1, not {patches}, {share}, {stroma}")
    stream, few, side = f"histology slides of {patches}", round(share * patches), math.ceil(patches**0.5)
    draws, place = Draws(n, seed, stream, 32 + patches), torch.arange(patches)
    slide, rare, lab, dyes, survive = _patient(draws, kind, atypical, lab, variation)
    place = torch.stack([place // side, place % side], 1).expand(n, -1, 2)
    far = (place + 0.5 - side * draws.uniform(0, 1, 1, 2)).norm(dim=2) / side + draws.uniform(0, 0.4, patches)
    rank = far.argsort(1).argsort(1)  # a region of tumour, stroma around it
    look = torch.where(rank < few, slide[:, None], 5 * (rank < few + round(stroma * patches))).flatten()
    each = [column.repeat_interleave(patches, 0) for column in (rare, *dyes)]
    image, _, meta = _tissue(n * patches, size, seed, stream, fov, look, look, look, *each, False, noisy)
    whole = survive((meta["cells"].view(n, patches, 5) * (rank < few)[..., None]).sum(1)) | {"slide_label": slide, "lab": lab}
    meta |= {name: column.repeat_interleave(patches) for name, column in whole.items()} | {"place": place.flatten(0, 1)}
    return _cohort(image, look, meta | {"positive": (look > 0) & (look < 5)}, patient=torch.arange(n * patches) // patches)


def _cohort(image: Tensor, look: Tensor, meta: dict, **fields) -> Cohort:
    names = {"mask": CLASSES, "label": KINDS, "cells": CELLS, "lab": LABS, "place": ("row", "column"),
             "image": RGB if image.shape[1] == 3 else ("DNA",), **dict.fromkeys(("kind", "slide_label", *ASPECTS), LOOKS)}
    return Cohort(image=image, label=(look[:, None] == torch.arange(1, 5)).float(), meta={"kind": look} | meta, **fields,
                  names=names, units={"image": "0 to 1", "time": "months", "risk": "log hazard"})


def _each(n: int, name: str, given, most: int) -> Tensor:
    """A number from 0 to `most`, or one per patient, as (n,)."""
    if (given := torch.as_tensor(given)).shape not in ((), (n,)) or not ((given >= 0) & (given <= most)).all():
        raise ValueError(f"{name} must be a number from 0 to {most}, or one for each of the {n}, but got {given}")
    return given.expand(n)


def _patient(draws: Draws, kind, atypical, lab, variation: float) -> tuple:
    """Kind, share of atypical nuclei, laboratory (n,), its inks (n, 2, 3), glass (n, 3) and lack of focus (n,), and the
    function from cells (n, 5) to survival."""
    n, (drawn, rare, site, soft, death, leave) = draws.n, draws.uniform(0, 1, 6).unbind(1)
    look = _each(n, "kind", (5 * drawn).floor() if kind is None else kind, 4).long()
    rare = _each(n, "atypical", 0.08 * rare if atypical is None else atypical, 1).float() * (look > 0)
    lab = _each(n, "lab", (4 * site).floor() if lab is None else lab, 3).long()
    shift, wander = variation * LAB[lab], variation * draws.normal(0, 1, 8).float()
    ink = (INK + shift[:, :6] + 0.03 * wander[:, :6]).clamp(min=0.02).view(n, 2, 3) * (1 + 0.1 * wander[:, 6:, None])

    def survive(cells: Tensor) -> dict[str, Tensor]:
        share = cells[:, 3] / cells.sum(1).clamp(min=1)
        wait, stay = 50 * (-torch.log1p(-death) * torch.exp(1 - 20 * share.double())) ** 0.8, 12 + 108 * leave
        return {"atypical_share": share, "risk": 20 * share - 1, "time": wait.minimum(stay).float(), "event": wait <= stay}

    return look, rare, lab, (ink, 0.965 + shift[:, 6:9], (0.3 * soft.float() + shift[:, 9]).clamp(0, 1)), survive


def _lattice(reach: float, pitch: float) -> Tensor:
    """Points (K, 2) of a lattice of `pitch`, every other row shifted by half, over a square of half width `reach`."""
    line = torch.arange(-math.ceil(reach / pitch), math.ceil(reach / pitch) + 1.0)
    return pitch * torch.stack([(line + 0.5 * (line[:, None] % 2)).flatten(), line.repeat_interleave(len(line))], 1)


def _tissue(n: int, size: int, seed: int, stream: str, fov: float, layout: Tensor, shape: Tensor, texture: Tensor,
            rare: Tensor, ink: Tensor, glass: Tensor, soft: Tensor, glows: bool, noisy: bool) -> tuple[Tensor, Tensor, dict]:
    """Pictures (n, 3 or 1, size, size), masks, and columns of meta."""
    discs, sites, step, plan = _lattice(fov / 2 - 8, PITCH), _lattice(fov / 2 + ROOM, SITE), fov / size, LAYOUT[layout][:, None]
    look, many, total = layout[:, None], len(discs), len(sites)
    draws = Draws(n, seed, f"{stream} tissue", 64 + 5 * many + 11 * total)
    draws.table, u = draws.table.float(), draws.uniform
    # ---- the plane is bent by six waves; its discs: 0 gland, 1 nest, 2 fat, 3 lymphocytes, 4 nothing
    wave, phase = draws.normal(0, 1, 2, 6) / torch.tensor([14.0, 12, 9, 7, 4, 3]), u(0, 6.3, 1, 6)
    bend, way, septum = u(-1, 1, 6, 2) * torch.tensor([[5.0], [4], [3], [2], [1], [0.7]]), u(0, math.pi, 1), u(0, 6.3, 1)
    axes = torch.stack([way.cos(), way.sin(), -way.sin(), way.cos()], 2).view(n, 2, 2)  # along and across the fibres
    centre = discs + PITCH * (u(-0.5, 0.5, 1, 2) + u(-0.14, 0.14, many, 2))
    what = (torch.where(u(0, 1, many) < 0.4, u(0, 1, 1), u(0, 1, many))[..., None] >= plan[..., :4]).sum(2)
    what[:, many // 2] = torch.where(plan[:, 0, 1] > plan[:, 0, 0], 1, what[:, many // 2])  # no tumour without its nest
    radius = torch.lerp(plan[..., 4], plan[..., 5], u(0, 1, many)) + 9 * (what == 2) - 1e4 * (what == 4)

    def bent(spot: Tensor) -> Tensor:
        return torch.sin(spot @ wave + phase) @ bend

    def at(spot: Tensor) -> tuple[Tensor, ...]:
        """Of points (n, M, 2): the kind of the nearest disc (4 outside), the depth in it and how much deeper than in the
        next, the class of the ground (stroma, cytoplasm or mucin), the places along and across the fibres, and from the
        centre of the disc."""
        spot, (depth, second) = spot + bent(spot), torch.full((2, n, spot.shape[1]), -1e3)
        disc, (along, across) = torch.zeros_like(depth, dtype=torch.long), (spot @ axes.mT).unbind(2)
        for k in range(many):
            here = radius[:, k, None] - torch.hypot(spot[..., 0] - centre[:, k, :1], spot[..., 1] - centre[:, k, 1:])
            second, disc, depth = second.maximum(here.minimum(depth)), torch.where(here > depth, k, disc), depth.maximum(here)
        pool = (look == 3) & (torch.cos(across / 9 + septum + torch.sin(along / 23)) < 0.72)
        away = spot - centre.gather(1, disc[..., None].expand(-1, -1, 2))
        return (what.gather(1, disc).where(depth > 0, 4), depth, depth - second, torch.where(look == 4, 1, 4 * pool), along,
                across, *away.unbind(2))

    # ---- nuclei: in the wall of glands, in nests, sheets and files; lymphocytes and fibroblasts
    inside, depth, _, ground, along, across, dx, dy = at(spot := sites + SITE * u(-0.35, 0.35, total, 2))
    pick, chance, row, wall = u(0, 1, total), u(0, 1, total), (across / 13).round(), (inside == 0) & (depth < 15)
    file = (look == 2) & ((across / 13 - row).abs() < 0.3) & (torch.sin(along / 12 + 2.1 * row + septum) > -0.6)
    lymph, packed = (inside == 3) | ((inside == 4) & (pick < plan[..., 6])), depth > NUCLEUS[shape, :1] / 2
    tumour = torch.where(inside == 4, ((ground == 1) | file) & ~lymph, wall | ((inside == 1) & packed))
    on = tumour | (inside == 3) | ((inside == 4) & (depth < -1.5) & (ground != 4) & (pick < plan[..., 7]))
    cell = torch.where(chance < rare[:, None], 3, 4 * (chance > 1 - plan[..., 8])).where(tumour, 1 + lymph.long())
    inward, sideways = wall * (depth - 5.2) / torch.hypot(dx, dy).clamp(min=1), (file & tumour) * (13 * row - across)
    place = spot + torch.stack([inward * dx, inward * dy], 2) + sideways[..., None] * axes[:, 1:]
    place = place + bent(spot) - bent(place)
    body, grain = (NUCLEUS[torch.where(cell == 0, like[:, None], 5 + cell)] for like in (shape, texture))
    a = (body[..., 0] * torch.exp(body[..., 1] * u(-1.7, 1.7, total))).clamp(max=11)
    b, lean = a * (body[..., 2] * u(0.85, 1.15, total)).clamp(max=1), u(-0.4, 0.4, total)
    lean = torch.where((cell == 1) | file, way + lean, torch.where(wall, torch.atan2(dy, dx), 9 * lean))
    nuclei = torch.cat([place, torch.stack([lean.cos(), lean.sin(), a, b, cell, body[..., 3] * u(0.8, 1.2, total)], 2),
                        body[..., 4:6], grain[..., 6:], a[..., None] * u(-0.35, 0.35, total, 2)], 2)
    # ---- who comes first, rare ones before all, keeps others away
    on &= place.abs().amax(2) < fov / 2 + ROOM
    order = torch.where(on, u(0, 1, total) - 1.0 * (cell > 2), 9).argsort(1)[:, :max(1, int(on.sum(1).max()))]
    nuclei, on = nuclei.gather(1, order[..., None].expand(-1, -1, 15)), on.gather(1, order)
    wide, kept = (nuclei[..., 4] * nuclei[..., 5]).sqrt(), torch.zeros_like(on)
    close = torch.cdist(nuclei[..., :2], nuclei[..., :2]) < 0.88 * (wide[:, None] + wide[..., None])
    earlier = close.tril(-1)
    for _ in range(5):  # numpy's any is many times as fast as torch's
        first = on & ~torch.from_numpy((earlier & on[:, None]).numpy().any(2))
        kept, on = kept | first, on & ~torch.from_numpy((close & first[:, None]).numpy().any(2))
    owner, nuclei = kept.nonzero()[:, 0], nuclei[kept]
    # ---- pixels
    r, who = _nearest(n, size, step, owner, nuclei)
    x, y = (g.float() * (fov / 2) for g in unit_grid(size))
    mid, fine, thick = (cloud(n, seed, f"{stream} {w}", size, max(1, round(fov / w))) for w in (6, 2.2, 24))
    cx, cy, cos, sin, a, b, cell, dark, ragged, rim, clump, edge, dot, ox, oy = nuclei[who].unbind(3)
    found = (v.view(n, size, size) for v in at(torch.stack([x, y], 2).view(1, -1, 2)))
    inside, depth, margin, region, along, across, *_ = found
    r, fat = r + ragged * mid, (inside == 2) & (depth > 1.2) & (margin > 1.4)
    region = region.where(inside == 4, torch.where((inside == 0) & (depth > 9.6 + 0.6 * mid), 2, 1 * (inside < 2)))
    region, nucleus = torch.where((r < rim) & (rim > 1), 1, region).where(~fat, 3), (r < 1) & ~fat
    # ---- dyes: collagen is noise stretched along the fibres
    strand, where = noise(n, seed, f"{stream} strand", (1, round(fov * 0.9), round(fov / 7))), [along, across + 0.8 * mid]
    strand = torch.nn.functional.grid_sample(strand, torch.stack(where, 3) / fov, align_corners=False)[:, 0]
    tone = torch.stack([0.35 * strand + 0.1 * fine, 0.12 * fine + 0.12 * mid + 0.2 * (r.clamp(1, 1.8) - 1.5), 0.5 * mid,
                        0 * mid, 0.15 * strand + 0.3 * mid]).gather(0, region[None])[0] + 0.12 * thick
    dark_spot = torch.sigmoid(4 * (dot - torch.hypot((x - cx) * cos + (y - cy) * sin - ox, (y - cy) * cos - (x - cx) * sin - oy)))
    chromatin = 1 + clump * fine + edge * (r * r - 0.5) + 0.9 * (dot > 0) * (dark_spot - (dot / a) ** 2)
    chromatin = dark * chromatin.clamp(min=0.15)
    cover = torch.sigmoid((1 - r) * (a * b).sqrt() / step * 4) * ~fat
    amount = torch.lerp(DYES[region] * (1 + tone[..., None]).clamp(min=0.1),
                        torch.stack([chromatin, 0.2 + 0.1 * chromatin], 3), cover[..., None])
    image = glass[:, :, None, None] * torch.exp(-torch.einsum("nhwk,nkc->nchw", amount, ink))
    if glows:
        glow = (cover * chromatin)[:, None] * ink[:, :1, :1, None]
        image = 0.02 + 0.6 * glow + 0.1 * blur(glow, 4 / step)
    image = torch.lerp(blur(image, 0.5), blur(image, 0.5 + 1.2 / step), soft[:, None, None, None])
    image = image + 0.012 * noisy * noise(n, seed, f"{stream} sensor", tuple(image.shape[1:]))
    return image.clamp(0, 1), torch.where(nucleus, 5 + cell.long(), region), _counts(n, fov, owner, nuclei, nucleus, who)


def _nearest(n: int, size: int, step: float, owner: Tensor, nuclei: Tensor) -> tuple[Tensor, Tensor]:
    """For every pixel (n, size, size) its distance from the nearest nucleus, in units of that one's outline, and the
    index of the nucleus; the distance is huge where none is within 15 um."""
    pixel = ((nuclei[:, None, :2] - 15) / step + size / 2).floor().long() + torch.arange(math.ceil(30 / step) + 2)[:, None]
    (dx, dy), (cos, sin, a, b) = ((pixel + 0.5 - size / 2) * step - nuclei[:, None, :2]).unbind(2), nuclei[:, 2:6, None, None].unbind(1)
    dx, dy, good = dx[:, None], dy[..., None], (pixel >= 0) & (pixel < size)
    r = torch.hypot((dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b)
    good = good[:, None, :, 0] & good[..., None, 1] & (r * a < 15)
    index = (owner[:, None, None] * size + pixel[..., None, 1]) * size + pixel[:, None, :, 0]
    key = (r * 2**20).long() * 2**32 + torch.arange(len(nuclei))[:, None, None]  # nearest first, then the first
    best = torch.full((n * size * size,), 2**58).scatter_reduce_(0, index[good], key[good], "amin").view(n, size, size)
    return (best >> 32) / 2**20, best % 2**32


def _counts(n: int, fov: float, owner: Tensor, nuclei: Tensor, nucleus: Tensor, who: Tensor) -> dict[str, Tensor]:
    """Nuclei numbered from 1 in each picture, and how many of each of `CELLS` have their centre in it."""
    seen, here = torch.zeros(len(nuclei) + 1, dtype=torch.long), (nuclei[:, :2].abs() < fov / 2).all(1)
    seen[1 + who[nucleus]] = 1
    seen = seen.cumsum(0)
    instance = (seen[who + 1] - seen[torch.searchsorted(owner, torch.arange(n))][:, None, None]) * nucleus
    cells = (5 * owner + nuclei[:, 6].long())[here].bincount(minlength=5 * n).view(n, 5)
    return {"instance": instance, "cells": cells, "nuclei": cells.sum(1), "cellularity": nucleus.float().mean((1, 2))}
