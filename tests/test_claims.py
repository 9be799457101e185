"""Claims: what a cell output holds, and how it reads."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bs4 import BeautifulSoup

from medtutor.claims import MIME, VERDICTS, Claim, plural, show

KEYS = {"paper", "statement", "metric", "published", "measured", "baseline", "difference", "interval", "seeds", "unit",
        "verdict"}
COMPARED = Claim("a-paper", "Skips help.", "Dice", "0.91 against 0.88", 0.8, 0.7, 0.1, (0.05, 0.15), 3, "", "holds")
FACT = Claim("a-paper", "It is small.", "parameters", "5 million", 5_000_123.0, None, 123.0, None, 0, "", "matches")
SMOKE = Claim("a-paper", "Skips help.", "Dice", "0.91", None, None, None, None, 1, "", "not evaluated")


@pytest.mark.parametrize("claim", [COMPARED, FACT, SMOKE])
def test_bundle_holds_the_eleven_facts_and_survives_json(claim):
    bundle = claim._repr_mimebundle_()
    assert bundle.keys() == {MIME, "text/html", "text/plain"}
    facts = json.loads(json.dumps(bundle[MIME], allow_nan=False))
    assert facts.keys() == KEYS
    facts["interval"] = tuple(facts["interval"]) if facts["interval"] else None
    assert Claim(**facts) == claim


@pytest.mark.parametrize("claim", [COMPARED, FACT, SMOKE])
def test_html_and_text_say_the_same(claim):
    shown = BeautifulSoup(claim.html(), "html.parser").get_text(" ")
    for part in (claim.verdict, claim.statement, claim.published, claim.metric, claim.numbers()):
        assert part in shown
        assert part in claim.text()


def test_html_escapes_what_a_notebook_wrote():
    evil = "<script>alert('x')</script> & \"co\""
    html = replace(COMPARED, statement=evil, published=evil, metric=evil, unit=evil).html()
    page = BeautifulSoup(html, "html.parser")
    assert page.find("script") is None
    assert page.get_text().count(evil) == 4


def test_html_names_the_verdict_to_style_sheets_and_screen_readers():
    box = BeautifulSoup(replace(COMPARED, verdict="not shown").html(), "html.parser").div
    assert box["class"] == ["claim", "claim-not-shown"]
    assert box["aria-label"] == "Claim: not shown"


def test_numbers_carry_interval_seeds_and_sign():
    assert COMPARED.numbers() == "0.800 against 0.700; difference +0.100 [+0.050, +0.150], 3 seeds"
    assert replace(COMPARED, unit="Dice", seeds=1).numbers().endswith("[+0.050, +0.150] Dice, 1 seed")
    assert FACT.numbers() == "5,000,123"
    assert SMOKE.numbers() == "not evaluated in this profile"


def test_verdicts_are_a_closed_list():
    assert {"holds", "not shown", "reversed", "matches", "differs", "not evaluated"} == set(VERDICTS)
    with pytest.raises(ValueError, match="verdict must be one of holds, .*, but got 'proven'"):
        replace(COMPARED, verdict="proven")


@pytest.mark.parametrize(("value", "sign", "text"), [
    (31_037_633, False, "31,037,633"), (-1200, True, "-1,200"), (12.0, True, "+12"), (0.8249, False, "0.825"),
    (3.0, False, "3.000"), (-0.5, True, "-0.500"), (123.456, False, "123.5"), (np.float64(0.1), True, "+0.100"),
    (0.00042, False, "0.0004"), (-0.00042, True, "-0.0004"), (0.0, True, "+0.000"), (1234.56, False, "1,234.6"),
    (float("nan"), False, "nan"),
])
def test_numbers_as_a_reader_wants_them(value, sign, text):
    assert show(value, sign) == text


def test_plural():
    assert [plural(n, "seed") for n in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
