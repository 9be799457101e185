"""Findings of the thorax: what they add to the body. Volume loss, flat domes and thick vessels are in `thorax_anatomy`.

A finding is made of convex parts, so that CT and radiograph agree; soft edges are nested ellipsoids that share the
whole difference. Severities are in (0, 1], 0 where absent. Lengths in mm.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import and_
from types import SimpleNamespace

import torch
from torch import Tensor

from medtutor.phantom.texture import Draws, table
from medtutor.render.body import Builder, Shape, ellipsoid, half_space, rotation
from medtutor.render.shape import FAR, beside, opposite, stack

TABLES = table("thorax")
FINDINGS = tuple(TABLES["prevalence"])
WHOLE = ("cardiomegaly", "edema", "emphysema", "fibrosis", "hernia")  # findings without a side
SIDED = tuple(f for f in FINDINGS if f not in WHOLE)
SIDES = ("right", "left")
NAMED = (*(f"{side} {f}" for f in SIDED for side in SIDES), "edema", "fibrosis", "hernia")  # organs of their own
LOCAL = ("nodule", "mass", "consolidation", "pneumonia", "infiltration", "atelectasis")  # in one of six places a lung


def add(b: Builder, draws: Draws, g: SimpleNamespace) -> None:
    """What lies in the lungs. Fills g.block, the obstacles of vessels (per side), and g.zone and g.z, (N, 2) each."""
    u, n = draws.uniform, draws.n
    for finding in SIDED:
        g.zone[finding], g.z[finding] = torch.full((n, 2), -1), torch.zeros(n, 2).double()
    g.block, g.fluid = [], []
    for k, side in enumerate((-1, 1)):
        slots, patch, place = u(0, 1, 6).argsort(1), partial(_patch, b, g, k), {}
        g.block.append([g.heart, g.atrium, g.bellies[k]])
        for j, finding in enumerate(LOCAL):
            zone, front = slots[:, j] // 2, slots[:, j] % 2 == 0
            heights = torch.stack([g.apex - 46, (g.apex + g.dome[:, k]) / 2, g.dome[:, k] + 36], 1)
            z = heights[torch.arange(n), zone]
            x = torch.tensor([60.0, 80, 88]).double()[zone]
            heart = front & (zone > 0) & (side > 0)  # the heart is there
            place[finding] = stack(side * g.girth * torch.where(heart, 104.0, x),
                                   torch.where(front, torch.where(heart, -8.0, -32.0), 36.0), z) + draws.normal(0, 6, 3)
            note(g, k, finding, place[finding][:, 2], zone)
        s = {f: g.s[f][:, k : k + 1] for f in SIDED}
        patch("nodule", place["nodule"], (5.5 + 9 * s["nodule"]) * u(0.88, 1.12, 3), 890, (1, 0.85))
        patch("mass", place["mass"], (17 + 22 * s["mass"]) * u(0.85, 1.15, 3), 900, (1, 0.9, 0.8),
              rotation(u(-40, 40), "y"))
        wide = (20 + 30 * s["consolidation"]) * u(0.85, 1.15, 3) * torch.tensor([1.25, 1.1, 0.8])
        patch("consolidation", place["consolidation"], wide, 860, (1, 0.85, 0.7, 0.5), rotation(u(-40, 40), "y"))
        size = 13 + 17 * s["pneumonia"]
        for j in range(3):
            step = torch.tensor([[-1.0, 0.6, 0.2], [0.9, 0.8, -0.5], [0, -0.9, 0.5]])[j] * size
            patch("pneumonia", place["pneumonia"] + step, size * u(0.8, 1.2, 3), 420 + 320 * s["pneumonia"][:, 0],
                  (1, 0.8, 0.6), solid=j == 0)
        air = place["pneumonia"][:, None] + draws.normal(0, 1, 5, 3) * size[:, None] * 0.6
        _strands(b, draws, g, k, "pneumonia", air, 2.0, 24.0, -520)
        for _ in range(6):
            patch("infiltration", place["infiltration"] + draws.normal(0, 1, 3) * (15 + 6 * s["infiltration"]),
                  (8 + 8 * s["infiltration"]) * u(0.7, 1.4, 3), 150 + 350 * s["infiltration"][:, 0], (1, 0.6),
                  solid=False)
        plate = torch.cat([u(38, 56, 1), u(20, 34, 1), 3 + 11 * s["atelectasis"]], 1)
        patch("atelectasis", place["atelectasis"], plate, 780, (1, 0.8, 0.6), rotation(side * u(-5, 40), "y"))
        _whole_lung(b, draws, g, k, patch)
        _pleura(b, draws, g, k)


def note(g: SimpleNamespace, k: int, finding: str, height: Tensor, zone: Tensor | None = None) -> None:
    """Keep the height of a finding of one side and its zone, the third of the lung there unless that is given."""
    zone = ((g.apex - height) * 3 / (g.apex - g.dome[:, k])).long().clamp(0, 2) if zone is None else zone
    g.zone[finding][:, k] = torch.where(g.s[finding][:, k] > 0, zone, -1)
    g.z[finding][:, k] = height


def _grade(g: SimpleNamespace, finding: str, k: int) -> Tensor:
    return g.s[finding] if finding in WHOLE else g.s[finding][:, k]


def _patch(b: Builder, g: SimpleNamespace, k: int, finding: str, centre: Tensor, radii: Tensor, gain: Tensor | float,
           steps: tuple[float, ...], tilt: Tensor | None = None, named: bool = True, solid: bool = True) -> None:
    """A soft ellipsoid: its nested `steps` share `gain` HU."""
    grade, tissue = _grade(g, finding, k), f"{SIDES[k]} lung"
    if not (grade > 0).any():
        return
    organ = None if not named else finding if finding in WHOLE else f"{SIDES[k]} {finding}"
    room = reduce(and_, [beside(near, centre) for near in g.block[k][:3]], g.lung[k] & g.inner[k])
    for j, step in enumerate(steps):
        b.add(finding, ellipsoid(centre, radii * step, tilt) & room, within=tissue, present=grade > 0,
              ct=b.values[tissue]["ct"] + gain / len(steps), organ=None if j else organ)
    if solid:
        g.block[k].append(ellipsoid(centre, torch.where((grade > 0)[:, None], radii * 0.9, 1e-3), tilt))


def _strands(b: Builder, draws: Draws, g: SimpleNamespace, k: int, finding: str, middle: Tensor, radius: Tensor | float,
             length: float, gain: float, level: bool = False) -> None:
    """Short rods around the points `middle` (N, S, 3), horizontal or of any direction."""
    grade, count = _grade(g, finding, k), middle.shape[1]
    way = draws.normal(0, 1, count, 3) * (torch.tensor([1, 0.15, 0.12]) if level else 1)
    if not (grade > 0).any():
        return
    half = way / way.norm(dim=-1, keepdim=True).clamp(min=0.1) * length / 2
    radius = torch.as_tensor(radius, dtype=torch.float64).expand(draws.n)[:, None].expand(-1, count)
    b.add(f"{finding} lines", rods(middle - half, middle + half, radius, g.block[k][:3], [(g.shell[k], 0.97)]),
          within=f"{SIDES[k]} lung", ct=b.values[f"{SIDES[k]} lung"]["ct"] + gain, present=grade > 0)


def _whole_lung(b: Builder, draws: Draws, g: SimpleNamespace, k: int, patch) -> None:
    """Edema: a soft wing at the hilum and lines at the base. Fibrosis: a net at the base. Emphysema: bullae."""
    side, u = (-1, 1)[k], draws.uniform
    wet, scar, air = g.s["edema"], g.s["fibrosis"], g.s["emphysema"]
    hilum = stack(side * g.girth * 66 + 0 * wet, 26, g.hilum[:, k] - 8)
    patch("edema", hilum, stack(58, 60, 72 + 0 * wet) * (0.8 + 0.25 * wet[:, None]), 60 + 420 * wet,
          (1, 0.85, 0.7, 0.55, 0.4), solid=False)
    base, rim = g.dome[:, k] - 6, side * g.girth * 132
    edge = torch.stack([rim[:, None] - side * u(2, 8, 7), u(-50, 60, 7), base[:, None] + u(-25, 45, 7)], -1)
    _strands(b, draws, g, k, "edema", edge, 0.7 + 0.7 * wet, 17.0, 650, level=True)
    low = stack(side * g.girth * 84 + 0 * base, 18, base + 6)
    patch("fibrosis", low, stack(60, 74, 56 + 0 * scar), 30 + 170 * scar, (1, 0.75), solid=False)
    net = low[:, None] + u(-1, 1, 30, 3) * torch.tensor([56.0, 75, 52])
    _strands(b, draws, g, k, "fibrosis", net, 0.6 + 1.1 * scar, 15.0, 760)
    for _ in range(2):
        bulla = stack(side * g.girth * u(38, 72), draws.normal(0, 25), g.apex - u(22, 52))
        patch("emphysema", bulla, (8 + 16 * air[:, None]) * u(0.8, 1.2, 3), -1000 - b.values[f"{SIDES[k]} lung"]["ct"],
              (1,), named=False)


def _pleura(b: Builder, draws: Draws, g: SimpleNamespace, k: int) -> None:
    """Thickening: a lens at the wall or a cap. Effusion: a level that climbs the wall as a meniscus."""
    side, name, u = (-1, 1)[k], SIDES[k], draws.uniform
    grade, zone = g.s["pleural thickening"][:, k], (u() * 3).long()
    slope = torch.deg2rad(torch.tensor([62.0, 12, -6]).double()[zone] + draws.normal(0, 5))
    normal = stack(side * slope.cos(), 0.15, slope.sin())
    normal = normal / normal.norm(dim=1, keepdim=True)
    form, centre = torch.linalg.inv(g.shell[k].form[:, 0]), g.shell[k].centre[:, 0]
    far = (form @ normal[..., None])[..., 0]
    touch = centre + far / (far * normal).sum(1, keepdim=True).sqrt()
    lens = g.lung[k] & half_space(-normal, touch - normal * (2.5 + 9 * grade)[:, None])
    b.add("pleural thickening", lens, within=f"{SIDES[k]} lung", ct=40, organ=f"{name} pleural thickening",
          present=grade > 0)
    note(g, k, "pleural thickening", touch[:, 2])
    grade = g.s["effusion"][:, k]
    level = g.dome[:, k] - 20 + 105 * grade + u(-5, 5)
    rim = stack(side * g.girth * 104, 0, torch.where(grade > 0, level, -FAR))
    flat = half_space(stack(-side * 0.06, -0.12, 1, n=draws.n), rim)
    steep = half_space(stack(-side * 0.86, -0.25, 0.5, n=draws.n), rim + stack(side * 6, 0, 4))
    for part in (flat, opposite(flat) & steep):
        b.add(f"{name} effusion", g.lung[k] & part, within=f"{SIDES[k]} lung", ct=12, organ=f"{name} effusion",
              present=grade > 0)
    g.fluid.append(opposite(flat))
    note(g, k, "effusion", level - 30, torch.tensor(2))
    note(g, k, "pneumothorax", g.apex - 40, torch.tensor(0))


def add_late(b: Builder, draws: Draws, g: SimpleNamespace) -> None:
    """A hiatal hernia: stomach behind the heart, with gas above a level."""
    s = g.s["hernia"]
    centre, radii = stack(12 + g.shift, 38, g.dome.mean(1) + 34), stack(18 + 26 * s, 14 + 12 * s, 18 + 22 * s)
    sac = ellipsoid(centre, radii)
    b.add("hernia", sac, within="muscle", over=("right lung", "left lung", "heart", "aorta"), ct=38, organ="hernia",
          present=s > 0)
    above = half_space(torch.tensor([0.0, 0, -1]), centre + stack(0, 0, 0.15 * radii[:, 2]))
    b.add("hernia gas", sac & ellipsoid(centre, radii * 0.85) & above, within="hernia", ct=-950, present=s > 0)


def rods(start: Tensor, end: Tensor, radius: Tensor, outside: list[Shape] = (), inside: list[tuple[Shape, float]] = (),
         beyond: list[Shape] = ()) -> list[Shape]:
    """S straight cylinders from `start` to `end` (N, S, 3) of `radius` (N, S). One whose middle lies in an ellipsoid of
    `outside`, or without `share` of the radii of one of `inside`, has next to no radius; tangent planes cut the others
    where they would enter the ellipsoid. `beyond`: half-spaces that cut all of them."""
    step, middle = end - start, (start + end) / 2
    length = step.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    along, keep = step / length, torch.ones_like(radius, dtype=torch.bool)
    normal, offset = [-along, along], [-(along * start).sum(-1), (along * end).sum(-1)]
    for solid in outside:
        arm = middle - solid.centre[:, :1]
        out = arm @ solid.form[:, 0].mT
        norm = (out * arm).sum(-1)
        keep = keep & (norm > 1)
        normal.append(-out)
        offset.append(-(out * (solid.centre[:, :1] + arm / norm.clamp(min=1e-9).sqrt()[..., None])).sum(-1))
    for solid, share in inside:
        arm = middle - solid.centre[:, :1]
        keep = keep & (((arm @ solid.form[:, 0].mT) * arm).sum(-1) < share**2)
    for half in beyond:
        normal.append(half.normal.expand(*middle.shape))
        offset.append(half.offset.expand(*radius.shape))
        keep = keep & ((normal[-1] * middle).sum(-1) < offset[-1])
    normal, offset = torch.stack(normal, 2), torch.stack(offset, 2)
    radius = torch.where(keep, radius, 1e-3)
    eye = torch.eye(3, dtype=torch.float64)
    form = (eye - along[..., :, None] * along[..., None, :]) / radius[..., None, None] ** 2
    reach = torch.where(keep, ((length[..., 0] / 2) ** 2 + radius**2).sqrt(), 2e-3)
    return [Shape(form[:, j : j + 1], middle[:, j : j + 1], normal[:, j], offset[:, j], middle[:, j], reach[:, j])
            for j in range(step.shape[1])]
