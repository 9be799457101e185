"""Loaders: every dataset of the catalogue that lies here, and tiny copies in the layouts of their sources."""

import json
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from test_data import REAL, needs_real

from medtutor import data
from medtutor.data import loaders
from medtutor.data.loaders import LOADERS

MANIFEST = REAL / "MANIFEST.json"
ROWS = {row["name"]: row for row in json.loads(MANIFEST.read_text())} if MANIFEST.is_file() else {}
# Small sizes where the full one takes seconds: counts do not depend on them.
QUICK = {"adrenalmnist3d": {"size": 16}, "bccd": {"size": 64}, "hippocampus": {"view": "slice"},
         "bone-meshes": {"points": 64}}
pytestmark = pytest.mark.filterwarnings("ignore:.*DICOM files are left out", "ignore:The inplace keyword")


def listing(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@cache
def real(name: str, **options):
    """A dataset of the store, read once for the tests of this file."""
    files = {path: REAL / name / path for path in sorted(ROWS[name]["sha256"]) if path != "README.md"}
    return LOADERS[data.find(name).loader](files, **{**QUICK.get(name, {}), **options})


def counts(labels, names):
    return dict(zip(names, torch.bincount(labels, minlength=len(names)).tolist(), strict=True))


@needs_real
@pytest.mark.parametrize("name", sorted(set(ROWS) & set(data.catalogue())))
def test_every_set_that_is_here_loads_as_the_catalogue_says(name):
    cohort = real(name)
    assert len(cohort) == data.find(name).cases
    for pixels in (cohort.image, cohort.volume):
        if pixels is not None:
            assert pixels.dtype == torch.float32
            assert (float(pixels.min()) >= 0, float(pixels.max()) <= 1) == (True, True)
            flat = pixels.flatten(1)
            assert float((flat.amax(1) > flat.amin(1)).float().mean()) > 0.99  # MedNIST has a blank picture
    if cohort.label is not None and cohort.label.ndim == 1:
        assert int(cohort.label.max()) == len(cohort.names["label"]) - 1
    if cohort.mask is not None:
        assert cohort.mask.dtype in (torch.int64, torch.bool)
        assert all(bool(mask.any()) for mask in cohort.mask)
    test = {patient for patient in cohort.patient.tolist() if data.in_test(name, patient)}
    if len(cohort.patient.unique()) >= 100:
        assert 0.1 < len(test) / len(cohort.patient.unique()) < 0.3


@needs_real
@pytest.mark.parametrize(("name", "expected"), [
    ("busi", {"benign": 350, "malignant": 168, "normal": 106}),
    ("kermany-cxr", {"normal": 250, "viral_pneumonia": 250}),
    ("wbc-seg", {"neutrophil": 138, "lymphocyte": 47, "monocyte": 38, "eosinophil": 17, "basophil": 0}),
    ("hrf-fundus", {"healthy": 5, "diabetic_retinopathy": 5, "glaucoma": 6}),
    ("bone-meshes", {"spine_thorax": 22, "hand_finger": 19, "leg_pelvis_foot": 16, "carpal": 8, "arm_shoulder": 5,
                     "head": 2}),
    ("pubmedqa", {"yes": 446, "no": 262, "maybe": 92}), ("dsb2018", {"fluorescence": 104, "histology": 48}),
    ("mednist", dict.fromkeys(["AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"], 320)),
    ("openi-reports", {"normal": 1103, "abnormal": 1978}),
    ("pneumoniamnist", {"normal": 1263, "pneumonia": 3421}),
    ("adrenalmnist3d", {"normal": 988, "hyperplasia or mass": 278}),
])
def test_classes_are_as_many_as_the_source_says(name, expected):
    cohort = real(name)
    assert counts(cohort.label, cohort.names["label"]) == expected


@needs_real
def test_official_splits_are_kept():
    for name, expected in (("adrenalmnist3d", {"train": 950, "val": 78, "test": 238}),
                           ("vqa-rad", {"train": 1420, "test": 365}),
                           ("pneumoniamnist", {"train": 3779, "val": 392, "test": 513}),
                           ("pubmedqa", {"test": 408, "train": 392})):
        split = real(name).meta["split"]
        assert {part: split.count(part) for part in set(split)} == expected


@needs_real
def test_patients_stay_together():
    assert len(real("kermany-cxr").patient.unique()) == 435
    assert len(real("nih-cxr14").patient.unique()) == 1864
    assert len(real("vqa-rad").patient.unique()) == 251
    assert len(real("vnc-em").patient.unique()) == 4
    assert len(real("ecg-wfdb").patient.unique()) == 3
    bones = real("bone-meshes")
    left, right = (bones.patient[bones.meta["id"].index(side + "_femur")] for side in "lr")
    assert left == right
    busi = real("busi")
    flat = busi.image.flatten(1) - busi.image.flatten(1).mean(1, keepdim=True)
    alike = torch.nn.functional.normalize(flat) @ torch.nn.functional.normalize(flat).T > 0.99
    first, second = alike.nonzero().T
    assert len(first) > len(busi)
    assert torch.equal(busi.patient[first], busi.patient[second])


@needs_real
def test_boxes_lie_on_cells_and_are_all_there():
    cells = real("bccd")
    found = counts(cells.meta["box_class"][cells.meta["box_class"] >= 0], cells.names["box_class"])
    assert found == {"RBC": 3330, "WBC": 296, "Platelets": 295}
    inside = torch.zeros(len(cells), 64, 64, dtype=torch.bool)
    for case, boxes in enumerate(cells.box):
        for x0, y0, x1, y1 in boxes[cells.meta["box_class"][case] == 1].round().int().tolist():
            inside[case, max(0, y0):y1, max(0, x0):x1] = True
    shown = torch.zeros_like(inside)
    shown[:, 8:56] = True  # the rest pads 4:3 to a square
    blue = cells.image[:, 2] - cells.image[:, 1]
    assert float(blue[inside].mean()) > float(blue[~inside & shown].mean()) + 0.05
    boxes = real("nih-cxr14", view="boxes", size=1024)
    assert int((boxes.meta["box_class"] >= 0).sum()) == 781
    sides = (boxes.box[..., 2:] - boxes.box[..., :2])[boxes.meta["box_class"] >= 0]
    assert (float(sides.min()) > 0, float(boxes.box[~boxes.box.isnan()].max()) <= 1024) == (True, True)
    first = boxes.box[boxes.meta["id"].index("00014716_007.png"), 0]
    assert first.tolist() == pytest.approx([686.1, 131.5, 871.6, 445.1], abs=0.1)


@needs_real
def test_masks_fit_their_pictures():
    fundus, lesion, nerve = real("hrf-fundus"), real("isic2017-seg"), real("vnc-em")
    for image, mask in ((fundus.image[:, 1], fundus.mask == 1), (lesion.image.mean(1), lesion.mask == 1),
                        (nerve.image[:, 0], nerve.mask[:, 0])):
        near = torch.nn.functional.max_pool2d(mask[:, None].float(), 15, 1, 7)[:, 0].bool() & ~mask & (image > 0.02)
        darker = [bool(case[own].mean() < case[ring].mean()) for case, own, ring in zip(image, mask, near, strict=True)]
        assert np.mean(darker) > 0.8
    assert real("hrf-fundus").names["mask"] == ("background", "vessel")
    kidneys = real("kits19-labels", view="volume")
    voxel = kidneys.meta["spacing"].prod(1) / 1000  # ml
    content = torch.stack([(kidneys.mask == label).sum((1, 2, 3)) * voxel for label in (1, 2)])
    rows = {row["case_id"]: row for row in loaders.readers.table(REAL / "kits19-labels" / "index.csv")}
    for case, name in enumerate(kidneys.meta["id"]):
        for label, key in ((0, "kidney_ml"), (1, "tumour_ml")):
            expected = float(rows[name][key])
            assert float(content[label, case]) == pytest.approx(expected, rel=0.15, abs=5)


@needs_real
def test_tables_and_signals_keep_their_meaning():
    xrays, kidneys, strips = real("nih-cxr14"), real("kits19-labels"), real("ecg-wfdb")
    found = dict(zip(xrays.names["label"], xrays.label.sum(0).tolist(), strict=True))
    assert (found["Atelectasis"], found["Hernia"], int((xrays.label.sum(1) == 0).sum())) == (840, 5, 4443)
    assert sorted(set(xrays.meta["view"])) == ["AP", "PA"]
    assert 40 < float(xrays.meta["age"].float().mean()) < 60
    assert set(kidneys.meta["sex"]) == {"male", "female"}
    assert float(kidneys.meta["age"].max()) < 100
    # A strip holds about as many beats as fit into ten seconds, and an upward R wave for each.
    beats = [case for case, beats in enumerate(strips.meta["beats"]) if beats]
    assert sum(len(strips.meta["beats"][case]) for case in beats) == pytest.approx(2274 * 1800 / 1805.6, abs=5)
    lead = strips.meta["signal"][beats, strips.names["signal"].index("MLII")]
    peaks = ((lead > 0.4).float().diff(dim=1) > 0).sum(1)
    marked = torch.tensor([len(strips.meta["beats"][case]) for case in beats])
    assert float((peaks - marked).abs().float().median()) <= 1
    assert bool(strips.meta["signal"][beats, strips.names["signal"].index("V1")].isnan().all())
    slow = real("ecg-wfdb", rate=125)
    assert slow.meta["signal"].shape[-1] * 2 == strips.meta["signal"].shape[-1]
    assert int((real("vqa-rad").label >= 0).sum()) > 700
    assert real("openi-reports").report[1].startswith("Borderline cardiomegaly.")


@needs_real
@pytest.mark.parametrize("view", ["head", "brains", "contrasts"])
def test_images_to_register_show_one_anatomy(view):
    cohort = real("registration", view=view, size=64)
    pixels = cohort.image if view == "head" else cohort.volume
    assert pixels.shape[1:] == ((1,) + (64,) * (2 if view == "head" else 3))
    first, second = (pixels[case].flatten() > 0.15 for case in (-2, -1))
    overlap = 2 * float((first & second).sum()) / float(first.sum() + second.sum())
    assert overlap > (0.8 if view == "brains" else 0.1)
    if view == "brains":
        flipped = pixels[1].flip(1).flatten() > 0.15
        assert 2 * float((first & flipped).sum()) / float(first.sum() + flipped.sum()) < overlap


# Layouts of the sources, on made-up files

def picture(path: Path, size=(12, 8), colour=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 255 - colour)).save(path)


