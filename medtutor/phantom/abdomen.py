"""The abdomen: CT in three phases and MR in two contrasts, with thirteen organs, eight cancers and their look-alikes.

`abdomen_anatomy` makes the body, `abdomen_lesions` what is wrong with it, `abdomen_twins` a stylised body for tasks of
long range; here slices, volumes and their truth. Anatomy in mm (axes as in `render.body`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import abdomen_lesions, abdomen_twins
from medtutor.phantom.abdomen_anatomy import build
from medtutor.phantom.abdomen_lesions import ATTRIBUTES, CANCERS, CLASSES, KINDS, MIMICS, ORGANS, PREVALENCE, RARE
from medtutor.phantom.texture import Draws, blur, boxes, chances, cloud, noise, worded
from medtutor.render.body import rotation
from medtutor.render.shape import stack

__all__ = ["ATTRIBUTES", "CLASSES", "KINDS", "CANCERS", "MIMICS", "RARE", "LEVELS", "ORGANS", "PREVALENCE", "cohort"]

FOV = 340.0  # mm, both ways in a slice
VOLUME_FOV = (170.0, 220.0, 260.0)  # mm: z, y, x; the flanks are cropped
TRUNK_FOV, TRUNK_CENTRE = (330.0, 300.0, 350.0), (0.0, -12.0, 50.0)  # mm: z, y, x; x, y, z
LEVELS = {"breast": 165.0, "lungs": 130.0, "oesophagus": 94.0, "dome": 76.0, "liver": 38.0, "pancreas": 12.0,
          "kidneys": -20.0, "colon": -62.0}
PHASES = ("arterial", "ct", "delayed")


def cohort(n: int, size: int = 64, seed: int = 0, modality: str = "ct", kind: str = "slice",
           level: str | float | Tensor | None = None, prevalence: dict[str, float] | None = None, situs: float = 0.0,
           twin_kidneys: bool = False, twin: float | None = None, window: tuple[float, float] | None = None,
           fov: float | str | tuple[float, float, float] | None = None, noisy: bool = True, phases: bool = False,
           lesions: tuple[int, int] | None = None, centre: tuple[float, float] = (0.0, 0.0)) -> Cohort:
    """n patients, one slice or volume each; patient i depends on `seed` and i only.

    kind "slice": `image` (n, 1, size, size), `mask` (n, size, size), FOV 340 mm about `centre` (x, y) mm, the
    patient's right at the image's left, at `level`: mm, (n,) mm, a name of LEVELS, or None for anywhere from -44 to 70
    mm, where one sees (not all at once) the 13 ORGANS, gut, lung bases and lesions of all of these, but no breast and
    hardly any lung: for their lesions take "breast", "lungs" or a trunk. kind "volume": `volume` (n, 1, size, size,
    size) and `mask` (n, size, size, size) as (z, y, x), 170 x 220 x 260 mm, feet first. `fov` in mm replaces either
    field of view; "trunk" is 330 x 300 x 350 mm, from the breasts to the colon.
    modality "ct" (portal venous) is in HU / 1000, or in [0, 1] over `window` (low, high) HU; "mr" (like T2, fat
    suppressed) and "mr-t1" are in [0, 1] with bias field and noise; all of the same bodies. `phases`: three channels,
    CT in the arterial, portal venous and delayed phase; liver tumours then wash in and out, "liver haemangioma" fills
    in, and the two are alike in the portal venous phase. `noisy=False` leaves out noise, texture and bias field.
    Classes are in names["mask"], which is `CLASSES`: a lesion replaces its organ, spikes and all; small vessels,
    discs, canal, muscles other than psoas, renal sinus and wall are background.

    `label` (n, 20): which of KINDS (eight CANCERS, the eight MIMICS at the same places, haemangioma, three RARE) the
    body has; a slice may miss them. `prevalence` is per kind and patient (default PREVALENCE); of a cancer and its
    mimic at most one is there, the mimic at most in those without the cancer. In liver and kidney the same look means
    the opposite: a rim around a dark core is a liver tumour but a kidney cyst, an even dark ball the reverse.
    `lesions` (fewest, most up to 4): the liver has that many lesions, described, and nothing else, radius 7 to 32
    mm; they and those of the kidneys lie at the level of a slice. Then meta lesion_mask (n, 6, ...) for SLOTS and
    attribute (n, 6, 6) int64, -1 where none is to be seen, words in names["attribute_<name>"]; slices have `box`
    (n, 6, 4), NaN where not seen. A described liver lesion has mask class "liver tumour", whatever its density.
    `landmark`: for slices (n, 13, 2), the mean pixel of each of ORGANS, NaN where not in the slice; for volumes (n,
    36, 3) x, y, z in voxels (also outside the volume), points fixed in the frames of five organs and a vertebra, which
    correspond between patients; the centre of a kidney lies in its sinus, that of the liver may lie in a vessel.

    `situs`: probability of a mirrored patient (situs inversus); organs and their labels are mirrored together, so that
    the left kidney is always the one away from the liver. `twin_kidneys`: stylised anatomy for long-range tasks. The
    kidneys and all that is near them (spine, muscles, a midline aorta) have the same distribution on both sides,
    mirrored or not; liver and stomach lie far in front, at least 64 mm (12 pixels of 64) from any kidney in a slice;
    the rest is left out. Only the side of the liver tells the kidneys apart. `label` is (n, 3): liver tumour, kidney
    tumour, paired cyst. `twin`: kidney lesions that look alike, each with a contralateral twin with this probability,
    per site (upper and lower pole). One without twin is a "kidney tumour", those with one are "paired cyst". Levels
    -30 to 48.
    `meta`: situs (bool), level (slices, mm); but for twins sex (0 female, 1 male), severity_<kind> and zone_<kind> (0
    upper, 1 middle, 2 lower, -1), (n,) or for lung, breast, kidney (n, 2), right first. Raises ValueError for bad
    input.
    """
    _check(modality, kind, level, fov, phases, lesions, twin_kidneys, twin)
    often = {k: PREVALENCE[k] for k in ("liver tumour", "kidney tumour")} if twin_kidneys else PREVALENCE
    often = chances(prevalence, often)
    draws, flat = Draws(n, seed, "abdomen", 1024), kind == "slice"
    mirrored, tilt, anywhere = draws.chance(situs), draws.normal(0, 2), draws.uniform(-30, 48)
    meta, units = {"situs": mirrored}, {"level": "mm above the isocentre", "landmark": "pixels"}
    if flat:
        anywhere = anywhere * (1 if twin_kidneys else 1.45)
        level = anywhere if level is None else LEVELS[level] if isinstance(level, str) else level
        level = torch.as_tensor(level, dtype=torch.float64).expand(n)
        meta["level"] = level.float()
    if twin_kidneys:
        bodies, label = abdomen_twins.build(draws, mirrored, often, twin)
        names, marks = {"label": CLASSES[9:12]}, {}
    else:
        bodies, known, marks = build(draws, often, lesions, level if flat else None, phases)
        label, told, names = known.pop("label"), known.pop("attribute"), {"label": KINDS}
        meta |= known
    flip = torch.diag_embed(stack(torch.where(mirrored, -1, 1), 1, 1))
    turn, trunk, shown = rotation(tilt, "z") @ flip, fov == "trunk", PHASES if phases else (modality,)
    shift = -torch.tensor(TRUNK_CENTRE if trunk else (*centre, 0.0), dtype=torch.float64)
    bodies = bodies.moved(turn, shift if shift.any() else None)
    extent, field = TRUNK_FOV if trunk else fov or (FOV if flat else VOLUME_FOV), "image" if flat else "volume"
    made = [bodies.slice(level, size, extent, m) if flat else bodies.volume(size, extent, m) for m in shown]
    value = torch.stack([_detected(v, m, seed, noisy) for m, (v, _) in zip(shown, made, strict=True)], 1)
    if modality == "ct":
        value = value / 1000 if window is None else ((value - window[0]) / (window[1] - window[0])).clamp(0, 1)
    units["image"] = units["volume"] = "MR signal, 0 to 1" if modality != "ct" else (
        "HU / 1000" if window is None else f"HU, window {window[0]} to {window[1]} shown as 0 to 1")
    mask, box, landmark = abdomen_lesions.CLASS_OF[made[0][1]], None, None
    names |= {"mask": CLASSES, field: ("arterial", "portal venous", "delayed") if phases else (modality,)}
    if lesions is not None:
        slot = abdomen_lesions.SLOT_OF[made[0][1]]
        lesion = torch.stack([slot == k for k in range(6)], 1)
        meta |= {"lesion_mask": lesion, "attribute": torch.where(lesion.flatten(2).any(2)[..., None], told, -1)}
        names |= {"box": abdomen_lesions.SLOTS} | worded(ATTRIBUTES)
        box = boxes(lesion) if flat else None
    if flat:
        landmark, names["landmark"] = _middles(mask), ORGANS
    elif marks:
        place, names["landmark"] = torch.stack(list(marks.values()), 1) @ turn.mT + shift, tuple(marks)
        step = torch.tensor((extent,) * 3 if isinstance(extent, (int, float)) else extent[::-1]).double() / size
        landmark = (place / step + (size - 1) / 2).float()
    return Cohort(**{field: value.float()}, mask=mask, label=label, box=box, landmark=landmark, meta=meta, units=units,
                  names=names)


def _check(modality, kind, level, fov, phases, lesions, twin_kidneys, twin) -> None:
    if modality not in ("ct", "mr", "mr-t1") or kind not in ("slice", "volume"):
        raise ValueError('modality must be "ct", "mr" or "mr-t1" and kind "slice" or "volume", but got '
                         f"{modality!r}, {kind!r}")
    if isinstance(level, str) and level not in LEVELS:
        raise ValueError(f"level must be in mm or one of {', '.join(LEVELS)}, but got {level!r}")
    if isinstance(fov, str) and (fov, kind) != ("trunk", "volume"):
        raise ValueError(f'fov must be in mm, or "trunk" for volumes, but got {fov!r} for a {kind}')
    if phases and modality != "ct":
        raise ValueError(f'phases are those of contrast agent in CT; use modality="ct", not {modality!r}')
    if lesions is not None and not 0 <= lesions[0] <= lesions[1] <= 4:
        raise ValueError(f"lesions must be (fewest, most) with 0 <= fewest <= most <= 4, but got {lesions}")
    if (twin_kidneys and lesions is not None) or (twin is not None and not twin_kidneys):
        raise ValueError("twin lesions need twin_kidneys=True, the stylised anatomy, and that has no `lesions`")


def _middles(mask: Tensor) -> Tensor:
    """The mean pixel (N, K, 2) of each of ORGANS in masks (N, H, W), NaN where it is not in the slice."""
    here = torch.stack([mask == CLASSES.index(organ) for organ in ORGANS], 1).float()
    place, lines = torch.arange(mask.shape[-1], dtype=torch.float32), (here.sum(2), here.sum(3))
    return torch.stack([line @ place / line.sum(2) for line in lines], -1)


def _detected(value: Tensor, modality: str, seed: int, noisy: bool) -> Tensor:
    """Noise and texture of the scanner on values (N, H, W) or (N, D, H, W)."""
    if not noisy:
        return value
    n, size, dims = len(value), value.shape[-1], value.ndim - 1
    white = noise(n, seed, modality, value.shape[1:])
    grain = cloud(n, seed, "parenchyma", size, 14 if dims == 2 else 8, dims)
    if modality[:2] != "mr":
        if dims == 2:
            white = white - 0.6 * blur(white[:, None], 1.0)[:, 0]  # reconstruction noise has no low frequencies
        return value + 14 * white + 5 * grain
    signal = value * (1 + 0.05 * grain) * torch.exp(0.16 * cloud(n, seed, "coil", size, 2, dims))
    return ((signal + 0.025 * white) ** 2 + 4e-4).sqrt().clamp(0, 1)
