"""The directive `quiz`: the quiz of the chapter that it names, or without a name every quiz under its own heading."""

from __future__ import annotations

from docutils import nodes
from medtutor_pages import Page, html, labels

from medtutor import quiz


class Quiz(Page):
    """```{quiz} 01``` is one quiz, ```{quiz}``` one section for each bank in chapters/exercises."""

    optional_arguments = 1

    def content_nodes(self):
        folder = self.source() / "chapters" / "exercises"
        sections = {label: stem for stem, book in self.notebooks().items() for label in labels(book)}
        if self.arguments:
            return [self.one(folder / f"{self.arguments[0].zfill(2)}-quiz.yml", sections)]
        titles = {row["number"]: row["title"] for row in self.rows("chapters.yml")}
        found = []
        for bank in sorted(folder.glob("[0-9][0-9]-quiz.yml")):
            number = bank.name[:2]
            section = nodes.section(ids=[f"quiz-{number}"], names=[f"quiz-{number}"])
            section += [nodes.title(text=f"{number} {titles[number]}"), self.one(bank, sections)]
            found.append(section)
        return found or [nodes.paragraph(text="There is no quiz yet.")]

    def one(self, bank, sections: dict[str, str]) -> nodes.raw:
        def href(paper: str) -> str:
            return self.href(f"chapters/{sections[paper]}", paper) if paper in sections else ""

        return html(quiz.html(quiz.read(bank), "page", href))


def setup(app) -> dict:
    app.add_directive("quiz", Quiz)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
