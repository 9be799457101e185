"""Residual U-Net with attention gate: the chapter's own definitions against naive references and invariances."""

import itertools

import numpy as np
import pytest
import torch

from medtutor.cohort import Cohort


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def photos(generator):
    image = torch.rand(40, 3, 16, 16, generator=generator)
    return Cohort(image=image, mask=(image.mean(1) > 0.5).long(), box=torch.zeros(40, 1, 4))


# ---- network

def test_residual_block_is_body_plus_projection(ch):
    block, x = ch.ResidualBlock(3, 5, stride=2), torch.randn(2, 3, 8, 8)
    assert torch.allclose(block(x), block.body(x) + block.projection(x), atol=1e-6)
    torch.nn.init.zeros_(block.body[-1].weight)
    assert torch.equal(block(x), block.projection(x)), "with a silent body only the shortcut is left"
    assert ch.ResidualBlock(3, 5, residual=False)(x).min() == 0, "the plain block ends in a ReLU"


def test_gate_equals_the_formula_pixel_by_pixel(ch):
    torch.manual_seed(1)
    gate, skip, signal = ch.AttentionGate(4, 6, 3), torch.randn(1, 4, 3, 3), torch.randn(1, 6, 3, 3)
    output = gate(skip, signal)
    for i, j in itertools.product(range(3), range(3)):
        x, g = skip[0, :, i, j], signal[0, :, i, j]
        hidden = gate.on_skip.weight[:, :, 0, 0] @ x + gate.on_signal.weight[:, :, 0, 0] @ g + gate.on_signal.bias
        a = 1 / (1 + torch.exp(-(gate.psi.weight.flatten() @ hidden.clamp(min=0) + gate.psi.bias)))
        assert torch.allclose(output[0, :, i, j], a * x, atol=1e-6)


def test_gate_with_infinite_bias_returns_the_skip_or_nothing(ch):
    gate, skip, signal = ch.AttentionGate(4, 6), torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)
    gate.psi.bias.data.fill_(float("inf"))
    assert torch.equal(gate(skip, signal), skip)
    gate.psi.bias.data.fill_(float("-inf"))
    assert not gate(skip, signal).any()


def test_gate_listens_to_the_signal(ch):
    gate, skip = ch.AttentionGate(4, 6), torch.randn(1, 4, 8, 8)
    first, second = (gate.attention(skip, torch.randn(1, 6, 4, 4)) for _ in range(2))
    assert first.shape == (1, 1, 8, 8)
    assert not torch.allclose(first, second)


def test_open_gates_make_the_gated_net_the_plain_net(ch):
    gated, plain = ch.build_wound_net(gate=True).eval(), ch.build_wound_net(gate=False).eval()
    plain.load_state_dict(gated.state_dict(), strict=False)
    image = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(gated(image), plain(image))
    for gate in gated.gates:
        gate.psi.bias.data.fill_(float("inf"))
    assert torch.equal(gated(image), plain(image))


@pytest.mark.parametrize("switches", [{}, {"gate": False}, {"residual": False}, {"gate": False, "residual": False}])
def test_small_net_keeps_its_budget_and_image_size(ch, switches):
    model = ch.build_wound_net(**switches)
    assert sum(p.numel() for p in model.parameters()) <= 150_000
    for size in (64, 50):
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 1, size, size)


def test_builder_repeats_and_leaves_the_global_random_state_alone(ch):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two = ch.build_wound_net(seed=5), ch.build_wound_net(seed=5)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_loss_equals_its_formula_and_rewards_the_truth(ch, photos):
    def oracle(sign):
        return lambda image: sign * 30 * (2 * (image.mean(1, keepdim=True) > 0.5).float() - 1)

    assert ch.wound_loss(oracle(1), photos) < 1e-4 < 10 < ch.wound_loss(oracle(-1), photos)
    logits = torch.randn(40, 1, 16, 16)
    p, t = torch.sigmoid(logits[:, 0]).double(), photos.mask.double()
    expected = np.mean([-(t[n] * p[n].log() + (1 - t[n]) * (1 - p[n]).log()).mean() + 1
                        - (2 * (p[n] * t[n]).sum() + 1) / (p[n].sum() + t[n].sum() + 1) for n in range(40)])
    assert ch.wound_loss(lambda image: logits, photos).item() == pytest.approx(expected, abs=1e-5)


