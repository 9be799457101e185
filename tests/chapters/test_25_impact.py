"""IMPACT: the chapter's own definitions against the full image, naive references and limits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medtutor.cohort import Cohort
from medtutor.nn import UNet
from medtutor.phantom import warp


@pytest.fixture
def net(ch):
    cohort = Cohort(image=torch.rand(64, 1, 48, 48), mask=torch.zeros(64, 48, 48).long())
    return ch.FrozenFeatures(ch.untrained(lambda seed: UNet(1, 5, (4, 6, 8, 8)), cohort, 0))


def images(n=2, size=48):
    return torch.rand(n, 1, size, size), torch.rand(n, 1, size, size)


def smooth_warp(n=2, size=48, amplitude=2.0):
    return amplitude * torch.sin(warp.places((size, size)).flip(1) / 9).repeat(n, 1, 1, 1)


def rest(n=2, size=48):
    return torch.zeros(n, 2, size, size)


class Pointwise(nn.Module):
    """A function of single grey values, as a feature network of stride 1."""

    strides = {1: 1}

    def normalise(self, image):
        return image

    def forward(self, image, layers):
        return [torch.cat([image, 2 - image], 1)] * len(layers)


# ---- the feature network

def test_layers_are_the_u_nets_own_maps_and_the_network_is_frozen(ch, net):
    image, seen = images()[0], []
    for block in (*net.net.encoder, *reversed(net.net.decoder)):
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    net.net(image)
    expected, layers = list(seen), tuple(range(1, 8))
    for layer, ours, theirs in zip(layers, net(image, layers), expected, strict=True):
        assert torch.allclose(ours, theirs)
        assert ours.shape[-1] == 48 // net.strides[layer]
    assert not any(p.requires_grad for p in net.parameters())
    assert not any(m.training for m in net.net.modules())


def test_an_early_layer_computes_no_deep_one(ch, net):
    calls = []
    net.net.encoder[2].register_forward_hook(lambda *_: calls.append(1))
    net(images()[0], (1, 2))
    assert not calls
    net(images()[0], (3,))
    assert calls


def test_field_of_view_counts_the_layers(ch, net):
    assert ch.field_of_view(net, 1) == 5
    assert 10 <= ch.field_of_view(net, 2) <= 14


def test_random_curve_is_piecewise_linear_and_each_image_has_its_own(ch):
    ramp = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(20, -1, -1, -1)
    bent = ch.random_curve(ramp, torch.Generator().manual_seed(3)).flatten(1)
    kinks = (bent.diff(n=2, dim=1).abs() > 1e-5).sum(1)
    assert (kinks <= 2 * 4).all(), "four inner knots, linear between them"
    assert kinks.max() > 2, "it bends"
    assert not torch.allclose(bent[0], bent[1])


def test_random_contrast_takes_one_channel_and_shades_it(ch):
    left, right = torch.zeros(2, 16, 16)
    left[:, :8], right[:, 8:] = 1, 1
    batch = Cohort(image=torch.stack([left, right]).repeat(20, 1, 1, 1), mask=torch.zeros(20, 16, 16).long())
    out = ch.random_contrast(batch, torch.Generator().manual_seed(3)).image
    assert out.shape == (20, 1, 16, 16)
    assert (out.flatten(1).std(1) > 0.01).all()
    step = (out[..., :8].mean((1, 2, 3)) - out[..., 8:].mean((1, 2, 3)))
    assert (step > 0).any()
    assert (step < 0).any(), "both channels are drawn"


# ---- MIND

def test_mind_channels_and_a_naive_loop(ch):
    assert len(ch.Mind(3).pairs) == 12
    assert len(ch.Mind(2).pairs) == 4
    image = torch.rand(1, 1, 20, 20)
    mind = ch.Mind(2)
    got, (y, x) = mind(image)[0][0, :, 10, 9], (10, 9)
    raw = []
    for (ay, ax), (by, bx) in mind.pairs:
        raw.append(sum(float(image[0, 0, y + i + 2 * ay, x + j + 2 * ax] - image[0, 0, y + i + 2 * by, x + j + 2 * bx])
                       ** 2 for i in range(-2, 3) for j in range(-2, 3)) / 25)
    distance = torch.tensor(raw) - min(raw)
    assert torch.allclose(got, torch.exp(-distance / distance.mean()), atol=1e-4)


def test_mind_ignores_inversion_gain_and_offset(ch):
    mind, image = ch.Mind(2), torch.rand(2, 1, 24, 24)
    a, b = (mind(mind.normalise(x))[0] for x in (image, 5 - 3 * image))
    assert torch.allclose(a, b, atol=1e-3)
    assert mind(torch.ones(1, 1, 12, 12))[0].isfinite().all()


# ---- the loss

@pytest.mark.parametrize("mode", ["Static", "Jacobian"])
@pytest.mark.parametrize("distance", ["L1", "L2", "cosine", "Dice", "NCC"])
def test_equal_images_cost_nothing(ch, net, mode, distance):
    a, b = images()
    loss = ch.impact(net, (2, 7), mode, distance)
    assert loss(a, a)(rest()).abs().max() < 1e-4
    assert loss(a, b)(rest()).min() > 1e-3
    if distance != "L1":  # which has a kink there
        flat, steep = (ch.control_gradient(loss, a, x, rest()).norm() for x in (a, b))
        assert flat < 1e-2 * steep


def test_l1_is_symmetric_and_a_constant_changes_nothing(ch, net):
    a, b = images()
    loss = ch.impact(net, (1, 7))
    assert torch.allclose(loss(a, b)(rest()), loss(b, a)(rest()), atol=1e-5)
    assert torch.allclose(loss(a, b)(rest()), loss(a + 3, b - 2)(rest()), atol=1e-4)


def test_the_loss_is_the_weighted_mean_over_layers_points_and_channels(ch, net):
    a, b = images()
    u = smooth_warp()
    value = ch.impact(net, (1, 3), weights=(0.5, 2.0))(a, b)(u)
    f, m = net(net.normalise(a), (1, 3)), net(warp.apply(net.normalise(b), u), (1, 3))
    expected = sum(w * (x - y).abs().mean((1, 2, 3)) for w, x, y in zip((0.5, 2.0), f, m, strict=True))
    assert torch.allclose(value, expected, atol=1e-5)


def test_patches_equal_the_full_image_inside_with_their_gradient(ch, net):
    image = net.normalise(images()[0])
    spots = torch.cartesian_prod(torch.arange(12, 37, 4), torch.arange(12, 37, 4)).flip(1).expand(2, -1, -1)
    u = smooth_warp().requires_grad_()
    for layer, side in ((1, 8), (2, 16)):
        s = net.strides[layer]
        inside = slice(12 // s, 36 // s + 1, 4 // s)
        full = net(warp.apply(image, u), (layer,))[0][..., inside, inside].flatten(2)
        patch = ch.at_patches(net, (layer,), image, spots, side, u)[0]
        assert torch.allclose(full, patch, atol=1e-4)
        one, two = (torch.autograd.grad(x.square().sum(), u)[0] for x in (full, patch))
        assert torch.allclose(one, two, atol=1e-3 * float(one.abs().max()))


def test_random_points_estimate_the_gradient_of_all_points(ch, net):
    a, b = images(1)
    u = smooth_warp(1)
    dense = ch.control_gradient(ch.impact(net, (1,), distance="L2"), a, b, u)
    mean = sum(ch.control_gradient(ch.impact(net, (1,), distance="L2", points=200, side=8), a, b, u)
               for _ in range(10))
    assert F.cosine_similarity(dense, mean).item() > 0.9


def test_jacobian_gradient_agrees_with_finite_differences(ch, net):
    a, b = (F.avg_pool2d(x, 5, 1, 2).double() for x in images(1))
    loss = ch.impact(net.double(), (2,), distance="L2")
    u, direction = smooth_warp(1).double() + 0.3, smooth_warp(1, amplitude=1.0).flip(2).double()
    u.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(a, b)(u).sum(), u)
    h = 1e-5
    with torch.no_grad():
        slope = (loss(a, b)(u + h * direction) - loss(a, b)(u - h * direction)) / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)


def test_modes_agree_for_pointwise_functions_and_differ_at_a_large_stride(ch, net):
    a, b = images()
    u = smooth_warp()

    def gap(features, layer):
        static, true = (ch.control_gradient(ch.impact(features, (layer,), mode, "L2"), a, b, u)
                        for mode in ("Static", "Jacobian"))
        return float((static - true).norm() / true.norm())
    assert gap(Pointwise(), 1) < 1e-4
    assert gap(net, 4) > 0.2


def test_static_runs_the_network_on_whole_images_twice_only(ch, net):
    a, b = images()
    calls = []
    net.net.encoder[0].register_forward_hook(lambda *_: calls.append(1))
    for mode, expected in (("Static", 2), ("Jacobian", 1 + 5)):
        calls.clear()
        loss = ch.impact(net, (1,), mode)(a, b)
        for _ in range(5):
            loss(smooth_warp())
        assert len(calls) == expected


def test_static_moves_a_coarse_map_by_the_stride(ch, net):
    a, _ = images()
    shifted = torch.roll(a, 8, -1)
    loss = ch.impact(net, (3,), "Static", "L2")(a, shifted)
    u = rest()
    u[:, 0] = 8.0
    assert loss(u).max() < 0.5 * loss(rest()).min(), "moving shows at x + 8 what fixed shows at x"


def test_the_subset_is_shared_by_both_images(ch, net):
    a, b = images()
    for mode in ("Static", "Jacobian"):
        assert ch.impact(net, (7,), mode, subset=2)(a, a)(rest()).abs().max() < 1e-4
    loss = ch.impact(net, (7,), subset=2)(a, b)
    assert len({round(float(loss(rest())[0]), 6) for _ in range(8)}) > 1, "and drawn anew each time"


def test_together_starts_at_the_sum_of_the_weights(ch, net):
    a, b = images()
    both = ch.together(ch.impact(net, (7,)), ch.impact(ch.Mind(), (1,)), weights=(1.0, 0.5))(a, b)
    assert torch.allclose(both(rest()), torch.full((2,), 1.5), atol=1e-5)


# ---- rivals and optimiser

def test_intensity_measures_prefer_the_truth_where_they_should(ch):
    image = F.avg_pool2d(torch.rand(2, 1, 52, 52), 5, 1)
    image = (image - image.amin()) / (image.amax() - image.amin())
    u = smooth_warp(amplitude=3.0)
    for name, expected in (("MSE", image), ("global NCC", image), ("local NCC", 1 - image), ("MI", 1 - image)):
        term = ch.INTENSITY[name](image, expected)
        assert (term(rest()) < term(u)).all(), name
    inverted = ch.INTENSITY["global NCC"](image, 1 - image)
    assert (inverted(rest()) > inverted(u)).all(), "which is why it fails across contrasts"


def test_splines_sum_to_one_and_hold_straight_lines(ch):
    basis = ch.spline_basis(48, 8)
    assert torch.allclose(basis.sum(1), torch.ones(48), atol=1e-6)
    line = basis @ torch.arange(8.0)
    assert torch.allclose(line.diff(), line.diff().mean().expand(47), atol=1e-5)
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    assert ch.control_bending(ramp) == 0
    assert ch.control_bending(ramp.square()) > 0


def test_registration_finds_a_known_warp_and_pairs_do_not_mix(ch):
    moving = F.avg_pool2d(torch.rand(3, 1, 52, 52), 5, 1)
    u = smooth_warp(3, amplitude=1.5)
    fixed = warp.apply(moving, u)
    found = ch.register_pairs(ch.INTENSITY["MSE"], fixed, moving, steps=60, weight=0.003)
    inside = (..., slice(8, 40), slice(8, 40))
    assert (found - u)[inside].abs().mean() < 0.4 * u[inside].abs().mean()
    alone = ch.register_pairs(ch.INTENSITY["MSE"], fixed[1:2], moving[1:2], steps=60, weight=0.003)
    assert torch.allclose(found[1:2], alone, atol=0.05)


def test_degraded_pairs_differ_in_looks_only(ch):
    clean, worse = ch.slice_pairs(3, 3), ch.slice_pairs(3, 3, degraded=True)
    for key in ("displacement", "goal", "moving mask"):
        assert torch.equal(clean.meta[key], worse.meta[key])
    assert torch.equal(clean.landmark, worse.landmark)
    brain = clean.image[:, 1:] > 0.2
    ratio = (worse.image[:, 1:] / clean.image[:, 1:])[brain]
    assert ratio.std() > 0.1, "the fixed image is shaded"
    assert not torch.equal(clean.image[:, :1], worse.image[:, :1])


def test_shading_is_smooth_multiplicative_and_each_image_has_its_own(ch):
    field = ch.shaded(torch.ones(2, 1, 48, 48), 0.4, torch.Generator().manual_seed(0)).log()
    assert field.std() > 0.1
    assert field.diff(dim=-1).abs().max() < 0.15
    assert not torch.allclose(field[0], field[1])
    assert torch.equal(ch.shaded(torch.zeros(1, 1, 48, 48), 0.4, torch.Generator()), torch.zeros(1, 1, 48, 48))


def test_mutual_information_suffers_from_shading_and_features_less_or_not_is_measured_not_assumed(ch):
    """The premise of the experiment: shading makes one tissue many grey values, so that MI at the truth gets worse."""
    clean, worse = ch.slice_pairs(6, 3), ch.slice_pairs(6, 3, degraded=True)
    u = clean.meta["displacement"]
    at_truth = [ch.INTENSITY["MI"](p.image[:, 1:], p.image[:, :1])(u).mean() for p in (clean, worse)]
    assert at_truth[1] > at_truth[0], "MI is negated: higher is worse"


def test_capture_starts_off_the_truth_and_counts_returns(ch):
    pairs = ch.slice_pairs(2, 3, contrast=("t1", "t1"))
    assert ch.captured(ch.INTENSITY["MSE"], pairs, 0, 1).mean() == 1
    assert ch.captured(ch.INTENSITY["MSE"], pairs, 6, 1).mean() == 0, "one step cannot"
    assert ch.captured(ch.INTENSITY["MSE"], pairs, 3, 30).mean() == 1


# ---- as a loss of volumes, as released

def test_slicewise_is_the_mean_over_slices(ch, net):
    a, b = torch.rand(2, 1, 3, 16, 16).requires_grad_(), torch.rand(2, 1, 3, 16, 16)
    similarity = ch.impact(net, (2,))
    value = ch.slicewise(similarity)(a, b)
    each = [similarity(b[n:n + 1, :, k], a[n:n + 1, :, k])(rest(1, 16)) for n in range(2) for k in range(3)]
    assert value.item() == pytest.approx(torch.stack(each).mean().item(), abs=1e-5)
    value.backward()
    assert a.grad.abs().sum() > 0


def test_released_resize_looks_at_one_axis_of_three_and_none_of_two(ch):
    assert not ch.released_resizes([64, 64, 64], (96, 80, 64))
    assert ch.released_resizes([64, 64, 64], (64, 64, 96))
    assert not ch.released_resizes([224, 224], (96, 80))
