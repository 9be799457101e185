"""Abdomen cohorts: organs, lesions and look-alikes, described lesions, phases, landmarks, mirrored patients, twins."""

import hashlib
import subprocess
import sys

import pytest
import torch
from scipy.ndimage import distance_transform_edt

from medtutor.language import written
from medtutor.phantom import abdomen
from medtutor.phantom.abdomen_anatomy import build
from medtutor.phantom.texture import Draws

CLASS = {name: k for k, name in enumerate(abdomen.CLASSES)}
LIVER, SPLEEN, RIGHT, LEFT, STOMACH = 1, 2, 3, 4, 6
TUMOUR, CYST = 10, 11
NONE = dict.fromkeys(abdomen.KINDS, 0.0)


def middles(mask, k):
    """Mean column of class k, NaN where absent."""
    here = (mask == k).float()
    return (here.sum(-2) * torch.arange(mask.shape[-1])).sum(-1) / here.sum((-2, -1))


def test_fields_and_ranges():
    ct, *others = (abdomen.cohort(5, 64, 0, m) for m in ("ct", "mr", "mr-t1"))
    assert ct.image.shape == (5, 1, 64, 64)
    assert ct.image.dtype == torch.float32
    assert ct.names["mask"] == abdomen.CLASSES
    assert ct.names["label"] == abdomen.KINDS
    assert ct.units["image"] == "HU / 1000"
    for mr in others:
        assert torch.equal(ct.mask, mr.mask)  # one body, three pictures
        assert torch.equal(ct.label, mr.label)
        assert mr.image.min() >= 0
        assert mr.image.max() <= 1
    liver = ct.image[:, 0][ct.mask == LIVER] * 1000
    assert 80 < liver.mean() < 140
    shown = abdomen.cohort(5, 64, 0, window=(-160, 240)).image
    assert torch.allclose(shown, ((ct.image * 1000 + 160) / 400).clamp(0, 1), atol=1e-5)


def test_names_keep_their_places():
    assert abdomen.CLASSES[:12] == (
        "background", "liver", "spleen", "right kidney", "left kidney", "pancreas", "stomach", "aorta", "vertebra",
        "liver tumour", "kidney tumour", "paired cyst")
    assert len(abdomen.ORGANS) == 13
    assert {*abdomen.ORGANS, *abdomen.KINDS} <= set(abdomen.CLASSES)
    assert len(set(abdomen.CLASSES)) == len(abdomen.CLASSES)
    assert set(abdomen.PREVALENCE) == set(abdomen.KINDS)


def test_every_organ_is_there():
    c = abdomen.cohort(6, 48, 1, kind="volume", fov=(200, 300, 340), prevalence=NONE)
    assert c.volume.shape == (6, 1, 48, 48, 48)
    assert c.mask.shape == (6, 48, 48, 48)
    for name in (*abdomen.ORGANS, "vertebra", "liver vessels", "colon", "bowel", "lung", "psoas", "rib"):
        assert (c.mask == CLASS[name]).flatten(1).any(1).all(), name
    sizes = {name: (c.mask == CLASS[name]).sum() for name in abdomen.ORGANS}
    assert sizes["liver"] > sizes["spleen"] > sizes["pancreas"] > sizes["left adrenal gland"]
    assert c.mask.max() < CLASS["lung tumour"]


def test_tissues_look_as_they_should():
    c = abdomen.cohort(8, 48, 2, kind="volume", prevalence=NONE, noisy=False)
    names = "liver vessels", "liver", "right kidney", "gallbladder", "lung", "rib", "aorta", "pancreas"
    hu = {name: c.volume[:, 0][c.mask == CLASS[name]].median() * 1000 for name in names}
    order = ["lung", "gallbladder", "pancreas", "liver", "aorta", "right kidney", "rib"]
    assert sorted(order, key=hu.get) == order
    assert hu["liver vessels"] > hu["liver"] + 40
    shown = ((c.volume * 1000 + 160) / 400).clamp(0, 1)
    t1 = abdomen.cohort(8, 48, 2, "mr-t1", "volume", prevalence=NONE, noisy=False).volume
    for one, other in (("pancreas", "right kidney"), ("liver", "spleen"), ("right kidney", "pancreas")):
        a, b = t1[:, 0][c.mask == CLASS[one]].median(), shown[:, 0][c.mask == CLASS[other]].median()
        assert abs(a - b) < 0.07  # what one organ is in T1, another is in CT


