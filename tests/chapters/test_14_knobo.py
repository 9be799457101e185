"""KnoBo: textbook to questions, reports to detectors, signs to weights; naive references, limits, published counts."""

import math

import pytest
import torch
import torch.nn.functional as F

from medtutor.language import Fact

# ---- the prior

def test_prior_loss_lies_between_0_and_2_and_reaches_neither_end(ch):
    prior = torch.tensor([[1.0, -1, 0], [-1, 1, 0]])
    for scale in (0.0, 0.5, 3.0, -3.0):
        weight = scale * prior
        naive = sum(abs(math.tanh(float(w)) - float(p)) for w, p in zip(weight.flatten(), prior.flatten(), strict=True))
        assert float(ch.prior_loss(weight, prior)) == pytest.approx(naive / 6, abs=1e-6)
    signs = prior[:, :2]
    assert 0 < float(ch.prior_loss(4 * signs, signs)) < 0.01
    assert float(ch.prior_loss(-40 * signs, signs)) == pytest.approx(2.0)
    losses = [float(ch.prior_loss(scale * signs, signs)) for scale in (0.5, 1, 2, 4)]
    assert losses == sorted(losses, reverse=True), "an entry of +-1 pushes its weight outwards"


def test_strength_0_is_a_plain_bottleneck_and_strength_holds_the_signs(ch):
    x = torch.rand(200, 3)
    label = (x[:, 0] > 0.5).long()
    prior = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])  # the opposite of what the data say
    plain = ch.fit_head(x, label, standard=False, decay=0.0)
    none = ch.fit_head(x, label, standard=False, decay=0.0, penalty=lambda w: 0.0 * ch.prior_loss(w, prior))
    held = ch.fit_head(x, label, standard=False, decay=0.0, penalty=lambda w: 50.0 * ch.prior_loss(w, prior))
    assert torch.equal(plain.weight, none.weight)
    assert plain.weight[1, 0] > 0
    assert held.weight[1, 0] < 0
    assert held.weight[:, 1:].abs().max() < plain.weight[:, 1:].abs().max() + 1e-3


def test_signs_keep_a_confounded_question_out(ch):
    """A question that is tied to the label in training, and that no book supports, must not decide."""
    n = 300
    label = torch.arange(n) % 2
    clinical = torch.sigmoid(2.0 * (2 * label - 1) + 1.5 * torch.randn(n))
    prior = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    train = torch.stack([clinical, 0.1 + 0.8 * label], 1)
    turned = torch.stack([clinical, 0.9 - 0.8 * label], 1)

    def right(strength):
        head = ch.fit_head(train, label, standard=False, decay=0.0,
                           penalty=lambda w: strength * ch.prior_loss(w, prior))
        return float((head.logits(turned).argmax(1) == label).float().mean())

    assert right(0.0) < 0.4
    assert right(10.0) > 0.8


# ---- questions and answers

def test_a_question_is_answered_by_what_a_report_states(ch):
    stated = (Fact("effusion", "present", "bilateral", "lower"), Fact("mass", "absent"), Fact("edema", "uncertain"),
              Fact("consolidation", "present", "left", "upper"))
    answers = {ch.Question("effusion"): 1, ch.Question("effusion", "bilateral"): 1, ch.Question("mass"): 0,
               ch.Question("edema"): -1, ch.Question("nodule"): -1, ch.Question("consolidation", "", "upper"): 1,
               ch.Question("consolidation", "", "lower"): 0, ch.Question("consolidation", "bilateral"): 0}
    for question, answer in answers.items():
        assert question.answer(stated) == answer, question.text


def test_retrieval_finds_the_paragraph_and_leaves_out_strangers(ch):
    book = [("Heart", "The heart fails and grows."), ("Lung", "Pneumonia fills the lung."), ("Bone", "A rib breaks.")]
    found = ch.look_up("pneumonia", book)
    assert [i for i, _ in found] == [1]
    assert 0 < found[0][1] <= 1
    ranked = ch.look_up("heart lung heart grows", book, top=2)
    assert [i for i, _ in ranked] == [0, 1]
    assert ranked[0][1] > ranked[1][1]


