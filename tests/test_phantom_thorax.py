"""Thorax cohorts: fields and conventions, patients independent of n, sites, devices, visits, landmarks, CT."""

import pytest
import torch

from medtutor.phantom import thorax
from medtutor.phantom.thorax import FINDINGS, SIDED

NONE = dict.fromkeys(FINDINGS, 0.0)
CALM = {"noisy": False, "jitter": 0.0, "site": 0}


def width(mask):
    """Columns from the first to the last of each mask (N, H, W)."""
    here = mask.any(1).int()
    return mask.shape[-1] - here.argmax(1) - here.flip(1).argmax(1)


def test_fields_and_ranges():
    c = thorax.cohort(6, 64, 0, marker=0.5, structures=("aorta", "left ribs"))
    assert c.image.shape == (6, 1, 64, 64)
    assert c.image.dtype == torch.float32
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert c.image.isfinite().all()
    assert (c.image.flatten(1).std(1) > 0.1).all()
    assert c.mask.shape == (6, 20, 64, 64)
    assert c.mask.dtype == torch.bool
    assert c.names["mask"] == ("right lung", "left lung", "heart", *FINDINGS, "aorta", "left ribs")
    assert c.mask[:, 18:].flatten(2).any(2).all()
    assert c.box.shape == (6, 15, 4)
    assert torch.equal(c.box.isnan().all(-1), ~c.mask[:, 3:18].flatten(2).any(2))
    assert c.names["label"] == FINDINGS
    assert len(c.names["landmark"]) == c.landmark.shape[1] == 48
    for finding in FINDINGS:
        key, shape = finding.replace(" ", "_"), (6, 2) if finding in SIDED else (6,)
        assert c.meta[f"severity_{key}"].shape == shape
        assert c.meta[f"zone_{key}"].shape == shape
        zone, grade = c.meta[f"zone_{key}"], c.meta[f"severity_{key}"]
        assert (zone[grade == 0] == -1).all()
        assert torch.equal((grade > 0).view(6, -1).any(1), c.label[:, FINDINGS.index(finding)] > 0)


def test_radiological_convention():
    c = thorax.cohort(8, 64, 1, prevalence=NONE)
    column = torch.arange(64.0)
    middle = [(c.mask[:, k].sum(1) * column).sum(1) / c.mask[:, k].sum((1, 2)) for k in range(3)]
    assert (middle[0] < 27).all()
    assert (middle[1] > 36).all()
    assert ((middle[2] - (middle[0] + middle[1]) / 2) > 0).all()  # the heart lies to the patient's left
    lung, heart = (c.image[:, 0][m].mean() for m in (c.mask[:, 0] & ~c.mask[:, 2], c.mask[:, 2]))
    assert heart > lung + 0.2  # bone and water bright, air dark


def test_cardiothoracic_ratio_is_what_the_masks_show():
    c = thorax.cohort(16, 192, 4, prevalence=NONE | {"cardiomegaly": 0.5}, jitter=0, site=0)
    chest, heart = (width(m) for m in (c.mask[:, :2].any(1), c.mask[:, 2]))
    assert torch.allclose(heart / chest, c.meta["cardiothoracic_ratio"], atol=0.04)
    assert torch.equal(c.meta["cardiothoracic_ratio"] > 0.5, c.label[:, 1] > 0)
    assert 0 < c.label[:, 1].sum() < 16


@pytest.mark.parametrize("options", [{}, {"modality": "ct"}, {"view": "lateral"}, {"view": "AP", "visits": 2}])
def test_a_patient_does_not_depend_on_the_cohort(options):
    few, many = thorax.cohort(3, 32, 5, **options), thorax.cohort(11, 32, 5, **options)
    few, many = few[few.patient == 2], many[many.patient == 2]
    assert torch.allclose(few.image, many.image, atol=2e-3)
    assert torch.equal(few.label, many.label)
    assert torch.equal(few.meta["age"], many.meta["age"])
    assert (few.mask != many.mask).float().mean() < 1e-3
    other = thorax.cohort(3, 32, 6, **options)
    assert not torch.allclose(other[other.patient == 2].image, few.image, atol=0.05)


