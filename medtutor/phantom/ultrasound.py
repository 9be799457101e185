"""Ultrasound of breast, liver and kidney: speckle, attenuation along the beam, and masses that words can tell apart.

The picture spans x in [-1, 1] and the depth y in [0, 2]. Echoes are made on a grid of GRID ranges by GRID beams,
parallel or fanned out of a curved probe: echogenicity in dB scales complex white noise, the point spread of the probe
blurs it, its envelope is compressed to decibels, and what lies above a point along its beam dims or spares it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import texture
from medtutor.phantom.texture import Draws, boxes, cloud, lay, noise, outline

ORGANS = {"breast": 22.5, "liver": 75.0, "kidney": 62.0}  # mm: half the width of a picture, which is twice as deep
KINDS = ("benign mass", "malignant mass")
LABELS = {"breast": KINDS, "any": ("benign lesion", "malignant lesion")} | {
    organ: (f"benign {organ} mass", f"malignant {organ} mass") for organ in ("liver", "kidney")}
CLASSES = ("background", *KINDS, "liver", "kidney", "renal sinus")
ATTRIBUTES = {"size": ("small", "medium", "large"), "shape": ("round", "oval", "irregular"), "echo": (
    "anechoic", "hypoechoic", "isoechoic"), "side": ("left", "middle", "right"), "depth": ("shallow", "deep")}
GRID, RANGE = 104, 55.0  # ranges and beams; dB from black to white
APEX, NEAR, FAR, OPEN = 0.45, 0.5, 2.42, 0.6  # a fan: its centre above the picture, first and last range, half angle


def cohort(n: int, size: int = 64, seed: int = 0, organ: str | tuple[str, ...] = "breast", geometry: str | None = None,
           nodules: int = 1, prevalence: dict[str, float] | None = None, speckle: float = 1.0, looks: int = 2,
           gain: float = 0.0, noisy: bool = True) -> Cohort:
    """n pictures: `image` (n, 1, size, size) in [0, 1], `mask` of `CLASSES`; patient i depends on `seed` and i only.

    `organ`: one of `ORGANS`, or several, of which each patient has one. geometry "linear", "fan" (black outside) or
    None: linear for the breast, fan for the others. `nodules`, 1 to 3, are slots for masses in different columns;
    each holds a mass with `prevalence` {"benign mass": 0.5, "malignant mass": 0.3}. `label` (n, 2) says which kinds
    are there, in names["label"], the `LABELS` of the organ or of several. `box` (n, nodules, 4), and meta
    lesion_mask (n, nodules, size, size), kind (n, nodules), 0 or 1, and attribute (n, nodules, 5): size, shape,
    echo, side of the picture, depth; -1 and NaN where there is none. Malignant masses are irregular, taller than
    wide, hypoechoic, with halo and shadow; benign ones round or oval and wide, with echoes passing better the
    darker they are, and with shadows at their edges.
    Later slots lie over earlier ones. `speckle` scales the width of the point spread, `looks` is the number of images
    that the scanner compounds (1: fully developed speckle), `gain` adds dB: another scanner. `noisy=False` shows the
    echogenicity, without speckle and blur. Meta: organ, mm_per_pixel. Raises ValueError for options out of range.
    """
    organs, kinds = (organ,) if isinstance(organ, str) else tuple(organ), [*ORGANS]
    odds = texture.chances(prevalence, {KINDS[0]: 0.5, KINDS[1]: 0.3}, exclusive=True, absent=True)
    if not organs or set(organs) - set(ORGANS) or geometry not in (None, "linear", "fan"):
        raise ValueError(f"organ must be of {', '.join(ORGANS)} and geometry linear, fan or None: {organ}, {geometry}")
    if not (nodules in (1, 2, 3) and 0.3 <= speckle <= 4 and 1 <= looks <= 8):
        raise ValueError(f"use 1 to 3 nodules, speckle 0.3 to 4 and 1 to 8 looks, not {nodules}, {speckle}, {looks}")
    draws = Draws(n, seed, "ultrasound", 300)
    which = torch.tensor([kinds.index(o) for o in organs])[(draws.uniform(0, 1, 1, 1) * len(organs)).long()]
    fan = (which > 0) if geometry is None else (which < 0) | (geometry == "fan")
    body, m = draws.uniform(0, 1, 24, 1, 1).unbind(1), _masses(draws, nodules, odds, fan)
    # the truth, on pixels
    y = ((torch.arange(size).double() + 0.5) * 2 / size).expand(n, size, size).mT
    x = y.mT - 1
    beam = torch.where(fan, torch.atan2(x, y + APEX) / OPEN, x)
    deep = torch.where(fan, ((x**2 + (y + APEX) ** 2).sqrt() - NEAR) / (FAR - NEAR), y / 2)
    seen, (kidney, sinus, liver) = (beam.abs() < 1) & (deep > 0) & (deep < 1), _organs(body, which, x, y)
    lesion = (_level(m, x, y) < 1) & m["on"] & seen[:, None]
    lesion = lesion & (lesion.flip(1).cumsum(1).flip(1) == 1)  # later ones lie over earlier ones
    mask = torch.where(sinus < 1, 5, torch.where(kidney < 1, 4, 3 * (liver > 0))) * seen
    mask = torch.where(lesion.any(1), (lesion * (1 + m["kind"])).sum(1), mask)
    # the echoes, on ranges and beams
    k = torch.arange(GRID)
    line = ((k + 0.5) / GRID).expand(n, GRID, GRID)
    x, y, away = 2 * line - 1, 2 * line.mT, NEAR + (FAR - NEAR) * line.mT
    x, y = torch.where(fan, away * (OPEN * x).sin(), x), torch.where(fan, away * (OPEN * x).cos() - APEX, y)
    echo, loss = _echoes([v.float() for v in body], {k: v.float() for k, v in m.items()}, seed, which, x, y)
    sigma = torch.cat([torch.tensor([0.55]), 0.6 + 1.8 * ((k + 0.5) / GRID - 0.35).abs()]) * speckle
    kernel = torch.exp(-0.5 * ((k[:, None] - k) / sigma[:, None, None]) ** 2)
    kernel, power = kernel / kernel.square().sum(2, keepdim=True).sqrt(), 10 ** (echo[:, None] / 10)
    field = noise(n, seed, "ultrasound speckle", (2 * looks, GRID, GRID)) * (power / 2 / looks).sqrt()
    field = torch.einsum("ncrb,rdb->ncrd", kernel[0] @ field, kernel[1:])  # along the beams, then across, by range
    power = field.square().sum(1) if noisy else power[:, 0]
    level = 10 * power.clamp(min=1e-9).log10() - loss.cumsum(1) * (2 / GRID) + gain
    # the picture: twice as fine, then averaged
    where = F.interpolate(torch.stack([beam, 2 * deep - 1], 1).float(), scale_factor=2, mode="bilinear").movedim(1, -1)
    image = F.grid_sample((0.79 + level / RANGE).clamp(0, 1)[:, None], where, align_corners=False)
    kind, which = torch.where(m["on"], m["kind"], -1).view(n, nodules), which.view(n)
    meta = {"lesion_mask": lesion, "kind": kind, "organ": [kinds[k] for k in which.tolist()],
            "attribute": torch.where(kind[..., None] < 0, -1, m["attribute"]),
            "mm_per_pixel": torch.tensor([*ORGANS.values()])[which] * 2 / size}
    return Cohort(image=F.avg_pool2d(image, 2) * seen[:, None], mask=mask, meta=meta, box=boxes(lesion),
                  label=(kind[..., None] == torch.arange(2)).any(1).float(),
                  names={"mask": CLASSES, "label": LABELS[organs[0] if len(organs) == 1 else "any"],
                         "kind": KINDS} | texture.worded(ATTRIBUTES),
                  units={"image": f"{RANGE:g} dB shown as 0 to 1", "mm_per_pixel": "mm"})


def _masses(draws: Draws, slots: int, odds: dict[str, float], fan: Tensor) -> dict[str, Tensor]:
    """What is drawn of each slot, (N, K, 1, 1), with `attribute` (N, K, 5) and outlines (N * K, 9)."""
    def u(low: float = 0.0, high: float = 1.0) -> Tensor:  # three slots always, so that fewer are the first of more
        return draws.uniform(low, high, 3, 1, 1)[:, :slots]

    kind, there = (u() * sum(odds.values()) >= odds[KINDS[0]]).long(), u() < sum(odds.values())
    big, deep, shape, echo = (u() * 3).long(), (u() * 2).long(), (u() > 0.3).long(), (u() * 2.8).long()
    side = draws.uniform(0, 1, 3).argsort(1)[:, :slots, None, None]
    shape, echo = torch.where(kind > 0, 2, shape), torch.where(kind > 0, 1, echo)
    radius = torch.tensor([0.13, 0.20, 0.29])[big] * u(0.92, 1.06) * (1.0 if slots == 1 else 0.65)
    flat, y = torch.tensor([0.92, 0.55, 1.15])[shape], torch.where(deep > 0, u(1.0, 1.2), u(0.56, 0.72))
    half = torch.where(fan[:, None], (math.tan(OPEN) * (y + APEX)).clamp(max=1), 1.0)
    fall = torch.arange(1, 10) ** torch.where(kind > 0, -0.25, -1.2)[..., 0] * (0.03 + 0.05 * kind[..., 0])
    return {"kind": kind, "on": there, "x": (side - 1 + u(-0.08, 0.08)) * 0.58 * half, "y": y, "rx": radius,
            "ry": radius * (flat + u(0, 0.17)), "turn": u(-0.3, 0.3), "echo": echo, "absorb": u(),
            "waves": (draws.normal(0, 1, 3, 9)[:, :slots] * fall).flatten(0, 1),
            "phase": draws.uniform(0, 6.3, 3, 9)[:, :slots].flatten(0, 1),
            "attribute": torch.cat([big, shape, echo, side, deep], 2)[..., 0]}


def _level(m: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """(N, K, H, W), below 1 in a mass."""
    dx, dy, cos, sin = x[:, None] - m["x"], y[:, None] - m["y"], m["turn"].cos(), m["turn"].sin()
    a, b = (dx * cos + dy * sin) / m["rx"], (dy * cos - dx * sin) / m["ry"]
    edge = outline((torch.arange(720) * math.pi / 360).expand(len(m["waves"]), 720), m["waves"], m["phase"])
    turn = (torch.atan2(b, a) * (360 / math.pi)).long() % 720  # a table in steps of half a degree is fast
    return (a * a + b * b).sqrt() / edge.gather(1, turn.view(len(edge), -1)).view(a.shape)


def _organs(v: list[Tensor], which: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Below 1 in the kidney, below 1 in its sinus, above 0 in the liver; (N, H, W)."""
    dx, dy, turn = x - 0.2 * v[0] + 0.1, y - 1.0 - 0.15 * v[1], 0.6 * v[2] - 0.3
    a = (dx * turn.cos() + dy * turn.sin()) / (0.70 + 0.1 * v[3])
    b = (dy * turn.cos() - dx * turn.sin()) / (0.33 + 0.07 * v[4])
    kidney = torch.where(which == 2, (a * a + b * b + 0.25 * b * a * a).sqrt(), 9.0)
    sinus = ((a / 0.62) ** 2 + ((b - 0.1) / 0.42) ** 2).sqrt() - 0.1 * torch.cos(5 * torch.atan2(b, a) + 6 * v[5])
    dome = 1.45 + 0.15 * v[6] - ((x - 0.4 * v[7] + 0.2) ** 2 + (y - 0.25) ** 2).sqrt()
    above = torch.minimum(0.85 + 0.2 * v[8] - 0.35 * x - y, 12 * (kidney - 1.06))
    liver = torch.minimum(torch.where(which == 2, above, dome), y - 0.26 - 0.1 * v[9])
    return kidney, torch.where(which == 2, sinus, 9.0), torch.where(which > 0, liver, -1.0)


