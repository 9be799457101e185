"""The thorax: chest radiographs, CT slices and volumes of the same bodies, with findings that change the body.

Anatomy in mm (see `body` for axes): trunk of fat and muscle, lungs with vessels, heart, mediastinum, aorta, trachea,
diaphragm domes on liver and stomach, spine, nine pairs of ribs, clavicles, scapulae. Findings, each with a severity in
(0, 1]: effusion, nodule, consolidation (per side), cardiomegaly (no side: a cardiothoracic ratio above 0.5).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom.body import Body, Builder, Shape, ellipsoid, half_space, rotation, tube
from medtutor.phantom.shape import FAR, opposite
from medtutor.phantom.texture import Draws, blur, boxes, cloud, expose, noise

FINDINGS = ("effusion", "nodule", "consolidation", "cardiomegaly")
SIDED = FINDINGS[:3]
SIDES = ("right", "left")
ORGANS = ("background", "right lung", "left lung", "heart", "aorta", "bone", "liver", "trachea",
          *(f"{side} {finding}" for finding in SIDED for side in SIDES))
CT_CLASSES = ("background", "right lung", "left lung", "heart", "aorta", "bone", "liver", "trachea", *SIDED)
PREVALENCE = {"effusion": 0.2, "nodule": 0.2, "consolidation": 0.25, "cardiomegaly": 0.2}
FOV = 340.0  # mm
CENTRE = -10.0  # mm: height of the image centre of a radiograph
LEVELS = {"apex": 80.0, "hilum": 15.0, "heart": -40.0}
AP_SOURCE = 1000.0  # mm from source to isocentre; the other views use a parallel beam


def cohort(n: int, size: int = 64, seed: int = 0, modality: str = "xray", view: str | float = "PA",
           prevalence: dict[str, float] | None = None, severity: dict[str, Tensor] | None = None,
           marker: float | Tensor | None = None, kind: str = "slice", level: str | float | Tensor | None = None,
           noisy: bool = True) -> Cohort:
    """n patients, one image each; patient i depends on `seed` and i only.

    modality "xray": `image` (n, 1, size, size) in [0, 1], bone bright, with the patient's right at the image's left
    for "PA" (parallel beam) and "AP" (source at 1 m, so that the heart is magnified); "lateral" and angles in degrees
    as in `Body.film`. `mask` (n, K, size, size) boolean: projections of right lung, left lung and heart, then one
    layer per finding ("cardiomegaly" is the heart where it is enlarged). Projections overlap: a lung reaches behind
    heart and diaphragm, and it contains its own findings.
    modality "ct": `image` (n, 1, size, size) or, with kind="volume", `volume` (n, 1, size, size, size), both in
    HU / 1000, with class `mask` (n, size, size) or (n, size, size, size), names["mask"]. A slice is at `level`: mm,
    (n,) mm, "apex", "hilum" or "heart"; None takes the level of the patient's first sided finding, else a random one.

    `label` (n, 4) is 1 where a finding is present; `box` (n, 4, 4) bounds the masks of 2D images. `prevalence` is per
    finding and patient; `severity` overrides it: (n, 2) for right and left or (n,) for cardiomegaly, 0 where absent;
    findings it leaves out are absent. `marker` burns a bright letter into the upper corner: a probability or (n,)
    booleans. `noisy=False` leaves out detector noise and exposure differences. `meta`: per-side severities as
    severity_<finding>, sex (0 female, 1 male), age, marker, cardiothoracic_ratio, level (CT slices).
    """
    if modality not in ("xray", "ct") or kind not in ("slice", "volume"):
        raise ValueError(f'need modality "xray" or "ct", kind "slice" or "volume", but got {modality!r}, {kind!r}')
    draws = Draws(n, seed, "thorax", 640)
    severity = _severities(n, draws, prevalence, severity)
    bodies, facts, heights = build(draws, severity)
    label = torch.stack([(severity[f] > 0).view(n, -1).any(1) for f in FINDINGS], 1).float()
    meta = {f"severity_{f}": severity[f].float() for f in FINDINGS} | facts
    common = {"label": label, "names": {"label": FINDINGS}, "meta": meta}
    meta["marker"] = _marked(n, draws, marker)
    if modality == "xray":
        return _radiographs(bodies, size, seed, view, noisy, common)
    return _tomograms(bodies, size, seed, kind, level, noisy, common, draws, heights)


def _radiographs(bodies: Body, size: int, seed: int, view: str | float, noisy: bool, common: dict) -> Cohort:
    n, meta, label = bodies.n, common["meta"], common["label"]
    organs = ("right lung", "left lung", "heart", *(f"{s} {f}" for f in SIDED for s in SIDES))
    bodies = bodies.moved(shift=torch.tensor([0, 0, -CENTRE]))
    line, masks = bodies.film(view, size, FOV, AP_SOURCE if view == "AP" else math.inf, organs)
    findings = masks[:, 3:].view(n, len(SIDED), 2, size, size).any(2)
    large = (masks[:, 2] & (label[:, 3] > 0)[:, None, None])[:, None]
    layers = torch.cat([masks[:, :3], findings, large], 1)
    tune = Draws(n, seed, "exposure", 4)
    photons, gamma = 10 ** tune.uniform(4.0, 4.6).float(), tune.uniform(0.9, 1.15).float()
    white = noise(n, seed, "quanta", (size, size)) if noisy else torch.zeros(n, size, size)
    if noisy:  # the fine meshwork of lung and soft tissue
        line = line + 0.035 * cloud(n, seed, "meshwork", size, 20, octaves=2)
    image = expose(line, white, photons, gamma=gamma if noisy else 1.0)
    image = torch.where(meta["marker"][:, None, None] & _letter(size), 0.98, image)
    common["names"]["mask"] = (*organs[:3], *FINDINGS)
    return Cohort(image=image[:, None], mask=layers, box=boxes(layers[:, 3:]), units={
        "image": "log exposure, window 0 to 1, bone bright", "box": "pixels"}, **common)


def _tomograms(bodies: Body, size: int, seed: int, kind: str, level, noisy: bool, common: dict, draws: Draws,
               heights: dict[str, Tensor]) -> Cohort:
    n, meta = bodies.n, common["meta"]
    lookup = torch.tensor([0, *range(1, 8), *(8 + k // 2 for k in range(2 * len(SIDED)))])
    common["names"]["mask"] = CT_CLASSES
    units = {"image": "HU / 1000", "volume": "HU / 1000", "level": "mm above the isocentre"}
    if kind == "volume":
        value, mask = bodies.volume(size, (300.0, FOV, FOV))
        if noisy:
            value = value + 12 * noise(n, seed, "ct", (size,) * 3)
        return Cohort(volume=value[:, None] / 1000, mask=lookup[mask], units=units, **common)
    anywhere = draws.uniform(-55, 75)
    if level is None:
        level = anywhere
        for finding in reversed(SIDED):
            for side in (1, 0):
                level = torch.where(meta[f"severity_{finding}"][:, side] > 0, heights[finding][:, side], level)
    if isinstance(level, str) and level not in LEVELS:
        raise ValueError(f"level must be in mm or one of {', '.join(LEVELS)}, but got {level!r}")
    level = torch.as_tensor(LEVELS[level] if isinstance(level, str) else level, dtype=torch.float64)
    value, mask = bodies.slice(level, size, FOV)
    if noisy:
        grain = noise(n, seed, "ct", (1, size, size))
        value = value + 30 * (grain - 0.6 * blur(grain, 1.0))[:, 0] + 6 * cloud(n, seed, "ct", size, 12)
    mask = lookup[mask]
    layers = torch.stack([mask == 8 + k for k in range(3)] + [(mask == 3) & (common["label"][:, 3, None, None] > 0)], 1)
    meta["level"] = level.expand(n).float()
    return Cohort(image=value[:, None] / 1000, mask=mask, box=boxes(layers), units=units, **common)


def _severities(n: int, draws: Draws, prevalence: dict | None, given: dict | None) -> dict[str, Tensor]:
    unknown = (set(prevalence or ()) | set(given or ())) - set(FINDINGS)
    if unknown:
        raise ValueError(f"unknown finding {', '.join(sorted(unknown))}; choose from {', '.join(FINDINGS)}")
    made = {}
    for finding in FINDINGS:
        sides = 2 if finding in SIDED else 1
        grade, hit, both = draws.uniform(0.3, 1.0, sides), draws.uniform(), draws.uniform()
        on = (hit < (PREVALENCE | (prevalence or {}))[finding])[:, None]
        if sides == 2:
            first = (both < 0.6)[:, None] & (torch.arange(2) == 0)
            second = (both >= 0.4)[:, None] & (torch.arange(2) == 1)
            on = on & (first | second)
        value = torch.where(on, grade, 0.0)
        if given is not None:
            value = torch.as_tensor(given.get(finding, torch.zeros(n, sides)), dtype=torch.float64)
            if value.shape not in ((n, sides), (n,) if sides == 1 else (n, 2)):
                raise ValueError(f"severity[{finding!r}] must have shape {(n, 2) if sides == 2 else (n,)}, "
                                 f"but has {tuple(value.shape)}")
            value = value.view(n, sides)
        made[finding] = value if sides == 2 else value[:, 0]
    return made


def _marked(n: int, draws: Draws, marker) -> Tensor:
    u = draws.uniform()
    if isinstance(marker, Tensor):
        return marker.bool()
    return u < (marker or 0.0)


def _letter(size: int) -> Tensor:
    """An L in the upper right corner, as technicians place it on the patient's left."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    unit = size / 64
    y, x = (row + 0.5) / unit - 3, (column + 0.5) / unit - 56
    return (y >= 0) & (y < 6) & (x >= 0) & (x < 4) & ((x < 1.5) | (y >= 4.5))


