"""Endoscopic video: a rigid world seen by a moving camera, what hides what, determinism."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from medtutor.phantom import endoscopy
from medtutor.phantom.texture import boxes, unit_grid

ALL = {"polyp": 1.0, "instrument": 1.0, "bleeding": 1.0}


def rays(size):
    """Directions (3, size, size) of the pixels in the camera's coordinates, by the law of the lens."""
    x, y = unit_grid(size)
    angle, turn = torch.hypot(x, y) * endoscopy.LENS, torch.atan2(y, x)
    return torch.stack([angle.sin() * turn.cos(), angle.sin() * turn.sin(), angle.cos()]).float()


def in_field(c):
    return c.image.amax(1) > 0.02


def test_fields_and_ranges():
    c = endoscopy.cohort(3, 32, 0, frames=5)
    assert c.image.shape == (15, 3, 32, 32)
    assert c.image.dtype == torch.float32
    assert c.image.isfinite().all()
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert c.mask.shape == (15, 32, 32)
    assert c.mask.dtype == torch.int64
    assert c.label.shape == (15, len(c.names["label"]))
    assert c.patient.tolist() == [i for i in range(3) for _ in range(5)]
    assert c.visit.tolist() == list(range(5)) * 3
    assert torch.allclose(c.meta["time"], c.visit / endoscopy.RATE)
    assert (c.meta["depth"] > 0).all()


def test_a_video_depends_neither_on_the_cohort_nor_on_its_length():
    few, many = endoscopy.cohort(2, 32, 3, frames=4), endoscopy.cohort(5, 32, 3, frames=7)
    same = many[(many.patient < 2) & (many.visit < 4)]
    for key, column in few.columns().items():
        assert torch.allclose(column.float(), same.columns()[key].float(), atol=1e-4, equal_nan=True), key
    assert not torch.allclose(endoscopy.cohort(2, 32, 4, frames=4).image, few.image, atol=0.05)


def test_another_process_draws_the_same():
    code = ("from hashlib import md5; from medtutor.phantom import endoscopy; c = endoscopy.cohort(2, 24, 1, frames=3)"
            "; text = md5(c.mask.numpy().tobytes() + (c.image * 15).round().byte().numpy().tobytes()).hexdigest()")
    there = subprocess.run([sys.executable, "-c", code + "; print(text)"], capture_output=True, text=True, check=True)
    exec(code, here := {})
    assert there.stdout.strip() == here["text"]


def test_sizes_show_the_same_video():
    large, small = (endoscopy.cohort(6, size, 5, 2, ALL, noisy=False) for size in (96, 48))
    scaled = F.interpolate(large.image, size=(48, 48), mode="area")
    assert (scaled - small.image).abs().mean() < 0.02
    assert torch.equal(large.label, small.label)
    shares = [torch.stack([(c.mask == k).float().mean((1, 2)) for k in (1, 2)]) for c in (large, small)]
    assert torch.allclose(*shares, atol=0.012)
    assert torch.allclose(large.meta["visible"], small.meta["visible"], atol=0.25)


def test_masks_boxes_and_labels_agree():
    c = endoscopy.cohort(16, 48, 6, frames=3, prevalence={"polyp": 0.5, "instrument": 0.5})
    layers = torch.stack([c.mask == 1, c.mask == 2], 1)
    assert torch.equal(c.box.nan_to_num(-1), boxes(layers).nan_to_num(-1))
    for k in (0, 1):
        assert 0 < c.label[:, k].mean() < 1
        assert not layers[c.label[:, k] == 0, k].any()
    assert (c.label[:, 0].view(16, 3).std(1) == 0).all()
    assert layers[c.label[:, 1] == 1, 1].flatten(1).any(1).float().mean() > 0.8
    assert not (layers.any(1) & ~F.max_pool2d(in_field(c)[:, None].float(), 3, 1, 1)[:, 0].bool()).any()


def test_what_hides_the_polyp():
    free = endoscopy.cohort(24, 48, 7, 1, {"polyp": 1.0, "instrument": 0.0}, noisy=False)
    held = endoscopy.cohort(24, 48, 7, 1, {"polyp": 1.0, "instrument": 1.0}, noisy=False)
    seen = free.meta["visible"]
    assert ((seen >= 0) & (seen <= 1)).all()
    assert torch.equal(seen == 0, ~(free.mask == 1).flatten(1).any(1))
    assert (seen > 0).float().mean() > 0.6
    assert (held.meta["visible"] <= seen + 1e-6).all()
    before, after = ((c.mask == 1).sum((1, 2)) for c in (free, held))
    hidden = (seen > 0) & (after < before)
    assert hidden.any()
    assert torch.allclose((held.meta["visible"] / seen)[hidden], (after / before)[hidden], atol=1e-4)
    assert not ((held.mask == 1) & (free.mask != 1)).any()


