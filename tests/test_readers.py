"""Readers of file formats: what they promise, hostile files that lie about themselves, and the real files."""

import gzip
import io
import itertools
import struct
import tracemalloc
import zipfile
import zlib
from functools import cache

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from test_data import REAL, needs_real

from medtutor.data import readers
from medtutor.data.readers import Refused

RANDOM = np.random.default_rng(0)


def refused(read, path, sentence, *arguments, most=2**24):
    """The reader refuses a file in one sentence that names it, without taking the memory that the file claims."""
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match=sentence) as error:
            read(path, *arguments)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("read", "kind"), [
    (readers.npz, "npz archive"), (readers.picture, "picture"), (readers.nifti, "NIfTI volume"),
    (readers.dicom, "DICOM file"), (readers.document, "JSON document"), (readers.report_xml, "XML report")])
@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html", bytes(range(256)) * 20])
def test_a_file_of_another_kind_is_named(tmp_path, read, kind, content):
    path = tmp_path / "file.nii.gz"
    path.write_bytes(content)
    refused(read, path, f"file.nii.gz is not a readable {kind}")


def test_npz_returns_what_numpy_wrote_and_reads_a_part(tmp_path):
    arrays = {"a": RANDOM.integers(0, 255, (5, 3, 2), np.uint8), "b": np.asfortranarray(RANDOM.normal(size=(4, 3))),
              "c": np.array(["x", "yz"]), "d": np.array(7)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        read = readers.npz(tmp_path / "a.npz")
        assert set(read) == set(arrays)
        assert all(np.array_equal(read[key], arrays[key]) and read[key].dtype == arrays[key].dtype for key in arrays)
        assert np.array_equal(readers.npz(tmp_path / "a.npz", rows=2)["a"], arrays["a"][:2])


def test_npz_never_unpickles(tmp_path):
    np.savez(tmp_path / "a.npz", good=np.arange(3000), bad=np.array([{"run": "me"}], dtype=object))
    refused(readers.npz, tmp_path / "a.npz", r"pickled Python objects in bad\.npy, which could run code")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:4000])
    refused(readers.npz, tmp_path / "a.npz", "is not a readable npz archive")


@pytest.mark.parametrize("shape", [(10**6, 10**6), (60000, 100), (-5, 3)])
def test_npz_that_claims_more_than_it_holds(tmp_path, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"\0" * 80)
    refused(readers.npz, tmp_path / "a.npz", r"claims")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("side", [12000, 60000])
def test_a_picture_bomb_is_not_unpacked(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    refused(readers.picture, tmp_path / "a.png", "decompression bomb", "L")


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_are_scaled_by_their_depth(tmp_path, dtype, top, mode):
    pixels = RANDOM.integers(0, top + 1, (5, 7)).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = readers.picture(tmp_path / "a.png", mode)
    assert read.shape == (len(mode), 5, 7)
    assert torch.allclose(read, torch.from_numpy(pixels / top).float().expand(len(mode), -1, -1), atol=1e-6)


def test_masks_are_indices_of_one_channel(tmp_path):
    Image.fromarray(np.eye(3, dtype=np.uint8) * 7).save(tmp_path / "a.png")
    assert torch.equal(readers.picture(tmp_path / "a.png"), torch.eye(3, dtype=torch.int64) * 7)
    Image.new("RGB", (3, 3)).save(tmp_path / "b.png")
    refused(readers.picture, tmp_path / "b.png", "is no mask: expected one channel")


def body():
    """Voxels that tell every direction apart, with x to the right, y to the front and z to the top."""
    x, y, z = np.indices((5, 6, 7))
    return (x * 100 + y * 10 + z).astype(np.int16)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_nifti_is_turned_by_its_header(tmp_path, order):
    for flips in itertools.product((1, -1), repeat=3):
        affine, voxels = np.zeros((4, 4)), body().transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
        for axis, (world, flip) in enumerate(zip(order, flips, strict=True)):
            affine[world, axis] = flip * (0.5, 1.5, 3.0)[world]
        affine[3, 3] = 1
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
        axial, spacing = readers.nifti(tmp_path / "a.nii.gz", "axial")
        assert spacing == pytest.approx((3.0, 1.5, 0.5))
        assert np.array_equal(axial, body().transpose(2, 1, 0)[::-1, ::-1, ::-1])
        sagittal, spacing = readers.nifti(tmp_path / "a.nii.gz")
        assert spacing == pytest.approx((0.5, 3.0, 1.5))
        assert np.array_equal(sagittal, body().transpose(0, 2, 1)[:, ::-1, ::-1])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_applies_slope_and_keeps_channels(tmp_path, kind, name):
    image = kind(np.stack([body(), body() + 1], -1), np.eye(4))
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, tmp_path / name)
    voxels, _ = readers.nifti(tmp_path / name, "axial")
    assert voxels.shape == (7, 6, 5, 2)
    assert np.array_equal(voxels[..., 1], (body() + 1.0).transpose(2, 1, 0)[::-1, ::-1, ::-1] * 2 - 1000)