def test_folders_are_classes_without_an_index(tmp_path):
    for name in ("hand/1.png", "hand/2.jpg", "head/3.jpeg", "head/.hidden.png"):
        picture(tmp_path / name)
    cohort = loaders.pictures(listing(tmp_path), size=12, mode="RGB")
    assert cohort.image.shape == (3, 3, 12, 12)
    assert counts(cohort.label, cohort.names["label"]) == {"hand": 2, "head": 1}
    assert float(cohort.image[:, :, [0, 1, 10, 11]].max()) == 0  # the bands that make a square
    assert float(cohort.image[0, 0, 2, 3]) == pytest.approx(100 / 255, abs=0.02)
    assert len(cohort.patient.unique()) == 3
    assert len(loaders.pictures(listing(tmp_path), size=6, cases=2)) == 2
    assert loaders.mednist(listing(tmp_path)).names["label"] == ("hand", "head")


def test_an_index_names_classes_patients_and_parts(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    (tmp_path / "index.csv").write_text("file,label,patient,split\nb.png,ill,p1,train\na.png,well,p2,test\n")
    cohort = loaders.pictures(listing(tmp_path), size=4)
    assert (cohort.meta["id"], cohort.meta["split"]) == (["b.png", "a.png"], ["train", "test"])
    assert cohort.label.tolist() == [0, 1]
    (tmp_path / "index.csv").write_text("file\nmissing.png\n")
    with pytest.raises(ValueError, match=r"does not list missing\.png, which its index names"):
        loaders.pictures(listing(tmp_path))


def test_lesions_in_the_layout_of_the_challenge(tmp_path):
    (tmp_path / "truth").mkdir()
    for number in range(3):
        picture(tmp_path / f"ISIC_{number}.jpg")
        picture(tmp_path / f"ISIC_{number}_superpixels.png")
        mask = Image.fromarray(np.full((8, 12), 255 * (number > 0), np.uint8))
        mask.save(tmp_path / f"truth/ISIC_{number}_segmentation.png")
    cohort = loaders.isic_seg(listing(tmp_path), size=12)
    assert cohort.meta["id"] == ["ISIC_0", "ISIC_1", "ISIC_2"]
    assert cohort.mask.sum((1, 2)).tolist() == [0, 96, 96]
    assert len(loaders.isic_seg(listing(tmp_path), cases=2)) == 2


@pytest.mark.parametrize(("modality", "unit"), [("CT", "HU / 1000"), ("MRI", "fraction of the 99th percentile")])
def test_any_task_of_the_decathlon(tmp_path, modality, unit):
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": modality}, "labels": {"0": "background",
                                                                                             "1": "spleen"}}))
    for case in range(2):
        voxels = np.full((8, 8, 6), 40, np.int16)
        voxels[:4] = -500  # x towards the patient's left, so that the right of a picture shows it
        for part, array in (("imagesTr", voxels), ("labelsTr", (voxels > 0).astype(np.uint8))):
            (tmp_path / part).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2, 5, 1])), tmp_path / part / f"spleen_{case}.nii.gz")
            (tmp_path / part / f"._spleen_{case}.nii.gz").write_bytes(b"left by a file system")
    cohort = loaders.decathlon(listing(tmp_path), shape=(3, 4, 4))
    assert (cohort.volume.shape, cohort.mask.shape) == ((2, 1, 3, 4, 4), (2, 3, 4, 4))
    assert (cohort.units["volume"], cohort.names["mask"]) == (unit, ("background", "spleen"))
    assert cohort.meta["spacing"][0].tolist() == [10, 4, 4]
    assert torch.equal(cohort.mask[..., :2], torch.ones(2, 3, 4, 2, dtype=torch.int64))
    assert float(cohort.volume.max()) == pytest.approx(0.04 if modality == "CT" else 1)
    assert float(cohort.volume.min()) == pytest.approx(-0.5 if modality == "CT" else 0)
    assert len(loaders.decathlon(listing(tmp_path), cases=1)) == 1


