"""A loss over several contrast sets: the batch, or rows of the user's, and a memory bank; mined or not.

With s_ij = a_i.c_j / T over the kept pairs of all sets together, in steps that add up over the sets:

    log Z_i = log sum_sets e^log_sum_i                        contrast_sums, memory_sums
    loss_i = mean over all positives, given log Z_i           contrast_positives, memory_positives
    backward: the batch's gradient, given log Z_i             contrast_gradient
              the bank has none; that of the anchors is made in the forward, and scaled

``distributed`` makes the same steps where the batch lies on several ranks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active

from fastpixcon.ops.backends import choose, chosen
from fastpixcon.ops.derivatives import below_autograd, first_only, no_forward_mode

__all__ = ["Bank", "Miner", "contrast_loss", "doubled", "how_to"]


WHAT = "the loss over several contrast sets"  # in errors


class Bank(Protocol):
    """What a memory bank shows of itself."""

    @property
    def rows(self) -> Tensor: ...  # [K, S, D] unit rows
    @property
    def labels(self) -> Tensor: ...  # [K, S] int32, -1 where empty


@dataclass(frozen=True)
class _Doubled:
    rows: Tensor  # [K, S, D]
    labels: Tensor  # [K, S]


def doubled(bank: Bank) -> Bank:
    """A copy of its rows in float64, for contrast in float64."""
    return _Doubled(bank.rows.double(), bank.labels)


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


class Batch(Protocol):
    """The contrast set with a gradient, wherever it lies."""

    def sums(self) -> Tensor: ...  # [N]
    def positives(self, log_z: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...  # loss, weight, count [N]
    def gradient(
        self, d_loss: Tensor, log_z: Tensor, weight: Tensor, count: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]: ...  # of the anchors, of the contrast rows, of the temperature


class LocalBatch(NamedTuple):
    """A contrast set that lies here."""

    anchors: Tensor  # [N, D] unit rows
    labels: Tensor  # [N]
    contrast: Tensor | None  # [M, D] unit rows; None: the anchors
    contrast_labels: Tensor | None  # [M]
    temperature: Tensor  # []
    mined: Tensor | None  # [4, N]
    seed: Tensor | None  # []
    how: How

    def sums(self) -> Tensor:
        how = self.how
        return choose("contrast_sums", self.anchors, how.backend)(
            *self[:5], how.denominator, how.fixed_shift, how.is_sorted, how.diagonal, False, self.mined, self.seed
        )[0]

    def positives(self, log_z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        how = self.how
        loss, weight, count, *_ = choose("contrast_positives", self.anchors, how.backend)(
            *self[:5], log_z, None, how.denominator, how.fixed_shift, how.is_sorted, how.diagonal, self.mined, self.seed
        )
        if self.mined is not None:
            loss = loss + not_finite(self.anchors, self.labels, self.contrast, self.contrast_labels)
        return loss, weight, count

    def gradient(
        self, d_loss: Tensor, log_z: Tensor, weight: Tensor, count: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the anchors [N, D], of the contrast rows [M, D], of the temperature []."""
        how = self.how
        return choose("contrast_gradient", self.anchors, how.backend)(
            d_loss, None, *self[:5], log_z, weight, count, None, None, None, how.denominator, how.fixed_shift,
            how.is_sorted, how.diagonal, self.mined, self.seed, wanted,
        )  # fmt: skip


