"""Each loader turns the verified files of one dataset, by path, into a `Cohort`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medtutor.cohort import Cohort

CELLS = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")


def hippocampus(files: dict[str, Path], view: str = "volume", shape: tuple[int, int, int] = (40, 40, 56)) -> Cohort:
    """MR crops around one hippocampus with its anterior (1) and posterior (2) part.

    `view="volume"`: `volume` (N, 1, D, H, W) and `mask` (N, D, H, W) of 1 mm voxels, padded and cropped about the
    centre to `shape`; slices are sagittal, superior is up and anterior is left (by the files' headers).
    `view="slice"`: the central one of these slices as `image` (N, 1, H, W) and `mask` (N, H, W).
    Intensities are divided by the volume's 99th percentile and clipped to 0..1.
    """
    if view not in ("volume", "slice"):
        raise ValueError(f"view must be 'volume' or 'slice', but got {view!r}")
    names = [row["id"] for row in _table(files, "index.csv")]
    volumes, masks = [], []
    for name in names:
        volume = _nifti(files, f"images/{name}.nii.gz").astype(np.float32)
        mask = _nifti(files, f"labels/{name}.nii.gz")
        if volume.shape != mask.shape or volume.ndim != 3:
            raise ValueError(f"{name}: volume {volume.shape} and mask {mask.shape} do not fit together")
        scale = max(float(np.percentile(volume, 99)), 1e-6)
        volumes.append(_fit(torch.from_numpy(np.clip(volume / scale, 0, 1)), shape))
        masks.append(_fit(torch.from_numpy(mask.round().astype(np.int64)), shape))
    volume, mask = torch.stack(volumes)[:, None], torch.stack(masks)
    common = {"patient": torch.tensor([int(name.rsplit("_", 1)[-1]) for name in names]), "meta": {"id": names},
              "names": {"mask": ("background", "anterior", "posterior")}}
    if view == "volume":
        return Cohort(volume=volume, mask=mask, units={"volume": "fraction of the 99th percentile"}, **common)
    middle = shape[0] // 2
    return Cohort(image=volume[:, :, middle].contiguous(), mask=mask[:, middle].contiguous(),
                  units={"image": "fraction of the 99th percentile"}, **common)


def wbc_seg(files: dict[str, Path], size: int = 120) -> Cohort:
    """Single white blood cells: `image` (N, 3, size, size) in 0..1, `mask` with cytoplasm (1) and nucleus (2), `label`.

    Pictures smaller than 120 pixels are padded with their border; another `size` resamples them.
    """
    rows, images, masks = _table(files, "labels.csv"), [], []
    for row in rows:
        image, mask = _picture(files, f"images/{row['id']}.png", "RGB"), _picture(files, f"masks/{row['id']}.png")
        image, mask = _square(image, mask, 120)
        images.append(_resample(image, size))
        masks.append(_resample(mask[None], size)[0])
    return Cohort(image=torch.stack(images), mask=torch.stack(masks),
                  label=torch.tensor([_index(CELLS, row["class"], row["id"]) for row in rows]),
                  patient=torch.tensor([int(row["id"]) for row in rows]), meta={"id": [row["id"] for row in rows]},
                  names={"mask": ("background", "cytoplasm", "nucleus"), "label": CELLS},
                  units={"image": "intensity, 0 to 1"})


def dsb2018(files: dict[str, Path], size: int = 128, kind: str | None = None) -> Cohort:
    """Cell nuclei: `image` in 0..1, `mask` (N, size, size) with nucleus (1), `meta["instance"]` with 1..n the nuclei.

    `kind` chooses "fluorescence" (1 channel) or "histology" (3 channels); None takes both, with 3 channels. The
    central square of each picture is resampled to `size`; nuclei that vanish by this are left out of the numbering.
    """
    kinds = ("fluorescence", "histology")
    if kind not in (None, *kinds):
        raise ValueError(f"kind must be 'fluorescence', 'histology' or None, but got {kind!r}")
    rows = [row for row in _table(files, "index.csv") if kind in (None, row["kind"])]
    images, instances = [], []
    for row in rows:
        image = _picture(files, f"images/{row['id']}.png", "L" if kind == "fluorescence" else "RGB")
        instance = _picture(files, f"labels/{row['id']}.png")
        side = min(instance.shape)
        image, instance = _square(image, instance, side)
        images.append(_resample(image, size))
        instances.append(_resample(instance[None], size)[0].unique(return_inverse=True)[1])
        if bool((instance != 0).all()):
            instances[-1] += 1
    instance = torch.stack(instances)
    return Cohort(image=torch.stack(images), mask=(instance > 0).long(),
                  label=torch.tensor([_index(kinds, row["kind"], row["id"]) for row in rows]),
                  patient=torch.tensor([int(row["id"][:12], 16) for row in rows]),
                  meta={"id": [row["id"] for row in rows], "kind": [row["kind"] for row in rows], "instance": instance},
                  names={"mask": ("background", "nucleus"), "label": kinds}, units={"image": "intensity, 0 to 1"})


LOADERS: dict[str, Callable[..., Cohort]] = {"hippocampus": hippocampus, "wbc_seg": wbc_seg, "dsb2018": dsb2018}


def _path(files: dict[str, Path], name: str) -> Path:
    if name not in files:
        raise ValueError(f"this copy does not list {name}, which its index names; copy the dataset again")
    return files[name]


def _table(files: dict[str, Path], name: str) -> list[dict[str, str]]:
    with open(_path(files, name), newline="", encoding="utf-8") as file:
        return sorted(csv.DictReader(file), key=lambda row: row["id"])


def _nifti(files: dict[str, Path], name: str) -> np.ndarray:
    """A volume as sagittal slices: x, then z from superior to inferior, then y from anterior to posterior."""
    import nibabel

    path = _path(files, name)
    try:
        volume = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    except Exception as error:  # nibabel, gzip and zlib each have their own
        raise ValueError(f"{path} is not a readable NIfTI volume ({error})") from error
    return np.ascontiguousarray(volume.transpose(0, 2, 1)[:, ::-1, ::-1])


def _picture(files: dict[str, Path], name: str, mode: str | None = None) -> Tensor:
    """With `mode` (C, H, W) float32 in 0..1, without it class indices (H, W) int64."""
    from PIL import Image

    path = _path(files, name)
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert(mode) if mode else image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable picture ({error})") from error
    if mode is None:
        return torch.from_numpy(pixels.astype(np.int64))
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).float() / 255


def _fit(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Crop and zero-pad about the centre."""
    for axis, (have, want) in enumerate(zip(volume.shape, shape, strict=True)):
        volume = volume.narrow(axis, max(0, (have - want) // 2), min(have, want))
    padding = []
    for have, want in reversed(list(zip(volume.shape, shape, strict=True))):
        padding += [(want - have) // 2, want - have - (want - have) // 2]
    return F.pad(volume, padding)


def _square(image: Tensor, mask: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The central square of an image (C, H, W) and its mask (H, W): cropped, or padded with border and background."""
    if image.shape[-2:] != mask.shape:
        raise ValueError(f"a picture {tuple(image.shape)} and its mask {tuple(mask.shape)} do not fit together")
    height, width = (min(side, have) for have in mask.shape)
    top, left = (mask.shape[0] - height) // 2, (mask.shape[1] - width) // 2
    image = image[:, top:top + height, left:left + width]
    frame = ((side - width) // 2, side - width - (side - width) // 2,
             (side - height) // 2, side - height - (side - height) // 2)
    return F.pad(image[None], frame, mode="replicate")[0], _fit(mask, (side, side))


def _resample(picture: Tensor, size: int) -> Tensor:
    """(C, H, W) at another size: bilinear with antialiasing for intensities, nearest for class indices."""
    if picture.shape[-1] == size:
        return picture
    if picture.is_floating_point():
        return F.interpolate(picture[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return F.interpolate(picture[None].double(), (size, size), mode="nearest-exact")[0].long()


def _index(names: tuple[str, ...], name: str, case: str) -> int:
    if name not in names:
        raise ValueError(f"case {case} is of unknown class {name!r}; known are {', '.join(names)}")
    return names.index(name)
