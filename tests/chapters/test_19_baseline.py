"""Chapter 19, what its methods share: tokenizer, decoder, beam search, scores.

The docstring of each test says which removal of the idea it detects.
"""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

TEXTS = ["the heart is not enlarged. no pleural effusion.",
         "there is a small left pleural effusion. the lungs are clear.",
         "moderate-sized pneumothorax at the right apex. no consolidation, mass or atelectasis."]


@pytest.fixture(scope="module")
def tokenizer(ch):
    return ch.train_tokenizer(TEXTS, 200)


@pytest.fixture
def writer(ch):
    return ch.Writer(60, ch.Trunk()).double().eval()


def films(n=2):
    return torch.randn(n, 1, 64, 64).double()


def words(n=2, t=9):
    return torch.randint(3, 60, (n, t))


@pytest.mark.parametrize("text", [*TEXTS, "the apex is not clear, or small."])
def test_tokenizer_round_trip(ch, tokenizer, text):
    """Detects lost spaces or punctuation, ends that leak into the text, and truncation."""
    ids = ch.encode(tokenizer, [text])
    assert ids.shape == (1, ch.LENGTH)
    assert ids[0, 0] == ch.BOS
    assert ids[0][ids[0] != ch.PAD][-1] == ch.EOS
    assert ch.decode(tokenizer, ids) == [text]


def test_tokenizer_learns_frequent_words_and_keeps_the_special_tokens(ch, tokenizer):
    """Detects an encoding by characters, and special tokens that are not where the constants say."""
    assert tokenizer.encode("the effusion").tokens == ["▁the", "▁effusion"]
    assert [tokenizer.token_to_id(name) for name in ch.SPECIAL] == list(range(8))
    assert (ch.SPECIAL[ch.PAD], ch.SPECIAL[ch.EOS]) == ("[PAD]", "[EOS]")


def test_a_long_text_keeps_its_end_token(ch, tokenizer):
    """Detects truncation that cuts the end token off, after which a writer never learns to stop."""
    ids = ch.encode(tokenizer, [" ".join(TEXTS * 4)], length=20)
    assert ids.shape == (1, 20)
    assert ids[0, -1] == ch.EOS


def test_no_word_sees_the_words_after_it(ch, writer):
    """Detects a missing causal mask."""
    image, tokens = films(), words()
    changed = tokens.clone()
    changed[:, 5:] = torch.randint(3, 60, (2, 4))
    before, after = writer(image, tokens), writer(image, changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_every_word_sees_the_words_before_it_and_the_film(ch, writer):
    """Detects a decoder without self-attention, or without cross-attention."""
    image, tokens = films(1), words(1)
    changed, other = tokens.clone(), films(1)
    changed[:, 0] += 1
    assert (writer(image, tokens) - writer(image, changed)).abs().amax(-1).min() > 1e-9
    assert (writer(image, tokens) - writer(other, tokens)).abs().amax(-1).min() > 1e-9


@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 4], [2, 7]])
def test_cached_steps_equal_one_pass(ch, writer, pieces):
    """Detects a cache that is not read, wrong positions after the first step, or a wrong mask for a longer piece."""
    image, tokens = films(), words()
    cache = writer.decoder.start(writer.see(image))
    steps = torch.cat([writer.decoder.step(part, cache) for part in tokens.split(pieces, 1)], 1)
    assert torch.allclose(steps, writer(image, tokens), atol=1e-10)


def test_attention_against_a_naive_version(ch):
    """Detects wrong scaling, heads that mix, or a mask of the wrong kind in the layer."""
    layer, h, memory = ch.Layer(8, 2, 16).double(), torch.randn(1, 5, 8).double(), torch.randn(1, 3, 8).double()
    cache = dict(zip(("0 mk", "0 mv"), layer.remember(memory), strict=True))
    q, k, v = layer.words(layer.norms[0](h)).chunk(3, -1)
    seen = torch.zeros_like(h)
    for t in range(5):
        for head in (slice(0, 4), slice(4, 8)):
            weights = torch.softmax(torch.stack([q[0, t, head] @ k[0, s, head] / 2 for s in range(t + 1)]), 0)
            seen[0, t, head] = sum(w * v[0, s, head] for s, w in enumerate(weights))
    x = h + layer.words_out(seen)
    q, (k, v), c = layer.ask(layer.norms[1](x)), layer.seen(memory).chunk(2, -1), torch.zeros_like(x)
    for t in range(5):
        for head in (slice(0, 4), slice(4, 8)):
            c[0, t, head] = torch.softmax(k[0, :, head] @ q[0, t, head] / 2, 0) @ v[0, :, head]
    x = x + layer.cross_out(c)
    assert torch.allclose(layer(h, cache, "0"), x + layer.mlp(layer.norms[2](x)), atol=1e-10)


