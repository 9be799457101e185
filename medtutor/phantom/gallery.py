"""Cohorts by the text of a call, and one sheet of samples per modality (gallery.yml), for the book's pages."""

from __future__ import annotations

from functools import cache

import torch
from numpy import ndarray

import medtutor.phantom
from medtutor.cohort import Cohort
from medtutor.phantom.texture import table


@cache
def modalities() -> dict[str, dict]:
    """gallery.yml: for each name calls, low, high, description, unrealistic, stands_for."""
    return {name: {"low": 0.0, "high": 1.0, **entry} for name, entry in table("gallery").items()}


def made(call: str, n: int, size: int = 64, seed: int = 0) -> Cohort:
    """The cohort of a call as the book's own tables write it, such as "abdomen.cohort(n, size, seed, modality='mr')".

    The names of `medtutor.phantom`, `Cohort`, `torch` and `written` (reports for a cohort) can be used in it.
    """
    from medtutor.language import written

    names = {name: getattr(medtutor.phantom, name) for name in dir(medtutor.phantom) if name in call}
    return eval(call, {**names, "Cohort": Cohort, "torch": torch, "written": written,
                       "n": n, "size": size, "seed": seed})  # our own tables only


def sheet(name: str, n: int = 12, size: int = 96, seed: int = 0) -> ndarray:
    """n sample pictures of a modality as uint8, (n, size, size), or (n, size, size, 3) for colour.

    Raises ValueError for an unknown name.
    """
    known = modalities()
    if name not in known:
        raise ValueError(f"unknown modality {name!r}; choose from {', '.join(known)}")
    entry, calls = known[name], known[name]["calls"]
    shares = [n // len(calls) + (k < n % len(calls)) for k in range(len(calls))]
    image = torch.cat([made(call, m, size, seed).image for call, m in zip(calls, shares, strict=True) if m])
    shown = ((image - entry["low"]) / (entry["high"] - entry["low"])).clamp(0, 1).mul(255).round().to(torch.uint8)
    return (shown[:, 0] if shown.shape[1] == 1 else shown.movedim(1, -1)).numpy()
