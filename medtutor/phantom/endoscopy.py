"""Colonoscopy-like video: a camera with its light in a folded tube, polyps, forceps, blood, and exact optical flow.

The world is rigid: a bent tube of radius 1 (about 25 mm) along z whose folds are thin rings, so that a ray's first hit
has a closed form. Polyps and forceps are quadrics in the coordinates of the camera, which looks along z, x to the right
and y down. The lens is an equidistant fisheye.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom.shape import rotation
from medtutor.phantom.texture import Draws, blend, blur, boxes, cloud, noise, px, unit_grid

CLASSES, FINDINGS = ("background", "polyp", "instrument"), ("polyp", "instrument", "bleeding")
PREVALENCE = {"polyp": 0.7, "instrument": 0.4, "bleeding": 0.15}
RATE, LENS, FOLDS = 10.0, math.radians(52), 10  # frames/s; angle at the middle of the picture's edge; rings
BLOOD = torch.tensor([0.35, 1.5, 1.3])[:, None, None]  # absorption


def cohort(n: int, size: int = 64, seed: int = 0, frames: int = 20, prevalence: dict[str, float] | None = None,
           speed: float = 1.0, flow: bool = False, noisy: bool = True) -> Cohort:
    """n videos of `frames` pictures, a row each, by `patient` (the video), then `visit` (the frame).

    `image` (n * frames, 3, size, size) RGB in [0, 1]; `mask` (N, size, size) has `CLASSES`: what one sees of polyp and
    instrument; `box` (N, 2, 4) bounds them. `label` (N, 3), `FINDINGS`: there is a polyp (in the picture or not), the
    forceps are out in this frame, it has bled by now. `prevalence` is per video. `speed` scales all motion, 0
    freezes it. Video i depends on `seed` and i only, its frame t not on `frames`.

    `meta`: time in s; visible (N,), the share of the polyp's pixels in the picture that nothing hides, 0 where it is
    out of the picture; advance (N,) in tube radii and roll (N,) in degrees, from this frame to the next; with `flow`,
    flow (N, 2, size, size): x and y in pixels from a pixel's tissue or steel to its place in the next frame, seen there
    or not (in the last row: in the frame that a longer video would have); 0 outside the round picture. Highlights and
    bubbles do not follow it. `noisy=False` leaves out sensor noise, blur and bubbles.
    """
    if frames < 1 or speed < 0:
        raise ValueError(f"need at least one frame and a speed of 0 or more, but got {frames} frames, speed {speed}")
    if set(prevalence or ()) - set(FINDINGS):
        raise ValueError(f"prevalence takes the findings {', '.join(FINDINGS)}, but got {prevalence}")
    draws, tau = Draws(n, seed, "endoscopy", 256), 2 * math.pi
    u, time = draws.uniform, torch.arange(frames + 1).double() / RATE

    def sway(reach: float, fast: float = 5.0, slow: float = 10.0) -> Tensor:
        """Smooth motion (n, frames + 1) between -reach and reach, with periods from `fast` to `slow` seconds."""
        return reach * torch.sin(tau * (speed * time / u(fast, slow, 1) + u(0, 1, 1)))

    has = {finding: draws.chance((PREVALENCE | (prevalence or {}))[finding])[:, None] for finding in FINDINGS}
    # ---- the tube: where its rings are, and their openings
    z, bend, aim = u(0.55, 1.0, FOLDS).cumsum(1) - u(0.2, 0.5, 1), u(0.0, 0.075, 1), u(0, tau, 1)
    ring = torch.stack([bend * z**2 * aim.cos(), bend * z**2 * aim.sin(), z], -1)
    rim = torch.stack([u(0.2, 0.42, FOLDS), u(0.0, 0.2, FOLDS), u(0, tau, FOLDS), u(0.03, 0.12, FOLDS),
                       u(0, tau, 1) + u(-0.3, 0.3, FOLDS)], -1)
    # ---- the camera in it, (n, frames + 1, ...)
    z, roll = sway(0.38, 6.0), u(0, 360, 1) + sway(25.0, 8.0, 14.0)
    eye = torch.stack([bend * z**2 * aim.cos() + sway(0.18), bend * z**2 * aim.sin() + sway(0.18), z], -1)
    turn = [rotation(a.reshape(-1), axis) for a, axis in ((sway(9.0), "x"), (sway(9.0), "y"), (roll, "z"))]
    turn = (turn[0] @ turn[1] @ turn[2]).view(n, frames + 1, 3, 3)
    # ---- the polyp on a fold: head, two lobes, stalk
    fold, angle, big, stalk = 1 + draws.chance(0.4).long(), u(0, tau), u(0.16, 0.34, 1), draws.chance(0.35)[:, None]
    near, mine = ring[torch.arange(n), fold], rim[torch.arange(n), fold].unbind(1)
    hole = 1 - mine[0] - mine[1] * (angle - mine[2]).cos() - mine[3] * (3 * (angle - mine[4])).cos()
    out, side = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1), torch.stack([-angle.sin(), angle.cos(), 0 * angle], 1)
    base = near + (0.7 * hole + 0.3)[:, None] * out
    arm = F.normalize(torch.tensor([0.0, 0, -1]) * u(0.8, 1.3, 1) - out - side * u(-0.5, 0.5, 1), dim=1)
    head = base + torch.where(stalk, 1.5, 0.1) * big * arm
    heart = [head] + [head + big * (u(-0.6, 0.6, 1) * side - u(-0.2, 0.45, 1) * out) for _ in range(2)]
    forms = [_rod(arm, big * u(*span, 1), big * u(*span, 1) * torch.where(stalk, 1.0, 0.8)) for span in ((0.9, 1.15), (0.45, 0.7), (0.45, 0.7))]
    heart, forms = torch.stack([*heart, (base + head) / 2], 1), torch.stack([*forms, _rod(arm, 0.42 * big, big)], 1)
    heart = torch.where(has["polyp"][..., None], heart, 1e3)
    heart = (heart[:, None] - eye[:, :, None]) @ turn
    forms = forms[:, None] @ turn[:, :, None]
    # ---- forceps from the working channel: shaft and two jaws
    long, gape, port = sway(0.5, 4.0, 8.0) + u(0.35, 0.7, 1), 0.4 + sway(0.3, 1.0, 3.0), u(0.5, 1.6, 1)
    port = 0.26 * torch.stack([port.cos(), port.sin(), 0 * port], -1).expand(-1, frames + 1, -1)
    axis = F.normalize(torch.stack([sway(0.12), sway(0.12), 1 + 0 * z], -1) - 0.9 * port, dim=-1)
    across = F.normalize(torch.linalg.cross(axis, torch.tensor([0.3, 1.0, 0.0]).double().expand_as(axis)), dim=-1)
    there = has["instrument"] & (long > 0)
    tip = torch.where(there[..., None], port + long[..., None] * axis, 1e3)
    jaws = [gape.cos()[..., None] * axis + sign * gape.sin()[..., None] * across for sign in (1, -1)]
    heart = torch.cat([heart, tip[:, :, None], *((tip + 0.1 * jaw)[:, :, None] for jaw in jaws)], 2)
    forms = torch.cat([forms, torch.stack([_rod(axis, 0.038, 1e9), *(_rod(jaw, 0.026, 0.12) for jaw in jaws)], 2)], 2)
    # ---- what moves: tissue, shaft, jaws; a point p goes to move (p - pivot) + target
    frame = torch.stack([turn.mT] + [torch.stack([j, torch.linalg.cross(j, across), across], -1) for j in (axis, *jaws)], 2)
    pivot = torch.stack([0 * tip, tip, tip, tip], 2)
    move = frame[:, 1:] @ frame[:, :-1].mT
    target = pivot[:, 1:] + 0
    target[:, :, 0] = ((eye[:, :-1] - eye[:, 1:])[:, :, None] @ turn[:, 1:])[:, :, 0]
    bled = has["bleeding"] * ((time - u(-3, 1, 1)) / 3).clamp(0, 1)
    still = {"ring": ring, "rim": rim, "base": base, "tint": u(-1, 1, 3), "plastic": u(0.0, 1.0, 2), "power": u(0.7, 1.3),
             "stop": torch.stack([u(0.9, 1.15), u(1.35, 1.75), u(-0.05, 0.05), u(-0.05, 0.05)], 1),
             "bubble": u(-0.9, 0.9, 5, 2), "big": u(0.03, 0.09, 5)}
    moving = {"eye": eye, "turn": turn, "heart": heart, "forms": forms, "axis": axis, "pivot": pivot, "bled": bled,
              "fog": (sway(1.2, 1.5, 4.0) - 0.5).clamp(0, 1), "wet": (sway(1.5, 2.0, 5.0) - 0.6).clamp(0, 1)}
    rows = {key: value.repeat_interleave(frames, 0) for key, value in still.items()}
    rows |= {key: value[:, :frames].flatten(0, 1) for key, value in (moving | {"move": move, "target": target}).items()}
    skin = torch.stack([cloud(n, seed, f"endoscopy {name}", 256, cells, 2, octaves) for name, cells, octaves in (
        ("mottle", 7, 3), ("vessel", 9, 2), ("patch", 5, 1), ("twig", 20, 1), ("bump", 56, 1))], 1)
    seam = torch.sin(torch.linspace(0, math.pi, 256)) ** 2  # periodic around the tube
    skin = (skin * seam + skin.roll(128, -1) * (1 - seam)) / torch.hypot(seam, 1 - seam)
    step = frames * max(1, 64 // frames)
    parts = [_frames({key: value[a:a + step].float() for key, value in rows.items()}, skin[a // frames:(a + step) // frames],
                     size, flow, noisy) for a in range(0, n * frames, step)]
    image, mask, visible, drift = (torch.cat(column) for column in zip(*parts, strict=True))
    if noisy:
        image = image + 0.012 * noise(n, seed, "endoscopy sensor", (frames, 3, size, size)).flatten(0, 1)
        image = image * (image.amax(1, True) > 0.02)
    label = torch.stack([has["polyp"].expand(-1, frames), there[:, :frames], bled[:, :frames] > 0], -1)
    change = {"advance": eye[..., 2].diff(dim=1), "roll": roll.diff(dim=1)}
    meta = {"time": time[:-1].repeat(n).float(), "visible": visible} | {k: v.flatten().float() for k, v in change.items()}
    return Cohort(image=image.clamp(0, 1), mask=mask, label=label.flatten(0, 1).float(),
                  box=boxes(torch.stack([mask == 1, mask == 2], 1)), meta=meta | ({"flow": drift} if flow else {}),
                  patient=torch.arange(n).repeat_interleave(frames), visit=torch.arange(frames).repeat(n),
                  names={"mask": CLASSES, "image": ("red", "green", "blue"), "label": FINDINGS, "box": CLASSES[1:]},
                  units={"image": "RGB, 0 to 1", "box": "pixels", "time": "s", "flow": "pixels", "roll": "degrees"})


def _rod(axis: Tensor, thin: Tensor | float, long: Tensor | float) -> Tensor:
    """Forms (..., 3, 3) that map a spheroid with semi-axis `long` along the unit vector `axis` to the unit sphere."""
    along = axis[..., :, None] * axis[..., None, :]
    thin, long = (torch.as_tensor(v).unsqueeze(-1) if isinstance(v, Tensor) else v for v in (thin, long))
    return (torch.eye(3, dtype=axis.dtype) - along) / thin + along / long


def _frames(p: dict[str, Tensor], skin: Tensor, size: int, flow: bool, noisy: bool) -> tuple[Tensor, ...]:
    """Pictures, masks, visible shares and flow of the frames with parameters `p`; `skin` has a row per video."""
    n, (x, y) = len(p["eye"]), (g.float() for g in unit_grid(size))
    far = torch.hypot(x, y).clamp(min=1e-6)
    ray = torch.stack([x / far * (far * LENS).sin(), y / far * (far * LENS).sin(), (far * LENS).cos()])
    dx, dy, dz = (p["turn"] @ ray.flatten(1)).view(n, 3, size, size).unbind(1)
    ox, oy, oz = (px(v) for v in p["eye"].unbind(1))
    # ---- the first ring whose opening a ray misses, then the wall before it
    first, depth, lift = torch.full((n, size, size), -1), torch.zeros(n, size, size), torch.zeros(n, size, size)
    for k in range(FOLDS):
        (cx, cy, cz), (a, b, lean, c, three) = (map(px, p[key][:, k].unbind(1)) for key in ("ring", "rim"))
        t = (cz - oz) / dz
        gx, gy = ox + t * dx - cx, oy + t * dy - cy
        r = torch.hypot(gx, gy)
        part = (gx * three.cos() + gy * three.sin()) / r
        hole = 1 - a - b * (gx * lean.cos() + gy * lean.sin()) / r - c * (4 * part**3 - 3 * part)
        hit = (first < 0) & (t > 0.02) & (r > hole * (k < FOLDS - 1))
        first, depth = torch.where(hit, k, first), torch.where(hit, t, depth)
        lift = torch.where(hit, (r - hole) / (1 - hole), lift)
    row = torch.arange(n)[:, None, None]
    cx, cy, cz = p["ring"][row, first].unbind(-1)
    before = torch.where(first > 0, p["ring"][row, first - 1, 2], cz - 0.8)
    qx, qy, a = ox - cx, oy - cy, dx * dx + dy * dy
    b = qx * dx + qy * dy
    wall = (-b + (b * b - a * (qx * qx + qy * qy - 1)).clamp(min=0).sqrt()) / a.clamp(min=1e-6)
    on_wall = lift > 1
    depth = torch.where(on_wall, wall.clamp(min=0.05).maximum((before - oz) / dz).minimum(depth), depth)
    gx, gy, z = qx + depth * dx, qy + depth * dy, oz + depth * dz
    r, rise = torch.hypot(gx, gy).clamp(min=1e-6), ((z - before) / (cz - before)).clamp(0, 1)
    nz = torch.where(on_wall, 0.5 * (1 - rise) ** 4 - 0.75 * rise**2, -0.15 - 0.7 * (1 - (1 - lift.clamp(0, 1)) ** 4))
    inward = -(1 - nz * nz).sqrt() / r
    facing = -(inward * gx * dx + inward * gy * dy + nz * dz)
    u, v = torch.atan2(gy, gx) / math.pi, (z + (1 - r).clamp(min=0) * ~on_wall) / math.pi
    tissue = torch.stack([ox + depth * dx, oy + depth * dy, z], 1)
    # ---- solids, in the camera's coordinates
    kind, alone, touch = torch.full_like(first, -1), torch.zeros_like(on_wall), torch.full_like(depth, 9.0)
    ray, place = ray.flatten(1), torch.zeros(n, 3, size * size)
    for k in range(p["heart"].shape[1]):
        form, centre = p["forms"][:, k], p["heart"][:, k, :, None]
        m, q = form @ ray, form @ centre
        a, b, c = (m * m).sum(1), (m * q).sum(1), (q * q).sum(1) - 1
        gap = b * b - a * c
        t = (b - gap.clamp(min=0).sqrt()) / a
        on = (gap > 0) & (t > 0.02)
        if k == 4:  # the shaft ends at the hinge
            on &= (p["axis"][:, None] @ (ray * t[:, None] - centre))[:, 0] < 0
        local = m * t[:, None] - q
        normal = F.normalize(form.mT @ local, dim=1)
        t, on = t.view(n, size, size), on.view(n, size, size)
        alone |= on & (k < 4)
        nearer = on & (t < depth)
        kind, depth = torch.where(nearer, k, kind), torch.where(nearer, t, depth)
        facing = torch.where(nearer, -(normal * ray).sum(1).view(n, size, size), facing)
        place = torch.where(nearer.flatten(1)[:, None], p["turn"] @ local, place)
        if k < 3:  # how near the wall is to the polyp, for its shadow
            flat = form @ (p["turn"].mT @ (tissue.flatten(2) - p["eye"][..., None]) - centre)
            touch = torch.minimum(touch, flat.norm(dim=1).view(n, size, size))
    polyp, tool = (kind >= 0) & (kind < 4), kind > 3
    # ---- colour
    u = torch.where(polyp, 0.3 * place[:, 0].view_as(u) + 0.4, u)
    v = torch.where(polyp, 0.3 * (place[:, 1] + place[:, 2]).view_as(u), v)
    grid = torch.stack([u, ((v + 100) % 2 - 1).abs() * 2 - 1], -1)
    videos = len(skin)
    mottle, vessel, patch, twig, bump = F.grid_sample(skin, grid.view(videos, -1, size, 2), align_corners=False).view(
        videos, 5, -1, size, size).transpose(1, 2).flatten(0, 1).unbind(1)
    vein = torch.exp(-(vessel / 0.13) ** 2) * torch.sigmoid(4 * patch) + 0.6 * torch.exp(-(twig / 0.16) ** 2) * torch.sigmoid(
        3 * patch - 1)
    blood = 0.3 + 0.06 * mottle + 0.4 * vein * ~polyp + polyp * (0.2 * px(p["tint"][:, 0]) + 0.15 + 0.05 * bump)
    spill = (tissue.flatten(2) - p["base"][..., None]).norm(dim=1).view_as(depth)
    pool = torch.sigmoid((0.75 * px(p["bled"]) - 0.1 + 0.12 * mottle - spill) * 14) * px((p["bled"] > 0).float())
    blood = blood + 1.6 * pool * torch.where(polyp, 0.5, 1.0)
    colour = torch.tensor([0.97, 0.80, 0.70]) + 0.03 * p["tint"]
    albedo = colour[..., None, None] * torch.exp(-blood[:, None] * BLOOD)
    albedo = albedo ** (1 + 0.22 * depth.clamp(max=6))[:, None]
    plastic = (0.15 + 0.8 * p["plastic"][:, :1]) * (1 - p["plastic"][:, 1:] * torch.tensor([0.8, 0.35, 0.0]))
    metal = torch.where((kind > 4)[:, None], 0.75, plastic[..., None, None])
    albedo = torch.where(tool[:, None], metal, albedo)
    shine = (facing + 0.03 * bump * ~tool).clamp(0.03, 1) ** torch.where(tool, 2.0, 1.0)
    light = px(p["power"]) * shine / (depth**2 + 0.12) * (1 - 0.45 * torch.exp(-3 * (touch - 1).clamp(min=0)) * (kind < 0))
    light = 2.6 * light
    image = albedo * (1.25 * light / (light + 0.55))[:, None]
    gloss = torch.sigmoid((facing + 0.14 * bump - 1.24) * 40) * (light / (light + 0.5))
    image = blend(image, torch.ones_like(image), gloss * 0.9)
    if noisy:
        for k in range(5):
            s = torch.hypot(x - px(p["bubble"][:, k, 0]), y - px(p["bubble"][:, k, 1])) / px(p["big"][:, k])
            image = blend(image, torch.ones_like(image), px(p["wet"]) * (0.7 * torch.exp(-((s - 0.9) * 5) ** 2)))
        image = torch.lerp(image, blur(image, 1.6 * size / 64), p["fog"][:, None, None, None])
    image = blur(image, 0.35 * size / 64)
    wide, cut, mx, my = (px(w) for w in p["stop"].unbind(1))
    ex, ey = (x - mx).abs(), (y - my).abs()
    seen = (torch.maximum(ex, ey) < wide) & (ex + ey < cut * wide) & True
    image = image * ((1 - 0.25 * far**2) * seen)[:, None]
    mask = (polyp + 2 * tool) * seen
    visible = (mask == 1).flatten(1).sum(1) / (alone & seen).flatten(1).sum(1).clamp(min=1)
    drift = torch.zeros(n, 2 * flow, size, size)
    if flow:
        point = torch.where(torch.ones(1, dtype=torch.bool), (ray * depth.flatten(1)[:, None]), 0)
        body = (kind - 3).clamp(min=0).flatten(1)
        moved = torch.zeros_like(point)
        for k in range(4):
            gone = p["move"][:, k] @ (point - p["pivot"][:, k, :, None]) + p["target"][:, k, :, None]
            moved = torch.where((body == k)[:, None], gone, moved)
        across = moved[:, :2].norm(dim=1, keepdim=True)
        flat = moved[:, :2] * torch.atan2(across, moved[:, 2:]) / across.clamp(min=1e-9) / LENS
        drift = (flat.view(n, 2, size, size) - torch.stack([x, y])) * size / 2 * seen[:, None]
    return image, mask, visible, drift