def test_masked_memory_is_not_seen(ch):
    """Detects a memory mask that is ignored."""
    decoder, memory = ch.Decoder(30).double().eval(), torch.randn(2, 6, 64).double()
    tokens = torch.randint(3, 30, (2, 4))
    mask = torch.arange(6).expand(2, 6) < 4
    changed = memory.clone()
    changed[:, 4:] += 3
    assert torch.allclose(decoder(tokens, memory, mask), decoder(tokens, changed, mask), atol=1e-10)
    assert torch.allclose(decoder(tokens, memory, mask), decoder(tokens, memory[:, :4]), atol=1e-10)
    assert not torch.allclose(decoder(tokens, memory), decoder(tokens, changed))


@pytest.mark.parametrize("seed", range(8))
def test_a_full_beam_is_exhaustive_search(ch, seed):
    """Detects wrong scores, beams that are not re-ordered with their cache, and ended sentences that go on."""
    table = 2 * torch.randn(5, 5, 5, generator=torch.Generator().manual_seed(seed)).double()
    start = {"count": torch.zeros(1, 1, dtype=torch.long)}
    ids, score = ch.beam_search(ch.toy_step(table), start, torch.tensor([[ch.BOS]]), 300, limit=5)
    expected, best = ch.likeliest(table)
    assert [i for i in ids[0].tolist() if i != ch.PAD] == expected
    assert float(score[0]) == pytest.approx(best, abs=1e-9)


def test_likeliest_lists_every_sentence(ch):
    """Detects a reference that is itself a greedy search: here the best first word leads to a bad end."""
    table = torch.full((3, 5, 5), -9.0)
    table[0, ch.BOS, 3], table[0, ch.BOS, 4] = 0.2, 0.0
    table[1, 3, 1:] = 0.0  # after 3 nothing is likely
    table[1, 4, ch.EOS] = 9.0
    assert ch.likeliest(table)[0] == [4, ch.EOS]
    start = {"count": torch.zeros(1, 1, dtype=torch.long)}
    assert ch.beam_search(ch.toy_step(table), start, torch.tensor([[ch.BOS]]), 1, limit=3)[0][0, 0] == 3


def test_width_one_is_greedy_and_batches_do_not_mix(ch, writer):
    """Detects a search that is not greedy at width 1, and beams that leak from one film into another."""
    image, tokens = films(3), torch.full((3, 1), ch.BOS)
    for _ in range(12):
        logits = writer(image, tokens)[:, -1]
        logits[:, ch.PAD] = -math.inf
        tokens = torch.cat([tokens, logits.argmax(1, keepdim=True)], 1)
    got = ch.write(writer, image)[:, :12]
    for row, expected in zip(got.tolist(), tokens[:, 1:].tolist(), strict=True):
        end = expected.index(ch.EOS) + 1 if ch.EOS in expected else 12
        assert row[:end] == expected[:end]
    alone = torch.cat([ch.write(writer, image[[i]], width=3) for i in range(3)])
    assert torch.equal(ch.write(writer, image, width=3), alone)


def test_the_score_of_a_beam_is_the_probability_of_its_words(ch, writer):
    """Detects a cache that stays behind when beams change places: the words would be scored after other words."""
    nn.init.normal_(writer.decoder.place)  # a language with a history, in which beams overtake each other
    for layer in writer.decoder.layers:
        nn.init.normal_(layer.words.weight, std=0.4)
    image, start = films(4), torch.full((4, 1), ch.BOS)
    ids, score = ch.beam_search(writer.decoder.step, writer.decoder.start(writer.see(image)), start, width=4, limit=10)
    logp = writer(image, torch.cat([start, ids[:, :-1]], 1)).log_softmax(-1)
    each = logp.gather(2, ids[..., None])[..., 0]
    ended = (ids == ch.EOS).cumsum(1).cumsum(1) > 1
    assert torch.allclose(score, each.masked_fill(ended, 0).sum(1), atol=1e-8)


def test_padding_and_skipped_words_have_no_loss(ch):
    """Detects a loss that trains on padding or on the words of a prompt."""
    tokens = torch.tensor([[ch.BOS, 5, 6, ch.EOS, ch.PAD, ch.PAD]])
    for skip, places in ((0, [0, 1, 2]), (2, [2])):
        logits = torch.zeros(1, 6, 9, requires_grad=True)
        ch.next_word_loss(logits, tokens, skip).backward()
        assert logits.grad.abs().sum(2)[0].nonzero()[:, 0].tolist() == places


def naive_cider(text, reference, corpus):
    """CIDEr as written in its paper, one run of words at a time."""
    total = 0.0
    for n in range(1, 5):
        def grams(t, n=n):
            return [tuple(t.split()[i:i + n]) for i in range(len(t.split()) - n + 1)]

        def weight(run):
            return math.log(len(corpus) / max(1, sum(run in grams(t) for t in corpus)))

        every = sorted(set(grams(text)) | set(grams(reference)))
        a, b = (np.array([grams(t).count(run) * weight(run) for run in every]) for t in (text, reference))
        size = np.sqrt((a ** 2).sum() * (b ** 2).sum())
        total += float(a @ b / size) if size else 0.0
    return 10 * total / 4


