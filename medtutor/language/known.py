"""What is known of a case: facts, their normal form, and the tables of words that writer and reader share.

Every word comes from words.yml, where a region (thorax, skin, brain) is a table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import combinations, product

from medtutor.cohort import Cohort

VALUES = {"presence": ("present", "absent", "uncertain"), "side": ("", "right", "left", "bilateral"),
          "zone": ("", "upper", "middle", "lower"), "severity": ("", "mild", "moderate", "severe"),
          "change": ("", "new", "worse", "better", "unchanged", "resolved")}
GRADES = (0.5, 0.75)  # severities in (0, 1] from which a finding is moderate, severe
SAME = 0.08  # a severity that moves by less is unchanged
MIRROR = {"right": "left", "left": "right"}
_LEGAL = frozenset(product(*VALUES.values()))


@dataclass(frozen=True, order=True)
class Fact:
    """One thing that is known of a case. An empty attribute is unknown or makes no sense; sides are the patient's.
    A finding that has gone is absent with change "resolved". Raises ValueError for a value outside `VALUES`."""

    finding: str
    presence: str = "present"
    side: str = ""
    zone: str = ""
    severity: str = ""
    change: str = ""

    def __post_init__(self):
        if (self.presence, *self.rest()) not in _LEGAL:
            raise ValueError(f"every value of a Fact must be one of {VALUES}, but got {(self.presence, *self.rest())}")

    def rest(self) -> tuple[str, ...]:
        return self.side, self.zone, self.severity, self.change

    @property
    def told(self) -> bool:
        """More than a plain denial."""
        return self.presence != "absent" or self.change != ""


@lru_cache
def load(name: str = "words.yml") -> dict:
    """What one of the tables of this folder holds."""
    import yaml

    text = files("medtutor.language").joinpath(name).read_text(encoding="utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@lru_cache
def words(region: str = "thorax") -> dict:
    """The table of a region with what all regions share; each of `nouns` becomes (singular, plural, whether it counts),
    `aside` is what is no illness, such as a device. Raises ValueError for a region without a table."""
    table = load()
    regions = {name: tuple(entry["findings"]) for name, entry in table.items() if "findings" in entry}
    if region not in regions:
        raise ValueError(f"no words for region {region!r}; choose from {', '.join(regions)} or add it to words.yml")
    findings = {}
    for name, entry in table[region]["findings"].items():
        split = [noun.partition("/") for noun in entry["nouns"]]
        nouns = [(one, one + end if end == "s" else end or one, end != "") for one, _, end in split]
        findings[name] = {**entry, "nouns": nouns}
    aside = {m for group in table[region]["groups"].values() if "topic" in group for m in group["members"]}
    return {**table, **table[region], "findings": findings, "regions": regions, "aside": aside,
            "spelling": re.compile(r"\b(?:" + "|".join(table["british"]) + ")(?!ectal)")}


def entry_of(table: dict, finding: str) -> dict:
    if finding not in table["findings"]:
        raise ValueError(f"no words for finding {finding!r}: use one of {', '.join(table['findings'])}, "
                         "or add it to words.yml")
    return table["findings"][finding]


def a(noun: str, counts: bool) -> str:
    """A noun phrase with its indefinite article, if it takes one."""
    return ("an " if noun[0] in "aeiou8" or noun[:3] in ("11-", "18-") else "a ") * counts + noun


def knowledge(finding: str, region: str = "thorax") -> dict[str, str | tuple[str, ...]]:
    """What is known of a finding: region, group, synonyms, definition, shape, density, border, place, and
    `description`, one phrase of the last four."""
    table = words(region)
    entry = entry_of(table, finding)
    facets = {key: entry[key] for key in ("definition", "shape", "density", "border", "place")}
    return {"region": region, "group": next(g for g, v in table["groups"].items() if finding in v["members"]),
            "synonyms": tuple(dict.fromkeys(one for one, _, _ in entry["nouns"])), **facets,
            "description": "{shape}, {density}, with {border}, {place}".format(**facets)}


def _merged(one: Fact, two: Fact) -> Fact | None:
    """One fact for two of a finding, None where they disagree; what is present outweighs what is uncertain."""
    if one.presence != two.presence:
        one, two = sorted((one, two), key=lambda f: f.presence)
        return one if one.presence == "present" and (one.side == two.side or not one.side or not two.side) else None
    pairs = list(zip(one.rest(), two.rest(), strict=True))
    return None if any(x and y and x != y for x, y in pairs) else Fact(
        one.finding, one.presence, *(x or y for x, y in pairs))


def canonical(facts) -> tuple[Fact, ...]:
    """The normal form of what facts say together: sorted, nothing twice, nothing implied, equal sides joined.

    A plain denial has no attributes, and gives way to any fact of the same finding. Facts that can be one are one.
    """
    pools: dict[str, set[Fact]] = {}
    for fact in facts:
        pool = pools.setdefault(fact.finding, set())
        if fact.presence != "absent" or fact.change == "resolved":
            pool |= {replace(fact, side=s) for s in MIRROR} if fact.side == "bilateral" else {fact}
    out = []
    for finding, pool in pools.items():
        for implied in (True, False, True) if len(pool) > 1 else ():  # implied first: a hint must not join a wrong fact
            while pair := next(((x, y) for x, y in combinations(sorted(pool), 2) if (one := _merged(x, y))
                                and (not implied or one in (x, y))), None):
                pool = pool - {*pair} | {_merged(*pair)}
        for fact in [f for f in pool if f.side == "right"]:
            if (other := replace(fact, side="left")) in pool:
                pool = pool - {fact, other} | {replace(fact, side="bilateral")}
        out += pool or {Fact(finding, "absent")}
    return tuple(sorted(out))


def _change(now: float, old: float | None) -> str:
    if old is None:
        return "new"
    return "unchanged" if abs(now - old) < SAME else "worse" if now > old else "better"


def compare(now, before) -> tuple[Fact, ...]:
    """The facts of a visit with their change since those of an earlier one, by side, in the steps of the grades."""
    new, old = ([replace(f, side=side) for f in canonical(facts) if f.presence != "absent"
                 for side in (MIRROR if f.side == "bilateral" else (f.side,))] for facts in (now, before))
    level = {(f.finding, f.side): VALUES["severity"].index(f.severity) for f in old}
    told = [replace(f, change=_change(VALUES["severity"].index(f.severity), level.pop((f.finding, f.side), None)))
            for f in new]
    gone = [Fact(f.finding, "absent", f.side, f.zone, "", "resolved") for f in old if (f.finding, f.side) in level]
    return canonical([*told, *gone, *(Fact(f.finding, "absent") for f in now if f.presence == "absent")])


def region_of(names: tuple[str, ...]) -> str:
    """The region whose table has all these findings. Raises ValueError where there is none."""
    for region, findings in words()["regions"].items():
        if set(names) <= set(findings):
            return region
    raise ValueError(f"no region of words.yml has all of {', '.join(names)}; add the missing findings to one")


def _state(cohort: Cohort, case: int, table: dict) -> dict[tuple[str, str], tuple[float, str]]:
    """Severity (0 where unknown) and zone of each finding and side that is present."""
    state, places = {}, words()["places"]
    for k, name in enumerate(cohort.names["label"]):
        label = cohort.label[case]
        if not (label[k] > 0 if label.ndim else label == k):
            continue
        columns = [cohort.meta.get(f"{field}_{name.replace(' ', '_')}") for field in ("severity", "zone")]
        grade, zone = ([] if c is None else c[case].reshape(-1).tolist() for c in columns)
        if not table[name]["site"]:  # nothing to say on sides
            grade, zone = [max(grade, default=0.0)], []
        zone = zone if "upper" in places.get(table[name]["site"], ()) else []
        for j, value in enumerate(grade if max(grade, default=0) > 0 else [0.0]):
            if value > 0 or max(grade, default=0) <= 0:
                where = VALUES["zone"][int(zone[j]) + 1] if zone else ""
                state[name, ("right", "left")[j] if len(grade) == 2 and value > 0 else ""] = (value, where)
    return state


def facts(cohort: Cohort, case: int, doubt: float = 0.0) -> tuple[Fact, ...]:
    """Everything that a cohort knows of one case, all absent findings too, in normal form.

    Reads `label` with names["label"], and where present meta severity_<finding> and zone_<finding>, (N, 2) for the
    patient's right and left or (N,), device_<name> (N,), `patient` and `visit`: the change is that since the latest
    earlier visit of the patient. Findings of a severity below `doubt` are uncertain.
    """
    if cohort.label is None or "label" not in cohort.names:
        raise ValueError('facts need a Cohort with label and names["label"], the names of the findings')
    names, before = cohort.names["label"], None
    table = words(region_of(names))["findings"]
    now = _state(cohort, case, table)
    if cohort.visit is not None:
        earlier = ((cohort.patient == cohort.patient[case]) & (cohort.visit < cohort.visit[case])).nonzero()[:, 0]
        if len(earlier):
            before = _state(cohort, int(earlier[cohort.visit[earlier].argmax()]), table)
    found = [Fact(name) for name in table for key in {name, name.replace(" ", "_")}
             if bool(cohort.meta.get(f"device_{key}", {case: False})[case])]
    for (name, side), (value, zone) in now.items():
        grade = VALUES["severity"][1 + sum(value >= edge for edge in GRADES)] if value > 0 else ""
        change = "" if before is None else _change(value, before.get((name, side), (None,))[0])
        found.append(Fact(name, "uncertain" if 0 < value < doubt else "present", side, zone,
                          grade * (table[name]["grade"] != "none"), change))
    gone = [Fact(name, "absent", side, zone, "", "resolved") for (name, side), (_, zone) in (before or {}).items()
            if (name, side) not in now]
    return canonical([*found, *gone, *(Fact(name, "absent") for name in names)])