def build(draws: Draws, severity: dict[str, Tensor]) -> tuple[Body, dict, dict]:
    """The bodies, what is known of them (sex, age, cardiothoracic_ratio), and the height z (N, 2) of each finding.
    `severity`: per finding, (N, 2) or (N,) as `cohort` takes it."""
    n, u = draws.n, draws.uniform
    b = Builder(n, ORGANS, {"ct": -1000.0})
    male, age = draws.chance(0.5), u(25, 90)
    girth, tall = draws.normal(1, 0.05) + 0.03 * male, draws.normal(1, 0.04) + 0.03 * male
    fat = u(6, 22)

    def at(x, y, z) -> Tensor:
        return torch.stack([torch.as_tensor(v, dtype=torch.float64).expand(n) for v in (x, y, z)], 1)

    # ---- trunk: fat and muscle below the shoulder slopes, and a neck above
    def slopes(x, z) -> Shape:
        return half_space(at(-0.34, 0, 0.94), at(-x, 0, z)) & half_space(at(0.34, 0, 0.94), at(x, 0, z))

    def pipe(thick) -> Shape:
        return ellipsoid(at(0, 0, 0), torch.stack([girth * 160 + thick, girth * 100 + thick, 0 * fat + math.inf], 1))

    under = half_space(at(0, 0, 1), at(0, 0, 150))
    b.add("fat", pipe(fat + 4) & slopes(58, 150) & under, ct=-95)
    b.add("neck", ellipsoid(at(0, 15, 0), at(58, 58, math.inf)) & half_space(at(0, 0, -1), at(0, 0, 150)), ct=35)
    b.add("muscle", pipe(0 * fat) & slopes(58, 141) & under, within="fat", ct=45)
    for side in (-1, 1):
        b.add("breast", ellipsoid(at(side * 80, -girth * 100 - 4, -58), at(66, 27, 64)), over=("fat", "muscle"),
              ct=-30, present=~male)
    # ---- lungs: bullets that widen downwards, cut by the mediastinum
    lungs, reach, height = [], [], draws.normal(120, 4.5) * tall.clamp(0.92, 1.06)
    for side in (-1, 1):
        radii, turn = at(girth * 67, girth * 88, height + 45), rotation(torch.full((n,), -side * 5.0), "y")
        lung = ellipsoid(at(side * girth * 76, 6, -45), radii, turn)
        reach.append(girth * 76 + (turn[:, 0] ** 2 * radii**2).sum(-1).sqrt())
        lungs.append(lung & half_space(at(-side, 0, 0.06), at(side * 15, 0, 0))
                     & half_space(at(0, 0, -1), at(0, 0, -165)))
        b.add(f"{SIDES[side > 0]} lung", lungs[-1], within="muscle", ct=draws.normal(-850, 20),
              organ=f"{SIDES[side > 0]} lung")
    both, dome = ("right lung", "left lung"), draws.normal(-88, 5)
    heights, dry = _findings(b, draws, severity, lungs, girth, dome)
    fluid, haze = ("right effusion", "left effusion"), ("right consolidation", "left consolidation")
    # ---- heart: its width is set by the cardiothoracic ratio; two planes part it from liver and stomach
    ratio = torch.where(severity["cardiomegaly"] > 0, 0.53 + 0.14 * severity["cardiomegaly"], u(0.40, 0.47))
    rest = (half_space(at(-0.45, 0, -0.9), at(-30, 0, dome)), half_space(at(0.25, 0, -0.97), at(60, 0, dome - 17)))
    parts = [ellipsoid(at(26, -28, -48), at(66, 46, 46), rotation(torch.full((n,), 30.0), "y")),
             ellipsoid(at(-8, -18, -38), at(30, 40, 45))]
    low, high = _extent(*parts)
    scale = ratio * (reach[0] + reach[1]) / (high - low)
    heart, atrium = (_stretched(p, torch.stack([scale, scale**0.5, scale**0.5], 1), at(4, -20, -40)) & rest[0] & rest[1]
                     for p in parts)
    _vessels(b, draws, girth, lungs, (heart, atrium), dome, dry)
    b.add("mediastinum", ellipsoid(at(0, -4, 62), at(27, 46, 84)), within="muscle", over=both, ct=20)
    b.add("heart", heart, within="muscle", over=(*both, *fluid, *haze, "mediastinum"), ct=48, organ="heart")
    b.add("atrium", atrium, within="muscle", over=(*both, *fluid, *haze, "mediastinum", "heart"), ct=48, organ="heart")
    _aorta_trachea(b, draws, age, (*both, *fluid), (heart, atrium), at)
    # ---- below the diaphragm: liver on the right, stomach with its gas bubble on the left
    for side, name in ((-1, "liver"), (1, "stomach")):
        centre = at(side * girth * 74, -8, dome - 72 - 7 * (side + 1))
        sphere = ellipsoid(centre, torch.stack([girth * 72, girth * 90, 0 * dome + 72], 1))
        belly = sphere & opposite(rest[side > 0])
        b.add(name, belly, within="muscle", over=(*both, *fluid), ct=60 if side < 0 else 45,
              organ="liver" if side < 0 else None)
    gas = ellipsoid(at(girth * 62, draws.normal(-25, 5), dome - 38 + draws.normal(0, 3)), at(26, 26, 13))
    b.add("gas", gas & belly, within="stomach", ct=-950)
    _skeleton(b, draws, girth, height, at)
    facts = {"sex": male.long(), "age": age.float(), "cardiothoracic_ratio": ratio.float()}
    return b.build(), facts, heights


