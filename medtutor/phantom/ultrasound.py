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
from medtutor.phantom.texture import Draws, boxes, cloud, noise, outline

ORGANS = {"breast": 22.5, "liver": 75.0, "kidney": 62.0}  # mm: half the width of a picture, which is twice as deep
KINDS = ("benign mass", "malignant mass")
CLASSES = ("background", *KINDS, "liver", "kidney", "renal sinus")
ATTRIBUTES = {"size": ("small", "medium", "large"), "shape": ("round", "oval", "irregular"), "echo": (
    "anechoic", "hypoechoic", "isoechoic"), "side": ("left", "middle", "right"), "depth": ("shallow", "deep")}
GRID, RANGE = 128, 50.0  # ranges and beams; dB from black to white
APEX, NEAR, FAR, OPEN = 0.45, 0.5, 2.42, 0.6  # a fan: its centre above the picture, first and last range, half angle


def cohort(n: int, size: int = 64, seed: int = 0, organ: str | tuple[str, ...] = "breast", geometry: str | None = None,
           nodules: int = 1, prevalence: dict[str, float] | None = None, speckle: float = 1.0, gain: float = 0.0,
           noisy: bool = True) -> Cohort:
    """n pictures: `image` (n, 1, size, size) in [0, 1], `mask` of `CLASSES`; patient i depends on `seed` and i only.

    `organ`: one of `ORGANS`, or several, of which each patient has one. geometry "linear", "fan" (black outside) or
    None: linear for the breast, fan for the others. `nodules`, 1 to 3, are slots for masses in different columns; each
    holds a mass with `prevalence` {"benign mass": 0.5, "malignant mass": 0.3}. `label` (n, 2) says which kinds are
    there, names["label"] `KINDS`. `box` (n, nodules, 4), and meta lesion_mask (n, nodules, size, size), kind (n,
    nodules), 0 or 1, and attribute (n, nodules, 5): size, shape, echo, side of the picture, depth; -1 and NaN where
    there is none. Malignant masses are irregular, taller than wide, hypoechoic, with halo and shadow; benign ones round
    or oval and wide, with echoes passing better the darker they are, and with shadows at their edges.
    `speckle` scales the width of the point spread and `gain` adds dB: another scanner. `noisy=False` shows the expected
    power of the echoes instead. Meta: organ, mm_per_pixel, severity_<kind> (size and darkness of the largest).
    """
    organs = (organ,) if isinstance(organ, str) else tuple(organ)
    chances = {KINDS[0]: 0.5, KINDS[1]: 0.3} if prevalence is None else dict.fromkeys(KINDS, 0.0) | prevalence
    if not organs or set(organs) - set(ORGANS) or geometry not in (None, "linear", "fan"):
        raise ValueError(f"organ must be of {', '.join(ORGANS)} and geometry linear, fan or None: {organ}, {geometry}")
    if len(chances) > 2 or min(chances.values()) < 0 or sum(chances.values()) > 1 + 1e-9:
        raise ValueError(f"prevalence needs probabilities of {', '.join(KINDS)} that sum to 1 at most: {prevalence}")
    if nodules not in (1, 2, 3) or not 0.3 <= speckle <= 4:
        raise ValueError(f"nodules must be 1, 2 or 3 and speckle from 0.3 to 4, but got {nodules} and {speckle}")
    draws = Draws(n, seed, "ultrasound", 300)
    pick = (draws.uniform(0, 1, 1, 1) * len(organs)).long()
    which = torch.tensor([list(ORGANS).index(o) for o in organs])[pick]
    fan = (which > 0) if geometry is None else (which < 0) | (geometry == "fan")
    body, m = draws.uniform(0, 1, 60, 1, 1).unbind(1), _masses(draws, nodules, chances, fan)
    # the truth, on pixels
    axis = (torch.arange(size).double() + 0.5) * 2 / size
    x, y = (axis - 1).expand(n, size, size), axis[:, None].expand(n, size, size)
    beam = torch.where(fan, torch.atan2(x, y + APEX) / OPEN, x)
    deep = torch.where(fan, ((x**2 + (y + APEX) ** 2).sqrt() - NEAR) / (FAR - NEAR), y / 2)
    seen, (kidney, sinus, liver) = (beam.abs() < 1) & (deep > 0) & (deep < 1), _organs(body, which, x, y)
    lesion = (_level(m, x, y) < 1) & m["on"] & seen[:, None]
    mask = torch.where(sinus < 1, 5, torch.where(kidney < 1, 4, 3 * (liver > 0))) * seen
    for k in range(nodules):
        mask = torch.where(lesion[:, k], 1 + m["kind"][:, k], mask)
    # the echoes, on ranges and beams
    line = (torch.arange(GRID) + 0.5) / GRID
    t, b = line[:, None].expand(n, -1, -1), (2 * line - 1).expand(n, 1, -1)
    far = NEAR + (FAR - NEAR) * t
    x, y = (torch.where(fan, far * (OPEN * b).sin(), b + 0 * t), torch.where(fan, far * (OPEN * b).cos() - APEX, 2 * t + 0 * b))
    echo, loss = _echoes(body, m, seed, which, x.float(), y.float())
    sigma = torch.cat([torch.tensor([0.75]), 0.8 + 2.2 * (line - 0.35).abs()]) * speckle
    kernel = torch.exp(-0.5 * ((line[:, None] - line) * GRID / sigma[:, None, None]) ** 2)
    kernel, power = kernel / kernel.square().sum(2, keepdim=True).sqrt(), 10 ** (echo[:, None] / 10)
    if noisy:
        field = noise(n, seed, "ultrasound speckle", (2, GRID, GRID)) * (power / 2).sqrt()
        power = _spread(field, kernel).square().sum(1)
    else:
        power = _spread(power, kernel.square())[:, 0]
    level = 10 * power.clamp(min=1e-9).log10() - loss.cumsum(1) * (2 / GRID) + gain
    # the picture: twice as fine, then averaged
    where = F.interpolate(torch.stack([beam, 2 * deep - 1], 1).float(), scale_factor=2, mode="bilinear").movedim(1, -1)
    image = F.grid_sample((0.80 + level / RANGE).clamp(0, 1)[:, None], where, align_corners=False)
    kind = torch.where(m["on"], m["kind"], -1).view(n, nodules)
    meta = {"lesion_mask": lesion, "kind": kind, "organ": [list(ORGANS)[k] for k in which.view(n).tolist()],
            "attribute": torch.where(kind[..., None] < 0, -1, m["attribute"]),
            "mm_per_pixel": 2 * torch.tensor(list(ORGANS.values()))[which.view(n)] / size}
    meta |= {f"severity_{k.replace(' ', '_')}": ((kind == j) * m["grade"]).amax(1).float() for j, k in enumerate(KINDS)}
    return Cohort(image=F.avg_pool2d(image, 2) * seen[:, None], mask=mask, meta=meta, box=boxes(lesion),
                  label=torch.stack([(kind == j).any(1) for j in (0, 1)], 1).float(),
                  names={"mask": CLASSES, "label": KINDS, "kind": KINDS, "attribute": tuple(ATTRIBUTES)} | {
                      f"attribute_{k}": v for k, v in ATTRIBUTES.items()},
                  units={"image": f"{RANGE:g} dB shown as 0 to 1", "mm_per_pixel": "mm"})


