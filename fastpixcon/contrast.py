"""A loss over several contrast sets: the batch, or rows of the user's, and a memory bank; mined or not.

With s_ij = a_i.c_j / T over the kept pairs of all sets together, in steps that add up over the sets:

    log Z_i = log sum_sets e^log_sum_i                        contrast_sums, memory_sums
    loss_i = mean over all positives, given log Z_i           contrast_positives, memory_positives
    backward: the batch's gradient, given log Z_i             contrast_gradient
              the bank has none; that of the anchors is made in the forward, and scaled

The operator ``contrast_mean`` has the forward and asks for the backward. ``distributed`` makes the steps one by one
where the batch lies on several ranks.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active

from fastpixcon.ops.backends import call, chosen
from fastpixcon.reference.contrast_mean import joined
from fastpixcon.values import BankRows, Pairs, Rows, Rule, Statistics

__all__ = ["Bank", "Miner", "contrast_loss", "doubled", "how_to"]

Known = tuple[str, bool, bool, str, str]  # of a rule


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
    """What all steps share, beside the rule and which pairs there are."""

    use_batch: bool
    diagonal: int | None  # where the anchors begin among the contrast rows
    mining: tuple[str, str, float, tuple[int, int]] | None
    backend: str


class Batch(Protocol):
    """The contrast set with a gradient, wherever it lies."""

    def sums(self) -> Tensor: ...  # [N]
    def positives(self, log_z: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...  # loss, weight, mass [N]
    def gradient(
        self, of: Statistics, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]: ...  # of the anchors, of the contrast rows, of the temperature


class LocalBatch(NamedTuple):
    """A contrast set that lies here."""

    anchors: Rows  # unit rows [N, D]
    contrast: Rows | None  # unit rows [M, D]; None: the anchors
    rule: Rule
    pairs: Pairs
    backend: str

    def sums(self) -> Tensor:
        log_sum: Tensor = call("contrast_sums", self.anchors.x, self.backend, *self[:4], False)[0]
        return log_sum

    def positives(self, log_z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, weight, mass, *_ = call("contrast_positives", self.anchors.x, self.backend, *self[:4], log_z, None)
        if self.pairs.mined is not None:
            loss = loss + not_finite(self.anchors, self.contrast)
        return loss, weight, mass

    def gradient(self, of: Statistics, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the anchors [N, D], of the contrast rows [M, D], of the temperature []."""
        gradients: tuple[Tensor, Tensor, Tensor] = call(
            "contrast_gradient", self.anchors.x, self.backend, of, None, *self[:4], wanted
        )
        return gradients


