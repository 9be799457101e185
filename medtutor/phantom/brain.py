"""Brain MR and CT: warped heads on the ICBM 152 template that nilearn ships, with lesions, tumours, visits and pairs.

Positions in mm are MNI coordinates (x to the right, y to the front, z to the head). Volumes are (z, y, x): feet first,
front first, the patient's right first. Slices show the front (coronal, sagittal: the top) at the top and the patient's
right (sagittal: the front) at the left. Displacements are in voxels, see `warp`.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import growth, texture, warp
from medtutor.phantom.growth import wide
from medtutor.phantom.mri import CONTRASTS, SITES, scan, smooth
from medtutor.phantom.texture import Draws, boxes, cloud, noise
from medtutor.render.shape import rotation

CLASSES = ("background", "cerebrospinal fluid", "grey matter", "white matter", "ventricle", "white matter lesion",
           "infarct", "haemorrhage", "oedema", "tumour core")
PREVALENCE = {"white matter lesion": 0.5, "infarct": 0.0, "haemorrhage": 0.0, "tumour": 0.0}
FOV, CENTRE = 216.0, (0.0, -18.0, 8.0)  # mm
PLANES, _AXES, _UNITS = texture.table("brain").values()
_MAPS = ("fluid", "grey", "white", "ventricle", "near", "skull", "scalp")


@lru_cache(1)
def _template() -> Tensor:
    """(7, 94, 116, 98), axes z, y, x at 2 mm: `_MAPS`, tissue fractions and nearness to the ventricles."""
    import nibabel
    import numpy as np
    from scipy import ndimage

    found = importlib.util.find_spec("nilearn")
    if found is None:
        raise FileNotFoundError("the brain template comes with nilearn; install it with: pip install nilearn")
    path = str(Path(found.origin).parent / "datasets" / "data" / "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz")
    t1, grey, white = (np.asarray(nibabel.load(path.format(k)).dataobj)[:196, :232, :188] for k in ("t1", "gm", "wm"))
    t1, grey, white = (v.reshape(98, 2, 116, 2, 94, 2).mean((1, 3, 5), dtype="f4").T / 255 for v in (t1, grey, white))
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(t1 > 0.12, iterations=3))
    fluid = np.where(brain, 1 - grey - white, 0).clip(0)
    z, y, x = np.ogrid[-71.5:116:2, -133.5:98:2, -97.5:98:2]
    inner = ndimage.distance_transform_edt(brain) > 6
    part, count = ndimage.label((fluid > 0.5) & inner & (abs(x) < 44) & (abs(y + 24) < 62) & (abs(z - 7) < 25))
    near = 2 * ndimage.distance_transform_edt(~np.isin(part, 1 + np.flatnonzero(np.bincount(part.flat)[1:] > 150)))
    ventricle = np.where(near < 4, fluid, 0)
    rim = np.where(near < 6, grey - ndimage.grey_opening(grey, 4), 0)  # half white matter, half fluid: not grey matter
    grey, white, ventricle = grey - rim, white + rim / 2, ventricle + rim / 2
    out = 2 * ndimage.distance_transform_edt(~brain)
    edge = [1 / (1 + np.exp((mm - out) * 1.2)) for mm in (1.5, 8, 13)]
    fluid = np.where(brain, 1, 1 - edge[0]) * (1 - grey - white - ventricle).clip(0)
    bone, skin = ((b - a) * ~brain for a, b in ((edge[1], edge[0]), (edge[2], edge[1])))
    return torch.from_numpy(np.stack([fluid, grey, white, ventricle, np.exp(-near / 9), bone, skin]).astype("f4"))


@lru_cache(16)
def _template_at(spacing: float, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Some of `_MAPS` without what voxels of `spacing` mm cannot show, and cells of 8 mm near which they are not 0."""
    maps = smooth(_template()[None, first:last], 0.15 * max(spacing - 2, 0))
    tissue = torch.cat([maps[:, :4 - first], maps[:, 5 - first:]], 1).amax(1)
    maps = maps.contiguous(memory_format=torch.channels_last_3d)  # one place's maps side by side: twice as fast
    return maps, F.max_pool3d((tissue > 0.01).float(), 7, 4, 3)[0] > 0


