"""book/cohorts.yml: what data each of the 108 papers asks for, and that the digital patient makes it."""

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from medtutor.phantom import gallery

BOOK = Path(__file__).parents[1] / "book"
PAPERS = [row["id"] for row in yaml.safe_load((BOOK / "papers.yml").read_text(encoding="utf-8"))]
ROWS = yaml.safe_load((BOOK / "cohorts.yml").read_text(encoding="utf-8"))
CALLS = [(paper, row) for paper, rows in ROWS.items() for row in rows if "call" in row]
made = cache(gallery.made)


def test_there_is_a_row_for_each_paper():
    assert list(ROWS) == PAPERS, "cohorts.yml lists the papers in the order of papers.yml"
    assert all(rows for rows in ROWS.values())


@pytest.mark.parametrize("row", [row for rows in ROWS.values() for row in rows], ids=lambda row: row.get("call", "-"))
def test_a_row_names_a_call_or_says_why_there_is_none(row):
    if "call" in row:
        assert set(row) - {"note"} == {"call", "n", "needs"}
        assert row["n"] > 3
        assert row["needs"]
    else:
        assert set(row) == {"reason"}
        assert row["reason"].endswith(".")


@pytest.mark.parametrize(("paper", "row"), CALLS, ids=[f"{paper} {row['call']}" for paper, row in CALLS])
def test_the_call_makes_what_the_paper_needs(paper, row):
    """`needs` names columns, "mask: liver tumour" also one of the names of a column's channels or classes."""
    cohort = made(row["call"], 3)
    columns = cohort.columns()
    for need in row["needs"]:
        column, _, name = need.partition(": ")
        assert column in columns, f"{paper} needs {column}, but the call gives {', '.join(columns)}"
        assert not name or name in cohort.names[column]
        value = columns[column]
        if not isinstance(value, Tensor):
            assert any(text.strip() for text in value), "texts; empty where there is nothing to tell"
        elif column in ("image", "volume"):
            assert value.isfinite().all()
            assert value.float().std() > 0
            assert torch.unique(value.flatten(1), dim=0).shape[0] > 1, "the cases differ"
    assert len(cohort) % 3 == 0
    assert {"image", "volume"} & set(columns) <= set(cohort.units), "pixels have a unit"
