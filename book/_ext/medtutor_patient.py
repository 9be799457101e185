"""Directives for the pages on the digital patient: gallery, volume, words, and what papers ask of it.

All pictures are drawn anew at every build.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from docutils import nodes
from medtutor_pages import Page, html, link, table


class PatientGallery(Page):
    """One contact sheet of the digital patient for each modality, drawn anew at every build."""

    def content_nodes(self):
        from medtutor.phantom.gallery import modalities

        folder = self.source() / "book" / "drawn"
        folder.mkdir(exist_ok=True)
        return [self.sheet(folder, name, modality) for name, modality in modalities().items()]

    def sheet(self, folder: Path, name: str, modality: dict) -> nodes.Node:
        from PIL import Image

        from medtutor.phantom.gallery import sheet

        page = Image.fromarray(tiles(sheet(name, n=12, size=128), columns=4))
        page.save(folder / f"{name}.webp", quality=85, method=6)
        section = nodes.section(ids=[f"patient-{name}"], names=[f"patient-{name}"])
        section += nodes.title(text=modality["title"])
        section += nodes.paragraph(text=modality["description"])
        alt = "Twelve samples in three rows. " + modality["description"]
        section += nodes.image(uri=f"/book/drawn/{name}.webp", alt=alt, width="100%", classes=["drawn"])
        for head, key in (("Not realistic", "unrealistic"), ("Stands in for", "stands_for")):
            section += nodes.paragraph("", "", nodes.strong(text=f"{head}: "), nodes.Text(modality[key]))
        if "real" in modality:
            section += self.real(name, modality)
        return section

    def real(self, name: str, modality: dict) -> list[nodes.Node]:
        """The sheet of real pictures, or the figure of real sizes, that benchmarks/beside_real.py made, with what the
        licence asks for."""
        from medtutor.data import find

        entry, sizes = find(modality["real"]["data"]), modality["real"].get("sizes")
        head, alt, how, suffix = (
            (f"{sizes}, beside real ones", f"Dots with medians for the phantom and for real patients: {sizes}.",
             "measured", "png") if sizes else
            ("Real ones, for comparison", f"For comparison, real pictures: {entry.title}.", "reduced in size", "jpg"))
        image = nodes.image(uri=f"/book/images/real-{name}.{suffix}", width="100%", classes=["drawn"], alt=alt)
        credit = f"{escape(entry.title)}, {how}; {link(entry.licence_url, entry.licence)}. {escape(entry.citation)}"
        return [nodes.paragraph("", "", nodes.strong(text=f"{head}:")), image, html(f'<p class="credit">{credit}</p>')]


class PaperCohorts(Page):
    """The cohorts that the experiments of the 108 papers ask for, chapter by chapter."""

    def content_nodes(self):
        import yaml

        asked = yaml.safe_load((self.source() / "book" / "cohorts.yml").read_text(encoding="utf-8"))
        rows = [[self.head(paper, k), *self.cells(row)]
                for paper in self.rows("papers.yml") for k, row in enumerate(asked[paper["id"]])]
        return [html(table("What each paper's experiment asks of the digital patient",
                           ["Chapter and paper", "Call", "Cases", "Columns"], rows, "cohorts"))]

    @staticmethod
    def head(paper: dict, k: int) -> str:
        title = f"{escape(paper['title'])} ({escape(paper['authors'])}, {paper['year']})"
        return f"{paper['chapter']}: " + (f"the same paper, part {k + 1}" if k else title)

    @staticmethod
    def cells(row: dict) -> list[str]:
        if "call" not in row:
            return [escape(row["reason"]), "none", "none"]
        return [f"<code>{escape(row['call'])}</code>", f"{row['n']:,}", escape(", ".join(row["needs"]))]


class PatientVolume(Page):
    """A CT volume of the digital patient in the viewer of the chapters."""

    def content_nodes(self):
        import torch

        from medtutor import viewer
        from medtutor.phantom import abdomen

        body = abdomen.cohort(1, 80, seed=3, kind="volume", fov=(170, 290, 290), noisy=False, window=(-160, 240))
        hu, names = body.volume[0, 0] * 400 - 160, body.names["mask"]
        organs = [*names[1:9], "gallbladder", "vena cava"]  # as many as there are colours
        mask = torch.tensor([organs.index(name) + 1 if name in organs else 0 for name in names])[body.mask[0]]
        text = viewer.html(hu[::2], truth=mask[::2], names=organs, unit="HU",
                           alt="Axial slices through the abdominal CT of one digital patient, organs outlined.")
        return [html(text)]


class PatientWords(Page):
    """One follow-up film with its facts, its report in every style, and questions with their answers."""

    def content_nodes(self):
        from PIL import Image

        from medtutor import language
        from medtutor.language import questions
        from medtutor.phantom import thorax

        films = thorax.cohort(40, 256, seed=5, visits=2)
        known = {case: language.facts(films, case) for case in range(1, len(films), 2)}
        case = min(known, key=lambda c: abs(sum(fact.told for fact in known[c]) - 4))
        told = [fact for fact in known[case] if fact.told]
        folder = self.source() / "book" / "drawn"
        folder.mkdir(exist_ok=True)
        Image.fromarray(films.image[case, 0].mul(255).byte().numpy()).save(folder / "words.png", optimize=True)
        rows = [[f.finding, f.presence, f.side or "-", f.zone or "-", f.severity or "-", f.change or "-"] for f in told]
        parts = [nodes.image(uri="/book/drawn/words.png", width="256px", alt="A chest radiograph of the digital "
                             f"patient, at the second visit, with {', '.join(fact.finding for fact in told)}."),
                 html(table("What is known of this film (all other findings are absent)",
                            ["Finding", "Presence", "Side", "Zone", "Severity", "Since the first visit"], rows))]
        shown = language.pertinent(known[case], seed=1)
        for style in language.words()["styles"]:
            text = language.report(shown, style, seed=2, view="PA", indication=told[0].finding).text
            parts += [nodes.paragraph("", "", nodes.strong(text=f"Style: {style}")),
                      nodes.literal_block(text, text, language="none", classes=["report"])]
        asked = questions.questions(known[case], seed=4, balance=0.5)
        some = [next(q for q in asked if q.kind == kind) for kind in dict.fromkeys(q.kind for q in asked)]
        return [*parts, html(table("Questions on the same film, one of each kind", ["Question", "Answer", "Options"],
                                   [[escape(q.text), q.answer, ", ".join(q.options[:6])] for q in some]))]


class PatientCaptions(Page):
    """A caption and a question for one case of each region, and a patient's question in Hindi mixed with English."""

    calls = ("abdomen.cohort(n, 32, seed)", "brain.cohort(n, 32, seed, 'slice', 'flair')",
             "heart.cohort(n, 32, seed, frames=1)", "ultrasound.cohort(n, 32, seed)",
             "ultrasound.cohort(n, 32, seed, 'liver')", "histology.cohort(n, 32, seed)",
             "fundus.cohort(n, 32, seed)", "skin.cohort(n, 32, seed)", "wound.cohort(n, 32, seed, 'clinic')",
             "endoscopy.cohort(n, 32, seed, frames=1)", "ecg.cohort(n, 32, seed, kind='signal')")

    def content_nodes(self):
        from medtutor.language import codemixed

        asked = codemixed.question(seed=4, mix=0.3, visual=("a red, round patch with a pale centre",))
        mixed = [["Patient", asked.text], ["In English", asked.gloss], ["Summary", asked.summary]]
        return [html(table("One caption and one question of each region",
                           ["Call, with 8 cases of seed 1", "Caption", "Question", "Answer"],
                           [self.case(call) for call in self.calls])),
                html(table("A question as patients type it. The picture says what the text does not",
                           ["Who", "Text"], [[who, escape(text)] for who, text in mixed]))]

    @staticmethod
    def case(call: str) -> list[str]:
        from medtutor import language
        from medtutor.language import questions
        from medtutor.language.known import region_of
        from medtutor.phantom import gallery

        cases = gallery.made(call, 8, seed=1)
        region = region_of(cases.names["label"])
        known = max((language.facts(cases, case) for case in range(8)), key=lambda some: sum(f.told for f in some))
        asked = questions.questions(known, seed=3, region=region)
        one = next((q for q in asked if q.kind in ("severity", "side", "zone")), asked[0])
        caption = language.caption(known, seed=2, region=region)
        return [f"<code>{escape(call)}</code>", escape(caption), escape(one.text), escape(one.answer)]


def tiles(pictures, columns: int, gap: int = 4):
    """Pictures (n, h, w) or (n, h, w, 3) as one white-gapped sheet; n is a multiple of `columns`."""
    import numpy as np

    n, h, w = pictures.shape[:3]
    rows = n // columns
    shape = (rows * (h + gap) - gap, columns * (w + gap) - gap, *pictures.shape[3:])
    page = np.full(shape, 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (h + gap), index % columns * (w + gap)
        page[top:top + h, left:left + w] = picture
    return page


def setup(app) -> dict:
    app.add_directive("paper-cohorts", PaperCohorts)
    app.add_directive("patient-gallery", PatientGallery)
    app.add_directive("patient-volume", PatientVolume)
    app.add_directive("patient-captions", PatientCaptions)
    app.add_directive("patient-words", PatientWords)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
