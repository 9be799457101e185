"""Wound photographs: skin, a wound with its tissues, a reference marker of known size, bandages, and the exact outline.

The picture plane is [-1, 1] x [-1, 1], columns to the right and rows down; lengths in cm follow from `cm_per_pixel`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import texture
from medtutor.phantom.texture import Draws, blend, blur, boxes, cloud, noise, outline, px, strokes, turned, unit_grid

MARKER_CM = 1.0  # side of the square sticker beside the wound
_SKIN, _DRAPES, _COLOURS, LEAST, WORDS = texture.table("wound").values()
SKIN, DRAPES = (torch.tensor(colours, dtype=torch.float64) for colours in (_SKIN, _DRAPES))
COLOUR = {name: torch.tensor(rgb, dtype=torch.float64)[:, None, None] for name, rgb in _COLOURS.items()}
DOMAINS, COARSE, HAIRS = ("fresh", "ulcer", "clinic"), 32, 160


def cohort(n: int, size: int = 64, seed: int = 0, domain: str = "fresh", noisy: bool = True) -> Cohort:
    """n photographs: `image` (n, 3, size, size) RGB in [0, 1], `mask` (n, size, size) 1 in the wound.

    domain "fresh": round, mostly red wounds on calm skin. domain "ulcer": ragged outlines, a necrotic border, slough,
    and inflamed skin as red as the wound bed, so that no threshold on colour finds the outline. domain "clinic": small
    and large wounds of any tissue on a limb with hair and creases over a drape, seen askew under a photographer's
    shadow. All have shading, specular spots, and often a bandage. A square sticker of 1 cm, blue with a white rim,
    gives the scale: its corners are `landmark` (n, 4, 2) as x, y in pixels, clockwise; in a "clinic" perspective bends
    the square, and cm_per_pixel holds in the middle of the picture. `label` (n, 4), names["label"], from the
    severities and `LEAST`; severity_slough, severity_necrosis and severity_granulation are shares of the wound bed
    (sum 1), severity_erythema is how red the skin around is. `box` (n, 1, 4) bounds the wound. `meta`: the severities,
    cm_per_pixel, area_cm2 (exact area of the wound), skin_tone (0 light to 1 dark), bandage, and what a sentence can
    say: lesion_mask (n, 1, size, size), attribute (n, 1, 4), the wound's main colour, size (from 3 and 8 cm^2), shape
    and place in the picture as indices into names["attribute_<name>"]. `noisy=False` leaves out sensor noise. Patient i
    depends on `seed`, `domain` and i only.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, but got {domain!r}")
    draws, clinic = Draws(n, seed, f"wound {domain}", 900 if domain == "clinic" else 160), domain == "clinic"
    u, ulcer = draws.uniform, domain != "fresh"
    x, y = (g.expand(n, size, size) for g in unit_grid(size))

    def field(name: str, cells: int, octaves: int = 1) -> Tensor:
        return cloud(n, seed, f"{domain} {name}", size, cells, 2, octaves)

    # ---- geometry: r is 1 on the outline
    corner = torch.stack([draws.chance(0.5), draws.chance(0.5)], 1).double() * 2 - 1
    centre = -corner * (u(0.08, 0.3, 2) if clinic else u(0.0, 0.14, 2))
    if clinic:  # the camera looks askew, with the sticker's side farther away
        lens = corner * u(0.0, 0.22, 2)
        x, y = (g / (1 - px(lens[:, 0]) * x - px(lens[:, 1]) * y) for g in (x, y))
    turn, narrow = u(0, math.pi), u(0.62, 0.95) if ulcer else u(0.82, 1.0)
    radius = u(0.20, 0.42) if clinic else u(0.30, 0.52)
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
    angry = px(u(0.0, 0.95) if clinic else u(0.55, 0.95) if ulcer else u(0.0, 0.3))
    inflamed = angry * torch.sigmoid((1 + px(u(0.25, 0.7)) + 0.22 * field("flare", 4) - r) * 6)
    rash = px(u(0.2, 0.8) if ulcer and not clinic else u(0, 0.2)) * torch.sigmoid((field("rash", 4, 2) - 1.1) * 6)
    image = blend(skin, COLOUR["erythema"] * (0.55 + 0.45 * skin), (inflamed + rash).clamp(0, 0.95))
    # ---- the wound bed
    bed = COLOUR["granulation"] * (1 + 0.22 * field("grain", 24 if clinic else 16, 2)[:, None])
    if ulcer:
        bed = blend(bed, COLOUR["erythema"] * (0.55 + 0.45 * skin), px(u(0.0, 0.7)))
    clean = px(u(-1.0, 2.2) if clinic else u(0.1, 1.1) if ulcer else u(0.9, 1.8))
    slough, dead = torch.sigmoid((field("slough", 5, 2) - clean) * 5), torch.zeros_like(r)
    bed = blend(bed, COLOUR["slough"] * (1 + 0.1 * field("fibrin", 12)[:, None]), slough)
    if ulcer:
        border = torch.sigmoid((r - px(u(0.2, 0.95) if clinic else u(0.70, 0.95)) + 0.16 * field("crust", 6, 2)) * 12)
        dead = border * torch.sigmoid((field("gap", 3) + px(u(-2.4, 1.2) if clinic else u(-0.6, 0.9))) * 5)
        bed = blend(bed, COLOUR["necrosis"] + 0.05 * field("eschar", 18)[:, None], dead)
    edge = torch.sigmoid((1 - r) * px(radius) * size / 2 / (0.9 if ulcer else 0.6))
    image = blend(image, bed * (1 - 0.25 * torch.exp(-((r - 0.97) * 9) ** 2))[:, None], edge)
    image = _gloss(image, draws, centre, radius * narrow, x, y)
    if clinic:
        image = _limb(image, draws, centre, radius, field, x, y)
    # ---- light, then what lies on the skin: bandage and sticker
    tilt, ahead = u(0.0, 0.28), u(0, 2 * math.pi)
    light = (1 - px(u(0.05, 0.3)) * (x * x + y * y) / 2 + px(tilt) * (px(ahead.cos()) * x + px(ahead.sin()) * y)
             + 0.05 * field("light", 3))
    image, bandaged = _bandage(image, draws, corner, field("weave", 32), x, y)
    cm_per_unit = u(3.0, 6.0)
    image, corners = _sticker(image, draws, corner, cm_per_unit, x, y, size)
    image = image * (light * px(u(0.85, 1.1)))[:, None] * (1 + draws.normal(0, 0.03, 3))[:, :, None, None]
    if clinic:  # from the plane of the skin to the picture
        flat = (corners + 0.5) * 2 / size - 1
        corners = (flat / (1 + flat @ lens[..., None]) + 1) * size / 2 - 0.5
    image = blur(image.float(), (0.2 if clinic else 0.4) * size / 64)
    if noisy:
        image = image + 0.018 * noise(n, seed, f"{domain} sensor", (3, size, size))
    angle = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)[:-1].expand(n, -1)
    area = math.pi * radius**2 * narrow * (outline(angle, waves, phase) ** 2).mean(1) * cm_per_unit**2
    share = torch.stack([slough * (1 - dead), dead, (1 - slough) * (1 - dead), angry.expand_as(r)], 1) * mask[:, None]
    share = share.sum((2, 3)) / mask.sum((1, 2))[:, None]
    look = torch.stack([share[:, :3].argmax(1), (area > 3).long() + (area > 8), (narrow < 0.8).long(),
                        (centre[:, 0] > 0).long() + 2 * (centre[:, 1] > 0)], 1)[:, None]
    meta = {"cm_per_pixel": (2 * cm_per_unit / size).float(), "area_cm2": area.float(), "skin_tone": tone.float(),
            "bandage": bandaged, "lesion_mask": mask[:, None].bool(), "attribute": look}
    meta |= {f"severity_{name}": v.float() for name, v in zip(LEAST, share.unbind(1), strict=True)}
    label = (share > torch.tensor([*LEAST.values()])).float()
    if size != COARSE:  # what is counted in pixels is counted on one grid, so that it does not depend on `size`
        known = cohort(n, COARSE, seed, domain, False)
        label, meta = known.label, meta | {k: v for k, v in known.meta.items() if k[:9] in ("severity_", "attribute")}
    return Cohort(image=image.clamp(0, 1), mask=mask, landmark=corners.float(), meta=meta, label=label,
                  box=boxes(meta["lesion_mask"]),
                  names={"mask": ("background", "wound"), "image": ("red", "green", "blue"), "label": tuple(LEAST),
                         "landmark": tuple(f"sticker corner {k}" for k in range(1, 5))} | texture.worded(WORDS),
                  units={"image": "RGB, 0 to 1", "landmark": "pixels", "cm_per_pixel": "cm", "area_cm2": "cm^2"})