def _sampled(place: Tensor, spacing: float, first: int, last: int) -> Tensor:
    """The template's maps (n, last - first, *space) at MNI positions (n, 3, *space) in mm."""
    maps, head = _template_at(round(spacing, 3), first, last)
    steps = (place.movedim(1, -1).reshape(-1, 3) + torch.tensor((97.5, 133.5, 71.5))) / 2
    x, y, z = (steps / 4).round().long().clamp(min=torch.tensor(0), max=torch.tensor(head.shape[::-1]) - 1).unbind(1)
    inside = head[z, y, x].nonzero()[:, 0]  # most of a picture is air
    grid = F.pad(2 * steps[inside] / (torch.tensor(maps.shape[:1:-1]) - 1) - 1, (0, 0, 0, -len(inside) % 8))
    value = F.grid_sample(maps.expand(8, -1, -1, -1, -1), grid.view(8, 1, 1, -1, 3), align_corners=True)
    out = maps.new_zeros(last - first, len(steps))
    out[:, inside] = value.transpose(0, 1).flatten(1)[:, :len(inside)]
    return out.view(last - first, len(place), *place.shape[2:]).transpose(0, 1)


def cohort(n: int, size: int = 48, seed: int = 0, kind: str = "volume", contrast: str | tuple[str, ...] = "t1",
           plane: str = "axial", level: float | Tensor | None = None, variation: float = 1.0, tilt: float = 3.0,
           age: float | Tensor | None = None, atrophy: float | Tensor | None = None,
           prevalence: dict[str, float | Tensor] | None = None, lesion_mm: tuple[float, float] | None = None,
           visits: int = 1, interval: tuple[float, float] = (60.0, 200.0), progress: float | Tensor | None = None,
           site: int | Tensor | None = 0, skull: bool | None = None, thickness: float = 0.0, fov: float = FOV,
           coordinates: bool = False, noisy: bool = True) -> Cohort:
    """n patients, `visits` aligned scans of each, as n * visits rows; patient i depends on `seed` and i only.

    kind "volume": `volume` (N, C, size, size, size). "slice": `image` (N, C, size, size) in `plane` at `level` mm, a
    number, (n,) or None for anywhere in `PLANES`, `thickness` mm deep (volumes: along z). A channel per `contrast` of
    `CONTRASTS`: MR about 0 to 1 ("t1ce": with contrast agent; "fa": like fractional anisotropy), "ct" in HU / 1000.
    `mask` (N, *space) has `CLASSES`; `label` (N, 4) and, in slices, `box` (N, 4, 4) say what of `PREVALENCE` it shows.
    `fov` in mm, isotropic. `skull`: with skull and scalp (None: with CT). `noisy=False`: no noise, grain, bias field.

    `variation` scales the random warp, size and position of the head, 0 is the template; `tilt` in degrees its random
    turns. `atrophy`: log of the factor by which ventricles swell, somewhat less where it is large (None: by `age`).
    `prevalence`: probabilities, numbers or (n,); `lesion_mm`: radii of infarcts and haemorrhages. Visits are `interval`
    days apart at random; lesions grow by a logistic law of rate `progress` per year (None: patients differ; negative:
    they shrink), tumours by `growth.grow`. `site`: scanner, index into `SITES`, a number, (n,), or None for any; the
    brain is the same.

    `meta`: age and atrophy (first visit), atrophy_rate (1/year), day, site, ventricle_ml (slices: ventricle_cm2); with
    tumours their density (N, *space) and, NaN without one, tumour_diffusion (mm^2/day in white matter), tumour_rate
    (1/day), tumour_day (age at the first visit), tumour_seed (voxels). With `coordinates`, mni (N, 3, *space) in mm.
    """
    contrasts = (contrast,) if isinstance(contrast, str) else tuple(contrast)
    frame, draws = _frame(kind, plane, size, fov, contrasts), Draws(n, seed, f"brain {kind} {plane}", 1024)
    sites = texture.each(n, "site", site, 0, len(SITES) - 1, draws.uniform(0, len(SITES)).floor()).long()
    heads, meta = _heads(draws, frame, seed, level, variation, tilt, age, atrophy, prevalence, lesion_mm,
                         "ct" in contrasts if skull is None else skull, thickness, visits, interval, progress)
    name, dims, h = frame["name"], frame["dims"], frame["h"]
    shots = [_scan(head, contrasts, sites, seed, f"visit {v}", h, noisy) for v, head in enumerate(heads)]
    mask = _rows([_classes(head) for head in heads])
    layers = torch.stack([mask == 5, mask == 6, mask == 7, mask >= 8], 1)
    meta = {key: value.repeat_interleave(visits, 0) for key, value in meta.items()} | {
        "day": _rows([head["day"] for head in heads]), "site": sites.repeat_interleave(visits),
        "ventricle_ml" if dims == 3 else "ventricle_cm2": (mask == 4).flatten(1).sum(1) * (h / 10) ** dims}
    meta |= {key: _rows([head[key] for head in heads])
             for key, wanted in (("density", "density" in heads[0]), ("mni", coordinates)) if wanted}
    return Cohort(**{name: _rows(shots)}, mask=mask, label=layers.flatten(2).any(2).float(), meta=meta,
                  box=boxes(layers) if dims == 2 else None, **texture.frames(n, visits), units=_units(name, h),
                  names={"mask": CLASSES, name: contrasts, "label": tuple(PREVALENCE), "box": tuple(PREVALENCE)})


