"""SEI (Liu et al. 2024): entity sequences, alignment losses, retrieval, fusion.

The docstring of each test says which removal of the idea it detects.
"""

import math
import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from medtutor import language
from medtutor.language import Fact

KNOWN = (Fact("effusion", "present", "left", "", "mild"), Fact("mass", "uncertain", "right", "upper"),
         Fact("pneumothorax", "absent"), Fact("edema", "absent"), Fact("cardiomegaly", "present", "", "", "severe"))
STYLES = tuple(language.words()["styles"])


@pytest.fixture(scope="module")
def reports(ch):
    """Reports of the same facts in all styles, with the habits of a radiologist around some."""
    plain = [ch.findings_text(KNOWN, seed, style) for seed, style in product(range(15), STYLES)]
    return plain + [ch.dictated(KNOWN, seed, radiologist) for seed, radiologist in product(range(5), range(8))]


@pytest.fixture
def toy():
    """Words (B, T, d), patches (B, S, d), mask (B, T)."""
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    return F.normalize(torch.randn(2, 5, 8), dim=-1), F.normalize(torch.randn(2, 7, 8), dim=-1), mask


@pytest.mark.parametrize(("sentence", "sequence"), [
    ("No pleural effusion or pneumothorax is seen.", "no pleural effusion pneumothorax"),
    ("The heart is not enlarged.", "no heart enlarged"),
    ("A small left effusion cannot be excluded.", "maybe small left effusion"),
    ("There may be a right upper lobe mass.", "maybe right upper lobe mass"),
    ("Pulmonary oedema.", "pulmonary edema"),
    ("Effusion at the right base.", "effusion right base"),
    ("Chest.", ""), ("Lungs.", ""), ("Mass.", "mass"),
    ("Thank you for sending this patient.", ""),
    ("Small effusion without pneumothorax.", "no small effusion pneumothorax"),
])
def test_sentences(ch, sentence, sequence):
    """Detects a lost cue, a second cue, a changed order, a kept style word, and a lost rule for useless entities."""
    assert ch.entity_sequence(sentence) == sequence


@pytest.mark.parametrize(("labels", "cue"), [
    (("present", "present"), ""), (("absent", "absent"), "no "), (("uncertain", "uncertain"), "maybe "),
    (("present", "absent"), "no "), (("present", "uncertain"), "maybe "), (("uncertain", "absent"), "no ")])
def test_one_cue_a_sentence(ch, labels, cue):
    """Detects a cue for every entity, and a cue that depends on where its entity stands."""
    for order in (labels, labels[::-1]):
        found = [ch.Span(text, label) for text, label in zip(("small", "effusion"), order, strict=True)]
        assert ch.serialise(found) == cue + "small effusion"


def test_useless_only_when_alone(ch):
    assert ch.serialise([ch.Span("lungs", "present")]) == ""
    assert ch.serialise([ch.Span("lungs", "present"), ch.Span("clear", "present")]) == "lungs clear"
    assert ch.serialise([ch.Span("mass", "absent")]) == "no mass"
    assert ch.serialise([]) == ""


def test_idempotent_with_one_cue_and_in_order(ch, reports):
    """Detects entities that the second pass reads differently, two cues in a sentence, and re-ordered entities."""
    for report in reports:
        sequence = ch.entity_sequence(report)
        assert ch.entity_sequence(sequence) == sequence
        for part in sequence.split(" . "):
            assert len(re.findall(r"\b(?:no|maybe)\b", part)) <= 1
        place, text = 0, ch.american(report)
        for word in re.sub(r"\b(?:no|maybe)\b|\.", " ", sequence).split():
            assert (place := text.find(word, place)) >= 0, (word, report)


def test_style_never_appears(ch, reports):
    """Detects habits, verbs and courtesies in a sequence; no habit sentence may carry an entity."""
    assert all(ch.entity_sequence(habit) == "" for habit in ch.HABITS)
    style = set(" ".join(ch.HABITS).replace(".", "").split()) | {"is", "there", "seen", "evidence", "noted"}
    assert all(not style & set(ch.entity_sequence(report).split()) for report in reports)


