"""Multi-scale self-guided attention (Sinha and Dolz 2020): the chapter's definitions against naive references.

The docstring of each test says which removal of the idea it detects.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn


def opened(net, ch, value=0.5):
    for gamma in ch.gammas(net):
        gamma.data.fill_(value)
    return net


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- position attention ------------------------------------------------------------------------------------------


def test_both_attentions_start_as_the_identity(ch):
    """Detects a gate gamma that does not start at zero, or a lost residual."""
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(ch.PositionAttention(16)(x), x)
    assert torch.equal(ch.ChannelAttention()(x), x)


def naive_position(layer, x):
    """Two loops and scalars only; no scaling of the energies."""
    q, k, v = (conv(x[None])[0].flatten(1).tolist() for conv in (layer.query, layer.key, layer.value))
    n, y = len(v[0]), torch.zeros(len(v), len(v[0]))
    for i in range(n):
        energy = [sum(a[i] * b[j] for a, b in zip(q, k, strict=True)) for j in range(n)]
        total = sum(math.exp(e) for e in energy)
        for j in range(n):
            for c in range(len(v)):
                y[c, i] += math.exp(energy[j]) / total * v[c][j]
    return layer.gamma.item() * y.view_as(x) + x


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_position_attention_is_the_double_loop(ch, seed):
    """Detects 1/sqrt(d) in the softmax, a softmax over the wrong axis, a lost gamma or residual."""
    torch.manual_seed(seed)
    layer, x = ch.PositionAttention(32), torch.randn(32, 5, 5)
    nn.init.normal_(layer.query.weight)  # large energies, so that a scaling could not hide in the tolerance
    layer.gamma.data.fill_(0.7)
    with torch.no_grad():
        expected = naive_position(layer, x)
        assert torch.allclose(layer(x[None])[0], expected, atol=1e-4)
        assert torch.allclose(ch.position_attention_by_loops(layer, x), expected, atol=1e-4)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 6), width=st.integers(1, 6))
def test_position_attention_does_not_know_where(ch, seed, height, width):
    """Shuffled pixels in, shuffled pixels out. Detects a window, a position code, or a wrong reshape."""
    torch.manual_seed(seed)
    layer, x = ch.PositionAttention(8), torch.randn(2, 8, height, width)
    layer.gamma.data.fill_(1.3)
    order = torch.randperm(height * width)
    shuffled = x.flatten(2)[..., order].view_as(x)
    assert torch.allclose(layer(x).flatten(2)[..., order], layer(shuffled).flatten(2), atol=1e-5)


def test_queries_have_an_eighth_of_the_channels(ch):
    """Detects a changed reduction."""
    layer = ch.PositionAttention(64)
    assert layer.query.out_channels == layer.key.out_channels == 8
    assert layer.value.out_channels == 64


# --- channel attention -------------------------------------------------------------------------------------------


def test_channel_attention_is_the_loop_over_channels(ch):
    """Detects a plain softmax(E), a softmax over the wrong axis, a lost gamma or residual."""
    layer, x = ch.ChannelAttention(), torch.randn(2, 6, 4, 3)
    layer.gamma.data.fill_(0.4)
    for image, result in zip(x, layer(x), strict=True):
        for c in range(6):
            energy = torch.stack([(image[c] * image[d]).sum() for d in range(6)])
            weight = torch.exp(-energy) / torch.exp(-energy).sum()
            expected = image[c] + 0.4 * sum(w * image[d] for d, w in enumerate(weight))
            assert torch.allclose(result[c], expected, atol=1e-5)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), channels=st.integers(2, 12))
def test_a_channel_listens_to_itself_least(ch, seed, channels):
    """Detects the lost max-minus sign: then the own weight would be the largest of the row."""
    torch.manual_seed(seed)
    x = F.normalize(torch.randn(1, channels, 20), dim=-1).view(1, channels, 4, 5)
    weight = ch.ChannelAttention().attention(x)[0]
    assert torch.allclose(weight.sum(-1), torch.ones(channels), atol=1e-6)
    assert (weight.diagonal() <= weight.amin(-1) + 1e-6).all()
    off = weight + torch.eye(channels)
    assert (weight.diagonal() < off.amin(-1)).all()


def test_channel_attention_forgets_the_order_of_pixels(ch):
    """Its weights depend on the set of pixels only; its output follows a permutation of channels."""
    layer, x, pixels, channels = ch.ChannelAttention(), torch.randn(1, 6, 4, 4), torch.randperm(16), torch.randperm(6)
    layer.gamma.data.fill_(1.0)
    assert torch.allclose(layer.attention(x), layer.attention(x.flatten(2)[..., pixels].view_as(x)), atol=1e-5)
    assert torch.allclose(layer(x)[:, channels], layer(x[:, channels]), atol=1e-5)
    assert count(layer) == 1


# --- auto-encoder and guide --------------------------------------------------------------------------------------


def test_bottleneck_belongs_to_one_sample(ch):
    """Detects a bottleneck flattened over the batch, which has no sample axis at all."""
    net, x = ch.SemanticAutoencoder(8, (6, 5)).eval(), torch.randn(3, 8, 16, 12)
    z, decoded = net(x)
    assert z.shape == (3, 5 * 4 * 3)
    assert decoded.shape == x.shape
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(net(x[order])[0], z[order], atol=1e-5)
    (gradient,) = torch.autograd.grad(net(x.requires_grad_())[0][1].square().sum(), x)
    assert gradient[1].any()
    assert not gradient[0].any()
    assert not gradient[2].any()


def test_flattening_over_the_batch_changes_normalised_losses_only(ch):
    """The box 'Paper and code': harmless for the plain mean squared error, not for a normalised one."""
    z1, z2 = torch.randn(4, 30) * torch.tensor([[1.0], [2.0], [4.0], [8.0]]), torch.randn(4, 30)
    assert torch.allclose(F.mse_loss(z1, z2), F.mse_loss(z1.view(-1), z2.view(-1)))
    rows = F.cosine_similarity(z1, z2, dim=1).mean()
    assert not torch.allclose(rows, F.cosine_similarity(z1.view(-1), z2.view(-1), dim=0), atol=1e-3)


def test_autoencoder_says_which_sizes_it_takes(ch):
    with pytest.raises(ValueError, match="divisible by 4"):
        ch.SemanticAutoencoder(8)(torch.randn(1, 8, 10, 12))


def test_guidance_vanishes_for_equal_rounds_and_only_then(ch):
    """Detects a loss that compares something else than the two bottlenecks, or a constant one."""
    first, second = (ch.GuidedRound(8, scales=3, widths=(8, 8)).eval() for _ in range(2))
    inputs = [torch.randn(2, 16, 16, 16) for _ in range(3)]
    assert ch.semantic_loss([first(inputs), second(inputs)]) > 0
    second.autoencoder.load_state_dict(first.autoencoder.state_dict())
    assert ch.semantic_loss([first(inputs), second(inputs)]) == 0  # the attentions still differ
    moved = [x + 0.1 * torch.randn_like(x) for x in inputs]
    assert ch.semantic_loss([first(inputs), second(moved)]) > 0


def test_one_autoencoder_serves_all_scales(ch):
    """Detects one auto-encoder a scale (codes of equal inputs would differ) and shared attentions (maps would not)."""
    attend, x = ch.GuidedRound(8, scales=4, widths=(8, 8)).eval(), torch.randn(2, 16, 16, 16)
    out = attend([x] * 4)
    assert all(torch.equal(out.codes[0], z) for z in out.codes)
    assert not torch.allclose(out.maps[0], out.maps[1])
    sizes = [count(ch.GuidedRound(8, scales=s, widths=(8, 8)).autoencoder) for s in (1, 4)]
    assert sizes[0] == sizes[1]


class FourScales(nn.Module):
    """Four maps of falling size, as the paper's trunk gives: image (B, 1, H, W) -> (B, 8, ...) each."""

    def __init__(self, ch):
        super().__init__()
        self.trunk = ch.ShortSightedTrunk(8)

    def forward(self, image):
        near, far = self.trunk(image)
        return [near, far, F.avg_pool2d(far, 2), F.avg_pool2d(far, 4)]


