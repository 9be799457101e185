"""Lesions of the abdomen: eight cancers, a look-alike of each at the same place, rare kinds, and described lesions.

What a lesion looks like does not say what it is: a rim around a dark core is a tumour in the liver and a cyst in a
kidney, an even dark ball the other way round.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from medtutor.phantom.body import Shape, ellipsoid, rotation

CANCERS = ("lung tumour", "breast tumour", "oesophageal tumour", "gastric tumour", "pancreatic tumour", "liver tumour",
           "kidney tumour", "colorectal tumour")
MIMICS = ("lung granuloma", "breast cyst", "oesophageal leiomyoma", "gastric polyp", "pancreatic cyst", "liver cyst",
          "kidney cyst", "colonic polyp")
RARE = ("ring lesion", "calcified lesion", "striped lesion")
KINDS = (*CANCERS, *MIMICS, "liver haemangioma", *RARE)
ORGANS = ("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta", "vena cava",
          "portal and splenic veins", "pancreas", "right adrenal gland", "left adrenal gland")  # in the order of BTCV
_FIRST = ("background", "liver", "spleen", "right kidney", "left kidney", "pancreas", "stomach", "aorta", "vertebra",
          "liver tumour", "kidney tumour", "paired cyst", *ORGANS[3:5], *ORGANS[8:10], *ORGANS[11:], "liver vessels",
          "colon", "bowel", "lung", "heart", "breast", "psoas", "rib")
CLASSES = (*_FIRST, *(kind for kind in KINDS if kind not in _FIRST))
SLOTS = ("liver 1", "liver 2", "liver 3", "liver 4", "right kidney", "left kidney")  # of lesions one can point at
PREVALENCE = dict.fromkeys(KINDS[:16], 0.1) | {"liver tumour": 0.5, "kidney tumour": 0.3, "liver cyst": 0.2,
                                               "kidney cyst": 0.2} | dict.fromkeys(KINDS[16:], 0.0)
ATTRIBUTES = {"size": ("small", "medium", "large"), "density": ("hypodense", "hyperdense"),
              "border": ("smooth", "spiculated"), "organ": ("liver", "right kidney", "left kidney"),
              "lobe": ("right", "left"), "level": ("near the dome", "middle", "low")}
SIZES = (11.0, 18.0)  # mm: radii from which a lesion is medium, large
LARGEST = 32.0
# The tissue, that of the core and its share of the radius, whether needles stick out.
LOOKS = dict(zip(KINDS, (
    ("solid", None, 0, True), ("solid", None, 0, True), ("solid", "gas", 0.4, True), ("solid", "stomach", 0.5, True),
    ("dark", None, 0, True), ("rim", "necrosis", 0.72, False), ("necrosis", None, 0, False), ("solid", "gas", 0.45, True),
    ("solid", "calcium", 0.6, False), ("gut wall", "fluid", 0.82, False), ("solid", None, 0, False),
    ("solid", None, 0, False), ("gut wall", "fluid", 0.82, False), ("necrosis", None, 0, False),
    ("rim", "necrosis", 0.72, False), ("solid", None, 0, False), ("fill-in", None, 0, False),
    ("blood", "liver", 0.62, False), ("calcium", None, 0, False), ("dark", None, 0, False)), strict=True))
_IN_SLOTS = {"liver": ("liver tumour", "liver cyst", "liver haemangioma", *RARE), "kidney": ("kidney tumour", "kidney cyst")}
FINE = tuple(f"{kind}/{k}" for k, slot in enumerate(SLOTS) for kind in _IN_SLOTS[slot.split()[-1 if k > 3 else 0]])
# Where the liver's lesions are: x, y, z in mm, the largest radius, the lobe.
_SECTORS = torch.tensor([[-90, -4, 40, LARGEST, 0], [-72, 42, 34, 17, 0], [-64, -56, 42, 20, 0], [-8, -52, 46, 19, 1]],
                        dtype=torch.float64)


def plan(p: SimpleNamespace, prevalence: dict[str, float], lesions: tuple[int, int] | None, level: Tensor | None,
         phases: bool) -> None:
    """Choose what every patient has: `p.has` {kind: (N,)} for the sites of the eight organs, and draw the sites."""
    p.has, p.known, p.lesions, p.looks = {}, {}, lesions, dict(LOOKS)
    p.level = None if level is None or lesions is None else level / p.scale
    if phases:
        p.looks["liver tumour"] = "wash-out", None, 0, False
    for cancer, mimic in zip(CANCERS, MIMICS, strict=True):
        v, often = p.u(), prevalence[cancer]
        p.has[cancer], p.has[mimic] = v < often, v >= 1 - min(prevalence[mimic], 1 - often)
    p.has["liver haemangioma"], v, low = p.chance(prevalence["liver haemangioma"]), p.u(), 0.0
    for kind in RARE:
        p.has[kind] = (v >= low) & (v < low + prevalence[kind])
        low += prevalence[kind]
    p.female = p.chance(0.5) | p.has["breast tumour"] | p.has["breast cyst"]


def _mass(p: SimpleNamespace, look: tuple, kind: str, site: tuple[Tensor, Tensor, Tensor], on: Tensor, organ: str,
          clip: Shape | None = None, spiky: Tensor | None = None) -> None:
    """Add a lesion at `site`: place (N, 3), radius (N,), and 12 numbers in [0, 1) (N, 12) for its form."""
    tissue, core, share, spikes = look
    place, radius, free = site
    if not on.any():
        return
    squash, turn = 0.85 + 0.3 * free[:, :3], rotation(180 * free[:, 3], "z") @ rotation(180 * free[:, 4], "x")

    def solid(scale, direction=turn, shift=0.0) -> Shape:
        shape = ellipsoid(place + shift, radius[:, None] * torch.as_tensor(scale, dtype=torch.float64), direction)
        return shape & clip if clip else shape

    if spiky is not None or spikes:
        rays = [rotation(180 * free[:, 5 + k] + 45 * k, "z") @ rotation(70 * free[:, 8 + k] - 35, "y") for k in range(4)]
        p.add([solid([1.75, 0.22, 0.3], ray) for ray in rays], tissue, organ, on if spiky is None else on & spiky)
    p.add(solid(squash), tissue, organ, on)
    if core:
        p.add(solid(squash * share), core, organ, on)
    if kind == "striped lesion":
        along = radius[:, None] * squash[:, 2:] * turn[:, :, 2]
        p.add([solid(squash * torch.tensor([1, (1 - s * s) ** 0.5, 0.13]), shift=s * along) for s in (-0.5, 0.0, 0.5)],
              "blood", organ, on)


def _record(p: SimpleNamespace, kind: str, radius: Tensor, zone: Tensor | None = None, on: Tensor | None = None,
            limit: float = 15.0) -> None:
    """Keep severity (the radius, from 6 mm to `limit`) and zone of a kind; of a sided one `on` is (N, 2), right first."""
    on = p.has[kind] if on is None else on
    key, grade = kind.replace(" ", "_"), ((radius - 6) / (limit - 6)).clamp(0.05, 1).view(-1, *[1] * (on.ndim - 1))
    zone = torch.full_like(radius, -1) if zone is None else zone
    p.known[f"severity_{key}"] = torch.where(on, grade, 0.0).float()
    p.known[f"zone_{key}"] = torch.where(on, zone.view(grade.shape), -1).long()


def _third(z: Tensor, low: float, high: float) -> Tensor:
    """0 upper, 1 middle, 2 lower."""
    return 2.0 - (z > low).double() - (z > high).double()


def add_to_liver(p: SimpleNamespace) -> None:
    """Up to four lesions, each in a part of the liver of its own."""
    u, n = p.u, len(p.scale)
    fewest, most = p.lesions or (0, 0)
    count = (fewest + u() * (most - fewest + 1)).floor()
    sector = _SECTORS[u(0, 1, 4).argsort(1)]
    room = sector[..., 3] / 7
    radius = 7 * room ** u(0.1, 1, 4)
    place, free, more = sector[..., :3] + u(-4, 4, 4, 3), u(0, 1, 4, 12), p.chance(0.4)
    height = u(-18, 18, 4) if p.level is None else p.level[:, None] - place[..., 2] + 0.4 * radius * u(-1, 1, 4)
    place = (place + torch.stack([0 * height, 0 * height, height], -1)) * p.scale[:, None, None]
    hyper, spiky, lobe = p.chance(0.5, 4), p.chance(0.5, 4), sector[..., 4]
    here = count[:, None] > torch.arange(4)
    if p.lesions is not None:
        p.has |= dict.fromkeys(("liver cyst", "liver haemangioma", *RARE), torch.zeros(n, dtype=torch.bool))
        p.has["liver tumour"] = count > 0
    first = dict.fromkeys(_IN_SLOTS["liver"], 0) | dict.fromkeys(RARE, 3) | {"liver haemangioma": 2}
    for k in range(4):
        site = place[:, k], radius[:, k] * p.scale, free[:, k]
        for side, clip in enumerate(p.lobes):
            near = lobe[:, k] == side
            for kind in _IN_SLOTS["liver"] if p.lesions is None else ():
                there = near & more if k == 1 else near
                if k == first[kind] or (k == 1 and first[kind] == 0):
                    _mass(p, p.looks[kind], kind, site, p.has[kind] & there, f"{kind}/{k}", clip)
            for dense, tissue in enumerate(("dark", "blood") if p.lesions is not None else ()):
                on = here[:, k] & (hyper[:, k] == bool(dense)) & near
                _mass(p, (tissue, None, 0, False), "", site, on, f"liver tumour/{k}", clip, spiky[:, k])
    z, size = place[..., 2] / p.scale[:, None], torch.bucketize(radius, torch.tensor(SIZES, dtype=radius.dtype))
    for kind in _IN_SLOTS["liver"]:
        _record(p, kind, radius[:, first[kind]], _third(z[:, first[kind]], 25, 52), None, LARGEST)
    told = torch.stack([size, hyper.long(), spiky.long(), 0 * size, lobe.long(), _third(z, 25, 52).long()], -1)
    p.told = torch.where(here[..., None], told, -1)


def add(p: SimpleNamespace) -> dict[str, Tensor]:
    """The lesions outside the liver; returns label (N, K) of KINDS, severity_<kind>, zone_<kind>, attribute (N, 6, A)."""
    u, n, at = p.u, len(p.scale), p.at
    side = [torch.where(p.chance(0.5), 1.0, -1.0) for _ in range(3)]
    radius = u(9, 15, 7)
    piece, share = u(), u(0.2, 0.8)
    line = torch.stack([at(*point) for point in p.pancreas], 1)
    place = line[torch.arange(n), (piece * 4).long()].lerp(line[torch.arange(n), (piece * 4).long() + 1], share[:, None])
    colon = torch.tensor([[-100, -4, -62], [102, 22, -46], [-42, -64, -34]])[(u() * 3).long()].double()
    lung = u(68, 88), u(-5, 30), u(120, 144)
    stomach, breast, gullet = (30 + u(-6, 6), -40 + u(-6, 6), 36 + u(-8, 8)), (72 + u(-14, 14), u(-2, 8)), u(88, 100)
    sites = ((0, at(side[0] * lung[0], *lung[1:])), (1, at(side[1] * breast[0], breast[1] - 124 - p.fat / 2, 165)),
             (2, at(4, -11, gullet)), (3, at(*stomach)), (4, place), (7, colon * p.scale[:, None]))
    for slot, (k, where) in enumerate(sites):
        site = where, radius[:, slot] * (1.0, 0.9, 0.9, 1.1, 0.9, 1.1)[slot] * p.scale, u(0, 1, 12)
        for kind in (CANCERS[k], MIMICS[k]):
            _mass(p, p.looks[kind], kind, site, p.has[kind], kind)
            both = p.has[kind][:, None] & (side[k][:, None] == torch.tensor([-1.0, 1.0])) if k < 2 else None
            _record(p, kind, radius[:, slot], _third(where[:, 2] / p.scale, 127, 136) if k == 0 else None, both)
    pole, out, free = u(-30, 30), (u(14, 20), u(-2, 8)), u(0, 1, 12)
    here = torch.zeros(n, 2, dtype=torch.bool)
    for s, centre in enumerate(p.kidneys.values()):
        sign, own = 2 * s - 1, side[2] == 2 * s - 1
        dz = pole if p.level is None else (p.level - centre[:, 2] / p.scale + pole / 8).clamp(-36, 36)
        site = centre + at(sign * out[0], out[1], dz), radius[:, 6] * p.scale, free
        for kind in _IN_SLOTS["kidney"]:
            _mass(p, p.looks[kind], kind, site, p.has[kind] & own, f"{kind}/{4 + s}")
            here[:, s] |= p.has[kind] & own
    sides = side[2][:, None] == torch.tensor([-1.0, 1.0])
    for kind in _IN_SLOTS["kidney"]:
        _record(p, kind, radius[:, 6], _third(dz, -12, 12), p.has[kind][:, None] & sides)
    zero = torch.zeros(n, 2, dtype=torch.long)
    size = torch.bucketize(radius[:, 6].contiguous(), torch.tensor(SIZES, dtype=radius.dtype))[:, None] + zero
    told = torch.stack([size, zero, zero, zero + torch.tensor([1, 2]), zero - 1, zero - 1], -1)
    p.told = torch.cat([p.told, torch.where(here[..., None], told, -1)], 1)
    return p.known | {"label": torch.stack([p.has[kind] for kind in KINDS], 1).float(), "attribute": p.told}