def pair(n: int, size: int = 64, seed: int = 0, kind: str = "slice", contrast: tuple[str, str] = ("t1", "t1"),
         plane: str = "axial", amplitude: float = 3.0, bumps: int = 4, velocity: Tensor | None = None,
         tumour: tuple[float, float] = (0.0, 0.0), points: int = 32, site: tuple[int, int] = (0, 0), fov: float = FOV,
         noisy: bool = True, **options) -> tuple[Cohort, Cohort]:
    """Fixed and moving images of n heads and the warp between them: fixed at x shows what moving has at x + u(x).

    u is the exponential of a smooth random velocity with `bumps` per side whose largest vector is `amplitude` voxels,
    or of `velocity` (n, dims, *space), such as `warp.expansion` gives. Both images are warped, by half each, from a
    head in between, so that neither is blurred more. `meta` of the fixed cohort: displacement u and its inverse
    (n, dims, *space), jacobian (n, *space). `landmark` (n, points, dims), voxels: edges in the fixed image, and their
    places in the moving one. `contrast` and `site`: of fixed and moving. `tumour`: shares of the tumour's age in fixed
    and moving; (0, 1) is a tumour in the moving image only, (0.7, 1) one that is smaller in the fixed; with `meta`
    density. `options` of `cohort`: level, variation, tilt, age, atrophy, prevalence, lesion_mm, skull, thickness.
    """
    frame, draws = _frame(kind, plane, size, fov, contrast), Draws(n, seed, f"brain {kind} {plane}", 1024)
    dims, draws.next = frame["dims"], 1  # the same patients as in `cohort`
    options["prevalence"] = (options.get("prevalence") or {}) | {"tumour": float(max(tumour) > 0)}
    (head,), meta = _heads(draws, frame, seed, **options, shares=tumour)
    if velocity is None:
        velocity = _vectors(n, seed, "pair", size, dims, ((bumps, 1.0),)) * _fade(size, dims)
        velocity = velocity * wide(amplitude / velocity.square().sum(1).sqrt().flatten(1).amax(1), velocity)
    flow, pictures = warp.exponentiate(velocity), []
    truth = {"displacement": flow, "inverse": warp.exponentiate(-velocity), "jacobian": warp.jacobian(flow)}
    for k, contrasts in enumerate((contrast[:1], contrast[1:])):
        half = warp.exponentiate((0.5 - k) * velocity)
        end = {"maps": warp.apply(head["maps"], half),
               "lesion": {key: warp.apply(w[:, None], half)[:, 0] for key, w in head["lesion"].items()}}
        if "density" in head:
            end["density"] = warp.apply(head["density"][:, k:k + 1], half)[:, 0]
        sites = texture.each(n, "site", site[k], 0, len(SITES) - 1).long()
        shot = _scan(end, contrasts, sites, seed, f"pair {k}", frame["h"], noisy)
        if k == 0:
            edge = sum(g * g for g in torch.gradient(end["maps"][:, 2], dim=list(range(1, dims + 1)))).sqrt()
            chosen = (edge * noise(n, seed, "points", edge.shape[1:]).abs()).flatten(1).topk(points, dim=1).indices
            spot, step = (field.flatten(2).gather(2, chosen[:, None].expand(-1, dims, -1)).transpose(1, 2)
                          for field in (frame["index"].expand_as(flow), flow))
        pictures.append(Cohort(
            **{frame["name"]: shot}, mask=_classes(end), landmark=spot + k * step,
            units=_units(frame["name"], frame["h"]), names={"mask": CLASSES, frame["name"]: contrasts},
            meta=meta | ({} if k else truth) | ({"density": end["density"]} if "density" in end else {})))
    return pictures[0], pictures[1]