def _spread(field: Tensor, kernel: Tensor) -> Tensor:
    """(N, C, GRID, GRID) blurred along the beams by the first kernel, then across them, each range by its own."""
    rows = (kernel[0] @ field).movedim(2, 0)
    return (rows.flatten(1, 2) @ kernel[1:].mT).view(rows.shape).movedim(0, 2)


def _masses(draws: Draws, slots: int, chances: dict[str, float], fan: Tensor) -> dict[str, Tensor]:
    """What is drawn of each slot, (N, K, 1, 1), with `attribute` (N, K, 5), `grade` (N, K), coefficients (N * K, 12)."""
    def u(low: float = 0.0, high: float = 1.0) -> Tensor:  # three slots always, so that fewer are the first of more
        return draws.uniform(low, high, 3, 1, 1)[:, :slots]

    kind, there = (u() * sum(chances.values()) >= chances[KINDS[0]]).long(), u() < sum(chances.values())
    big, deep, form, dark, side = (u() * 3).long(), (u() * 2).long(), u(), u(), draws.uniform(0, 1, 3).argsort(1)
    shape = torch.where(kind > 0, 2, (form > 0.3).long())
    echo = torch.where(kind > 0, 1, (dark > 0.35).long() + (dark > 0.75))
    radius = torch.tensor([0.13, 0.20, 0.29])[big] * u(0.92, 1.06) * (1.0 if slots == 1 else 0.7)
    flat = torch.tensor([[0.92, 1.02], [0.55, 0.72], [1.15, 1.4]]).double()[shape]
    y, side = torch.where(deep > 0, u(1.0, 1.2), u(0.56, 0.72)), side[:, :slots, None, None]
    half = torch.where(fan[:, None], (math.tan(OPEN) * (y + APEX)).clamp(max=1), 1.0)
    waves = draws.normal(0, 1, 3, 12)[:, :slots] * torch.where(kind > 0, 0.085, 0.03)[..., 0] * (
        torch.arange(1, 13) ** torch.where(kind > 0, -0.45, -1.2)[..., 0])
    return {"kind": kind, "on": there, "x": (side - 1 + u(-0.08, 0.08)) * 0.58 * half, "y": y, "rx": radius,
            "ry": radius * torch.lerp(flat[..., 0], flat[..., 1], u()), "turn": u(-0.3, 0.3), "echo": echo, "absorb": u(),
            "waves": waves.flatten(0, 1), "phase": draws.uniform(0, 6.3, 3, 12)[:, :slots].flatten(0, 1),
            "attribute": torch.stack([v[..., 0, 0] for v in (big, shape, echo, side, deep)], -1),
            "grade": (0.25 * (big + 1) + 0.25 * (echo < 2) * kind)[..., 0, 0]}


