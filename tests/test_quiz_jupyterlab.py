"""A quiz in a real JupyterLab: in a notebook that it trusts, where scripts run, and in one that it does not."""

import os
import socket
import subprocess
import sys
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import psutil
import pytest
from nbformat.sign import NotebookNotary
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
    """The address of a JupyterLab with a quiz among the outputs of two notebooks: trusted, as if run here, and not."""
    root = tmp_path_factory.mktemp("lab")
    bank = root / "01-quiz.yml"
    bank.write_text(BANK, encoding="utf-8")
    output = nbformat.v4.new_output("display_data", {"text/html": quiz.html(quiz.read(bank))})
    for name in ("trusted", "foreign"):
        cells = [nbformat.v4.new_code_cell("1", execution_count=1, outputs=[output]), nbformat.v4.new_code_cell("2")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=PYTHON), root / f"{name}.ipynb")
    (root / "data").mkdir()
    notary = NotebookNotary(data_dir=str(root / "data"))
    notary.sign(nbformat.read(root / "trusted.ipynb", as_version=4))
    notary.store.close()
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
        # Asked to stop while a kernel starts, the server may wait for ever.
        for process in [*psutil.Process(server.pid).children(recursive=True), server]:
            process.kill()
        server.wait()


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
    page.goto(f"{lab}/foreign.ipynb")
    shown = page.locator(QUIZ)
    shown.wait_for(timeout=60_000)
    assert shown.locator("script, style, input").count() == 0
    shown.locator("mjx-container").first.wait_for()
    why = shown.get_by_text("That is the sensitivity")
    assert not why.is_visible()
    shown.get_by_text("is found").click()
    assert why.is_visible()
    page.close()