def test_tissue_is_rigid():
    """A point of the tissue, carried to the next frame by the camera's motion, lies there at the depth drawn there."""
    c = endoscopy.cohort(5, 64, 8, 2, {"instrument": 0.0}, noisy=False)
    now, then = c[c.visit == 0], c[c.visit == 1]
    ray = rays(64).flatten(1)
    point = now.meta["eye"][..., None] + now.meta["turn"] @ (ray * now.meta["depth"].flatten(1)[:, None])
    seen = then.meta["turn"].mT @ (point - then.meta["eye"][..., None])
    away = seen.norm(dim=1)
    angle = torch.acos(seen[:, 2:] / away[:, None]) / endoscopy.LENS
    x, y = (seen[:, :2] / seen[:, :2].norm(dim=1, keepdim=True) * angle).unbind(1)
    shown = F.grid_sample(then.meta["depth"][:, None], torch.stack([x, y], -1)[:, None], mode="nearest",
                          align_corners=False)[:, 0, 0]
    inside = (torch.maximum(x.abs(), y.abs()) < 0.95) & in_field(now).flatten(1)
    assert ((shown / away - 1).abs() < 0.06)[inside].float().mean() > 0.9
    still = now.meta["depth"].flatten(1)
    assert ((still / shown - 1).abs() < 1e-4)[inside].float().mean() < 0.2


def test_speed_scales_the_motion():
    slow, fast = endoscopy.cohort(3, 24, 9, frames=5), endoscopy.cohort(3, 24, 9, frames=3, speed=2.0)
    for key in ("eye", "turn"):
        assert torch.allclose(slow.meta[key][slow.visit % 2 == 0], fast.meta[key], atol=1e-6)
    frozen = endoscopy.cohort(3, 24, 9, frames=3, speed=0.0)
    assert torch.equal(frozen.mask[frozen.visit == 0], frozen.mask[frozen.visit == 2])
    steps = (slow.meta["eye"].view(3, 5, 3).diff(dim=1)).norm(dim=-1)
    assert (steps > 0).all()
    assert (steps < 0.15).all()


def test_blood_is_red_and_polyps_differ_from_the_wall():
    calm = endoscopy.cohort(12, 48, 10, 1, {"polyp": 1.0, "instrument": 0.0, "bleeding": 0.0}, noisy=False)
    bled = endoscopy.cohort(12, 48, 10, 1, {"polyp": 1.0, "instrument": 0.0, "bleeding": 1.0}, noisy=False)
    on = bled.label[:, 2] > 0
    assert 0 < on.float().mean() <= 1
    assert torch.equal(calm.image[~on], bled.image[~on])
    loss = (calm.image - bled.image)[on].flatten(2).amax(2)
    assert (loss[:, 1] > 0.02).float().mean() > 0.6
    bare = endoscopy.cohort(12, 48, 10, 1, {"polyp": 0.0, "instrument": 0.0, "bleeding": 0.0}, noisy=False)
    changed = (calm.image - bare.image).abs().amax(1)
    assert changed[calm.mask == 1].mean() > 3 * changed[calm.mask != 1].mean()


def test_the_lumen_is_dark_and_the_wall_is_pink():
    c = endoscopy.cohort(8, 48, 11, 1, {"instrument": 0.0, "bleeding": 0.0})
    red, green, blue = c.image.unbind(1)
    near = in_field(c) & (c.meta["depth"] < 1.5)
    deep = in_field(c) & (c.meta["depth"] > 4)
    assert red[near].mean() > 0.5
    assert red[near].mean() > 1.4 * green[near].mean()
    assert (green >= blue - 0.15)[near].float().mean() > 0.9
    assert c.image.mean(1)[deep].mean() < 0.2


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="choose from polyp, instrument, bleeding"):
        endoscopy.cohort(2, 16, prevalence={"ulcer": 1.0})
    with pytest.raises(ValueError, match="frames of 1 or more"):
        endoscopy.cohort(2, 16, frames=0)
