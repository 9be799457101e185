"""Public datasets as cohorts: `load("hippocampus", "train")`.

`entry` holds the catalogue, `store` finds and verifies the files on this machine, `download` and `archive` bring them
there, `loaders` turn them into a `Cohort`.
"""

from __future__ import annotations

import inspect
import warnings
from hashlib import sha256
from typing import TYPE_CHECKING

from medtutor.data import store
from medtutor.data.download import get
from medtutor.data.entry import Entry, catalogue, families, find

__all__ = ["Entry", "add", "available", "catalogue", "describe", "families", "find", "get", "load", "verify"]

if TYPE_CHECKING:
    from pathlib import Path

    from medtutor.cohort import Cohort

TEST_FRACTION = 0.2


def load(name: str, split: str | None = None, **options) -> Cohort:
    """The cases of a dataset of the catalogue, or those of its "train" or "test" part.

    `options` go to the loader of the dataset (`medtutor.data.loaders`), such as `size`. A patient is in the same part
    whatever the options and however many patients the copy on this machine holds.
    Raises FileNotFoundError, with how to get it, where the dataset is not on this machine; ValueError for an unknown
    name, part or option, and for a copy that is damaged.
    """
    # The command that lists and downloads is quick without torch.
    import torch

    from medtutor.data.loaders import LOADERS

    entry = find(name)
    if split not in (None, "train", "test"):
        raise ValueError(f"split must be 'train', 'test' or None, but got {split!r}")
    loader = LOADERS[entry.loader]
    known = list(inspect.signature(loader).parameters)[1:]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name!r} has no option {unknown[0]!r}; its options are {', '.join(known)}")
    files, edition = store.verified(name, store.how_to_get(entry))
    if entry.sha256 and edition != entry.sha256:
        warnings.warn(f"this copy of {name!r} is another edition than the catalogue's ({len(files)} files here, "
                      f"{entry.files} there): numbers will differ from the book's", stacklevel=2)
    cohort = loader(files, **options)
    if split:
        test = torch.tensor([in_test(name, patient) for patient in cohort.patient.tolist()], dtype=torch.bool)
        cohort = cohort[test if split == "test" else ~test]
    if len(cohort) == 0:
        raise ValueError(f"{name!r} has no cases for split={split!r} and {options}")
    return cohort


def in_test(name: str, patient: int) -> bool:
    """Whether a patient belongs to the test part: decided by a hash, so that it never changes."""
    return int(sha256(f"{name}/{patient}".encode()).hexdigest()[:8], 16) / 2**32 < TEST_FRACTION


def available(name: str) -> bool:
    """Whether the dataset lies on this machine, whole by its file list; `load` verifies what the files hold."""
    try:
        store.listed(find(name).name, "")
    except FileNotFoundError:
        return False
    return True


def add(name: str) -> Path:
    """List the files of a dataset that the user laid into the store, as they are, so that `load` takes them.

    Raises FileNotFoundError, with how to get it, where no store has its folder or nothing is in it.
    """
    entry = find(name)
    for place in store.places():
        if any(path.is_file() for path in (place / name).rglob("*")):
            return store.add(place, entry, place / name)
    raise FileNotFoundError(store.how_to_get(entry))


def verify(name: str) -> list[str]:
    """Read every file of a dataset again: a sentence on each that is missing or damaged, none where it is sound.

    Raises FileNotFoundError, with how to get it, where the dataset is not on this machine.
    """
    return store.faults(name, store.how_to_get(find(name)))


def describe(name: str) -> str:
    """A few lines on a dataset: what it is, its licence, its citation, and where it is or how to get it."""
    entry = find(name)
    lines = [entry.title, f"  task      {entry.task}, {entry.modality}", f"  cases     {entry.cases}",
             f"  shapes    {entry.shapes}", f"  licence   {entry.licence_text()}", f"  cite      {entry.citation}",
             f"  source    {entry.source}", f"  note      {entry.note}" if entry.note else None,
             f"  here      {store.listed(name, '')[0]}" if available(name) else
             f"  not here  {store.how_to_get(entry)}"]
    return "\n".join(line for line in lines if line)
