"""Ultrasound: masses and their words, shadows and enhancement, speckle, fans, organs."""

import subprocess
import sys

import pytest
import torch

from medtutor.language import written
from medtutor.phantom import ultrasound
from medtutor.phantom.texture import boxes

BOTH = {"benign mass": 0.6, "malignant mass": 0.4}
BENIGN, MALIGNANT = {"benign mass": 1.0}, {"malignant mass": 1.0}
ALL = tuple(ultrasound.ORGANS)


def test_fields_and_ranges():
    c = ultrasound.cohort(10, 48, 0, organ=ALL, nodules=2)
    assert c.image.shape == (10, 1, 48, 48)
    assert c.image.dtype == torch.float32
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert c.mask.dtype == torch.int64
    assert c.meta["lesion_mask"].shape == (10, 2, 48, 48)
    assert c.meta["attribute"].shape == (10, 2, 5)
    assert c.box.shape == (10, 2, 4)
    assert set(c.meta["organ"]) <= set(ALL)
    assert all(f"attribute_{name}" in c.names for name in c.names["attribute"])


@pytest.mark.parametrize("organ", [ALL, "breast"])
def test_labels_masks_and_boxes_say_the_same(organ):
    c = ultrasound.cohort(60, 48, 1, organ=organ, nodules=3)
    layers, kind = c.meta["lesion_mask"], c.meta["kind"]
    there = layers.flatten(2).any(2)
    assert torch.equal(there, kind >= 0)
    assert torch.equal(c.box.isnan().any(2), ~there)
    assert torch.equal(c.box.nan_to_num(-1), boxes(layers).nan_to_num(-1))
    assert ((c.meta["attribute"] == -1).all(2) == ~there).all()
    assert (c.meta["attribute"][there] >= 0).all()
    for j in (0, 1):
        assert torch.equal(c.label[:, j] > 0, (kind == j).any(1))
        union = (layers & (kind == j)[..., None, None]).any(1)
        assert torch.equal(c.mask == 1 + j, union)
    assert layers.sum(1).max() <= 1  # masses do not overlap


def test_words_describe_the_masses():
    c = ultrasound.cohort(150, 64, 2, nodules=3, prevalence=BOTH)
    size, shape, echo, side, depth = c.meta["attribute"].flatten(0, 1).T
    area, box = c.meta["lesion_mask"].flatten(0, 1).sum((1, 2)).double(), c.box.flatten(0, 1)
    middle = (box[:, :2] + box[:, 2:]) / 2 / 64
    wide = (box[:, 2] - box[:, 0]) / (box[:, 3] - box[:, 1])
    assert area[size == 0].quantile(0.95) < area[size == 1].median() < area[size == 2].quantile(0.05)
    for k, (low, high) in enumerate(((0, 0.4), (0.4, 0.6), (0.6, 1))):
        assert ((middle[side == k, 0] > low) & (middle[side == k, 0] < high)).all()
    assert middle[depth == 0, 1].max() < middle[depth == 1, 1].min()
    assert (side.view(-1, 3).sort(1)[0] == torch.arange(3)).all()
    bad = c.meta["kind"].flatten() == 1
    assert (shape[bad] == 2).all()
    assert (shape[~bad] < 2).all()
    assert wide[bad].median() < 0.95
    assert wide[shape == 1].median() > 1.25
    bright = (c.image * c.meta["lesion_mask"]).flatten(0, 1).sum((1, 2)) / area
    seen = [bright[~bad & (echo == k) & (depth == 0)].mean() for k in range(3)]
    assert seen[0] < seen[1] - 0.05 < seen[2] - 0.1


def below(c, rows):
    """Brightness under the masses, less that of the same rows far beside them."""
    out = []
    for k in rows.tolist():
        x0, _, x1, y1 = c.box[k, 0].round().int().tolist()
        strip = c.image[k, 0, y1 + 2:y1 + 10]
        beside = torch.cat([strip[:, :max(x0 - 6, 0)], strip[:, x1 + 6:]], 1)
        third = (x1 - x0) // 3
        out.append(strip[:, x0 + third:x1 - third].mean() - beside.mean())
    return torch.stack(out).mean()


def test_cysts_enhance_and_cancers_shadow():
    options = {"organ": "liver", "geometry": "linear"}
    good, bad = (ultrasound.cohort(60, 64, 3, prevalence=p, **options) for p in (BENIGN, MALIGNANT))
    attribute = good.meta["attribute"][:, 0]
    cyst = ((attribute[:, 2] == 0) & (attribute[:, 4] == 0) & (attribute[:, 0] > 0)).nonzero()[:, 0]
    cancer = (bad.meta["attribute"][:, 0, 4] == 0).nonzero()[:, 0]
    assert below(good, cyst) > 0.02
    assert below(bad, cancer) < -0.1


