"""Readers of the file formats that public datasets come in: npz, PNG/JPEG, NIfTI, DICOM, WFDB, STL, CSV, JSON and XML.

Files come from strangers. No reader runs code from a file, and none allocates what a header merely claims: the claim is
first compared with what the file can hold. Whatever is wrong is a ValueError of one sentence that names the file.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import math
import warnings
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Files = dict[str, Path]  # the verified files of a dataset by their paths in its folder
LIMIT = 2**31  # bytes of one decoded image or volume; a whole-body CT fits
GRIDS = {"sagittal": (0, 2, 1), "axial": (2, 1, 0)}


class Refused(ValueError):
    """A file that cannot or must not be read; the message is one sentence."""


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library raises becomes one sentence; a `Refused` keeps its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Refused:
        raise
    except MemoryError as error:
        raise Refused(f"{path} needs more memory than this machine has") from error
    except Exception as error:  # every library has its own errors, down to struct.error and IndexError
        raise Refused(f"{path} is not a readable {kind} ({' '.join(str(error).split())[:200]})") from error


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header line."""
    with _reading(path, "CSV table"), open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, strict=True))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("its lines have different numbers of fields")
        return rows


def document(path: Path) -> list | dict:
    """A JSON document."""
    with _reading(path, "JSON document"):
        return json.loads(path.read_text(encoding="utf-8"))


def report_xml(path: Path) -> dict[str, str]:
    """One report of the Open-i collection: uid, MeSH, indication, comparison, findings, impression."""
    from xml.etree import ElementTree

    with _reading(path, "XML report"):
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise Refused(f"{path} declares XML entities, which no report needs; do not use this copy")
        root = ElementTree.fromstring(text)
        parts = {part.get("Label", "").lower(): (part.text or "").strip() for part in root.iter("AbstractText")}
        terms = ";".join((term.text or "").strip() for term in root.findall("MeSH/major"))
        return {key: parts.get(key, "") for key in ("indication", "comparison", "findings", "impression")} | {
            "uid": root.find("uId").get("id").removeprefix("CXR"), "MeSH": terms, "Problems": ""}


