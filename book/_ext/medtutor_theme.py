"""What the theme and its helpers would do otherwise: load from other hosts, load in vain, name things wrongly."""

from __future__ import annotations

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


def without_unhelpful_roles(app, pagename, templatename, context, doctree) -> None:
    """Take UNHELPFUL attributes from the body of a page."""
    for attributes in UNHELPFUL if "body" in context else ():
        context["body"] = context["body"].replace(attributes, "")


def setup(app) -> dict:
    app.connect("config-inited", local_files)
    app.connect("html-page-context", needed_scripts, priority=900)
    app.connect("html-page-context", without_unhelpful_roles)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