def _frame(kind: str, plane: str, size: int, fov: float, contrasts: tuple[str, ...]) -> dict:
    if kind not in ("volume", "slice") or plane not in PLANES or set(contrasts) - set(CONTRASTS):
        raise ValueError(f'kind must be "volume" or "slice", plane one of {", ".join(PLANES)}, contrasts among '
                         f"{', '.join(CONTRASTS)}, but got {kind!r}, {plane!r}, {', '.join(contrasts)}")
    axes = torch.tensor(_AXES["volume" if kind == "volume" else plane], dtype=torch.float32)
    return {"axes": axes, "dims": len(axes), "h": fov / size, "index": warp.places((size,) * len(axes)), "plane": plane,
            "normal": 1 - axes.abs().sum(0), "name": "volume" if kind == "volume" else "image", "size": size}


def _units(name: str, h: float) -> dict[str, str]:
    return _UNITS | {name: f"MR signal, about 0 to 1; CT in HU / 1000; {h:g} mm per voxel"}


def _rows(visits: list[Tensor]) -> Tensor:
    """Visits (n, ...) each, as rows (n * visits, ...), patient by patient."""
    return torch.stack(visits, 1).flatten(0, 1)


def _per(value: float | Tensor | None, drawn: Tensor) -> Tensor:
    return drawn if value is None else torch.as_tensor(value, dtype=drawn.dtype).expand(drawn.shape)


def _vectors(n: int, seed: int, stream: str, size: int, dims: int, scales: tuple[tuple[int, float], ...]) -> Tensor:
    """Smooth random vectors (n, dims, *space): the sum over scales (bumps per side, spread)."""
    return torch.stack([sum(spread * cloud(n, seed, f"{stream} {cells} {k}", size, cells, dims)
                            for cells, spread in scales) for k in range(dims)], 1)


def _fade(size: int, dims: int) -> Tensor:
    """1 inside, falling to 0 at the faces of the picture, so that warps stay within it."""
    place = (torch.arange(size) + 0.5) / size
    line = (torch.minimum(place, 1 - place) / 0.12).clamp(max=1)
    return math.prod(line.view(-1, *[1] * k) for k in reversed(range(dims)))


