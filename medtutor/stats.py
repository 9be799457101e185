"""Paired comparisons over seeds and cases.

Two methods are trained with the same seeds and scored on the same test cases, so their scores form two tables of
S seeds by N cases. Seeds and cases are crossed random factors: a difference must survive other seeds AND other
patients before a claim holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """Mean scores of both sides, their paired difference (idea - baseline) and its 95 % interval."""

    idea: float
    baseline: float
    difference: float
    interval: tuple[float, float]
    seeds: int
    cases: int

    def verdict(self, claimed: str = "higher") -> str:
        """`holds` if the interval excludes zero on the claimed side, `reversed` on the other, else `not shown`."""
        if claimed not in ("higher", "lower"):
            raise ValueError(f"claimed must be 'higher' or 'lower', but got {claimed!r}")
        low, high = self.interval if claimed == "higher" else (-self.interval[1], -self.interval[0])
        return "holds" if low > 0 else "reversed" if high < 0 else "not shown"


def paired(idea, baseline, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare two score tables of shape (seeds, cases), paired by row and column.

    The interval comes from the pigeonhole bootstrap (Owen, Annals of Applied Statistics 2007): seeds and cases are
    resampled independently. With three to five seeds a plain percentile interval is far too narrow, so its width is
    rescaled to the crossed analysis of variance and to Student's t with Satterthwaite's degrees of freedom
    (`_standard_error`). NaN scores (an organ absent from a case) drop that case on both sides.

    Raises ValueError if the tables differ in shape, are not two-dimensional, hold an infinite score, or hold fewer
    than two usable cases and fewer than two seeds.
    """
    idea, baseline = np.asarray(idea, dtype=float), np.asarray(baseline, dtype=float)
    if idea.ndim != 2 or idea.shape != baseline.shape:
        raise ValueError(f"scores must be two tables (seeds, cases) of one shape, got {idea.shape}, {baseline.shape}")
    if np.isinf(idea).any() or np.isinf(baseline).any():
        # Dropping it would forgive the failure that it stands for, such as a Hausdorff distance to an empty mask.
        raise ValueError("a score is infinite; give a failed case the worst finite score, such as the image diagonal")
    usable = ~(np.isnan(idea).any(0) | np.isnan(baseline).any(0))
    idea, baseline = idea[:, usable], baseline[:, usable]
    difference = idea - baseline
    if difference.size < 2:
        raise ValueError(f"{difference.shape[0]} seed(s) and {difference.shape[1]} usable case(s) give no interval; "
                         "score at least two seeds or two cases on both sides")
    mean = difference.mean()
    offsets = _pigeonhole(difference, resamples, np.random.default_rng(seed)) - mean
    tail = (1 - confidence) / 2
    error, freedom = _standard_error(difference)
    spread = offsets.std()
    if spread > 0:
        from scipy.stats import norm, t

        offsets = offsets * (error / spread) * (t.ppf(1 - tail, freedom) / norm.ppf(1 - tail))
    low, high = mean + np.quantile(offsets, [tail, 1 - tail])
    return Comparison(float(idea.mean()), float(baseline.mean()), float(mean), (float(low), float(high)),
                      *difference.shape)


def interval(scores, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and interval of one table (seeds, cases), by the same resampling as `paired`."""
    scores = np.asarray(scores, dtype=float)
    result = paired(scores, np.zeros_like(scores), confidence=confidence, resamples=resamples, seed=seed)
    return result.difference, *result.interval


def _pigeonhole(table: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `resamples` tables whose seeds (rows) and cases (columns) were drawn with replacement."""
    seeds, cases = table.shape
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    columns = rng.multinomial(cases, np.full(cases, 1 / cases), size=resamples) / cases
    return np.einsum("rs,sn,rn->r", rows, table, columns)


def _standard_error(table: np.ndarray) -> tuple[float, float]:
    """Standard error of the grand mean under crossed seeds and cases, and Satterthwaite's degrees of freedom.

    Var(mean) = (MS_seeds + MS_cases - MS_rest) / (S N). It is not let below either factor's own share, since the
    subtraction is noisy with few seeds. A table with one seed (or one case) has only the other factor to vary.
    """
    seeds, cases = table.shape
    mean = table.mean()
    row, column = table.mean(1), table.mean(0)
    if seeds == 1 or cases == 1:
        count = max(seeds, cases)
        return float((row if cases == 1 else column).std(ddof=1) / np.sqrt(count)), count - 1
    ms_seeds = cases * row.var(ddof=1)
    ms_cases = seeds * column.var(ddof=1)
    rest = table - row[:, None] - column[None] + mean
    ms_rest = (rest**2).sum() / ((seeds - 1) * (cases - 1))
    total = max(ms_seeds + ms_cases - ms_rest, ms_seeds, ms_cases)
    parts = ms_seeds**2 / (seeds - 1) + ms_cases**2 / (cases - 1)
    freedom = total**2 / parts if parts > 0 else cases - 1
    return float(np.sqrt(total / table.size)), max(1.0, freedom)
