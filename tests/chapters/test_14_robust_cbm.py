"""Concept bottleneck of phrases: the chapter's own definitions against naive references, limits and invariances."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from medtutor.cohort import Cohort


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def problem(n=240, d=6):
    x = unit(n, d)
    return x, (x[:, 0] + 0.4 * torch.randn(n) > 0).long()


def loss_of(head, x, label):
    return float(F.cross_entropy(head.logits(x), label))


# ---- scores and head

def test_scores_are_cosines(ch):
    features, concepts = unit(7, 5), unit(4, 5)
    s = ch.concept_scores(features, concepts)
    for n in range(7):
        for k in range(4):
            naive = sum(float(a * b) for a, b in zip(features[n], concepts[k], strict=True))
            assert float(s[n, k]) == pytest.approx(naive, abs=1e-6)
    assert s.abs().max() <= 1
    assert torch.allclose(ch.concept_scores(concepts, concepts).diagonal(), torch.ones(4), atol=1e-6)


def test_contributions_and_bias_are_the_logit(ch):
    x, label = problem()
    head = ch.fit_head(x, label)
    parts = head.contributions(x)
    assert parts.shape == (240, 2, 6)
    assert torch.allclose(parts.sum(2) + head.bias, head.logits(x), atol=1e-5)
    naive = head.weight[1, 2] * (x[5, 2] - x[:, 2].mean()) / x[:, 2].std()
    assert torch.allclose(parts[5, 1, 2], naive, atol=1e-5)


def test_head_is_the_regularised_logistic_regression(ch):
    x, label = problem()
    head = ch.fit_head(x, label, decay=0.01, steps=1500)
    z = (x - x.mean(0)) / x.std(0)
    # rows +-w/2 have the squared norm |w|^2 / 2, so decay corresponds to C = 1 / (decay n)
    reference = LogisticRegression(C=1 / (0.01 * len(x)), max_iter=2000, tol=1e-8).fit(z, label)
    ours = head.logits(x)[:, 1] - head.logits(x)[:, 0]
    assert torch.allclose(ours, torch.tensor(reference.decision_function(z)).float(), atol=0.02)


def test_units_of_a_score_do_not_matter(ch):
    x, label = problem()
    one, two = ch.fit_head(x, label), ch.fit_head(300 * x + 7, label)
    assert torch.allclose(one.logits(x), two.logits(300 * x + 7), atol=1e-2)


def test_offset_is_added_before_the_loss(ch):
    x, label = problem()
    solved = 20.0 * F.one_hot(label, 2)
    assert ch.fit_head(x, label, offset=solved).weight.abs().max() < ch.fit_head(x, label).weight.abs().max() / 5


# ---- what the bottleneck is

def test_as_many_independent_concepts_as_dimensions_make_the_probe(ch):
    x, label = problem()
    options = {"decay": 0.0, "steps": 1500}
    probe = loss_of(ch.fit_head(x, label, **options), x, label)
    s = ch.concept_scores(x, F.normalize(torch.eye(6) + 0.3 * unit(6, 6), dim=1))
    assert loss_of(ch.fit_head(s, label, **options), s, label) == pytest.approx(probe, abs=2e-3)
    narrow = ch.concept_scores(x, unit(2, 6))
    assert loss_of(ch.fit_head(narrow, label, **options), narrow, label) > probe + 0.02


def test_saying_a_concept_twice_changes_no_answer(ch):
    x, label = problem()
    s = ch.concept_scores(x, unit(4, 6))
    twice = torch.cat([s, s[:, :1]], 1)
    one, two = (ch.fit_head(z, label, decay=0.0, steps=1200) for z in (s, twice))
    assert torch.allclose(one.logits(s), two.logits(twice), atol=0.03)


def test_what_is_orthogonal_to_all_concepts_cannot_pass(ch):
    """A confounder beside the concepts fools the probe and not the bottleneck."""
    n = 400
    label = torch.arange(n) % 2
    sign = 2.0 * label - 1
    disease = sign + 1.2 * torch.randn(n)

    def films(confounder):
        return torch.stack([disease, 3 * confounder, torch.randn(n)], 1)

    concepts = torch.tensor([[1.0, 0, 0]])
    train, turned = films(sign), films(-sign)
    probe = ch.fit_head(train, label)
    narrow = ch.fit_head(ch.concept_scores(train, concepts), label)
    right = [float((logits.argmax(1) == label).float().mean()) for logits in (
        probe.logits(turned), narrow.logits(ch.concept_scores(turned, concepts)))]
    assert right[0] < 0.3
    assert right[1] > 0.7


def test_trained_numbers(ch):
    head = ch.Head(torch.zeros(len(ch.CLINICAL)), torch.ones(len(ch.CLINICAL)), classes=2)
    assert head.weight.numel() + head.bias.numel() == 2 * (12 + 1)


def test_phrases_name_neither_class_nor_patient(ch):
    text = " ".join(ch.CLINICAL)
    assert not any(word in text.split() for word in ("pneumonia", "failure", "man", "woman", "portable", "pa", "ap"))
    assert len(ch.CLINICAL) == len(ch.PATIENT) == 12


# ---- the film-text model

def test_reports_become_bags_without_denials(ch):
    report = "INDICATION: 63-year-old man, cough.\nFINDINGS:\n- Mild pulmonary edema.\n- No pleural effusion.\n"
    kept = ch.sentences(report)
    assert "mild pulmonary edema" in kept
    assert not any("effusion" in sentence for sentence in kept)
    bag = ch.bags([["mild edema mild"], ["xyzzy", "edema"]], {"edema": 0, "mild": 1})
    assert torch.allclose(bag[0, 0], torch.tensor([1 / 3, 2 / 3]))
    assert not bag[1, 0].any()
    assert torch.equal(bag[1, 1], torch.tensor([1.0, 0.0]))
    assert ch.vocabulary(["a heart", "a lung", "heart"], least=2) == {"a": 0, "heart": 1}


def test_towers_give_unit_vectors_and_ignore_padding(ch):
    model = ch.ImageText(words=9, dim=8, width=12).eval()
    assert torch.allclose(model.image(torch.randn(3, 1, 64, 64)).norm(dim=1), torch.ones(3), atol=1e-5)
    bag = torch.rand(2, 3, 9)
    padded = torch.cat([bag, torch.zeros(2, 2, 9)], 1)
    assert torch.allclose(model.phrase(bag), model.phrase(padded), atol=1e-6)
    assert torch.allclose(model.phrase(bag[:, [2, 0, 1]]), model.phrase(bag), atol=1e-6)


def test_contrast_is_symmetric_infonce(ch, monkeypatch):
    model = ch.ImageText(words=9, dim=8, width=12).eval()
    batch = Cohort(image=torch.randn(4, 1, 64, 64), meta={"bags": torch.rand(4, 3, 9)})
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.zeros(*shape))  # every sentence is kept
    value = float(ch.contrast(model, batch).detach())
    u, t = model.image(batch.image).detach(), model.phrase(batch.meta["bags"]).detach()
    scale, total = math.exp(float(model.log_scale)), 0.0
    for i in range(4):
        rows = [scale * float(u[i] @ t[j]) for j in range(4)]
        columns = [scale * float(u[j] @ t[i]) for j in range(4)]
        total -= sum(math.log(math.exp(v[i]) / sum(map(math.exp, v))) for v in (rows, columns)) / 2
    assert value == pytest.approx(total / 4, abs=1e-5)


# ---- the cohort and its ties

def test_local_contrast_has_no_brightness_and_no_slow_shade(ch):
    film = torch.rand(2, 1, 64, 64)
    out = ch.local_contrast(film)
    assert torch.allclose(out.mean((1, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(out.std((1, 2, 3)), torch.ones(2), atol=1e-5)
    assert torch.allclose(ch.local_contrast(5 * film + 2), out, atol=1e-4)


def test_a_tie_is_a_choice_of_films(ch):
    films = ch.breathless(60, seed=5)
    for tie in ch.CONFOUNDERS:
        same = ch.agrees(films, tie)
        k = ch.CONFOUNDERS.index(tie)
        assert torch.equal(same, films.meta["attributes"][:, k] == films.label)
        assert bool(same[ch.tied(films, tie, 15)].all())
        rows = ch.tied(films, tie, 20, agree=0.75)
        assert len(set(rows.tolist())) == 20
        assert int(same[rows].sum()) == 15


def test_pacemakers_follow_the_share_and_nothing_else_moves(ch):
    free, all_of_them = ch.breathless(24, seed=6), ch.breathless(24, seed=6, with_pacemaker=1.0)
    assert torch.equal(all_of_them.meta["attributes"][:, 2], all_of_them.label)
    assert torch.equal(free.meta["attributes"][:, :2], all_of_them.meta["attributes"][:, :2])
    assert torch.equal(free.meta["findings"], all_of_them.meta["findings"])
    reversed_ = ch.breathless(24, seed=6, with_pacemaker=0.0)
    assert torch.equal(reversed_.meta["attributes"][:, 2], 1 - reversed_.label)


def test_scores_on_reversed_films(ch, monkeypatch):
    attributes = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]])
    films = Cohort(image=torch.zeros(4, 1, 2, 2), label=torch.tensor([0, 1, 0, 0]), meta={"attributes": attributes})
    for name in ("on_part", "reversed_mean"):
        monkeypatch.setitem(getattr(ch, name).__globals__, "test", films)
    table = np.array([[1.0, 0.0, 1.0, 0.0]])
    assert ch.on_part(table, "sex").tolist() == [[0.0]]
    assert ch.on_part(table, "sex", reverse=False).tolist() == [[1.0, 0.0, 1.0]]
    by_tie = {"sex": table, "site": 1 - table, "pacemaker": table}
    mean = ch.reversed_mean(by_tie)
    assert mean[0, 0] == 0.0  # reversed for the site only
    assert mean[0, 3] == 0.0  # reversed for the sex only
    assert np.isnan(mean[0, 1:3]).all()
