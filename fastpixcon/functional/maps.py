"""The loss of a map of embeddings: its anchors, their rows, their loss."""

from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active

from fastpixcon import distributed
from fastpixcon.contrast import Bank, Miner
from fastpixcon.functional.anchors import gathered, select_with_segments, selection_arguments
from fastpixcon.functional.rows import DENOMINATORS, FEW_ROWS, FIXED_SHIFT_MIN, Objective, Weighed, info_nce_of
from fastpixcon.ops import checks, maps
from fastpixcon.ops.backends import call, chosen
from fastpixcon.ops.void import Void
from fastpixcon.pairs import Pairs, rule_of
from fastpixcon.values import Rows, Rule

__all__ = ["pixel_contrast", "pixel_contrast_and_facts"]

MOST_IMAGES = 2**16  # of a rank, whose images have numbers of their own


def pixel_contrast(
    embeddings: Tensor,
    labels: Tensor,
    predictions: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    base_temperature: float | None = 0.07,
    max_samples: int = 1024,
    max_views: int = 100,
    min_pixels: int | None = None,
    ignore_index: Void = 255,
    num_classes: int | None = None,
    denominator: str = "negatives",
    memory: Bank | None = None,
    mining: Miner | None = None,
    contrast_with: str = "both",
    seed: int | Tensor = 0,
    process_group: Any = distributed.NO_GROUP,
    across: str = "gather",
    backend: str = "auto",
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    pairs: Pairs | None = None,
) -> Tensor:
    """:func:`select_anchors`, :func:`gather_normalize` and :func:`info_nce` in one call (Wang et al. 2021, eq. 3).

    Args:
        embeddings: ``[B, D, *S]`` floating, S of one (tokens), two or three (volumes) sizes, of any norm and strides.
        labels: ``[B, *S']``, any integer dtype.
        predictions: ``[B, *S]`` integer, or logits ``[B, K, *S]``.
        num_classes, max_samples, max_views, min_pixels, ignore_index: as in :func:`select_anchors`.
        temperature, base_temperature, denominator, memory, mining, contrast_with, process_group, across: as in
            :func:`info_nce`.
        seed: int or [] int64 tensor on the device of labels, of the anchors and of the pairs that mining draws.
        weights: ``[B, *S']`` as labels, brought to S as they are, or ``[B, *S]``, floating >= 0, without gradient: of
            the anchors in the mean, as in :func:`info_nce`; those of other pixels are not looked at. None: ones.
        groups: [B] integers, the group of each image, for ``pairs`` that look at them; None: every image is its own.
        pairs: a :class:`fastpixcon.Pairs`.
        backend: "auto", "reference", "native" or "triton".

    Returns:
        the mean loss in nats per anchor, []; 0 if no anchor has a positive.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
    """
    asked = maps.Selection(num_classes, max_samples, max_views, min_pixels, ignore_index)
    selection = maps.check_contrast(embeddings, labels, predictions, asked)
    checks.one_of("denominator", denominator, DENOMINATORS)
    checks.temperature_scale(temperature, base_temperature)
    objective = Objective(
        temperature, base_temperature, denominator, memory, mining, contrast_with, process_group, across, backend,
        rule_of(pairs),
    )  # fmt: skip
    return pixel_contrast_and_facts(embeddings, labels, predictions, selection, objective, seed, weights, groups)[0]


def pixel_contrast_and_facts(
    embeddings: Tensor,
    labels: Tensor,
    predictions: Tensor,
    selection: maps.Selection,
    objective: Objective,
    seed: int | Tensor,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`pixel_contrast` of checked maps, and what it did: the loss [], segments [2, K] as of the operator
    ``select_anchors``, labels [max_samples] and numbers of positives [max_samples] of the anchors."""
    backend = objective.backend
    if objective.contrast_with != "batch" and isinstance(rows := getattr(objective.memory, "rows", None), Tensor):
        checks.wants_float64("embeddings", embeddings, rows, backend)
    sizes, rule = embeddings.shape[2:], objective.pairs
    if weights is not None:
        maps.check_weights(weights, embeddings, labels)
    if groups is not None and not rule.grouped:
        raise ValueError("groups: got groups that no rule looks at, want pairs=Pairs(positives=..) or (negatives=..)")
    if rule.grouped:
        groups = _image_groups(groups, embeddings, objective)
    if weights is None and takes_one_call(embeddings, selection, objective):
        return _in_one_call(embeddings, labels, predictions, selection, objective, seed)
    selected, segments = select_with_segments(labels, predictions, selection, seed, backend)
    anchors = Rows(gathered(embeddings, selected.index, backend), selected.label)
    weighed = Weighed(
        None if weights is None else maps.at_pixels(weights, selected.index, sizes),
        groups=None if groups is None else groups[selected.index.clamp(min=0) // max(sizes.numel(), 1)],
    )
    loss, mass = info_nce_of(
        anchors, None, objective, name="embeddings", rows="unit", is_sorted=True, seed=seed, weighed=weighed
    )
    return loss, segments, selected.label, mass


def takes_one_call(embeddings: Tensor, selection: maps.Selection, objective: Objective) -> bool:
    """Whether one operator does it all: with a gradient, of so few anchors that it is made at once, which contrast with
    each other alone, without rules, on a backend of kernels. A compiled graph has no host to spare, and ``torch.func``
    gradients that ``requires_grad`` does not tell."""
    device = embeddings.device.type
    if not (embeddings.requires_grad and torch.is_grad_enabled()):
        return False
    if torch.compiler.is_compiling() or _are_functorch_transforms_active():
        return False
    pairs = objective.pairs
    if pairs.class_weights is not None or pairs.balanced or pairs.grouped:
        return False
    if selection.max_samples > FEW_ROWS.get(device, 0):
        return False
    if objective.memory is not None or objective.mining is not None or objective.contrast_with not in ("both", "batch"):
        return False
    if distributed.ranks_of(objective.process_group, objective.across) is not None:
        return False
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != embeddings.dtype:
        return False  # rows are rounded to it between the operators
    return chosen("pixel_contrast", maps.folded(embeddings, 2), objective.backend) != "reference"


def _in_one_call(
    embeddings: Tensor,
    labels: Tensor,
    predictions: Tensor,
    selection: maps.Selection,
    objective: Objective,
    seed: int | Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`pixel_contrast_and_facts`, where one operator does it."""
    temperature, folded = objective.temperature, maps.folded(embeddings, 2)
    scale = checks.temperature_scale(temperature, objective.base_temperature)
    inside = scale if isinstance(scale, float) else None
    fixed_shift = not isinstance(temperature, Tensor) and temperature >= FIXED_SHIFT_MIN
    tau = checks.temperature_tensor(temperature, embeddings)
    rule = Rule(tau, objective.denominator, fixed_shift, is_sorted=True)
    pixels = selection_arguments(labels, predictions, selection, seed)
    value, mass, _index, label, segments, *_ = call(
        "pixel_contrast", folded, objective.backend, folded, *pixels, rule, inside or 1.0, tau.requires_grad
    )
    return value if scale is None or inside is not None else value * scale, segments, label, mass


def _image_groups(groups: Tensor | None, embeddings: Tensor, objective: Objective) -> Tensor:
    """[B] int32: given ones, or a number for each image, of all ranks."""
    B = embeddings.shape[0]
    if groups is not None:
        return checks.row_groups("groups", groups, "embeddings", embeddings, "B")
    ranks = distributed.ranks_of(objective.process_group, objective.across)
    first = 0 if ranks is None else ranks.rank * MOST_IMAGES
    return torch.arange(first, first + B, dtype=torch.int32, device=embeddings.device)
