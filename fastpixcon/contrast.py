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

from fastpixcon.ops.backends import call, chosen
from fastpixcon.ops.derivatives import below_autograd, first_only, no_forward_mode
from fastpixcon.values import BankRows, Pairs, Rows, Rule, Statistics

__all__ = ["Bank", "Miner", "contrast_loss", "doubled", "how_to"]


WHAT = "the loss over several contrast sets"  # in errors

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
    loss, weight, mass = losses[0] if len(losses) == 1 else (x + y for x, y in zip(*losses, strict=True))
    counts = mass > 0
    inverse = torch.where(counts, 1 / mass, 0)  # [N]
    loss, weight = loss * inverse, weight * inverse
    if memory is None or not wants_gradient:
        return Totals(loss, log_z, weight, mass, None)
    share = torch.where(log_sum == -torch.inf, 0, torch.exp(log_sum - log_z))
    push = share * weight if rule.denominator == "negatives" else share
    pushed = torch.addcmul(push[:, None] * mean, inverse[:, None], pull, value=-1)
    return Totals(loss, log_z, weight, mass, torch.where(counts[:, None], pushed / rule.temperature, 0))


def with_memory(
    d_anchors: Tensor | None,
    d_temperature: Tensor | None,
    d_loss: Tensor,
    memory_gradient: Tensor | None,
    anchors: Tensor,
    temperature: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the batch (of the anchors None: it has none) and of the memory together; of the temperature
    None: not wanted."""
    if memory_gradient is None:
        return d_anchors, d_temperature
    if d_temperature is None and d_anchors is not None:
        return torch.addcmul(d_anchors, d_loss[:, None], memory_gradient), None
    d_memory = d_loss[:, None] * memory_gradient  # [N, D]
    if d_temperature is not None:
        d_temperature = d_temperature - (d_memory * anchors).sum() / temperature
    return d_memory if d_anchors is None else d_anchors + d_memory, d_temperature


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


class _ContrastLoss(torch.autograd.Function):
    """anchors [N, D] -> loss [N], mass [N], and what backward keeps. Without gradient: a bank, a seed, what is Given,
    what is no tensor; one by one, for Dynamo counts parameters to tell whether the first is a context."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        contrast_x: Tensor | None,
        temperature: Tensor,
        bank_x: Tensor | None,
        bank_labels: Tensor | None,
        bank_weights: Tensor | None,
        seed: Tensor | None,
        labels: Tensor,
        positive_weights: Tensor | None,
        negative_weights: Tensor | None,
        groups: Tensor | None,
        contrast_labels: Tensor | None,
        contrast_positive_weights: Tensor | None,
        contrast_negative_weights: Tensor | None,
        contrast_groups: Tensor | None,
        class_weights: Tensor | None,
        known: Known,
        how: How,
        wants_gradient: bool,
    ) -> tuple[Tensor | None, ...]:
        of_anchors = (labels, positive_weights, negative_weights, groups)
        of_contrast = (contrast_labels, contrast_positive_weights, contrast_negative_weights, contrast_groups)
        given = Given._make([*of_anchors, *of_contrast, class_weights])
        anchors, contrast, rule = given.sets(x, contrast_x, temperature, known)
        with below_autograd():
            seed = None if seed is None else kept_seed(seed)
            bank = None
            if bank_x is not None and bank_labels is not None:
                bank = BankRows(bank_x, bank_labels, bank_weights)
            mined = mined_pairs(anchors, contrast, bank, rule, how)
            pairs = Pairs(how.diagonal, mined, seed)
            batch = LocalBatch(anchors, contrast, rule, pairs, how.backend) if how.use_batch else None
            memory = None
            if bank is not None:
                memory = Memory(bank_anchors(anchors, bank), bank, rule, pairs, how.backend)
            loss, log_z, weight, mass, memory_gradient = totals(batch, memory, wants_gradient, rule)
        return loss, mass, log_z, weight, memory_gradient, mined, seed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        x, contrast_x, temperature, *_ = inputs
        *given, known, how, _ = inputs[7:]
        _, *kept = output
        ctx.known, ctx.how = known, of_backward(how, x)
        ctx.mark_non_differentiable(*(x for x in kept if x is not None))
        ctx.set_materialize_grads(False)  # or torch fills zeros for each of them
        ctx.save_for_backward(x, contrast_x, temperature, *kept, *given)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        nothing = (None,) * (len(Given._fields) + 7)
        if d_loss is None:
            return None, None, None, *nothing
        x, contrast_x, temperature, mass, log_z, weight, memory_gradient, mined, seed, *given = ctx.saved_tensors
        anchors, contrast, rule = Given(*given).sets(x, contrast_x, temperature, ctx.known)
        needs = ctx.needs_input_grad
        d_anchors, d_contrast, d_temperature = None, None, None
        if needs[2] and not ctx.how.use_batch:
            d_temperature = torch.zeros_like(temperature)
        if ctx.how.use_batch:
            batch = LocalBatch(anchors, contrast, rule, Pairs(ctx.how.diagonal, mined, seed), ctx.how.backend)
            with below_autograd():
                d_anchors, d_contrast, d_temperature = batch.gradient(
                    Statistics(d_loss, log_z, weight, mass), [needs[0], needs[1], needs[2]]
                )
        d_batch = d_anchors if needs[0] else None
        of_rule = d_temperature if needs[2] else None
        d_anchors, d_temperature = with_memory(d_batch, of_rule, d_loss, memory_gradient, x, temperature)
        gradients = (
            d_anchors.to(x.dtype) if needs[0] and d_anchors is not None else None,
            d_contrast.to(x.dtype) if needs[1] and d_contrast is not None else None,
            d_temperature if needs[2] else None,
        )
        return *first_only(WHAT, gradients, d_loss, x, contrast_x, temperature), *nothing


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
) -> tuple[Tensor, Tensor]:
    """The loss of every anchor over all contrast sets, [N], and the mass of its positives, [N]. Unit rows.

    bank_weights: [K] of the bank's rows as negatives."""
    rows = (None, None, None) if bank is None else (bank.rows, bank.labels, bank_weights)
    if torch.compiler.is_compiling():
        function = _ContrastLoss
    else:
        function = _ContrastLossOfTransforms if _are_functorch_transforms_active() else _ContrastLossOfEager
    loss, mass, *_ = function.apply(
        anchors.x, None if contrast is None else contrast.x, rule.temperature, *rows, seed,
        *given_of(anchors, contrast, rule), known_of(rule), how, wants_gradient(anchors.x, rule.temperature),
    )  # fmt: skip
    return loss, mass


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
