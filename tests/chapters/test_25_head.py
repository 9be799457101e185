"""The frame of chapter 25: warps, scores, losses and classical registration against known answers."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks import Warp

POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}


@pytest.fixture(scope="module")
def pairs(ch):
    return ch.brain_pairs(3, seed=5)


def test_moved_by_a_whole_number_is_a_shift(ch):
    volume, u = torch.rand(2, 2, 8, 9, 10), torch.zeros(2, 3, 8, 9, 10)
    for channel, axis in ((0, -1), (1, -2), (2, -3)):  # x, y, z
        shifted = u.clone()
        shifted[:, channel] = 2
        kept = slice(0, volume.shape[axis] - 2)
        index = [slice(None)] * 5
        index[axis] = kept
        assert torch.allclose(ch.moved(volume, shifted)[tuple(index)], volume[:, :1].roll(-2, axis)[tuple(index)],
                              atol=1e-5)


def test_no_displacement_is_the_identity(ch, pairs):
    zero = torch.zeros_like(pairs.meta["displacement"])
    assert torch.allclose(ch.moved(pairs.volume, zero), pairs.volume[:, :1], atol=1e-5)
    assert torch.equal(ch.moved_mask(pairs.mask, zero, 10), pairs.mask)
    assert torch.allclose(ch.warp.jacobian(zero), torch.ones(1))


def test_moved_equals_monai_only_with_the_channels_flipped(ch, pairs):
    u = pairs.meta["displacement"]
    with warnings.catch_warnings(action="ignore"):
        layer = Warp()
    ours = ch.moved(pairs.volume, u)
    assert torch.allclose(ours, layer(pairs.volume[:, :1], u.flip(1)), atol=1e-4)
    assert not torch.allclose(ours, layer(pairs.volume[:, :1], u), atol=1e-2)


def test_at_points_is_exact_for_linear_fields(ch):
    shape = (7, 8, 9)
    place = ch.warp.places(shape)
    a = torch.randn(2, 3)
    field = torch.einsum("kc,nc...->nk...", a, place) + 0.5
    points = torch.rand(1, 20, 3) * torch.tensor([8.0, 7.0, 6.0])
    assert torch.allclose(ch.at_points(field, points), points @ a.T + 0.5, atol=1e-4)


def test_the_true_displacement_is_nearly_perfect_and_zero_is_not(ch, pairs):
    u = pairs.meta["displacement"]
    best, none = ch.registration_scores(u, pairs), ch.registration_scores(0 * u, pairs)
    assert best["TRE"].max() < 0.1
    assert (best["Dice"] > none["Dice"] + 0.05).all()
    assert best["folded"].max() == 0
    assert none["SDlogJ"].max() < 1e-5
    lengths = (pairs.meta["goal"] - pairs.landmark).norm(dim=-1).mean(1) * 216 / 32
    assert torch.allclose(none["TRE"], lengths, atol=1e-4)
    assert none["TRE"].max() < 3.01 * 216 / 32, "no point moves further than the amplitude"


def test_error_grows_with_the_amplitude(ch, pairs):
    twice = ch.brain_pairs(3, seed=5, amplitude=6.0)
    tre = [ch.registration_scores(0 * p.meta["displacement"], p)["TRE"].mean() for p in (pairs, twice)]
    assert 1.5 < tre[1] / tre[0] < 2.5


def test_a_mirrored_axis_folds_every_voxel(ch, pairs):
    u = torch.zeros_like(pairs.meta["displacement"])
    u[:, 0] = -2 * ch.warp.places(u.shape[2:])[0, 0] + 31  # x -> 31 - x
    assert ch.registration_scores(u, pairs)["folded"].min() == 100


def test_sitk_displacement_of_a_translation(ch):
    u = ch.displacement_of(ch.sitk.TranslationTransform(3, (1.0, -2.0, 3.0)), (4, 5, 6))
    assert u.shape == (3, 4, 5, 6)
    assert torch.allclose(u, torch.tensor([1.0, -2.0, 3.0]).view(3, 1, 1, 1).expand_as(u))


def test_sitk_resamples_as_moved_does(ch, pairs):
    transform = ch.sitk.TranslationTransform(3, (1.5, -0.5, 2.0))
    moving = pairs.volume[:1, :1]
    image = ch.as_sitk(moving[0, 0])
    theirs = torch.from_numpy(ch.sitk.GetArrayFromImage(ch.sitk.Resample(image, image, transform)))
    ours = ch.moved(pairs.volume[:1], ch.displacement_of(transform, moving.shape[2:])[None])[0, 0]
    assert torch.allclose(ours[4:-4, 4:-4, 4:-4], theirs[4:-4, 4:-4, 4:-4], atol=1e-4)


def test_classical_finds_a_known_shift(ch, pairs):
    fixed = pairs.volume[:1, 1:]
    u = torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, 32, 32, 32)
    moving = ch.warp.apply(fixed, -u)  # so that fixed(x) = moving(x + u)
    found = ch.classical(torch.cat([moving, fixed], 1)[0])
    head = fixed[0, 0] > 0.2
    error = (found - u[0])[:, head].norm(dim=0).mean()
    assert error < 0.5 * u[0, :, 0, 0, 0].norm()


def test_lncc_ignores_gain_offset_and_sign_and_the_air(ch):
    a = torch.rand(1, 1, 16, 16, 16)
    assert ch.lncc(a, a).item() == pytest.approx(-1, abs=1e-3)
    assert ch.lncc(-3 * a, a).item() == pytest.approx(-1, abs=1e-3), "gain and sign"
    wide = ch.lncc(F.pad(2 - 3 * a, [9] * 6, value=2.0), F.pad(a, [9] * 6))
    assert wide.item() == pytest.approx(ch.lncc(F.pad(-3 * a, [9] * 6), F.pad(a, [9] * 6)).item(), abs=1e-3), "offset"
    air = 0.01 * torch.randn(1, 1, 16, 16, 16)
    assert ch.lncc(air, air) > -0.05, "identical noise must not pay"


def test_windows_with_a_stride_are_some_of_all_windows(ch):
    x = torch.rand(1, 2, 9, 10)
    every = ch.window_sums(x, 5)
    assert torch.allclose(ch.window_sums(x, 5, 2), every[..., ::2, ::2])
    assert torch.allclose(every[0, 1, 4, 5], x[0, 1, 2:7, 3:8].sum())


def test_smoothness_is_blind_to_shifts_and_sees_slopes(ch):
    u = torch.ones(1, 3, 8, 8, 8)
    assert ch.smoothness(u).item() == 0
    assert ch.smoothness(ch.warp.places((8, 8, 8))).item() == pytest.approx(1 / 3, abs=1e-5)
    assert ch.smoothness(1 - 2 * (ch.warp.places((8, 8, 8)) % 2)).item() == pytest.approx(4 / 3, abs=1e-5), "a zigzag"


@pytest.mark.parametrize("dims", [2, 3])
def test_network_starts_at_the_identity_and_the_gain_multiplies(ch, dims):
    both = torch.rand(2, 2, *[32] * dims)
    model = ch.voxelmorph(dims=dims)
    u = model(both)
    assert u.shape == (2, dims, *[32] * dims)
    assert 0 < u.abs().max() < 0.01
    inner = F.interpolate(model.net(POOL[dims](both, 2)),
                          scale_factor=2, mode="bilinear" if dims == 2 else "trilinear")
    assert torch.allclose(u, ch.GAIN * inner)


def test_initial_weights_keep_the_size_of_the_signal(ch):
    """He's rule: what leaves the last hidden layer is as large as what enters; PyTorch's default lets it fade."""
    sizes = {}
    plain = ch.Morph(ch.VoxelMorphUNet(3, 2, 3, (8, 18, 24, 28, 28, 28), (16,)), 2)
    for name, model in (("ours", ch.voxelmorph()), ("default", plain)):
        seen, last = [], [m for m in model.modules() if isinstance(m, torch.nn.Conv3d)][-1]
        last.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0].std()))
        model(torch.randn(1, 2, 32, 32, 32))
        sizes[name] = seen[0]
    assert sizes["ours"] > 5 * sizes["default"]


def test_slices_and_volumes_share_the_code(ch):
    flat = ch.brain_pairs(2, seed=6, kind="slice", size=48)
    u = flat.meta["displacement"]
    assert ch.pictures(flat) is flat.image
    assert ch.spacing(u) == 4.5
    good, bad = ch.registration_scores(u, flat), ch.registration_scores(0 * u, flat)
    assert good["TRE"].max() < 0.1 < 1 < bad["TRE"].min()
    assert (good["Dice"] > bad["Dice"]).all()
    assert ch.lncc(flat.image[:, :1], flat.image[:, :1], 0.1) < ch.lncc(flat.image[:, :1], flat.image[:, 1:], 0.1)


def test_checkerboard_takes_every_pixel_from_one_of_both(ch):
    a, b = torch.zeros(32, 32), torch.ones(32, 32)
    board = ch.checkerboard(a, b)
    assert board.mean() == 0.5
    assert board[0, 0] == 0
    assert board[0, 8] == board[8, 0] == 1
    assert torch.equal(ch.checkerboard(a, a), a)


def test_one_by_one_fit_lowers_the_loss(ch, pairs):
    loss = ch.registration_loss(ch.lncc, ch.WEIGHT)
    u = ch.fit_one_by_one(pairs[:1], loss, steps=8)
    assert loss(lambda v: u, pairs[:1]) < loss(lambda v: torch.zeros_like(u), pairs[:1])


def test_real_grid_keeps_the_phantoms_directions(ch):
    fine = torch.zeros(1, 1, 128, 128, 128)
    fine[..., :64, :, :] = 1  # the head's side of an axial stack that runs from superior to inferior
    seen = ch.seen_at(fine, torch.zeros(1, 3, 32, 32, 32))
    assert seen[0, 0, 20:].min() == 1, "in the phantom the head is at the end"
    assert seen[0, 0, :12].max() == 0


def test_real_pairs_have_the_true_warp(ch, pairs):
    z, y, x = torch.meshgrid(*[torch.linspace(0, 1, 128)] * 3, indexing="ij")
    real = ch.real_pairs((x + 2 * y + 3 * z)[None, None], pairs)
    u = pairs.meta["displacement"]
    inner = (..., slice(5, -5), slice(5, -5), slice(5, -5))
    assert torch.allclose(ch.moved(real.volume, u)[inner], real.volume[:, 1:][inner], atol=1e-3)
    assert ch.target_error(u, real).max() < 1e-3
    assert ch.target_error(0 * u, real).min() >= 0


def test_scores_without_outlines_are_the_same_but_for_hd95(ch, pairs):
    u = 0.9 * pairs.meta["displacement"]
    full, quick = ch.registration_scores(u, pairs, outlines=True), ch.registration_scores(u, pairs)
    assert set(full) - set(quick) == {"HD95"}
    assert all(torch.equal(quick[name], full[name]) for name in quick)
