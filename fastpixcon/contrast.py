"""A loss over several contrast sets: the batch, or rows of the user's, and a memory bank; mined or not.

With s_ij = a_i.c_j / T over the kept pairs of all sets together, in steps that add up over the sets:

    log Z_i = log sum_sets e^log_sum_i                        contrast_sums, memory_sums
    loss_i = mean over all positives, given log Z_i           contrast_positives, memory_positives
    backward: the batch's gradient, given log Z_i             contrast_gradient
              the bank has none; that of the anchors is made in the forward, and scaled
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastpixcon.ops.backends import choose

__all__ = ["Bank", "Miner", "contrast_loss"]


class Bank(Protocol):
    """What a memory bank shows of itself."""

    rows: Tensor  # [K, S, D] unit rows
    labels: Tensor  # [K, S] int32, -1 where empty


class Miner(Protocol):
    """What :class:`fastpixcon.Mining` says."""

    @property
    def negatives(self) -> str: ...
    @property
    def positives(self) -> str: ...
    @property
    def fraction(self) -> float: ...
    @property
    def keep(self) -> tuple[int, int]: ...


class How(NamedTuple):
    """What all steps share."""

    denominator: str
    fixed_shift: bool
    is_sorted: bool
    use_batch: bool
    diagonal: int | None  # where the anchors begin among the contrast rows
    mining: tuple[str, str, float, tuple[int, int]] | None
    backend: str


def for_bank(anchors: Tensor, labels: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors in the dtype of the bank, and labels of 32 bits: the bank has no others."""
    if labels.dtype == torch.int64:
        labels = labels.clamp(-(2**31), 2**31 - 1).to(torch.int32)
    return anchors.to(bank.dtype), labels


def kept_seed(seed: Tensor) -> Tensor:
    """A copy: the caller's seed may have advanced when backward comes. A compiled backward would make a plain clone
    anew, from the seed as it is then; of what adds up it keeps the result."""
    return seed.view(1).cumsum(0)[0]


class _ContrastLoss(torch.autograd.Function):
    """anchors [N, D] -> loss [N], count [N]; ``bank`` without gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        contrast: Tensor | None,
        temperature: Tensor,
        labels: Tensor,
        contrast_labels: Tensor | None,
        bank: Tensor | None,
        bank_labels: Tensor | None,
        seed: Tensor | None,
        how: How,
    ) -> tuple[Tensor, Tensor]:
        def op(name: str, tensor: Tensor = anchors) -> Any:
            return choose(name, tensor, how.backend)

        known = (how.denominator, how.fixed_shift, how.is_sorted)
        wants_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        first = how.diagonal or 0
        if bank is not None:
            bank_anchors, bank_anchor_labels = for_bank(anchors, labels, bank)
        mined = None
        seed = None if seed is None else kept_seed(seed)
        if how.mining is not None:
            negatives, positives, fraction, keep = how.mining
            batch: tuple[Any, ...] = (None, None, None)
            if how.use_batch:
                batch = (anchors, labels, 0) if contrast is None else (contrast, contrast_labels, how.diagonal)
            rows = anchors if bank is None else bank_anchors
            mined = op("mining_thresholds", rows)(
                rows, labels, *batch, bank, bank_labels, negatives, positives, fraction, list(keep)
            )

        log_sums, losses = [], []
        if how.use_batch:
            sets = (anchors, labels, contrast, contrast_labels, temperature)
            log_sums.append(op("contrast_sums")(*sets, *known, how.diagonal, False, mined, seed)[0])
        if bank is not None:
            in_bank = (bank_anchors, bank_anchor_labels, bank, bank_labels, temperature)
            log_sum, mean = op("memory_sums", bank)(*in_bank, *known, first, mined, seed, wants_gradient)
            log_sums.append(log_sum)
        log_z = log_sums[0] if len(log_sums) == 1 else torch.logaddexp(*log_sums)  # [N]
        if how.use_batch:
            losses.append(op("contrast_positives")(*sets, log_z, None, *known, how.diagonal, mined, seed)[:3])
        if bank is not None:
            *sums, pull = op("memory_positives", bank)(*in_bank, log_z, *known, first, mined, seed, wants_gradient)
            losses.append(tuple(sums))
        loss, weight, count = losses[0] if len(losses) == 1 else (x + y for x, y in zip(*losses, strict=True))
        inverse = 1 / count.clamp(min=1).to(loss.dtype)  # [N]
        loss, weight = loss * inverse, weight * inverse

        memory_gradient = None  # [N, D] of each anchor's loss
        if bank is not None and wants_gradient:
            share = torch.where(log_sum == -torch.inf, 0, torch.exp(log_sum - log_z))
            push = share if how.denominator == "all" else share * weight
            pushed = push[:, None] * mean - inverse[:, None] * pull
            memory_gradient = torch.where((count > 0)[:, None], pushed / temperature, 0)
        ctx.how = how
        ctx.save_for_backward(
            anchors, contrast, temperature, labels, contrast_labels, seed, mined, log_z, weight, count, memory_gradient
        )
        ctx.mark_non_differentiable(count)
        return loss, count

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        (
            anchors,
            contrast,
            temperature,
            labels,
            contrast_labels,
            seed,
            mined,
            log_z,
            weight,
            count,
            memory_gradient,
        ) = ctx.saved_tensors
        how, needs = ctx.how, ctx.needs_input_grad
        d_anchors, d_contrast, d_temperature = None, None, torch.zeros_like(temperature)
        if how.use_batch:
            d_anchors, d_contrast, d_temperature = choose("contrast_gradient", anchors, how.backend)(
                d_loss, None, anchors, labels, contrast, contrast_labels, temperature, log_z, weight, count, None, None,
                None, how.denominator, how.fixed_shift, how.is_sorted, how.diagonal, mined, seed,
                [needs[0], needs[1], needs[2]],
            )  # fmt: skip
        if memory_gradient is not None:
            d_memory = d_loss[:, None] * memory_gradient
            d_anchors = d_memory if d_anchors is None or not needs[0] else d_anchors + d_memory
            d_temperature = d_temperature - (d_memory * anchors).sum() / temperature
        return (
            d_anchors.to(anchors.dtype) if needs[0] and d_anchors is not None else None,
            d_contrast.to(anchors.dtype) if needs[1] and d_contrast is not None else None,
            d_temperature if needs[2] else None,
            *(None,) * 6,
        )


def contrast_loss(
    anchors: Tensor,
    labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    *,
    bank: Bank | None,
    mining: Miner | None,
    seed: Tensor | None,
    use_batch: bool,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    backend: str,
    diagonal: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of every anchor over all contrast sets, [N], and how many positives it has, [N]. Unit rows."""
    mined = None if mining is None else (mining.negatives, mining.positives, mining.fraction, mining.keep)
    how = How(denominator, fixed_shift, is_sorted, use_batch, diagonal, mined, backend)
    rows, row_labels = (None, None) if bank is None else (bank.rows, bank.labels)
    return _ContrastLoss.apply(anchors, contrast, temperature, labels, contrast_labels, rows, row_labels, seed, how)
