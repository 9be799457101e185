"""What the theme and its helpers would do otherwise: load from other hosts, load in vain, name things wrongly."""

from __future__ import annotations

from html import escape
from pathlib import Path

from docutils import nodes


def local_files(app, config) -> None:
    """Formulas and letters come from the copies in the site, where medtutor.site could put them there."""
    if (Path(app.srcdir) / "_assets" / "vendor" / "mathjax").is_dir():  # paths are as seen from _static/
        config.mathjax_path = "../vendor/mathjax/tex-chtml.js"
        app.add_css_file("../vendor/fonts/fonts.css", priority=400)


def needed_scripts(app, pagename, templatename, context, doctree) -> None:
    """Leave MathJax to pages with formulas, and drop sphinx-thebe, which jupyter-book adds to every page: it is not
    used here, names a foreign address and raises an error."""
    formulas = doctree and any(isinstance(node, (nodes.math, nodes.math_block)) for node in doctree.findall())
    unused = ["thebe"] if formulas else ["thebe", "mathjax"]

    def wanted(script) -> bool:
        text = f"{script} {getattr(script, 'attributes', '')}".lower()
        return not any(name in text for name in unused)

    context["script_files"][:] = [script for script in context["script_files"] if wanted(script)]


#: Names and roles that docutils and myst-nb give, and that contradict the text or that assistive technology dropped.
UNHELPFUL = (' role="doc-biblioentry"', ' role="doc-backlink"', ' role="list" class="citation-list"',
             ' aria-label="Toggle hidden content"')


def finish_page(app, pagename, templatename, context, doctree) -> None:
    """Take UNHELPFUL attributes from the body of a page, and give the template the public address for the card."""
    context["html_baseurl"] = app.config.html_baseurl
    for attributes in UNHELPFUL if "body" in context else ():
        context["body"] = context["body"].replace(attributes, "")


def sitemap(app, error) -> None:
    """Write sitemap.xml, with the public address of every page that the book itself writes."""
    base = app.config.html_baseurl
    if error or not base or app.builder.name != "html":
        return
    pages = sorted(f"{base}{app.builder.get_target_uri(name)}" for name in app.env.found_docs)
    urls = "".join(f"<url><loc>{escape(page)}</loc></url>\n" for page in pages)
    text = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
    Path(app.outdir, "sitemap.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}', encoding="utf-8")


def setup(app) -> dict:
    app.connect("config-inited", local_files)
    app.connect("html-page-context", needed_scripts, priority=900)
    app.connect("html-page-context", finish_page)
    app.connect("build-finished", sitemap)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
