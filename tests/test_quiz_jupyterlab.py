"""A quiz in a real JupyterLab: in a cell that one runs, and in a notebook that JupyterLab does not trust."""

import os
import socket
import subprocess
import sys
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
from test_execute import wait_until
from test_quiz import BANK
from test_widgets import chromium, needs_browser  # noqa: F401

from medtutor import quiz

PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
QUIZ = ".jp-OutputArea .medtutor-quiz"


def answers(address: str) -> bool:
    try:
        return urlopen(f"{address}/api").status == 200
    except URLError:
        return False


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with two notebooks: `run` has a quiz to show, `stored` has one among its outputs."""
    root = tmp_path_factory.mktemp("lab")
    bank = root / "01-quiz.yml"
    bank.write_text(BANK, encoding="utf-8")
    output = nbformat.v4.new_output("display_data", {"text/html": quiz.html(quiz.read(bank))})
    code = ("from pathlib import Path\nfrom medtutor import quiz\n"
            "quiz.find = lambda _: Path('01-quiz.yml')\nquiz.show('01')")
    books = {"run": [nbformat.v4.new_code_cell(code)],
             "stored": [nbformat.v4.new_code_cell("1", execution_count=1, outputs=[output])]}
    for name, cells in books.items():
        more = [nbformat.v4.new_code_cell(str(number)) for number in range(3)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells + more, metadata=PYTHON), root / f"{name}.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {f"JUPYTER_{part}_DIR": str(root / part.lower()) for part in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--port-retries=0",
               "--IdentityProvider.token=", f"--ServerApp.root_dir={root}", "--LabApp.news_url=None"]
    with open(root / "log", "wb") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, cwd=root)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), seconds=60)
        yield f"http://127.0.0.1:{port}/doc/tree"
    finally:
        server.terminate()
        server.wait()


@needs_browser
def test_arrow_keys_stay_in_the_quiz_and_enter_answers(chromium, lab):  # noqa: F811
    page = chromium.new_page()
    page.goto(f"{lab}/run.ipynb")
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=60_000)
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Control+Enter")
    shown = page.locator(QUIZ)
    shown.wait_for(timeout=60_000)
    assert shown.locator("math").count() == 6
    shown.get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert shown.locator(".why").first.text_content().startswith("Right. ")
    assert shown.locator(".score").text_content() == "1 of 1 right at the first try; 1 to go."
    assert page.evaluate("document.activeElement.type") == "radio"
    page.close()


@needs_browser
def test_without_trust_the_choices_open_and_formulas_are_set(chromium, lab):  # noqa: F811
    page = chromium.new_page()
    page.goto(f"{lab}/stored.ipynb")
    shown = page.locator(QUIZ)
    shown.wait_for(timeout=60_000)
    assert shown.locator("script, style, input").count() == 0
    shown.locator("mjx-container").first.wait_for()
    why = shown.get_by_text("That is the sensitivity")
    assert not why.is_visible()
    shown.get_by_text("is found").click()
    assert why.is_visible()
    page.close()