def test_speckle_grows_with_its_option_and_looks_calm_it():
    def measured(**options):
        seen, clean = (ultrasound.cohort(16, 112, 4, "liver", "linear", prevalence={}, noisy=noisy, **options).image
                       for noisy in (True, False))
        part = (seen - clean)[:, 0, 35:75, 30:80]
        return (part[..., 2:] * part[..., :-2]).mean() / part.square().mean(), part.std()

    fine, coarse, single = measured(), measured(speckle=2.0), measured(looks=1)
    assert coarse[0] > fine[0] + 0.15
    assert single[1] > 1.1 * fine[1]


def test_gain_brightens():
    dark, bright = (ultrasound.cohort(4, 32, 5, gain=g).image.mean() for g in (0.0, 6.0))
    assert bright > dark + 0.05


def test_the_fan_is_black_outside():
    fan, line = (ultrasound.cohort(6, 64, 6, geometry=g) for g in ("fan", "linear"))
    for corner in ((0, 0), (0, 63), (63, 0), (63, 63)):
        assert (fan.image[:, 0, corner[0], corner[1]] == 0).all()
    assert (line.image[:, 0, 2, 2] > 0).all()
    outside = (fan.image[:, 0] == 0).all(0)
    assert outside.float().mean() > 0.1
    assert (fan.mask[:, outside] == 0).all()


def test_organs_have_their_classes():
    c = ultrasound.cohort(90, 32, 7, organ=ALL, prevalence={})
    for name, classes in (("breast", {0}), ("liver", {0, 3}), ("kidney", {0, 3, 4, 5})):
        rows = [k for k, organ in enumerate(c.meta["organ"]) if organ == name]
        assert len(rows) > 12
        assert set(c.mask[rows].unique().tolist()) == classes
        for k in rows:
            assert set(c.mask[k].unique().tolist()) >= classes - {0, 3}
    assert c.label.sum() == 0
    kidney = ultrasound.cohort(20, 64, 7, organ="kidney", prevalence={})
    cortex, sinus = ((kidney.image[:, 0] * (kidney.mask == k)).sum() / (kidney.mask == k).sum() for k in (4, 5))
    assert sinus > cortex + 0.05


def test_a_patient_is_the_same_at_every_size_and_in_every_cohort():
    few, many = (ultrasound.cohort(n, 32, 8, organ=ALL, nodules=2) for n in (4, 9))
    assert torch.allclose(few.image, many.image[:4], atol=1e-3)
    assert torch.equal(few.mask, many.mask[:4])
    assert torch.equal(few.meta["attribute"], many.meta["attribute"][:4])
    large = ultrasound.cohort(4, 96, 8, organ=ALL, nodules=2)
    assert torch.equal(large.mask[:, 1::3, 1::3], few.mask)
    assert (torch.nn.functional.avg_pool2d(large.image, 3) - few.image).abs().mean() < 0.03
    one = ultrasound.cohort(4, 32, 8, organ=ALL, nodules=1)
    assert torch.equal(one.meta["kind"], few.meta["kind"][:, :1])


def test_a_new_process_makes_the_same_patients():
    code = ("from medtutor.phantom import ultrasound; c = ultrasound.cohort(2, 16, 5);"
            "print(c.image.double().sum().item(), (c.mask * torch.arange(256).view(16, 16)).sum().item())")
    run = subprocess.run([sys.executable, "-c", "import torch;" + code], capture_output=True, text=True, check=True)
    c = ultrasound.cohort(2, 16, 5)
    assert float(run.stdout.split()[0]) == pytest.approx(c.image.double().sum().item(), abs=1e-4)
    assert int(run.stdout.split()[1]) == (c.mask * torch.arange(256).view(16, 16)).sum()


@pytest.mark.parametrize(("options", "message"), [
    ({"organ": "brain"}, "organ must be of breast, liver, kidney"), ({"geometry": "sector"}, "geometry linear, fan"),
    ({"prevalence": {"cyst": 1.0}}, "prevalence needs probabilities of"), ({"nodules": 4}, "1 to 3 nodules"),
    ({"speckle": 0}, "speckle 0.3 to 4"), ({"looks": 0}, "1 to 8 looks"), ({"prevalence": {"benign mass": 2}}, "sum")])
def test_bad_input_says_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        ultrasound.cohort(1, 8, **options)


@pytest.mark.parametrize("organ", [*ultrasound.ORGANS, ("liver", "kidney")])
def test_reports_speak_of_the_organ_that_is_shown(organ):
    text = " ".join(written(ultrasound.cohort(40, 16, 3, organ, prevalence=BOTH)).report).lower()
    words = {"breast": ("breast", "fibroadenoma"), "liver": ("liver", "hepatic"), "kidney": ("kidney", "renal")}
    assert {key for key, own in words.items() if any(word in text for word in own)} == ({organ} & {*words})