def _stretched(shape: Shape, factor: Tensor, about: Tensor) -> Shape:
    """The solid stretched by `factor` (N, 3) along the axes about a point (N, 3); quadrics only."""
    return Shape(shape.form / (factor[:, None, :, None] * factor[:, None, None, :]),
                 about[:, None] + (shape.centre - about[:, None]) * factor[:, None], shape.normal, shape.offset,
                 about + (shape.middle - about) * factor, shape.reach * factor.amax(1))


def _extent(*shapes: Shape) -> tuple[Tensor, Tensor]:
    """Lowest and highest x of a union of ellipsoids."""
    half = [torch.linalg.inv(s.form[:, 0])[:, 0, 0].sqrt() for s in shapes]
    return (torch.stack([s.middle[:, 0] - h for s, h in zip(shapes, half, strict=True)]).amin(0),
            torch.stack([s.middle[:, 0] + h for s, h in zip(shapes, half, strict=True)]).amax(0))


def _beside(ellipsoid: Shape, point: Tensor) -> Shape:
    """The half-space of `point` (N, 3) beyond the plane that touches an ellipsoid between its centre and the point."""
    arm = point - ellipsoid.centre[:, 0]
    normal = (ellipsoid.form[:, 0] @ arm[..., None])[..., 0]
    norm = (normal * arm).sum(-1, keepdim=True).sqrt()
    return half_space(-normal, ellipsoid.centre[:, 0] + arm / norm)


