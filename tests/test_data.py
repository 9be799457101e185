"""Public datasets: the catalogue, a store that may be damaged, and loaders, on a tiny store and on the real one."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medtutor import data
from medtutor.data import entry, loaders, store

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = Path(os.environ["MEDTUTOR_DATA"]) if "MEDTUTOR_DATA" in os.environ else BESIDE
needs_real = pytest.mark.skipif(not (REAL / "MANIFEST.json").is_file(),
                                reason="no public data on this machine: set MEDTUTOR_DATA to a folder that holds it")
NAMES = ["hippocampus", "wbc-seg", "dsb2018"]
CASES = 12


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A store with a dozen made-up cases of each dataset, in real file formats."""
    root, random = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    for name in NAMES:
        for part in ("images", "labels", "masks"):
            (root / name / part).mkdir(parents=True, exist_ok=True)
        (root / name / "README.md").write_text("What this is.")
    folder, rows = root / "hippocampus", ["id,nx,ny,nz"]
    for case in range(CASES):
        shape = (34 + case % 3, 48 + case, 30 + case)
        x, y, z = np.indices(shape)
        mask = ((x - 17) ** 2 + (y - 24) ** 2 + (z - 15) ** 2 < 60) * np.where(y > 24, 1, 2)
        volume = ((x + y + z) * (1000 if case % 2 else 1)).astype(np.float32)
        for part, array in (("images", volume), ("labels", mask.astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / part / f"hippocampus_{case + 1:03}.nii.gz")
        rows.append(f"hippocampus_{case + 1:03},{shape[0]},{shape[1]},{shape[2]}")
    (folder / "index.csv").write_text("\n".join(rows))
    folder, rows = root / "wbc-seg", ["id,class"]
    for case in range(CASES):
        height, width = (120, 120) if case % 2 else (96 + case, 120 - case)
        y, x = np.indices((height, width))
        cell = (y - height / 2) ** 2 + (x - width / 2) ** 2
        mask = (cell < 900).astype(np.uint8) + (cell < 300)
        picture = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"images/{case + 1:03}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"masks/{case + 1:03}.png")
        rows.append(f"{case + 1:03},{loaders.CELLS[1 + case % 4]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    folder, rows = root / "dsb2018", ["id,kind,width,height,nuclei"]
    for case in range(CASES):
        kind, (width, height) = (("histology", (320, 256)), ("fluorescence", (256, 256)))[case % 2]
        y, x = np.indices((height, width))
        label = sum(((y - 128) ** 2 + (x - c) ** 2 < 200) * (i + 1) for i, c in enumerate((80, 130, 180)))
        picture = np.where(label > 0, 200, 20).astype(np.uint8)
        picture = np.stack([picture] * 3, -1) if kind == "histology" else picture
        identifier = hashlib.sha256(bytes([case])).hexdigest()[:16]
        Image.fromarray(picture).save(folder / f"images/{identifier}.png")
        Image.fromarray(label.astype(np.uint8)).save(folder / f"labels/{identifier}.png")
        rows.append(f"{identifier},{kind},{width},{height},3")
    (folder / "index.csv").write_text("\n".join(rows))
    write_manifest(root)
    return root


def write_manifest(root: Path) -> None:
    rows = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        rows.append({"name": folder.name, "sha256": {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}})
    (root / "MANIFEST.json").write_text(json.dumps(rows))


@pytest.fixture
def copy(tiny, tmp_path, monkeypatch) -> Path:
    """A store of one's own to damage, with a cache folder of its own."""
    monkeypatch.setenv("MEDTUTOR_DATA", str(shutil.copytree(tiny, tmp_path / "store")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "store"


pytestmark = pytest.mark.filterwarnings("ignore:this copy of .* is another edition")


def test_every_entry_has_a_loader_and_a_licence():
    assert set(NAMES) <= set(data.catalogue())
    for name, found in data.catalogue().items():
        assert found.loader in loaders.LOADERS
        assert found.name == name
        assert found.licence_url in data.describe(name)
        assert found.citation in data.describe(name)


BASE = {"title": "T", "task": "t", "modality": "m", "cases": 1, "shapes": "s", "licence": "CC0", "citation": "c",
        "licence_url": "https://x.org", "non_commercial": False, "source": "https://x.org", "megabytes": 1.5,
        "original": "https://x.org", "files": 2, "sha256": "0" * 64, "loader": "l"}


@pytest.mark.parametrize(("change", "sentence"), [
    ({"licence": None}, "'d': licence must be of type str"),
    ({"cases": "many"}, "'d': cases must be of type int"),
    ({"cases": True}, "'d': cases must be of type int"),
    ({"source": "my disk"}, "'d': source must be a web address"),
    ({"sha256": "0" * 63}, "'d': sha256 must be 64"),
    ({"colour": "red"}, "'d' has the unknown field 'colour'"),
    ({"title": ...}, "'d' lacks title"),
])
def test_a_faulty_entry_is_named(change, sentence):
    row = {key: value for key, value in (BASE | change).items() if value is not ...}
    assert entry.parse(json.dumps({"d": BASE}))["d"].megabytes == 1.5
    with pytest.raises(ValueError, match=re.escape(sentence)):
        entry.parse(json.dumps({"d": row}))


FILE = {"path": "x.zip", "urls": ["https://x.org/x.zip"], "sha256": "0" * 64}


@pytest.mark.parametrize(("change", "sentence"), [
    ({"urls": []}, "'d', download: urls must be web addresses or drive:FILE_ID, one at least not on Drive, but got []"),
    ({"urls": ["drive:abc"]}, "one at least not on Drive"),
    ({"urls": ["https://x.org/y", "ftp://x.org/x"]}, "urls must be web addresses"),
    ({"urls": "https://x.org/x.zip"}, "urls must be of type list"),
    ({"sha256": ""}, "'d', download: sha256 must be 64 hexadecimal digits, or md5: and 32"),
    ({"sha256": "md5:" + "0" * 64}, "or md5: and 32"),
    ({"bytes": "many"}, "bytes must be of type int"),
    ({"unpack": "rar"}, "unpack must be zip, tar or none"),
    ({"mirror": ""}, "has the unknown field 'mirror'"),
    ({"path": ...}, "'d', download lacks path"),
])
def test_a_faulty_download_is_named(change, sentence):
    good = {"urls": ["drive:abc", "https://x.org/1", "drive:d", "http://y.org/2"], "sha256": "md5:" + "0" * 32}
    (parsed,) = entry.parse(json.dumps({"d": BASE | {"download": [FILE | good]}}))["d"].download
    assert parsed == entry.Resource("x.zip", tuple(good["urls"]), good["sha256"])
    row = {key: value for key, value in (FILE | change).items() if value is not ...}
    with pytest.raises(ValueError, match=re.escape(sentence)):
        entry.parse(json.dumps({"d": BASE | {"download": [row]}}))


def test_the_downloads_of_the_catalogue_can_be_laid_into_a_store():
    for name, found in data.catalogue().items():
        assert re.fullmatch("[a-z0-9][a-z0-9.-]*", name)
        assert name not in ("list", "get", "verify")
        assert not (found.download and found.access)
        paths = [resource.path for resource in found.download]
        assert len({path.replace("/", "-") for path in paths} | {"tree", "replaced", "MANIFEST.json"}) == len(paths) + 3
        assert all(entry.safe(resource.path) for resource in found.download)
        assert found.files > 0 or not found.sha256


@pytest.mark.parametrize("text", ["[]", "d: 3", "text"])
def test_a_catalogue_that_is_no_table_is_refused(text):
    with pytest.raises(ValueError, match=r"catalogue maps|expected fields"):
        entry.parse(text)


def test_unknown_names_get_the_nearest(copy):
    for call in (data.load, data.available, data.describe):
        with pytest.raises(ValueError, match="there is no dataset 'hipocampus'; try hippocampus"):
            call("hipocampus")
    with pytest.raises(ValueError, match="split must be"):
        data.load("wbc-seg", "validation")
    with pytest.raises(ValueError, match="has no option 'sise'; its options are size"):
        data.load("wbc-seg", sise=3)


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_dataset_is_one_sentence_with_licence_size_and_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.delenv("MEDTUTOR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not data.available(name)
    with pytest.raises(FileNotFoundError) as error:
        data.load(name)
    found, text = data.find(name), str(error.value)
    for part in (name, found.licence, f"{found.megabytes:g} MB", str(tmp_path), "MEDTUTOR_DATA", found.source):
        assert part in text
    assert "\n" not in text
    assert text in data.describe(name)


@pytest.mark.parametrize("name", NAMES)
def test_loading_is_deterministic_and_parts_share_no_patient(copy, name):
    whole, train, test = (data.load(name, split) for split in (None, "train", "test"))
    assert data.available(name)
    assert len(whole) == CASES == len(train) + len(test)
    assert not set(train.patient.tolist()) & set(test.patient.tolist())
    again = data.load(name, "test")
    assert torch.equal(again.mask, test.mask)
    assert again.meta["id"] == test.meta["id"]
    assert len(whole.names["mask"]) > int(whole.mask.max())


def test_a_patient_stays_in_its_part_whatever_the_options():
    assert 0.17 < np.mean([data.in_test("hippocampus", patient) for patient in range(5000)]) < 0.23
    assert data.in_test("hippocampus", 3) == data.in_test("hippocampus", 3)
    assert [data.in_test("a", p) for p in range(50)] != [data.in_test("b", p) for p in range(50)]


def test_parts_agree_between_options(copy):
    both, one = (set(data.load("dsb2018", "train", kind=kind).meta["id"]) for kind in (None, "histology"))
    assert one < both


def test_hippocampus_is_oriented_padded_and_scaled_by_its_own_intensities(copy):
    cohort = data.load("hippocampus")
    assert cohort.volume.shape == (CASES, 1, 40, 40, 56)
    assert (cohort.volume.min(), cohort.volume.max()) == (0, 1)
    lost = (nibabel.load(copy / "hippocampus/labels/hippocampus_001.nii.gz").get_fdata() > 0).sum()
    assert int((cohort.mask[0] > 0).sum()) == lost
    # Anterior (high y in RAS) is left, superior (high z) is up; the made-up volume rises with both.
    slices, rows, columns = torch.nonzero(cohort.mask[0] == 1, as_tuple=True)
    assert columns.float().mean() < torch.nonzero(cohort.mask[0] == 2)[:, 2].float().mean()
    inner = cohort.volume[0, 0, 20, 10:30, 15:45]
    assert bool((inner.diff(dim=0) <= 0).all())
    assert bool((inner.diff(dim=1) <= 0).all())
    # A scanner whose numbers are a thousand times larger gives the same picture.
    files = {"index.csv": copy / "hippocampus/index.csv"}
    for path in (copy / "hippocampus").rglob("*.nii.gz"):
        files[str(path.relative_to(copy / "hippocampus"))] = path
    path = files["images/hippocampus_001.nii.gz"]
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.float32) * 1000, image.affine), path)
    assert torch.allclose(loaders.hippocampus(files).volume[0], cohort.volume[0], atol=1e-5)


def test_the_slice_view_is_the_central_slice_of_the_volume(copy):
    volume, view = data.load("hippocampus"), data.load("hippocampus", view="slice")
    assert torch.equal(view.image, volume.volume[:, :, 20])
    assert torch.equal(view.mask, volume.mask[:, 20])
    with pytest.raises(ValueError, match="view must be"):
        data.load("hippocampus", view="axial")


@pytest.mark.parametrize("size", [120, 64])
def test_white_cells_are_centred_squares_with_their_labels(copy, size):
    cohort = data.load("wbc-seg", size=size)
    assert cohort.image.shape == (CASES, 3, size, size)
    assert [loaders.CELLS[i] for i in cohort.label[:4]] == list(loaders.CELLS[1:])
    for mask in cohort.mask:
        assert mask.unique().tolist() == [0, 1, 2]
        assert mask[size // 2, size // 2] == 2
        assert torch.nonzero(mask).float().mean(0) == pytest.approx([size / 2 - 0.5] * 2, abs=1.1)
    area = (cohort.mask > 0).float().mean() * 120**2
    assert float(area) == pytest.approx(np.pi * 900, rel=0.03)


def test_nuclei_have_instances_and_kinds(copy):
    cohort = data.load("dsb2018", size=64)
    assert torch.equal(cohort.mask, (cohort.meta["instance"] > 0).long())
    assert cohort.meta["instance"].amax((1, 2)).tolist() == [3] * CASES
    one = data.load("dsb2018", kind="fluorescence")
    assert one.image.shape == (CASES // 2, 1, 128, 128)
    assert set(one.meta["kind"]) == {"fluorescence"}
    assert float(one.image[:, 0][one.mask == 1].mean()) > 0.6 > 0.2 > float(one.image[:, 0][one.mask == 0].mean())
    with pytest.raises(ValueError, match="kind must be"):
        data.load("dsb2018", kind="brightfield")


@pytest.mark.parametrize(("damage", "sentence"), [
    (lambda path: path.unlink(), r"images/003\.png is missing or cannot be read .*copy the dataset 'wbc-seg' again"),
    (lambda path: path.write_bytes(path.read_bytes()[:-40]), r"images/003\.png is damaged: its sha256"),
    (lambda path: path.write_bytes(b"<html>quota</html>"), r"images/003\.png is damaged"),
    (lambda path: (path.unlink(), path.mkdir()), r"images/003\.png is missing or cannot be read"),
])
@pytest.mark.parametrize("seen_before", [False, True])
def test_a_damaged_file_is_named(copy, damage, sentence, seen_before):
    if seen_before:
        data.load("wbc-seg")
    damage(copy / "wbc-seg/images/003.png")
    with pytest.raises(ValueError, match=sentence) as error:
        data.load("wbc-seg")
    assert "\n" not in str(error.value)
    assert len(data.load("dsb2018")) == CASES


def test_files_that_are_not_listed_are_never_read(copy):
    before = data.load("wbc-seg")
    (copy / "wbc-seg/images/999.png").write_bytes(b"not a picture")
    (copy / "wbc-seg/images/.hidden").mkdir()
    assert torch.equal(data.load("wbc-seg").image, before.image)


def rewrite(copy, change):
    rows = json.loads((copy / "MANIFEST.json").read_text())
    (copy / "MANIFEST.json").write_text(json.dumps(change(rows)))


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda rows: {"oops": 1}, "is not a list of datasets"),
    (lambda rows: [{"title": "no name"}], "is not a list of datasets"),
    (lambda rows: [{"name": "wbc-seg", "sha256": {"../../etc/passwd": "0" * 64}}], "leaves the folder"),
    (lambda rows: [{"name": "wbc-seg", "sha256": {"/etc/passwd": "0" * 64}}], "leaves the folder"),
    (lambda rows: [{"name": "wbc-seg", "sha256": {"README.md": "0" * 64}}], r"does not list labels\.csv"),
])
def test_a_bad_manifest_is_refused(copy, change, sentence):
    rewrite(copy, change)
    with pytest.raises(ValueError, match=sentence):
        data.load("wbc-seg")


def test_a_dataset_that_the_manifest_does_not_list_is_absent(copy):
    rewrite(copy, lambda rows: [row for row in rows if row["name"] != "wbc-seg"])
    with pytest.raises(FileNotFoundError, match="the dataset 'wbc-seg'"):
        data.verify("wbc-seg")
    assert not data.available("wbc-seg")
    with pytest.raises(FileNotFoundError, match="the dataset 'wbc-seg'"):
        data.load("wbc-seg")


def test_a_file_with_the_right_hash_that_no_reader_understands_is_named(copy):
    (copy / "wbc-seg/images/003.png").write_bytes(b"not a picture")
    (copy / "hippocampus/images/hippocampus_003.nii.gz").write_bytes(b"not a volume")
    write_manifest(copy)
    with pytest.raises(ValueError, match=r"images/003\.png is not a readable picture"):
        data.load("wbc-seg")
    with pytest.raises(ValueError, match=r"hippocampus_003\.nii\.gz is not a readable NIfTI volume"):
        data.load("hippocampus")


def test_a_second_verification_reads_no_file(copy, monkeypatch):
    files, edition = store.verified("wbc-seg", "")
    monkeypatch.setattr(store, "file_digest", lambda *_: pytest.fail("a verified file was read again"))
    assert store.verified("wbc-seg", "") == (files, edition)
    os.utime(files["labels.csv"], (1, 1))
    with pytest.raises(pytest.fail.Exception):
        store.verified("wbc-seg", "")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_stamp_costs_a_second_check_only(copy, tmp_path, content):
    expected = store.verified("wbc-seg", "")
    (stamp,) = (tmp_path / "cache").rglob("*.json")
    stamp.write_text(content)
    assert store.verified("wbc-seg", "") == expected
    assert len(json.loads(stamp.read_text())) == len(expected[0])


def test_a_cache_that_cannot_be_written_is_no_obstacle(copy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(data.load("wbc-seg")) == CASES


def test_the_cache_folder_is_a_store_too(copy, tmp_path, monkeypatch):
    monkeypatch.delenv("MEDTUTOR_DATA")
    shutil.copytree(copy, store.root())
    assert store.root().is_relative_to(tmp_path)
    assert len(data.load("wbc-seg", "train")) > 0


def test_a_dataset_is_looked_for_in_the_cache_folder_as_well(copy, tmp_path, monkeypatch):
    shutil.copytree(copy, tmp_path / "cache/medtutor/data")
    shutil.rmtree(copy / "wbc-seg")
    rewrite(copy, lambda rows: [row for row in rows if row["name"] != "dsb2018"])
    for name in NAMES:
        assert store.listed(name, "")[0].is_relative_to(copy) == (name == "hippocampus")
        assert len(data.load(name)) == CASES


def test_verifying_reads_everything_and_names_every_fault(copy):
    data.load("wbc-seg")
    assert data.verify("wbc-seg") == []
    path, before = copy / "wbc-seg/images/003.png", (copy / "wbc-seg/images/003.png").stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (copy / "wbc-seg/masks/005.png").unlink()
    damaged, missing = data.verify("wbc-seg")
    assert re.search(r"images/003\.png is damaged: its sha256 is \w{12}\.\.\., the manifest says", damaged)
    assert re.search(r"masks/005\.png is missing or cannot be read", missing)


def test_another_edition_is_announced(copy, monkeypatch):
    with pytest.warns(UserWarning, match="another edition than the catalogue's"):
        data.load("wbc-seg")
    unknown = {"wbc-seg": dataclasses.replace(data.find("wbc-seg"), sha256="", files=0)}
    monkeypatch.setattr(entry, "catalogue", lambda: unknown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load("wbc-seg")


@needs_real
@pytest.mark.parametrize("name", NAMES)
def test_the_real_datasets_load_as_the_catalogue_says(name, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDTUTOR_DATA", str(REAL))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if not data.available(name):
        pytest.skip(f"{name} is not in {REAL}")
    options = {"hippocampus": {"view": "slice"}}.get(name, {})
    whole = data.load(name, **options)
    files, edition = store.verified(name, "")
    if edition == data.find(name).sha256:
        assert (len(whole), len(files)) == (data.find(name).cases, data.find(name).files)
    assert 0.1 < np.mean([data.in_test(name, patient) for patient in whole.patient.tolist()]) < 0.3
    assert bool(torch.isfinite(whole.image).all())
    assert (float(whole.image.min()) >= 0, float(whole.image.max()) <= 1) == (True, True)
    assert all(len(mask.unique()) > 1 for mask in whole.mask)
    # A structure has other intensities than its surroundings, and less so where its mask is upside down.
    def contrast(mask):
        inside, outside = (torch.histc(whole.image.mean(1)[part], 20, 0, 1) for part in (mask > 0, mask == 0))
        return float((inside / inside.sum() - outside / outside.sum()).abs().sum() / 2)

    assert contrast(whole.mask) > 1.1 * contrast(whole.mask.flip(1))
