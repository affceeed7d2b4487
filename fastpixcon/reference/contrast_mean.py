"""The mean of a loss over several contrast sets, in steps that add up over the sets."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastpixcon.reference.contrast_positives import contrast_positives
from fastpixcon.reference.contrast_sums import contrast_sums
from fastpixcon.reference.memory_positives import memory_positives
from fastpixcon.reference.memory_sums import memory_sums
from fastpixcon.values import BankRows, Pairs, Rows, Rule


class Joined(NamedTuple):
    """Of anchors, over all contrast sets."""

    loss: Tensor  # [N] mean over the positives
    weight: Tensor  # [N] mean over the positives
    mass: Tensor  # [N] of the positives
    memory_gradient: Tensor | None  # [N, D] of each anchor's loss


def joined(
    batch: tuple[Tensor, Tensor, Tensor] | None,
    memory: tuple[Tensor, Tensor, Tensor] | None,
    of_memory: tuple[Tensor, Tensor, Tensor] | None,
    log_z: Tensor,
    rule: Rule,
) -> Joined:
    """Of each set the loss, weight and mass [N]; of a bank, where a gradient is wanted, log_sum [N], mean [N, D] and
    pull [N, D]."""
    sets = [x for x in (batch, memory) if x is not None]
    loss, weight, mass = sets[0] if len(sets) == 1 else (x + y for x, y in zip(*sets, strict=True))
    counts = mass > 0
    inverse = torch.where(counts, 1 / mass, 0)  # [N]
    loss, weight = loss * inverse, weight * inverse
    if of_memory is None:
        return Joined(loss, weight, mass, None)
    log_sum, mean, pull = of_memory
    share = torch.where(log_sum == -torch.inf, 0, torch.exp(log_sum - log_z))
    push = share * weight if rule.denominator == "negatives" else share
    pushed = torch.addcmul(push[:, None] * mean, inverse[:, None], pull, value=-1)
    return Joined(loss, weight, mass, torch.where(counts[:, None], pushed / rule.temperature, 0))


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
    log_sums = []
    if use_batch:
        log_sums.append(contrast_sums(anchors, contrast, rule, pairs, False)[0])
    if bank is not None:
        near = Rows(anchors.x.to(bank.x.dtype), anchors.labels, groups=anchors.groups)
        log_sum, mean = memory_sums(near, bank, rule, pairs, wants_gradient)
        log_sums.append(log_sum)
    log_z = torch.logsumexp(torch.stack(log_sums), dim=0)  # [N]
    batch = memory = of_memory = None
    if use_batch:
        batch = contrast_positives(anchors, contrast, rule, pairs, log_z, None)[:3]
    if bank is not None:
        *sums, pull = memory_positives(near, bank, rule, pairs, log_z, wants_gradient)
        memory = (sums[0], sums[1], sums[2])
        of_memory = (log_sum, mean, pull) if wants_gradient else None
    loss, weight, mass, gradient = joined(batch, memory, of_memory, log_z, rule)

    loss = loss if taint is None else loss + taint
    counts = (mass > 0) | loss.isnan()
    w = loss.new_ones(()).expand_as(loss) if anchor_weights is None else anchor_weights.to(loss)
    each = (w * loss).where(counts, 0)
    counted = w.where(mass > 0, 0).sum()
    share = scale / counted.where(counted > 0, 1) if reduction == "mean" else torch.full_like(counted, scale)
    value = (each if reduction == "none" else each.sum()) * share
    return value, share, log_z, weight, mass, loss.new_empty(0) if gradient is None else gradient