def test_sites_look_different_and_are_assignable():
    looks = [thorax.cohort(4, 64, 3, prevalence=NONE, site=s) for s in range(4)]
    assert all((c.meta["site"] == s).all() for s, c in enumerate(looks))
    assert torch.equal(looks[0].meta["age"], looks[3].meta["age"])
    for a, b in ((0, 1), (0, 2), (1, 3)):
        assert (looks[a].image - looks[b].image).abs().mean() > 0.02
    given = torch.tensor([0, 2, 1, 3])
    assert torch.equal(thorax.cohort(4, 32, 3, site=given).meta["site"], given)


def test_age_and_sex_are_assignable_and_shape_the_body():
    age = torch.tensor([3.0, 40, 3, 40])
    c = thorax.cohort(4, 64, 3, age=age, sex=torch.tensor([0, 0, 1, 1]), **CALM)
    assert torch.equal(c.meta["age"], age)
    assert c.meta["sex"].tolist() == [0, 0, 1, 1]
    assert (c.meta["scale"][[0, 2]] < 0.65).all()
    assert (c.meta["spacing"][[0, 2]] < 0.7 * c.meta["spacing"][[1, 3]]).all()
    same = thorax.cohort(4, 64, 3, age=age, sex=torch.tensor([1, 1, 1, 1]), **CALM)
    assert (same.image[1] - c.image[1]).abs().max() > 0.02  # breasts
    assert torch.equal(same.image[3], c.image[3])


@pytest.mark.parametrize("name", thorax.DEVICES)
def test_devices_are_bright_and_only_where_asked(name):
    where = torch.tensor([True, False, True])
    c, plain = (thorax.cohort(3, 96, 8, prevalence=NONE, device=d, **CALM) for d in ({name: where}, None))
    assert torch.equal(c.meta[f"device_{name.replace(' ', '_')}"], where)
    assert torch.equal(c.image[1], plain.image[1])
    change = (c.image - plain.image)[where].flatten(1)
    assert (change.amax(1) > 0.03).all()
    assert (change.abs().amax(1) <= 1.3 * change.amax(1)).all()  # brighter, hardly darker anywhere


