"""Properties of the volume-preserving registration section, against the chapter's own definitions."""

import math

import pytest
import torch

from medtutor.phantom import warp


def scaled(factor: float, size: int = 64) -> torch.Tensor:
    """Displacement of x -> factor * x about the middle of the picture."""
    return (factor - 1) * (warp.places((size, size)) - (size - 1) / 2)


def turned(angle: float, size: int = 64) -> torch.Tensor:
    away = warp.places((size, size)) - (size - 1) / 2
    c, s = math.cos(angle) - 1, math.sin(angle)
    return torch.stack([c * away[:, 0] - s * away[:, 1], s * away[:, 0] + c * away[:, 1]], 1)


def disc(radius: float, x: float = 31.5, y: float = 31.5, size: int = 64) -> torch.Tensor:
    """A disc (1, 1, size, size) with a soft rim, so that its area is right to a fraction of a pixel."""
    place = warp.places((size, size))
    return (radius + 0.5 - ((place[:, :1] - x) ** 2 + (place[:, 1:] - y) ** 2).sqrt()).clamp(0, 1)


def swollen(factor: float, radius: float = 6.0) -> torch.Tensor:
    """Displacement under which the disc of `radius` in the middle of the NEW image is `factor` times as large in the
    old one."""
    return warp.exponentiate(warp.expansion((64, 64), torch.tensor([[31.5, 31.5]]), radius, factor))


# ---- Jacobian, organ ratio, volume term

def test_jacobian_is_that_of_the_book(ch):
    u = 3 * torch.nn.functional.interpolate(torch.randn(2, 2, 6, 6), 64, mode="bicubic")
    assert torch.allclose(ch.area_ratio(u)[:, 0], warp.jacobian(u), atol=1e-5)
    assert torch.equal(ch.area_ratio(torch.zeros(1, 2, 64, 64)), torch.ones(1, 1, 64, 64))


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_scaling_the_whole_organ_costs_nothing(ch, factor):
    u, organ, tumour = scaled(factor), disc(20), disc(5, 36, 28)
    ratio = ch.organ_ratio(organ, u)
    assert torch.allclose(ch.area_ratio(u), torch.tensor(factor**2), atol=1e-4)
    assert ratio.item() == pytest.approx(factor**-2, rel=0.01)
    assert ch.volume_term(u, organ, tumour).item() == pytest.approx(1, abs=0.01)
    without = torch.maximum(ch.area_ratio(u), 1 / ch.area_ratio(u)).mean()
    assert without > 1.5, "without the organ's ratio the same map would look like a changed tumour"


def test_ratio_multiplies(ch):
    """Where J > 1 the new image shows the tissue smaller; a tumour that shrinks in an unchanged organ has r > 1."""
    u, organ, tumour = swollen(2.0), disc(28), disc(6)
    after = warp.apply(disc(6 * math.sqrt(2)), u).sum() / disc(6 * math.sqrt(2)).sum()
    assert after == pytest.approx(0.5, rel=0.05)
    assert ch.area_ratio(u)[..., 28:36, 28:36].mean().item() == pytest.approx(2, rel=0.02)
    assert ch.relative_shrink(u, organ)[..., 28:36, 28:36].mean() > 1.8
    assert ch.volume_term(u, organ, tumour) > 1.5


@pytest.mark.parametrize("factor", [1.5, 2.5])
def test_volume_term_is_symmetric_in_growth_and_shrinkage(ch, factor):
    organ, spot = disc(31), disc(4)
    values = []
    for f in (factor, 1 / factor):
        u = swollen(f)
        a = (ch.area_ratio(u) * ch.organ_ratio(organ, u)).clamp(1 / 3, 3)
        where = warp.apply(spot, u)
        values.append(ch.volume_term(u, organ, spot).item())
        assert values[-1] == pytest.approx(((where * torch.maximum(a, 1 / a)).sum() / where.sum()).item(), rel=1e-4)
    assert values == pytest.approx([factor, factor], rel=0.1)


def test_volume_term_is_at_least_one_and_at_most_the_bound(ch):
    organ = disc(25)
    for spread in (0.5, 5.0):
        u = spread * torch.randn(1, 2, 64, 64)
        assert 1 < ch.volume_term(u, organ, disc(8)).item() <= 3 + 1e-5
    assert ch.volume_term(scaled(1.0), organ, disc(8)).item() == pytest.approx(1, abs=1e-6)


