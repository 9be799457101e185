"""MPU-Net: the chapter's own definitions against naive references, published counts and limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medtutor.cohort import Cohort


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def one_hot(labels, classes):
    return F.one_hot(labels, classes).movedim(-1, 1).float()


# ---- position attention

def test_pam_is_the_identity_while_gamma_is_zero(ch):
    pam, x = ch.PositionAttention(8, dim=3), torch.randn(2, 8, 3, 4, 5)
    assert pam.gamma.item() == 0
    assert torch.equal(pam(x), x)
    pam.gamma.data.fill_(1.0)
    assert not torch.allclose(pam(x), x)


@pytest.mark.parametrize("dim", [2, 3])
def test_pam_equals_a_naive_double_loop(ch, dim):
    channels, size = 16, (3,) * dim
    pam, x = ch.PositionAttention(channels, dim=dim), 2 * torch.randn(2, channels, *size)
    pam.gamma.data.fill_(-1.3)
    y = pam(x)
    for b in range(2):
        q, k, v = (layer(x[b: b + 1])[0].flatten(1).detach() for layer in (pam.query, pam.key, pam.value))
        assert q.shape[0] == channels // 8
        for i in range(3**dim):
            weights = [math.exp(sum(float(q[c, i] * k[c, j]) for c in range(len(q)))) for j in range(3**dim)]
            mixed = sum(w * v[:, j] for j, w in enumerate(weights)) / sum(weights)
            assert torch.allclose(y[b].flatten(1)[:, i], -1.3 * mixed + x[b].flatten(1)[:, i], atol=1e-4)


def test_pam_rows_are_weights_and_voxel_order_is_unknown_to_it(ch):
    pam, x, order = ch.PositionAttention(8, dim=3), torch.randn(1, 8, 3, 3, 3), torch.randperm(27)
    pam.gamma.data.fill_(1.0)
    attention = pam.attention(x)
    assert attention.shape == (1, 27, 27)
    assert torch.allclose(attention.sum(-1), torch.ones(1, 27), atol=1e-6)
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    assert torch.allclose(pam(shuffled).flatten(2), pam(x).flatten(2)[..., order], atol=1e-5)


def test_pam_reaches_the_opposite_corner(ch):
    pam, x = ch.PositionAttention(8, dim=3), torch.randn(1, 8, 4, 4, 4, requires_grad=True)
    pam.gamma.data.fill_(1.0)
    pam(x)[0, :, 0, 0, 0].sum().backward()
    assert x.grad[0, :, 3, 3, 3].abs().max() > 0


# ---- gate

def test_gate_is_one_weight_per_voxel_between_zero_and_one(ch):
    gate, x, signal = ch.CrossGate(6), torch.randn(2, 6, 4, 4, 4), torch.randn(2, 6, 2, 2, 2)
    a = gate.attention(x, signal)
    assert a.shape == (2, 1, 4, 4, 4)
    assert a.min() > 0
    assert a.max() < 1
    assert torch.allclose(gate(x, signal), a * x)
    assert not torch.allclose(gate.attention(x, -signal), a), "the signal matters"


def test_gate_equals_its_formula_at_every_voxel(ch):
    gate, x, signal = ch.CrossGate(4).eval(), torch.randn(1, 4, 2, 2, 2), torch.randn(1, 4, 2, 2, 2)
    for part in (gate.on_x, gate.on_signal, gate.psi):
        part[1].running_mean.normal_()
        part[1].running_var.uniform_(0.5, 2)

    def normed(part, column):
        conv, norm = part
        z = conv.weight.flatten(1) @ column + conv.bias
        return (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias

    a = gate.attention(x, signal)[0, 0]
    for index in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        at = (0, slice(None), *index)
        hidden = (normed(gate.on_x, x[at]) + normed(gate.on_signal, signal[at])).clamp(min=0)
        assert torch.allclose(a[tuple(index)], torch.sigmoid(normed(gate.psi, hidden))[0], atol=1e-5)


def test_gate_opens_fully_and_closes_fully(ch):
    gate, x, signal = ch.CrossGate(4), torch.randn(2, 4, 3, 3, 3), torch.randn(2, 4, 3, 3, 3)
    gate.psi[1].bias.data.fill_(float("inf"))
    assert torch.equal(gate(x, signal), x)
    gate.psi[1].bias.data.fill_(float("-inf"))
    assert not gate(x, signal).any()


# ---- network

def tiny(ch, **switches):
    return ch.MPUNet(widths=(2, 4, 6, 8), dropout=0.0, **switches)


def test_outputs_are_probabilities_and_the_answer_is_their_mean(ch):
    model, volume, maps = tiny(ch, classes=3).eval(), torch.randn(2, 1, 8, 8, 12), []
    for head in model.heads:
        head.register_forward_hook(lambda module, inputs, logits: maps.append(
            torch.softmax(F.interpolate(logits, (8, 8, 12), mode="trilinear", align_corners=False), 1)))
    outputs = model(volume, every=True)
    assert len(outputs) == len(maps) == 3
    assert all(o.shape == (2, 3, 8, 8, 12) for o in outputs)
    for o in outputs:
        assert torch.allclose(o.sum(1), torch.ones(2, 8, 8, 12), atol=1e-6)
        assert o.min() >= 0
    assert torch.allclose(outputs[-1], (maps[0] + maps[1] + maps[2]) / 3, atol=1e-6)
    assert all(torch.allclose(o, m, atol=1e-6) for o, m in zip(outputs[:-1], maps, strict=False))
    assert torch.equal(model(volume), outputs[-1])


def test_equal_heads_give_the_first_output(ch):
    model = tiny(ch)
    for head in model.heads:
        nn.init.zeros_(head.weight)
        head.bias.data[:] = torch.tensor([0.3, -1.1])
    outputs = model(torch.randn(1, 1, 8, 8, 8), every=True)
    assert torch.allclose(outputs[-1], outputs[0], atol=1e-6)


def test_single_head_answers_from_the_finest_level_alone(ch):
    model = tiny(ch, heads=False)
    assert len(model.heads) == 1
    assert len(model(torch.randn(1, 1, 8, 8, 8), every=True)) == 1


def test_pam_switch_changes_nothing_until_gamma_moves(ch):
    with_pam, without = tiny(ch, pam=True).eval(), tiny(ch, pam=False).eval()
    missing = without.load_state_dict(with_pam.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all("bottleneck.3" in key for key in missing.unexpected_keys)
    volume = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(with_pam(volume), without(volume))
    with_pam.bottleneck[3].gamma.data.fill_(2.0)
    assert not torch.allclose(with_pam(volume), without(volume))


def test_open_gates_change_nothing(ch):
    gated, plain = tiny(ch, gates=True).eval(), tiny(ch, gates=False).eval()
    plain.load_state_dict(gated.state_dict(), strict=False)
    volume = torch.randn(1, 1, 8, 8, 8)
    assert not torch.allclose(gated(volume), plain(volume))
    for gate in gated.decoder.gates:
        gate.psi[1].bias.data.fill_(float("inf"))
    assert torch.equal(gated(volume), plain(volume))


def test_encoder_is_residual_and_its_grids_halve(ch):
    model = ch.ResidualEncoder(1, (2, 4, 6, 8), 2, 0.0)
    volume = torch.randn(1, 1, 16, 16, 16)
    skips, deepest = model(volume)
    assert [s.shape[1:] for s in skips] == [(2, 16, 16, 16), (4, 8, 8, 8), (6, 4, 4, 4), (8, 4, 4, 4)]
    assert deepest.shape == (1, 16, 4, 4, 4)
    assert torch.allclose(skips[0] - model.levels[0](volume), volume.expand(-1, 2, -1, -1, -1), atol=1e-6)


@pytest.mark.parametrize(("halve", "reach"), [(True, 1), (False, 2)])
def test_down_step_pools_over_the_neighbours_first(ch, halve, reach):
    down = ch.down_step(1, 2, halve).eval()
    x, spike = torch.zeros(1, 1, 12, 12, 12), torch.zeros(1, 1, 12, 12, 12)
    spike[..., 5, 5, 5] = 100
    seen = (down(x) != down(spike)).any(1)[0].nonzero()
    low, high = ((5 - 1) // 2, (5 + 1) // 2) if halve else (5 - reach, 5 + reach)
    assert seen.min() == low
    assert seen.max() == high


def test_dropout_acts_in_training_only(ch):
    model, volume = ch.MPUNet(widths=(2, 4, 6, 8), dropout=0.5), torch.randn(2, 1, 8, 8, 8)
    assert not torch.equal(model(volume), model(volume))
    model.eval()
    assert torch.equal(model(volume), model(volume))


# ---- published counts

def test_published_counts_are_matched_exactly(ch):
    with torch.device("meta"):
        full = ch.MPUNet(1, 2)
        up1, decoder5, map5 = ch.up_step(512, 256), ch.conv3d_prelu(8, 2, 2, 2), nn.Conv3d(2, 2, 1)
        assert count(up1) == 1_049_088
        assert count(full, up1, decoder5, map5) == 22_557_009
        assert count(ch.bottleneck(512, 256, pam=True)) == 5_392_195
        deepest = full.encoder(torch.empty(1, 1, 48, 256, 256))[1]
    assert deepest.shape == (1, 512, 6, 32, 32)
    assert (6 * 32 * 32) ** 2 == 37_748_736


def test_ladder_keeps_its_budget(ch):
    sizes = {rung: count(ch.build_mpu(rung)) for rung in ch.MPU_LADDER}
    assert max(sizes.values()) <= 200_000
    full = sizes["+ averaged heads"]
    assert 9 < full / sizes["U-Net"] < 10.5, "the ratio of the paper's comparison"
    assert all(abs(size / full - 1) < 0.01 for rung, size in sizes.items() if rung != "U-Net")
    with pytest.raises(ValueError, match="choose one of"):
        ch.build_mpu("V-Net")


def test_ladder_attends_over_512_tokens_and_every_parameter_learns(ch):
    model, tokens = ch.build_mpu("+ averaged heads"), []
    model.bottleneck[3].register_forward_hook(lambda module, inputs, output: tokens.append(output[0, 0].numel()))
    model.bottleneck[3].gamma.data.fill_(0.1)
    batch = Cohort(volume=torch.randn(1, 1, 32, 32, 32), mask=torch.randint(2, (1, 32, 32, 32)))
    ch.mpu_loss(model, batch).backward()
    assert tokens == [512]
    assert all(p.grad is not None for p in model.parameters()), "no module is built and never used"


# ---- losses

def test_tversky_with_halves_is_the_dice_loss(ch):
    p, t = torch.softmax(torch.randn(2, 3, 4, 4, 4), 1), one_hot(torch.randint(3, (2, 4, 4, 4)), 3)
    dice = [2 * (p[n, k] * t[n, k]).sum() / (p[n, k].sum() + t[n, k].sum()) for n in range(2) for k in range(3)]
    assert ch.tversky_loss(p, t, 0.5, 0.5, 0).item() == pytest.approx(1 - sum(dice).item() / 6, abs=1e-6)


def test_tversky_with_ones_is_the_iou_loss(ch):
    p, t = torch.randint(2, (1, 1, 6, 6, 6)).float(), torch.randint(2, (1, 1, 6, 6, 6)).float()
    iou = (p * t).sum() / ((p + t) > 0).sum()
    assert ch.tversky_loss(p, t, 1, 1, 0).item() == pytest.approx(1 - iou.item(), abs=1e-6)


def lesions():
    truth = torch.zeros(1, 1, 10, 10, 10)
    truth[:, :, :4] = 1
    small, large = truth.clone(), truth.clone()
    small[:, :, 3], large[:, :, 4] = 0, 1
    return truth, small, large


def test_tversky_weighs_misses_and_alarms_as_named(ch):
    truth, small, large = lesions()
    assert ch.tversky_loss(small, truth, a=0, b=1) > 0.2
    assert ch.tversky_loss(large, truth, a=0, b=1) < 1e-6
    assert ch.tversky_loss(large, truth, a=1, b=0) > 0.15
    assert ch.tversky_loss(small, truth, a=1, b=0) < 1e-6
    assert ch.tversky_loss(small, truth) > 2 * ch.tversky_loss(large, truth), "by default a miss costs more"
    assert ch.tversky_loss(small, truth).item() == pytest.approx(1 - 301 / (300 + 0.7 * 100 + 1), abs=1e-6)


def test_perfect_prediction_costs_nothing_even_without_the_class(ch):
    truth, _, _ = lesions()
    for t in (truth, torch.zeros_like(truth)):
        assert ch.tversky_loss(t, t).item() == pytest.approx(0, abs=1e-6)
        both = torch.cat([1 - t, t], 1)
        assert ch.scale_loss(both, both).item() == pytest.approx(0, abs=1e-6)


def test_scale_loss_adds_binary_cross_entropy_of_the_probabilities(ch):
    p, t = torch.softmax(torch.randn(2, 2, 3, 3, 3), 1), one_hot(torch.randint(2, (2, 3, 3, 3)), 2)
    bce = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    assert torch.allclose(ch.scale_loss(p, t) - ch.tversky_loss(p, t), bce, atol=1e-6)


def test_alpha_schedule(ch):
    assert [ch.alpha_at(e) for e in (0, 29, 30, 59, 60)] == pytest.approx([0.4, 0.4, 0.32, 0.32, 0.256])


def test_training_loss_is_the_answer_plus_alpha_times_the_coarse_outputs(ch):
    outputs = [torch.softmax(torch.randn(2, 3, 4, 4, 4), 1) for _ in range(4)]
    labels = torch.randint(3, (2, 4, 4, 4))
    batch, t = Cohort(volume=torch.zeros(2, 1, 4, 4, 4), mask=labels), one_hot(labels, 3)
    for alpha in (0.0, 0.4):
        loss = ch.mpu_loss(lambda volume, every: outputs, batch, alpha)
        expected = ch.scale_loss(outputs[3], t) + alpha * sum(ch.scale_loss(o, t) for o in outputs[:3])
        assert torch.allclose(loss, expected)


# ---- the loss as released

def overlap_part(ch, p, t):
    return (ch.released_loss(p, t) - F.binary_cross_entropy(torch.sigmoid(p), t)).item()


def test_released_names_are_swapped_so_that_misses_get_the_larger_weight(ch):
    truth, small, large = lesions()
    assert overlap_part(ch, small, truth) == pytest.approx(1 - 300 / (300 + 0.7 * 100 + 1), abs=1e-5)
    assert overlap_part(ch, large, truth) == pytest.approx(1 - 400 / (400 + 0.3 * 100 + 1), abs=1e-5)
    assert overlap_part(ch, small, truth) > overlap_part(ch, large, truth)


def test_released_cross_entropy_has_a_floor_and_an_absent_class_costs_one(ch):
    truth, _, _ = lesions()
    both = torch.cat([1 - truth, truth], 1)
    floor = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert F.binary_cross_entropy(torch.sigmoid(both), both).item() == pytest.approx(floor, abs=1e-5)
    assert ch.released_loss(both, both).item() > floor
    assert floor == pytest.approx(0.5032, abs=1e-4)
    empty = torch.zeros_like(truth)
    assert overlap_part(ch, empty, empty) == pytest.approx(1.0, abs=1e-5)


def test_squashing_twice_starves_a_confidently_wrong_voxel(ch):
    target = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1)
    pull = {}
    for name, loss in {"released": ch.released_loss, "ours": ch.scale_loss}.items():
        logits = torch.tensor([-4.0, 4.0]).view(1, 2, 1, 1, 1).requires_grad_()
        loss(torch.softmax(logits, 1), target).backward()
        pull[name] = logits.grad[0, 0].abs().item()
    assert pull["ours"] > 0.9
    assert pull["released"] < 0.01
