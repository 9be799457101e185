"""Abdomen cohorts: labels, mirrored patients, twin kidneys and twin lesions, CT and MR of the same body."""

import pytest
import torch
from scipy.ndimage import distance_transform_edt

from medtutor.phantom import abdomen

LIVER, SPLEEN, RIGHT, LEFT, STOMACH = 1, 2, 3, 4, 6
TUMOUR, CYST = 10, 11


def middles(mask, k):
    """Mean column of class k, NaN where absent."""
    here = (mask == k).float()
    return (here.sum(-2) * torch.arange(mask.shape[-1])).sum(-1) / here.sum((-2, -1))


def test_fields_and_ranges():
    ct, mr = (abdomen.cohort(5, 64, 0, m) for m in ("ct", "mr"))
    assert ct.image.shape == (5, 1, 64, 64)
    assert ct.image.dtype == torch.float32
    assert ct.mask.shape == (5, 64, 64)
    assert ct.names["mask"] == abdomen.CLASSES
    assert ct.units["image"] == "HU / 1000"
    assert torch.equal(ct.mask, mr.mask)  # one body, two scanners
    assert mr.image.min() >= 0
    assert mr.image.max() <= 1
    liver = ct.image[:, 0][ct.mask == LIVER] * 1000
    assert 80 < liver.mean() < 140
    shown = abdomen.cohort(5, 64, 0, window=(-160, 240)).image
    assert torch.allclose(shown, ((ct.image * 1000 + 160) / 400).clamp(0, 1), atol=1e-5)


def test_every_organ_is_there():
    c = abdomen.cohort(6, 48, 1, kind="volume", fov=(200, 300, 340),
                       prevalence={"liver tumour": 1.0, "kidney tumour": 1.0})
    assert c.volume.shape == (6, 1, 48, 48, 48)
    assert c.mask.shape == (6, 48, 48, 48)
    present = torch.stack([(c.mask == k).flatten(1).any(1) for k in range(1, 11)], 1)
    assert present.all()
    assert (c.mask == CYST).sum() == 0
    assert torch.equal(c.label, torch.tensor([[1.0, 1, 0]]).expand(6, 3))


def test_situs_inversus_is_the_mirror_image_with_mirrored_labels():
    normal, mirror = (abdomen.cohort(6, 64, 2, situs=p, level="liver", noisy=False) for p in (0.0, 1.0))
    left, right = middles(normal.mask, LIVER), middles(mirror.mask, LIVER)
    assert (left < 31).all()
    assert (right > 32).all()
    assert mirror.meta["situs"].all()
    for k in (SPLEEN, STOMACH):
        assert (middles(normal.mask, k) > 32).all()
        assert (middles(mirror.mask, k) < 31).all()
    half = abdomen.cohort(200, 8, 2, situs=0.5).meta["situs"].float().mean()
    assert 0.4 < half < 0.6


def test_left_kidney_is_away_from_the_liver():
    c = abdomen.cohort(40, 64, 3, situs=0.5, level="kidneys", twin_kidneys=True)
    liver, right, left = (middles(c.mask, k) for k in (LIVER, RIGHT, LEFT))
    assert ((left - right) * (31.5 - liver) > 0).all()
    assert ((right - 31.5) * (liver - 31.5) > 0).all()
    assert torch.equal(liver > 31.5, c.meta["situs"])
    assert 8 < c.meta["situs"].sum() < 32


def test_twin_kidneys_are_far_from_anything_that_tells_the_side():
    c = abdomen.cohort(24, 64, 4, "mr", situs=0.5, level="kidneys", twin_kidneys=True)
    for mask in c.mask:
        kidney = (mask == RIGHT) | (mask == LEFT) | (mask >= TUMOUR)
        telling = (mask == LIVER) | (mask == SPLEEN) | (mask == STOMACH) | (mask == 9)
        assert kidney.any()
        assert telling.any()
        assert distance_transform_edt(~telling.numpy())[kidney.numpy()].min() >= 12


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_mirroring_leaves_the_surroundings_of_twin_kidneys_as_they_were(modality):
    options = {"level": "kidneys", "twin_kidneys": True, "twin": 0.5,
               "prevalence": {"liver tumour": 0.0, "kidney tumour": 0.9}}
    normal, mirror = (abdomen.cohort(12, 64, 5, modality, situs=p, **options) for p in (0.0, 1.0))
    for a, b, mask in zip(normal.image[:, 0], mirror.image[:, 0], normal.mask, strict=True):
        near = distance_transform_edt(~((mask == RIGHT) | (mask == LEFT)).numpy()) < 11.5
        assert (a - b)[torch.from_numpy(near)].abs().max() < 1e-3
        assert (a - b).abs().max() > 0.03
    swapped = torch.where(normal.mask == RIGHT, LEFT, torch.where(normal.mask == LEFT, RIGHT, 0))
    kidneys = (normal.mask == RIGHT) | (normal.mask == LEFT)
    assert (swapped[kidneys] == mirror.mask[kidneys]).float().mean() > 0.999


def test_class_of_a_lesion_is_decided_by_its_twin():
    c = abdomen.cohort(16, 48, 6, kind="volume", twin_kidneys=True, twin=0.5, situs=0.5, noisy=False,
                       prevalence={"kidney tumour": 0.8, "liver tumour": 0.0})
    lesion = c.mask >= TUMOUR
    assert {TUMOUR, CYST} <= set(c.mask[lesion].unique().tolist())
    for mask in c.mask:
        for part in (mask[:18], mask[18:]):  # lower and upper pole, parted 20 mm below the isocentre
            halves = (part[..., :24], part[..., 24:])
            sides = torch.stack([(half == k).sum() for k in (TUMOUR, CYST) for half in halves])
            tumour, cyst = sides[:2] > 3, sides[2:] > 3
            assert not tumour.all()
            assert cyst.any() == cyst.all()
            assert not (tumour.any() and cyst.any())
    values = [c.volume[:, 0][c.mask == k] for k in (TUMOUR, CYST)]
    assert abs(values[0].mean() - values[1].mean()) < 0.015  # they look alike
    assert abs(c.label[:, 1].mean() - c.label[:, 2].mean()) < 0.6


@pytest.mark.parametrize("options", [{}, {"modality": "mr", "situs": 0.5}, {"kind": "volume", "twin": 0.5}])
def test_a_patient_does_not_depend_on_the_cohort(options):
    few, many = (abdomen.cohort(n, 24, 7, **options) for n in (4, 20))
    a, b = ((c.image if c.image is not None else c.volume)[3] for c in (few, many))
    assert torch.allclose(a, b, atol=1e-3)
    assert torch.equal(few.label[3], many.label[3])
    assert (few.mask[3] != many.mask[3]).float().mean() < 1e-3


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="modality"):
        abdomen.cohort(2, 16, modality="pet")
    with pytest.raises(ValueError, match="level must be"):
        abdomen.cohort(2, 16, level="knee")
    with pytest.raises(ValueError, match="choose from liver tumour"):
        abdomen.cohort(2, 16, prevalence={"gallstone": 0.5})
