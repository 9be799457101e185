"""`Cohort`: the one type in which phantoms and public datasets hand over their patients.

A cohort is a table of tensors, one row a case. It indexes like a tensor, splits by patient, and serves as a torch
`Dataset` and as MONAI dictionaries.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Cohort:
    """N cases. A field that does not apply is `None`; every other field has N rows.

    Shapes: `image` (N, C, H, W) and `volume` (N, C, D, H, W) are float32; `mask` is int64 class indices
    (N, H, W) or (N, D, H, W), or boolean layers (N, K, H, W) where structures overlap, as in a projection;
    `label` (N,) or (N, K); `box` (N, K, 4) as x0, y0, x1, y1 in pixels, NaN where absent; `landmark` (N, K, 2 or 3)
    in pixels; `report` N texts; `patient` and `visit` (N,) int64. `meta` holds further columns (tensors or lists of
    N). `names` names the channels of a field, such as `names["mask"] = ("background", "liver")`. `units` says what
    the numbers of a field are, such as `units["image"] = "HU / 1000"`.
    """

    image: Tensor | None = None
    volume: Tensor | None = None
    mask: Tensor | None = None
    label: Tensor | None = None
    box: Tensor | None = None
    landmark: Tensor | None = None
    report: list[str] | None = None
    patient: Tensor | None = None
    visit: Tensor | None = None
    meta: dict[str, Tensor | list] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        lengths = {key: len(column) for key, column in self.columns().items()}
        if not lengths:
            raise ValueError("a Cohort needs at least one field with cases in it, such as image=...")
        if len(set(lengths.values())) > 1:
            raise ValueError(f"every field of a Cohort needs the same number of cases, but got {lengths}")
        if self.patient is None:
            object.__setattr__(self, "patient", torch.arange(next(iter(lengths.values()))))

    def columns(self) -> dict[str, Tensor | list]:
        """Every per-case column that is present, the fields first, then `meta`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("meta", "names", "units")}
        return {key: column for key, column in own.items() if column is not None} | self.meta

    def __len__(self) -> int:
        return len(self.patient)

    def __getitem__(self, index):
        """One case as a dictionary (for an int, so that a torch `DataLoader` works), else the chosen cases as a
        `Cohort` (for a slice, a list, or a tensor of indices or booleans)."""
        if isinstance(index, (int, np.integer)):
            return {key: column[index] for key, column in self.columns().items()}
        return self._map(lambda column: _take(column, index))

    def _map(self, function) -> Cohort:
        changed = {key: function(column) for key, column in self.columns().items() if key not in self.meta}
        return replace(self, **changed, meta={key: function(column) for key, column in self.meta.items()})

    def to(self, device) -> Cohort:
        """The same cohort with every tensor on `device`."""
        return self._map(lambda column: column.to(device) if isinstance(column, Tensor) else column)

    def split(self, *fractions: float, seed: int = 0) -> tuple[Cohort, ...]:
        """Disjoint parts with about the given fractions of the PATIENTS, so that no patient is in two parts.

        Fractions are positive and sum to 1 at most; the same seed gives the same parts.
        """
        if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions must be positive and sum to 1 at most, but got {fractions}")
        patients = self.patient.unique()
        if len(patients) < len(fractions):
            raise ValueError(f"{len(patients)} patients cannot be split into {len(fractions)} parts")
        order = patients[torch.randperm(len(patients), generator=torch.Generator().manual_seed(seed))]
        edges = [0] + [round(float(f) * len(order)) for f in np.cumsum(fractions)]
        return tuple(self[torch.isin(self.patient, order[a:b])] for a, b in zip(edges, edges[1:], strict=False))

    def monai(self) -> list[dict]:
        """The cases as MONAI dictionaries: channel-first `image`, `mask` as (1, ...) or (K, ...)."""
        rows = []
        for case in range(len(self)):
            row = self[case]
            if self.mask is not None and row["mask"].ndim < self._pixels().ndim - 1:
                row["mask"] = row["mask"][None]
            rows.append(row)
        return rows

    def _pixels(self) -> Tensor:
        return self.image if self.image is not None else self.volume

    @staticmethod
    def cat(cohorts: list[Cohort]) -> Cohort:
        """One cohort after the other; the patients of different cohorts stay different patients."""
        first, merged, offset = cohorts[0], [], 0
        for cohort in cohorts:
            if cohort.columns().keys() != first.columns().keys():
                raise ValueError(f"cohorts with different fields: {list(first.columns())}, {list(cohort.columns())}")
            merged.append(replace(cohort, patient=cohort.patient + offset))
            offset += int(cohort.patient.max()) + 1
        columns = {key: _join([c.columns()[key] for c in merged]) for key in first.columns()}
        meta = {key: columns.pop(key) for key in first.meta}
        return replace(first, **columns, meta=meta)

    def save(self, path: str | Path) -> None:
        """Write an .npz without pickles; text columns become fixed-width unicode arrays."""
        arrays = {f"{'meta' if k in self.meta else 'field'}:{k}": np.asarray(c) for k, c in self.columns().items()}
        for group in ("names", "units"):
            arrays |= {f"{group}:{key}": np.asarray(value) for key, value in getattr(self, group).items()}
        np.savez_compressed(path, **arrays)

    @staticmethod
    def load(path: str | Path) -> Cohort:
        """Read what `save` wrote. Raises ValueError for a file that is not such an .npz."""
        groups: dict[str, dict] = {"field": {}, "meta": {}, "names": {}, "units": {}}
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for key in arrays.files:
                    group, name = key.split(":", 1)
                    groups[group][name] = arrays[key]
        except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a saved Cohort ({error}); delete it and create it again") from error
        column = {g: {k: _column(v) for k, v in groups[g].items()} for g in ("field", "meta")}
        names = {key: tuple(value.tolist()) for key, value in groups["names"].items()}
        return Cohort(**column["field"], meta=column["meta"], names=names,
                      units={key: str(value) for key, value in groups["units"].items()})

    def __repr__(self) -> str:
        shapes = [f"{k}: {tuple(c.shape) if isinstance(c, Tensor) else len(c)}" for k, c in self.columns().items()]
        return f"Cohort({len(self)} cases, {len(self.patient.unique())} patients; {', '.join(shapes)})"


def _column(array: np.ndarray) -> Tensor | list[str]:
    return array.tolist() if array.dtype.kind == "U" else torch.from_numpy(array)


def _take(column: Tensor | list, index) -> Tensor | list:
    if isinstance(column, Tensor):
        return column[index]
    return [column[i] for i in torch.arange(len(column))[index].tolist()]


def _join(parts: list):
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [item for part in parts for item in part]
