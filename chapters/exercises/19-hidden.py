"""Hidden tests of the exercises of chapter 19. A docstring is what a student reads when the test fails."""

import itertools
import math

import pytest
import torch

from medtutor.exercise import student_seed


def tensor(answer, shape):
    """A returned tensor or array as float64, of the shape asked for."""
    answer = torch.as_tensor(answer).double()
    assert tuple(answer.shape) == shape
    return answer


def close(a, b, tolerance=1e-4):
    return torch.allclose(torch.as_tensor(a).double(), torch.as_tensor(b).double(), tolerance, tolerance, True)


# ---- 19.1

def numbers(student):
    """What the notebook draws for this student."""
    seed = student_seed(student.id, "19.1")
    right = ((0.92, 0.94, 0.96)[seed % 3], (0.88, 0.90)[seed // 3 % 2], (0.80, 0.82, 0.84, 0.86)[seed // 6 % 4])
    return right, (0.95, 0.97, 0.98, 0.99)[seed // 24 % 4]


@pytest.mark.points("19.1", 1)
def test_the_code_is_as_right_as_its_errors_overlap(student):
    """One of the three shares is not right for your numbers. Is STUDENT your id? Count the films without any error."""
    (a, b, c), _ = numbers(student)
    said = student.value("prediction")
    truth = {"independent": a * b * c, "together": min(a, b, c), "apart": a + b + c - 2}
    for key, share in truth.items():
        assert abs(float(said[key]) - share) < 0.006


@pytest.mark.points("19.1", 1)
def test_how_many_findings_a_template_may_have(student):
    """The number of findings is not right for your share. With n independent bits, how does the share of reports that
    are right in every bit fall with n?"""
    _, each = numbers(student)
    said = student.value("prediction")["findings"]
    assert said == int(said)
    assert each ** int(said) >= 0.5 > each ** (int(said) + 1)


# ---- 19.2

def rises(seen, blind, tokens):
    """Word by word, place by place."""
    costs = [[] for _ in range(seen.shape[2])]
    for n, t in itertools.product(range(tokens.shape[0]), range(1, tokens.shape[1])):
        word = int(tokens[n, t])
        if word:
            p, q = (z[n, t - 1].double().softmax(0)[word] for z in (seen, blind))
            costs[word].append(math.log(p / q))
    return torch.tensor([sum(c) / len(c) if c else math.nan for c in costs], dtype=torch.double)


def audit(seed, n=7, places=9, words=12):
    """Logits with and without the film, and reports of different lengths in which word `words - 1` never occurs."""
    draw = torch.Generator().manual_seed(seed)
    seen, blind = (3 * torch.randn(n, places, words, generator=draw) for _ in range(2))
    tokens = torch.randint(2, words - 1, (n, places), generator=draw)
    length = torch.randint(4, places + 1, (n, 1), generator=draw)
    tokens[torch.arange(places) >= length] = 0
    tokens[:, 0] = 1
    return seen, blind, tokens


@pytest.mark.points("19.2", 2)
def test_the_rise_of_each_word(student):
    """On longer reports of different lengths the rises differ from the definition. Check which logits belong to which
    word, that padding does not count, and by what you divide."""
    for seed in (1, 2):
        given = audit(seed)
        assert close(tensor(student("rise_by_word", *given), (12,)), rises(*given))


@pytest.mark.points("19.2", 1)
def test_a_number_added_to_all_logits_changes_nothing(student):
    """Adding the same number to all logits of a place leaves every probability as it is, so no rise may change."""
    seen, blind, tokens = audit(3)
    shifted = seen + torch.linspace(-4, 4, seen.shape[1])[:, None]
    assert close(tensor(student("rise_by_word", shifted, blind, tokens), (12,)), rises(seen, blind, tokens))


@pytest.mark.points("19.2", 1)
def test_words_that_nobody_predicts(student):
    """The begin token, padding and words that do not occur should have NaN; what stands where the padding is must not
    change any other word."""
    seen, blind, tokens = audit(4)
    seen[:, -1] = 50 * torch.randn(seen.shape[2], generator=torch.Generator().manual_seed(9))  # predicts no word
    rise = tensor(student("rise_by_word", seen, blind, tokens), (12,))
    assert rise[[0, 1, 11]].isnan().all()
    assert close(rise, rises(seen, blind, tokens))


# ---- 19.3

LABELS = ("present", "absent", "uncertain")
USELESS = ("chest", "lungs", "heart", "size", "spine", "clear")
TEXTS = ("nodule", "notched ribs", "maybe-mass", "normal vessels", "effusion", "left lower lobe", *USELESS)


def sentences():
    """Sentences of up to three entities with all labels."""
    for k, labels in enumerate(itertools.chain(*(itertools.product(LABELS, repeat=n) for n in (1, 2, 3)))):
        yield [(TEXTS[(5 * k + 3 * j + j * j) % len(TEXTS)], label) for j, label in enumerate(labels)]


def runs(found):
    """The runs that stay: (words, label)."""
    out = []
    for text, label in found:
        if out and out[-1][1] == label:
            out[-1][0].append(text)
        else:
            out.append(([text], label))
    return [(" ".join(texts), label) for texts, label in out
            if label != "present" or len(texts) > 1 or texts[0] not in USELESS]


def written(found):
    return " . ".join({"present": "", "absent": "no ", "uncertain": "maybe "}[label] + words
                      for words, label in runs(found))


@pytest.mark.points("19.3", 2)
def test_every_run_keeps_its_label(student):
    """In some sentence an entity ends up under another cue, in another order, or is lost. Try sentences in which a
    label comes twice, with another one between, and sentences of one useless entity with each label."""
    for found in sentences():
        assert student("serialise", found) == written(found)
    assert student("serialise", []) == ""


@pytest.mark.points("19.3", 1)
def test_sequences_are_read_back(student):
    """`parse` does not give the words and labels of a sequence. Try words that begin with the letters of a cue."""
    for found in sentences():
        assert [tuple(pair) for pair in student("parse", written(found))] == runs(found)
    assert list(student("parse", "")) == []


@pytest.mark.points("19.3", 1)
def test_there_and_back_again(student):
    """Written by your `serialise` and read by your `parse`, a sentence should come back with every label."""
    for found in sentences():
        assert [tuple(pair) for pair in student("parse", student("serialise", found))] == runs(found)


# ---- 19.4

def ratios(probability):
    """Positive over the strongest other state (N, K)."""
    return probability[:, 1] / probability[:, [0, 2, 3]].amax(1)


def validation(seed, n=41, findings=4):
    draw = torch.Generator().manual_seed(seed)
    probability = (1.5 * torch.randn(n, 4, findings, generator=draw, dtype=torch.double)).softmax(1)
    return probability, torch.randint(4, (n, findings), generator=draw)


@pytest.mark.points("19.4", 2)
def test_the_wanted_recall_is_reached(student):
    """With your offsets fewer films are named than asked for. Round the number of films up, not down, and look at films
    that truly have the finding."""
    for seed, recall in itertools.product((1, 2), (0.25, 0.5, 0.75, 1.0)):
        probability, state = validation(seed)
        pi = tensor(student("offsets_for", probability, state, recall), (4,))
        named = ratios(probability) >= pi * (1 - 1e-4)
        for k in range(4):
            assert float(named[state[:, k] == 1, k].double().mean()) >= recall


@pytest.mark.points("19.4", 2)
def test_no_larger_offset_would_do(student):
    """A smaller intervention would reach the recall as well: pi should be the largest that does, and at most 1."""
    for seed, recall in itertools.product((3, 4), (0.25, 0.5, 0.75, 1.0)):
        probability, state = validation(seed)
        pi = tensor(student("offsets_for", probability, state, recall), (4,))
        assert bool((pi <= 1 + 1e-6).all())
        named = ratios(probability) >= pi * (1 + 1e-3)
        for k in range(4):
            reached = float(named[state[:, k] == 1, k].double().mean())
            assert reached < recall or pi[k] > 1 - 1e-6


@pytest.mark.points("19.4", 1)
def test_a_finding_without_films(student):
    """One finding is in no validation film. It should keep pi = 1, and the others should not notice."""
    probability, state = validation(5)
    state[:, 2] = torch.where(state[:, 2] == 1, 0, state[:, 2])
    pi = tensor(student("offsets_for", probability, state, 0.75), (4,))
    kept = [0, 1, 3]
    alone = tensor(student("offsets_for", probability[:, :, kept], state[:, kept], 0.75), (3,))
    assert close(pi[2], 1.0)
    assert close(pi[kept], alone)
    assert bool((alone < 1).any())


# ---- 19.5

def distinct(written, equal):
    """With Python's sets."""
    sets = [set(row.nonzero()[:, 0].tolist()) for row in written]

    def mean(i, some):
        values = [len(sets[i] & sets[j]) / len(sets[i] | sets[j]) if sets[i] | sets[j] else 1.0 for j in some]
        return sum(values) / len(values) if values else math.nan

    everyone = range(len(sets))
    return torch.tensor([mean(i, [j for j in everyone if equal[i, j]])
                         - mean(i, [j for j in everyone if not equal[i, j] and i != j]) for i in everyone]).double()


def studies(seed, n=14, words=6):
    """Sparse reports, some of them empty, in groups of equivalents of different sizes."""
    draw = torch.Generator().manual_seed(seed)
    group = torch.randint(6, (n,), generator=draw)
    equal = (group[:, None] == group[None]) & ~torch.eye(n, dtype=torch.bool)
    return torch.rand(n, words, generator=draw) < 0.3, equal


@pytest.mark.points("19.5", 2)
def test_scores_of_random_reports(student):
    """On sparse reports, some of them empty, the scores differ from the definition. Look at the two means, at the
    diagonal, and at two empty reports."""
    for seed in (1, 2, 3):
        given = studies(seed)
        assert close(tensor(student("distinct_consistency", *given), (14,)), distinct(*given))


@pytest.mark.points("19.5", 2)
def test_parrots_get_nothing(student):
    """A writer of one report for everybody, of every word, or of no word should get exactly 0."""
    draw, equal = torch.Generator().manual_seed(4), torch.block_diag(*[1 - torch.eye(3)] * 4).bool()
    one = (torch.rand(1, 6, generator=draw) < 0.5).expand(12, 6).clone()
    for said in (one, torch.ones(12, 6).bool(), torch.zeros(12, 6).bool()):
        assert close(tensor(student("distinct_consistency", said, equal), (12,)), torch.zeros(12))
    good = torch.eye(4).repeat_interleave(3, 0).bool()
    assert close(tensor(student("distinct_consistency", good, equal), (12,)), torch.ones(12))


@pytest.mark.points("19.5", 1)
def test_where_the_score_is_not_defined(student):
    """A study without equivalents, or without anybody to differ from, should have NaN, and only such a study."""
    said = torch.tensor([[1, 0], [1, 0], [0, 1], [1, 1]]).bool()
    one_pair = torch.zeros(4, 4).bool()
    one_pair[0, 1] = one_pair[1, 0] = True
    assert close(tensor(student("distinct_consistency", said, one_pair), (4,)), distinct(said, one_pair))
    everyone = ~torch.eye(4).bool()
    assert tensor(student("distinct_consistency", said, everyone), (4,)).isnan().all()
