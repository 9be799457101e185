"""Wound photographs: areas through the sticker, domains, determinism."""

import pytest
import torch

from medtutor.phantom import wound


def dice(a, b):
    return 2 * (a & b).sum((1, 2)) / (a.sum((1, 2)) + b.sum((1, 2))).clamp(min=1)


@pytest.mark.parametrize("domain", wound.DOMAINS)
def test_fields_and_ranges(domain):
    c = wound.cohort(12, 64, 0, domain)
    assert c.image.shape == (12, 3, 64, 64)
    assert c.image.dtype == torch.float32
    assert c.image.isfinite().all()
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert c.mask.shape == (12, 64, 64)
    assert c.mask.flatten(1).any(1).all()
    assert set(c.mask.unique().tolist()) == {0, 1}
    assert 0.02 < c.mask.float().mean() < 0.4


@pytest.mark.parametrize("domain", wound.DOMAINS)
def test_area_from_pixels_and_from_the_sticker(domain):
    c = wound.cohort(20, 128, 1, domain)
    pixels = c.mask.sum((1, 2))
    assert torch.allclose(pixels * c.meta["cm_per_pixel"] ** 2, c.meta["area_cm2"], rtol=0.04)
    side = (c.landmark - c.landmark.roll(1, 1)).norm(dim=-1)
    assert torch.allclose(side * c.meta["cm_per_pixel"][:, None], torch.full((20, 4), wound.MARKER_CM), atol=1e-3)
    assert c.landmark.min() >= 0
    assert c.landmark.max() <= 127
    small = wound.cohort(20, 64, 1, domain)
    assert torch.allclose(small.meta["area_cm2"], c.meta["area_cm2"])
    assert torch.allclose(small.meta["cm_per_pixel"], 2 * c.meta["cm_per_pixel"])


def test_the_sticker_is_blue_and_outside_the_wound():
    c = wound.cohort(20, 64, 2, "ulcer")
    centre = c.landmark.mean(1).round().long()
    rows = torch.arange(20)
    colour = c.image[rows, :, centre[:, 1], centre[:, 0]]
    assert (colour[:, 2] > colour[:, 0] + 0.15).all()
    assert c.mask[rows, centre[:, 1], centre[:, 0]].sum() == 0


def test_ulcers_defeat_a_colour_threshold():
    best = {}
    for domain in wound.DOMAINS:
        c = wound.cohort(60, 48, 3, domain)
        redness = c.image[:, 0] - c.image[:, 1]
        best[domain] = max(dice(redness > t, c.mask.bool()).mean() for t in torch.linspace(0.1, 0.6, 20))
    assert best["fresh"] > 0.65
    assert best["ulcer"] < 0.55


@pytest.mark.parametrize("domain", wound.DOMAINS)
def test_a_patient_does_not_depend_on_the_cohort(domain):
    few, many = wound.cohort(4, 32, 4, domain), wound.cohort(12, 32, 4, domain)
    assert torch.allclose(few.image[3], many.image[3], atol=1e-4)
    assert torch.equal(few.mask[3], many.mask[3])
    assert not torch.allclose(few.image[0], few.image[1], atol=0.05)


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="domain must be one of fresh, ulcer"):
        wound.cohort(2, 16, domain="burn")
