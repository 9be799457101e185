"""Directives for the pages around the chapters: paper index, claims ledger, executions, datasets.

All of them read executed notebooks, book/papers.yml and the dataset catalogue when the site is built;
nothing is kept beside these. Tables are plain HTML with captions and scopes; on a narrow screen wide ones are stacked.
"""

from __future__ import annotations

import re
from collections import Counter
from html import escape
from pathlib import Path

import yaml
from docutils import nodes
from myst_nb.core import render
from sphinx.util.docutils import SphinxDirective

from medtutor import notebook
from medtutor.claims import MIME as CLAIM_MIME
from medtutor.claims import VERDICTS, Claim

FACTS = VERDICTS[3:5]
MEANING = {
    "holds": "the interval of the difference excludes zero on the claimed side",
    "not shown": "the interval contains zero: this experiment cannot tell",
    "reversed": "the interval excludes zero on the other side",
    "matches": "our number agrees with the published one within the stated tolerance",
    "differs": "it does not, and the chapter says why",
    "not evaluated": "recorded without an experiment",
}


class Page(SphinxDirective):
    """A directive that reads the book's own data; its page is read again at every build."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return self.content_nodes()

    def source(self) -> Path:
        return Path(self.env.srcdir)

    def rows(self, name: str) -> list[dict]:
        return yaml.safe_load((self.source() / "book" / name).read_text(encoding="utf-8"))

    def notebooks(self) -> dict[str, notebook.nbformat.NotebookNode]:
        """Chapter stem to notebook, for the chapters that are in the table of contents."""
        paths = sorted((self.source() / "chapters").glob("[0-9][0-9]-*.ipynb"))
        return {path.stem: notebook.read(path) for path in paths if f"chapters/{path.stem}" in self.env.found_docs}

    def href(self, page: str, anchor: str = "") -> str:
        uri = self.env.app.builder.get_relative_uri(self.env.docname, page)
        return f"{uri}#{anchor}" if anchor else uri

    def section(self, title: str, identity: str, body: str) -> nodes.section:
        section = nodes.section(ids=[identity], names=[identity])
        section += [nodes.title(text=title), html(body)]
        return section


def html(text: str) -> nodes.raw:
    return nodes.raw(text=text, format="html")


def table(caption: str, head: list[str], rows: list[list[str]], kind: str = "", tools: str = "",
          facts: list[dict] | None = None) -> str:
    """An HTML table; the first cell of a row is its header. Cells are HTML already, caption and head are text.

    Tables with the same `tools` share one filter (see `tools_for`), which reads `facts`, one dict a row.
    """
    columns = "".join(f'<th role="columnheader" scope="col">{escape(name)}</th>' for name in head)
    marks = [{}] * len(rows) if facts is None else facts
    body = "".join(
        '<tr role="row"' + "".join(f' data-{key}="{escape(str(value))}"' for key, value in mark.items())
        + f'><th role="rowheader" scope="row">{first}</th>'
        + "".join(f'<td role="cell" data-label="{escape(name)}">{cell}</td>'
                  for name, cell in zip(head[1:], rest, strict=True)) + "</tr>"
        for mark, (first, *rest) in zip(marks, rows, strict=True)
    )
    group, stack = f' data-tools="{tools}"' if tools else "", " stack" if len(head) > 3 else ""
    # The roles say what browsers forget where a style sheet stacks the cells of a row on a narrow screen.
    return (
        f'<div class="table-scroll"><table role="table" class="measured {kind}{stack}"{group}>'
        f'<caption>{escape(caption)}</caption><thead role="rowgroup"><tr role="row">{columns}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def tools_for(tools: str, noun: str, facts: list[dict], *menus: str) -> nodes.raw:
    """A search field, and one menu for each of `menus`, facts by which rows are chosen; book/assets/tables.js listens.

    They are part of the page, so that nothing moves when the script starts, and hidden where no script may run.
    """
    fields = ['<label>Find<input type="search" autocomplete="off"></label>']
    for name in menus:
        values = sorted({str(fact[name]) for fact in facts})
        options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
        fields.append(f'<label>{name.capitalize()}<select name="{name}" autocomplete="off">'
                      f'<option value="">all</option>{options}</select></label>')
    return html(f'<div class="table-tools pst-js-only" data-for="{tools}" data-noun="{noun}">{"".join(fields)}'
                f'<p role="status">{len(facts)} of {len(facts)} {noun}</p></div>')


def link(href: str, text: str) -> str:
    return f'<a href="{escape(href)}">{escape(text)}</a>'


def badge(verdict: str) -> str:
    return f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{escape(verdict)}</span>'


def labels(book) -> set[str]:
    """The section labels, `(label)=`, of a notebook."""
    lines = (line.strip() for cell in book.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return {line[1:-2] for line in lines if line.startswith("(") and line.endswith(")=")}


class PapersIndex(Page):
    """All papers by part and chapter, each linked to the section that teaches it or marked as planned."""

    def content_nodes(self):
        written = {label: stem for stem, book in self.notebooks().items() for label in labels(book)}
        papers, chapters = {row["n"]: row for row in self.rows("papers.yml")}, self.rows("chapters.yml")
        done = sum(row["id"] in written for row in papers.values())
        every = [fact for c in chapters for fact in self.facts(c, [papers[n] for n in c["papers"]], written)]
        sections = [nodes.paragraph(text=f"{done} of {len(papers)} papers have their section so far; the others are "
                                         "planned."), tools_for("papers", "papers", every, "status", "chapter", "year")]
        for number, part in enumerate(dict.fromkeys(chapter["part"] for chapter in chapters), start=1):
            tables = [self.chapter(c, [papers[n] for n in c["papers"]], written) for c in chapters if c["part"] == part]
            sections.append(self.section(part, f"papers-part-{number}", "".join(tables)))
        return sections

    def facts(self, chapter: dict, papers: list[dict], written: dict[str, str]) -> list[dict]:
        return [{"status": "written" if paper["id"] in written else "planned", "chapter": chapter["number"],
                 "year": paper["year"], "words": paper["id"]} for paper in papers]

    def chapter(self, chapter: dict, papers: list[dict], written: dict[str, str]) -> str:
        return table(f"{chapter['number']}  {chapter['title']}", ["Paper", "Section", "Cited as", "Sources"],
                     [self.row(paper, written) for paper in papers], "papers", "papers",
                     self.facts(chapter, papers, written))

    def row(self, paper: dict, written: dict[str, str]) -> list[str]:
        about = f"{escape(paper['authors'])}, {paper['year']}. {escape(paper['venue'])}."
        title = f'<span class="title">{escape(paper["title"])}</span><br><span class="about">{about}</span>'
        sources = []
        if paper["arxiv"]:
            sources.append(link(f"https://arxiv.org/abs/{paper['arxiv']}", f"arXiv {paper['arxiv']}"))
        if paper["code"]:
            note = f" ({escape(paper['code_note'])})" if paper.get("code_note") else ""
            sources.append(link(f"https://github.com/{paper['code']}", paper["code"].split("/")[1]) + note)
        stem = written.get(paper["id"])
        where = link(self.href(f"chapters/{stem}", paper["id"]), f"{paper['id']}") if stem else badge("planned")
        cited = link(self.href("book/bibliography", f"ref-{paper['id']}"), f"reference {paper['n']}")
        return [title, where, cited, "<br>".join(sources) or "none known"]


class ClaimsLedger(Page):
    """Every claim with its verdict, by chapter; a claim that failed stands where it would stand had it held."""

    def content_nodes(self):
        titles = {f"{row['number']}-{row['slug']}": row["title"] for row in self.rows("chapters.yml")}
        books = {stem: notebook.claims(book) for stem, book in self.notebooks().items()}
        counts = Counter(claim["verdict"] for claims in books.values() for claim in claims)
        shown = [verdict for verdict in VERDICTS if counts[verdict] or verdict != "not evaluated"]
        summary = table("All claims by verdict", ["Verdict", "Claims", "What it means"],
                        [[badge(verdict), str(counts[verdict]), MEANING[verdict]] for verdict in shown], "summary")
        rows, facts = [], []
        for stem, claims in books.items():
            chapter = f"{stem[:2]} {titles.get(stem, stem)}"
            for claim in sorted(claims, key=lambda claim: claim["verdict"] in FACTS):
                rows.append(self.row(stem, claim))
                facts.append({"chapter": chapter, "verdict": claim["verdict"], "paper": claim["paper"]})
        head = ["Claim", "Chapter", "Verdict", "Published", "Measured here"]
        every = table("Every claim: experiments first, then facts, chapter by chapter", head, rows, "ledger", "claims",
                      facts)
        return [html(summary), tools_for("claims", "claims", facts, "chapter", "verdict", "paper"), html(every)]

    def row(self, stem: str, claim: dict) -> list[str]:
        measured = f"{escape(claim['metric'])}: {escape(Claim(**claim).numbers())}"
        paper = link(self.href(f"chapters/{stem}", claim["paper"]), claim["paper"])
        statement = f"{escape(claim['statement'])}<br>{paper}"
        return [statement, stem[:2], badge(claim["verdict"]), escape(claim["published"]), measured]


def minutes(facts: dict) -> str:
    return f"{facts['seconds'] / 60:.1f} min" if facts["seconds"] >= 60 else f"{facts['seconds']:.0f} s"


class Executions(Page):
    """What the stored execution of each chapter took, and whether it belongs to the code shown."""

    def content_nodes(self):
        rows, versions = [], []
        for stem, book in self.notebooks().items():
            facts = notebook.execution(book)
            if not facts:
                rows.append([link(self.href(f"chapters/{stem}"), stem), badge("planned"), *["not executed yet"] * 5])
                continue
            current = facts["source_sha256"] == notebook.fingerprint(book)
            rows.append([
                link(self.href(f"chapters/{stem}"), stem), escape(facts.get("date", "not recorded")),
                escape(facts["profile"]), minutes(facts),
                f"{facts['peak_memory_mb']:,} MB", f"{escape(str(facts['data']))}, seed {facts['seed']}",
                f"<code>{escape(facts['source_sha256'][:12])}</code> {'current' if current else 'of an older source'}",
            ])
            versions.append([escape(stem), escape(", ".join(f"{k} {v}" for k, v in facts["versions"].items()))])
        head = ["Chapter", "Executed", "Profile", "Time", "Peak memory", "Data", "Source fingerprint"]
        return [html(table("Stored executions", head, rows)
                     + (table("Versions they ran with", ["Chapter", "Versions"], versions) if versions else ""))]


class ChapterFacts(Page):
    """One line at the top of a chapter: measured time and memory, what it downloads, and the size of its real data.

    The argument is the number of a chapter, by default of the one in which the directive stands.
    """

    optional_arguments = 1

    def content_nodes(self):
        number = self.arguments[0].zfill(2) if self.arguments else Path(self.env.docname).name[:2]
        book = next((book for stem, book in self.notebooks().items() if stem[:2] == number), None)
        facts = notebook.execution(book) if book else {}
        if not facts:
            return [nodes.paragraph(text="Not executed yet.", classes=["chapter-facts"])]
        size = facts.get("download_mb", 0)
        need = f"downloads {size:,.0f} MB" if size else "nothing to download"
        text = f"{minutes(facts)}, {facts['peak_memory_mb']:,} MB of memory, {need}"
        return [html(f'<p class="chapter-facts"><strong>Measured (profile {escape(facts["profile"])}):</strong> '
                     f"{escape(text)}.{self.real(book)}</p>")]

    def real(self, book) -> str:
        """What the section on real data asks for: `lab.real` names its dataset, the catalogue its size."""
        from medtutor.data import find

        called = re.search(r'lab\.real\(\s*"([\w-]+)"', "\n".join(cell.source for cell in book.cells))
        if not called:
            return ""
        entry = find(called[1])
        return (f" On real data, if you like: {link(self.href('book/data'), entry.title)}, "
                f"{escape(entry.size_text())}.")


class DatasetCatalogue(Page):
    """The public datasets, from the package's catalogue."""

    def content_nodes(self):
        from medtutor.data import families, find

        rows = []
        for entry, sizes in ((find(name), sizes) for name, sizes in families().items()):
            licence = link(entry.licence_url, entry.licence)
            rows.append([
                f"{escape(entry.title)}<br>"
                + ", ".join(f"<code>{escape(name)}</code>" for name in [entry.name, *sizes]),
                f"{escape(entry.task)}; {escape(entry.modality)}; {entry.cases_text()}, {entry.size_text()}"
                + (f"<br>{escape(entry.access)}" if entry.access else ""),
                licence + ("<br>no commercial use" if entry.non_commercial else ""),
                f"{escape(entry.citation)}<br>{link(entry.original, 'original')}, {link(entry.source, 'this copy')}",
            ])
        return [html(table("Public datasets", ["Dataset", "Holds", "Licence", "Please cite"], rows, "datasets"))]


class Outputs:
    """myst-nb renderer plugin for what the chapters display.

    A figure gets the alt text in the metadata of its output. The data of a claim renders as nothing: the HTML of the
    same output shows it.
    """

    mime_priority_overrides = ()

    @staticmethod
    def handle_mime(renderer, data, inline):
        """Nodes for images with alt text and for claims; None leaves an output to myst-nb."""
        if data.mime_type == CLAIM_MIME:
            return []
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        if not (data.mime_type.startswith("image/") and alt):
            return None
        images = renderer.render_image_inline(data) if inline else renderer.render_image(data)
        for image in images:
            image["alt"] = alt
        return images


def setup(app) -> dict:
    # myst-nb finds plugins among the entry points of installed packages; this one belongs to the book alone.
    plugins = [*render.load_mime_renders(), Outputs]
    render.load_mime_renders = lambda: plugins
    app.add_directive("papers-index", PapersIndex)
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive("executions", Executions)
    app.add_directive("chapter-facts", ChapterFacts)
    app.add_directive("dataset-catalogue", DatasetCatalogue)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
