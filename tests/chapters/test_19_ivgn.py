"""IVGN (Zheng et al. 2024): the chapter's definitions against naive references.

The docstring of each test says which removal of the idea it detects.
"""

import pytest
import torch
from torch import nn


@pytest.fixture
def gia(ch):
    return ch.Intensive(16).double()


@pytest.fixture
def x():
    return torch.randn(2, 16, 5, 6).double()


def test_open_views_leave_identity_and_one_map(ch, gia, x):
    """Detects a missing residual, and views that are not joined by one pointwise map."""
    for last in (gia.mlp[-1], gia.conv):
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 60.0)  # a_d = a_s = 1
    nn.init.zeros_(gia.g.weight)
    nn.init.zeros_(gia.g.bias)
    expected = x + gia.fuse(torch.cat([x, x, torch.zeros_like(x)], 1))
    assert gia(x).shape == x.shape
    assert torch.allclose(gia(x), expected, atol=1e-12)


def test_pixel_view_against_loops(ch, gia, x):
    """Detects a softmax over the wrong axis, or a relation that is transposed."""
    flat = x.flatten(2)
    theta, phi, g = (layer(x).flatten(2) for layer in (gia.theta, gia.phi, gia.g))
    out = torch.zeros_like(flat)
    for b in range(2):
        for i in range(30):
            weights = torch.softmax(torch.stack([theta[b, :, i] @ phi[b, :, j] for j in range(30)]), 0)
            out[b, :, i] = sum(weights[j] * g[b, :, j] for j in range(30))
    assert torch.allclose(gia.pixel(x), out.view_as(x), atol=1e-10)


def test_symmetries_of_the_views(ch, gia, x):
    """Detects a depth view that knows places, a space view that knows channels, a pixel view that knows positions."""
    places, channels = torch.randperm(30), torch.randperm(16)
    moved = x.flatten(2)[:, :, places].view_as(x)
    assert torch.allclose(gia.depth(moved), gia.depth(x), atol=1e-10)
    assert torch.allclose(gia.space(x[:, channels]), gia.space(x), atol=1e-10)
    assert torch.allclose(gia.pixel(moved), gia.pixel(x).flatten(2)[:, :, places].view_as(x), atol=1e-10)
    assert not torch.allclose(gia.space(moved), gia.space(x).flatten(2)[:, :, places].view(2, 1, 5, 6))
    assert not torch.allclose(gia.depth(x[:, channels]), gia.depth(x)[:, channels])


@pytest.mark.parametrize("view", ["depth", "space", "pixel"])
def test_a_view_that_is_off_adds_nothing(ch, x, view):
    """Detects switches that do not switch: a view that is off must not be computed into the sum."""
    torch.manual_seed(1)
    on = ch.Intensive(16).double()
    off = ch.Intensive(16, tuple(v for v in ch.VIEWS if v != view)).double()
    off.load_state_dict(on.state_dict())
    assert not torch.allclose(on(x), off(x))
    k = ch.VIEWS.index(view)
    nn.init.zeros_(on.fuse.weight[:, 16 * k:16 * (k + 1)])
    assert torch.allclose(on(x), off(x), atol=1e-12)


def test_only_pixel_and_depth_join_far_places(ch, x):
    """Detects a space view with global reach, or a pixel view without it. The kernel of 7 reaches 3 places."""
    wide = torch.randn(1, 16, 9, 9).double()
    poked = wide.clone()
    poked[..., 8, 8] += 5
    for views, reaches in ((("pixel",), True), (("depth",), True), (("space",), False), ((), False)):
        module = ch.Intensive(16, views).double()
        assert bool((module(wide) - module(poked))[..., 0, 0].abs().max() > 1e-9) == reaches


def gated(ch, forced=None, views=True):
    model = ch.ivgn(60, ch.Trunk(), views).double().eval()
    for layer in model.decoder.layers:
        layer.forced = forced
    return model


def test_gate_mixes_and_does_not_add(ch):
    """Detects a residual sum in place of the mixture: o = g c + (1 - g) h, with g between 0 and 1."""
    layer = ch.GatedLayer(8, 2, 16).double()
    h, c = torch.randn(2, 3, 8).double(), torch.randn(2, 3, 8).double()
    g = (torch.cat([h, c], -1) @ layer.gate.weight.T + layer.gate.bias).sigmoid()
    assert torch.allclose(layer.mix(h, c), g * c + (1 - g) * h)
    between = torch.maximum(h, c) - layer.mix(h, c)
    assert (between >= 0).all()
    layer.forced = 0.0
    assert torch.equal(layer.mix(h, c), h)
    layer.forced = 1.0
    assert torch.equal(layer.mix(h, c), c)


