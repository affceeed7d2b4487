"""The stateless public functions: arguments are checked here, then one operator runs per step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastpixcon import distributed
from fastpixcon.contrast import Bank, Miner, contrast_loss, doubled, how_to
from fastpixcon.ops import checks
from fastpixcon.ops.backends import choose
from fastpixcon.ops.void import Void, of_rows, one_void, void_labels

__all__ = [
    "SelectedAnchors",
    "gather_normalize",
    "info_nce",
    "memory_enqueue_",
    "memory_rows",
    "pixel_contrast",
    "select_anchors",
]

DENOMINATORS = ("negatives", "all")
CONTRASTS = ("both", "batch", "memory")
FIXED_SHIFT_MIN = 0.025  # below it e^((cos - 1) / temperature) vanishes in float32


class SelectedAnchors(NamedTuple):
    """Anchors in order (class, image, pixel), padded to a static length.

    Attributes:
        index: [max_samples] int64, b*h*w + y*w + x, padded with -1.
        label: [max_samples] int32, the class, padded with -1.
        count: [1] int32, the anchors before the padding; on the device of the labels.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index; [max_samples] int64, b*h*w + y*w + x, padding -1
    label: Tensor  # [max_samples] int32, padding -1
    count: Tensor  # type: ignore[assignment]  # hides tuple.count; [1] int32, anchors before the padding


def select_anchors(
    labels: Tensor,
    predictions: Tensor,
    *,
    num_classes: int | None = None,
    max_samples: int = 1024,
    max_views: int = 100,
    min_pixels: int | None = None,
    ignore_index: Void = 255,
    seed: int | Tensor = 0,
    backend: str = "auto",
) -> SelectedAnchors:
    """Class-aware hard-anchor selection (Wang et al. 2021, segmentation-aware hard anchor sampling).

    Of every class in every image, a segment, about as many wrongly predicted (hard) as rightly predicted (easy)
    pixels are drawn, ``min(max_views, max_samples // segments)`` in all, or all of a segment that has fewer. Segments
    of fewer than ``min_pixels`` pixels do not count.

    Args:
        labels: [B, H, W], any integer dtype; brought to [h, w] by nearest, source index floor(i*H/h).
        predictions: [B, h, w] integer classes, or logits [B, K, h, w], whose argmax is taken.
        num_classes: K; None: K of the logits, else 256.
        max_samples: length of the result.
        max_views: the most pixels drawn of one class in one image.
        min_pixels: the smallest segment that takes part, in pixels of the map; None: max_views + 1, as published,
            which leaves out small objects.
        ignore_index: label, or several, that do not count, nor do negative ones.
        seed: int or [] int64 tensor on the device of labels. The same seed selects the same pixels on
            every backend and device.
        backend: "auto", "reference", "native" or "triton".

    Returns:
        :class:`SelectedAnchors` of static length, on the device of labels.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
    """
    return _select(labels, predictions, num_classes, max_samples, max_views, min_pixels, ignore_index, seed, backend)[0]


def _select(
    labels: Tensor,
    predictions: Tensor,
    num_classes: int | None,
    max_samples: int,
    max_views: int,
    min_pixels: int | None,
    ignore_index: Void,
    seed: int | Tensor,
    backend: str,
) -> tuple[SelectedAnchors, Tensor]:
    """The anchors; of every class the segments that give some, and those that are left out, [2, K]."""
    void_labels(ignore_index)  # raises
    num_classes = checks.selection(labels, predictions, num_classes, max_samples, max_views, min_pixels)
    labels, void = one_void(labels, ignore_index)
    seed = checks.seed_tensor(seed, labels.device)
    op = choose("select_anchors", labels, backend)
    min_pixels = max_views + 1 if min_pixels is None else min_pixels
    *selected, segments = op(labels, predictions.detach(), seed, num_classes, max_samples, max_views, min_pixels, void)
    return SelectedAnchors(*selected), segments


