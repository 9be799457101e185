"""Scenes: attributes that are drawn as they are said, held-out types, and cues that decide from afar."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from medtutor.cohort import Cohort
from medtutor.phantom import scenes, thorax
from medtutor.phantom.texture import boxes

OPTIONS = ({}, {"near": True, "ground": "plain"}, {"ground": "ct"}, {"task": "shapes"}, {"task": "arrow"},
           {"task": "cue", "late": 0.5}, {"task": "match"})
PLAIN = {"ground": "plain", "noisy": False}


def of(c, name):
    """Values (n, 4) of an attribute."""
    return c.meta["attribute"][..., c.names["attribute"].index(name)]


def middle(mask):
    """Centres (n, 2) in pixels, as x and y, of masks (n, H, W)."""
    axis, mask = torch.arange(mask.shape[-1]) + 0.5, mask.float()
    return torch.stack([(mask.sum(1) * axis).sum(1), (mask.sum(2) * axis).sum(1)], 1) / mask.sum((1, 2))[:, None]


@pytest.mark.parametrize("options", OPTIONS)
def test_fields_ranges_and_first_rows(options):
    few, many = scenes.cohort(3, 32, 1, **options), scenes.cohort(8, 32, 1, **options)
    assert few.image.shape == (3, few.image.shape[1], 32, 32)
    assert few.image.dtype == torch.float32
    assert few.image.isfinite().all()
    assert few.image.min() >= 0
    assert few.image.max() <= 1
    assert few.mask.dtype == torch.int64
    assert many.mask.flatten(1).any(1).all()
    for key, column in few.columns().items():
        other = many[:3].columns()[key]
        assert torch.allclose(column.float(), other.float(), atol=1e-4, equal_nan=True) if isinstance(
            column, torch.Tensor) else column == other, key
    assert not torch.allclose(scenes.cohort(3, 32, 2, **options).image, few.image, atol=0.05)


def test_another_process_draws_the_same():
    code = ("from hashlib import md5; from medtutor.phantom import scenes; c = scenes.cohort(3, 32, 1, ground='clouds')"
            "; text = md5(c.meta['lesion_mask'].numpy().tobytes()).hexdigest() + str(c.report)")
    there = subprocess.run([sys.executable, "-c", code + "; print(text)"], capture_output=True, text=True, check=True)
    exec(code, here := {})
    assert "lesion in the" in here["text"]
    assert there.stdout.strip() == here["text"]


@pytest.mark.parametrize("task", scenes.WORDS)
def test_boxes_masks_labels_and_words_agree(task):
    c = scenes.cohort(40, 48, 3, task=task, count=(0, 4), ground="plain")
    masks, there = c.meta["lesion_mask"], (c.meta["attribute"] >= 0).all(-1)
    assert torch.equal(c.box.nan_to_num(-1), boxes(masks).nan_to_num(-1))
    assert torch.equal(masks.flatten(2).any(2), there)
    assert set(there.sum(1).tolist()) == {0, 1, 2, 3, 4}
    for i in range(40):
        target, values = int(c.meta["target"][i]), c.meta["attribute"][i][there[i]]
        assert (target >= 0) == bool(there[i].any())
        assert torch.equal(c.mask[i].bool(), masks[i, target] if target >= 0 else torch.zeros(48, 48).bool())
        assert c.report[i] == ". ".join(scenes.phrase(v, task) for v in values)
        assert c.meta["phrase"][i] == (scenes.phrase(c.meta["attribute"][i, target], task) if target >= 0 else "")
        for value, name in zip(values[0] if len(values) else (), c.names["attribute"], strict=False):
            assert c.names[f"attribute_{name}"][value] in c.report[i]
        assert c.label[i].nonzero()[:, 0].tolist() == sorted(set(c.meta["type"][i][there[i]].tolist()))
        cells = (values[:, 4] * 2 + values[:, 5]).tolist()
        assert sorted(set(cells)) == cells


def test_lesions_lie_in_the_zone_and_side_that_is_said():
    c = scenes.cohort(30, 64, 4, noisy=False)
    film = thorax.cohort(30, 64, 4, prevalence=dict.fromkeys(thorax.FINDINGS, 0.0), noisy=False)
    lungs, there = film.mask[:, :2], of(c, "side") >= 0
    x, y = middle(c.meta["lesion_mask"].flatten(0, 1)).view(30, 4, 2).unbind(-1)
    for i, k in there.nonzero().tolist():
        side = int(of(c, "side")[i, k])
        row, column = int(y[i, k]), int(x[i, k])
        assert lungs[i, side, max(row - 3, 0):row + 4, max(column - 3, 0):column + 4].any()
        assert not lungs[i, 1 - side, row, column]
    for side in (0, 1):
        heights = [y[there & (of(c, "side") == side) & (of(c, "zone") == zone)] for zone in range(3)]
        assert heights[0].mean() + 5 < heights[1].mean() < heights[2].mean() - 5


def test_nothing_is_drawn_but_the_lesions_and_density_and_size_show():
    c, bare = scenes.cohort(60, 64, 5, **PLAIN), scenes.cohort(60, 64, 5, count=(0, 0), **PLAIN)
    changed = (c.image - bare.image)[:, 0].abs() > 0.03
    near = F.max_pool2d(c.meta["lesion_mask"].any(1, keepdim=True).float(), 9, 1, 4)[:, 0] > 0
    assert not (changed & ~near).any()
    assert bare.meta["target"].eq(-1).all()
    masks, there = c.meta["lesion_mask"], of(c, "size") >= 0
    gain = ((c.image - bare.image) * masks).sum((2, 3)) / masks.sum((2, 3)).clamp(min=1)
    solid = there & (of(c, "texture") == 0)
    strength = [gain[solid & (of(c, "density") == k)].mean() for k in range(3)]
    assert strength[0] * 1.4 < strength[1] < strength[2] / 1.4
    areas = [masks.sum((2, 3))[there & (of(c, "size") == k)].float() for k in range(3)]
    assert areas[0].mean() * 1.5 < areas[1].mean() < areas[2].mean() / 1.5
    hollow = there & (of(c, "texture") == 2) & (of(c, "size") == 2)
    x, y = middle(masks.flatten(0, 1)).view(60, 4, 2).long().unbind(-1)
    i, k = hollow.nonzero(as_tuple=True)
    inside = (c.image - bare.image)[i, 0, y[i, k], x[i, k]]
    assert (inside < 0.6 * gain[i, k]).float().mean() > 0.9


def test_shapes_and_colours_are_what_they_are_called():
    types = scenes.kinds("shapes", shape=range(6), colour=range(6), texture=(0,), size=(2,))
    c = scenes.cohort(80, 64, 6, "shapes", types=types, count=(1, 1), **PLAIN)
    i = torch.arange(80)
    x, y = middle(c.mask).long().unbind(1)
    colour = scenes.COLOURS[of(c, "colour")[i, c.meta["target"]]]
    assert (c.image[i, :, y, x] - colour).abs().max() < 0.06
    box, shape = c.box[i, c.meta["target"]], of(c, "shape")[i, c.meta["target"]]
    fill = c.mask.sum((1, 2)) / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))
    mean = [fill[shape == k].mean() for k in range(6)]
    assert mean[0] == pytest.approx(math.pi / 4, abs=0.06)
    assert mean[5] < mean[4] < mean[0]


def test_types_hold_out_combinations():
    every = scenes.kinds(shape=range(3), density=(0, 2), zone=(0, 2))
    assert len(every) == 12
    seen = scenes.cohort(60, 32, 7, types=every[:8], ground="plain", count=(2, 3))
    values = seen.meta["attribute"][seen.meta["type"] >= 0]
    kind = every[seen.meta["type"][seen.meta["type"] >= 0]]
    assert ((values == kind) | (kind < 0)).all()
    assert set(values[:, 4].tolist()) == {0, 2}
    assert {tuple(v[[0, 1, 4]].tolist()) for v in values} == {tuple(v[[0, 1, 4]].tolist()) for v in every[:8]}
    target = seen.meta["type"][torch.arange(60), seen.meta["target"]]
    assert ((seen.meta["type"] == target[:, None]).sum(1) == 1).all()
    assert seen.names["label"] == tuple(map(scenes.opaque, every[:8]))
    for task in scenes.WORDS:
        full = scenes.kinds(task, **{name: range(-1, len(words)) for name, words in scenes.WORDS[task].items()})
        assert len({scenes.opaque(kind) for kind in full}) == len(full)


def test_near_distractors_differ_in_one_attribute_and_the_side_can_be_biased():
    c = scenes.cohort(200, 16, 8, near=True, right=0.85, ground="plain", count=(4, 4))
    row = torch.arange(200)
    visual = c.meta["attribute"][..., :4]
    unlike = (visual != visual[row, c.meta["target"]][:, None]).sum(-1)
    assert torch.equal(unlike.sum(1), torch.full((200,), 3))
    assert torch.equal(unlike[row, c.meta["target"]], torch.zeros(200).long())
    assert of(c, "side")[row, c.meta["target"]].eq(0).float().mean() == pytest.approx(0.85, abs=0.08)
    far = scenes.cohort(200, 16, 8, ground="plain", count=(4, 4))
    assert of(far, "side")[row, far.meta["target"]].eq(0).float().mean() == pytest.approx(0.5, abs=0.12)
    assert len(set(c.meta["target"].tolist())) == 4


def test_the_arrow_points_at_the_target():
    c = scenes.cohort(48, 48, 9, "arrow", noisy=False)
    way = middle(c.mask) - middle(c.image[:, 0] > 0.88)
    angle = torch.atan2(way[:, 1], way[:, 0]) / (math.pi / 4)
    assert ((angle - c.meta["direction"] + 4) % 8 - 4).abs().max() < 0.2
    assert torch.allclose(way.norm(dim=1), torch.full((48,), 0.55 * 24), atol=1.6)
    assert set(c.meta["direction"].tolist()) == set(range(8))
    assert set(c.label.tolist()) == {0, 1, 2, 3}
    area = [c.mask[c.label == k].sum((1, 2)).float().mean() for k in range(4)]
    assert area[2] < area[1] < area[0]
    assert len(c.names["label"]) == 4


def test_the_cue_is_far_and_decides():
    c = scenes.cohort(60, 96, 10, "cue", late=0.5, noisy=False)
    bare = thorax.cohort(60, 96, 10, prevalence=dict.fromkeys(thorax.FINDINGS, 0.0), noisy=False)
    changed, late = (c.image - bare.image).abs()[:, 0] > 0.04, c.meta["late"]
    upright = torch.where(late[:, None, None], changed.flip(1), changed)
    mask = torch.where(late[:, None, None], c.mask.flip(1), c.mask)
    cue, lines = upright[:, :12], mask.any(2).int().argmax(1)
    assert cue.flatten(1).any(1).all()
    assert (lines - (cue.any(2) * torch.arange(12)).amax(1) > 60).all()
    assert not upright[:, 12:70].any()
    assert 0 < late.float().mean() < 1
    right = middle(c.mask)[:, 0] > 48
    assert torch.equal(right, c.meta["target"] == 1)
    lit = torch.where(late[:, None], (c.image - bare.image).abs()[:, 0, -4], (c.image - bare.image).abs()[:, 0, 3])
    shaft = (lit * torch.arange(96)).sum(1) / lit.sum(1)
    last, first = (cue.any(1) * torch.arange(96)).amax(1), torch.where(cue.any(1), torch.arange(96), 99).amin(1)
    hook = last - shaft > shaft - first
    assert (hook == right).float().mean() > 0.95
    tubes = upright[:, 70:].float().sum(1)
    balance = tubes[:, :48].sum(1) / tubes.sum(1)
    assert balance.mean() == pytest.approx(0.5, abs=0.1)


def test_only_the_hue_of_the_dot_tells_the_lesions_apart():
    c = scenes.cohort(40, 64, 11, "match", noisy=False)
    row, hues = torch.arange(40), torch.tensor([*scenes.HUES.values()])

    def hue(colour):
        shade = colour / colour.norm(dim=1, keepdim=True)
        return torch.cdist(shade, hues / hues.norm(dim=1, keepdim=True)).argmin(1)

    wanted = c.meta["hue"][row, c.meta["target"]]
    assert torch.equal(hue(c.image[:, :, 4:7, 4:7].mean((2, 3))), wanted)
    inside = (c.image * c.mask[:, None]).sum((2, 3)) / c.mask.sum((1, 2))[:, None]
    assert (hue(inside) == wanted).float().mean() > 0.9
    assert (c.meta["hue"][:, 0] != c.meta["hue"][:, 1]).all()
    assert torch.equal(middle(c.mask)[:, 0] > 32, c.meta["target"] == 1)
    assert 0.3 < c.meta["target"].float().mean() < 0.7


@pytest.mark.parametrize("options", OPTIONS)
def test_sizes_show_the_same_scene(options):
    large, small = (scenes.cohort(6, size, 12, noisy=False, **options) for size in (96, 48))
    share = [c.mask.float().mean((1, 2)) for c in (large, small)]
    assert torch.allclose(*share, atol=0.006)
    assert torch.allclose(middle(large.mask) / 2, middle(small.mask), atol=1.2)
    assert large.report == small.report


def test_a_cohort_of_scenes_survives_saving(tmp_path):
    c = scenes.cohort(3, 16, 13, ground="plain")
    c.save(tmp_path / "scenes.npz")
    back = Cohort.load(tmp_path / "scenes.npz")
    assert back.meta["phrase"] == c.meta["phrase"]
    assert torch.equal(back.meta["attribute"], c.meta["attribute"])


def test_bad_input_says_what_to_do():
    for bad, text in (({"task": "maze"}, "a task of lesions, shapes, arrow"), ({"ground": "sea"}, "a ground of xray"),
                      ({"count": (2, 5)}, "count"), ({"types": torch.tensor([[0, 9, 0, 0, 0, 0]])}, "rows of 6")):
        with pytest.raises(ValueError, match=text):
            scenes.cohort(2, 16, **bad)
    with pytest.raises(ValueError, match="too few places for 3 objects"):
        scenes.cohort(2, 16, types=scenes.kinds(zone=(0,)), count=(1, 3))
    assert len(scenes.cohort(2, 16, types=scenes.kinds(zone=(0,)), count=(1, 2))) == 2
    with pytest.raises(ValueError, match="shapes and its attributes"):
        scenes.kinds("circles")
