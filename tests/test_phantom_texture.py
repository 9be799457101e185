"""Random numbers, smooth fields, blur, exposure and boxes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtutor.phantom.texture import Draws, blur, boxes, cloud, expose, noise, outline, rows


def test_random_rows_belong_to_the_patient():
    for normal in (False, True):
        assert torch.equal(rows(50, 7, "a", 20, normal)[3], rows(5, 7, "a", 20, normal)[3])
        assert torch.equal(rows(3000, 7, "a", 40, normal)[:5], rows(5, 7, "a", 40, normal))  # the threaded path
        assert torch.equal(rows(5, 7, "a", 21, normal), rows(5, 7, "a", 40, normal)[:, :21])
        table = rows(50, 7, "a", 20, normal)
        assert len(table.flatten().unique()) > 990
        assert not torch.equal(table, rows(50, 8, "a", 20, normal))
        assert not torch.equal(table, rows(50, 7, "b", 20, normal))


def test_random_numbers_are_those_of_the_reference():
    """SplitMix64 in Python's integers, so that every platform draws the same patients."""
    from hashlib import blake2b

    def scramble(x):
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    golden, key = 0x9E3779B97F4A7C15, int.from_bytes(blake2b(b"3/x", digest_size=8).digest(), "little")
    expected = [[(scramble(scramble(key ^ scramble(i + golden)) + j * golden & 2**64 - 1) >> 40) / 2**24
                 for j in range(1, 6)] for i in range(4)]
    assert rows(4, 3, "x", 5).tolist() == expected


def test_random_numbers_are_independent_and_well_spread():
    from scipy import stats

    flat, bell = rows(400, 0, "u", 500).double(), rows(400, 0, "n", 500, normal=True).double()
    assert stats.kstest(flat.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(bell.flatten().numpy(), "norm").pvalue > 1e-3
    assert flat.min() >= 0
    assert flat.max() < 1
    for table in (flat, bell):
        for pair in ((table[:, 1:], table[:, :-1]), (table[1:], table[:-1])):  # neighbours in a patient, patients
            assert abs(torch.corrcoef(torch.stack([p.flatten() for p in pair]))[0, 1]) < 0.01


def test_draws_keep_their_columns_and_say_when_they_run_out():
    few, many = Draws(3, 5, "s", 40), Draws(9, 5, "s", 40)
    for draws in ("uniform", "normal"):
        assert torch.equal(getattr(few, draws)(2, 3, 4), getattr(many, draws)(2, 3, 4)[:3])
    assert many.normal(10, 2).sub(10).abs().max() <= 5
    assert Draws(4000, 0, "c", 1).chance(0.3).double().mean() == pytest.approx(0.3, abs=0.03)
    with pytest.raises(RuntimeError, match="raise the budget"):
        Draws(2, 0, "small", 4).uniform(0, 1, 5)


def test_noise_is_white():
    field = noise(20, 0, "w", (32, 32))
    power = torch.fft.rfft2(field).abs().square().mean(0) / 32**2
    assert field.std() == pytest.approx(1, abs=0.02)
    assert power[:8, :8].mean() == pytest.approx(float(power[8:24, 8:].mean()), rel=0.15)


@pytest.mark.parametrize("dims", [2, 3])
def test_clouds_are_the_same_field_at_every_size(dims):
    field = cloud(200 if dims == 2 else 40, 0, "t", 16, 4, dims)
    assert abs(field.mean()) < 0.06
    assert 0.8 < field.std() < 1.2
    pick = (slice(None), *[slice(1, None, 3)] * dims)
    assert torch.allclose(cloud(3, 0, "t", 48, 4, dims, 2)[pick], cloud(3, 0, "t", 16, 4, dims, 2), atol=1e-4)


@settings(max_examples=20)
@given(st.floats(0.3, 12), st.integers(12, 40), st.integers(12, 40))
def test_blur_is_a_gaussian_with_repeated_edges(sigma, h, w):
    image = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(h * w))
    radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1.0)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(3, 1, -1, -1)
    wide = image[:, :, torch.arange(-radius, h + radius).clamp(0, h - 1)]
    wide = wide[..., torch.arange(-radius, w + radius).clamp(0, w - 1)]
    assert torch.allclose(blur(image, sigma), torch.conv2d(wide, kernel, groups=3), atol=1e-4)
    assert torch.equal(blur(image, 0), image)


def test_exposure_darkens_with_dose_and_shows_bone_bright():
    line = torch.linspace(0.5, 3, 32).expand(4, 32, 32)
    film = expose(line, torch.zeros(4, 32, 32), torch.full((4,), 1e9), scatter=0.0, sharpness=0.0)
    assert (film.diff(dim=-1) >= 0).all()
    assert 0 <= film.min() <= film.max() <= 1
    white = noise(4, 0, "w", (32, 32))
    few, many = (expose(line, white, torch.full((4,), p), 0.0, 0.0) for p in (1e2, 1e6))
    assert (few - film).abs().mean() > 5 * (many - film).abs().mean()


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.floats(0, 0.2))
def test_boxes_are_those_of_a_loop(seed, density):
    mask = torch.rand(2, 3, 9, 13, generator=torch.Generator().manual_seed(seed)) < density
    found = boxes(mask)
    for n in range(2):
        for k in range(3):
            y, x = mask[n, k].nonzero(as_tuple=True)
            if len(x):
                assert found[n, k].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            else:
                assert found[n, k].isnan().all()


def test_outline_of_no_waves_is_a_circle():
    angle = torch.linspace(0, 6, 50).expand(2, 50)
    assert torch.equal(outline(angle, torch.zeros(2, 3), torch.zeros(2, 3)), torch.ones(2, 50))
    one = outline(angle, torch.tensor([[0.2]]).expand(2, 1), torch.zeros(2, 1))
    assert torch.allclose(one, 1 + 0.2 * angle.cos())
