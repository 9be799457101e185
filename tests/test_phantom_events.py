"""Health records: order of time, no leak, matched controls, planted co-occurrence, drugs after diagnoses."""

import subprocess
import sys

import pytest
import torch

from medtutor.phantom import events


@pytest.fixture(scope="module")
def records():
    return events.cohort(2000)


def counts(cohort):
    code = cohort.meta["code"]
    return torch.zeros(len(cohort), 154).scatter_add_(1, code + 1, torch.ones(code.shape))[:, 1:]


def test_fields_and_vocabulary(records):
    meta, names = records.meta, records.names
    assert records.label.shape == (2000, 1)
    assert records.label.dtype == torch.float32
    assert names["label"] == ("heart failure",)
    assert meta["code"].shape == meta["day"].shape == meta["visit_number"].shape
    assert meta["condition"].shape == meta["progress"].shape == (2000, 10)
    assert len(set(names["code"])) == len(names["kind"]) == len(names["condition_of"]) == 150
    assert {kind: names["kind"].count(kind) for kind in names["kind"]} == {
        "diagnosis": 50, "drug": 60, "procedure": 40}
    assert all(names["condition_of"].count(name) == 15 for name in events.CONDITIONS)
    place = names["code"].index("metformin")
    assert (names["kind"][place], names["condition_of"][place]) == ("drug", "diabetes")
    assert counts(records).sum(0)[:150].min() > 0
    assert counts(records).sum(0)[150:].max() == 0


def test_sequences_are_padded_and_in_order_of_time(records):
    code, day, visit = (records.meta[key] for key in ("code", "day", "visit_number"))
    there = code >= 0
    assert torch.equal(there, day >= 0)
    assert torch.equal(there, visit >= 0)
    assert not (there[:, 1:] & ~there[:, :-1]).any()
    assert (day.diff(dim=1)[there[:, 1:]] >= 0).all()
    assert (visit.diff(dim=1)[there[:, 1:]] >= 0).all()
    same = (visit.diff(dim=1) == 0) & there[:, 1:]
    assert (day.diff(dim=1)[same] == 0).all()
    assert torch.equal(visit.amax(1) + 1, records.meta["visits"])  # every visit has a diagnosis
    kind = torch.tensor([records.names["kind"][c] == "diagnosis" for c in range(150)])[code.clamp(min=0)]
    first = there & (visit != visit.roll(1, 1))
    assert 0.2 < kind[first].float().mean() < 0.8  # no kind always stands first


@pytest.mark.parametrize("gap", [0, 30, 200])
def test_nothing_comes_after_the_gap_before_the_index_date(gap):
    c = events.cohort(400, 1, gap=gap)
    left = c.meta["index_day"][:, None] - c.meta["day"]
    there = c.meta["code"] >= 0
    assert left[there].min() >= gap
    assert left[there].min() <= gap + 30
    assert left[there].max() <= 3 * 365 + 1


def test_a_leak_adds_codes_after_the_index_date_and_changes_none_before():
    clean, leak = events.cohort(300, 2), events.cohort(300, 2, leak=True)
    late = (leak.meta["day"] > leak.meta["index_day"][:, None]) & (leak.meta["code"] >= 0)
    assert late.any(1).all()
    assert leak.names["code"][150:] == ("heart failure", "sacubitril with valsartan", "echocardiogram")
    told = (counts(leak)[:, 150:] > 0).any(1)
    assert torch.equal(told, leak.label[:, 0] > 0)
    assert (late | (leak.meta["code"] < 150)).all()
    length = (clean.meta["code"] >= 0).sum(1)
    for case in range(300):
        assert torch.equal(clean.meta["code"][case, :length[case]], leak.meta["code"][case, :length[case]])


@pytest.mark.parametrize("controls", [1, 3])
def test_controls_match_their_case(controls):
    c = events.cohort(600, 3, controls=controls)
    by_group = {key: column.view(-1, controls + 1) for key, column in (c.meta | {"label": c.label[:, 0]}).items()
                if key in ("label", "sex", "age", "index_day", "group")}
    assert torch.equal(by_group["label"].sum(1), torch.ones(600 // (controls + 1)))
    for key in ("sex", "index_day", "group"):
        assert torch.equal(by_group[key].amin(1), by_group[key].amax(1))
    assert (by_group["age"].amax(1) - by_group["age"].amin(1)).max() < 2


def test_two_conditions_drive_the_outcome_and_visits_tell_a_little(records):
    ill = records.label[:, 0] > 0

    def auc(score):
        score = score.double()
        gap = score[ill][:, None] - score[~ill]
        return ((gap > 0).double() + 0.5 * (gap == 0)).mean()

    progress = records.meta["progress"]
    assert auc(progress[:, 0] + progress[:, 1]) > 0.8
    assert max(abs(auc(progress[:, k]) - 0.5) for k in range(2, 10)) < 0.05
    assert 0.53 < auc(records.meta["visits"]) < 0.65
    assert abs(auc(records.meta["age"]) - 0.5) < 0.03
    total = counts(records)
    heart = total[:, :15].sum(1) / total.sum(1)
    assert auc(heart) > 0.6


def test_codes_of_a_condition_stand_together_and_come_from_those_who_have_it():
    clean = events.cohort(1500, 4, noise=0.0)
    owner = torch.arange(150) // 15
    has = clean.meta["condition"].any(1)
    of = owner[clean.meta["code"].clamp(min=0)]
    owned = clean.meta["condition"].gather(1, of)
    assert has.sum() > 1000
    assert owned[has][clean.meta["code"][has] >= 0].all()
    noisy = counts(events.cohort(1500, 4))[:, :150]
    pair = noisy.T @ noisy
    pair = pair / pair.sum(0, keepdim=True) / pair.sum(1, keepdim=True) * pair.sum()
    pair.fill_diagonal_(0)
    nearest = pair.topk(5, 1)[1]
    assert (owner[nearest] == owner[:, None]).float().mean() > 0.9


def test_drugs_follow_their_diagnoses_by_one_or_two_visits():
    c = events.cohort(300, 5, noise=0.0)
    code, visit = c.meta["code"], c.meta["visit_number"]
    kind, owner = code % 15, code // 15
    drug, diagnosis = (code >= 0) & (kind >= 5) & (kind < 11), (code >= 0) & (kind < 5)
    lag = visit[:, :, None] - visit[:, None]
    cause = (owner[:, :, None] == owner[:, None]) & diagnosis[:, None] & ((lag == 1) | (lag == 2))
    assert drug.any()
    assert cause.any(2)[drug].all()


def test_the_same_patients_in_another_process_and_a_larger_cohort(records):
    few = events.cohort(7)
    for key, column in few.meta.items():
        assert torch.equal(column, records.meta[key][:7])
    code = ("from medtutor.phantom import events; c = events.cohort(2000);"
            "print(sum(int(c.meta[k].sum()) for k in ('code', 'day', 'visit_number', 'index_day')))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == sum(int(records.meta[k].sum()) for k in ("code", "day", "visit_number", "index_day"))


@pytest.mark.parametrize("options", [{"gap": -1}, {"gap": 400}, {"controls": 0}, {"noise": 1.5}])
def test_bad_input_says_what_to_do(options):
    with pytest.raises(ValueError, match="gap must be 0 to 365 days, controls 1 or more and noise 0 to 1"):
        events.cohort(4, **options)
