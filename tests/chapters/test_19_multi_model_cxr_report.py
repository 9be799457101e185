"""Result codes (Muharram et al. 2023): the chapter's definitions.

The docstring of each test says which removal of the idea it detects.
"""

from itertools import product

import pytest
import torch
from torch import nn

from medtutor.cohort import Cohort

CODES = list(product((0, 1), repeat=3))


@pytest.fixture
def model(ch):
    return ch.ResultCode().eval()


def test_report_is_a_bijection(ch):
    """Detects sentences that two codes share, and sentences that say something else than their bit."""
    assert len({ch.report_of(code) for code in CODES}) == 8
    assert all(ch.code_of(ch.report_of(code)) == code for code in CODES)


def test_a_report_states_each_finding_once(ch):
    """Detects a bit that is left out where it is zero: absence must be said."""
    for code in CODES:
        facts = ch.read(ch.report_of(code))
        assert sorted(f.finding for f in facts) == sorted(ch.NAMED)
        assert all((f.presence == "present") == bool(code[ch.NAMED.index(f.finding)]) for f in facts)


@pytest.mark.parametrize("height", [64, 63, 65, 128])
def test_bands_tile_the_film(ch, height):
    """Detects gaps or overlap between the bands."""
    rows = [row for band in ch.cut(height) for row in range(height)[band]]
    assert rows == list(range(height))
    sizes = [band.stop - band.start for band in ch.cut(height)]
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize("name", ["cardiomegaly", "consolidation", "effusion"])
def test_a_bit_depends_on_its_bands_and_on_nothing_else(ch, model, name):
    """Detects a network that sees the whole film, or the wrong rows."""
    image, k = torch.randn(2, 1, 64, 64), ch.NAMED.index(name)
    for band, rows in enumerate(ch.cut(64)):
        poked = image.clone()
        poked[:, :, rows] = torch.randn_like(poked[:, :, rows])
        moved = (model(poked)[:, k] != model(image)[:, k]).any()
        assert bool(moved) == (band in ch.BANDS[name])


def test_models_share_nothing(ch):
    """Detects shared weights: the gradient of one bit must leave the other networks alone."""
    model = ch.ResultCode()
    model(torch.randn(4, 1, 64, 64))[:, 1].sum().backward()
    touched = {name for name in ch.NAMED if any(
        p.grad is not None and p.grad.abs().sum() > 0 for p in model.models[name].parameters())}
    assert touched == {ch.NAMED[1]}


def test_balanced_loss_weighs_both_answers_alike(ch):
    """Detects a loss without balancing: with three positives in four, a constant is best at probability one half."""
    label = torch.tensor([[1, 1, 1]] * 3 + [[0, 0, 0]])
    batch = Cohort(image=torch.zeros(4, 1, 64, 64), label=label)
    bias = torch.zeros(3, requires_grad=True)

    class Constant(nn.Module):
        def forward(self, image):
            return bias.expand(len(image), 3)

    ch.code_loss(Constant(), batch).backward()
    assert torch.allclose(bias.grad, torch.zeros(3), atol=1e-7)


def test_one_network_is_as_large_as_three(ch):
    """Detects an unequal comparison."""
    three, one = (sum(p.numel() for p in m.parameters()) for m in (ch.ResultCode(), ch.small_cnn(3, 21)))
    assert abs(three - one) / three < 0.1


def test_confounding_is_in_the_ward_only(ch, monkeypatch):
    """Detects findings that are not correlated where they should be, or are where they should not."""
    monkeypatch.setitem(ch.triple_cohort.__globals__, "draw_films", lambda present, seed: Cohort(
        image=torch.zeros(len(present["effusion"]), 1, 1, 1)))
    for together, expected in ((0.7, 0.49), (0.0, 0.0)):
        label = ch.triple_cohort(4000, 1, together).label.double()
        assert torch.corrcoef(label.T)[0, 2] == pytest.approx(expected, abs=0.06)
        assert label.mean() == pytest.approx(0.4, abs=0.04)
