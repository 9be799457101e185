"""Hidden tests of the exercises of chapter 14. The docstring is what a student reads where a test fails."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from medtutor.grading import given


@pytest.mark.points("14.1", 1)
def test_what_random_phrases_hold(student):
    """How much of a space do three, and how much do eight independent directions span? Look again at A and B."""
    prediction = student.value("prediction")
    assert (prediction["A"], prediction["B"]) == ("a part", "everything")


@pytest.mark.points("14.1", 1)
def test_what_many_phrases_hold(student):
    """Is it the number of phrases that counts, or what they span? Look again at C and D."""
    prediction = student.value("prediction")
    assert (prediction["C"], prediction["D"]) == ("a part", "nothing")


def recall(e, label, patient) -> list[float]:
    """Query by query."""
    found = []
    for i in range(len(e)):
        others = [j for j in range(len(e)) if patient[j] != patient[i]]
        nearest = max(others, key=lambda j: float(e[i] @ e[j]), default=None)
        possible = any(label[j] == label[i] for j in others)
        found.append(float(label[nearest] == label[i]) if possible else math.nan)
    return found


def pictures(seed: int, n: int, patients: int, classes: int):
    draw = torch.Generator().manual_seed(seed)
    patient = torch.randint(patients, (n,), generator=draw)
    label = torch.randint(classes, (n,), generator=draw)  # a patient may have lesions of several classes
    e = torch.randn(n, 6, generator=draw) + 2 * torch.randn(patients, 6, generator=draw)[patient]
    return F.normalize(e, dim=1).double(), label, patient


def nearly(answer, expected) -> bool:
    return torch.allclose(torch.as_tensor(answer).double(), torch.tensor(expected).double(), equal_nan=True)


@pytest.mark.points("14.2", 2)
def test_no_patient_finds_itself(student):
    """On a random archive some query finds a picture of its own patient, or not the nearest one of the others."""
    for seed in (21, 22):
        e, label, patient = pictures(seed, n=40, patients=12, classes=3)
        answer = student("recall_across_patients", e, label, patient)
        assert nearly(answer, recall(e, label, patient))


@pytest.mark.points("14.2", 1)
def test_queries_that_nobody_could_answer(student):
    """NaN belongs to the queries whose class no other patient has, and to no others; their pictures can be found."""
    e, label, patient = pictures(23, n=24, patients=6, classes=14)
    expected = recall(e, label, patient)
    assert any(map(math.isnan, expected))
    assert nearly(student("recall_across_patients", e, label, patient), expected)
    turn = torch.tensor([0.0, 0.1, 1.0])  # the nearest picture of the first is the only one of its class
    row = torch.stack([turn.cos(), turn.sin()], 1), torch.tensor([0, 1, 0]), torch.tensor([4, 5, 6])
    assert nearly(student("recall_across_patients", *row), [0.0, math.nan, 0.0])
    alone = student("recall_across_patients", e[:3], torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    assert nearly(alone, [math.nan] * 3)


@pytest.mark.points("14.2", 1)
def test_optimism_of_your_own_archive(student):
    """This is not the optimism of your archive. Both means go over the same queries. Is STUDENT your own id?"""
    names = given("14", "14-2-given")
    e, label, patient = names["archive"](student.id)
    honest = torch.tensor(recall(e, label, patient))
    asked = ~honest.isnan()
    expected = names["recall_at_1"](e, label)[asked].mean() - honest[asked].mean()
    assert float(student.value("optimism")) == pytest.approx(float(expected), abs=1e-4)


S, A = torch.linspace(-1, 1, 21).double(), torch.linspace(0, 2, 41).double()


def corrected(student) -> torch.Tensor:
    """The rule at all importances A (rows) and similarities S (columns)."""
    s, a = S.expand(len(A), -1).clone(), A[:, None].expand(-1, len(S)).clone()
    answer = torch.as_tensor(student("corrected", s, a))
    assert answer.shape == s.shape
    return answer.double()


@pytest.mark.points("14.3", 1)
def test_one_is_silence_and_the_ends_are_certain(student):
    """Promise 1: an importance of 1 changes nothing, 0 gives -1 and 2 gives 1, for every similarity."""
    table = corrected(student)
    assert torch.allclose(table[20], S, atol=1e-5)
    assert torch.allclose(table[0], torch.tensor(-1.0).double(), atol=1e-5)
    assert torch.allclose(table[-1], torch.tensor(1.0).double(), atol=1e-5)


@pytest.mark.points("14.3", 1)
def test_results_are_similarities(student):
    """Promise 2: every result lies between -1 and 1."""
    assert corrected(student).abs().max() <= 1 + 1e-5


@pytest.mark.points("14.3", 1)
def test_a_no_lowers_and_a_yes_raises(student):
    """Promise 3: for one and the same similarity, also a negative one, a larger importance gives a larger result."""
    rise = corrected(student).diff(dim=0)
    assert rise.min() >= -1e-5
    assert rise[:, 1:-1].min() > 1e-6


@pytest.mark.points("14.3", 1)
def test_the_better_place_stays_better(student):
    """Promise 4: of two places with equal importance (not 0 or 2) the better one stays strictly better."""
    assert corrected(student)[1:-1].diff(dim=1).min() > 1e-6


def greedy(flips) -> int:
    left, size = flips.any(1), 0
    while left.any():
        left, size = left & ~flips[:, flips[left].sum(0).argmax()], size + 1
    return size


def fewest(flips) -> int:
    asked = flips[flips.any(1)]
    sizes = (sum(knobs) for knobs in itertools.product((0, 1), repeat=flips.shape[1])
             if asked[:, torch.tensor(knobs).bool()].any(1).all())
    return min(sizes)


@pytest.mark.points("14.4", 2)
def test_no_list_is_shorter(student):
    """For some table your list leaves an image unexplained, or there is a shorter list."""
    draw = torch.Generator().manual_seed(24)
    tables = [torch.rand(n, k, generator=draw) < share for n, k, share in
              ((6, 3, 0.4), (10, 5, 0.3), (12, 6, 0.3), (14, 8, 0.25), (30, 8, 0.2), (5, 4, 0.9))]
    shared = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 1], [1, 0, 1], [0, 0, 1]]).bool()
    for flips in [*tables, shared, shared.flip(1).repeat(2, 1)]:
        knobs = student("fewest_knobs", flips)
        assert isinstance(knobs, list)
        assert knobs == sorted(set(knobs))
        assert not (flips.any(1) & ~flips[:, knobs].any(1)).any()
        assert len(knobs) == fewest(flips)


@pytest.mark.points("14.4", 1)
def test_a_table_without_flips(student):
    """Where no knob flips any image, the shortest list is empty."""
    assert student("fewest_knobs", torch.zeros(4, 3, dtype=torch.bool)) == []


@pytest.mark.points("14.4", 2)
def test_a_table_on_which_greed_fails(student):
    """On your table the greedy list is not longer than the shortest one, or the table is too large."""
    tricky = student.value("tricky")
    assert isinstance(tricky, torch.Tensor)
    assert tricky.dtype == torch.bool
    assert tricky.ndim == 2
    assert tricky.shape[0] <= 12
    assert tricky.shape[1] <= 6
    assert greedy(tricky) > fewest(tricky)


def cohort(seed: int, n: int, classes: int, questions: int, agree: bool = False):
    """Answers, labels and signs; with `agree` the signs are those of the data."""
    draw = torch.Generator().manual_seed(seed)
    z, label = torch.rand(n, questions, generator=draw), torch.randint(classes, (n,), generator=draw)
    z = (z + 0.4 * torch.rand(classes, questions, generator=draw)[label]) / 1.4
    pull = torch.stack([(1 / classes - (label == c).float()) @ z for c in range(classes)])
    prior = -pull.sign() if agree else torch.randint(-1, 2, (classes, questions), generator=draw).float()
    return z, label, prior


def broken(z, label, prior, strength: float) -> bool:
    """Whether some sign is broken by the first step, by the slope of the whole loss."""
    weight = torch.zeros(prior.shape, dtype=torch.double, requires_grad=True)
    loss = F.cross_entropy(z.double() @ weight.T, label) + strength * (torch.tanh(weight) - prior).abs().mean()
    (slope,) = torch.autograd.grad(loss, weight)
    return bool((slope * prior > 1e-9).any())


@pytest.mark.points("14.5", 2)
def test_least_strength_of_two_classes(student):
    """At your strength a sign is still broken, or a smaller one would do. Tried with two classes."""
    for seed, questions in ((31, 3), (32, 12), (33, 40)):
        case = cohort(seed, 60, 2, questions)
        strength = student("least_strength", *case)
        assert isinstance(strength, float)
        assert broken(*case, strength - 1e-3)
        assert not broken(*case, strength + 1e-3)


@pytest.mark.points("14.5", 1)
def test_least_strength_of_four_classes(student):
    """At your strength a sign is still broken, or a smaller one would do. Tried with four classes, one of them rare."""
    z, label, prior = cohort(34, 80, 4, 9)
    rows = (label != 3) | (torch.arange(80) % 4 == 0)
    case = z[rows], label[rows], prior
    strength = student("least_strength", *case)
    assert broken(*case, strength - 1e-3)
    assert not broken(*case, strength + 1e-3)


@pytest.mark.points("14.5", 1)
def test_data_that_agree_need_no_prior(student):
    """Where the data agree with every sign the least strength is 0, neither negative nor more."""
    assert student("least_strength", *cohort(35, 50, 2, 6, agree=True)) == pytest.approx(0.0, abs=1e-6)
    z, label, prior = cohort(36, 50, 2, 6)
    assert student("least_strength", z, label, torch.zeros_like(prior)) == pytest.approx(0.0, abs=1e-6)