# ---- preprocessing and augmentation

def test_preprocess_normalises_and_invents_no_class(ch, photos):
    cohort = ch.preprocess(Cohort(image=40 * photos.image + 7, mask=3 * photos.mask), size=24)
    assert cohort.image.shape == (40, 3, 24, 24)
    assert cohort.mask.shape == (40, 24, 24)
    assert torch.allclose(cohort.image.mean((1, 2, 3)), torch.zeros(40), atol=1e-4)
    assert torch.allclose(cohort.image.std((1, 2, 3), correction=0), torch.ones(40), atol=1e-4)
    assert cohort.mask.dtype == torch.int64
    assert set(cohort.mask.unique().tolist()) == {0, 3}


def test_turning_forth_and_back_is_identical(ch, photos):
    quarter, upright = torch.arange(40) % 4, torch.zeros(40, dtype=torch.bool)
    for x in (photos.image, photos.mask):
        there = ch.symmetry(x, quarter, upright)
        assert torch.equal(ch.symmetry(there, -quarter, upright), x)
        assert not torch.equal(there[1], x[1])
        assert torch.equal(there[3], torch.rot90(x[3], 3, dims=(-2, -1)))
    with pytest.raises(ValueError, match="square"):
        ch.symmetry(torch.zeros(1, 3, 4, 5), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.bool))


def test_augment_moves_image_and_mask_together_through_all_eight_symmetries(ch, photos, generator):
    batch = ch.augment(photos, generator)
    assert torch.equal((batch.image.mean(1) > 0.5).long(), batch.mask)
    assert batch.mask.dtype == photos.mask.dtype
    assert batch.box is None, "a box would no longer fit"
    found = set()
    for before, after in zip(photos.image, batch.image, strict=True):
        for k, mirror in itertools.product(range(4), (False, True)):
            if torch.equal(torch.rot90(before.flip(-1) if mirror else before, k, dims=(-2, -1)), after):
                found.add((k, mirror))
    assert len(found) == 8, "every photograph draws its own symmetry"


