"""The body of the abdomen from the breasts to the colon, painted from the atlas in abdomen.yml: what comes later hides
what was there. Lengths in mm of an average frame (axes as in `render.body`), times each patient's `scale` (N, 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import and_
from types import SimpleNamespace

import torch
from torch import Tensor

from medtutor.phantom import abdomen_lesions
from medtutor.phantom.abdomen_lesions import ATLAS, CLASSES, FINE
from medtutor.phantom.texture import Draws
from medtutor.render.body import Body, Builder, Shape, ellipsoid, half_space, rotation, tube
from medtutor.render.shape import stack

MODALITIES = {"ct": -1000.0, "mr": 0.0, "mr-t1": 0.0, "arterial": -1000.0, "delayed": -1000.0}  # and their air
TISSUE = ATLAS["tissues"]
SIDES = (-1, "right"), (1, "left")
RIBS = (130, 130, 130, 130, 130, 125, 115, 105, 85, 45, 5)  # degrees from the side to the front end


def painter(b: Builder, draws: Draws, tissues: tuple[str, ...]) -> Callable:
    """`b.add` with a tissue's name in place of values; patients differ in the value of each tissue."""
    vary = {name: draws.normal(0, 1) for name in tissues}

    def add(name: str, shape: Shape | list[Shape], tissue: str, **options) -> None:
        hu, t2, t1, arterial, delayed = (*TISSUE[tissue], *TISSUE[tissue][:1] * 2)[:5]
        spread = (0.06 * max(abs(hu), 40) if tissue != "gas" else 0) * vary[tissue]
        share = 1 + 0.07 * vary[tissue]
        b.add(name, shape, ct=hu + spread, arterial=arterial + spread, delayed=delayed + spread, mr=t2 * share,
              **{"mr-t1": t1 * share}, **options)
    return add


def build(draws: Draws, prevalence: dict[str, float], lesions: tuple[int, int] | None = None,
          level: Tensor | None = None, phases: bool = False) -> tuple[Body, dict[str, Tensor], dict[str, Tensor]]:
    """The bodies in normal situs (the caller mirrors them), the facts of `abdomen_lesions.add`, and landmarks
    {name: (N, 3)} in mm. With `level` (N,), the `lesions` lie at that height."""
    n, u = draws.n, draws.uniform
    b, scale = Builder(n, (*CLASSES, *FINE), MODALITIES), draws.normal(1, 0.03, 1) * draws.normal(1, 0.025, 3)
    paint = painter(b, draws, tuple(TISSUE))
    p = SimpleNamespace(u=u, chance=draws.chance, scale=scale, size=scale.mean(1), marks={}, named={}, fat=u(6, 20))
    p.first = u(-8, 8)
    p.places = {f"{side} kidney": [(s * u(62, 67), u(31, 38), 6 * s - 10 + u(-8, 8))] for s, side in SIDES}
    p.places["vertebrae"] = [(0, 0, p.first + 17 + 34 * k) for k in range(-4, 6)]
    p.add = lambda shape, tissue, organ=None, on=None: paint("", shape, tissue, organ=organ, present=on)
    p.at = lambda x, y, z: scale * stack(x, y, z, n=n)
    p.ball = lambda centre, radii, turn=None: ellipsoid(p.at(*centre), p.at(*radii), turn)
    p.cut = lambda normal, point: half_space(torch.tensor(normal, dtype=torch.float64), p.at(*point))
    p.pipe = lambda line, r: tube([p.at(*point) for point in line], p.size[:, None] * stack(*r, n=n))
    p.turn = lambda degrees, axis: rotation(stack(degrees, n=n)[:, 0], axis)
    p.number = lambda v: u(*v) if isinstance(v, list) else v
    p.marks["vertebra centre"] = p.at(0, 39, p.first + 17)
    abdomen_lesions.plan(p, prevalence, lesions, level, phases)
    for chapter, after in (("trunk", _ribs), ("chest", None), ("liver parts", abdomen_lesions.add_to_liver),
                           ("viscera", None)):
        for step in ATLAS[chapter]:
            _paint(p, step)
        if after:
            after(p)
    known = abdomen_lesions.add(p) | {"sex": (~p.female).long()}
    return b.build(opaque=True), known, p.marks


def _paint(p: SimpleNamespace, step: dict) -> None:
    """One step of the atlas (its terms are explained there)."""
    n, on, wall = p.number, p.female if "female" in step else None, step.get("wall", 0)
    for s, side in SIDES if "both" in step else ((1, ""),):
        organ = step.get("organ", "").replace("side", side) or None
        clips = [p.named[c] for c in step.get("clip", ())]
        clips += [p.cut((s * a, b, c), (s * x, y, z)) for a, b, c, x, y, z in step.get("cut", ())]
        places = step.get("at", ((0, 0, 0),))
        for dx, dy, dz in p.places[places.replace("side", side)] if isinstance(places, str) else places:
            if "pipe" in step:
                line = [(s * n(x) + dx, n(y) + dy, n(z) + dz) for x, y, z in step["pipe"]]
                rods = p.pipe(line, [n(r) for r in step["r"]])
                p.add([reduce(and_, clips, rod) for rod in rods], step["add"], organ)
                continue
            x, y, z, *radii = map(n, step["ball"])
            centre, turn = (s * x + dx, y + dy, z + dz), None
            more = step["and"][3:] if "and" in step else None
            if "fat" in step:
                radii, more = ([r + p.fat + step["fat"] for r in both[:2]] + both[2:] for both in (radii, more))
            for degrees, axis in step.get("turn", ()):
                one = p.turn(n(degrees) * (1 if axis == "x" else s), axis)
                turn = one if turn is None else turn @ one
            shape = p.ball(centre, radii, turn)
            shape = shape & p.ball(centre, more) if more else shape
            shape = p.named[step.get("name")] = reduce(and_, clips, shape)
            p.add(shape, step["add"], organ, on)
            if "mark" in step:
                _mark(p, step["mark"].replace("side", side), centre, radii, turn)
            if wall:
                inner = reduce(and_, clips, p.ball(centre, [r - wall for r in radii], turn))
                p.add(inner, step["of"], organ)
                for before, often in [step["gas"]] if "gas" in step else []:
                    p.add(inner & p.cut((0, 1, 0), (0, centre[1] + n(before), 0)), "gas", organ, p.chance(often))


def _mark(p: SimpleNamespace, name: str, centre: tuple, radii: tuple, turn: Tensor | None) -> None:
    """The middle of an ellipsoid and the points at 0.6 radii from it become landmarks: the same in every patient."""
    middle, axes = p.at(*centre), torch.diag_embed(p.at(*radii)) * 0.6
    axes = axes if turn is None else turn @ axes
    p.marks |= {f"{name} centre": middle} | {f"{name} {end}": middle + sign * axes[..., k] for k, sign, end in (
        (0, -1, "right"), (0, 1, "left"), (1, -1, "front"), (1, 1, "back"), (2, -1, "foot"), (2, 1, "head"))}


def _ribs(p: SimpleNamespace) -> None:
    """They fall from back to front, where the upper ones end in cartilage."""
    for s in (-1, 1):
        for k, end in enumerate(RIBS):
            angles, top = torch.linspace(-55, end, 9).deg2rad().tolist(), p.first + 181 - 24 * k
            rods = p.pipe([(s * 133.5 * math.cos(a), -4 - 96.5 * math.sin(a), top - 28 * a) for a in angles], [5.0] * 8)
            p.add(rods[:6], "rib", "rib")
            p.add(rods[6:], *(("cartilage",) if end > 100 else ("rib", "rib")))
