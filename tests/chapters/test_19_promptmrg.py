"""PromptMRG (Jin et al. 2023): the chapter's definitions against closed forms.

The docstring of each test says which removal of the idea it detects.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

FREQUENCY = torch.tensor([0.3, 0.25, 0.18, 0.12, 0.1, 0.07, 0.05, 0.04])


@pytest.fixture
def model(ch):
    return ch.PromptWriter(60, ch.Trunk(), FREQUENCY, wide=32)


def batch(ch, n=4):
    tokens = torch.cat([torch.full((n, 1), ch.BOS), torch.randint(8, 60, (n, 6)), torch.full((n, 1), ch.EOS)], 1)
    return ch.Cohort(image=torch.randn(n, 1, 64, 64), meta={
        "state": torch.randint(0, 4, (n, 8)), "tokens": tokens, "cases": torch.randn(n, ch.SIMILAR, ch.CASES)})


@pytest.mark.parametrize("pi", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_adjustment_multiplies_the_odds_by_one_over_pi(ch, share, pi):
    """Detects an offset that is applied at test as well, or that has the wrong sign."""
    assert ch.bias_only_odds(share, pi) == pytest.approx(share / (1 - share) / pi, rel=1e-3)


def test_offset_touches_the_positive_logit_only(ch):
    """Detects an offset on another state, and one that does not vanish where pi is one."""
    logits, pi = torch.randn(3, 4, 8), torch.rand(8) * 0.9 + 0.05
    expected = logits.clone()
    expected[:, 1] += pi.log()
    assert torch.allclose(ch.adjusted(logits, pi), expected)
    assert torch.equal(ch.adjusted(logits, torch.ones(8)), logits)


def test_other_states_change_through_the_softmax_only(ch):
    """Detects an offset whose gradient reaches the other logits directly."""
    logits, target = torch.randn(5, 4, 8, requires_grad=True), torch.randint(0, 4, (5, 8))
    pi = torch.full((8,), 0.2)
    F.cross_entropy(ch.adjusted(logits, pi), target, reduction="sum").backward()
    shifted = logits.detach().clone()
    shifted[:, 1] += pi.log()
    assert torch.allclose(logits.grad, shifted.softmax(1) - F.one_hot(target, 4).permute(0, 2, 1), atol=1e-6)


def test_new_pi_by_hand(ch):
    """Detects a mean over all films, a missing division by the largest, and 0/0 for an absent finding."""
    state = torch.tensor([[1, 1, 0], [1, 2, 3], [2, 1, 0]])
    probability = torch.tensor([[0.8, 0.1, 0.9], [0.4, 0.9, 0.9], [0.9, 0.3, 0.9]])
    old = torch.tensor([1.0, 0.5, 0.25])
    got = ch.new_pi(probability, state, old)
    assert torch.allclose(got[:2], torch.tensor([0.6, 0.2]) / 0.6)
    assert got[2] == pytest.approx(0.25)
    assert got.isfinite().all()


def test_pi_begins_with_frequencies_and_follows_validation(ch, model):
    """Detects an adaptive rule that never adapts, and a static offset that does."""
    assert torch.allclose(model.pi, FREQUENCY / 0.3)
    watch, first = batch(ch, 12), model.pi.clone()
    model.train()
    ch.renew(model, watch)
    assert not torch.allclose(model.pi, first)
    assert torch.equal(model.static, FREQUENCY / 0.3)
    assert model.training
    assert float(model.pi.max()) == pytest.approx(1)


def test_pi_is_renewed_once_an_epoch(ch, model, monkeypatch):
    """Detects an update in every step, and one before the first epoch has ended."""
    calls, some = [], batch(ch)
    monkeypatch.setitem(ch.joint_loss.__globals__, "renew", lambda net, watch: (
        calls.append(1), setattr(net, "seen", 0)))
    model.train()
    for _ in range(7):  # epochs of 3 batches: before the 4th and the 7th
        ch.joint_loss(model, some, some, 12)
    assert len(calls) == 2


def test_prompt_is_a_prefix_without_loss(ch, model):
    """Detects prompts that the writer is trained to predict: they are given, not written."""
    some = batch(ch)
    full = torch.cat([ch.prompt_of(some.meta["state"]), some.meta["tokens"][:, 1:]], 1)
    assert full.shape[1] == 8 + some.meta["tokens"].shape[1]
    assert torch.equal(full[:, :8] - 4, some.meta["state"])
    logits = torch.zeros(4, full.shape[1], 60, requires_grad=True)
    ch.next_word_loss(logits, full, skip=8).backward()
    touched = logits.grad.abs().sum((0, 2)).nonzero()[:, 0].tolist()
    assert touched == list(range(8, full.shape[1] - 1))


def test_loss_is_words_plus_four_times_states(ch, model):
    """Detects a wrong weight, an offset on the heads that have none, and a missing offset on those that do."""
    some = batch(ch)
    model.eval()
    with torch.no_grad():
        model.pi.fill_(0.5)
        state, logits = some.meta["state"], model.diagnose(model.trunk(some.image), some.meta["cases"])
        parts = []
        for name, z in logits.items():
            z = z.clone()
            z[:, 1] += {"static": (FREQUENCY / 0.3).log(), "adaptive": torch.full((8,), 0.5).log()}.get(name, 0)
            parts.append(F.cross_entropy(z, state))
        full = torch.cat([ch.prompt_of(state), some.meta["tokens"][:, 1:]], 1)
        words = ch.next_word_loss(model(some.image, full), full, 8)
        expected = words + 4 * sum(parts) / 4
        assert float(ch.joint_loss(model, some, some, 100)) == pytest.approx(float(expected), rel=1e-5)
    assert list(logits) == list(ch.HEADS)


def test_one_state_changes_the_report_distribution(ch, model):
    """Detects a decoder that does not read its prompt."""
    model.eval()
    state, image = torch.full((1, 8), 2), torch.randn(1, 1, 64, 64)
    other = state.clone()
    other[0, 5] = 1
    a, b = (model(image, ch.prompt_of(s))[:, -1].softmax(-1) for s in (state, other))
    assert (a - b).abs().sum() > 1e-4


def test_film_only_head_ignores_the_retrieved_reports(ch, model):
    """Detects heads that are mixed up, and retrieved reports that do not reach the heads that should read them."""
    model.eval()
    image, cases = torch.randn(3, 1, 64, 64), torch.randn(2, 3, ch.SIMILAR, ch.CASES)
    a, b = (model.diagnose(model.trunk(image), c) for c in cases)
    assert {name: torch.allclose(a[name], b[name]) for name in ch.HEADS} == {
        "film only": True, "retrieval": False, "static": False, "adaptive": False}
    assert a["adaptive"].shape == (3, 4, 8)


def test_retrieved_reports_are_a_set(ch, model):
    """Detects positions in the retrieval transformer: the reports have no order."""
    a, cases = torch.randn(2, 64), torch.randn(2, ch.SIMILAR, ch.CASES)
    model.eval()
    assert torch.allclose(model.retrieved(a, cases), model.retrieved(a, cases.flip(1)), atol=1e-5)


def test_the_writer_does_not_see_the_retrieved_reports(ch, model):
    """Detects retrieval that leaks into the words: it is for the classifier only."""
    some = batch(ch)
    words = F.cross_entropy(model(some.image, some.meta["tokens"]).flatten(0, 1), some.meta["tokens"].flatten())
    words.backward()
    assert all(p.grad is None for p in (*model.enhance.parameters(), *model.query.parameters()))


def test_nearest_excludes_itself_on_demand(ch):
    """Detects self-retrieval, and similarity that is not the cosine."""
    keys = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    assert ch.nearest(keys, keys, 1)[:, 0].tolist() == [0, 1, 2, 3]
    assert ch.nearest(keys, keys, 1, own=True)[:2, 0].tolist() == [1, 0]
    assert ch.nearest(torch.tensor([[3.0, 0.3]]), keys, 2)[0].tolist() == [1, 0]


def test_with_cases_leaves_out_the_own_report(ch):
    """Detects the leak of the own report into training."""
    texts = ["no pleural effusion.", "a large mass.", "the heart is enlarged.", *["the lungs are clear."] * 12]
    vectors = torch.randn(15, 5)
    train = ch.Cohort(image=torch.zeros(15, 1, 1, 1), report=texts, meta={"row": torch.arange(15)})
    encode = ch.report_vectors(texts, ch.CASES)
    got = ch.with_cases(train, lambda c: vectors[c.meta["row"]], train, encode)
    codes = encode(texts)
    for i in range(3):
        assert not (got.meta["cases"][i] - codes[i]).norm(dim=-1).lt(1e-5).any()


def test_report_vectors_compare_content(ch):
    """Detects a text encoder that does not see words, or weighs all alike."""
    told = ["a large mass is seen.", "a large effusion is seen.", "the lungs are clear."]
    code = ch.report_vectors([*told, *told[2:] * 5, "the heart is enlarged."], 4)(told)
    assert torch.allclose(code.norm(dim=1), torch.ones(3), atol=1e-5)
    assert code[0] @ code[1] > code[0] @ code[2]


def test_published_head(ch):
    """Detects a head of other sizes: 2048 + 512 features to 4 states of 18 diseases."""
    with torch.device("meta"):
        head = nn.Linear(2048 + 512, 4 * 18)
    assert sum(p.numel() for p in head.parameters()) == 184_392
    ours = ch.PromptWriter(60, ch.Trunk(), FREQUENCY).heads["adaptive"]
    assert (ours.in_features, ours.out_features) == (64 + ch.CASES, 4 * 8)
