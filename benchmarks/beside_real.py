"""Real pictures for the gallery of the digital patient: eight of each public dataset that its entry names, as a sheet.

`python benchmarks/beside_real.py [folder of public data, or $MEDTUTOR_DATA]` writes book/images/real-<modality>.jpg for
every entry of gallery.yml with `real`, from datasets that may be shown with their credit. Signals are printed on the
paper of the phantom, and bones are lit like its organs, so that only the content differs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from medtutor.data import load
from medtutor.phantom import ecg, surfaces
from medtutor.phantom.gallery import modalities

SIZE, COUNT, GAP = 128, 8, 4


def printed(name: str) -> Tensor:
    """Strips of twelve-lead records as sheets, turned a little as those of the phantom are."""
    records = load(name)
    leads = [records.names["signal"].index(lead) for lead in ecg.LEADS]
    signal = records.meta["signal"][:, leads]
    signal = signal[~signal.isnan().flatten(1).any(1)][:COUNT]
    none = torch.zeros(len(signal), len(ecg.LABELS), dtype=torch.bool)
    return ecg._sheet(none, signal, SIZE, 0, 0, 12, None, True, 250, True)["image"]


def pictures(name: str, options: dict) -> Tensor:
    """Pictures (8 or fewer, C, 128, 128) in [0, 1]: the first of as many patients, a fixed step apart."""
    if name == "ecg-wfdb":
        return printed(name)
    cohort = load(name, **options)
    cohort = cohort[torch.linspace(0, len(cohort) - 1, min(COUNT, len(cohort))).round().long()]
    if name == "bone-meshes":
        place = cohort.meta["points"]
        middle = (place.amax(1, keepdim=True) + place.amin(1, keepdim=True)) / 2
        return surfaces.shaded(replace(cohort, meta=cohort.meta | {"points": place - middle}), SIZE).image
    return torch.cat([square(picture) for picture in cohort.image])


def square(picture: Tensor) -> Tensor:
    """(1, C, 128, 128): the largest square in the middle of a picture (C, H, W), without the black bars of loading."""
    lit = picture.amax(0) > 0.02
    rows, columns = (lit.any(axis).nonzero()[:, 0] for axis in (1, 0))
    picture = picture[:, rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    h, w = picture.shape[1:]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return interpolate(picture[None, :, top:top + side, left:left + side], size=(SIZE, SIZE), mode="area")


def main() -> None:
    book = Path(__file__).parents[1] / "book" / "images"
    for name, entry in modalities().items():
        if "real" not in entry:
            continue
        shown = pictures(entry["real"]["data"], entry["real"].get("options", {})).clamp(0, 1)
        shown = shown.expand(-1, 3, -1, -1).mul(255).byte().movedim(1, -1).numpy()
        page = Image.new("RGB", (4 * (SIZE + GAP) - GAP, -(-len(shown) // 4) * (SIZE + GAP) - GAP), "white")
        for k, picture in enumerate(shown):
            page.paste(Image.fromarray(picture), (k % 4 * (SIZE + GAP), k // 4 * (SIZE + GAP)))
        page.save(book / f"real-{name}.jpg", quality=88)
        print(f"real-{name}.jpg: {len(shown)} pictures of {entry['real']['data']}")


if __name__ == "__main__":
    if sys.argv[1:]:
        os.environ["MEDTUTOR_DATA"] = sys.argv[1]
    main()
