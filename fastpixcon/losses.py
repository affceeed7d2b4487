"""The losses as modules: one line in a training loop."""

from typing import Any

import torch
from torch import Tensor, nn

from fastpixcon import distributed, functional
from fastpixcon.distributed import NO_GROUP, Ranks
from fastpixcon.functional.maps import pixel_contrast_and_facts
from fastpixcon.functional.rows import CONTRASTS, DENOMINATORS, REDUCTIONS, Objective
from fastpixcon.last_call import LastCall, last_call
from fastpixcon.memory import MemoryBank
from fastpixcon.mining import Mining
from fastpixcon.ops import checks, maps
from fastpixcon.ops.calls import draw_seed
from fastpixcon.ops.void import Void, void_labels
from fastpixcon.pairs import PairRule, Pairs, rule_of

__all__ = ["InfoNCELoss", "PixelContrastLoss", "SupConLoss"]

BANK_STREAM = 0x0B41  # so that a call's rows for the bank are not those of its anchors


class PixelContrastLoss(nn.Module):
    """Pixel-wise supervised contrast of a segmentation network's embeddings (Wang et al. 2021, eq. 3).

    >>> contrast = PixelContrastLoss()
    >>> loss = cross_entropy(upsample(logits), labels, ignore_index=255) + 0.1 * contrast(embeddings, labels, logits)

    Args:
        temperature: a number > 0, or a tensor or parameter with gradient of one element, of any shape.
        base_temperature: the loss is scaled by temperature / base_temperature.
        max_samples: anchors in all; memory and time grow with it, never with its square in memory.
        max_views: the most anchors of one class in one image.
        min_pixels: the fewest pixels of a class in an image that it takes part with, counted on the map; None:
            max_views + 1, as published, which leaves out small objects.
        ignore_index: label, or several, that do not count, nor do negative ones.
        num_classes: K; None: K of the logits, else 256.
        memory: a :class:`MemoryBank`: its rows are contrast rows besides. In training mode every call adds its batch to
            the bank, after the loss.
        mining: a :class:`Mining`: which of its positives and negatives an anchor keeps; None: all.
        denominator: "negatives" (the paper), "all" (SupCon) or "decoupled" (DCL).
        contrast_with: with a memory, contrast with the anchors of the "batch", with "memory", with "both" in one
            denominator, or with "each": the sum of the loss with the batch and that with the memory.
        process_group: "world": all ranks, those of the first call, so that the module may be made before
            ``init_process_group``; or a ``torch.distributed.ProcessGroup``. Anchors contrast with those of all its
            ranks, and every rank returns the mean over all of them, with the gradient that DistributedDataParallel
            wants. A memory takes the batches of all ranks. Left out: every process is alone.
        across: "gather" (the default): every rank gets the anchors of all; "ring": they pass around, so that memory
            does not grow with the number of ranks; not with mining.
        seed: of the anchors and of mining's draws, an int or a [] int64 tensor on the device of the maps, the same at
            every call (a tensor may be changed in between); None: a number of torch's generator of that device, another
            one at every call, as dropout takes it.
        pairs: a :class:`Pairs`: balanced classes, weights of classes, pairs within an image or between images alone.

    ``torch.manual_seed`` and torch's random state, which ``torch.utils.checkpoint`` keeps and a checkpoint of a
    training should, repeat what is drawn. A forward that is computed anew for its backward draws the same, and changes
    nothing twice.
    """

    # What the last call left, buffers that are not in the state_dict; ``last`` reads them.
    _segments: Tensor  # [2, K] int32
    _labels: Tensor  # [max_samples] int32
    _num_positives: Tensor  # [max_samples] float32
    _class_weights: Tensor | None  # [K, K] of the pairs, on the device of the module

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        base_temperature: float | None = 0.07,
        max_samples: int = 1024,
        max_views: int = 100,
        min_pixels: int | None = None,
        ignore_index: Void = 255,
        num_classes: int | None = None,
        memory: MemoryBank | None = None,
        mining: Mining | None = None,
        denominator: str = "negatives",
        contrast_with: str = "both",
        process_group: Any = NO_GROUP,
        across: str | None = None,
        seed: int | Tensor | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__()
        rule = rule_of(pairs)
        if memory is not None and not isinstance(memory, MemoryBank):
            raise TypeError(f"memory: got {memory!r}, want a MemoryBank")
        if mining is not None and not isinstance(mining, Mining):
            raise TypeError(f"mining: got {mining!r}, want a Mining")
        void = void_labels(ignore_index)
        if memory is not None and void_labels(memory.ignore_index) != void:
            raise ValueError(f"memory: got ignore_index {memory.ignore_index}, want {ignore_index}, that of the loss")
        checks.one_of("contrast_with", contrast_with, CONTRASTS)
        checks.has_memory(contrast_with, memory)
        # Always max_samples rows: their number is exchanged once.
        self._group = distributed.Group(process_group, across, same_sizes=True)
        if self._group.is_asked_for:
            checks.across_ranks(None, mining, self._group.across)
        if seed is not None and not isinstance(seed, Tensor):
            checks.seed_tensor(seed, torch.device("cpu"))
        checks.temperature_scale(temperature, base_temperature)
        maps.Selection(num_classes, max_samples, max_views, min_pixels, ignore_index).check()
        checks.one_of("denominator", denominator, DENOMINATORS)
        self.temperature = temperature
        self.base_temperature = base_temperature
        self.max_samples = max_samples
        self.max_views = max_views
        self.min_pixels = min_pixels
        self.ignore_index = ignore_index
        self.num_classes = num_classes
        self.memory = memory
        self.mining = mining
        self.denominator = denominator
        self.contrast_with = contrast_with
        self.seed = seed
        self.pairs = Pairs() if pairs is None else pairs
        self.register_buffer("_class_weights", rule.class_weights, persistent=False)
        K = checks.DEFAULT_NUM_CLASSES if num_classes is None else num_classes
        for name, shape, dtype in (
            ("_segments", (2, K), torch.int32),
            ("_labels", (max_samples,), torch.int32),
            ("_num_positives", (max_samples,), torch.float32),
        ):
            self.register_buffer(name, torch.empty(shape, dtype=dtype), persistent=False)
        self.reset_parameters()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict.pop(f"{prefix}seed", None)  # of earlier versions
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def reset_parameters(self) -> None:
        """Forgets the last call, whatever the buffers held: as after ``to_empty`` of a module made on the meta device.
        A ``memory`` resets itself."""
        self._segments.zero_()
        self._labels.fill_(-1)
        self._num_positives.zero_()

    @property
    def ranks(self) -> Ranks | None:
        """The ranks that it contrasts across; None where there is only this one (yet)."""
        return self._group.ranks()

    @property
    def last(self) -> LastCall:
        """What the last call did; before the first one zeros."""
        return last_call(self._segments, self._labels, self._num_positives, self.memory)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        predictions: Tensor,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """The mean loss in nats per anchor, []; 0, still attached to the graph, if no anchor has a positive.

        Args:
            embeddings: ``[B, D, *S]`` floating, of any norm and strides, S of one (tokens [B, n, D] as ``.mT``), two or
                three (volumes) sizes; float64 runs on the reference.
            labels: ``[B, *S']``, any integer dtype, on the device of embeddings; brought to S by nearest.
            predictions: ``[B, *S]`` integer classes, or logits ``[B, K, *S]``.
            weights: ``[B, *S']`` as labels or ``[B, *S]``, floating >= 0, without gradient: of the pixels as anchors in
                the mean, as a map of confidences or a weight for each class; None: ones.
            groups: [B] integers, the group of each image, as domains or scans, for ``pairs`` that look at them; None:
                every image is its own.

        What it did, :attr:`last` tells.

        Raises:
            TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
            RuntimeError: with a process_group, a rank is lost.
        """
        selection = maps.check_contrast(embeddings, labels, predictions, self._selection())
        number = draw_seed(embeddings)  # always one, so that a forward computed anew has the same random state
        seed = number if self.seed is None else self.seed
        ranks, memory = self.ranks or NO_GROUP, self.memory
        if memory is not None:
            memory.begin_call(number, adds=self.training, is_read=self.contrast_with != "batch")
        objective = Objective(
            self.temperature,
            self.base_temperature,
            self.denominator,
            memory,
            self.mining,
            self.contrast_with,
            process_group=ranks,
            across="gather",
            backend="auto",
            pairs=PairRule(self.pairs.positives, self.pairs.negatives, self._class_weights, self.pairs.balanced),
        )
        loss, *facts = pixel_contrast_and_facts(
            embeddings, labels, predictions, selection, objective, seed, weights, groups
        )
        if memory is not None and self.training:
            memory.end_call(embeddings, labels, process_group=ranks, seed=number ^ BANK_STREAM)
        self._keep(*facts)
        return loss

    def _selection(self) -> maps.Selection:
        return maps.Selection(self.num_classes, self.max_samples, self.max_views, self.min_pixels, self.ignore_index)

    def _keep(self, segments: Tensor, labels: Tensor, num_positives: Tensor) -> None:
        """For ``last``. A compiled graph writes into what is there, so that it may stand under checkpoint, where
        modules may not get new attributes."""
        facts = {"_segments": segments, "_labels": labels, "_num_positives": num_positives}
        if not torch.compiler.is_compiling():
            if not torch._C._are_functorch_transforms_active():  # what torch.func hands in may not outlive it
                self._buffers.update(facts)  # setattr looks at each of them for 10 us
            return
        for name, value in facts.items():
            kept, length = getattr(self, name), value.shape[-1]
            if kept.device == value.device and length <= kept.shape[-1]:
                kept.zero_()
                kept[..., :length].copy_(value)
            else:
                setattr(self, name, value)

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, base_temperature={self.base_temperature},"
            f" max_samples={self.max_samples}, max_views={self.max_views}, min_pixels={self.min_pixels},"
            f" ignore_index={self.ignore_index},"
            f" num_classes={self.num_classes}, denominator={self.denominator!r},"
            f" mining={self.mining}, contrast_with={self.contrast_with!r}"
            + ("" if rule_of(self.pairs) == PairRule() else f", pairs={self.pairs}")
            + self._group.words()
        )


