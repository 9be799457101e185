"""Dermoscopic pictures of skin lesions, their dermoscopic concepts with exact truth, and confounders to order.

Colour is absorption: maps of melanin and blood over pale skin, `exp(-density)`, with white and blue films on top.
Lengths are mm on the skin; a picture spans `fov` mm. The picture depends on the concepts, never on the diagnosis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import texture
from medtutor.phantom.texture import Draws, blend, blur, boxes, cloud, noise, outline, px, radius_at, turned, unit_grid

# The generator of the concepts and, by Bayes, the rule of the diagnosis; then what each concept looks like.
PREVALENCE, RANGE, TILT, LEVELS, IMPLIES, PATCHES, SPOTS, CURVES, FILMS, _CASTS = texture.table("skin").values()
_UPPER = {name: torch.tensor(upper, dtype=torch.float64) for name, upper in LEVELS.items()}
_TABLE = {name: torch.cat([1 - upper.sum(0, keepdim=True), upper]) for name, upper in _UPPER.items()}  # (levels, 5)
DIAGNOSES, COLOURS, SCANNERS = tuple(PREVALENCE), tuple(PATCHES), tuple(_CASTS)
CONCEPTS, CONFOUNDERS = (*RANGE, *LEVELS), ("hair", "ruler", "ink", "bubbles", "vignette")
LAYERS, LOCATIONS = (*LEVELS, *CONFOUNDERS), ("trunk", "limb", "face", "scalp")
WHOLE = {name: (0, len(upper)) for name, upper in LEVELS.items()} | {"site": (0, 3), "sex": (0, 1), "location": (0, 3)}
LIMITS = RANGE | WHOLE | {"tone": (1, 6), "age": (0, 110)} | dict.fromkeys(CONFOUNDERS, (0, 1))
CAST = torch.tensor([*_CASTS.values()])
MELANIN, BLOOD, PALE = torch.tensor([[0.42, 0.80, 1.22], [0.10, 0.62, 0.52], [0.95, 0.91, 0.87]])[..., None, None]


def rule(concepts: Tensor, prevalence: dict[str, float] | None = None) -> Tensor:
    """P(diagnosis | concepts), (n, 5) in the order of `DIAGNOSES`, for `concepts` (n, 19) in the order of `CONCEPTS`.

    A points chart like the ABCD rule: each concept adds its points to each diagnosis, and softmax makes probabilities
    of the sums. The points are the log likelihoods of the tables above, so this is the exact posterior: no classifier
    that sees pictures only can expect to beat it.
    """
    if concepts.ndim != 2 or concepts.shape[1] != len(CONCEPTS):
        raise ValueError(f"concepts must be (n, {len(CONCEPTS)}) in the order of CONCEPTS, not {tuple(concepts.shape)}")
    value = dict(zip(CONCEPTS, concepts.double().unbind(1), strict=True))
    points = _prior(prevalence).log()[None]
    for name, tilt in TILT.items():
        w, (low, high) = torch.tensor(tilt).double(), RANGE[name]
        points = points + w * ((value[name] - low) / (high - low))[:, None] - (torch.expm1(w) / w).log()
    implied = {colour: value[cause] > 0 for cause, colour in IMPLIES.items()}
    for name in LEVELS:
        row = _TABLE[name].log()[value[name].long()]
        points = points + (torch.where(implied[name][:, None], 0, row) if name in implied else row)
    return points.softmax(1)


def patients(n: int, seed: int = 0, prevalence: dict[str, float] | None = None,
             concepts: dict[str, float | Tensor] | Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Concepts (n, 19) and diagnoses (n,) without pictures: those that `cohort` draws for the same arguments.

    `concepts` sets some by name, to a number or (n,) numbers, or all as (n, 19). "regression" brings "white" with it,
    "veil" brings "blue-grey". The diagnosis follows from `rule` and one random number of the patient.
    """
    u = Draws(n, seed, "skin concepts", 24).uniform(0, 1, 24)
    kind, column = _level(_prior(prevalence).expand(n, -1), u[:, 0]), {}
    for k, name in enumerate(CONCEPTS, 2):
        if name in RANGE:
            w, (low, high) = torch.tensor(TILT[name]).double()[kind], RANGE[name]
            column[name] = low + (high - low) * torch.log1p(u[:, k] * torch.expm1(w)) / w
        else:
            column[name] = _level(_TABLE[name].T[kind], u[:, k]).double()
    if isinstance(concepts, Tensor):
        if concepts.shape != (n, len(CONCEPTS)):
            raise ValueError(f"concepts as a tensor must be ({n}, {len(CONCEPTS)}), but got {tuple(concepts.shape)}")
        concepts = dict(zip(CONCEPTS, concepts.unbind(1), strict=True))
    for name, given in (concepts or {}).items():
        if name not in CONCEPTS:
            raise ValueError(f"unknown concept {name!r}; choose from {', '.join(CONCEPTS)}")
        column[name] = _each(n, name, given).double()
    for cause, colour in IMPLIES.items():
        column[colour] = torch.maximum(column[colour], (column[cause] > 0).double())
    values = torch.stack([column[name] for name in CONCEPTS], 1).float()
    return values, _level(rule(values, prevalence), u[:, 1])


