"""Names by attributes: every sentence names exactly one thing, by an oracle that looks at the attributes alone."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtutor.cohort import Cohort
from medtutor.language.known import words
from medtutor.language.refer import described, refer, tells, terms

VALUES = {"size": ("small", "medium", "large"), "density": ("faint", "dense"), "border": ("smooth", "ragged"),
          "level": ("near the dome", "middle", "low"), "lobe": ("right", "left"), "side": ("left", "middle", "right"),
          "zone": ("upper", "middle", "lower"), "gloss": ("dull", "shiny")}


def lesions(attribute, chosen=tuple(VALUES)):
    names = {"attribute": tuple(chosen), **{f"attribute_{name}": VALUES[name] for name in chosen}}
    return Cohort(meta={"attribute": torch.as_tensor(attribute)[None]}, names=names, label=torch.zeros(1, 1))


@st.composite
def scenes(draw):
    chosen = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6, unique=True))
    row = st.one_of(st.just([-1] * len(chosen)), st.tuples(*(st.integers(-1, len(VALUES[c]) - 1) for c in chosen)))
    return draw(st.lists(row.map(list), min_size=1, max_size=5)), chosen


def shortest(rows, slot):
    """How many attributes it takes to tell a row from the others; None where they do not."""
    seen = [c for c, value in enumerate(rows[slot]) if value >= 0]
    for count in range(len(seen) + 1) if seen else ():
        for some in combinations(seen, count):
            alike = [k for k, row in enumerate(rows) if all(row[c] == rows[slot][c] for c in some) and max(row) >= 0]
            if alike == [slot]:
                return count
    return None


@settings(max_examples=250)
@given(scenes(), st.integers(0, 2**16), st.integers(0, 3))
def test_a_sentence_names_exactly_one_thing_in_as_few_words_as_can_be(scene, seed, extra):
    rows, chosen = scene
    cohort = lesions(rows, chosen)
    for slot in range(len(rows)):
        count = shortest(rows, slot)
        if count is None:
            with pytest.raises(ValueError, match="like another one in all attributes|empty"):
                refer(cohort, 0, slot, seed)
            continue
        text, more = refer(cohort, 0, slot, seed), refer(cohort, 0, slot, seed, extra)
        assert tells(cohort, 0, text) == tells(cohort, 0, more) == (slot,)
        assert text == refer(cohort, 0, slot, seed)
        mine = dict(zip(chosen, rows[slot], strict=True))
        assert sum(mine[c] >= 0 and VALUES[c][mine[c]] in text for c in chosen) >= count
        assert len(more.split()) >= len(text.split())


def test_words_stand_in_natural_order():
    c = lesions([[0, 1, 0, 0, 0, 1, 0, 1], [1] * 8])
    assert described(c, 0, 0) == ("small shiny dense lesion with smooth border near the dome of the right lobe "
                                  "in the upper zone in the middle")
    assert described(c, 0, 1, chosen=("side", "size", "zone")) == "medium lesion in the middle zone in the middle"
    assert tells(c, 0, "the dense lesion") == (0, 1)
    assert tells(c, 0, "The lesion in the middle zone") == (1,)
    assert tells(c, 0, "the large lesion") == ()
    assert refer(c, 0, 0, noun="nodule").startswith("the ")
    assert "nodule" in refer(c, 0, 0, noun="nodule")


def test_kinds_of_prompts():
    c = lesions([[0, 1, 0, 0, 0, 1, 0, 1], [2, 0, 1, 2, 1, 0, 2, 0]])
    grown = [described(c, 0, 0, chosen=("size", "side", "lobe")[:k], noun="liver tumour") for k in range(4)]
    assert grown == ["liver tumour", "small liver tumour", "small liver tumour in the middle",
                     "small liver tumour of the right lobe in the middle"]
    name = words()["opaque"][0]
    text = {kind: described(c, 0, 0, kind, noun=name) for kind in words()["described"]}
    assert text["name"] == name
    assert sorted(text["shuffled"].split()) == sorted(text["description"].split())
    assert text["shuffled"] != text["description"]
    assert text["named"].startswith(f"{name} means a small")
    assert len(text["definition"].split()) >= len(text["description"].split()) + 15
    assert dict(part.split(": ") for part in text["slots"].split("; ")) == {
        name: VALUES[name][value] for name, value in zip(VALUES, c.meta["attribute"][0, 0].tolist(), strict=True)}
    assert described(c, 0, 0, "slots", ()) == ""
    less = described(c, 0, 0, "slots", [name for name in VALUES if name != "border"])
    assert set(text["slots"].split("; ")) - set(less.split("; ")) == {"border: smooth"}
    other = described(c, 0, 0, lobe="left")
    assert other == described(c, 0, 0).replace("right lobe", "left lobe")
    assert c.meta["attribute"][0, 0, 4] == 0


def test_terms_are_long_different_and_share_their_parts():
    made = dict(terms())
    assert len(made) == 30
    assert len(set(made.values())) == 30
    assert min(map(len, made)) >= 13
    assert {w: t for t, w in made.items()}["small bright round growth"] == "microleukosphaeroma"
    assert len(set(words()["opaque"])) >= 20


def test_errors_say_what_to_do():
    c = lesions([[0, 0], [0, 0], [-1, -1]], ("size", "density"))
    with pytest.raises(ValueError, match="slot 0 of case 0 is like another one in all attributes; choose another"):
        refer(c, 0, 0)
    with pytest.raises(ValueError, match="slot 2 of case 0 is empty"):
        refer(c, 0, 2)
    with pytest.raises(ValueError, match=r'need meta\["attribute"\]'):
        refer(Cohort(label=torch.zeros(1)), 0, 0)
    with pytest.raises(ValueError, match="no prompt of kind 'poem'"):
        described(c, 0, 0, "poem")
    with pytest.raises(ValueError, match="for colour"):
        described(c, 0, 0, chosen=("colour",))
    with pytest.raises(ValueError, match="for size"):
        described(c, 0, 0, size="huge")
