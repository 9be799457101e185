"""The beating heart in short-axis cine MR: a left ventricle of incompressible muscle, driven by a volume curve.

Coordinates in mm in the frame of the heart: x to the image's right, y down, z from the apex to the base. Cavity and
outer surface of the left ventricle are half ellipsoids below the plane of the valves, which moves towards the fixed
apex as the heart contracts. Their volumes are closed forms, so that the wall thickens by exactly what keeps its volume.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import texture
from medtutor.phantom.texture import Draws, cloud, lay, noise

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
NORMAL, SPREAD, CHANGE = texture.table("heart").values()
GROUPS = tuple(CHANGE)
FOV, DEPTH, INNER = 160.0, 130.0, 0.92  # width and length of a volume in mm; length of the cavity over ventricle
OPTIONS = {"kind": ("slice", "volume"), "course": ("beat", "visits"), "spacing": ("regular", "irregular")}
UNITS = {"image": "MR signal, 0 to 1", "volume": "MR signal, 0 to 1", "heart_rate": "1/min", "trend": "1/year"}


def emptied(time: Tensor, rate: Tensor) -> Tensor:
    """The part of the stroke volume that has left the ventricle, in [0, 1], at `time` ms after the R wave, for heart
    rates (beats per minute) that broadcast with it.

    Isovolumic contraction, ejection (its duration after Weissler et al., Circulation 37 (1968)), isovolumic
    relaxation, rapid filling, diastasis and the kick of the atria, 110 ms before the next beat. Periodic.
    """
    beat, end = 6e4 / rate, 458 - 1.7 * rate
    steps = (45, end, 1.0), (end + 70, end + 220, -0.70), (end + 220, beat - 110, -0.06), (beat - 110, beat, -0.24)
    return sum(step * _ease((time % beat - start) / (stop - start)) for start, stop, step in steps)


def _ease(t: Tensor) -> Tensor:
    return t.clamp(0, 1) ** 2 * (3 - 2 * t.clamp(0, 1))


def _fall(place: Tensor) -> Tensor:
    """The profile of an ellipsoid along its axis, negative beyond its end."""
    return (1 - place * place).sign() * (1 - place * place).abs().sqrt()


def wall(g: dict[str, Tensor], angle: Tensor, empty: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Radius of the cavity and thickness of the wall at the base, at `angle` (0 on the free wall, pi on the septum),
    and for the whole ventricle mean outer radius and length, all in mm, where the part `empty` of the stroke volume is
    out. `g` holds the patients' parameters, (N, 1, 1, 1); all broadcast.

    Each sector of the wall keeps its volume, and a scar its thickness too, so that it bulges as the rest shortens.
    """
    def even(empty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        volume, length = 1e3 * g["edv"] * (1 - g["eject"] * empty), g["long"] * (1 - g["shorten"] * empty)
        return length, *((1.5 / math.pi * v / length).sqrt() for v in (volume / INNER, volume + 1e3 * g["muscle"]))

    (long, a0, b0), (length, a, b) = even(0 * empty), even(empty)
    scar = (g["infarction"] > 0) * _ease(((angle - g["scar_angle"]).cos() - g["scar_half"].cos()) / 0.6 + 0.5)
    septal = torch.exp(1.6 * ((angle - 2.75).cos() - 1)) * g["hypertrophic cardiomyopathy"]
    rest = (b0 - a0) * (1 + 0.9 * septal) * (1 - 0.35 * scar * g["infarction"])
    thick = rest * (1 + ((b - a) / (b0 - a0) - 1) * (1 - scar))
    # what the sector's volume leaves for the radius r: (1 - INNER) length r^2 + 2 thick length r
    left, slope = (a0 + rest) ** 2 * long - a0**2 * long * INNER - thick**2 * length, thick * length
    return left / (slope + (slope**2 + (1 - INNER) * length * left).sqrt()), thick, b, length


def cohort(n: int, size: int = 64, seed: int = 0, kind: str = "slice", frames: int = 8, course: str = "beat",
           spacing: str = "regular", missing: float = 0.0, prevalence: dict[str, float] | None = None,
           level: float | Tensor | None = None, start: float | None = 0.0, fov: float = FOV, depth: int | None = None,
           noisy: bool = True) -> Cohort:
    """n patients with `frames` images each, rows in the order of `patient`, then `visit` (the frame).

    kind "slice": `image` (n * frames, 1, size, size) in [0, 1] and `mask` of `CLASSES`, `fov` mm wide, the patient's
    right at the left, fixed in space at `level`, the fraction of the long axis below the valves at end-diastole (None:
    0.3 to 0.55). "volume": `volume` and `mask` (..., depth, size, size), 130 mm deep, `depth` (None: `size`) planes
    from the base to the apex, as in ACDC, hearts aligned within some mm.
    course "beat": one heart beat, from the phase `start` on (0: end-diastole, None: any). "visits": end-diastole at
    visits about 180 days apart; the cavity dilates or recovers, direction and speed differing between patients and not
    to be seen in the first image. spacing "irregular": uneven times. `missing`: probability that a frame is lost, never
    the first or the last: its image is zero and meta observed False; the truth stays.

    `label` (N, 4) with names `GROUPS`, at most one per patient, all zero is normal; `prevalence` replaces 0.2 each,
    groups not named are absent. Meta: time (ms; days), phase (fraction of the beat since end-diastole), observed,
    heart_rate (1/min), volume_ml and wall_mm (left ventricle: cavity, mean wall at the base) of this frame, muscle_ml,
    end_diastolic_ml and ejection_fraction of the patient, trend (log volume per year), severity_<group>,
    scar_angle (rad, from the image's right, clockwise about the cavity; NaN without a scar).
    Raises ValueError for options out of range.
    """
    odds = texture.chances(prevalence, dict.fromkeys(GROUPS, 0.2), exclusive=True, absent=True)
    for (name, legal), value in zip(OPTIONS.items(), (kind, course, spacing), strict=True):
        if value not in legal:
            raise ValueError(f"{name} must be one of {', '.join(legal)}, but got {value!r}")
    if not (1 <= frames <= 64 and 0 <= missing <= 1 and fov > 0):
        raise ValueError(f"use 1 to 64 frames, missing from 0 to 1 and fov above 0 mm, not {frames}, {missing}, {fov}")
    draws, own = Draws(n, seed, "heart", 160), Draws(n, seed, "heart frames", 128)
    which = (draws.uniform(0, 1, 1) >= torch.tensor([*odds.values()]).double().cumsum(0)).sum(1)
    grade = torch.nn.functional.one_hot(which, 5)[:, :4] * draws.uniform(0.35, 1, 1)
    table = (torch.tensor([*NORMAL.values()]) + grade @ torch.tensor([*CHANGE.values()]).double()) * (
        draws.normal(0, 1, 6) * torch.tensor(SPREAD)).exp()
    g = dict(zip((*NORMAL, *GROUPS), torch.cat([table, grade], 1).T.view(-1, n, 1, 1, 1), strict=True))
    g |= {k: draws.uniform(*ends, 1, 1, 1) for k, ends in (
        ("scar_angle", (-3.14, 3.14)), ("scar_half", (0.85, 1.2)), ("turn", (-0.35, 0.35)))}
    g |= {"long": draws.normal(88, 3.5, 1, 1, 1) * (g["edv"] / 138) ** 0.3, "eject": g["eject"].clamp(0.12, 0.72)}
    beat, first, trend = (draws.uniform(*ends, 1) for ends in ((650, 1150), (0, 1), (-0.5, 0.5)))
    trend = trend + 0.1 * trend.sign()
    # the frames: columns of their own, so that more of them change nothing else
    gap, observed = own.uniform(0.3, 1.7, 64)[:, :frames], ~own.chance(missing, 64)[:, :frames]
    gap = gap / gap.mean(1, keepdim=True) if spacing == "irregular" else torch.ones_like(gap)
    observed[:, 0] = observed[:, -1] = True
    time = (gap.cumsum(1) - gap) * (180 if course == "visits" else beat / frames)
    phase = torch.zeros_like(time) if course == "visits" else (time / beat + (first if start is None else start)) % 1
    empty = emptied(phase * beat, 6e4 / beat) if course == "beat" else (
        1 - (0.55 * torch.tanh(trend / 0.55 * time / 365)).exp()) / g["eject"].view(n, 1)
    ends = torch.cat([empty, torch.tensor([[0.0, 1.0]]).expand(n, 2)], 1)[..., None, None]
    inner, thick, _, length = wall(g, torch.arange(360).double() * math.pi / 180, ends)
    volume, whole = (((r * r).mean((2, 3)) * length[..., 0, 0] * 2 * math.pi / 3e3) for r in (inner, inner + thick))
    volume, planes = volume * INNER, 1 if kind == "slice" else depth or size
    value, mask = _drawn(g, draws, seed, empty, size, planes, fov, level)
    a, b = noise(n, seed, "heart scanner", (frames, 2, planes, size, size)).flatten(0, 1).mul(0.025 * noisy).unbind(1)
    value = ((value + a) ** 2 + b**2).sqrt().clamp(0, 1).float() * observed.view(-1, 1, 1, 1)
    field = {"image": value, "mask": mask[:, 0]} if kind == "slice" else {"volume": value[:, None], "mask": mask}
    meta = {"time": time, "phase": phase, "observed": observed, "volume_ml": volume[:, :-2], "heart_rate": 6e4 / beat,
            "wall_mm": thick.mean((2, 3))[:, :-2], "muscle_ml": (whole - volume)[:, -2:-1], "trend": trend,
            "end_diastolic_ml": volume[:, -2:-1], "ejection_fraction": 1 - volume[:, -1:] / volume[:, -2:-1],
            "scar_angle": torch.where(g["infarction"] > 0, g["scar_angle"] + g["turn"], math.nan).view(n, 1)}
    meta |= {f"severity_{k.replace(' ', '_')}": g[k].view(n, 1) for k in GROUPS}
    meta = {k: (v if k == "observed" else v.float()).expand(n, frames).flatten() for k, v in meta.items()}
    return Cohort(**field, **texture.frames(n, frames), meta=meta,
                  label=(grade > 0).float().repeat_interleave(frames, 0),
                  names={"mask": CLASSES, "label": GROUPS}, units=UNITS | {"time": ("ms", "days")[course == "visits"]})


def _drawn(g: dict, draws: Draws, seed: int, empty: Tensor, size: int, planes: int, fov: float,
           level: float | Tensor | None) -> tuple[Tensor, Tensor]:
    """Signal and mask (N * T, planes, size, size); a single plane lies at `level`."""
    n, pixel, sharp = draws.n, fov / size, 3 / max(fov / size, 1.5)

    def u(low: float, high: float) -> Tensor:
        return draws.uniform(low, high, 1, 1, 1)

    def waves(t: Tensor, low: int, high: int) -> Tensor:
        return sum(torch.cos(k * t + u(0, 6.3)) for k in range(low, high)) / math.sqrt((high - low) / 2)

    # the chest about the heart, at rest
    line, base, mid, z = torch.arange(max(size, planes)).double() + 0.5, 0.42 * g["long"], u(0.3, 0.55), u(-4, 4)
    x, y = line[:size] * pixel - fov / 2 - u(-5, 5), line[:size, None] * pixel - fov / 2 - u(-5, 5)
    mid = mid if level is None else torch.as_tensor(level).double().expand(n).view(n, 1, 1, 1)
    z = base - mid * g["long"] if planes == 1 else DEPTH * (0.5 - line[:planes, None, None] / planes) - z
    vessel, grain, soft, coil = (cloud(n, seed, f"heart {c}", size, c, 2, 1 + (c < 5))[:, None] for c in (9, 14, 4, 2))
    rib = ((x - u(18, 30)) ** 2 + (y - u(40, 52)) ** 2).sqrt() + 2 * soft - u(112, 122)
    aorta = u(10, 13) - ((x - u(40, 52)) ** 2 + (y - u(46, 56)) ** 2).sqrt()
    dome = y - u(34, 44) - 0.3 * z - 0.0035 * (x + 20) ** 2 - 2 * soft
    belly = 0.36 + 0.03 * grain + 0.14 * torch.exp(-((vessel / 0.16) ** 2))
    belly, value = lay(belly, u(0.2, 0.6), x - u(10, 30) - 4 * soft), 0.05 + 0.06 * (grain - 0.8).clamp(min=0) + 0 * z
    for signal, inside in ((belly, dome), (0.25, aorta + 2), (0.68, aorta), (0.66, rib), (0.24, rib - 2.5),
                           (0.66 + 0.03 * soft, rib - u(10, 16)), (0.02, rib - u(34, 50))):
        value = lay(value, signal, sharp * inside)
    gain, turn, k = torch.exp(0.12 * coil - 0.0018 * (x + y)), g["turn"], u(0.03, 0.05)
    # the frame of the heart; the shears keep volumes
    x, y = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    x = x + u(-2, 2) * torch.sin(k * y + u(0, 6.3))
    y = y + u(-2, 2) * torch.sin(k * x + u(0, 6.3))
    radius, angle, images, masks = (x * x + y * y).sqrt(), torch.atan2(y, x), [], []
    cushion = 1.5 + 2 * waves(angle, 1, 5) + 7 * torch.exp(3 * ((angle + 2.2).cos() - 1))
    cords, ridges = 1.6 * waves(angle, 4, 17), waves(0.1 * y, 2, 8) + waves(0.1 * x, 2, 8)
    papillary = [(u(low, low + 0.5), u(3.5, 5.5), u(1.1, 1.9)) for low in (-0.95, 1.3)]
    grey, blood, fatty = u(0.22, 0.28) + 0.015 * grain, u(0.66, 0.78) + 0.03 * soft, u(0.5, 0.75)
    for e in empty.T.view(-1, n, 1, 1, 1):
        inner, thick, outer, length = wall(g, angle, e)
        place = 1 - (z - base + g["long"]) / length  # 0 at the valves, 1 at the apex
        below = place >= 0
        place = torch.where(below, place, -place * length / 42)  # the atria lie above
        hole, outside, right = inner * _fall(place / INNER), outer * _fall(place).clamp(min=0.05), _fall(place / 0.86)
        endo, epi = hole - radius, torch.where(below, (inner + thick) * _fall(place), hole + 2.5) - radius
        half = (0.45 * outside + g["right"] * (1 - g["squeeze"] * e) * right).clamp(min=2)
        tall = outside * (0.78 + 0.2 * right.clamp(min=0))
        rv = ((x + 0.55 * outside) / half) ** 2 + (y / tall - 0.08) ** 2
        rv = torch.where(place < 0.86, (1 - rv.sqrt()) * (half * tall).sqrt(), -20.0)
        masks.append(torch.where(endo > 0, 3, torch.where(epi > 0, 2, (rv > 0).long())) * below)
        # the signal: fat, muscle with a dark seam, blood with trabeculae and papillary muscles
        body, rough = torch.maximum(epi, rv + 3), endo - (0.4 + place) * cords.clamp(min=0)
        for t, thin, stretch in papillary:
            along, aside = x * t.cos() + y * t.sin() - hole + 1.7 * thin, y * t.cos() - x * t.sin()
            there = thin * (4 * place * (1.05 - place)).clamp(min=0).sqrt()
            rough = torch.minimum(rough, ((along / stretch) ** 2 + aside**2).sqrt() - there)
        shown = lay(lay(value, fatty, sharp * (body + cushion)), grey, sharp * body)
        shown = shown * (1 - 0.4 * torch.exp(-((body / pixel / 0.7 - 0.3) ** 2)))
        shown = lay(shown, blood, sharp * torch.where(below, rough, endo))
        pool = torch.minimum(rv - ridges.clamp(min=0), -epi - 0.5)
        images.append(lay(shown, 0.96 * blood, sharp * pool) * gain)
    return torch.stack(images, 1).flatten(0, 1), torch.stack(masks, 1).flatten(0, 1)
