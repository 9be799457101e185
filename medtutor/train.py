"""The training loop of every chapter: whole cohorts as tensors in memory, one loop for CPU, GPU and many processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from medtutor.cohort import Cohort


@dataclass(frozen=True)
class Fit:
    """A trained model with its cost: mean loss of each epoch, wall-clock seconds, trainable parameters."""

    model: nn.Module
    losses: list[float]
    seconds: float
    parameters: int


@contextmanager
def one_thread() -> Iterator[None]:
    """For networks of a few channels: their layers lose more by handing work to a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit(model: nn.Module, cohort: Cohort, loss: Callable[[nn.Module, Cohort], Tensor], *, accelerator, epochs: int,
        batch: int = 16, lr: float = 1e-3, augment: Callable[[Cohort, torch.Generator], Cohort] | None = None,
        seed: int = 0, checkpoint: Path | None = None, progress: bool = False) -> Fit:
    """Train `model` on `cohort` with AdamW and a one-cycle learning rate that peaks at `lr`.

    `loss(model, batch)` returns a scalar; `augment(batch, generator)` returns a changed batch. A `batch` is a Cohort
    on the device. With several processes each takes its share of every batch. With `checkpoint` the state is saved
    after each epoch, and a later call with the same arguments goes on from there and ends at the same weights.
    """
    if len(cohort) == 0 or epochs < 1:
        raise ValueError(f"nothing to train on: {len(cohort)} cases, {epochs} epochs")
    steps = -(-len(cohort) // batch)
    model = model.to(accelerator.device)
    layout = _layout(model)
    for weight in model.parameters():
        if weight.ndim == 4:  # as images are laid out; Module.to(memory_format=...) refuses a model of volumes
            weight.data = weight.data.contiguous(memory_format=layout)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, fused=True)
    # A cycle of one step would consist of its end, where the rate is zero.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=max(2, epochs * steps))
    recipe = f"{type(model).__name__} {count(model)} {len(cohort)} {epochs} {batch} {lr} {seed}"
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    losses, spent = _resume(checkpoint, recipe, parts)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    data, start = cohort.to(accelerator.device), time.perf_counter()
    wrapped.train()
    for epoch in _bar(range(len(losses), epochs), progress):
        # Order, augmentation and dropout follow from (seed, epoch) alone, so a resumed run repeats an unbroken one.
        torch.manual_seed(seed * 100_003 + epoch)
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order, total = torch.randperm(len(data), generator=generator), 0.0
        for chosen in order.split(batch):
            share = chosen[accelerator.process_index::accelerator.num_processes]
            cases = _laid_out(data[share if len(share) else chosen[:1]], layout)
            with accelerator.autocast():
                value = loss(wrapped, augment(cases, generator) if augment else cases)
            # Processes average their gradients: weighted by its cases, a share counts as it does in one process.
            value = value * (len(share) * accelerator.num_processes / len(chosen))
            optimizer.zero_grad()
            accelerator.backward(value)
            optimizer.step()
            schedule.step()
            total += float(value.detach()) * len(chosen) / len(data)
        losses.append(float(accelerator.reduce(torch.tensor(total, device=accelerator.device), "mean")))
        if checkpoint and accelerator.is_main_process:
            _save(checkpoint, recipe, parts, losses, spent + time.perf_counter() - start)
    accelerator.wait_for_everyone()
    model = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    accelerator.free_memory()
    return Fit(model.eval(), losses, spent + time.perf_counter() - start, count(model))


@torch.no_grad()
def predict(model: nn.Module, cohort: Cohort, forward: Callable[[nn.Module, Cohort], Tensor] | None = None, *,
            device="cpu", batch: int = 16) -> Tensor:
    """Outputs for every case on the CPU, computed on `device` in evaluation mode; `forward(model, batch)` is
    `model(batch.image)` by default, or `model(batch.volume)` for a cohort without images."""
    model.to(device).eval()
    forward = forward or (lambda net, cases: net(cases.image if cases.image is not None else cases.volume))
    parts, layout = torch.arange(len(cohort)).split(batch), _layout(model)
    return torch.cat([forward(model, _laid_out(cohort[part].to(device), layout)).float().cpu() for part in parts])


def count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _layout(model: nn.Module) -> torch.memory_format:
    """The memory layout of images: channels last, in which convolutions run a third faster on CPUs.

    Not for instance norms, which copy into the other layout and back. And not for strided 1x1 convolutions of few
    channels: there oneDNN writes past its workspace in the backward pass
    (https://github.com/uxlfoundation/oneDNN/issues/6035), and the process crashes some time later.
    """
    plain = any(isinstance(m, nn.InstanceNorm2d) or (
        isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1) and m.in_channels < 16)
        for m in model.modules())
    return torch.contiguous_format if plain else torch.channels_last


def _laid_out(cases: Cohort, layout: torch.memory_format) -> Cohort:
    return cases if cases.image is None else replace(cases, image=cases.image.contiguous(memory_format=layout))


def _bar(epochs: range, progress: bool):
    from tqdm import tqdm

    return tqdm(epochs, desc="epochs", leave=False, disable=not progress)


def _save(path: Path, recipe: str, parts: dict, losses: list[float], seconds: float) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    temporary = path.with_suffix(f".{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | {"recipe": recipe, "losses": losses, "seconds": seconds}, temporary)
    os.replace(temporary, path)


def _resume(path: Path | None, recipe: str, parts: dict) -> tuple[list[float], float]:
    """Load a checkpoint into `parts`; start afresh where there is none or it belongs to another training."""
    if path is None or not path.exists():
        return [], 0.0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many types for a damaged file
        raise ValueError(f"{path} is not a readable checkpoint; delete it to train from the start") from error
    if not isinstance(state, dict) or state.get("recipe") != recipe:
        return [], 0.0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return list(state["losses"]), float(state["seconds"])
