"""The abdomen: CT and MR-like slices and volumes of the same bodies, with organs, tumours and mirrored patients.

Anatomy in mm (see `body` for axes): fat, muscle wall, spine, liver, spleen, kidneys with sinus, pancreas, stomach with
gas, aorta, vena cava, bowel. CT is in the portal venous phase; MR is like a fat-suppressed T2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom.body import Body, Builder, Shape, ellipsoid, half_space, rotation, tube
from medtutor.phantom.texture import Draws, blur, cloud, noise

CLASSES = ("background", "liver", "spleen", "right kidney", "left kidney", "pancreas", "stomach", "aorta", "vertebra",
           "liver tumour", "kidney tumour", "paired cyst")
PREVALENCE = {"liver tumour": 0.5, "kidney tumour": 0.3}
FOV = 340.0  # mm, both ways in a slice
VOLUME_FOV = (170.0, 220.0, 260.0)  # mm: z, y, x; the flanks are cropped
LEVELS = {"liver": 38.0, "pancreas": 12.0, "kidneys": -20.0}
#         HU, MR signal
TISSUE = {"fat": (-100, 0.16), "muscle": (58, 0.27), "bone": (260, 0.20), "marrow": (150, 0.26), "canal": (25, 0.95),
          "liver": (112, 0.46), "spleen": (125, 0.62), "kidney": (190, 0.74), "sinus": (-40, 0.34),
          "pancreas": (95, 0.50), "stomach": (28, 0.86), "gas": (-900, 0.02), "blood": (165, 0.06),
          "cava": (140, 0.12), "bowel": (40, 0.55), "liver tumour": (62, 0.64), "kidney tumour": (95, 0.52)}


def cohort(n: int, size: int = 64, seed: int = 0, modality: str = "ct", kind: str = "slice",
           level: str | float | Tensor | None = None, prevalence: dict[str, float] | None = None, situs: float = 0.0,
           twin_kidneys: bool = False, twin: float | None = None, window: tuple[float, float] | None = None,
           fov: float | tuple[float, float, float] | None = None, noisy: bool = True) -> Cohort:
    """n patients, one slice or volume each; patient i depends on `seed` and i only.

    kind "slice": `image` (n, 1, size, size), `mask` (n, size, size), FOV 340 mm, the patient's right at the image's
    left, at `level`: mm, (n,) mm, "liver", "pancreas", "kidneys" or None for anywhere between. kind "volume":
    `volume` (n, 1, size, size, size) and `mask` (n, size, size, size) as (z, y, x), 170 x 220 x 260 mm, feet
    first. `fov` in mm replaces either field of view.
    modality "ct" is in HU / 1000, or in [0, 1] over `window` (low, high) HU; "mr" in [0, 1] with bias field and noise.
    Classes are in names["mask"], which is `CLASSES`. `noisy=False` leaves out noise, texture and bias field.

    `situs`: probability of a mirrored patient (situs inversus); organs and their labels are mirrored together, so that
    the left kidney is always the one away from the liver. `twin_kidneys`: stylised anatomy for long-range tasks. The
    kidneys and all that is near them (spine, muscles, a midline aorta) have the same distribution on both sides,
    mirrored or not; liver and stomach lie far in front, at least 64 mm (12 pixels of 64) from any kidney in a slice;
    spleen, pancreas, vena cava and bowel are left out. Only the side of the liver tells the kidneys apart.
    `twin`: kidney lesions that look alike, each with a contralateral twin with this probability. A lesion without
    twin is a "kidney tumour", lesions with one are "paired cyst". Without `twin`, kidney tumours are single.

    `label` (n, 3): liver tumour, kidney tumour, paired cyst present in the body (a slice may miss them). `prevalence`
    is per patient, with `twin` per lesion site (upper and lower pole). `meta`: situs (bool), level (slices, mm).
    """
    if modality not in ("ct", "mr") or kind not in ("slice", "volume"):
        raise ValueError(f'modality must be "ct" or "mr" and kind "slice" or "volume", but got {modality!r}, {kind!r}')
    if isinstance(level, str) and level not in LEVELS:
        raise ValueError(f"level must be in mm or one of {', '.join(LEVELS)}, but got {level!r}")
    unknown = set(prevalence or ()) - set(PREVALENCE)
    if unknown:
        raise ValueError(f"unknown finding {', '.join(sorted(unknown))}; choose from {', '.join(PREVALENCE)}")
    draws = Draws(n, seed, "abdomen", 384)
    mirrored, tilt, anywhere = draws.chance(situs), draws.normal(0, 2), draws.uniform(-30, 48)
    bodies, label = build(draws, mirrored, PREVALENCE | (prevalence or {}), twin_kidneys, twin)
    flip = torch.eye(3, dtype=torch.float64).repeat(n, 1, 1)
    flip[:, 0, 0] = torch.where(mirrored, -1.0, 1.0)
    bodies = bodies.moved(rotation(tilt, "z") @ flip)
    meta, units = {"situs": mirrored}, {"level": "mm above the isocentre"}
    units["image"] = units["volume"] = "MR signal, 0 to 1" if modality == "mr" else (
        "HU / 1000" if window is None else f"HU, window {window[0]} to {window[1]} shown as 0 to 1")
    if kind == "slice":
        level = anywhere if level is None else LEVELS[level] if isinstance(level, str) else level
        meta["level"] = torch.as_tensor(level, dtype=torch.float64).expand(n).float()
        value, mask = bodies.slice(meta["level"], size, fov or FOV, modality)
    else:
        value, mask = bodies.volume(size, fov or VOLUME_FOV, modality)
    value = _detected(value, modality, seed, noisy)
    if modality == "ct":
        value = value / 1000 if window is None else ((value - window[0]) / (window[1] - window[0])).clamp(0, 1)
    field = {"image" if kind == "slice" else "volume": value[:, None].float()}
    return Cohort(**field, mask=mask, label=label, meta=meta, units=units,
                  names={"mask": CLASSES, "label": CLASSES[9:]})


def _detected(value: Tensor, modality: str, seed: int, noisy: bool) -> Tensor:
    """Noise and texture of the scanner on values (N, H, W) or (N, D, H, W)."""
    if not noisy:
        return value
    n, size, dims = len(value), value.shape[-1], value.ndim - 1
    white = noise(n, seed, modality, tuple(value.shape[1:]))
    if modality == "ct":
        if dims == 2:
            white = white - 0.6 * blur(white[:, None], 1.0)[:, 0]  # reconstruction noise has no low frequencies
        return value + 14 * white + 5 * cloud(n, seed, "parenchyma", size, 14 if dims == 2 else 8, dims)
    bias = torch.exp(0.16 * cloud(n, seed, "coil", size, 2, dims))
    signal = value * (1 + 0.05 * cloud(n, seed, "parenchyma", size, 14 if dims == 2 else 8, dims)) * bias
    return ((signal + 0.025 * white) ** 2 + 4e-4).sqrt().clamp(0, 1)


def build(draws: Draws, mirrored: Tensor, prevalence: dict[str, float], twin_kidneys: bool, twin: float | None,
          ) -> tuple[Body, Tensor]:
    """The bodies in normal situs (the caller mirrors them) and their labels (N, 3)."""
    n, u = draws.n, draws.uniform
    b = Builder(n, CLASSES, {"ct": -1000.0, "mr": 0.0})
    vary = {name: draws.normal(0, 1) for name in TISSUE}

    def add(name: str, shape, tissue: str, **options) -> None:
        hu, signal = TISSUE[tissue]
        spread = 0.06 * max(abs(hu), 40) if tissue != "gas" else 0
        b.add(name, shape, ct=hu + spread * vary[tissue], mr=signal * (1 + 0.07 * vary[tissue]), **options)

    def at(x, y, z) -> Tensor:
        return torch.stack([torch.as_tensor(v, dtype=torch.float64).expand(n) for v in (x, y, z)], 1)

    girth, fat = draws.normal(1, 0.02), u(6, 16)

    def pipe(x, y, middle=0.0) -> Shape:
        return ellipsoid(at(0, middle, 0), at(x, y, math.inf))

    add("fat", pipe(girth * 136 + fat, girth * 106 + fat), "fat")
    add("wall", pipe(girth * 136, girth * 106), "muscle", within="fat")
    cavity = pipe(girth * 124, girth * 95)
    add("cavity", cavity, "fat", within="wall")
    _spine(add, at, cavity)
    if twin_kidneys:
        front = [cavity & half_space(at(0, 1, 0), at(0, y, 0)) for y in (-34, -40)]
        add("liver", ellipsoid(at(-58, -76, 0), at(54, u(38, 44), 120)) & front[0], "liver", within="cavity",
            organ="liver")
        add("stomach", ellipsoid(at(58, -72, 0), at(u(34, 42), 30, 110)) & front[1], "stomach", within="cavity",
            organ="stomach")
        add("aorta", _pole(at(0, 36, 0), 9 + 0 * girth), "blood", within="cavity", organ="aorta")
    else:
        _viscera(add, draws, at, cavity)
    beneath = () if twin_kidneys else ("liver", "left lobe", "spleen")
    kidneys = _kidneys(add, draws, at, mirrored, twin_kidneys, beneath)
    found = _lesions(add, draws, at, kidneys, prevalence, twin, twin_kidneys, mirrored, beneath)
    return b.build(), found


def _pole(centre: Tensor, radius: Tensor) -> Shape:
    """A vertical tube as long as any field of view."""
    return ellipsoid(centre, torch.stack([radius, radius, radius + math.inf], 1))


def _spine(add, at, cavity: Shape) -> None:
    """Vertebra, canal, processes and the muscles beside them; symmetric. Levels between discs are not modelled."""
    add("vertebra", ellipsoid(at(0, 68, 0), at(23, 18, math.inf)), "bone", within="cavity", organ="vertebra")
    add("marrow", ellipsoid(at(0, 68, 0), at(20, 15, math.inf)), "marrow", within="vertebra", organ="vertebra")
    add("canal", ellipsoid(at(0, 93.5, 0), at(9, 7, math.inf)), "canal", within="wall")
    for side in (-1, 1):
        turn = rotation(torch.tensor([side * 38.0]), "z")
        add("lamina", ellipsoid(at(side * 13, 92, 0), at(3.5, 11, math.inf), turn), "bone", within="wall",
            organ="vertebra")
        add("psoas", ellipsoid(at(side * 40, 74, 0), at(14, 15, math.inf)) & cavity, "muscle", within="cavity")


def _viscera(add, draws: Draws, at, cavity: Shape) -> None:
    u = draws.uniform
    add("liver", ellipsoid(at(-70 + u(-4, 4), -4, 38), at(u(60, 70), u(76, 86), u(66, 76))) & cavity, "liver",
        within="cavity", over=("psoas",), organ="liver")
    add("left lobe", ellipsoid(at(-8, -54, 46), at(u(56, 66), u(28, 34), u(34, 42)), rotation(u(-6, 6), "z")) & cavity,
        "liver", within="cavity", over=("liver",), organ="liver")
    add("spleen", ellipsoid(at(100, 28, 44), at(u(20, 25), u(36, 44), u(38, 46)), rotation(u(8, 24), "z")) & cavity,
        "spleen", within="cavity", organ="spleen")
    stomach = ellipsoid(at(56 + u(-4, 4), -34, 44), at(u(34, 42), u(30, 36), u(34, 42))) & cavity
    add("stomach", stomach, "stomach", within="cavity", over=("left lobe", "liver", "spleen"), organ="stomach")
    # gas rises to the front of a patient who lies on the back
    add("gas", stomach & half_space(at(0, 1, 0), at(0, u(-56, -42), 0)), "gas", within="stomach", organ="stomach")
    line = torch.stack([at(-34, 2, -4), at(-16, -6, 8), at(14, -2, 12), at(44, 8, 16), at(72, 22, 26)], 1)
    line = line + torch.stack([at(0, u(-4, 4), u(-4, 4)) for _ in range(5)], 1)
    add("pancreas", tube(line, u(9, 12)), "pancreas", within="cavity",
        over=("stomach", "liver", "left lobe", "spleen", "gas"), organ="pancreas")
    others = ("liver", "left lobe", "pancreas", "stomach")
    add("aorta", _pole(at(8, 37, 0), u(9, 11)), "blood", within="cavity", organ="aorta", over=others)
    add("cava", ellipsoid(at(-20, 33, 0), at(u(10, 13), u(8, 11), math.inf)), "cava", within="cavity", over=others)
    for k, x in enumerate((-88, -52, -17, 18, 53, 88)):
        y = -48 + 8 * (k % 2) + u(-8, 8) + 0.0028 * x * x
        loop = ellipsoid(at(x, y, u(-58, -38)), at(16, u(14, 20), u(14, 22)))
        add(f"bowel {k}", loop & cavity, "bowel", within="cavity", over=("liver", "left lobe", "stomach"))
        gut = half_space(at(0, 1, 0), at(0, -58 + u(-6, 6), 0))
        add(f"bowel gas {k}", loop & cavity & gut, "gas", within=f"bowel {k}", present=draws.chance(0.5))


def _kidneys(add, draws: Draws, at, mirrored: Tensor, twin: bool, over: tuple[str, ...]) -> list[Tensor]:
    """Both kidneys; returns their centres (N, 3), right first. For twins the draws belong to the sides of the IMAGE, so
    that mirroring the patient leaves the picture around the kidneys as it was."""
    u, drawn = draws.uniform, []
    for _ in range(2):
        drawn.append([u(60, 66), u(56, 62), u(-28, -12), u(22, 26), u(16, 19), u(46, 54), u(4, 14), u(0.85, 1.1)])
    if twin:
        drawn = [[torch.where(mirrored, x, y) for x, y in zip(*pair, strict=True)] for pair in
                 ((drawn[1], drawn[0]), (drawn[0], drawn[1]))]
    made = []
    for side, (x, y, z, rx, ry, rz, lean, hilum) in zip((-1, 1), drawn, strict=True):
        if not twin:
            y, z, rx, ry = y - 4, z + (8 if side > 0 else -10), rx + 3, ry + 4
        name = "right kidney" if side < 0 else "left kidney"
        centre, radii = at(side * x, y, z), at(rx, ry, rz)
        turn = rotation(-side * lean, "y") @ rotation(side * (lean + 12), "z")
        add(name, ellipsoid(centre, radii, turn), "kidney", within="cavity", over=over, organ=name)
        sinus = ellipsoid(centre + at(-side * 9, -3, 0), at(rx * 0.45 * hilum, ry * 0.42, rz * 0.5), turn)
        add(f"{name} sinus", sinus, "sinus", within=name)
        made.append(centre)
    return made


def _lesions(add, draws: Draws, at, kidneys: list, prevalence: dict, twin: float | None, twin_kidneys: bool,
             mirrored: Tensor, beneath: tuple[str, ...]) -> Tensor:
    """Tumours of liver and kidneys; returns labels (N, 3) for liver tumour, kidney tumour, paired cyst."""
    u, n = draws.uniform, draws.n
    has_liver, more = draws.chance(prevalence["liver tumour"]), draws.chance(0.4)
    lobe = ((-75, -48), (-58, -48)) if twin_kidneys else ((-95, -20), (-62, 18))
    for k, ((x, y), on) in enumerate(zip(lobe, (has_liver, has_liver & more), strict=True)):
        depth, height = (0.5, -22) if twin_kidneys else (2, 38)
        place = at(x + u(-6, 6), y + u(-8, 6) * depth, height + u(-22, 22))
        radius = u(6, 9) if twin_kidneys else u(8, 18)
        mass = ellipsoid(place, radius[:, None] * u(0.85, 1.15, 3))
        add(f"liver tumour {k}", mass, "liver tumour", within="liver", organ="liver tumour", present=on,
            over=("liver tumour 0", "left lobe"))
    found = torch.zeros(n, 2, dtype=torch.bool)
    single, upper = draws.chance(prevalence["kidney tumour"]), draws.chance(0.5)
    for k, pole in enumerate((-1, 1)):
        on, first, radius = draws.chance(prevalence["kidney tumour"]), draws.chance(0.5), u(10, 13)
        paired = draws.chance(twin or 0.0)
        spot = torch.stack([u(8, 13), u(-5, 3), pole * u(22, 27)], 1)
        if twin is None:
            on, paired = single & (upper == (pole > 0)), paired & False
        wobble = draws.normal(0, 0.7, 2, 3)
        wobble = torch.where(mirrored[:, None, None], wobble.flip(1), wobble)
        for s, name in enumerate(("right kidney", "left kidney")):
            own = first ^ mirrored ^ (s == 1)
            place = kidneys[s] + (spot + wobble[:, s]) * at(2 * s - 1, 1, 1)
            mass = ellipsoid(place, radius[:, None].expand(n, 3))
            for kind, here in (("kidney tumour", on & own & ~paired), ("paired cyst", on & paired)):
                add(f"{kind} {name} {k}", mass, "kidney tumour", within="cavity",
                    over=(name, f"{name} sinus", *beneath), organ=kind, present=here)
        found |= torch.stack([on & ~paired, on & paired], 1)
    return torch.cat([has_liver[:, None], found], 1).float()
