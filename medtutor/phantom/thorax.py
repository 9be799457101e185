"""The thorax: chest radiographs, CT slices and volumes of the same bodies, with findings that change the body.

`thorax_anatomy` makes the body, `thorax_findings` what is wrong with it; here patients, visits, sites and detectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from operator import matmul, or_

import torch
import torch.nn.functional as F
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom.corruptions import low_dose
from medtutor.phantom.texture import Draws, blur, boxes, chances, cloud, noise
from medtutor.phantom.thorax_anatomy import CORTEX, DEVICES, ORGANS, STRUCTURES, build
from medtutor.phantom.thorax_findings import FINDINGS, NAMED, SIDED, SIDES, TABLES, WHOLE
from medtutor.render.body import Body, rotation
from medtutor.render.shape import stack

__all__ = ["COURSES", "CT_CLASSES", "DEVICES", "FINDINGS", "FOV", "ORGANS", "SIDED", "SIDES", "SITES", "STRUCTURES",
           "WHOLE", "build", "cohort", "patients", "plausible"]

CT_CLASSES = ("background", "right lung", "left lung", "heart", "aorta", "trachea", "bone", "mediastinum", "liver",
              "stomach", *SIDED, "edema", "fibrosis", "hernia")
PREVALENCE, SITES = TABLES["prevalence"], tuple(TABLES["sites"])
_LOOK, _SPREAD = torch.tensor([*TABLES["sites"].values()]), torch.tensor(TABLES["spread"])
COURSES = ("stable", "worse", "better", "new", "resolved")
FOV = 380.0  # mm in an adult's frame
CENTRE = -25.0  # mm: height of the image centre of a radiograph
LEVELS = {"apex": 80.0, "hilum": 15.0, "heart": -50.0}
AP_SOURCE = 1000.0  # mm from source to isocentre; the other views use a parallel beam
OUTLINE = 16  # landmarks of each outline


def cohort(n: int, size: int = 64, seed: int = 0, modality: str = "xray", view: str | float = "PA",
           prevalence: dict[str, float] | None = None, severity: dict[str, Tensor] | None = None,
           marker: float | Tensor | None = None, kind: str = "slice", level: str | float | Tensor | None = None,
           noisy: bool = True, visits: int = 1, course: str | Tensor | None = None,
           age: tuple[float, float] | Tensor = (20, 90), sex: float | Tensor = 0.5, site: int | Tensor | None = None,
           device: dict[str, float | Tensor] | None = None, dose: float | Tensor = 1.0, jitter: float = 1.0,
           structures: tuple[str, ...] = (), nodes: tuple[int, int, int] | None = None) -> Cohort:
    """n patients with `visits` images each, rows in the order of `patient`, then `visit`; patient i depends on `seed`
    and i only.

    modality "xray": `image` (N, 1, size, size) in [0, 1], bone bright, with the patient's right at the image's left
    for "PA" (parallel beam) and "AP" (source at 1 m, so that the heart is magnified); "lateral" and angles in degrees
    as in `Body.film`. `mask` (N, K, size, size) boolean: projections of right lung, left lung and heart, of each
    finding, then of `structures` (names of STRUCTURES; "spine", "left ribs", "liver", ...). Projections overlap: a lung
    reaches behind heart and diaphragm, and it contains its findings. "cardiomegaly" is the heart where it is large,
    "emphysema" both lungs. `landmark` (N, 48, 2): outlines in pixels of what one sees of right lung and left lung
    beside the heart and above the diaphragm, and of the heart: 16 points each, at equal angles around the middle of
    the structure, clockwise from the top. `nodes`, such as (24, 24, 16), gives each outline so many instead, those of
    the lungs more evenly spaced (see `views.rings`).
    modality "ct": `image` (N, 1, size, size) or, with kind="volume", `volume` (N, 1, size, size, size), both in
    HU / 1000, with class `mask` (N, size, size) or (N, size, size, size), names["mask"]. A slice is at `level`: mm,
    (N,) mm, "apex", "hilum" or "heart"; None takes the level of the patient's first sided finding, else a random one.

    `label` (N, 15) is 1 where a finding is present; `box` (N, 15, 4) bounds the masks of 2D images, both sides in
    one (`language.phrases` parts them). `prevalence` is per finding and patient; `severity` overrides it, 0 where
    absent, 0.3 to 1 where drawn, and larger for larger findings: (n, 2) for right and left, (n,) for the findings
    of WHOLE, or for each visit (n, visits, 2) and (n, visits); findings it leaves out are absent. `course`: how
    findings develop over visits, a name of COURSES or their indices (n, 15); None draws them (none with severities
    per visit).
    `marker`: a letter in a corner; `device` per name of DEVICES; `sex`: male; each a probability or (n,) values.
    `age` in years: a range or (n,); below 16 the body is a child's. `site` 0 to 3 (SITES): one or (n,), None draws it.
    `noisy=False` leaves out noise, texture and exposure differences, `jitter` scales positioning differences.
    `dose` of a CT relative to a standard scan, one or (n,).
    `meta`: severity_<finding> and zone_<finding>, both (N, 2) or (N,) without side; zone 0 upper, 1 middle, 2 lower
    third, -1 absent or not local; course (N, 15); sex (0 female, 1 male), age, site, marker, marker_box,
    device_<name>, breath (-1 out, 1 in), cardiothoracic_ratio, scale (size of the body: a length in its frame times
    `scale` is in mm; a child's is small), spacing (mm a pixel), level (CT slices, in the frame).
    """
    if modality not in ("xray", "ct") or kind not in ("slice", "volume"):
        raise ValueError(f'need modality "xray" or "ct", kind "slice" or "volume", but got {modality!r}, {kind!r}')
    if unknown := set(structures) - set(STRUCTURES):
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; structures are {', '.join(STRUCTURES)}")
    rows = []
    for k, (bodies, pose, common, heights) in enumerate(patients(
            n, seed, prevalence, severity, marker, visits, course, age, sex, site, device, jitter,
            modality == "xray" and view in ("PA", "AP"))):
        stream = f"/{k}" if k else ""
        if modality == "xray":
            rows.append(_radiographs(bodies, size, seed, stream, view, noisy, jitter, structures, nodes, pose, common))
        else:
            rows.append(_tomograms(bodies, size, seed, stream, kind, level, noisy, jitter, dose, pose, common, heights))
    whole = Cohort.cat(rows)
    return replace(whole, patient=whole.patient % n)[torch.arange(n * visits).view(visits, n).T.reshape(-1)]


def patients(n: int, seed: int = 0, prevalence: dict[str, float] | None = None,
             severity: dict[str, Tensor] | None = None, marker: float | Tensor | None = None, visits: int = 1,
             course: str | Tensor | None = None, age: tuple[float, float] | Tensor = (20, 90),
             sex: float | Tensor = 0.5, site: int | Tensor | None = None,
             device: dict[str, float | Tensor] | None = None, jitter: float = 1.0, arms: bool = False,
             ) -> Iterator[tuple[Body, Draws, dict, dict[str, Tensor]]]:
    """The patients of `cohort` at each visit, whom another camera may want to see: their bodies in an adult's frame,
    not yet placed, the draws left for their pose, the columns of a `Cohort` that hold for any picture (label, names,
    meta, visit), and the heights of sided findings (N, 2) in mm."""
    if unknown := set(device or ()) - set(DEVICES):
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; devices are {', '.join(DEVICES)}")
    person = Draws(n, seed, "person", 128)
    grades, courses = _severities(n, person, prevalence, severity, visits, course)
    years = person.uniform()
    years = age.double() if isinstance(age, Tensor) else age[0] + (age[1] - age[0]) * years
    facts = {"age": years.float(), "sex": _choose(person, sex).long(), "marker": _choose(person, marker),
             "site": (person.uniform() * len(SITES)).long() if site is None else torch.as_tensor(site).expand(n)}
    facts |= {f"device_{name}": _choose(person, (device or {}).get(name)) for name in DEVICES}
    facts["course"], deep = courses, person.normal(0, 0.35)
    for k in range(visits):
        now = {f: s[:, k] for f, s in grades.items()}
        pose, meta = Draws(n, seed, f"pose/{k}" if k else "pose", 64), dict(facts)
        meta["breath"] = (deep + jitter * pose.normal(0, 0.3)).float()
        bodies, known = build(Draws(n, seed, "thorax", 1400), now, years, facts["sex"] > 0, meta["breath"].double(),
                              {name: facts[f"device_{name}"] for name in DEVICES}, arms)
        heights = {f: known.pop(f"z_{f}") for f in SIDED}
        meta |= known | {f"zone_{f}": torch.full((n,), -1) for f in WHOLE}
        meta |= {f"severity_{f}": s for f, s in now.items()}
        meta = {key.replace(" ", "_"): v.float() if v.is_floating_point() else v for key, v in meta.items()}
        label = torch.stack([(now[f] > 0).view(n, -1).any(1) for f in FINDINGS], 1).float()
        common = {"label": label, "names": {"label": FINDINGS}, "meta": meta, "visit": torch.full((n,), k)}
        yield bodies, pose, common, heights


def _choose(draws: Draws, value: float | Tensor | None) -> Tensor:
    """(n,) booleans: as given, or with the probability that is given."""
    u = draws.uniform()
    return value.bool() if isinstance(value, Tensor) else u < (value or 0.0)


def _severities(n: int, draws: Draws, prevalence: dict | None, given: dict | None, visits: int,
                course) -> tuple[dict[str, Tensor], Tensor]:
    """Per finding (n, visits, 2) or (n, visits), and the courses (n, 15)."""
    if unknown := set(given or ()) - set(FINDINGS):
        raise ValueError(f"unknown finding {', '.join(sorted(unknown))}; choose from {', '.join(FINDINGS)}")
    if isinstance(course, str) and course not in COURSES:
        raise ValueError(f"course must be one of {', '.join(COURSES)}, but got {course!r}")
    often, made = chances(prevalence, PREVALENCE), {}
    time = torch.linspace(0, 1, visits).double() if visits > 1 else torch.ones(1).double()
    late = (time > 0.4).double()
    ways = torch.stack([1 + 0 * time, 0.45 + 0.55 * time, 1 - 0.55 * time, late, 1 - late])
    drawn = draws.uniform(0, 1, len(FINDINGS)) * (len(COURSES) if visits > 1 else 0)
    course = COURSES.index(course) if isinstance(course, str) else drawn if course is None else course
    courses = torch.as_tensor(course).expand(drawn.shape).to(torch.long, copy=True)
    for j, finding in enumerate(FINDINGS):
        sides = 2 if finding in SIDED else 1
        grade, hit, both = draws.uniform(0.3, 1.0, sides), draws.uniform(), draws.uniform()
        on = (hit < often[finding])[:, None]
        if sides == 2:
            on = on & torch.stack([both < 0.58, both >= 0.42], 1)
        value = torch.where(on, grade, 0.0)[:, None]
        if given is not None:
            value = torch.as_tensor(given.get(finding, torch.zeros(n, sides)), dtype=torch.float64)
            tail = (2,) if sides == 2 else ()
            if value.shape not in ((n, *tail), (n, visits, *tail), (n, sides)):
                raise ValueError(f"severity[{finding!r}] must have shape {(n, *tail)} or {(n, visits, *tail)}, but has "
                                 f"{tuple(value.shape)}")
            fixed = value.ndim == 2 + len(tail) and value.shape[1] == visits and (sides == 2 or visits > 1)
            value = value.view(n, -1, sides)
            courses[:, j] = 0 if fixed else courses[:, j]
        value = value * ways[courses[:, j]][..., None]
        made[finding] = value if sides == 2 else value[..., 0]
    return made, courses


def _radiographs(bodies: Body, size: int, seed: int, stream: str, view, noisy: bool, jitter: float,
                 structures: tuple[str, ...], nodes: tuple[int, int, int] | None, pose: Draws, common: dict) -> Cohort:
    meta = common["meta"]
    look = _LOOK[meta["site"]] + _SPREAD * pose.normal(0, 1, len(_SPREAD)).float() * (jitter if noisy else 0)
    zoom, tall = look[:, 0].double(), look[:, 9].double().sqrt()
    stretch = torch.diag_embed(stack(zoom / tall, zoom, zoom * tall))
    turn, shift = _placed(pose, jitter, 9, 12)
    middle = torch.where(meta["site"] == SITES.index("paediatric"), -8.0, CENTRE)  # there the shoulders are in the film
    shift = stretch @ (shift - stack(0, 0, middle))[..., None]
    bodies = bodies.moved(torch.linalg.inv(stretch) @ turn, shift[..., 0])
    fine = size * (2 if size < 96 else 1)
    wanted = tuple(dict.fromkeys(("right lung", "left lung", "heart", "liver", "stomach", *NAMED, *structures)))
    source = AP_SOURCE if view == "AP" else math.inf
    line = bodies.xray(view, fine, FOV, source)
    unseen = replace(bodies, delta={"ct": 0 * bodies.delta["ct"]})  # only parts of the wanted organs are drawn
    masks = unseen.film(view, size, FOV, source, wanted)[1]
    line = line * (meta["scale"] / zoom.float())[:, None, None]
    landmark = _outlines(masks, nodes)
    part = dict(zip(wanted, masks.unbind(1), strict=True))
    found = _found(part, common["label"])
    layers = torch.cat([masks[:, :3], found, *(part[name][:, None] for name in structures)], 1)
    image = _developed(line, masks[:, :2].any(1), look, seed, stream, noisy, meta, size)
    image = _framed(image, look, pose, meta, noisy)
    if view in ("AP", "lateral"):  # PA, the usual one, goes without saying in a report
        common["names"]["image"] = (view,)
    common["names"] |= {"mask": (*wanted[:3], *FINDINGS, *structures),
                        "landmark": tuple(f"{o} {j}" for o, count in zip(wanted, nodes or 3 * (OUTLINE,), strict=False)
                                          for j in range(count))}
    meta["spacing"] = (FOV / size * meta["scale"] / zoom).float()
    return Cohort(image=image[:, None], mask=layers, box=boxes(found), landmark=landmark,
                  units={"image": "log exposure, window 0 to 1, bone bright", "box": "pixels", "landmark": "pixels"},
                  **common)


def _found(part: dict[str, Tensor], label: Tensor) -> Tensor:
    """The masks (N, 15, H, W) of the findings from those (N, H, W) of organs: large hearts and lungs with emphysema
    are the organs themselves."""
    organs = {f: (f"right {f}", f"left {f}", f) for f in FINDINGS}
    organs |= {"cardiomegaly": ("heart",), "emphysema": ("right lung", "left lung")}
    found = [reduce(or_, [part[o] for o in organs[f] if o in part]) for f in FINDINGS]
    return torch.stack(found, 1) & (label > 0)[..., None, None]


def _placed(pose: Draws, jitter: float, sideways: float, up: float) -> tuple[Tensor, Tensor]:
    """Turns (N, 3, 3) and shifts (N, 3) in mm of badly placed patients."""
    turns = [rotation(jitter * pose.normal(0, spread), axis) for spread, axis in ((3, "z"), (2.5, "x"), (1.6, "y"))]
    return reduce(matmul, turns), jitter * stack(pose.normal(0, sideways), pose.normal(0, 5), pose.normal(0, up))


def _developed(line: Tensor, lungs: Tensor, look: Tensor, seed: int, stream: str, noisy: bool, meta: dict,
               size: int) -> Tensor:
    """Line integrals (N, fine, fine) -> film (N, size, size) in [0, 1]: transmission, scatter that grows with the
    patient, blur of the detector, quantum noise, logarithm, and the site's processing."""
    n, fine = len(line), line.shape[-1]
    _, scatter, photons, soft, edge, flat, equal, slope, _, _, gamma = (v[:, None, None, None] for v in look.unbind(1))
    light = F.avg_pool2d(torch.exp(-line)[:, None], fine // size)
    if noisy:  # what the body lacks: the finest vessels, muscle and fat
        depth = (0.02 + 0.1 * lungs) * (-light[:, 0].log()).clamp(0, 1)
        light = light * torch.exp(-depth * cloud(n, seed, f"mesh{stream}", size, 18, octaves=3))[:, None]
    thick = (meta["scale"] * meta["girth"]).view(-1, 1, 1, 1)
    light = light + scatter * thick**2 * blur(light, size / 10)
    soft = (soft * thick).clamp(0, 1)
    light = (1 - soft) * light + soft * blur(light, 0.8 * size / 64)
    if noisy:
        dose = 10**photons * (64 / size) ** 2
        light = light + (light / dose).sqrt() * noise(n, seed, f"quanta{stream}", (size, size))[:, None]
    film = -light.clamp(min=1e-5).log()
    film = film - flat * blur(film, size / 8)
    film = film + edge * (film - blur(film, size / 30))
    cut = size // 8
    inner = film[..., cut : size - cut, cut : size - cut].flatten(1).sort(dim=1).values
    low, middle, high = (inner[:, int(q * (inner.shape[1] - 1))].view(-1, 1, 1, 1) for q in (0.03, 0.45, 0.985))
    dark = 0.12 - 0.05 * (slope - 2)
    tone = torch.sigmoid(slope * 2 * (film - middle) / (high - low).clamp(min=1e-3))
    ends = torch.sigmoid(slope * 2 * (torch.stack([low, high]) - middle) / (high - low).clamp(min=1e-3))
    tone = ((tone - ends[0]) / (ends[1] - ends[0]) * (0.97 - dark) + dark).clamp(0, 1)
    air = (line < 0.05).float().mean((1, 2)).view(-1, 1, 1, 1)  # equalise what is not air
    bins = (tone.flatten(1) * 255).long()
    share = torch.zeros(n, 256).scatter_add_(1, bins, torch.ones(n, size * size)).cumsum(1) / size**2
    rank = ((share.gather(1, bins).view_as(tone) - air) / (1 - air)).clamp(min=0)
    equal = equal.clamp(0, 1)
    return (((1 - equal) * tone + equal * rank) ** gamma.clamp(0.4, 1.6))[:, 0]


def _framed(image: Tensor, look: Tensor, pose: Draws, meta: dict, noisy: bool) -> Tensor:
    """Collimated edges, and the marker of the site; fills meta["marker_box"]."""
    size = image.shape[-1]
    x = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = x[:, None].expand(size, size), x[None, :].expand(size, size)
    tilt, margin, cut, white = pose.normal(0, 0.015), pose.uniform(0.88, 0.99, 4), pose.uniform(), pose.chance(0.15)
    tilt, margin = tilt[:, None, None].float(), margin.float()[:, :, None, None]
    u, v = x + tilt * y, y - tilt * x
    inside = torch.stack([u + margin[:, 0], margin[:, 1] - u, v + margin[:, 2], margin[:, 3] - v]).amin(0) * size / 2
    weight = (inside + 0.5).clamp(0, 1)
    weight = torch.where((cut < look[:, 8])[:, None, None] & bool(noisy), weight, 1.0)
    image = image * weight + (1 - weight) * torch.where(white, 0.95, 0.02)[:, None, None].float()
    site, place = meta["site"], pose.uniform(0, 1, 3).float()
    left = torch.where(site == 2, -1.0, 1.0)  # an R at the image's left, or an L at its right
    down = torch.where(site == 1, 0.75, 0.35) * place[:, 1]
    middle = torch.stack([left * (0.76 + 0.14 * place[:, 0]), down - 0.88], 1)
    angle, half = torch.where(site == 3, 1.2 * (place[:, 2] - 0.3), 0.0), torch.tensor([0.075, 0.11, 0.06, 0.085])[site]
    cos, sin = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
    dx, dy = ((t - middle[:, j, None, None]) / half[:, None, None] for j, t in enumerate((x, y)))
    turned = torch.stack([cos * dx + sin * dy, cos * dy - sin * dx], -1)
    stamp = F.grid_sample(_stamps()[site], turned, align_corners=False)
    alpha = stamp[:, 1] * meta["marker"][:, None, None]
    reach = half * (angle.cos().abs() + angle.sin().abs())
    corner = torch.cat([middle - reach[:, None], middle + reach[:, None]], 1)
    meta["marker_box"] = torch.where(meta["marker"][:, None], (corner + 1) * size / 2, math.nan)
    return image * (1 - alpha) + stamp[:, 0] * alpha


def _stamps() -> Tensor:
    """Value and opacity (4, 2, 48, 48) of the markers of the sites: L, AP with a disc, R, L on a plate."""

    def word(text: str, height: int, top: int, left: int) -> Tensor:
        letters = [F.pad(torch.tensor([float(c) for c in TABLES["glyphs"][t]]).view(7, 5), (1, 1)) for t in text]
        width = height * len(text)
        made = F.interpolate(torch.cat(letters, 1)[None, None], (height, width), mode="bilinear")[0, 0]
        return F.pad(made, (left, 48 - width - left, top, 48 - height - top))

    left, right, small, view = word("L", 40, 4, 4), word("R", 40, 4, 4), word("L", 22, 5, 13), word("AP", 14, 33, 10)
    disc = ((torch.arange(48)[:, None] - 15.5) ** 2 + (torch.arange(48) - 23.5) ** 2 < 15**2).float()
    return torch.stack([left, left, disc - small * disc + view, disc + view, right, right, 0.55 + 0.45 * left,
                        0.45 + 0.55 * left]).view(4, 2, 48, 48)


def _outlines(masks: Tensor, nodes: tuple[int, int, int] | None) -> Tensor:
    """(N, sum of nodes or 48, 2) in pixels of the masks, whose first five are right lung, left lung, heart, liver and
    stomach."""
    lungs = masks[:, :2] & ~masks[:, 2:3] & ~masks[:, 3:5].any(1, keepdim=True)
    shapes, size = torch.cat([lungs, masks[:, 2:3]], 1).float(), masks.shape[-1]
    axis, total = torch.arange(size) + 0.5, shapes.sum((2, 3)).clamp(min=1)
    middle = torch.stack([(shapes.sum(2) * axis).sum(-1) / total, (shapes.sum(3) * axis).sum(-1) / total], -1)
    radii, made = torch.arange(0, 0.75 * size, 0.25), []
    for k, count in enumerate(nodes or 3 * (OUTLINE,)):
        angle = torch.arange(count) * 2 * math.pi / count
        way = torch.stack([angle.sin(), -angle.cos()], -1)
        if nodes and k < 2:  # a lung is long
            way = F.normalize(way * torch.tensor([1.0, 2.0]), dim=1)
        points = middle[:, k, None, None] + way[:, None] * radii[:, None]
        seen = F.grid_sample(shapes[:, k : k + 1], points * 2 / size - 1, align_corners=False)
        last = (seen[:, 0] > 0.5).cumprod(-1).sum(-1) * 0.25  # the first step out of the structure
        made.append(middle[:, k, None] + way * last[..., None])
    return torch.cat(made, 1)


def plausible(value: Tensor, label: Tensor, organs: tuple[str, ...], meta: dict[str, Tensor]) -> Tensor:
    """HU (N, ...) that a scanner could measure. Parts of the body add up, so where some overlap, such as vessels at the
    hilum, their sum is cut: nothing is thinner than air, and only bone is denser than 120 HU, or all that a device of
    the patient may be."""
    hard = [o in ("background", "bone", "spine") or "ribs" in o or "fracture" in o for o in organs]
    worn = torch.stack([meta[f"device_{name}".replace(" ", "_")] > 0 for name in DEVICES]).any(0)
    roof = torch.where(worn[:, None], math.inf, torch.where(torch.tensor(hard), CORTEX, 120.0))
    rows = torch.arange(len(value)).view(-1, *[1] * (label.ndim - 1))
    return torch.minimum(value.clamp(min=-1000.0), roof[rows, label])


def _tomograms(bodies: Body, size: int, seed: int, stream: str, kind: str, level, noisy: bool, jitter: float, dose,
               pose: Draws, common: dict, heights: dict[str, Tensor]) -> Cohort:
    n, meta = bodies.n, common["meta"]
    plain = [o.removeprefix("right ").removeprefix("left ") if o in NAMED or "ribs" in o else o for o in ORGANS]
    lookup = torch.tensor([CT_CLASSES.index({"ribs": "bone", "spine": "bone"}.get(o, o)) for o in plain])
    common["names"]["mask"] = CT_CLASSES
    units = {"image": "HU / 1000", "volume": "HU / 1000", "level": "mm above the isocentre"}
    anywhere, (turn, shift) = pose.uniform(-70, 75), _placed(pose, jitter, 6, 0)
    bodies = bodies.moved(turn, shift)
    meta["spacing"] = FOV / size * meta["scale"]
    if kind == "volume":
        value, mask = bodies.volume(size, (320.0, FOV, FOV))
        value = plausible(value, mask, bodies.organs, meta)
        if noisy:
            thick = noise(n, seed, f"ct{stream}", (size,) * 3)
            value = value + 12 * thick / torch.as_tensor(dose).expand(n).sqrt()[:, None, None, None]
        return Cohort(volume=value[:, None] / 1000, mask=lookup[mask], units=units, **common)
    if level is None:
        level = anywhere
        for finding in reversed(SIDED):
            for side in (1, 0):
                here = meta[f"severity_{finding}".replace(" ", "_")][:, side] > 0
                level = torch.where(here, heights[finding][:, side], level)
    if isinstance(level, str) and level not in LEVELS:
        raise ValueError(f"level must be in mm or one of {', '.join(LEVELS)}, but got {level!r}")
    level = torch.as_tensor(LEVELS[level] if isinstance(level, str) else level, dtype=torch.float64)
    value, mask = bodies.slice(level, size, FOV)
    value = plausible(value, mask, bodies.organs, meta)
    if noisy:
        value = value + 8 * cloud(n, seed, f"ct{stream}", size, 12, octaves=2)
        value = low_dose(value, FOV / size, dose, seed, f"ct{stream}")
    mask, meta["level"] = lookup[mask], level.expand(n).float()
    found = _found({name: mask == k for k, name in enumerate(CT_CLASSES)}, common["label"])
    return Cohort(image=value[:, None] / 1000, mask=mask, box=boxes(found), units=units, **common)
