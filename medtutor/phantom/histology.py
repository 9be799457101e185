"""Breast tissue under the microscope: patches and whole-slide bags with every nucleus known, and survival.

Lengths are micrometres from the centre of a picture that spans `fov`. Glands, nests, fat and lymphoid aggregates are
discs on a jittered lattice of a bent plane; nuclei are ellipses at places of a finer one that keep their distance.
Haematoxylin and eosin absorb light by the law of Beer and Lambert, or a dye of DNA fluoresces. The numbers of the
tissues and laboratories are in histology.yml.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from medtutor.cohort import Cohort
from medtutor.phantom.texture import Draws, blur, cloud, each, noise, table, unit_grid

_TABLES = table("histology")
LAYOUT, NUCLEUS, GROUND, LABORATORY = (torch.tensor([*rows.values()]) for rows in _TABLES.values())
LOOKS, _NUCLEI, _GROUNDS, _LABS = (tuple(rows) for rows in _TABLES.values())
KINDS, CELLS, LABS = LOOKS[1:5], ("epithelial nucleus", *_NUCLEI[6:]), _LABS[1:]
PITCH, SITE, ROOM = 44.0, 7.2, 12.0  # of the lattices of discs and of nuclei; margin around the picture


def cohort(n: int, size: int = 64, seed: int = 0, kind=None, layout=None, shape=None, texture=None, atypical=None,
           lab=None, variation: float = 1.0, glows: bool = False, fov: float = 96.0, noisy: bool = True) -> Cohort:
    """n patches of tissue; patient i depends on `seed` and i only.

    `image` (n, 3, size, size) RGB in [0, 1], or where DNA `glows` (n, 1, size, size), bright nuclei on black; `mask`
    (n, size, size) the ground or the nucleus, see names["mask"]; `label` (n, 4) one of `KINDS`, all zero: normal.

    `kind`, 0 normal or 1 to 4 (`LOOKS`), is drawn, all equally often, or given. Architecture (`layout`), size and
    outline of nuclei (`shape`) and their chromatin (`texture`) follow the kind, or are given one by one, 0 to 4, and
    then owe nothing to the label: layout is coarse; texture is fine and leaves nuclei as dark as they are.
    `lab` 0 to 3 (`LABS`). `atypical`: the chance that a place for a tumour cell gets a large dark nucleus, drawn from 0
    to 0.08; none in normal tissue. Each of these is one number or (n,). `variation` scales what differs between and
    within laboratories in colour and focus; `fov` is the width of the picture in micrometres; `noisy=False` leaves out
    sensor noise.

    `meta`: instance (n, size, size), nuclei numbered from 1 in each picture, 0 elsewhere; cells (n, 5), how many of
    each of `CELLS` have their centre in the picture; nuclei, their sum; cellularity, the share of nuclear pixels; kind,
    layout, shape, texture, lab; atypical_share of the nuclei, risk = 20 atypical_share - 1, the log of the hazard of
    death, time in months until death or the end of follow-up, event, whether death was seen. Raises ValueError for what
    is out of range.
    """
    draws = Draws(n, seed, "histology patch", 32)
    look, rare, lab, dyes, survive = _patient(draws, kind, atypical, lab, variation)
    looks = {name: each(n, name, given, 0, 4, look.double()).long()
             for name, given in (("layout", layout), ("shape", shape), ("texture", texture))}
    image, mask, meta = _tissue(n, size, seed, "histology patch", fov, *looks.values(), rare, *dyes, glows, noisy)
    return _cohort(image, look, meta | looks | {"lab": lab} | survive(meta["cells"]), mask=mask)


def slides(n: int, patches: int = 100, size: int = 32, seed: int = 0, kind=None, lab=None, share: float = 0.1,
           stroma: float = 0.7, atypical=None, variation: float = 1.0, fov: float = 48.0, noisy: bool = True) -> Cohort:
    """n slides as bags, a row per patch, `patient` the slide. Slide i depends on `seed`, `patches` and i only.

    Of every slide, round(share patches) patches in one region show its kind (normal glands where that is 0), about them
    round(stroma patches) show stroma, drawn alike for all kinds, the others normal glands and fat. `label` (n patches,
    4) is the truth of the patch; meta["slide_label"], 0 to 4 (`LOOKS`), is that of its slide, the weak label. `meta` of
    a patch as in `cohort`, with kind 5 for stroma, and place (row, column) on the slide; lab and survival are those of
    the slide in every row, by the share of atypical nuclei in the region. No mask. Other arguments as in `cohort`, one
    number or one per slide.
    """
    if patches < 1 or min(share, stroma) < 0 or share + stroma > 1:
        raise ValueError(f"slides need patches >= 1 and shares with a sum up to 1, not {patches}, {share}, {stroma}")
    draws, few, side = Draws(n, seed, "histology slide", 32 + patches), round(share * patches), math.ceil(patches**0.5)
    slide, rare, lab, dyes, survive = _patient(draws, kind, atypical, lab, variation)
    place = torch.stack([torch.arange(patches) // side, torch.arange(patches) % side], 1).expand(n, -1, 2)
    rank = ((place / side - draws.uniform(0, 1, 1, 2)).norm(dim=2) + draws.uniform(0, 0.4, patches)).argsort().argsort()
    look = torch.where(rank < few, slide[:, None], 5 * (rank < few + round(stroma * patches)))
    made = [_tissue(n, size, seed, f"histology slide {k}", fov, *look[:, [k] * 3].unbind(1), rare, *dyes, False, noisy)
            for k in range(patches)]  # patch by patch: little memory
    image, meta = torch.stack([picture for picture, *_ in made], 1).flatten(0, 1), {
        name: torch.stack([columns[name] for *_, columns in made], 1).flatten(0, 1) for name in made[0][2]}
    own = survive((meta["cells"].view(n, -1, 5) * (rank < few)[..., None]).sum(1)) | {"slide_label": slide, "lab": lab}
    meta |= {name: column.repeat_interleave(patches) for name, column in own.items()} | {"place": place.flatten(0, 1)}
    return _cohort(image, look.flatten(), meta, patient=torch.arange(n * patches) // patches)


def _cohort(image: Tensor, look: Tensor, meta: dict, **fields) -> Cohort:
    names = {"mask": _GROUNDS + CELLS, "label": KINDS, "cells": CELLS, "lab": LABS, "place": ("row", "column"),
             "image": ("red", "green", "blue") if image.shape[1] == 3 else ("DNA",)}
    return Cohort(image=image, label=(look[:, None] == torch.arange(1, 5)).float(), meta=meta | {"kind": look},
                  **fields, names=names | dict.fromkeys(("kind", "slide_label", "layout", "shape", "texture"), LOOKS),
                  units={"image": "0 to 1", "time": "months", "risk": "log hazard"})


def _patient(draws: Draws, kind, atypical, lab, variation: float) -> tuple:
    """Kind, chance of atypical nuclei, laboratory (n,); its inks (n, 2, 3), glass (n, 3), lack of focus (n,); and the
    function from cells (n, 5) to survival."""
    n, (drawn, rare, site, soft, death, leave) = draws.n, draws.uniform(0, 1, 6).unbind(1)
    look = each(n, "kind", kind, 0, 4, (5 * drawn).floor()).long()
    rare = each(n, "atypical", atypical, 0, 1, 0.08 * rare).float() * (look > 0)
    lab = each(n, "lab", lab, 0, 3, (4 * site).floor()).long()
    wander = torch.cat([draws.normal(0, 0.03, 6), torch.zeros(n, 3), 0.3 * soft[:, None]], 1).float()
    optics = (LABORATORY[0] + variation * (LABORATORY[1 + lab] + wander)).clamp(0, 1)
    ink = optics[:, :6].view(n, 2, 3) * (1 + draws.normal(0, 0.1 * variation, 2, 1).float())

    def survive(cells: Tensor) -> dict[str, Tensor]:
        share = cells[:, 3] / cells.sum(1).clamp(min=1)
        due, end = 50 * (-torch.log1p(-death) * torch.exp(1 - 20 * share.double())) ** 0.8, 12 + 108 * leave
        return {"atypical_share": share, "risk": 20 * share - 1, "time": due.minimum(end).float(), "event": due <= end}

    return look, rare, lab, (ink, optics[:, 6:9], optics[:, 9]), survive


def _lattice(reach: float, pitch: float) -> Tensor:
    """Points (K, 2) of a lattice of `pitch`, every other row shifted by half, over a square of half width `reach`."""
    line = torch.arange(-math.ceil(reach / pitch), math.ceil(reach / pitch) + 1.0)
    return pitch * torch.stack([(line + 0.5 * (line[:, None] % 2)).flatten(), line.repeat_interleave(len(line))], 1)


def _tissue(n: int, size: int, seed: int, stream: str, fov: float, layout: Tensor, shape: Tensor, texture: Tensor,
            rare: Tensor, ink: Tensor, glass: Tensor, soft: Tensor, glows: bool, noisy: bool) -> tuple:
    """Pictures (n, 3 or 1, size, size), masks, and columns of meta."""
    discs, sites, look = _lattice(max(fov / 2 - 8, 0), PITCH), _lattice(fov / 2 + ROOM, SITE), layout[:, None]
    plan, draws = LAYOUT[look], Draws(n, seed, f"{stream} tissue", 64 + 5 * len(discs) + 11 * len(sites))
    many, total, step, u, draws.table = len(discs), len(sites), fov / size, draws.uniform, draws.table.float()
    # ---- the plane is bent by six waves; its discs: 0 gland, 1 nest, 2 fat, 3 lymphocytes, 4 nothing
    wave, phase = draws.normal(0, 1, 2, 6) / torch.tensor([14.0, 12, 9, 7, 4, 3]), u(0, 6.3, 1, 6)
    bend, way, septum = u(-1, 1, 6, 2) * torch.tensor([[5.0], [4], [3], [2], [1], [0.7]]), u(0, 3.2, 1), u(0, 6.3, 1)
    axes = torch.stack([way.cos(), way.sin(), -way.sin(), way.cos()], 2).view(n, 2, 2)  # along and across the fibres
    centre = discs + PITCH * (u(-0.5, 0.5, 1, 2) + u(-0.14, 0.14, many, 2))
    what = (torch.where(u(0, 1, many) < 0.4, u(0, 1, 1), u(0, 1, many))[..., None] >= plan[..., :4]).sum(2)
    what[:, many // 2] = torch.where(plan[:, 0, 1] > plan[:, 0, 0], 1, what[:, many // 2])  # no tumour without its nest
    radius = torch.lerp(plan[..., 4], plan[..., 5], u(0, 1, many)) + 9 * (what == 2) - 1e4 * (what == 4)

    def bent(spot: Tensor) -> Tensor:
        return torch.sin(spot @ wave + phase) @ bend

    def at(spot: Tensor) -> tuple[Tensor, ...]:
        """Of points (n, M, 2): the kind of the nearest disc (4 outside), the depth in it, how much deeper than in the
        next, the class of the ground there (stroma, cytoplasm or mucin), the places along and across the fibres, and
        from the centre of the disc."""
        spot, (depth, second) = spot + bent(spot), torch.full((2, n, spot.shape[1]), -1e3)
        disc, (along, across) = torch.zeros_like(depth, dtype=torch.long), (spot @ axes.mT).unbind(2)
        for k in range(many):
            here = radius[:, k, None] - torch.hypot(spot[..., 0] - centre[:, k, :1], spot[..., 1] - centre[:, k, 1:])
            second, disc, depth = second.maximum(here.minimum(depth)), disc.where(here <= depth, k), depth.maximum(here)
        pool = (look == 3) & (torch.cos(across / 9 + septum + torch.sin(along / 23)) < 0.72)
        ground, away = torch.where(look == 4, 1, 4 * pool), spot - centre.gather(1, disc[..., None].expand(-1, -1, 2))
        return what.gather(1, disc).where(depth > 0, 4), depth, depth - second, ground, along, across, *away.unbind(2)

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
                        body[..., 4:6], grain[..., 6:], place + b[..., None] * u(-0.4, 0.4, total, 2)], 2)
    # ---- who comes first, rare ones before all, keeps others away
    on &= place.abs().amax(2) < fov / 2 + ROOM
    on[:, 0] = True  # in the corner, outside of the picture: nobody is without a nucleus
    order = torch.where(on, u(0, 1, total) - 1.0 * (cell > 2), 9).argsort(1)[:, :int(on.sum(1).max())]
    nuclei, on = nuclei.gather(1, order[..., None].expand(-1, -1, 15)), on.gather(1, order)
    wide, kept = (nuclei[..., 4] * nuclei[..., 5]).sqrt(), torch.zeros_like(on)
    close = torch.cdist(nuclei[..., :2], nuclei[..., :2]) < 0.88 * (wide[:, None] + wide[..., None])
    for _ in range(5):  # numpy's any is many times as fast as torch's
        first = on & ~torch.from_numpy((close.tril(-1) & on[:, None]).numpy().any(2))
        kept, on = kept | first, on & ~torch.from_numpy((close & first[:, None]).numpy().any(2))
    owner, nuclei = kept.nonzero()[:, 0], nuclei[kept]
    # ---- pixels
    (r, who), grid = _nearest(n, size, step, owner, nuclei), torch.stack(unit_grid(size), 2).float() * (fov / 2)
    mid, fine, thick = (cloud(n, seed, f"{stream} {w}", size, max(1, round(fov / w))) for w in (6, 2.2, 24))
    a, b, cell, dark, ragged, rim, clump, edge, dot, dx, dy = nuclei[:, 4:][who].unbind(3)
    inside, depth, margin, region, along, across, *_ = (v.view(n, size, size) for v in at(grid.view(1, -1, 2)))
    r, fat = r + ragged * mid, (inside == 2) & (depth > 1.2) & (margin > 1.4)
    region = region.where(inside == 4, torch.where((inside == 0) & (depth > 9.6 + 0.6 * mid), 2, 1 * (inside < 2)))
    region, core = torch.where((r < rim) & (rim > 1), 1, region).where(~fat, 3), (r < 1) & ~fat
    # ---- dyes: collagen is noise stretched along the fibres
    strand = noise(n, seed, f"{stream} strand", (1, math.ceil(fov * 0.9), math.ceil(fov / 7)))
    strand = grid_sample(strand, torch.stack([along, across + 0.8 * mid], 3) / fov, align_corners=False)[:, 0]
    tone = torch.stack([0.35 * strand + 0.1 * fine, 0.12 * fine + 0.12 * mid + 0.2 * (r.clamp(1, 1.8) - 1.5), 0.5 * mid,
                        0 * mid, 0.15 * strand + 0.3 * mid]).gather(0, region[None])[0] + 0.12 * thick
    spot = torch.sigmoid(4 * (dot - torch.hypot(grid[..., 0] - dx, grid[..., 1] - dy))) - (dot / a) ** 2
    dna = dark * (1 + clump * fine + edge * (r * r - 0.5) + spot * (dot > 0)).clamp(min=0.15)
    cover = (torch.sigmoid((1 - r) * (a * b).sqrt() / step * 4) * ~fat)[..., None]
    dye = torch.lerp(GROUND[region] * (1 + tone[..., None]).clamp(0.1), torch.stack([dna, 0.2 + 0.1 * dna], 3), cover)
    image = glass[:, :, None, None] * torch.exp(-torch.einsum("nhwk,nkc->nchw", dye, ink))
    if glows:
        image = 0.02 + 0.6 * ink[:, :1, :1, None] * (cover[..., 0] * dna)[:, None]
    image = torch.lerp(blur(image, 0.5), blur(image, 0.5 + 1.2 / step), soft[:, None, None, None])
    image = image + 0.012 * noisy * noise(n, seed, f"{stream} sensor", tuple(image.shape[1:]))
    return image.clamp(0, 1), torch.where(core, 5 + cell.long(), region), _counts(n, fov, owner, nuclei, core, who)


def _nearest(n: int, size: int, step: float, owner: Tensor, nuclei: Tensor) -> tuple[Tensor, Tensor]:
    """For every pixel (n, size, size) its distance from the nearest nucleus, in units of that one's outline, and the
    index of the nucleus; the distance is huge where none is within 15 um."""
    cos, sin, a, b = nuclei[:, 2:6, None, None].unbind(1)
    pixel = torch.arange(math.ceil(30 / step) + 2)[:, None] + ((nuclei[:, None, :2] - 15) / step + size / 2).long()
    dx, dy = ((pixel + 0.5 - size / 2) * step - nuclei[:, None, :2])[:, None].unbind(3)
    dy, good = dy.mT, (pixel >= 0) & (pixel < size)
    r = torch.hypot((dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b)
    good = good[:, None, :, 0] & good[..., None, 1] & (r * a < 15)
    index = (owner[:, None, None] * size + pixel[..., None, 1]) * size + pixel[:, None, :, 0]
    key = (r * 2**20).long() * 2**32 + torch.arange(len(nuclei))[:, None, None]  # nearest first, then the first
    best = torch.full((n * size * size,), 2**58).scatter_reduce_(0, index[good], key[good], "amin").view(n, size, size)
    return (best >> 32) / 2**20, best % 2**32


def _counts(n: int, fov: float, owner: Tensor, dots: Tensor, core: Tensor, who: Tensor) -> dict[str, Tensor]:
    """Nuclei numbered from 1 in each picture, and how many of each of `CELLS` have their centre in it."""
    seen = torch.zeros(len(dots) + 1, dtype=torch.long).index_fill_(0, 1 + who[core], 1).cumsum(0)
    instance = (seen[who + 1] - seen[torch.searchsorted(owner, torch.arange(n))][:, None, None]) * core
    cells = (5 * owner + dots[:, 6].long())[(dots[:, :2].abs() < fov / 2).all(1)].bincount(minlength=5 * n).view(n, 5)
    return {"instance": instance, "cells": cells, "nuclei": cells.sum(1), "cellularity": core.float().mean((1, 2))}
