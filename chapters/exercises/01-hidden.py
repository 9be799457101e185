"""Hidden tests of the exercises of chapter 01. The docstring is what a student reads where a test fails."""

import itertools

import pytest
import torch

from medtutor.grading import given


@pytest.mark.points("01.1", 1)
def test_two_kidneys_that_no_network_can_tell_apart(student):
    """In two of the cases both kidneys ask the same question of the same pixels. Look again at A and B."""
    prediction = student.value("prediction")
    assert (prediction["A"], prediction["B"]) == ("equal", "equal")


@pytest.mark.points("01.1", 1)
def test_two_kidneys_that_differ(student):
    """In two of the cases the features of the two kidneys differ before any attention. Look again at C and D."""
    prediction = student.value("prediction")
    assert (prediction["C"], prediction["D"]) == ("different", "different")


def scores(tp, fp, fn, tn):
    return tp / (tp + fp), tn / (tn + fp), 2 * tp / (2 * tp + fp + fn)


@pytest.mark.points("01.2", 2)
def test_the_matrix_comes_back(student):
    """From the scores of a matrix your function should find its four shares again, also where one of them is large."""
    draw = torch.Generator().manual_seed(12)
    for counts in torch.randint(1, 400, (12, 4), generator=draw).tolist() + [[3, 1, 2, 90_000], [900, 1, 60, 2]]:
        answer = student("matrix_behind", *scores(*counts))
        assert answer is not None
        assert list(answer) == pytest.approx([v / sum(counts) for v in counts], rel=1e-6, abs=1e-9)


@pytest.mark.points("01.2", 1)
def test_no_miss_at_all_is_possible(student):
    """A segmentation without a single missed pixel is a matrix like any other: fn is 0, not None."""
    answer = student("matrix_behind", *scores(40, 10, 0, 50))
    assert answer is not None
    assert list(answer) == pytest.approx([0.4, 0.1, 0.0, 0.5], abs=1e-9)


@pytest.mark.points("01.2", 1)
def test_impossible_scores_are_refused(student):
    """Where precision and Dice do not go together, a share would be negative: return None, and only there."""
    assert student("matrix_behind", 0.30, 0.9, 0.90) is None
    assert student("matrix_behind", 0.80, 0.99, 0.89) is None  # the largest possible Dice is 0.8889
    assert student("matrix_behind", 0.80, 0.99, 0.88) is not None


def index(mask, p, a, b) -> float:
    hit = p[mask].sum()
    return float(hit / (hit + a * (1 - p[mask]).sum() + b * p[~mask].sum()))


def answered(student, p, a, b):
    mask = student("best_mask", p, a, b)
    assert isinstance(mask, torch.Tensor)
    assert mask.dtype == torch.bool
    assert mask.shape == p.shape
    return mask


@pytest.mark.points("01.3", 2)
def test_no_mask_is_better_on_small_cases(student):
    """Tried against all masks of eight voxels, yours is not always the best."""
    draw = torch.Generator().manual_seed(13)
    masks = [torch.tensor(m) for m in itertools.product((False, True), repeat=8) if any(m)]
    for a, b in ((0.5, 0.5), (0.3, 0.7), (0.9, 0.1), (1.0, 1.0), (0.2, 2.0)):
        p = torch.rand(8, generator=draw).double() ** 2
        best = max(index(m, p, a, b) for m in masks)
        assert index(answered(student, p, a, b), p, a, b) == pytest.approx(best, abs=1e-6)


@pytest.mark.points("01.3", 1)
def test_thousands_of_voxels(student):
    """With some thousands of voxels, a voxel just above the best cut is left out or one below it is kept."""
    draw = torch.Generator().manual_seed(14)
    p = torch.cat([torch.rand(2000, generator=draw), 0.2 * torch.rand(4000, generator=draw)]).double()
    for a in (0.3, 0.5):
        mask = answered(student, p, a, 1 - a)
        cut = a * index(mask, p, a, 1 - a)
        assert p[mask].min() >= cut - 3e-3
        assert p[~mask].max() <= cut + 3e-3


@pytest.mark.points("01.3", 1)
def test_a_faint_lesion_is_not_lost(student):
    """Where no probability reaches 0.5 there is still a best mask, and it is not empty."""
    p = torch.tensor([0.02, 0.41, 0.38, 0.01, 0.40, 0.05]).double()
    assert answered(student, p, 0.5, 0.5).tolist() == [False, True, True, False, True, False]


