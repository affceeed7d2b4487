"""The loss of the anchors of all ranks, with gradients to all of them.

    gather  every rank has all rows; those of the gradient go home by reduce-scatter: memory N D
    ring    shards pass around (``ring.py``): memory N D / ranks

Each rank returns the loss of its own anchors. ``total`` adds up over ranks, and backward is the adjoint of that: every
rank's upstream gradient counts, and with R ranks that call backward on one and the same mean, a rank gets R times the
gradient of its rows, so that the mean over ranks, which DistributedDataParallel takes, is the gradient.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.balance import balances, with_balance
from fastpixcon.contrast import (
    Bank,
    Batch,
    Given,
    How,
    LocalBatch,
    Memory,
    bank_anchors,
    contrast_loss,
    given_of,
    known_of,
    mined_pairs,
    of_backward,
    totals,
)
from fastpixcon.distributed.ranks import Ranks, contents
from fastpixcon.distributed.ring import Ring
from fastpixcon.ops.contrast_mean import with_memory
from fastpixcon.ops.derivatives import first_only, no_forward_mode, no_transforms
from fastpixcon.values import BankRows, Pairs, Rows, Rule, Statistics

__all__ = ["ranks_loss", "total"]

WHAT = "the loss across ranks (process_group)"  # in errors


class _RanksLoss(torch.autograd.Function):
    """anchors [n, D] of this rank -> their loss [n], mass [n]; the contrast set is that of all ranks. ``rest`` without
    gradient: a bank, a seed, what is Given, then what is no tensor."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        temperature: Tensor,
        bank_x: Tensor | None,
        bank_labels: Tensor | None,
        bank_weights: Tensor | None,
        seed: Tensor | None,
        *rest: Any,
    ) -> tuple[Tensor, Tensor]:
        *given, known, how, ranks, sizes = rest
        seed = None if seed is None else seed.clone()  # it may have advanced when backward comes
        anchors, _, rule = Given(*given).sets(x, None, temperature, known)
        bank = None
        if bank_x is not None and bank_labels is not None:
            bank = BankRows(bank_x, bank_labels, bank_weights)
        gathered = mined = memory = None
        if ranks.across == "gather":
            gathered = anchors.like(ranks.gather_rows(anchors.tensors(), sizes, "anchors"))
            mined = mined_pairs(anchors, gathered, bank, rule, how)
        pairs = Pairs(how.diagonal, mined, seed)
        if bank is not None:
            memory = Memory(bank_anchors(anchors, bank), bank, rule, pairs, how.backend)
        batch = _batch(anchors, gathered, rule, pairs, how, ranks, sizes)
        loss, *kept = totals(batch, memory, any(ctx.needs_input_grad[:2]), rule)
        ctx.save_for_backward(
            x, temperature, mined, seed, *kept, *given_of(anchors, gathered, rule), *_features(gathered)
        )
        ctx.batch = (known, of_backward(how, x), ranks, sizes)
        mass = kept[2]
        assert mass is not None
        ctx.mark_non_differentiable(mass)
        return loss, mass

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, temperature, mined, seed, log_z, weight, mass, memory_gradient, *given, gathered_x = ctx.saved_tensors
        known, how, ranks, sizes = ctx.batch
        needs = ctx.needs_input_grad
        anchors, gathered, rule = Given(*given).sets(x, gathered_x, temperature, known)
        batch = _batch(anchors, gathered, rule, Pairs(how.diagonal, mined, seed), how, ranks, sizes)
        d_anchors, d_gathered, d_temperature = batch.gradient(
            Statistics(d_loss, log_z, weight, mass), [needs[0], needs[0], needs[1]]
        )
        if needs[0] and ranks.across == "gather":
            d_anchors += ranks.reduce_scatter_rows(d_gathered, sizes, "gradients of anchors")
        d_batch = d_anchors if needs[0] else None
        of_rule = d_temperature if needs[1] else None
        if memory_gradient is not None:
            d_batch, of_rule = with_memory(d_batch, of_rule, d_loss, memory_gradient, x, temperature)
        gradients = (d_batch.to(x.dtype) if needs[0] and d_batch is not None else None, of_rule)
        return *first_only(WHAT, gradients, d_loss, x, temperature), *(None,) * (len(Given._fields) + 8)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        no_forward_mode(WHAT)


