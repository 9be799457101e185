"""The abdomen: CT in three phases, MR, and X-rays of the same bodies, with organs, eight cancers and their look-alikes.

`abdomen_anatomy` makes the body, `abdomen_lesions` what is wrong with it, `abdomen_twins` a stylised body for tasks of
long range; here slices, volumes, films and their truth. Anatomy in mm (see `body` for axes).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.phantom import abdomen_anatomy, abdomen_twins
from medtutor.phantom.abdomen_anatomy import MODALITIES
from medtutor.phantom.abdomen_lesions import (ATTRIBUTES, CANCERS, CLASSES, FINE, KINDS, MIMICS, ORGANS, PREVALENCE, RARE,
                                              SLOTS)
from medtutor.phantom.body import MU_WATER, Body, rotation
from medtutor.phantom.texture import Draws, blur, boxes, cloud, expose, noise

__all__ = ["ATTRIBUTES", "CANCERS", "CLASSES", "KINDS", "LEVELS", "MIMICS", "ORGANS", "PHASES", "PREVALENCE", "RARE",
           "SLOTS", "cohort"]

FOV = 340.0  # mm, both ways in a slice
VOLUME_FOV = (170.0, 220.0, 260.0)  # mm: z, y, x; the flanks are cropped
TRUNK_FOV, TRUNK_CENTRE = (330.0, 300.0, 350.0), (0.0, -12.0, 50.0)  # mm: z, y, x; x, y, z
LEVELS = {"breast": 165.0, "lungs": 130.0, "oesophagus": 94.0, "dome": 76.0, "liver": 38.0, "pancreas": 12.0,
          "kidneys": -20.0, "colon": -62.0}
PHASES = ("arterial", "ct", "delayed")
FILMED = ("liver", "spleen", "right kidney", "left kidney", "stomach", "vertebra", "lung")
_CLASS_OF = torch.tensor([*range(len(CLASSES)), *(CLASSES.index(name.split("/")[0]) for name in FINE)])
_SLOT_OF = torch.tensor([-1] * len(CLASSES) + [int(name.split("/")[1]) for name in FINE])


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
    draws, flat = Draws(n, seed, "abdomen", 1024), kind == "slice" and modality != "xray"
    mirrored, tilt, anywhere = draws.chance(situs), draws.normal(0, 2), draws.uniform(-30, 48)
    meta, units = {"situs": mirrored}, {"level": "mm above the isocentre", "landmark": "pixels"}
    if flat:
        level = (anywhere if twin_kidneys else 1.45 * anywhere) if level is None else LEVELS.get(level, level) if isinstance(
            level, str) else level
        level = torch.as_tensor(level, dtype=torch.float64).expand(n)
        meta["level"] = level.float()
    if twin_kidneys:
        bodies, label = abdomen_twins.build(draws, mirrored, often | (prevalence or {}), twin)
        names, marks = {"label": CLASSES[9:12]}, {}
    else:
        bodies, known, marks = abdomen_anatomy.build(draws, often | (prevalence or {}), lesions, level if flat else None,
                                                     phases)
        label, told, names = known.pop("label"), known.pop("attribute"), {"label": KINDS}
        meta |= known
    flip = torch.eye(3, dtype=torch.float64).repeat(n, 1, 1)
    flip[:, 0, 0] = torch.where(mirrored, -1.0, 1.0)
    turn = rotation(tilt, "z") @ flip
    bodies = bodies.moved(turn)
    trunk = fov == "trunk"
    shift = -torch.tensor(TRUNK_CENTRE if trunk else (*centre, 0.0), dtype=torch.float64)
    if shift.any():
        bodies = bodies.moved(shift=shift)
    if modality == "xray":
        return _filmed(bodies, size, seed, fov or FOV, noisy, label, meta, names)
    shown = PHASES if phases else (modality,)
    extent = TRUNK_FOV if trunk else fov or (FOV if flat else VOLUME_FOV)
    made = [bodies.slice(level, size, extent, m) if flat else bodies.volume(size, extent, m) for m in shown]
    value = torch.stack([_detected(v, m, seed, noisy) for m, (v, _) in zip(shown, made, strict=True)], 1)
    units["image"] = units["volume"] = "MR signal, 0 to 1" if modality[:2] == "mr" else (
        "HU / 1000" if window is None else f"HU, window {window[0]} to {window[1]} shown as 0 to 1")
    if modality == "ct":
        value = value / 1000 if window is None else ((value - window[0]) / (window[1] - window[0])).clamp(0, 1)
    fine = made[0][1]
    field = {"image" if flat else "volume": value.float(), "mask": _CLASS_OF[fine], "label": label}
    names |= {"mask": CLASSES} | ({"image" if flat else "volume": PHASES} if phases else {})
    if lesions is not None:
        meta["lesion_mask"], meta["attribute"] = torch.stack([_SLOT_OF[fine] == k for k in range(6)], 1), told
        names |= {"box": SLOTS, "attribute": tuple(ATTRIBUTES)} | {f"attribute_{k}": v for k, v in ATTRIBUTES.items()}
        field |= {"box": boxes(meta["lesion_mask"])} if flat else {}
    if flat:
        field["landmark"], names["landmark"] = _middles(field["mask"]), ORGANS
    elif marks:
        place = torch.stack(list(marks.values()), 1) @ turn.mT + shift
        step = torch.tensor((extent,) * 3 if isinstance(extent, (int, float)) else extent[::-1]).double() / size
        field["landmark"], names["landmark"] = (place / step + (size - 1) / 2).float(), tuple(marks)
    return Cohort(**field, meta=meta, units=units, names=names)


def _check(modality, kind, level, fov, phases, lesions, twin_kidneys, twin) -> None:
    if modality not in ("ct", "mr", "mr-t1", "xray") or kind not in ("slice", "volume"):
        raise ValueError('modality must be "ct", "mr", "mr-t1" or "xray" and kind "slice" or "volume", '
                         f"but got {modality!r}, {kind!r}")
    if isinstance(level, str) and level not in LEVELS:
        raise ValueError(f"level must be in mm or one of {', '.join(LEVELS)}, but got {level!r}")
    if isinstance(fov, str) and (fov, kind) != ("trunk", "volume"):
        raise ValueError(f'fov must be in mm, or "trunk" for volumes, but got {fov!r} for a {kind}')
    if phases and modality != "ct":
        raise ValueError(f'phases are those of contrast agent in CT; use modality="ct", not {modality!r}')
    if lesions is not None and not 0 <= lesions[0] <= lesions[1] <= 4:
        raise ValueError(f"lesions must be (fewest, most) with 0 <= fewest <= most <= 4, but got {lesions}")
    if twin_kidneys and (lesions is not None or modality == "xray") or twin is not None and not twin_kidneys:
        raise ValueError("the stylised anatomy of twin_kidneys has twin lesions but no `lesions` and no X-ray, the full one "
                         "has no twins: drop twin, lesions and xray, or change twin_kidneys")


def _middles(mask: Tensor) -> Tensor:
    """The mean pixel (N, K, 2) of each of ORGANS in masks (N, H, W), NaN where it is not in the slice."""
    n, size, k = len(mask), mask.shape[-1], len(CLASSES)
    place = (mask + k * torch.arange(n)[:, None, None]).flatten()
    along = torch.arange(size, dtype=torch.float64).expand(n, size, size)
    count = torch.bincount(place, minlength=n * k).view(n, k)
    total = [torch.bincount(place, weights=w.flatten(), minlength=n * k).view(n, k) for w in (along, along.mT)]
    return (torch.stack(total, -1) / count[..., None])[:, [CLASSES.index(o) for o in ORGANS]].float()


def _filmed(bodies: Body, size: int, seed: int, fov: float, noisy: bool, label: Tensor, meta: dict, names: dict) -> Cohort:
    """X-rays (AP) as the sum of volumes along the beam, the patient's right at the image's left."""
    value, fine = (x.flip(1) for x in bodies.volume((size, 64, size), (fov, 300.0, fov), "ct"))
    line = (1 + value / 1000).sum(2) * (MU_WATER * 300 / 64)
    even = line - 0.8 * blur(line[:, None], size / 9)[:, 0]  # detectors equalise the belly's bulk
    mask = torch.stack([(_CLASS_OF[fine] == CLASSES.index(o)).any(2) for o in FILMED], 1)
    image = expose(even, noise(len(line), seed, "film", (size, size)) * noisy, 4e4, gamma=0.9)
    return Cohort(image=image[:, None], mask=mask, box=boxes(mask), label=label, meta=meta,
                  names=names | {"mask": FILMED, "box": FILMED}, units={"image": "exposure, 0 to 1, bone bright"})


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