def test_marker_is_in_its_box_and_nowhere_else():
    where = torch.tensor([True, False, True, True])
    site = torch.tensor([0, 1, 2, 3])
    c, plain = (thorax.cohort(4, 64, 8, site=site, marker=m) for m in (where, None))
    assert torch.equal(c.meta["marker"], where)
    assert torch.equal(c.meta["marker_box"].isnan().any(1), ~where)
    assert torch.equal(c.image[1], plain.image[1])
    assert (c.meta["marker_box"][[0, 3], 0] > 40).all()
    assert c.meta["marker_box"][2, 2] < 24
    for i in (0, 2, 3):
        x0, y0, x1, y1 = c.meta["marker_box"][i].clamp(0, 64).round().int().tolist()
        change = (c.image[i, 0] - plain.image[i, 0]).abs()
        assert change[y0:y1, x0:x1].max() > 0.1
        change[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = 0
        assert change.max() < 0.02


def test_visits_show_one_body_that_changes_as_its_course_says():
    n, v = 5, 3
    sick = {"nodule": torch.full((n, 2), 0.8), "edema": torch.full((n,), 0.6)}
    course = torch.arange(5)[:, None].expand(n, 15).clone()
    c = thorax.cohort(n, 64, 2, severity=sick, course=course, visits=v)
    assert c.patient.tolist() == [i for i in range(n) for _ in range(v)]
    assert c.visit.tolist() == list(range(v)) * n
    assert torch.equal(c.meta["course"].view(n, v, 15)[:, 0], course)
    assert torch.equal(c.meta["scale"].view(n, v)[:, 0], c.meta["scale"].view(n, v)[:, 2])
    grade = c.meta["severity_edema"].view(n, v)
    assert (grade[0] == 0.6).all()  # stable
    assert (grade[1].diff() > 0.08).all()  # worse
    assert (grade[2].diff() < -0.08).all()  # better
    assert (grade[3] > 0).tolist() == [False, True, True]  # new
    assert (grade[4] > 0).tolist() == [True, False, False]  # resolved
    assert torch.equal(c.label[:, FINDINGS.index("edema")].view(n, v), (grade > 0).float())
    first, last = c[c.visit == 0], c[c.visit == 2]
    assert (first.image - last.image).abs().mean() > 0.01  # another position, breath and exposure
    assert not torch.equal(first.meta["breath"], last.meta["breath"])
    shift = (first.landmark - last.landmark).norm(dim=-1).mean()
    other = (first.landmark[0] - first.landmark[1:]).norm(dim=-1).mean()
    assert shift < other + 2


def test_severity_per_visit_is_taken_as_it_is():
    wish = torch.tensor([[[0.2, 0.0], [0.9, 0.0]], [[0.5, 0.5], [0.0, 0.5]]])
    c = thorax.cohort(2, 32, 2, severity={"mass": wish}, visits=2)
    assert torch.equal(c.meta["severity_mass"].view(2, 2, 2), wish)


def test_landmarks_lie_on_the_outlines():
    c = thorax.cohort(5, 96, 3, prevalence=NONE)
    right, left, heart = c.landmark.view(5, 3, 16, 2).unbind(1)
    assert torch.equal(c[:2].landmark, thorax.cohort(2, 96, 3, prevalence=NONE).landmark)
    for points, layer in ((right, 0), (left, 1), (heart, 2)):
        for i in range(5):
            mask = c.mask[i, layer].float()[None, None]
            near = torch.nn.functional.max_pool2d(mask, 5, 1, 2)[0, 0]
            x, y = points[i].floor().long().clamp(0, 95).unbind(1)
            assert (near[y, x] > 0).all()  # on the structure, or next to it
    assert (right[:, 0, 1] < right[:, 8, 1] - 20).all()  # the first point is the highest, the ninth the lowest
    assert (right[:, 4, 0] > right[:, 12, 0] + 10).all()  # clockwise
    assert (heart[..., 0].mean(1) > right[..., 0].mean(1)).all()


def test_no_point_is_lighter_than_air_and_lungs_are_lungs():
    c = thorax.cohort(6, 40, 6, "ct", kind="volume", noisy=False)
    assert c.volume.shape == (6, 1, 40, 40, 40)
    assert c.mask.shape == (6, 40, 40, 40)
    assert (c.volume < -1.2).float().mean() < 1e-3
    assert (c.volume > 1.8).float().mean() < 1e-3
    lung = (c.mask == 1) | (c.mask == 2)
    assert c.volume[:, 0][lung].median() == pytest.approx(-0.86, abs=0.05)
    assert set(c.mask.unique().tolist()) <= set(range(len(thorax.CT_CLASSES)))


def test_ct_and_radiograph_show_one_body():
    n, size = 3, 48
    sick = {"mass": torch.tensor([[0.9, 0.0]]).expand(n, 2), "effusion": torch.tensor([[0.0, 0.7]]).expand(n, 2)}
    ct = thorax.cohort(n, size, 2, "ct", kind="volume", severity=sick, **CALM)
    from medtutor.phantom.texture import Draws
    from medtutor.render.body import MU_WATER

    grades = {f: torch.zeros(n, 2) if f in SIDED else torch.zeros(n) for f in FINDINGS} | sick
    bodies, known = thorax.build(
        Draws(n, 2, "thorax", 1400),
        {f: s.double() for f, s in grades.items()},
        ct.meta["age"].double(),
        ct.meta["sex"] > 0,
        ct.meta["breath"].double(),
        arms=False,
    )
    line = bodies.xray("PA", size, thorax.FOV)
    summed = ((ct.volume[:, 0] + 1).clamp(min=0) * MU_WATER).sum(2).flip(1) * thorax.FOV / size
    rows = torch.linspace(0, size - 1, size)[6:-6].long()  # the volume is lower than the film
    place = ((size / 2 - 0.5 - rows) * thorax.FOV / size / (320 / size) + size / 2 - 0.5).round().long()
    inside = (place >= 0) & (place < size)
    a, b = line[:, rows[inside]], summed[:, size - 1 - place[inside]]
    assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.99
    assert torch.allclose(known["cardiothoracic_ratio"].float(), ct.meta["cardiothoracic_ratio"])


def test_ct_slice_goes_through_the_finding():
    n = 4
    for finding in ("nodule", "consolidation", "atelectasis"):
        wish = torch.tensor([[0.9, 0.0]]).expand(n, 2)
        c = thorax.cohort(n, 64, 7, "ct", severity={finding: wish}, jitter=0)
        assert (c.mask == thorax.CT_CLASSES.index(finding)).flatten(1).any(1).all()
        assert not c.box[:, FINDINGS.index(finding)].isnan().any()
    assert torch.equal(thorax.cohort(3, 32, 7, "ct", level="heart").meta["level"], torch.full((3,), -50.0))


def test_prevalence_is_respected():
    c = thorax.cohort(200, 8, 9, prevalence=NONE | {"nodule": 0.7})
    nodule = FINDINGS.index("nodule")
    assert 0.6 < c.label[:, nodule].mean() < 0.8
    assert c.label.sum() == c.label[:, nodule].sum()


def test_bad_input_says_what_to_do():
    for options, match in (
        ({"prevalence": {"flu": 0.5}}, "choose from atelectasis"),
        ({"severity": {"nodule": torch.zeros(3)}}, "must have shape"),
        ({"modality": "pet"}, "modality"),
        ({"modality": "ct", "level": "knee"}, "level"),
        ({"device": {"ring": 0.5}}, "devices are"),
        ({"course": "odd"}, "course"),
        ({"structures": ("tail",)}, "structures are"),
    ):
        with pytest.raises(ValueError, match=match):
            thorax.cohort(2, 16, **options)


def test_a_childs_chest_is_a_bell_and_its_arms_are_held_up():
    child, adult = (thorax.cohort(24, 64, 7, prevalence=NONE, age=age, **CALM) for age in ((1, 4), (30, 60)))

    def taper(c):
        """Width of the lungs a fifth below their top over their greatest width."""
        lungs = c.mask[:, :2].any(1)
        rows = lungs.any(2).int()
        top, height = rows.argmax(1), rows.sum(1)
        wide = torch.stack([width(lungs[i : i + 1, r : r + 1])[0] for i, r in enumerate(top + height // 5)])
        return (wide / width(lungs)).mean()

    assert taper(child) < taper(adult) - 0.02
    bottom = child.image[:, 0, -12:]  # an arm that hung down would stand beside the trunk, with air between
    inside = (bottom > 0.3).int()
    assert (inside.diff(dim=2).abs().sum(2) <= 2).float().mean() > 0.9


def test_no_lung_lies_between_a_childs_heart_and_its_diaphragm():
    ct = thorax.cohort(8, 48, 3, modality="ct", kind="volume", prevalence=NONE, age=(1, 4), jitter=0)
    lung, heart = (part[..., 20:28] for part in ((ct.mask == 1) | (ct.mask == 2), ct.mask == 3))  # near the midline
    lowest = torch.where(heart, torch.arange(48)[:, None, None], 99).amin(1)  # slices count from the feet
    below = [lung.movedim(1, -1).gather(-1, (lowest - k).clamp(0, 47)[..., None])[..., 0] for k in (1, 2)]
    assert torch.stack(below).any(0)[heart.any(1)].float().mean() < 0.2  # an adult's: 0.39


def test_structures_change_nothing_else():
    plain, more = thorax.cohort(3, 48, 5), thorax.cohort(3, 48, 5, structures=("liver", "spine"))
    assert torch.equal(plain.landmark, more.landmark)
    assert torch.equal(plain.mask, more.mask[:, :-2])
    assert more.mask[:, -2:].any((2, 3)).all()


def test_ct_numbers_are_those_of_tissues():
    """Also where vessels cross: only bone, or a device, is dense."""
    plain, worn = (thorax.cohort(40, 64, 0, "ct", noisy=False, level="heart", device=device)
                   for device in (None, {"pacemaker": 1.0, "chest drain": 1.0}))
    hard = [plain.names["mask"].index(name) for name in ("background", "bone", "fracture")]
    soft = ~torch.isin(plain.mask, torch.tensor(hard))
    assert plain.image.min() >= -1
    assert plain.image.max() <= 1.45
    assert plain.image[:, 0][soft].max() <= 0.12
    assert worn.image.max() > 2
    same = (worn.image - plain.image).abs().flatten(1) < 1e-5
    assert (same.float().mean(1) > 0.97).all()
