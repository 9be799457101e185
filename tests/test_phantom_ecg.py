"""ECGs: the laws of the leads, waves as in ECGSYN, findings that can be measured, sheets that can be read off."""

import subprocess
import sys

import neurokit2 as nk
import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from medtutor.phantom import ecg

ALL = dict.fromkeys(ecg.LABELS, 0.0)


def only(name, n=12, **options):
    return ecg.cohort(n, kind="signal", prevalence=ALL | {name: 1.0}, **options)


def lead(cohort, name):
    return cohort.meta["signal"][:, ecg.LEADS.index(name)]


def at_beats(cohort, after, ectopic=False):
    """The signal (N, 12), averaged over the patient's beats, `after` seconds after R."""
    place = (cohort.meta["r_peaks"] + after) * 250
    use = (place > 10) & (place < 2480) & (cohort.meta["ectopic"] == ectopic)
    index = place.nan_to_num().clamp(0, 2498)
    low = index.floor().long()[:, None].expand(-1, 12, -1)
    signal, part = cohort.meta["signal"], (index - index.floor())[:, None]
    value = signal.gather(2, low) * (1 - part) + signal.gather(2, low + 1) * part
    return (value * use[:, None]).sum(2) / use.sum(1, keepdim=True)


@pytest.fixture(scope="module")
def sheets():
    return ecg.cohort(10, 64, 1, header=0.5)


def test_fields_and_ranges(sheets):
    assert sheets.image.shape == (10, 3, 64, 64)
    assert sheets.image.dtype == torch.float32
    assert sheets.image.min() >= 0
    assert sheets.image.max() <= 1
    assert sheets.label.shape == (10, 5)
    assert sheets.meta["signal"].shape == (10, 12, 2500)
    assert sheets.meta["signal"].dtype == torch.float32
    assert sheets.names["signal"] == ecg.LEADS
    assert (sheets.image[:, 0].mean((1, 2)) > sheets.image[:, 1].mean((1, 2))).all()  # the paper is pink


def test_leads_obey_einthoven_and_goldberger_exactly(sheets):
    one, two, three, right, left, foot = sheets.meta["signal"][:, :6].unbind(1)
    assert torch.equal(three, two - one)
    assert torch.equal(right, -(one + two) / 2)
    assert torch.equal(left, one - two / 2)
    assert torch.equal(foot, two - one / 2)


def test_waves_are_those_of_neurokit():
    theirs = nk.ecg_simulate(duration=7, sampling_rate=250, noise=0, heart_rate=60, heart_rate_std=0.01,
                             method="multileads", random_state=0)
    gain = torch.tensor([  # P, Q, R, S, T of its twelve leads
        [1, 0.1, 1, 1.2, 1], [2, 0.2, 0.2, 0.2, 3], [1, -0.1, -0.8, -1.1, 2.5], [-1, -0.05, -0.8, -0.5, -1.2],
        [0.05, 0.05, 1, 1, 1], [1, -0.05, -0.1, -0.1, 3], [-0.5, 0.05, 0.2, 0.5, 1], [0.05, 0.05, 1.3, 2.5, 2],
        [1, 0.05, 1, 2, 1], [1.2, 0.05, 1, 2, 2], [1.5, 0.1, 0.8, 1, 2], [1.8, 0.05, 0.5, 0.1, 2]])
    angle, size = torch.tensor([-70, -15, 0, 15, 100]) / 360, torch.tensor([1.2, -5, 30, -7.5, 0.75])
    width = torch.tensor([0.25, 0.1, 0.1, 0.1, 0.4])
    height = gain * size * width**2  # the integral of its differential equation, but for the pull to the baseline
    wave = torch.cat([torch.stack([angle, width / 2 / torch.pi], 1), height.T], 1)[None]
    peaks = nk.ecg_peaks(theirs["I"].to_numpy(), sampling_rate=250)[1]["ECG_R_Peaks"] / 250
    peaks = torch.tensor(np.concatenate([[peaks[0] - 1], peaks, [peaks[-1] + 1]]))[None]
    ours = ecg.waves(torch.arange(1750).double() / 250, peaks, peaks < -9, wave.double(), torch.zeros(5) > 0)[0]
    ours = lfilter([1, -1], [1, 1 / 250 - 1], ours.numpy())  # the pull, with its time constant of one second
    for k, name in enumerate(theirs):
        assert np.corrcoef(ours[k, 600:1600], theirs[name][600:1600])[0, 1] > 0.95


