"""Lesions of the abdomen: eight cancers, a look-alike of each at the same place, rare kinds, and described lesions.

What a lesion looks like does not say what it is: a rim around a dark core is a tumour in the liver and a cyst in a
kidney, an even dark ball the other way round. The atlas, abdomen.yml, has looks and places.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from medtutor.phantom.texture import table
from medtutor.render.body import Shape, ellipsoid, rotation

ATLAS = table("abdomen")
KINDS = tuple(ATLAS["lesions"])
CANCERS, MIMICS, RARE = KINDS[:8], KINDS[8:16], KINDS[17:]
ORGANS, ATTRIBUTES = tuple(ATLAS["organs"]), {key: tuple(words) for key, words in ATLAS["attributes"].items()}
CLASSES = (*ATLAS["classes"], *(kind for kind in KINDS if kind not in ATLAS["classes"]))
PREVALENCE = dict.fromkeys(KINDS, 0.1) | ATLAS["often"]
SLOTS = ("liver 1", "liver 2", "liver 3", "liver 4", "right kidney", "left kidney")  # of lesions one can point at
SIZES = torch.tensor([11.0, 18.0], dtype=torch.float64)  # mm: radii from which a lesion is medium, large
_OF = {organ: tuple(kind for kind in KINDS if ATLAS["lesions"][kind][0] == organ) for organ in ("liver", "kidney")}
FINE = tuple(f"{kind}/{k}" for k in range(6) for kind in _OF["kidney" if k > 3 else "liver"])
CLASS_OF = torch.tensor([*range(len(CLASSES)), *(CLASSES.index(name.split("/")[0]) for name in FINE)])
SLOT_OF = torch.tensor([-1] * len(CLASSES) + [int(name.split("/")[1]) for name in FINE])
_SIDES, _BOUNDS = torch.tensor([[False, True]]), {"liver": (25, 52), "kidney": (-12, 12), "lung": (127, 136)}


def plan(p: SimpleNamespace, prevalence: dict[str, float], lesions: tuple[int, int] | None, level: Tensor | None,
         phases: bool) -> None:
    """Choose what every patient has: `p.has` {kind: (N,)}, and the sex."""
    p.has, p.known, p.lesions, p.looks = {}, {}, lesions, {k: look[1:] for k, look in ATLAS["lesions"].items()}
    p.level = None if level is None or lesions is None else level / p.scale[:, 2]
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


def _mass(p: SimpleNamespace, look: tuple, site: tuple[Tensor, Tensor, Tensor], on: Tensor, organ: str,
          clip: Shape | None = None, spiky: Tensor | None = None) -> None:
    """Add a lesion at `site`: place (N, 3), radius (N,), and 12 numbers in [0, 1) (N, 12) for its form."""
    (tissue, core, share, spikes), (place, radius, free) = look, site
    if not on.any():
        return
    squash, turn = 0.85 + 0.3 * free[:, :3], rotation(180 * free[:, 3], "z") @ rotation(180 * free[:, 4], "x")

    def solid(scale, direction=turn, shift=0.0) -> Shape:
        shape = ellipsoid(place + shift, radius[:, None] * torch.as_tensor(scale, dtype=torch.float64), direction)
        return shape & clip if clip else shape

    spiky = torch.full_like(on, spikes) if spiky is None else spiky
    rays = [rotation(45 * k + 180 * free[:, 5 + k], "z") @ rotation(70 * free[:, 8 + k] - 35, "y") for k in range(4)]
    if spiky.any():
        p.add([solid([1.75, 0.22, 0.3], ray) for ray in rays], tissue, organ, on & spiky)
    p.add(solid(squash), tissue, organ, on)
    if core:
        p.add(solid(squash * share), core, organ, on)
    if organ.startswith("striped"):
        along = radius[:, None] * squash[:, 2:] * turn[:, :, 2]
        p.add([solid(squash * torch.tensor([1, (1 - s * s) ** 0.5, 0.13]), shift=s * along) for s in (-0.5, 0.0, 0.5)],
              "blood", organ, on)


def _record(p: SimpleNamespace, kind: str, radius: Tensor, z: Tensor, side: Tensor | None = None) -> None:
    """Keep severity (the radius, from 6 mm) and zone of a kind; (N, 2), right first, where `side` is left (N,)."""
    organ, on = ATLAS["lesions"][kind][0], p.has[kind]
    grade = ((radius - 6) / {"liver": 26, "kidney": 15}.get(organ, 9)).clamp(0.05, 1)
    zone = _third(z, organ) if organ in _BOUNDS else torch.full_like(on, -1, dtype=torch.long)
    if side is not None:
        on, grade, zone = on[:, None] & (side[:, None] == _SIDES), grade[:, None], zone[:, None]
    key = kind.replace(" ", "_")
    p.known |= {f"severity_{key}": torch.where(on, grade, 0.0).float(), f"zone_{key}": torch.where(on, zone, -1)}


def _third(z: Tensor, organ: str) -> Tensor:
    """0 upper, 1 middle, 2 lower."""
    return 2 - sum((z > bound).long() for bound in _BOUNDS[organ])


def add_to_liver(p: SimpleNamespace) -> None:
    """Up to four lesions, each in a part of the liver of its own: as `p.has` says, or `p.lesions` (fewest, most)."""
    u, lobes = p.u, (p.named["right lobe"], p.named["left lobe"])
    fewest, most = p.lesions or (0, 0)
    here = torch.arange(4) < (fewest + u() * (most - fewest + 1)).floor()[:, None]
    sector = torch.tensor(ATLAS["liver"], dtype=torch.float64)[u(0, 1, 4).argsort(1)]
    radius, free, more = 7 * (sector[..., 3] / 7) ** u(0.1, 1, 4), u(0, 1, 4, 12), p.chance(0.4)
    place, free_z = sector[..., :3] + u(-4, 4, 4, 3), u(-1, 1, 4)
    z = place[..., 2] + 18 * free_z if p.level is None else p.level[:, None] + 0.4 * radius * free_z
    place = torch.cat([place[..., :2], z[..., None]], -1) * p.scale[:, None]
    hyper, spiky, lobe = p.chance(0.5, 4), p.chance(0.5, 4), sector[..., 4]
    if p.lesions is not None:
        p.has |= {kind: torch.zeros_like(more) for kind in _OF["liver"]} | {"liver tumour": here[:, 0]}
    first = dict.fromkeys(_OF["liver"], 0) | dict.fromkeys(RARE, 3) | {"liver haemangioma": 2}
    for k in range(4):
        site = place[:, k], radius[:, k] * p.size, free[:, k]
        for side, clip in enumerate(lobes):
            near = lobe[:, k] == side
            for kind in [] if p.lesions else [one for one in _OF["liver"] if first[one] == (0 if k == 1 else k)]:
                _mass(p, p.looks[kind], site, p.has[kind] & near & (more if k == 1 else near), f"{kind}/{k}", clip)
            for dense, tissue in enumerate(("dark", "blood") if p.lesions else ()):
                on = here[:, k] & (hyper[:, k] == bool(dense)) & near
                _mass(p, (tissue, None, 0, False), site, on, f"liver tumour/{k}", clip, spiky[:, k])
    for kind in _OF["liver"]:
        _record(p, kind, radius[:, first[kind]], z[:, first[kind]])
    told = torch.bucketize(radius, SIZES), hyper.long(), spiky.long(), 0 * here, lobe.long(), _third(z, "liver")
    p.told = torch.where(here[..., None], torch.stack(told, -1), -1)


def add(p: SimpleNamespace) -> dict[str, Tensor]:
    """Lesions outside the liver; returns label (N, K) of KINDS, severity_<kind>, zone_<kind>, attribute (N, 6, 6)."""
    u, number = p.u, p.number
    for organ, (places, size) in ATLAS["sites"].items():
        second, radius, free = p.chance(0.5), number(size), u(0, 1, 12)
        spots = [p.at(*map(number, place)) for place in places]
        where = torch.where(second[:, None], spots[-1], spots[0])
        for kind in (kind for kind in KINDS if ATLAS["lesions"][kind][0] == organ):
            _mass(p, p.looks[kind], (where, radius * p.size, free), p.has[kind], kind)
            _record(p, kind, radius, where[:, 2] / p.scale[:, 2], second if organ in ("lung", "breast") else None)
    left, pole, out, free, radius = p.chance(0.5), u(-30, 30), (u(14, 20), u(-2, 8)), u(0, 1, 12), u(9, 21)
    here = (p.has["kidney tumour"] | p.has["kidney cyst"])[:, None] & (left[:, None] == _SIDES)
    middle = torch.where(left[:, None], *(p.at(*p.places[f"{side} kidney"][0]) for side in ("left", "right")))
    dz = pole if p.level is None else (p.level - middle[:, 2] / p.scale[:, 2] + pole / 8).clamp(-36, 36)
    site = middle + p.at(torch.where(left, out[0], -out[0]), out[1], dz), radius * p.size, free
    for kind in _OF["kidney"]:
        _record(p, kind, radius, dz, left)
        for slot in (4, 5):
            _mass(p, p.looks[kind], site, p.has[kind] & (left == (slot == 5)), f"{kind}/{slot}")
    zero = torch.zeros_like(here, dtype=torch.long)
    told = torch.bucketize(radius, SIZES)[:, None] + zero, zero, zero, zero + torch.tensor([1, 2]), zero - 1, zero - 1
    p.told = torch.cat([p.told, torch.where(here[..., None], torch.stack(told, -1), -1)], 1)
    return p.known | {"label": torch.stack([p.has[kind] for kind in KINDS], 1).float(), "attribute": p.told}
