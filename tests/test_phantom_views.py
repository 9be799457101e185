"""Views: projections against the volume, masks, landmarks, magnification, nodules, contours, hidden lungs."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from medtutor.language import written
from medtutor.language.known import facts
from medtutor.phantom import corruptions, thorax, views
from medtutor.render.body import MU_WATER

NONE = dict.fromkeys(thorax.FINDINGS, 0.0)
HASH = """
import hashlib
from medtutor.phantom import views
c = views.cohort(2, 24, 3, depth=12)
text = hashlib.sha256(b"".join(t.numpy().tobytes() for t in (c.image, c.volume, c.mask, c.meta["xray"]))).hexdigest()
"""


@pytest.fixture(scope="module")
def slim():
    """Women of common girth: everybody is inside the cube."""
    c = views.cohort(8, 48, 2, angles=(0, 45, 90), depth=48, noisy=False, prevalence=NONE, sex=0.0)
    return c[(c.volume[:, 0, :, :, [0, -1]] < -0.99).flatten(1).all(1)]


def test_fields_and_ranges():
    c = views.cohort(3, 32, 0, depth=16)
    assert c.image.shape == c.meta["xray"].shape == (3, 2, 32, 32)
    assert c.volume.shape == (3, 1, 16, 16, 16)
    assert c.mask.shape == (3, 16, 16, 16)
    assert c.meta["projected"].shape == (3, 2, len(views.LAYERS), 32, 32)
    assert c.landmark.shape == (3, len(views.MARKS), 3)
    assert c.meta["projection"].shape == (3, 2, len(views.MARKS), 2)
    assert c.image.dtype == c.meta["xray"].dtype == torch.float32
    assert c.image.min() >= 0
    assert c.meta["xray"].min() >= 0
    assert c.meta["xray"].max() <= 1
    assert (c.meta["xray"].flatten(2).std(2) > 0.08).all()
    assert views.cohort(1, 24, 0, depth=0).volume is None


def test_projections_are_the_sums_of_the_volume(slim):
    assert len(slim) >= 3
    mu = MU_WATER * (1 + slim.volume[:, 0].double()).clamp(min=0) * 400 / 48
    for v, axis in ((0, 2), (2, 3)):
        ray = mu.sum(axis).flip(1)  # (z, x) or (z, y), head up
        film = slim.image[:, v].double()
        assert abs(film.sum() / ray.sum() - 1) < 0.01  # mass
        assert torch.corrcoef(torch.stack([film.flatten(), ray.flatten()]))[0, 1] > 0.995
        assert torch.allclose(F.avg_pool2d(film, 6), F.avg_pool2d(ray, 6), atol=0.35)
    rows = slim.image.sum(3)
    assert torch.allclose(rows[:, 0], rows[:, 2], rtol=0.03, atol=2)  # the same body at each height
    assert torch.allclose(rows[:, 0], rows[:, 1], rtol=0.03, atol=2)


def test_a_quarter_turn_of_the_volume_is_another_view(slim):
    """Where 90 degrees looks from the patient's right, columns run to the back."""
    mu = (1 + slim.volume[:, 0].double()).clamp(min=0)
    turned = mu.transpose(2, 3).sum(2).flip(1)
    assert torch.equal(turned, mu.sum(3).flip(1))
    film = slim.image[:, 2].double()
    right, wrong = (torch.corrcoef(torch.stack([film.flatten(), t.flatten()]))[0, 1] for t in (turned, turned.flip(2)))
    assert right > wrong + 0.02


def test_projected_masks_hold_the_masks_of_the_volume(slim):
    for organ in ("right lung", "heart", "spine", "liver"):
        solid = slim.mask == slim.names["mask"].index(organ)
        layer = slim.meta["projected"][:, :, views.LAYERS.index(organ)]
        for v, axis in ((0, 2), (2, 3)):
            ray = solid.any(axis).flip(1)
            grown = F.max_pool2d(layer[:, v][:, None].float(), 3, 1, 1)[:, 0].bool()
            assert (ray & ~grown).sum() <= 0.01 * ray.sum()
            assert (ray & layer[:, v]).sum() > 0.8 * layer[:, v].sum()


def test_super_classes_are_unions(slim):
    layers = slim.meta["projected"]
    for name, parts in views.SUPER.items():
        union = layers[:, :, [views.LAYERS.index(p) for p in parts]].any(2)
        assert torch.equal(layers[:, :, views.LAYERS.index(name)], union)


