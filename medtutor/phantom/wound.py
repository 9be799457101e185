"""Wound photographs: skin, a wound with its tissues, a reference marker of known size, bandages, and the exact outline.

The picture plane is [-1, 1] x [-1, 1], columns to the right and rows down; lengths in cm follow from `cm_per_pixel`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom.texture import Draws, blend, blur, cloud, noise, outline, px, turned, unit_grid

MARKER_CM = 1.0  # side of the square sticker beside the wound
SKIN = ((0.94, 0.78, 0.68), (0.80, 0.60, 0.47), (0.56, 0.38, 0.27), (0.34, 0.22, 0.16))
GRANULATION, SLOUGH, NECROSIS = (0.60, 0.11, 0.10), (0.82, 0.70, 0.40), (0.14, 0.09, 0.08)
ERYTHEMA = (0.74, 0.26, 0.22)
DOMAINS = ("fresh", "ulcer")


def cohort(n: int, size: int = 64, seed: int = 0, domain: str = "fresh", noisy: bool = True) -> Cohort:
    """n photographs: `image` (n, 3, size, size) RGB in [0, 1], `mask` (n, size, size) 1 in the wound.

    domain "fresh": round, mostly red wounds on calm skin. domain "ulcer": ragged outlines, a necrotic border, slough,
    and inflamed skin as red as the wound bed, so that no threshold on colour finds the outline. Both have shading,
    specular spots, and often a bandage. A square sticker of 1 cm, blue with a white rim, gives the scale: its corners
    are `landmark` (n, 4, 2) as x, y in pixels, clockwise. `meta`: cm_per_pixel, area_cm2 (exact area of the wound),
    skin_tone (0 light to 1 dark), bandage. `noisy=False` leaves out sensor noise. Patient i depends on `seed`,
    `domain` and i only.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, but got {domain!r}")
    draws = Draws(n, seed, f"wound {domain}", 160)
    u, ulcer = draws.uniform, domain == "ulcer"
    x, y = (g.expand(n, size, size) for g in unit_grid(size))

    def field(name: str, cells: int, octaves: int = 1) -> Tensor:
        return cloud(n, seed, f"{domain} {name}", size, cells, 2, octaves)

    # ---- geometry: r is 1 on the outline
    corner = torch.stack([draws.chance(0.5), draws.chance(0.5)], 1).double() * 2 - 1
    centre = -corner * u(0.0, 0.14, 2)
    turn, narrow = u(0, math.pi), u(0.62, 0.95) if ulcer else u(0.82, 1.0)
    radius = u(0.30, 0.52)
    bumps = 9 if ulcer else 4
    fall = torch.arange(1, bumps + 1).double() ** (-0.6 if ulcer else -1.0)
    waves, phase = draws.normal(0, 0.085 if ulcer else 0.045, bumps) * fall, u(0, 2 * math.pi, bumps)
    a, b = turned(x, y, centre, turn)
    a, b = a / px(radius), b / px(radius * narrow)
    r = (a * a + b * b).sqrt() / outline(torch.atan2(b, a), waves, phase)
    mask = (r < 1).long()
    # ---- skin with shading and inflammation
    tone = u(0, 1) ** 1.3
    skin = _ramp(tone)[:, :, None, None] * (1 + 0.05 * field("pores", 24) + 0.04 * field("skin", 5, 2))[:, None]
    inflamed = px(u(0.55, 0.95) if ulcer else u(0.0, 0.3)) * torch.sigmoid(
        (1 + px(u(0.25, 0.7)) + 0.22 * field("flare", 4) - r) * 6)
    rash = px(u(0.2, 0.8) if ulcer else u(0, 0.2)) * torch.sigmoid((field("rash", 4, 2) - 1.1) * 6)
    image = blend(skin, _of(ERYTHEMA)[None, :, None, None] * (0.55 + 0.45 * skin), (inflamed + rash).clamp(0, 0.95))
    # ---- the wound bed
    bed = _of(GRANULATION)[None, :, None, None] * (1 + 0.22 * field("grain", 16, 2)[:, None])
    if ulcer:
        bed = blend(bed, _of(ERYTHEMA)[None, :, None, None] * (0.55 + 0.45 * skin), px(u(0.0, 0.7)))
    bed = blend(bed, _of(SLOUGH)[None, :, None, None] * (1 + 0.1 * field("fibrin", 12)[:, None]),
               torch.sigmoid((field("slough", 5, 2) - px(u(0.1, 1.1) if ulcer else u(0.9, 1.8))) * 5))
    if ulcer:
        border = torch.sigmoid((r - px(u(0.70, 0.95)) + 0.16 * field("crust", 6, 2)) * 12)
        patchy = torch.sigmoid((field("gap", 3) + px(u(-0.6, 0.9))) * 5)
        bed = blend(bed, _of(NECROSIS)[None, :, None, None] + 0.05 * field("eschar", 18)[:, None], border * patchy)
    edge = torch.sigmoid((1 - r) * px(radius) * size / 2 / (0.9 if ulcer else 0.6))
    image = blend(image, bed * (1 - 0.25 * torch.exp(-((r - 0.97) * 9) ** 2))[:, None], edge)
    image = _gloss(image, draws, centre, radius * narrow, x, y)
    # ---- light, then what lies on the skin: bandage and sticker
    tilt, ahead = u(0.0, 0.28), u(0, 2 * math.pi)
    light = (1 - px(u(0.05, 0.3)) * (x * x + y * y) / 2 + px(tilt) * (px(ahead.cos()) * x + px(ahead.sin()) * y)
             + 0.05 * field("light", 3))
    image, bandaged = _bandage(image, draws, corner, field("weave", 32), x, y)
    cm_per_unit = u(3.0, 6.0)
    image, corners = _sticker(image, draws, corner, cm_per_unit, x, y, size)
    image = image * (light * px(u(0.85, 1.1)))[:, None] * (1 + draws.normal(0, 0.03, 3))[:, :, None, None]
    image = blur(image.float(), 0.4 * size / 64)
    if noisy:
        image = image + 0.018 * noise(n, seed, f"{domain} sensor", (3, size, size))
    angle = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)[:-1].expand(n, -1)
    area = math.pi * radius**2 * narrow * (outline(angle, waves, phase) ** 2).mean(1)
    meta = {"cm_per_pixel": (2 * cm_per_unit / size).float(), "area_cm2": (area * cm_per_unit**2).float(),
            "skin_tone": tone.float(), "bandage": bandaged}
    return Cohort(image=image.clamp(0, 1), mask=mask, landmark=corners.float(), meta=meta,
                  names={"mask": ("background", "wound"), "image": ("red", "green", "blue"),
                         "landmark": tuple(f"sticker corner {k}" for k in range(1, 5))},
                  units={"image": "RGB, 0 to 1", "landmark": "pixels", "cm_per_pixel": "cm", "area_cm2": "cm^2"})


