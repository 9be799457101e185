"""The gallery: one sheet of samples per modality, and cohorts by the text of a call."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medtutor.data import find
from medtutor.phantom import gallery, wound

IMAGES = Path(__file__).parents[1] / "book" / "images"
MODALITIES = gallery.modalities()
CALLS = [(name, call) for name, entry in MODALITIES.items() for call in entry["calls"]]


def digest():
    """A hash of every column of two small cohorts of each modality."""
    seen = sha256()
    for name, call in CALLS:
        for key, column in gallery.made(call, 2, 32, 5).columns().items():
            content = column.contiguous().numpy().tobytes() if isinstance(column, Tensor) else repr(column).encode()
            seen.update(f"{name}/{key}".encode() + content)
    return seen.hexdigest()


def test_another_process_draws_the_same_patients():
    code = "import test_phantom_gallery; print(test_phantom_gallery.digest())"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True,
                          check=True)
    assert done.stdout.split()[-1] == digest()


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[call for _, call in CALLS])
def test_a_patient_depends_on_the_seed_and_its_number_only(name, call):
    few, many, other = (gallery.made(call, n, 32, seed) for n, seed in ((2, 3), (4, 3), (2, 4)))
    for key, column in few.columns().items():
        first = many.columns()[key][:len(few)]
        if isinstance(column, Tensor):
            column, first = column.nan_to_num(-9).tolist(), first.nan_to_num(-9).tolist()
        assert column == first, f"{name}: {key} of the first patients changes with the number of patients"
    assert not torch.equal(few.image, other.image)


@pytest.mark.parametrize("name", MODALITIES)
def test_gallery_sheets(name):
    sheet = gallery.sheet(name, n=4, size=32)
    assert sheet.dtype == np.uint8
    assert sheet.shape in ((4, 32, 32, 3), (4, 32, 32))
    assert sheet.std() > 20
    assert len({row.tobytes() for row in sheet}) == 4


@pytest.mark.parametrize("name", [name for name, entry in MODALITIES.items() if "real" in entry])
def test_real_pictures_are_there_and_may_be_shown(name):
    dataset, sizes = find(MODALITIES[name]["real"]["data"]), MODALITIES[name]["real"].get("sizes")
    assert (IMAGES / f"real-{name}.{'png' if sizes else 'jpg'}").stat().st_size > 1000
    assert sizes or not dataset.non_commercial, f"{dataset.name} may not be shown: {dataset.licence}"


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
