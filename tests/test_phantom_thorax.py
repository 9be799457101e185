"""Thorax cohorts: findings change the body and the mask, conventions, patients independent of n."""

import pytest
import torch

from medtutor.phantom import thorax

NONE = dict.fromkeys(thorax.FINDINGS, 0.0)


def designed(n, **severity):
    return {finding: torch.as_tensor(value, dtype=torch.float32).expand(n, 2) if finding != "cardiomegaly"
            else torch.as_tensor(value, dtype=torch.float32).expand(n) for finding, value in severity.items()}


def width(mask):
    """Columns from the first to the last of each mask (N, H, W)."""
    here = mask.any(1).int()
    return mask.shape[-1] - here.argmax(1) - here.flip(1).argmax(1)


def test_fields_and_ranges():
    c = thorax.cohort(6, 64, 0, marker=0.5)
    assert c.image.shape == (6, 1, 64, 64)
    assert c.image.dtype == torch.float32
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert c.image.isfinite().all()
    assert c.mask.shape == (6, 7, 64, 64)
    assert c.mask.dtype == torch.bool
    assert c.names["mask"] == ("right lung", "left lung", "heart", *thorax.FINDINGS)
    assert c.box.shape == (6, 4, 4)
    assert torch.equal(c.box.isnan().all(-1), ~c.mask[:, 3:].flatten(2).any(2))
    assert torch.equal(c.label > 0, c.mask[:, 3:].flatten(2).any(2))


def test_radiological_convention():
    c = thorax.cohort(8, 64, 1, prevalence=NONE)
    column = torch.arange(64.0)
    middle = [(c.mask[:, k].sum(1) * column).sum(1) / c.mask[:, k].sum((1, 2)) for k in range(3)]
    assert (middle[0] < 25).all()
    assert (middle[1] > 38).all()
    assert (middle[2] > 32).all()  # the heart lies to the patient's left
    lung, heart = (c.image[:, 0][m].mean() for m in (c.mask[:, 0] & ~c.mask[:, 2], c.mask[:, 2]))
    assert heart > lung + 0.2  # bone and water bright, air dark


@pytest.mark.parametrize("finding", thorax.SIDED)
@pytest.mark.parametrize("side", [0, 1])
def test_a_finding_changes_its_own_side_only(finding, side):
    n, where = 6, [0.0, 0.0]
    where[side] = 0.8
    sick = thorax.cohort(n, 64, 2, severity=designed(n, **{finding: where}), noisy=False)
    well = thorax.cohort(n, 64, 2, severity={}, noisy=False)
    k = 3 + thorax.FINDINGS.index(finding)
    assert (sick.label[:, k - 3] == 1).all()
    assert sick.label.sum() == n
    assert well.label.sum() == 0
    assert sick.mask[:, k].flatten(1).any(1).all()
    assert (sick.mask[:, k] & ~sick.mask[:, side]).sum() == 0  # inside that lung
    assert torch.equal(sick.meta[f"severity_{finding}"], designed(n, x=where)["x"])
    sick_ct, well_ct = (thorax.cohort(n, 32, 2, "ct", severity=s, kind="volume", noisy=False)
                        for s in (designed(n, **{finding: where}), {}))
    change = (sick_ct.volume - well_ct.volume)[:, 0]
    assert change.min() > -0.001  # fluid and tissue replace air
    half = change[..., 16:] if side == 0 else change[..., :16]
    assert half.abs().max() < 1e-3
    assert change.max() > 0.1


@pytest.mark.parametrize("finding", thorax.SIDED)
def test_severity_grows_the_finding(finding):
    areas = [thorax.cohort(6, 64, 3, severity=designed(6, **{finding: [s, 0.0]})).mask[:, 3 + thorax.FINDINGS.index(
        finding)].sum((1, 2)) for s in (0.3, 0.6, 1.0)]
    assert (areas[0] < areas[1]).all()
    assert (areas[1] < areas[2]).all()


def test_cardiothoracic_ratio_is_what_the_masks_show():
    c = thorax.cohort(16, 192, 4, prevalence={"cardiomegaly": 0.5, "effusion": 0.0})
    chest, heart = (width(m) for m in (c.mask[:, :2].any(1), c.mask[:, 2]))
    assert torch.allclose(heart / chest, c.meta["cardiothoracic_ratio"], atol=0.03)
    assert torch.equal(c.meta["cardiothoracic_ratio"] > 0.5, c.label[:, 3] > 0)
    assert 0 < c.label[:, 3].sum() < 16


@pytest.mark.parametrize("options", [{}, {"modality": "ct"}, {"view": "lateral"}, {"view": "AP"}])
def test_a_patient_does_not_depend_on_the_cohort(options):
    few, many = thorax.cohort(4, 32, 5, **options), thorax.cohort(20, 32, 5, **options)
    assert torch.allclose(few.image[3], many.image[3], atol=2e-3)
    assert torch.equal(few.label[3], many.label[3])
    assert few.meta["age"][3] == many.meta["age"][3]
    assert (few.mask[3] != many.mask[3]).float().mean() < 1e-3
    assert not torch.allclose(thorax.cohort(4, 32, 6, **options).image, few.image, atol=0.05)


def test_no_point_is_lighter_than_air():
    c = thorax.cohort(6, 40, 6, "ct", kind="volume", noisy=False)
    assert c.volume.shape == (6, 1, 40, 40, 40)
    assert c.mask.shape == (6, 40, 40, 40)
    assert c.volume.min() > -1.06
    assert c.volume.max() < 1.15
    lung = (c.mask == 1) | (c.mask == 2)
    assert c.volume[:, 0][lung].median() == pytest.approx(-0.85, abs=0.04)
    assert set(c.mask.unique().tolist()) <= set(range(len(thorax.CT_CLASSES)))


def test_ct_slice_goes_through_the_finding():
    n = 8
    for finding in ("nodule", "consolidation"):
        c = thorax.cohort(n, 64, 7, "ct", severity=designed(n, **{finding: [0.9, 0.0]}))
        assert (c.mask == thorax.CT_CLASSES.index(finding)).flatten(1).any(1).all()
    assert torch.equal(thorax.cohort(3, 32, 7, "ct", level="heart").meta["level"], torch.full((3,), -40.0))


def test_marker_is_burnt_in_where_asked():
    where = torch.tensor([True, False, True])
    c, plain = thorax.cohort(3, 64, 8, marker=where), thorax.cohort(3, 64, 8)
    assert (c.image[:, 0, 3:9, 56:57].amin((1, 2)) > 0.95).tolist() == where.tolist()
    assert torch.equal(c.image[1], plain.image[1])
    assert torch.equal(c.meta["marker"], where)
    assert not torch.equal(c.image[0], plain.image[0])


def test_prevalence_is_respected():
    c = thorax.cohort(300, 8, 9, prevalence={"nodule": 0.7, "effusion": 0.0})
    assert c.label[:, 0].sum() == 0
    assert 0.6 < c.label[:, 1].mean() < 0.8


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="choose from effusion"):
        thorax.cohort(2, 16, prevalence={"pneumonia": 0.5})
    with pytest.raises(ValueError, match="must have shape"):
        thorax.cohort(2, 16, severity={"nodule": torch.zeros(3)})
    with pytest.raises(ValueError, match="modality"):
        thorax.cohort(2, 16, modality="pet")
    with pytest.raises(ValueError, match="level"):
        thorax.cohort(2, 16, modality="ct", level="knee")