def _features(rows: Rows | None) -> tuple[Tensor | None]:
    return (None if rows is None else rows.x,)


def _batch(
    anchors: Rows, gathered: Rows | None, rule: Rule, pairs: Pairs, how: How, ranks: Ranks, sizes: list[int]
) -> Batch:
    if ranks.across == "ring":
        return Ring(anchors, rule, how.backend, ranks, sizes)
    # Each rank's rows are sorted, one after the other they are not.
    return LocalBatch(anchors, gathered, rule._replace(is_sorted=False), pairs, how.backend)


@torch._disable_dynamo  # as torch.compiler.disable, which imports Dynamo at once, for seconds
def ranks_loss(
    anchors: Rows,
    rule: Rule,
    *,
    bank: Bank | None,
    seed: Tensor | None,
    how: How,
    ranks: Ranks,
    balanced: bool = False,
) -> tuple[Tensor, Tensor]:
    """``contrast.contrast_loss`` of this rank's anchors with those of all ranks."""
    no_transforms(WHAT)
    x = anchors.x
    wants_gradient = torch.is_grad_enabled() and (x.requires_grad or rule.temperature.requires_grad)
    sizes = ranks.agree(
        x.shape[0],
        x.device,
        width=x.shape[1],
        dtype=str(x.dtype),
        labels=str(anchors.labels.dtype),
        across=ranks.across,
        denominator=rule.denominator,
        fixed_shift=int(rule.fixed_shift),
        requires_grad=int(wants_gradient and x.requires_grad) + 2 * int(wants_gradient),
        contrast=int(how.use_batch) + 2 * int(bank is not None),
        mining=str(how.mining),
        pairs=str([y is not None for y in (*anchors, rule.class_weights)] + [*known_of(rule)[3:], balanced]),
        class_weights=contents(rule.class_weights),
    )
    how = how._replace(diagonal=sum(sizes[: ranks.rank]))
    bank_weights = None
    if balanced:
        anchors, bank_weights = _balanced(anchors, bank, how, ranks, sizes)
    if not how.use_batch:
        return contrast_loss(anchors, None, rule, bank=bank, bank_weights=bank_weights, seed=seed, how=how)
    rows = (None, None, None) if bank is None else (bank.rows, bank.labels, bank_weights)
    return _RanksLoss.apply(
        x, rule.temperature, *rows, seed, *given_of(anchors, None, rule), known_of(rule), how, ranks, sizes
    )


def _balanced(anchors: Rows, bank: Bank | None, how: How, ranks: Ranks, sizes: list[int]) -> tuple[Rows, Tensor | None]:
    """Anchors and weights of the bank for classes that weigh alike over all ranks."""
    rank = ranks.rank
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    counted = [x for x in (anchors.labels, anchors.positive_weights) if x is not None]
    everywhere = None
    if how.use_batch:
        labels, *v = ranks.gather_rows(counted, sizes, "labels")
        everywhere = Rows(anchors.x, labels, v[0] if v else None)
    of_rows, of_bank = balances(everywhere, None if bank is None else bank.labels, anchors.x)
    return with_balance(anchors, None if of_rows is None else of_rows[own]), of_bank


class _Total(torch.autograd.Function):
    """Two sums over the ranks, in one exchange; the second has no gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        ctx.ranks = ranks
        both = ranks.all_reduce_(torch.stack([value.double(), count.double()]), "the loss")
        count = both[1].to(count.dtype)
        ctx.mark_non_differentiable(count)
        return both[0].to(value.dtype), count

    @staticmethod
    def backward(ctx: Any, d_value: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        d_sum = ctx.ranks.all_reduce_(d_value.detach().clone(), "the gradient of the loss")
        return *first_only(WHAT, (d_sum,), d_value), None, None

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        no_forward_mode(WHAT)


@torch._disable_dynamo  # as torch.compiler.disable, which imports Dynamo at once, for seconds
def total(value: Tensor, count: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """``value []`` and ``count []`` of all ranks."""
    return _Total.apply(value, count, ranks)
