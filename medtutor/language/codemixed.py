"""Questions of patients in Hindi mixed with English, as typed in Latin letters, with a summary that needs the picture.

Frames with units that switch alone, and clauses that switch whole, from codemixed.yml. As in MedSumm (2024)
the text never says what is seen. Verbs and possessives agree with the gender of the noun that is there.
"""

from __future__ import annotations

import re
from collections import Counter
from random import Random
from typing import NamedTuple

from medtutor.language.known import load


class Asked(NamedTuple):
    """A question with its words and their languages ("hi" or "en"), the same in English, an English summary, and the
    facts that the summary holds: those told by the text, those seen in the picture only."""

    text: str
    tags: tuple[tuple[str, str], ...]
    gloss: str
    summary: str
    told: tuple[str, ...]
    seen: tuple[str, ...]


def mixing(tags) -> float:
    """Code-mixing index of Das and Gambäck (2014) from 0: 1 minus the share of the commonest language among the words
    that have one; with two languages 0.5 at most."""
    counts = Counter(language for _, language in tags if language in ("hi", "en"))
    return 1 - max(counts.values()) / counts.total() if counts else 0.0


def _english(text: str) -> str:
    return re.sub(r"(?<!\S)(?=\S)", "*", text)


def _said(clause: dict, switched: set, verbs: dict) -> str:
    """A clause with the units `switched` in English, all of it where "en" is one of them; English words have a star."""
    if "en" in switched:
        return _english(clause["en"].format(**{k: v[1] if isinstance(v, list) else v for k, v in clause.items()}))
    _, gender, verb = clause["ill"]["en" if "symptom" in switched else "hi"]
    units = {k: v if isinstance(v, str) else v[0] if k not in switched else v[2] if len(v) > 2 else _english(v[1])
             for k, v in clause.items() if isinstance(v, (str, list))}
    return clause["hi"].format(**units, **{k: v[gender] for k, v in verbs[verb].items()})


def question(seed: int = 0, mix: float = 0.3, visual: tuple[str, ...] = (), part: str | None = None,
             symptom: str | None = None) -> Asked:
    """A question on `symptom` of `part` (None: at random). `mix`, 0 to 1, is the wanted share of English words; a seed
    says the same at every `mix`, and the share never falls with it. The code-mixing index follows it up to 0.5.

    `visual` are words for what the picture shows, such as ("a red patch", "near the wrist"): they are in the summary
    and never in the text. Raises ValueError for a mix, part or symptom that does not exist."""
    table, rng = load("codemixed.yml"), Random(f"codemixed/{seed}")
    pairs = [(p, s) for p, entry in table["parts"].items() for s in entry.get("only", table["symptoms"])
             if part in (None, p) and symptom in (None, s)]
    if not pairs or not 0 <= mix <= 1:
        raise ValueError(f"no question on {symptom} of {part} with mix {mix}: mix is from 0 to 1, parts are "
                         f"{', '.join(table['parts'])}, symptoms {', '.join(table['symptoms'])} where they make sense")
    part, symptom = rng.choice(pairs)
    body, ill, people = table["parts"][part], table["symptoms"][symptom], table["people"]
    who = people[rng.choice(["self", rng.choice([*people])])]
    side, long = rng.choice([*table["sides"]][1:]) if "sided" in body else "", rng.choice([*table["durations"]])
    at, post = ("in", "mein") if "inside" in body and ill["post"] == "par" else (ill["at"], ill["post"])
    slots = {**who, **table["agree"][body["gender"]], "at": at, "post": post, "ill": ill,
             "part": [body["hi"], body["en"]], "side": [table["sides"][side][body["gender"]], side],
             "duration": [table["durations"][long], long], "symptom": [ill["hi"][0], ill["en"][0]]}
    clauses = [{**slots, **clause, "hi": clause["hi"].replace("{locus}", who["locus"])}
               for name, count in table["order"].items() for clause in rng.sample(table[name], count)]
    units = [(i, k) for i, clause in enumerate(clauses) for k, v in clause.items()
             if k == "en" or isinstance(v, list) and f"{{{k}}}" in clause["hi"]]
    rng.shuffle(units)  # at a higher `mix` more of them are switched, in this order
    drafts = [" ".join(" ".join(_said(clause, {k for j, k in units[:count] if j == i}, table["verbs"])
                                for i, clause in enumerate(clauses)).split()) for count in range(len(units) + 1)]
    text = min(drafts, key=lambda draft: abs(draft.count("*") / (draft.count(" ") + 1) - mix))
    text, gloss = (re.sub(r"(?:^|(?<=[.?] ))\*?\w", lambda m: m[0].upper(), draft) for draft in (text, drafts[-1]))
    told = (f"{side} {part}".strip(), symptom, long, *(clause["fact"] for clause in clauses if "fact" in clause))
    summary = f"{who['patient']} has had {symptom} {at} the {told[0]} for {long}." + "".join(
        f" There is also {fact}." for fact in told[3:]) + f" Picture: {', '.join(visual)}." * bool(visual)
    tags = tuple((word.strip("*.?"), "en" if word[0] == "*" else "hi") for word in text.split())
    return Asked(text.replace("*", ""), tags, gloss.replace("*", ""), summary, told, tuple(visual))