def gather_normalize(embeddings: Tensor, index: Tensor, *, backend: str = "auto") -> Tensor:
    """Pixels of a feature map as unit rows: ``normalize(embeddings.permute(0, 2, 3, 1).view(-1, D)[index])``,
    but only the pixels in ``index`` are read. Differentiable in ``embeddings``.

    Args:
        embeddings: [B, D, h, w] floating, any strides (NCHW and channels_last are fast).
        index: [N] int64, b*h*w + y*w + x; -1 gives a zero row. Equal indices add up in the gradient.
        backend: "auto", "reference", "native" or "triton".

    Returns:
        [N, D] rows of norm 1 in the dtype of embeddings; zero where ``|e| < 1e-12``, without gradient.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for an index outside the map.
    """
    checks.embeddings_map(embeddings)
    checks.pixel_index(index, embeddings)
    rows, _inv_norm = choose("gather_normalize", embeddings, backend)(embeddings, index)
    return rows


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
) -> Tensor:
    """Supervised contrastive loss in nats per anchor, in memory that grows with N + M.

    With s_ij = cos(a_i, c_j) / temperature, P_i the contrast rows of the anchor's label, Z_i the sum of e^s_ij over
    the rows of other labels::

        "negatives"  loss_i = mean_{p in P_i} log(1 + Z_i e^-s_ip)              Wang et al. 2021, eq. 3
        "all"        loss_i = log sum_{j != i} e^s_ij - mean_{p in P_i} s_ip    Khosla et al. 2020, L_out

    Args:
        anchors: [N, D] floating, in memory order or not.
        anchor_labels: [N], any integer dtype; -1 leaves a row out of everything.
        contrast, contrast_labels: [M, D] in the dtype of the anchors, [M]; None: the anchors, without j = i.
        temperature: a number > 0, or a tensor with gradient of one element, of any shape; from 2^-126 to the largest
            float32.
        base_temperature: the loss is scaled by temperature / base_temperature; None: not scaled.
        denominator: "negatives" or "all".
        normalize: True: raw rows, normalised in the kernel; False: rows taken as they are, of any norm.
        reduction: "mean" over the anchors that have a positive (0, still attached to the graph, if none
            has), "sum", or "none" for [N], 0 where an anchor has no positive.
        ignore_index: label, or several, that leave a row out, as -1 always does.
        memory: a :class:`fastpixcon.MemoryBank`, whose rows are contrast rows, too; read where it lies, in its dtype.
            Where one of anchors and bank is float64 and the other is not, all is computed in float64.
        mining: a :class:`fastpixcon.Mining`: which pairs an anchor keeps. This and memory want unit or raw rows.
        contrast_with: with a memory, contrast with the rows of the "batch", with "memory" or with "both".
        seed: int or [] int64 tensor, of the pairs that mining draws.
        process_group: "world" or a ``torch.distributed.ProcessGroup`` (NCCL on GPUs, Gloo on CPUs): the anchors of all
            its ranks are the contrast set, and "mean" and "sum" are over all of them, the same on every rank. A
            gradient is that of the sum of what all ranks return: as DistributedDataParallel, which takes the mean over
            ranks, wants it. All ranks call forward and backward; numbers of anchors may differ, also be 0.
        across: "gather": every rank gets all rows, in memory that grows with all anchors; "ring": shards pass around,
            in memory that grows with its own; not with mining.
        backend: "auto", "reference", "native" or "triton".

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
    return _info_nce(
        anchors,
        anchor_labels,
        contrast,
        contrast_labels,
        temperature=temperature,
        base_temperature=base_temperature,
        denominator=denominator,
        name="anchors",
        rows="raw" if normalize else "any",
        is_sorted=False,
        reduction=reduction,
        ignore_index=ignore_index,
        memory=memory,
        mining=mining,
        contrast_with=contrast_with,
        seed=seed,
        process_group=process_group,
        across=across,
        backend=backend,
    )[0]


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
) -> Tensor:
    """:func:`select_anchors`, :func:`gather_normalize` and :func:`info_nce` in one call (Wang et al. 2021, eq. 3).

    Args:
        embeddings: [B, D, h, w] floating, of any norm and strides.
        labels: [B, H, W], any integer dtype.
        predictions: [B, h, w] integer, or logits [B, K, h, w].
        num_classes, max_samples, max_views, min_pixels, ignore_index: as in :func:`select_anchors`.
        temperature, base_temperature, denominator, memory, mining, contrast_with, process_group, across: as in
            :func:`info_nce`.
        seed: int or [] int64 tensor on the device of labels, of the anchors and of the pairs that mining draws.
        backend: "auto", "reference", "native" or "triton".

    Returns:
        the mean loss in nats per anchor, []; 0 if no anchor has a positive.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
    """
    return pixel_contrast_and_facts(
        embeddings,
        labels,
        predictions,
        temperature=temperature,
        base_temperature=base_temperature,
        max_samples=max_samples,
        max_views=max_views,
        min_pixels=min_pixels,
        ignore_index=ignore_index,
        num_classes=num_classes,
        denominator=denominator,
        memory=memory,
        mining=mining,
        contrast_with=contrast_with,
        seed=seed,
        process_group=process_group,
        across=across,
        backend=backend,
    )[0]


def pixel_contrast_and_facts(
    embeddings: Tensor,
    labels: Tensor,
    predictions: Tensor,
    *,
    temperature: float | Tensor,
    base_temperature: float | None,
    max_samples: int,
    max_views: int,
    min_pixels: int | None,
    ignore_index: Void,
    num_classes: int | None,
    denominator: str,
    memory: Bank | None,
    mining: Miner | None,
    contrast_with: str,
    seed: int | Tensor,
    process_group: Any,
    across: str = "gather",
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`pixel_contrast`, and what it did: the loss [], segments [2, K] as of the operator ``select_anchors``,
    labels [max_samples] and numbers of positives [max_samples] of the anchors."""
    checks.embeddings_map(embeddings)
    checks.same_pixels(embeddings, labels, predictions)
    checks.one_of("denominator", denominator, DENOMINATORS)
    checks.temperature_scale(temperature, base_temperature)
    if contrast_with != "batch" and isinstance(rows := getattr(memory, "rows", None), Tensor):
        checks.wants_float64("embeddings", embeddings, rows, backend)
    selected, segments = _select(
        labels, predictions, num_classes, max_samples, max_views, min_pixels, ignore_index, seed, backend
    )
    loss, num_positives = _info_nce(
        gather_normalize(embeddings, selected.index, backend=backend),
        selected.label,
        None,
        None,
        temperature=temperature,
        base_temperature=base_temperature,
        denominator=denominator,
        name="embeddings",
        rows="unit",
        is_sorted=True,
        reduction="mean",
        memory=memory,
        mining=mining,
        contrast_with=contrast_with,
        seed=seed,
        process_group=process_group,
        across=across,
        backend=backend,
    )
    return loss, segments, selected.label, num_positives