def enrichment(attention, lesion):
    """E (j, i)."""
    factor, attention = lesion.shape[-1] // attention.shape[-1], attention.double()
    share = lesion.double().unflatten(2, (-1, factor)).unflatten(1, (-1, factor)).mean((2, 4))
    return torch.einsum("jhw,ihw->ji", attention, share) / attention.sum((1, 2))[:, None] / share.mean((1, 2))


def evidence(attention, lesion):
    e, n = enrichment(attention, lesion), len(attention)
    return torch.stack([e[i, i] - torch.stack([e[j, i] for j in range(n) if j != i]).mean() for i in range(n)])


@pytest.mark.points("01.4", 2)
def test_evidence_of_each_patient(student):
    """On random maps and lesions, D is not E(i, i) minus the mean of E(j, i) over the other patients."""
    draw = torch.Generator().manual_seed(15)
    for n, cells, size in ((2, 4, 8), (5, 4, 16), (7, 8, 8)):
        attention = torch.rand(n, cells, cells, generator=draw) ** 3
        lesion = torch.rand(n, size, size, generator=draw) < 0.3
        d = torch.as_tensor(student("case_specific", attention, lesion)).double()
        assert d.shape == (n,)
        assert torch.allclose(d, evidence(attention, lesion), atol=1e-4)


@pytest.mark.points("01.4", 1)
def test_a_map_that_never_changes_proves_nothing(student):
    """One and the same map for every patient should give D = 0 for each of them."""
    draw = torch.Generator().manual_seed(16)
    attention = torch.rand(1, 8, 8, generator=draw).expand(6, 8, 8).clone()
    lesion = torch.rand(6, 32, 32, generator=draw) < torch.linspace(0.1, 0.9, 6)[:, None, None]
    assert torch.as_tensor(student("case_specific", attention, lesion)).double().abs().max() < 1e-4


@pytest.mark.points("01.4", 2)
def test_finders_of_your_own_networks(student):
    """Not these networks see the lesion of their patient, or not with this mean D. Is STUDENT your own id?"""
    networks, lesion = given("01", "01-4-given")["reading_room"](student.id)
    means = {name: float(evidence(maps, lesion).mean()) for name, maps in networks.items()}
    assert student.value("finders") == pytest.approx({k: v for k, v in means.items() if v > 0.4}, abs=0.01)


def stream(student, q, k, v, sizes):
    state = None
    for keys, values in zip(k.split(sizes), v.split(sizes), strict=True):
        state = student("add_block", state, q, keys, values)
        assert isinstance(state, tuple)
        assert len(state) == 3
    return state[2] / state[1][:, None]


@pytest.mark.points("01.5", 2)
def test_blocks_give_the_attention_over_all_keys(student):
    """Cut the keys into blocks in another way, and the result should stay the attention over all of them."""
    draw = torch.Generator().manual_seed(17)
    q, k, v = (torch.randn(n, c, generator=draw).double() for n, c in ((6, 4), (20, 4), (20, 3)))
    exact = (2 * q @ k.T).softmax(1) @ v
    for sizes in ((20,), (10, 10), (1, 18, 1), (3,) * 6 + (2,)):
        assert torch.allclose(stream(student, 2 * q, k, v, sizes), exact, atol=1e-8)


@pytest.mark.points("01.5", 1)
def test_large_logits(student):
    """With logits of some thousands, of both signs, the result is not finite or no longer right."""
    draw = torch.Generator().manual_seed(18)
    q, k, v = (torch.randn(n, c, generator=draw) for n, c in ((5, 4), (12, 4), (12, 2)))
    q, k = 30 * q, 30 * k
    result = stream(student, q, k, v, (4, 4, 4))
    assert result.isfinite().all()
    assert torch.allclose(result, (q @ k.T).softmax(1) @ v, atol=1e-4)


@pytest.mark.points("01.5", 1)
def test_the_order_of_blocks_does_not_matter(student):
    """Whether the block with the largest logits comes first or last should not change the result."""
    draw = torch.Generator().manual_seed(19)
    q, k, v = (torch.rand(n, c, generator=draw).double() for n, c in ((4, 3), (9, 3), (9, 2)))
    k = k * torch.arange(1, 10)[:, None]  # positive features: later keys have larger logits for every query
    rising, falling = stream(student, q, k, v, (3, 3, 3)), stream(student, q, k.flip(0), v.flip(0), (3, 3, 3))
    assert torch.allclose(rising, falling, atol=1e-9)
    assert torch.allclose(rising, (q @ k.T).softmax(1) @ v, atol=1e-9)
