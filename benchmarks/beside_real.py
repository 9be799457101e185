"""Real pictures for the gallery of the digital patient: eight of each public dataset that its entry names, as a sheet.

`python benchmarks/beside_real.py [folder of public data, or $MEDTUTOR_DATA]` writes book/images/real-<modality>.jpg for
every entry of gallery.yml with `real`, from datasets that may be shown with their credit. Signals are printed on the
paper of the phantom, and bones are lit like its organs, so that only the content differs. Where a dataset must not be
shown, its measures are: real-<modality>.png compares the kidneys of the two.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from medtutor import plot
from medtutor.data import load
from medtutor.phantom import abdomen, ecg, surfaces
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


def axes_of(solid: Tensor, voxel: Tensor) -> Tensor:
    """The axes (3,) in mm, the longest first, of the ellipsoid with the second moments of a solid (D, H, W), whose
    voxels have the size `voxel` (3,) mm."""
    return (20 * torch.linalg.eigvalsh((solid.nonzero() * voxel).T.cov()).flip(0)).sqrt()


def kidneys(mask: Tensor, spacing: Tensor) -> Tensor:
    """Of masks (N, D, H, W), 1 kidney and 2 tumour, with voxels of `spacing` (N, 3) mm: a row for each whole kidney
    without a tumour, its length, breadth and thickness in mm and its volume in ml."""
    rows = []
    for volume, voxel in zip(mask, spacing, strict=True):
        parts, count = ndimage.label(volume > 0)
        for part in (torch.from_numpy(parts) == k for k in range(1, count + 1)):
            content = part.sum() * voxel.prod() / 1000
            if content > 30 and not (part & (volume == 2)).any():
                rows.append(torch.cat([axes_of(part, voxel), content[None]]))
    return torch.stack(rows)


def sizes(name: str) -> Figure:
    """Whole kidneys, and the largest diameters of kidney tumours, of the phantom beside those of KiTS19, whose tumours
    are those of its table, as radiologists measured them."""
    real, size = load(name, view="volume"), 64
    body = abdomen.cohort(24, size, 1, kind="volume", prevalence={"kidney tumour": 0.5})
    label = {"right kidney": 1, "left kidney": 1, "kidney cyst": 1, "kidney tumour": 2}
    own = torch.tensor([label.get(organ, 0) for organ in body.names["mask"]])[body.mask]
    voxel = torch.tensor(abdomen.VOLUME_FOV).expand(len(own), 3) / size
    tumours = torch.stack([axes_of(mask == 2, voxel[0])[0] for mask in own if (mask == 2).sum() > 3])
    both = [(kidneys(own, voxel), tumours), (kidneys(real.mask, real.meta["spacing"]), load(name).meta["size"] * 10)]
    plot.style()
    pyplot.rcParams["savefig.dpi"] = 165
    figure, axes = pyplot.subplots(1, 5, figsize=(plot.WIDTH, 2.6))
    for k, (ax, title) in enumerate(zip(axes, ("length", "breadth", "thickness", "volume", "tumour"), strict=True)):
        for x, (whole, grown) in enumerate(both):
            values = grown if k == 4 else whole[:, k]
            beside = x + 0.5 * (torch.arange(len(values)) * 0.618 % 1 - 0.5)
            ax.scatter(beside, values, 7, plot.PALETTE[x], alpha=0.6, lw=0)
            ax.plot([x - 0.35, x + 0.35], [values.median()] * 2, color="black", lw=1.5)
        ax.set(title=f"{title}\n({'ml' if k == 3 else 'mm'})", xticks=[0, 1], xlim=(-0.6, 1.6), ylim=(0, None))
        ax.set_xticklabels(["phantom", "real"], rotation=45, ha="right")
    return figure


def main() -> None:
    book = Path(__file__).parents[1] / "book" / "images"
    for name, entry in modalities().items():
        if "real" not in entry:
            continue
        if entry["real"].get("sizes"):
            (book / f"real-{name}.png").write_bytes(plot.png(sizes(entry["real"]["data"])))
            print(f"real-{name}.png: sizes in {entry['real']['data']}")
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
