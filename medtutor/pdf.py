"""The pages of a built site as PDFs, and the whole book as one: `python -m medtutor.site --pdf`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import yaml

FOLDER, BOOK = "pdf", "book.pdf"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def names(source: Path) -> list[str]:
    """The pages of the book at `source` in reading order, such as `book/index`."""
    toc = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))

    def files(entry: dict) -> list[str]:
        below = [*entry.get("parts", []), *entry.get("chapters", []), *entry.get("sections", [])]
        own = [entry[key] for key in ("root", "file") if key in entry]
        return own + [name for part in below for name in files(part)]

    return files(toc)


def path(name: str) -> str:
    """Where the PDF of a page lies in the site."""
    return f"{FOLDER}/{name}.pdf"


def make(html: Path, pages: list[str], base: str) -> Path:
    """Print `pages` of the site at `html`, and bind them to one file with an outline, which is returned.

    Links to other pages lead to the public address `base` of the site. Raises SystemExit where a page is not printed.
    """
    from pypdf import PdfWriter

    def write(pdf, to: Path) -> None:
        public_links(pdf, html.resolve().as_uri(), base.rstrip("/"))
        pdf.write(to)

    bound = PdfWriter()
    for name in pages:
        page, made = (html / f"{name}.html").resolve(), html / path(name)
        made.parent.mkdir(parents=True, exist_ok=True)
        run = subprocess.run([
            chromium(), "--headless", "--disable-gpu", "--no-pdf-header-footer", "--generate-pdf-document-outline",
            *["--no-sandbox"] * (os.geteuid() == 0), f"--print-to-pdf={made}", page.as_uri(),
        ], capture_output=True, text=True, timeout=300)
        if run.returncode or not made.exists():
            raise SystemExit(f"Chromium did not print {page.name}: {(run.stderr or '?').strip().splitlines()[-1]}")
        bound.append(made)
        write(PdfWriter(made), made)
    write(bound, html / FOLDER / BOOK)
    return html / FOLDER / BOOK


def public_links(pdf, here: str, base: str) -> None:
    """Let links into the folder with the address `here` lead to `base`."""
    from pypdf.generic import NameObject, TextStringObject

    for page in pdf.pages:
        for note in page.get("/Annots", []):
            action = note.get_object().get("/A", {})
            if str(action.get("/URI", "")).startswith(here):
                action[NameObject("/URI")] = TextStringObject(action["/URI"].replace(here, base, 1))
