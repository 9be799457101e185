"""Corruptions grow with their grade; the noise of a low dose has the spectrum and the law of a scanner."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtutor.phantom import thorax
from medtutor.phantom.corruptions import KINDS, corrupt, low_dose


@pytest.fixture(scope="module")
def films():
    return thorax.cohort(4, 64, 0).image


@pytest.mark.parametrize("kind", KINDS)
def test_grows_with_the_grade(kind, films):
    change = torch.stack([(corrupt(films, kind, float(g)) - films).abs().mean((1, 2, 3)) for g in range(6)])
    assert (change[0] == 0).all()
    assert (change.diff(dim=0) > 0).all()
    assert (change[5] > 0.01).all()


@settings(max_examples=12)
@given(st.sampled_from(KINDS), st.floats(0, 5), st.sampled_from([(48, 48), (40, 56)]))
def test_keeps_shape_range_and_rows(kind, grade, shape):
    image = torch.rand(3, 2, *shape, generator=torch.Generator().manual_seed(1))
    out = corrupt(image, kind, grade, seed=2)
    assert out.shape == image.shape
    assert out.min() >= 0
    assert out.max() <= 1
    assert out.isfinite().all()
    assert torch.allclose(out[:2], corrupt(image[:2], kind, grade, seed=2), atol=1e-6)


def test_grades_may_differ_by_row(films):
    out = corrupt(films, "resolution", torch.tensor([0.0, 5, 0, 2]))
    assert torch.equal(out[[0, 2]], films[[0, 2]])
    assert torch.allclose(out[3], corrupt(films, "resolution", 2.0)[3], atol=1e-6)
    with pytest.raises(ValueError, match="between 0 and 5"):
        corrupt(films, "motion", 6.0)
    with pytest.raises(ValueError, match="choose from motion"):
        corrupt(films, "fog", 1.0)


def test_noise_falls_with_the_root_of_the_dose():
    water = torch.zeros(2, 48, 48)
    full, tenth = (low_dose(water, 7.0, d) - water for d in (1.0, 0.1))
    assert torch.allclose(tenth, full * 10**0.5, rtol=1e-3, atol=1e-2)
    assert 2 < full[:, 16:32, 16:32].std() < 60


def test_noise_has_the_spectrum_of_filtered_backprojection():
    air = torch.full((40, 96, 96), -1000.0)
    grain = (low_dose(air, 1.0, 1.0) - air)[:, 24:72, 24:72]
    window = torch.hann_window(48)
    power = (torch.fft.fft2(grain * window[:, None] * window).abs() ** 2).mean(0)
    f = torch.fft.fftfreq(48)
    radius = (f[:, None] ** 2 + f**2).sqrt()
    place = torch.arange(0.04, 0.5, 0.04)
    rings = torch.stack([power[(radius - r).abs() < 0.02].mean() for r in place])
    # |f| from the angles' density times the squared ramp, the Hann window, and linear interpolation
    theory = place * (0.5 + 0.5 * torch.cos(2 * torch.pi * place)) ** 2 * torch.sinc(place) ** 4
    assert torch.corrcoef(torch.stack([rings, theory]))[0, 1] > 0.97
    assert rings.argmax() in (2, 3, 4)


def test_noise_is_strongest_behind_dense_paths():
    x = torch.arange(64.0) - 31.5
    disc = torch.where(x[:, None] ** 2 + x**2 < 28**2, 0.0, -1000.0)
    grain = low_dose(disc.expand(40, 64, 64), 6.0, 0.5) - disc
    spread = grain.std(0)
    assert spread[28:36, 28:36].mean() > 1.5 * spread[28:36, 6:10].mean()
    bones = disc.clone()
    bones[28:36, 10:18] = bones[28:36, 46:54] = 1500.0  # two shoulders
    spread = (low_dose(bones.expand(40, 64, 64), 6.0, 0.5) - bones).std(0)
    assert spread[28:36, 28:36].mean() > 1.3 * spread[10:16, 28:36].mean()


def test_dose_reaches_the_cohort():
    clean, normal, low = (
        thorax.cohort(3, 48, 1, "ct", level=0.0, noisy=n, dose=d) for n, d in ((False, 1.0), (True, 1.0), (True, 0.05))
    )
    assert (low.image - clean.image).std() > 2 * (normal.image - clean.image).std()
    assert torch.equal(clean.mask, low.mask)
    assert (low.image - clean.image).abs().median() > 0.01
