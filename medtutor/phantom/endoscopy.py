"""Colonoscopy-like video: a camera with its light in a folded tube, polyps, forceps, blood.

The world is rigid: a bent tube of radius 1 (about 25 mm) along z whose folds are thin rings, so that a ray's first hit
has a closed form; polyps and forceps are spheroids. The camera looks along z, x to the right and y down, through an
equidistant fisheye.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import texture
from medtutor.phantom.texture import Draws, blur, boxes, cloud, noise, unit_grid
from medtutor.render.shape import rotation

CLASSES, PREVALENCE = ("background", "polyp", "instrument"), {"polyp": 0.7, "instrument": 0.4, "bleeding": 0.15}
RATE, LENS, FOLDS = 10.0, math.radians(52), 10  # frames/s; angle at the middle of the picture's edge; rings
LINING = (("mottle", 7, 3), ("vessel", 9, 2), ("patch", 5, 1), ("twig", 20, 1), ("bump", 44, 1))  # bumps, octaves
MUCUS, BLOOD = torch.tensor([[[0.97, 0.80, 0.70], [0.35, 1.5, 1.3]]])[..., None].unbind(1)  # colour, absorption


def cohort(n: int, size: int = 64, seed: int = 0, frames: int = 20, prevalence: dict[str, float] | None = None,
           speed: float = 1.0, noisy: bool = True) -> Cohort:
    """n videos of `frames` pictures, a row each, by `patient` (the video), then `visit` (the frame).

    `image` (n * frames, 3, size, size) RGB in [0, 1]; `mask` (N, size, size) has `CLASSES`: what one sees of polyp and
    instrument; `box` (N, 2, 4) bounds them. `label` (N, 3), the names of `PREVALENCE`: there is a polyp (in the picture
    or not), the forceps are out in this frame, it has bled by now. `prevalence` is per video. `speed` scales the
    motion, 0 freezes camera and forceps. `noisy=False` leaves out sensor noise, fog and bubbles. Video i depends on
    `seed` and i only, its frame t not on `frames`.

    `meta`: time in s; visible (N,), the share of the polyp's pixels in the picture that nothing hides, 0 where it is
    out of the picture; depth (N, size, size) in tube radii along the ray; eye (N, 3) in tube radii and turn (N, 3, 3),
    the camera's place and its axes as columns: a point p of the tissue is at turn^T (p - eye) in the camera's
    coordinates, from which optical flow follows.
    """
    if frames < 1 or speed < 0:
        raise ValueError(f"need frames of 1 or more and a speed of 0 or more, but got {frames}, {speed}")
    draws, tau, time = Draws(n, seed, "endoscopy", 256), 2 * math.pi, torch.arange(frames).double() / RATE
    u, deep = draws.uniform, torch.tensor([0.0, 0, 1]).double()
    has = {key: draws.chance(share)[:, None] for key, share in texture.chances(prevalence, PREVALENCE).items()}

    def sway(reach: float, fast: float = 5.0, slow: float = 10.0) -> Tensor:
        """Smooth motion (n, frames) between -reach and reach, with periods from `fast` to `slow` seconds."""
        return reach * torch.sin(tau * (speed * time / u(fast, slow, 1) + u(0, 1, 1)))

    # ---- the tube: its rings and their openings; the camera in it, (n, frames, ...)
    gap, bend, aim, forth = u(0.55, 1.0, FOLDS), u(0.0, 0.075, 1), u(0, tau, 1), sway(0.38, 6.0)
    rise = gap.cumsum(1) - u(0.2, 0.5, 1)
    ring, eye = (torch.stack([bend * z**2 * aim.cos() + p, bend * z**2 * aim.sin() + q, z], -1)
                 for z, p, q in ((rise, 0, 0), (forth, sway(0.18), sway(0.18))))
    rim = torch.stack([u(0.2, 0.42, FOLDS), u(0.0, 0.2, FOLDS), u(0, tau, FOLDS), u(0.03, 0.12, FOLDS),
                       u(0, tau, 1) + u(-0.3, 0.3, FOLDS), rise - gap], -1)
    nod, yaw, roll = (a.reshape(-1) for a in (sway(9.0), sway(9.0), u(0, 360, 1) + sway(25.0, 8.0, 14.0)))
    turn = (rotation(nod, "x") @ rotation(yaw, "y") @ rotation(roll, "z")).view(n, -1, 3, 3)
    # ---- the polyp on a fold: head, two lobes, stalk
    fold, angle, big, stalk = 1 + draws.chance(0.4).long(), u(0, tau, 1), u(0.16, 0.34, 1), draws.chance(0.35)[:, None]
    out, side = (torch.cat([a.cos(), a.sin(), 0 * a], 1) for a in (angle, angle + tau / 4))
    base = ring[torch.arange(n), fold] + u(0.7, 0.85, 1) * out
    arm = F.normalize(-deep * u(0.8, 1.3, 1) - out - side * u(-0.5, 0.5, 1), dim=1)
    top = base + torch.where(stalk, 1.5, 0.1) * big * arm
    lobes = [top + big * (u(-0.9, 0.9, 1) * side - u(-0.2, 0.5, 1) * out) for _ in (1, 2)]
    heart = torch.where(has["polyp"][..., None], torch.stack([top, *lobes, 0.6 * base + 0.4 * top], 1), 1e3)
    forms = torch.stack([_rod(side, big * u(low, high, 1), big * u(high, most, 1)) for low, high, most in (
        (0.65, 0.95, 1.35), (0.4, 0.6, 0.75), (0.4, 0.6, 0.75), (0.35, 0.45, 0.5))], 1)
    # ---- the forceps slide out of the camera's working channel: shaft and two jaws, in the camera's coordinates
    port, gape, long = u(0.5, 1.6, 1), u(0.1, 0.7, 1), sway(0.5, 4.0, 8.0) + u(0.35, 0.7, 1)
    port, there = 0.26 * torch.cat([port.cos(), port.sin(), 0 * port], 1), has["instrument"] & (long > 0)
    axis = F.normalize(deep - 0.8 * port + u(-0.12, 0.12, 3) * (1 - deep), dim=1)
    across = gape.sin() * F.normalize(torch.linalg.cross(axis, deep.expand(n, 3)), dim=1)
    jaws = gape.cos() * axis + across, gape.cos() * axis - across
    tool = torch.stack([_rod(axis, 0.05, 1.2), *(_rod(jaw, 0.026, 0.12) for jaw in jaws)], 1)
    tip = torch.where(there[..., None], port[:, None] + long[..., None] * axis[:, None], 1e3)[:, :, None]
    tip = tip + torch.stack([-1.2 * axis, 0.1 * jaws[0], 0.1 * jaws[1]], 1)[:, None]
    scene = {"ring": ring, "rim": rim, "base": base, "look": u(0, 1, 14), "heart": heart, "forms": forms}
    scene = {key: v[:, None].expand(-1, frames, *v.shape[1:]) for key, v in scene.items()}
    scene["heart"] = torch.cat([scene["heart"], eye[:, :, None] + tip @ turn.mT], 2)
    scene["forms"] = torch.cat([scene["forms"], tool[:, None] @ turn[:, :, None].mT], 2)
    bled = has["bleeding"] * ((time - u(-3, 1, 1)) / 3).clamp(0, 1)
    scene |= {"eye": eye, "turn": turn, "bled": bled, "fog": sway(1.4, 1.5, 4.0)}
    # ---- the lining, periodic around the tube
    seam, step = torch.sin(torch.linspace(0, math.pi, 192)) ** 2, max(1, 32 // frames)
    skin = torch.stack([cloud(n, seed, f"endoscopy {name}", 192, cells, 2, deep) for name, cells, deep in LINING], 1)
    skin = (skin * seam + skin.roll(96, -1) * (1 - seam)) / torch.hypot(seam, 1 - seam)
    parts = [_frames({key: v[a:a + step].flatten(0, 1).float() for key, v in scene.items()}, skin[a:a + step], size,
                     noisy) for a in range(0, n, step)]
    image, mask, visible, depth = (torch.cat(column) for column in zip(*parts, strict=True))
    grain = noise(n, seed, "endoscopy sensor", (frames, 3, size, size)).flatten(0, 1) * (image.amax(1, True) > 0.02)
    label = torch.stack([has["polyp"].expand_as(there), there, bled > 0], -1).flatten(0, 1).float()
    return Cohort(image=(image + 0.012 * noisy * grain).clamp(0, 1), mask=mask, label=label,
                  box=boxes(torch.stack([mask == 1, mask == 2], 1)), **texture.frames(n, frames),
                  meta={"time": time.repeat(n).float(), "visible": visible, "depth": depth,
                        "eye": eye.flatten(0, 1).float(), "turn": turn.flatten(0, 1).float()},
                  names={"mask": CLASSES, "label": (*PREVALENCE,), "box": CLASSES[1:]},
                  units={"image": "RGB, 0 to 1", "box": "pixels", "time": "s", "depth": "tube radii"})


def _rod(axis: Tensor, thin: Tensor | float, long: Tensor | float) -> Tensor:
    """Forms (..., 3, 3) that map a spheroid with semi-axis `long` along the unit vector `axis` to the unit sphere."""
    along, (thin, long) = axis[..., :, None] * axis[..., None, :], (torch.as_tensor(v)[..., None] for v in (thin, long))
    return (torch.eye(3, dtype=axis.dtype) - along) / thin + along / long


def _length(vectors: Tensor) -> Tensor:  # of (..., 2 or 3, pixels); many times as fast as torch's norm
    return (vectors * vectors).sum(-2).sqrt()


def _frames(p: dict[str, Tensor], skin: Tensor, size: int, noisy: bool) -> tuple[Tensor, ...]:
    """Pictures, masks, visible shares, depth of the frames with parameters `p`; `skin` has a row per video. Tensors are
    (n, rings or solids, x y z, pixels), without what does not apply."""
    n, (x, y) = len(p["eye"]), (g.float().flatten() for g in unit_grid(size))
    far, eye, heart, look = torch.hypot(x, y).clamp(min=1e-6), p["eye"][..., None], p["heart"], p["look"][..., None]
    ray = p["turn"] @ torch.stack([x / far * (far * LENS).sin(), y / far * (far * LENS).sin(), (far * LENS).cos()])
    (dx, dy, dz), (ox, oy, oz) = ray.split(1, 1), eye.split(1, 1)
    # ---- the first ring whose opening a ray misses, or the wall before it
    (cx, cy, cz), (a, b, lean, c, three, start) = (p[key][..., None].unbind(2) for key in ("ring", "rim"))
    depth = (cz - oz) / dz
    gx, gy = ox + depth * dx - cx, oy + depth * dy - cy
    r = torch.hypot(gx, gy)
    part = (gx * three.cos() + gy * three.sin()) / r
    hole = 1 - a - b * (gx * lean.cos() + gy * lean.sin()) / r - c * (4 * part**3 - 3 * part)
    first = ((depth > 0.02) & ((r > hole) | (cz == cz[:, -1:]))).byte().argmax(1, True)
    cx, cy, cz, start, depth, lift = (v.expand_as(r).gather(1, first)
                                      for v in (cx, cy, cz, start, depth, (r - hole) / (1 - hole)))
    qx, qy, a, on_wall = ox - cx, oy - cy, dx * dx + dy * dy, lift > 1
    b = qx * dx + qy * dy
    wall = ((b * b - a * (qx * qx + qy * qy - 1)).clamp(min=0).sqrt() - b) / a.clamp(min=1e-6)
    depth = torch.where(on_wall, wall.clamp(min=0.05).maximum((start - oz) / dz).minimum(depth), depth)
    tissue = eye + depth * ray
    gx, gy, z = tissue[:, :1] - cx, tissue[:, 1:2] - cy, tissue[:, 2:]
    r, rise = torch.hypot(gx, gy).clamp(min=1e-6), ((z - start) / (cz - start)).clamp(0, 1)
    nz = torch.where(on_wall, 0.5 * (1 - rise) ** 4 - 0.75 * rise**2, -0.15 - 0.7 * (1 - (1 - lift.clamp(0, 1)) ** 4))
    facing = (1 - nz * nz).sqrt() / r * (gx * dx + gy * dy) - nz * dz
    # ---- the solids
    q, m = p["forms"] @ (p["eye"][:, None] - heart)[..., None], p["forms"] @ ray[:, None]
    a, b, c = (m * m).sum(2), (m * q).sum(2), (q * q).sum(2) - 1
    t = -(b + (b * b - a * c).clamp(min=0).sqrt()) / a
    on, local = (b * b > a * c) & (t > 0.02), m * t[:, :, None] + q
    near, kind = torch.where(on, t, math.inf).min(1, True)
    nearer, shadow = near < depth, _length(p["forms"][:, :3] @ (tissue[:, None] - heart[:, :3, :, None])).amin(1, True)
    depth, polyp, steel = torch.where(nearer, near, depth), nearer & (kind < 4), nearer & (kind > 3)
    slope = -(local * m).sum(2) / _length(p["forms"].mT @ local).clamp(min=1e-9)
    facing = torch.where(nearer, slope.gather(1, kind), facing)
    # ---- colours: blood in the lining, light that falls off
    u, v = torch.atan2(gy, gx) / math.pi, (z + (1 - r).clamp(min=0) * ~on_wall) / math.pi
    u, v = (torch.where(polyp, 0.3 * local[:, :, k].gather(1, kind), w) for k, w in ((0, u), (1, v)))
    grid = torch.stack([u, ((v + 100) % 2 - 1).abs() * 2 - 1], -1).view(len(skin), -1, len(x), 2)
    skin = F.grid_sample(skin, grid, align_corners=False).transpose(1, 2).flatten(0, 1)
    mottle, vessel, patch, twig, bump = skin.split(1, 1)
    veins = torch.sigmoid(4 * patch) * (torch.exp(-(vessel / 0.13) ** 2) + 0.5 * torch.exp(-(twig / 0.16) ** 2))
    bled, spill = p["bled"][:, None, None], _length(tissue - p["base"][..., None])[:, None]
    pool = torch.sigmoid((0.75 * bled - 0.1 + 0.12 * mottle - spill) * 14) * (bled > 0) * (1.6 - 0.8 * polyp)
    blood = 0.3 + torch.where(polyp, 0.4 * look[:, :1] - 0.05 + 0.05 * bump, 0.06 * mottle + 0.4 * veins) + pool
    colour = ((MUCUS + 0.06 * look[:, 1:4] - 0.03) * torch.exp(-blood * BLOOD)) ** (1 + 0.22 * depth.clamp(max=6))
    blue = 1 - look[:, 5:6] * torch.tensor([[0.8], [0.35], [0.0]])
    colour = torch.where(steel, torch.where(kind > 4, 0.75, (0.15 + 0.8 * look[:, 4:5]) * blue), colour)
    light = (facing + 0.03 * bump * ~steel).clamp(0.03, 1) ** (1.0 + steel) / (depth**2 + 0.12)
    light = light * (2 + 1.5 * look[:, 6:7]) * (1 - 0.45 * ~nearer * torch.exp(3 - 3 * shadow.clamp(min=1)))
    image = 1.25 * colour * light / (light + 0.55)
    image = image + (1 - image) * 0.9 * torch.sigmoid((facing + 0.14 * bump - 1.24) * 40) * light / (light + 0.5)
    # ---- at the lens: bubbles, fog, field stop
    seen = torch.maximum(x.abs(), y.abs()).maximum((x.abs() + y.abs()) / 1.55) < 0.9 + 0.25 * look[:, 7:8]
    if noisy:
        fog, ball = p["fog"][:, None, None], torch.stack([x, y]) - 1.8 * look[:, 8:14].reshape(n, 3, 2, 1) + 0.9
        ball = torch.exp(-((_length(ball) / 0.06 - 1) * 4) ** 2).amax(1, True)
        image = (image + (1 - image) * ball * (-fog - 0.6).clamp(0, 1)).view(n, 3, size, size)
        image = torch.lerp(image, blur(image, 1.6 * size / 64), (fog[..., None] - 0.6).clamp(0, 1))
    image = blur(image.view(n, 3, size, size), 0.35 * size / 64) * ((1 - 0.25 * far**2) * seen).view(n, 1, size, size)
    visible = (seen & polyp).sum((1, 2)) / (on[:, :4].any(1, True) & seen).sum((1, 2)).clamp(min=1)
    mask, depth = (v.view(n, size, size) for v in (seen * (polyp + 2 * steel), depth))
    return image, mask, visible, depth
