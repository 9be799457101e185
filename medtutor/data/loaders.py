"""Each loader turns the verified files of one dataset, by path, into a `Cohort`.

Pictures become squares of `size` pixels in 0..1, padded with black where nothing else is said. `patient` keeps
what belongs to one patient together; where the source names no patients, the docstring says what stands for them.
`meta["split"]` is the split that the source prescribes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import yaml

from medtutor.cohort import Cohort
from medtutor.data import readers
from medtutor.data.readers import Files, boxes, classes, ending, fit, keys, listed, numbers, resample, square

CELLS = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
FINDINGS = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
            "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia")
BRIGHT = {"image": "intensity, 0 to 1"}
PERCENTILE = "fraction of the 99th percentile"


def medmnist(files: Files, size: int | None = None, cases: int | None = None) -> Cohort:
    """Any set of MedMNIST at any of its sizes: `image` (N, C, size, size) or `volume` (N, 1, size, size, size) in 0..1,
    `label` (N,), or (N, 14) for ChestMNIST, `meta["split"]` train, val or test. Every case counts as a patient.

    Without `size`, images keep theirs and volumes shrink to 32 voxels. `cases` limits each part of the split.
    """
    path = ending(files, ".npz")[0]
    arrays, pixels, labels, split = readers.npz(files[path], cases), [], [], []
    for part in ("train", "val", "test"):
        images, solid = arrays[f"{part}_images"], arrays[f"{part}_images"].shape[3:] not in ((), (3,))
        for chunk in torch.from_numpy(images).split(256):
            chunk = (chunk[:, None] if solid or images.ndim == 3 else chunk.movedim(3, 1)).float()
            pixels.append(resample(chunk, size or (min(32, images.shape[1]) if solid else images.shape[1])) / 255)
        labels.append(torch.from_numpy(arrays[f"{part}_labels"].astype(np.int64)))
        split += [part] * len(images)
    label, field = torch.cat(labels), "volume" if solid else "image"
    names = yaml.safe_load((Path(__file__).parent / "labels.yml").read_text()).get(Path(path).stem.split("_")[0], ())
    return Cohort(**{field: torch.cat(pixels)}, label=label[:, 0] if label.shape[1] == 1 else label,
                  meta={"split": split}, names={"label": tuple(names)}, units={field: "intensity, 0 to 1"})


def decathlon(files: Files, shape: tuple[int, int, int] = (64, 64, 64), cases: int | None = None) -> Cohort:
    """Any task of the Medical Segmentation Decathlon: `volume` (N, C, D, H, W), channels for sequences, and `mask`.

    The whole field of view at `shape`, in axial slices (`readers.nifti`); `meta["spacing"]` (N, 3) is the voxel size
    that follows, in mm. CT in HU / 1000, all else in fractions of the 99th percentile of each channel.
    """
    said = readers.document(files["dataset.json"]) if "dataset.json" in files else {}
    ct, names, volumes, masks, spacings = "CT" in said.get("modality", {}).values(), [], [], [], []
    for name, volume, mask, spacing in readers.volumes(files, "axial", cases):
        volume = resample(volume[None], shape)[0]
        top = 1000 if ct else volume.flatten(1).quantile(0.99, dim=1).clamp(min=1e-6)[:, None, None, None]
        volumes.append(volume / top if ct else (volume / top).clamp(0, 1))
        masks.append(resample(mask[None, None], shape)[0, 0])
        spacings.append([step * have / want for step, have, want in zip(spacing, mask.shape, shape, strict=True)])
        names.append(name)
    return Cohort(volume=torch.stack(volumes), mask=torch.stack(masks), patient=keys(names),
                  meta={"id": names, "spacing": torch.tensor(spacings)},
                  names={"mask": tuple(said["labels"].values())} if "labels" in said else {},
                  units={"volume": "HU / 1000" if ct else PERCENTILE})


def hippocampus(files: Files, view: str = "volume", shape: tuple[int, int, int] = (40, 40, 56)) -> Cohort:
    """MR crops around one hippocampus with its anterior (1) and posterior (2) part.

    `view="volume"`: `volume` (N, 1, D, H, W) and `mask` (N, D, H, W) of 1 mm voxels, padded and cropped about the
    centre to `shape`; slices are sagittal, superior is up and anterior is left (by the files' headers).
    `view="slice"`: the central one of these slices as `image` (N, 1, H, W) and `mask` (N, H, W).
    Intensities are divided by the volume's 99th percentile and clipped to 0..1.
    """
    _one_of("view", view, "volume", "slice")
    names, volumes, masks = [], [], []
    for name, volume, mask, _ in readers.volumes(files, "sagittal"):
        scale = max(float(np.percentile(volume, 99)), 1e-6)
        names.append(name)
        volumes.append(fit((volume[0] / scale).clamp(0, 1), shape))
        masks.append(fit(mask, shape))
    volume, mask, middle = torch.stack(volumes)[:, None], torch.stack(masks), shape[0] // 2
    whole = Cohort(volume=volume, mask=mask, patient=numbers(names), meta={"id": names}, units={"volume": PERCENTILE},
                   names={"mask": ("background", "anterior", "posterior")})
    return whole if view == "volume" else replace(whole, volume=None, image=volume[:, :, middle].contiguous(),
                                                  mask=mask[:, middle].contiguous(), units={"image": PERCENTILE})


def pictures(files: Files, size: int = 128, mode: str = "L", cases: int | None = None) -> Cohort:
    """Any folder of PNG or JPEG pictures: `image`, and `label` where they have classes.

    A CSV file with the column `file` lists them, with columns `label`, `patient` and `split` if it has them; without
    one, the folder of a picture is its class. `cases` takes about as many, evenly spaced. Without the column `patient`
    every picture counts as one.
    """
    index = [rows for path in files if path.endswith(".csv") for rows in [readers.table(files[path])]
             if rows and "file" in rows[0]]
    rows = index[0] if index else [{"file": path, "label": PurePosixPath(path).parent.name}
                                   for path in ending(files, ".png", ".jpg", ".jpeg")]
    rows = rows[::max(1, len(rows) // (cases or len(rows)))][:cases]
    column = {key: [row[key] for row in rows] for key in rows[0]}
    kinds = tuple(sorted(set(column.get("label", ()))))
    return Cohort(image=readers.images(files, column["file"], "{}", size, mode), units=BRIGHT,
                  label=torch.tensor([kinds.index(name) for name in column["label"]]) if kinds else None,
                  patient=keys(column.get("patient", column["file"])), names={"label": kinds} if kinds else {},
                  meta={"id": column["file"]} | {key: column[key] for key in column if key == "split"})


def busi(files: Files, size: int = 128) -> Cohort:
    """Breast ultrasound: `image` (N, 1, size, size) and `label`. The patients are not known: near-duplicates, whose
    thumbnails of 24 pixels correlate by more than 0.97, count as one."""
    from scipy.sparse.csgraph import connected_components

    whole = pictures(files, 256)
    group = connected_components(np.corrcoef(resample(whole.image, 24).flatten(1)) > 0.97, directed=False)[1]
    first = [whole.meta["id"][int(np.argmax(group == number))] for number in group]
    return replace(whole, image=resample(whole.image, size).clamp(0, 1), patient=keys(first))


def mednist(files: Files, cases: int | None = None) -> Cohort:
    """Six kinds of image: `image` (N, 1, 64, 64) and `label`, from an npz or, as MONAI packs them, from folders.

    Patients are not known: every image counts as one. `cases` takes about as many of the folders' images.
    """
    if "mednist.npz" not in files:
        return pictures(files, 64, cases=cases)
    read = {key: torch.from_numpy(array) if array.dtype.kind == "u" else array.tolist()
            for key, array in readers.npz(files["mednist.npz"]).items()}
    return Cohort(image=read["images"][:, None] / 255, label=read["labels"].long(), meta={"id": read["files"]},
                  names={"label": tuple(read["names"])}, units=BRIGHT)


def wbc_seg(files: Files, size: int = 120) -> Cohort:
    """Single white blood cells: `image` (N, 3, size, size) in 0..1, `mask` with cytoplasm (1) and nucleus (2), `label`.

    Pictures smaller than 120 pixels are padded with their border; another `size` resamples them.
    """
    rows, names = _table(files, "labels.csv")
    image, mask = readers.pairs(files, names, "images/{}.png", "masks/{}.png", size, side=120, border="replicate")
    return Cohort(image=image, mask=mask, label=classes(CELLS, rows, "class"), meta={"id": names}, units=BRIGHT,
                  patient=numbers(names), names={"mask": ("background", "cytoplasm", "nucleus"), "label": CELLS})


def dsb2018(files: Files, size: int = 128, kind: str | None = None) -> Cohort:
    """Cell nuclei: `image` in 0..1, `mask` (N, size, size) with nucleus (1), `meta["instance"]` with 1..n the nuclei.

    `kind` chooses "fluorescence" (1 channel) or "histology" (3 channels); None takes both, with 3 channels. The
    central square of each picture is resampled to `size`; nuclei that vanish by this are left out of the numbering.
    """
    kinds = ("fluorescence", "histology")
    _one_of("kind", kind, *kinds, None)
    rows = [row for row in _table(files, "index.csv")[0] if kind in (None, row["kind"])]
    names, mode = [row["id"] for row in rows], "L" if kind == "fluorescence" else "RGB"
    image, found = readers.pairs(files, names, "images/{}.png", "labels/{}.png", size, mode, min)
    instance = torch.stack([case.unique(return_inverse=True)[1] + int(case.min() > 0) for case in found])
    return Cohort(image=image, mask=(instance > 0).long(), label=classes(kinds, rows, "kind"), units=BRIGHT,
                  patient=torch.tensor([int(name[:12], 16) for name in names]),
                  meta={"id": names, "kind": [row["kind"] for row in rows], "instance": instance},
                  names={"mask": ("background", "nucleus"), "label": kinds})


def hrf_fundus(files: Files, size: int = 256) -> Cohort:
    """Fundus photographs: `image` (N, 3, size, size), `mask` of the vessels, `label` healthy, retinopathy, glaucoma."""
    groups, (rows, names) = ("healthy", "diabetic_retinopathy", "glaucoma"), _table(files, "labels.csv")
    image, mask = readers.pairs(files, names, "images/{}.jpg", "masks/{}.png", size)
    return Cohort(image=image, mask=(mask > 127).long(), patient=keys(names), meta={"id": names}, units=BRIGHT,
                  label=classes(groups, rows, "group"), names={"mask": ("background", "vessel"), "label": groups})


def isic_seg(files: Files, size: int = 128, cases: int | None = None) -> Cohort:
    """Skin lesions: `image` (N, 3, size, size) and `mask` of the lesion. Every image counts as a patient."""
    flat = {PurePosixPath(path).name.replace("_segmentation", ""): files[path]
            for path in ending(files, ".jpg", ".png")}
    names = [name[:-4] for name in sorted(flat) if name.endswith(".jpg") and f"{name[:-4]}.png" in flat][:cases]
    image, mask = readers.pairs(flat, names, "{}.jpg", "{}.png", size)
    return Cohort(image=image, mask=(mask > 127).long(), patient=keys(names), meta={"id": names}, units=BRIGHT,
                  names={"mask": ("background", "lesion")})


def vnc_em(files: Files, size: int = 256) -> Cohort:
    """Serial sections of nerve tissue: `image` (N, 1, size, size) and `mask` (N, 3, size, size), layers of booleans.

    All are of one animal: four neighbouring sections count as a patient.
    """
    layers = ("membranes", "mitochondria", "synapses")
    names = [PurePosixPath(path).stem for path in ending(files, ".png") if path.startswith("raw/")]
    found = [readers.pairs(files, names, "raw/{}.png", layer + "/{}.png", size, "L") for layer in layers]
    return Cohort(image=found[0][0], mask=torch.stack([mask > 127 for _, mask in found], 1), meta={"id": names},
                  patient=torch.tensor([int(name) // 4 for name in names]), names={"mask": layers}, units=BRIGHT)


def bccd(files: Files, size: int = 256) -> Cohort:
    """Blood smears: `image` (N, 3, size, size), `box` (N, K, 4), `meta["box_class"]` (N, K), -1 where no box is. Every
    image counts as a patient."""
    rows, kinds = readers.table(listed(files, "boxes.csv")), ("RBC", "WBC", "Platelets")
    names = sorted({row["image"] for row in rows})
    corners = torch.tensor([[float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")] for row in rows])
    box, kind = boxes(names, [row["image"] for row in rows], corners, classes(kinds, rows, "label"))
    # Every picture has 640 x 480 pixels and is padded to a square.
    return Cohort(image=readers.images(files, names, "images/{}.jpg", size, "RGB"), patient=keys(names), units=BRIGHT,
                  box=(box + torch.tensor([0, 80, 0, 80])) * size / 640, meta={"id": names, "box_class": kind},
                  names={"box_class": kinds})


def nih_cxr14(files: Files, view: str = "labels", size: int = 128) -> Cohort:
    """ChestX-ray14 in three parts that do not overlap: findings without images, boxes without images, and images.

    `view="labels"`: `label` (N, 14) of 0 and 1, `visit`, and age, sex and view in `meta`. `view="boxes"`: `box`
    (N, K, 4) in pixels of a square of `size`, `meta["box_class"]` (N, K), -1 where no box is. `view="images"`: `image`.
    """
    _one_of("view", view, "labels", "boxes", "images")
    if view == "images":
        names = [PurePosixPath(path).stem for path in ending(files, ".png")]
        own = {"image": readers.images(files, names, "images/{}.png", size), "units": BRIGHT, "meta": {"id": names}}
    elif view == "boxes":
        rows = readers.table(listed(files, "BBox_List_2017.csv"))
        kinds = (*FINDINGS[:3], "Infiltrate", *FINDINGS[4:8])
        names = sorted({row["image"] for row in rows})
        corner = torch.tensor([[float(row[key]) for key in "xywh"] for row in rows]) * size / 1024
        corner[:, 2:] += corner[:, :2]
        box, kind = boxes(names, [row["image"] for row in rows], corner, classes(kinds, rows, "finding"))
        own = {"box": box, "meta": {"id": names, "box_class": kind}, "names": {"box_class": kinds}}
    else:
        rows = readers.table(listed(files, "labels.csv"))
        names, found = [row["image"] for row in rows], [row["findings"].split("|") for row in rows]
        own = {"label": torch.tensor([[int(finding in case) for finding in FINDINGS] for case in found]),
               "names": {"label": FINDINGS}, "visit": torch.tensor([int(row["follow_up"]) for row in rows]),
               "meta": {"id": names, "age": torch.tensor([int(row["age"].rstrip("Y")) for row in rows]),
                        "sex": [row["sex"] for row in rows], "view": [row["view"] for row in rows]}}
    return Cohort(patient=torch.tensor([int(name[:8]) for name in names]), **own)


def kits19(files: Files, view: str = "table", shape: tuple[int, int, int] = (32, 128, 128)) -> Cohort:
    """Kidney tumours: the clinical table, or label volumes without their CT.

    `view="table"`: `label` malignant, and age in years, sex, body mass index, tumour size in cm, stage, days of
    follow-up and death in `meta`. `view="volume"`: `mask` (N, D, H, W), axial, the whole field of view at `shape`, and
    `meta["spacing"]` (N, 3), the voxel size along D, H, W in mm.
    """
    _one_of("view", view, "table", "volume")
    if view == "table":
        rows = readers.document(listed(files, "kits.json"))
        columns = {"id": "case_id", "sex": "gender", "stage": "pathology_t_stage"}
        floats = {"age": "age_at_nephrectomy", "body_mass_index": "body_mass_index", "size": "radiographic_size",
                   "days": "vital_days_after_surgery"}
        meta = {key: [row[name] for row in rows] for key, name in columns.items()}
        meta |= {key: torch.tensor([float(row[name]) for row in rows]) for key, name in floats.items()}
        meta["death"] = torch.tensor([row["vital_status"] == "dead" for row in rows])
        own = {"label": torch.tensor([int(row["malignant"]) for row in rows]), "meta": meta,
               "names": {"label": ("benign", "malignant")}}
    else:
        paths = ending(files, ".nii.gz")
        volumes = [readers.nifti(files[path], "axial") for path in paths]
        masks = [torch.from_numpy(mask.astype(np.uint8)) for mask, _ in volumes]
        spacing = torch.stack([torch.tensor(mask.shape) * torch.tensor(step) for mask, step in volumes])
        own = {"mask": torch.cat([resample(mask[None, None], shape)[0] for mask in masks]).long(),
               "meta": {"id": [PurePosixPath(path).name.split(".")[0] for path in paths],
                        "spacing": spacing / torch.tensor(shape)},
               "names": {"mask": ("background", "kidney", "tumour")}, "units": {"spacing": "mm"}}
    return Cohort(patient=numbers(own["meta"]["id"]), **own)


def registration(files: Files, view: str = "slices", size: int = 128) -> Cohort:
    """Images to align with one another. `view="slices"`: `image`, MR slices of four people; "head": `image`, two slices
    of one head; "brains": `volume`, the MNI152 and Colin 27 averages; "contrasts": `volume`, T1, proton density and
    angiography of one person (no commercial use). Volumes are axial, cubes of 256 mm with `size` voxels a side."""
    folder = {"slices": "brain-slices/", "head": "head-2d/", "brains": ("mni152/mni_icbm152_t1", "colin27/"),
              "contrasts": "one-subject-mr/"}
    _one_of("view", view, *folder)
    own = {path: file for path, file in files.items() if path.startswith(folder[view]) and "mask" not in path}
    paths = ending(own, ".nii.gz", ".jpg")
    names = [PurePosixPath(path).name.split(".")[0] for path in paths]
    patient = torch.arange(len(paths)) * int(view in ("slices", "brains"))
    if view == "slices":
        return Cohort(image=readers.images(files, paths, "{}", size), units=BRIGHT, meta={"id": names}, patient=patient)
    volumes = []
    for path in paths:
        volume, spacing = readers.nifti(files[path], "axial")
        volume = torch.from_numpy(volume.astype(np.float32) / max(float(np.percentile(volume, 99)), 1e-6)).clamp(0, 1)
        shape = [max(1, round(have * step * size / 256)) for have, step in zip(volume.shape, spacing, strict=True)]
        volumes.append(fit(resample(volume[None, None], shape)[0, 0], (1 if view == "head" else size, size, size)))
    fields = {"image": torch.stack(volumes)} if view == "head" else {"volume": torch.stack(volumes)[:, None]}
    return Cohort(**fields, units=dict.fromkeys(fields, PERCENTILE), meta={"id": names}, patient=patient)


def dicom_samples(files: Files, size: int = 128) -> Cohort:
    """The images among DICOM files of many kinds: `image` (N, 1, size, size), the middle frame in grey, from its 1st to
    its 99th percentile, and in `meta` modality, transfer syntax, photometric interpretation, number of frames.

    Files that hold no image, or none that can be decoded here, are left out; a warning says why.
    """
    image, rows, refused = [], [], []
    for path in ending(files, ".dcm"):
        try:
            pixels, data = readers.dicom(files[path])
        except readers.Refused as error:
            refused.append(str(error))
            continue
        frame = pixels[len(pixels) // 2].mean(0, keepdim=True)
        low, high = torch.quantile(frame, torch.tensor([0.01, 0.99])).tolist()
        image.append(resample(square(((frame - low) / max(high - low, 1e-6)).clamp(0, 1)[None]), size))
        rows.append({"id": path, "modality": str(data.get("Modality", "")), "frames": len(pixels),
                     "syntax": data.file_meta.TransferSyntaxUID.name, "photometric": data.PhotometricInterpretation})
    if refused:
        warnings.warn(f"{len(refused)} of the DICOM files are left out; the first: {refused[0]}", stacklevel=3)
    return Cohort(image=torch.cat(image).clamp(0, 1), patient=keys([row["id"] for row in rows]), units=BRIGHT,
                  meta={key: [row[key] for row in rows] for key in rows[0]})


def ecg_wfdb(files: Files, seconds: float = 10.0, rate: int = 250) -> Cohort:
    """Strips of ECG records, a record for a patient: `meta["signal"]` (N, leads, T) at `rate` samples a second, NaN in
    leads that a record lacks; in `meta` also the record, the start in seconds, and the beat symbols where annotated."""
    from scipy.signal import resample_poly

    read = {path[:-4]: readers.ecg(files[path], set(files.values())) for path in ending(files, ".hea")}
    leads = list(dict.fromkeys(name.upper() for _, _, names, _, _ in read.values() for name in names))
    strips, meta, length = [], {"record": [], "start": [], "beats": []}, round(seconds * rate)
    for record, (signal, native, names, _, marks) in read.items():
        common = math.gcd(rate, round(native))
        signal = resample_poly(np.nan_to_num(signal), rate // common, round(native) // common, axis=1)
        for start in range(0, signal.shape[1] - length + 1, length):
            strip = torch.full((len(leads), length), torch.nan)
            strip[[leads.index(name.upper()) for name in names]] = torch.from_numpy(signal[:, start:start + length])
            strips.append(strip)
            beats = [symbol for place, symbol in zip(*marks.values(), strict=True)
                     if start <= place / native * rate < start + length]
            for key, value in zip(meta, (record, start / rate, "".join(beats)), strict=True):
                meta[key].append(value)
    return Cohort(patient=keys(meta["record"]), names={"signal": tuple(leads)}, units={"signal": "mV; PLETH relative"},
                  meta=meta | {"signal": torch.stack(strips), "start": torch.tensor(meta["start"])})


def bone_meshes(files: Files, points: int = 1024) -> Cohort:
    """Bones as point clouds: `meta["points"]` (N, P, 3), uniform by area, in the file's unit, `meta["normals"]`,
    `meta["area"]`; `label` is the region. Left and right of a bone count as one patient."""
    rows = sorted(readers.table(listed(files, "index.csv")), key=lambda row: row["file"])
    names, regions = [row["file"][:-4] for row in rows], tuple(sorted({row["region"] for row in rows}))
    clouds = [readers.surface(listed(files, f"stl/{name}.stl"), points) for name in names]
    places, normals, areas = (torch.tensor(np.stack(column)) for column in zip(*clouds, strict=True))
    return Cohort(label=classes(regions, rows, "region"), names={"label": regions}, units={"points": "mostly metres"},
                  patient=keys([name.removeprefix("l_").removeprefix("r_") for name in names]),
                  meta={"id": names, "points": places, "normals": normals, "area": areas})


def openi_reports(files: Files) -> Cohort:
    """Chest X-ray reports: `report` is findings and impression, `label` normal or abnormal by the indexers' terms; all
    fields of the source in `meta`. Reads the CSV table, or the folder of XML files that the source hands out."""
    rows = [row for path in files if path.endswith("reports.csv") for row in readers.table(files[path])]
    rows = rows or [readers.report_xml(files[path]) for path in ending(files, ".xml")]
    return Cohort(report=[f"{row['findings']} {row['impression']}".strip() for row in rows],
                  label=torch.tensor([int(row["MeSH"] != "normal") for row in rows]),
                  names={"label": ("normal", "abnormal")}, patient=torch.tensor([int(row["uid"]) for row in rows]),
                  meta={key: [row[key] for row in rows] for key in rows[0]})


def pubmedqa(files: Files) -> Cohort:
    """Research questions: `report` is the abstract without its conclusion, `label` yes, no or maybe; question, long
    answer and the official split in `meta`. Every article counts as a patient."""
    rows, answers = readers.document(listed(files, "pubmedqa_labeled.json")), ("yes", "no", "maybe")
    return Cohort(report=[" ".join(row["contexts"]) for row in rows], names={"label": answers},
                  label=classes(answers, rows, "answer"), patient=torch.tensor([int(row["pmid"]) for row in rows]),
                  meta={key: [row[key] for row in rows] for key in ("question", "long_answer")} | {
                      "split": ["test" if row["official_test"] else "train" for row in rows]})


def vqa_rad(files: Files, size: int = 128) -> Cohort:
    """Questions on radiology images, a case each: `image` (N, 1, size, size), `label` 0 no, 1 yes, -1 another answer;
    question, answer, types and the official split in `meta`. An image counts as a patient: the official parts share
    images."""
    rows = readers.document(listed(files, "qa.json"))
    names = sorted({row["image"] for row in rows})
    image, places = readers.images(files, names, "images/{}", size), {name: place for place, name in enumerate(names)}
    return Cohort(image=image[[places[row["image"]] for row in rows]], units=BRIGHT, names={"label": ("no", "yes")},
                  label=torch.tensor([{"no": 0, "yes": 1}.get(row["answer"].strip().lower(), -1) for row in rows]),
                  patient=keys([row["image"] for row in rows]),
                  meta={"id" if key == "image" else key: [row[key] for row in rows] for key in rows[0]})


LOADERS: dict[str, Callable[..., Cohort]] = {loader.__name__: loader for loader in (
    medmnist, decathlon, hippocampus, pictures, busi, mednist, wbc_seg, dsb2018, hrf_fundus, isic_seg, vnc_em, bccd,
    nih_cxr14, kits19, registration, dicom_samples, ecg_wfdb, bone_meshes, openi_reports, pubmedqa, vqa_rad)}


def _table(files: Files, name: str) -> tuple[list[dict[str, str]], list[str]]:
    rows = sorted(readers.table(listed(files, name)), key=lambda row: row["id"])
    return rows, [row["id"] for row in rows]


def _one_of(option: str, value, *known) -> None:
    if value not in known:
        raise ValueError(f"{option} must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, but got {value!r}")
