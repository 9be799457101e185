"""The body of the abdomen, from the lung bases and the breasts to the colon: thirteen organs, vessels, gut, skeleton.

Lengths in mm of an average frame (axes as in `body`), times each patient's `scale`. Large organs come first; what
dents them (stomach, kidneys, vessels, pancreas) is painted over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from medtutor.phantom import abdomen_lesions
from medtutor.phantom.abdomen_lesions import CLASSES, FINE
from medtutor.phantom.body import Body, Builder, Shape, ellipsoid, half_space, rotation, tube
from medtutor.phantom.texture import Draws

MODALITIES = {"ct": -1000.0, "mr": 0.0, "mr-t1": 0.0, "arterial": -1000.0, "delayed": -1000.0}  # and their air
# HU in the portal venous phase, signal in T2-like and T1-like MR, HU in the arterial and the delayed phase (if changed).
# Seen through -160 to 240 HU, pancreas, liver and kidney are in T1 what kidney, spleen and pancreas are in CT.
TISSUE = {
    "fat": (-100, 0.16, 0.82), "muscle": (58, 0.27, 0.40), "bone": (260, 0.20, 0.12), "marrow": (150, 0.26, 0.55),
    "canal": (25, 0.95, 0.15), "liver": (112, 0.46, 0.71, 72, 98), "spleen": (125, 0.62, 0.47, 140, 108),
    "kidney": (190, 0.74, 0.64, 205, 160), "sinus": (-40, 0.34, 0.80), "pancreas": (95, 0.50, 0.875, 110, 82),
    "stomach": (28, 0.86, 0.22), "gas": (-900, 0.02, 0.02), "blood": (165, 0.06, 0.10, 300, 130),
    "cava": (140, 0.12, 0.14, 80, 128), "bowel": (40, 0.55, 0.36), "liver tumour": (62, 0.64, 0.5),
    "kidney tumour": (95, 0.52, 0.5),
    "medulla": (145, 0.84, 0.48, 95, 165), "gut wall": (82, 0.42, 0.5, 95, 78), "bile": (12, 0.97, 0.30),
    "skin": (20, 0.3, 0.4), "rib": (380, 0.16, 0.14), "disc": (85, 0.40, 0.30), "cartilage": (118, 0.35, 0.3), "lung": (-830, 0.04, 0.04),
    "vein": (172, 0.10, 0.16, 90, 135), "adrenal": (80, 0.45, 0.6, 110, 65), "heart": (150, 0.2, 0.3, 220, 125),
    "gland": (30, 0.5, 0.4), "solid": (88, 0.55, 0.35, 105, 80), "dark": (52, 0.45, 0.5, 45, 62),
    "rim": (150, 0.68, 0.55, 165, 130), "necrosis": (48, 0.88, 0.28, 42, 55), "fluid": (8, 0.97, 0.15),
    "calcium": (650, 0.04, 0.05), "wash-out": (80, 0.66, 0.45, 175, 58), "fill-in": (80, 0.66, 0.45, 40, 150)}


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
    b, scale = Builder(n, (*CLASSES, *FINE), MODALITIES), draws.normal(1, 0.035)
    paint = painter(b, draws, tuple(TISSUE))
    p = SimpleNamespace(u=u, chance=draws.chance, scale=scale, marks={})
    p.add = lambda shape, tissue, organ=None, on=None: paint("", shape, tissue, organ=organ, present=on)
    p.at = lambda x, y, z: scale[:, None] * torch.stack(
        [torch.as_tensor(v, dtype=torch.float64).expand(n) for v in (x, y, z)], 1)
    p.ball = lambda centre, radii, turn=None: ellipsoid(p.at(*centre), p.at(*radii), turn)
    p.cut = lambda normal, point: half_space(torch.tensor(normal, dtype=torch.float64), p.at(*point))
    p.pipe = lambda line, radius: tube(torch.stack([p.at(*point) for point in line], 1), torch.as_tensor(
        radius, dtype=torch.float64) * scale[:, None])
    p.turn = lambda degrees, axis="z": rotation(torch.as_tensor(degrees, dtype=torch.float64).expand(n), axis)
    abdomen_lesions.plan(p, prevalence, lesions, level, phases)
    _shell(p)
    _chest(p)
    _liver(p)
    _gut(p)
    _retroperitoneum(p)
    known = abdomen_lesions.add(p)
    return b.build(opaque=True), known | {"sex": (~p.female).long()}, p.marks


def _mark(p: SimpleNamespace, name: str, centre: tuple, radii: tuple, turn: Tensor | None = None) -> Shape:
    """An ellipsoid whose middle and the points at 0.7 radii from it are landmarks: the same point in every patient."""
    middle, reach = p.at(*centre), torch.diag_embed(p.at(*radii)) * 0.7
    axes = reach if turn is None else turn @ reach
    p.marks[f"{name} centre"] = middle
    for k, ends in enumerate((("right", "left"), ("front", "back"), ("foot", "head"))):
        for sign, end in zip((-1, 1), ends, strict=True):
            p.marks[f"{name} {end}"] = middle + sign * axes[..., k]
    return ellipsoid(middle, p.at(*radii), turn)


def _shell(p: SimpleNamespace) -> None:
    """Breasts, skin, fat, wall with ribs, the cavity, the spine with discs, muscles of the back and the belly."""
    add, u, ball, inf = p.add, p.u, p.ball, math.inf
    p.fat, wide, deep, sides = u(6, 20), u(-5, 5), u(-5, 5), (-1, 1)

    def oval(more, x=140.0, y=104.0, middle=-1.0) -> Shape:
        x, y = x + wide + more, y + deep + more
        return ball((0, middle, 20), (x, y * 1.22, 640)) & ball((0, middle, 20), (x * 1.3, y, 640))

    front, size = -110 - p.fat / 2, (u(50, 60), u(34, 42), u(46, 54))
    add([ball((s * 76, front, 165), size) for s in sides], "skin", "breast", p.female)
    add([ball((s * 76, front, 165), tuple(r - 2 for r in size)) for s in sides], "fat", "breast", p.female)
    add([ball((s * 76, front - 14, 164), (u(18, 30), u(14, 22), u(20, 28))) for s in sides], "gland", "breast", p.female)
    add(oval(p.fat + 2), "skin")
    add(oval(p.fat), "fat")
    add(oval(0), "muscle")
    add(oval(-4.5), "fat")  # between the layers of the wall
    add(oval(-5.5), "muscle")
    p.cavity = oval(0, 127, 89, -8)
    add(p.cavity, "fat")
    add([ball((s * 33, -94 - deep, 0), (29, 8, inf)) & oval(-1) for s in sides], "muscle")
    add(ball((0, 56, 0), (36, 38, inf)) & oval(0), "muscle")
    add([ball((s * 36, 84 + deep, 0), (u(27, 32), u(15, 18), inf)) & oval(-1) for s in sides], "muscle")
    add([ball((s * 39, 44, -140), (18, 21, u(140, 165))) for s in sides], "muscle", "psoas")
    first = u(-8, 8)
    heights = [first + 17 + 34 * k for k in range(-4, 6)]
    p.marks["vertebra centre"] = p.at(0, 39, heights[4])
    add(ball((0, 39, 0), (23, 17, inf)), "bone", "vertebra")
    add(ball((0, 39, 0), (20.5, 14.5, inf)), "marrow", "vertebra")
    add([p.ball((0, 39, 0), (23.5, 17.5, inf)) & p.cut((0, 0, 1), (0, 0, z + 21)) & p.cut((0, 0, -1), (0, 0, z + 13))
         for z in heights], "disc")
    add([ball((s * 27, 66, z), (17, 4.5, 6), p.turn(s * 14)) for z in heights for s in sides], "bone", "vertebra")
    add([ball((0, 86, z - 8), (3.5, 12, 11)) for z in heights], "bone", "vertebra")
    add(ball((0, 65, 0), (15, 13, inf)), "bone", "vertebra")
    add(ball((0, 65, 0), (9.5, 8, inf)), "canal")
    for s in sides:
        for k, end in enumerate((130, 130, 130, 130, 130, 125, 115, 105, 85, 45, 5)):  # they fall from back to front
            angles = torch.linspace(-55, end, 9).deg2rad()
            line = [(s * (133.5 + wide) * math.cos(a), -4 - (96.5 + deep) * math.sin(a),
                     first + 200 - 24 * k - 28 * float(a - angles[0])) for a in angles.tolist()]
            rods, hard = p.pipe(line, 5.0), 6 if end > 100 else 8
            add(rods[:hard], "rib", "rib")
            if hard < 8:
                add(rods[hard:], "cartilage")


def _chest(p: SimpleNamespace) -> None:
    """Lungs that reach down behind the domes of the diaphragm, heart."""
    u, ball, sides = p.u, p.ball, (-1, 1)
    p.add([ball((s * 67, -6, 60), (57, 84, 200)) & p.cavity & p.cut((-s, 0.5, 0), (s * 15, 0, 0)) & p.cut(
        (-s * 0.25, -0.4, -1), (s * 60, 0, 57)) for s in sides], "lung", "lung")
    for root in ((s * 18, 0, z) for s in sides for z in (120, 150, 180)):
        ends = ((root[0] * x + u(-9, 9), y + u(-9, 9), root[2] + z) for x, y, z in
                ((3.6, 44, -30), (5.2, 30, 0), (5.4, -14, -8), (4.2, -46, 4), (4.0, 52, 22)))
        p.add([p.pipe([root, end], 2.8)[0] for end in ends], "vein", "lung")
    p.dome = [ball((-63, -6, 10 + u(-4, 4)), (63, 86, 92)), ball((60, -6, 6 + u(-4, 4)), (64, 84, 84))]
    p.add([dome & p.cavity for dome in p.dome], "fat")
    p.add(ball((0, -10, 170), (24, 50, 70)) & p.cavity, "fat")  # mediastinum
    p.add(ball((6, 4, 160), (u(10, 12), u(10, 12), 70)), "blood", "aorta")
    turn, x = p.turn(-30), u(-4, 4)
    p.add(ball((14 + x, -36, 140), (52, 42, 52), turn) & p.cavity, "solid", "heart")
    p.add([ball((34 + x, -34, 138), (21, 17, 32), turn), ball((-4 + x, -54, 140), (25, 15, 34), turn),
           ball((8 + x, -14, 158), (24, 12, 24), turn), ball((-22 + x, -32, 152), (14, 18, 28))], "heart", "heart")


def _liver(p: SimpleNamespace) -> None:
    """Liver of four convex pieces with hepatic and portal branches, lesions, gallbladder; spleen."""
    add, u, ball, cavity = p.add, p.u, p.ball, p.cavity
    below = p.cut((0, 0.6, 1), (0, 0, 61))  # the lungs are above and behind
    right = _mark(p, "liver", (-68 + u(-4, 4), -2, 32), (u(56, 64), u(74, 82), u(66, 74)))
    left = ball((-16, -46, 44), (u(54, 64), u(32, 40), u(36, 44)), p.turn(u(-8, 4))) & p.cut((0.35, 0.94, 0), (0, -10, 0))
    p.lobes = [right & cavity & p.dome[0], left & cavity & below]
    tip = ball((-90, 10, -10 + u(-8, 6)), (u(30, 36), u(44, 52), u(42, 56)), p.turn(8)) & cavity & p.dome[0]
    wing = ball((36, -62, 56), (u(30, 48), u(16, 22), u(20, 26)), p.turn(18)) & cavity & below
    add([*p.lobes, tip, wing], "liver", "liver")
    x, y, z = (u(-5, 5) for _ in range(3))
    fork, root = (-36 + x, -14 + y, 34 + z), (-20, 8, 86)
    for lobe, line, radius in (
            (0, (root, (-50, 16 + x, 72), (-90, 24 + y, 44)), (5.5, 4.0)),
            (0, (root, (-42 + y, -22, 66), (-62, -54 + x, 40)), (5.5, 4.2)),
            (0, (fork, (-64, -4 + z, 40), (-96, -12 + y, 36)), (6.0, 4.5)),
            (0, ((-60, -6 + z, 38), (-80, 26 + x, 26), (-92, 36 + y, 14)), (4.5, 3.5)),
            (0, ((-58, -8, 39), (-76, -38 + z, 46), (-84, -52, 54)), (4.5, 3.5)),
            (1, ((-18, -30, 78), (0, -44 + x, 66), (26, -62 + z, 56)), (4.6, 3.6)),
            (1, ((-28, -26, 40), (-12, -46 + y, 46), (16, -58 + x, 52)), (5.5, 4.2))):
        add([rod & p.lobes[lobe] for rod in p.pipe(line, radius)], "vein", "liver vessels")
    for x, y, z in ((-100, -30, 54), (-76, 50, 48), (-52, -40, 20), (-104, 10, 18), (-80, 20, 64), (-60, 40, 20), (-46, -66, 52)):
        twig = [(x + u(-8, 8), y + u(-8, 8), z + u(-8, 8)) for _ in range(2)]
        add([rod & p.lobes[0] for rod in p.pipe([*twig, (twig[1][0] - 8, y + u(-8, 8), z + 20)], (2.8, 2.2))], "vein",
            "liver vessels")
    abdomen_lesions.add_to_liver(p)
    add(ball((-2, -64, 40), (2.2, 26, 24), p.turn(u(8, 24))), "fat")
    place, turn = (-46 + u(-6, 6), -46 + u(-6, 4), -4 + u(-6, 6)), p.turn(u(-30, 10)) @ p.turn(-25, "x")
    large = u(0.85, 1.15)
    for thin, tissue in ((0, "gut wall"), (2, "bile")):
        add(ball(place, [large * r - thin for r in (14, 17, 28)], turn) & cavity, tissue, "gallbladder")
    spleen = _mark(p, "spleen", (92, 22, 42 + u(-6, 6)), (u(29, 35), u(42, 49), u(42, 52)), p.turn(u(8, 24)))
    add(spleen & cavity & p.dome[1], "spleen", "spleen")
    add(ball((66, 6, 36), (u(16, 21), u(24, 30), 44), p.turn(20)), "fat")


def _gut(p: SimpleNamespace) -> None:
    """Stomach, oesophagus, small bowel and colon: walls, contents, and gas at the front."""
    u, turn = p.u, p.turn

    def hollow(centre, radii, tilt, thick: float, content: str, gas: Tensor, some: float, organ: str) -> None:
        """A wall around its content; gas lies in front of y = `gas` past the centre with probability `some`."""
        inner = p.ball(centre, [r - thick for r in radii], tilt) & p.cavity
        p.add(p.ball(centre, radii, tilt) & p.cavity, "gut wall", organ)
        p.add(inner, content, organ)
        p.add(inner & p.cut((0, 1, 0), (0, centre[1] + gas, 0)), "gas", organ, p.chance(some))

    antrum = (8, -54, 10 + u(-6, 4)), (u(38, 44), u(15, 19), u(18, 22)), turn(u(-12, 8))
    body = (54 + u(-5, 5), -22, 46), (u(30, 38), u(38, 46), u(44, 52)), turn(u(-16, -4), "x") @ turn(u(-20, 0))
    _mark(p, "stomach", *body)
    hollow(*antrum, 5.0, "stomach", u(-8, -2), 0.6, "stomach")
    hollow(*body, 5.0, "stomach", u(-24, -6), 0.9, "stomach")
    gullet = [(2, -8, 230), (2, -8, 110), (14 + u(-3, 3), -10, 84), (34, -14, 66)]
    p.add(p.pipe(gullet, u(8, 10, 1)), "gut wall", "oesophagus")
    p.add(p.pipe(gullet, 2.6), "gas", "oesophagus")
    for z in (-6, -34, -66, -98):
        for y in (-58, -22):
            for x in (38, 68) if z > -30 else (-44, -6, 32, 66):
                hollow((x + u(-7, 7), y + u(-6, 6), z + u(-6, 6)), (u(14, 22), u(12, 15), u(14, 17)), turn(u(-70, 70)), 2.6,
                       "bowel", u(-6, 6), 0.15, "bowel")
    for x, y, z, rx, ry, rz, tilt in (
            (-98, 4, -54, 19, 21, 19, 0), (-98, 6, -78, 22, 23, 19, 0), (-96, 4, -106, 22, 24, 20, 0),
            (102, 26, -6, 14, 15, 24, 0), (100, 30, -44, 14, 15, 24, 0), (98, 28, -84, 13, 14, 24, 0),
            (-80, -44, -40, 24, 17, 17, -35), (-42, -70, -38, 24, 16, 17, -15), (-4, -74, -38, 22, 16, 17, 0),
            (36, -70, -32, 24, 16, 17, 15), (74, -50, -16, 24, 16, 17, 35)):
        hollow((x + u(-4, 4), y + u(-4, 4), z + u(-4, 4)), [r * u(0.85, 1.1) for r in (rx, ry, rz)], turn(tilt), 2.8,
               "bowel", u(-8, 8), 0.75, "colon")


def _retroperitoneum(p: SimpleNamespace) -> None:
    """Great vessels, portal and splenic veins, pancreas, duodenum, kidneys with cortex, medulla and sinus, adrenals."""
    add, u, ball, inf = p.add, p.u, p.ball, math.inf
    c_loop = [(-34, -46, 12), (-50, -26, 0), (-46, -6, -32), (-14, -8, -46), (24, -10, -38)]
    add(p.pipe(c_loop, 11.0), "gut wall", "bowel")
    add(p.pipe(c_loop, 7.5), "bowel", "bowel")
    add(ball((6, 4, 0), (u(9, 11), u(9, 11), inf)), "blood", "aorta")
    add(ball((-21, 9, -40), (u(11, 14), u(8.5, 10.5), 140)), "cava", "vena cava")
    p.pancreas = [(-30, -12, -12), (-10, -24 + u(-3, 3), 4), (20, -16 + u(-4, 4), 16), (48, 0, 22), (76, 14, 32)]
    add(p.pipe(p.pancreas, torch.stack([u(13, 16), u(9, 11), u(9, 12), u(8, 10)], 1)), "pancreas", "pancreas")
    y = u(-2, 2)
    for line, radius in (([(-6, -12 + y, 8), (-24, -16, 24), (-38, -14, 34)], 6.5),
                         ([(-4, -11 + y, 10), (22, -4 + y, 18), (50, 10, 26), (74, 18, 36)], 4.6),
                         ([(-6, -14 + y, 6), (-4, -22, -24), (-2, -26, -60)], 5.4)):
        add(p.pipe(line, radius), "vein", "portal and splenic veins")
    add(p.pipe([(6, -4, 6), (6, -16, -16), (4, -20, -60)], 3.2), "blood")
    for x, y, z in ((-66, -30, -48), (-40, -48, -60), (-24, -62, -36), (8, -64, -54), (36, -56, -30), (58, -34, -46),
                    (84, -10, -40), (62, -54, -70), (-56, -50, -80), (30, -30, -84)):  # of the mesentery
        root = (u(-6, 6), -24, -20 + z / 4)
        add(p.pipe([root, (x * 0.6 + u(-8, 8), y * 0.6 - 12 + u(-8, 8), z * 0.8), (x, y, z + u(-6, 6))], (2.4, 1.7)), "vein")
    p.kidneys = {}
    for side, name in ((-1, "right kidney"), (1, "left kidney")):
        for x, y, bend in ((35, 15, 35), (41, 20, -20)):
            add(ball((side * x, y - 3 * (side > 0), 36 + 2 * (side < 0)), (2.8, 12, 13), p.turn(-side * bend)), "adrenal",
                f"{name.split()[0]} adrenal gland")
        centre, radii = (side * u(62, 67), u(31, 38), (-16 if side < 0 else -4) + u(-8, 8)), (u(25, 29), u(21, 25), u(47, 55))
        lean = u(4, 14)
        turn = p.turn(-side * lean, "y") @ p.turn(side * (lean + 22))
        add(_mark(p, name, centre, radii, turn), "kidney", name)
        middle = p.kidneys[name] = p.at(*centre)
        for z, r in ((-0.52, 0.36), (-0.2, 0.55), (0.16, 0.55), (0.5, 0.36)):  # pyramids around the sinus
            for a in (-1.6, -0.55, 0.55, 1.6):
                spot = torch.tensor([side * r * math.cos(a), r * math.sin(a), z], dtype=torch.float64) * p.at(*radii)
                around = turn @ p.turn(side * math.degrees(a))
                add(ellipsoid(middle + (turn @ spot[..., None])[..., 0], p.at(7.5, 5, 8), around), "medulla", name)
        hilum = (centre[0] - side * 11, centre[1] - 5, centre[2])
        add(ball(hilum, (13, 8, 24), turn), "sinus")
        add(ball(hilum, (9, 4.5, 12), turn), "cava")
        inner = [(side * 30, 8, centre[2] + 8), (-14 if side < 0 else -10, 0 if side > 0 else 8, centre[2] + 12)]
        add(p.pipe([hilum, *inner], 4.2), "cava")
