"""The words of the digital patient: facts to text to facts is the identity, in every style and region."""

import re
from functools import cache
from itertools import product
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtutor import language
from medtutor.cohort import Cohort
from medtutor.language import caption, pertinent, phrases, prompts, report, written
from medtutor.language.known import VALUES, Fact, canonical, compare, facts, knowledge, region_of, words
from medtutor.language.reader import mentions, read
from medtutor.phantom import thorax

REGIONS = tuple(words()["regions"])
STYLES = tuple(words()["styles"])
THORAX = ("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
          "consolidation", "edema", "emphysema", "fibrosis", "pleural thickening", "hernia", "fracture")


@cache
def possible(region, finding):
    """Every fact that a finding can carry."""
    entry = words(region)["findings"][finding]
    sides = VALUES["side"] if entry["site"] else ("",)
    zones = VALUES["zone"] if "upper" in words()["places"].get(entry["site"], ()) else ("",)
    grades = VALUES["severity"] if entry["grade"] != "none" else ("",)
    changes = VALUES["change"][:-1] if entry["grade"] != "none" else ("", "new", "unchanged")
    told = [Fact(finding, *f) for f in product(("present", "uncertain"), sides, zones, grades, changes)]
    return [Fact(finding, "absent"), *told,
            *(Fact(finding, "absent", s, z, "", "resolved") for s, z in product(sides, zones))]


def some_facts(rng, region="thorax", there=0.3, mentioned=0.85):
    """Facts of a random case: a finding is left out, denied, or told with one or two facts."""
    out = []
    for finding in words(region)["findings"]:
        if rng.random() < mentioned:
            options = possible(region, finding)
            out += rng.choices(options, k=rng.choice((1, 1, 2))) if rng.random() < there else options[:1]
    return canonical(out)


@st.composite
def cases(draw):
    region = draw(st.sampled_from(REGIONS))
    return region, some_facts(Random(draw(st.integers(0, 2**32))), region, draw(st.floats(0, 1)), draw(st.floats(0, 1)))


@settings(max_examples=150)
@given(cases(), st.sampled_from(STYLES), st.integers(0, 2**32))
def test_facts_to_text_to_facts(case, style, seed):
    region, known = case
    assert read(report(known, style, seed, region=region).text, region) == known


@pytest.mark.parametrize("region", REGIONS)
def test_thousands_of_reports_in_all_styles(region):
    asked = (None, *words(region)["findings"])
    for k in range(1200 if region == "thorax" else 180):
        rng = Random(k)
        known = some_facts(rng, region, rng.choice((0.1, 0.25, 0.5)))
        made = report(known, STYLES[k % len(STYLES)], k, rng.choice((*words(region)["studies"], "")), rng.choice(asked),
                      None, "female", rng.choice((None, 61)), region)
        assert read(made.text, region) == known, made.text


@pytest.mark.parametrize("region", REGIONS)
def test_every_fact_alone_survives(region):
    for finding in words(region)["findings"]:
        for k, fact in enumerate(possible(region, finding)):
            if (k + len(finding)) % 3 == 0 or fact.presence == "absent":
                made = report([fact], STYLES[k % len(STYLES)], k, region=region)
                assert read(made.text, region) == canonical([fact]), made.text


@settings(max_examples=100)
@given(cases(), st.randoms(use_true_random=False))
def test_normal_form(case, random):
    _, known = case
    shuffled = list(known)
    random.shuffle(shuffled)
    assert canonical(known) == known
    assert canonical(shuffled) == known
    assert canonical([*known, *known]) == known
    assert canonical([*known, *(Fact(f.finding, "absent") for f in known)]) == known


