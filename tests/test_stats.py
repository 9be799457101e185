"""Paired comparisons: coverage under crossed seeds and cases, power, and symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medtutor import stats

SCENARIOS = {  # seeds, cases, and the standard deviation due to seeds, to cases, and to neither
    "seeds rule, 3 seeds": (3, 40, 0.05, 0.0, 0.05),
    "seeds rule, 5 seeds": (5, 60, 0.05, 0.02, 0.1),
    "cases rule": (3, 40, 0.0, 0.05, 0.05),
    "both": (3, 40, 0.02, 0.05, 0.1),
    "both, 5 seeds": (5, 40, 0.02, 0.05, 0.1),
    "one seed": (1, 50, 0.0, 0.05, 0.05),
}


def tables(rng, scenario, gain=0.0):
    """Scores of idea and baseline whose paired difference has the scenario's variances around `gain`."""
    seeds, cases, by_seed, by_case, rest = SCENARIOS[scenario]
    baseline = rng.normal(0.7, 0.1, size=(seeds, cases))
    return baseline + gain + (by_seed * rng.normal(size=(seeds, 1)) + by_case * rng.normal(size=(1, cases))
                              + rest * rng.normal(size=(seeds, cases))), baseline


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_difference_is_called_one_at_about_the_nominal_rate(scenario):
    rng = np.random.default_rng(7)
    verdicts = [stats.paired(*tables(rng, scenario), resamples=250, seed=k).verdict() for k in range(400)]
    wrong = np.mean([verdict != "not shown" for verdict in verdicts])
    assert 0.01 <= wrong <= 0.09
    # The error is two-sided: neither side takes it all.
    assert 0 < verdicts.count("holds") < 400 * 0.07
    assert 0 < verdicts.count("reversed") < 400 * 0.07


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_difference_far_above_the_noise_is_found(scenario):
    seeds, cases, by_seed, by_case, rest = SCENARIOS[scenario]
    error = np.sqrt(by_seed**2 / seeds + by_case**2 / cases + rest**2 / (seeds * cases))
    rng = np.random.default_rng(3)
    found = [stats.paired(*tables(rng, scenario, 8 * error), resamples=250).verdict() for _ in range(60)]
    assert found.count("holds") >= 48
    assert found.count("reversed") == 0


def test_interval_covers_the_true_difference():
    rng = np.random.default_rng(5)
    hits = [low <= 0.3 <= high for low, high in
            (stats.paired(*tables(rng, "both", 0.3), resamples=250).interval for _ in range(300))]
    assert 0.91 <= np.mean(hits) <= 0.99


def test_disagreeing_seeds_widen_the_interval_that_pooling_would_leave_narrow():
    rng = np.random.default_rng(0)
    cases = rng.normal(size=(1, 100))
    agree = 0.1 + np.zeros((3, 1)) + 0.1 * cases
    differ = 0.1 + np.array([[-0.2], [0.0], [0.2]]) + 0.1 * cases
    width = [np.ptp(stats.paired(d, np.zeros_like(d)).interval) for d in (agree, differ)]
    assert width[1] > 5 * width[0]
    assert stats.paired(agree, np.zeros_like(agree)).verdict() == "holds"
    assert stats.paired(differ, np.zeros_like(differ)).verdict() == "not shown"


score_tables = st.tuples(st.integers(1, 4), st.integers(2, 8)).flatmap(
    lambda shape: st.tuples(*[arrays(float, shape, elements=st.floats(-1, 1, width=16))] * 2))


@given(score_tables)
@settings(max_examples=40)
def test_exchanging_idea_and_baseline_flips_interval_and_verdict(pair):
    there, back = stats.paired(*pair, resamples=200), stats.paired(*pair[::-1], resamples=200)
    assert (there.idea, there.baseline) == (back.baseline, back.idea)
    assert there.difference == pytest.approx(-back.difference)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=1e-9)
    assert there.interval[0] <= there.interval[1]
    if min(map(abs, there.interval)) > 1e-9:
        flipped = {"holds": "reversed", "reversed": "holds", "not shown": "not shown"}
        assert back.verdict("higher") == flipped[there.verdict("higher")] == there.verdict("lower")


@given(score_tables, st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=40)
def test_interval_ignores_a_common_shift_and_scales_with_the_unit(pair, shift, scale):
    plain = stats.paired(*pair, resamples=200)
    moved = stats.paired(*(scale * table + shift for table in pair), resamples=200)
    assert moved.interval == pytest.approx([scale * edge for edge in plain.interval], abs=1e-8)


