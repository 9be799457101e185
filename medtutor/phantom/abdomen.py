"""The abdomen: CT in three phases and two MR contrasts of the same bodies, with organs, eight cancers and their look-alikes.

`abdomen_anatomy` makes the body, `abdomen_lesions` what is wrong with it, `abdomen_twins` a stylised body for tasks of
long range; here slices, volumes and their truth. Anatomy in mm (see `body` for axes).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import abdomen_lesions, abdomen_twins
from medtutor.phantom.abdomen_anatomy import build
from medtutor.phantom.abdomen_lesions import ATTRIBUTES, CANCERS, CLASSES, KINDS, MIMICS, ORGANS, PREVALENCE, RARE, SLOTS
from medtutor.phantom.body import rotation
from medtutor.phantom.texture import Draws, blur, boxes, cloud, noise

__all__ = ["ATTRIBUTES", "CANCERS", "CLASSES", "KINDS", "LEVELS", "MIMICS", "ORGANS", "PREVALENCE", "RARE", "SLOTS", "cohort"]

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
    """DOC
    """
    _check(modality, kind, level, fov, phases, lesions, twin_kidneys, twin)
    often = {k: PREVALENCE[k] for k in ("liver tumour", "kidney tumour")} if twin_kidneys else PREVALENCE
    unknown = set(prevalence or ()) - set(often)
    if unknown:
        raise ValueError(f"unknown finding {', '.join(sorted(unknown))}; choose from {', '.join(often)}")
    draws, flat = Draws(n, seed, "abdomen", 1024), kind == "slice"
    mirrored, tilt, anywhere = draws.chance(situs), draws.normal(0, 2), draws.uniform(-30, 48)
    meta, units = {"situs": mirrored}, {"level": "mm above the isocentre", "landmark": "pixels"}
    if flat:
        level = anywhere * (1 if twin_kidneys else 1.45) if level is None else LEVELS[level] if isinstance(level, str) else level
        level = torch.as_tensor(level, dtype=torch.float64).expand(n)
        meta["level"] = level.float()
    if twin_kidneys:
        bodies, label = abdomen_twins.build(draws, mirrored, often | (prevalence or {}), twin)
        names, marks = {"label": CLASSES[9:12]}, {}
    else:
        bodies, known, marks = build(draws, often | (prevalence or {}), lesions, level if flat else None, phases)
        label, told, names = known.pop("label"), known.pop("attribute"), {"label": KINDS}
        meta |= known
    flip = torch.eye(3, dtype=torch.float64).repeat(n, 1, 1)
    flip[:, 0, 0] = torch.where(mirrored, -1.0, 1.0)
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
    names |= {"mask": CLASSES} | ({field: ("arterial", "portal venous", "delayed")} if phases else {})
    if lesions is not None:
        meta |= {"lesion_mask": torch.stack([abdomen_lesions.SLOT_OF[made[0][1]] == k for k in range(6)], 1), "attribute": told}
        names |= {"box": SLOTS, "attribute": tuple(ATTRIBUTES)} | {f"attribute_{k}": v for k, v in ATTRIBUTES.items()}
        box = boxes(meta["lesion_mask"]) if flat else None
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
    n, size, k = len(mask), mask.shape[-1], len(CLASSES)
    place = (mask + k * torch.arange(n)[:, None, None]).flatten()
    along = torch.arange(size, dtype=torch.float64).expand(n, size, size)
    count = torch.bincount(place, minlength=n * k).view(n, k)
    total = [torch.bincount(place, weights=w.flatten(), minlength=n * k).view(n, k) for w in (along, along.mT)]
    return (torch.stack(total, -1) / count[..., None])[:, [CLASSES.index(o) for o in ORGANS]].float()


def _detected(value: Tensor, modality: str, seed: int, noisy: bool) -> Tensor:
    """Noise and texture of the scanner on values (N, H, W) or (N, D, H, W)."""
    if not noisy:
        return value
    n, size, dims = len(value), value.shape[-1], value.ndim - 1
    white = noise(n, seed, modality, tuple(value.shape[1:]))
    if modality[:2] != "mr":
        if dims == 2:
            white = white - 0.6 * blur(white[:, None], 1.0)[:, 0]  # reconstruction noise has no low frequencies
        return value + 14 * white + 5 * cloud(n, seed, "parenchyma", size, 14 if dims == 2 else 8, dims)
    bias = torch.exp(0.16 * cloud(n, seed, "coil", size, 2, dims))
    signal = value * (1 + 0.05 * cloud(n, seed, "parenchyma", size, 14 if dims == 2 else 8, dims)) * bias
    return ((signal + 0.025 * white) ** 2 + 4e-4).sqrt().clamp(0, 1)