@pytest.mark.parametrize(("name", "shape", "labels", "field"), [
    ("pathmnist.npz", (28, 28, 3), 1, (3, 28, 28)), ("chestmnist_64.npz", (64, 64), 14, (1, 64, 64)),
    ("organmnist3d_64.npz", (64, 64, 64), 1, (1, 32, 32, 32)), ("nodulemnist3d.npz", (28, 28, 28), 1, (1, 28, 28, 28)),
])
def test_any_set_of_medmnist(tmp_path, name, shape, labels, field):
    arrays = {}
    for part, count in (("train", 5), ("val", 1), ("test", 2)):
        arrays[f"{part}_images"] = np.full((count, *shape), 51, np.uint8)
        arrays[f"{part}_labels"] = np.ones((count, labels), np.uint8)
    np.savez(tmp_path / name, **arrays)
    cohort = loaders.medmnist(listing(tmp_path))
    pixels = cohort.volume if "3d" in name else cohort.image
    assert pixels.shape == (8, *field)
    assert torch.allclose(pixels, torch.tensor(0.2))
    assert cohort.label.shape == ((8, 14) if labels == 14 else (8,))
    assert cohort.meta["split"] == ["train"] * 5 + ["val"] + ["test"] * 2
    assert len(cohort.names["label"]) == {"p": 9, "c": 14, "o": 11, "n": 2}[name[0]]
    assert len(loaders.medmnist(listing(tmp_path), cases=1, size=14)) == 3


