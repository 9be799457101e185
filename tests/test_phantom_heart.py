"""The beating heart: conservation of the wall, the volume curve, groups of disease, times, missing frames."""

import math
import subprocess
import sys

import pytest
import torch

from medtutor.phantom import heart

HEALTHY = {}


def test_fields_and_ranges():
    c = heart.cohort(5, 48, 0, frames=3)
    assert c.image.shape == (15, 1, 48, 48)
    assert c.image.dtype == torch.float32
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert c.mask.dtype == torch.int64
    assert c.label.shape == (15, 4)
    assert c.patient.tolist() == [p for p in range(5) for _ in range(3)]
    assert c.visit.tolist() == [0, 1, 2] * 5
    for frame in c.mask:
        assert set(frame.unique().tolist()) == {0, 1, 2, 3}
    v = heart.cohort(2, 16, 0, "volume", 2, depth=8)
    assert v.volume.shape == (4, 1, 8, 16, 16)
    assert v.mask.shape == (4, 8, 16, 16)


def test_muscle_keeps_its_volume_and_voxels_agree_with_the_closed_form():
    c = heart.cohort(4, 48, 1, "volume", 4, prevalence=dict.fromkeys(heart.GROUPS, 0.25))
    voxel = heart.DEPTH / 48 * (heart.FOV / 48) ** 2 / 1000
    muscle, cavity = ((c.mask == k).sum((1, 2, 3)) * voxel for k in (2, 3))
    assert torch.allclose(muscle, c.meta["muscle_ml"], rtol=0.05)
    assert torch.allclose(cavity, c.meta["volume_ml"], rtol=0.05, atol=3)
    cavity = cavity.view(4, 4)
    assert (cavity.amin(1) < 0.95 * cavity[:, 0]).all()


def parameters(**changed):
    g = {"edv": 140.0, "muscle": 100.0, "eject": 0.6, "shorten": 0.15, "long": 88.0, "infarction": 0.0,
         "hypertrophic cardiomyopathy": 0.0, "scar_angle": 1.0, "scar_half": 1.0} | changed
    return {key: torch.tensor(value).double().view(1, 1, 1, 1) for key, value in g.items()}


@pytest.mark.parametrize("changed", [{}, {"infarction": 0.8}, {"hypertrophic cardiomyopathy": 0.9}])
def test_every_sector_of_the_wall_keeps_its_volume(changed):
    angle = torch.linspace(-math.pi, math.pi, 100).double().view(1, 1, 1, -1)
    kept = []
    for empty in (0.0, 0.3, 1.0, -0.5):
        inner, thick, _, length = heart.wall(parameters(**changed), angle, torch.tensor(empty).double())
        assert (inner > 5).all()
        kept.append((inner + thick) ** 2 * length - inner**2 * length * heart.INNER)
    for later in kept[1:]:
        assert torch.allclose(later, kept[0], rtol=1e-9)


def test_a_scar_does_not_thicken_and_the_rest_does():
    angle = torch.tensor([1.0, 1.0 - math.pi]).double().view(1, 1, 1, 2)
    rest, systole = (heart.wall(parameters(infarction=0.7), angle, torch.tensor(e).double())[1].flatten()
                     for e in (0.0, 1.0))
    assert systole[0] == pytest.approx(rest[0].item())
    assert systole[1] > 1.25 * rest[1]
    assert rest[0] < rest[1]


def thickness(mask, angle):
    """Pixels of muscle along a ray from the middle of each cavity (N, H, W)."""
    step = torch.arange(0, 45, 0.25)
    out = []
    for m, a in zip(mask, angle, strict=True):
        y, x = (m == 3).nonzero().double().mean(0)
        out.append((m[(y + step * a.sin()).round().long(), (x + step * a.cos()).round().long()] == 2).sum() / 4)
    return torch.stack(out)


def test_the_scar_lies_where_meta_says():
    c = heart.cohort(12, 128, 3, frames=2, start=0.0, prevalence={"infarction": 1.0}, level=0.4)
    angle, opposite = c.meta["scar_angle"][::2], c.meta["scar_angle"][::2] + math.pi
    late = heart.cohort(12, 128, 3, frames=1, start=0.38, prevalence={"infarction": 1.0}, level=0.4).mask
    scar, alive = (thickness(late, a) / thickness(c.mask[::2], a) for a in (angle, opposite))
    assert scar.mean() < 1.15
    assert alive.mean() > 1.3
    assert (alive > scar).all()
    assert heart.cohort(4, 8, 3, frames=1, prevalence={}).meta["scar_angle"].isnan().all()


