"""The stored output of `explore` in a real JupyterLab: alive where trusted, elsewhere a still and its words."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.sign import NotebookNotary
from test_widgets import ALT, caption, chromium, html, needs_browser, no_kernel, state, still  # noqa: F401

pytestmark = needs_browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves trusted.ipynb and untrusted.ipynb, both with the same output."""
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDTUTOR_LIVE", "0")
        shown = html(radius=[3, 6, 9], colour=["white", "grey"], start={"radius": 6})
    output = nbformat.v4.new_output("display_data", {"text/html": shown, "text/plain": ALT})
    for name in ("trusted", "untrusted"):
        cell = nbformat.v4.new_code_cell("explore()", execution_count=1, outputs=[output])
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        book = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
        book.cells[0].id = name
        nbformat.write(book, folder / f"{name}.ipynb")
    environment = os.environ | {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("DATA", "RUNTIME", "CONFIG")}
    (home / "DATA").mkdir()
    notary = NotebookNotary(data_dir=str(home / "DATA"))
    notary.sign(nbformat.read(folder / "trusted.ipynb", 4))
    notary.store.close()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.token=",
               "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail(f"JupyterLab did not start: {''.join(said[-5:])}")
        yield found[0]
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture
def opened(lab, chromium):  # noqa: F811
    """`opened(name)`: the figure in the notebook of that name, in a page that reaches nothing but this JupyterLab."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(lab) else route.abort())

    def figure(name):
        page = context.new_page()
        page.goto(f"{lab}/doc/tree/{name}.ipynb")
        widget = page.locator(".medtutor-explore")
        widget.wait_for(timeout=60_000)
        return widget

    yield figure
    context.close()


def test_a_trusted_notebook_plays_its_stored_frames(opened):
    widget = opened("trusted")
    before = state(widget)
    assert before[1:] == (f"{ALT} {caption(6, 'white')}", caption(6, "white"))
    widget.get_by_role("slider").press("ArrowRight")
    larger = state(widget)
    assert larger[2] == caption(9, "white")
    widget.get_by_role("combobox").select_option(label="grey")
    grey = state(widget)
    assert grey[2] == caption(9, "grey")
    assert len({before[0], larger[0], grey[0]}) == 3
    widget.get_by_role("button", name="Play radius").click()
    assert state(widget)[2] == caption(3, "grey"), "from its last value it starts again"


def test_a_notebook_that_is_not_trusted_shows_the_still_and_its_words(opened):
    widget = opened("untrusted")
    assert still(widget) == (f"{ALT} {caption(6, 'white')}", caption(6, "white"))
    assert widget.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    assert widget.locator("input, select, button, canvas").count() == 0