def cohort(n: int, size: int = 64, seed: int = 0, prevalence: dict[str, float] | None = None,
           concepts: dict[str, float | Tensor] | Tensor | None = None, hair=0.4, ruler=0.3, ink=0.15, bubbles=0.2,
           vignette=0.15, site=None, tone=None, age=None, sex=None, location=None, cast: float = 1.0,
           noisy: bool = True) -> Cohort:
    """n patients, one dermoscopic picture each; patient i depends on `seed` and i only.

    `image` (n, 3, size, size) RGB in [0, 1]; `mask` (n, size, size) 1 in the lesion; `label` (n,) the diagnosis, see
    names["label"]. `prevalence` and `concepts` as in `patients`: a concept set by hand changes only the pixels that
    it governs. Confounders `hair`, `ruler`, `ink` (marker pen), `bubbles` (gel), `vignette`: a probability, (n,)
    booleans, or a dictionary of probabilities per diagnosis (0 where left out). `site` 0 to 3 (`SCANNERS`), `tone`
    1 light to 6 dark, `age` in years, `sex` (0 female, 1 male), `location` 0 to 3 (`LOCATIONS`): a number or (n,)
    of them; None draws. `cast` scales the scanners' colour cast, 0 is perfect colour constancy. `noisy=False` leaves
    out sensor noise. `meta`: concepts (n, 19), probability (n, 5) from `rule`, globule_count, the confounders, site,
    tone, age, sex, location, fov in mm, and layer (n, 21, size, size): where each concept and confounder of
    names["layer"] is drawn; `box` (n, 21, 4) bounds the layers. Diameter is the outline's longest extent in mm.
    """
    values, label = patients(n, seed, prevalence, concepts)
    value, draws = dict(zip(CONCEPTS, values.unbind(1), strict=True)), Draws(n, seed, "skin", 900)
    draws.table, u = draws.table.float(), draws.uniform

    def field(name: str, cells: int, octaves: int = 1) -> Tensor:
        return cloud(n, seed, f"skin {name}", size, cells, 2, octaves)

    worn = {name: u() < _each(n, name, given, label)
            for name, given in zip(CONFOUNDERS, (hair, ruler, ink, bubbles, vignette), strict=True)}
    who = {name: _each(n, name, given, drawn=drawn) for name, given, drawn in (
        ("site", site, u(0, 4).floor()), ("tone", tone, 1 + 5 * u() ** 3), ("age", age, u(18, 90)),
        ("sex", sex, u(0, 2).floor()), ("location", location, u(0, 4).floor()))}
    fov = u(10.5, 15.5)
    pixel, (x, y) = fov / size, (g.float() * px(fov) / 2 for g in unit_grid(size))
    # ---- skin
    old, fine = px(((who["age"] - 20) / 60).clamp(0, 1.2)), field("fine", 40, 2)
    melanin = px(0.06 + 0.05 * (who["tone"] - 1) ** 1.9) * (1 + 0.15 * field("tan", 6, 4)) + px(u(0.01, 0.035)) * fine
    melanin = melanin + 0.2 * old * torch.sigmoid((field("lentigo", 8, 3) - 1.6) * 6)
    blood = px(u(0.05, 0.2)) + px(u(0.01, 0.07)) * (0.5 + old) * field("mottle", 10, 4)
    blood = blood + px(u(0.0, 0.025)) * (1 + (who["location"][:, None, None] > 1)) * fine
    # ---- outline: r is 1 on it
    contour, centre = _contour(draws, value, fov)
    dx, dy = x - px(centre[:, 0]), y - px(centre[:, 1])
    angle = torch.atan2(dy, dx)
    reach = radius_at(contour, angle)
    r = torch.hypot(dx, dy) / reach
    fade = px(u(0.12, 0.55)) * (1 + 0.4 * field("fade", 3)).clamp(0.4, 1.4) + px(pixel) / 2
    edge = torch.sigmoid(2 * (1 - r) * reach / fade + 0.9 * field("rim", 18, 2))
    # ---- colours in ragged patches, concentric in a symmetrical lesion
    stray, aim = (0.08 + 0.5 * value["asymmetry"])[:, None] * u(0.5, 1.1, 6), u(0, 6.3, 6)
    qx, qy, patch = r * angle.cos(), r * angle.sin(), {}
    for k, (name, wide) in enumerate(PATCHES.items()):
        gap = torch.hypot(qx - px(stray[:, k] * aim[:, k].cos()), qy - px(stray[:, k] * aim[:, k].sin()))
        patch[name] = 1 - gap / wide + 0.5 * field(name, 8, 3)
    layer = {name: torch.sigmoid(patch[name] * 5) * edge for name in COLOURS}
    layer["veil"] = torch.sigmoid((patch["blue-grey"] + 0.5) * 4) * edge
    layer["regression"] = torch.sigmoid((patch["white"] + 0.45) * 4) * edge
    # ---- structures
    def at(part: Tensor, turn: Tensor) -> Tensor:
        away = part * radius_at(contour, turn)
        return centre[:, None] + torch.stack([away * turn.cos(), away * turn.sin()], -1)

    layer["network"] = _network(draws, value["network"], x, y, field) * edge * torch.sigmoid((r - 0.45) * 7)
    even, count, step = value["globules"][:, None] < 2, 6 + u(0, 15).floor(), torch.arange(20.0)
    part = torch.where(even, ((step + 0.5) / count[:, None]).sqrt() * 0.85, u(0, 0.95, 20).sqrt())
    turn = torch.where(even, 2.4 * step + u(0, 0.4, 20), 1.1 * draws.normal(0, 1, 20)) + u(0, 6.3)[:, None]
    wide = torch.where(even, u(0.2, 0.27)[:, None], u(0.1, 0.42, 20)) * (step < count[:, None])
    layer["globules"] = _spots(x, y, at(part, turn), wide, pixel)
    for name, (many, low, high) in SPOTS.items():
        place = at(u(0.05, 0.85, many).sqrt(), u(0, 6.3, many))
        layer[name] = _spots(x, y, place, u(low, high, many), pixel) * edge
    for name, (many, start, back, length, bend, width) in CURVES.items():
        turn = u(0, 6.3, many)
        layer[name] = _curves(x, y, at(u(*start, many), turn), turn + back * math.pi + u(-bend, bend, many),
                              u(*length, many), u(-bend, bend, many), u(*width, many), pixel)
    layer = {name: layer[name] * px((value[name] > 0).float()) for name in LEVELS}
    # ---- absorption, then films
    grain, dose = 1 + 0.22 * field("grain", 22, 3), px(u(0.4, 0.9))
    brown = 0.16 * edge + 0.5 * layer["light brown"] + 0.95 * layer["dark brown"] + 1.9 * layer["black"]
    melanin = melanin + dose * (grain * brown + (0.5 + 0.35 * px((value["network"] > 1).float())) * layer["network"]
                                + 0.7 * layer["globules"] + 2.2 * layer["dots"] + 0.8 * layer["streaks"])
    blood = blood + 0.14 * edge + grain * (0.7 * layer["red"] + 1.5 * layer["lacunae"]) + 1.1 * layer["vessels"]
    image = torch.exp(-(melanin.clamp(min=0)[:, None] * MELANIN + blood.clamp(min=0)[:, None] * BLOOD))
    image = image * PALE * (1 - 0.3 * layer["black"])[:, None]
    for name, (colour, most) in FILMS.items():
        image = blend(image, (grain[:, None] * 0.5 + 0.5) * torch.tensor(colour)[:, None, None], most * layer[name])
    image, on_top = _dressed(image, draws, worn, who, x, y, fov, pixel, field)
    # ---- camera
    light = 1 - px(u(0.0, 0.3)) * (x**2 + y**2) / px(fov) ** 2 + 0.03 * field("light", 2)
    gain = 1 + cast * (CAST[who["site"].long()] - 1 + draws.normal(0, 0.02, 3))
    image = image * (light * px(u(0.92, 1.08)))[:, None] * gain[:, :, None, None]
    image = torch.lerp(image, blur(image, 0.6 * size / 64), (0.3 * u() + 0.3 * (who["site"] == 3))[:, None, None, None])
    if noisy:
        image = image + 0.01 * noise(n, seed, "skin sensor", (3, size, size))
    layers = torch.stack([(layer | on_top)[name] > 0.05 for name in LAYERS], 1)
    meta = {"concepts": values, "probability": rule(values, prevalence).float(), "fov": fov, "layer": layers,
            "globule_count": count * (value["globules"] > 0)} | worn | who
    return Cohort(image=image.clamp(0, 1), mask=(r < 1).long(), label=label, box=boxes(layers), meta=meta,
                  names={"mask": ("background", "lesion"), "image": ("red", "green", "blue"), "label": DIAGNOSES,
                         "concepts": CONCEPTS, "layer": LAYERS, "box": LAYERS, "site": SCANNERS, "location": LOCATIONS},
                  units={"image": "RGB, 0 to 1", "box": "pixels", "fov": "mm", "age": "years"})


