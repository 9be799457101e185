"""One sheet of samples per modality, with what is not realistic about it, for the gallery page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy import ndarray

from medtutor.cohort import Cohort


@dataclass(frozen=True)
class Modality:
    """`draw(n, size, seed)` gives a cohort whose `image` is shown between `low` and `high`."""

    draw: Callable[[int, int, int], Cohort]
    low: float
    high: float
    description: str
    unrealistic: str


def _thorax(modality: str) -> Callable[[int, int, int], Cohort]:
    def draw(n: int, size: int, seed: int) -> Cohort:
        from medtutor.phantom import thorax
        return thorax.cohort(n, size, seed, modality)
    return draw


def _abdomen(modality: str) -> Callable[[int, int, int], Cohort]:
    def draw(n: int, size: int, seed: int) -> Cohort:
        from medtutor.phantom import abdomen
        return abdomen.cohort(n, size, seed, modality)
    return draw


def _wound(n: int, size: int, seed: int) -> Cohort:
    from medtutor.phantom import wound
    halves = [wound.cohort(count, size, seed, domain) for count, domain in ((n - n // 2, "fresh"), (n // 2, "ulcer"))]
    return Cohort.cat([half for half in halves if len(half)])


MODALITIES = {
    "thorax-xray": Modality(
        _thorax("xray"), 0.0, 1.0,
        "Chest radiographs (PA), the exact line integral through the same bodies as the CT, with effusions, nodules, "
        "consolidations and large hearts.",
        "Arms, breast tissue detail, airways beyond the main bronchi and devices are missing; ribs are solid rods; one "
        "photon energy, so no beam hardening; scatter is a plain blur."),
    "thorax-ct": Modality(
        _thorax("ct"), -1.0, 0.4,
        "Axial CT slices of the chest in a wide window, each through the patient's finding where there is one.",
        "Organs have one value each, without contrast agent, fissures, lung texture or motion; vessels are a few "
        "straight tubes; noise does not depend on the path length."),
    "abdomen-ct": Modality(
        _abdomen("ct"), -0.16, 0.24,
        "Axial CT slices of the abdomen in the portal venous phase, with tumours of the liver and the kidneys.",
        "Organs are ellipsoids with one value each; liver vessels, adrenals, gallbladder, mesentery and most bowel are "
        "missing; the spine has no discs."),
    "abdomen-mr": Modality(
        _abdomen("mr"), 0.0, 1.0,
        "MR-like slices of the same abdomens, fat-suppressed T2 contrast with bias field and noise.",
        "Signals are looked up per tissue, not computed from a pulse sequence; no motion, no chemical shift, no coil "
        "pattern other than a smooth bias."),
    "wound": Modality(
        _wound, 0.0, 1.0,
        "Wound photographs, first fresh and round, then ulcers with ragged necrotic borders, each with a "
        "1 cm sticker for scale.",
        "Skin has no hair, wrinkles or body shape; light comes from one side without cast shadows; the camera looks "
        "straight down, so there is no perspective."),
}


def sheet(name: str, n: int = 12, size: int = 96, seed: int = 0) -> ndarray:
    """n sample pictures of a modality of `MODALITIES` as uint8, (n, size, size), or (n, size, size, 3) for colour.

    Raises ValueError for an unknown name.
    """
    if name not in MODALITIES:
        raise ValueError(f"unknown modality {name!r}; choose from {', '.join(MODALITIES)}")
    modality = MODALITIES[name]
    image = modality.draw(n, size, seed).image
    shown = ((image - modality.low) / (modality.high - modality.low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    return (shown[:, 0] if shown.shape[1] == 1 else shown.movedim(1, -1)).numpy()