class _RowLoss(nn.Module):
    """``loss(embeddings [N, D], labels [N])``: every row is an anchor, the others its contrast set."""

    denominator: str

    def __init__(self, temperature: float | Tensor, ignore_index: Void, pairs: Pairs | None, reduction: str) -> None:
        super().__init__()
        checks.temperature_scale(temperature, None)
        void_labels(ignore_index)  # raises
        checks.one_of("reduction", reduction, REDUCTIONS)
        self.temperature, self.ignore_index, self.reduction = temperature, ignore_index, reduction
        self.pairs = Pairs() if pairs is None else pairs
        rule_of(pairs)  # raises

    def forward(
        self, embeddings: Tensor, labels: Tensor, weights: Tensor | None = None, groups: Tensor | None = None
    ) -> Tensor:
        """The loss in nats, [] or, for reduction "none", [N]: the mean is over the rows that have a positive.

        Args:
            embeddings: [N, D] floating, of any norm.
            labels: [N], any integer dtype; -1 leaves a row out, and so does ``ignore_index``.
            weights: [N] floating >= 0 of the rows as anchors, without gradient; None: ones.
            groups: [N] integers, for ``pairs`` that look at them.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        return functional.info_nce(
            embeddings,
            labels,
            temperature=self.temperature,
            denominator=self.denominator,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            weights=weights,
            groups=groups,
            pairs=self.pairs,
        )

    def extra_repr(self) -> str:
        more = {
            "ignore_index": None if self.ignore_index == -1 else self.ignore_index,
            "pairs": None if rule_of(self.pairs) == PairRule() else self.pairs,
            "reduction": None if self.reduction == "mean" else self.reduction,
        }
        return f"temperature={self.temperature}" + "".join(f", {k}={v}" for k, v in more.items() if v is not None)


class SupConLoss(_RowLoss):
    """Supervised contrastive loss L_out (Khosla et al. 2020, eq. 2): every other row is in the denominator.

    Drops in for pytorch-metric-learning's ``SupConLoss``.

    Args:
        temperature: a number > 0, or a tensor or parameter with gradient of one element, of any shape.
        ignore_index: label, or several, of rows that are left out.
        pairs: a :class:`Pairs`; its groups are those of the call.
        reduction: "mean", "sum" or "none", as of :func:`fastpixcon.functional.info_nce`.
    """

    denominator = "all"

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        ignore_index: Void = -1,
        pairs: Pairs | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(temperature, ignore_index, pairs, reduction)


class InfoNCELoss(_RowLoss):
    """InfoNCE over negatives: each positive against the rows of other labels; with two views a label, NT-Xent.

    Drops in for pytorch-metric-learning's ``NTXentLoss``; where the labels are not equally frequent, for
    ``NTXentLoss(reducer=PerAnchorReducer())``: the mean is over anchors, not over pairs.

    Args:
        temperature: a number > 0, or a tensor or parameter with gradient of one element, of any shape.
        ignore_index: label, or several, of rows that are left out.
        pairs: a :class:`Pairs`; its groups are those of the call.
        reduction: "mean", "sum" or "none", as of :func:`fastpixcon.functional.info_nce`.
    """

    denominator = "negatives"

    def __init__(
        self,
        temperature: float | Tensor = 0.07,
        ignore_index: Void = -1,
        pairs: Pairs | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(temperature, ignore_index, pairs, reduction)
