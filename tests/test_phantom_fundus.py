"""Retinal pictures: one eye in three modalities, exact layers, facts behind labels, groups."""

import hashlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from medtutor.phantom import fundus
from medtutor.phantom.texture import boxes, strokes

SPOTS = list(fundus.SPOTS)


def layer(cohort, name):
    return cohort.mask[:, cohort.names["mask"].index(name)]


@pytest.fixture(scope="module")
def eyes():
    return fundus.cohort(40, 96, 1, noisy=False)


@pytest.mark.parametrize("modality", fundus.LOOK)
def test_fields_and_ranges(modality):
    c = fundus.cohort(6, 48, 0, modality)
    assert c.image.shape == (6, 3 if modality == "colour" else 1, 48, 48) == (6, len(c.names["image"]), 48, 48)
    assert c.image.dtype == torch.float32
    assert c.image.isfinite().all()
    assert 0 <= c.image.min() < 0.5 < c.image.max() <= 1
    assert c.mask.dtype == torch.bool
    assert c.mask.shape == (6, len(fundus.LAYERS), 48, 48)
    assert torch.equal(c.box.nan_to_num(), boxes(c.mask).nan_to_num())
    assert c.label.shape == (6, 3)


def test_structures_lie_where_anatomy_puts_them(eyes):
    disc, cup = layer(eyes, "disc"), layer(eyes, "cup")
    assert not (cup & ~disc).any()
    assert (cup.sum((1, 2)) > 0).all()
    assert torch.equal(layer(eyes, "vessels"), layer(eyes, "arteries") | layer(eyes, "veins"))
    assert torch.equal(layer(eyes, "lesions"), eyes.mask[:, [eyes.names["mask"].index(k) for k in SPOTS[:3]]].any(1))
    (disc_x, _), (fovea_x, _) = eyes.landmark[:, 0].T, eyes.landmark[:, 1].T
    assert torch.equal(disc_x > fovea_x, eyes.meta["eye"] == 0)  # the disc is on the side of the nose
    rows = torch.arange(96.0)
    middle = (disc.sum(2) * rows).sum(1) / disc.sum((1, 2))
    assert torch.allclose(middle, eyes.landmark[:, 0, 1], atol=0.5)
    degree = 96 / 45
    x, y = rows[None, None, :] - fovea_x[:, None, None], rows[None, :, None] - eyes.landmark[:, 1, 1, None, None]
    away, macula = torch.hypot(x, y), layer(eyes, "macula")
    assert (away[macula] < 2.75 * degree + 0.01).all()
    assert (away[~macula] > 2.75 * degree - 0.01).all()
    dark = [(eyes.image[:, 1] * layer(eyes, k)).sum((1, 2)) / layer(eyes, k).sum((1, 2)) for k in ("veins", "arteries")]
    assert (dark[0] < dark[1]).float().mean() > 0.9
    assert layer(eyes, "veins").sum() > 1.1 * layer(eyes, "arteries").sum()


def test_labels_are_facts(eyes):
    large = (eyes.meta["cup_to_disc"] >= fundus.LARGE_CUP) | eyes.meta["notch"]
    assert torch.equal(eyes.label[:, 0] > 0, large)
    for k, name in enumerate(fundus.PREVALENCE):
        assert torch.equal(eyes.label[:, k] > 0, eyes.meta[f"severity_{name}"] > 0)
        assert k == 0 or torch.equal(layer(eyes, name).flatten(1).any(1), eyes.label[:, k] > 0)
        assert k == 0 or torch.equal(eyes.meta[f"zone_{name}"] >= 0, eyes.label[:, k] > 0)
    assert torch.equal(layer(eyes, "cotton-wool spots").flatten(1).any(1), eyes.meta["severity_exudates"] > 0.5)
    assert (layer(eyes, "drusen").flatten(1).any(1) <= (eyes.meta["age"] > 55)).all()