def tiny(ch, **switches):
    return ch.GuidedAttentionNet(FourScales(ch), [8] * 4, classes=3, channels=8, widths=(8, 8), **switches)


def test_round_one_decides_what_round_two_sees(ch):
    """Round 2 reads [F_s, A1_s * MS]. Detects a second round that does not use the first."""
    net = tiny(ch)
    rounds = net(torch.rand(2, 1, 64, 64)).rounds
    for s in range(4):
        features, fused = rounds[0].inputs[s].split(8, dim=1)
        again, gated = rounds[1].inputs[s].split(8, dim=1)
        assert torch.equal(again, features)
        assert torch.allclose(gated, rounds[0].maps[s] * fused)
        assert not torch.allclose(gated, fused)


def test_round_map_is_sum_of_attentions_times_semantics(ch):
    """Detects a lost branch (PAM or CAM) or a lost product with the decoded semantic map."""
    attend, x = ch.GuidedRound(8, scales=1, widths=(8, 8)).eval(), torch.randn(2, 16, 16, 16)
    _, decoded = attend.autoencoder(x)
    expected = attend.mix[0]((attend.position[0](x) + attend.channel[0](x)) * attend.semantic[0](decoded))
    assert torch.allclose(attend([x]).maps[0], expected)


def test_loss_is_eight_cross_entropies_and_two_guides(ch):
    """Detects a missing head, a wrong weight, a missing guide."""
    net, image, mask = tiny(ch), torch.rand(2, 1, 64, 64), torch.randint(0, 3, (2, 64, 64))
    out = net(image)
    assert len(out.first) == len(out.refined) == 4
    cross = sum(F.cross_entropy(p, mask).item() for p in (*out.first, *out.refined))
    one, two = out.rounds
    semantic = sum(((a - b) ** 2).mean().item() for a, b in zip(one.codes, two.codes, strict=True))
    rebuilt = sum(((a - b) ** 2).mean().item() for r in out.rounds for a, b in zip(r.inputs, r.decoded, strict=True))
    assert ch.guided_loss(out, mask).item() == pytest.approx(cross + 0.25 * semantic + 0.1 * rebuilt, rel=1e-5)
    assert ch.guided_loss(out, mask, 0, 0).item() == pytest.approx(cross, rel=1e-5)
    assert semantic > 1e-6
    assert rebuilt > 1e-3


