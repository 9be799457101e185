"""How well is the digital patient told from real chest X-rays? And a sheet of both, side by side.

`python benchmarks/phantom_or_real.py [folder of public data, or $MEDTUTOR_DATA] [sheet.jpg]`. For each real set: the
area under the ROC curve of a small CNN at 64x64 with a patient-wise split, and of logistic regressions that see only
the power spectrum, the histogram or an 8x8 thumbnail. Every picture is reduced to 64x64 by area and brought to zero
mean and unit variance. 0.5 means that the two cannot be told apart, 1 that they always can.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from medtutor.phantom import thorax

SIZE = 64
SETS = ("kermany-cxr", "nih-cxr14", "mednist")
DEVICES = {"ecg leads": 0.12, "pacemaker": 0.05, "central line": 0.08, "sternal wires": 0.05, "endotracheal tube": 0.04}


def real(root: Path, name: str, limit: int = 400) -> tuple[Tensor, list[str]]:
    """Pictures (N, 1, h, h) of a set in `root`, and the patient of each. `mednist` has no patients: its X-rays come
    from the NIH set, at 64x64."""
    if name == "mednist":
        with np.load(root / name / "mednist.npz", allow_pickle=False) as data:
            chosen = data["images"][data["labels"] == list(data["names"]).index("CXR")][:limit]
        return torch.from_numpy(chosen).float()[:, None] / 255, [str(i) for i in range(len(chosen))]
    if name == "kermany-cxr":
        with open(root / name / "labels.csv", newline="", encoding="utf-8") as file:
            rows = [(row["file"], row["patient"]) for row in csv.DictReader(file)]
        rows = rows[::2] + rows[1::2]
    else:
        rows = [(f"images/{p.name}", re.sub(r"_.*", "", p.name))
                for p in sorted((root / name / "images").glob("*.png"))]
    files, patients = zip(*rows[:limit], strict=True)
    pictures = [np.asarray(Image.open(root / name / f).convert("L").resize((256, 256), Image.BOX)) for f in files]
    return torch.from_numpy(np.stack(pictures)).float()[:, None] / 255, list(patients)


def phantom(n: int, size: int, name: str, seed: int = 0) -> Tensor:
    """Pictures (n, 1, size, size) of patients like those of a set: children for kermany-cxr, else adults."""
    child = name == "kermany-cxr"
    prevalence = dict.fromkeys(thorax.FINDINGS, 0.02 if child else 0.05)
    if child:  # half of that set has viral pneumonia
        prevalence |= {"infiltration": 0.25, "pneumonia": 0.2, "edema": 0.25}
    return thorax.cohort(n, size, seed, age=(1, 6) if child else (18, 85), site=2 if child else None,
                         prevalence=prevalence, marker=0.8 if child else 0.6, device=None if child else DEVICES).image


def prepared(image: Tensor) -> Tensor:
    """64x64 by area, zero mean and unit variance: the same for both classes."""
    image = F.interpolate(image, size=(SIZE, SIZE), mode="area") if image.shape[-1] > SIZE else image
    return (image - image.mean((1, 2, 3), keepdim=True)) / image.std((1, 2, 3), keepdim=True).clamp(min=1e-3)


def auc(score: Tensor, truth: Tensor, fold: Tensor) -> tuple[float, float, float]:
    """Area under the ROC curve and its 95 % bootstrap interval, over pairs that one model scored (the same fold)."""
    def area(index: Tensor) -> float:
        a, b = index[truth[index] > 0], index[truth[index] < 1]
        gap, same = score[a][:, None] - score[b], fold[a][:, None] == fold[b]
        return float(((gap > 0).float() + 0.5 * (gap == 0).float())[same].mean())

    generator, groups = torch.Generator().manual_seed(0), [torch.nonzero(truth == v)[:, 0] for v in (0, 1)]
    drawn = [area(torch.cat([g[torch.randint(len(g), (len(g),), generator=generator)] for g in groups]))
             for _ in range(500)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return area(torch.arange(len(score))), float(low), float(high)


def _spectrum(x: Tensor) -> Tensor:
    power = torch.fft.fft2(x[:, 0] * torch.hann_window(SIZE)[:, None] * torch.hann_window(SIZE)).abs() ** 2
    f = torch.fft.fftfreq(SIZE) * SIZE
    ring = (f[:, None] ** 2 + f**2).sqrt().round().long().flatten()
    total = torch.zeros(len(x), int(ring.max()) + 1).index_add_(1, ring, power.flatten(1))
    return (total[:, 1:33] / ring.bincount()[1:33]).clamp(min=1e-6).log()


PROBES = {"spectrum": _spectrum, "histogram": lambda x: x.flatten(1).quantile(torch.linspace(0.01, 0.99, 24), dim=1).T,
          "8x8 thumbnail": lambda x: F.avg_pool2d(x, 8).flatten(1),
          "blurred, CNN": lambda x: F.interpolate(F.avg_pool2d(x, 4), size=(SIZE, SIZE), mode="bilinear"),
          "CNN": lambda x: x}


def _network() -> nn.Module:
    layers, width = [], 1
    for channels in (16, 32, 48, 64):
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
        width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(width, 1))


def _scored(x: Tensor, y: Tensor, test: Tensor, seed: int, epochs: int = 12) -> Tensor:
    """Scores of the test cases by a model trained on the others."""
    torch.manual_seed(seed)
    picture, train = x.ndim == 4, torch.nonzero(~test)[:, 0]
    if not picture:
        x = (x - x[train].mean(0)) / x[train].std(0).clamp(min=1e-3)
    model = _network() if picture else nn.Linear(x.shape[1], 1)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3 if picture else 2e-2, weight_decay=1e-2)
    weight = torch.where(y > 0, 0.5 / y[train].mean(), 0.5 / (1 - y[train].mean()))
    for _ in range(epochs if picture else 60):
        for batch in train[torch.randperm(len(train))].split(32):
            inputs = x[batch]
            if picture:  # shifts by some pixels, the same for both classes
                dx, dy = torch.randint(-3, 4, (2,)).tolist()
                inputs = inputs.roll((dy, dx), (2, 3))
            loss = F.binary_cross_entropy_with_logits(model(inputs)[:, 0], y[batch], weight[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        return model(x[test])[:, 0]


def told_apart(pictures: Tensor, patients: list[str], phantoms: Tensor, folds: int = 3,
               ) -> dict[str, tuple[float, float, float]]:
    """AUC with interval of each probe, over `folds` parts of the patients."""
    x = torch.cat([prepared(pictures), prepared(phantoms)])
    y = torch.cat([torch.ones(len(pictures)), torch.zeros(len(phantoms))])
    place = {p: i for i, p in enumerate(sorted(set(patients)))}
    order = torch.randperm(len(place), generator=torch.Generator().manual_seed(0))
    fold = torch.cat([order[[place[p] for p in patients]], torch.arange(len(phantoms))]) % folds
    found = {}
    for name, probe in PROBES.items():
        seen, score = probe(x), torch.zeros(len(y))
        for k in range(folds):
            score[fold == k] = _scored(seen, y, fold == k, k)
        found[name] = auc(score, y, fold)
    return found


def sheet(root: Path, path: Path, rows: int = 4, size: int = 96) -> None:
    """A picture: real X-rays of two sets at the left, phantoms of like patients at the right, six a row."""
    panels = []
    for name in SETS[:2]:
        pictures = F.interpolate(real(root, name, 6 * rows)[0], size=(size, size), mode="area")
        pictures = pictures[:len(pictures) // 6 * 6]
        made = F.interpolate(phantom(len(pictures), 2 * size, name), size=(size, size), mode="area")
        left, right = (p.view(-1, 6, size, size).transpose(1, 2).reshape(-1, 6 * size) for p in (pictures, made))
        panels += [torch.cat([left, torch.ones(len(left), 12), right], 1), torch.ones(12, 12 * size + 12)]
    grey = (torch.cat(panels[:-1]) * 255).byte().numpy()
    Image.fromarray(grey).save(path, quality=82)


def main(folder: str = os.environ.get("MEDTUTOR_DATA", "."), picture: str = "") -> None:
    root = Path(folder)
    for name in SETS:
        pictures, patients = real(root, name)
        phantoms = phantom(max(len(pictures), 100), SIZE, name)
        print(f"{name}: {len(pictures)} real of {len(set(patients))} patients, {len(phantoms)} phantoms")
        for probe, (value, low, high) in told_apart(pictures, patients, phantoms).items():
            print(f"  {probe:14s} AUC {value:.3f} ({low:.3f} to {high:.3f})")
    if picture:
        sheet(root, Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:3])