def _of(colour: tuple) -> Tensor:
    return torch.tensor(colour, dtype=torch.float64)


def _ramp(tone: Tensor) -> Tensor:
    """Skin colours (N, 3) along `SKIN` for tones (N,) in [0, 1]."""
    stops = _of(SKIN)
    place = tone * (len(SKIN) - 1)
    low = place.long().clamp(max=len(SKIN) - 2)
    return torch.lerp(stops[low], stops[low + 1], (place - low)[:, None])


def _gloss(image: Tensor, draws: Draws, centre: Tensor, radius: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A few specular spots on the wet bed."""
    for _ in range(4):
        spot = centre + radius[:, None] * draws.uniform(-0.6, 0.6, 2)
        along, across = turned(x, y, spot, draws.uniform(0, math.pi))
        width = px(draws.uniform(0.02, 0.05))
        shine = torch.exp(-((along / width / 1.8) ** 2 + (across / width) ** 2)) * px(draws.uniform(0, 0.9))
        image = blend(image, torch.ones_like(image), shine)
    return image


def _bandage(image: Tensor, draws: Draws, corner: Tensor, weave: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gauze or plaster along an image edge away from the sticker, on half of the patients."""
    on, across = draws.chance(0.5), draws.chance(0.5)
    turn = draws.normal(0, 0.12) + torch.where(across, 0.0, math.pi / 2)
    middle = torch.zeros_like(corner)
    along, over = turned(x, y, middle, turn)
    side = torch.where(across, -corner[:, 1], corner[:, 0])
    start = px(draws.uniform(0.80, 0.93))
    cover = torch.sigmoid((over * px(side) - start) * 60) * px(on.double())
    gauze = torch.lerp(_of((0.94, 0.93, 0.90)), _of((0.86, 0.68, 0.52)), draws.chance(0.4).double()[:, None])
    cloth = gauze[:, :, None, None] * (1 + 0.06 * weave + 0.05 * torch.sin(along * 60))[:, None]
    shadow = torch.exp(-(((over * px(side) - start + 0.03) / 0.04) ** 2)) * px(on.double()) * 0.35
    return blend(blend(image, 0 * image, shadow), cloth, cover), on


def _sticker(image: Tensor, draws: Draws, corner: Tensor, cm_per_unit: Tensor, x: Tensor, y: Tensor, size: int,
             ) -> tuple[Tensor, Tensor]:
    """The reference square in the corner opposite to the wound's offset; returns its corners (N, 4, 2) in pixels."""
    half, turn = MARKER_CM / cm_per_unit / 2, draws.uniform(-0.5, 0.5)
    centre = corner * (0.97 - 1.45 * half)[:, None]
    along, across = turned(x, y, centre, turn)
    gap = torch.maximum(along.abs(), across.abs()) / px(half)
    sharp = px(half) * size / 2
    image = blend(image, torch.full_like(image, 0.95), torch.sigmoid((1 - gap) * sharp * 4))
    blue = _of((0.10, 0.30, 0.72))[None, :, None, None].expand_as(image)
    image = blend(image, blue, torch.sigmoid((0.72 - gap) * sharp * 4))
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64) * half[:, None, None]
    c, s = turn.cos()[:, None], turn.sin()[:, None]
    spots = torch.stack([square[..., 0] * c - square[..., 1] * s, square[..., 0] * s + square[..., 1] * c], -1)
    return image, (spots + centre[:, None] + 1) * size / 2 - 0.5