def test_normal_form_joins_and_drops():
    right, left = Fact("effusion", side="right", severity="mild"), Fact("effusion", side="left", severity="mild")
    assert canonical([right, left]) == (Fact("effusion", side="bilateral", severity="mild"),)
    assert canonical([right, Fact("effusion", side="right")]) == (right,)
    assert canonical([right, Fact("effusion", side="right", change="new")]) == (
        Fact("effusion", side="right", severity="mild", change="new"),)
    assert canonical([right, Fact("effusion", "uncertain", "right")]) == (right,)
    assert len(canonical([right, Fact("effusion", "uncertain", "left")])) == 2
    assert canonical([Fact("mass", "absent", "right", "upper")]) == (Fact("mass", "absent"),)
    with pytest.raises(ValueError, match="every value of a Fact"):
        Fact("effusion", side="Right")


def test_sentences_are_spans_with_their_facts():
    for k in range(200):
        known = some_facts(Random(k))
        made = report(known, STYLES[k % len(STYLES)], k)
        assert canonical(f for s in made.sentences for f in s.facts) == known
        for start, end, section, stated in made.sentences:
            sentence = made.text[start:end]
            assert sentence[0] == sentence[0].upper()
            assert sentence[-1] == "."
            if section in ("findings", "impression") and "other" not in sentence:
                assert read(sentence) == canonical(stated), sentence


def test_reports_are_deterministic_and_varied():
    known = some_facts(Random(5))
    assert report(known, "prose", 3) == report(reversed(known), "prose", 3)
    assert len({report(known, style, seed).text for style in STYLES for seed in range(50)}) > 290


def test_reports_read_well():
    for k in range(900):
        region = REGIONS[k % len(REGIONS)] if k % 3 else "thorax"
        known = some_facts(Random(k), region)
        text = report(known, STYLES[k % len(STYLES)], k, "PA", None, None, "male", 50, region).text
        assert not re.search(r"[{}~]|  |\.\.|,,| ,|\ba [aeiou]|\ban [^aeiou]|\. [a-z]", text), text
        assert not re.search(r"\bthere is (?:\w+ )?bilateral \w+s\b|are (?:a|an) |left middle lobe", text), text
        british = words()["styles"][STYLES[k % len(STYLES)]]["spelling"] == "british"
        wrong = r"\bedema|tumor|hiatal|\besoph|hemorrh|colourectal" if british else "oedema|tumour|hiatus|colour|oesoph"
        assert not re.search(wrong, text), text


@pytest.mark.parametrize(("text", "expected"), [
    ("No pleural effusion or pneumothorax.", [Fact("effusion", "absent"), Fact("pneumothorax", "absent")]),
    ("No focal consolidation, large pleural effusion, or pneumothorax is seen.",
     [Fact("consolidation", "absent"), Fact("effusion", "absent"), Fact("pneumothorax", "absent")]),
    ("Heart size normal without edema.", [Fact("cardiomegaly", "absent"), Fact("edema", "absent")]),
    ("Stable cardiomegaly without overt pulmonary edema.",
     [Fact("cardiomegaly", change="unchanged"), Fact("edema", "absent")]),
    ("The heart is mildly enlarged.", [Fact("cardiomegaly", severity="mild")]),
    ("Heart size upper limits of normal.", [Fact("cardiomegaly", "uncertain")]),
    ("Negative for pneumothorax, but there is a small left pleural effusion.",
     [Fact("pneumothorax", "absent"), Fact("effusion", side="left", severity="mild")]),
    ("There is moderate left pleural effusion and small right pleural effusion.",
     [Fact("effusion", side="left", severity="moderate"), Fact("effusion", side="right", severity="mild")]),
    ("Bilateral effusions, right greater than left.", [Fact("effusion", side="bilateral")]),
    ("Right basilar opacity which may represent atelectasis or pneumonia.",
     [Fact("atelectasis", "uncertain"), Fact("infiltration", "present", "right", "lower"),
      Fact("pneumonia", "uncertain")]),
    ("A small nodule in the right upper lobe cannot be excluded.",
     [Fact("nodule", "uncertain", "right", "upper", "mild")]),
    ("The previously seen left pneumothorax is no longer present.",
     [Fact("pneumothorax", "absent", "left", change="resolved")]),
    ("No significant change in the right pleural effusion.", [Fact("effusion", side="right", change="unchanged")]),
    ("There is a hiatus hernia. It has increased since the last film.", [Fact("hernia", change="worse")]),
    ("Mild pulmonary oedema, improved.", [Fact("edema", severity="mild", change="better")]),
    ("The left pleural effusion is not seen.", [Fact("effusion", "absent")]),
    ("Evaluation for pneumothorax is limited.", []), ("Question pericardial effusion.", []),
    ("INDICATION: Rule out pneumonia.\nFINDINGS: No pneumothorax.", [Fact("pneumothorax", "absent")]),
    ("The trachea is midline. No acute cardiopulmonary abnormality.", []), ("", []),
])
def test_reader_on_sentences_that_the_writer_does_not_make(text, expected):
    assert read(text) == canonical(expected)