def _findings(b: Builder, draws: Draws, severity: dict, lungs: list[Shape], girth: Tensor, dome: Tensor,
              ) -> tuple[dict[str, Tensor], list[Shape]]:
    """Effusion, nodule and consolidation inside the lungs; returns their heights z (N, 2), for CT slices, and the
    half-spaces above the fluid, right and left."""
    u, heights, dry = draws.uniform, {f: [] for f in SIDED}, []
    above = half_space(torch.tensor([0.0, 0, -1]), torch.stack([0 * dome, 0 * dome, dome + 1], 1))
    for k, side in enumerate((-1, 1)):
        name, lung = SIDES[k], lungs[k]
        grade = severity["effusion"][:, k]  # fluid settles: a level that climbs the chest wall, seen as a meniscus
        level = dome - 22 + 96 * grade + u(-6, 6)
        surface = half_space(torch.tensor([-side * 0.24, -0.2, 0.95]),
                             torch.stack([side * girth * 105, 0 * level, torch.where(grade > 0, level, -FAR)], 1))
        b.add(f"{name} effusion", lung & surface, within=f"{name} lung", ct=12, organ=f"{name} effusion",
              present=grade > 0)
        dry.append(opposite(surface))
        heights["effusion"].append(level - 35)
        grade = severity["consolidation"][:, k]
        radius = 22 + 34 * grade
        place = torch.stack([side * girth * u(72, 100), u(-35, 45), u(-60, 60)], 1)
        turn, stretch = rotation(u(-40, 40), "y"), u(0.8, 1.25, 3)
        for shell, density in ((1.0, 150), (0.8, 160), (0.6, 180)):  # nested shells: an edge that fades
            aside = radius[:, None] * u(-0.1, 0.1, 3)
            haze = ellipsoid(place + aside, radius[:, None] * stretch * shell * u(0.9, 1.1, 3), turn)
            haze = haze & lung & above & dry[k]
            b.add(f"{name} consolidation", haze, within=f"{name} lung", organ=f"{name} consolidation",
                  present=grade > 0, ct=b.values[f"{name} lung"]["ct"] + density * (0.6 + 0.9 * grade))
        heights["consolidation"].append(place[:, 2])
        grade, high = severity["nodule"][:, k], u(-55, 70)
        depth = torch.where(high < 25, u(36, 60), u(-35, 50))  # low nodules lie behind the heart, not in it
        place = torch.stack([side * girth * u(62, 105), depth, high], 1)
        nodule = ellipsoid(place, (6 + 12 * grade)[:, None] * u(0.85, 1.15, 3)) & lung
        b.add(f"{name} nodule", nodule, within=f"{name} lung", ct=60, organ=f"{name} nodule", present=grade > 0,
              over=(f"{name} effusion", f"{name} consolidation"))
        heights["nodule"].append(high)
    return {f: torch.stack(z, 1) for f, z in heights.items()}, dry