def test_what_all_cases_share_cancels_in_the_pairing():
    rng = np.random.default_rng(2)
    baseline = rng.normal(size=(3, 40))
    hard = baseline + 10 * rng.normal(size=(1, 40))
    gain = 0.1 + 0.01 * rng.normal(size=(3, 40))
    assert stats.paired(hard + gain, hard).interval == pytest.approx(stats.paired(baseline + gain, baseline).interval)


def test_same_seed_same_interval_and_other_seeds_nearly_so():
    pair = tables(np.random.default_rng(1), "both", 0.1)
    first, again, other = (stats.paired(*pair, seed=seed).interval for seed in (0, 0, 1))
    assert first == again != other
    assert first == pytest.approx(other, abs=0.2 * np.ptp(first))


def test_more_confidence_is_a_wider_interval():
    pair = tables(np.random.default_rng(1), "both")
    widths = [np.ptp(stats.paired(*pair, confidence=level).interval) for level in (0.5, 0.8, 0.95, 0.99)]
    assert widths == sorted(widths)
    assert len(set(widths)) == 4


def test_a_case_without_score_on_one_side_is_dropped_on_both():
    idea, baseline = tables(np.random.default_rng(4), "both", 0.1)
    idea[1, 5] = baseline[0, 9] = np.nan
    kept = [case for case in range(40) if case not in (5, 9)]
    found = stats.paired(idea, baseline)
    assert found == stats.paired(idea[:, kept], baseline[:, kept])
    assert (found.seeds, found.cases) == (3, 38)


def test_an_infinite_score_is_refused_and_not_dropped_as_if_the_organ_were_absent():
    idea, baseline = tables(np.random.default_rng(4), "both")
    idea[0, 0] = np.inf
    with pytest.raises(ValueError, match="a score is infinite; give a failed case"):
        stats.paired(idea, baseline)


def test_equal_tables_show_nothing_and_a_constant_gain_holds():
    table = np.random.default_rng(0).normal(size=(3, 20))
    same = stats.paired(table, table)
    assert (same.interval, same.verdict(), same.verdict("lower")) == ((0.0, 0.0), "not shown", "not shown")
    assert stats.paired(np.full((3, 20), 0.75), np.full((3, 20), 0.5)).interval == (0.25, 0.25)


def test_one_seed_and_one_case_are_compared_over_the_other_factor():
    values = np.random.default_rng(0).normal(0.5, 1, size=30)
    by_case = stats.paired(values[None], np.zeros((1, 30)))
    by_seed = stats.paired(values[:, None], np.zeros((30, 1)))
    error = values.std(ddof=1) / np.sqrt(30)
    for found in (by_case, by_seed):
        assert np.ptp(found.interval) == pytest.approx(2 * 2.05 * error, rel=0.1)
    assert (by_case.seeds, by_case.cases, by_seed.seeds, by_seed.cases) == (1, 30, 30, 1)


def test_interval_of_one_method():
    scores = np.random.default_rng(0).normal(0.8, 0.05, size=(3, 30))
    mean, low, high = stats.interval(scores)
    assert mean == pytest.approx(scores.mean())
    assert low < mean < high
    scores[0, 0] = np.nan
    assert stats.interval(scores)[0] == pytest.approx(scores[:, 1:].mean())


@pytest.mark.parametrize(("idea", "baseline", "message"), [
    (np.zeros((3, 4)), np.zeros((3, 5)), r"one shape, got \(3, 4\), \(3, 5\)"),
    (np.zeros(4), np.zeros(4), "two tables"),
    (np.zeros((1, 1)), np.zeros((1, 1)), r"1 seed\(s\) and 1 usable case\(s\) give no interval"),
    (np.full((3, 4), np.nan), np.zeros((3, 4)), r"3 seed\(s\) and 0 usable case\(s\)"),
    (np.zeros((0, 4)), np.zeros((0, 4)), r"0 seed\(s\)"),
])
def test_unusable_tables_are_one_sentence(idea, baseline, message):
    with pytest.raises(ValueError, match=message) as error:
        stats.paired(idea, baseline)
    assert "\n" not in str(error.value)


def test_unknown_side_is_one_sentence():
    with pytest.raises(ValueError, match="claimed must be 'higher' or 'lower', but got 'up'"):
        stats.paired(np.eye(3), np.zeros((3, 3))).verdict("up")
