"""Questions about the digital patient, with answers that follow from its facts, and errors in its facts.

`questions` mixes kinds, `tree` asks topic, finding, attribute in this order (Rad-ReStruct, Pellegrini et al. 2023),
`probe` pairs each true attribute with a hallucinated one (ProbMed, Yan et al. 2024), `progress` offers four changes of
which one is true (MMXU, Mu et al. 2025), `contradict` makes one error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from medtutor.language.known import MIRROR, VALUES, Fact, a, canonical, compare, entry_of, words

YES_NO = ("no", "yes", "uncertain")
MODALITIES = ("X-ray", "CT", "MRI", "ultrasound", "dermoscopy", "fundus photography", "clinical photography",
              "colonoscopy", "microscopy", "electrocardiography")
CHANGED = {"new": "is new", "worse": "has worsened", "better": "has improved", "unchanged": "is unchanged",
           "resolved": "has resolved"}


@dataclass(frozen=True)
class Question:
    """A question with the one right `answer` out of `options`.

    kind: modality, organ, abnormality, topic, finding, side, zone, severity, change, which or count; `level` 1 to 3 in
    the tree; `parent` is the index of the question whose "no" closes this one, `pair` numbers adversarial partners
    (-1: none); `fact` is what the question asks about.
    """

    text: str
    answer: str
    kind: str
    options: tuple[str, ...] = YES_NO
    level: int = 2
    parent: int = -1
    pair: int = -1
    fact: Fact | None = None


def vocabulary(region: str = "thorax") -> tuple[str, ...]:
    """Every answer that `questions`, `tree` and `probe` can give: a closed list (`progress` answers in sentences)."""
    findings = words(region)["findings"]
    values = [value for name in ("side", "zone", "severity", "change") for value in VALUES[name][1:]]
    return tuple(dict.fromkeys([*YES_NO, *values, *findings, *map(str, range(len(findings) + 1))]))


def _noun(fact: Fact, region: str) -> str:
    return f"{fact.side} {entry_of(words(region), fact.finding)['nouns'][0][0]}".strip()


def _present(finding: str, answer: str, region: str, parent: int = -1, pair: int = -1) -> Question:
    one, _, counts = entry_of(words(region), finding)["nouns"][0]
    many = "plural" in words(region)["findings"][finding]
    text = f"Are there {one}?" if many else f"Is there {a(one, counts)}?"
    return Question(text, answer, "finding", parent=parent, pair=pair, fact=Fact(finding))


def _state(facts, members) -> str:
    found = {f.presence for f in facts if f.finding in members}
    return "yes" if "present" in found else "uncertain" if "uncertain" in found else "no"


def _alone(fact: Fact, facts) -> bool:
    """Whether finding and side name this fact and no other one."""
    return not any(f.finding == fact.finding and f != fact and f.told and (
        f.side == fact.side or {f.side, fact.side} & {"", "bilateral"}) for f in facts)


def _attributes(facts, finding: str, region: str, parent: int = -1) -> list[Question]:
    """Side, zone, severity and change of a finding that is or was there; sides that differ are asked one by one."""
    out, mine = [], [f for f in facts if f.finding == finding and f.told]
    verb, have = ("are", "have") if "plural" in words(region)["findings"][finding] else ("is", "has")
    there = {f.side for f in mine if f.presence != "absent"}
    if there and "" not in there:
        side, text = there.pop() if len(there) == 1 else "bilateral", f"On which side {verb} the "
        out.append(Question(text + _noun(Fact(finding), region) + "?", side, "side", VALUES["side"][1:], 3, parent,
                            fact=Fact(finding)))
    for fact in (f for f in mine if _alone(f, mine)):
        noun = _noun(fact, region)
        ask = {"zone": f"In which zone {verb} the {noun}?", "severity": f"How severe {verb} the {noun}?",
               "change": f"How {have} the {noun} changed since the previous examination?"}
        ask = ask if fact.presence != "absent" else {"change": ask["change"]}
        out += [Question(text, getattr(fact, kind), kind, VALUES[kind][1:], 3, parent, fact=fact)
                for kind, text in ask.items() if getattr(fact, kind)]
    return out


def tree(facts, region: str = "thorax") -> list[Question]:
    """Questions from topic over finding to attribute; below a topic or finding that is absent nothing is asked."""
    facts, out = canonical(facts), []
    for name, group in words(region)["groups"].items():
        members = [m for m in group["members"] if any(f.finding == m for f in facts)]
        topic, answer = len(out), _state(facts, members)
        if members:
            text = group.get("topic", f"Is there an abnormality of the {group.get('organ', name)}?")
            out.append(Question(text, answer, "topic", level=1))
        for finding in members if answer != "no" else ():
            out.append(_present(finding, _state(facts, [finding]), region, topic))
            out += _attributes(facts, finding, region, len(out) - 1) if out[-1].answer != "no" else []
    return out


def questions(facts, prior_facts=None, seed: int = 0, balance: float | None = None, region: str = "thorax",
              ) -> list[Question]:
    """Questions of every kind about one visit, in random order; with `prior_facts` also on what has changed.

    balance: the share of "yes" among the certain yes/no questions, reached by leaving some out (as near as their
    number allows); None keeps all of them.
    """
    facts = canonical(facts) if prior_facts is None else compare(facts, prior_facts)
    rng, table = Random(f"questions/{seed}"), words(region)
    ill = [name for name in table["findings"] if name not in table["aside"]]
    known, names = list(dict.fromkeys(f.finding for f in facts)), tuple(table["findings"])
    there = [f for f in facts if f.presence == "present" and f.finding in ill]
    out = [_present(name, _state(facts, [name]), region) for name in known]
    out += [q for name in known for q in _attributes(facts, name, region)]
    out.append(Question("Is any abnormality present?", _state(facts, ill), "abnormality", level=1))
    out.append(Question("How many different abnormalities are definitely present?",
                        str(len({f.finding for f in there})), "count", tuple(map(str, range(len(names) + 1)))))
    for field, value in ((name, v) for name in ("side", "severity", "change") for v in VALUES[name][1:]):
        some = {f.finding for f in there if getattr(f, field) == value}
        if field == "side":  # on this side only, so that a finding on both sides is no answer
            some -= {f.finding for f in there if f.side != value}
        text = f"Which abnormality is {f'present on the {value} only' if field == 'side' else value}?"
        if len(some) == 1 and value not in ("bilateral", "resolved"):
            out.append(Question(text, some.pop(), "which", names))
    rng.shuffle(out)
    if balance is not None:
        yes, no = ([q for q in out if q.options == YES_NO and q.answer == word] for word in ("yes", "no"))
        total = min(len(some) / share for some, share in ((yes, balance), (no, 1 - balance)) if share > 0)
        drop = {*map(id, yes[round(total * balance):]), *map(id, no[round(total * (1 - balance)):])}
        out = [q for q in out if id(q) not in drop]
    return out


def opposite(question: Question) -> Question:
    """The yes/no question that asks for the contrary, with the contrary answer. Raises ValueError for other kinds."""
    for start in ("Is there an ", "Is there a ", "Is there any ", "Is there ", "Are there any ", "Are there ",
                  "Is any "):
        if question.text.startswith(start) and question.options == YES_NO:
            flip = {"yes": "no", "no": "yes", "uncertain": "uncertain"}[question.answer]
            verb = "Is no " if start == "Is any " else start.split()[0] + " there no "
            return replace(question, text=verb + question.text.removeprefix(start), answer=flip)
    raise ValueError(f"only a yes/no question on presence has an opposite, but got {question.text!r}")


def probe(facts, seed: int = 0, modality: str = "", region: str = "thorax") -> list[Question]:
    """Adversarial pairs: a true attribute (yes) and a hallucinated one (no) in the same words, joined by `pair`.

    Kinds modality, organ, finding and side, and the single question on any abnormality. A case without findings gets
    one hallucinated finding without a partner, as in ProbMed. Uncertain findings are not asked for. `modality` is one
    of `MODALITIES`, "" the usual one of the region; the wrong organ is none that such an image may show, too.
    """
    facts, rng, table = canonical(facts), Random(f"probe/{seed}"), words(region)
    there = list(dict.fromkeys(f.finding for f in facts if f.presence == "present"))
    absent = [f.finding for f in facts if f.presence == "absent" and not f.change]
    rng.shuffle(absent)
    far, modality = sorted({*table["regions"]} - {region, *table["near"]}), modality or table["modality"]
    organs = [table["organ"], words(rng.choice(far))["organ"]]
    taken = [modality, rng.choice([m for m in MODALITIES if m != modality])]
    pairs = [[("modality", f"Was this image made by {m}?", None) for m in taken],
             [("organ", f"Does this image show the {organ}?", None) for organ in organs]]
    for fact in facts:
        if fact.presence == "present" and fact.side in MIRROR and sum(f.finding == fact.finding for f in facts) == 1:
            verb = "Are" if "plural" in table["findings"][fact.finding] else "Is"
            text = f"{verb} the {_noun(Fact(fact.finding), region)} on the "
            pairs.append([("side", text + s + "?", replace(fact, side=s)) for s in (fact.side, MIRROR[fact.side])])
    out = [Question(text, answer, kind, pair=k, fact=fact) for k, two in enumerate(pairs)
           for (kind, text, fact), answer in zip(two, ("yes", "no"), strict=True)]
    ill = [name for name in table["findings"] if name not in table["aside"]]
    out.append(Question("Is any abnormality present?", _state(facts, ill), "abnormality", level=1))
    for k, names in enumerate(zip(there, absent, strict=False), len(pairs)):
        out += [_present(name, answer, region, pair=k) for name, answer in zip(names, ("yes", "no"), strict=True)]
    return out + [_present(name, "no", region) for name in absent[:1] if not there]


def progress(facts, prior_facts=None, seed: int = 0, region: str = "thorax") -> list[Question]:
    """One question for each finding with a change: four statements that differ in direction or side, one of them true.

    The change is that since `prior_facts`, in the steps of the grades; without them it is what the facts say, which is
    what a report of them says. Swapping the visits swaps "worse" and "better" and keeps "unchanged".
    """
    rng, out = Random(f"progress/{seed}"), []
    facts = canonical(facts) if prior_facts is None else compare(facts, prior_facts)
    taken = {(f.finding, f.side, f.change) for f in facts}
    for fact in (f for f in facts if f.change and _alone(f, facts)):
        wrong = [replace(fact, presence="present", change=c) for c in CHANGED if c != fact.change]
        near = [replace(fact, side=MIRROR[fact.side])] if fact.side in MIRROR else []
        near = [f for f in near if (f.finding, f.side, f.change) not in taken]
        some = [fact, *near, *rng.sample(wrong, 3 - len(near))]
        options = [f"The {_noun(f, region)} {CHANGED[f.change]}." for f in some]
        shuffled = rng.sample(options, 4)
        out.append(Question("Which statement on the change since the previous examination is right?", options[0],
                            "change", tuple(shuffled), 3, fact=fact))
    return out


def contradict(known, seed: int = 0, kind: str | None = None, region: str = "thorax",
               ) -> tuple[tuple[Fact, ...], Fact | None, Fact | None]:
    """Facts with exactly one error, and what was changed: (facts, before, after).

    kind: "presence" (a finding denied), "hallucination" (one affirmed that is denied or not mentioned), "omission"
    (after is None), "side" (swapped), "zone", "severity", "change", None for a random kind that applies. Raises
    ValueError where no fact can carry the error.
    """
    known, table, rng = canonical(known), words(region)["findings"], Random(f"contradict/{seed}")
    there = [f for f in known if f.presence != "absent"]
    flips = {"presence": [(f, Fact(f.finding, "absent")) for f in there], "omission": [(f, None) for f in there],
             "side": [(f, replace(f, side=MIRROR[f.side])) for f in there if f.side in MIRROR],
             "hallucination": [(next((f for f in known if f.finding == name), None), Fact(
                 name, side=rng.choice(tuple(MIRROR)) if entry["site"] else "")) for name, entry in table.items()
                 if not any(f.finding == name and f.told for f in known)]}
    for name in ("zone", "severity", "change"):
        flips[name] = [(f, replace(f, **{name: other})) for f in there for other in VALUES[name][1:]
                       if getattr(f, name) not in ("", other) and other != "resolved"
                       and (other not in ("worse", "better") or table[f.finding]["grade"] != "none")]
    made = {k: [(canonical([f for f in known if f != old] + [new] * (new is not None)), old, new) for old, new in pairs]
            for k, pairs in flips.items() if kind in (None, k)}
    made = {k: [m for m in some if m[0] != known and (m[2] is None or m[2] in m[0])] for k, some in made.items()}
    if not any(made.values()):
        raise ValueError(f"no fact here can carry an error of kind {kind!r}; kinds are {', '.join(flips)}")
    return rng.choice(made[rng.choice([k for k in made if made[k]])])
