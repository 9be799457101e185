"""The built website, once for all tests of this folder: as `make site` left it, else built now."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site; MEDTUTOR_SITE names another one."""
    folder = Path(os.environ.get("MEDTUTOR_SITE", ROOT / "_build" / "html"))
    if not (folder / "index.html").exists():
        subprocess.run([sys.executable, "-m", "medtutor.site"], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def pages(site) -> dict[Path, BeautifulSoup]:
    """Every page of the book by its path; the search and index pages of Sphinx included."""
    paths = sorted(p for p in site.rglob("*.html") if not {"_static", "_sources"} & set(p.relative_to(site).parts))
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in paths}
