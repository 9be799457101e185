"""Pages of exercises: no button that would open the source with its solutions, or a PDF that there is not."""

from __future__ import annotations


def without_buttons(app, pagename, templatename, context, doctree) -> None:
    """Leave out launching and downloading; the page itself links to what students work on."""
    if pagename.startswith("chapters/exercises/") and "header_buttons" in context:
        context["header_buttons"][:] = [group for group in context["header_buttons"]
                                        if group.get("label") not in ("launch-buttons", "download-buttons")]


def setup(app) -> dict:
    app.connect("html-page-context", without_buttons, priority=950)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