def _ramp(tone: Tensor) -> Tensor:
    """Skin colours (N, 3) along `SKIN` for tones (N,) in [0, 1]."""
    place = tone * (len(SKIN) - 1)
    low = place.long().clamp(max=len(SKIN) - 2)
    return torch.lerp(SKIN[low], SKIN[low + 1], (place - low)[:, None])


def _gloss(image: Tensor, draws: Draws, centre: Tensor, radius: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A few specular spots on the wet bed."""
    for _ in range(4):
        spot = centre + radius[:, None] * draws.uniform(-0.6, 0.6, 2)
        along, across = turned(x, y, spot, draws.uniform(0, math.pi))
        width = px(draws.uniform(0.02, 0.05))
        shine = torch.exp(-((along / width / 1.8) ** 2 + (across / width) ** 2)) * px(draws.uniform(0, 0.9))
        image = blend(image, torch.ones_like(image), shine)
    return image


def _limb(image: Tensor, draws: Draws, centre: Tensor, radius: Tensor, field, x: Tensor, y: Tensor) -> Tensor:
    """What surrounds the wound in a clinic: creases and hair, the limb's round shape, the drape under it, a shadow."""
    size, u = image.shape[-1], draws.uniform
    along, over = turned(x, y, centre, u(0, math.pi))
    wide = torch.maximum(u(0.6, 1.3), 1.5 * radius + 0.08)
    gap = (over - px(u(-0.15, 0.15)) * along**2 + 0.03 * field("edge", 3)).abs() / px(wide)
    crease = torch.exp(-(((field("crease", 9, 2) + 0.8 * field("fold", 3)) / 0.12) ** 2)) * px(u(0.0, 0.14))
    root, way = u(-1.1, 1.1, HAIRS, 2), draws.normal(0, 0.4, HAIRS) + u(0, 6.3, 1)
    tip = root + u(0.08, 0.3, HAIRS)[..., None] * torch.stack([way.cos(), way.sin()], -1)
    bald = (root - centre[:, None]).norm(dim=-1) < 1.3 * radius[:, None]
    thick = u(0.005, 0.012, HAIRS) * size / 2 * ~(bald | (torch.arange(HAIRS) > u(-HAIRS, HAIRS, 1)))
    hair, _ = strokes(((torch.stack([root, tip], 2) + 1) * size - 1) / 2, thick[..., None].expand(-1, -1, 2), size)
    image = image * ((1 - crease) * (1 - 0.5 * gap.clamp(max=1) ** 4) * (1 - 0.55 * hair[:, 0]))[:, None]
    dark = 1 - 0.6 * torch.exp((1 - gap.clamp(min=1)) * px(wide) / 0.1) + 0.16 * field("drape", 4, 2)
    drape = DRAPES[(u() * len(DRAPES)).long()][..., None, None] * (dark + 0.04 * torch.sin(x * 90))[:, None]
    image = blend(image, drape, torch.sigmoid((gap - 1) * px(wide) * size / 2))
    lean, start = px(u(0, 6.3)), px(u(0.3, 1.6))  # of the photographer's shadow
    return image * (1 - 0.35 * torch.sigmoid((lean.cos() * x + lean.sin() * y - start) * 9))[:, None]


def _bandage(image: Tensor, draws: Draws, corner: Tensor, weave: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gauze or plaster along an image edge away from the sticker, on half of the patients."""
    on, across = draws.chance(0.5), draws.chance(0.5)
    turn = draws.normal(0, 0.12) + torch.where(across, 0.0, math.pi / 2)
    along, over = turned(x, y, torch.zeros_like(corner), turn)
    side = torch.where(across, -corner[:, 1], corner[:, 0])
    start = px(draws.uniform(0.80, 0.93))
    cover = torch.sigmoid((over * px(side) - start) * 60) * px(on.double())
    gauze = torch.lerp(COLOUR["gauze"], COLOUR["plaster"], draws.chance(0.4).double()[:, None, None, None])
    cloth = gauze * (1 + 0.06 * weave + 0.05 * torch.sin(along * 60))[:, None]
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
    image = blend(image, COLOUR["sticker"], torch.sigmoid((0.72 - gap) * sharp * 4))
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64) * half[:, None, None]
    c, s = turn.cos()[:, None], turn.sin()[:, None]
    spots = torch.stack([square[..., 0] * c - square[..., 1] * s, square[..., 0] * s + square[..., 1] * c], -1)
    return image, (spots + centre[:, None] + 1) * size / 2 - 0.5
