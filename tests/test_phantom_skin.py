"""Dermoscopic phantoms: exact concepts that show in the picture, the rule of the diagnosis, interventions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from medtutor.phantom import skin

PLAIN = dict.fromkeys(skin.CONFOUNDERS, 0.0)
SHAPE = {"asymmetry": 0.0, "border": 0.0, "diameter": 7.0}
BARE = SHAPE | dict.fromkeys(skin.LEVELS, 0)


def column(cohort, name):
    return cohort.meta["concepts"][:, skin.CONCEPTS.index(name)]


def layer(cohort, name):
    return cohort.meta["layer"][:, skin.LAYERS.index(name)]


def spread_out(mask, pixels=2):
    """Boolean masks (N, H, W) grown by some pixels."""
    return F.max_pool2d(mask.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0


def test_fields_and_ranges():
    c = skin.cohort(10, 64, 0)
    assert c.image.shape == (10, 3, 64, 64)
    assert c.image.dtype == torch.float32
    assert c.image.isfinite().all()
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert c.mask.dtype == c.label.dtype == torch.int64
    assert 0.02 < c.mask.float().mean() < 0.4
    assert c.meta["layer"].shape == (10, len(c.names["layer"]), 64, 64)
    assert torch.equal(c.box.isnan().all(-1), ~c.meta["layer"].flatten(2).any(2))
    assert c.label.max() < len(c.names["label"]) == c.meta["probability"].shape[1]


def test_a_patient_does_not_depend_on_the_cohort():
    few, many = skin.cohort(4, 48, 3), skin.cohort(8, 48, 3)
    for key, rows in few.columns().items():
        if key != "box":
            assert torch.allclose(rows.float(), many.columns()[key][:4].float(), atol=1e-5), key
    assert torch.equal(skin.cohort(4, 48, 3).image, few.image)
    assert not torch.allclose(skin.cohort(4, 48, 4).image, few.image, atol=0.05)


def test_sizes_show_the_same_patient():
    large = skin.cohort(8, 128, 5, noisy=False)
    for size in (48, 64):
        small = skin.cohort(8, size, 5, noisy=False)
        scaled = F.interpolate(large.image, size=(size, size), mode="area")
        assert (scaled - small.image).abs().mean() < 0.015
        share = small.mask.float().mean((1, 2)) / large.mask.float().mean((1, 2))
        assert ((share - 1).abs() < 0.08).all()
        assert torch.equal(small.meta["concepts"], large.meta["concepts"])


def test_diameter_is_the_extent_of_the_mask():
    c = skin.cohort(8, 128, 6)
    for mask, fov, diameter in zip(c.mask, c.meta["fov"], column(c, "diameter"), strict=True):
        points = mask.nonzero().float()
        extent = (torch.pdist(points).max() + 1) * fov / 128
        assert abs(extent - diameter) < 2.0 * fov / 128
        assert points.min() > 0
        assert points.max() < 127


def test_asymmetry_and_border_show_in_the_outline():
    def halves(mask):
        """Area outside the overlap of the mask with its mirror image about the main axis, as a share of the mask."""
        points = mask.nonzero().float()
        points = points - points.mean(0)
        axis = torch.linalg.svd(points, full_matrices=False).Vh
        place = ((points @ axis.T) * 0.8).round().int()
        cells = {tuple(p) for p in place.tolist()}
        return sum((a, -b) not in cells for a, b in cells) / len(cells)

    def raggedness(mask):
        edge = (mask[:, 1:] != mask[:, :-1]).sum((1, 2)) + (mask[:, :, 1:] != mask[:, :, :-1]).sum((1, 2))
        return edge.float() ** 2 / mask.sum((1, 2))

    calm = skin.cohort(16, 128, 7, concepts=SHAPE)
    skewed = [np.mean([halves(m) for m in skin.cohort(12, 80, 7, concepts=SHAPE | {"asymmetry": a}).mask])
              for a in (0.0, 0.5, 1.0)]
    assert skewed[0] < skewed[1] - 0.03 < skewed[2] - 0.06
    ragged = [raggedness(skin.cohort(16, 128, 7, concepts=SHAPE | {"border": b}).mask) for b in (0.5, 1.0)]
    assert (raggedness(calm.mask).mean() * 1.02 < ragged[0].mean()) & (ragged[0].mean() * 1.02 < ragged[1].mean())


@pytest.mark.parametrize("name", skin.LEVELS)
def test_a_concept_changes_only_the_pixels_that_it_governs(name):
    without = skin.cohort(8, 64, 8, concepts=BARE, noisy=False, **PLAIN)
    present = skin.cohort(8, 64, 8, concepts=BARE | {name: 1}, noisy=False, **PLAIN)
    change = (present.image - without.image).abs().amax(1)
    here = spread_out(layer(present, name), 1)
    if name in skin.IMPLIES:  # regression and veil bring their colour along
        here |= spread_out(layer(present, skin.IMPLIES[name]), 1)
    assert (change.amax((1, 2)) > 0.07).all()
    assert change[~here].max() < 0.06
    assert torch.equal(present.mask, without.mask)
    assert not layer(without, name).any()
    for key in ("fov", "tone", "site", "age", "hair"):
        assert torch.equal(present.meta[key], without.meta[key])


@pytest.mark.parametrize(("name", "value"), [("asymmetry", 1.0), ("border", 1.0), ("diameter", 9.0)])
def test_a_change_of_shape_stays_near_the_lesion(name, value):
    images = [skin.cohort(8, 64, 8, concepts=BARE | {"light brown": 1} | change, noisy=False, **PLAIN)
              for change in ({}, {name: value})]
    change = (images[0].image - images[1].image).abs().amax(1)
    near = spread_out((images[0].mask | images[1].mask) > 0, 8)
    assert change[~near].max() < 0.03
    assert (change.amax((1, 2)) > 0.07).all()
    assert torch.equal(images[0].meta["concepts"][:, 3:], images[1].meta["concepts"][:, 3:])


@pytest.mark.parametrize(("name", "colour"), [("light brown", (0.66, 0.45, 0.33)), ("dark brown", (0.45, 0.25, 0.15)),
                                              ("black", (0.15, 0.08, 0.05)), ("red", (0.7, 0.3, 0.3)),
                                              ("white", (0.9, 0.82, 0.8)), ("blue-grey", (0.45, 0.45, 0.5))])
def test_a_colour_brings_the_lesion_nearer_to_it(name, colour):
    base = BARE | {"light brown": int(name in ("black", "dark brown", "white", "blue-grey"))}
    images = [skin.cohort(16, 64, 9, concepts=base | {name: k}, tone=1.0, cast=0.0, noisy=False, **PLAIN)
              for k in (0, 1)]
    away = [(c.image - torch.tensor(colour)[:, None, None]).norm(dim=1) for c in images]
    share = [((d < 0.22) & (images[0].mask > 0)).float().mean((1, 2)) for d in away]
    assert share[1].mean() > share[0].mean() * 1.2 + 0.001
    assert (share[1] >= share[0] - 0.002).float().mean() > 0.8


def test_globules_can_be_counted():
    c = skin.cohort(12, 160, 10, concepts=BARE | {"globules": 1, "diameter": 10.0}, **PLAIN)
    found = torch.tensor([ndimage.label(one)[1] for one in layer(c, "globules").numpy()])
    assert ((found - c.meta["globule_count"]).abs() <= 1).float().mean() > 0.8
    assert len(found.unique()) > 3
    none = skin.cohort(8, 16, 10, concepts={"globules": 0})
    assert (none.meta["globule_count"] == 0).all()


@pytest.mark.parametrize("name", skin.CONFOUNDERS)
def test_a_confounder_changes_its_own_pixels_only(name):
    given = torch.tensor([True, False] * 6)
    without, worn = (skin.cohort(12, 64, 11, noisy=False, **PLAIN | {name: g}) for g in (0.0, given))
    change = (worn.image - without.image).abs().amax(1)
    assert torch.equal(worn.meta[name], given)
    assert torch.equal(worn.label, without.label)
    assert change[~given].max() == 0
    assert change[~spread_out(layer(worn, name))].max() < (0.06 if name == "hair" else 0.04)
    assert (change[given].amax((1, 2)) > 0.05).float().mean() > 0.8


def test_the_diagnosis_follows_the_rule():
    values, label = skin.patients(6000, 12)
    p = skin.rule(values)
    assert torch.allclose(p.sum(1), torch.ones(6000, dtype=torch.float64))
    for k, name in enumerate(skin.DIAGNOSES):
        assert abs((label == k).double().mean() - skin.PREVALENCE[name]) < 0.02
        for low, high in ((0.05, 0.3), (0.3, 0.7), (0.7, 0.95)):
            inside = (p[:, k] > low) & (p[:, k] < high)
            error = (label[inside] == k).double().mean() - p[inside, k].mean()
            assert abs(error) < 4 * 0.5 / inside.sum().clamp(min=1) ** 0.5
    hit = (p.argmax(1) == label).double().mean()
    assert abs(hit - p.amax(1).mean()) < 0.02  # the ceiling of a concept bottleneck
    assert 0.8 < hit < 0.97


def test_the_rule_is_bayes_of_the_tables():
    """Two tables and two diagnoses by hand: the points of a structure do not depend on the other concepts."""
    values, _ = skin.patients(50, 13, concepts={"streaks": 0})
    odds = [skin.rule(v)[:, 1].log() - skin.rule(v)[:, 0].log() for v in (values, values.clone())]
    flipped = values.clone()
    flipped[:, skin.CONCEPTS.index("streaks")] = 1
    gain = skin.rule(flipped)[:, 1].log() - skin.rule(flipped)[:, 0].log() - odds[0]
    naevus, melanoma = (skin.LEVELS["streaks"][0][k] for k in (0, 1))
    expected = np.log(melanoma / naevus) - np.log((1 - melanoma) / (1 - naevus))
    assert torch.allclose(gain, torch.full((50,), expected, dtype=torch.float64))
    even = skin.rule(values, {"naevus": 1.0, "melanoma": 1.0})
    assert (even[:, 2:] == 0).all()


def test_interventions_keep_the_patient():
    c = skin.cohort(8, 48, 14)
    again = skin.cohort(8, 48, 14, concepts=c.meta["concepts"])
    assert torch.allclose(again.image, c.image)
    assert torch.equal(again.label, c.label)
    sick = skin.patients(400, 14, concepts={"streaks": 1, "asymmetry": 0.9, "network": 2})[1]
    well = skin.patients(400, 14, concepts={"streaks": 0, "asymmetry": 0.1, "network": 1})[1]
    assert (sick == 1).sum() > (well == 1).sum() + 100
    veiled = skin.patients(20, 14, concepts={"veil": 1, "blue-grey": 0})[0]
    assert (veiled[:, skin.CONCEPTS.index("blue-grey")] == 1).all()


def test_confounding_on_purpose():
    linked = skin.cohort(300, 16, 15, {"naevus": 1, "melanoma": 1}, ruler={"melanoma": 0.95, "naevus": 0.05}, hair=0.5)
    sick = linked.label == 1
    assert set(linked.label.tolist()) == {0, 1}
    assert linked.meta["ruler"][sick].float().mean() > 0.88
    assert linked.meta["ruler"][~sick].float().mean() < 0.12
    assert abs(linked.meta["hair"][sick].float().mean() - linked.meta["hair"][~sick].float().mean()) < 0.17
    label = skin.patients(300, 15, {"naevus": 1, "melanoma": 1})[1]
    assert torch.equal(label, linked.label)
    tones = skin.cohort(40, 16, 15, tone=torch.linspace(1, 6, 40), site=2, age=50, cast=0.0, noisy=False, **PLAIN)
    light = tones.image.mean((1, 2, 3))
    assert light[:10].mean() > light[-10:].mean() + 0.25
    assert (tones.meta["site"] == 2).all()


def test_the_scanners_cast_can_be_taken_away():
    blue = [[skin.cohort(12, 24, 16, site=s, cast=cast).image[:, 2].mean() for s in (0, 2)] for cast in (1.0, 0.0)]
    assert blue[0][0] - blue[0][1] > 0.04
    assert abs(blue[1][0] - blue[1][1]) < 0.005


@pytest.mark.parametrize(("bad", "message"), [
    ({"prevalence": {"wart": 1.0}}, "prevalence needs weights >= 0 for some of naevus"),
    ({"prevalence": {"naevus": 0.0}}, "prevalence needs weights"),
    ({"concepts": {"scale": 1}}, "unknown concept 'scale'; choose from asymmetry"),
    ({"concepts": {"diameter": 40}}, "diameter must be a number from 2.5 to 10.5"),
    ({"concepts": {"network": 0.5}}, "network must be a whole number from 0 to 2"),
    ({"concepts": torch.zeros(2, 3)}, r"concepts as a tensor must be \(2, 19\)"),
    ({"hair": {"wart": 1.0}}, "choose from naevus"),
    ({"ruler": torch.zeros(3)}, "ruler must be a number from 0 to 1, or one for each of the 2"),
    ({"site": torch.zeros(3)}, "site must be a whole number from 0 to 3, or one for each of the 2"),
    ({"site": 7}, "site must be a whole number from 0 to 3"),
    ({"tone": 0}, "tone must be a number from 1 to 6"),
    ({"hair": 1.5}, "hair must be a number from 0 to 1"),
])
def test_bad_input_says_what_to_do(bad, message):
    with pytest.raises(ValueError, match=message):
        skin.cohort(2, 16, **bad)


def test_the_rule_wants_all_concepts():
    with pytest.raises(ValueError, match=r"concepts must be \(n, 19\)"):
        skin.rule(torch.zeros(4, 6))
