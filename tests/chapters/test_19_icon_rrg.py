"""ICON (Hou et al. 2024): consistency scores, Zoomer, partners, lesion-aware mix-up.

The docstring of each test says which removal of the idea it detects.
"""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def tables():
    """Two boolean tables (7, 12), the last row of each empty."""
    a, b = torch.rand(2, 7, 12) < 0.4
    a[-1] = b[-1] = False
    return a, b


def sets(table):
    return [set(row.nonzero()[:, 0].tolist()) for row in table]


NAIVE = {"overlap": lambda x, y: len(x & y) / min(len(x), len(y)) if x and y else 0.0,
         "jaccard": lambda x, y: len(x & y) / len(x | y) if x | y else 0.0,
         "set_f1": lambda x, y: 2 * len(x & y) / (len(x) + len(y)) if x or y else 0.0}


@pytest.mark.parametrize("name", list(NAIVE))
def test_likeness_is_the_naive_one(ch, tables, name):
    """Detects F1 or Jaccard in the place of the overlap; all lie in [0, 1] and are symmetric."""
    a, b = tables
    value = getattr(ch, name)(a, b)
    expected = torch.tensor([[NAIVE[name](x, y) for y in sets(b)] for x in sets(a)], dtype=torch.double)
    assert torch.allclose(value, expected)
    assert torch.allclose(value, getattr(ch, name)(b, a).T)
    assert ((value >= 0) & (value <= 1)).all()


def test_overlap_forgives_a_subset(ch):
    """The coefficient is 1 for a subset, which Jaccard and F1 are not; 0 if one set is empty."""
    small, large = torch.tensor([[1, 0, 0, 0]]) > 0, torch.tensor([[1, 1, 1, 0]]) > 0
    assert ch.overlap(small, large) == 1
    assert ch.jaccard(small, large) == pytest.approx(1 / 3)
    assert ch.set_f1(small, large) == pytest.approx(0.5)
    assert ch.overlap(small & ~small, large) == 0


def test_equivalents(ch):
    """Detects a lost threshold on either side, and a study that is its own equivalent."""
    findings = torch.tensor([[1, 0], [1, 0], [0, 1], [1, 0]]) > 0
    words = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]]) > 0
    equal = ch.equivalents(findings, words)
    assert equal.tolist() == [[False, True, False, False], [True, False, False, True],
                              [False, False, False, False], [False, True, False, False]]


def naive_consistency(written, reference, equal):
    said, true, con, right = sets(written), sets(reference), [], []
    for i, own in enumerate(said):
        others = [NAIVE["overlap"](own, said[j]) for j in range(len(said)) if equal[i, j]]
        con.append(sum(others) / len(others) if others else math.nan)
        right.append(con[-1] * NAIVE["overlap"](own, true[i]))
    return con, right


def test_consistency_is_the_naive_one(ch, tables):
    """Detects R-CON without the reference, CON that counts the study itself, and a score without equivalents."""
    written, reference = tables
    equal = torch.rand(7, 7) < 0.5
    equal = (equal | equal.T) & ~torch.eye(7, dtype=torch.bool)
    equal[3] = equal[:, 3] = False
    found, (con, right) = ch.consistency(written, reference, equal), naive_consistency(written, reference, equal)
    assert np.allclose(found["CON"], con, equal_nan=True)
    assert np.allclose(found["R-CON"], right, equal_nan=True)
    assert math.isnan(found["CON"][3])


def test_degenerate_writers(ch):
    """One report for everybody: CON 1, R-CON below 1. Every word: both are 1, which Jaccard denies."""
    reference = torch.rand(30, 40) < 0.1
    reference[:, 0] = True
    equal = ~torch.eye(30, dtype=torch.bool)
    same = ch.consistency(reference[:1].expand_as(reference), reference, equal)
    assert np.allclose(same["CON"], 1)
    assert same["R-CON"].mean() < 0.9
    every = torch.ones_like(reference)
    loud = ch.consistency(every, reference, equal)
    assert np.allclose(loud["CON"], 1)
    assert np.allclose(loud["R-CON"], 1)
    assert ch.consistency(every, reference, equal, ch.jaccard)["R-CON"].mean() < 0.3
    silent = ch.consistency(every & ~every, reference, equal)
    assert (silent["CON"] == 0).all()


def labels(n=6):
    return torch.rand(n, 8) < 0.5


def test_lam_one_is_no_mixup(ch):
    """Detects a partner that leaks in at lam = 1, in the loss and through the whole training loss."""
    logits, own, other = torch.randn(6, 8), labels(), labels()
    plain = F.binary_cross_entropy_with_logits(logits, own.float(), reduction="none",
                                               pos_weight=torch.full((8,), ch.POSITIVE))
    assert torch.allclose(ch.mixed_loss(logits, own, other, torch.ones(6)), plain)
    model, batch = ch.Inspector().eval(), patches_of(ch)
    partnered = ch.replace(batch, meta=batch.meta | {"partners": torch.randint(6, (6, 5))})
    for where in ("pixels", "features"):
        assert torch.allclose(ch.inspector_loss(model, partnered, batch, where, lam=1.0),
                              ch.inspector_loss(model, batch), atol=1e-6)
        assert not torch.allclose(ch.inspector_loss(model, partnered, batch, where, lam=0.5),
                                  ch.inspector_loss(model, batch), atol=1e-3)