def test_cider_against_a_naive_version(ch):
    """Detects wrong weights, a missing order of runs, or a wrong scale."""
    rarity = ch.rarity(TEXTS)
    for text in [*TEXTS, "no small heart is clear.", "the"]:
        for reference in TEXTS:
            assert ch.cider(text, reference, rarity) == pytest.approx(naive_cider(text, reference, TEXTS), abs=1e-9)
    assert ch.cider(TEXTS[0], TEXTS[0], rarity) == pytest.approx(10)
    assert ch.cider("quite other words here", TEXTS[0], rarity) == 0


def test_cider_rewards_what_is_rare(ch):
    """Detects counts without weights."""
    corpus = ["the heart is normal"] * 9 + ["large mass"]
    rarity = ch.rarity(corpus)
    reference = "the heart is normal large mass"
    assert ch.cider("large mass", reference, rarity) > ch.cider("the heart is normal", reference, rarity)


def test_text_scores_are_those_of_the_kept_libraries(ch):
    """Detects swapped arguments and wrong scales: equal texts reach the top, and the order of words matters."""
    same = ch.text_scores(TEXTS, TEXTS, ch.rarity(TEXTS))
    assert np.allclose(same["BLEU-4"], 1)
    assert np.allclose(same["ROUGE-L"], 1)
    other = ch.text_scores([" ".join(reversed(t.split())) for t in TEXTS], TEXTS, ch.rarity(TEXTS))
    assert (other["BLEU-4"] < 0.5).all()
    assert ((other["ROUGE-L"] < 1) & (other["ROUGE-L"] > 0)).all()


def test_clinical_scores_by_hand(ch):
    """Detects uncertain or negative states that count as found, and cases without findings that are not left out."""
    truth = torch.tensor([[1, 1, 0, 2, 1], [0, 2, 2, 2, 0], [3, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    said = torch.tensor([[1, 2, 1, 2, 3], [0, 2, 2, 2, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    got = ch.clinical_scores(said, truth, rare=[4])
    assert np.allclose(got["F1"], [2 / 5, 1, 2 / 3, 0])
    assert np.allclose(got["recall"], [1 / 3, np.nan, 1, np.nan], equal_nan=True)
    assert np.allclose(got["rare recall"], [0, np.nan, np.nan, np.nan], equal_nan=True)
    assert np.allclose(got["false alarms"], [1, 0, 1, 1])
    assert torch.allclose(ch.f1_by_finding(said, truth).double(), torch.tensor([0.5, 2 / 3, 0, 0, 0]).double())


def test_reports_read_back_to_what_was_told(ch):
    """Detects a labeller with errors, findings that are lost in the text, and reports that say what nobody knows."""
    present = ch.draw_findings(40, 3, dict.fromkeys(ch.FINDINGS, 0.3))
    severity = ch.draw_severity(present, 3)
    rng = np.random.default_rng(0)
    for case in range(40):
        known = []
        for name in ch.FINDINGS:
            value = severity[name][case]
            on = bool((value > 0).any())
            grade = ("mild", "moderate", "severe")[rng.integers(3)]
            side = {(True, False): "right", (False, True): "left", (True, True): "bilateral"}[
                tuple((value > 0).tolist())] if on and value.ndim else ""
            known.append(ch.Fact(name, "present", side, "", grade) if on else ch.Fact(name, "absent"))
        facts = ch.told(tuple(known), case)
        text = ch.findings_text(facts, case)
        state = ch.states_of([text])[0].tolist()
        mentioned = {fact.finding: fact.presence for fact in facts}
        expected = [{"present": 1, "absent": 2}.get(mentioned.get(name), 0) for name in ch.FINDINGS]
        assert state == expected, text
        assert all(bool(present[name][case]) == (s == 1) for name, s in zip(ch.FINDINGS, state, strict=True))


def test_findings_follow_their_long_tail(ch):
    """Detects frequencies that are not those announced, and rare findings that are not the rarest."""
    drawn = ch.draw_findings(4000, 0)
    assert all(abs(float(drawn[name].double().mean()) - share) < 0.03 for name, share in ch.PREVALENCE.items())
    shares = list(ch.PREVALENCE.values())
    assert max(shares[k] for k in ch.RARE) < min(s for k, s in enumerate(shares) if k not in ch.RARE)


def test_runs_counts(ch):
    """Detects runs that cross the end, or a wrong length."""
    one, two, three, four = ch.runs("a b a b")
    assert one == Counter({("a",): 2, ("b",): 2})
    assert two == Counter({("a", "b"): 2, ("b", "a"): 1})
    assert len(three) == 2
    assert len(four) == 1


def test_trunk_and_namer_shapes(ch):
    """Detects a trunk of another scale, on which the place vectors of the writer would not fit."""
    assert ch.Trunk()(torch.zeros(2, 1, 64, 64)).shape == (2, 64, 8, 8)
    assert ch.Namer(ch.Trunk())(torch.zeros(2, 1, 64, 64)).shape == (2, len(ch.FINDINGS))
    assert isinstance(ch.Writer(30, nn.Identity()).trunk, nn.Identity)
