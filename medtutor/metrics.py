"""Metrics as `(cases, classes)` tensors, so that every comparison can be paired by case.

Thin over MONAI: same names, same definitions. What is added is one rule for classes that a case does not have.
"""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(mask: Tensor, classes: int) -> Tensor:
    """Class indices (N, H, W[, D]) as (N, classes, H, W[, D]) float32. `classes` counts the background.

    Raises ValueError where an index is not in 0..classes-1.
    """
    mask = torch.as_tensor(mask)
    if mask.is_floating_point():
        raise ValueError("a mask must hold integer class indices; take logits.argmax(1) first")
    if mask.numel() and not 0 <= int(mask.min()) <= int(mask.max()) < classes:
        raise ValueError(f"with classes={classes} (background included) class indices must lie in 0..{classes - 1}, "
                         f"but the mask has {int(mask.min())}..{int(mask.max())}")
    return torch.nn.functional.one_hot(mask.long(), classes).movedim(-1, 1).float()


def dice(pred: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Dice of each case and foreground class, (N, classes - 1), from class indices (N, H, W[, D]).

    `classes` counts the background, as `num_classes` in MONAI. A class that is absent from both is NaN (use `nanmean`);
    one that is predicted where there is none, or missed, is 0. MONAI's `compute_dice` has two settings for a class
    that is absent from the mask: `ignore_empty=True` makes it NaN whatever was predicted, `ignore_empty=False` calls
    an empty prediction perfect. Neither is used alone here: the first forgives a false alarm, the second rewards
    an empty picture.
    """
    from monai.metrics import compute_dice

    a, b, absent = _pair(pred, mask, classes)
    return _blank(compute_dice(a, b, include_background=False, ignore_empty=False), absent)


def iou(pred: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Intersection over union of each case and foreground class, (N, classes - 1); absent classes as in `dice`."""
    from monai.metrics import compute_iou

    a, b, absent = _pair(pred, mask, classes)
    return _blank(compute_iou(a, b, include_background=False, ignore_empty=False), absent)


def hd95(pred: Tensor, mask: Tensor, classes: int, spacing: float | list[float] = 1.0) -> Tensor:
    """The 95th percentile of the Hausdorff distance, (N, classes - 1), in the unit of `spacing` (one pixel's size).

    As in MONAI, the larger of the two directed percentiles. NaN where a class is absent from both, infinite where it is
    absent from one.
    """
    import warnings

    from monai.metrics import compute_hausdorff_distance

    a, b, absent = _pair(pred, mask, classes)
    with warnings.catch_warnings():
        # MONAI warns of each empty class, which the docstring covers, and of an argument that it sets itself.
        warnings.filterwarnings("ignore", message=".*(all 0|may result in nan/inf|always_return_as_numpy).*")
        distance = compute_hausdorff_distance(a, b, include_background=False, percentile=95, spacing=spacing)
    one_sided = (a.flatten(2).any(-1) ^ b.flatten(2).any(-1))[:, 1:]
    return _blank(distance.float().masked_fill(one_sided, float("inf")), absent)


def auc_by_case(score: Tensor, label: Tensor) -> Tensor:
    """Placement values (N,): the fraction of the other class that each case is ranked on the right side of.

    A tie counts one half. Their mean over all cases is the area under the ROC curve exactly (DeLong, DeLong and
    Clarke-Pearson, 1988), so a difference of two AUCs is a paired difference over cases. `label` is 0 or 1.
    """
    score, label = torch.as_tensor(score).double(), torch.as_tensor(label)
    if score.ndim != 1 or score.shape != label.shape:
        raise ValueError(f"score and label must both be (N,), but got {tuple(score.shape)} and {tuple(label.shape)}")
    if not score.isfinite().all():
        raise ValueError("every score must be finite, but some are NaN or infinite")
    positive = label == 1
    if not bool(((label == 0) | positive).all()) or positive.all() or not positive.any():
        raise ValueError("labels must be 0 or 1, with at least one case of each, or the AUC is not defined")
    placement = torch.empty_like(score)
    for own, sign in ((positive, 1), (~positive, -1)):
        other = (sign * score[~own]).sort().values
        mine = sign * score[own]
        below = torch.searchsorted(other, mine, right=False) + torch.searchsorted(other, mine, right=True)
        placement[own] = below.double() / (2 * len(other))
    return placement


def _pair(pred: Tensor, mask: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    pred, mask = torch.as_tensor(pred), torch.as_tensor(mask)
    if pred.shape != mask.shape or pred.ndim not in (3, 4):
        raise ValueError(f"pred and mask must have the same shape (N, H, W) or (N, H, W, D), "
                         f"but got {tuple(pred.shape)} and {tuple(mask.shape)}")
    if classes < 2:
        raise ValueError(f"classes counts the background, so it must be at least 2, but got {classes}")
    a, b = one_hot(pred, classes), one_hot(mask, classes)
    return a, b, ~(a.flatten(2).any(-1) | b.flatten(2).any(-1))[:, 1:]


def _blank(value: Tensor, absent: Tensor) -> Tensor:
    return value.masked_fill(absent, float("nan"))