def test_neurokit_finds_our_beats():
    c = ecg.cohort(4, kind="signal", prevalence=ALL)
    for case in range(4):
        found = nk.ecg_peaks(nk.ecg_clean(lead(c, "II")[case].numpy(), sampling_rate=250), sampling_rate=250)
        truth = c.meta["r_peaks"][case]
        truth = truth[(truth > 0.3) & (truth < 9.7)].numpy()
        gap = np.abs(found[1]["ECG_R_Peaks"][:, None] / 250 - truth)
        assert gap.min(0).max() < 0.03


def test_heart_rate_and_rhythm_follow_the_beats():
    for name, low, high in (("ectopic beats", 0.15, 1), ("irregular rhythm", 0.1, 0.5), ("ST elevation", 0, 0.08)):
        c = only(name, 40)
        beats = c.meta["r_peaks"]
        gap = beats.diff(dim=1)
        count = beats.isfinite().sum(1)
        spread = torch.tensor([g[g.isfinite()].std() / g[g.isfinite()].mean() for g in gap])
        assert ((spread > low) & (spread < high)).all()
        mean = torch.tensor([g[g.isfinite()].mean() for g in gap])
        assert torch.allclose(60 / mean, c.meta["heart_rate"], rtol=1e-4)
        assert ((count >= 7) & (count <= 26)).all()
        assert torch.equal(c.label[:, 4] > 0, c.meta["ectopic"].any(1))
        first_five = (c.meta["ectopic"] & (beats > 0.05) & (beats < 4.95)).any(1)
        assert torch.equal(c.label[:, 4] > 0, first_five)  # a sheet of 5 s shows one too
        assert not (c.meta["ectopic"] & beats.isnan()).any()


def test_st_elevation_is_what_it_says():
    flat, raised = (only("ST elevation", elevation=mv, noisy=False) for mv in (0.0, 0.4))
    gained = at_beats(raised, ecg.AFTER_R) - at_beats(flat, ecg.AFTER_R)
    assert torch.allclose(gained, raised.meta["st_mv"], atol=0.02)
    assert torch.allclose(raised.meta["st_mv"].amax(1), torch.tensor(0.4), atol=1e-5)
    assert flat.meta["st_mv"].abs().max() == 0
    highest, lowest = (f(raised.meta["st_mv"]) for f in (lambda v: v.argmax(1), lambda v: v.argmin(1)))
    for area, up, down in ((0, {"III"}, {"AVL"}), (1, {"V3", "V2"}, {"III", "AVF"}), (2, {"V5", "AVL"}, {"III"})):
        of = raised.meta["territory"] == area
        assert of.any()
        assert {ecg.LEADS[k] for k in highest[of]} <= up
        assert {ecg.LEADS[k] for k in lowest[of]} <= down
    drawn = only("ST elevation")
    assert torch.allclose(drawn.meta["st_mv"].amax(1), 0.12 + 0.33 * drawn.meta["severity_ST_elevation"], atol=1e-5)


def test_q_waves_point_away_from_the_infarct():
    scar, healthy = only("Q wave", noisy=False), only("ST elevation", elevation=0.0, noisy=False)
    assert torch.equal(scar.meta["territory"], healthy.meta["territory"])
    dip = at_beats(scar, -0.03) - at_beats(healthy, -0.03)
    assert torch.equal(scar.meta["severity_Q_wave"] > 0, scar.label[:, 2] > 0)
    over = torch.tensor([[2, 8, 10][area] for area in scar.meta["territory"]])[:, None]  # III, V3, V5
    assert (dip.gather(1, over) < -0.15).all()
    assert ecg.cohort(3, kind="signal", prevalence=ALL).meta["territory"].eq(-1).all()