def test_the_long_axis_shortens():
    c = heart.cohort(6, 32, 4, "volume", 8, prevalence=HEALTHY)
    planes, volume = (c.mask == 3).any(3).any(2).sum(1).view(6, 8), c.meta["volume_ml"].view(6, 8)
    assert (planes[torch.arange(6), volume.argmin(1)] <= planes[:, 0] - 2).all()


def test_the_volume_curve_has_the_phases_of_a_heart_beat():
    for rate in (52.0, 70.0, 92.0):
        beat, rate = 6e4 / rate, torch.tensor(rate).double()
        time = torch.linspace(0, beat - 1, 500).double()
        curve = heart.emptied(time, rate)
        end = 458 - 1.7 * rate
        assert (curve[time < 45] == 0).all()
        assert (curve[(time > end) & (time < end + 70)] > 0.999).all()
        assert (curve[(time > 45) & (time < end)].diff() > 0).all()
        assert (curve[time > end].diff() <= 1e-9).all()
        before = heart.emptied(torch.tensor(beat - 111).double(), rate)
        assert 0.15 < before < 0.35  # what the kick of the atria adds
        assert torch.allclose(heart.emptied(time + beat, rate), curve)


def test_ejection_fraction_is_that_of_the_frames():
    c = heart.cohort(6, 8, 2, frames=60)
    volume = c.meta["volume_ml"].view(6, 60)
    assert torch.allclose(1 - volume.amin(1) / volume[:, 0], c.meta["ejection_fraction"][::60], atol=0.01)
    assert torch.allclose(volume[:, 0], c.meta["end_diastolic_ml"][::60])
    wall = c.meta["wall_mm"].view(6, 60)
    assert (wall[torch.arange(6), volume.argmin(1)] > wall[:, 0]).all()


def test_groups_differ_as_their_names_say():
    made = {k: heart.cohort(60, 40, 3, frames=1, prevalence={k: 1.0} if k else {}, level=0.4)
            for k in ("", *heart.GROUPS)}
    normal = made.pop("")
    assert normal.label.sum() == 0
    for k, (name, c) in enumerate(made.items()):
        assert (c.label == torch.eye(4)[k]).all()
        severity = c.meta[f"severity_{name.replace(' ', '_')}"]
        assert severity.min() >= 0.35
        assert severity.max() <= 1
    dilated, thick, infarct, right = made.values()
    assert dilated.meta["end_diastolic_ml"].min() > normal.meta["end_diastolic_ml"].mean()
    assert dilated.meta["ejection_fraction"].max() < normal.meta["ejection_fraction"].min()
    assert thick.meta["wall_mm"].mean() > 1.4 * normal.meta["wall_mm"].mean()
    assert infarct.meta["ejection_fraction"].mean() < normal.meta["ejection_fraction"].mean() - 0.1
    area = [(c.mask == 1).sum((1, 2)).double().mean() for c in (normal, right)]
    assert area[1] > 1.3 * area[0]
    mixed = heart.cohort(200, 8, 4, frames=1)
    assert mixed.label.sum(1).max() == 1
    assert ((mixed.label.mean(0) - 0.2).abs() < 0.12).all()


def test_the_cavity_lies_inside_the_muscle_and_blood_is_bright():
    c = heart.cohort(8, 64, 5, frames=2)
    cavity = c.mask == 3
    for axis in (1, 2):
        for step in (-1, 1):
            beside = c.mask.roll(step, axis)[cavity]
            assert ((beside == 3) | (beside == 2)).all()
    for picture, mask in zip(c.image[:, 0], c.mask, strict=True):
        assert picture[mask == 3].mean() > picture[mask == 2].mean() + 0.15


def test_missing_frames_are_black_and_keep_their_truth():
    whole, holes = heart.cohort(10, 24, 6, frames=6), heart.cohort(10, 24, 6, frames=6, missing=0.5)
    seen = holes.meta["observed"].view(10, 6)
    assert seen[:, [0, -1]].all()
    assert 0.3 < seen[:, 1:-1].float().mean() < 0.7
    seen = seen.flatten()
    assert (holes.image[~seen] == 0).all()
    assert torch.equal(holes.image[seen], whole.image[seen])
    assert torch.equal(holes.mask, whole.mask)
    assert whole.meta["observed"].all()
    assert not heart.cohort(3, 8, frames=4, missing=1.0).meta["observed"].view(3, 4)[:, 1:3].any()


