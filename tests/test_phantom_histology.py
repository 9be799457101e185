"""Histology: nuclei and their truth, what options change and what they leave alone, slides, survival, determinism."""

import subprocess
import sys

import pytest
import torch

from medtutor.phantom import histology

KIND = torch.arange(10) % 5


def sizes(cohort):
    """Pixels of every nucleus of the tumour or of glands that does not touch the border."""
    found = []
    for mask, instance in zip(cohort.mask, cohort.meta["instance"], strict=True):
        rim = torch.cat([instance[0], instance[-1], instance[:, 0], instance[:, -1]]).unique()
        inner = instance[(mask == 5) & ~torch.isin(instance, rim)]
        found += inner.bincount().tolist()
    return torch.tensor([pixels for pixels in found if pixels]).float()


@pytest.mark.parametrize(("glows", "channels"), [(False, 3), (True, 1)])
def test_fields_and_ranges(glows, channels):
    c = histology.cohort(10, 64, 0, kind=KIND, glows=glows)
    assert c.image.shape == (10, channels, 64, 64)
    assert len(c.names["image"]) == channels
    assert c.image.dtype == torch.float32
    assert (c.image >= 0).all()
    assert (c.image <= 1).all()
    assert int(c.mask.max()) < len(c.names["mask"])
    nuclei = c.image.mean(1)[c.mask >= 5].mean()
    ground = c.image.mean(1)[c.mask < 5].mean()
    assert (nuclei > ground + 0.1) if glows else (nuclei < ground - 0.1)


def test_the_label_is_the_kind_and_layouts_have_their_grounds():
    c = histology.cohort(40, 64, 1, kind=torch.arange(40) % 5)
    assert torch.equal(torch.cat([1 - c.label.sum(1, keepdim=True), c.label], 1).argmax(1), c.meta["kind"])
    share = torch.stack([(c.mask == k).float().mean((1, 2)) for k in range(5)], 1)
    of_kind = torch.stack([share[c.meta["kind"] == k].mean(0) for k in range(5)])
    lumen, mucin = of_kind[:, 2], of_kind[:, 4]
    assert lumen.argmax() == 0
    assert mucin[3] > 0.2
    assert mucin[[0, 1, 2, 4]].max() == 0
    assert of_kind[4, 1] > 0.3  # a sheet of cytoplasm
    drawn = histology.cohort(200, 16, 1).meta["kind"].bincount(minlength=5)
    assert drawn.min() > 20


def test_instances_are_the_nuclei_and_the_counts_agree():
    c = histology.cohort(10, 96, 2, kind=KIND)
    instance = c.meta["instance"]
    assert torch.equal(instance > 0, c.mask >= 5)
    assert torch.allclose((instance > 0).float().mean((1, 2)), c.meta["cellularity"])
    assert torch.equal(c.meta["cells"].sum(1), c.meta["nuclei"])
    for k in range(10):
        numbers = instance[k].unique()
        assert torch.equal(numbers, torch.arange(len(numbers)))
        for number in numbers[1:]:
            assert len(c.mask[k][instance[k] == number].unique()) == 1
        rim = torch.cat([instance[k][0], instance[k][-1], instance[k][:, 0], instance[k][:, -1]]).unique()
        assert len(numbers) - len(rim) - 3 <= c.meta["nuclei"][k] <= len(numbers) + 2  # fat hides a few


def test_every_pixel_finds_its_nearest_nucleus():
    draws = torch.Generator().manual_seed(0)
    nuclei = torch.rand(24, 15, generator=draws)
    nuclei[:, :2] = 60 * nuclei[:, :2] - 30
    angle = 3 * nuclei[:, 2]
    nuclei[:, 2], nuclei[:, 3] = angle.cos(), angle.sin()
    nuclei[:, 4] = 3 + 4 * nuclei[:, 4]
    nuclei[:, 5] = nuclei[:, 4] * (0.3 + 0.7 * nuclei[:, 5])
    owner = torch.arange(24) // 12
    r, who = histology._nearest(2, 20, 2.5, owner, nuclei)
    for patient, row, column in [(p, y, x) for p in range(2) for y in range(0, 20, 3) for x in range(0, 20, 3)]:
        away = torch.tensor([column * 2.5 + 1.25 - 25, row * 2.5 + 1.25 - 25]) - nuclei[:, :2]
        along = away[:, 0] * nuclei[:, 2] + away[:, 1] * nuclei[:, 3]
        over = away[:, 1] * nuclei[:, 2] - away[:, 0] * nuclei[:, 3]
        distance = ((along / nuclei[:, 4]) ** 2 + (over / nuclei[:, 5]) ** 2).sqrt()
        distance[(owner != patient) | (distance * nuclei[:, 4] >= 15)] = torch.inf
        if distance.isfinite().any():
            assert who[patient, row, column] == distance.argmin()
            assert abs(r[patient, row, column] - distance.min()) < 1e-5
        else:
            assert r[patient, row, column] > 50


