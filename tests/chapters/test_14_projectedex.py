"""ProjectedEx: the chapter's own definitions against naive references, invariances and limits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def explainer(ch):
    return ch.Explainer(ch.Judge().requires_grad_(False), ch.Encoder())


# ---- the phantom and its rule

def test_malignant_means_dark_and_large_and_nothing_else(ch):
    cohort = ch.prostates(400, 5)
    contrast, size, zone, coarse = cohort.meta["attribute"].T
    assert torch.equal(cohort.label.bool(), (contrast > ch.DARK) & (size > ch.LARGE))
    assert 0.3 < cohort.label.float().mean() < 0.6
    for idle in (zone, coarse):
        assert abs(float(torch.corrcoef(torch.stack([idle, cohort.label.float()]))[0, 1])) < 0.15


def test_the_picture_shows_the_attributes(ch):
    cohort = ch.prostates(400, 5)
    contrast, size, zone, _ = cohort.meta["attribute"].T
    area = cohort.mask.sum((1, 2)).float()
    assert torch.corrcoef(torch.stack([area.sqrt(), size]))[0, 1] > 0.95
    inside = (cohort.image[:, 0] * cohort.mask).sum((1, 2)) / area.clamp(min=1)
    for place in (0, 1):
        own = (zone == place) & (area > 5)
        assert torch.corrcoef(torch.stack([inside[own], contrast[own]]))[0, 1] < -0.8
    column = (cohort.mask.float() * torch.arange(32.0)).sum((1, 2)) / area.clamp(min=1)
    assert column[(zone == 1) & (area > 0)].min() > column[(zone == 0) & (area > 0)].max()
    assert torch.equal(ch.prostates(3, 5).image, cohort.image[:3]), "patient i depends on the seed and i only"


# ---- generator

@pytest.mark.parametrize("kernel", [1, 3])
def test_modulated_convolution_equals_weights_of_its_own_for_each_image(ch, kernel):
    x, weight, style = torch.randn(4, 5, 6, 6), torch.randn(3, 5, kernel, kernel), torch.randn(4, 5)
    assert torch.allclose(ch.modulated_conv(x, weight, style), ch.modulated_conv_by_image(x, weight, style), atol=1e-5)


def test_demodulation_removes_the_loudness_but_not_the_balance_of_a_style(ch):
    x, weight, style = torch.randn(2, 5, 6, 6), torch.randn(3, 5, 3, 3), torch.rand(2, 5) + 0.5
    before = ch.modulated_conv(x, weight, style)
    assert torch.allclose(ch.modulated_conv(x, weight, 50 * style), before, atol=1e-4)
    style[:, 0] = 0
    after = ch.modulated_conv(x, weight, style)
    assert not torch.allclose(after, before, atol=1e-2)
    x[:, 0] = 100
    assert torch.allclose(ch.modulated_conv(x, weight, style), after, atol=1e-4), "a style of 0 silences its channel"


def test_each_style_belongs_to_one_input_channel_and_all_are_used(ch):
    net = ch.StyleGenerator(code=6, widths=(4, 4, 3, 2))
    assert net.affine.out_features == 4 + 4 + 4 + 3
    styles = net.styles(torch.randn(1, 6)).detach().requires_grad_()
    image = net.draw(styles)
    assert image.shape == (1, 1, 32, 32)
    (image * torch.randn(1, 1, 32, 32)).sum().backward()
    assert bool((styles.grad.abs() > 0).all())


# ---- encoders

def test_the_pyramid_adds_the_coarser_level_to_each_finer_one(ch):
    net, image = ch.pyramid_encoder(), torch.rand(2, 1, 32, 32)
    x, maps = 2 * image - 1, []
    for conv in net.down:
        x = F.leaky_relu(conv(x), 0.2)
        maps.append(x)
    levels = net.levels(image)
    assert [level.shape[-1] for level in levels] == [16, 8, 4, 2]
    assert torch.allclose(levels[3], net.lateral[3](maps[3]))
    for j in range(3):
        doubled = levels[j + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert torch.allclose(levels[j], net.lateral[j](maps[j]) + doubled, atol=1e-6)
    pooled = [level.reshape(2, -1, 2, level.shape[-1] // 2, 2, level.shape[-1] // 2).mean((3, 5)).flatten(1)
              for level in levels]
    code = net.code(torch.cat(pooled, 1))
    spread = code.var(1, correction=0, keepdim=True).sqrt()
    assert torch.allclose(net(image), (code - code.mean(1, keepdim=True)) / spread, atol=1e-3)


def test_calibrated_codes_have_unit_spread_over_the_images(ch):
    net, image = ch.Encoder(), ch.prostates(64, 1).image
    assert net.code(net.pooled(image)).std(0).max() < 0.5
    net.calibrate(image)
    code = net.code(net.pooled(image))
    assert torch.allclose(code.std(0), torch.ones(48), atol=1e-3)
    assert code.mean(0).abs().max() < 1e-3


def test_equalised_layers_change_alike_at_any_width(ch):
    for inputs in (4, 400):
        layer = ch.EqualLinear(inputs, 300)
        out = layer(torch.randn(200, inputs))
        assert out.mean().item() == pytest.approx(1, abs=0.1)
        assert out.std().item() == pytest.approx(1, abs=0.1), "unit spread from unit inputs"
        assert layer.weight.std().item() == pytest.approx(1, abs=0.05)


def test_only_the_pyramid_hears_the_finest_scale_directly(ch):
    plain, pyramid, image = ch.Encoder(), ch.pyramid_encoder(), torch.rand(1, 1, 32, 32)
    for net, hears in ((plain, False), (pyramid, True)):
        for conv in list(net.down)[1:]:
            torch.nn.init.zeros_(conv.weight)
        moved = not torch.allclose(net(image), net(image.flip(-1)), atol=1e-6)
        assert moved is hears


def test_both_sides_have_nearly_the_same_size(ch):
    for a, b in ((ch.Encoder(), ch.pyramid_encoder()), (ch.PlainDiscriminator(), ch.ProjectedDiscriminator())):
        assert ch.count(b) == pytest.approx(ch.count(a), rel=0.1)


# ---- discriminators and losses

def test_only_the_heads_of_the_projected_discriminator_learn(ch):
    net, image = ch.ProjectedDiscriminator(), torch.rand(2, 1, 32, 32)
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"heads"}
    assert [tuple(p.shape[-2:]) for p in net.projected(image)] == [(2, 2), (4, 4), (8, 8)]
    assert len(net(image)) == 3


def test_scales_and_channels_are_mixed(ch):
    net, image = ch.ProjectedDiscriminator(), torch.rand(1, 1, 32, 32)
    before = net.projected(image)
    with torch.no_grad():
        net.mix[2].weight.mul_(2)  # of the coarsest scale
    after = net.projected(image)
    assert all(not torch.allclose(a, b) for a, b in zip(before, after, strict=True)), "it reaches every finer scale"
    with torch.no_grad():
        net.mix[0].weight.mul_(2)
    last = net.projected(image)
    assert [torch.allclose(a, b) for a, b in zip(after, last, strict=True)] == [True, True, False]


def test_hinge_equals_numpy_and_vanishes_beyond_one(ch):
    real, fake = ([torch.randn(3, 1, s, s) for s in (2, 4)] for _ in range(2))
    naive = sum(np.clip(1 - r.numpy(), 0, None).mean() + np.clip(1 + f.numpy(), 0, None).mean()
                for r, f in zip(real, fake, strict=True))
    assert float(ch.hinge(real, fake)) == pytest.approx(float(naive), rel=1e-5)
    assert ch.hinge([torch.full((2, 1, 1, 1), 1.1)], [torch.full((2, 1, 1, 1), -1.1)]) == 0


def test_opinion_loss_is_kl_of_the_judge_to_the_copy(ch):
    target, logits = torch.randn(5, 2), torch.randn(5, 2)
    p, q = target.softmax(1).double(), logits.softmax(1).double()
    assert float(ch.opinion_loss(target, logits)) == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    assert float(ch.opinion_loss(target, target + 2)) == pytest.approx(0, abs=1e-6), "only differences of logits count"
    assert ch.opinion_loss(target, logits) > 0
    swapped = ch.opinion_loss(logits, target)
    assert not math.isclose(float(ch.opinion_loss(target, logits)), float(swapped), rel_tol=1e-3)


def test_faithful_loss_equals_its_formula(ch, explainer):
    image, fake = torch.rand(3, 1, 32, 32), torch.rand(3, 1, 32, 32)
    c, e = explainer.judge, explainer.encoder
    l1 = (image - fake).abs().mean()
    rec = 10 * (0.1 * (c.early(image) - c.early(fake)).abs().mean() + 0.1 * (e(fake) - e(image)).abs().mean() + l1)
    expected = 2 * rec + 2 * ch.opinion_loss(c(image), c(fake))
    assert torch.allclose(explainer.faithful_loss(image, explainer.code(image), fake), expected, rtol=1e-5)
    assert explainer.faithful_loss(image, explainer.code(image), image).item() == pytest.approx(0, abs=1e-5)


def test_the_code_ends_in_the_opinion_and_the_judge_stays_frozen(ch, explainer):
    image, before = torch.rand(8, 1, 32, 32), [p.clone() for p in explainer.judge.parameters()]
    assert torch.equal(explainer.code(image)[:, -2:], explainer.judge(image))
    cohort = ch.prostates(16, 1)
    fit = ch.train_explainer(explainer, ch.ProjectedDiscriminator(), cohort, 4, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, fit.model.judge.parameters(), strict=True))
    assert fit.model is not explainer
    assert not torch.equal(fit.model.encoder.code.weight, explainer.encoder.code.weight), "an average, not the last"


def test_gradient_penalty_of_a_linear_critic_is_its_squared_weight(ch):
    class Linear(torch.nn.Module):
        def forward(self, image):
            return [(image * weight).sum((1, 2, 3))[:, None, None, None]]

    weight = torch.randn(1, 4, 4)
    assert float(ch.gradient_penalty(Linear(), torch.rand(3, 1, 4, 4))) == pytest.approx(float(weight.square().sum()),
                                                                                         rel=1e-5)


# ---- AttFind and scores

def test_shifting_by_nothing_and_silent_coordinates_have_no_effect(ch, explainer):
    image = torch.rand(4, 1, 32, 32)
    none, base, _ = ch.knob_effects(explainer, image, strength=0.0)
    assert none.abs().max() < 1e-5
    assert torch.allclose(base, ch.odds(explainer.judge(explainer(image))), atol=1e-5)
    with torch.no_grad():
        explainer.generator.weights[0][:, 3] = 0
    effect, _, _ = ch.knob_effects(explainer, image, strength=300.0)
    assert effect[:, 3].abs().max() < 1e-5
    assert bool((effect[:, [0, 1, 2]].abs().amax((0, 2)) > 1e-4).all())


def test_effect_equals_drawing_again(ch, explainer):
    image = torch.rand(3, 1, 32, 32)
    effect, base, spread = ch.knob_effects(explainer, image, strength=2.0)
    styles = explainer.generator.styles(explainer.code(image)).detach()
    for j, direction in ((0, 0), (17, 1)):
        moved = styles.clone()
        moved[:, j] += (2.0 if direction == 0 else -2.0) * styles[:, j].std()
        again = ch.odds(explainer.judge(explainer.generator.draw(moved))) - base
        assert torch.allclose(effect[:, j, direction], again, atol=1e-5)
    assert torch.allclose(spread, styles.std(0))


def test_attfind_is_greedy_over_what_is_still_unflipped(ch):
    base, effect = torch.tensor([-1.0, -1, -1, -1, 1]), torch.zeros(5, 3, 2)
    effect[:3, 1, 0] = 2    # flips 0, 1, 2
    effect[1:3, 0, 1] = 2   # flips 1, 2: nothing new
    effect[3, 2, 0] = 2     # flips 3
    effect[4, 2, 1] = -0.5  # too little
    chosen, curve = ch.attfind(effect, base)
    assert chosen == [(1, 0), (2, 0)]
    assert curve == pytest.approx([0.6, 0.8])
    assert ch.attfind(torch.zeros(5, 3, 2), base) == ([], [])


def test_correlations_find_a_coordinate_that_is_an_attribute(ch, explainer):
    cohort = ch.prostates(60, 2)
    rows = explainer.generator.affine
    with torch.no_grad():
        rows.weight[5] = 0
        rows.weight[5, -1] = -3.0  # this coordinate is a logit, whatever its sign and scale
    found = ch.attribute_correlation(explainer, cohort)
    logit, attribute = explainer.judge(cohort.image)[:, 1], cohort.meta["attribute"]
    expected = [abs(float(torch.corrcoef(torch.stack([logit, a]))[0, 1])) for a in attribute.T]
    assert found.shape == (rows.out_features, 4)
    assert found[5].tolist() == pytest.approx(expected, abs=1e-4)


def test_frechet_distance_of_known_samples(ch):
    a = torch.randn(500, 3)
    assert ch.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert ch.frechet(a, a + torch.tensor([3.0, 0, 4])) == pytest.approx(25, rel=1e-5)
    spread = a.double().mT.cov().trace()
    centred = a - a.mean(0)
    assert ch.frechet(centred, 3 * centred) == pytest.approx(float(4 * spread), rel=1e-4)


def test_a_perfect_copy_has_perfect_scores(ch, explainer):
    cohort = ch.prostates(24, 3)
    explainer.forward = lambda image: image
    scores = ch.explainer_scores(explainer, cohort)
    assert scores["agreement"].min() == 1
    assert scores["error"].max() == scores["lesion error"].max() == 0
    assert scores["Fréchet"].abs().max() < 1e-6
    explainer.forward = lambda image: image + 0.1 * cohort.mask[:, None]
    scores = ch.explainer_scores(explainer, cohort)
    seen = cohort.mask.sum((1, 2)) > 0
    assert torch.allclose(scores["lesion error"][seen], torch.tensor(0.1), atol=1e-5)
    assert scores["error"].max() < 0.1


def test_the_logits_in_the_code_steer_the_classifier_after_training(ch):
    """The judge here is a brightness meter, so that a few steps suffice."""
    class Meter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.early, self.late = torch.nn.Identity(), self.read

        def read(self, image):
            odds = 20 * (image.mean((1, 2, 3)) - 0.5)
            return torch.stack([-odds, odds], 1)

        def forward(self, image):
            return self.read(image)

    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(64, 1, 1, 1, generator=generator).expand(-1, -1, 32, 32).contiguous()
    cohort = ch.prostates(64, 1)
    object.__setattr__(cohort, "image", flat)
    explainer = ch.Explainer(Meter(), ch.Encoder())
    model = ch.train_explainer(explainer, ch.PlainDiscriminator(), cohort, 60, 0, lr=5e-3, average=0.9).model
    with torch.no_grad():
        code, opinions = model.code(flat), []
        for push in (-8.0, 0.0, 8.0):
            moved = code.clone()
            moved[:, -2:] = torch.tensor([-push, push])
            opinions.append(float(ch.odds(model.judge(model.generator(moved))).mean()))
    assert opinions[0] < opinions[1] < opinions[2]


def test_published_sizes(ch):
    with torch.device("meta"):
        encoder, image = ch.Encoder(512, widths=(64, 128, 256, 512)), torch.zeros(1, 1, 32, 32)
        code = torch.cat([encoder(image), ch.Judge()(image)], 1)
        generator = ch.StyleGenerator(code=514)
    assert code.shape == (1, 514)
    assert (encoder.code.in_features, encoder.code.out_features) == (2048, 512)
    assert generator.affine.in_features == 514