def test_cancers_and_their_look_alikes_share_place_and_size():
    a, b = (abdomen.cohort(8, 64, 3, kind="volume", fov="trunk", noisy=False, prevalence=NONE | wanted)
            for wanted in (dict.fromkeys(kinds, 1.0) for kinds in (abdomen.CANCERS, abdomen.MIMICS)))
    assert torch.equal(a.label, torch.tensor([[1.0] * 8 + [0.0] * 12]).expand(8, -1))
    assert torch.equal(b.label, torch.tensor([[0.0] * 8 + [1.0] * 8 + [0.0] * 4]).expand(8, -1))
    for cancer, mimic in zip(abdomen.CANCERS, abdomen.MIMICS, strict=True):
        here, there = (a.mask == CLASS[cancer]).flatten(1), (b.mask == CLASS[mimic]).flatten(1)
        assert (a.mask == CLASS[mimic]).sum() == 0
        both = here.any(1) & there.any(1)
        assert both.sum() >= 7, cancer
        assert (here & there).any(1)[both].all()
        assert 0.7 < here.sum() / there.sum() < 1.7, cancer  # needles stick out of some tumours
        for c, kind in ((a, cancer), (b, mimic)):
            assert (c.meta[f"severity_{kind.replace(' ', '_')}"].view(8, -1).amax(1) > 0).all()
            assert (c.meta["sex"] == 0).all()  # who has a lesion of the breast here is a woman


def test_the_same_look_means_the_opposite_in_liver_and_kidney():
    values = {}
    for kind, level in (("liver tumour", "liver"), ("liver cyst", "liver"), ("kidney tumour", "kidneys"),
                        ("kidney cyst", "kidneys")):
        c = abdomen.cohort(96, 80, 4, level=level, prevalence=NONE | {kind: 1.0}, noisy=False)
        values[kind] = c.image[:, 0][c.mask == CLASS[kind]].quantile(torch.tensor([0.2, 0.8])) * 1000  # core, rim
    even, rim = ("liver cyst", "kidney tumour"), ("liver tumour", "kidney cyst")
    assert all(values[kind][1] - values[kind][0] < 40 for kind in even)
    assert all(values[kind][1] - values[kind][0] > 60 for kind in rim)
    assert (values[even[0]] - values[even[1]])[0].abs() < 15
    assert (values[rim[0]] - values[rim[1]]).abs().max() < 25


def test_prevalence_and_rare_kinds():
    c = abdomen.cohort(400, 8, 5)
    rate = dict(zip(abdomen.KINDS, c.label.mean(0), strict=True))
    assert all(abs(rate[kind] - abdomen.PREVALENCE[kind]) < 0.075 for kind in abdomen.KINDS)
    assert all(rate[kind] == 0 for kind in abdomen.RARE)
    assert (c.label[:, :8] * c.label[:, 8:16]).sum() == 0
    rare = abdomen.cohort(60, 64, 5, level="liver", noisy=False,
                          prevalence=NONE | {"ring lesion": 0.4, "calcified lesion": 0.3, "striped lesion": 0.3})
    assert (rare.label.sum(1) == 1).all()
    bright = [rare.image[:, 0][rare.mask == CLASS[kind]].median() * 1000 for kind in abdomen.RARE]
    assert bright[1] > 500
    assert all((rare.mask == CLASS[kind]).any() for kind in abdomen.RARE)


def test_phases_tell_tumour_from_haemangioma_and_one_phase_does_not():
    c = abdomen.cohort(40, 64, 6, level="liver", phases=True, noisy=False,
                       prevalence=NONE | {"liver tumour": 1.0, "liver haemangioma": 1.0})
    assert c.image.shape == (40, 3, 64, 64)
    assert len(c.names["image"]) == 3
    tumour, benign = ([c.image[:, k][c.mask == CLASS[kind]].median() * 1000 for k in range(3)]
                      for kind in ("liver tumour", "liver haemangioma"))
    assert tumour[0] > tumour[1] > tumour[2]
    assert benign[0] < benign[1] < benign[2]
    assert abs(tumour[1] - benign[1]) < 6
    portal = abdomen.cohort(40, 64, 6, level="liver", noisy=False,
                            prevalence=NONE | {"liver tumour": 1.0, "liver haemangioma": 1.0})
    assert torch.equal(portal.mask, c.mask)
    other = (c.mask != CLASS["liver tumour"]) & torch.isclose(portal.image, c.image[:, 1:2])[:, 0]
    assert other.float().mean() > 0.98