def test_style_does_not_matter(ch):
    """The same words of fact between other habits give the same sequence."""
    for seed in range(20):
        plain = ch.findings_text(KNOWN, seed, ch.RADIOLOGISTS[2][0])
        assert ch.entity_sequence(ch.dictated(KNOWN, seed, 2)) == ch.entity_sequence(plain)
    assert len({habits for _, habits in ch.RADIOLOGISTS}) > 3


def naive_region(words, patches, mask, temperature):
    """Word by word, in loops."""
    total, count = torch.zeros(2), 0
    for b in range(len(words)):
        own = [n for n in range(words.shape[1]) if mask[b, n]]
        seen = []
        for n in own:
            weight = torch.stack([words[b, n] @ v for v in patches[b]]) / words.shape[-1] ** 0.5
            collected = sum(w * v for w, v in zip(weight.softmax(0), patches[b], strict=True))
            seen.append(collected / collected.norm())
        for place, n in enumerate(own):
            row = torch.stack([words[b, n] @ t for t in seen]) / temperature
            column = torch.stack([words[b, m] @ seen[place] for m in own]) / temperature
            total -= torch.stack([row.log_softmax(0)[place], column.log_softmax(0)[place]])
            count += 1
    return total.sum() / (2 * count)


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_region_loss_is_the_naive_one(ch, toy, temperature):
    """Detects words compared across reports, a lost direction, lost normalisation or counted padding."""
    assert torch.allclose(ch.region_loss(*toy, temperature), naive_region(*toy, temperature), atol=1e-5)


def test_equal_words_cost_log_n(ch, toy):
    """Detects a target other than the word's own index."""
    words, patches, _ = toy
    full = torch.ones(2, 5, dtype=torch.bool)
    assert torch.allclose(ch.region_loss(words[:, :1].expand_as(words), patches, full), torch.tensor(math.log(5)))
    pairs = words[:, [0, 0, 1, 1]]
    assert ch.region_loss(pairs, patches, full[:, :4]) > math.log(2)


def test_separating_patches_lower_the_region_loss(ch):
    """The loss is low where each word has its own patch, and high where all patches are the same."""
    words, full = 12 * torch.eye(4)[None], torch.ones(1, 4, dtype=torch.bool)
    own = ch.region_loss(words, 12 * torch.eye(4)[None], full)
    same = ch.region_loss(words, torch.ones(1, 4, 4), full)
    assert own < 1e-3 < same


def test_instance_loss(ch):
    """Against its definition; aligned pairs are better than shifted ones; both directions count."""
    film, text = F.normalize(torch.randn(6, 8), dim=-1), F.normalize(torch.randn(6, 8), dim=-1)
    naive = -sum(s.log_softmax(1).diagonal().mean() for s in (film @ text.T / 0.5, text @ film.T / 0.5)) / 2
    assert torch.allclose(ch.instance_loss(film, text), naive, atol=1e-6)
    assert torch.allclose(ch.instance_loss(film, text), ch.instance_loss(text, film), atol=1e-6)
    assert ch.instance_loss(film, film) < ch.instance_loss(film, film.roll(1, 0))


def test_retrieval_excludes_the_query(ch):
    """Detects the leak: without the flag, a film whose vector is that of its text finds itself."""
    tokens, features = torch.randint(3, 40, (12, 9)), torch.rand(12, 64, 8, 8)
    model = ch.Aligner(40)
    texts = model.eval().read(tokens)[1].detach()
    model.see = lambda features: (None, texts)
    assert ch.nearest_cases(model, features, tokens, 1)[:, 0].tolist() == list(range(12))
    free = ch.nearest_cases(model, features, tokens, 3, exclude_self=True)
    assert not (free == torch.arange(12)[:, None]).any()
    similarity = texts @ texts.T - 9 * torch.eye(12)
    assert torch.equal(free, similarity.topk(3, 1).indices)


