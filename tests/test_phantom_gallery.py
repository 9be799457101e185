"""The gallery: one sheet of samples per modality, and cohorts by the text of a call."""

import numpy as np
import pytest
import torch

from medtutor.phantom import gallery, wound

MODALITIES = gallery.modalities()


@pytest.mark.parametrize("name", MODALITIES)
def test_gallery_sheets(name):
    sheet = gallery.sheet(name, n=4, size=32)
    assert sheet.dtype == np.uint8
    assert sheet.shape in ((4, 32, 32, 3), (4, 32, 32))
    assert sheet.std() > 20
    assert len({row.tobytes() for row in sheet}) == 4


@pytest.mark.parametrize("name", MODALITIES)
def test_every_modality_says_what_it_is_and_is_not(name):
    for key in ("description", "unrealistic", "stands_for"):
        assert MODALITIES[name][key].endswith(".")


def test_several_calls_share_the_cases():
    both = gallery.sheet("wound", n=5, size=32)
    fresh, ulcer = wound.cohort(3, 32, domain="fresh").image, wound.cohort(2, 32, domain="ulcer").image
    assert np.array_equal(both, torch.cat([fresh, ulcer]).mul(255).round().byte().movedim(1, -1).numpy())


def test_a_call_is_made_with_its_numbers():
    made = gallery.made("written(thorax.cohort(n, size, seed, prevalence={'effusion': 1.0}))", 2, 32, 7)
    assert made.image.shape == (2, 1, 32, 32)
    assert "effusion" in made.report[0]


def test_an_unknown_modality_says_which_there_are():
    with pytest.raises(ValueError, match="choose from thorax-xray"):
        gallery.sheet("spect")