def test_reports_come_as_a_table_or_as_xml(tmp_path):
    (tmp_path / "1.xml").write_text('<eCitation><uId id="CXR1"/><Abstract><AbstractText Label="FINDINGS">Clear.'
                                    "</AbstractText></Abstract><MeSH><major>normal</major></MeSH></eCitation>")
    xml = loaders.openi_reports(listing(tmp_path))
    (tmp_path / "indiana_reports.csv").write_text("uid,MeSH,findings,impression\n1,normal,Clear.,\n")
    csv = loaders.openi_reports(listing(tmp_path))
    assert xml.report == csv.report == ["Clear."]
    assert xml.label.tolist() == csv.label.tolist() == [0]
    assert xml.patient.tolist() == [1]


@pytest.mark.parametrize("loader", sorted(LOADERS))
def test_an_empty_copy_is_one_sentence(loader):
    with pytest.raises(ValueError, match=r"this copy (does not list|lists no) .*copy the dataset again"):
        LOADERS[loader]({})


def test_an_unknown_class_is_named(tmp_path):
    picture(tmp_path / "images/1.jpg")
    (tmp_path / "boxes.csv").write_text("image,label,xmin,ymin,xmax,ymax\n1,Yeast,1,2,3,4\n")
    with pytest.raises(ValueError, match="case 1 is of unknown class 'Yeast'; known are RBC, WBC, Platelets"):
        loaders.bccd(listing(tmp_path))
