"""Questions: every answer is right by an oracle that reads the question's text and the facts that a report states."""

import re
from random import Random

import pytest
import torch
from test_language import REGIONS, STYLES, some_facts

from medtutor.language import facts, report
from medtutor.language.known import Fact, canonical, compare, words
from medtutor.language.questions import (
    MODALITIES,
    YES_NO,
    contradict,
    opposite,
    probe,
    progress,
    questions,
    tree,
    vocabulary,
)
from medtutor.language.reader import read
from medtutor.phantom import thorax

STATES = {"is new": "new", "has worsened": "worse", "has improved": "better", "is unchanged": "unchanged",
          "has resolved": "resolved"}


def oracle(text, facts, region):
    """The answer to a question in words, from facts; None for a question that it does not understand."""
    nouns = {noun[0]: name for name, entry in words(region)["findings"].items() for noun in entry["nouns"]}
    groups = words(region)["groups"]
    aside = {m for g in groups.values() if "topic" in g for m in g["members"]}

    def state(names):
        found = {f.presence for f in facts if f.finding in names}
        return "yes" if "present" in found else "uncertain" if "uncertain" in found else "no"

    def of(phrase, gone=False):
        side, _, noun = phrase.partition(" ")
        side, noun = (side, noun) if side in ("right", "left", "bilateral") and phrase not in nouns else ("", phrase)
        return [f for f in facts if f.finding == nouns[noun] and (not side or f.side == side)
                and (gone or f.presence != "absent")]

    def sides(some):
        return {s for f in some for s in (("right", "left") if f.side == "bilateral" else (f.side,))}

    there = [f for f in facts if f.presence == "present" and f.finding not in aside]
    for pattern, answer in (
            (r"(?:Is|Are) there (?:an? )?(.+)\?", lambda m: state([nouns[m[1]]]) if m[1] in nouns else None),
            (r"Is there an abnormality of the (.+)\?",
             lambda m: state([x for n, g in groups.items() if g.get("organ", n) == m[1] for x in g["members"]])),
            ("|".join(re.escape(g.get("topic", "-")) for g in groups.values()),
             lambda m: state({x for g in groups.values() if g.get("topic") == m[0] for x in g["members"]})),
            (r"Is any abnormality present\?", lambda m: state(set(nouns.values()) - aside)),
            (r"How many .*", lambda m: str(len({f.finding for f in there}))),
            (r"On which side (?:is|are) the (.+)\?",
             lambda m: "bilateral" if len(sides(of(m[1]))) == 2 else sides(of(m[1])).pop()),
            (r"(?:Is|Are) the (.+) on the (right|left)\?", lambda m: "yes" if sides(of(m[1])) == {m[2]} else "no"),
            (r"In which zone (?:is|are) the (.+)\?", lambda m: max(f.zone for f in of(m[1]))),
            (r"How severe (?:is|are) the (.+)\?", lambda m: max(f.severity for f in of(m[1]))),
            (r"How ha(?:s|ve) the (.+) changed since the previous examination\?",
             lambda m: max(f.change for f in of(m[1], gone=True))),
            (r"Which abnormality is present on the (\w+) only\?", lambda m: [
                f.finding for f in there if sides(g for g in there if g.finding == f.finding) == {m[1]}][0]),
            (r"Which abnormality is (\w+)\?",
             lambda m: [f.finding for f in there if m[1] in (f.severity, f.change)][0]),
    ):
        match = re.fullmatch(pattern, text)
        if match and answer(match) is not None:
            return answer(match)
    return None


def told(k, region="thorax", there=0.3):
    return some_facts(Random(k), region, there, 0.9)


@pytest.mark.parametrize("region", REGIONS)
def test_every_answer_is_right_by_what_a_report_says(region):
    kinds = set()
    for k in range(150):
        known = told(k, region)
        seen = read(report(known, STYLES[k % len(STYLES)], k, region=region).text, region)
        for question in [*questions(known, None, k, region=region), *tree(known, region)]:
            kinds.add(question.kind)
            assert question.answer == oracle(question.text, seen, region), (question, seen)
            assert question.answer in question.options
            assert question.answer in vocabulary(region)
    assert kinds >= {"topic", "finding", "abnormality", "count", "change", "which"}


def test_change_since_the_last_visit():
    for k in range(100):
        now, before = told(k), told(k + 500)
        seen = read(report(compare(now, before), "prose", k).text)
        asked = questions(now, before, k)
        assert any(q.kind == "change" for q in asked)
        assert all(q.answer == oracle(q.text, seen, "thorax") for q in asked)
        assert all(q.answer == "unchanged" for q in questions(now, now, k) if q.kind == "change")


def test_tree_closes_below_a_no():
    for k in range(100):
        asked = tree(told(k))
        for question in asked:
            assert (question.parent == -1) == (question.level == 1)
            if question.parent >= 0:
                assert asked[question.parent].answer != "no"
                assert asked[question.parent].level == question.level - 1
    healthy = tree([Fact(f, "absent") for f in words()["findings"]])
    assert {(q.level, q.answer) for q in healthy} == {(1, "no")}


