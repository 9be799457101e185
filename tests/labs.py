"""A real JupyterLab for the tests: one output in two notebooks, of which it trusts one."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import psutil
from nbformat.sign import NotebookNotary
from test_execute import wait_until

PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def answers(address: str) -> bool:
    try:
        return urlopen(f"{address}/api").status == 200
    except URLError:
        return False


@contextmanager
def jupyterlab(root: Path, data: dict[str, str]):
    """The address of a JupyterLab that serves trusted.ipynb and untrusted.ipynb, each with the output `data`."""
    home, folder = root / "jupyter", root / "notebooks"
    (home / "DATA").mkdir(parents=True)
    folder.mkdir()
    output = nbformat.v4.new_output("display_data", data)
    for name in ("trusted", "untrusted"):
        cells = [nbformat.v4.new_code_cell("1", execution_count=1, outputs=[output]), nbformat.v4.new_code_cell("2")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=PYTHON), folder / f"{name}.ipynb")
    notary = NotebookNotary(data_dir=str(home / "DATA"))
    notary.sign(nbformat.read(folder / "trusted.ipynb", as_version=4))
    notary.store.close()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {f"JUPYTER_{part}_DIR": str(home / part) for part in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--port-retries=0",
               "--ip=127.0.0.1", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
               "--LabApp.news_url=None"]
    with open(root / "log", "wb") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, cwd=root)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), seconds=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        # Asked to stop while a kernel starts, the server may wait for ever.
        for process in [*psutil.Process(server.pid).children(recursive=True), server]:
            process.kill()
        server.wait()