def test_blocks_are_wide_and_ectopics_wider():
    narrow, wide = only("ST elevation", 30, elevation=0.0, noisy=False), only("bundle branch block", 30, noisy=False)
    late = [at_beats(c, 0.055).abs().amax(1) for c in (narrow, wide)]
    assert late[1].min() > 0.25
    assert late[1].median() > 3 * late[0].median()
    right = wide.meta["block"] == 1
    v1 = at_beats(wide, 0.055)[:, ecg.LEADS.index("V1")]
    assert (v1[right] > 0).all()
    assert (v1[~right] < 0).all()
    assert set(narrow.meta["block"].tolist()) == {0}
    ectopic = only("ectopic beats", 30, noisy=False)
    assert (at_beats(ectopic, 0.05, True).abs().amax(1) > at_beats(ectopic, 0.05).abs().amax(1)).all()


def test_fibrillation_has_no_p_wave():
    sinus, wild = only("ST elevation", 30, elevation=0.0, noisy=False), only("irregular rhythm", 30, noisy=False)
    rise = [(at_beats(c, -0.16) - at_beats(c, -0.08))[:, 1].median() for c in (sinus, wild)]
    assert rise[0] > 0.05
    assert rise[1].abs() < 0.03


@pytest.fixture(scope="module")
def scans():
    return ecg.cohort(8, 600, 11, leads=3, photo=False, noisy=False, prevalence=ALL)  # 4 pixels a mm


def test_a_sheet_can_be_read_off(scans):
    c, dark = scans, 1 - scans.image.mean(1)
    for row, name in ((0, "I"), (1, "II"), (2, "V2")):
        top = round((46 + 41 * row - 16) * 4)
        ink = (dark[:, top:top + 128, 70:550] - 0.45).clamp(min=0)
        place = (ink * torch.arange(128.0)[:, None]).sum(1) / ink.sum(1) + 0.5  # pixels below the top of the band
        read = (16 * 4 - place) / 4 / c.meta["gain"][:, None]  # mV
        time = ((torch.arange(70, 550) + 0.5) / 4 - 16) / 25
        drawn = lead(c, name)[:, (time * 250).round().long()]
        error = (read - drawn).abs()
        assert error.median() < 0.02
        assert error.nanquantile(0.9) < 0.12


def test_the_calibration_pulse_shows_the_gain(scans):
    c, dark = scans, (1 - scans.image.mean(1))[:, 4 * 46 - 64:4 * 46 + 20, 40:55].mean(2)
    height = (4 * 46 - (4 * 46 - 64 + dark.argmax(1) + 0.5)) / 4
    assert torch.allclose(height, c.meta["gain"], atol=0.3)
    assert set(c.meta["gain"].tolist()) == {5.0, 10.0}


def test_the_header_is_where_its_box_is_and_tells_what_it_should():
    loose, tied, none = (ecg.cohort(40, 64, 2, header=p, photo=False) for p in (0.0, 1.0, None))
    first = torch.where(tied.label.any(1), tied.label.argmax(1) + 1, 0)
    assert torch.equal(tied.meta["header"], first)
    assert (loose.meta["header"] == first).float().mean() < 0.6
    assert none.meta["header_box"].isnan().all()
    assert none.meta["header"].eq(-1).all()
    changed = (tied.image != none.image).any(1)
    x0, y0, x1, y1 = tied.meta["header_box"][0].long().tolist()
    assert changed[:, y0:y1, x0:x1].any((1, 2)).all()
    changed[:, y0 - 1:y1 + 1, x0 - 1:x1 + 1] = False
    assert not changed.any()
    photo = ecg.cohort(10, 64, 2, header=1.0)
    clear = ecg.cohort(10, 64, 2)
    changed = (photo.image - clear.image).abs().amax(1) > 0.1
    for case, (x0, y0, x1, y1) in enumerate(photo.meta["header_box"].long().tolist()):
        changed[case, max(y0 - 1, 0):y1 + 1, max(x0 - 1, 0):x1 + 1] = False
    assert not changed.any()