def test_described_lesions():
    c = abdomen.cohort(60, 64, 7, level="liver", lesions=(2, 4), prevalence={"kidney tumour": 0.5}, noisy=False)
    mask, told = c.meta["lesion_mask"], c.meta["attribute"]
    assert mask.shape == (60, 6, 64, 64)
    assert told.shape == (60, 6, 6)
    assert c.names["attribute"] == tuple(abdomen.ATTRIBUTES)
    assert (mask.sum(1) <= 1).all()
    here = told[..., 0] >= 0
    assert ((here[:, :4].sum(1) >= 2) & (here[:, :4].sum(1) <= 4)).all()
    assert mask[~here].sum() == 0
    assert mask[:, :4].flatten(2).any(2)[here[:, :4]].float().mean() > 0.95  # at the level of the slice
    assert torch.equal(mask[:, :4].any(1), c.mask == CLASS["liver tumour"])
    assert torch.equal(c.box[..., 0].isnan(), ~mask.flatten(2).any(2))
    for i, k in mask.flatten(2).any(2).nonzero().tolist():
        y, x = mask[i, k].nonzero(as_tuple=True)
        assert c.box[i, k].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    seen = here & (mask.sum((2, 3)) > 12)
    value = (c.image * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)
    dense = told[:, :4, 1][seen[:, :4]]
    assert value[:, :4][seen[:, :4]][dense == 1].min() > value[:, :4][seen[:, :4]][dense == 0].max()
    area = [mask[:, :4].sum((2, 3))[told[:, :4, 0] == k].float().mean() for k in range(3)]
    assert area[0] < area[1] / 1.5 < area[2] / 2
    column = (mask.float().sum(2) @ torch.arange(64.0)) / mask.sum((2, 3))
    lobe = told[..., 4]
    assert column[seen & (lobe == 1)].min() > column[seen & (lobe == 0)].mean()
    assert set(told[:, 4, 3].tolist()) <= {-1, 1}
    assert set(told[:, 5, 3].tolist()) <= {-1, 2}
    volume = abdomen.cohort(3, 24, 7, kind="volume", lesions=(1, 3))
    assert volume.meta["lesion_mask"].shape == (3, 6, 24, 24, 24)
    assert volume.box is None


def test_landmarks_correspond():
    c = abdomen.cohort(12, 48, 8, kind="volume", situs=0.5, prevalence=NONE)
    spots, names = c.landmark.round().long(), c.names["landmark"]
    assert c.landmark.shape == (12, len(names), 3)
    inside = ((spots >= 0) & (spots < 48)).all(-1)
    for name in ("liver right", "liver front", "spleen head", "spleen back", "right kidney head", "right kidney foot",
                 "left kidney head", "left kidney back"):
        k, organ = names.index(name), CLASS[name.rsplit(" ", 1)[0]]
        x, y, z = spots[:, k].clamp(0, 47).unbind(-1)
        found = c.mask[torch.arange(12), z, y, x][inside[:, k]]
        assert len(found) > 6
        assert ((found == organ) | (found == CLASS["liver vessels"])).float().mean() > 0.75, name
    assert c.landmark.std(0).amin() > 0.1  # patients differ
    lies = middles(c.mask[:, 24], LIVER) > 23.5
    assert torch.equal(lies, c.meta["situs"])
    flat = abdomen.cohort(8, 64, 8, level="kidneys", prevalence=NONE)
    k = abdomen.ORGANS.index("left kidney")
    assert torch.allclose(flat.landmark[:, k, 0], middles(flat.mask, LEFT), atol=1e-4)
    gone = abdomen.cohort(4, 32, 8, level="lungs").landmark[:, abdomen.ORGANS.index("right kidney")]
    assert gone.isnan().all()


def test_facts_agree_with_pictures():
    c = abdomen.cohort(40, 48, 9, kind="volume", fov=(220, 260, 320), prevalence=NONE | {"kidney tumour": 1.0})
    side = c.meta["severity_kidney_tumour"] > 0
    assert torch.equal(side.sum(1), torch.ones(40, dtype=torch.long))
    lesion = (c.mask == TUMOUR).float()
    column = (lesion.sum((1, 2)) @ torch.arange(48.0)) / lesion.sum((1, 2, 3))
    assert torch.equal(column > 23.5, side[:, 1])
    size = c.meta["severity_kidney_tumour"].amax(1)
    assert torch.corrcoef(torch.stack([size, lesion.sum((1, 2, 3))]))[0, 1] > 0.8
    zone = c.meta["zone_kidney_tumour"].amax(1)
    height = (lesion.sum((2, 3)) @ torch.arange(48.0)) / lesion.sum((1, 2, 3))
    assert height[zone == 0].mean() > height[zone == 1].mean() + 2 > height[zone == 2].mean() + 4