def test_rigid_motion_costs_nothing_and_has_no_gradient(ch):
    """VP has a kink at 1, so only the derivatives along shifts and turns can be asked for: they vanish."""
    organ, tumour = disc(20), disc(5, 35, 30)
    shift = torch.zeros(1, 2, 64, 64)
    shift[:, 0] = 1
    for start, angle in ((3 * shift, 0.0), (turned(0.2), 0.2)):
        turn = (turned(angle + 1e-2) - turned(angle - 1e-2)) / 2e-2
        u = start.clone().requires_grad_()
        ch.volume_term(u, organ, tumour).backward()
        for direction in (shift, turn):
            assert abs((u.grad * direction).sum()) < 1e-2
    for angle in (-0.3, 0.1, 0.3):
        assert ch.volume_term(turned(angle), organ, tumour).item() == pytest.approx(1, abs=0.005)


def test_sum_of_jacobians_is_the_organs_area_in_the_moving_image(ch):
    flow = 20 * torch.randn(1, 2, 5, 5)
    u = warp.exponentiate(torch.nn.functional.interpolate(flow / 6, 64, mode="bicubic", align_corners=True))
    organ = disc(18)
    seen = warp.apply(organ, u)
    assert abs(seen.sum() / organ.sum() - 1) > 0.02, "the map must change the organ's area for the test to bite"
    assert ((ch.area_ratio(u) * seen).sum() / organ.sum()).item() == pytest.approx(1, abs=0.02)


# ---- similarity

def naive_pearson(a, b, w):
    a, b, w = (x.flatten().double() for x in (a, b, w))
    ma, mb = (w * a).sum() / w.sum(), (w * b).sum() / w.sum()
    cov = (w * (a - ma) * (b - mb)).sum()
    return (cov / ((w * (a - ma) ** 2).sum() * (w * (b - mb) ** 2).sum()).sqrt()).item()


def test_weighted_pearson_against_the_formula_and_ordinary_correlation(ch):
    a, b, w = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    assert ch.weighted_pearson(a, b, w).item() == pytest.approx(naive_pearson(a, b, w), abs=1e-5)
    plain = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()
    for released in (False, True):
        assert ch.weighted_pearson(a, b, torch.ones_like(a), released).item() == pytest.approx(plain, abs=1e-5)
    assert ch.weighted_pearson(a, 3 * a + 2, w).item() == pytest.approx(1, abs=1e-4)


def test_what_is_hidden_does_not_count_but_in_the_released_form_it_does(ch):
    a, b, hide = torch.rand(1, 1, 64, 64), torch.rand(1, 1, 64, 64), (disc(8) > 0).float()
    painted = a + 5 * hide
    assert torch.allclose(ch.weighted_pearson(a, b, 1 - hide), ch.weighted_pearson(painted, b, 1 - hide), atol=1e-6)
    gap = ch.weighted_pearson(a, b, 1 - hide, True) - ch.weighted_pearson(painted, b, 1 - hide, True)
    assert gap.abs() > 1e-3


def test_loss_is_the_sum_of_its_parts(ch):
    from medtutor.cohort import Cohort

    image, organ, soft = torch.rand(2, 2, 64, 64), disc(25).expand(2, -1, -1, -1), disc(6).expand(2, -1, -1, -1)
    u = torch.nn.functional.interpolate(2 * torch.randn(2, 2, 6, 6), 64, mode="bicubic")
    batch = ch.with_masks(Cohort(image=image), organ, soft, soft, soft + organ)
    assert batch.image.shape == (2, 3, 64, 64)
    first = ch.weighted_pearson(warp.apply(image[:, :1], u), image[:, 1:], 1 - warp.apply(soft, u))
    base = 4 * (1 - first.mean()) + (u.diff(dim=2).square().mean() + u.diff(dim=3).square().mean()) / 2
    assert torch.allclose(ch.tumour_loss(0)(lambda x: u, batch), base)
    assert torch.allclose(ch.tumour_loss(0.1)(lambda x: u, batch),
                          base + 0.1 * ch.volume_term(u, organ, soft).mean())


# ---- stage 1

def test_inverse_undoes_the_map(ch):
    u = swollen(1.8)
    assert warp.compose(u, ch.inverted(u)).abs().max() < 0.05
    assert u.abs().max() > 1


