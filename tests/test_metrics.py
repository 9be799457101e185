"""Metrics against naive references and sklearn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from medtutor import metrics

MASKS = st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(2, 6)).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int64, shape, elements=st.integers(0, 2))] * 2))


@pytest.fixture(scope="module", autouse=True)
def monai():
    """Import it once, outside the time that hypothesis allows an example."""
    pytest.importorskip("monai.metrics")


def reference(pred, mask, classes, score):
    """The definition as sets of pixels, case by case."""
    rows = []
    for p, m in zip(pred, mask, strict=True):
        row = []
        for k in range(1, classes):
            a, b = {tuple(i) for i in np.argwhere(p == k)}, {tuple(i) for i in np.argwhere(m == k)}
            row.append(score(a, b) if a | b else np.nan)
        rows.append(row)
    return np.array(rows)


@settings(max_examples=40)
@given(MASKS)
def test_dice_and_iou_equal_their_definition_as_sets(pair):
    pred, mask = pair
    overlap = metrics.dice(torch.from_numpy(pred), torch.from_numpy(mask), 3)
    expected = reference(pred, mask, 3, lambda a, b: 2 * len(a & b) / (len(a) + len(b)))
    np.testing.assert_allclose(overlap, expected, rtol=1e-5)
    jaccard = metrics.iou(torch.from_numpy(pred), torch.from_numpy(mask), 3)
    np.testing.assert_allclose(jaccard, reference(pred, mask, 3, lambda a, b: len(a & b) / len(a | b)), rtol=1e-5)
    np.testing.assert_allclose(overlap, 2 * jaccard / (1 + jaccard), rtol=1e-5)
    np.testing.assert_allclose(overlap, metrics.dice(torch.from_numpy(mask), torch.from_numpy(pred), 3), rtol=1e-5)


def test_an_absent_class_is_nan_a_false_alarm_is_zero():
    mask = torch.zeros(3, 4, 4, dtype=torch.long)
    pred = mask.clone()
    pred[1, 0, 0] = 1
    mask[2] = 1
    assert metrics.dice(pred, mask, 2).squeeze(1).nan_to_num(-1).tolist() == [-1, 0, 0]
    assert metrics.iou(pred, mask, 2).squeeze(1).nan_to_num(-1).tolist() == [-1, 0, 0]
    assert metrics.hd95(pred, mask, 2).squeeze(1).nan_to_num(-1, posinf=99).tolist() == [-1, 99, 99]


def test_volumes_and_pictures_agree():
    generator = torch.Generator().manual_seed(0)
    pred, mask = torch.randint(0, 3, (2, 2, 5, 6, 4), generator=generator)
    flat = metrics.dice(pred.flatten(2), mask.flatten(2), 3)
    assert torch.allclose(metrics.dice(pred, mask, 3), flat)


@pytest.mark.parametrize("spacing", [1.0, 0.5])
def test_hd95_equals_the_percentile_of_surface_distances(spacing):
    y, x = np.mgrid[:24, :24]
    a, b = (y - 10) ** 2 + (x - 10) ** 2 < 40, (y - 13) ** 2 + (x - 11) ** 2 < 60

    def directed(one, other):
        edge = one & ~ndimage.binary_erosion(one)
        other_edge = other & ~ndimage.binary_erosion(other)
        return np.percentile(ndimage.distance_transform_edt(~other_edge, sampling=spacing)[edge], 95)

    found = metrics.hd95(torch.from_numpy(a).long()[None], torch.from_numpy(b).long()[None], 2, spacing=spacing)
    assert float(found) == pytest.approx(max(directed(a, b), directed(b, a)), rel=1e-5)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 7.0]), st.booleans()), min_size=2, max_size=40)
       .filter(lambda rows: 0 < sum(label for _, label in rows) < len(rows)))
def test_the_mean_of_auc_by_case_is_the_auc_with_ties(rows):
    score, label = (torch.tensor(column) for column in zip(*rows, strict=True))
    placement = metrics.auc_by_case(score, label.long())
    assert float(placement.mean()) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    for positive in (True, False):
        assert float(placement[label == positive].mean()) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    monotone = metrics.auc_by_case(score.exp() * 3 + 1, label.long())
    assert torch.allclose(placement, monotone)
    assert torch.allclose(1 - placement, metrics.auc_by_case(-score, label.long()))


def test_auc_by_case_is_each_cases_share_of_won_comparisons():
    score, label = torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([1, 1, 0, 0])
    assert metrics.auc_by_case(score, label).tolist() == [1.0, 0.75, 0.75, 1.0]


@settings(max_examples=25)
@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5), elements=st.integers(0, 3)))
def test_one_hot_is_undone_by_argmax(mask):
    layers = metrics.one_hot(torch.from_numpy(mask), 4)
    assert layers.shape == (mask.shape[0], 4, *mask.shape[1:])
    assert np.array_equal(layers.argmax(1), mask)
    assert bool((layers.sum(1) == 1).all())


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda m: metrics.dice(m, m[:1], 2), "same shape"),
    (lambda m: metrics.dice(m, m + 1, 2), r"lie in 0..1, but the mask has 1..2"),
    (lambda m: metrics.dice(m, m, 1), "counts the background"),
    (lambda m: metrics.iou(m.float(), m, 2), "argmax"),
    (lambda m: metrics.auc_by_case(torch.zeros(3), torch.zeros(3)), "at least one case of each"),
    (lambda m: metrics.auc_by_case(torch.zeros(3), torch.tensor([0, 1, 2])), "0 or 1"),
    (lambda m: metrics.auc_by_case(torch.zeros(3, 1), torch.zeros(3)), r"both be \(N,\)"),
    (lambda m: metrics.auc_by_case(torch.tensor([0.0, float("nan")]), torch.tensor([0, 1])), "finite"),
])
def test_misuse_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.tensor([[[0, 1]], [[1, 0]]]))