class Memory(NamedTuple):
    """The contrast set of a bank, without gradient."""

    anchors: Tensor  # [N, D] in the dtype of the bank
    labels: Tensor  # [N] int32
    rows: Tensor  # [K, S, D]
    row_labels: Tensor  # [K, S] int32
    temperature: Tensor  # []
    mined: Tensor | None  # [4, N]
    seed: Tensor | None  # []
    how: How

    def known(self) -> tuple[Any, ...]:
        how = self.how
        return (how.denominator, how.fixed_shift, how.is_sorted, how.diagonal or 0, self.mined, self.seed)

    def sums(self, wants_mean: bool) -> tuple[Tensor, Tensor]:
        return choose("memory_sums", self.rows, self.how.backend)(*self[:5], *self.known(), wants_mean)

    def positives(self, log_z: Tensor, wants_pull: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        loss, *others = choose("memory_positives", self.rows, self.how.backend)(
            *self[:5], log_z, *self.known(), wants_pull
        )
        if self.mined is not None:
            loss = loss + _not_finite(self.anchors, self.labels)
        return loss, *others


def bank_anchors(anchors: Tensor, labels: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors in the dtype of the bank, and labels of 32 bits: the bank has no others."""
    if labels.dtype == torch.int64:
        labels = labels.clamp(-(2**31), 2**31 - 1).to(torch.int32)
    return anchors.to(bank.dtype), labels


def kept_seed(seed: Tensor) -> Tensor:
    """A copy: the caller's seed may have advanced when backward comes. A compiled backward would make a plain clone
    anew, from the seed as it is then; of what adds up it keeps the result."""
    return seed.view(1).cumsum(0)[0]


def mined_pairs(
    anchors: Tensor,
    labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    bank: Tensor | None,
    bank_labels: Tensor | None,
    how: How,
) -> Tensor | None:
    """Which pairs the anchors keep, [4, N]; None: all."""
    if how.mining is None:
        return None
    negatives, positives, fraction, keep = how.mining
    rows = anchors if bank is None else anchors.to(bank.dtype)
    batch: tuple[Any, ...] = (None, None, None)
    if how.use_batch:
        batch = (rows, labels, 0) if contrast is None else (contrast.to(rows.dtype), contrast_labels, how.diagonal)
    return choose("mining_thresholds", rows, how.backend)(
        rows, labels, *batch, bank, bank_labels, negatives, positives, fraction, list(keep)
    )


class Totals(NamedTuple):
    """Over all contrast sets."""

    loss: Tensor  # [N] mean over the positives
    log_z: Tensor  # [N]
    weight: Tensor  # [N] mean over the positives
    count: Tensor  # type: ignore[assignment]  # hides tuple.count; [N] int32
    memory_gradient: Tensor | None  # [N, D] of each anchor's loss


def totals(batch: Batch | None, memory: Memory | None, wants_gradient: bool, how: How) -> Totals:
    """The steps of the forward."""
    log_sums, losses = [], []
    if batch is not None:
        log_sums.append(batch.sums())
    if memory is not None:
        log_sum, mean = memory.sums(wants_gradient)
        log_sums.append(log_sum)
    log_z = log_sums[0] if len(log_sums) == 1 else torch.logaddexp(*log_sums)  # [N]
    if batch is not None:
        losses.append(batch.positives(log_z))
    if memory is not None:
        *sums, pull = memory.positives(log_z, wants_gradient)
        losses.append((sums[0], sums[1], sums[2]))
    loss, weight, count = losses[0] if len(losses) == 1 else (x + y for x, y in zip(*losses, strict=True))
    inverse = 1 / count.clamp(min=1).to(loss.dtype)  # [N]
    loss, weight = loss * inverse, weight * inverse
    if memory is None or not wants_gradient:
        return Totals(loss, log_z, weight, count, None)
    share = torch.where(log_sum == -torch.inf, 0, torch.exp(log_sum - log_z))
    push = share if how.denominator == "all" else share * weight
    pushed = push[:, None] * mean - inverse[:, None] * pull
    gradient = torch.where((count > 0)[:, None], pushed / memory.temperature, 0)
    return Totals(loss, log_z, weight, count, gradient)


def with_memory(
    d_anchors: Tensor | None,
    d_temperature: Tensor,
    d_loss: Tensor,
    memory_gradient: Tensor | None,
    anchors: Tensor,
    temperature: Tensor,
) -> tuple[Tensor | None, Tensor]:
    """The gradients of the batch (None: it has none) and of the memory together."""
    if memory_gradient is None:
        return d_anchors, d_temperature
    d_memory = d_loss[:, None] * memory_gradient  # [N, D]
    d_temperature = d_temperature - (d_memory * anchors).sum() / temperature
    return d_memory if d_anchors is None else d_anchors + d_memory, d_temperature


class _ContrastLoss(torch.autograd.Function):
    """anchors [N, D] -> loss [N], count [N], and what backward keeps; ``bank`` without gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        anchors: Tensor,
        contrast: Tensor | None,
        temperature: Tensor,
        labels: Tensor,
        contrast_labels: Tensor | None,
        bank: Tensor | None,
        bank_labels: Tensor | None,
        seed: Tensor | None,
        how: How,
        wants_gradient: bool,
    ) -> tuple[Tensor | None, ...]:
        with below_autograd():
            seed = None if seed is None else kept_seed(seed)
            mined = mined_pairs(anchors, labels, contrast, contrast_labels, bank, bank_labels, how)
            batch = memory = None
            if how.use_batch:
                batch = LocalBatch(anchors, labels, contrast, contrast_labels, temperature, mined, seed, how)
            if bank is not None:
                assert bank_labels is not None
                rows = bank_anchors(anchors, labels, bank)
                memory = Memory(*rows, bank, bank_labels, temperature, mined, seed, how)
            loss, log_z, weight, count, memory_gradient = totals(batch, memory, wants_gradient, how)
        return loss, count, log_z, weight, memory_gradient, mined, seed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        anchors, contrast, temperature, labels, contrast_labels, *_, how, _ = inputs
        _, *kept = output
        ctx.how = of_backward(how, anchors)
        ctx.mark_non_differentiable(*(x for x in kept if x is not None))
        ctx.set_materialize_grads(False)  # or torch fills zeros for each of them
        ctx.save_for_backward(anchors, labels, contrast, contrast_labels, temperature, *kept)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if d_loss is None:
            return (None,) * 10
        anchors, labels, contrast, contrast_labels, temperature, *kept = ctx.saved_tensors
        count, log_z, weight, memory_gradient, mined, seed = kept
        how, needs = ctx.how, ctx.needs_input_grad
        d_anchors, d_contrast, d_temperature = None, None, torch.zeros_like(temperature)
        if how.use_batch:
            batch = LocalBatch(anchors, labels, contrast, contrast_labels, temperature, mined, seed, how)
            wanted = [needs[0], needs[1], needs[2]]
            with below_autograd():
                d_anchors, d_contrast, d_temperature = batch.gradient(d_loss, log_z, weight, count, wanted)
        d_batch = d_anchors if needs[0] else None
        d_anchors, d_temperature = with_memory(d_batch, d_temperature, d_loss, memory_gradient, anchors, temperature)
        gradients = (
            d_anchors.to(anchors.dtype) if needs[0] and d_anchors is not None else None,
            d_contrast.to(anchors.dtype) if needs[1] and d_contrast is not None else None,
            d_temperature if needs[2] else None,
        )
        return *first_only(WHAT, gradients, d_loss, anchors, contrast, temperature), *(None,) * 7


class _ContrastLossOfTransforms(_ContrastLoss):
    """Under ``torch.func``. Dynamo traces no Function that says something about forward mode."""

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        no_forward_mode(WHAT)


class _ContrastLossOfEager(_ContrastLossOfTransforms):
    """In one piece, for torch spends 40 us on the signature of a forward that has its setup_context."""

    setup_context = torch.autograd.Function.setup_context

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor | None, ...]:
        output = _ContrastLoss.forward(*inputs)
        _ContrastLoss.setup_context(ctx, inputs, output)
        return output