def _breast(v: list[Tensor], y: Tensor, fibre: Tensor, web: Tensor, clump: Tensor) -> Tensor:
    """Skin, lobules of fat in their septa, gland, muscle and pleura at bent depths y."""
    fat, gland, thread = 0.25 + 0.35 * v[16], 1.0 + 0.45 * v[17], torch.exp(-((fibre / 0.25) ** 2))
    deep = gland + 0.25 + 0.35 * v[18]
    echo = lay(-25 + 17 * torch.exp(-((web / 0.08) ** 2)) + 2 * fibre, -15 + 15 * thread + 4 * clump,
               torch.minimum(60 * (y - fat), 3.6 * (clump + 2.5 * v[19])))
    echo = lay(lay(echo, -22 + 14 * thread, 60 * (y - gland)), -30 + 14 * thread, 60 * (y - deep - 0.03))
    for place, width in ((gland, 0.014), (deep, 0.02), (0.02, 0.015), (0.085, 0.012)):
        echo = lay(echo, 1.0, 200 * (width - (y - place).abs()))
    return echo


def _belly(v: list[Tensor], which: Tensor, x: Tensor, y: Tensor, fibre: Tensor, web: Tensor, clump: Tensor) -> Tensor:
    """Abdominal wall, liver with vessels before the diaphragm, kidney with pyramids and sinus."""
    q, sinus, liver = _organs(v, which, x, y)
    vessel = torch.minimum(0.14 - clump.abs(), 0.2 * (web.abs() - 0.3))
    tissue = -15 + 1.2 * fibre - 16 * torch.sigmoid(40 * vessel) + 5 * torch.exp(-(((vessel + 0.04) / 0.03) ** 2))
    far = (which == 1) & (y > 0.6)
    echo = lay(-11 - 23 * far + 4 * fibre, tissue, 60 * liver) + 16 * far * torch.exp(-((liver / 0.025) ** 2))
    echo = lay(echo, -10 + 8 * torch.sin(32 * y + 0.5 * clump), 60 * (0.26 + 0.1 * v[9] - y))
    pyramid = (torch.cos(7 * torch.atan2(y - 1.07, 0.45 * x)) - 0.3).clamp(min=0)
    echo = lay(echo, -19 - 5 * pyramid + fibre, 40 * (1 - q)) + 8 * torch.exp(-(((q - 1.02) / 0.035) ** 2))
    return lay(echo, -4 + 4 * clump + 2 * fibre, 12 * (1 - sinus))