def test_nifti_without_numbers_or_place(tmp_path):
    path, volume = tmp_path / "a.nii", body().astype(np.float32)
    volume[0, 0, 0], volume[1, 1, 1] = np.nan, np.inf
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    voxels, _ = readers.nifti(path)
    assert np.isfinite(voxels).all()
    assert np.count_nonzero(voxels == 0) == 2
    for array in (body().astype(np.complex64), body()[0]):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
        refused(readers.nifti, path, "holds no volume of numbers")
    nibabel.save(nibabel.Nifti1Image(body(), np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    raw[280:328] = b"\0" * 48
    path.write_bytes(raw)
    refused(readers.nifti, path, "does not say how its voxels lie in space")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("shape", "sentence"), [((5, 6, 900), "claims the shape"), ((30000, 30000, 30000), "GiB"),
                                                 ((0, 6, 7), "claims the shape|not a readable")])
def test_nifti_that_lies_about_its_size(tmp_path, name, shape, sentence):
    nibabel.save(nibabel.Nifti1Image(body(), np.eye(4)), tmp_path / "good.nii")
    raw = bytearray((tmp_path / "good.nii").read_bytes())
    raw[42:48] = struct.pack("<3h", *shape)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    refused(readers.nifti, tmp_path / name, sentence)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_that_was_cut_off(tmp_path, name):
    path = tmp_path / name
    nibabel.save(nibabel.Nifti1Image(RANDOM.integers(0, 2**15, (20, 20, 20), np.int16), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:8000])
    refused(readers.nifti, path, "claims the shape .* but holds|is not a readable NIfTI volume")


def dicom(path, pixels, *, frames=1, syntax=pydicom.uid.ExplicitVRLittleEndian, **attributes):
    """A file with one channel (frames, H, W) or three (frames, H, W, 3)."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    bits = 8 * pixels.dtype.itemsize
    data.Rows, data.Columns = pixels.shape[1:3]
    data.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if len(pixels) > 1:
        data.NumberOfFrames = len(pixels)
    big = syntax == pydicom.uid.ExplicitVRBigEndian
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    data["PixelData"].VR = "OW" if bits > 8 else "OB"
    data.save_as(path, enforce_file_format=True, little_endian=not big, implicit_vr=syntax.is_implicit_VR)
    return path


GREY = RANDOM.integers(0, 4000, (1, 6, 8)).astype(np.uint16)


@pytest.mark.parametrize("syntax", [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian,
                                    pydicom.uid.ExplicitVRBigEndian, pydicom.uid.DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("frames", [1, 3])
def test_dicom_is_in_the_units_of_its_modality(tmp_path, syntax, frames):
    stored = RANDOM.integers(-500, 500, (frames, 6, 8)).astype(np.int16)
    path = dicom(tmp_path / "a.dcm", stored, syntax=syntax, RescaleSlope=2, RescaleIntercept=-1024)
    pixels, data = readers.dicom(path)
    assert (pixels.shape, data.Rows) == ((frames, 1, 6, 8), 6)
    assert torch.equal(pixels[:, 0], torch.from_numpy(stored * 2.0 - 1024).float())


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 12), (np.uint8, 8), (np.int16, 16)])
def test_the_first_monochrome_kind_is_inverted(tmp_path, dtype, bits):
    stored = RANDOM.integers(0, 250, (1, 6, 8)).astype(dtype)
    pixels, _ = readers.dicom(dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1",
                                    BitsStored=bits, HighBit=bits - 1))
    lowest = -(2 ** (bits - 1)) if dtype == np.int16 else 0
    assert torch.equal(pixels[0, 0], torch.from_numpy(2 * lowest + 2**bits - 1 - stored[0].astype(np.float32)))


def test_colours_become_fractions(tmp_path):
    stored = RANDOM.integers(0, 256, (2, 6, 8, 3)).astype(np.uint8)
    pixels, _ = readers.dicom(dicom(tmp_path / "a.dcm", stored))
    assert torch.allclose(pixels, torch.from_numpy(stored).permute(0, 3, 1, 2) / 255)
    palette = {name + "PaletteColorLookupTableData": (np.arange(256) * scale).astype("<u2").tobytes()
               for name, scale in (("Red", 257), ("Green", 0), ("Blue", 128))}
    palette |= {name + "PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    index = stored[:1, ..., 0]
    pixels, _ = readers.dicom(dicom(tmp_path / "b.dcm", index, PhotometricInterpretation="PALETTE COLOR", **palette))
    expected = torch.from_numpy(index[0].astype(np.float32))
    assert torch.allclose(pixels[0], torch.stack([expected / 255, expected * 0, expected * 128 / 65535]), atol=1e-6)


def test_frames_may_have_their_own_rescaling(tmp_path):
    groups = []
    for slope in (1, 10):
        group, values = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, -slope, "US"
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    stored = np.concatenate([GREY, GREY])
    pixels, _ = readers.dicom(dicom(tmp_path / "a.dcm", stored, PerFrameFunctionalGroupsSequence=groups))
    assert torch.equal(pixels[1], pixels[0] * 10)
    assert torch.equal(pixels[0, 0], torch.from_numpy(GREY[0].astype(np.float32)) - 1)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"Rows": 60000, "Columns": 60000}, "claims 1 x 60000 x 60000 pixels"),
    ({"NumberOfFrames": 10**8}, "claims 100000000 x 6 x 8 pixels"),
    ({"Rows": 0}, "claims 1 x 0 x 8 pixels"), ({"Rows": 7}, "which the 96 bytes of its pixel data cannot hold"),
    ({"PixelData": b""}, "cannot hold"), ({"SamplesPerPixel": 3}, "cannot hold"),
])
def test_dicom_that_lies_about_its_size(tmp_path, change, sentence):
    refused(readers.dicom, dicom(tmp_path / "a.dcm", GREY, **change), sentence)


def test_dicom_that_is_cut_off_or_holds_no_image(tmp_path):
    path = dicom(tmp_path / "a.dcm", GREY)
    whole = path.read_bytes()
    for length in (130, 200, len(whole) - 40):
        path.write_bytes(whole[:length])
        refused(readers.dicom, path, "cannot hold|is not a readable DICOM|holds no image|does not name")
    path.write_bytes(whole)
    data = pydicom.dcmread(path)
    del data.PixelData
    data.Modality = "SR"
    data.save_as(path)
    refused(readers.dicom, path, "holds no image: modality SR without pixel data")


def test_run_lengths_cannot_claim_more_than_they_can_hold(tmp_path):
    path = dicom(tmp_path / "a.dcm", GREY)
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    data.save_as(path)
    assert torch.equal(readers.dicom(path)[0][0, 0], torch.from_numpy(GREY[0].astype(np.float32)))
    data.Rows = 5000
    data.save_as(path)
    refused(readers.dicom, path, "claims 1 x 5000 x 8 pixels")


@needs_real
def test_every_real_dicom_file_is_read_or_refused_in_a_sentence():
    table = {row["file"]: row for row in readers.table(REAL / "dicom-samples" / "index.csv")}
    for name, row in table.items():
        pixels, sentence = None, ""
        try:
            pixels, _ = readers.dicom(REAL / "dicom-samples" / name)
        except Refused as error:
            sentence = str(error)
        if pixels is not None:
            shape = [int(side) for side in row["decoded_shape"].split("x")]
            assert np.prod(shape) in (pixels.numel(), pixels.numel() // 3)  # a palette makes three channels of one
            assert bool(torch.isfinite(pixels).all())
        elif "is stored as" in sentence:
            assert row["transfer_syntax_uid"] in sentence
            assert "install" in sentence
        else:
            # Nothing else may keep a file from being read that others could decode.
            assert not row["decoded_shape"] or "not decoded" in row["decoded_shape"]
        assert pixels is not None or (name in sentence and "\n" not in sentence)


@needs_real
def test_the_same_picture_reads_the_same_in_every_syntax():
    read = cache(lambda name: readers.dicom(REAL / "dicom-samples" / name)[0])
    for first, *others in (
            ("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm",
             "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"),
            ("emri_small.dcm", "emri_small_big_endian.dcm", "emri_small_jpeg_2k_lossless.dcm"),
            ("liver.dcm", "liver_j2k.dcm")):
        assert all(torch.equal(read(first), read(other)) for other in others)
    assert float((read("US1_UNCI.dcm") - read("US1_J2KI.dcm")).abs().mean()) < 0.02
    assert float(read("CT_small.dcm").min()) == 128 - 1024  # HU
    ybr = read("SC_ybr_full_422_uncompressed.dcm")[0, :, 5, 50]
    assert ybr.tolist() == pytest.approx([1, 0, 0], abs=0.02)  # the first stripe is red


@needs_real
def test_records_equal_their_decoded_copies():
    folder = REAL / "ecg-wfdb"
    files = set(folder.iterdir())
    for name in ("100", "s0010_re", "a103l"):
        signal, rate, names, units, marks = readers.ecg(folder / f"{name}.hea", files)
        copy = readers.npz(folder / "decoded" / f"{name}.npz")
        length = len(copy["signal"])
        assert np.allclose(signal[:, :length], copy["signal"].T, equal_nan=True, atol=1e-6)
        assert (rate, names, units) == (copy["fs"], copy["names"].tolist(), copy["units"].tolist())
        for key, known in marks.items():
            beats = copy["beat_" + key].tolist() if name == "100" else []
            assert known[:len(beats)] == beats


@pytest.mark.parametrize(("header", "sentence"), [
    ("a 1 250 1000\na.dat 16 200 16 0 0 0 0 I\n", "claims 1 x 1000 samples, but its files hold 200 bytes"),
    ("a 1 250 99999999999\na.dat 16 200 16 0 0 0 0 I\n", "claims 1 x 99999999999 samples"),
    ("a 1 250 100\n../secret.dat 16 200 16 0 0 0 0 I\n", "is not a readable WFDB record|is not part"),
    ("a 1 250 100\nb.dat 16 200 16 0 0 0 0 I\n", "is not part of this dataset"),
    ("<html>quota</html>", "is not a readable WFDB record"), ("", "is not a readable WFDB record"),
])
def test_records_that_lie(tmp_path, header, sentence):
    signal, path = tmp_path / "a.dat", tmp_path / "a.hea"
    signal.write_bytes(np.arange(100, dtype="<i2").tobytes())
    path.write_text(header)
    refused(readers.ecg, path, sentence, {signal, path})


def stl(path, triangles, count=None):
    raw = b"".join(struct.pack("<12fH", 0, 0, 0, *np.ravel(triangle), 0) for triangle in triangles)
    path.write_bytes(b"\0" * 80 + struct.pack("<I", len(triangles) if count is None else count) + raw)
    return path


SQUARE = [((0, 0, 0), (2, 0, 0), (2, 2, 0)), ((0, 0, 0), (2, 2, 0), (0, 2, 0))]


def test_points_are_spread_over_the_surface(tmp_path):
    places, normals, area = readers.surface(stl(tmp_path / "a.stl", SQUARE), 4000)
    assert area == pytest.approx(4)
    assert (np.allclose(normals, (0, 0, 1)), np.allclose(places[:, 2], 0)) == (True, True)
    assert places[:, :2].mean(0) == pytest.approx([1, 1], abs=0.05)
    assert places[:, :2].std(0) == pytest.approx([1 / 3**0.5] * 2, abs=0.03)
    assert np.array_equal(readers.surface(tmp_path / "a.stl", 4000)[0], places)


@pytest.mark.parametrize(("triangles", "count", "sentence"), [
    (SQUARE, 2**31, "claims 2147483648 triangles but holds 2"), (SQUARE, 1, "claims 1 triangles but holds 2"),
    ([], 0, "holds no surface"), ([((0, 0, 0), (1, 1, 1), (2, 2, 2))], None, "holds no surface"),
    ([((0, 0, 0), (np.nan, 1, 1), (2, 2, 3))], None, "holds no surface"),
])
def test_surfaces_that_lie(tmp_path, triangles, count, sentence):
    refused(readers.surface, stl(tmp_path / "a.stl", triangles, count), sentence, 10)


@needs_real
def test_real_bones_have_the_area_of_their_table():
    for row in readers.table(REAL / "bone-meshes" / "index.csv")[::12]:
        places, _, area = readers.surface(REAL / "bone-meshes" / "stl" / row["file"], 3000)
        assert area == pytest.approx(float(row["area"]), rel=1e-3)
        assert np.ptp(places, 0) == pytest.approx([float(row[f"extent_{axis}"]) for axis in "xyz"], rel=0.15)


def test_tables_and_reports(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffid,text\n1,"two\nlines, quoted"\n')
    assert readers.table(path) == [{"id": "1", "text": "two\nlines, quoted"}]
    for text in ("id,text\n1\n", "id,text\n1,2,3\n", 'id,text\n1,"open\n'):
        path.write_text(text)
        refused(readers.table, path, "is not a readable CSV table")
    path.write_bytes(b"id\n\xff\n")
    refused(readers.table, path, "is not a readable CSV table")
    report = ('<eCitation><uId id="CXR7"/><MedlineCitation><Article><Abstract><AbstractText Label="FINDINGS">Clear.'
              '</AbstractText><AbstractText Label="IMPRESSION"/></Abstract></Article></MedlineCitation>'
              '<MeSH><major>normal</major></MeSH></eCitation>')
    read = readers.report_xml(path) if path.write_text(report) else {}
    assert (read["uid"], read["findings"], read["impression"], read["MeSH"]) == ("7", "Clear.", "", "normal")
    path.write_text('<!DOCTYPE a [<!ENTITY b "boom">]>' + report)
    refused(readers.report_xml, path, "declares XML entities")
