"""Quizzes: one bank of questions a chapter, for a notebook, for a page, and for Moodle and Canvas.

A bank is chapters/exercises/NN-quiz.yml, a list of {id, question, choices: [{text, right, why}], paper}. Its texts are
Markdown with formulas between dollars. What is made of them are the templates in assets/quiz.
"""

from __future__ import annotations

import zipfile
from html import escape
from pathlib import Path

import fastjsonschema
import jinja2
import yaml
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from medtutor import notebook

FILES = jinja2.Environment(loader=jinja2.PackageLoader("medtutor", "assets/quiz"), autoescape=True, trim_blocks=True,
                           lstrip_blocks=True, keep_trailing_newline=True)
SCHEMA = fastjsonschema.compile(yaml.safe_load(FILES.loader.get_source(FILES, "schema.yml")[0]))
FORMATS = {"moodle": ["quiz.xml"], "qti": ["imsmanifest.xml", "quiz/assessment.xml", "quiz/assessment_meta.xml"]}

BAR = '<mo stretchy="false">&#x0007C;'  # TeX sets it as a letter, MathML as an operator between spaces


def show(chapter: str) -> None:
    """Show the quiz of a chapter: one self-contained HTML output that needs no kernel afterwards."""
    from IPython.display import display

    questions = read(find(chapter))
    display({"text/html": html(questions), "text/plain": f"A quiz of {len(questions)} questions."}, raw=True)


def find(chapter: str) -> Path:
    """The bank of a chapter. Raises ValueError for an unknown chapter, and for one without a bank."""
    bank = notebook.book_root() / "chapters" / "exercises" / f"{notebook.find(chapter).stem[:2]}-quiz.yml"
    if not bank.exists():
        raise ValueError(f"chapter {bank.name[:2]} has no quiz yet: there is no chapters/exercises/{bank.name}")
    return bank


def read(bank: Path) -> list[dict]:
    """The questions of a bank. Raises ValueError with the file, the question and what is wrong with it."""
    try:
        questions = yaml.safe_load(bank.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{bank.name} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(questions, list) or not questions:
        raise ValueError(f"{bank.name} is not a list of questions")
    for place, question in enumerate(questions):
        try:
            SCHEMA(question)
            if question["id"][:2] != bank.name[:2] or question["id"] in (other["id"] for other in questions[:place]):
                raise ValueError(f"an id begins with {bank.name[:2]} and is given once")
            if (right := sum(choice["right"] for choice in question["choices"])) != 1:
                raise ValueError(f"exactly one choice is right, but here {right} are")
            html([question])
        except ValueError as error:
            name = isinstance(question, dict) and question.get("id") or f"question {place + 1}"
            sentence = getattr(error, "definition", {}).get("description", error)
            raise ValueError(f"{bank.name}, {name}: {sentence}") from None
    return questions


def html(questions: list[dict], style: str = "cell", href=None) -> str:
    """The quiz as one HTML fragment; `style` is that of `rich`. `href(paper)` is where the section on a paper is."""
    return FILES.get_template("quiz.html").render(questions=questions, style=style, href=href)


def export(chapter: str, to: Path, kind: str) -> Path:
    """Write the quiz of a chapter for a learning management system to the folder `to` and return the file.

    `kind` is moodle (Moodle XML) or qti (a QTI 1.2 package as Canvas imports it). The same bank gives the same bytes.
    """
    if kind not in FORMATS:
        raise ValueError(notebook.nearest("format", kind, FORMATS))
    bank, book = find(chapter), notebook.read(notebook.find(chapter))
    title = f"{bank.name[:2]} {book.cells[0].source.splitlines()[0].strip('# ')}"
    facts = {"questions": read(bank), "quiz": f"medtutor-{bank.name[:2]}", "title": title}
    made = {name: FILES.get_template(f"{kind}/{name}").render(facts) for name in FORMATS[kind]}
    to.mkdir(parents=True, exist_ok=True)
    file = to / f"{bank.stem}-{kind}.{'xml' if kind == 'moodle' else 'zip'}"
    if kind == "moodle":
        file.write_bytes(made["quiz.xml"].encode())
        return file
    with zipfile.ZipFile(file, "w") as package:
        for name, text in made.items():
            package.writestr(zipfile.ZipInfo(name), text)  # a ZipInfo has a fixed date
    return file


def rich(text: str, style: str) -> str:
    """Markdown as HTML; a single paragraph comes without its tag. Raises ValueError for a formula that is not TeX.

    `style` says what becomes of a formula: TeX on a "page", where the site sets it as it sets all others; TeX in a
    "cell", which the script of the quiz replaces by MathML (a front end that drops scripts drops MathML too, but sets
    TeX); and TeX for an "lms".
    """
    made = MARKDOWN.render(text, {"style": style}).strip()
    return made[3:-4] if made.startswith("<p>") and made.find("</p>") == len(made) - 4 else made


def _formula(renderer, tokens, index: int, options, env: dict) -> str:
    tex, inline = tokens[index].content.strip(), tokens[index].type == "math_inline"
    shown = escape(rf"\({tex}\)" if inline else rf"\[{tex}\]")
    if env["style"] == "lms":
        return shown
    try:
        made = convert(tex.replace("<", r"\lt ").replace(">", r"\gt "), display="inline" if inline else "block")
    except Exception as error:  # the library raises many types
        raise ValueError(f"the formula ${tex}$ cannot be read ({type(error).__name__})") from None
    braces = tex.replace(r"\{", "").count("{") - tex.replace(r"\}", "").count("}")
    if braces or '"' in tex or "\\" in made or "href=" in made:  # it hands on what it does not know
        raise ValueError(f"the formula ${tex}$ holds a command that is not known, or a brace too many")
    made = made.replace(BAR, BAR.replace(">", ' lspace="0" rspace="0">'))
    return f'<span class="math">{shown}</span>' if env["style"] == "page" else (
        f'<span data-math="{escape(made)}">{shown}</span>')


FILES.filters["rich"] = rich
MARKDOWN = MarkdownIt("commonmark", {"html": False}).use(dollarmath_plugin, double_inline=True).disable("image")
for _kind in ("math_inline", "math_inline_double", "math_block"):
    MARKDOWN.add_render_rule(_kind, _formula)