def _vessels(b: Builder, draws: Draws, girth: Tensor, lungs: list[Shape], chambers: tuple[Shape, Shape],
             dome: Tensor, dry: list[Shape]) -> None:
    """The hila, and vessels that fan out from them behind the heart and thin out."""
    above = half_space(torch.tensor([0.0, 0, -1]), torch.stack([0 * dome, 0 * dome, dome + 1], 1))
    for k, side in enumerate((-1, 1)):
        root = torch.stack([side * girth * 50, draws.normal(25, 2), draws.normal(14 if side > 0 else 6, 4)], 1)
        name, room = SIDES[k], lungs[k] & above & dry[k] & _beside(chambers[0], root) & _beside(chambers[1], root)
        b.add(f"{name} hilum", ellipsoid(root, torch.tensor([[9.0, 11, 16]]).expand(b.n, 3)) & room,
              within=f"{name} lung", ct=30)
        for steer in (-78, -52, -26, 0, 26, 52, 78):
            rise, out = torch.deg2rad(draws.normal(steer, 5)), torch.deg2rad(draws.normal(10, 16))
            ahead = torch.stack([side * rise.cos() * out.cos(), out.sin(), rise.sin()], 1)
            bend = torch.stack([side * draws.uniform(-0.15, 0.4), draws.normal(0, 0.2), draws.normal(-0.1, 0.2)], 1)
            line = torch.stack([root + 18 * ahead, root + 40 * ahead, root + 40 * ahead + 40 * (ahead + bend)], 1)
            for part in tube(line, torch.tensor([[3.7, 2.6]])):
                b.add(f"{name} vessels", part & room, within=f"{name} lung", ct=-80)


