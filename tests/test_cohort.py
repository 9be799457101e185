"""Cohort: the table of patients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from medtutor.cohort import Cohort


def made(n=6, patients=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Cohort(
        image=torch.rand(n, 1, 8, 8, generator=generator), mask=torch.randint(0, 3, (n, 8, 8), generator=generator),
        label=torch.arange(n), report=[f"report {i}: größer als 5 mm" for i in range(n)],
        patient=None if patients is None else torch.tensor(patients), meta={"sex": list("fm" * n)[:n],
                                                                            "age": torch.arange(n) + 40.0},
        names={"mask": ("background", "liver", "tumour")}, units={"image": "HU / 1000"})


def equal(a, b):
    first, second = a.columns(), b.columns()
    return list(first) == list(second) and a.names == b.names and a.units == b.units and all(
        torch.equal(x, second[k]) if torch.is_tensor(x) else x == second[k] for k, x in first.items())


@pytest.mark.parametrize("index", [slice(1, 4), slice(None, None, 2), [4, 0], torch.tensor([4, 0]),
                                   torch.arange(6) % 2 == 0])
def test_indexing_takes_the_same_rows_of_every_column(index):
    cohort = made()
    part = cohort[index]
    rows = torch.arange(6)[index]
    assert part.label.tolist() == rows.tolist() == part.patient.tolist()
    assert torch.equal(part.image, cohort.image[rows])
    assert part.report == [cohort.report[i] for i in rows]
    assert part.meta["sex"] == [cohort.meta["sex"][i] for i in rows]
    assert part.names == cohort.names


def test_an_integer_gives_one_case():
    case = made()[np.int64(3)]
    assert case["image"].shape == (1, 8, 8)
    assert (int(case["label"]), case["sex"], case["report"]) == (3, "m", "report 3: größer als 5 mm")


def test_it_serves_a_data_loader():
    batches = list(DataLoader(made(), batch_size=4))
    assert [tuple(b["image"].shape) for b in batches] == [(4, 1, 8, 8), (2, 1, 8, 8)]
    assert torch.cat([b["label"] for b in batches]).tolist() == list(range(6))


@given(patients=st.lists(st.integers(0, 9), min_size=3, max_size=40).filter(lambda p: len(set(p)) >= 3),
       fractions=st.sampled_from([(0.5, 0.5), (0.6, 0.2, 0.2), (0.34, 0.33), (1.0,)]), seed=st.integers(0, 5))
def test_split_never_shares_a_patient(patients, fractions, seed):
    cohort = Cohort(label=torch.arange(len(patients)), patient=torch.tensor(patients))
    parts = cohort.split(*fractions, seed=seed)
    seen = [set(part.patient.tolist()) for part in parts]
    assert all(not (a & b) for i, a in enumerate(seen) for b in seen[:i])
    cases = torch.cat([part.label for part in parts]).tolist()
    assert len(cases) == len(set(cases))
    if sum(fractions) == 1:
        assert sorted(cases) == list(range(len(patients)))
    for fraction, found in zip(fractions, seen, strict=True):
        assert abs(len(found) - fraction * len(set(patients))) <= 1
    again = cohort.split(*fractions, seed=seed)
    assert all(torch.equal(a.label, b.label) for a, b in zip(parts, again, strict=True))


def test_monai_transforms_take_the_dictionaries():
    transforms = pytest.importorskip("monai.transforms")
    cohort = made()
    pipeline = transforms.Compose([transforms.Flipd(keys=["image", "mask"], spatial_axis=0),
                                   transforms.ScaleIntensityd(keys="image", minv=0, maxv=1)])
    row = pipeline(cohort.monai()[2])
    assert row["image"].shape == row["mask"].shape == (1, 8, 8)
    assert torch.equal(torch.as_tensor(row["mask"])[0], cohort.mask[2].flip(0))
    assert (float(row["image"].min()), float(row["image"].max())) == (0.0, 1.0)


def test_monai_keeps_layers_and_volumes_channel_first():
    layers = Cohort(image=torch.zeros(2, 1, 8, 8), mask=torch.zeros(2, 3, 8, 8, dtype=torch.bool))
    assert layers.monai()[0]["mask"].shape == (3, 8, 8)
    volume = Cohort(volume=torch.zeros(2, 1, 4, 8, 8), mask=torch.zeros(2, 4, 8, 8, dtype=torch.long))
    assert volume.monai()[0]["mask"].shape == (1, 4, 8, 8)


def test_save_and_load_give_the_same_cohort(tmp_path):
    cohort = made(patients=[3, 3, 1, 1, 0, 0])
    cohort.save(tmp_path / "cohort.npz")
    assert equal(cohort, Cohort.load(tmp_path / "cohort.npz"))


@pytest.mark.parametrize("damage", ["truncated", "text", "pickle", "pickled array", "foreign", "empty"])
def test_a_damaged_or_foreign_file_is_refused_in_one_sentence(tmp_path, damage):
    path = tmp_path / "cohort.npz"
    made().save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:700])
    elif damage == "text":
        path.write_text("<html>404</html>")
    elif damage == "pickle":
        torch.save({"image": 1}, path)
    elif damage == "pickled array":
        np.savez(path, **{"field:image": np.array([Explosive()], dtype=object)})
    elif damage == "foreign":
        np.savez(path, image=np.zeros(3))
    else:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="is not a saved Cohort") as error:
        Cohort.load(path)
    assert "\n" not in str(error.value)
    assert not Explosive.went_off


class Explosive:
    went_off = False

    def __reduce__(self):
        return Explosive.explode, ()

    @staticmethod
    def explode():
        Explosive.went_off = True


def test_cat_keeps_patients_apart_and_splits_undo_it():
    a, b = made(patients=[0, 0, 1, 1, 2, 2]), made(patients=[0, 1, 2, 3, 4, 5], seed=1)
    both = Cohort.cat([a, b])
    assert len(both) == 12
    assert len(both.patient.unique()) == 9
    assert torch.equal(both[:6].image, a.image)
    assert both.report == a.report + b.report
    assert both.meta["sex"] == a.meta["sex"] + b.meta["sex"]
    with pytest.raises(ValueError, match="different fields"):
        Cohort.cat([a, Cohort(label=torch.arange(3))])


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: Cohort(), "at least one field"),
    (lambda: Cohort(image=torch.zeros(2, 1, 4, 4), label=torch.zeros(3)), "same number of cases"),
    (lambda: made().split(0.8, 0.4), "sum to 1 at most"),
    (lambda: made().split(0.5, -0.1), "must be positive"),
    (lambda: made(patients=[0] * 6).split(0.5, 0.5), "cannot be split into 2 parts"),
])
def test_misuse_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