def test_cup_to_disc_ratio_can_be_measured():
    c = fundus.cohort(24, 192, 2, view="disc", fov=20.0, prevalence={"glaucoma": 0.5})
    tall = [(c.box[:, fundus.LAYERS.index(k), 3] - c.box[:, fundus.LAYERS.index(k), 1]) for k in ("cup", "disc")]
    assert torch.allclose(tall[0] / tall[1], c.meta["cup_to_disc"], atol=0.04)
    low, high = (fundus.cohort(12, 64, 2, severity={"glaucoma": s}).meta["cup_to_disc"] for s in (0.1, 0.9))
    assert (high > low).all()


def test_zones_say_where_a_cluster_is():
    c = fundus.cohort(60, 64, 3, prevalence=dict.fromkeys(fundus.PREVALENCE, 1.0))
    for name in SPOTS[:2]:
        spot = layer(c, name).float()
        middle = (spot.sum(2) * torch.arange(64.0)).sum(1) / spot.sum((1, 2))
        means = [middle[c.meta[f"zone_{name}"] == zone].mean() for zone in range(3)]
        assert means[0] < 26 < means[1] < 38 < means[2]


def test_modalities_show_the_same_eye():
    colour, slo, face = (fundus.cohort(8, 64, 4, modality, noisy=False) for modality in fundus.LOOK)
    square = layer(slo, "vessels") & ~layer(colour, "vessels")  # only the photograph has a round field
    assert torch.equal(layer(slo, "disc"), layer(face, "disc"))
    assert square.any()
    assert not (colour.mask & ~slo.mask).any()
    for key, column in colour.meta.items():
        assert torch.equal(column, slo.meta[key]), key
    vessel, disc = layer(colour, "veins"), layer(colour, "disc")
    ring = F.max_pool2d(vessel[:, None].float(), 7, 1, 3)[:, 0].bool() & ~layer(colour, "vessels") & ~disc
    for c in (colour, slo, face):
        seen = c.image[:, 1 if c is colour else 0]
        assert seen[vessel & ~disc].mean() < 0.85 * seen[ring].mean()
    cup = layer(slo, "cup")
    assert slo.image[:, 0][cup].mean() > 1.2 * slo.image[:, 0][~disc].mean()
    assert face.image[:, 0][cup].mean() < 0.6 * face.image[:, 0][~disc].mean()


def test_a_patient_depends_on_seed_and_place_only():
    few, many = (fundus.cohort(n, 40, 5, disadvantage=0.5) for n in (4, 15))
    for key, column in few.columns().items():
        assert torch.allclose(column.double(), many.columns()[key][:4].double(), atol=1e-5, equal_nan=True), key
    large = fundus.cohort(4, 80, 5, disadvantage=0.5)
    for key, column in few.meta.items():
        assert torch.equal(column, large.meta[key]), key
    assert torch.equal(few.label, large.label)
    assert torch.allclose(few.landmark * 2 + 0.5, large.landmark, atol=1e-3)
    shrunk = F.avg_pool2d(large.image, 2)
    assert torch.stack([torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
                        for a, b in zip(few.image, shrunk, strict=True)]).min() > 0.95
    assert not torch.allclose(few.image, fundus.cohort(4, 40, 6, disadvantage=0.5).image, atol=0.1)


def test_every_process_draws_the_same():
    code = ("import hashlib; from medtutor.phantom import fundus; c = fundus.cohort(3, 32, 7); "
            "print(hashlib.sha256(c.mask.numpy().tobytes() + c.label.numpy().tobytes()).hexdigest())")
    c = fundus.cohort(3, 32, 7)
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == hashlib.sha256(c.mask.numpy().tobytes() + c.label.numpy().tobytes()).hexdigest()