def test_nuclei_keep_their_distance_and_differ_between_kinds():
    area = [sizes(histology.cohort(16, 96, 3, kind=k, atypical=0)).mean() for k in range(5)]
    assert area[2] < area[3] < area[1] < area[4]
    c = histology.cohort(12, 96, 3, kind=4)
    assert 0.3 < c.meta["cellularity"].mean() < 0.7  # crowded, but no heap


def test_texture_is_fine_and_layout_coarse_and_both_owe_nothing_to_the_label():
    same = {"kind": 1, "shape": 1, "atypical": 0, "lab": 0, "noisy": False}
    bland, clumped = (histology.cohort(12, 64, 4, layout=1, texture=k, **same) for k in (0, 1))
    assert torch.equal(bland.mask, clumped.mask)
    change = (clumped.image - bland.image).mean(1)
    assert change.abs().max() > 0.1
    assert (change[bland.mask < 5].abs() < 0.05).float().mean() > 0.9
    coarse = torch.nn.functional.avg_pool2d(change[:, None], 16)
    assert coarse.std() < 0.25 * change.std()
    files = histology.cohort(12, 64, 4, layout=2, texture=0, **same)
    assert torch.equal(files.label, bland.label)
    shift = torch.nn.functional.avg_pool2d((files.image - bland.image).mean(1, keepdim=True), 16)
    assert shift.std() > 5 * coarse.std()
    mixed = histology.cohort(8, 32, 4, kind=2, layout=torch.arange(8) % 5, texture=3)
    assert mixed.meta["layout"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert set(mixed.meta["texture"].tolist()) == {3}
    assert set(mixed.meta["shape"].tolist()) == {2}


def test_laboratories_differ_as_much_as_asked():
    def colours(variation):
        made = [histology.cohort(8, 32, 5, kind=1, lab=lab, variation=variation, noisy=False) for lab in range(4)]
        assert torch.equal(made[0].mask, made[3].mask)
        return torch.stack([c.image.mean((0, 2, 3)) for c in made]), made[0].image.mean((2, 3))

    none, one, two = (colours(v) for v in (0.0, 1.0, 2.0))
    assert none[0].std(0).max() < 1e-5
    assert one[0].std(0).min() > 0.01
    assert two[0].std(0).mean() > 1.5 * one[0].std(0).mean()
    drawn = histology.cohort(80, 16, 5).meta["lab"].bincount(minlength=4)
    assert drawn.min() > 8


def test_atypical_nuclei_come_as_asked_and_shorten_life():
    assert histology.cohort(20, 32, 6, kind=1, atypical=0).meta["cells"][:, 3].sum() == 0
    assert histology.cohort(20, 32, 6, kind=0, atypical=1).meta["cells"][:, 3].sum() == 0
    few, many = (histology.cohort(20, 32, 6, kind=1, atypical=p).meta["atypical_share"].mean() for p in (0.02, 0.2))
    assert 0 < few < many / 3
    m = histology.cohort(300, 16, 6, kind=1).meta
    assert torch.allclose(m["atypical_share"], m["cells"][:, 3] / m["nuclei"].clamp(min=1))
    assert torch.allclose(m["risk"], 20 * m["atypical_share"] - 1)
    sooner = (m["time"][:, None] < m["time"]) & m["event"][:, None]
    agree = (m["risk"][:, None] > m["risk"])[sooner].float() + 0.5 * (m["risk"][:, None] == m["risk"])[sooner]
    assert 0.65 < agree.mean() < 0.85
    assert 0.3 < m["event"].float().mean() < 0.9
    assert m["time"].min() > 0
    assert m["time"][~m["event"]].min() >= 12


def test_slides_have_their_share_in_one_region_and_stroma_tells_nothing():
    ductal, medullary = (histology.slides(3, 36, 16, 7, kind=k, share=0.25, stroma=0.5) for k in (1, 4))
    assert len(ductal) == 108
    assert ductal.patient.tolist() == [i // 36 for i in range(108)]
    look = ductal.meta["kind"].view(3, 36)
    assert [(look == k).sum(1).tolist() for k in (1, 5, 0)] == [[9] * 3, [18] * 3, [9] * 3]
    assert torch.equal(ductal.label[:, 0].bool(), ductal.meta["kind"] == 1)
    assert ductal.label[:, 1:].sum() == 0
    assert set(ductal.meta["slide_label"].tolist()) == {1}
    tumour = ductal.meta["kind"] == 1
    assert torch.equal(ductal.image[~tumour], medullary.image[~tumour])
    assert not torch.equal(ductal.image[tumour], medullary.image[tumour])
    place = ductal.meta["place"].view(3, 36, 2).double()
    for k in range(3):
        assert place[k].unique(dim=0).shape == (36, 2)
        assert place[k][look[k] == 1].std(0).mean() < place[k].std(0).mean()
    cells = (ductal.meta["cells"] * tumour[:, None]).view(3, 36, 5).sum(1)
    share = (cells[:, 3] / cells.sum(1)).repeat_interleave(36)
    assert torch.allclose(ductal.meta["atypical_share"], share)
    for name in ("time", "risk", "lab"):
        assert all(len(row.unique()) == 1 for row in ductal.meta[name].view(3, 36))
    assert histology.slides(2, 10, 16, 7, kind=0).label.sum() == 0


def test_a_patient_is_the_same_in_every_cohort_and_at_every_size():
    few, many = histology.cohort(5, 32, 8), histology.cohort(40, 32, 8)
    for name, column in few.columns().items():
        assert torch.allclose(column.double(), many.columns()[name][:5].double(), atol=1e-4), name
    fine = histology.cohort(5, 128, 8)
    for name in ("kind", "lab", "cells", "time"):
        assert torch.equal(few.meta[name], fine.meta[name])
    assert torch.allclose(few.meta["cellularity"], fine.meta["cellularity"], atol=0.03)
    assert (few.image - torch.nn.functional.avg_pool2d(fine.image, 4)).abs().mean() < 0.04
    one, two = histology.slides(2, 12, 16, 8), histology.slides(4, 12, 16, 8)
    assert torch.allclose(one.image, two.image[:24], atol=1e-4)
    assert torch.equal(one.meta["kind"], two.meta["kind"][:24])


def test_another_process_makes_the_same():
    code = """if True:
        import torch
        from medtutor.phantom import histology
        torch.set_num_threads(1)
        c = histology.cohort(4, 32, 9)
        print(int(c.mask.sum()), int(c.meta["instance"].sum()), float(c.image.double().sum()))"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    c = histology.cohort(4, 32, 9)
    assert [int(told[0]), int(told[1])] == [int(c.mask.sum()), int(c.meta["instance"].sum())]
    assert float(told[2]) == pytest.approx(float(c.image.double().sum()), abs=0.05)


def test_noise_can_be_left_out():
    loud, calm = (histology.cohort(3, 32, 10, noisy=noisy).image for noisy in (True, False))
    assert 0.005 < (loud - calm).std() < 0.02


@pytest.mark.parametrize("fov", [12.0, 24.0, 200.0])
def test_any_width_of_the_picture(fov):
    c = histology.cohort(3, 24, 11, fov=fov)
    assert c.image.isfinite().all()
    assert torch.equal(c.meta["instance"] > 0, c.mask >= 5)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: histology.cohort(2, 16, kind=5), "kind must be a number from 0 to 4"),
    (lambda: histology.cohort(2, 16, kind=torch.zeros(3)), "one for each of the 2"),
    (lambda: histology.cohort(2, 16, lab=4), "lab must be a number from 0 to 3"),
    (lambda: histology.cohort(2, 16, texture=-1), "texture must be a number from 0 to 4"),
    (lambda: histology.cohort(2, 16, atypical=1.5), "atypical must be a number from 0 to 1"),
    (lambda: histology.slides(2, 10, 16, share=0.6, stroma=0.6), "shares with a sum up to 1"),
    (lambda: histology.slides(2, 0, 16), "patches >= 1"),
])
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