def _prior(prevalence: dict[str, float] | None) -> Tensor:
    prevalence = PREVALENCE if prevalence is None else prevalence
    weights = torch.tensor([float(prevalence.get(name, 0)) for name in DIAGNOSES], dtype=torch.float64)
    if set(prevalence) - set(DIAGNOSES) or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"prevalence needs weights >= 0 for some of {', '.join(DIAGNOSES)}, but got {prevalence}")
    return weights / weights.sum()


def _level(probability: Tensor, u: Tensor) -> Tensor:
    """Categories (n,) by the cumulative `probability` (n, K) at u (n,)."""
    return (u[:, None] > probability.cumsum(1)[:, :-1]).sum(1)


def _each(n: int, name: str, given, label: Tensor | None = None, drawn: Tensor | None = None) -> Tensor:
    """A number, or one per patient, or a dictionary of numbers per diagnosis, as (n,) within `LIMITS`."""
    if isinstance(given, dict):
        given = torch.tensor([*texture.chances(given, dict.fromkeys(DIAGNOSES, 0.0)).values()])[label]
    return texture.each(n, name, given, *LIMITS[name], drawn, name in WHOLE)


def _contour(draws: Draws, value: dict[str, Tensor], fov: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (n, 720) of the outline from the lesion's `centre` (n, 2), in mm, all around."""
    angle = (torch.arange(720) * (math.pi / 360)).expand(len(fov), -1)
    ray = torch.stack([angle.cos(), angle.sin()], -1)
    waves = torch.zeros(len(fov), 18)
    for first, last, size in ((2, 6, 0.035), (3, 6, 0.2 * value["asymmetry"]), (6, 18, 0.012 + 0.07 * value["border"])):
        wave = draws.normal(0, 1, last - first + 1) * torch.arange(first, last + 1) ** -1.2
        waves[:, first - 1:last] += wave / wave.norm(dim=1, keepdim=True) * torch.as_tensor(size).view(-1, 1)
    narrow, turn, phase = (draws.uniform(*pair) for pair in ((0.68, 0.98, 1), (0, 6.3, 1), (0, 6.3, 18)))
    radius = outline(angle, waves, phase) / torch.hypot((angle - turn).cos(), (angle - turn).sin() / narrow)
    points = (radius[..., None] * ray)[:, ::3]
    scale = value["diameter"] / torch.cdist(points, points).amax((1, 2))
    low, high = (scale[:, None] * end for end in (points.amin(1), points.amax(1)))
    room = (0.96 * fov[:, None] - (high - low)).clamp(min=0) / 2
    return radius * scale[:, None], room * draws.normal(0, 0.3, 2) - (low + high) / 2


def _network(draws: Draws, kind: Tensor, x: Tensor, y: Tensor, field) -> Tensor:
    """Lines of a honeycomb: the minima of three waves 60 degrees apart, bent a little or, for kind 2, a lot."""
    odd, turn = px((kind > 1).float()), px(draws.uniform(0, math.pi))
    scale = 2 * math.pi / px(draws.uniform(0.55, 0.72)) / (1 + 0.3 * odd)
    a, b = (g * scale + (0.9 + 0.9 * odd) * field(f"warp {k}", 20) for k, g in enumerate((x, y)))
    total = sum(torch.cos(a * (turn + k * math.pi / 3).cos() + b * (turn + k * math.pi / 3).sin()) for k in range(3))
    torn = 1 - 0.75 * odd * torch.sigmoid((field("torn", 5) - 0.4) * 4)
    return torn * torch.sigmoid((0.1 - total + odd * 0.6 * field("mesh", 8)) * 2.5)


def _spots(x: Tensor, y: Tensor, centre: Tensor, radius: Tensor, pixel: Tensor) -> Tensor:
    """How much of each pixel soft discs at `centre` (n, K, 2) of `radius` (n, K) cover."""
    cover, pixel = torch.zeros_like(x), px(pixel)
    for k in range(radius.shape[1]):
        r, away = px(radius[:, k]), ((x - px(centre[:, k, 0])) ** 2 + (y - px(centre[:, k, 1])) ** 2).sqrt()
        disc = ((r - away) / pixel.maximum(r / 2) + 0.5).clamp(min=0).minimum((2 * r / pixel).clamp(max=1) ** 2)
        cover = torch.maximum(cover, disc)
    return cover


def _curves(x: Tensor, y: Tensor, start: Tensor, turn: Tensor, length: Tensor, bend: Tensor, width: Tensor,
            pixel: Tensor) -> Tensor:
    """How much of each pixel tapered arcs from `start` (n, K, 2), `length` (n, K) along `turn`, cover."""
    cover, pixel = torch.zeros_like(x), px(pixel)
    for k in range(width.shape[1]):
        along, across = turned(x, y, start[:, k], turn[:, k])
        part, bow = along / px(length[:, k]), px(bend[:, k])
        away = (across - bow * along * (1 - part)).abs() / (1 + (bow * (1 - 2 * part)) ** 2).sqrt()
        w = px(width[:, k]) * (1 - part.clamp(0, 1) ** 3)
        line = ((w / 2 - away) / pixel + 0.5).clamp(min=0).minimum((w / pixel).clamp(max=1))
        cover = torch.maximum(cover, line * (part > 0))
    return cover


def _dressed(image: Tensor, draws: Draws, worn: dict[str, Tensor], who: dict[str, Tensor], x: Tensor, y: Tensor,
             fov: Tensor, pixel: Tensor, field) -> tuple[Tensor, dict[str, Tensor]]:
    """Ink, ruler, gel bubbles, hair and dark corners over the skin, and how much of each pixel they cover."""
    on, half, thin, u = {k: px(worn[k].float()) for k in CONFOUNDERS}, px(fov) / 2, px(pixel), draws.uniform
    ring = (torch.hypot(x - half * px(u(-0.3, 0.3)), y - half * px(u(-0.3, 0.3))) - half * px(u(0.9, 1.25))).abs()
    there = torch.sigmoid((torch.cos(torch.atan2(y, x) - px(u(0, 6.3))) - px(u(-0.2, 0.9))) * 9)
    ink = torch.sigmoid((px(u(0.2, 0.7)) - ring) * 6 + 1.6 * field("pen", 26, 3)) * there * on["ink"]
    pen = torch.lerp(torch.tensor([0.36, 0.30, 0.80]), torch.tensor([0.40, 0.20, 0.32]), u()[:, None])
    image = blend(image, pen[:, :, None, None] * (0.5 + 0.5 * image), 0.75 * ink)
    middle = torch.stack([u(-0.12, 0.12), u(0.62, 0.85)], 1) * fov[:, None] / 2
    along, over = turned(x, y, middle, u(-0.25, 0.25))
    mark = (along * 2).round()
    tick = ((along - mark / 2).abs()).where((over < 0) & (over > -0.28 - 0.22 * (mark % 2 == 0)), half)
    bar = ((0.035 - tick.minimum(over.abs())) / thin + 0.5).clamp(min=0).minimum((0.07 / thin).clamp(max=1))
    bar = bar * (along.abs() < 5.05) * on["ruler"]
    image = image * (1 - 0.85 * bar)[:, None]
    where, big = u(-0.5, 0.5, 7, 2) * fov[:, None, None], 0.6 * u(0.2, 1, 7) ** 2.5
    disc, inner, shine = (_spots(x, y, where - big[..., None] * shift, big * part, pixel)
                          for shift, part in ((0, 1), (0, 0.7), (0.45, 0.3)))
    glint = on["bubbles"] * (0.4 * (disc - inner) + 0.1 * inner + 0.7 * shine).clamp(0, 0.9)
    image = blend(image, torch.full_like(image, 0.98), glint)
    lean, spread, many = u(0, 6.3, 1), u(0.2, 1.4, 1), 3 + 10 * u(0, 1, 1) + 4 * who["sex"][:, None]
    hair = _curves(x, y, u(-0.6, 0.6, 16, 2) * fov[:, None, None], lean + spread * draws.normal(0, 1, 16),
                   u(4, 16, 16), u(-1.3, 1.3, 16), u(0.05, 0.13, 16) * (torch.arange(16.0) < many), pixel) * on["hair"]
    fibre = torch.lerp(torch.tensor([0.15, 0.09, 0.06]), torch.tensor([0.58, 0.40, 0.20]), u(0, 1, 1))
    image = image * (1 - 0.2 * blur(hair[:, None], 1.2 * x.shape[-1] / 64))
    image = blend(image, fibre[:, :, None, None].expand_as(image), 0.85 * hair)
    rim = torch.hypot(x - half * px(u(-0.1, 0.1)), y - half * px(u(-0.1, 0.1))) / half - px(u(1.0, 1.3))
    dark = torch.sigmoid(rim / px(u(0.01, 0.06))) * on["vignette"]
    cover = dict(zip(CONFOUNDERS, (hair, bar, ink, disc * on["bubbles"], dark), strict=True))
    return image * (1 - 0.97 * dark)[:, None], cover
