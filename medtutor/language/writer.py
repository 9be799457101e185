"""The words of the digital patient: reports in several styles, captions, prompts, phrases with boxes.

`known.facts` reads a `Cohort`, `report` writes, `reader.read` reads back, `questions` asks. All choices depend
on `seed` and the arguments only.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from random import Random
from typing import NamedTuple

from medtutor.cohort import Cohort
from medtutor.language.known import MIRROR, Fact, a, canonical, entry_of, facts, region_of, words

SECTIONS = ("indication", "technique", "comparison", "findings", "impression")


class Sentence(NamedTuple):
    """Characters start to end of a report, its section, and the facts that these words state."""

    start: int
    end: int
    section: str
    facts: tuple[Fact, ...]


class Report(NamedTuple):
    text: str
    sentences: tuple[Sentence, ...]
    facts: tuple[Fact, ...]


class _Hand(NamedTuple):  # who writes: the words of the region, the style of the site, the random choices
    words: dict
    style: dict
    rng: Random

    def pick(self, some):
        return some[int(self.rng.random() * len(some))]


# ---- noun phrases and sentences

def _slots(hand: _Hand, fact: Fact, lead: str = "") -> dict[str, str]:
    """The noun phrase of a fact, with articles and verbs that agree."""
    table, pick = hand.words, hand.pick
    entry = entry_of(table, fact.finding)
    one, more, counts = pick(entry["nouns"])
    many = counts and (fact.side == "bilateral" or "plural" in entry)
    noun = more if many else one
    if fact.side or fact.zone:
        place = table["places"][entry["site"]][fact.zone or "any"]
        place = place.get({"bilateral": "both", "": "none"}.get(fact.side, fact.side)) or place["one"]
        noun = pick(place).replace("{side}", fact.side).replace("~", noun)
    grade = pick(table["grades"][entry["grade"]][fact.severity]) + " " if fact.severity else ""
    np = (lead and lead + " ") + grade + noun
    verbs, single = ("are", "have", "show", "These") if many else ("is", "has", "shows", "This"), counts and not many
    return {"np": np, "a": a(np, single), "the": "the " + np, "possible": a("possible " + np, single),
            "prior": pick(table["priors"]),
            "adv": pick(table["adverbs"][fact.severity]) if fact.severity else "",
            **dict(zip(("is", "has", "shows", "This"), verbs, strict=True))}


def _told(hand: _Hand, fact: Fact, register: str) -> str:
    """One sentence for a fact that is more than a plain denial."""
    entry, rng, forms = entry_of(hand.words, fact.finding), hand.rng, hand.words["registers"][register]
    slots, change, kind = _slots(hand, fact), fact.change, fact.presence
    if change == "resolved":
        kind = "resolved"
    elif change:
        table = [hand.words["changes"].get(name, {}) for name in (entry["grade"], "common")]
        for place in ("pre", "post", "verb"):
            some = next((t[place][change] for t in table if change in t.get(place, ())), None)
            slots[place] = hand.pick(some).format(**slots) if some else ""
        slots["cnp"] = _slots(hand, fact, slots["pre"])["np"] if slots["pre"] else slots["np"] + slots["post"]
        kind = "changed" if kind == "present" and rng.random() < 0.6 else kind
    elif kind == "uncertain" and rng.random() < 0.5:
        kind = "doubt"
    template = hand.pick(forms[kind][:1] if kind == "resolved" and entry["grade"] == "none" else forms[kind])
    if kind == "present" and fact.severity and "forms" in entry and register == "full" and rng.random() < 0.5:
        template = hand.pick(entry["forms"])
    return template.format(**{"post": "", **slots})


def _denied(hand: _Hand, group: dict, quiet: list[str], loud: set[str]) -> list[tuple[str, tuple[Fact, ...]]]:
    """Sentences that deny the findings `quiet` of a group in which `loud` were told."""
    rng, out, clear = hand.rng, [], set(group.get("clear", group["members"]))
    if "normal" in group and clear <= {*quiet, *loud} and clear & {*quiet} and (len(clear) == 1 or rng.random() < 0.75):
        normal, other = hand.pick(group["normal"]), bool(loud)
        if not other or "{other" in normal:
            text = normal.replace("{otherwise}", "otherwise " * other).replace("{other}", "other " * other)
            out.append((text, tuple(Fact(f, "absent") for f in quiet if f in clear)))
            quiet = [f for f in quiet if f not in clear]
    for start in range(0, len(quiet), 4):
        entries = [entry_of(hand.words, finding) for finding in quiet[start:start + 4]]
        nouns = [hand.pick(e["negative"]) if "negative" in e else hand.pick(e["nouns"])[0] for e in entries]
        text = hand.pick(hand.words["registers"][hand.style["register"]]["absent"])
        if "plural" in entries[0]:
            text = text.replace(" is ", " are ")
        serial = hand.style["serial"] if len(nouns) > 2 else " or "
        listed = ", ".join(nouns[:-1]) + serial * (len(nouns) > 1) + nouns[-1]
        out.append((text.replace("{list}", listed), tuple(Fact(f, "absent") for f in quiet[start:start + 4])))
    return out


def _findings(hand: _Hand, group: dict, known: tuple[Fact, ...]) -> list[tuple[str, tuple[Fact, ...]]]:
    """The sentences of one group: what is there, then what is not, at times what else is normal."""
    rng, style, out = hand.rng, hand.style, []
    here = [f for f in known if f.finding in group["members"]]
    loud = [f for f in here if f.told]
    rng.shuffle(todo := list(loud))
    while todo:
        fact = todo.pop()
        plain = [f for f in todo if f.presence == fact.presence == "present" and not f.change and not fact.change]
        twin = [f for f in plain if f.finding == fact.finding and f.side == MIRROR.get(fact.side)
                and f.zone == fact.zone == "" and f.severity and fact.severity]
        if twin or plain and rng.random() < style["joined"]:
            other = (twin or plain)[-1]
            todo.remove(other)
            one, two = _slots(hand, fact), _slots(hand, other)
            text = f"there {one['is']} {one['a']} and {two['a']}"
            if twin:  # small right and large left effusions
                entry = entry_of(hand.words, fact.finding)
                grades, noun = hand.words["grades"][entry["grade"]], hand.pick(entry["nouns"])
                text = " and ".join(f"{hand.pick(grades[f.severity])} {f.side}" for f in (fact, other)) + " " + noun[1]
                text = ("there are " if noun[2] else "there is ") * (style["register"] == "full") + text
            out.append((text, (fact, other)))
        else:
            out.append((_told(hand, fact, style["register"]), (fact,)))
    out += _denied(hand, group, [f.finding for f in here if not f.told], {f.finding for f in loud})
    if not loud and "filler" in group and rng.random() < style["filler"]:
        out.append((hand.pick(group["filler"]), ()))
    return out


# ---- reports

def pertinent(known, indication: str | None = None, seed: int = 0, share: float = 0.4) -> tuple[Fact, ...]:
    """What a radiologist would mention: all that is there, the denial that the indication asks for, and a `share` of
    the other denials."""
    rng = Random(f"pertinent/{seed}")
    return tuple(f for f in canonical(known) if rng.random() < share or f.told or f.finding == indication)


def report(known, style: str = "prose", seed: int = 0, view: str = "", indication: str | None = None,
           prior: str | None = None, sex: str = "", age: float | None = None, region: str = "thorax") -> Report:
    """A report that states exactly the facts `known` (`pertinent` leaves denials out), in a style of words()["styles"].

    indication: a finding that is asked for, free text, or None for a random complaint; prior: what the comparison
    section names; sex "female" or "male" and age in years stand in the indication. `sentences` are character spans of
    `text`. Raises ValueError for an unknown style, finding or region, and for an attribute that a finding cannot have.
    """
    table, known = words(region), canonical(known)
    if style not in table["styles"]:
        raise ValueError(f"no style {style!r}; choose from {', '.join(table['styles'])}")
    for fact in known:
        entry = entry_of(table, fact.finding)
        zoned = "upper" in table["places"].get(entry["site"], ())
        if not entry["site"] and fact.side or fact.zone and not zoned or entry["grade"] == "none" and (
                fact.severity or fact.change in ("worse", "better")):
            raise ValueError(f"words.yml gives {fact.finding} no site or no grade for {fact}")
    hand = _Hand(table, table["styles"][style], Random(f"{style}/{seed}"))
    order, layout, british = hand.style["order"], hand.style["layout"], hand.style["spelling"] == "british"
    groups = [*(g for g in order if g in table["groups"]), *(g for g in table["groups"] if g not in order)]
    told = [(table["groups"][g]["title"], _findings(hand, table["groups"][g], known)) for g in groups]
    compared = prior or (hand.pick(table["comparisons"]) if any(f.change for f in known) else "none available")
    study = hand.pick(table["studies"].get(view, table["studies"]["any"]))
    bodies = ([("", [(_asked(hand, indication, sex, age), ())])], [("", [(study, ())])], [("", [(compared, ())])],
              told if layout == "organs" else [("", [s for _, some in told for s in some])],
              [("", _concluded(hand, known))])
    text, spans = "", []
    for section, header, body in zip(SECTIONS, hand.style["headers"], bodies, strict=True):
        if header is None:
            continue
        text += ("\n" if text else "") + (header + ":" if header else "\n" if text else "")
        many = section == "impression" and "numbered" in hand.style and len(body[0][1]) > 1
        bullet = section == "findings" and layout == "bullets"
        for title, sentences in body:
            text += f"\n{title}:" if title and sentences else ""
            for count, (sentence, stated) in enumerate(sentences, 1):
                text += f"\n{count}. " if many else "\n- " if bullet else " " if text and text[-1] != "\n" else ""
                if british:
                    sentence = table["spelling"].sub(lambda match: table["british"][match[0]], sentence)
                spans.append(Sentence(len(text), len(text) + len(sentence) + 1, section, stated))
                text += sentence[:1].upper() + sentence[1:] + "."
    return Report(text, tuple(spans), known)


def _person(sex: str, age: float) -> str:
    return f"{age:.0f}-year-old { {'female': 'woman', 'male': 'man'}.get(sex, 'patient')}"


def _asked(hand: _Hand, indication: str | None, sex: str, age: float | None) -> str:
    table, rng = hand.words, hand.rng
    complaint = rng.choice(table["indications"]) if indication is None else indication
    if indication in table["findings"]:
        entry = table["findings"][indication]
        ask = rng.choice([", rule out {}", ", ? {}", ". Evaluate for {}"]).format(entry["nouns"][0][0])
        complaint = rng.choice(entry.get("ask", table["indications"])) + ask
    return complaint if age is None else f"{_person(sex, age)}, {complaint}"


def _concluded(hand: _Hand, known: tuple[Fact, ...]) -> list[tuple[str, tuple[Fact, ...]]]:
    """The impression: what is there, in short, with some attributes left out."""
    rng, out, known = hand.rng, [], [f for f in known if f.finding not in hand.words["aside"]]
    for fact in sorted((f for f in known if f.told), key=lambda f: "pua".index(f.presence[0])):  # the sure ones first
        fact = replace(fact, zone=fact.zone * (rng.random() < 0.8), severity=fact.severity * (rng.random() < 0.7))
        out.append((_told(hand, fact, "terse"), (fact,)))
    if all(f.presence == "absent" for f in known):
        out.append((rng.choice(hand.words["normal"]), ()))
    elif {f.change for f in known if f.told} == {"unchanged"}:
        out.append((hand.words["unchanged"], ()))
    return out


def written(cohort: Cohort, style: str | None = None, seed: int = 0, share: float = 1.0, doubt: float = 0.0,
            person: bool = True) -> Cohort:
    """The cohort with a `report` for every case, from `facts` and meta view and, for a `person`, sex (0 female, 1 male)
    and age, where present (no view: the first of names["image"] or names["volume"]); style None draws one for each
    case, `share` as in `pertinent`."""
    texts, region = [], region_of(cohort.names["label"])
    seen = cohort.names.get("image", cohort.names.get("volume", ("",)))[0]
    for case in range(len(cohort)):
        rng, row = Random(f"written/{seed}/{case}"), {k: column[case] for k, column in cohort.meta.items()
                                                      if person or k not in ("sex", "age")}
        known = pertinent(facts(cohort, case, doubt), None, rng.randrange(2**31), share)
        prior = None if cohort.visit is None or cohort.visit[case] == 0 else "previous examination"
        sex, age = ("", "female", "male")[1 + int(row.get("sex", -1))], float(row["age"]) if "age" in row else None
        texts.append(report(known, style or rng.choice(list(words()["styles"])), rng.randrange(2**31),
                            str(row.get("view", seen)), None, prior, sex, age, region).text)
    return replace(cohort, report=texts)


# ---- captions, prompts, phrases with boxes, errors

def caption(known, seed: int = 0, level: int = 2, view: str = "", sex: str = "", age: float | None = None,
            preamble: bool = False, region: str = "thorax") -> str:
    """A figure caption: level 0 names the examination, 1 adds the findings, 2 severity, side and zone, 3 density,
    border and how sides relate. `preamble` puts 40 to 90 words without any fact before it."""
    table, rng = words(region), Random(f"caption/{seed}")
    loud = [f for f in canonical(known) if f.presence == "present"]
    start = " ".join(rng.sample(table["preamble"], rng.choice((3, 4, 5)))) + " " if preamble else ""
    text = rng.choice(table["studies"].get(view, table["studies"]["any"])) + (
        "" if age is None else f" in {a(_person(sex, age), True)}")
    if level > 0:
        loud = [Fact(name) for name in dict.fromkeys(f.finding for f in loud)] if level == 1 else loud
        told = [_slots(_Hand(table, {}, rng), f)["a"] for f in loud]
        text += rng.choice([" showing ", " demonstrating ", " with "]) + ", ".join(told[:-1]) + (
            " and " * (len(told) > 1) + told[-1] if told else "no abnormal finding")
    text += "."
    for name in dict.fromkeys(f.finding for f in loud) if level > 2 else ():
        entry = table["findings"][name]
        text += f" Appearance of the {entry['nouns'][0][0]}: {entry['density']}, with {entry['border']}."
    for one, two in combinations([f for f in loud if f.side in MIRROR], 2) if level > 2 else ():
        where = "on the same side as" if one.side == two.side else "opposite"
        text += f" The {one.finding} lies {where} the {two.finding}."
    return start + text


def prompts(finding: str, region: str = "thorax") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sentences that affirm and that deny a finding, over all its synonyms, for zero-shot scoring."""
    table = words(region)
    some = [{"np": one, "a": a(one, counts), "study": table["study"], "organ": table["organ"]}
            for one, _, counts in entry_of(table, finding)["nouns"]]
    return tuple(tuple(dict.fromkeys(t.format(**slots) for t in table["prompts"][kind] for slots in some))
                 for kind in ("positive", "negative"))