def test_clear_lungs_deny_what_the_group_says():
    denied = {f.finding for f in read("The lungs are clear.")}
    assert denied == {"atelectasis", "consolidation", "pneumonia", "infiltration", "mass", "nodule"}
    assert Fact("nodule", side="left") in read("Left nodule. The lungs are otherwise clear.")
    assert not read("The right lung is clear.")


def two_visits():
    """Patient 0 with a second visit; patient 1 with one."""
    severity = {"effusion": [[0.4, 0], [0.8, 0.3], [0, 0]], "nodule": [[0.6, 0.6], [0.4, 0.6], [0, 0]],
                "mass": [[0, 0.9], [0, 0], [0, 0]], "cardiomegaly": [0.6, 0.62, 0.9]}
    severity = {key: torch.tensor(value) for key, value in severity.items()}
    label = torch.stack([(v.view(3, -1) > 0).any(1) for v in severity.values()], 1).float()
    meta = {f"severity_{key}": value for key, value in severity.items()}
    meta["zone_nodule"] = torch.tensor([[0, 2], [0, 2], [-1, -1]])
    meta |= {"sex": torch.tensor([0, 0, 1]), "age": torch.tensor([50.0, 51, 70]), "view": ["PA", "PA", "AP"],
             "device_pacemaker": torch.tensor([0, 1, 0]), "device_central_line": torch.tensor([1, 0, 0])}
    return Cohort(label=label, patient=torch.tensor([0, 0, 1]), visit=torch.tensor([0, 1, 0]), meta=meta,
                  names={"label": tuple(severity)})


def test_reports_of_other_regions_follow_the_cohort():
    names = ("liver tumour", "kidney tumour", "colorectal tumour", "liver cyst")
    severity = {"liver_tumour": [0.6, 0.0], "kidney_tumour": [[0.0, 0.9], [0.3, 0.8]], "colorectal_tumour": [0.2, 0.9]}
    meta = {f"severity_{key}": torch.tensor(value) for key, value in severity.items()}
    meta |= {"zone_kidney_tumour": torch.tensor([[-1, 2], [0, 2]]), "zone_colorectal_tumour": torch.tensor([1, 1])}
    c = Cohort(label=torch.tensor([[1.0, 1, 1, 0], [0, 1, 1, 1]]), meta=meta, names={"label": names, "image": ("mr",)})
    assert facts(c, 0) == canonical([
        Fact("liver tumour", severity="moderate"), Fact("kidney tumour", "present", "left", "lower", "severe"),
        Fact("colorectal tumour", severity="mild"), Fact("liver cyst", "absent")])
    for seed in range(30):
        made = written(c, None, seed)
        assert [read(text, "abdomen") for text in made.report] == [facts(c, 0), facts(c, 1)]
    assert "MRI of the abdomen" in written(c, "template").report[0]


