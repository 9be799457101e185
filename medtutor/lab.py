"""`Lab`: the one object a chapter starts with. Profile, seeds and device; training; glued numbers; claims."""

from __future__ import annotations

import gc
import os
import random
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch

from medtutor import stats, train
from medtutor.claims import Claim, show
from medtutor.cohort import Cohort
from medtutor.notebook import GLUE_PREFIX, PROFILES, nearest
from medtutor.widgets import live


@dataclass(frozen=True)
class Trials:
    """One method trained once a seed: `scores` maps a metric to its table (seeds, cases)."""

    scores: dict[str, np.ndarray]
    fits: list[train.Fit]

    @property
    def model(self):
        """The model of the first seed, for figures."""
        return self.fits[0].model

    def row(self, metric: str) -> dict[str, object]:
        """The method's cells for `Lab.table`: mean score with interval, parameters, mean seconds of a training."""
        return {metric: stats.interval(self.scores[metric]), "parameters": self.fits[0].parameters,
                "seconds": float(np.mean([fit.seconds for fit in self.fits]))}


class Lab:
    """The bench on which a chapter works.

    `profile` sets the budget (`smoke`, `cpu`, `gpu`), `seed` every random choice, `data` what the real-data section
    loads: `phantom` leaves it to the chapter, a name of the catalogue takes that dataset. The environment variable
    MEDTUTOR_PROFILE overrides `profile`: it is how the tests run unchanged notebooks in `smoke`.
    """

    def __init__(self, chapter: str, profile: str = "cpu", seed: int = 0, data: str = "phantom"):
        self.chapter, self.seed, self.data = chapter, seed, data
        self.profile = os.environ.get("MEDTUTOR_PROFILE") or profile
        if self.profile not in PROFILES:
            raise ValueError(nearest("profile", self.profile, PROFILES))
        if self.profile == "gpu" and not torch.cuda.is_available():
            raise RuntimeError("profile 'gpu' needs a CUDA GPU and this machine shows none; use profile 'cpu'")
        from accelerate import Accelerator

        # What the libraries made at import is never garbage; searching it again after every training takes seconds.
        gc.freeze()
        self.accelerator = Accelerator(mixed_precision="bf16" if self.profile == "gpu" else "no")
        self.device = self.accelerator.device
        #: Every claim of this execution, in order.
        self.claims: list[Claim] = []
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        #: Three seeds are the least that tell a method's luck from its merit; `gpu` can afford five.
        self.seeds = list(range(seed, seed + self.pick(smoke=1, cpu=3, gpu=5)))

    def pick(self, *, smoke, cpu, gpu=None):
        """The value for the profile at hand; `gpu` defaults to that of `cpu`."""
        return {"smoke": smoke, "cpu": cpu, "gpu": cpu if gpu is None else gpu}[self.profile]

    def fit(self, model, cohort: Cohort, loss, *, epochs: int, checkpoint: str | None = None, **options) -> train.Fit:
        """Train on this lab's device: see `medtutor.train.fit` for `loss` and the options `batch`, `lr`, `augment`,
        `seed`. `checkpoint` names a file under runs/checkpoints/ from which a broken run goes on."""
        path = Path("runs", "checkpoints", f"{self.chapter}-{self.profile}-{checkpoint}.pt") if checkpoint else None
        return train.fit(model, cohort, loss, accelerator=self.accelerator, epochs=epochs, checkpoint=path,
                         progress=live(), **options)

    def trials(self, build, cohort: Cohort, loss, score, *, epochs: int, checkpoint: str | None = None,
               **options) -> Trials:
        """Train one method once for each of `seeds` and score it.

        `build(seed)` returns a fresh model; the random state is set to `seed` before, so that two methods start from
        the same one. `score(model)` maps names of metrics to one score a case, (N,). Options as in `fit`.
        """
        tables, fits = [], []
        for seed in self.seeds:
            torch.manual_seed(seed)
            own = f"{checkpoint}-{seed}" if checkpoint else None
            fits.append(self.fit(build(seed), cohort, loss, epochs=epochs, seed=seed, checkpoint=own, **options))
            tables.append({name: np.asarray(value, dtype=float) for name, value in score(fits[-1].model).items()})
        return Trials({name: np.stack([table[name] for table in tables]) for name in tables[0]}, fits)

    def predict(self, model, cohort: Cohort, forward=None, *, batch: int = 16):
        """Outputs of `model` for every case, on the CPU: see `medtutor.train.predict`."""
        return train.predict(model, cohort, forward, device=self.device, batch=batch)

    def real(self, default: str, **options) -> Cohort | None:
        """The public dataset of the real-data section, or None after one sentence that says how to get it.

        It is `default`, loaded with `options`, unless the parameter `data` names another one.
        """
        from medtutor import data

        name = default if self.data == "phantom" else self.data
        try:
            return data.load(name, **(options if name == default else {}))
        except FileNotFoundError as error:
            print(error)
            return None

    def glue(self, name: str, value, form: str = ".3f") -> None:
        """Store a number (formatted with `form`) or a text under `name`, for `{glue:text}` in the prose."""
        from IPython.display import display

        text = value if isinstance(value, str) else format(value, form)
        display({GLUE_PREFIX + "text/plain": text}, raw=True,
                metadata={"scrapbook": {"name": name, "mime_prefix": GLUE_PREFIX}})

    def claim(self, paper: str, statement: str, *, published: str, expected: float, measured: float,
              metric: str, unit: str = "", tolerance: float = 0.0) -> None:
        """Show and record a checkable fact: `matches` where `measured` lies within `tolerance` (relative) of
        `expected`, the number in the text `published`, else `differs`. Facts do not depend on the profile."""
        close = abs(measured - expected) <= tolerance * abs(expected)
        self._record(Claim(paper, statement, metric, published, float(measured), None,
                                  float(measured - expected), None, 0, unit, "matches" if close else "differs"))

    def compare(self, paper: str, statement: str, *, published: str, idea, baseline, metric: str, unit: str = "",
                claimed: str = "higher", key: str | None = None) -> None:
        """Show and record the verdict on `statement` from two score tables of shape (seeds, cases).

        `claimed` says on which side the idea should lie: "higher" or "lower". The verdict follows from the paired
        interval (`medtutor.stats.paired`). In `smoke` nothing is evaluated. With `key` the numbers are glued as
        key-idea, key-baseline, key-difference, key-interval and key-verdict.
        """
        if self.profile == "smoke":
            claim = Claim(paper, statement, metric, published, None, None, None, None, len(idea), unit, "not evaluated")
        else:
            found = stats.paired(idea, baseline)
            claim = Claim(paper, statement, metric, published, found.idea, found.baseline, found.difference,
                          found.interval, found.seeds, unit, found.verdict(claimed))
        if key:
            self._glue_claim(key, claim)
        self._record(claim)

    def _glue_claim(self, key: str, claim: Claim) -> None:
        known = claim.measured is not None
        self.glue(f"{key}-verdict", claim.verdict)
        for name, value, sign in (("idea", claim.measured, False), ("baseline", claim.baseline, False),
                                  ("difference", claim.difference, True)):
            self.glue(f"{key}-{name}", show(value, sign) if known else "?")
        self.glue(f"{key}-interval", f"[{', '.join(show(v, True) for v in claim.interval)}]" if known else "?")

    def _record(self, claim: Claim) -> None:
        # Returning the claim as well would show it twice where the call ends a cell.
        from IPython.display import display

        self.claims.append(claim)
        display(claim)

    def table(self, rows: list[dict[str, object]], caption: str) -> None:
        """Show rows as a table with a caption. A tuple (mean, low, high) is shown as a mean with its interval."""
        from IPython.display import HTML, display

        def text(value) -> str:
            if isinstance(value, tuple):
                return f"{show(value[0])} [{show(value[1])}, {show(value[2])}]"
            form = ".1f" if isinstance(value, float) else "," if isinstance(value, int) else ""
            return format(value, form)

        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in rows[0])
        body = "".join("<tr>" + "".join(f"<td>{escape(text(value))}</td>" for value in row.values()) + "</tr>"
                       for row in rows)
        display(HTML(f'<div class="table-scroll"><table class="measured"><caption>{escape(caption)}</caption>'
                     f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"))
