"""The body of the thorax: lungs with vessel trees, heart, great vessels, airways, diaphragm, skeleton, arms, devices.

Lengths in mm of an adult's frame (axes as in `render.body`); `scale` in the facts says how much smaller the patient
is, so that a true length, and with it every line integral, is `scale` times that of the frame. A tree of vessels
gives way to what lies in the lung: a rod whose middle is inside an obstacle is dropped, any other is cut by the
tangent plane.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from medtutor.phantom import thorax_findings
from medtutor.phantom.texture import Draws
from medtutor.phantom.thorax_findings import NAMED, SIDES, note, rods
from medtutor.render.body import Body, Builder, Shape, ellipsoid, half_space, rotation, tube
from medtutor.render.shape import beside, opposite, stack

STRUCTURES = ("aorta", "trachea", "spine", "right ribs", "left ribs", "mediastinum", "liver", "stomach")
ORGANS = ("background", "right lung", "left lung", "heart", *STRUCTURES, "bone", *NAMED)
DEVICES = ("pacemaker", "central line", "endotracheal tube", "chest drain", "sternal wires", "ecg leads")
CORTEX, MARROW, METAL = 1450.0, 200.0, 9000.0  # HU
NAPE = 134.0  # mm: height from which the neck is


def build(draws: Draws, severity: dict[str, Tensor], age: Tensor, male: Tensor, breath: Tensor,
          device: dict[str, Tensor] | None = None, arms: bool = True) -> tuple[Body, dict[str, Tensor]]:
    """The bodies of N patients, and what is known of them: cardiothoracic_ratio, scale, girth, zone_<finding>
    (N, 2) and z_<finding> (N, 2), the height of each sided finding in mm.

    severity: per finding (N, 2) or (N,). age in years, male (N,) booleans, breath (N,) from -1 (out) to 1 (in).
    device: {name of DEVICES: (N,) booleans}. `arms=False` leaves the arms out, as for CT and lateral films.
    """
    n = draws.n
    b, g = Builder(n, ORGANS, {"ct": -1000.0}), _frame(draws, severity, age, male, breath)
    _trunk(b, draws, g, arms)
    _lungs(b, draws, g)
    _heart(draws, g)
    thorax_findings.add(b, draws, g)
    for k in range(2):
        _vessels(b, draws, g, k)
    _centre(b, draws, g)
    _belly(b, draws, g)
    thorax_findings.add_late(b, draws, g)
    _skeleton(b, draws, g)
    _devices(b, draws, g, device or {})
    facts = {"cardiothoracic_ratio": g.ratio, "scale": g.scale, "girth": g.girth}
    return b.build(), facts | {f"zone_{f}": z for f, z in g.zone.items()} | {f"z_{f}": z for f, z in g.z.items()}


def _frame(draws: Draws, severity: dict, age: Tensor, male: Tensor, breath: Tensor) -> SimpleNamespace:
    """Sizes and places of a patient that several organs share; the findings move some of them."""
    g, u, normal = SimpleNamespace(s=severity, age=age, male=male, zone={}, z={}), draws.uniform, draws.normal
    g.child = ((16 - age) / 14).clamp(0, 1)
    g.at = lambda x, y, z: stack(x, y, z, n=draws.n)
    g.girth = normal(1, 0.05) + 0.03 * male
    g.scale = (1 - 0.5 * g.child) * normal(1, 0.03) + 0.04 * male - 0.02
    g.fat = u(5, 32) * (1 - 0.6 * g.child)
    air, scar, small = severity["emphysema"], severity["fibrosis"], severity["atelectasis"]
    g.apex = normal(122, 5) - 5 * g.child
    g.dome = ((normal(-98, 6) - 13 * breath - 13 * air + 12 * scar + 10 * g.child)[:, None]
              + torch.stack([normal(0, 3), normal(-11, 5)], 1) + 26 * small)
    # From the top of a dome to the costophrenic angle.
    g.vault = (normal(54, 4) - 30 * air - 18 * g.child)[:, None] + 6 * small
    push = 12 * (severity["effusion"] ** 2) + 16 * severity["pneumothorax"] ** 2 - 16 * small
    g.shift = normal(0, 2) + push[:, 0] - push[:, 1]
    g.hilum = torch.stack([normal(4, 4), normal(15, 4)], 1) + 0.25 * (g.dome - g.dome.mean(1, True)) - 14 * small
    g.blood = 1 + 0.35 * severity["edema"] - 0.3 * air
    g.density = -855 + 110 * g.child + normal(0, 18) - 75 * air + 30 * scar - 22 * breath
    g.turn = 1.08 - 0.3 * g.child  # how steeply the ribs fall
    g.marrow = MARROW + 250 * g.child  # a child's ribs are filled
    g.lift = 35 * g.child  # of the shoulders: somebody holds the child's arms up
    g.waist = -52 - 26 * g.child  # height at which the chest is widest: a child's is a bell
    return g


def _trunk(b: Builder, draws: Draws, g: SimpleNamespace, arms: bool) -> None:
    """Fat and muscle below the shoulder slopes, neck, head of a child, breasts, arms."""
    at, u = g.at, draws.uniform
    fall, top = draws.normal(0.27, 0.05), draws.normal(178, 6) + 16 * g.child

    def trunk(thick: Tensor) -> Shape:
        a = g.girth * (162 - 9 * g.child) + thick
        pipe = ellipsoid(at(0, 2, 0), at(a, g.girth * 101 + thick, math.inf))
        for side in (-1, 1):  # a roof that thins out to its ridge, the trapezius
            for slope in (-0.5, 1.0):
                pipe = pipe & half_space(at(side * fall, slope, 1), at(side * 58, 25, top + thick))
        front, back = g.girth * 101 + thick, g.girth * 103 + thick  # the chest is flatter towards the neck
        return pipe & half_space(at(0, -1, 0.62), at(0, -front, 24)) & half_space(at(0, 1, 0.3), at(0, back, 50))

    b.add("fat", trunk(g.fat), ct=-95)
    b.add("muscle", trunk(0 * g.fat), within="fat", ct=45)
    throat = ellipsoid(at(0, 15, 0), at(54 + g.fat / 4, 55, math.inf)) & half_space(at(0, 0, -1), at(0, 0, NAPE))
    b.add("neck", throat, over=("fat", "muscle"), ct=40)
    bust, droop = u(0.75, 1.25), u(-20, 12)
    for side in (-1, 1):
        b.add("breast", ellipsoid(at(side * 82, -g.girth * 101 - 4, droop - 62), stack(60, 25, 76) * bust[:, None],
                                  rotation(draws.normal(-17, 3), "x")), over=("fat", "muscle"), ct=-20, present=~g.male
              & (g.age > 14))
    chin = 292 + draws.normal(0, 8) * (1 + 1.5 * g.child) - 52 * g.child
    b.add("head", ellipsoid(at(draws.normal(0, 5), -15, chin), at(84, 96, 84)), over=("neck",), ct=300,
          present=g.child > 0.3)
    up, out, stout = draws.chance(0.7), u(30, 150, 2), 46 + 0.5 * g.fat - 13 * g.child
    held, out = torch.where(up, u(130, 240), 60), torch.where(g.child[:, None] > 0, 75 + 0.5 * out, out)
    elbow = torch.where(g.child > 0, held, -260)
    for k, side in enumerate((-1, 1) if arms else ()):
        shoulder, bulk = at(side * g.girth * 164, 14, 62 + g.lift), ("fat", "muscle")
        hand = at(side * (g.girth * 170 + out[:, k]), 18, elbow)
        joint = at(side * g.girth * 152, 12, 108 + g.lift) + at(side * 14, 2, -2)
        b.add("arm", tube([shoulder, hand], stout), over=bulk, ct=20)
        b.add("arm", ellipsoid(shoulder + at(-side * 8, 0, 14), stack(1.35, 1.2, 1.75) * stout[:, None]),
              over=(*bulk, "arm"), ct=20)
        b.add("humerus", ellipsoid(joint, at(22, 21, 23)), within="arm", ct=260, organ="bone")
        shaft = [joint + at(side * 4, 0, -6), hand]
        b.add("shaft", tube(shaft, 10.0), within="arm", ct=0.7 * CORTEX * (1 - 0.3 * g.child), organ="bone")
        b.add("core", tube(shaft, 6.5), within="shaft", ct=MARROW)


def _lungs(b: Builder, draws: Draws, g: SimpleNamespace) -> None:
    """Bullets that widen downwards, cut by the mediastinum and at the depth of the costophrenic angle. Where there is a
    pneumothorax, air fills them, and a narrower lung lies inside in its pleura."""
    at, made = g.at, []
    for k, side in enumerate((-1, 1)):
        name, gone = f"{SIDES[k]} lung", g.s["pneumothorax"][:, k]
        radii, turn = at(g.girth * 68, g.girth * 88, g.apex - g.waist + 3), rotation(-side * (7.5 + 3 * g.child), "y")
        shell = ellipsoid(at(side * g.girth * 72, 6, g.waist), radii, turn)
        reach = g.girth * 72 + (turn[:, 0] ** 2 * radii**2).sum(-1).sqrt()
        lung = (shell & half_space(at(-side, 0.55, 0.05), at(side * 5 + 0.6 * g.shift, 33, 0))
                & half_space(at(-side, 0.03, 0.04), at(side * 5 + 0.6 * g.shift, 0, 0))
                & half_space(at(0, 0, -1), at(0, 0, g.dome[:, k] - g.vault[:, k])))
        air, density, hit = torch.where(gone > 0, 9 + 36 * gone, -60.0), g.density + 40 * gone, gone > 0
        inner, line = (ellipsoid(at(side * 20, 0, -110), at(g.girth * 143 - 24 - air + more, math.inf,
                                                          g.apex + 102 - 1.3 * air + more)) for more in (0, 1.8))
        b.add(name, lung, within="muscle", ct=density, organ=name)
        gas = f"{SIDES[k]} pneumothorax"  # inside the pleura the three parts cancel: nothing else need know
        b.add(gas, lung, within=name, ct=-1000, organ=gas, present=hit)
        b.add("pleura", lung & line, within=name, over=(gas,), ct=density + 110, present=hit, organ=name)
        b.add("collapsed", lung & inner, within="pleura", ct=density, present=hit)
        made.append((shell, lung, inner, reach))
    g.shell, g.lung, g.inner, reach = zip(*made, strict=True)
    g.width = reach[0] + reach[1]


def _heart(draws: Draws, g: SimpleNamespace) -> None:
    """Heart, atrium and pulmonary trunk, scaled to the cardiothoracic ratio; the domes below, which two planes part
    from them."""
    at, base, large = g.at, g.dome.mean(1), g.s["cardiomegaly"]
    usual = draws.uniform(0.4, 0.465) + 0.06 * g.child - 0.04 * g.s["emphysema"]
    g.ratio = torch.where(large > 0, 0.53 + 0.14 * large, usual)
    g.below = (half_space(at(-0.42, 0, -0.9), at(g.shift - 26, 0, g.dome[:, 0] + 1)),
               half_space(at(0.05, 0, -1), at(g.shift + 62, 0, g.dome[:, 1] - 3)))
    lean = draws.normal(33, 5) - 8 * g.child
    parts = [ellipsoid(at(36 + 6 * g.child + g.shift, -15, base + 21), at(70, 60, 42), rotation(lean, "y")),
             ellipsoid(at(g.shift - 4, -14, base + 40 - 8 * g.child), at(34, 44, 52))]
    middle = torch.stack([p.middle[:, 0] for p in parts])
    half = torch.stack([torch.linalg.inv(p.form[:, 0])[:, 0, 0].sqrt() for p in parts])
    scale = g.ratio * g.width / ((middle + half).amax(0) - (middle - half).amin(0))
    stretch = torch.stack([scale, scale**0.5, scale**0.5 * (1 + 0.15 * g.child)], 1)
    g.heart, g.atrium = (_stretched(p, stretch, at(8 + g.shift, -20, base + 36)) for p in parts)
    g.bellies = [ellipsoid(at(side * g.girth * 74, -6, g.dome[:, k] - g.vault[:, k]),
                           at(g.girth * 74, g.girth * 92, g.vault[:, k])) for k, side in enumerate((-1, 1))]


def _vessels(b: Builder, draws: Draws, g: SimpleNamespace, k: int) -> None:
    """A hilum and a tree of four generations of vessels that thin out to about 1.5 cm from the pleura."""
    side, name, normal = (-1, 1)[k], SIDES[k], draws.normal
    root = stack(side * g.girth * (44 if k else 46) + g.shift, normal(22, 3), g.hilum[:, k])
    rise = torch.tensor([84.0, 58, 30, 2, -28, -52, -70, -86]) + normal(0, 8, 8)
    deep = torch.deg2rad(normal(6, 26, 8) + torch.tensor([0, 0, -10, -14, 0, 12, 10, 6]))

    def way(rise: Tensor, deep: Tensor) -> Tensor:
        a = torch.deg2rad(rise)
        return torch.stack([side * a.cos() * deep.cos(), deep.sin(), a.sin() * deep.cos()], -1)

    def grow(start: Tensor, rise: Tensor, deep: Tensor, length: float, radius: Tensor, bend: float) -> tuple:
        """Two rods in a row, or one where they do not bend; returns them and the end."""
        count = rise.shape[1]
        span = length * draws.uniform(0.75, 1.25, count, 1) / 2
        middle = start + span * way(rise, deep)
        if not bend:
            return (start, middle, radius), middle
        end = middle + span * way(rise + normal(0, bend, count), deep + normal(0, 0.2, count))
        return (torch.cat([start, middle], 1), torch.cat([middle, end], 1), torch.cat([radius, radius * 0.82], 1)), end

    thick = (5.6 * g.blood)[:, None] * torch.tensor([0.75, 0.85, 0.9, 0.8, 1, 1.15, 1.2, 1.05])
    thick = thick * draws.uniform(0.85, 1.15, 8)
    level, first = grow(root[:, None] + 7 * way(rise, deep), rise, deep, 44, thick, 9)
    segments, ends = [level], first
    for length, share, fork, bend in ((38, 0.56, 24, 12), (44, 0.36, 26, 0)):
        twice = [(ends, rise + turn * fork + normal(0, 8, rise.shape[1]), deep + normal(0, 0.35, rise.shape[1]))
                 for turn in (-1, 1)]
        start, rise, deep = (torch.cat(p, 1) for p in zip(*twice, strict=True))
        level, ends = grow(start, rise, deep, length, share * thick.repeat(1, rise.shape[1] // 8), bend)
        segments.append(level)
    start, end, radius = (torch.cat(p, 1) for p in zip(*segments, strict=True))
    tree = rods(start, end, radius, g.block[k], [(g.shell[k], 0.93), (g.inner[k], 0.96)], [g.fluid[k]])
    free = beside(g.heart, root) & beside(g.atrium, root) & g.fluid[k]
    for share in (1.25, 0.8):
        knot = ellipsoid(root, share * g.at(10, 14, 19) * g.blood[:, None], rotation(0 * g.girth + side * 20, "y"))
        b.add(f"{name} hilum", knot & free, within=f"{name} lung", ct=g.density + 520)
    b.add(f"{name} vessels", tree, within=f"{name} lung", ct=50)


def _centre(b: Builder, draws: Draws, g: SimpleNamespace) -> None:
    """Mediastinum with the caval vein, heart, pulmonary trunk, aorta, trachea and main bronchi."""
    at, normal, x, base = g.at, draws.normal, g.shift, g.dome.mean(1) + 48
    airy, wet = ("right lung", "left lung"), ("right effusion", "left effusion")
    b.add("mediastinum", ellipsoid(at(x, -4, 60), stack(22 + 9 * g.child, 46, 92)), within="muscle", over=airy, ct=25,
          organ="mediastinum")
    b.add("tendon", ellipsoid(at(8 + x, -8, g.dome.mean(1) - 24), stack(56, 62, 36)), within="muscle", over=airy, ct=45,
          organ="mediastinum", present=g.child > 0)  # on the tendon of the diaphragm a child's heart lies flat
    wide = x - normal(29, 3)
    b.add("cava", tube([at(wide + 9, -12, 132), at(wide, -16, base + 8)], 12.0), within="muscle",
          over=("right lung", "mediastinum"), ct=42, organ="mediastinum")
    for name, chamber in (("heart", g.heart), ("atrium", g.atrium)):
        b.add(name, chamber & g.below[0] & g.below[1], within="muscle",
              over=(*airy, "mediastinum", "cava", "heart", "tendon", *wet), ct=48, organ="heart")
    swell = ellipsoid(at(20 + x, -30, base + 30 + normal(0, 4)), stack(29, 28, 56) * normal(1, 0.07)[:, None],
                      rotation(normal(-18, 3), "y"))
    tags = ("left lung", "mediastinum", "heart")
    b.add("pulmonary trunk", swell, within="muscle", over=tags, ct=46, organ="heart")
    old = ((g.age - 45) / 40).clamp(-1, 1)
    unfold = 5 * old + normal(0, 2)
    arch = [at(x - 12, -20, base + 50), at(x - 16 - 0.5 * unfold, -26, 46), at(x - 4, -18, 68),
            at(x + 14 + 0.5 * unfold, 2, 76 + 0.5 * unfold), at(x + 25 + unfold, 24, 62),
            at(x + 23 + unfold, 42, 15), at(10, 44, -180)]
    radius = (normal(13, 1) + 1.5 * old) * (1 - 0.15 * g.child)
    b.add("aorta", tube(arch, radius), within="muscle", over=(*tags, "left effusion"), ct=52, organ="aorta")
    bend, fork = normal(0, 3) + 0.5 * x, at(2 + 0.7 * x, 22, 48)
    for name, host, over, ends in (("upper trachea", "neck", (), [at(bend, 14, NAPE), at(bend, 8, 240)]), (
            "trachea", "muscle", ("mediastinum",), [at(bend, 14, NAPE), at(bend, 15, 110), fork])):
        b.add(name, tube(ends, 8.5 - 2 * g.child), within=host, over=over, ct=-980, organ="trachea")
    for k, side in enumerate((-1, 1)):
        main = tube([fork - at(0, 0, 3), at(side * 40 + x, 24, g.hilum[:, k] + 4)], 6.2)[0]
        main = main & half_space(at(-side, 0, 0), fork) & beside(g.heart, fork) & beside(g.atrium, fork) & g.fluid[k]
        b.add("bronchus", main, within="muscle", over=("mediastinum", f"{SIDES[k]} lung"), ct=-980, organ="trachea")


def _belly(b: Builder, draws: Draws, g: SimpleNamespace) -> None:
    """Liver on the right, stomach and spleen on the left, with gas in the stomach and in the colon."""
    at, normal = g.at, draws.normal
    for k, (side, name) in enumerate(((-1, "liver"), (1, "stomach"))):
        part = g.bellies[k] & opposite(g.below[k])
        chest = (*(f"{SIDES[k]} {what}" for what in ("lung", "effusion", "pneumothorax")), "pleura", "collapsed")
        b.add(name, part, within="muscle", over=(*chest, "pleural thickening", "tendon"),
              ct=58 if side < 0 else 45, organ=name)
    much, top = draws.uniform(0.3, 1.15), g.dome[:, 1]
    bubble = ellipsoid(at(g.girth * 58 + normal(0, 9), normal(-25, 8), top - 17 - 13 * much),
                       stack(26, 30, 13) * much[:, None])
    b.add("gas", bubble & part, within="stomach", ct=-900)
    for _ in range(5):  # loops of bowel below
        low = (g.dome.mean(1) - g.vault.amax(1) - 14).clamp(max=-150)
        place = at(normal(55, 38), normal(-35, 12), low - draws.uniform(0, 50))
        b.add("bowel", ellipsoid(place, draws.uniform(6, 17, 3) + 2), within="muscle", ct=-400,
              present=draws.chance(0.3))


def _skeleton(b: Builder, draws: Draws, g: SimpleNamespace) -> None:
    """Spine with discs, pedicles and spinous processes; ribs, clavicles, scapulae and sternum of cortex and marrow."""
    at, zero, normal = g.at, 0 * g.girth, draws.normal
    firm = 0.85 + 0.2 * g.child - 0.2 * ((g.age - 60) / 30).clamp(0, 1)  # mineral: less in children and the old
    lean, bones, bone = normal(0, 3), {}, partial(b.add, within="muscle", organ="bone")
    for j in range(17):
        z = 186.0 - 23 * j
        back, x = 62 + 12 * math.cos((z - 20) / 110), lean * math.sin((z + 150) / 100)
        host, size = "muscle" if z < NAPE - 9 else "neck", 15.5 + j * 0.35
        disc = half_space(at(0, 0, 1), at(0, 0, z + 9.4)) & half_space(at(0, 0, -1), at(0, 0, z - 9.4))
        block = replace(ellipsoid(at(x, back, z), at(size, 14 + j * 0.3, math.inf)) & disc, reach=zero + 32)
        bones.setdefault((host, "block"), []).append(block)
        pedicles = [ellipsoid(at(x + side * (size - 3.5), back + 18, z + 2), at(3.6, 5, 5.5)) for side in (-1, 1)]
        process = ellipsoid(at(x, back + 25, z - 9), at(3.2, 9, 9))
        bones.setdefault((host, "arch"), []).extend([process, *pedicles])
    for (host, kind), shapes in bones.items():
        b.add("spine", shapes, within=host, ct=110 + 80 * firm if kind == "block" else 600 * firm, organ="spine")
    _ribs(b, draws, g, firm)
    lift, shrug = normal(0, 6), normal(0, 7) + 0.45 * g.lift
    for side in (-1, 1):
        line = [at(side * 15, -56, 76 + lift / 2), at(side * 45, -54, 86 + lift),
                at(side * g.girth * 85, -42, 101 + lift + shrug / 2),
                at(side * g.girth * 120, -24, 108 + lift + shrug), at(side * g.girth * 148, -4, 108 + lift + shrug)]
        bone("clavicle", tube(line, 8.0), ct=CORTEX * firm)
        b.add("clavicle core", tube(line, 5.0), within="clavicle", ct=g.marrow)
        tip, out = at(side * g.girth * 146, 30, 116 + shrug), normal(0, 7)
        blade = [at(side * (g.girth * 105 + out), 84, 98), at(side * (g.girth * 110 + 1.3 * out), 86, 40),
                 at(side * (g.girth * 122 + 1.5 * out), 80, -12)]
        neck = at(side * g.girth * 138, 40, 88)
        for line, radius in (blade, 2.6), ([blade[2], neck], 4.2), ([blade[0] - at(0, 4, 8), tip], 4.6):
            bone("scapula", tube(line, radius), ct=700 * firm)
        turn = rotation(zero - side * 38, "z") @ rotation(zero + side * 14, "y")
        bone("scapula", ellipsoid(at(side * (g.girth * 121 + out), 70, 50), at(27, 2.6, 54), turn), ct=420)
    bone("sternum", ellipsoid(at(0, -78, 22), at(17, 4.5, 66), rotation(zero + 20, "x")), ct=160)


def _ribs(b: Builder, draws: Draws, g: SimpleNamespace, firm: Tensor) -> None:
    """Eleven pairs of tubes with a core of marrow. The front part of a broken rib hangs lower than the back part."""
    n, count, draw = draws.n, 10, draws.normal
    fall = draw(78, 7) * g.turn * draw(1, 0.06)
    pick = draws.uniform(0, 4, 2).long() + 4, draws.uniform(0, 3, 2).long() + 4
    rib = torch.arange(11, dtype=torch.float64)[None, :, None]
    apex, girth, fall, gap, waist, child = (v[:, None, None] for v in (
        g.apex, g.girth, fall, draw(23.5, 1.4) - 2.5 * g.child, g.waist, g.child))
    reach = 2.55 - 0.4 * child - 0.16 * (rib - 4).clamp(min=0) - 0.7 * child * (rib - 8).clamp(min=0)
    turn = torch.linspace(0, 1, count, dtype=torch.float64) * reach.clamp(min=0.3) + 0.03
    z = (apex * 0.93 - gap * (rib + draw(0, 0.1, 11)[..., None]) - fall * (0.8 + 0.07 * rib) * (turn / 2.45) ** 1.15
         + 6 * (1.3 * turn).sin())
    wide = (1 - ((z - waist) / (apex - waist + 5)).clamp(-0.97, 0.97) ** 2).sqrt().clamp(min=0.3)
    x = girth * (14 + torch.where(rib > 0, 132 * wide, 40 + 50 * wide) * turn.sin() ** 0.75)
    y = 7 + girth * 94 * (0.3 + 0.7 * wide) * turn.cos() - 22 * (-turn / 0.25).exp()
    for k, side in enumerate((-1, 1)):
        line, grade = torch.stack([side * x, y, z], -1), g.s["fracture"][:, k]
        late = torch.arange(count - 1) >= pick[1][:, k, None]
        hurt = (grade > 0)[:, None] & (torch.arange(11) == pick[0][:, k, None])
        low = line - stack(0, 0, 4 + 12 * grade)[:, None, None]
        whole, fallen = (tube(points.reshape(-1, count, 3), torch.tensor(6.8)) for points in (line, low))
        shapes = []
        for j, (a, c) in enumerate(zip(fallen, whole, strict=True)):
            low = (hurt & late[:, j, None]).view(-1)
            parts = [torch.where(low.view(-1, *[1] * (v.ndim - 1)), v, w).view(n, 11, *v.shape[1:])
                     for v, w in zip(vars(a).values(), vars(c).values(), strict=True)]
            shapes += [Shape(*(p[:, r] for p in parts)) for r in range(11)]
        b.add("ribs", shapes, within="muscle", ct=CORTEX * firm, organ=f"{SIDES[k]} ribs")
        b.add("rib marrow", [replace(s, form=s.form * 2.25) for s in shapes], within="ribs", ct=g.marrow)
        place = line[torch.arange(n), pick[0][:, k], pick[1][:, k]]
        b.add("fracture", ellipsoid(place - stack(0, 0, 2 + 4 * grade), stack(11, 11, 9 + 5 * grade)), within="muscle",
              ct=45, organ=f"{SIDES[k]} fracture", present=grade > 0)
        note(g, k, "fracture", place[:, 2])


def _devices(b: Builder, draws: Draws, g: SimpleNamespace, device: dict[str, Tensor]) -> None:
    """Metal and plastic in and on the body; draws the same numbers whether present or not."""
    at, normal = g.at, draws.normal
    on = {name: device.get(name, torch.zeros(draws.n, dtype=torch.bool)) for name in DEVICES}
    side, base = torch.where(draws.chance(0.5), 1.0, -1.0), g.dome.mean(1)

    def wire(name: str, points: list[Tensor], radius: float, value: float, within: str = "muscle") -> None:
        b.add(name, tube(points, radius), within=within, ct=value, present=on[name])

    box = at(92 + normal(0, 6), -62, 78 + normal(0, 6))
    b.add("pacemaker", ellipsoid(box, at(23, 4, 19)), within="muscle", ct=METAL, present=on["pacemaker"])
    wire("pacemaker", [box + at(-14, 2, 12), at(60, -42, 104), at(6, -26, 88), at(-22, -15, 50),
                       at(-20, -20, base + 55), at(30, -35, base + 22)], 1.5, METAL)
    wire("central line", [at(-side * 34, -40, NAPE - 2), at(-side * 26, -50, 110), at(-18, -22, 86), at(-26, -15, 50),
                          at(-25, -15, base + 62 + normal(0, 12))], 1.6, METAL)
    wire("endotracheal tube", [at(0, 14, NAPE), at(0, 15, 110), at(1, 18, 82 + normal(0, 7))], 4.4, 1500, "trachea")
    wire("chest drain", [at(side * g.girth * 158, 0, -60 + normal(0, 15)), at(side * g.girth * 128, 8, -25),
                         at(side * g.girth * 112, 12, 25), at(side * 80, 10, 68)], 4.0, 2200)
    for j in range(5):
        wire("sternal wires", [at(13 * math.cos(a) + normal(0, 1), -88, 74 - 24 * j + 4 * math.sin(a) + normal(0, 1))
                               for a in torch.linspace(0, 2 * math.pi, 7)[:-1].tolist()], 1.7, 1.3 * METAL)
    for x, z in ((-88, 70), (86, 66), (98, -72)):
        spot = at(x + normal(0, 9), -g.girth * 90, z + normal(0, 9))
        b.add("ecg leads", ellipsoid(spot, at(6.5, 3, 6.5)), within="muscle", ct=3500, present=on["ecg leads"])
        wire("ecg leads", [spot, spot * 0.75 + at(0, -18, normal(-40, 15)), at(normal(20, 40), -82, normal(-120, 14)),
                           at(normal(40, 30), -84, -215)], 1.3, 2600)


def _stretched(shape: Shape, factor: Tensor, about: Tensor) -> Shape:
    """An ellipsoid stretched by `factor` (N, 3) along the axes about a point (N, 3)."""
    middle = about + (shape.middle - about) * factor
    form = shape.form / (factor[:, None, :, None] * factor[:, None, None, :])
    return replace(shape, form=form, centre=middle[:, None], middle=middle, reach=shape.reach * factor.amax(1))