def test_sheets_of_a_patient_share_the_heart_and_nothing_else():
    c = ecg.cohort(6, 32, 5, per_patient=3)
    assert c.patient.tolist() == [k for k in range(6) for _ in range(3)]
    assert c.visit.tolist() == [0, 1, 2] * 6
    once = ecg.cohort(6, 32, 5)
    assert torch.equal(c.image[::3], once.image)
    for key in ("label", "age", "st_mv", "block"):
        column = (c.label if key == "label" else c.meta[key]).view(6, 3, -1)
        assert torch.equal(column[:, 0], column[:, 2])
    assert not torch.equal(c.meta["r_peaks"][0], c.meta["r_peaks"][1])
    beat = at_beats(ecg.cohort(6, kind="signal", per_patient=2, prevalence=ALL, noisy=False), 0.0)
    same, other = (beat[::2] - beat[1::2]).norm(dim=1), (beat[::2] - beat[::2].roll(1, 0)).norm(dim=1)
    assert same.max() < other.min()
    train, test = c.split(0.5, 0.5)
    assert not set(train.patient.tolist()) & set(test.patient.tolist())


def test_options_change_what_they_name_and_no_more():
    base = ecg.cohort(5, 32, 6)
    for options in ({"size": 96}, {"photo": False}, {"header": 0.5}, {"leads": 3}, {"kind": "signal"}):
        other = ecg.cohort(**({"n": 5, "size": 32, "seed": 6} | options))
        for key in ("signal", "r_peaks", "age", "st_mv"):
            assert torch.equal(base.meta[key].nan_to_num(), other.meta[key].nan_to_num())
        assert torch.equal(base.label, other.label)
    calm = ecg.cohort(5, 32, 6, noisy=False)
    assert torch.equal(base.meta["r_peaks"].isnan(), calm.meta["r_peaks"].isnan())
    assert 0.01 < (base.meta["signal"] - calm.meta["signal"])[:, :2].std() < 0.2
    slow = ecg.cohort(5, 32, 6, rate=125, noisy=False)
    assert torch.allclose(slow.meta["signal"], calm.meta["signal"][..., ::2], atol=1e-4)
    large = torch.nn.functional.avg_pool2d(ecg.cohort(5, 96, 6, noisy=False).image, 3)
    assert (large - calm.image).abs().median() < 0.02  # ink is a pixel wide at every size, paper is the same


def test_prevalence_and_exclusive():
    c = ecg.cohort(400, kind="signal", rate=50, prevalence=dict.fromkeys(ecg.LABELS, 0.2), exclusive=True)
    assert c.label.sum(1).max() == 1
    assert ((c.label.mean(0) - 0.2).abs() < 0.07).all()
    c = ecg.cohort(400, kind="signal", rate=50, prevalence=ALL | {"Q wave": 0.5})
    assert abs(c.label[:, 2].mean() - 0.5) < 0.1
    assert c.label.sum() == c.label[:, 2].sum()


def test_the_same_patients_in_another_process_and_a_larger_cohort(sheets):
    many = ecg.cohort(14, 64, 1, header=0.5)[:10]
    assert torch.allclose(many.image, sheets.image, atol=1e-4)
    assert torch.allclose(many.meta["signal"], sheets.meta["signal"], atol=1e-5)
    code = ("from medtutor.phantom import ecg; c = ecg.cohort(10, 64, 1, header=0.5);"
            "print(round(c.image.double().sum().item(), 2), round(c.meta['signal'].double().abs().sum().item(), 2))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image, signal = map(float, done.stdout.split())
    assert abs(image - sheets.image.double().sum().item()) < 0.1
    assert abs(signal - sheets.meta["signal"].double().abs().sum().item()) < 0.1


@pytest.mark.parametrize(("options", "sentence"), [
    ({"prevalence": {"asthma": 0.5}}, "prevalence needs probabilities"),
    ({"prevalence": {"Q wave": 1.5}}, "choose from ST elev"),
    ({"prevalence": {"Q wave": 0.9}, "exclusive": True}, "sum to 1 at most"), ({"kind": "strip"}, "kind must be sheet"),
    ({"leads": 6}, "leads 12 or 3"), ({"rate": 10}, "rate 50 or more"), ({"per_patient": 0}, "per_patient 1 or more"),
    ({"header": 2.0}, "header 0 to 1"), ({"elevation": -1.0}, "elevation 0 to 2")])
def test_bad_input_says_what_to_do(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ecg.cohort(2, 16, **options)
