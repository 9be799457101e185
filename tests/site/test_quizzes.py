"""The page of quizzes: answered with a keyboard, read without scripts, and open to everybody."""

import pytest
from conftest import HARMLESS, ROOT
from test_access import AXE

from medtutor import quiz

BANKS = sorted((ROOT / "chapters" / "exercises").glob("[0-9][0-9]-quiz.yml"))
PAGE = "book/quizzes"
pytestmark = [pytest.mark.site, pytest.mark.skipif(not BANKS, reason="the book has no quiz yet")]


def test_every_bank_is_on_the_page_and_is_answered_with_the_keyboard(open_page):
    page = open_page(PAGE, "phone")
    for bank in BANKS:
        questions, shown = quiz.read(bank), page.locator(f"#quiz-{bank.name[:2]} .medtutor-quiz")
        assert shown.locator("fieldset").count() == len(questions)
        for number, question in enumerate(questions):
            group = shown.get_by_role("group").nth(number)
            right = [choice["right"] for choice in question["choices"]].index(True)
            group.get_by_role("radio").first.focus()
            for _ in range(right):
                page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter" if right else "Space")
            assert group.get_by_role("status").inner_text().startswith("Right.")
        score = f"{len(questions)} of {len(questions)} right at the first try."
        assert shown.locator(".score").text_content() == score
    assert not [p for p in page.problems if not HARMLESS.search(p)]


def test_the_section_of_a_paper_is_a_link_away(open_page):
    page = open_page(PAGE, java_script_enabled=False)
    papers = {question["paper"] for bank in BANKS for question in quiz.read(bank) if question.get("paper")}
    links = page.eval_on_selector_all(".medtutor-quiz a", "all => all.map(a => a.hash.slice(1))")
    assert papers == set(links)


def test_without_scripts_the_choices_open(open_page):
    page = open_page(PAGE, java_script_enabled=False)
    choice = page.locator(".medtutor-quiz details").first
    choice.locator("summary").click()
    assert choice.locator("strong").is_visible()
    assert page.locator(".medtutor-quiz input").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_an_answered_quiz(open_page, scheme):
    page = open_page(PAGE, "phone", scheme, bypass_csp=True)
    for number in range(page.locator("fieldset").count()):
        page.locator("fieldset").nth(number).get_by_role("radio").nth(number % 2).check()
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert not [f"{v['id']}: {node['html'][:160]}" for v in found for node in v["nodes"]]
