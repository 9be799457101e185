"""Reads reports: an exact labeller for the texts of `language`, and a usable one for real reports.

A lexicon of findings and cue words, clauses, the scope of a cue, and the words around a finding; no template of the
writer is used. Cue, scope and terminator as in NegEx (Chapman et al., 2001).
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from medtutor.language.known import Fact, canonical, words

SKIPPED = "clinical details|clinical history|indication|hx|history|examination|exam|technique|comparison"
HEADERS = re.compile(rf"(?im)^[ ]*({SKIPPED}|findings|report|impression|conclusion|opinion|in summary)[ ]*:")
SENTENCE = re.compile(r"(?<=[.!])\s+|\n|;|(?<=[a-z]):\s")
CLAUSE = re.compile(r"\b(?:but|however|although|though|except)\b|,? and there (?=is|are)|, (?=there (?:is|are)\b)")
# a word of degree after a comma ends a denial, unless the list goes on: "no effusion, large mass, or pneumothorax"
STOP = re.compile(r"\bwith\b|\bwhich\b|\bdue to\b|\bsecondary to\b|, (?=(?:mild|moderate|severe|small|tiny|large|"
                  r"marked|stable|unchanged|new|possible|probable|low|there)\b(?!.*\bn?or\b))")
NO = re.compile(r"\b(?:no|without|nor|negative for|free of|clear of|absence of|lack of|resolution of|"
                r"not (?:have|show|demonstrate|reveal|see)(?: evidence)?)\b"
                r"(?! (?:longer|(?:(?:significant|interval|appreciable|substantial) )*change))")
NOT = re.compile(r"\bnot (?:\w+[ -])?(?:seen|identified|present|visuali[sz]ed|demonstrated|evident|appreciated|noted)"
                 r"(?! prev| prior| before)|\b(?:is|are) absent|\b(?:is|are|been) (?:excluded|ruled out)")
GONE = re.compile(r"no longer|resolution of|\bresolved|\b(?:has|have) cleared")
MAYBE = re.compile(r"possib(?:le|ly|ility)|question|suspected|suspicious|suspicion|\b(?:may|might|could)\b|equivocal|"
                   r"probabl[ey]|\blikely|suggest|concern|worrisome|borderline|upper limits|\bversus|\bvs\b|"
                   r"differential|\?")
EXCLUDE = re.compile(r"(?:cannot|can not|\bnot|difficult to)(?: be| entirely| completely)* (?:exclude|ruled? out)")
ASIDE = re.compile(r"evaluat\w+ (?:for|of)|correlat\w+|history of|(?:to|and) exclude|rule out")  # mentioned, not stated
BOTH = re.compile(r"\bbilateral(?:ly)?\b|\bboth\b|\bbi(?:basilar|basal|apical)\b")
SIDE = re.compile(r"\b(right|left)\b")
JOINT = re.compile(r",|\b(?:and|or|with|plus|without)\b|/")


def _table(**patterns: str) -> tuple[tuple[str, re.Pattern], ...]:
    return tuple((name, re.compile(pattern)) for name, pattern in patterns.items())


ZONES = _table(upper=r"\bupper\b(?! limit)|\b(?:bi)?apical\b|\bapex\b|\bapices\b",
               middle=r"\bmid(?:dle|-?lung|-?zone)?\b", lower=r"\blower\b|\bbas(?:e|es|al|ilar)\b|\bbibas\w+")
GRADES = _table(severe=r"\b(?:severe(?:ly)?|(?<!less )marked(?:ly)?|large|sizeable|extensive|massive)\b",
                mild=r"\b(?:mild(?:ly)?|slight(?:ly)?|small|tiny|minimal|minor|trace|subtle|nondisplaced|undisplaced)\b",
                moderate=r"\b(?:moderate(?:ly)?|displaced)\b")
CHANGES = _table(better=r"decreas|improv|smaller|less marked|partially cleared|healing|healed|resolving",
                 worse=r"enlarging|increasing|(?:has|have|interval|is|are) increased?|increased (?:since|from|in size)|"
                       r"worse|larger|progress|further displacement",
                 unchanged=r"unchanged|stable|similar to|not (?:significantly )?changed|"
                           r"no (?:(?:significant|interval) )*change",
                 new=r"\bnew\b|ha(?:s|ve) developed|not seen previously")


@lru_cache
def _lexicon(region: str) -> tuple:
    """Findings, one pattern of them all (a group each), patterns that deny a group, British to American spelling."""
    table, parts = words(region), []
    american = {gb: us for us, gb in table["british"].items()}
    british = re.compile("|".join(american))
    for k, (name, entry) in enumerate(table["findings"].items()):
        forms = {form.lower() for form in (name, *(form for noun in entry["nouns"] for form in noun[:2]))}
        forms = sorted(forms | {british.sub(lambda match: american[match[0]], f) for f in forms}, key=len, reverse=True)
        parts.append(f"(?P<f{k}>{'|'.join([*forms, *filter(None, [entry.get('also')])])})")
    normal = [(re.compile(group["normal_pattern"]), [Fact(f, "absent") for f in group.get("clear", group["members"])])
              for group in table["groups"].values() if "normal_pattern" in group]
    return (list(table["findings"].items()), re.compile(rf"\b(?:{'|'.join(parts)})(?!\w)"), normal,
            british, american, re.compile(table.get("ignored", r"(?!)")))


def read(text: str, region: str = "thorax") -> tuple[Fact, ...]:
    """The facts that a report states, in normal form; what asks or describes (indication, technique, comparison) is
    left out up to its next header or blank line."""
    lexicon = _lexicon(region)
    _, _, _, british, american, ignored = lexicon
    pieces, kept = HEADERS.split(text), []
    for header, body in zip(["findings", *pieces[1::2]], pieces[::2], strict=True):
        kept.append(body.partition("\n\n")[2] if re.fullmatch(SKIPPED, header.lower()) else body)
    found, last = [], []
    for sentence in SENTENCE.split("\n".join(kept).lower()):
        sentence = ignored.sub("", british.sub(lambda match: american[match[0]], sentence)).strip(" -.")
        for number, clause in enumerate(CLAUSE.split(sentence)):
            new = _clause(clause, lexicon)
            if not new and last and (number or clause.startswith(("this ", "these ", "it ", "they "))):
                change = _first(CHANGES, clause)
                if change:  # "This has increased since the prior study" speaks of what came before
                    found = [f for f in found if f not in last]
                    new = [replace(f, change=change) for f in last]
            found += new
            last = [f for f in new if f.presence != "absent"] or last
    return canonical(found)


def mentions(text: str, region: str = "thorax") -> list[tuple[int, int, str]]:
    """Characters start to end and finding of every mention in a text of American spelling, denied ones too."""
    findings, mention = _lexicon(region)[:2]
    return [(m.start(), m.end(), findings[int(m.lastgroup[1:])][0]) for m in mention.finditer(text.lower())]


def _first(table: tuple, text: str) -> str:
    return next((name for name, pattern in table if pattern.search(text)), "")


def _clause(clause: str, lexicon: tuple) -> list[Fact]:
    findings, mention, normal = lexicon[:3]
    facts = [f for pattern, denied in normal if pattern.search(clause) and not MAYBE.search(clause) for f in denied]
    mentions = list(mention.finditer(clause))
    if not mentions:
        return facts
    denials = [(cue.end(), stop.start() if (stop := STOP.search(clause, cue.end())) else len(clause))
               for cue in NO.finditer(clause)]
    doubt, post, edge = EXCLUDE.search(clause), list(NOT.finditer(clause)), 0
    for match, following in zip(mentions, [*mentions[1:], None], strict=True):
        cut = len(clause)
        if following:  # the words up to the last joint belong to this finding, the others to the next
            joints = list(JOINT.finditer(clause, match.end(), following.start()))
            cut = joints[-1].start() if joints else match.end()
        segment, before, edge = clause[edge:cut], clause[:match.start()], cut
        if ASIDE.search(before):
            continue
        if doubt or not (away := GONE.search(segment)) and (MAYBE.search(before) or MAYBE.search(segment)):
            presence = "uncertain"
        else:
            presence = "resolved" if away else "present"
        if not doubt and presence != "resolved" and (any(a <= match.start() < b for a, b in denials) or any(
                cue.start() >= match.end() for cue in post)):
            facts.append(Fact(findings[int(match.lastgroup[1:])][0], "absent"))
        else:
            facts += _attributed(*findings[int(match.lastgroup[1:])], presence, segment)
    return facts


def _attributed(finding: str, entry: dict, presence: str, segment: str) -> list[Fact]:
    """Facts from the words around a finding, one for each side that has its own grade."""
    sides = list(SIDE.finditer(segment)) if entry["site"] else []
    both = bool(entry["site"]) and bool(BOTH.search(segment))
    chunks = [("bilateral" if both else sides[0][0] if sides else "", segment)]
    if second := next((s for s in sides if s[0] != sides[0][0]), None):
        gap = segment[sides[0].end():second.start()]
        middle = sides[0].end() + max(gap.find(joint) for joint in (",", "and ", "than "))
        halves = [(sides[0][0], segment[:middle]), (second[0], segment[middle:])]
        if not both or len({_first(GRADES, half) for _, half in halves}) == 2:
            chunks = halves
    facts = []
    for side, chunk in chunks:
        severity, zone, change = (_first(t, chunk) or _first(t, segment) for t in (GRADES, ZONES, CHANGES))
        zone, severity = zone * bool(entry["site"]), severity * (entry["grade"] != "none")
        facts.append(Fact(finding, "absent", side, zone, "", "resolved") if presence == "resolved" else
                     Fact(finding, presence, side, zone, severity, change))
    return facts