def test_landmarks_lie_in_their_organs_in_3d_and_in_every_view(slim):
    groups = {"spine": slice(0, 17), "right ribs": slice(17, 28), "left ribs": slice(28, 39)}
    for organ, place in groups.items():
        layer = slim.meta["projected"][:, :, views.LAYERS.index(organ)]
        spot = slim.meta["projection"][:, :, place]
        inside = ((spot > 0) & (spot < 47)).all(-1)
        x, y = spot.round().long().clamp(0, 47).unbind(-1)
        n, v, _ = x.shape
        hit = layer[torch.arange(n)[:, None, None], torch.arange(v)[:, None], y, x]
        assert hit[inside].float().mean() > 0.85
        assert inside.float().mean() > 0.9
    assert (slim.landmark[:, 17:28, 0] < 0).all()
    assert (slim.landmark[:, 28:39, 0] > 0).all()
    assert (slim.landmark[:, :17, 2].diff(dim=1) < -15).all()
    assert slim.landmark[:, 39:].isnan().all()


def test_magnification_follows_the_source():
    options = {"angles": (0.0,), "depth": 0, "prevalence": NONE, "jitter": 0.0}
    flat, cone = (views.cohort(3, 48, 6, source=s, **options) for s in (math.inf, 900.0))
    factor = 900 / (900 - flat.landmark[..., 1])  # the source is behind the patient, the detector in front
    middle = 23.5
    expected = (flat.meta["projection"][:, 0] - middle) * factor[..., None] + middle
    there = ~expected.isnan()
    assert torch.allclose(cone.meta["projection"][:, 0][there], expected[there], atol=1e-2)
    assert not torch.equal(cone.meta["projected"], flat.meta["projected"])


def test_depth_of_a_nodule_shows_from_the_side_only():
    c = views.cohort(40, 48, 7, depth=0, noisy=False, severity={"nodule": torch.tensor([[0.9, 0.0]]).expand(40, 2)})
    front = c.meta["anterior"]
    assert (front[:, 1] == -1).all()
    assert {0, 1} == set(front[:, 0].tolist())
    depth, spot = c.landmark[:, 39, 1], c.meta["projection"][:, :, 39]
    assert (depth[front[:, 0] == 1].max() < depth[front[:, 0] == 0].min())
    assert torch.allclose(spot[:, 1, 0], depth * 48 / 400 + 23.5, atol=1e-3)
    assert torch.allclose(spot[:, 0, 1], spot[:, 1, 1])  # the height is the same in both views
    assert torch.allclose(spot[:, 0, 0], c.landmark[:, 39, 0] * 48 / 400 + 23.5, atol=1e-3)
    text = written(c).report
    assert all(("nodule", "right") in {(f.finding, f.side) for f in facts(c, i)} for i in range(40))
    assert not any(word in t for t in text for word in ("anterior", "posterior", "front", "behind"))


def test_films_show_the_line_integrals_and_look_unlike_them():
    c = views.cohort(6, 48, 1, depth=0, noisy=False)
    for v in range(2):
        for line, film in zip(c.image[:, v], c.meta["xray"][:, v], strict=True):
            both = torch.stack([line.flatten(), film.flatten()])
            assert 0.6 < torch.corrcoef(both)[0, 1] < 0.999
    grain = views.cohort(6, 48, 1, depth=0).meta["xray"] - c.meta["xray"]
    assert 0.002 < grain.std() < 0.15


@pytest.mark.parametrize("options", [{"depth": 16}, {"angles": (0, 30, 60, 90), "depth": 0}, {"source": 1000.0}])
def test_a_patient_does_not_depend_on_the_cohort(options):
    few, many = views.cohort(2, 32, 5, **options), views.cohort(6, 32, 5, **options)
    assert torch.allclose(few.image, many.image[:2], atol=1e-4)
    assert torch.allclose(few.meta["xray"], many.meta["xray"][:2], atol=2e-3)
    assert (few.meta["projected"] != many.meta["projected"][:2]).float().mean() < 1e-3
    assert torch.equal(few.label, many.label[:2])
    assert torch.equal(few.landmark.isnan(), many.landmark[:2].isnan())


def test_the_size_of_the_picture_and_the_views_change_no_patient():
    small, large = views.cohort(3, 32, 5, angles=(90,), depth=0, noisy=False), views.cohort(3, 64, 5, noisy=False)
    gap = F.avg_pool2d(large.image, 2)[:, 1] - small.image[:, 0]  # half as many rays of the same body
    assert gap.abs().mean() < 0.05
    assert torch.equal(small.landmark.nan_to_num(), large.landmark.nan_to_num())
    shared = thorax.cohort(3, 32, 5)
    assert torch.equal(small.label, shared.label)
    assert torch.equal(small.meta["severity_nodule"], shared.meta["severity_nodule"])
    assert torch.equal(small.meta["age"], shared.meta["age"])