def test_facts_of_a_cohort():
    c = two_visits()
    assert set(facts(c, 0)) == {
        Fact("effusion", side="right", severity="mild"), Fact("nodule", "present", "right", "upper", "moderate"),
        Fact("nodule", "present", "left", "lower", "moderate"), Fact("mass", side="left", severity="severe"),
        Fact("cardiomegaly", severity="moderate"), Fact("central line")}
    assert set(facts(c, 1)) == {
        Fact("effusion", "present", "right", "", "severe", "worse"), Fact("pacemaker"),
        Fact("effusion", "present", "left", "", "mild", "new"), Fact("mass", "absent", "left", "", "", "resolved"),
        Fact("nodule", "present", "right", "upper", "mild", "better"),
        Fact("nodule", "present", "left", "lower", "moderate", "unchanged"),
        Fact("cardiomegaly", "present", "", "", "moderate", "unchanged")}
    assert facts(c, 2) == canonical([Fact("cardiomegaly", severity="severe"),
                                     *(Fact(f, "absent") for f in ("effusion", "nodule", "mass"))])
    assert {f.presence for f in facts(c, 0, doubt=0.5) if f.finding == "effusion"} == {"uncertain"}


def test_facts_of_labels_without_or_against_severities():
    label = torch.tensor([[1.0, 1, 0, 1]])
    both = torch.ones(1, 2)
    meta = {"severity_nodule": torch.zeros(1, 2), "severity_mass": both, "severity_hernia": both}
    c = Cohort(label=label, meta=meta, names={"label": ("edema", "nodule", "mass", "hernia")})
    assert facts(c, 0) == canonical([Fact("edema"), Fact("nodule"), Fact("mass", "absent"),
                                     Fact("hernia", severity="severe")])
    one = Cohort(label=torch.tensor([1, 0]), names={"label": ("tumour", "atrophy")})
    assert facts(one, 0) == canonical([Fact("atrophy"), Fact("tumour", "absent")])


def test_changes_between_fact_lists_are_antisymmetric():
    flip = {"worse": "better", "better": "worse", "unchanged": "unchanged", "new": "resolved", "resolved": "new"}
    for k in range(100):
        now, before = (canonical({f.finding: f for f in some_facts(Random(seed)) if f.side or f.finding in (
            "cardiomegaly", "hernia")}.values()) for seed in (k, k + 1000))
        forth, back = compare(now, before), compare(before, now)
        changes = {(f.finding, s): f.change for f in forth if f.change
                   for s in (("right", "left") if f.side == "bilateral" else (f.side,))}
        for f in back:
            for side in ("right", "left") if f.side == "bilateral" else (f.side,):
                assert not f.change or changes[f.finding, side] == flip[f.change]
        assert all(f.change in ("", "unchanged") for f in compare(now, now))


def test_reports_of_the_thorax_module():
    c = thorax.cohort(24, 32, 3)
    made = written(c, None, 1)
    assert made.report == written(c, None, 1).report
    assert made.report[:5] == written(c[:5], None, 1).report
    for case, text in enumerate(made.report):
        known = read(text)
        assert known == facts(c, case)
        there = {f.finding for f in known if f.presence == "present"}
        assert there == {name for name, v in zip(c.names["label"], c.label[case], strict=True) if v > 0}
    assert region_of(THORAX) == "thorax"


def test_phrases_agree_with_boxes():
    c = thorax.cohort(30, 48, 5, prevalence=dict.fromkeys(thorax.FINDINGS, 0.6))
    parts = 0
    for case in range(len(c)):
        known = set(facts(c, case))
        found = phrases(c, case)
        for k, name in enumerate(c.names["label"]):
            mine = [p for p in found if p[2].finding == name]
            assert bool(mine) == bool(c.label[case, k] > 0 and not c.box[case, k].isnan().any())
            if mine:
                corners = torch.tensor([box for _, box, _ in mine])
                whole = torch.cat([corners[:, :2].amin(0), corners[:, 2:].amax(0)])
                assert torch.allclose(whole, c.box[case, k].float())
            if len(mine) == 2:
                parts += 1
                box = {f.side: box for _, box, f in mine}
                assert box["right"][2] <= box["left"][0] + 1e-6
        for phrase, _, fact in found:
            assert fact in known
            assert read(phrase) == (fact,)
    assert parts > 3


