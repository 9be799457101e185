"""Pictures of the retina: optic disc and cup, macula, a branching vascular tree, lesions; as colour photograph, scanning
laser picture or en-face map of the same eye.

Places are degrees of visual angle in the frame of a right eye: origin in the fovea, x towards the nose, y down. A left
eye is its mirror image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import kernels
from medtutor.phantom.texture import Draws, blend, blur, boxes, cloud, noise, px, turned, unit_grid

FINDINGS = ("glaucoma", "haemorrhages", "exudates")
PREVALENCE = dict(zip(FINDINGS, (0.3, 0.35, 0.3), strict=True))
LAYERS = ("disc", "cup", "macula", "vessels", "lesions", "arteries", "veins", "haemorrhages", "exudates",
          "cotton-wool spots", "drusen")
LARGE_CUP = 0.6  # vertical cup-to-disc ratio from which a disc counts as glaucomatous
STEPS, CHOROID = 17, 160  # points of a vessel, vessels of the choroid
# Heading and bend (degrees, anticlockwise from the nose), length and calibre (degrees) of what leaves the disc.
TRUNKS = ((98, 92, 40, 1.0), (-98, -92, 40, 1.0), (64, -30, 26, 0.75), (-64, 30, 26, 0.75), (150, 34, 10, 0.26),
          (-150, -34, 10, 0.26), (12, -12, 16, 0.3))
CALIBRE = (0.50, 0.68)  # of an artery and a vein, degrees
# Most of a kind, least and largest width (degrees), length over width at most, spread about their focus (radii).
SPOTS = {"haemorrhages": (32, 0.25, 1.3, 2.2, 0.16), "exudates": (40, 0.25, 0.8, 1.8, 0.1),
         "cotton-wool spots": (4, 1.1, 2.2, 1.6, 0.2), "drusen": (40, 0.3, 0.9, 1.0, 0.12)}
# Per modality the retina's colour, optical densities of what absorbs, colour and opacity of what lies on it.
ABSORBS = ("pigment", "macula", "choroid", "haemorrhages", "veins", "arteries", "reflex")
LAID = ("sheen", "drusen", "disc", "cup", "exudates", "cotton-wool spots")
LOOK = {
    "colour": ((0.86, 0.32, 0.13), ((0.30, 0.75, 0.65), (0.24, 0.42, 0.25), (-0.08, -0.45, -0.30), (0.50, 1.0, 0.55),
                                    (0.30, 0.85, 0.45), (0.10, 0.62, 0.40), (-0.12, -0.42, -0.30)),
               ((0.92, 0.60, 0.45, 0.3), (0.96, 0.68, 0.30, 0.45), (0.95, 0.56, 0.27, 0.9), (1.0, 0.88, 0.62, 0.95),
                (0.98, 0.86, 0.42, 0.9), (0.96, 0.82, 0.66, 0.75))),
    "slo": ((0.52,), ((0.10,), (0.22,), (-0.16,), (0.55,), (0.75,), (0.50,), (-0.6,)),
            ((0.72, 0.25), (0.62, 0.35), (0.46, 0.7), (0.88, 0.9), (0.85, 0.8), (0.74, 0.6))),
    "en-face": ((0.50,), ((-0.05,), (0.35,), (-0.05,), (0.6,), (1.0,), (0.9,), (0.0,)),
                ((0.85, 0.5), (0.62, 0.3), (0.34, 0.8), (0.12, 0.85), (0.88, 0.8), (0.80, 0.6)))}


def cohort(n: int, size: int = 64, seed: int = 0, modality: str = "colour", view: str = "macula", fov: float = 45.0,
           prevalence: dict[str, float | tuple[float, float]] | None = None,
           severity: dict[str, float | Tensor] | None = None, group: float | Tensor = 0.2, disadvantage: float = 0.0,
           noisy: bool = True) -> Cohort:
    """DOC"""
    if modality not in LOOK or view not in ("macula", "disc"):
        raise ValueError(f'modality must be one of {", ".join(LOOK)}, view "macula" or "disc", but got {modality!r}, '
                         f"{view!r}")
    if not 15 <= fov <= 60 or not 0 <= disadvantage <= 1:
        raise ValueError(f"fov must be 15 to 60 degrees and disadvantage 0 to 1, but got {fov} and {disadvantage}")
    draws, camera = Draws(n, seed, "fundus eye", 64), Draws(n, seed, f"fundus {modality}", 16)
    u, radius, (x, y) = draws.uniform, fov / 2, unit_grid(size)
    left, sex, age, minor = u() < 0.5, u() < 0.5, u(30, 88), (u() < torch.as_tensor(group)).long()
    grade, worse = _grades(n, draws, minor, prevalence, severity), minor * disadvantage
    grade["drusen"] = ((age - 55) / 33).clamp(0, 1) * u() * (u() < 0.6)
    # ---- disc, cup, and where the camera looks
    disc = torch.stack([15.5 + draws.normal(0, 0.6), draws.normal(-1.6, 0.7)], 1)
    half, ill = torch.stack([u(2.7, 3.2), u(3.0, 3.5)], 1), grade["glaucoma"]
    ratio, notch = torch.where(ill > 0, LARGE_CUP + 0.3 * ill, u(0.18, 0.52)), (u() < 0.45) & (ill > 0)
    pole = torch.where(u() < 0.7, -1, 1) * (math.pi / 2) + draws.normal(0, 0.15)
    circle = torch.arange(720, dtype=torch.float64).expand(n, -1) * (math.pi / 360)
    tall = _cup(circle, ratio, notch, pole) * circle.sin()
    aim = draws.normal(0, 0.8, 2) + (torch.tensor([4.5, -0.6]) if view == "macula" else disc)
    flip, roll = 1 - 2 * left.double(), draws.normal(0, 0.06)
    a, b = turned(x * radius, y * radius, torch.zeros(n, 2), roll)
    ex, ey = a * px(flip) + px(aim[:, 0]), b + px(aim[:, 1])
    da, db = ((g - px(disc[:, k])) / px(half[:, k]) for k, g in enumerate((ex, ey)))
    rho, away, brim = torch.hypot(da, db), torch.hypot(ex, ey), _cup(torch.atan2(-db, da), ratio, notch, pole)

    def seen(place: Tensor) -> Tensor:
        """Places (n, ..., 2) in degrees as pixels."""
        p, q = ((place - aim.view(n, *[1] * (place.ndim - 2), 2)) / radius).unbind(-1)
        c, s, sign = (v.view(n, *[1] * (p.ndim - 1)) for v in (roll.cos(), roll.sin(), flip))
        return (torch.stack([p * sign * c - q * s, p * sign * s + q * c], -1) + 1) * size / 2 - 0.5

    def drawn(lines: tuple, soft: tuple, least: float) -> tuple[Tensor, Tensor]:
        cover, mask = (np.zeros((n, len(soft), size, size), kind) for kind in (np.float32, bool))
        kernels.spread(kernels.strokes, n, seen(lines[0]).numpy(), (lines[1] * size / fov).numpy(), lines[2].numpy(),
                       np.array(soft), np.full(len(soft), least), cover, mask)
        return torch.from_numpy(cover), torch.from_numpy(mask)

    tree, vessel = drawn(_tree(Draws(n, seed, "fundus vessels", 6000), disc + half * (0.1 + 0.3 * ratio)[:, None]
                               * torch.tensor([1.0, 0.0])), (0.0, 0.0, 0.0, 0.8), 1.0)
    spots, zone = _spots(Draws(n, seed, "fundus lesions", 1000), grade, worse, aim, disc, radius)
    dots, lesion = drawn(spots, (0.1, 0.1, 0.8, 0.6), 1.5)

    # ---- light
    def field(name: str, cells: int, octaves: int = 1) -> Tensor:
        return cloud(n, seed, f"fundus {name}", size, cells, 2, octaves)

    def through(image: Tensor, part: slice) -> Tensor:
        density = torch.stack([layer[name] for name in ABSORBS[part]], 1)
        return image * torch.exp(-torch.einsum("nkij,kc->ncij", density, torch.tensor(absorb[part])))

    base, absorb, laid = LOOK[modality]
    layer = dict(zip(("arteries", "veins", "reflex", "choroid"), tree.unbind(1), strict=True))
    layer |= dict(zip(SPOTS, (dots * (1 - 0.65 * worse.float()).view(-1, 1, 1, 1)).unbind(1), strict=True))
    thin, dark, sheen, yellow = (px(v) for v in (u() ** 2, u(0, 0.5) + 0.7 * minor, u(0.1, 0.8), u(0.5, 1.3)))
    bare = thin * (1 - torch.exp(-(away / 7) ** 2))
    layer["choroid"] = layer["choroid"] * bare
    layer["pigment"] = dark * (1 + 0.15 * field("patch", 3, 3)) + 0.12 * field("mottle", 6, 4) + 0.6 * bare
    layer["macula"] = torch.exp(-(away / 3.6) ** 2) * yellow + 0.5 * torch.exp(-(away / 1.2) ** 2)
    layer["sheen"] = torch.exp(-(rho / 2.6) ** 2) * sheen * (1 + 0.2 * field("sheen", 8, 2))
    layer["disc"], layer["cup"] = (torch.sigmoid((end - rho) * px(half[:, 1]) / soft) for end, soft in ((1, 0.14), (brim, 0.2)))
    layer = {name: v.float() for name, v in layer.items()}
    tint = (torch.tensor(base) * torch.exp(camera.normal(0, 0.08, len(base)))).float()
    image = through(tint[:, :, None, None].expand(n, -1, size, size), slice(3))
    for name, (*colour, most) in zip(LAID, laid, strict=True):
        image = blend(image, torch.tensor(colour)[:, None, None], (most * layer[name]).clamp(0, 1))
    image = through(image, slice(3, 7))
    # ---- camera
    edge, lean, ahead, hole = (px(camera.uniform(*ends)) for ends in ((0.1, 0.4), (0, 0.2), (0, 6.3), (0.96, 1.04)))
    r, light = torch.hypot(x, y), 1.06 + lean * (ahead.cos() * x + ahead.sin() * y) + 0.04 * field("light", 3)
    gap = torch.maximum(hole - r, 0.045 - torch.hypot(x - 0.71, y + 0.71)) if modality == "colour" else hole + 0 * x
    image = blur(image * (light - edge * r**2).float()[:, None], 0.16 * size / 64)
    image = image * (gap * size / 2 + 0.5).clamp(0, 1).float()[:, None]
    if noisy:
        white = noise(n, seed, f"fundus {modality} sensor", (len(base), size, size))
        image = image + white * (0.012 if modality == "colour" else 0.08 * image)
    # ---- truth
    masks = torch.stack([rho < 1, rho < brim, away < 2.75, vessel[:, :2].any(1), lesion.any(1), *vessel[:, :2].unbind(1),
                         *lesion.unbind(1)], 1) & (gap > 0)[:, None]
    meta = {f"severity_{name}": s.float() for name, s in grade.items()} | zone | {
        "cup_to_disc": ((tall.amax(1) - tall.amin(1)) / 2).float(), "notch": notch, "eye": left.long(),
        "age": age.float(), "sex": sex.long(), "group": minor}
    return Cohort(image=image.clamp(0, 1), mask=masks, box=boxes(masks), meta=meta,
                  label=torch.stack([grade[name] > 0 for name in FINDINGS], 1).float(),
                  landmark=seen(torch.stack([disc, 0 * disc], 1)).float(),
                  names={"image": ("red", "green", "blue")[:len(base)] if len(base) > 1 else (modality,), "mask": LAYERS,
                         "box": LAYERS, "label": FINDINGS, "landmark": ("disc", "fovea"), "eye": ("right", "left")},
                  units={"image": "0 to 1", "box": "pixels", "landmark": "pixels", "age": "years"})


def _grades(n: int, draws: Draws, group: Tensor, prevalence: dict | None, severity: dict | None) -> dict[str, Tensor]:
    """Severities (n,) of the findings, 0 where absent."""
    if unknown := (set(prevalence or ()) | set(severity or ())) - set(FINDINGS):
        raise ValueError(f"unknown finding {', '.join(sorted(unknown))}; choose from {', '.join(FINDINGS)}")
    u, level, out = draws.uniform(0, 1, 3), draws.uniform(0.15, 1, 3), {}
    for k, name in enumerate(FINDINGS):
        chance = torch.as_tensor((PREVALENCE | (prevalence or {}))[name]).double().expand(2)[group]
        given = torch.as_tensor((severity or {}).get(name, 0.0)).double().expand(n)
        out[name] = level[:, k] * (u[:, k] < chance) if severity is None else given
        if not ((out[name] >= 0) & (out[name] <= 1)).all():
            raise ValueError(f"severity of {name} must be 0 to 1, but got {given}")
    return out


def _cup(angle: Tensor, ratio: Tensor, notch: Tensor, pole: Tensor) -> Tensor:
    """Where the cup ends at `angle` (n, ...) anticlockwise from the nose, as a share of the disc; a notch bites into
    the rim at `pole`."""
    ratio, bite, pole = (v.view(-1, *[1] * (angle.ndim - 1)) for v in (ratio, (0.95 - ratio) * notch, pole))
    return ratio + bite * torch.exp((torch.cos(angle - pole) - 1) * 9)


def _grow(draws: Draws, start: Tensor, heading: Tensor, bend: Tensor, length: Tensor, width: Tensor, sway: float) -> tuple[Tensor, Tensor, Tensor]:
    """Vessels (n, B): points (n, B, STEPS, 2), headings and widths (n, B, STEPS)."""
    t = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    wave = draws.normal(0, sway, start.shape[1], 3) * torch.tensor([1, 0.77, 0.55])
    turn = heading[..., None] + bend[..., None] * t**0.6 + wave @ torch.stack([torch.sin(2 * math.pi * k * t + k) for k in (1, 2, 4)])
    step = (length / (STEPS - 1))[..., None, None] * torch.stack([turn.cos(), -turn.sin()], -1)
    return start[..., None, :] + step.cumsum(-2) - step, turn, width[..., None] * (1 - 0.45 * t)


def _tree(draws: Draws, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lines (n, L, STEPS, 2) and widths (n, L, STEPS) in degrees, and layers (L,): artery, vein, reflex, choroid."""
    m, u = len(TRUNKS), draws.uniform
    trunk = torch.tensor(TRUNKS, dtype=torch.float64).T.repeat(1, 2)
    heading, bend = torch.deg2rad(trunk[:2] + draws.normal(0, 9, 2, 2 * m)).unbind(1)
    length, width = (trunk[2:] * u(0.85, 1.15, 2, 2 * m)).unbind(1)
    parts = [_grow(draws, root[:, None] + draws.normal(0, 0.25, 2 * m, 2), heading, bend, length,
                   width * torch.tensor(CALIBRE).repeat_interleave(m), 0.13)]
    for count, sway, share, thin in ((5, 0.2, (0.55, 1.1), (0.5, 0.8)), (3, 0.3, (0.4, 0.9), (0.4, 0.7))):
        points, turn, width = parts[-1]
        many = (width.shape[1], count)
        place = ((torch.arange(count) + u(0, 1, *many)) / count * (STEPS - 6) + 4).long()
        side = (torch.arange(count) % 2 * 2 - 1) * torch.where(u(0, 1, many[0], 1) < 0.5, 1, -1)
        left = (points[:, :, 1] - points[:, :, 0]).norm(dim=-1)[..., None] * (STEPS - place)
        children = (turn.gather(2, place) + side * u(0.4, 0.95, *many), -side * u(-0.1, 0.8, *many),
                    left * u(*share, *many), width.gather(2, place) * u(*thin, *many) * (u(0, 1, *many) < 0.75))
        start = points.gather(2, place[..., None].expand(*place.shape, 2)).flatten(1, 2)
        parts.append(_grow(draws, start, *(v.flatten(1) for v in children), sway))
    owner = torch.cat([torch.arange(w.shape[1]) // (w.shape[1] // 2) for _, _, w in parts])
    points, width = torch.cat([p for p, _, _ in parts], 1), torch.cat([w for _, _, w in parts], 1)
    width = width * torch.sigmoid((points.norm(dim=-1) - 2) * 3)  # none in the fovea
    width = torch.where(width < 0.07, 0, width)
    start = u(-32, 36, CHOROID, 2)
    heading = torch.atan2(-start[..., 1], start[..., 0] - 8) + draws.normal(0, 0.4, CHOROID)
    deep = _grow(draws, start, heading, draws.normal(0, 0.8, CHOROID), u(5, 12, CHOROID), u(0.4, 1.0, CHOROID), 0.35)
    return (torch.cat([points, points[:, :m], deep[0]], 1), torch.cat([width, 0.3 * width[:, :m], deep[2]], 1),
            torch.cat([owner, torch.full((m,), 2), torch.full((CHOROID,), 3)]))


def _spots(draws: Draws, grade: dict[str, Tensor], worse: Tensor, aim: Tensor, disc: Tensor, radius: float) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
    """Lines like those of `_tree`, one layer a kind of SPOTS, inside the field of `radius` about `aim`, beside the
    disc; and zones by the place of the focus in the field."""
    parts, zone, u = [], {"zone_glaucoma": torch.full(worse.shape, -1)}, draws.uniform
    for k, (name, (most, low, high, long, spread)) in enumerate(SPOTS.items()):
        grown = grade["exudates"] if k == 2 else grade[name]
        out, turn = 0.58 * u(0, 1, 1).sqrt(), u(0, 2 * math.pi, 1)
        focus = torch.cat([out * turn.cos(), out * turn.sin()], 1) + worse[:, None] * torch.tensor([-0.3, 0.25])
        if k < 2:
            zone[f"zone_{name}"] = torch.where(grown > 0, (focus[:, 1] > -0.25).long() + (focus[:, 1] > 0.25), -1)
        at = aim[:, None] / radius * (k < 3) + focus[:, None] * (k < 3) + draws.normal(0, spread, most, 2)
        gap = radius * at - disc[:, None]
        gap = gap * (1 + (4.4 / gap.norm(dim=-1, keepdim=True)) ** 2).sqrt() + (disc - aim)[:, None]
        at = aim[:, None] + gap * (0.86 * radius / gap.norm(dim=-1, keepdim=True)).clamp(max=1)
        wide, way = low + (high - low) * u(0, 1, most) ** 2, u(0, math.pi, most)
        arm = torch.stack([way.cos(), way.sin()], -1) * (wide * u(0, 1, most) * (long - 1) / 2)[..., None]
        count = (4 * (2 * grown - 1)).ceil() if k == 2 else (3 * (grown > 0) + grown * (most - 3)).round()
        wide = wide * (torch.arange(most) < count[:, None])
        parts.append((torch.stack([at - arm, at + arm], 2), wide[..., None].expand(-1, -1, 2)))
    layers = torch.arange(len(SPOTS)).repeat_interleave(torch.tensor([spot[0] for spot in SPOTS.values()]))
    return (torch.cat([p for p, _ in parts], 1), torch.cat([w for _, w in parts], 1), layers), zone