def test_the_rule_reads_signs_out_of_sentences(ch):
    book = [("Heart failure", "Heart failure shows cardiomegaly. There is no mass. A nodule may be present."),
            ("Pneumonia", "Pneumonia shows consolidation in the lower lobe. There is no cardiomegaly. "
             "In heart failure there is edema.")]
    questions, signs, source = ch.study(book)
    table = {q: signs[:, k].tolist() for k, q in enumerate(questions)}
    assert table[ch.Question("cardiomegaly")] == [-1, 1]
    assert table[ch.Question("mass")] == [0, -1]
    assert table[ch.Question("nodule")] == [0, 0]
    assert table[ch.Question("consolidation")] == [1, 0]
    assert table[ch.Question("consolidation", "", "lower")] == [1, 0]
    assert table[ch.Question("edema")] == [0, 1], "a sentence on the other class says nothing on this one"
    assert not any(q.finding == "pneumonia" for q in questions), "the name of a class is no concept"
    assert "no mass" in source[ch.Question("mass")]


def test_the_books_signs_are_the_radiologists(ch):
    questions, signs, _ = ch.study(ch.TEXTBOOK)
    table = dict(zip(questions, signs.T.tolist(), strict=True))
    assert 25 <= len(ch.TEXTBOOK) <= 40
    assert len({title for title, _ in ch.TEXTBOOK}) == len(ch.TEXTBOOK)
    assert table[ch.Question("cardiomegaly")] == [-1, 1]
    assert table[ch.Question("edema")] == [-1, 1]
    assert table[ch.Question("consolidation")] == [1, -1]
    assert not any(q.finding in ("pacemaker", "pneumonia") for q in questions)


# ---- detectors

def test_balanced_rows(ch):
    answers = torch.tensor([1, 0, 0, 0, -1, 1, 0, 0, 1, -1])
    rows = ch.balanced_rows(answers, most=100, seed=0)
    assert len(rows) == len(set(rows.tolist())) == 6
    assert answers[rows].float().mean() == 0.5
    assert len(ch.balanced_rows(answers, most=4, seed=0)) == 4
    assert len(ch.balanced_rows(torch.ones(5), most=4, seed=0)) == 0


def test_grounding_learns_what_can_be_seen_and_shrugs_at_the_rest(ch):
    features = F.normalize(torch.randn(400, 8), dim=1)
    answers = torch.stack([(features[:, 0] > 0).long(), torch.randint(2, (400,)), torch.ones(400).long()], 1)
    detector = ch.ground(features, answers)
    p = detector.probability(features)
    assert p.shape == (400, 3)
    assert 0 <= p.min() <= p.max() <= 1
    assert detector.accuracy[0] > 0.9
    assert detector.accuracy[1] < 0.7
    assert detector.accuracy[2] == 0.5
    assert torch.allclose(p[:, 2], torch.full((400,), 0.5))
    naive = 1 / (1 + math.exp(-float(features[7] @ detector.weight[0] + detector.bias[0])))
    assert float(p[7, 0]) == pytest.approx(naive, abs=1e-5)


def test_an_invertible_map_of_concepts_is_the_probe(ch):
    x = torch.randn(200, 5)
    label = (x[:, 1] + 0.7 * torch.randn(200) > 0).long()
    turn = torch.linalg.qr(torch.randn(5, 5))[0]
    z = x @ turn * torch.tensor([0.5, 1, 1.5, 2, 3]) + 0.3
    loss = [float(F.cross_entropy(ch.fit_head(v, label, decay=0.0, steps=1200).logits(v), label)) for v in (x, z)]
    assert loss[0] == pytest.approx(loss[1], abs=2e-3)


def test_best_detectors_are_kept_with_their_signs(ch, monkeypatch):
    class Bench:
        seeds = (0, 1)

    features = [F.normalize(torch.randn(300, 6), dim=1) for _ in range(2)]
    large = features[0][:, 0] > 0
    features[1][:, 0] = torch.where(large, 1.0, -1.0)
    stated = [(Fact("cardiomegaly", "present" if big else "absent"), Fact("edema", "absent")) for big in large.tolist()]
    names = ch.learn_from.__globals__
    for name, value in (("lab", Bench), ("stated_in_reports", stated), ("pair_features", features)):
        monkeypatch.setitem(names, name, value)
    one = ch.learn_from(ch.TEXTBOOK, keep=1)
    assert [q.finding for q in one.questions] == ["cardiomegaly"]
    assert one.prior.flatten().tolist() == [-1, 1]
    assert len(one.detectors) == 2
    assert one.detectors[0].weight.shape == (1, 6)


# ---- published numbers

def test_published_counts(ch):
    head = ch.Head(torch.zeros(150), torch.ones(150), classes=7)
    assert head.weight.numel() + head.bias.numel() == 7 * 151
    detector = ch.ground(torch.randn(16, 768), torch.arange(16)[:, None] % 2)
    assert detector.weight[0].numel() + detector.bias[0].numel() == 769
