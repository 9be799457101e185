"""Stylised abdomens for long-range tasks: twin kidneys that only the side of the liver tells apart, twin lesions.

Kidneys, spine, muscles and a midline aorta have the same distribution on both sides, mirrored or not; liver and
stomach lie far in front; the rest is left out.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from medtutor.phantom.abdomen_anatomy import MODALITIES, TISSUE, painter
from medtutor.phantom.abdomen_lesions import CLASSES, FINE
from medtutor.phantom.texture import Draws
from medtutor.render.body import Body, Builder, Shape, ellipsoid, half_space, rotation
from medtutor.render.shape import stack


def build(draws: Draws, mirrored: Tensor, prevalence: dict[str, float], twin: float | None) -> tuple[Body, Tensor]:
    """The bodies in normal situs (the caller mirrors them) and their labels (N, 3): liver tumour, kidney tumour, paired
    cyst."""
    n, u = draws.n, draws.uniform
    b = Builder(n, (*CLASSES, *FINE), MODALITIES)
    add, at = painter(b, draws, tuple(TISSUE)[:17]), partial(stack, n=n)
    girth, fat, middle = draws.normal(1, 0.02), u(6, 16), at(0, 0, 0)
    add("fat", ellipsoid(middle, at(girth * 136 + fat, girth * 106 + fat, math.inf)), "fat")
    add("wall", ellipsoid(middle, at(girth * 136, girth * 106, math.inf)), "muscle", within="fat")
    cavity = ellipsoid(middle, at(girth * 124, girth * 95, math.inf))
    add("cavity", cavity, "fat", within="wall")
    _spine(add, at, cavity)
    front = [cavity & half_space(at(0, 1, 0), at(0, y, 0)) for y in (-34, -40)]
    for name, shape in (("liver", ellipsoid(at(-58, -76, 0), at(54, u(38, 44), 120)) & front[0]),
                        ("stomach", ellipsoid(at(58, -72, 0), at(u(34, 42), 30, 110)) & front[1])):
        add(name, shape, name, within="cavity", organ=name)
    add("aorta", ellipsoid(at(0, 36, 0), at(9, 9, math.inf)), "blood", within="cavity", organ="aorta")
    found = _lesions(add, draws, at, _kidneys(add, draws, at, mirrored), prevalence, twin, mirrored)
    return b.build(), found


def _spine(add, at, cavity: Shape) -> None:
    """Vertebra, canal, processes and the muscles beside them; symmetric. Levels between discs are not modelled."""
    add("vertebra", ellipsoid(at(0, 68, 0), at(23, 18, math.inf)), "bone", within="cavity", organ="vertebra")
    add("marrow", ellipsoid(at(0, 68, 0), at(20, 15, math.inf)), "marrow", within="vertebra", organ="vertebra")
    add("canal", ellipsoid(at(0, 93.5, 0), at(9, 7, math.inf)), "canal", within="wall")
    for side in (-1, 1):
        turn = rotation(torch.tensor([side * 38.0]), "z")
        lamina = ellipsoid(at(side * 13, 92, 0), at(3.5, 11, math.inf), turn)
        add("lamina", lamina, "bone", within="wall", organ="vertebra")
        add("psoas", ellipsoid(at(side * 40, 74, 0), at(14, 15, math.inf)) & cavity, "muscle", within="cavity")


def _kidneys(add, draws: Draws, at, mirrored: Tensor) -> list[Tensor]:
    """Both kidneys; returns their centres (N, 3), right first. The draws belong to the sides of the IMAGE, so that
    mirroring the patient leaves the picture around the kidneys as it was."""
    ranges = (60, 66), (56, 62), (-28, -12), (22, 26), (16, 19), (46, 54), (4, 14), (0.85, 1.1)
    a, b = ([draws.uniform(*ends) for ends in ranges] for _ in range(2))
    drawn = [[torch.where(mirrored, x, y) for x, y in zip(*pair, strict=True)] for pair in ((b, a), (a, b))]
    made = []
    for side, (x, y, z, rx, ry, rz, lean, hilum) in zip((-1, 1), drawn, strict=True):
        name = "right kidney" if side < 0 else "left kidney"
        centre, radii = at(side * x, y, z), at(rx, ry, rz)
        turn = rotation(-side * lean, "y") @ rotation(side * (lean + 12), "z")
        add(name, ellipsoid(centre, radii, turn), "kidney", within="cavity", organ=name)
        sinus = centre + at(-side * 9, -3, 0), at(rx * 0.45 * hilum, ry * 0.42, rz * 0.5), turn
        add(f"{name} sinus", ellipsoid(*sinus), "sinus", within=name)
        made.append(centre)
    return made


def _lesions(add, draws: Draws, at, kidneys: list, prevalence: dict, twin: float | None, mirrored: Tensor) -> Tensor:
    """Tumours of liver and kidneys; returns labels (N, 3) for liver tumour, kidney tumour, paired cyst."""
    u, n = draws.uniform, draws.n
    has_liver, more = draws.chance(prevalence["liver tumour"]), draws.chance(0.4)
    for k, (x, on) in enumerate(((-75, has_liver), (-58, has_liver & more))):
        mass = ellipsoid(at(x + u(-6, 6), -48 + u(-8, 6) * 0.5, -22 + u(-22, 22)), u(6, 9)[:, None] * u(0.85, 1.15, 3))
        over = ("liver tumour 0",)
        add(f"liver tumour {k}", mass, "liver tumour", within="liver", organ="liver tumour", present=on, over=over)
    found = torch.zeros(n, 2, dtype=torch.bool)
    single, upper = draws.chance(prevalence["kidney tumour"]), draws.chance(0.5)
    for k, pole in enumerate((-1, 1)):
        on, first, radius = draws.chance(prevalence["kidney tumour"]), draws.chance(0.5), u(10, 13)
        paired = draws.chance(twin or 0.0)
        spot = torch.stack([u(8, 13), u(-5, 3), pole * u(22, 27)], 1)
        if twin is None:
            on, paired = single & (upper == (pole > 0)), paired & False
        wobble = draws.normal(0, 0.7, 2, 3)
        wobble = torch.where(mirrored[:, None, None], wobble.flip(1), wobble)
        for s, name in enumerate(("right kidney", "left kidney")):
            own = first ^ mirrored ^ (s == 1)
            place = kidneys[s] + (spot + wobble[:, s]) * at(2 * s - 1, 1, 1)
            mass = ellipsoid(place, radius[:, None].expand(n, 3))
            over = name, f"{name} sinus"
            for kind, here in (("kidney tumour", on & own & ~paired), ("paired cyst", on & paired)):
                add(f"{kind} {name} {k}", mass, "kidney tumour", within="cavity", over=over, organ=kind, present=here)
        found |= torch.stack([on & ~paired, on & paired], 1)
    return torch.cat([has_liver[:, None], found], 1).float()
