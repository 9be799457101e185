"""Wound photographs: areas through the sticker, tissues, words, domains, determinism."""

import pytest
import torch
import torch.nn.functional as F

from medtutor.phantom import wound


def dice(a, b):
    return 2 * (a & b).sum((1, 2)) / (a.sum((1, 2)) + b.sum((1, 2))).clamp(min=1)


@pytest.mark.parametrize("domain", wound.DOMAINS)
def test_fields_and_ranges(domain):
    c = wound.cohort(12, 64, 0, domain)
    assert c.image.shape == (12, 3, 64, 64)
    assert c.image.dtype == torch.float32
    assert c.image.isfinite().all()
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert c.mask.shape == (12, 64, 64)
    assert c.mask.flatten(1).any(1).all()
    assert set(c.mask.unique().tolist()) == {0, 1}
    assert 0.02 < c.mask.float().mean() < 0.4


def in_the_plane(corners, size):
    """Square centimetres a pixel (size, size), from where the corners (4, 2) of a square of 1 cm are seen."""
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]).double() * wound.MARKER_CM
    rows = [row for (x, y), (u, v) in zip(corners.double(), square, strict=True)
            for row in ([x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y])]
    solved = torch.linalg.solve(torch.tensor(rows).double(), square.flatten())
    h = torch.cat([solved, torch.ones(1).double()]).view(3, 3)
    y, x = torch.meshgrid(*[torch.arange(size).double()] * 2, indexing="ij")
    return torch.linalg.det(h).abs() / (h[2, 0] * x + h[2, 1] * y + 1).abs() ** 3


@pytest.mark.parametrize("domain", wound.DOMAINS)
def test_area_from_pixels_and_from_the_sticker(domain):
    c = wound.cohort(20, 128, 1, domain)
    scale = torch.stack([in_the_plane(corners, 128) for corners in c.landmark])
    assert torch.allclose((c.mask * scale).sum((1, 2)).float(), c.meta["area_cm2"], rtol=0.05)
    assert torch.allclose(scale[:, 64, 64].sqrt().float(), c.meta["cm_per_pixel"], rtol=0.01)
    assert c.landmark.min() >= 0
    assert c.landmark.max() <= 127
    if domain != "clinic":  # there the camera looks straight down
        side = (c.landmark - c.landmark.roll(1, 1)).norm(dim=-1)
        assert torch.allclose(side * c.meta["cm_per_pixel"][:, None], torch.full((20, 4), wound.MARKER_CM), atol=1e-3)
    small = wound.cohort(20, 64, 1, domain)
    assert torch.allclose(small.meta["area_cm2"], c.meta["area_cm2"])
    assert torch.allclose(small.meta["cm_per_pixel"], 2 * c.meta["cm_per_pixel"])


@pytest.mark.parametrize("domain", wound.DOMAINS)
def test_labels_and_words_are_facts_at_every_size(domain):
    c, large = wound.cohort(30, 32, 5, domain), wound.cohort(30, 96, 5, domain)
    severity = torch.stack([c.meta[f"severity_{name}"] for name in c.names["label"]], 1)
    assert torch.equal(c.label, (severity > torch.tensor([*wound.LEAST.values()])).float())
    assert torch.allclose(severity[:, :3].sum(1), torch.ones(30), atol=1e-4)
    assert torch.equal(c.label, large.label)
    assert torch.equal(c.meta["attribute"], large.meta["attribute"])
    assert torch.equal(c.meta["lesion_mask"][:, 0], c.mask.bool())
    assert c.box.shape == (30, 1, 4)
    words = c.meta["attribute"][:, 0]
    for k, name in enumerate(c.names["attribute"]):
        assert words[:, k].min() >= 0
        assert words[:, k].max() < len(c.names[f"attribute_{name}"])
    assert torch.equal(words[:, 1], (c.meta["area_cm2"] > 3).long() + (c.meta["area_cm2"] > 8))
    middle = c.box[:, 0].view(30, 2, 2).mean(1) - 16
    clear = (middle.abs() > 2).all(1)
    assert clear.any() or domain != "clinic"  # elsewhere wounds are in the middle
    assert torch.equal(words[clear, 3], ((middle[:, 0] > 0) + 2 * (middle[:, 1] > 0))[clear])


def test_words_for_colours_are_seen():
    c = wound.cohort(120, 64, 6, "clinic", noisy=False)
    mean = torch.stack([(c.image * c.mask[:, None]).sum((2, 3)) / c.mask.sum((1, 2))[:, None]])[0]
    yellow, black, red = (mean[c.meta["attribute"][:, 0, 0] == k].mean(0) for k in range(3))
    assert yellow[1] > 1.5 * red[1]
    assert black[0] < 0.7 * red[0] < red[0]
    assert red[0] > 2 * red[1]


def test_a_clinic_is_more_than_skin():
    c, plain = (wound.cohort(60, 64, 7, domain, noisy=False) for domain in ("clinic", "fresh"))
    green = [((k.image[:, 1:].amax(1) > k.image[:, 0]) & ~k.mask.bool()).float().mean((1, 2)) for k in (c, plain)]
    assert (green[0] > 0.08).float().mean() > 0.3  # drapes; the sticker alone is smaller
    assert (green[1] > 0.08).float().mean() < 0.2
    inflamed = c.label[:, 3] > 0
    ring = [F.max_pool2d(c.mask[:, None].float(), 2 * k + 1, 1, k)[:, 0] > 0 for k in (2, 5)]
    around = (ring[1] & ~ring[0]).float()
    redness = ((c.image[:, 0] / (c.image[:, 1] + 0.05)) * around).sum((1, 2)) / around.sum((1, 2))
    assert redness[inflamed].mean() > 1.15 * redness[~inflamed].mean()


def test_the_sticker_is_blue_and_outside_the_wound():
    c = wound.cohort(20, 64, 2, "ulcer")
    centre = c.landmark.mean(1).round().long()
    rows = torch.arange(20)
    colour = c.image[rows, :, centre[:, 1], centre[:, 0]]
    assert (colour[:, 2] > colour[:, 0] + 0.15).all()
    assert c.mask[rows, centre[:, 1], centre[:, 0]].sum() == 0


def test_ulcers_defeat_a_colour_threshold():
    best = {}
    for domain in ("fresh", "ulcer"):
        c = wound.cohort(60, 48, 3, domain)
        redness = c.image[:, 0] - c.image[:, 1]
        best[domain] = max(dice(redness > t, c.mask.bool()).mean() for t in torch.linspace(0.1, 0.6, 20))
    assert best["fresh"] > 0.65
    assert best["ulcer"] < 0.55


@pytest.mark.parametrize("domain", wound.DOMAINS)
def test_a_patient_does_not_depend_on_the_cohort(domain):
    few, many = wound.cohort(4, 32, 4, domain), wound.cohort(12, 32, 4, domain)
    assert torch.allclose(few.image[3], many.image[3], atol=1e-4)
    assert torch.equal(few.mask[3], many.mask[3])
    assert not torch.allclose(few.image[0], few.image[1], atol=0.05)


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="domain must be one of fresh, ulcer, clinic"):
        wound.cohort(2, 16, domain="burn")
