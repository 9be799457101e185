"""Health records: the coded visits of patients with long illnesses, and who of them comes to have heart failure.

A patient has some of ten latent conditions. At a visit the active ones emit diagnoses and procedures; the drugs follow
a diagnosis by one or two visits. Two conditions progress and drive the hazard of heart failure. Patients come in
groups: a case, then controls of the same sex and about the same age and use of care, with the case's index date.
"""

from __future__ import annotations

from math import inf

import torch
from torch import where

from medtutor.cohort import Cohort
from medtutor.phantom.texture import Draws, rows, table

_TABLE = table("events")
CONDITIONS, OUTCOME = tuple(_TABLE["conditions"]), tuple(_TABLE["outcome"].values())
KINDS = {"diagnosis": 5, "drug": 6, "procedure": 4}  # codes of each condition, in this order
CODES = tuple(code for entry in _TABLE["conditions"].values() for kind in KINDS for code in entry[kind])
VISITS, LATER, TRIES, YEARS = 24, 3, 40, 3  # visits at most, after the index date; lives to choose from; of record
BASE = 4.8  # minus the logarithm of the yearly hazard of heart failure without its two causes


def cohort(n: int, seed: int = 0, gap: int = 30, controls: int = 1, leak: bool = False, noise: float = 0.15) -> Cohort:
    """n patients, in groups of a case and `controls` matched controls; no pictures.

    `label` (n, 1) is 1 with heart failure. In `meta`, a column per code in order of time, -1 beyond the end: code
    (n, L), places in names["code"] (150 codes; names["kind"] and names["condition_of"] say what each is and what it
    belongs to); day (n, L) since the record began; visit_number (n, L). The codes of one visit stand in random order.
    All lie in the three years that end `gap` days before index_day (n,). Also condition (n, 10), the truth, with
    names["condition"]; progress (n, 10) in [0, 1], 0 where absent; visits (n,), age in years, sex, group (n,).

    Matched: sex, age within 2 years, and the inclination to see a doctor; whoever has more illnesses still comes more
    often. `noise` is the share of codes that have nothing to do with a condition. `leak` adds three visits in the half
    year after the index date, those of cases with the three codes of heart failure itself (then names["code"] has 153).
    Patient i depends on (seed, i) and `controls` only. Raises ValueError for options out of range.
    """
    if not 0 <= gap <= 365 or controls < 1 or not 0 <= noise <= 1:
        raise ValueError("gap must be 0 to 365 days, controls 1 or more and noise 0 to 1, but got "
                         f"{gap}, {controls} and {noise}")
    group, case = torch.arange(n) // (controls + 1), torch.arange(n) % (controls + 1) == 0
    pair, draws = Draws(n // (controls + 1) + 1, seed, "events group", 8), Draws(n, seed, "events person", 960)
    u, every, entries = draws.uniform, len(CONDITIONS), _TABLE["conditions"].values()
    age, sex = pair.uniform(50, 85)[group] + u(-1, 1), pair.uniform(0, 2)[group].long()
    # ---- a life that ends as wanted: the first of TRIES that does
    share, risk = (torch.tensor([entry.get(key, 0.0) for entry in entries]).double() for key in ("share", "risk"))
    lives = rows(n, seed, "events lives", TRIES * (2 * every + 1)).double().view(n, TRIES, -1)
    has = lives[..., :every] < share * (0.6 + (age[:, None, None] - 50) / 50)
    progress = lives[..., every:-1] * has
    onset = -torch.log1p(-lives[..., -1]) / torch.exp(progress @ risk - BASE)  # years
    chosen = where((onset < YEARS) == case[:, None], torch.arange(TRIES), TRIES).argmin(1)
    has, progress, onset = (part[torch.arange(n), chosen] for part in (has, progress, onset))
    index = (365 * (YEARS + onset.clamp(max=YEARS))).floor()[group * (controls + 1)]
    # ---- visits in order of time: those that did not take place, those before the index date, those after
    eager = pair.uniform(4, 12)[group] * (1 + 0.15 * has.sum(1)) * torch.exp(draws.normal(0, 0.12))
    before = u(0, 1, VISITS).where(torch.arange(VISITS) < eager.round().clamp(4, VISITS)[:, None], -inf).sort(1)[0]
    day = torch.cat([(before - 1) * (365 * YEARS - gap) - gap, 1 + 180 * u(0, 1, LATER).sort(1)[0]], 1).floor()
    day = day + index[:, None]
    ripe = has[:, None] * (0.3 + progress[:, None] * (1 + (day - index[:, None]) / 365 / YEARS).clamp(0, 1)[..., None])
    edge = (ripe + 1e-9).cumsum(-1)  # whoever has no condition emits anything
    topic = (u(0, 1, VISITS + LATER, 2, 1) * edge[..., -1:, None].mT > edge[:, :, None]).sum(-1)
    # ---- codes (n, visits, 5): two diagnoses, the drugs that follow such ones, a procedure
    on = (day[..., None] > -inf) & (u(0, 1, VISITS + LATER, 5) < torch.tensor([1.0, 0.5, 0.8, 0.8, 0.5]))
    source = torch.arange(VISITS + LATER)[:, None] - u(1, 3, VISITS + LATER, 2).long()  # one or two visits ago
    on[..., 2:4] &= (source >= 0) & on[..., :2].gather(1, source.clamp(min=0))
    topic = torch.cat([topic, topic.gather(1, source.clamp(min=0)), topic[..., :1]], -1)
    topic = where(u(0, 1, VISITS + LATER, 5) < noise, u(0, every, VISITS + LATER, 5).long(), topic)
    code = 15 * topic + torch.tensor([0, 0, 5, 5, 11])
    code = code + (u(0, 1, VISITS + LATER, 5) ** 1.5 * torch.tensor([5, 5, 6, 6, 4])).long()
    code[:, VISITS:, ::2] = where(case[:, None, None], len(CODES) + torch.arange(3), code[:, VISITS:, ::2])
    on[:, VISITS:] &= leak
    # ---- one row per patient, at random within a visit
    count = torch.arange(VISITS + LATER)[:, None] - (day[:, :VISITS] == -inf).sum(1)[:, None, None]
    order = (count + u(0, 1, VISITS + LATER, 5)).where(on, inf).flatten(1).sort(1)[1]
    column = {"code": code, "day": day[..., None].expand_as(on).long(), "visit_number": count.expand_as(on)}
    meta = {key: where(on, value, -1).flatten(1).gather(1, order) for key, value in column.items()}
    meta |= {"condition": has, "progress": progress.float(), "visits": (before >= 0).sum(1), "age": age.float(),
             "sex": sex, "group": group, "index_day": index.long()}
    kinds = tuple(kind for _ in entries for kind, size in KINDS.items() for _ in range(size))
    owner = tuple(name for name in CONDITIONS for _ in range(15))
    return Cohort(label=case.float()[:, None], meta=meta, units={"age": "years", "day": "days", "index_day": "days"},
                  names={"label": (OUTCOME[0],), "sex": ("female", "male"), "condition": CONDITIONS,
                         "code": CODES + OUTCOME * leak, "kind": kinds + tuple(KINDS) * leak,
                         "condition_of": owner + (OUTCOME[0],) * 3 * leak})