def test_volumes_slices_and_sizes_show_the_same_body():
    options = {"seed": 11, "noisy": False}
    volume = abdomen.cohort(4, 40, kind="volume", fov=(160, 340, 340), **options)
    level = (torch.arange(40) - 19.5) * 4
    for k in (8, 28):
        flat = abdomen.cohort(4, 40, level=float(level[k]), **options)
        assert (flat.mask == volume.mask[:, k]).float().mean() > 0.999
    small, large = (abdomen.cohort(4, size, level="liver", **options) for size in (40, 120))
    assert torch.equal(small.mask, large.mask[:, 1::3, 1::3])
    shrunk = torch.nn.functional.avg_pool2d(large.image, 3)
    assert (shrunk - small.image).abs().mean() < 0.012
    moved = abdomen.cohort(4, 40, level="liver", centre=(8.5, -17.0), **options)
    assert torch.equal(moved.mask[:, 2:, :-1], small.mask[:, :-2, 1:])


def test_parts_hide_each_other_so_there_is_no_film():
    body = build(Draws(2, 0, "abdomen", 1024), abdomen.PREVALENCE)[0]
    with pytest.raises(ValueError, match="only slices and volumes"):
        body.film()
    with pytest.raises(ValueError, match="only slices and volumes"):
        body.ct(torch.zeros(1, 3))


def test_situs_inversus_is_the_mirror_image_with_mirrored_labels():
    normal, mirror = (abdomen.cohort(6, 64, 2, situs=p, level="liver", noisy=False) for p in (0.0, 1.0))
    left, right = middles(normal.mask, LIVER), middles(mirror.mask, LIVER)
    assert (left < 31).all()
    assert (right > 32).all()
    assert mirror.meta["situs"].all()
    for k in (SPLEEN, STOMACH):
        assert (middles(normal.mask, k) > 32).all()
        assert (middles(mirror.mask, k) < 31).all()
    half = abdomen.cohort(200, 8, 2, situs=0.5).meta["situs"].float().mean()
    assert 0.4 < half < 0.6


def test_left_kidney_is_away_from_the_liver():
    c = abdomen.cohort(40, 64, 3, situs=0.5, level="kidneys", twin_kidneys=True)
    liver, right, left = (middles(c.mask, k) for k in (LIVER, RIGHT, LEFT))
    assert ((left - right) * (31.5 - liver) > 0).all()
    assert ((right - 31.5) * (liver - 31.5) > 0).all()
    assert torch.equal(liver > 31.5, c.meta["situs"])
    assert 8 < c.meta["situs"].sum() < 32


def test_twin_kidneys_are_far_from_anything_that_tells_the_side():
    c = abdomen.cohort(24, 64, 4, "mr", situs=0.5, level="kidneys", twin_kidneys=True)
    for mask in c.mask:
        kidney = (mask == RIGHT) | (mask == LEFT) | (mask >= TUMOUR)
        telling = (mask == LIVER) | (mask == SPLEEN) | (mask == STOMACH) | (mask == 9)
        assert kidney.any()
        assert telling.any()
        assert distance_transform_edt(~telling.numpy())[kidney.numpy()].min() >= 12


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_mirroring_leaves_the_surroundings_of_twin_kidneys_as_they_were(modality):
    options = {"level": "kidneys", "twin_kidneys": True, "twin": 0.5,
               "prevalence": {"liver tumour": 0.0, "kidney tumour": 0.9}}
    normal, mirror = (abdomen.cohort(12, 64, 5, modality, situs=p, **options) for p in (0.0, 1.0))
    for a, b, mask in zip(normal.image[:, 0], mirror.image[:, 0], normal.mask, strict=True):
        near = distance_transform_edt(~((mask == RIGHT) | (mask == LEFT)).numpy()) < 11.5
        assert (a - b)[torch.from_numpy(near)].abs().max() < 1e-3
        assert (a - b).abs().max() > 0.03
    swapped = torch.where(normal.mask == RIGHT, LEFT, torch.where(normal.mask == LEFT, RIGHT, 0))
    kidneys = (normal.mask == RIGHT) | (normal.mask == LEFT)
    assert (swapped[kidneys] == mirror.mask[kidneys]).float().mean() > 0.999


