"""The one list of papers, the chapters that teach them, and the bibliography agree."""

import re
from pathlib import Path

import pytest
import yaml

BOOK = Path(__file__).parents[1] / "book"
PAPERS = yaml.safe_load((BOOK / "papers.yml").read_text(encoding="utf-8"))
CHAPTERS = yaml.safe_load((BOOK / "chapters.yml").read_text(encoding="utf-8"))
KEYS = re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(encoding="utf-8"), re.MULTILINE)
KINDS = {"method", "system", "survey", "dataset", "benchmark", "evaluation-study"}


def test_108_papers_with_unique_ids_and_numbers():
    assert len(PAPERS) == 108
    assert len({row["id"] for row in PAPERS}) == 108
    assert sorted(row["n"] for row in PAPERS) == list(range(1, 109))


def test_26_chapters_in_order_teach_each_paper_once():
    assert [row["number"] for row in CHAPTERS] == [f"{n:02}" for n in range(1, 27)]
    assert len({row["slug"] for row in CHAPTERS}) == 26
    told = [n for row in CHAPTERS for n in row["papers"]]
    assert told == [row["n"] for row in PAPERS], "papers.yml lists the papers in the order of chapters.yml"
    chapter_of = {n: row["number"] for row in CHAPTERS for n in row["papers"]}
    assert all(row["chapter"] == chapter_of[row["n"]] for row in PAPERS)


@pytest.mark.parametrize("row", PAPERS, ids=lambda row: row["id"])
def test_row_is_well_formed(row):
    assert set(row) - {"code_note"} == {
        "id", "n", "title", "authors", "year", "venue", "arxiv", "code", "chapter", "kind"}
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["id"]), "an id is also a label and a key"
    assert row["kind"] in KINDS
    assert all(row[key] and row[key].strip() == row[key] for key in ("title", "authors", "venue"))
    assert 2010 <= row["year"] <= 2026
    assert row["arxiv"] is None or re.fullmatch(r"\d{4}\.\d{5}", row["arxiv"])
    assert row["code"] is None or re.fullmatch(r"[\w.-]+/[\w.-]+", row["code"])
    assert "code_note" not in row or row["code"]


def test_arxiv_number_does_not_come_after_the_year():
    late = [row["id"] for row in PAPERS if row["arxiv"] and int("20" + row["arxiv"][:2]) > row["year"]]
    assert not late


def test_every_paper_is_in_the_bibliography_and_no_key_twice():
    assert len(KEYS) == len(set(KEYS))
    assert {row["id"] for row in PAPERS} <= set(KEYS)


def test_chapter_files_are_named_and_titled_as_planned():
    from medtutor import notebook

    planned = {f"{row['number']}-{row['slug']}": row["title"] for row in CHAPTERS}
    toc = yaml.safe_load((BOOK.parent / "_toc.yml").read_text(encoding="utf-8"))
    listed = {c["file"]: part["caption"] for part in toc["parts"] for c in part["chapters"] if "chapters/" in c["file"]}
    paths = sorted((BOOK.parent / "chapters").glob("*.ipynb"))
    assert [f"chapters/{path.stem}" for path in paths] == list(listed), "every chapter is in the table of contents"
    parts = {f"chapters/{row['number']}-{row['slug']}": row["part"] for row in CHAPTERS}
    assert all(parts[file] == caption for file, caption in listed.items())
    for path in paths:
        assert path.stem in planned
        assert notebook.read(path).cells[0].source.splitlines()[0] == f"# {planned[path.stem]}"