def test_guide_teaches_both_rounds(ch):
    """Detects a bottleneck that is detached in either round."""
    codes = [[torch.randn(2, 6, requires_grad=True) for _ in range(4)] for _ in range(2)]
    ch.semantic_loss([ch.Round([], [], z, []) for z in codes]).backward()
    for z1, z2 in zip(*codes, strict=True):
        assert torch.allclose(z1.grad, (z1 - z2) * 2 / z1.numel())
        assert torch.allclose(z2.grad, -z1.grad)


def test_prediction_is_the_mean_of_the_refined_four(ch):
    """Detects the eight-head mean, which the paper uses in training only."""
    net, image = tiny(ch), torch.rand(2, 1, 64, 48)
    out = net(image)
    assert torch.allclose(out.logits, sum(out.refined) / 4)
    before = net.eval()(image)
    assert before.shape == (2, 3, 64, 48)
    for head in net.first_heads:
        head.bias.data += 5
    assert torch.equal(net(image), before)
    net.refined_heads[2].bias.data += 4
    assert torch.allclose(net(image), before + 1, atol=1e-5)


# --- the short-sighted trunk and the variants --------------------------------------------------------------------


def test_receptive_field_measures_what_is_known(ch):
    assert ch.receptive_field(nn.Conv2d(1, 4, 5, padding=2)) == 5
    assert ch.receptive_field(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))) == 5
    assert ch.receptive_field(nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1))) == 7


def test_trunk_is_short_sighted(ch):
    """The premise of the experiment: without attention nothing far away can be used."""
    trunk = ch.ShortSightedTrunk().eval()
    views = [ch.receptive_field(lambda image, i=i: trunk(image)[i]) for i in range(2)]
    assert views == [7, 15]
    assert [tuple(f.shape) for f in trunk(torch.rand(1, 1, 64, 64))] == [(1, 24, 16, 16)] * 2


@pytest.mark.parametrize(("variant", "far"), [("place only", False), ("gates shut", False), ("attention", True)])
def test_only_attention_lets_a_far_pixel_in(ch, variant, far):
    """Detects long range by any other way in the variants that claim to have attention alone, and its absence."""
    net = ch.tiny_guided(variant, 4).double().eval()
    if far:
        opened(net, ch)
    image = torch.rand(2, 1, 64, 64).double()
    poked = image.clone()
    poked[..., :4, :4] += 3
    change = (net(poked) - net(image)).abs()[..., 40:, 40:].max()
    assert (change > 0) == far


def test_variants_have_equal_size_and_the_right_parts(ch):
    """Detects switches that do not switch, and an unfair comparison."""
    nets = {name: ch.tiny_guided(name, 4) for name in ch.GUIDED_VARIANTS}
    sizes = [count(net) for net in nets.values()]
    assert max(sizes) <= 150_000
    assert max(sizes) / min(sizes) < 1.05
    assert [len(net.rounds) for net in nets.values()] == [1, 1, 1, 1, 2, 2, 2]
    assert [len(ch.gammas(net)) for net in nets.values()] == [4, 4, 4, 4, 8, 8, 8]
    assert nets["attention"].rounds[0].autoencoder is None
    shapes = [[p.shape for p in nets[name].parameters()] for name in ("two rounds", "guided")]
    assert shapes[0] == shapes[1]
    for name, net in nets.items():
        learns = name not in ("gates shut", "place only", "auto-encoders")
        assert {g.requires_grad for g in ch.gammas(net)} == {learns}
        assert {g.item() for g in ch.gammas(net)} == {1.0 if name == "attention + place" else 0.0}


def test_only_the_guided_variant_has_the_guide(ch):
    net = ch.tiny_guided("guided", 3)
    batch = SimpleNamespace(image=torch.rand(2, 1, 64, 64), mask=torch.randint(0, 3, (2, 64, 64)))
    plain, guided = (ch.tiny_guided_loss(name)(net, batch).item() for name in ("two rounds", "guided"))
    assert guided > plain + 1e-4


def test_every_parameter_in_use_learns(ch):
    """Detects modules that are constructed and never called, as the released code has."""
    net = opened(ch.tiny_guided("guided", 3), ch)
    batch = SimpleNamespace(image=torch.rand(2, 1, 64, 64), mask=torch.randint(0, 3, (2, 64, 64)))
    ch.tiny_guided_loss("guided")(net, batch).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_unknown_variant_names_the_known_ones(ch):
    with pytest.raises(ValueError, match="choose one of"):
        ch.tiny_guided("dual", 4)


# --- full size ---------------------------------------------------------------------------------------------------


def test_published_counts_to_the_last_parameter(ch):
    """Detects any change of the published layers: a bias, a norm, a width."""
    facts = ch.published_guided()
    assert len(facts) == 5
    for part, (published, ours) in facts.items():
        assert published == ours, part
