"""CSR: the chapter's own definitions against naive references, invariances and limits."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from medtutor.cohort import Cohort


def chain(ch, kinds=3):
    tower = ch.ImageText(words=5, dim=8, width=10)
    return ch.ConceptNet(tower, kinds).eval(), ch.Prototypes(10, kinds, each=2, dim=4).eval()


# ---- stage A

def test_local_vector_is_the_weighted_mean_of_patches(ch):
    f, maps = torch.randn(2, 5, 3, 3), torch.randn(2, 4, 3, 3)
    v = ch.local_vectors(f, maps)
    for b in range(2):
        for k in range(4):
            weights = [math.exp(float(maps[b, k, y, x])) for y in range(3) for x in range(3)]
            naive = sum(w * f[b, :, y, x] for w, (y, x) in zip(
                weights, ((y, x) for y in range(3) for x in range(3)), strict=True)) / sum(weights)
            assert torch.allclose(v[b, k], naive, atol=1e-5)
    peak = torch.zeros(2, 4, 3, 3)
    peak[:, :, 1, 2] = 60
    assert torch.allclose(ch.local_vectors(f, peak)[:, 0], f[:, :, 1, 2], atol=1e-5)


def test_soft_maximum_lies_between_mean_and_maximum(ch):
    net, maps = chain(ch)[0], 3 * torch.randn(4, 3, 8, 8)
    net.sharp = 0.0
    assert torch.allclose(net.pooled(maps), maps.mean((2, 3)), atol=1e-6)
    net.sharp = 1.0
    assert (net.pooled(maps) > maps.mean((2, 3))).all()
    assert (net.pooled(maps) < maps.amax((2, 3))).all()
    net.sharp = 200.0
    assert torch.allclose(net.pooled(maps), maps.amax((2, 3)), atol=0.05)
    flat = torch.full((1, 3, 8, 8), 0.7)
    net.sharp = 1.0
    assert torch.allclose(net.pooled(flat), torch.full((1, 3), 0.7), atol=1e-5)


def test_concepts_are_labels_of_the_film(ch):
    findings = torch.zeros(2, 15)
    findings[0, ch.thorax.FINDINGS.index("effusion")] = 1
    films = Cohort(image=torch.zeros(2, 1, 2, 2), meta={"findings": findings, "attributes": torch.tensor([[0, 0, 1],
                                                                                                         [1, 1, 0]])})
    labels = ch.concept_labels(films)
    assert labels[0].tolist() == [float(name in ("effusion", "pacemaker")) for name in ch.CONCEPTS]
    assert not labels[1].any()


# ---- stage B

def test_prototype_loss_equals_its_formula(ch):
    cosines, concept = 2 * torch.rand(5, 3, 4) - 1, torch.tensor([0, 2, 1, 1, 0])
    total = {"both": 0.0, "numerator": 0.0}
    for i, k in enumerate(concept.tolist()):
        sim = []
        for j in range(3):
            weights = [math.exp(20 * float(c)) for c in cosines[i, j]]
            sim.append(sum(w * float(c) for w, c in zip(weights, cosines[i, j], strict=True)) / sum(weights))
        others = sum(math.exp(20 * s) for j, s in enumerate(sim) if j != k)
        own = math.exp(20 * (sim[k] - 0.05))
        total["both"] -= math.log(own / (own + others)) / 5
        total["numerator"] -= math.log(math.exp(20 * (sim[k] + 0.05)) / (math.exp(20 * sim[k]) + others)) / 5
    for margin, naive in total.items():
        assert float(ch.prototype_loss(cosines, concept, margin=margin)) == pytest.approx(naive, abs=1e-4)


def test_one_prototype_is_a_softmax_with_one_proxy(ch):
    cosines, concept = 2 * torch.rand(6, 4, 1) - 1, torch.arange(6) % 4
    margin = 0.05 * F.one_hot(concept, 4)
    proxy = F.cross_entropy(20 * (cosines[..., 0] - margin), concept)
    assert torch.allclose(ch.prototype_loss(cosines, concept), proxy)


def test_margin_in_the_numerator_only_has_a_negative_bound(ch):
    concept = torch.arange(4)
    perfect = (2.0 * F.one_hot(concept, 4) - 1)[..., None]
    assert float(ch.prototype_loss(perfect, concept, margin="numerator")) == pytest.approx(-20 * 0.05, abs=1e-5)
    assert float(ch.prototype_loss(perfect, concept)) >= 0
    anything = 2 * torch.rand(40, 4, 3) - 1
    assert float(ch.prototype_loss(anything, torch.arange(40) % 4, margin="numerator")) >= -1


def test_prototypes_learn_to_tell_concepts_apart(ch):
    concept = torch.arange(120) % 3
    vectors = 3.0 * F.one_hot(concept, 3).float() @ torch.randn(3, 10) + 0.3 * torch.randn(120, 10)
    model = ch.fit_prototypes(vectors, concept, seed=0, concepts=3, steps=60)
    cosines = model.cosines(model.projected(vectors))
    assert (cosines.amax(2).argmax(1) == concept).float().mean() > 0.95
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


# ---- stage C

def test_maps_are_cosines_of_patches_and_prototypes(ch):
    net, prototypes = chain(ch)
    with torch.no_grad():
        f = net(torch.randn(2, 1, 64, 64))[0]
        maps = prototypes.maps(f)
        assert maps.shape == (2, 3, 2, 8, 8)
        for b, k, m, y, x in ((0, 1, 0, 3, 4), (1, 2, 1, 0, 7), (1, 0, 0, 5, 5)):
            patch, point = prototypes.project(f[b, :, y, x][None])[0], prototypes.points[k, m]
            naive = float(patch @ point / (patch.norm() * point.norm()))
            assert float(maps[b, k, m, y, x]) == pytest.approx(naive, abs=1e-5)
        assert torch.allclose(prototypes.maps(f[:1]), maps[:1], atol=1e-6), "frozen statistics: no film sees another"
    s = ch.best_match(maps)
    assert torch.allclose(s, maps.amax((2, 3, 4)))
    assert s.abs().max() <= 1 + 1e-6


def test_a_shift_by_one_stride_shifts_the_maps(ch):
    net, prototypes = chain(ch)
    film = torch.zeros(1, 1, 64, 64)
    film[..., 24:40, 16:32] = torch.randn(16, 16)
    with torch.no_grad():
        here, there = (prototypes.maps(net(some)[0]) for some in (film, film.roll(8, 3)))
    assert torch.allclose(here[..., :-1], there[..., 1:], atol=1e-5)
    assert not torch.allclose(here, there, atol=1e-3)


def test_the_order_of_prototypes_inside_a_concept_does_not_matter(ch):
    maps = 2 * torch.rand(3, 4, 5, 8, 8) - 1
    assert torch.equal(ch.best_match(maps[:, :, torch.randperm(5)]), ch.best_match(maps))
    assert not torch.equal(ch.best_match(maps[:, torch.tensor([1, 0, 2, 3])]), ch.best_match(maps))


def test_deleted_prototypes_cannot_win(ch):
    maps = torch.rand(2, 3, 2, 4, 4)
    assert torch.allclose(ch.best_match(maps, deleted=((1, 0),))[:, 1], maps[:, 1, 1].amax((1, 2)))
    gone = ch.best_match(maps, deleted=((1, 0), (1, 1)))
    assert (gone[:, 1] == -1).all()
    assert torch.equal(gone[:, [0, 2]], ch.best_match(maps)[:, [0, 2]])


# ---- the reader's boxes

@pytest.mark.parametrize("how", ["product", "shifted"])
def test_a_map_of_ones_changes_nothing(ch, how):
    maps = 2 * torch.rand(2, 3, 2, 8, 8) - 1
    assert torch.allclose(ch.best_match(maps, torch.ones(2, 8, 8), how=how), ch.best_match(maps), atol=1e-6)


@pytest.mark.parametrize("how", ["product", "shifted"])
def test_zeros_outside_a_box_move_the_best_match_into_it(ch, how):
    maps = 0.1 + 0.9 * torch.rand(2, 3, 2, 8, 8)
    inside = ch.importance_map(torch.tensor([[16.0, 16, 31, 31]] * 2), inside=1.0, outside=0.0)
    assert torch.allclose(ch.best_match(maps, inside, how=how), maps[..., 2:4, 2:4].amax((2, 3, 4)), atol=1e-6)


def test_shifted_never_raises_a_similarity_and_the_product_does(ch):
    maps, a = 2 * torch.rand(4, 3, 2, 8, 8) - 1, torch.rand(4, 8, 8)
    assert (ch.best_match(maps, a) <= ch.best_match(maps) + 1e-6).all()
    low = -0.5 * torch.ones(1, 1, 1, 8, 8)
    box = ch.importance_map(torch.tensor([[0.0, 0, 16, 16]]))
    assert float(ch.best_match(low, box, how="product")) == pytest.approx(-0.1)
    assert float(ch.best_match(low, box)) == pytest.approx(-0.5)


def test_boxes_become_cells(ch):
    a = ch.importance_map(torch.tensor([[8.0, 16, 24, 24], [0, 0, 1, 1]]), inside=0.2)
    assert (a[0] < 1).nonzero().tolist() == [[2, 1], [2, 2]]
    assert (a[1] < 1).nonzero().tolist() == [[0, 0]]
    assert a[0, 2, 1] == pytest.approx(0.2)
    assert a[0, 0, 0] == 1


def test_pointing_game(ch):
    mask = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    mask[:2, 0, 20:22, 41] = True
    films = Cohort(image=torch.zeros(3, 1, 64, 64), mask=mask, names={"mask": ("nodule",)})
    maps = torch.zeros(3, 8, 8)
    maps[:, 2, 5] = 1  # the cell of rows 16 to 23 and columns 40 to 47
    maps[1, 7, 0] = 2
    hit = ch.pointing(maps, films, "nodule")
    assert hit[:2].tolist() == [1.0, 0.0]
    assert math.isnan(hit[2])


def test_a_box_helps_a_model_that_looks_at_a_device(ch, monkeypatch):
    """Two concepts: a faint true sign, and a device that is tied to the label in training and reversed at the test."""
    n = 80
    label = torch.arange(n) % 2
    maps = torch.full((n, 2, 1, 8, 8), -0.5)
    maps[:, 0, 0, 5, 5] = 0.2 + 0.3 * label + 0.15 * torch.randn(n)
    maps[:, 1, 0, 1, 6] = torch.where(label == 0, 0.9, -0.5)
    films = Cohort(image=torch.zeros(n, 1, 64, 64), label=label)
    train = torch.stack([maps[:, 0].amax((1, 2, 3)), torch.where(label == 1, 0.9, -0.5) + 0.05 * torch.randn(n)], 1)
    names = ch.boxed.__globals__
    monkeypatch.setitem(names, "test", films)
    boxes = torch.tensor([[48.0, 8, 55, 15]]).expand(n, 4)
    run = SimpleNamespace(maps=(None, maps))
    right = {share: ch.boxed(train, run, label, boxes, share).mean() for share in (0.0, 1.0)}
    assert right[0.0] < 0.3
    assert right[1.0] > right[0.0] + 0.15


def test_pacemaker_boxes_lie_where_a_pacemaker_lies(ch):
    boxes = ch.pacemaker_boxes(6, seed=9)
    assert boxes.shape == (6, 4)
    assert not boxes.isnan().any()
    size = boxes[:, 2:] - boxes[:, :2]
    assert (size > 2).all()
    assert (size < 24).all()
    assert (boxes[:, 0] > 32).all(), "in the right half of the image, below the patient's left clavicle"
    assert (boxes[:, 3] < 32).all()


def test_sizes(ch):
    points = ch.Prototypes(96, len(ch.CONCEPTS), each=4, dim=128).points
    assert points.shape == (6, 4, 128)
    head = ch.Head(torch.zeros(len(ch.CONCEPTS)), torch.ones(len(ch.CONCEPTS)))
    assert head.weight.numel() + head.bias.numel() == len(ch.CLASSES) * len(ch.CONCEPTS) + len(ch.CLASSES)