def test_padding_does_not_change_a_text(ch):
    model = ch.Aligner(40).eval()
    tokens = torch.randint(3, 40, (3, 9))
    padded = F.pad(tokens, (0, 6), value=ch.PAD)
    assert torch.allclose(model.read(tokens)[1], model.read(padded)[1], atol=1e-5)


@pytest.mark.parametrize(("k", "length"), [(1, 7), (2, 7), (3, 5)])
def test_book_keeping_of_cases(ch, k, length):
    """Detects kL mask entries, a lost average of the first tokens, and a mask that is shifted against its features."""
    words = torch.randn(2, k, length, 4)
    mask = torch.rand(2, k, length) < 0.6
    mask[:, :, 0] = True
    words = words * mask[..., None]  # a feature is zero exactly where its mask is False
    features, flags = ch.case_tokens(words, mask)
    assert features.shape[1] == flags.shape[1] == 1 + k * (length - 1)
    assert torch.allclose(features[:, 0], words[:, :, 0].mean(1))
    assert torch.equal((features != 0).any(-1), flags)


@pytest.fixture
def fusion(ch):
    return ch.Fusion(16, 4, 32).eval()


@pytest.fixture
def told():
    """Film, cases with mask, indication with mask; the second patient has none (begin and end only)."""
    case_mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    asked_mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    return (torch.randn(2, 5, 16), torch.randn(2, 6, 16), case_mask, torch.randn(2, 4, 16), asked_mask)


def test_nothing_told_is_the_film(fusion, told):
    """Detects parameters between film and decoder where there is no text."""
    assert torch.equal(fusion(told[0]), told[0])


def test_fusion_order(fusion, told):
    """X'' = join(to_film(X <- C) <- to_asked(I <- C)); without cases X'' = join(X <- I)."""
    film, cases, case_mask, asked, asked_mask = told
    x = fusion.to_film(film, cases, memory_key_padding_mask=~case_mask)
    i = fusion.to_asked(asked, cases, tgt_key_padding_mask=~asked_mask, memory_key_padding_mask=~case_mask)
    whole = fusion(*told)
    assert torch.allclose(whole[0], fusion.join(x, i, memory_key_padding_mask=~asked_mask)[0], atol=1e-6)
    assert torch.allclose(whole[1], x[1], atol=1e-6)  # no indication: X'
    alone = fusion(film, asked=asked, asked_mask=asked_mask)
    assert torch.allclose(alone[0], fusion.join(film, asked, memory_key_padding_mask=~asked_mask)[0], atol=1e-6)
    assert torch.equal(alone[1], film[1])


def test_text_and_only_its_tokens_reach_the_film(fusion, told):
    """Detects an indication or a case that is never read, and padding that is."""
    film, cases, case_mask, asked, asked_mask = told
    whole = fusion(*told)
    assert not torch.allclose(whole[0], fusion(film, cases, case_mask, asked + 1, asked_mask)[0])
    assert not torch.allclose(whole[0], fusion(film, cases + torch.randn_like(cases), case_mask, asked, asked_mask)[0])
    noise = torch.where(case_mask[..., None], cases, torch.randn_like(cases))
    quiet = torch.where(asked_mask[..., None], asked, torch.randn_like(asked))
    assert torch.allclose(whole, fusion(film, noise, case_mask, quiet, asked_mask), atol=1e-5)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_writer_reads_k_cases_and_freezes_their_encoder(ch, k):
    """Detects cases beyond k, a trained case encoder, and an indication without an effect."""
    bank = torch.randint(3, 40, (9, 6))
    model = ch.SeiWriter(40, ch.TextEncoder(40), bank, k).eval()
    meta = {"cases": torch.tensor([[0, 1, 2]] * 2), "asked_tokens": torch.randint(3, 40, (2, 5))}
    batch = ch.Cohort(image=torch.rand(2, 64, 8, 8), meta=meta)

    def seen(**change):
        return model.see(ch.replace(batch, meta=meta | change))

    assert seen().shape == (2, 17, 48)
    assert torch.equal(seen(), seen(cases=torch.tensor([[0, 1, 2][:k] + [5] * (3 - k)] * 2)))
    if k:
        assert not torch.allclose(seen(), seen(cases=torch.tensor([[7, 8, 6]] * 2)))
    assert not torch.allclose(seen(), seen(asked_tokens=meta["asked_tokens"].roll(1, 1)))
    assert not any("bank" in name for name, _ in model.named_parameters())