def how_to(
    *,
    mining: Miner | None,
    use_batch: bool,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    backend: str,
    diagonal: int | None = None,
) -> How:
    mined = None if mining is None else (mining.negatives, mining.positives, mining.fraction, mining.keep)
    return How(denominator, fixed_shift, is_sorted, use_batch, diagonal, mined, backend)


def contrast_loss(
    anchors: Tensor,
    labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    *,
    bank: Bank | None,
    seed: Tensor | None,
    how: How,
) -> tuple[Tensor, Tensor]:
    """The loss of every anchor over all contrast sets, [N], and how many positives it has, [N]. Unit rows."""
    rows, row_labels = (None, None) if bank is None else (bank.rows, bank.labels)
    if torch.compiler.is_compiling():
        function = _ContrastLoss
    else:
        function = _ContrastLossOfTransforms if _are_functorch_transforms_active() else _ContrastLossOfEager
    loss, count, *_ = function.apply(
        anchors, contrast, temperature, labels, contrast_labels, rows, row_labels, seed, how,
        wants_gradient(anchors, temperature),
    )  # fmt: skip
    return loss, count


def wants_gradient(anchors: Tensor, temperature: Tensor) -> bool:
    """Whether one of them may get a gradient: at some level, under ``torch.func``."""
    if not torch.compiler.is_compiling() and _are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and (anchors.requires_grad or temperature.requires_grad)


def of_backward(how: How, anchors: Tensor) -> How:
    """With the backend of the forward by name: another may be the default when backward comes."""
    return how._replace(backend=chosen("contrast_gradient", anchors, how.backend)) if how.use_batch else how


def not_finite(anchors: Tensor, labels: Tensor, contrast: Tensor | None, contrast_labels: Tensor | None) -> Tensor:
    """[N] zeros, NaN where an anchor takes part and is not finite, or a contrast row is. NaN is neither above nor below
    a threshold: mining keeps no pair of such a row, and a loss without it would look fine."""
    own = _not_finite(anchors, labels)
    others = own if contrast is None or contrast_labels is None else _not_finite(contrast, contrast_labels)
    return own + torch.where(labels != -1, others.sum(), 0)


def _not_finite(rows: Tensor, labels: Tensor) -> Tensor:
    """[N] zeros, NaN where one of the unit rows takes part and is not finite."""
    nothing = rows.detach().sum(dim=1, dtype=torch.promote_types(rows.dtype, torch.float32)) * 0
    return torch.where(labels != -1, nothing, 0)