def _level(m: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """(N, K, H, W), below 1 in a mass."""
    dx, dy, cos, sin = x[:, None] - m["x"], y[:, None] - m["y"], m["turn"].cos(), m["turn"].sin()
    a, b = (dx * cos + dy * sin) / m["rx"], (dy * cos - dx * sin) / m["ry"]
    return (a * a + b * b).sqrt() / outline(torch.atan2(b, a).flatten(0, 1), m["waves"], m["phase"]).view(a.shape)


def _organs(v: tuple[Tensor, ...], which: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Below 1 in kidney, in its sinus; above 0 in the liver; (N, H, W)."""
    dx, dy, turn = x - 0.2 * v[0] + 0.1, y - 1.0 - 0.15 * v[1], 0.6 * v[2] - 0.3
    a, b = (dx * turn.cos() + dy * turn.sin()) / (0.70 + 0.1 * v[3]), (dy * turn.cos() - dx * turn.sin()) / (0.33 + 0.07 * v[4])
    q = torch.where(which == 2, (a * a + b * b + 0.25 * b * a * a).sqrt(), 9.0)
    sinus = ((a / 0.62) ** 2 + ((b - 0.1) / 0.42) ** 2).sqrt() - 0.1 * torch.cos(5 * torch.atan2(b, a) + 6 * v[5])
    dome = 1.45 + 0.15 * v[6] - ((x - 0.4 * v[7] + 0.2) ** 2 + (y - 0.25) ** 2).sqrt()
    above = torch.minimum(0.85 + 0.2 * v[8] - 0.35 * x - y, 12 * (q - 1.06))
    edge = torch.minimum(torch.where(which == 2, above, dome), y - 0.26 - 0.1 * v[9])
    return q, sinus, torch.where(which > 0, edge, -1.0)


def _echoes(v: tuple[Tensor, ...], m: dict, seed: int, which: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Echogenicity in dB and loss in dB per unit of depth, (N, GRID, GRID) each."""
    def lay(under: Tensor, over: Tensor | float, inside: Tensor, sharp: float = 60.0) -> Tensor:
        return under + (over - under) * torch.sigmoid(sharp * inside)

    n = len(x)
    bend = 0.05 * torch.sin(2.3 * x + 6.3 * v[10]) + 0.03 * torch.sin(4.7 * x + 6.3 * v[11]) + 0.015 * torch.sin(9 * x + 6.3 * v[12])
    fields = torch.stack([cloud(n, seed, f"ultrasound {c}", GRID, c, 2, 2) for c in (20, 7)], 1)
    clump = fields[:, 1]
    bent = y + bend * (2 * y).clamp(max=1) + 0.02 * clump
    fibre, web = F.grid_sample(fields, torch.stack([0.35 * x, bent - 1], -1).float(), padding_mode="reflection",
                               align_corners=False).unbind(1)
    fat, gland, deep = 0.34 + 0.25 * v[13], 1.2 + 0.25 * v[14], 0.25 + 0.15 * v[15]
    lobule = -19 + 12 * torch.exp(-((web / 0.10) ** 2)) + 2 * fibre
    breast = lay(lobule, -8 + 5 * fibre, torch.minimum(2 * (bent - fat), 0.1 * (clump + 3 * v[16] - 0.5)), 30)
    breast = lay(breast, -17 + 6 * fibre, bent - gland)
    for place, width in ((gland, 0.016), (gland + deep, 0.02), (0.02 + 0 * fat, 0.015), (0.085 + 0 * fat, 0.012)):
        breast = lay(breast, 2.0, width - (bent - place).abs(), 200)
    breast = lay(breast, -36 + 5 * fibre, bent - gland - deep - 0.03)
    q, sinus, liver = _organs(v, which, x, y)
    vessel = torch.minimum(0.14 - clump.abs(), 0.2 * (web.abs() - 0.3))
    tissue = -15 + 1.2 * fibre - 16 * torch.sigmoid(40 * vessel) + 5 * torch.exp(-(((vessel + 0.04) / 0.03) ** 2))
    rest = lay(-11 + 5 * fibre, -34 + 3 * fibre, torch.where(which == 1, y - 0.6, -1.0))
    belly = lay(rest, tissue, liver) + 16 * (which == 1) * (y > 0.6) * torch.exp(-((liver / 0.025) ** 2))
    belly = lay(belly, -10 + 8 * torch.sin(26 * y + 3 * bend + 6 * v[17]), 0.26 + 0.1 * v[9] - y)
    pyramid = torch.cos(7 * torch.atan2(y - 1.07, 0.45 * x)) - 0.3
    belly = lay(belly, -19 - 5 * pyramid.clamp(min=0) + fibre, 1 - q, 40) + 8 * torch.exp(-(((q - 1.02) / 0.035) ** 2))
    belly = lay(belly, -4 + 4 * clump + 2 * fibre, torch.where(which == 2, 1 - sinus, -1.0), 12)
    echo = torch.where(which > 0, belly, breast) - 12 * v[18] * (y - 0.7).clamp(min=0)
    echo = echo - 5 * (v[19] * torch.cos(2.5 * x + 6.3 * v[20]) + 0.4 * torch.cos(7 * x + 6.3 * v[21])).clamp(min=0)
    loss = 5 * (clump - 0.7).clamp(min=0)
    levels = _level(m, x, y)
    for k in range(levels.shape[1]):
        r, on, bad = levels[:, k], m["on"][:, k], m["kind"][:, k]
        kind, aside = m["echo"][:, k], ((x - m["x"][:, k]) / m["rx"][:, k]).abs()
        dark = torch.tensor([-46.0, -26.0, -16.0])[kind] + (2 + bad) * fibre * (kind > 0)
        inside = torch.sigmoid((1 - r) * 70 * m["rx"][:, k] * (1 - 0.5 * bad)) * on
        echo = echo + (dark - echo) * inside + on * torch.where(
            bad > 0, 7 * torch.exp(-(((r - 1.2) / 0.15) ** 2)), 6 * torch.exp(-(((r - 1.05) / 0.05) ** 2)))
        absorb = torch.where(bad > 0, 8 + 26 * m["absorb"][:, k], torch.tensor([-10.0, -4.0, 0.0])[kind])
        loss = loss + inside * absorb + on * (1 - bad) * 22 * torch.exp(-(((r - 1) / 0.1) ** 2)) * aside**6 * (aside < 1.1)
    return echo.float(), loss.float()
