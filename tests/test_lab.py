"""The lab: profiles, budgets, glued numbers, facts, comparisons and tables."""

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from torch import nn

from medtutor import stats
from medtutor.cohort import Cohort
from medtutor.lab import Lab, nearest
from medtutor.notebook import GLUE_PREFIX


@pytest.fixture
def shown(monkeypatch):
    """What `display` was given: pairs of the object and the options."""
    found = []
    monkeypatch.setattr("IPython.display.display", lambda *things, **options: found.append((*things, options)))
    return found


def glued(shown):
    return {options["metadata"]["scrapbook"]["name"]: data[GLUE_PREFIX + "text/plain"]
            for data, options in shown if "metadata" in options}


def test_the_budget_follows_the_profile():
    assert Lab("01").pick(smoke=1, cpu=2, gpu=3) == 2
    assert Lab("01", "smoke").pick(smoke=1, cpu=2, gpu=3) == 1
    assert (len(Lab("01").seeds), len(Lab("01", "smoke").seeds)) == (3, 1)
    assert Lab("01", seed=10).seeds == [10, 11, 12]


def test_the_gpu_profile_takes_its_own_budget_or_that_of_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("accelerate.Accelerator", lambda mixed_precision: type("Fake", (), {"device": "cuda"}))
    lab = Lab("01", "gpu")
    assert (lab.pick(smoke=1, cpu=2, gpu=3), lab.pick(smoke=1, cpu=2), len(lab.seeds)) == (3, 2, 5)


def test_the_environment_overrides_the_profile_unless_it_is_empty(monkeypatch):
    monkeypatch.setenv("MEDTUTOR_PROFILE", "smoke")
    assert Lab("01", "cpu").profile == "smoke"
    monkeypatch.setenv("MEDTUTOR_PROFILE", "")
    assert Lab("01", "cpu").profile == "cpu"


@pytest.mark.parametrize(("wanted", "near"), [("smok", "smoke"), ("gpus", "gpu"), ("fast", "smoke, cpu, gpu")])
def test_an_unknown_profile_is_one_sentence_with_near_names(wanted, near):
    with pytest.raises(ValueError, match=f"there is no profile '{wanted}'; try {near}"):
        Lab("01", wanted)


def test_the_gpu_profile_without_a_gpu_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="needs a CUDA GPU and this machine shows none; use profile 'cpu'"):
        Lab("01", "gpu")


def test_nearest_names_what_is_near_or_everything():
    assert nearest("dataset", "hipocampus", ["spleen", "hippocampus"]) == (
        "there is no dataset 'hipocampus'; try hippocampus")
    assert nearest("dataset", 7, ["spleen", "liver"]).endswith("try spleen, liver")


def test_a_lab_fixes_every_random_state():
    def draws():
        Lab("01", seed=4)
        import random

        return random.random(), np.random.rand(), float(torch.rand(1))

    assert draws() == draws()


def test_glue_formats_numbers_and_keeps_text(shown):
    lab = Lab("01")
    for name, value, form in [("a", 0.12345, ".3f"), ("b", 31_037_633, ",d"), ("c", "twice", ".3f")]:
        lab.glue(name, value, form)
    assert glued(shown) == {"a": "0.123", "b": "31,037,633", "c": "twice"}
    assert all(options["raw"] for _, options in shown)


@pytest.mark.parametrize(("measured", "tolerance", "verdict"), [
    (100, 0.0, "matches"), (101, 0.0, "differs"), (101, 0.01, "matches"), (99, 0.01, "matches"),
    (101.5, 0.01, "differs"), (float("nan"), 0.5, "differs")])
def test_a_fact_matches_within_its_relative_tolerance(shown, measured, tolerance, verdict):
    lab = Lab("01")
    lab.claim("p", "s", published="100", expected=100, measured=measured, metric="m", tolerance=tolerance)
    claim = lab.claims[-1]
    assert claim.verdict == verdict
    assert shown[0][0] is claim
    assert (claim.baseline, claim.interval) == (None, None)


def test_facts_hold_in_every_profile(shown):
    lab = Lab("01", "smoke")
    lab.claim("p", "s", published="-5", expected=-5, measured=-5.1, metric="m", tolerance=0.05)
    claim = lab.claims[-1]
    assert (claim.verdict, claim.difference) == ("matches", pytest.approx(-0.1))


