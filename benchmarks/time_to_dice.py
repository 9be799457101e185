"""Seconds to validation Dice 0.90: MONAI's 2D tutorial pipeline against `Lab.fit`, as a ratio.

    python benchmarks/time_to_dice.py [pairs]

Both sides get the same 20 + 20 PNG files of 128x128 pixels (MONAI's `create_test_image_2d`), the same network with the
same initial weights (MONAI's UNet, 16 to 256 channels, 2 residual units), the same loss (Dice) and the same random
96x96 crops and quarter turns, and stop at the first validation (every second epoch) at which the mean Dice of the 20
validation images reaches 0.90. The tutorial validates by sliding windows of 96x96; `Lab.predict` takes whole images,
and after the clock has stopped its result must hold under sliding windows as well. The clock runs over reading,
scaling, augmentation, training and validation; it does not run over imports and the making of the files, so each side
runs once before the first pair (libraries import parts of themselves on first use).

The tutorial side is written from the description of MONAI's 2d_segmentation/torch/unet_training_array.py: files are
read and scaled for every batch by an ArrayDataset, batches of 4, Adam at 1e-3. Its logging, checkpoints and worker
processes are left out, because it is faster without them on images this small.
`Lab.fit` differs in what it is made of: the cohort is in memory, augmentation works on batches (here of 5), and the
learning rate follows one cycle with a higher peak.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai import transforms
from monai.data import ArrayDataset, DataLoader, create_test_image_2d
from monai.inferers import sliding_window_inference
from monai.losses import DiceLoss
from monai.metrics import compute_dice
from monai.networks.nets import UNet
from monai.utils import set_determinism
from PIL import Image

from medtutor.cohort import Cohort
from medtutor.lab import Lab

TARGET, CASES, LIMIT, CROP = 0.90, 20, 10, 96


class Reached(Exception):
    """Validation reached the target."""


def make_files(folder: Path, seed: int) -> tuple[list[Path], list[Path]]:
    """40 images and 40 masks as PNG files, the first 20 for training."""
    images, masks, random = [], [], np.random.RandomState(seed)
    for case in range(2 * CASES):
        picture, mask = create_test_image_2d(128, 128, num_seg_classes=1, random_state=random)
        for paths, kind, array in ((images, "image", picture), (masks, "mask", mask)):
            paths.append(folder / f"{kind}{case:02}.png")
            Image.fromarray((array * 255).astype(np.uint8)).save(paths[-1])
    return images, masks


def network(seed: int) -> UNet:
    torch.manual_seed(seed)
    return UNet(spatial_dims=2, in_channels=1, out_channels=1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2),
                num_res_units=2)


def read(paths: list[Path]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(Image.open(path), np.float32))[None] / 255 for path in paths])


@torch.no_grad()
def validate(model, images: torch.Tensor, masks: torch.Tensor) -> float:
    """Mean Dice over the validation images by sliding windows, as the tutorial does it."""
    model.eval()
    logits = torch.cat([sliding_window_inference(image[None], (96, 96), 4, model) for image in images])
    model.train()
    return float(compute_dice((logits > 0).float(), masks).nanmean())


def tutorial(images: list[Path], masks: list[Path], seed: int) -> tuple[float, int | None]:
    """Seconds and epochs to the target with the pipeline of the tutorial; None where its 10 epochs end below it."""
    set_determinism(seed)
    model, start = network(seed), time.perf_counter()
    steps = [transforms.LoadImage(image_only=True, ensure_channel_first=True), transforms.ScaleIntensity(),
             transforms.RandSpatialCrop((96, 96), random_size=False), transforms.RandRotate90(prob=0.5)]
    pipeline = [transforms.Compose(steps) for _ in range(2)]
    dataset = ArrayDataset(images[:CASES], pipeline[0], masks[:CASES], pipeline[1])
    loader = DataLoader(dataset, batch_size=4, shuffle=True)
    held_out = read(images[CASES:]), (read(masks[CASES:]) > 0.5).float()
    loss, optimizer = DiceLoss(sigmoid=True), torch.optim.Adam(model.parameters(), 1e-3)
    for epoch in range(1, LIMIT + 1):
        model.train()
        for image, mask in loader:
            optimizer.zero_grad()
            loss(model(image), mask).backward()
            optimizer.step()
        if epoch % 2 == 0 and validate(model, *held_out) >= TARGET:
            return time.perf_counter() - start, epoch
    return time.perf_counter() - start, None


def crop_and_turn(batch: Cohort, generator: torch.Generator) -> Cohort:
    """A random crop for each case, and for half of the batches a quarter turn."""
    top, left = (torch.randint(0, 129 - CROP, (len(batch), 1, 1), generator=generator) for _ in range(2))
    case = torch.arange(len(batch))[:, None, None]
    rows, columns = top + torch.arange(CROP)[:, None], left + torch.arange(CROP)
    turns = int(torch.randint(0, 2, (), generator=generator))
    return replace(batch, image=batch.image[case, 0, rows, columns][:, None].rot90(turns, (2, 3)),
                   mask=batch.mask[case, rows, columns].rot90(turns, (1, 2)))


def ours(lab: Lab, images: list[Path], masks: list[Path], seed: int, *, batch=5, lr=1.5e-2, epochs=4
         ) -> tuple[float, int]:
    """Seconds and epochs to the target with `Lab.fit`, which trains with a schedule of `epochs`."""
    model, start = network(seed), time.perf_counter()
    cohort = Cohort(image=read(images[:CASES]), mask=(read(masks[:CASES]) > 0.5).long()[:, 0])
    held_out = read(images[CASES:]), (read(masks[CASES:]) > 0.5).float()
    whole = Cohort(image=held_out[0])
    criterion, seen, reached = DiceLoss(sigmoid=True), 0, {}

    def good(net: Callable) -> bool:
        dice = compute_dice((lab.predict(net, whole) > 0).float(), held_out[1]).nanmean()
        net.train()
        return float(dice) >= TARGET

    def loss(net: Callable, cases: Cohort) -> torch.Tensor:
        """The loss of the next batch; before that, validation where two more epochs are over."""
        nonlocal seen
        if seen and seen % (2 * CASES) == 0 and good(net):
            reached.update(seconds=time.perf_counter() - start, epochs=seen // CASES)
            raise Reached
        seen += len(cases)
        return criterion(net(cases.image), cases.mask[:, None])

    try:
        lab.fit(model, cohort, loss, epochs=epochs, batch=batch, lr=lr, augment=crop_and_turn, seed=seed)
    except Reached:
        pass
    else:
        if good(model):
            reached.update(seconds=time.perf_counter() - start, epochs=epochs)
    if not reached or validate(model, *held_out) < TARGET - 0.01:
        raise RuntimeError(f"Lab.fit did not reach Dice {TARGET} in {epochs} epochs")
    return reached["seconds"], reached["epochs"]


def main(pairs: int = 5) -> float:
    """Print each pair and the median ratio, and return it."""
    lab, ratios = Lab("benchmark", profile="cpu"), []
    for seed in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            files = make_files(Path(folder), seed)
            if seed == 0:
                tutorial(*files, seed), ours(lab, *files, seed)
            peer, own = tutorial(*files, seed), ours(lab, *files, seed)
        ratios.append(peer[0] / own[0])
        # A tutorial run that ends below the target counts with the time it took: a lower bound of the ratio.
        print(f"pair {seed}: tutorial {peer[0]:.2f} s ({peer[1] or 'not in 10'} epochs), Lab.fit {own[0]:.2f} s "
              f"({own[1]} epochs), ratio {'' if peer[1] else 'over '}{ratios[-1]:.1f}", flush=True)
    print(f"time to Dice {TARGET}: Lab.fit is {statistics.median(ratios):.1f} times as fast (median of {pairs} pairs)")
    return statistics.median(ratios)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
