"""Findings of the thorax: seen in proportion to their severity, on their own side, in CT as in the radiograph."""

import pytest
import torch

from medtutor.phantom import thorax
from medtutor.phantom.thorax import FINDINGS, SIDED

CALM = {"noisy": False, "jitter": 0.0, "site": 0}
N = 5


def wished(finding, grade, side=0):
    if finding not in SIDED:
        return {finding: torch.full((N,), grade)}
    both = torch.zeros(N, 2)
    both[:, side] = grade
    return {finding: both}


@pytest.fixture(scope="module")
def well():
    return thorax.cohort(N, 96, 2, severity={}, **CALM)


@pytest.mark.parametrize("finding", FINDINGS)
def test_seen_in_proportion_to_severity(finding, well):
    k = 3 + FINDINGS.index(finding)
    films = [thorax.cohort(N, 96, 2, severity=wished(finding, s), **CALM) for s in (0.3, 0.6, 1.0)]
    assert all(torch.equal(c.label.sum(1), torch.ones(N)) for c in films)
    area = films[-1].mask[:, k]
    assert area.flatten(1).any(1).all()
    seen = torch.stack([((c.image - well.image)[:, 0].abs() * area).sum((1, 2)) / area.sum((1, 2)) for c in films])
    assert (seen.mean(1).diff() > 0).all()
    assert (seen[1] > seen[0]).float().mean() >= 0.8
    assert seen[-1].mean() > 0.012
    assert not well.mask[:, k].any()


@pytest.mark.parametrize("finding", FINDINGS)
def test_the_ct_changes_where_the_film_changes(finding):
    sick, plain = (thorax.cohort(N, 36, 2, "ct", kind="volume", severity=s, **CALM) for s in (wished(finding, 0.9), {}))
    change = (sick.volume - plain.volume)[:, 0]
    assert (change.abs().amax((1, 2, 3)) > 0.05).all()
    if finding in ("pneumothorax", "emphysema"):
        assert change[plain.mask == 1].mean() < 0
    elif finding not in ("fracture", "hernia"):
        assert change.sum() > 0
    if finding in ("nodule", "mass", "consolidation", "pneumonia", "infiltration", "pleural thickening", "fracture"):
        assert change[..., 20:].abs().max() < 0.02  # right finding, right side
        assert (change < -0.3).float().mean() < 2e-3  # it takes no more away than vessels, or a piece of rib


@pytest.mark.parametrize("finding", [f for f in SIDED if f not in ("effusion", "pneumothorax", "fracture")])
def test_a_finding_stays_on_its_side_and_in_its_zone(finding):
    plain = thorax.cohort(N, 64, 3, severity={}, **CALM)
    for side in (0, 1):
        c = thorax.cohort(N, 64, 3, severity=wished(finding, 0.7, side), **CALM)
        mask = c.mask[:, 3 + FINDINGS.index(finding)]
        # in health the lung of the same body, with the pleura around it: a pixel at 64
        home = torch.nn.functional.max_pool2d(plain.mask[:, side].float(), 3, 1, 1) > 0
        assert (mask & ~home).sum() < 0.04 * mask.sum()
        zone = c.meta[f"zone_{finding}".replace(" ", "_")]
        assert (zone[:, 1 - side] == -1).all()
        row = torch.arange(64.0)[None, :, None]
        for i in range(N):
            seen = (c.mask[i, side] * row[0]).amax(), torch.where(c.mask[i, side], row[0], 99.0).amin()
            height = ((mask[i] * row[0]).sum() / mask[i].sum() - seen[1]) / (seen[0] - seen[1])
            assert abs(float(height) - (0.18, 0.45, 0.72)[int(zone[i, side])]) < 0.25


def test_effusion_is_dense_at_the_base_and_pneumothorax_dark_at_the_rim(well):
    wet, dry = (thorax.cohort(N, 96, 2, severity=wished(f, 0.6), **CALM) for f in ("effusion", "pneumothorax"))
    change = (wet.image - well.image)[:, 0]
    mask = wet.mask[:, 3 + FINDINGS.index("effusion")]
    assert change[mask].mean() > 0.1
    gone = dry.mask[:, 3 + FINDINGS.index("pneumothorax")]
    assert (dry.image - well.image)[:, 0][gone].mean() < -0.02
    column = torch.arange(96.0)
    assert (
        (gone.sum(1) * column).sum(1) / gone.sum((1, 2))
        < (dry.mask[:, 0].sum(1) * column).sum(1) / dry.mask[:, 0].sum((1, 2))
    ).all()


def test_volume_moves_with_atelectasis_and_emphysema():
    def tops(**severity):
        c = thorax.cohort(N, 96, 2, severity=severity, structures=("liver", "stomach"), **CALM)
        return c, c.mask[:, -2:].any(3).int().argmax(2)  # the first row of each dome

    well, small, air = tops(), tops(**wished("atelectasis", 1.0)), tops(**wished("emphysema", 1.0))
    assert (small[1][:, 0] <= well[1][:, 0] - 4).all()  # the right dome rises
    assert ((small[1][:, 1] - well[1][:, 1]).abs() <= 1).all()
    assert (air[1] >= well[1] + 2).all()
    assert (air[0].meta["cardiothoracic_ratio"] < well[0].meta["cardiothoracic_ratio"]).all()


def test_edema_is_on_both_sides():
    c = thorax.cohort(N, 64, 3, severity=wished("edema", 0.8), **CALM)
    mask = c.mask[:, 3 + FINDINGS.index("edema")]
    assert (mask & c.mask[:, 0]).flatten(1).any(1).all()
    assert (mask & c.mask[:, 1]).flatten(1).any(1).all()