def test_augment_repeats_with_the_generator_and_leaves_the_input_alone(ch, photos):
    before = photos.image.clone()
    one, two, other = (ch.augment(photos, torch.Generator().manual_seed(s)).image for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(photos.image, before)


def test_painting_equals_a_loop_over_basins(ch, generator):
    from skimage.filters import sobel
    from skimage.segmentation import watershed

    image = torch.rand(3, 20, 20, generator=generator).numpy()
    label = watershed(sobel(image.mean(0)), markers=25)
    naive = image.copy()
    for basin in np.unique(label):
        for channel in range(3):
            naive[channel][label == basin] = image[channel][label == basin].mean()
    painting = ch.basin_painting(image, wells=25)
    assert np.allclose(painting, naive, atol=1e-6)
    assert 5 < len(np.unique(painting[0])) <= 40


def test_watershed_variant_is_half_photograph_half_painting_and_not_a_mask(ch, photos):
    few = photos[:6]
    cohort = ch.with_watershed(few)
    painting = torch.from_numpy(np.stack([ch.basin_painting(x.numpy()) for x in few.image]))
    assert torch.allclose(cohort.meta["watershed"], (few.image + painting) / 2, atol=1e-6)
    assert torch.equal(cohort.image, few.image)
    assert torch.equal(cohort.mask, few.mask)


def test_augment_uses_the_watershed_variant_for_about_half(ch, generator):
    image = torch.zeros(400, 1, 2, 2)
    cohort = Cohort(image=image, mask=torch.zeros(400, 2, 2).long(), meta={"watershed": image + 1})
    batch = ch.augment(cohort, generator)
    assert 150 < batch.image[:, 0, 0, 0].sum() < 250
    assert not batch.mask.any()
    assert "watershed" not in batch.meta


# ---- area

def test_area_is_invariant_if_the_marker_is_resized_too(ch):
    wound = torch.zeros(2, 32, 32)
    wound[0, 4:20, 6:18], wound[1, 3:9, 1:4] = 1, 1
    square = torch.tensor([[20.0, 20.0], [26.0, 20.0], [26.0, 26.0], [20.0, 26.0]])
    turned = torch.tensor([[3.0, 0.0], [6.0, 3.0], [3.0, 6.0], [0.0, 3.0]])
    corners = torch.stack([square, turned])  # 36 and 18 square pixels
    area = ch.wound_area(wound, ch.pixel_scale(corners, side_cm=3.0))
    assert torch.allclose(area, torch.tensor([16 * 12 * 9 / 36, 6 * 3 * 9 / 18]).double())
    for factor in (2, 5):
        large = wound.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        assert torch.allclose(ch.wound_area(large, ch.pixel_scale(corners * factor, 3.0)), area, rtol=1e-12)
        assert torch.allclose(ch.wound_area(large, ch.pixel_scale(corners, 3.0)), area * factor**2)
    for missing in (torch.full((1, 4, 2), float("nan")), torch.zeros(1, 4, 2)):
        with pytest.raises(ValueError, match="marker"):
            ch.pixel_scale(missing)


@pytest.mark.parametrize("size", [64, 96])
def test_area_of_phantom_wounds_is_close_to_the_exact_one_after_resizing(ch, size):
    from medtutor.phantom import wound

    photos = wound.cohort(12, size=128, seed=1, domain="ulcer")
    small = ch.preprocess(photos, size)
    measured = ch.wound_area(small.mask, ch.pixel_scale(small.landmark))
    assert torch.allclose(measured.float(), small.meta["area_cm2"].float(), rtol=0.05)
    assert torch.allclose(ch.pixel_scale(small.landmark).float(), small.meta["cm_per_pixel"].float(), rtol=0.02)


# ---- metrics and the auditor

def random_masks(n=300, size=9, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random((n, size, size)) < rng.random((n, 1, 1))
    wrong = rng.random((n, size, size)) < rng.random((n, 1, 1)) ** 2
    return torch.from_numpy(truth ^ wrong), torch.from_numpy(truth)


def test_dice_iou_identity_to_1e_9(ch):
    prediction, truth = random_masks()
    accuracy, iou, dice = ch.scores(prediction, truth)
    for n in range(len(truth)):
        tp, fp = (prediction[n] & truth[n]).sum().item(), (prediction[n] & ~truth[n]).sum().item()
        fn = (~prediction[n] & truth[n]).sum().item()
        if tp + fp + fn:
            assert abs(iou[n] - tp / (tp + fp + fn)) < 1e-9
            assert abs(dice[n] - 2 * tp / (2 * tp + fp + fn)) < 1e-9
            assert abs(dice[n] - ch.dice_from_iou(iou[n])) < 1e-9
            assert abs(iou[n] - ch.iou_from_dice(dice[n])) < 1e-9
            assert accuracy[n] >= iou[n] - 1e-12
    real = ~iou.isnan()
    assert iou[real].mean() <= dice[real].mean() <= ch.dice_from_iou(iou[real].mean())


def test_published_triple_is_impossible_in_both_readings(ch):
    for averaged in (False, True):
        possible, reason = ch.audit(0.990, 0.9999, 0.934, averaged=averaged)
        assert not possible
        assert "Dice" in reason
        assert "IoU" in reason
    assert not ch.audit(0.990, 0.9999, 0.99995)[0], "accuracy below IoU"
    assert not ch.audit(0.990, 0.9999, 0.99995, averaged=True)[0]
    assert ch.audit(0.990, ch.iou_from_dice(0.934), 0.934)[0]


@pytest.mark.parametrize("averaged", [False, True])
def test_a_report_with_iou_above_dice_is_rejected(ch, averaged):
    for iou, dice in ((0.6, 0.5), (0.9, 0.85), (0.2, 0.1)):
        possible, reason = ch.audit(0.97, iou, dice, averaged=averaged)
        assert not possible
        assert "never below IoU" in reason


def test_audit_accepts_every_real_report(ch):
    prediction, truth = random_masks(28)
    accuracy, iou, dice = ch.scores(prediction, truth)
    share = truth.flatten(1).double().mean(1)
    for n in torch.nonzero(~iou.isnan()).flatten():
        report = [x[n].item() for x in (accuracy, iou, dice, share)]
        assert ch.audit(*report, tolerance=1e-9)[0], report
        assert ch.audit(*report, averaged=True, tolerance=1e-6)[0], "one image is a mean too"
    for group in torch.nonzero(~iou.isnan()).flatten().split(7):
        means = [x[group].mean().item() for x in (accuracy, iou, dice, share)]
        assert ch.audit(*means, averaged=True, tolerance=1e-5)[0], means


def test_audit_agrees_with_an_exhaustive_search(ch):
    """Every confusion matrix in steps of 2 % against random reports; `tolerance` of the two sides brackets the step."""
    tp, fp, fn = np.meshgrid(*[np.linspace(0, 1, 51)] * 3, indexing="ij")
    inside = (tp + fp + fn <= 1 + 1e-9) & (tp + fp + fn > 0)
    tp, fp, fn = tp[inside], fp[inside], fn[inside]
    table = np.stack([1 - fp - fn, tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn), tp + fn], 1)
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(300):
        report = table[rng.integers(len(table))] + rng.choice([0, 0, 0.15, 0.3]) * rng.standard_normal(4)
        report = np.clip(report, 0, 1)
        gap = np.abs(table - report).max(1).min()
        possible = ch.audit(*report, tolerance=0.03)[0]
        verdicts.append(possible)
        assert possible or gap > 0.03, "rejected although such a matrix was found"
        assert not possible or gap < 0.12, "accepted although nothing is near"
    assert 60 < sum(verdicts) < 240


def test_audit_mean_reading_is_wider_than_the_pooled_one_but_not_boundless(ch):
    assert not ch.audit(0.97, 0.5, 0.6)[0]
    assert ch.audit(0.97, 0.5, 0.6, averaged=True)[0]
    for report, reason in (((0.97, 0.5, 0.7), "at most 0.6667"), ((0.4, 0.5, 0.6), "accuracy is never below IoU")):
        possible, said = ch.audit(*report, averaged=True)
        assert not possible
        assert reason in said
    for averaged in (False, True):
        assert not ch.audit(1.0, 0.9, ch.dice_from_iou(0.9), averaged=averaged, tolerance=0)[0], "no error, IoU < 1"
        assert ch.audit(0.99, 0.9, ch.dice_from_iou(0.9), averaged=averaged, tolerance=0)[0]


def test_audit_uses_the_prevalence(ch):
    iou = ch.iou_from_dice(0.8)
    true_positive = 0.02 * iou / (1 - iou)
    assert ch.audit(0.98, iou, 0.8, true_positive + 0.01)[0]
    for prevalence in (true_positive - 0.01, true_positive + 0.03):
        assert not ch.audit(0.98, iou, 0.8, prevalence)[0]
    assert not ch.audit(0.98, 0.7, 0.8, 0.9, averaged=True)[0]
    assert ch.audit(0.98, 0.7, 0.8, 0.06, averaged=True)[0]


def test_audit_edges_and_bad_input(ch):
    assert ch.audit(1.0, 1.0, 1.0, 0.3)[0]
    assert ch.audit(0.9, 0.0, 0.0, 0.1)[0]
    assert not ch.audit(0.99, 1.0, 1.0, tolerance=0)[0]
    with pytest.raises(ValueError, match="divide per cent by 100"):
        ch.audit(99.0, 0.8, 0.9)


def test_background_baseline_is_one_minus_the_wound_share(ch):
    mask = torch.zeros(2, 10, 10, dtype=torch.long)
    mask[0, 0, :4] = 2
    assert ch.background_accuracy(mask) == pytest.approx(0.98)
    accuracy, _, _ = ch.scores(torch.zeros(2, 10, 10), mask)
    assert accuracy.mean().item() == pytest.approx(0.98)
