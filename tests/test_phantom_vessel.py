"""Profiles along a vessel: the count can be recomputed from the lesions, and the lesions from the signal."""

import subprocess
import sys

import pytest
import torch

from medtutor.phantom import vessel


def test_the_label_counts_stenoses_beyond_the_last_calcification():
    c = vessel.cohort(200)
    assert c.meta["signal"].shape == (200, 1, 512)
    assert c.meta["signal"].dtype == torch.float32
    for case in range(200):
        stenosis, calcium = (c.meta[key][case] for key in ("stenosis", "calcification"))
        last = calcium[calcium.isfinite()].max()
        assert int(c.label[case]) == int((stenosis > last).sum())
    assert set(c.label.tolist()) == set(range(7))
    assert c.meta["calcification"].isfinite().sum(1).unique().tolist() == [1, 2, 3]


def test_lesions_can_be_seen_in_the_signal():
    c = vessel.cohort(100, seed=1, noisy=False)
    signal = c.meta["signal"][:, 0]
    for case in range(100):
        usual = signal[case].median()
        for key, low, high in (("stenosis", 0, 0.8), ("calcification", 1.5, 6)):
            place = c.meta[key][case]
            value = signal[case, place[place.isfinite()].round().long()] / usual
            assert ((value > low) & (value < high)).all()
        found = ((signal[case] > 1.6 * usual).float().diff() > 0).sum()
        assert found == c.meta["calcification"][case].isfinite().sum()
    assert 5 < (vessel.cohort(100, seed=1).meta["signal"][:, 0] - signal).std() < 30


def test_lengths_have_more_places_and_the_order_is_free():
    c = vessel.cohort(50, length=1024)
    assert c.meta["signal"].shape == (50, 1, 1024)
    assert c.meta["stenosis"].shape == (50, 32)
    assert c.meta["stenosis"].nan_to_num().max() > 700
    before = vessel.cohort(300).meta
    assert (before["stenosis"].nan_to_num() > 0).any(0).all()


def test_the_same_patients_in_another_process_and_a_larger_cohort():
    few, many = vessel.cohort(4), vessel.cohort(9)
    assert torch.allclose(few.meta["signal"], many.meta["signal"][:4], atol=1e-3)
    assert torch.equal(few.label, many.label[:4])
    code = "from medtutor.phantom import vessel; print(float(vessel.cohort(9).meta['signal'].double().sum()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(float(many.meta["signal"].double().sum()), abs=1.0)


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="length must be 320 or more"):
        vessel.cohort(2, length=100)
