"""What makes pages light: pictures as files that load when they are near, and no icon that no page shows."""

from __future__ import annotations

import re
from base64 import b64decode
from hashlib import sha256
from itertools import count
from pathlib import Path

from PIL import Image

#: A picture inside a page. The viewer reads the values in its sprite, which browsers forbid for files of a folder.
INLINE = re.compile(r'(?<!"sprite": ")data:image/(png|webp);base64,([A-Za-z0-9+/=]{4000,})')
IMAGE = re.compile(r"<img\b[^>]*>")
FA_RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"[^"]+"\}')


def light_pictures(app, pagename, templatename, context, doctree) -> None:
    """Take large pictures out of the page, and let all but its first wait until they are near, in their place."""
    if "body" not in context or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_images"
    folder.mkdir(exist_ok=True)

    def file(match) -> str:
        name = f"{sha256(match[2].encode()).hexdigest()[:16]}.{match[1]}"
        (folder / name).write_bytes(b64decode(match[2]))
        return context["pathto"](f"_images/{name}", 1)

    sources, number = {name: source for source, name in app.builder.images.items()}, count()

    def finish(match) -> str:
        """The <img>, all but the first of a page lazy, with width and height where it comes from a file of the book."""
        more = ' loading="lazy" decoding="async"' if next(number) else ""
        name = re.search(r'_images/([^"/]+)"', match[0])
        if " height=" not in match[0] and name and name[1] in sources:
            with Image.open(Path(app.srcdir) / sources[name[1]]) as picture:
                more += ' width="{}" height="{}"'.format(*picture.size)
        return f"<img{more}{match[0][4:]}"

    context["body"] = IMAGE.sub(finish, INLINE.sub(file, context["body"]))


def used_icons(app, error) -> None:
    """Leave in the icon fonts, and in the style sheet that names them, what pages or scripts of the site show."""
    static = Path(app.outdir) / "_static"
    sheet, fonts = static / "styles" / "pydata-sphinx-theme.css", static / "vendor" / "fontawesome" / "webfonts"
    if error or app.builder.name != "html" or not app.config.medtutor_local:
        return
    from fontTools import subset

    texts = [path.read_text(encoding="utf-8") for path in [*Path(app.outdir).glob("**/*.html"), *static.glob("**/*.js")]
             if "fontawesome" not in path.parts]
    names = {name for text in texts for name in re.findall(r"fa-[\w-]+", text)}

    def wanted(match) -> str:
        return match[0] if names.intersection(re.findall(r"fa-[\w-]+", match[1])) else ""

    sheet.write_text(FA_RULE.sub(wanted, sheet.read_text(encoding="utf-8")), encoding="utf-8")
    rules = "".join(path.read_text(encoding="utf-8") for path in static.glob("**/*.css"))
    codes = {int(code, 16) for code in re.findall(r"\\([ef][0-9a-f]{3})", rules)}
    codes |= {ord(letter) for letter in rules if letter > "\ue000"}
    for path in fonts.glob("*.ttf"):
        options = subset.Options(flavor="woff2", layout_features=[], notdef_outline=True)
        font = subset.load_font(path, options)
        letters = subset.Subsetter(options)
        letters.populate(unicodes=codes)
        letters.subset(font)
        subset.save_font(font, path.with_suffix(".woff2"), options)


def setup(app) -> dict:
    app.connect("html-page-context", light_pictures, priority=800)
    app.connect("build-finished", used_icons)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
