"""The loss of rows and labels."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active

from fastpixcon import distributed
from fastpixcon.balance import balances, with_balance
from fastpixcon.contrast import Bank, Miner, contrast_loss, doubled, how_to
from fastpixcon.functional.anchors import gathered
from fastpixcon.ops import checks
from fastpixcon.ops.backends import call, chosen
from fastpixcon.ops.void import Void, of_rows
from fastpixcon.pairs import PairRule, Pairs, rule_of
from fastpixcon.values import Rows, Rule

__all__ = ["CONTRASTS", "DENOMINATORS", "Objective", "info_nce", "info_nce_of"]

DENOMINATORS = ("negatives", "all", "decoupled")
CONTRASTS = ("both", "batch", "memory", "each")
REDUCTIONS = ("mean", "sum", "none")
FIXED_SHIFT_MIN = 0.025  # below it e^((cos - 1) / temperature) vanishes in float32


class Objective(NamedTuple):
    """What is asked for, as :func:`info_nce` has it."""

    temperature: float | Tensor
    base_temperature: float | None
    denominator: str
    memory: Bank | None
    mining: Miner | None
    contrast_with: str
    process_group: Any
    across: str
    backend: str
    pairs: PairRule = PairRule()


class Weighed(NamedTuple):
    """What rows bring along beside their labels, as a user gives it."""

    weights: Tensor | None = None  # [N] of anchors
    contrast_weights: Tensor | None = None  # [M], or [N] in self contrast
    groups: Tensor | None = None  # [N]
    contrast_groups: Tensor | None = None  # [M]


NOTHING_WEIGHED = Weighed()
# On CPUs those whose tiles stay between a forward and its gradient, 4 MiB of them; on GPUs those whose gradients are
# little beside a network.
FEW_ROWS = {"cpu": 1024, "cuda": 8192}


def info_nce(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    base_temperature: float | None = None,
    denominator: str = "negatives",
    normalize: bool = True,
    reduction: str = "mean",
    ignore_index: Void = -1,
    memory: Bank | None = None,
    mining: Miner | None = None,
    contrast_with: str = "both",
    seed: int | Tensor = 0,
    process_group: Any = distributed.NO_GROUP,
    across: str = "gather",
    backend: str = "auto",
    weights: Tensor | None = None,
    contrast_weights: Tensor | None = None,
    groups: Tensor | None = None,
    contrast_groups: Tensor | None = None,
    pairs: Pairs | None = None,
) -> Tensor:
    """Supervised contrastive loss in nats per anchor, in memory that grows with N + M.

    With s_ij = cos(a_i, c_j) / temperature, P_i the contrast rows of the anchor's label, Z_i the sum of e^s_ij over
    the rows of other labels::

        "negatives"  loss_i = mean_{p in P_i} log(1 + Z_i e^-s_ip)              Wang et al. 2021, eq. 3
        "all"        loss_i = log sum_{j != i} e^s_ij - mean_{p in P_i} s_ip    Khosla et al. 2020, L_out
        "decoupled"  loss_i = log Z_i - mean_{p in P_i} s_ip, 0 for Z_i = 0     Yeh et al. 2022

    With weights v_j of contrast rows and W of classes, means over P_i are sum v_p f(p) / sum v_p, and sums are of
    v_j W[y_i, y_j] e^s_ij over negatives, of v_p e^s_ip over positives.

    Args:
        anchors: [N, D] floating, in memory order or not.
        anchor_labels: [N], any integer dtype; -1 leaves a row out of everything.
        contrast, contrast_labels: [M, D] in the dtype of the anchors, [M]; None: the anchors, without j = i.
        temperature: a number > 0, or a tensor with gradient of one element, of any shape; from 2^-126 to the largest
            float32.
        base_temperature: the loss is scaled by temperature / base_temperature; None: not scaled.
        denominator: "negatives", "all" or "decoupled".
        normalize: True: raw rows, normalised in the kernel; False: rows taken as they are, of any norm.
        reduction: "mean" over the anchors that have a positive (0, still attached to the graph, if none
            has), "sum", or "none" for [N], 0 where an anchor has no positive.
        ignore_index: label, or several, that leave a row out, as -1 always does.
        memory: a :class:`fastpixcon.MemoryBank`, whose rows are contrast rows, too; read where it lies, in its dtype.
            Where one of anchors and bank is float64 and the other is not, all is computed in float64.
        mining: a :class:`fastpixcon.Mining`: which pairs an anchor keeps. This and memory want unit or raw rows.
        contrast_with: with a memory, contrast with the rows of the "batch", with "memory", with "both" in one
            denominator, or with "each": the sum of the loss with the batch and that with the memory.
        seed: int or [] int64 tensor, of the pairs that mining draws.
        process_group: "world" or a ``torch.distributed.ProcessGroup`` (NCCL on GPUs, Gloo on CPUs): the anchors of all
            its ranks are the contrast set, and "mean" and "sum" are over all of them, the same on every rank. A
            gradient is that of the sum of what all ranks return: as DistributedDataParallel, which takes the mean over
            ranks, wants it. All ranks call forward and backward; numbers of anchors may differ, also be 0.
        across: "gather": every rank gets all rows, in memory that grows with all anchors; "ring": shards pass around,
            in memory that grows with its own; not with mining.
        backend: "auto", "reference", "native" or "triton".
        weights: w [N] floating >= 0 of the anchors, without gradient: "mean" is sum w_i loss_i / sum w_i over the
            anchors that have a positive, "sum" is sum w_i loss_i, "none" w_i loss_i. None: ones.
        contrast_weights: v [M] floating >= 0 of the contrast rows, without gradient; [N], of the anchors as contrast
            rows, where these are the contrast set. None: ones, as always of the rows of a memory.
        groups, contrast_groups: [N], [M] integers, for ``pairs`` that look at them; in self contrast those of the
            anchors. The rows of a memory are of no group.
        pairs: a :class:`fastpixcon.Pairs`: which groups positives and negatives come from, weights of classes.

    Returns:
        [] or, for reduction "none", [N]; float32 (float64 for float64 rows or a float64 bank), in nats.

    Raises:
        TypeError, ValueError: naming the argument; with a process_group also, on every rank, if ranks do not agree on
            width, dtype and options.
        RuntimeError: the backend that was asked for can't run it, with the reason; or, with a process_group, a rank is
            lost: saying what was waited for, at the latest after the timeout of the group.
        NotImplementedError: forward mode and second derivatives, which there are not: ``torch.func.jvp``, ``hessian``,
            a backward through ``create_graph=True``. ``torch.func.grad``, ``vjp`` and ``vmap`` work on one rank.

    Under autocast rows are normalised in their own dtype, then rounded to that of autocast; with ``normalize=False``
    they are cast as they are. Sums are float32 (float64 for float64 rows).
    """
    checks.contrast_sets(anchors, anchor_labels, contrast, contrast_labels)
    objective = Objective(
        temperature, base_temperature, denominator, memory, mining, contrast_with, process_group, across, backend,
        rule_of(pairs),
    )  # fmt: skip
    weighed = Weighed(weights, contrast_weights, groups, contrast_groups)
    return info_nce_of(
        Rows(anchors, anchor_labels),
        None if contrast is None or contrast_labels is None else Rows(contrast, contrast_labels),
        objective,
        rows="raw" if normalize else "any",
        reduction=reduction,
        ignore_index=ignore_index,
        seed=seed,
        weighed=weighed,
    )[0]


def info_nce_of(
    anchors: Rows,
    contrast: Rows | None,
    objective: Objective,
    *,
    name: str = "anchors",
    rows: str,
    is_sorted: bool = False,
    reduction: str = "mean",
    ignore_index: Void = -1,
    seed: int | Tensor,
    weighed: Weighed = NOTHING_WEIGHED,
) -> tuple[Tensor, Tensor]:
    """The loss; of each anchor the mass of its positives, [N]: how many it has, unless contrast rows have weights.
    ``name``: what a user calls the rows."""
    (
        temperature,
        base_temperature,
        denominator,
        memory,
        mining,
        contrast_with,
        process_group,
        across,
        backend,
        pairs,
    ) = objective
    checks.one_of("denominator", denominator, DENOMINATORS)
    checks.one_of("contrast_with", contrast_with, CONTRASTS)
    checks.one_of("reduction", reduction, REDUCTIONS)
    checks.has_memory(contrast_with, memory)
    if contrast_with == "each":
        if isinstance(banked := getattr(memory, "rows", None), Tensor) and checks.wants_float64(
            name, anchors.x, banked, backend
        ):  # also the loss with the batch
            anchors = anchors._replace(x=anchors.x.double())
            contrast = None if contrast is None else contrast._replace(x=contrast.x.double())
        of_batch = contrast, objective._replace(contrast_with="batch", memory=None), weighed
        of_bank = None, objective._replace(contrast_with="memory"), Weighed(weighed.weights, groups=weighed.groups)
        (loss, mass), (bank_loss, bank_mass) = (
            info_nce_of(
                anchors, others, one, name=name, rows=rows, is_sorted=is_sorted, reduction=reduction,
                ignore_index=ignore_index, seed=seed, weighed=brought,
            )
            for others, one, brought in (of_batch, of_bank)
        )  # fmt: skip
        return loss + bank_loss, mass + bank_mass
    scale = checks.temperature_scale(temperature, base_temperature)
    ranks = distributed.ranks_of(process_group, across)
    in_steps = memory is not None or mining is not None or ranks is not None
    if in_steps:
        checks.memory_and_mining(memory, mining, anchors.x, rows)
        checks.contrast_takes_part(None if contrast is None else contrast.x, memory, contrast_with)
    bank = None if contrast_with == "batch" else memory
    device = anchors.x.device
    sets = [anchors] if contrast is None else [anchors, contrast]
    sets = [x._replace(labels=of_rows(checks.label_rows(x.labels), ignore_index)) for x in sets]
    if bank is not None and checks.wants_float64(name, anchors.x, bank.rows, backend):
        sets, bank = [x._replace(x=x.x.double()) for x in sets], doubled(bank)
    if pairs.class_weights is not None:
        pairs = pairs._replace(class_weights=pairs.class_weights.to(device))
    sets = weighed_rows(sets, pairs, weighed, bank, contrast_with)
    computed = sets[0].x.dtype
    autocast = torch.is_autocast_enabled(device.type) and computed != torch.float64
    dtype = torch.get_autocast_dtype(device.type) if autocast else computed
    if rows == "raw" and (in_steps or dtype != computed):  # unit rows fit into half precision, raw ones may not
        sets, rows = [x._replace(x=_unit_rows(x.x, x.labels, backend)) for x in sets], "unit"
    own, others, *_ = *(x._replace(x=x.x.to(dtype)) for x in sets), None
    fixed_shift = not isinstance(temperature, Tensor) and temperature >= FIXED_SHIFT_MIN
    if denominator != "negatives" and (weighed.contrast_weights is not None or pairs.class_weights is not None):
        fixed_shift = False  # the loss is log Z, and Z of small weights alone may vanish without running maxima
    tau = checks.temperature_tensor(temperature, own.x)
    W = None if pairs.class_weights is None else pairs.class_weights.to(tau.dtype)
    rule = Rule(tau, denominator, fixed_shift, is_sorted, W, pairs.positives, pairs.negatives)
    bank_weights = None
    if pairs.balanced and ranks is None:
        contrasted = None if contrast_with == "memory" else own if others is None else others
        of_each, bank_weights = balances(contrasted, None if bank is None else bank.labels, own.x)
        own, others = (with_balance(own, of_each), None) if others is None else (own, with_balance(others, of_each))
    weights = None if weighed.weights is None else weighed.weights.detach().to(tau.dtype)
    # A constant of a compiled graph would compile it anew.
    inside = scale if isinstance(scale, float) and not torch.compiler.is_compiling() else None
    if ranks is None and (in_steps or reduction != "none"):
        if in_steps:
            pair_seed = None if mining is None else checks.seed_tensor(seed, device)
            how = how_to(mining=mining, use_batch=contrast_with != "memory", backend=backend)
            value, mass = contrast_loss(
                own, others, rule, bank=bank, bank_weights=bank_weights, seed=pair_seed, how=how,
                anchor_weights=weights, scale=inside or 1.0, reduction=reduction,
            )  # fmt: skip
        else:
            given = own, others, rule, rows, weights, inside or 1.0, reduction == "mean"
            wanted = [x.requires_grad for x in (own.x, own.x if others is None else others.x, tau)]
            if at_once(own, others, wanted, backend):
                value, mass, *_ = call("info_nce_at_once", own.x, backend, *given, wanted)
            else:
                value, *_, mass = call("info_nce_mean", own.x, backend, *given)
        return value if scale is None or inside is not None else value * scale, mass
    if ranks is None:
        loss, _log_sum, _weight, mass = call("info_nce", own.x, backend, own, others, rule, rows)
    else:
        checks.across_ranks(None if contrast is None else contrast.x, mining, ranks.across)
        pair_seed = None if mining is None else checks.seed_tensor(seed, device)
        how = how_to(mining=mining, use_batch=contrast_with != "memory", backend=backend)
        loss, mass = distributed.ranks_loss(
            own, rule, bank=bank, seed=pair_seed, how=how, ranks=ranks, balanced=pairs.balanced
        )
    if scale is not None:
        loss = loss * scale
    if weights is not None:
        loss = torch.where(mass > 0, loss * weights, 0)
    return (loss, mass) if reduction == "none" else reduced(loss.sum(), mass, weights, reduction, ranks)


def reduced(
    total: Tensor, mass: Tensor, weights: Tensor | None, reduction: str, ranks: Any = None
) -> tuple[Tensor, Tensor]:
    """The loss of a total over the anchors, and the mass of their positives."""
    counts = mass > 0
    counted = counts.sum() if weights is None else torch.where(counts, weights, 0).sum()
    if ranks is not None:
        total, counted = distributed.total(total, counted, ranks)
    if reduction == "sum":
        return total, mass
    return total / (counted.clamp(min=1) if weights is None else torch.where(counted > 0, counted, 1)), mass


def at_once(anchors: Rows, contrast: Rows | None, wanted: list[bool], backend: str) -> bool:
    """Whether the forward makes gradients: where a backward would compute products anew, on CPUs, of separate rows and
    of few that are contrasted with each other; and where it would start launches anew that take longer than what they
    compute, on GPUs, of few rows."""
    device = anchors.x.device.type
    if device not in FEW_ROWS or not (torch.is_grad_enabled() and any(wanted)):
        return False
    if (contrast is None or device != "cpu") and any(
        x.x.shape[0] > FEW_ROWS[device] for x in (anchors, contrast) if x is not None
    ):
        return False
    if not torch.compiler.is_compiling() and _are_functorch_transforms_active():
        return False  # whose gradients are at levels that requires_grad does not tell
    return chosen("info_nce", anchors.x, backend) != "reference"


def weighed_rows(
    sets: list[Rows], pairs: PairRule, weighed: Weighed, bank: Bank | None, contrast_with: str
) -> list[Rows]:
    """Anchors and contrast rows, if there are some, with what the rule of the pairs looks at."""
    if all(x is None for x in weighed) and pairs.class_weights is None and not pairs.grouped:
        return sets
    (anchors, *others), (weights, contrast_weights, groups, contrast_groups) = sets, weighed
    contrast = others[0] if others else anchors
    if weights is not None:
        checks.row_weights("weights", weights, "anchors", anchors.x, "N")
    if contrast_weights is not None and contrast_with == "memory":
        raise ValueError("contrast_weights: got weights with contrast_with='memory', whose rows weigh 1, want None")
    if contrast_weights is not None:
        of = ("contrast", contrast.x, "M") if others else ("anchors", anchors.x, "N")
        v = checks.row_weights("contrast_weights", contrast_weights, *of)
        contrast = contrast._replace(positive_weights=v, negative_weights=v)
    if pairs.class_weights is not None:
        K = pairs.class_weights.shape[0]
        for of_what, rows in zip(("anchor_labels", "contrast_labels"), sets, strict=False):
            checks.labels_below(of_what, rows.labels, K)
        if bank is not None and bank.rows.shape[0] > K:
            raise ValueError(f"class_weights: got [{K}, {K}], want at least the {bank.rows.shape[0]} classes of memory")
    if others:
        if pairs.grouped:
            if groups is None or contrast_groups is None:
                missing = "groups" if groups is None else "contrast_groups"
                raise ValueError(f"{missing}: got None, want integers [N], for a rule of pairs looks at them")
            contrast = contrast._replace(
                groups=checks.row_groups("contrast_groups", contrast_groups, "contrast", contrast.x, "M")
            )
    elif contrast_groups is not None:
        raise ValueError("contrast_groups: got groups without contrast, whose rows are the anchors, want None")
    if pairs.grouped and groups is None:
        raise ValueError("groups: got None, want integers [N], for a rule of pairs looks at them")
    if not pairs.grouped and (groups is not None or contrast_groups is not None):
        raise ValueError("groups: got groups that no rule looks at, want pairs=Pairs(positives=..) or (negatives=..)")
    own = checks.row_groups("groups", groups, "anchors", anchors.x, "N") if pairs.grouped else None
    if others:
        return [anchors._replace(groups=own), contrast]
    return [contrast._replace(groups=own)]


def _unit_rows(x: Tensor, labels: Tensor, backend: str) -> Tensor:
    """Rows ``x [N, D]`` over their norm, zeros for those left out: pixels of a map [N, D, 1, 1]."""
    index = torch.arange(len(x), device=x.device).where(labels != -1, -1)
    return gathered(x.view(*x.shape, 1, 1) if x.is_contiguous() else x[:, :, None, None], index, backend)