def test_groups_and_disadvantage():
    assert 0.1 < fundus.cohort(300, 16, 8).meta["group"].float().mean() < 0.3
    given = torch.tensor([0, 1, 1, 0])
    assert torch.equal(fundus.cohort(4, 16, 8, group=given).meta["group"], given)
    rates = fundus.cohort(400, 16, 8, group=0.5, prevalence={"exudates": (0.1, 0.9)})
    for k in (0, 1):
        rate = rates.label[rates.meta["group"] == k, 2].mean()
        assert abs(rate - (0.1, 0.9)[k]) < 0.08
    sick = {"severity": {"exudates": 0.9}, "noisy": False}
    plain, worse, others = (fundus.cohort(30, 64, 9, group=g, disadvantage=d, **sick)
                            for g, d in ((1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    contrast = [c.image[:, 1][layer(c, "exudates")].mean() - c.image[:, 1][layer(c, "macula")].mean()
                for c in (plain, worse, others)]
    assert contrast[1] < 0.6 * contrast[0]
    assert contrast[1] < 0.7 * contrast[2]
    assert others.image[:, 1].mean() > 1.2 * worse.image[:, 1].mean()  # less pigment in group 0
    low = [(layer(c, "exudates").float().sum((0, 2)) * torch.arange(64.0)).sum() / layer(c, "exudates").sum()
           for c in (plain, worse)]
    assert low[1] > low[0] + 3
    assert torch.equal(plain.label, worse.label)
    assert torch.equal(layer(plain, "vessels"), layer(worse, "vessels"))


def test_severity_means_more_spots_and_leaves_the_rest_alone():
    mild, grave = (fundus.cohort(10, 96, 10, severity={"haemorrhages": s}, noisy=False) for s in (0.2, torch.ones(10)))
    assert (layer(mild, "haemorrhages") <= layer(grave, "haemorrhages")).all()
    many = [sum(ndimage.label(m)[1] for m in layer(c, "haemorrhages").numpy()) for c in (mild, grave)]
    assert many[1] > 1.5 * many[0]
    assert grave.label.tolist() == [[0, 1, 0]] * 10
    apart = (mild.image - grave.image).abs().amax(1) > 0.02
    near = F.max_pool2d(layer(grave, "haemorrhages")[:, None].float(), 5, 1, 2)[:, 0].bool()
    assert not (apart & ~near).any()


def test_noise_and_field_of_view():
    quiet, loud = (fundus.cohort(3, 32, 11, noisy=noisy) for noisy in (False, True))
    assert 0.003 < (quiet.image - loud.image).std() < 0.03
    assert torch.equal(quiet.mask, loud.mask)
    wide, narrow = (layer(fundus.cohort(6, 96, 11, fov=fov), "disc").sum() for fov in (45.0, 30.0))
    assert abs(narrow / wide - 2.25) < 0.15


def test_strokes_against_distances():
    ends = torch.tensor([[[[3.0, 4.0], [14.0, 9.0]], [[2.0, 15.0], [2.0, 15.0]], [[1.0, 1.0], [18.0, 1.0]]]]).double()
    width = torch.tensor([[[3.0, 3.0], [0.4, 0.4], [0.0, 2.0]]]).double()
    cover, mask = strokes(ends, width, 20, torch.tensor([0, 1, 0]), (0.0, 0.0), (1.0, 1.5))
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    part = (((x - 3) * 11 + (y - 4) * 5) / 146).clamp(0, 1)
    away = torch.hypot(x - 3 - 11 * part, y - 4 - 5 * part)
    assert torch.allclose(cover[0, 0], (2 - away).clamp(0, 1), atol=1e-5)  # and a line with an end of no width is none
    assert torch.equal(mask[0, 0], away <= 1.5)
    assert mask[0, 1].nonzero().tolist() == [[15, 2]]
    assert cover[0, 1].max() == pytest.approx(0.4)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"modality": "angiogram"}, "modality must be colour, slo, en-face"), ({"fov": 90.0}, "fov 15 to 60"),
    ({"view": "iris"}, 'view "macula" or "disc"'), ({"severity": {"cataract": 1.0}}, "severities of glaucoma"),
    ({"severity": {"exudates": 1.5}}, "0 to 1"), ({"severity": {"exudates": torch.ones(5)}}, "one for each"),
    ({"prevalence": {"exudates": (0.1, 0.2, 0.3)}}, "one per group"), ({"group": -0.1}, "0 to 1"),
    ({"disadvantage": 2.0}, "0 to 1")])
def test_bad_input_says_what_to_do(wrong, message):
    with pytest.raises(ValueError, match=message):
        fundus.cohort(2, 16, **wrong)