def test_adversarial_pairs():
    kinds = set()
    for k in range(200):
        known = told(k, there=k % 2 * 0.3)
        seen = read(report(known, "bullets", k).text)
        asked = probe(known, k)
        pairs = {q.pair: [p for p in asked if p.pair == q.pair] for q in asked if q.pair >= 0}
        for pair in pairs.values():
            kinds.add(pair[0].kind)
            assert [q.answer for q in pair] == ["yes", "no"]
            assert pair[0].kind == pair[1].kind
            for question in pair if pair[0].kind in ("finding", "side") else ():
                assert question.answer == oracle(question.text, seen, "thorax")
        single = [q for q in asked if q.pair < 0]
        present = any(f.presence == "present" for f in known)
        assert single[0].answer == oracle(single[0].text, seen, "thorax")
        assert [q.kind for q in single] == ["abnormality"] + ["finding"] * (not present)
    assert kinds == {"modality", "organ", "finding", "side"}


@pytest.mark.parametrize("region", REGIONS)
def test_hallucinated_organs_and_modalities_are_really_wrong(region):
    table, wrong = words(region), {"organ": set(), "modality": set()}
    assert table["modality"] in MODALITIES
    assert all(region in words(near)["near"] for near in table["near"])
    for k in range(60):
        asked = {(q.kind, q.answer): q.text for q in probe(told(k, region), k, region=region)}
        assert asked["modality", "yes"] == f"Was this image made by {table['modality']}?"
        assert asked["organ", "yes"] == f"Does this image show the {table['organ']}?"
        for kind in wrong:
            wrong[kind].add(asked[kind, "no"])
    assert not wrong["organ"] & {f"Does this image show the {words(r)['organ']}?" for r in (region, *table["near"])}
    assert min(map(len, wrong.values())) >= 4


@pytest.mark.parametrize("region", REGIONS)
def test_one_error_in_every_region(region):
    for k in range(12):
        wrong, before, after = contradict(told(k, region), k, None, region)
        assert before or after
        assert read(report(wrong, STYLES[k % len(STYLES)], k, region=region).text, region) == wrong


def test_negated_questions_have_negated_answers():
    turned = 0
    for question in [q for k in range(30) for q in questions(told(k), None, k)]:
        if question.options == YES_NO:
            other = opposite(question)
            turned += 1
            assert "no " in other.text
            assert {question.answer, other.answer} in ({"yes", "no"}, {"uncertain"})
        else:
            with pytest.raises(ValueError, match="only a yes/no question"):
                opposite(question)
    assert turned > 300


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_balance_of_yes_and_no(share):
    for k in range(40):
        asked = questions(told(k), None, k, balance=share)
        yes, no = (sum(q.options == YES_NO and q.answer == a for q in asked) for a in ("yes", "no"))
        assert abs(yes - share * (yes + no)) <= 1
        assert {id(q) for q in asked}
    assert questions(told(3), None, 3) == questions(told(3), None, 3)


def test_progress_has_one_true_statement():
    seen_other_side = 0
    for k in range(150):
        now, before = told(k), told(k + 300)
        truth = {f"{f.side} {words()['findings'][f.finding]['nouns'][0][0]}".strip(): f for f in compare(now, before)
                 if f.change}
        for question in progress(now, before, k):
            assert len(set(question.options)) == 4
            right = [o for o in question.options for noun, f in truth.items()
                     if (m := re.fullmatch(r"The (.+) ((?:is|has) \w+)\.", o)) and m[1] == noun
                     and STATES[m[2]] == f.change]
            assert right == [question.answer]
            seen_other_side += len({o.split()[1] for o in question.options} & {"right", "left"}) == 2
    assert seen_other_side > 50


def test_progress_without_prior_facts_says_what_the_report_says():
    grade = torch.tensor([[[0.55, 0.0], [0.70, 0.0]], [[0.45, 0.0], [0.52, 0.0]]])
    films = thorax.cohort(2, 16, 0, visits=2, severity={"mass": grade})
    for case, word in ((1, "worse"), (3, "unchanged")):
        (change,) = {f.change for f in facts(films, case) if f.finding == "mass"}
        assert change == word
        (question,) = progress(facts(films, case))
        assert STATES[re.search(r"(?:is|has) \w+", question.answer)[0]] == word


@pytest.mark.parametrize("kind", ["presence", "hallucination", "omission", "side", "zone", "severity", "change", None])
def test_one_error_and_which(kind):
    for k in range(60):
        known = canonical([*told(k), Fact("nodule", "present", "left", "upper", "mild", "new")])
        wrong, before, after = contradict(known, k, kind)
        assert wrong != known
        assert wrong == contradict(known, k, kind)[0]
        assert set(known) - set(wrong) <= {before} | {f for f in known if before and f.finding == before.finding}
        assert before is None or before in known
        assert after is None or after in wrong
        assert read(report(wrong, STYLES[k % len(STYLES)], k).text) == wrong
        if kind in ("side", "zone", "severity", "change"):
            changed = [n for n in ("side", "zone", "severity", "change") if getattr(before, n) != getattr(after, n)]
            assert changed == [kind]
    with pytest.raises(ValueError, match="no fact here can carry an error of kind 'side'"):
        contradict([Fact("cardiomegaly")], 0, "side")
