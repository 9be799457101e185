"""A quiz in a real JupyterLab: in a notebook that it trusts, where scripts run, and in one that it does not."""

import pytest
from labs import jupyterlab
from test_quiz import BANK
from test_widgets import chromium, needs_browser  # noqa: F401

from medtutor import quiz

QUIZ = ".jp-OutputArea .medtutor-quiz"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with a quiz among the outputs of two notebooks: trusted, as if run here, and not."""
    root = tmp_path_factory.mktemp("lab")
    bank = root / "01-quiz.yml"
    bank.write_text(BANK, encoding="utf-8")
    with jupyterlab(root, {"text/html": quiz.html(quiz.read(bank))}) as address:
        yield f"{address}/doc/tree"


@needs_browser
def test_arrow_keys_stay_in_the_quiz_and_enter_answers(chromium, lab):  # noqa: F811
    page = chromium.new_page()
    page.goto(f"{lab}/trusted.ipynb")
    shown = page.locator(QUIZ)
    shown.wait_for(timeout=60_000)
    assert shown.locator("math").count() == 6
    radios = shown.get_by_role("radio")
    radios.first.press("ArrowDown")
    assert radios.nth(1).is_checked()
    radios.nth(1).press("Enter")
    assert shown.locator(".why").first.text_content().startswith("Right. ")
    assert shown.locator(".score").text_content() == "1 of 1 right at the first try; 1 to go."
    assert page.locator(".jp-Cell").first.evaluate("cell => cell.classList.contains('jp-mod-active')")
    page.close()


@needs_browser
def test_without_trust_the_choices_open_and_formulas_are_set(chromium, lab):  # noqa: F811
    page = chromium.new_page()
    page.goto(f"{lab}/untrusted.ipynb")
    shown = page.locator(QUIZ)
    shown.wait_for(timeout=60_000)
    assert shown.locator("script, style, input").count() == 0
    shown.locator("mjx-container").first.wait_for()
    why = shown.get_by_text("That is the sensitivity")
    assert not why.is_visible()
    shown.get_by_text("is found").click()
    assert why.is_visible()
    page.close()