def npz(path: Path, rows: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; only the first `rows` of each along its first axis, read without the rest."""
    arrays = {}
    with _reading(path, "npz archive"), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = header[version](stream)
                if dtype.hasobject:
                    raise Refused(f"{path} holds pickled Python objects in {member}, which could run code when read")
                if rows is not None and shape and not fortran:
                    shape = (min(rows, shape[0]), *shape[1:])
                wanted = math.prod(shape) * dtype.itemsize
                # An array may be larger than LIMIT; no deflate stream expands more than 1032 times.
                if min(shape, default=0) < 0 or wanted > 1032 * path.stat().st_size:
                    raise Refused(f"{path} claims the shape {shape} for {member}, more than the file can hold")
                raw = bytearray(stream.read(wanted))  # writable, as tensors want it
            if len(raw) < wanted:
                raise Refused(f"{path} claims {wanted} bytes for {member} but holds {len(raw)}")
            arrays[member.removesuffix(".npy")] = np.frombuffer(raw, dtype).reshape(shape, order="FC"[not fortran])
    return arrays


def picture(path: Path, mode: str | None = None) -> Tensor:
    """With `mode` ("L" or "RGB") intensities (C, H, W) float32 in 0..1, without it class indices (H, W) int64."""
    from PIL import Image

    with _reading(path, "picture"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            deep = image.mode.startswith("I")  # PIL would clip 16 bits at 255
            pixels = np.array(image if deep or mode is None else image.convert(mode))
    if mode is None:
        if pixels.ndim != 2:
            raise Refused(f"{path} is no mask: expected one channel of class indices, but got {pixels.shape}")
        return torch.from_numpy(pixels.astype(np.int64))
    pixels = torch.from_numpy(np.atleast_3d(pixels).astype(np.float32)).permute(2, 0, 1) / (65535 if deep else 255)
    return pixels.expand(3, -1, -1) if deep and mode == "RGB" else pixels


def nifti(path: Path, plane: str = "sagittal") -> tuple[np.ndarray, tuple[float, float, float]]:
    """Voxels (D, H, W) or (D, H, W, channels), in the units of the file, and the spacing of D, H, W in mm.

    The axes are turned by the header: sagittal slices run from left to right, show superior up and anterior left; axial
    slices run from superior to inferior, show anterior up and the patient's right on the left. Not finite becomes 0.
    """
    import nibabel

    with _reading(path, "NIfTI volume"):
        header = nibabel.load(path)
        if not isinstance(header, nibabel.Nifti1Image):
            raise ValueError(f"it is {type(header).__name__}")
        dtype, start = header.get_data_dtype(), int(header.dataobj.offset)
        claimed = math.prod(header.shape) * dtype.itemsize
        if dtype.kind not in "iuf" or not 3 <= len(header.shape) <= 4:
            raise Refused(f"{path} holds no volume of numbers: shape {header.shape}, voxels of type {dtype}")
        if claimed > LIMIT or min(header.shape) < 1:
            raise Refused(f"{path} claims the shape {header.shape} of {dtype}, {claimed / 2**30:.0f} GiB; "
                          f"at most {LIMIT >> 30} GiB are read")
        packed = path.read_bytes()[:2] == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as stream:
            raw = stream.read(start + claimed)
        if len(raw) < start + claimed:
            raise Refused(f"{path} claims the shape {header.shape} of {dtype}, {claimed} bytes, but holds "
                          f"{max(0, len(raw) - start)}")
        affine = header.affine[:3, :3]
        if not np.isfinite(header.affine).all() or abs(np.linalg.det(affine)) < 1e-12:
            raise Refused(f"{path} does not say how its voxels lie in space: its affine matrix is {affine.tolist()}")
        image = nibabel.as_closest_canonical(type(header).from_bytes(raw))
        voxels, spacing = np.asanyarray(image.dataobj), [float(zoom) for zoom in image.header.get_zooms()[:3]]
    order = GRIDS[plane]
    voxels = voxels.transpose(*order, *range(3, voxels.ndim))
    voxels = voxels[:, ::-1, ::-1] if plane == "sagittal" else voxels[::-1, ::-1, ::-1]
    if voxels.dtype.kind == "f":
        voxels = np.nan_to_num(voxels, nan=0, posinf=0, neginf=0)
    return np.ascontiguousarray(voxels), tuple(spacing[axis] for axis in order)


def dicom(path: Path):
    """Pixels (frames, C, H, W) float32, bright is high, and the pydicom data set.

    One channel holds the modality's units (HU in CT) after rescaling or the modality table; MONOCHROME1 is inverted
    within the range of its bits. Three channels hold RGB in 0..1, after palette or YBR conversion.
    """
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder

    with _reading(path, "DICOM file"):
        # From memory, as a file object would make room for whatever length an element claims.
        data = pydicom.dcmread(io.BytesIO(path.read_bytes()), force=True)
        if "SOPClassUID" not in data and "Rows" not in data:
            raise ValueError("it has neither a class nor pixels")
        key = next((key for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if key in data), None)
        if key is None:
            raise Refused(f"{path} holds no image: modality {data.get('Modality', 'unknown')} without pixel data")
        if "TransferSyntaxUID" not in getattr(data, "file_meta", {}):
            raise Refused(f"{path} does not name its transfer syntax, so its pixels cannot be decoded")
        rows, columns, samples, bits = (int(data.get(name, 0)) for name in (
            "Rows", "Columns", "SamplesPerPixel", "BitsAllocated"))
        frames, held = int(data.get("NumberOfFrames") or 1), len(data[key].value or b"")
        syntax = data.file_meta.TransferSyntaxUID
        kind, deep = str(data.get("PhotometricInterpretation", "")), int(data.get("BitsStored", bits))
        claimed = frames * rows * columns * samples * bits // (12 if kind == "YBR_FULL_422" else 8)
        if min(rows, columns, samples, bits, frames) < 1 or claimed > LIMIT or claimed > held * (
                64 if syntax == pydicom.uid.RLELossless else 2**16 if syntax.is_compressed else 1):
            raise Refused(f"{path} claims {frames} x {rows} x {columns} pixels of {samples} x {bits} bits, which the "
                          f"{held} bytes of its pixel data cannot hold")
        try:
            pixels = data.pixel_array
        except Exception as error:
            if not syntax.is_compressed:
                raise
            decoder = get_decoder(syntax)
            ways = " or ".join(way.split(" requires ")[-1] for way in decoder.missing_dependencies) or "another decoder"
            reason = f" ({str(error).splitlines()[-1].strip()})" if decoder.is_available else ""
            raise Refused(f"{path} is stored as {syntax.name} ({syntax}), which cannot be decoded here{reason}: "
                          f"install {ways}") from error
        pixels = pixels.reshape(frames, rows, columns, -1)
        if kind == "PALETTE COLOR":
            pixels = np.stack([apply_color_lut(frame[..., 0], data) for frame in pixels])
            deep = 8 * pixels.dtype.itemsize
        if pixels.shape[-1] == 3:
            pixels = pixels.astype(np.float32) / (2**deep - 1)
        else:
            lowest = -(2 ** (deep - 1)) if data.get("PixelRepresentation") else 0
            ends, out = np.array([lowest, lowest + 2**deep - 1]).astype(pixels.dtype), []
            for number, frame in enumerate(pixels):
                how = _transformation(data, number)
                values = apply_modality_lut(frame, how).astype(np.float32)
                out.append(apply_modality_lut(ends, how).sum(dtype=np.float32) - values if kind == "MONOCHROME1"
                           else values)
            pixels = np.stack(out)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))), data


def _transformation(data, frame: int):
    """Where the rescaling of a frame is written: with the frame, with all frames, or plainly."""
    for group in [*list(data.get("PerFrameFunctionalGroupsSequence") or [])[frame:frame + 1],
                  *(data.get("SharedFunctionalGroupsSequence") or [])]:
        if "PixelValueTransformationSequence" in group:
            return group.PixelValueTransformationSequence[0]
    return data


def ecg(header: Path, files: set[Path]) -> tuple[np.ndarray, float, list[str], list[str], dict[str, list]]:
    """A WFDB record by its .hea file: signal (leads, T) float32 in physical units (NaN where invalid), samples a
    second, names and units of the leads, and the annotations of its .atr file as {"sample": [...], "symbol": [...]}.

    `files` are the only ones that the header may name.
    """
    import wfdb

    record = str(header.with_suffix(""))
    with _reading(header, "WFDB record"):
        claims = wfdb.rdheader(record)
        named = {header.parent / name for name in claims.file_name}
        if strange := sorted(str(path) for path in named - files):
            raise Refused(f"{header} names {strange[0]}, which is not part of this dataset")
        held = sum(path.stat().st_size for path in named)
        # The densest plain format takes a byte a sample; the FLAC ones (5xx) compress.
        if claims.n_sig * claims.sig_len > held * (100 if any(str(form)[0] == "5" for form in claims.fmt) else 1):
            raise Refused(f"{header} claims {claims.n_sig} x {claims.sig_len} samples, but its files hold {held} bytes")
        read = wfdb.rdrecord(record)
        marks = {"sample": [], "symbol": []}
        if header.with_suffix(".atr") in files:
            found = wfdb.rdann(record, "atr")
            marks = {"sample": found.sample.tolist(), "symbol": list(found.symbol)}
    return np.ascontiguousarray(read.p_signal.T, np.float32), float(read.fs), read.sig_name, read.units, marks


def surface(path: Path, points: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """An STL mesh as points (P, 3), uniform by area, in the file's unit, their outer normals (P, 3), and its area."""
    import trimesh

    with _reading(path, "STL mesh"):
        raw = path.read_bytes()
        claimed, held = int.from_bytes(raw[80:84], "little"), (len(raw) - 84) // 50
        if claimed != held and not raw[:5].lower() == b"solid":
            raise Refused(f"{path} claims {claimed} triangles but holds {max(0, held)}")
        mesh = trimesh.load_mesh(path, file_type="stl", process=False)
        if not len(mesh.faces) or not np.isfinite(mesh.vertices).all() or not mesh.area > 0:
            raise Refused(f"{path} holds no surface: {len(mesh.faces)} triangles of area {mesh.area:g}")
        places, faces = trimesh.sample.sample_surface(mesh, points, seed=seed)
    return np.asarray(places, np.float32), mesh.face_normals[faces].astype(np.float32), float(mesh.area)


def listed(files: Files, name: str) -> Path:
    if name not in files:
        raise ValueError(f"this copy does not list {name}, which its index names; copy the dataset again")
    return files[name]


def ending(files: Files, *endings: str) -> list[str]:
    found = sorted(path for path in files if path.lower().endswith(endings) and PurePosixPath(path).name[0] != ".")
    if not found:
        raise ValueError(f"this copy lists no {' or '.join(endings)} file; copy the dataset again")
    return found


def volumes(files: Files, plane: str, cases: int | None = None) -> Iterator[tuple[str, Tensor, Tensor, tuple]]:
    """Name, volume (C, D, H, W), mask (D, H, W) and spacing of every labelled case."""
    for path in [path for path in ending(files, ".nii.gz") if path.startswith("labels")][:cases]:
        name = PurePosixPath(path).name.removesuffix(".nii.gz")
        volume, spacing = nifti(listed(files, path.replace("labels", "images", 1)), plane)
        mask, _ = nifti(files[path], plane)
        if volume.shape[:3] != mask.shape:
            raise ValueError(f"{name}: volume {volume.shape} and mask {mask.shape} do not fit together")
        yield (name, torch.from_numpy(volume.astype(np.float32)).reshape(*mask.shape, -1).movedim(3, 0),
               torch.from_numpy(mask.round().astype(np.int64)), spacing)


def images(files: Files, names: list[str], place: str, size: int, mode: str = "L") -> Tensor:
    """Pictures (N, C, size, size), padded to squares before; `place` is the path of a name, such as "images/{}.png"."""
    return torch.cat([resample(square(picture(listed(files, place.format(name)), mode)[None]), size)
                      for name in names]).clamp(0, 1)


def pairs(files: Files, names: list[str], image: str, mask: str, size: int, mode: str = "RGB", side=max,
          border: str = "constant"):
    """Images (N, C, size, size) and masks (N, size, size), both made squares before (see `square`)."""
    pictures, masks = [], []
    for name in names:
        pixels = picture(listed(files, image.format(name)), mode)[None]
        found = picture(listed(files, mask.format(name)))[None, None]
        if pixels.shape[-2:] != found.shape[-2:]:
            raise ValueError(f"{name}: picture {tuple(pixels.shape[-2:])} and mask {tuple(found.shape[-2:])} differ")
        pictures.append(resample(square(pixels, side, border), size))
        masks.append(resample(square(found, side), size)[:, 0])
    return torch.cat(pictures).clamp(0, 1), torch.cat(masks)


def keys(names: list[str]) -> Tensor:
    """A number for each name that depends on the name only."""
    return torch.tensor([int(sha256(name.encode()).hexdigest()[:12], 16) for name in names])


def numbers(names: list[str]) -> Tensor:
    """The numbers that names end with, such as 7 for case_007."""
    return torch.tensor([int(name.rsplit("_", 1)[-1]) for name in names])


def classes(known: tuple[str, ...], rows: list[dict], column: str) -> Tensor:
    for row in rows:
        if row[column] not in known:
            raise ValueError(f"case {next(iter(row.values()))} is of unknown class {row[column]!r}; known are "
                             f"{', '.join(known)}")
    return torch.tensor([known.index(row[column]) for row in rows])


def boxes(names: list[str], owners: list[str], corners: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, K, 4), NaN where absent, and their classes (N, K), -1 where absent, from one row a box."""
    case = [names.index(owner) for owner in owners]
    place = [owners[:row].count(owner) for row, owner in enumerate(owners)]
    box, kind = torch.full((len(names), max(place) + 1, 4), torch.nan), torch.full((len(names), max(place) + 1), -1)
    box[case, place], kind[case, place] = corners, kinds
    return box, kind


def fit(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Crop and zero-pad about the centre."""
    for axis, (have, want) in enumerate(zip(volume.shape, shape, strict=True)):
        volume = volume.narrow(axis, max(0, (have - want) // 2), min(have, want))
    padding = []
    for have, want in reversed(list(zip(volume.shape, shape, strict=True))):
        padding += [(want - have) // 2, want - have - (want - have) // 2]
    return F.pad(volume, padding)


def square(picture: Tensor, side=max, border: str = "constant") -> Tensor:
    """The central square of (1, C, H, W): cropped, or padded with black or, with `border="replicate"`, its border.

    `side` is a number of pixels, or chooses between height and width: `max` pads, `min` crops.
    """
    side = side if isinstance(side, int) else side(picture.shape[-2:])
    height, width = (min(side, have) for have in picture.shape[-2:])
    top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
    picture = picture[..., top:top + height, left:left + width]
    frame = ((side - width) // 2, side - width - (side - width) // 2,
             (side - height) // 2, side - height - (side - height) // 2)
    return F.pad(picture, frame, mode=border)


def resample(pixels: Tensor, shape: int | tuple[int, ...]) -> Tensor:
    """(N, C, ...) at another shape: smooth for intensities, averaging where they shrink, nearest for class indices."""
    shape = (shape,) * (pixels.ndim - 2) if isinstance(shape, int) else tuple(shape)
    if pixels.shape[2:] == shape:
        return pixels
    if not pixels.is_floating_point():
        for axis, want in enumerate(shape, 2):
            middles = (torch.arange(want, dtype=torch.float64) + 0.5) * pixels.shape[axis] / want
            pixels = pixels.index_select(axis, middles.long())
        return pixels
    if pixels.ndim == 4:
        return F.interpolate(pixels, shape, mode="bilinear", antialias=True, align_corners=False)
    mode = "area" if all(want <= have for have, want in zip(pixels.shape[2:], shape, strict=True)) else "trilinear"
    return F.interpolate(pixels, shape, mode=mode)