def test_times_and_phases():
    even, odd = (heart.cohort(8, 8, 7, frames=6, spacing=s) for s in ("regular", "irregular"))
    for c, regular in ((even, True), (odd, False)):
        time, beat = c.meta["time"].view(8, 6), 6e4 / c.meta["heart_rate"].view(8, 6)
        gap = time.diff(dim=1)
        assert (time[:, 0] == 0).all()
        assert (gap > 0).all()
        assert (time < beat).all()
        assert torch.allclose(gap, gap[:, :1].expand(8, 5), rtol=1e-4) == regular
        assert torch.allclose(c.meta["phase"].view(8, 6), time / beat, atol=1e-5)
    anywhere = heart.cohort(40, 8, 7, frames=1, start=None)
    assert anywhere.meta["phase"].std() > 0.2
    few = heart.cohort(8, 8, 7, frames=1)
    assert torch.equal(few.image, even.image[::6])


def test_visits_go_both_ways_at_different_speeds():
    c = heart.cohort(60, 24, 8, frames=6, course="visits", prevalence=HEALTHY)
    volume, trend = c.meta["volume_ml"].view(60, 6), c.meta["trend"][::6]
    change = (volume[:, -1] / volume[:, 0]).log()
    assert (change.sign() == trend.sign()).all()
    assert 0.3 < (trend > 0).float().mean() < 0.7
    assert change.abs().max() > 2 * change.abs().min()
    assert abs(torch.corrcoef(torch.stack([volume[:, 0], trend]))[0, 1]) < 0.3  # one image does not tell
    cavity = (c.mask == 3).sum((1, 2)).view(60, 6).double()
    assert torch.corrcoef(torch.stack([(cavity[:, -1] / cavity[:, 0]).log(), change.double()]))[0, 1] > 0.9
    assert c.units["time"] == "days"
    assert torch.equal(c.meta["time"][:6], 180.0 * torch.arange(6))


def test_a_patient_is_the_same_at_every_size_and_in_every_cohort():
    few, many = heart.cohort(3, 24, 9, frames=2, missing=0.3), heart.cohort(6, 24, 9, frames=2, missing=0.3)
    assert torch.allclose(few.image, many.image[:6], atol=1e-4)
    assert torch.equal(few.mask, many.mask[:6])
    for key, column in few.meta.items():
        assert torch.allclose(column.float(), many.meta[key][:6].float(), equal_nan=True), key
    large = heart.cohort(3, 72, 9, frames=2)
    assert torch.equal(large.mask[:, 1::3, 1::3], few.mask)
    assert torch.equal(large.meta["volume_ml"], few.meta["volume_ml"])
    clean = [heart.cohort(3, size, 9, frames=1, noisy=False).image for size in (24, 72)]
    pooled = torch.nn.functional.avg_pool2d(clean[1], 3)
    assert (pooled - clean[0]).abs().mean() < 0.03


def test_a_new_process_makes_the_same_patients():
    code = ("from medtutor.phantom import heart; c = heart.cohort(2, 16, 5, frames=2);"
            "print(c.image.double().sum().item(), (c.mask * torch.arange(256).view(16, 16)).sum().item())")
    run = subprocess.run([sys.executable, "-c", "import torch;" + code], capture_output=True, text=True, check=True)
    c = heart.cohort(2, 16, 5, frames=2)
    assert float(run.stdout.split()[0]) == pytest.approx(c.image.double().sum().item(), abs=1e-4)
    assert int(run.stdout.split()[1]) == (c.mask * torch.arange(256).view(16, 16)).sum()


@pytest.mark.parametrize(("options", "message"), [
    ({"kind": "cine"}, "kind must be one of slice, volume"), ({"course": "run"}, "course must be one of beat, visits"),
    ({"spacing": "odd"}, "spacing must be one of"), ({"prevalence": {"flu": 1.0}}, "prevalence needs probabilities of"),
    ({"prevalence": {"infarction": 1.2}}, "sum to 1"), ({"frames": 0}, "1 to 64 frames"), ({"missing": 2}, "missing")])
def test_bad_input_says_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        heart.cohort(1, 8, **options)