def test_writers_have_equal_size(ch):
    """Detects an unfair comparison."""
    bank = torch.randint(3, 40, (9, 6))
    sizes = {sum(p.numel() for p in ch.SeiWriter(40, ch.TextEncoder(40), bank, k).parameters()) for k in (0, 1, 3)}
    assert len(sizes) == 1


def test_request_is_answered(ch):
    """A finding that is asked for and absent is denied; it is the indication that decides."""
    known = tuple(Fact(name, "absent") for name in ch.FINDINGS)
    hits = {asked: [] for asked in (True, False)}
    for seed in range(40):
        for asked in hits:
            indication, report = ch.request(known, "pneumothorax" if asked else None, seed)
            assert ("pneumothorax" in indication) == asked
            hits[asked].append(int(ch.states_of([report])[0, ch.FINDINGS.index("pneumothorax")]) == 2)
    assert all(hits[True])
    assert sum(hits[False]) < 20


def test_answer_scores(ch):
    """Asked and absent, asked and present, nothing asked: each case counts in one score only."""
    state = torch.zeros(4, 8, dtype=torch.long)
    state[:3, 0] = torch.tensor([2, 0, 2])
    label = torch.zeros(4, 8)
    label[2, 0] = 1
    scores = ch.answer_scores(state, label.long(), label, torch.tensor([0, 0, 0, -1]))
    assert scores["asked denials"][:2].tolist() == [1, 0]
    assert all(math.isnan(scores["asked denials"][i]) for i in (2, 3))
    assert scores["false comfort"][2] == 1
    assert all(math.isnan(scores["false comfort"][i]) for i in (0, 1, 3))


def test_mixed_sentences_lose_facts(ch):
    """The failure is the serialiser's: one "no" for a sentence denies what is there."""
    assert ch.mixed_sentences(["Small effusion without pneumothorax. No mass. Thank you."]) == (1, 2)
    assert ch.turned(["Small effusion without pneumothorax. No mass."]) == (1, 1)
    assert ch.turned(["Small effusion. No pneumothorax."]) == (0, 1)


def test_real_text_helpers(ch):
    assert ch.tidy("XXXX-year-old XXXX with cough") == "with cough"
    assert ch.tidy("65-year-old woman, chest pain") == "woman, chest pain"
    assert ch.index_terms("normal") == ch.index_terms("No Indexing") == set()
    assert ch.index_terms("Opacity;Opacity;Cardiomegaly") == {"opacity", "cardiomegaly"}
    assert ch.nearest_texts(["mass in lung", "a clear heart", "lung mass", "heart clear now"]).tolist() == [2, 3, 0, 1]
    assert ch.term_f1(set(), set()) == 1
    assert ch.term_f1({"a"}, {"a", "b", "c"}) == pytest.approx(0.5)


def test_published_shapes_on_meta(ch):
    """Fusion width 2048 and 8 heads; 49 patches and their mean are 50 tokens."""
    with torch.device("meta"):
        fusion = ch.Fusion(2048, 8, 2048)
        film = torch.zeros(1, 50, 2048)
        out = fusion(film, torch.zeros(1, 178, 2048), torch.ones(1, 178, dtype=torch.bool))
    assert out.shape == (1, 50, 2048)
    assert fusion.join.self_attn.num_heads == 8
