"""MEDUSA (Aboutalebi et al. 2022): the chapter's definitions against naive references.

The docstring of each test says which removal of the idea it detects.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = (12, 20, 32, 48)


@pytest.fixture
def image():
    return torch.rand(4, 1, 64, 64).double()


def build(ch, variant):
    return ch.GatedClassifier(ch.tiny_gate(variant, WIDTHS), WIDTHS).double().eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_open_gates_are_the_plain_trunk(ch, image):
    """Detects attention that does more than multiply, such as a residual or a norm of its own."""
    trunk = build(ch, "trunk")
    gate = ch.tiny_gate("MEDUSA", WIDTHS).double().eval()
    gated = ch.attach_gate(trunk, gate)
    assert not torch.allclose(gated(image), trunk(image))
    nn.init.zeros_(gate.body.out.weight)  # a constant context map
    for head in gate.heads:
        nn.init.constant_(head.mix[-1].bias, 50.0)
    assert torch.equal(gated(image), trunk(image))


def test_gate_multiplies_and_the_next_stage_reads_the_result(ch, image):
    """Detects a gate applied after the trunk only, or features that skip the gate."""
    model = build(ch, "MEDUSA")
    context, f = model.gate.body(image), image
    for stage, head, attention in zip(model.stages, model.gate.heads, model.features(image)[1], strict=True):
        f = stage(f)
        resized = F.adaptive_avg_pool2d(context, f.shape[-2:])
        expected = head.mix(torch.cat([head.context(resized), f], dim=1)).sigmoid()
        assert torch.equal(attention, expected)
        f = f * expected
    assert torch.equal(model(image), model.head(f.mean((-2, -1))))


def test_body_runs_once(ch, image):
    """Detects one body a head."""
    model, calls = build(ch, "MEDUSA"), []
    model.gate.body.register_forward_hook(lambda *_: calls.append(1))
    model(image)
    assert len(calls) == 1
    one, four = (ch.MedusaGate(ch.Body(), [ch.ScaleHead(w) for w in widths]) for widths in (WIDTHS[:1], WIDTHS))
    assert count(one.body) == count(four.body)


def test_body_receives_the_sum_of_what_the_heads_send(ch, image):
    """Detects a head without the shared map (its part would be zero) or a detached body."""
    model, label = build(ch, "MEDUSA"), torch.tensor([0, 1, 2, 1])
    parts = [ch.body_gradient(model, image, label, heads=[j]) for j in range(4)]
    assert all(part.abs().sum() > 0 for part in parts)
    F.cross_entropy(model(image), label).backward()
    whole = torch.cat([p.grad.flatten() for p in model.gate.body.parameters()])
    assert torch.allclose(whole, sum(parts), atol=1e-12)
    assert not any(torch.allclose(whole, part) for part in parts)


@pytest.mark.parametrize(("variant", "far"), [("MEDUSA", True), ("body only", True), ("heads only", False)])
def test_only_the_body_reaches_far(ch, image, variant, far):
    """Detects a body with a narrow view, and long range by any other way."""
    model = build(ch, variant)
    assert (ch.reach(model, image) > 0) == far
    poked = image.clone()
    poked[..., 0, 0] += 10
    first = model.stages[0]
    assert torch.equal(first(poked)[..., 8:, 8:], first(image)[..., 8:, 8:])


def test_every_map_fits_its_stage(ch, image):
    """Shapes follow the strides 2, 4, 8, 16, also for images that are not square; values lie between 0 and 1."""
    for variant in ("MEDUSA", "body only", "heads only"):
        model = build(ch, variant)
        for shape in ((64, 64), (32, 96)):
            features, maps = model.features(torch.rand(2, 1, *shape).double())
            assert [tuple(a.shape) for a in maps] == [(2, 1, shape[0] // s, shape[1] // s) for s in (2, 4, 8, 16)]
            assert features.shape == (2, 48, shape[0] // 16, shape[1] // 16)
            assert all(((a > 0) & (a < 1)).all() for a in maps)


def test_body_only_shares_one_map_and_medusa_adapts_it(ch, image):
    """The contrast in one property: without heads, the coarse map is a function of the context alone."""
    model = build(ch, "body only")
    maps, context = model.features(image)[1], model.gate.body(image)
    for a in maps:
        assert torch.equal(a, (F.adaptive_avg_pool2d(context, a.shape[-2:]) + 3.0).sigmoid())
    medusa = build(ch, "MEDUSA")
    f, context = torch.rand(2, 12, 32, 32).double(), torch.rand(2, 4, 32, 32).double()
    head = medusa.gate.heads[0]
    assert not torch.allclose(head(f, context), head(2 * f, context))
    assert not torch.allclose(head(f, context), head(f, 2 * context))


def test_gates_start_open(ch, image):
    """Detects sigmoids that start at one half: four of them would leave 6 % of the features."""
    for variant in ("MEDUSA", "body only", "heads only"):
        product = torch.stack([a.mean() for a in build(ch, variant).train().features(image)[1]]).prod()
        assert 0.6 < product < 1
    closed = ch.ScaleHead(12, start=0.0)
    assert closed(torch.rand(2, 12, 32, 32), torch.rand(2, 4, 32, 32)).mean() < 0.75


def naive_cbam(block, f):
    result = torch.empty_like(f)
    for n, image in enumerate(f):
        pooled = [torch.stack([reduce(c) for c in image])[None, :, None, None] for reduce in (torch.mean, torch.max)]
        weight = torch.sigmoid(block.channel(pooled[0]) + block.channel(pooled[1]))[0]
        scaled = image * weight
        statistics = torch.stack([scaled.mean(0), scaled.max(0).values])[None]
        result[n] = scaled * torch.sigmoid(block.position(statistics))[0]
    return result


def test_cbam_is_channel_then_position(ch):
    """Detects a changed order, a lost maximum, or a lost position map in the rival."""
    block, f = ch.CBAM(8), torch.randn(3, 8, 9, 7)
    assert torch.allclose(block(f), naive_cbam(block, f), atol=1e-6)


def test_local_blocks_know_one_stage_only(ch, image):
    """SE and CBAM have no context, and their parameters belong to one stage."""
    for variant in ("trunk", "SE", "CBAM"):
        model = build(ch, variant)
        assert model.gate.context(image) is None
        assert model.features(image)[1] == [None] * 4
    assert count(ch.tiny_gate("trunk", WIDTHS)) == 0
    assert not torch.allclose(build(ch, "SE").gate.blocks[0](image.expand(-1, 12, -1, -1)), image)


def test_variants_have_equal_size(ch):
    """Detects an unfair comparison."""
    sizes = [count(ch.tiny_medusa(variant)) for variant in ch.MEDUSA_VARIANTS]
    assert max(sizes) <= 103_000
    assert max(sizes) / min(sizes) < 1.05


@pytest.mark.parametrize("variant", ["trunk", "SE", "CBAM", "body only", "heads only", "MEDUSA"])
def test_every_parameter_learns(ch, variant):
    """Detects parts that are built and never called."""
    model = ch.tiny_medusa(variant)
    F.cross_entropy(model(torch.rand(4, 1, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_attaching_leaves_the_trained_trunk_alone(ch, image):
    """Detects weights shared between the classifier and its copy, or a trunk that is started anew."""
    trunk = build(ch, "trunk")
    before = trunk(image)
    gated = ch.attach_gate(trunk, ch.tiny_gate("MEDUSA", WIDTHS).double())
    assert all(torch.equal(a, b) for a, b in zip(trunk.stages.parameters(), gated.stages.parameters(), strict=True))
    for p in gated.stages.parameters():
        p.data += 1
    assert torch.equal(trunk(image), before)


def test_bad_input_is_explained(ch):
    with pytest.raises(ValueError, match="divisible by 32"):
        ch.Body()(torch.rand(1, 1, 48, 64))
    with pytest.raises(ValueError, match="choose one of"):
        ch.tiny_medusa("hydra")
