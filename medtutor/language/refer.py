"""Sentences that name one of several things by its attributes, read back, and prompts made of the same words.

A cohort says what its things are like in meta["attribute"] (N, K, A), int64 and -1 where absent, names["attribute"] of
the A attributes and names["attribute_<name>"], the words of the values. How a value
is said ("with smooth border") is `attributes` of words.yml; an attribute without an entry there is an adjective.
"""

from __future__ import annotations

import re
from itertools import combinations, product
from random import Random

from medtutor.cohort import Cohort
from medtutor.language.known import a, words

AFTER = ("with ", "near ", "in ", "on ", "at ", "of ", "under ", "above ", "below ", "beside ", "towards ")


def _said(cohort: Cohort) -> list[tuple[int, str, tuple[str, ...]]]:
    """Column and name of each attribute and how each of its values is said, in the order of speech."""
    if "attribute" not in cohort.meta or "attribute" not in cohort.names:
        raise ValueError('names by attributes need meta["attribute"] and names["attribute"]')
    forms, said = words()["attributes"], []
    rank = {name: k for k, name in enumerate(forms)}
    for column, name in enumerate(cohort.names["attribute"]):
        form, values = forms.get(name, forms["other"]), map(str.lower, cohort.names[f"attribute_{name}"])
        values = (value if value.startswith(AFTER) else form.format(value) for value in values)
        said.append((column, name, tuple(value.replace("on the middle", "in the middle") for value in values)))
    return sorted(said, key=lambda entry: rank.get(entry[1], rank["other"]))


def _phrase(said, row: list[int], chosen, noun: str) -> str:
    told = [values[row[column]] for column, name, values in said if name in chosen and row[column] >= 0]
    return " ".join([*(t for t in told if not t.startswith(AFTER)), noun, *(t for t in told if t.startswith(AFTER))])


def refer(cohort: Cohort, case: int, slot: int, seed: int = 0, extra: int = 0, noun: str = "lesion") -> str:
    """"the small lesion near the dome": as few attributes as tell this thing of a case from its others, and up to
    `extra` more. `seed` chooses among the shortest. Raises ValueError where the slot is empty or nothing tells it
    apart."""
    said, row, rng = _said(cohort), cohort.meta["attribute"][case, slot].tolist(), Random(f"refer/{seed}/{case}/{slot}")
    names = [name for column, name, _ in said if row[column] >= 0]
    for count in range(len(names) + 1) if names else ():
        some = [s for s in combinations(names, count) if tells(cohort, case, _phrase(said, row, s, noun)) == (slot,)]
        if some:
            few = rng.choice(some)
            more = rng.sample([name for name in names if name not in few], min(extra, len(names) - count))
            return "the " + _phrase(said, row, {*few, *more}, noun)
    raise ValueError(f"slot {slot} of case {case} is {'like another one in all attributes' if names else 'empty'}; "
                     "choose another slot")


def tells(cohort: Cohort, case: int, text: str) -> tuple[int, ...]:
    """The slots of a case that have every attribute that a text names, by the words of the cohort."""
    meaning: dict[str, set[tuple[int, int]]] = {}
    for column, _, values in _said(cohort):
        for value, phrase in enumerate(values):
            meaning.setdefault(phrase, set()).add((column, value))
    known = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(meaning, key=len, reverse=True))) + r")(?!\w)")
    asked = [meaning[match[0]] for match in known.finditer(text.lower())]
    rows = cohort.meta["attribute"][case].tolist()
    return tuple(k for k, row in enumerate(rows) if max(row) >= 0 and all(
        any(row[column] == value for column, value in some) for some in asked))


def described(cohort: Cohort, case: int, slot: int, kind: str = "description", chosen=None, seed: int = 0,
              noun: str = "lesion", **instead: str) -> str:
    """A prompt for one thing: its `noun`, a class or an opaque name such as words()["opaque"], and its attributes.

    kind: "name", "description" ("small round lesion near the dome"), "named" ("glarb means ..."), "definition" (the
    attributes among filler words), "slots" ("size: small; ..."), "shuffled" (the words of the description in random
    order). `chosen` are the attributes to tell, None for all: growing tuples make cumulative prompts, leaving one out
    an ablation. `instead` puts another word for the value of an attribute: side="left" makes a counterfactual. Raises
    ValueError for an unknown kind, attribute or word."""
    said, row, forms = _said(cohort), cohort.meta["attribute"][case, slot].tolist(), words()["described"]
    table = {name: cohort.names[f"attribute_{name}"] for _, name, _ in said}
    wrong = [*({*(chosen or ())} - {*table}), *(k for k, word in instead.items() if word not in table.get(k, ()))]
    if kind not in forms or wrong:
        raise ValueError(f"no prompt of kind {kind!r} for {', '.join(wrong) or 'this thing'}: kinds are "
                         f"{', '.join(forms)}, attributes and their words are {table}")
    for name, word in instead.items():
        row[cohort.names["attribute"].index(name)] = table[name].index(word)
    text, plain = (_phrase(said, row, table if chosen is None else chosen, what) for what in (noun, "finding"))
    slots = "; ".join(f"{name}: {table[name][row[column]]}" for column, name, _ in said
                      if name in (table if chosen is None else chosen) and row[column] >= 0)
    shuffled = Random(f"described/{seed}/{case}/{slot}").sample(text.split(), len(text.split()))
    return forms[kind].format(name=noun, text=text, plain=a(plain, True), slots=slots, shuffled=" ".join(shuffled))


def terms() -> tuple[tuple[str, str], ...]:
    """Thirty invented long words with their meanings, five sizes by three shades by two shapes, in row-major order:
    ("microleukosphaeroma", "small bright round growth")."""
    return tuple(("".join(p for p, _ in some), " ".join(w for _, w in some)) for some in product(*words()["morphemes"]))
