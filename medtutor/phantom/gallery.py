"""One sheet of samples per modality, with what is not realistic about it, for the gallery page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from numpy import ndarray

from medtutor.cohort import Cohort


@dataclass(frozen=True)
class Modality:
    """`draw(n, size, seed)` gives a cohort whose `image` is shown between `low` and `high`; `stands_for` names the
    public datasets that chapters would otherwise need."""

    draw: Callable[[int, int, int], Cohort]
    low: float
    high: float
    description: str
    unrealistic: str
    stands_for: str


def _of(module: str, **options) -> Callable[[int, int, int], Cohort]:
    return lambda n, size, seed: import_module(f"medtutor.phantom.{module}").cohort(n, size, seed, **options)


def _wound(n: int, size: int, seed: int) -> Cohort:
    from medtutor.phantom import wound
    halves = [wound.cohort(count, size, seed, domain) for count, domain in ((n - n // 2, "fresh"), (n // 2, "ulcer"))]
    return Cohort.cat([half for half in halves if len(half)])


_HEADS = ("One average anatomy underlies every head, so folds differ by random fields, not by true folding patterns. "
          "No vessels, face or neck; skull and scalp are even shells. Tumours do not push tissue aside. No motion or "
          "distortion.")
MODALITIES = {
    "thorax-xray": Modality(
        _of("thorax"), 0.0, 1.0,
        "Chest radiographs (PA), the exact line integral through the same bodies as the CT, with fifteen findings, "
        "devices, markers and four sites.",
        "Organs are smooth solids: no fissures, no airways beyond the main bronchi; lung markings are straight tubes "
        "and random texture; one photon energy, so no beam hardening; scatter is a plain blur.",
        "ChestX-ray14, CheXpert, MIMIC-CXR (images, labels, boxes and reports)."),
    "thorax-ct": Modality(
        _of("thorax", modality="ct"), -1.0, 0.4,
        "Axial CT slices of the chest in a wide window, each through the patient's finding where there is one.",
        "Organs have one value each, without contrast agent, fissures or motion; vessels are straight tubes.",
        "LIDC-IDRI and LUNA16 (nodules), NLST, low-dose CT challenges."),
    "abdomen-ct": Modality(
        _of("abdomen"), -0.16, 0.24,
        "Axial CT slices of the abdomen in the portal venous phase, with tumours of the liver and the kidneys.",
        "Organs are ellipsoids with one value each; liver vessels, adrenals, gallbladder, mesentery and most bowel are "
        "missing; the spine has no discs.", "BTCV, AMOS, KiTS, and the liver task of the Decathlon."),
    "abdomen-mr": Modality(
        _of("abdomen", modality="mr"), 0.0, 1.0,
        "MR-like slices of the same abdomens, fat-suppressed T2 contrast with bias field and noise.",
        "Signals are looked up per tissue, not computed from a pulse sequence; no motion, no chemical shift, no coil "
        "pattern other than a smooth bias.", "CHAOS and the MR part of AMOS."),
    "brain-t1": Modality(
        _of("brain", kind="slice"), 0.0, 1.0,
        "Brain MR of heads warped from the ICBM 152 template, each with its own folds; ventricles widen with age. T1, "
        "T2, FLAIR and proton density follow from tissue constants by the equations of the sequences, with bias field, "
        "Rician noise and three scanners; a CT and an FA-like contrast show the same heads.",
        _HEADS, "OASIS and IXI (registration, ageing); credit for the template: ICBM 152, 2009a (Fonov et al., 2011)."),
    "brain-flair": Modality(
        _of("brain", kind="slice", contrast="flair", prevalence={"tumour": 0.5, "infarct": 0.2}), 0.0, 1.0,
        "FLAIR of such heads with white matter lesions, infarcts, and tumours that grow by reaction and diffusion in "
        "the patient's own tissue.",
        _HEADS + " Enhancement and necrosis are thresholds of one density.",
        "BraTS (tumours), the WMH challenge (lesions), and longitudinal sets such as LUMIERE."),
    "skin": Modality(
        _of("skin"), 0.0, 1.0,
        "Dermoscopic pictures of naevi, melanomas, seborrhoeic keratoses, basal cell carcinomas and vascular lesions, "
        "drawn from nineteen dermoscopic concepts, with hair, rulers, ink, gel bubbles and dark corners that can be "
        "tied to the diagnosis.",
        "The pigment network is coarser than in life, so that it shows at 64 pixels; outlines are star-shaped and "
        "lesions single and wholly in the picture; there are no scales, crusts, ulcers or skin folds; concepts are "
        "independent given the diagnosis.", "ISIC 2017 to 2019, HAM10000, and the concept sets PH2 and Derm7pt."),
    "wound": Modality(
        _wound, 0.0, 1.0,
        "Wound photographs, first fresh and round, then ulcers with ragged necrotic borders, each with a "
        "1 cm sticker for scale.",
        "Skin has no hair, wrinkles or body shape; light comes from one side without cast shadows; the camera looks "
        "straight down, so there is no perspective.", "Medetec, and the wound photographs of the FUSeg challenge."),
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