def phrases(cohort: Cohort, case: int, seed: int = 0) -> list[tuple[str, tuple[float, ...], Fact]]:
    """Noun phrase, box (x0, y0, x1, y1 in pixels) and fact of each finding that is present and has a box.

    Two sides that differ get a phrase each, with the box of the mask in that half of a frontal image; without
    boolean mask layers one phrase names the finding on both sides.
    """
    from medtutor.phantom.texture import boxes

    names, layers, out = cohort.names["label"], cohort.names.get("mask", ()), []
    hand = _Hand(words(region_of(names)), {}, Random(f"phrases/{seed}/{case}"))
    for k, finding in enumerate(names):
        some = [f for f in facts(cohort, case) if f.finding == finding and f.presence == "present"]
        found = [(f, cohort.box[case, k]) for f in some]
        if len(some) > 1 and finding in layers and cohort.mask.ndim == 4:
            mask, middle = cohort.mask[case, layers.index(finding)], cohort.mask.shape[-1] // 2
            halves = {"right": mask.clone(), "left": mask.clone()}
            halves["right"][:, middle:], halves["left"][:, :middle] = 0, 0
            found = [(f, boxes(halves[f.side][None, None])[0, 0]) for f in some]
        elif len(some) > 1:
            found = [(Fact(finding, side="bilateral"), cohort.box[case, k])]
        out += [(_slots(hand, f)["np"], tuple(box.tolist()), f) for f, box in found if not box.isnan().any()]
    return out