def test_half_is_symmetric(ch):
    logits, own, other, half = torch.randn(6, 8), labels(), labels(), torch.full((6,), 0.5)
    assert torch.allclose(ch.mixed_loss(logits, own, other, half), ch.mixed_loss(logits, other, own, half))
    more = torch.full((6,), 0.75)
    assert not torch.allclose(ch.mixed_loss(logits, own, other, more), ch.mixed_loss(logits, other, own, more))


def test_equal_labels_give_plain_bce_on_the_mixed_patch(ch):
    """Detects pixels that are not mixed."""
    model, batch = ch.Inspector().eval(), patches_of(ch)
    batch = ch.replace(batch, label=batch.label[:1].expand(6, -1))
    partnered = ch.replace(batch, meta=batch.meta | {"partners": torch.arange(6).roll(1)[:, None]})
    mixed = 0.75 * batch.image + 0.25 * batch.image.roll(1, 0)
    logits = model(mixed, batch.meta["film"], batch.meta["lesion"])
    expected = ch.mixed_loss(logits, batch.label, batch.label, torch.ones(6)).mean()
    assert torch.allclose(ch.inspector_loss(model, partnered, batch), expected, atol=1e-6)


def test_pixels_and_representations_differ(ch):
    """Detects one kind of mixing under two names; representations are mixed after the patch network."""
    model, batch = ch.Inspector().eval(), patches_of(ch)
    partnered = ch.replace(batch, meta=batch.meta | {"partners": torch.arange(6).roll(1)[:, None]})
    seen = 0.75 * model.look(batch.image) + 0.25 * model.look(batch.image.roll(1, 0))
    logits = model.judge(seen, batch.meta["film"], batch.meta["lesion"])
    expected = ch.mixed_loss(logits, batch.label, batch.label.roll(1, 0), torch.full((6,), 0.75)).mean()
    value = ch.inspector_loss(model, partnered, batch, "features")
    assert torch.allclose(value, expected, atol=1e-6)
    assert not torch.allclose(value, ch.inspector_loss(model, partnered, batch, "pixels"), atol=1e-5)


def test_no_partner_means_no_mixup(ch):
    """A partner of -1 must not mix with the last patch of the source."""
    model, batch = ch.Inspector().eval(), patches_of(ch)
    alone = ch.replace(batch, meta=batch.meta | {"partners": torch.full((6, 5), -1)})
    assert torch.allclose(ch.inspector_loss(model, alone, batch), ch.inspector_loss(model, batch), atol=1e-6)


def test_released_reduction_matters_only_without_partners(ch):
    """The scalar partner loss has the same mean and gradient where all have partners, and another where some have
    none."""
    draws, own, other = torch.randn(6, 8).double(), labels(), labels()
    for lam, equal in ((torch.full((6,), 0.75).double(), True), (torch.tensor([0.75] * 3 + [1.0] * 3).double(), False)):
        mate, gradients = torch.where((lam < 1)[:, None], other, own), []
        for loss in (ch.mixed_loss, ch.released_loss):
            free = draws.clone().requires_grad_()
            gradients.append(torch.autograd.grad(loss(free, own, mate, lam).mean(), free)[0])
        assert torch.allclose(*gradients) == equal
    assert not torch.allclose(ch.mixed_loss(draws, own, other, lam), ch.released_loss(draws, own, other, lam))


def naive_bm25(documents, query, k1=1.5, b=0.75):
    """Word by word over lists of words."""
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, total = Counter(document), 0.0
        for word in query:
            n = sum(word in other for other in documents)
            idf = math.log((len(documents) - n + 0.5) / (n + 0.5) + 1)
            total += idf * counts[word] * (k1 + 1) / (counts[word] + k1 * (1 - b + b * len(document) / mean))
        scores.append(total)
    return scores


def test_bm25_is_the_naive_one(ch):
    counts = torch.randint(3, (8, 10))
    counts[:, 0] = 1
    documents = [[w for w, n in enumerate(row) for _ in range(n)] for row in counts.tolist()]
    expected = torch.tensor([naive_bm25(documents, query) for query in documents], dtype=torch.double)
    assert torch.allclose(ch.bm25(counts), expected)