def test_class_of_a_lesion_is_decided_by_its_twin():
    c = abdomen.cohort(16, 48, 6, kind="volume", twin_kidneys=True, twin=0.5, situs=0.5, noisy=False,
                       prevalence={"kidney tumour": 0.8, "liver tumour": 0.0})
    lesion = c.mask >= TUMOUR
    assert {TUMOUR, CYST} <= set(c.mask[lesion].unique().tolist())
    for mask in c.mask:
        for part in (mask[:18], mask[18:]):  # lower and upper pole, parted 20 mm below the isocentre
            halves = (part[..., :24], part[..., 24:])
            sides = torch.stack([(half == k).sum() for k in (TUMOUR, CYST) for half in halves])
            tumour, cyst = sides[:2] > 3, sides[2:] > 3
            assert not tumour.all()
            assert cyst.any() == cyst.all()
            assert not (tumour.any() and cyst.any())
    values = [c.volume[:, 0][c.mask == k] for k in (TUMOUR, CYST)]
    assert abs(values[0].mean() - values[1].mean()) < 0.015  # they look alike
    assert abs(c.label[:, 1].mean() - c.label[:, 2].mean()) < 0.6


def test_twins_have_three_labels_and_all_classes():
    c = abdomen.cohort(3, 32, 6, twin_kidneys=True, twin=0.5)
    assert c.label.shape == (3, 3)
    assert c.names["label"] == abdomen.CLASSES[9:12]
    assert c.names["mask"] == abdomen.CLASSES


@pytest.mark.parametrize("options", [{"modality": "mr-t1", "situs": 0.5}, {"kind": "volume"},
                                     {"lesions": (1, 4), "phases": True}, {"twin_kidneys": True, "twin": 0.5}])
def test_a_patient_does_not_depend_on_the_cohort(options):
    few, many = (abdomen.cohort(n, 24, 7, **options) for n in (4, 12))
    assert few.columns().keys() == many.columns().keys()
    for key, column in few.columns().items():
        assert torch.allclose(column.double(), many.columns()[key][:4].double(), atol=1e-6, equal_nan=True), key


def test_options_do_not_shift_the_draws():
    plain = abdomen.cohort(6, 32, 12, level="pancreas")
    for options in ({"prevalence": NONE}, {"phases": True, "lesions": (2, 2)}):
        other = abdomen.cohort(6, 32, 12, level="pancreas", **options)
        for name in ("left kidney", "spleen", "aorta", "stomach"):
            here = plain.mask == CLASS[name]
            same = (other.mask == CLASS[name])[here] | (other.mask[here] >= CLASS["lung tumour"]) | (
                other.mask[here] == TUMOUR)
            assert same.float().mean() > 0.99


def test_another_process_makes_the_same_patients():
    code = ("import hashlib; from medtutor.phantom import abdomen; c = abdomen.cohort(3, 32, 13, phases=True); "
            "print(hashlib.sha256(c.image.numpy().tobytes() + c.mask.numpy().tobytes()).hexdigest())")
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    c = abdomen.cohort(3, 32, 13, phases=True)
    assert hashlib.sha256(c.image.numpy().tobytes() + c.mask.numpy().tobytes()).hexdigest() == there


@pytest.mark.parametrize(("options", "match"), [
    ({"modality": "pet"}, "modality must be"), ({"level": "knee"}, "level must be"), ({"fov": "trunk"}, "fov must be"),
    ({"prevalence": {"gallstone": 0.5}}, "choose from"), ({"phases": True, "modality": "mr"}, "phases are"),
    ({"lesions": (3, 2)}, "lesions must be"), ({"lesions": (1, 9)}, "lesions must be"), ({"twin": 0.5}, "twin_kidneys"),
    ({"twin_kidneys": True, "lesions": (1, 2)}, "no `lesions`"),
    ({"twin_kidneys": True, "prevalence": {"liver cyst": 0.5}}, "choose from liver tumour, kidney tumour")])
def test_bad_input_says_what_to_do(options, match):
    with pytest.raises(ValueError, match=match):
        abdomen.cohort(2, 16, **options)


@pytest.mark.parametrize("kind", ["slice", "volume"])
def test_only_lesions_that_are_seen_are_described(kind):
    c = abdomen.cohort(60, 40, 3, kind=kind, level=10.0 if kind == "slice" else None, lesions=(1, 3))
    seen = c.meta["lesion_mask"].flatten(2).any(2)
    assert torch.equal(seen, (c.meta["attribute"] >= 0).any(2))
    assert seen.any()
    assert not seen.all()


def test_reports_name_the_examination():
    for options, words in (({}, "CT"), ({"modality": "mr"}, "MR"), ({"modality": "mr-t1"}, "T1"),
                           ({"modality": "mr", "kind": "volume"}, "MR"), ({"phases": True}, "hase")):
        reports = written(abdomen.cohort(6, 16, 1, **options), style="prose").report
        assert all(words in report for report in reports), (options, reports[0])