def test_composition_of_two_passes_samples_twice(ch):
    first, second = torch.zeros(1, 2, 64, 64), swollen(2.5)
    first[:, 0] += 5
    image = disc(9, 36, 30)
    once = warp.apply(image, warp.compose(first, second))
    twice, swapped = (warp.apply(warp.apply(image, p), q) for p, q in ((first, second), (second, first)))
    assert (once - twice).abs().mean() < 1e-5, "a shift by whole pixels does not blur, so both must agree"
    assert (once - swapped).abs().mean() > 0.005


def test_shrink_of_the_second_pass_lands_on_the_tumour(ch):
    """The tumour is moved by the first map and squeezed by the second: carried back it must lie where it was."""
    first = torch.zeros(1, 2, 64, 64)
    first[:, 0] -= 9
    second, organ = swollen(2.5), disc(30)
    tumour = disc(6, 31.5 - 9, 31.5)
    r, s = ch.soft_mask(first, second, organ)
    wrong = ch.soft_mask(first, second, organ, way="released")[1]

    def middle(mask):
        return ((mask > 0.5) * warp.places((64, 64))[:, :1]).sum().item() / (mask > 0.5).sum().item()

    assert middle(s) == pytest.approx(22.5, abs=0.7)
    assert middle(wrong) == pytest.approx(31.5, abs=0.7)
    assert s[tumour > 0.5].mean() > 0.8 > 0.4 > s[(disc(13, 22.5) == 0) & (organ > 0.5)].mean()
    assert torch.allclose(s, torch.sigmoid(5 * (r - 1.5)) * (organ > 0.5))


def test_border_band_and_outside_are_zero_and_growth_only_counts_if_asked(ch):
    organ, grow = disc(20), swollen(0.4)
    r = ch.relative_shrink(grow, organ)
    seen = warp.apply(organ, grow) > 0.5
    assert r[~seen].abs().max() == 0
    core = torch.nn.functional.max_pool2d((~seen).float(), 3, 1, 1) == 0
    assert r[~core].abs().max() == 0
    assert (r[core] > 0).all()
    middle = (..., slice(30, 34), slice(30, 34))
    assert r[middle].mean() < 0.6
    assert ch.relative_shrink(grow, organ, only_shrink=False)[middle].mean() > 2


def test_bilateral_keeps_edges_and_smooths_noise(ch):
    step = torch.zeros(1, 1, 32, 32)
    step[..., 16:] = 1
    assert (ch.bilateral(step) - step).abs().max() < 1e-6
    noisy = step + 0.05 * torch.randn_like(step)
    assert (ch.bilateral(noisy) - step).std() < 0.6 * (noisy - step).std()


# ---- scores

def test_change_of_a_tumour_is_relative_to_the_brain(ch):
    from medtutor.cohort import Cohort

    meta = {"tumour": disc(6), "brain": disc(25)}
    pairs = Cohort(image=torch.zeros(1, 2, 64, 64), meta=meta)
    assert ch.tumour_change(scaled(1.1), pairs).item() == pytest.approx(1, abs=0.02)
    squeezed = ch.tumour_change(swollen(2.0), pairs).item()
    assert 0.4 < squeezed < 0.75


def test_truth_scores_best(ch):
    pairs = ch.tumour_pairs(4, 5)
    best, none = (ch.tumour_scores(u, pairs) for u in (pairs.meta["displacement"],
                                                       torch.zeros_like(pairs.meta["displacement"])))
    assert best["TRE"].max() < 0.1
    assert (best["Dice"] > none["Dice"]).all()
    assert (best["STSR"] >= 1).all()


def test_scores_elsewhere_look_away_from_the_tumour(ch):
    """Painting the true tumour changes neither the correlation nor the error, away from it."""
    from dataclasses import replace

    pairs = ch.tumour_pairs(4, 5)
    u = pairs.meta["displacement"]
    painted = pairs.image.clone()
    painted[:, :1] += 0.8 * pairs.meta["tumour"]
    plain, other = ch.tumour_scores(u, pairs), ch.tumour_scores(u, replace(pairs, image=painted))
    assert torch.allclose(plain["correlation"], other["correlation"], atol=1e-5)
    assert (plain["correlation"] > ch.tumour_scores(0 * u, pairs)["correlation"]).all()
    assert torch.equal(plain["off by"], plain["change"].abs())