def memory_rows(
    embeddings: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    pixels_per_image: int = 10,
    ignore_index: Void = 255,
    seed: int | Tensor = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a batch adds to a memory bank (Wang et al. 2021, pixel and region memory). Without gradient.

    Args:
        embeddings: [B, D, h, w] floating.
        labels: [B, H, W], any integer dtype; brought to [h, w] by nearest.
        num_classes: K.
        pixels_per_image: P, the most random pixels of a class in an image.
        ignore_index: label, or several, that do not count, nor do negative ones.
        seed: int or [] int64 tensor on the device of labels.
        backend: "auto", "reference", "native" or "triton".

    Returns:
        pixels [B, K, P, D] and regions [B, K, D], unit rows in the dtype of embeddings; pixel_labels [B, K, P] and
        region_labels [B, K] int32, -1 where the image has no such pixel. In the order pixels, pixel_labels, regions,
        region_labels.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
    """
    checks.embeddings_map(embeddings)
    void_labels(ignore_index)  # raises
    checks.memory_rows(embeddings, labels, num_classes, pixels_per_image)
    labels, void = one_void(labels, ignore_index)
    seed = checks.seed_tensor(seed, labels.device)
    op = choose("memory_rows", embeddings, backend)
    return op(embeddings.detach(), labels, seed, num_classes, pixels_per_image, void)


def memory_enqueue_(
    bank: Tensor,
    bank_labels: Tensor,
    written: Tensor,
    pixel_size: int,
    pixels: Tensor,
    pixel_labels: Tensor,
    regions: Tensor,
    region_labels: Tensor,
    *,
    backend: str = "auto",
) -> None:
    """Writes ``pixels [P, D]`` and ``regions [R, D]`` into the rings of their labels, in place.

    Args:
        bank: [K, S, D] floating, a ring of ``pixel_size`` places and a ring of the rest for each class.
        bank_labels: [K, S] int32, becomes the class where a row is written.
        written: [2, K] int64, advances by the rows written to the rings of pixels and of regions.
        pixel_size: places of a ring of pixels, less than S.
        pixels, regions: [P, D], [R, D] floating; rounded to the dtype of the bank.
        pixel_labels, region_labels: [P], [R] int32; rows of other labels than 0..K-1 are left out.
        backend: "auto", "reference", "native" or "triton".

    Raises:
        TypeError, ValueError: naming the argument.
    """
    checks.memory_enqueue(bank, bank_labels, written, pixel_size, pixels, pixel_labels, regions, region_labels)
    choose("memory_enqueue_", bank, backend)(
        bank, bank_labels, written, pixel_size, pixels.detach(), pixel_labels, regions.detach(), region_labels
    )


def _info_nce(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    *,
    name: str,
    temperature: float | Tensor,
    base_temperature: float | None,
    denominator: str,
    rows: str,
    is_sorted: bool,
    reduction: str,
    ignore_index: Void = -1,
    memory: Bank | None,
    mining: Miner | None,
    contrast_with: str,
    seed: int | Tensor,
    process_group: Any,
    across: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The loss; how many positives each anchor has, [N]."""
    checks.contrast_sets(anchors, anchor_labels, contrast, contrast_labels)
    checks.one_of("denominator", denominator, DENOMINATORS)
    checks.one_of("contrast_with", contrast_with, CONTRASTS)
    checks.one_of("reduction", reduction, ("mean", "sum", "none"))
    scale = checks.temperature_scale(temperature, base_temperature)
    ranks = distributed.ranks_of(process_group, across)
    in_steps = memory is not None or mining is not None or ranks is not None
    if in_steps:
        checks.memory_and_mining(memory, mining, anchors, rows, contrast_with)
        checks.contrast_takes_part(contrast, memory, contrast_with)
    bank = None if contrast_with == "batch" else memory
    device = anchors.device
    anchor_labels = of_rows(checks.label_rows(anchor_labels), ignore_index)
    contrast_labels = None if contrast_labels is None else of_rows(checks.label_rows(contrast_labels), ignore_index)
    if bank is not None and checks.wants_float64(name, anchors, bank.rows, backend):
        anchors, contrast, bank = anchors.double(), None if contrast is None else contrast.double(), doubled(bank)
    autocast = torch.is_autocast_enabled(device.type) and anchors.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device.type) if autocast else anchors.dtype
    if rows == "raw" and (in_steps or dtype != anchors.dtype):  # unit rows fit into half precision, raw ones may not
        anchors, rows = _unit_rows(anchors, anchor_labels, backend), "unit"
        if contrast is not None and contrast_labels is not None:
            contrast = _unit_rows(contrast, contrast_labels, backend)
    anchors, contrast = anchors.to(dtype), None if contrast is None else contrast.to(dtype)
    temperature_ = checks.temperature_tensor(temperature, anchors)
    fixed_shift = not isinstance(temperature, Tensor) and temperature >= FIXED_SHIFT_MIN
    if not in_steps:
        loss, _log_sum, _weight, num_positives = choose("info_nce", anchors, backend)(
            anchors, anchor_labels, contrast, contrast_labels, temperature_, denominator, rows, fixed_shift, is_sorted
        )
    else:
        pair_seed = None if mining is None else checks.seed_tensor(seed, device)
        how = how_to(
            mining=mining,
            use_batch=contrast_with != "memory",
            denominator=denominator,
            fixed_shift=fixed_shift,
            is_sorted=is_sorted,
            backend=backend,
        )
        if ranks is None:
            loss, num_positives = contrast_loss(
                anchors, anchor_labels, contrast, contrast_labels, temperature_, bank=bank, seed=pair_seed, how=how
            )
        else:
            checks.across_ranks(contrast, mining, ranks.across)
            loss, num_positives = distributed.ranks_loss(
                anchors, anchor_labels, temperature_, bank=bank, seed=pair_seed, how=how, ranks=ranks
            )
    if scale is not None:
        loss = loss * scale
    if reduction == "none":
        return loss, num_positives
    total, anchors_with_positive = loss.sum(), (num_positives > 0).sum()
    if ranks is not None:
        total, anchors_with_positive = distributed.total(total, anchors_with_positive, ranks)
    return total if reduction == "sum" else total / anchors_with_positive.clamp(min=1), num_positives


def _unit_rows(x: Tensor, labels: Tensor, backend: str) -> Tensor:
    """Rows ``x [N, D]`` over their norm, zeros for those left out: pixels of a map [N, D, 1, 1]."""
    index = torch.arange(len(x), device=x.device).where(labels != -1, -1)
    return gather_normalize(x[:, :, None, None], index, backend=backend)
