"""What the theme and its helpers would do otherwise: load from other hosts, load in vain, name things wrongly."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.errors import ExtensionError

from medtutor import pdf


def local_files(app, config) -> None:
    """Letters come from the copies in the site, where medtutor.site could put them there, as do formulas."""
    config.medtutor_local = (Path(app.srcdir) / "_assets" / "vendor" / "fonts").is_dir()
    if config.medtutor_local:  # paths are as seen from _static/
        app.add_css_file("../vendor/fonts/fonts.css", priority=400)


def needed_scripts(app, pagename, templatename, context, doctree) -> None:
    """Leave MathJax to pages whose formulas are not set in advance, and drop sphinx-thebe, which jupyter-book adds to
    every page: it is not used here, names a foreign address and raises an error."""
    formulas = doctree and any(isinstance(node, (nodes.math, nodes.math_block)) for node in doctree.findall())
    unused = ["thebe"] if formulas and not app.config.medtutor_local else ["thebe", "mathjax"]

    def wanted(script) -> bool:
        text = f"{script} {getattr(script, 'attributes', '')}".lower()
        return not any(name in text for name in unused)

    context["script_files"][:] = [script for script in context["script_files"] if wanted(script)]


#: Names and roles that docutils and myst-nb give, and that contradict the text or that assistive technology dropped.
UNHELPFUL = (' role="doc-biblioentry"', ' role="doc-backlink"', ' role="list" class="citation-list"',
             ' aria-label="Toggle hidden content"')


#: The fonts that a first screen shows, asked for before a style sheet refers to them: text, headings, in chapters code.
LETTERS = [f"vendor/fonts/files/source-{name}.woff2" for name in (
    "sans-3-latin-wght-normal", "sans-3-latin-wght-italic", "serif-4-latin-wght-normal", "code-pro-latin-wght-normal")]


def finish_page(app, pagename, templatename, context, doctree) -> None:
    """Take UNHELPFUL attributes from the body of a page, and give the template the public address for the card."""
    context["html_baseurl"] = app.config.html_baseurl
    letters = LETTERS if pagename.startswith("chapters/") else LETTERS[:3]
    context["local_fonts"] = letters if app.config.medtutor_local else []
    for attributes in UNHELPFUL if "body" in context else ():
        context["body"] = context["body"].replace(attributes, "")


def named_toggles(app, pagename, templatename, context, doctree) -> None:
    """Name the buttons of the navigation that show the pages below a chapter: the theme gives them an icon only."""
    make = context.get("generate_toctree_html")
    if make:
        context["generate_toctree_html"] = lambda *given, **options: str(make(*given, **options)).replace(
            "<summary>", '<summary aria-label="Pages below this one">')


def download_pdf(app, pagename, templatename, context, doctree) -> None:
    """Offer the PDFs of the page and of the book instead of the browser's print, where medtutor.site prints them."""
    printed = os.environ.get("MEDTUTOR_PDF") and pagename in pdf.names(Path(app.srcdir))
    for group in context.get("header_buttons", []):
        if printed and group.get("label") == "download-buttons":
            group["buttons"] = [button for button in group["buttons"] if button["label"] != "download-pdf-button"]
            for text, name in ((".pdf", pdf.path(pagename)), ("whole book, .pdf", f"{pdf.FOLDER}/{pdf.BOOK}")):
                group["buttons"].append({"type": "link", "url": context["pathto"](name, 1), "text": text, "tooltip": "",
                                         "icon": "fas fa-file-pdf", "label": "download-pdf-button"})


def moved_pages(app, error) -> None:
    """Write a page that leads on for each row of book/moved.yml, `old: new`, both as `book/name`."""
    if error or app.builder.name != "html":
        return
    rows = yaml.safe_load(Path(app.srcdir, "book", "moved.yml").read_text(encoding="utf-8")) or {}
    for old, new in rows.items():
        page = Path(app.outdir, f"{old}.html")
        if page.exists() or not Path(app.outdir, f"{new}.html").exists():
            raise ExtensionError(f"book/moved.yml: {old} must be no page and {new} must be one")
        page.parent.mkdir(parents=True, exist_ok=True)
        there = app.builder.get_relative_uri(old, new)
        page.write_text(MOVED.format(there=escape(there), public=escape(f"{app.config.html_baseurl}{new}.html")),
                        encoding="utf-8")


#: The address of a section, behind the #, goes along.
MOVED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>This page has moved</title>
<link rel="canonical" href="{public}"><script>location.replace("{there}" + location.hash)</script>
<meta http-equiv="Refresh" content="0; url={there}"><main><h1>This page has moved</h1>
<p>It is now <a href="{there}">here</a>.</p></main></html>
"""


def sitemap(app, error) -> None:
    """Write sitemap.xml, with the public address of every page that the book itself writes and lists."""
    base = app.config.html_baseurl
    if error or not base or app.builder.name != "html":
        return
    listed = [name for name in app.env.found_docs if "orphan" not in app.env.metadata[name]]
    pages = sorted(f"{base}{app.builder.get_target_uri(name)}" for name in listed)
    urls = "".join(f"<url><loc>{escape(page)}</loc></url>\n" for page in pages)
    text = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
    Path(app.outdir, "sitemap.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}', encoding="utf-8")


def setup(app) -> dict:
    app.add_config_value("medtutor_local", False, "env")
    app.connect("config-inited", local_files)
    app.connect("html-page-context", needed_scripts, priority=900)
    app.connect("html-page-context", finish_page)
    app.connect("html-page-context", download_pdf, priority=900)
    app.connect("html-page-context", named_toggles, priority=900)
    app.connect("build-finished", sitemap)
    app.connect("build-finished", moved_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
