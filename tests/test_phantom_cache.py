"""The cohort cache: the content of a fresh cohort, keys, two processes, damage, size limit, no write access."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from medtutor.phantom import abdomen, cache, wound
from medtutor.phantom.cache import cached

RACE = """
import sys, torch
from medtutor.phantom import wound
from medtutor.phantom.cache import cached
for seed in (0, 1, 2, 0, 1, 2):
    kept, fresh = cached(wound.cohort, 6, 32, seed=seed), wound.cohort(6, 32, seed=seed)
    assert all(torch.equal(kept.columns()[k], v) for k, v in fresh.columns().items())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTUTOR_CACHE", str(tmp_path / "cohorts"))
    return tmp_path / "cohorts"


@pytest.fixture
def calls(monkeypatch):
    """How often a wound was photographed: each photograph has its noise."""
    made, real = [], wound.noise
    monkeypatch.setattr(wound, "noise", lambda *a, **k: made.append(a) or real(*a, **k))
    return made


def same(a, b):
    columns = b.columns()
    return (a.columns().keys() == columns.keys() and a.names == b.names and a.units == b.units
            and all(torch.equal(a.columns()[k].nan_to_num(-9), v.nan_to_num(-9)) for k, v in columns.items()))


def test_second_call_loads_the_same_cohort(folder, calls):
    fresh = wound.cohort(3, 32, seed=1)
    assert same(cached(wound.cohort, 3, 32, seed=1), fresh)
    assert same(cached(wound.cohort, n=3, size=32, seed=1, domain="fresh"), fresh)  # the same call, spelt out
    assert len(calls) == 2
    assert len(list(folder.iterdir())) == 1


def test_whatever_changes_the_cohort_changes_the_file(folder, monkeypatch):
    level = torch.tensor([0.0, 10.0])
    calls = [{"seed": 1}, {"level": level}, {"level": level + 1}, {"level": level.double()}, {"level": 10.0},
             {"level": "liver"}, {"prevalence": {"liver tumour": 1.0}}, {"prevalence": {"kidney tumour": 1.0}},
             {"noisy": False}]
    kept = [cached(abdomen.cohort, 2, 16, **call) for call in calls]
    assert len(list(folder.iterdir())) == len(calls)
    assert all(same(cached(abdomen.cohort, 2, 16, **call), made) for call, made in zip(calls, kept, strict=True))
    assert len(list(folder.iterdir())) == len(calls)
    monkeypatch.setattr(cache, "_code", lambda: ("another edition",))
    cached(abdomen.cohort, 2, 16, seed=1)
    assert len(list(folder.iterdir())) == len(calls) + 1


@pytest.mark.parametrize("damage", ["empty", "half", "noise", "pickle", "other"])
def test_damaged_files_are_made_again(folder, damage, calls):
    fresh = cached(wound.cohort, 2, 24)
    path, = folder.iterdir()
    good = path.read_bytes()
    if damage == "pickle":
        np.savez(path, **{"field:image": np.array([print, {}], dtype=object)})
    elif damage == "other":
        np.savez(path, **{"field:nonsense": np.zeros(2)})
    else:
        path.write_bytes({"empty": b"", "half": good[:len(good) // 2],
                          "noise": good[:900] + bytes(200) + good[1100:]}[damage])
    assert same(cached(wound.cohort, 2, 24), fresh)
    assert len(calls) == 2
    assert same(cached(wound.cohort, 2, 24), fresh)
    assert len(calls) == 2


def test_two_processes_share_the_folder(folder):
    run = [sys.executable, "-c", RACE]
    both = [subprocess.Popen(run, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    assert [(p.communicate(timeout=120)[1], p.returncode) for p in both] == [("", 0)] * 2
    assert len(list(folder.iterdir())) == 3  # nothing half-written stays


def test_oldest_used_go_first(folder, monkeypatch, calls):
    def use(seed, age):
        before = set(folder.glob("*"))
        cached(wound.cohort, 2, 24, seed=seed)
        for file in set(folder.glob("*")) - before:
            os.utime(file, (10**9 + age,) * 2)

    use(0, 1)
    size = next(folder.iterdir()).stat().st_size
    monkeypatch.setattr(cache, "LIMIT", 2.5 * size)
    use(1, 2)
    use(0, 0)  # used again: now the newest
    use(2, 3)
    assert len(list(folder.iterdir())) == 2
    calls.clear()
    cached(wound.cohort, 2, 24, seed=0)
    assert not calls
    cached(wound.cohort, 2, 24, seed=1)
    assert len(calls) == 1
    monkeypatch.setattr(cache, "LIMIT", 10)
    cached(wound.cohort, 2, 24, seed=9)
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MEDTUTOR_CACHE", str(tmp_path / "file" / "cohorts"))
    assert same(cached(wound.cohort, 2, 24), wound.cohort(2, 24))
    monkeypatch.setattr(type(wound.cohort(2, 24)), "save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    monkeypatch.setenv("MEDTUTOR_CACHE", str(tmp_path / "full"))
    assert len(cached(wound.cohort, 2, 24)) == 2
    assert not list((tmp_path / "full").iterdir())


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match=r"only cohorts of medtutor\.phantom"):
        cached(same, 1, 2)
    with pytest.raises(TypeError, match="call the function itself"):
        cached(abdomen.cohort, 2, 16, level=print)