def test_compare_gives_the_verdict_of_the_paired_interval(shown):
    rng = np.random.default_rng(0)
    baseline = rng.normal(size=(3, 40))
    better = baseline + 0.5 + 0.1 * rng.normal(size=(3, 40))
    lab = Lab("01")

    def verdict(idea, other, claimed):
        lab.compare("p", "s", published="?", idea=idea, baseline=other, metric="m", claimed=claimed)
        return lab.claims[-1].verdict

    assert verdict(better, baseline, "higher") == "holds"
    assert verdict(better, baseline, "lower") == "reversed"
    assert verdict(baseline, better, "lower") == "holds"
    assert verdict(baseline, baseline, "higher") == "not shown"
    lab.compare("p", "s", published="?", idea=better, baseline=baseline, metric="m", key="k")
    claim = lab.claims[-1]
    expected = stats.paired(better, baseline)
    assert (claim.measured, claim.baseline, claim.difference, claim.interval, claim.seeds) == (
        expected.idea, expected.baseline, expected.difference, expected.interval, 3)
    numbers = glued(shown)
    assert numbers["k-verdict"] == "holds"
    assert float(numbers["k-difference"]) == pytest.approx(claim.difference, abs=5e-4)
    assert [float(v) for v in numbers["k-interval"].strip("[]").split(", ")] == pytest.approx(claim.interval, abs=5e-4)
    assert shown[-1][0] is claim


def test_smoke_evaluates_nothing(shown):
    lab = Lab("01", "smoke")
    lab.compare("p", "s", published="?", idea=np.ones((1, 3)), baseline=np.zeros((1, 3)), metric="m",
                key="k")
    claim = lab.claims[-1]
    assert claim.verdict == "not evaluated"
    assert (claim.measured, claim.baseline, claim.difference, claim.interval) == (None,) * 4
    assert glued(shown) == {"k-verdict": "not evaluated", "k-idea": "?", "k-baseline": "?", "k-difference": "?",
                            "k-interval": "?"}


def test_a_table_shows_means_with_intervals_counts_and_text_safely(shown):
    Lab("01").table([{"method": "<b>plain</b>", "Dice": (0.8, 0.75, 0.85), "parameters": 12345, "seconds": 1.26,
                      "note": None, "steps": np.int64(7)}], caption="All & each")
    page = BeautifulSoup(shown[0][0].data, "html.parser")
    assert [cell.text for cell in page.find_all("td")] == ["<b>plain</b>", "0.800 [0.750, 0.850]", "12,345", "1.3",
                                                           "None", "7"]
    assert [cell.text for cell in page.find_all("th", scope="col")][:2] == ["method", "Dice"]
    assert page.caption.text == "All & each"
    assert page.find("b") is None


def noise(n=8):
    return Cohort(image=torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)), label=torch.zeros(n))


def square(model, batch):
    return model(batch.image).square().mean()


def test_fit_predict_and_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lab = Lab("07", "smoke")
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    fit = lab.fit(model, noise(), square, epochs=2, batch=4, checkpoint="plain")
    assert lab.predict(fit.model, noise()).shape == (8, 1)
    assert len(fit.losses) == 2
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["07-smoke-plain.pt"]
    assert (tmp_path / "runs" / "checkpoints" / "07-smoke-plain.pt").exists()


def test_trials_train_one_method_once_a_seed_from_equal_starts():
    lab, starts = Lab("01"), []

    def build(seed):
        starts.append((seed, float(torch.rand(1))))
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 1))

    def score(model):
        return {"output": lab.predict(model, noise()).squeeze(1), "size": torch.ones(8)}

    one, two = (lab.trials(build, noise(), square, score, epochs=1) for _ in range(2))
    assert starts[:3] == starts[3:]
    assert len({start for _, start in starts}) == 3
    assert [seed for seed, _ in starts[:3]] == lab.seeds
    assert one.scores["output"].shape == (3, 8)
    np.testing.assert_array_equal(one.scores["output"], two.scores["output"])
    assert np.ptp(one.scores["output"], axis=0).min() > 0
    assert one.model is one.fits[0].model
    row = one.row("output")
    assert row["parameters"] == 17
    assert row["output"] == stats.interval(one.scores["output"])


def test_real_data_that_is_missing_is_one_printed_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDTUTOR_DATA", str(tmp_path))
    assert Lab("01").real("hippocampus") is None
    said = capsys.readouterr().out.strip()
    assert "hippocampus" in said
    assert "\n" not in said
    assert str(tmp_path) in said


def test_the_parameter_data_names_another_dataset(monkeypatch):
    wanted = []
    monkeypatch.setattr("medtutor.data.load", lambda name, **options: wanted.append((name, options)))
    Lab("01").real("hippocampus", size=32)
    Lab("01", data="spleen").real("hippocampus")
    assert wanted == [("hippocampus", {"size": 32}), ("spleen", {})]
