"""Code-mixed questions: words agree, every Hindi word has a gloss, mixing follows `mix`, the picture stays unsaid."""

import re
import subprocess
import sys
from itertools import pairwise

import pytest

from medtutor.language.codemixed import mixing, question
from medtutor.language.known import load

TABLE = load("codemixed.yml")
SEEN = ("a dark red patch", "round", "near the wrist")
SEXES = {"m": "f", "f": "m"}


def many(mix=0.3, count=150, **options):
    return [question(seed, mix, SEEN, **options) for seed in range(count)]


def verbs(gender):
    return [form[gender] for verb in TABLE["verbs"].values() for form in verb.values()]


@pytest.mark.parametrize("mix", [0.0, 0.2, 0.4])
def test_verbs_and_possessives_agree_with_the_gender_of_the_noun(mix):
    nouns = {noun: gender for entry in TABLE["symptoms"].values() for noun, gender, _ in (entry["hi"], entry["en"])}
    parts = {word: entry["gender"] for entry in TABLE["parts"].values() for word in (entry["hi"], entry["en"])}
    people = {word: "f" if "meri {person}" in entry["locus"] else "m" for entry in TABLE["people"].values()
              for word in entry.get("person", ())}
    sides = {form[g]: g for form in TABLE["sides"].values() for g in "mf" if form[g]}
    owners = {"mere": "m", "meri": "f", "ke": "m", "ki": "f"}
    assert people["beti"] == people["mother"] == "f" != people["pitaji"]
    agreed = {"verb": 0, "owner": 0, "side": 0}
    for asked in many(mix):
        tags = [(word.lower(), language) for word, language in asked.tags]
        for (word, language), (after, _), (third, _) in zip(tags, tags[1:], [*tags[2:], ("", "")], strict=False):
            rest = " ".join(w for w, _ in tags)
            if language == "hi" and word in owners and after not in ("bimari", "baad"):
                noun = third if after in (*sides, "left", "right") else after
                assert (parts | people)[noun] == owners[word], asked.text
                agreed["owner"] += 1
            if language == "hi" and word in sides:
                assert parts[after] == sides[word], asked.text
                agreed["side"] += 1
            if word in nouns and after in ("ho", "nikal", "zyada"):
                said = rest[rest.index(f"{word} {after}") + len(word) + 1:]
                assert said.startswith(tuple(verbs(nouns[word]))), asked.text
                assert not said.startswith(tuple(verbs(SEXES[nouns[word]]))), asked.text
                agreed["verb"] += 1
    assert min(agreed.values()) > 30


def test_every_hindi_word_has_a_gloss_and_every_gloss_is_used():
    used = {word.lower() for mix in (0, 0.3) for asked in many(mix, 400) for word, tag in asked.tags if tag == "hi"}
    assert used == set(TABLE["glossary"])
    assert all(clause["hi"] and clause["en"] for group in TABLE["order"] for clause in TABLE[group])
    for asked in many(1.0, 60):
        assert {tag for _, tag in asked.tags} == {"en"}
        assert asked.text == asked.gloss
        assert not {word.lower() for word, _ in asked.tags} & (set(TABLE["glossary"]) - {"do"})


def test_mix_steers_the_share_of_english_and_the_index():
    steps = [k / 10 for k in range(11)]
    table = [many(mix, 60) for mix in steps]
    shares = [[sum(tag == "en" for _, tag in asked.tags) / len(asked.tags) for asked in row] for row in table]
    for mix, row in zip(steps, shares, strict=True):
        assert abs(sum(row) / len(row) - mix) < 0.06
    for one in zip(*shares, strict=True):
        assert list(one) == sorted(one)
    indices = [sum(mixing(asked.tags) for asked in row) for row in table[:6]]
    assert all(b > a for a, b in pairwise(indices))
    assert all(len({asked.summary for asked in one}) == len({asked.gloss for asked in one}) == 1
               for one in zip(*table, strict=True))


def test_the_index_of_das_and_gambaeck():
    assert mixing([("haath", "hi")] * 3) == 0
    assert mixing([("haath", "hi"), ("hand", "en"), ("2", "un")]) == 0.5
    assert mixing([("haath", "hi")] * 7 + [("hand", "en")] * 3 + [("!", "un")] * 5) == pytest.approx(0.3)
    assert mixing([]) == mixing([("2", "un")]) == 0


def test_the_summary_holds_every_fact_and_the_text_none_of_what_is_seen():
    for asked in many(0.5, 100):
        assert all(fact in asked.summary for fact in (*asked.told, *asked.seen))
        assert asked.seen == SEEN
        said = f" {asked.text.lower()} {asked.gloss.lower()} "
        assert not any(word in said for word in (*SEEN, " red", " dark", "patch", "wrist", "laal", "kaala"))
        assert asked.told[1] in asked.gloss or asked.told[1] == "discharge"
        assert all(word in asked.gloss for word in asked.told[0].split() + [asked.told[2]])
        assert "Picture" not in question(3, 0.5).summary


def test_questions_read_well():
    texts = [asked.text for mix in (0, 0.3, 0.6) for asked in many(mix)]
    for text in texts:
        assert not re.search(r"[{}*]|  |\.\.| [.?]|[.?] [a-z]|\bi\b", text), text
        assert text[-1] in ".?"
    assert len(set(texts)) > 400
    for asked in many(0.0, 60, part="eye", symptom="itching"):
        assert "aankh mein" in asked.text


def test_the_same_in_every_process():
    code = "from medtutor.language.codemixed import question; print([question(s, 0.4, ('red',)) for s in range(5)])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([question(s, 0.4, ("red",)) for s in range(5)])


def test_errors_say_what_to_do():
    for wrong in ({"mix": 1.5}, {"part": "tail"}, {"symptom": "hiccups"}, {"part": "skin", "symptom": "stiffness"}):
        with pytest.raises(ValueError, match="mix is from 0 to 1, parts are hand, foot"):
            question(0, **wrong)
