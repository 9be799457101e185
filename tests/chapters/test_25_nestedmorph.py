"""NestedMorph: the chapter's own definitions against naive references, published counts and limits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medtutor.cohort import Cohort
from medtutor.phantom import warp


def count(module):
    return sum(p.numel() for p in module.parameters())


# ---- efficient attention

def parts(attention, x):
    return [layer(x)[0].flatten(1).detach() for layer in (attention.query, attention.key, attention.value)]


def test_efficient_attention_equals_the_naive_order_of_the_products(ch):
    attention, x = ch.EfficientAttention(5), 2 * torch.randn(1, 5, 2, 3, 4)
    q, k, v = parts(attention, x)
    matrix = torch.zeros(24, 24)
    for i in range(24):
        for j in range(24):
            matrix[i, j] = sum(q[c].exp()[i] / q.exp()[:, i].sum() * k[c].exp()[j] / k[c].exp().sum() for c in range(5))
    naive = attention.out((v @ matrix.T).view_as(x))
    assert torch.allclose(attention(x), naive, atol=1e-5)
    assert torch.allclose(matrix.sum(1), torch.ones(24), atol=1e-5), "each position mixes with weights that sum to 1"
    assert torch.linalg.matrix_rank(matrix) <= 5


def test_efficient_attention_knows_no_places_but_sees_all(ch):
    attention, x, order = ch.EfficientAttention(6), torch.randn(2, 6, 3, 3, 3), torch.randperm(27)
    shuffled = x.flatten(2)[..., order].view_as(x)
    assert torch.allclose(attention(shuffled).flatten(2), attention(x).flatten(2)[..., order], atol=1e-6)
    x.requires_grad_()
    attention(x)[0, :, 0, 0, 0].sum().backward()
    assert x.grad[0, :, 2, 2, 2].abs().max() > 0
    assert not x.grad[1].any()


# ---- blocks

def test_channel_norm_is_layer_norm_of_each_position(ch):
    norm, x = ch.ChannelNorm(7), torch.randn(2, 7, 2, 3, 4)
    y = norm(x)
    assert torch.allclose(y[1, :, 1, 2, 3], F.layer_norm(x[1, :, 1, 2, 3], (7,)), atol=1e-6)


def test_squeeze_excite_scales_whole_channels_by_a_weight_in_0_1(ch):
    block, x = ch.SqueezeExcite(32), torch.randn(2, 32, 3, 3, 3)
    ratio = block(x) / x
    assert torch.allclose(ratio, ratio[..., :1, :1, :1].expand_as(ratio), atol=1e-5)
    assert 0 < ratio.min() < ratio.max() < 1
    assert count(block) == 2 * 32 * 2


def test_dual_block_is_residual_and_attention_can_be_swapped_for_width(ch):
    block, x = ch.DualBlock(8), torch.randn(1, 8, 4, 4, 4)
    for part in (block.parts[0].out, block.parts[1].fall, block.parts[3].fall):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    expected = x + block.parts[2](block.norms[2](x))
    assert torch.allclose(block(x), expected, atol=1e-6)
    for d, skip in ((8, True), (16, False), (32, True)):
        sizes = [count(ch.DualBlock(d, skip, attention)) for attention in (True, False)]
        assert abs(sizes[0] / sizes[1] - 1) < 0.02
    without = ch.DualBlock(8, attention=False)
    assert not any(isinstance(m, ch.EfficientAttention) for m in without.modules())


def test_large_kernel_reaches_eleven_voxels_and_starts_small(ch):
    block = ch.LargeKernelBlock(2)
    x = torch.randn(1, 2, 27, 27, 27, requires_grad=True)
    block.parts[0].see(x)[0, 0, 13, 13, 13].backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    assert seen.min() == 2
    assert seen.max() == 24
    with torch.no_grad():
        assert (block(x) - x).abs().mean() < 0.05 * x.abs().mean()
        for scale in block.scales:
            scale.zero_()
        assert torch.equal(block(x), x)


# ---- nested gate

def test_gate_equals_its_formula(ch):
    gate, x, g = ch.GatedFusion(4).eval(), torch.randn(2, 4, 3, 3, 3), torch.randn(2, 4, 3, 3, 3)
    far = gate.far(torch.stack([g.mean(1), g.max(1).values], 1))
    logits = gate.select[1](gate.select[0](gate.local(x) + far))
    a = torch.sigmoid(logits[:, :1] - logits[:, 1:])  # the softmax of two
    x1, g1 = (1 + a) * x, (2 - a) * g
    inner = torch.sigmoid(g1) * x1 * torch.sigmoid(x1) * g1
    expected = gate.last(torch.sigmoid(gate.gate(inner)) * x)
    assert torch.allclose(gate(x, g), expected, atol=1e-5)
    a, b = gate.maps(x, g)
    assert a.shape == (2, 1, 3, 3, 3)
    assert torch.allclose(a + b, torch.ones_like(a))


def test_gate_listens_to_both_and_plain_fusion_has_its_size(ch):
    gate, x, g = ch.GatedFusion(4).eval(), torch.randn(1, 4, 3, 3, 3), torch.randn(1, 4, 3, 3, 3)
    assert not torch.allclose(gate(x, g), gate(x, -g))
    gate.gate[1].bias.data.fill_(-1e4)
    assert torch.allclose(gate(x, g), gate(torch.zeros_like(x), g)), "a closed gate passes nothing of x"
    for d in (8, 16):
        assert abs(count(ch.PlainFusion(d)) / count(ch.GatedFusion(d)) - 1) < 0.15


def test_level_adds_the_gate_to_g_and_expansion_lays_out_children(ch):
    expand, x = ch.Expand(2, 1, 2), torch.randn(1, 2, 2, 2, 2)
    expand.norm = nn.Identity()
    y, spelt = expand(x), expand.spell(x)[0]
    assert y.shape == (1, 1, 4, 4, 4)
    for a, b, c in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        assert torch.allclose(y[0, 0, a::2, b::2, c::2], spelt[4 * a + 2 * b + c])
    flat, x = ch.Expand(2, 3, 2, dims=2), torch.randn(1, 2, 3, 4)
    flat.norm = nn.Identity()
    assert torch.allclose(flat(x)[0, :, 1::2, ::2], flat.spell(x)[0][6:9]), "child (1, 0) of every position"
    level, g = ch.FusionLevel(4, 2, 2, "dual").eval(), torch.randn(1, 4, 2, 2, 2)
    seen = []
    level.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    level.fuse.last[1].weight.data.zero_()
    level(torch.randn(1, 4, 2, 2, 2), g)
    assert torch.allclose(seen[0], level.enter(g)), "g goes on where the gate adds nothing"


# ---- network

def test_published_counts_and_silent_parameters(ch):
    with torch.device("meta"):
        full = ch.NestedMorph((48, 96, 192, 384), (4, 2, 2, 2), kernels=2, idle=True)
    silent = sum(n for _, n in ch.silent(full, (64, 64, 64)))
    assert count(full) == 21_958_433
    assert silent == 10_737_031
    assert [count(full.encoder), count(full.decoder[1])] == [6_802_224, 644_551]


def test_audit_points_at_a_module_that_is_never_called(ch):
    assert ch.silent(ch.nested(), (32, 32, 32)) == []
    model = ch.nested()
    model.net.spare = nn.Conv3d(3, 5, 1)
    assert ch.silent(model, (32, 32, 32)) == [("net.spare.weight", 15), ("net.spare.bias", 5)]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("switches", [{}, {"gated": False}, {"attention": False}, {"head": 1}])
def test_variants_have_equal_size_and_start_at_the_identity(ch, switches, dims):
    model, both = ch.nested(dims, **switches), torch.rand(1, 2, *[32] * dims)
    assert abs(count(model) / count(ch.nested(dims)) - 1) < 0.07
    with torch.no_grad():
        u = model(both)
    assert u.shape == (1, dims, *[32] * dims)
    assert 0 < u.abs().max() < 0.01
    assert torch.allclose(ch.moved(both, u), both[:, :1], atol=0.01)
    assert any(isinstance(m, ch.EfficientAttention) for m in model.modules()) == switches.get("attention", True)
    assert any(isinstance(m, ch.GatedFusion) for m in model.modules()) == switches.get("gated", True)


def test_the_rival_in_volumes_has_the_size_of_nestedmorph(ch):
    assert abs(count(ch.voxelmorph()) / count(ch.nested()) - 1) < 0.07


def test_initial_displacement_of_the_published_size_is_near_the_identity(ch):
    net = ch.Morph(ch.NestedMorph((8, 16, 32, 64), (4, 2, 2, 2), kernels=2))
    with torch.no_grad():
        assert 0 < net(torch.rand(1, 2, 64, 64, 64)).abs().max() < 0.01


def test_flow_is_in_voxels_and_identity_has_jacobian_one(ch):
    volume, u = torch.rand(1, 2, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8)
    assert torch.allclose(ch.moved(volume, u), volume[:, :1], atol=1e-6)
    assert not warp.jacobian(u).log().any()
    u[:, 0] = 2
    assert torch.allclose(ch.moved(volume, u)[..., :-2], volume[:, :1, ..., 2:], atol=1e-5)


# ---- head

def test_one_channel_head_ties_the_components(ch):
    net, m = ch.nested(3, head=1).net, torch.randn(1, 1, 12, 12, 12)
    k = torch.randn_like(net.head[-1].weight)
    assert k.shape == (3, 1, 3, 3, 3)
    u, inside = F.conv3d(m, k, padding=1), (..., *[slice(2, -2)] * 3)
    left, right = F.conv3d(u[:, [0]], k[[1]], padding=1), F.conv3d(u[:, [1]], k[[0]], padding=1)
    assert torch.allclose(left[inside], right[inside], atol=1e-4)
    wide = F.conv3d(torch.randn(1, 3, 12, 12, 12), torch.randn(3, 3, 3, 3, 3), padding=1)
    left, right = F.conv3d(wide[:, [0]], k[[1]], padding=1), F.conv3d(wide[:, [1]], k[[0]], padding=1)
    assert not torch.allclose(left[inside], right[inside], atol=1e-1), "three channels do not obey"


def test_head_share_is_one_for_what_the_kernel_made_and_a_third_for_noise(ch):
    k, m = torch.randn(3, 1, 3, 3, 3), torch.randn(2, 1, 10, 10, 10)
    own = F.conv3d(F.pad(m, [1] * 6, mode="circular"), k)
    assert torch.allclose(ch.head_share(k, own), torch.ones(2), atol=1e-4)
    noise = torch.randn(4, 3, 16, 16, 16)
    assert torch.allclose(ch.head_share(k, noise), torch.full((4,), 1 / 3), atol=0.03)
    two = ch.head_share(torch.randn(3, 2, 3, 3, 3), noise)
    assert torch.allclose(two, torch.full((4,), 2 / 3), atol=0.03)
    assert torch.allclose(ch.head_share(torch.randn(3, 5, 3, 3, 3), noise), torch.ones(4), atol=1e-3)


# ---- loss and layout

def test_penalty_on_the_image_forgets_the_field(ch):
    flat = Cohort(volume=torch.ones(1, 2, 8, 8, 8))
    rough = torch.randn(1, 3, 8, 8, 8)
    zero = lambda a, b: torch.zeros(())  # noqa: E731
    assert ch.image_penalty_loss(zero, 1.0)(lambda volume: rough, flat).item() == pytest.approx(0, abs=1e-9)
    assert ch.registration_loss(zero, 1.0)(lambda volume: rough, flat).item() > 0.1
    still = Cohort(volume=torch.rand(1, 2, 8, 8, 8))
    assert ch.image_penalty_loss(zero, 1.0)(lambda volume: 0 * rough, still).item() > 0.01


def test_scrambling_keeps_the_values_and_loses_the_places(ch):
    x = torch.arange(4 * 27.0).view(1, 4, 3, 3, 3)
    y = ch.scrambled(x)
    assert y.shape == x.shape
    assert torch.equal(y.flatten().sort().values, x.flatten())
    tokens = x.flatten(2).transpose(1, 2)
    assert torch.equal(y.flatten(), tokens.flatten())
    assert (x == y).float().mean() < 0.05


def test_sight_counts_the_voxels_that_matter(ch):
    near = nn.Conv3d(2, 3, 3, padding=1)
    assert ch.sight(near, (9, 9, 9)) == pytest.approx(27 / 729)
    assert ch.sight(nn.Conv2d(2, 2, 3, padding=1), (9, 9)) == pytest.approx(9 / 81)
    assert ch.sight(ch.nested(2), (64, 64)) == 1
