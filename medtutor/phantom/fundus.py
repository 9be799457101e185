"""Pictures of the retina: optic disc and cup, macula, a branching vascular tree, lesions. A colour photograph, scanning
laser picture or en-face map of the same eye.

Places are degrees of visual angle in the frame of a right eye: origin in the fovea, x towards the nose, y down. A left
eye is its mirror image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import texture
from medtutor.phantom.texture import Draws, blur, boxes, cloud, noise, px, strokes, unit_grid

PREVALENCE = {"glaucoma": 0.3, "haemorrhages": 0.35, "exudates": 0.3}
SPOTS, _TRUNKS, _EDGES, OPACITY, LOOK = texture.table("fundus").values()
TRUNKS, (SOFT, LEAST) = torch.tensor([*_TRUNKS.values()], dtype=torch.float64), zip(*_EDGES.values(), strict=True)
LAYERS = ("arteries", "veins", *SPOTS, "disc", "cup", "macula", "vessels", "lesions")
LARGE_CUP = 0.6  # vertical cup-to-disc ratio from which a disc counts as glaucomatous
STEPS = 17  # points of a vessel


def cohort(n: int, size: int = 64, seed: int = 0, modality: str = "colour", view: str = "macula", fov: float = 45.0,
           prevalence: dict | None = None, severity: dict | None = None, group: float | Tensor = 0.2,
           disadvantage: float | Tensor = 0.0, noisy: bool = True) -> Cohort:
    """n eyes, one picture each; patient i depends on `seed` and i only, and is the same eye in every `modality`.

    `image` in [0, 1]: (n, 3, size, size) RGB for "colour", (n, 1, size, size) for "slo" (scanning laser, near infrared)
    and "en-face" (a projection of OCT). `view` "macula" or "disc" is what the camera aims at, `fov` the field in
    degrees, 15 to 60. `mask` (n, 11, size, size) boolean layers `LAYERS`, `box` (n, 11, 4) around them; "vessels" is
    arteries and veins, "lesions" all spots but drusen; what is finer than a pixel is marked one pixel wide.
    `landmark` (n, 2, 2): the centres of disc and fovea in pixels, perhaps outside of a small field. `label` (n, 3), see
    names["label"]: glaucoma is a cup-to-disc ratio of `LARGE_CUP` or more, with a notch of the rim in some;
    haemorrhages and exudates (severe ones with cotton-wool spots) lie in clusters within the field, and drusen, which
    come with age, are no finding.
    `prevalence`: a finding's probability, or one for each group; `severity` overrides it, (n,) or one number in
    [0, 1], 0 where absent: findings it leaves out are absent. `group`: the probability of group 1, the minority, or
    (n,) groups; its eyes have more pigment. `disadvantage`, 0 to 1, one or (n,), makes lesions of group 1 fainter and
    moves their clusters away from the nose and down. `noisy=False` leaves out sensor noise.
    `meta`: severity_<finding> and severity_drusen; zone_<finding> of the cluster in the field, 0 upper, 1 middle, 2
    lower, -1 absent or not local; cup_to_disc (vertical, with the notch), notch, eye (0 right, 1 left), age, sex (0
    female, 1 male), group. Raises ValueError for values outside of these.
    """
    if modality not in LOOK or view not in ("macula", "disc") or not 15 <= fov <= 60:
        raise ValueError(f'modality must be {", ".join(LOOK)}, view "macula" or "disc", fov 15 to 60 degrees, but got '
                         f"{modality!r}, {view!r}, {fov}")
    odds = [torch.as_tensor(p).double() for p in texture.chances(prevalence, PREVALENCE).values()]
    if any(p.shape not in ((), (2,)) for p in odds) or {*(severity or ())} - {*PREVALENCE}:
        raise ValueError(f"use severities of {', '.join(PREVALENCE)} and prevalences that are one or one per group, but"
                         f" got {severity}, {prevalence}")
    group, worse = texture.each(n, "group", group, 0, 1), texture.each(n, "disadvantage", disadvantage, 0, 1)
    given = {name: texture.each(n, name, value, 0, 1).double() for name, value in (severity or {}).items()}
    draws, camera, look = Draws(n, seed, "fundus eye", 64), Draws(n, seed, f"fundus {modality}", 16), LOOK[modality]
    u, radius, (x, y) = draws.uniform, fov / 2, unit_grid(size)
    left, sex, age, minor = u() < 0.5, u() < 0.5, u(30, 88), (u() < group).long()
    drawn = u(0.15, 1, 3) * (u(0, 1, 3) < torch.stack([p.expand(2)[minor] for p in odds], 1))
    grade = {k: drawn[:, i] if severity is None else given.get(k, 0 * age) for i, k in enumerate(PREVALENCE)}
    grade["drusen"], worse = ((age - 55) / 33).clamp(0, 1) * u() * (u() < 0.6), minor * worse
    # ---- disc, cup, and where the camera looks
    disc = torch.stack([15.5 + draws.normal(0, 0.6), draws.normal(-1.6, 0.7)], 1)
    half, ill = torch.stack([u(2.7, 3.2), u(3.0, 3.5)], 1), grade["glaucoma"]
    ratio, notch = torch.where(ill > 0, LARGE_CUP + 0.3 * ill, u(0.18, 0.52)), (u() < 0.45) & (ill > 0)
    pole, bite = torch.where(u() < 0.7, -1.57, 1.57) + draws.normal(0, 0.15), notch * (0.95 - ratio)

    def cup(angle: Tensor) -> Tensor:
        return px(ratio) + px(bite) * torch.exp((torch.cos(angle - px(pole)) - 1) * 9)

    circle = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)[None, None]
    tall = (cup(circle) * circle.sin())[:, 0]
    aim = draws.normal(0, 0.8, 2) + (torch.tensor([4.5, -0.6]) if view == "macula" else disc)
    mirror = torch.stack([1 - 2 * left.double(), torch.ones(n)], 1)
    ex, ey = (g * px(mirror[:, k]) * radius + px(aim[:, k]) for k, g in enumerate((x, y)))
    da, db = ((g - px(disc[:, k])) / px(half[:, k]) for k, g in enumerate((ex, ey)))
    rho, away, brim = torch.hypot(da, db), torch.hypot(ex, ey), cup(torch.atan2(-db, da))
    lines = _tree(Draws(n, seed, "fundus vessels", 2800), disc + half * torch.stack([0.1 + 0.3 * ratio, 0 * ratio], 1))
    spots, zone = _spots(Draws(n, seed, "fundus lesions", 600), grade, worse, aim, disc, radius)
    place, width, kind = (torch.cat(pair, k) for pair, k in zip(zip(lines, spots, strict=True), (1, 1, 0), strict=True))
    place = torch.cat([place.flatten(1, 2), disc[:, None], 0 * disc[:, None]], 1)
    place.sub_(aim[:, None]).mul_(mirror[:, None] * (size / fov)).add_((size - 1) / 2)  # in pixels
    cover, found = strokes(place[:, :-2].view(n, -1, 2, 2), width * size / fov, size, kind, SOFT, LEAST)
    masks = torch.stack([*found[:, :6].unbind(1), rho < 1, rho < brim, away < 2.75, found[:, :2].any(1),
                         found[:, 2:5].any(1)], 1)
    # ---- light, in single precision
    x, y, rho, away, brim, draws.table, camera.table = (
        v.float() for v in (x, y, rho, away, brim, draws.table, camera.table))
    patch, mottle, silk, glow, deep = (cloud(n, seed, f"fundus {k}", size, *form) for k, form in enumerate(
        ((3, 2, 3), (6, 2, 4), (8, 2, 2), (3,), (24, 2, 2))))
    dark, bright, yellow = (px(v) for v in (u(0, 0.5) + 0.7 * minor, u(0.1, 0.8), u(0.5, 1.3)))
    bare = px(u() ** 2) * (1 - torch.exp(-(away / 7) ** 2))
    layer = dict(zip((*LAYERS[:6], "reflex"), cover.unbind(1), strict=True))
    layer |= {name: layer[name] * px(1 - 0.65 * worse.float()) for name in SPOTS} | {
        "choroid": torch.exp(-(deep / 0.25) ** 2) * bare,
        "pigment": dark * (1 + 0.15 * patch) + 0.12 * mottle + 0.5 * bare,
        "macula": torch.exp(-(away / 3.6) ** 2) * yellow + 0.5 * torch.exp(-(away / 1.2) ** 2),
        "sheen": torch.exp(-(rho / 2.6) ** 2) * bright * (1 + 0.2 * silk),
        "disc": torch.sigmoid((1 - rho) * 22), "cup": torch.sigmoid((brim - rho) * 16)}
    base, *tones = torch.tensor(look)[..., None, None].unbind(1)
    image = base * torch.exp(camera.normal(0, 0.1, len(look)))[..., None, None]
    for (name, opacity), tone in zip(OPACITY.items(), tones, strict=True):
        part = layer[name][:, None]
        image = torch.lerp(image, tone, (opacity * part).clamp(0, 1)) if opacity else image * torch.exp(-tone * part)
    edge, lean, ahead, hole = (px(camera.uniform(*ends)) for ends in ((0.1, 0.4), (0, 0.2), (0, 6.3), (0.96, 1.04)))
    r, tilt = torch.hypot(x, y), lean * (ahead.cos() * x + ahead.sin() * y) + 0.04 * glow
    gap = torch.maximum(hole - r, 0.045 - torch.hypot(x - 0.71, y + 0.71)) if modality == "colour" else hole + 0 * x
    image = blur(image * (1.06 + tilt - edge * r**2)[:, None], 0.16 * size / 64)
    image = image * (gap * size / 2 + 0.5).clamp(0, 1)[:, None]
    if noisy:
        white = noise(n, seed, f"fundus {modality} sensor", (len(look), size, size))
        image = image + white * (0.012 if modality == "colour" else 0.08 * image)
    masks = masks & (gap > 0)[:, None]
    meta = {f"severity_{name}": s.float() for name, s in grade.items()} | zone | {
        "cup_to_disc": ((tall.amax(1) - tall.amin(1)) / 2).float(), "notch": notch, "eye": left.long(),
        "age": age.float(), "sex": sex.long(), "group": minor}
    return Cohort(image=image.clamp(0, 1), mask=masks, box=boxes(masks), landmark=place[:, -2:].float(), meta=meta,
                  label=torch.stack([grade[name] > 0 for name in PREVALENCE], 1).float(),
                  names={"image": ("red", "green", "blue") if len(look) > 1 else (modality,), "mask": LAYERS,
                         "box": LAYERS, "label": tuple(PREVALENCE), "landmark": ("disc", "fovea")},
                  units={"image": "0 to 1", "box": "pixels", "landmark": "pixels", "age": "years"})


def _tree(draws: Draws, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Segments (n, S, 2 ends, 2), widths (n, S, 2), in degrees, layers (S,): 0 artery, 1 vein, 6 an artery's reflex."""
    m, u, normal, parts = 2 * TRUNKS.shape[1], draws.uniform, draws.normal, []
    t, trunk = torch.linspace(0, 1, STEPS, dtype=torch.float64), TRUNKS.repeat(1, 2)
    waves = torch.sin(torch.tensor([[1.0], [2], [4]]) * (2 * math.pi * t + 1)) * torch.tensor([[1], [0.77], [0.55]])
    start, turn = root[:, None] + normal(0, 0.25, m, 2), torch.deg2rad(trunk[:2] + normal(0, 9, 2, m))
    (heading, bend), (length, width) = turn.unbind(1), (trunk[2:] * u(0.8, 1.2, 2, m)).unbind(1)
    width = width * torch.tensor([0.74, 1]).repeat_interleave(m // 2)
    for count, sway, *far in ((5, 0.14, 0.5, 1.4), (3, 0.22, 0.3, 1.1), (0, 0.3)):
        turn = heading[..., None] + bend[..., None] * t**0.6 + normal(0, sway, start.shape[1], 3) @ waves
        step = (length / (STEPS - 1))[..., None, None] * torch.stack([turn.cos(), -turn.sin()], -1)
        points, width = start[..., None, :] + step.cumsum(-2) - step, width[..., None] * (1 - 0.55 * t)
        parts.append((points, width, torch.arange(m) // (m // 2)))
        if count:  # the next generation
            many = m, count
            place = ((torch.arange(count) + u(0, 1, *many)) / count * (STEPS - 6) + 4).long()
            side = (torch.arange(count) % 2 * 2 - 1) * torch.where(u(0, 1, m, 1) < 0.5, 1, -1)
            start = points.gather(2, place[..., None].expand(*place.shape, 2)).flatten(1, 2)
            heading, bend, length, width = (v.flatten(1) for v in (
                turn.gather(2, place) + side * u(0.4, 0.95, *many), -side * u(-0.1, 0.8, *many),
                length[..., None] * (1 - place / STEPS) * u(*far, *many),
                width.gather(2, place) * u(0.45, 0.75, *many) * (u(0, 1, *many) < 0.75)))
            m *= count
    points, width, kind = parts[0]
    parts.append((points[:, kind == 0], 0.3 * width[:, kind == 0], kind[kind == 0] + 6))
    points, width, kind = (torch.cat(v, k) for v, k in zip(zip(*parts, strict=True), (1, 1, 0), strict=True))
    width = width * torch.sigmoid((points.norm(dim=-1) - 2) * 3)  # none in the fovea
    ends, width = (torch.stack([v[:, :, :-1], v[:, :, 1:]], 3).flatten(1, 2) for v in (points, width))
    return ends, torch.where(width < 0.07, 0, width), kind.repeat_interleave(STEPS - 1)


def _spots(draws: Draws, grade: dict[str, Tensor], worse: Tensor, aim: Tensor, disc: Tensor, radius: float) -> tuple:
    """Segments as those of `_tree`, layers 2 to 5 for SPOTS, in the field of `radius` about `aim` and beside the disc;
    and the zones."""
    u, (_, red, bright, pale) = draws.uniform, grade.values()
    grown, table = torch.stack([red, bright, (2 * bright - 1).clamp(min=0), pale], 1), torch.tensor([*SPOTS.values()])
    kind = torch.arange(4).repeat_interleave(table[:, 0].long())
    (most, low, high, long, spread), m = table[kind].double().T, len(kind)
    out, turn = 0.58 * u(0, 1, 4).sqrt(), u(0, 2 * math.pi, 4)
    focus = torch.stack([out * turn.cos(), out * turn.sin()], -1) + worse[:, None, None] * torch.tensor([-0.3, 0.25])
    focus[:, 3] = -aim / radius  # drusen around the fovea
    gap = radius * (focus[:, kind] + draws.normal(0, 1, m, 2) * spread[:, None]) + (aim - disc)[:, None]
    gap = gap * (1 + (4.4 / gap.norm(dim=-1, keepdim=True)) ** 2).sqrt() + (disc - aim)[:, None]
    at = aim[:, None] + gap * (0.86 * radius / gap.norm(dim=-1, keepdim=True)).clamp(max=1)
    wide, way = low + (high - low) * u(0, 1, m) ** 2, u(0, math.pi, m)
    arm = torch.stack([way.cos(), way.sin()], -1) * (wide * u(0, 1, m) * (long - 1) / 2)[..., None]
    rank = torch.arange(m) - (kind[:, None] > kind).sum(1)
    wide = wide * (rank < (3 * (grown[:, kind] > 0) + grown[:, kind] * (most - 3)).round())
    zone = torch.where(grown > 0, (focus[..., 1] > -0.25).long() + (focus[..., 1] > 0.25), -1)
    zone = {f"zone_{name}": z for name, z in zip(PREVALENCE, (0 * zone[:, 0] - 1, *zone[:, :2].unbind(1)), strict=True)}
    return (torch.stack([at - arm, at + arm], 2), wide[..., None].expand(-1, -1, 2), kind + 2), zone
