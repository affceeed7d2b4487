"""The mean of a loss over several contrast sets: the steps over each set, a launch that joins what they leave of each
anchor, and that of the mean."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import LOG2_E, cdiv, has, how, launch
from fastpixcon.kernels.contrast_positives import sums_of
from fastpixcon.kernels.contrast_sums import log_sums, setting_of
from fastpixcon.kernels.info_nce_mean import mean_of
from fastpixcon.kernels.info_nce_rows import prepare_both
from fastpixcon.kernels.memory_positives import memory_positives
from fastpixcon.kernels.memory_sums import memory_sums
from fastpixcon.kernels.memory_sums_blocks import prepare_bank, short_labels
from fastpixcon.values import BankRows, Pairs, Rows, Rule


@triton.jit
def both(batch_ptr, memory_ptr, offs, here):
    """Of both sets, or of the one that there is."""
    if batch_ptr is None:
        return tl.load(memory_ptr + offs, mask=here, other=0.0)
    elif memory_ptr is None:
        return tl.load(batch_ptr + offs, mask=here, other=0.0)
    else:
        own = tl.load(batch_ptr + offs, mask=here, other=0.0)
        return own + tl.load(memory_ptr + offs, mask=here, other=0.0)


@triton.jit
def contrast_join_kernel(
    batch_loss_ptr, batch_weight_ptr, batch_mass_ptr, memory_loss_ptr, memory_weight_ptr, memory_mass_ptr,
    memory_log_sum_ptr, mean_ptr, pull_ptr, log_sum_ptr, taint_ptr, anchor_weights_ptr, temperature_ptr, loss_ptr,
    weight_ptr, mass_ptr, gradient_ptr, N, scale, D: tl.constexpr, HOW: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Loss [N] the mean over the positives of all sets, times the anchor's weight and scale; weight [N] the mean, mass
    [N] the sum; and, if it is wanted, each loss's gradient as far as the bank makes it, [N, D]."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = offs < N
    mass = both(batch_mass_ptr, memory_mass_ptr, offs, here)
    counts = mass > 0
    inverse = tl.where(counts, 1.0 / tl.where(counts, mass, 1.0), 0.0)
    weight = both(batch_weight_ptr, memory_weight_ptr, offs, here) * inverse
    loss = both(batch_loss_ptr, memory_loss_ptr, offs, here) * inverse  # what is NaN remains
    if taint_ptr is not None:
        loss += tl.load(taint_ptr + offs, mask=here, other=0.0)
    if anchor_weights_ptr is not None:
        of_anchor = tl.load(anchor_weights_ptr + offs, mask=here, other=0.0)
        loss *= tl.where(counts | (loss != loss), of_anchor, 1.0)
    tl.store(loss_ptr + offs, loss * scale, mask=here)
    tl.store(weight_ptr + offs, weight, mask=here)
    tl.store(mass_ptr + offs, mass, mask=here)
    if gradient_ptr is not None:
        offs_d = tl.arange(0, BLOCK_D)
        at = offs.to(tl.int64)[:, None] * D + offs_d[None, :]
        inside = here[:, None] & (offs_d < D)[None, :]
        own = tl.load(memory_log_sum_ptr + offs, mask=here, other=float("-inf"))
        empty = own == float("-inf")
        apart = tl.where(empty, 0.0, own - tl.load(log_sum_ptr + offs, mask=here, other=0.0))
        push = tl.where(empty, 0.0, tl.exp2(apart * LOG2_E))
        if has(HOW, "negatives"):
            push *= weight
        mean = tl.load(mean_ptr + at, mask=inside, other=0.0)
        pull = tl.load(pull_ptr + at, mask=inside, other=0.0)
        gradient = (push[:, None] * mean - inverse[:, None] * pull) / tl.load(temperature_ptr)
        tl.store(gradient_ptr + at, tl.where(counts[:, None], gradient, 0.0), mask=inside)


def contrast_mean(
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    pairs: Pairs,
    bank: BankRows | None,
    use_batch: bool,
    taint: Tensor | None,
    anchor_weights: Tensor | None,
    scale: float,
    reduction: str,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    if not use_batch and bank is None:
        raise ValueError("bank: got None, want a bank without use_batch")
    N, D = anchors.x.shape
    batch: tuple[Tensor | None, ...] = (None,) * 3
    memory: tuple[Tensor | None, ...] = (None,) * 3
    of_bank: tuple[Tensor | None, ...] = (None,) * 3
    found = []
    if use_batch:
        a, c = prepare_both(anchors, contrast, rule, "unit")
        setting = setting_of(contrast, rule, pairs)
        found.append(log_sums(a, c, setting))
    if bank is not None:
        near = Rows(anchors.x.to(bank.x.dtype), short_labels(anchors.labels), groups=anchors.groups)
        rows, word = prepare_bank(bank.x, bank.labels.contiguous(), rule.fixed_shift)
        bank = bank._replace(x=rows) if word == "fp16x3" else bank  # once for both steps
        own, mean = memory_sums(near, bank, rule, pairs, wants_gradient)
        found.append(own)
    log_sum = found[0] if len(found) == 1 else torch.logaddexp(*found)
    if use_batch:
        batch = sums_of(a, c, setting, log_sum)
    if bank is not None:
        *memory, pull = memory_positives(near, bank, rule, pairs, log_sum, wants_gradient)
        of_bank = (own, mean, pull) if wants_gradient else of_bank
    loss, weight, mass = (torch.empty_like(log_sum) for _ in range(3))
    gradient = log_sum.new_empty((N, D) if wants_gradient and bank is not None else (0,))
    has_gradient = gradient.dim() == 2
    none = reduction == "none"
    block_d = launch_table.width(D) if has_gradient else 1
    block = max(1, 2048 // block_d) if has_gradient else 128
    weights = anchor_weights.contiguous() if none and anchor_weights is not None else None
    launch(
        contrast_join_kernel, (cdiv(N, block),), *batch, *memory, *of_bank, log_sum,
        None if taint is None else taint.contiguous(), weights, rule.temperature, loss, weight, mass,
        gradient if has_gradient else None, N, float(scale) if none else 1.0, D=D,
        HOW=how(negatives=rule.denominator == "negatives"), BLOCK=block, BLOCK_D=block_d, num_warps=4,
    )  # fmt: skip
    if none:
        return loss, loss.new_full((), scale), log_sum, weight, mass, gradient
    value, share = mean_of(loss, mass, anchor_weights, scale, reduction == "mean")
    return value, share, log_sum, weight, mass, gradient