def _aorta_trachea(b: Builder, draws: Draws, age: Tensor, lungs: tuple[str, ...], chambers: tuple[Shape, Shape], at,
                   ) -> None:
    wide = 0.10 * (age - 50) + draws.normal(0, 2)  # the aorta unfolds with age
    arch = torch.stack([at(-14, -22, 10), at(-16, -30, 42), at(-6, -22, 66), at(12 + 0.4 * wide, 0, 74 + 0.4 * wide),
                        at(20 + wide, 26, 62 + 0.3 * wide), at(20 + 0.8 * wide, 41, 25), at(18, 44, -60),
                        at(10, 44, -180)], 1)
    b.add("aorta", tube(arch, draws.normal(14, 1) + 0.03 * (age - 50)), within="muscle", over=(*lungs, "mediastinum"),
          ct=55, organ="aorta")
    b.add("trachea", tube(torch.stack([at(0, 15, 150), at(0, 15, 210)], 1), 8.5), within="neck", ct=-980,
          organ="trachea")
    b.add("trachea", tube(torch.stack([at(0, 15, 150), at(0, 15, 130), at(2, 22, 50)], 1), 8.5), within="muscle",
          over=("mediastinum",), ct=-980, organ="trachea")
    top = torch.stack([c.middle[:, 2] + torch.linalg.inv(c.form[:, 0])[:, 2, 2].sqrt() for c in chambers]).amax(0) + 1
    for side in (-1, 1):
        fork = tube(torch.stack([at(2, 22, 46), at(side * 34, 24, 20)], 1), 6.0)[0]
        fork = fork & half_space(at(-side, 0, 0), at(2, 0, 0)) & half_space(at(0, 0, -1), at(0, 0, top))
        b.add("bronchus", fork, within="muscle", over=("mediastinum", *lungs), ct=-980, organ="trachea")


def _skeleton(b: Builder, draws: Draws, girth: Tensor, height: Tensor, at) -> None:
    u, zero = draws.uniform, 0 * girth
    for k in range(15):
        z = 164.0 - 25 * k
        back = 66 + 10 * math.cos((z - 20) / 110) - 8
        disc = half_space(at(0, 0, 1), at(0, 0, z + 10.5)) & half_space(at(0, 0, -1), at(0, 0, z - 10.5))
        block = ellipsoid(at(0, back, z), at(16.5 + k * 0.4, 14.5 + k * 0.3, math.inf)) & disc
        b.add("vertebra", replace(block, reach=0 * girth + 30), within="muscle" if z < 135 else "neck", ct=330,
              organ="bone")
        b.add("vertebra", ellipsoid(at(0, back + 31, z - 8), at(3.5, 14, 9)),
              within="muscle" if z < 135 else "neck", ct=420, organ="bone")
    drop, slope = draws.normal(62, 5), draws.normal(1, 0.06)
    for rib in range(9):
        head = height * 0.80 - 4 - 21.5 * rib
        widen = (1 - ((head - drop * 0.4 + 70) / (height + 78)).clamp(-0.95, 0.95) ** 2).sqrt().clamp(min=0.42)
        for side in (-1, 1):
            turns = torch.linspace(0.22, 2.45, 10, dtype=torch.float64)
            line = []
            for turn in turns:
                x = girth * (10 + 136 * widen * math.sin(turn) ** 0.8)
                y = 8 + girth * (94 * (0.35 + 0.65 * widen)) * math.cos(turn)
                fall = drop * slope * (0.10 + 0.05 * rib / 9 + 0.9 * widen) * (turn / 2.45) ** 1.6
                line.append(torch.stack([side * x, y, head - fall + 6 * math.sin(turn * 1.3)], 1))
            b.add("ribs", tube(torch.stack(line, 1), 4.6), within="muscle", ct=950, organ="bone")
    lift = draws.normal(0, 4)
    for side in (-1, 1):
        line = torch.stack([at(side * 16, -78, 96), torch.stack([side * (zero + 60), zero - 74, 108 + lift], 1),
                            torch.stack([side * girth * 110, zero - 40, 112 + lift], 1),
                            torch.stack([side * girth * 148, zero - 8, 116 + lift], 1)], 1)
        b.add("clavicle", tube(line, 6.0), within="muscle", ct=520, organ="bone")
        turn = rotation(zero - side * 35, "z") @ rotation(zero + side * u(8, 16), "y")
        b.add("scapula", ellipsoid(torch.stack([side * girth * 122, 78 + zero, 62 + zero], 1), at(30, 3.5, 52), turn),
              within="muscle", ct=250, organ="bone")
    b.add("sternum", ellipsoid(at(0, -93, 30), at(17, 5, 75)), within="muscle", ct=180, organ="bone")