@pytest.mark.parametrize("views", [True, False])
def test_closed_gate_is_blind(ch, views):
    """Detects a second way from the film to the words, past the gate."""
    films, words = torch.randn(2, 1, 64, 64).double(), torch.randint(3, 60, (1, 7)).expand(2, -1)
    closed, learned = gated(ch, 0.0, views)(films, words), gated(ch, None, views)(films, words)
    assert torch.allclose(closed[0], closed[1], atol=1e-12)
    assert not torch.allclose(learned[0], learned[1])


def test_gated_decoder_is_causal_and_its_cache_agrees(ch):
    """Detects a gate that looks at later words, and a cached step that skips the gate."""
    model, image, words = gated(ch), torch.randn(1, 1, 64, 64).double(), torch.randint(3, 60, (1, 8))
    changed = words.clone()
    changed[:, 5:] += 1
    assert torch.equal(model(image, words)[:, :5], model(image, changed)[:, :5])
    cache = model.decoder.start(model.see(image))
    steps = torch.cat([model.decoder.step(words[:, [t]], cache) for t in range(8)], 1)
    assert torch.allclose(steps, model(image, words), atol=1e-10)


def test_variants_are_of_one_size(ch):
    """Detects an unequal comparison."""
    sizes = [sum(p.numel() for p in m.parameters()) for m in (
        ch.Writer(400, ch.Trunk(), wide=ch.WIDE), ch.ivgn(400, ch.Trunk(), False), ch.ivgn(400, ch.Trunk()))]
    assert max(sizes) / min(sizes) < 1.03


def test_views_stand_between_trunk_and_decoder(ch):
    """Detects a writer that leaves the views out."""
    model = gated(ch)
    assert any(isinstance(m, ch.Intensive) for m in model.trunk)
    assert model.see(torch.randn(1, 1, 64, 64).double()).shape == (1, 64, 64)


def test_twins_are_decided_by_the_pair_alone(ch):
    """Detects labels that leak through one side: each pattern must be as frequent in both classes."""
    cohort = ch.twins(3000, 1)
    total = cohort.image.sum((2, 3))
    same, other = total[cohort.label == 1].mean(0), total[cohort.label == 0].mean(0)
    assert cohort.label.double().mean() == pytest.approx(0.5, abs=0.04)
    assert (same - other).abs().max() < 0.6
    left = cohort.image[..., :2].square().sum((1, 2, 3)) > cohort.image[..., 2:].square().sum((1, 2, 3))
    assert left.double().mean() == pytest.approx(0.5, abs=0.05)


def test_visual_words_are_found_in_the_vocabulary(ch):
    """Detects a class of visual words that is empty, or that holds grammar."""
    tokenizer = ch.train_tokenizer(["there is a small left pleural effusion. the heart is not enlarged."] * 3, 200)
    visual = ch.visual_tokens(tokenizer)
    chosen = {tokenizer.id_to_token(int(k)).replace("▁", "") for k in visual.nonzero()[:, 0]}
    assert {"small", "left", "effusion", "enlarged"} <= chosen
    assert not {"there", "is", "the", "."} & chosen


def test_word_costs_and_gates_by_hand(ch):
    """Detects costs of padding, classes that overlap, and gates of another place than the word they stand before."""
    model = gated(ch)
    tokens = torch.tensor([[1, 5, 6, 7, 2, 0, 0], [1, 6, 8, 9, 5, 7, 2]])
    image, visual = torch.randn(2, 1, 64, 64).double(), torch.zeros(60, dtype=torch.bool)
    visual[[6, 7]] = True
    cohort = ch.Cohort(image=image, meta={"tokens": tokens})
    logp = model(image, tokens).log_softmax(-1).detach()
    costs = ch.word_costs(model, cohort, visual)
    assert costs["visual words"][0] == pytest.approx(-float(logp[0, 1, 6] + logp[0, 2, 7]) / 2)
    assert costs["other words"][0] == pytest.approx(-float(logp[0, 0, 5] + logp[0, 3, 2]) / 2)
    for layer in model.decoder.layers:
        nn.init.zeros_(layer.gate.weight)
        nn.init.constant_(layer.gate.bias, 1.5)
    assert torch.allclose(ch.gates_of(model, image, tokens), torch.tensor(1.5).double().sigmoid().expand(2, 7))