def test_partners_have_the_same_finding_in_another_study(ch):
    """Detects mix-up across findings or within a study, and partners that ignore the report."""
    studies = 24
    findings = (torch.rand(studies, 5) < 0.4).float()
    findings[:, 0] = 1
    words = (torch.rand(studies, 5, 8) < 0.4) & (findings > 0)[..., None]
    words[1::2], findings[1::2] = words[::2].clone(), findings[::2].clone()  # twins have the same report
    rows, lesion = findings.nonzero().T
    mates = ch.partners(findings, words, rows, lesion, count=3, near=studies)
    for m, some in enumerate(mates.tolist()):
        for other in (o for o in some if o >= 0):
            assert lesion[other] == lesion[m]
            assert rows[other] != rows[m]
    twin = rows[mates[:, 0].clamp(min=0)] == (rows ^ 1)
    assert twin[mates[:, 0] >= 0].float().mean() > 0.9
    lonely = ch.partners(torch.eye(5), torch.ones(5, 5, 8) > 0, torch.arange(5), torch.arange(5), count=2, near=4)
    assert (lonely == -1).all()


def test_windows_tile_the_film(ch):
    """Windows are crops at the stride, row by row."""
    image = torch.rand(2, 1, 64, 64)
    crops = ch.windows(image)
    assert crops.shape == (2, 25, 1, ch.SIDE, ch.SIDE)
    for k in (0, 6, 24):
        y, x = k // 5 * ch.STRIDE, k % 5 * ch.STRIDE
        assert torch.equal(crops[:, k], image[..., y:y + ch.SIDE, x:x + ch.SIDE])


def test_zoom_takes_the_likeliest_window_of_each_finding(ch):
    """With a classifier that answers to brightness, each bright spot is found; `inside` measures it."""
    image = torch.zeros(2, 1, 64, 64)
    image[0, 0, 4:8, 4:8] = image[1, 0, 56:60, 56:60] = 1

    class Bright(torch.nn.Module):
        def forward(self, film):
            return film.sum((1, 2, 3))[:, None].expand(-1, len(ch.LESIONS))

    logits, chosen = ch.zoom(Bright(), image)
    assert logits.shape == (2, 5)
    assert (chosen[0] == 0).all()
    assert (chosen[1] == 24).all()
    mask = (image > 0).expand(-1, 5, -1, -1)
    assert torch.equal(ch.inside(mask, chosen), torch.ones(2, 5))
    assert torch.allclose(ch.inside(mask), torch.full((2, 5), 1 / 25))
    assert ch.inside(mask & False, chosen).isnan().all()


def test_twins_are_equivalent_but_not_equal(ch):
    """Twins share findings, sides and grades; their films differ; the words are those of the report."""
    twins = ch.twin_films(6, 5)
    words = twins.meta["words"]
    assert twins.label.any(1).all()
    assert torch.equal(twins.label[::2], twins.label[1::2])
    assert torch.equal(words[::2, :, :5], words[1::2, :, :5])
    assert torch.equal(words.any(2), twins.label > 0)
    assert not torch.allclose(twins.image[::2], twins.image[1::2], atol=0.1)
    assert all(torch.equal(ch.attribute_words(r), w) for r, w in zip(twins.report, words, strict=True))


def test_attribute_words(ch):
    """Denied and uncertain findings have none; both sides count as two words."""
    words = ch.attribute_words("small bilateral pleural effusions. no pneumothorax. possible large mass.")
    said = {(ch.LESIONS[k], ch.ATTRIBUTES[a]) for k, a in words.nonzero().tolist()}
    assert said == {("effusion", "mild"), ("effusion", "right"), ("effusion", "left")}


def patches_of(ch, n=6):
    meta = {"film": torch.rand(n, 64, 8, 8), "lesion": torch.randint(5, (n,)), "row": torch.arange(n)}
    return ch.Cohort(image=torch.randn(n, 1, 32, 32), label=labels(n), meta=meta)


def test_inspector_has_one_output_for_each_finding(ch):
    """Detects a finding that is ignored, and a patch or film that is never read."""
    model, batch = ch.Inspector().eval(), patches_of(ch)
    patch, film, lesion = batch.image, batch.meta["film"], batch.meta["lesion"]
    logits = model(patch, film, lesion)
    assert logits.shape == (6, 8)
    for change in ((patch.roll(1, 0), film, lesion), (patch, film.roll(1, 0), lesion), (patch, film, (lesion + 1) % 5)):
        assert not torch.allclose(logits, model(*change), atol=1e-4)
    weight = torch.autograd.grad(model(patch[:1], film[:1], torch.tensor([2])).sum(), model.out.weight)[0]
    used = weight.view(5, 8, -1).abs().sum((1, 2)) > 0
    assert used.tolist() == [False, False, True, False, False]


def test_written_words_go_to_their_study(ch):
    """What is not named stays empty; a study with two patches gets the words of both."""
    rows = patches_of(ch, 3)
    rows = ch.replace(rows, meta=rows.meta | {"row": torch.tensor([0, 2, 2]), "lesion": torch.tensor([1, 0, 4])})
    model = ch.Inspector().eval()
    table = ch.written_words(model, rows, 4).view(4, 5, 8)
    logits = model(rows.image, rows.meta["film"], rows.meta["lesion"])
    for m, (row, lesion) in enumerate(((0, 1), (2, 0), (2, 4))):
        assert torch.equal(table[row, lesion], logits[m] > 0)
    assert not table[[1, 3]].any()