def test_every_process_makes_the_same():
    here = {}
    exec(HASH, here)  # our own text above
    there = subprocess.run([sys.executable, "-c", f"{HASH}print(text)"], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here["text"]


def test_contours_have_as_many_nodes_as_asked_and_follow_the_outline():
    plain, more = (thorax.cohort(6, 64, 3, nodes=nodes) for nodes in (None, (24, 24, 16)))
    assert more.landmark.shape == (6, 64, 2)
    assert torch.equal(more.landmark[:, 48:], plain.landmark[:, 32:])  # the heart has as many as before
    assert torch.equal(more.image, plain.image)
    lung = more.landmark[:, :24]
    step = (lung - lung.roll(1, 1)).norm(dim=-1)
    assert (step.amax(1) < 0.25 * step.sum(1)).all()
    x, y = lung.long().clamp(0, 63).unbind(-1)
    near = F.max_pool2d(more.mask[:, :1].float(), 3, 1, 1)[:, 0]
    assert near[torch.arange(6)[:, None], y, x].mean() > 0.98
    assert len(more.names["landmark"]) == 64


def test_rings_are_closed_and_apart():
    graph = views.rings((23, 24, 16))
    assert torch.equal(graph, graph.T)
    assert (graph.sum(1) == 2).all()
    assert torch.linalg.matrix_rank(torch.diag(graph.sum(1)) - graph) == 63 - 3  # three parts
    assert graph[0, 22] == graph[0, 1] == 1
    assert graph[22, 23] == 0


@pytest.mark.parametrize(("kind", "low", "high"), [("white", 0.75, 1.0), ("black", 0.0, 0.0)])
def test_hidden_lungs_lose_their_share(kind, low, high):
    c = thorax.cohort(12, 64, 4, prevalence=NONE)
    hidden = views.occluded(c, kind, 0.3)
    where = hidden.meta["hidden"]
    share = (where[:, None] & c.mask[:, :2]).sum((2, 3)) / c.mask[:, :2].sum((2, 3))
    assert torch.allclose(share.amax(1), torch.full((12,), 0.3), atol=0.06)
    core = ~F.max_pool2d((~where)[:, None].float(), 5, 1, 2).bool()
    assert core.any()
    assert low <= hidden.image[core].min()
    assert hidden.image[core].max() <= high
    far = ~F.max_pool2d(where[:, None].float(), 13, 1, 6).bool()
    assert torch.equal(hidden.image[far], c.image[far])
    assert torch.equal(hidden.landmark, c.landmark)
    assert share.argmax(1).unique().numel() == 2


def test_kernels_trade_sharpness_for_noise():
    c = thorax.cohort(6, 64, 1, modality="ct", severity={"mass": torch.tensor([[0.7, 0.0]]).expand(6, 2)}, noisy=False)
    both = corruptions.kernels(c, "mass")
    clean, soft, sharp = c.image[:, 0], *both.image.unbind(1)
    noise = [(x - clean)[:, :5, :5] for x in (soft, sharp)]
    assert noise[1].std() > 3 * noise[0].std() > 0
    assert (noise[1][..., 1:] * noise[1][..., :-1]).mean() > 0.2 * noise[1].var()  # neighbours share it
    edges = [(x[:, :, 1:] - x[:, :, :-1]).abs().mean() for x in (sharp, clean, soft)]
    assert edges[0] > edges[1] > edges[2]
    assert torch.allclose(corruptions.kernels(c[:2], "mass").image, both.image[:2], atol=1e-5)
    texture = both.image - corruptions.kernels(c, "hernia").image
    roi = c.mask == c.names["mask"].index("mass")
    assert texture[:, 1][roi].std() > 0.01
    assert texture[..., 56:].abs().max() < 1e-4


@pytest.mark.parametrize(("call", "words"), [
    (lambda: views.cohort(1, 16, angles=()), "angles must name a direction"),
    (lambda: views.cohort(1, 16, prevalence={"gout": 1.0}), "choose from atelectasis"),
    (lambda: views.cohort(1, 16, angles=("up",)), "view must be one of"),
    (lambda: views.occluded(thorax.cohort(1, 16), "grey"), "kind must be"),
    (lambda: corruptions.kernels(thorax.cohort(1, 16, modality="ct"), "tumour"), "roi must be one of background"),
    (lambda: views.occluded(thorax.cohort(1, 16), "black", 1.5), "share between 0 and 1"),
])
def test_bad_input_says_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()
