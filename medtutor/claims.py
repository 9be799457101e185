"""A claim: what a paper says, what the chapter measured, and the verdict computed from the two.

A claim is displayed as one cell output: an HTML row for the reader and, beside it, the same facts as
`application/vnd.medtutor.claim+json`, from which the ledger is made. Nothing else stores claims.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape

MIME = "application/vnd.medtutor.claim+json"
VERDICTS = ("holds", "not shown", "reversed", "matches", "differs", "not evaluated")


@dataclass(frozen=True)
class Claim:
    """One line of the ledger. `published` is text; `interval` is that of `difference`, both in `unit`.

    For a comparison `measured` is the idea's mean score and `baseline` the other side's. For a fact `measured` is our
    number and `difference` its distance from the published one; `baseline` and `interval` are None.
    """

    paper: str
    statement: str
    metric: str
    published: str
    measured: float | None
    baseline: float | None
    difference: float | None
    interval: tuple[float, float] | None
    seeds: int
    unit: str
    verdict: str

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, but got {self.verdict!r}")

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        facts = asdict(self) | {"interval": list(self.interval) if self.interval else None}
        return {MIME: facts, "text/html": self.html(), "text/plain": self.text()}

    def numbers(self) -> str:
        """The measured side in words and numbers."""
        if self.measured is None:
            return "not evaluated in this profile"
        if self.baseline is None:
            return f"{show(self.measured)} {self.unit}".strip()
        low, high = self.interval
        unit = f" {self.unit}" if self.unit else ""
        return (f"{show(self.measured)} against {show(self.baseline)}; difference {show(self.difference, sign=True)} "
                f"[{show(low, sign=True)}, {show(high, sign=True)}]{unit}, {plural(self.seeds, 'seed')}")

    def text(self) -> str:
        measured = f"Measured ({self.metric}): {self.numbers()}."
        return f"[{self.verdict}] {self.statement} Published: {self.published}. {measured}"

    def html(self) -> str:
        """One self-contained block; the classes are styled by the site, and it reads well without a style sheet."""
        kind = self.verdict.replace(" ", "-")
        return (
            f'<div class="claim claim-{kind}" role="group" aria-label="Claim: {escape(self.verdict)}">'
            f'<p><strong class="verdict">{escape(self.verdict)}</strong> {escape(self.statement)}</p>'
            f"<p>Published: {escape(self.published)}.<br>"
            f"Measured ({escape(self.metric)}): {escape(self.numbers())}.</p></div>"
        )


def show(value: float, sign: bool = False) -> str:
    """A number as a reader wants it: whole counts in full, the rest with three decimals, or as many as show that it
    is not zero."""
    plus = "+" if sign else ""
    if float(value).is_integer() and abs(value) >= 10:
        return f"{int(value):{plus},}"
    if 0 < abs(value) < 0.001:
        return f"{value:{plus}.1g}"
    return f"{value:{plus},.{3 if abs(value) < 10 else 1}f}"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
