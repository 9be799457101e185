"""Pages of exercises and solutions: neither search nor buttons lead to a solution."""

from __future__ import annotations


def without_buttons(app, pagename, templatename, context, doctree) -> None:
    """No launching, which would open the source with its solutions, and no downloading: the page itself links to what
    students work on."""
    if pagename.startswith("chapters/exercises/") and "header_buttons" in context:
        context["header_buttons"][:] = [group for group in context["header_buttons"]
                                        if group.get("label") not in ("launch-buttons", "download-buttons")]


def without_search(app) -> None:
    """Pages that no table of contents lists are not in the index of the search either, not even by their title."""
    index = getattr(app.builder, "index_page", None)
    if index:
        app.builder.index_page = lambda name, *page: None if "orphan" in app.env.metadata[name] else index(name, *page)


def setup(app) -> dict:
    app.connect("builder-inited", without_search)
    app.connect("html-page-context", without_buttons, priority=950)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
