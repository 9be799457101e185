"""Dynamic subspace learners: the chapter's own definitions against naive references, invariances and limits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medtutor.cohort import Cohort


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# ---- classes and slices

def test_no_class_is_in_two_parts_and_training_shows_every_attribute(ch):
    parts = {name: {tuple(row) for row in ch.kinds(name).tolist()} for name in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [12, 6, 6]
    assert len(set.union(*parts.values())) == 24
    for column, count in enumerate((4, 3, 2)):
        assert ch.kinds("train")[:, column].unique().tolist() == list(range(count))


def test_lesions_have_the_attributes_that_they_claim(ch):
    cohort = ch.lesions(4, "train", 1)
    assert cohort.image.shape == (48, 3, 48, 48)
    assert cohort.label.bincount().tolist() == [4] * 12
    grey, inside = cohort.image.mean(1), cohort.mask.bool()
    darkest = torch.stack([g[m].quantile(0.1) / g[~m].median() for g, m in zip(grey, inside, strict=True)])
    blue = cohort.image[:, 2] / cohort.image.sum(1)
    bluest = torch.stack([b[m].quantile(0.9) / b[~m].median() for b, m in zip(blue, inside, strict=True)])
    edge = (inside[:, 1:] != inside[:, :-1]).sum((1, 2)) / inside.sum((1, 2)).sqrt()
    colour, _, shape = cohort.meta["attribute"].T
    assert darkest[colour == 3].mean() < darkest[colour != 3].mean() - 0.1, "black"
    assert bluest[colour == 2].mean() > bluest[colour != 2].mean() + 0.03, "blue-grey"
    assert edge[shape == 1].mean() > 1.1 * edge[shape == 0].mean(), "ragged"


def test_every_slice_counts_the_same_and_the_whole_has_length_one(ch):
    raw, owner = torch.randn(5, 8), torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    e = ch.sliced(raw, owner)
    assert torch.allclose(e.norm(dim=1), torch.ones(5))
    for k in range(3):
        assert torch.allclose(e[:, owner == k].norm(dim=1), torch.full((5,), 1 / math.sqrt(3)))
    louder = torch.where(owner == 1, 10 * raw, raw)
    assert torch.allclose(ch.sliced(louder, owner), e, atol=1e-6), "a slice cannot win by being longer"
    assert torch.allclose(ch.sliced(raw, torch.zeros(8, dtype=torch.long)), F.normalize(raw, dim=1))


def test_attention_weighs_the_features_before_pooling(ch):
    net, image = ch.SubspaceNet().eval(), torch.rand(2, 3, 48, 48)
    f = net.trunk((image - 0.6) / 0.2)
    a = net.attend(f)
    assert a.shape == (2, 1, 12, 12)
    assert bool(((a > 0) & (a < 1)).all())
    by_hand = torch.stack([sum(a[:, 0, i, j, None] * f[:, :, i, j] for i in range(12) for j in range(12)) / 144])
    assert torch.allclose(net.pooled(f), net.standardise(by_hand[0]), atol=1e-5)
    net.attend = None
    assert torch.allclose(net.pooled(f), net.standardise(f.mean((2, 3))), atol=1e-5)


# ---- margin loss

@pytest.mark.parametrize("seed", range(6))
def test_margin_loss_equals_loops(ch, seed):
    e, label = unit(14, 3, seed=seed), torch.randint(4, (14,), generator=torch.Generator().manual_seed(seed))
    assert float(ch.margin_loss(e, label)) == pytest.approx(ch.margin_loss_by_loops(e, label), rel=1e-4)


def test_margin_loss_is_zero_exactly_beyond_the_margins(ch):
    def corners(angle):
        place = torch.tensor([0.0, 0.0, angle, angle])
        return torch.stack([place.cos(), place.sin()], 1)

    label = torch.tensor([0, 0, 1, 1])
    enough = 2 * math.asin(1.4 / 2)  # the angle at which unit vectors are beta + m apart
    assert ch.margin_loss(corners(enough + 1e-3), label) == 0
    assert ch.margin_loss(corners(enough - 1e-2), label) > 0


def test_positives_may_be_as_far_as_beta_minus_m(ch):
    for angle, active in ((2 * math.asin(0.5) - 1e-3, False), (2 * math.asin(0.5) + 1e-2, True)):
        place = torch.tensor([0.0, angle, math.pi + angle / 2])
        e = torch.stack([place.cos(), place.sin()], 1)
        assert bool(ch.margin_loss(e, torch.tensor([0, 0, 1])) > 0) is active


def test_the_negative_is_the_nearest_one_beyond_the_bound(ch):
    angles = [0.0, 0.02, 0.3, 0.8, 2.5]  # one pair, and three strangers: too near, the right one, far
    e = torch.tensor([[math.cos(a), math.sin(a)] for a in angles], requires_grad=True)
    label = torch.tensor([0, 0, 1, 2, 3])
    ch.margin_loss(e, label).backward()
    assert not e.grad[2].any()
    assert e.grad[3].any()
    assert not e.grad[4].any()


def test_without_a_negative_beyond_the_bound_the_farthest_one_is_pushed(ch):
    angles = [0.0, 0.02, 0.1, 0.3]
    e = torch.tensor([[math.cos(a), math.sin(a)] for a in angles], requires_grad=True)
    ch.margin_loss(e, torch.tensor([0, 0, 1, 2])).backward()
    assert e.grad[3].any()
    assert not e.grad[2].any()


def test_one_class_alone_teaches_nothing(ch):
    e = unit(5, 4).requires_grad_()
    loss = ch.margin_loss(e, torch.zeros(5, dtype=torch.long))
    assert loss == 0
    loss.backward()
    assert not e.grad.any()


def test_a_cluster_of_one_learner_moves_no_other_neuron(ch):
    net = ch.SubspaceNet(dim=12)
    owner = torch.arange(12) % 3
    raw = net.raw(torch.rand(8, 3, 48, 48))
    ch.margin_loss(F.normalize(raw[:, owner == 1], dim=1), torch.arange(8) % 2).backward()
    assert net.embed.weight.grad[owner == 1].abs().sum() > 0
    assert not net.embed.weight.grad[owner != 1].any()
    assert not net.embed.bias.grad[owner != 1].any()


# ---- growth

def test_taylor_scores_cancel_in_a_learner_and_vanish_without_a_gradient(ch):
    net, image, label = ch.SubspaceNet(dim=12).eval(), torch.rand(12, 3, 48, 48), torch.arange(12) % 3
    net.owner = torch.arange(12) // 8
    score = ch.taylor_scores(net, image, label)
    assert not score[:8].any(), "the last learner's loss does not see the others"
    assert score[8:].abs().max() > 1e-6
    assert score.sum().abs() < 1e-5, "the length of a slice cannot change its loss"
    silent = ch.taylor_scores(net, image, torch.zeros(12, dtype=torch.long))
    assert not silent.any()


def test_taylor_score_predicts_the_loss_without_the_neuron(ch):
    net, image, label = ch.SubspaceNet(dim=12).eval(), torch.rand(12, 3, 48, 48), torch.arange(12) % 3
    score, raw = ch.taylor_scores(net, image, label), net.raw(image).detach()

    def loss(shrink, neuron):
        factor = torch.ones(12).index_fill(0, torch.tensor(neuron), 1 - shrink)
        return float(ch.margin_loss(F.normalize((raw * factor).double(), dim=1), label))

    for neuron in range(12):
        change = (loss(1e-4, neuron) - loss(0, neuron)) / 1e-4
        assert change == pytest.approx(-12 * float(score[neuron]), abs=2e-3), "the mean is over images, the loss a sum"


def test_splits_keep_a_partition_and_its_limits(ch):
    owner = torch.zeros(40, dtype=torch.long)
    for round_ in range(12):
        new = ch.split_last(owner, torch.rand(40, generator=torch.Generator().manual_seed(round_)))
        last = int(owner.max())
        if int((owner == last).sum()) <= 10:
            assert torch.equal(new, owner)
            break
        assert torch.equal(new[owner < last], owner[owner < last]), "earlier learners keep their neurons"
        assert set(new[owner == last].tolist()) == {last, last + 1}
        assert int((new == last).sum()) >= 5
        owner = new
    assert len(owner.bincount()) > 2


def test_a_split_keeps_the_neurons_with_high_scores(ch):
    score = torch.tensor([0.0, 9, -8, 1, 7, -6, 2, 10, 3, 0, 1, 2])
    new = ch.split_last(torch.zeros(12, dtype=torch.long), score)
    assert (new == 0).nonzero()[:, 0].tolist() == [1, 2, 4, 5, 7], "above half of the range, whatever the sign"
    few = ch.split_last(torch.zeros(12, dtype=torch.long), torch.tensor([10.0, 4, 3, 2, 1, *[0.0] * 7]))
    assert int((few == 0).sum()) == 5, "one neuron passes the threshold, but five must stay"
    small = torch.zeros(10, dtype=torch.long)
    assert torch.equal(ch.split_last(small, torch.rand(10)), small)


def test_grow_renews_the_new_learner_only_and_clears_its_moments(ch):
    net = ch.SubspaceNet(dim=16)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net(torch.rand(4, 3, 48, 48)).sum().backward()
    optimizer.step()
    before, image, label = net.embed.weight.detach().clone(), torch.rand(24, 3, 48, 48), torch.arange(24) % 4
    ch.grow(net.eval(), optimizer, image, label)
    fresh = net.owner == 1
    assert 0 < int(fresh.sum()) < 16
    assert torch.equal(net.embed.weight[~fresh], before[~fresh])
    assert not (net.embed.weight[fresh] == before[fresh]).all(1).any()
    moment = optimizer.state[net.embed.weight]["exp_avg_sq"]
    assert not moment[fresh].any()
    assert moment[~fresh].any()


# ---- dividing and training

def test_matching_undoes_any_renaming(ch):
    old = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    for seed in range(5):
        names = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(ch.matched(names[old], old, 4), old)
    moved = old.clone()
    moved[0] = 3
    assert torch.equal(ch.matched(torch.tensor([2, 3, 0, 1])[moved], old, 4), moved)


def test_batches_are_balanced_and_stay_in_their_cluster(ch):
    label, pool = torch.arange(120) % 12, torch.arange(0, 120, 2)
    rows = ch.balanced(label, pool, torch.Generator().manual_seed(0), classes=5, each=3)
    assert len(rows) == 15
    assert set(rows.tolist()) <= set(pool.tolist())
    assert sorted(label[rows].bincount().unique().tolist()) == [0, 3]
    assert len(rows.unique()) == 15


def test_scores_equal_loops_and_ignore_names(ch):
    e, label = unit(24, 4), torch.arange(24) % 3
    hits = []
    for i in range(24):
        others = [j for j in range(24) if j != i]
        hits.append(float(label[min(others, key=lambda j: float((e[i] - e[j]).norm()))] == label[i]))
    assert ch.recall_at_1(e, label).tolist() == hits
    assert ch.nmi(e, label) == pytest.approx(ch.nmi(e, torch.tensor([2, 0, 1])[label])), "names do not matter"
    tight = torch.eye(4)[label] + 1e-3 * e
    assert ch.nmi(tight, label) == pytest.approx(1)
    assert ch.nmi(e, label) < 0.5


@pytest.fixture(scope="module")
def colours():
    """Flat pictures whose class is their colour: easy enough to be learnt in seconds."""
    label = torch.arange(96) % 4
    shade = torch.tensor([[0.8, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.2, 0.8], [0.6, 0.6, 0.6]])[label]
    noise = 0.05 * torch.randn(96, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    return Cohort(image=shade[:, :, None, None] + noise, label=label)


def test_growth_waits_for_a_stall_and_ends_in_joint_tuning(ch, colours):
    torch.manual_seed(0)
    net, plan = ch.SubspaceNet(), ch.LearnersPlan(grow=True, rounds=9, steps=2, joint=2, patience=1)
    history = ch.train_learners(net, colours, {"validation": colours[:24]}, plan, 0)
    learners, score = [row["learners"] for row in history], [row["validation"] for row in history]
    assert learners[0] == 1
    assert learners[-2:] == [1, 1], "the whole embedding is fine-tuned with one loss"
    best = np.maximum.accumulate(score)
    for r in range(1, 7):
        if learners[r] > learners[r - 1]:
            assert r > 1
            assert score[r - 1] <= best[r - 2], "no split while the NMI improves"
    assert int(net.learnt.max()) + 1 == max(learners)
    assert ch.recall_at_1(ch.in_batches(net, colours.image), colours.label).mean() > 0.6


def test_fixed_learners_start_with_equal_shares(ch, colours):
    net, plan = ch.SubspaceNet(), ch.LearnersPlan(learners=4, rounds=2, steps=1, joint=1)
    ch.train_learners(net, colours, {}, plan, 0)
    assert net.learnt.bincount().tolist() == [8, 8, 8, 8]
    assert not net.owner.any()


# ---- maps and sizes

def test_grad_cam_equals_the_formula(ch):
    model, image = ch.NamedClasses(3, ch.SubspaceNet(attention=False)).eval(), torch.rand(2, 3, 48, 48)
    f = model.net.trunk((image - 0.6) / 0.2).detach()
    matrix = (model.head.weight @ model.net.embed.weight) / torch.sqrt(model.net.standardise.running_var + 1e-5)
    winner = model(image).argmax(1)
    naive = F.relu(torch.einsum("nc,nchw->nhw", matrix[winner] / 144, f))
    assert torch.allclose(ch.grad_cam(model, image)[:, 0], naive, atol=1e-5)


def test_proxies_do_not_depend_on_the_scale_of_the_map(ch):
    maps = torch.rand(3, 1, 12, 12)
    assert torch.equal(ch.proxy(maps, 0.4), ch.proxy(7 * maps + 2, 0.4))
    assert ch.proxy(maps, 0.2).sum() > ch.proxy(maps, 0.8).sum() > 0
    square = torch.zeros(1, 1, 12, 12)
    square[..., 3:8, 3:8] = 1
    assert 0.1 <= ch.best_threshold(square, ch.proxy(square, 0.5)) <= 0.6


def test_published_sizes(ch):
    with torch.device("meta"):
        head, embedding = ch.attention_head((1024, 128, 32, 1)), torch.nn.Linear(1024, 128)
    assert [ch.count(module) for module in (head[0], head[2], head[4])] == [1_179_776, 36_896, 289]
    assert ch.count(head) == 1_216_961
    assert ch.count(embedding) == 131_200
