"""Small controlled worlds: coloured shapes, lesions drawn from attributes, and tasks that need far context.

Every object is a radial outline with one value of each attribute of `WORDS`. The plane is [-1, 1] x [-1, 1], x to the
right and y down; side 0 is the picture's left, which in a radiograph is the patient's right.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import abdomen, skin, texture, thorax
from medtutor.phantom.texture import Draws, blend, blur, boxes, cloud, noise, outline, px, radius_at, turned, unit_grid

WORDS, PHRASE, DRAWN, HUES = texture.table("scenes").values()
COLOURS = torch.tensor(DRAWN["shapes"]["colour"])
GROUNDS, TASKS = ("xray", "ct", "plain", "clouds", "stripes", "checks", "veins"), (*WORDS, "arrow", "cue", "match")
SOUNDS = (("bdfgklmnrstvxz", 1), ("aeiou", 14), ("bdfgklmnrstvxz", 70), ("aeiou", 980), ("klmnrstx", 4900))


def kinds(task: str = "lesions", **values) -> Tensor:
    """(T, 6) all combinations of values of attributes, such as kinds(shape=(0, 1, 2), density=(0, 2)); -1 where an
    attribute is free. Rows of it are the `types` of `cohort`: leave some out to hold them out."""
    if task not in WORDS or set(values) - set(WORDS[task]):
        raise ValueError(f"kinds takes a task of {', '.join(WORDS)} and its attributes, but got {task!r}, {[*values]}")
    return torch.tensor([*product(*(values.get(name, (-1,)) for name in WORDS[task]))])


def opaque(kind: Tensor) -> str:
    """A name without meaning for a kind (6,), such as "gomaruk": the same for the same kind in every cohort."""
    code = sum((int(value) + 1) * step for value, step in zip(kind, (1, 7, 49, 196, 784, 3136), strict=True))
    return "".join(sounds[code * 7919 % 39200 // step % len(sounds)] for sounds, step in SOUNDS)


def phrase(values: Tensor, task: str = "lesions") -> str:
    """The values (6,) of one object in words: "small dense hollow round lesion in the right upper zone"."""
    return PHRASE[task].format(*(words[int(value)] for words, value in zip(WORDS[task].values(), values, strict=True)))


def cohort(n: int, size: int = 64, seed: int = 0, task: str = "lesions", ground: str | None = None,
           types: Tensor | None = None, count: tuple[int, int] = (1, 4), near: bool = False, right: float = 0.5,
           late: float = 0.0, noisy: bool = True) -> Cohort:
    """n pictures; picture i depends on `seed`, the options and i only. `noisy=False` leaves out noise.

    task "lesions" (grey) and "shapes" (RGB): `count` objects, 0 to 4, in different ones of six places (zone by side; on
    "xray" in the thirds of the lungs), over a `ground` of GROUNDS: lesions on "xray" if None, shapes on any but the
    first two, meta ground (n,). One object is the target. Each is of one of `types` (T, 6), see `kinds`, equally often
    as far as its place allows, and none is of the target's type where another fits; `near`: preferably of types that
    differ from the target's in one of shape, density or colour, texture and size. `right`: probability that the
    target's side is side 0, "right" for lesions.
    `image` (n, C, size, size) in [0, 1]; `mask` (n, size, size) 1 in the target; `box` (n, 4, 4) and meta lesion_mask
    (n, 4, size, size), attribute (n, 4, 6), type (n, 4) as row of `types`, one slot an object, from top to bottom, -1
    where absent; meta target (n,) its slot, -1 without objects; `label` (n, T): which types occur, named by `opaque`;
    `report`: phrases of all objects; meta phrase: that of the target. An object may cover part of another.

    task "arrow" (grey): an arrow points in a direction, meta direction (n,) times 45 degrees from right to down,
    to one of four objects at 0.55 half widths; `label` (n,) its shape, `mask` (n, size, size) the object.
    task "cue": a chest radiograph; the hook at the tip of a catheter at the top points to the side of that of two equal
    tubes at the bottom, 0.7 of the picture away, that is `mask`. `late`: probability that tubes are at the top and the
    catheter below (meta late). task "match" (RGB): dermoscopy of two lesions; `mask` is the one that has the hue of the
    dot in the corner, meta hue (n, 2), left and right. For both, meta target (n,) is 0 left, 1 right.
    """
    if task not in TASKS or ground not in (None, *GROUNDS) or not 0 <= count[0] <= count[1] <= 4:
        raise ValueError(f"need a task of {', '.join(TASKS)}, a ground of {', '.join(GROUNDS)} or None, and a count "
                         f"within 0 and 4, but got {task!r}, {ground!r}, {count}")
    draws = Draws(n, seed, f"scenes {task}", 256)
    if task not in WORDS:
        image, mask, meta, names = {"arrow": _arrow, "cue": _cue, "match": _match}[task](draws, size, seed, late, noisy)
        return Cohort(image=image.clamp(0, 1).float(), mask=mask.long(), label=meta.pop("label", None), meta=meta,
                      names={"mask": ("background", "target"), **names}, units={"image": "0 to 1"})
    words, u, row, cells = WORDS[task], draws.uniform, torch.arange(n), torch.tensor([*product(range(3), range(2))])
    many = torch.tensor([len(values) for values in words.values()])
    types = kinds(task, **{name: range(len(words[name])) for name in [*words][:4]}) if types is None else types
    if types.ndim != 2 or types.shape[1] != 6 or not len(types) or ((types >= many) | (types < -1)).any():
        raise ValueError(f"types must be rows of 6 values, of {', '.join(words)}, -1 where free, but got {types}")
    # ---- where the objects are, and of what type: the target first
    fits = ((types[:, None, 4:] == cells) | (types[:, None, 4:] < 0)).all(-1).double()
    free, bias, made = fits.amax(0).repeat(n, 1), torch.tensor([right, 1 - right] * 3).double(), []
    if fits.amax(0).sum() < count[1] or not (fits.amax(0) * bias).any():
        raise ValueError(f"types fit too few places for {count[1]} objects with right={right}; lower count")
    total = count[0] + (u() * (count[1] - count[0] + 1)).long()
    for k in range(4):
        cell, chosen, drawn = _pick(free if k else free * bias, u()), u(), (u(0, 1, 6) * many).long()
        allowed = fits.T[cell]
        for most, first in ((6, 6), (1, 4))[:(k > 0) * (1 + near)]:
            unlike = (types[:, :first] != types[made[0][:, :1], :first]).sum(-1)
            some = allowed * (unlike > 0) * (unlike <= most)
            allowed = torch.where(some.any(1, True), some, allowed)
        kind, free[row, cell] = _pick(allowed, chosen), 0
        value = torch.where(types[kind] < 0, drawn, types[kind])
        made.append(torch.cat([kind[:, None], value[:, :4], cells[cell]], 1))
    made, there = torch.stack(made, 1), torch.arange(4) < total[:, None]
    order = torch.where(there, made[..., 5] * 2 + made[..., 6], 6 + torch.arange(4)).argsort(1)
    kind, target = made[row[:, None], order], torch.where(total > 0, order.argmin(1), -1)
    _, shape, shade, fill, width, zone, side = kind.unbind(-1)
    kind = torch.where(there[..., None], kind, -1)
    # ---- the picture
    image, spots, which = _ground(draws, size, seed, task, ground, noisy)
    scale, paint, strength = (torch.tensor(part) for part in DRAWN[task].values())
    reach = scale[width] * u(0.94, 1.06, 4)
    r, a, b = _outlined(draws, shape, spots[row[:, None], 2 * zone + side] + u(-0.04, 0.04, 4, 2), reach, size)
    fill, shown, sharp = (v[..., None, None] for v in (fill, strength[shade] * there, reach * size))
    sharp, masks = sharp if task == "shapes" else 7, (r < 1) & there[..., None, None]
    cover, mottle = shown * torch.sigmoid((1 - r) * sharp), torch.sigmoid(4 * torch.sin(5 * a) * torch.sin(5 * b))
    cover = cover * (1 - (fill == 1) * 0.8 * (1 - mottle) - (fill == 2) * torch.sigmoid((0.55 - r) * 1.5 * sharp))
    for k in range(4):
        image = blend(image, paint[shade[:, k], :image.shape[1], None, None], cover[:, k])
    image = image + 0.02 * noisy * noise(n, seed, f"scenes {task}", tuple(image.shape[1:]))
    named = [[phrase(one, task) for one in some if one[0] >= 0] for some in kind[..., 1:]]
    return Cohort(
        image=image.clamp(0, 1).float(), mask=(masks[row, target] & px(target >= 0)).long(), box=boxes(masks),
        label=(kind[..., :1] == torch.arange(len(types))).any(1).float(), report=[". ".join(some) for some in named],
        names={"mask": ("background", "target"), "label": (*map(opaque, types),), "ground": GROUNDS}
        | texture.worded(words),
        meta={"lesion_mask": masks, "attribute": kind[..., 1:], "type": kind[..., 0], "target": target, "ground": which,
              "phrase": [some[t] if some else "" for some, t in zip(named, target, strict=True)]},
        units={"image": "0 to 1", "box": "pixels"})


def _pick(weight: Tensor, u: Tensor) -> Tensor:
    """Indices (n,) drawn with weights (n, C), by uniform numbers (n,)."""
    edge = weight.cumsum(1)
    return (edge <= u[:, None] * edge[:, -1:]).sum(1).clamp(max=weight.shape[1] - 1)


def _healthy(n: int, size: int, seed: int, noisy: bool) -> Cohort:
    return thorax.cohort(n, size, seed, prevalence=dict.fromkeys(thorax.FINDINGS, 0.0), noisy=noisy)


def _ground(draws: Draws, size: int, seed: int, task: str, ground: str | None, noisy: bool) -> tuple[Tensor, ...]:
    """Pictures (n, C, size, size), the six places (n, 6, 2) and the index into GROUNDS (n,)."""
    n, u, (x, y) = draws.n, draws.uniform, (g.float() for g in unit_grid(size))
    turn, base, contrast = u(0, math.pi), u(0.25, 0.7, 1) + u(-0.07, 0.07, 3), u(0.1, 0.2, 1, 1, 1)
    scale, which, ground = px(u(9, 16)), u(2, 7).long(), ground or ("xray" if task == "lesions" else None)
    which = which if ground is None else torch.full((n,), GROUNDS.index(ground))
    spots = torch.tensor([*product((-0.62, 0, 0.62), (-0.5, 0.5))]).flip(1).expand(n, 6, 2)
    if ground == "xray":
        film = _healthy(n, size, seed, noisy)
        lung = film.landmark.view(n, 3, 16, 2)[:, :2] * 2 / size - 1
        return film.image, torch.stack([torch.lerp(lung.mean(2), lung[:, :, k], part) for k, part in (
            (0, 0.5), (0, 0), (8, 0.5))], 1).flatten(1, 2), which
    if ground == "ct":
        return abdomen.cohort(n, size, seed, level="liver", prevalence=dict.fromkeys(abdomen.PREVALENCE, 0.0),
                              window=(-120, 240), noisy=noisy).image, spots * torch.tensor([0.7, 0.55]), which
    f = cloud(n, seed, "scenes ground", size, 3, 2, 4)
    a, b = (scale * (x * px((turn + q).cos()) + y * px((turn + q).sin())) for q in (0, math.pi / 2))
    weave = torch.stack([0.2 * f, f, (a + 1.5 * f).sin(), a.sin() * b.sin(), 2 * torch.exp(-(f * 4) ** 2) - 0.5], 1)
    image = base[..., None, None] + contrast * weave[torch.arange(n), (which - 2)][:, None]
    return (image.mean(1, True) if task == "lesions" else image).float(), spots, which


def _outlined(draws: Draws, shape: Tensor, centre: Tensor, reach: Tensor, size: int) -> tuple[Tensor, ...]:
    """r (n, K, size, size), 1 on the outlines of `shape` (n, K), index into the words of "shapes", and coordinates in
    units of `reach`, from `centre` (n, K, 2)."""
    turn, wave, phase = (draws.uniform(*to, shape.shape[1], k).view(-1, k) for to, k in (
        ((-0.5, 0.5), 1), ((0.04, 0.14), 5), ((0, 6), 5)))
    angle = torch.arange(720).double() * (math.pi / 360) - turn
    box, wedge = (1.2 * math.cos(math.pi / m) / torch.cos(angle % (2 * math.pi / m) - math.pi / m) for m in (4, 3))
    oval, star = 1 / torch.hypot(angle.cos() / 1.3, angle.sin() / 0.68), 0.82 + 0.3 * (5 * angle).cos()
    edge = torch.stack([angle * 0 + 1, oval, outline(angle, wave, phase), box, wedge, star], 1).float()
    a, b = ((g.float() - centre[..., k, None, None].float()) / reach[..., None, None].float()
            for k, g in enumerate(unit_grid(size)))
    edge = radius_at(edge[torch.arange(len(edge)), shape.flatten()], torch.atan2(b, a).flatten(0, 1)).view_as(a)
    return torch.hypot(a, b) / edge, a, b


def _arrow(draws: Draws, size: int, seed: int, late: float, noisy: bool) -> tuple[Tensor, Tensor, dict, dict]:
    n, u = draws.n, draws.uniform
    way = (u(0, 8, 1).long() + torch.cat([torch.zeros(n, 1), u(0, 1, 7).argsort(1)[:, :3] + 1], 1)) % 8
    turn, place, form = way * (math.pi / 4), u(-0.3, 0.3, 1, 2), u(0, 1, 4).argsort(1)
    there = place + 0.55 * torch.stack([turn.cos(), turn.sin()], -1)
    r, _, _ = _outlined(draws, torch.tensor([0, 3, 4, 5])[form], there, torch.full((n, 4), 0.13), size)
    a, b = turned(*unit_grid(size), place[:, 0], turn[:, 0])
    head, shaft = a.minimum((0.17 - a) * 0.6 - b.abs()), (a + 0.17).minimum(0.02 - a).minimum(0.035 - b.abs())
    image = 0.3 + 0.07 * cloud(n, seed, "scenes arrow", size, 5, 2, 3)[:, None]
    image = image + 0.03 * noisy * noise(n, seed, "scenes arrow", (1, size, size))
    image = blend(image, torch.ones(()), 0.6 * torch.sigmoid((1 - r) * 0.13 * size).amax(1))
    image = blend(image, torch.ones(()), torch.sigmoid(head.maximum(shaft) * 2 * size))
    return image, r[:, 0] < 1, {"direction": way[:, 0].long(), "label": form[:, 0]}, {
        "label": ("circle", "square", "triangle", "star")}


def _cue(draws: Draws, size: int, seed: int, late: float, noisy: bool) -> tuple[Tensor, Tensor, dict, dict]:
    n, u, (x, y) = draws.n, draws.uniform, unit_grid(size)
    target, late, top, gap = u(0, 2).long(), draws.chance(late), px(u(-0.2, 0.2)), px(u(0.3, 0.42))
    y, bend, phase = torch.where(px(late), -y, y), px(u(0.03, 0.06)), px(u(0, 6.3))
    hook = (x - top) * px(2.0 * target - 1)
    line = torch.hypot(x - top, y - y.clamp(max=-0.87)).minimum(torch.hypot(hook - hook.clamp(0, 0.12), y + 0.87))
    tubes = [torch.hypot(x - side * gap + bend * (4 * y + phase).sin(), y - y.clamp(0.55, 0.88)) for side in (-1, 1)]
    image, near = _healthy(n, size, seed, noisy).image, line.minimum(tubes[0].minimum(tubes[1]))
    for colour, wide in ((0.1, 0.045), (1.0, 0.018)):  # a dark tube with a radiopaque line shows on lung and abdomen
        image = blend(image, torch.tensor(colour), 0.9 * torch.sigmoid((wide - near) * size * 1.5))
    return image, torch.where(px(target == 0), *tubes) < 0.045, {"target": target, "late": late}, {}


def _match(draws: Draws, size: int, seed: int, late: float, noisy: bool) -> tuple[Tensor, Tensor, dict, dict]:
    n, u, (x, y), row = draws.n, draws.uniform, unit_grid(size), torch.arange(draws.n)
    target, first, other, corner = u(0, 2).long(), u(0, 4).long(), u(1, 4).long(), px(u(0.78, 0.86))
    hue, colours = torch.stack([first, (first + other) % 4], 1), torch.tensor([*HUES.values()])[..., None, None]
    both = skin.cohort(2 * n, size, seed, concepts={"diameter": 4.0}, hair=0.1, ruler=0, ink=0, bubbles=0.1, vignette=0,
                       site=0, tone=u(1, 2.5).repeat_interleave(2), age=40.0, location=0, cast=0.0, noisy=noisy)
    middle = boxes((both.mask == 1)[:, None])[:, 0, ::2].mean(1) - size * torch.tensor([0.25, 0.75]).repeat(n)
    column = (torch.arange(size) + middle[:, None].round().long()).clamp(0, size - 1)[:, None, None]
    image, mask = (v.gather(3, column.expand_as(v)) for v in (both.image, both.mask[:, None].float()))
    light = image.mean(1, True) / ((image * mask).mean((1, 2, 3)) / mask.mean((1, 2, 3))).view(-1, 1, 1, 1)
    image = blend(image, colours[hue.flatten()] * light, 0.9 * blur(mask, 0.8 * size / 64)[:, 0])
    around = (image * (1 - mask)).sum((2, 3), True) / (1 - mask).sum((2, 3), True)
    image = torch.lerp(image[::2], image[1::2] * around[::2] / around[1::2], torch.sigmoid(x * 12).float()).clamp(max=1)
    image = blend(image, colours[hue[row, target]], torch.sigmoid((0.12 - torch.hypot(x + corner, y + corner)) * size))
    return image, mask.view(n, 2, size, size)[row, target], {"target": target, "hue": hue}, {"hue": (*HUES,)}