def _heads(draws: Draws, frame: dict, seed: int, level=None, variation=1.0, tilt=3.0, age=None, atrophy=None,
           prevalence=None, lesion_mm=None, skull=False, thickness=0.0, visits=1, interval=(60.0, 200.0), progress=None,
           shares=None) -> tuple[list[dict], dict]:
    """Per visit: maps (n, 5 or 7, *space), lesion weights and tumour density (n, *space), MNI positions, day."""
    if not 1 <= visits <= 12:
        raise ValueError(f"visits must be from 1 to 12, but got {visits}")
    n, dims, size, h, u = draws.n, frame["dims"], frame["size"], frame["h"], draws.uniform
    risk = texture.chances(prevalence, PREVALENCE)
    age = _per(age, u(25, 85))
    day = torch.cumsum(u(*interval, 12), 1).float()
    day = (day - day[:, :1])[:, :visits]
    wasted = _per(atrophy, ((age - 45) / 50).clamp(min=-0.3) + draws.normal(0, 0.25)).float()
    yearly = u(0.02, 0.25).float()
    turns = [rotation(draws.normal(0, spread * tilt), axis) for axis, spread in (("x", 1), ("y", 0.7), ("z", 1))]
    pose = (turns[0] @ turns[1] @ turns[2] * draws.normal(1, 0.035 * variation, 3)[:, None]).float() @ frame["axes"].T
    anywhere, shift = u(*PLANES[frame["plane"]]), torch.tensor(CENTRE) + draws.normal(0, 2 * variation, 3).float()
    if dims == 2:
        shift = shift * (1 - frame["normal"]) + _per(level, anywhere).float()[:, None] * frame["normal"]

    def place(index: Tensor) -> Tensor:
        return (pose @ ((index - (size - 1) / 2) * h).flatten(2) + shift[..., None]).unflatten(2, index.shape[2:])

    # a random warp, and ventricles that widen at the tissue's expense
    coarse, linear = (size, "bilinear") if dims == 2 else ((size + 1) // 2, "trilinear")
    zoom = size / coarse
    flow = _vectors(n, seed, "shape", coarse, dims, ((3, 2.0), (9, 1.3))) * (variation / h / zoom)
    rough = place(F.interpolate(frame["index"], size=(coarse,) * dims, mode=linear))
    grey, white, ventricle = _sampled(rough, h * zoom, 1, 4).unbind(1)
    source, total = smooth(ventricle[:, None], 0.7)[:, 0], ventricle.flatten(1).sum(1).clamp(min=1e-3)
    source = source * wide(total / (source * ventricle).flatten(1).sum(1).clamp(min=1e-3), grey)  # 1 in the mean there
    share = source.flatten(1).sum(1) / (grey + white).flatten(1).sum(1).clamp(min=1)
    widen, heads = warp.swelling(source - (grey + white) * wide(share, grey)), []
    offsets = torch.linspace(-0.5, 0.5, 5) * thickness if thickness and dims == 2 else torch.zeros(1)
    for v in range(visits):
        amount = wasted + yearly * day[:, v] / 365
        back = warp.exponentiate(-(flow + wide(amount, flow) * widen) * _fade(coarse, dims), 5)
        mni = place(frame["index"] + F.interpolate(back, size=(size,) * dims, mode=linear) * zoom)
        maps = sum(_sampled(mni + (frame["normal"] * o).view(3, *[1] * dims), h, 0, 7 if skull else 5)
                   for o in offsets) / len(offsets)
        if dims == 3:
            maps = smooth(maps, thickness / h / math.sqrt(12), (2,))
        heads.append({"maps": _individual(maps, amount, variation, seed), "mni": mni, "day": day[:, v], "lesion": {}})
    meta = {"age": age.float(), "atrophy": wasted, "atrophy_rate": yearly}
    _add_lesions(heads, draws, frame, seed, risk, lesion_mm, _per(progress, u(0.3, 1.6)).float())
    # tumours grow on the tissue of the first visit
    has, grey, white = draws.chance(risk["tumour"]), *heads[0]["maps"][:, 1:3].unbind(1)
    theta, steps = growth.patients(draws, dims, h, interval[1])
    theta["seed"] = _spot(draws, white)
    if has.any():
        ages = theta["day"][:, None] + day if shares is None else theta["day"][:, None] * torch.tensor(sorted(shares))
        spread = growth.diffusivity(grey[has], white[has], theta["diffusion"][has])
        first = growth.seeded(spread, theta["seed"][has], h)
        seen = white.new_zeros(n, ages.shape[1], *white.shape[1:])
        seen[has] = growth.grow(first, spread, theta["rate"][has], ages[has], h, steps)
        for v, head in enumerate(heads):
            head["density"] = seen[:, v] if shares is None else torch.stack(
                [seen[:, sorted(shares).index(s)] * (s > 0) for s in shares], 1)
        meta |= {f"tumour_{k}": torch.where(has.view(-1, *[1] * (t.ndim - 1)), t, math.nan) for k, t in theta.items()}
    return heads, meta


def _individual(maps: Tensor, amount: Tensor, variation: float, seed: int) -> Tensor:
    """The average brain's blurred folds made into one patient's: random fields decide where the template is unsure,
    and open sulci within its cortex."""
    n, size, dims = len(maps), maps.shape[-1], maps.ndim - 2
    open_up, thin = (cloud(n, seed, f"fold {k}", size, 17, dims, 2) for k in range(2))
    wasted, total = wide(amount, thin), maps[:, :3].sum(1)
    part = maps[:, :3].clamp(min=0)
    part = part * part * part.sqrt()
    part[:, 0] *= torch.exp(0.55 * wasted + 0.9 * variation * open_up)
    part[:, 2] *= torch.exp(0.9 * variation * thin)
    part *= (total / part.sum(1).clamp(min=1e-6))[:, None]
    shallow = (1 - maps[:, 4]) * (1 - maps[:, 2]).clamp(0, 1) ** 5
    sulcus = part[:, 1] * torch.sigmoid(3 * open_up + 1.5 * wasted - 1.5) * shallow**2 * min(variation, 1.0)
    part[:, 0] += sulcus
    part[:, 1] -= sulcus
    return torch.cat([part, maps[:, 3:]], 1)


def _spot(draws: Draws, white: Tensor) -> Tensor:
    """A position (n, dims) in voxels in white matter: the first of 48 random places that lies there."""
    dims, size = white.ndim - 1, white.shape[-1]
    place = draws.uniform(0.2, 0.8, 48, dims).float() * size
    grid = (2 * place / (size - 1) - 1).view(draws.n, 48, *[1] * (dims - 1), dims)
    value = F.grid_sample(white[:, None], grid, align_corners=True).flatten(1)
    return place[torch.arange(draws.n), ((value > 0.7) * 2 + value - torch.arange(48) / 48).argmax(1)]


def _add_lesions(heads: list[dict], draws: Draws, frame: dict, seed: int, risk: dict, lesion_mm, pace: Tensor) -> None:
    white, h, dims = heads[0]["maps"][:, 2], frame["h"], frame["dims"]
    bump = cloud(draws.n, seed, "lesion", frame["size"], 22, dims, 2)
    load, start = draws.uniform(0.2, 0.9).float(), draws.uniform(0.15, 0.6).float()
    kinds = [(name, draws.chance(risk[name]), _spot(draws, white), draws.uniform(*lesion_mm or mm).float())
             for name, mm in (("white matter lesion", (1, 1)), ("infarct", (3, 9)), ("haemorrhage", (6, 20)))]
    for head, (name, has, spot, mm) in ((head, kind) for head in heads for kind in kinds if kind[1].any()):
        gain = torch.exp(pace * head["day"] / 365)
        if name == "white matter lesion":
            grown = load * gain / (1 + load * (gain - 1))  # the logistic law
            lie = bump + 3 * head["maps"][:, 4] + 1.9 * wide(grown, bump) - 3.4
            weight = torch.sigmoid(4 * lie) * head["maps"][:, 2]
        else:
            away = h * (frame["index"] - spot.view(-1, dims, *[1] * dims)).square().sum(1).sqrt()
            mm = mm * (gain / (1 + start * (gain - 1))) ** (1 / dims)
            weight = torch.sigmoid((wide(mm, bump) * (1 + 0.15 * bump) - away) * 4 / h) * head["maps"][:, :4].sum(1)
        head["lesion"][name] = weight * wide(has, bump)


def _classes(head: dict) -> Tensor:
    maps = head["maps"]
    best = 1 - maps[:, :4].sum(1)
    mask = torch.zeros_like(best, dtype=torch.int64)
    for k in range(4):  # many times as fast as torch's argmax
        mask = torch.where(maps[:, k] > best, k + 1, mask)
        best = torch.maximum(best, maps[:, k])
    for name, weight in head["lesion"].items():
        mask = torch.where(weight > 0.5, CLASSES.index(name), mask)
    for name, low in (("oedema", growth.OEDEMA), ("tumour core", growth.CORE)) if "density" in head else ():
        mask = torch.where(head["density"] >= low, CLASSES.index(name), mask)
    return mask


def _scan(head: dict, contrasts: tuple[str, ...], sites: Tensor, seed: int, stream: str, h: float, noisy: bool,
          ) -> Tensor:
    maps, layers = head["maps"], list(head["lesion"].items())
    tissue = {name: maps[:, k] for k, name in enumerate(_MAPS[:maps.shape[1]]) if name != "near"}
    if "density" in head:  # seen patchy and without steps at the ventricles; the mask has the exact thresholds
        brain = maps[:, 1:3].sum(1, keepdim=True)
        dense = (smooth(head["density"][:, None], 0.8) / smooth(brain, 0.8).clamp(min=0.05))[:, 0]
        dense = dense * (1 + 0.08 * cloud(len(maps), seed, "patchy", maps.shape[-1], 24, maps.ndim - 2))
        layers += [(name, ((dense - low) / (high - low)).clamp(0, 1) * brain[:, 0]) for name, low, high in (
            ("oedema", 0.08, 0.32), ("enhancing", 0.5, 0.7), ("necrosis", 0.8, 0.95))]
    return scan(tissue, layers, contrasts, sites, seed, stream, h, noisy)