def _echoes(v: list[Tensor], m: dict, seed: int, which: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Echogenicity in dB and loss in dB per unit of depth, (N, GRID, GRID) each."""
    fine, clump = (cloud(len(x), seed, f"ultrasound {c}", GRID, c, 2, 2) for c in (22, 7))
    bend = sum(0.08 / k**1.5 * torch.sin((2.2 * k + v[9 + k]) * x + 6.3 * v[12 + k]) for k in (1, 2, 3))
    bent = y + (2 * y).clamp(max=1) * bend
    fibre, web = F.grid_sample(torch.stack([fine, clump], 1), torch.stack([0.25 * x, bent + 0.03 * clump - 1], -1),
                               padding_mode="reflection", align_corners=False).unbind(1)
    echo, breast, belly = torch.empty_like(y), which.view(-1) == 0, which.view(-1) > 0
    echo[breast] = _breast([a[breast] for a in v], *(a[breast] for a in (bent, fibre, web, clump)))
    echo[belly] = _belly([a[belly] for a in v], *(a[belly] for a in (which, x, y, fibre, web, clump)))
    echo = echo - (4 + 18 * v[20]) * (y - 0.6).clamp(min=0) - 7 * (
        v[21] * torch.cos(2.5 * x + 6.3 * v[22]) + 0.4 * torch.cos(7 * x + 6.3 * v[23])).clamp(min=0)
    loss, levels = 6 * (clump - 0.7).clamp(min=0) * (which == 0), _level(m, x, y)
    for k in range(m["on"].shape[1]):
        r, on, bad, kind, left, rx = levels[:, k], *(m[key][:, k] for key in ("on", "kind", "echo", "x", "rx"))
        aside, dark, pale = ((x - left) / rx).abs(), *torch.tensor([[-48.0, -31, -19], [-10, -4, 0]])[:, kind.long()]
        dark = dark + (2 + bad) * fibre * (kind > 0)
        inside = torch.sigmoid((1 - r) * 70 * rx * (1 - 0.5 * bad)) * on
        rim = (6 + bad) * torch.exp(-(((r - 1.05 - 0.15 * bad) / (0.05 + 0.1 * bad)) ** 2))
        echo = echo + (dark - echo) * inside + on * rim
        refracted = 22 * (1 - bad) * torch.exp(-(((r - 1) / 0.1) ** 2)) * aside**6 * (aside < 1.1)
        loss = loss + inside * torch.where(bad > 0, 6 + 32 * m["absorb"][:, k], pale) + on * refracted
    return echo, loss