class Memory(NamedTuple):
    """The contrast set of a bank, without gradient."""

    anchors: Rows  # in the dtype of the bank
    bank: BankRows
    rule: Rule
    pairs: Pairs
    backend: str

    def sums(self, wants_mean: bool) -> tuple[Tensor, Tensor]:
        log_sum, mean = call("memory_sums", self.bank.x, self.backend, *self[:4], wants_mean)
        return log_sum, mean

    def positives(self, log_z: Tensor, wants_pull: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        loss, *others = call("memory_positives", self.bank.x, self.backend, *self[:4], log_z, wants_pull)
        if self.pairs.mined is not None:
            loss = loss + _not_finite(self.anchors)
        return loss, *others


def bank_anchors(anchors: Rows, bank: BankRows) -> Rows:
    """Anchors in the dtype of the bank, and labels of 32 bits: the bank has no others."""
    labels = anchors.labels
    if labels.dtype == torch.int64:
        labels = labels.clamp(-(2**31), 2**31 - 1).to(torch.int32)
    return Rows(anchors.x.to(bank.x.dtype), labels, groups=anchors.groups)


def kept_seed(seed: Tensor) -> Tensor:
    """A copy: the caller's seed may have advanced when backward comes. A compiled backward would make a plain clone
    anew, from the seed as it is then; of what adds up it keeps the result."""
    return seed.view(1).cumsum(0)[0]


def mined_pairs(anchors: Rows, contrast: Rows | None, bank: BankRows | None, rule: Rule, how: How) -> Tensor | None:
    """Which pairs the anchors keep, [4, N]; None: all. ``contrast`` None: the anchors."""
    if how.mining is None:
        return None
    contrast, diagonal = (anchors, 0) if contrast is None else (contrast, how.diagonal)
    if bank is not None:
        anchors, contrast = (rows._replace(x=rows.x.to(bank.x.dtype)) for rows in (anchors, contrast))
    *kinds, fraction, keep = how.mining
    batch = (contrast, diagonal) if how.use_batch else (None, None)
    groups = (rule.positive_groups, rule.negative_groups)
    mined: Tensor = call(
        "mining_thresholds", anchors.x, how.backend, anchors, *batch, bank, *groups, *kinds, fraction, [*keep]
    )
    return mined


class Totals(NamedTuple):
    """Over all contrast sets."""

    loss: Tensor  # [N] mean over the positives
    log_z: Tensor  # [N]
    weight: Tensor  # [N] mean over the positives
    mass: Tensor  # [N] of the positives
    memory_gradient: Tensor | None  # [N, D] of each anchor's loss


def totals(batch: Batch | None, memory: Memory | None, wants_gradient: bool, rule: Rule) -> Totals:
    """The steps of the forward, where the batch lies on several ranks."""
    log_sums = []
    if batch is not None:
        log_sums.append(batch.sums())
    if memory is not None:
        log_sum, mean = memory.sums(wants_gradient)
        log_sums.append(log_sum)
    log_z = log_sums[0] if len(log_sums) == 1 else torch.logaddexp(*log_sums)  # [N]
    of_batch = None if batch is None else batch.positives(log_z)
    sums = of_memory = None
    if memory is not None:
        loss, weight, mass, pull = memory.positives(log_z, wants_gradient)
        sums, of_memory = (loss, weight, mass), (log_sum, mean, pull) if wants_gradient else None
    loss, weight, mass, memory_gradient = joined(of_batch, sums, of_memory, log_z, rule)
    return Totals(loss, log_z, weight, mass, memory_gradient)


class Given(NamedTuple):
    """Tensors of a loss that have no gradient, handed to autograd one by one."""

    labels: Tensor
    positive_weights: Tensor | None
    negative_weights: Tensor | None
    groups: Tensor | None
    contrast_labels: Tensor | None
    contrast_positive_weights: Tensor | None
    contrast_negative_weights: Tensor | None
    contrast_groups: Tensor | None
    class_weights: Tensor | None

    def sets(
        self, x: Tensor, contrast_x: Tensor | None, temperature: Tensor, known: Known
    ) -> tuple[Rows, Rows | None, Rule]:
        """Anchors, contrast rows and rule again."""
        labels, v, u, groups, *of_contrast, class_weights = self
        contrast = None if contrast_x is None else Rows._make([contrast_x, *of_contrast])
        denominator, fixed_shift, is_sorted, *which = known
        rule = Rule(temperature, denominator, fixed_shift, is_sorted, class_weights, *which)
        return Rows(x, labels, v, u, groups), contrast, rule


def given_of(anchors: Rows, contrast: Rows | None, rule: Rule) -> Given:
    return Given._make([*anchors[1:], *((None,) * 4 if contrast is None else contrast[1:]), rule.class_weights])


def known_of(rule: Rule) -> Known:
    """What is no tensor."""
    return (rule.denominator, rule.fixed_shift, rule.is_sorted, rule.positive_groups, rule.negative_groups)


def how_to(*, mining: Miner | None, use_batch: bool, backend: str) -> How:
    mined = None if mining is None else (mining.negatives, mining.positives, mining.fraction, mining.keep)
    return How(use_batch, None, mined, backend)


def contrast_loss(
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    *,
    bank: Bank | None,
    bank_weights: Tensor | None = None,
    seed: Tensor | None,
    how: How,
    anchor_weights: Tensor | None = None,
    scale: float = 1.0,
    reduction: str = "none",
) -> tuple[Tensor, Tensor]:
    """The loss over all contrast sets, [], or of every anchor [N], and the mass of its positives, [N]. Unit rows.

    bank_weights: [K] of the bank's rows as negatives; what the others mean, operator ``contrast_mean`` says."""
    of_bank = None if bank is None else BankRows(bank.rows, bank.labels, bank_weights)
    mined = taint = None
    if how.mining is not None:
        with torch.no_grad():
            seed = None if seed is None else kept_seed(seed)
            mined = mined_pairs(anchors.each(Tensor.detach), _detached(contrast), of_bank, rule, how)
            taint = not_finite(anchors, contrast) if how.use_batch else _not_finite(anchors)
    pairs = Pairs(how.diagonal, mined, seed)
    like = anchors.x if bank is None else bank.rows  # whose width, or [K, S, D], tells backends apart
    value, _share, _log_sum, _weight, mass, _gradient = call(
        "contrast_mean", like, how.backend, anchors, contrast, rule, pairs, of_bank, how.use_batch, taint,
        anchor_weights, scale, reduction, wants_gradient(anchors.x, rule.temperature),
    )  # fmt: skip
    return value, mass


def _detached(rows: Rows | None) -> Rows | None:
    return None if rows is None else rows.each(Tensor.detach)


def wants_gradient(anchors: Tensor, temperature: Tensor) -> bool:
    """Whether one of them may get a gradient: at some level, under ``torch.func``."""
    if not torch.compiler.is_compiling() and _are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and (anchors.requires_grad or temperature.requires_grad)


def of_backward(how: How, x: Tensor) -> How:
    """With the backend of the forward by name: another may be the default when backward comes."""
    return how._replace(backend=chosen("contrast_gradient", x, how.backend)) if how.use_batch else how


def not_finite(anchors: Rows, contrast: Rows | None) -> Tensor:
    """[N] zeros, NaN where an anchor takes part and is not finite, or a contrast row is. NaN is neither above nor below
    a threshold: mining keeps no pair of such a row, and a loss without it would look fine."""
    own = _not_finite(anchors)
    others = own if contrast is None else _not_finite(contrast)
    return own + torch.where(anchors.labels != -1, others.sum(), 0)


def _not_finite(rows: Rows) -> Tensor:
    """[N] zeros, NaN where one of the unit rows takes part and is not finite."""
    x = rows.x.detach()
    nothing = x.sum(dim=1, dtype=torch.promote_types(x.dtype, torch.float32)) * 0
    return torch.where(rows.labels != -1, nothing, 0)