@pytest.mark.parametrize("region", REGIONS)
def test_captions_grow_with_the_level(region):
    for k in range(40 if region == "thorax" else 12):
        known = some_facts(Random(k), region, mentioned=1)
        there = {f.finding for f in known if f.presence == "present"}
        levels = [caption(known, k, level, "PA", "female", 40, region=region) for level in range(4)]
        assert not {f for f in read(levels[0], region) if f.presence == "present"}
        for text in levels[1:]:
            assert "40-year-old woman" in text
            assert {f.finding for f in read(text, region) if f.presence == "present"} == there
        text = caption(known, k, 2, preamble=True, region=region)
        before = text[:text.index(caption(known, k, 0, preamble=True, region=region).split(". ")[-1][:-1])]
        for start, end, finding in mentions(levels[2], region):
            assert finding in there
            assert finding in {f.finding for f in read(levels[2][start:end], region)}
        assert 40 <= len(before.split()) <= 90
        assert not read(before, region)


@pytest.mark.parametrize("region", REGIONS)
def test_knowledge_and_prompts_of_every_finding(region):
    groups = words(region)["groups"]
    assert {m for g in groups.values() for m in g["members"]} == set(words(region)["findings"])
    descriptions = set()
    for finding in words(region)["findings"]:
        known = knowledge(finding, region)
        assert finding in groups[known["group"]]["members"]
        assert all(known[key] for key in ("definition", "shape", "density", "border", "place", "synonyms"))
        descriptions.add(known["description"])
        affirm, deny = prompts(finding, region)
        assert len(affirm) >= 5
        assert {f.presence for t in affirm for f in read(t, region) if f.finding == finding} == {"present"}
        assert {f.presence for t in deny for f in read(t, region) if f.finding == finding} == {"absent"}
    assert len(descriptions) == len(words(region)["findings"])


def test_indication_asks_for_a_denial():
    known = canonical([Fact(f, "absent") for f in THORAX[:-1]] + [Fact("fracture", side="left")])
    for seed in range(20):
        few = pertinent(known, "effusion", seed, share=0.2)
        assert {Fact("effusion", "absent"), Fact("fracture", side="left")} <= set(few)
        assert len(few) < len(known)
        assert "effusion" in report(few, "narrative", seed, indication="effusion").text.split("\n")[0]
        assert read(report(few, "narrative", seed, indication="effusion").text) == few
    assert pertinent(known, share=1.0) == known


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="no style 'novel'; choose from prose"):
        report([], "novel")
    with pytest.raises(ValueError, match=r"no words for finding 'gout'.*add it to words.yml"):
        report([Fact("gout")])
    with pytest.raises(ValueError, match="gives cardiomegaly no site"):
        report([Fact("cardiomegaly", side="left")])
    with pytest.raises(ValueError, match="gives glaucoma no site"):
        report([Fact("glaucoma", zone="upper")], region="eye")
    with pytest.raises(ValueError, match="no words for region 'knee'"):
        report([], region="knee")
    with pytest.raises(ValueError, match="no region of words.yml has all of effusion, gout"):
        region_of(("effusion", "gout"))
    with pytest.raises(ValueError, match="names of the findings"):
        facts(Cohort(image=torch.zeros(1, 1, 4, 4)), 0)
    assert language.report([]).facts == ()


def test_a_report_without_the_person_says_neither_sex_nor_age():
    films = thorax.cohort(8, 16, 3)
    told, untold = (" ".join(written(films, seed=1, person=person).report).lower() for person in (True, False))
    assert re.search(r"year-old|\bwoman\b|\bman\b", told)
    assert not re.search(r"year-old|\bwoman\b|\bman\b|\bmale\b|\bfemale\b", untold)
