"""The losses as modules: one line in a training loop."""

from typing import Any

import torch
from torch import Tensor, nn

from fastpixcon import distributed, functional
from fastpixcon.memory import MemoryBank
from fastpixcon.mining import Mining
from fastpixcon.ops import checks

__all__ = ["InfoNCELoss", "PixelContrastLoss", "SupConLoss"]


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
        ignore_index: label that does not count.
        num_classes: K; None: K of the logits, else 256.
        memory: a :class:`MemoryBank`: its rows are contrast rows besides. In training mode every call adds its batch to
            the bank, after the loss.
        mining: a :class:`Mining`: which of its positives and negatives an anchor keeps; None: all.
        denominator: "negatives" (the paper) or "all" (SupCon).
        contrast_with: with a memory, contrast with the anchors of the "batch", with "memory" or with "both".
        process_group: a ``torch.distributed.ProcessGroup``, such as ``torch.distributed.group.WORLD`` after
            ``init_process_group``: anchors contrast with those of all its ranks, and every rank returns the mean over
            all of them, with the gradient that DistributedDataParallel wants. A memory takes the batches of all ranks.
        across: "gather": every rank gets the anchors of all; "ring": they pass around, so that memory does not grow
            with the number of ranks; not with mining.

    The buffer ``seed`` ([] int64) starts from ``torch.initial_seed()`` and advances on the device by one a call:
    every call draws other pixels, and a restored ``state_dict`` draws the same ones again.
    """

    seed: Tensor

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        base_temperature: float | None = 0.07,
        max_samples: int = 1024,
        max_views: int = 100,
        min_pixels: int | None = None,
        ignore_index: int = 255,
        num_classes: int | None = None,
        memory: MemoryBank | None = None,
        mining: Mining | None = None,
        denominator: str = "negatives",
        contrast_with: str = "both",
        process_group: Any = None,
        across: str = "gather",
    ) -> None:
        super().__init__()
        if memory is not None and not isinstance(memory, MemoryBank):
            raise TypeError(f"memory: got {memory!r}, want a MemoryBank")
        if mining is not None and not isinstance(mining, Mining):
            raise TypeError(f"mining: got {mining!r}, want a Mining")
        if memory is not None and memory.ignore_index != ignore_index:
            raise ValueError(f"memory: got ignore_index {memory.ignore_index}, want {ignore_index}, that of the loss")
        checks.one_of("contrast_with", contrast_with, functional.CONTRASTS)
        if contrast_with == "memory" and memory is None:
            raise ValueError("contrast_with: got 'memory' without a memory, want 'batch' or a memory")
        # Always max_samples rows: their number is exchanged once.
        self.ranks = distributed.ranks_of(process_group, across, same_sizes=True)
        if self.ranks is not None:
            checks.across_ranks(None, mining, across)
        checks.temperature_scale(temperature, base_temperature)
        checks.positive_int("max_samples", max_samples)
        checks.positive_int("max_views", max_views)
        if min_pixels is not None:
            checks.positive_int("min_pixels", min_pixels)
        if num_classes is not None:
            checks.positive_int("num_classes", num_classes)
        checks.whole_number("ignore_index", ignore_index)
        checks.one_of("denominator", denominator, functional.DENOMINATORS)
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
        self.register_buffer("seed", torch.tensor(torch.initial_seed() % 2**63, dtype=torch.int64))

    def forward(self, embeddings: Tensor, labels: Tensor, predictions: Tensor) -> Tensor:
        """The mean loss in nats per anchor, []; 0, still attached to the graph, if no anchor has a positive.

        Args:
            embeddings: [B, D, h, w] floating, of any norm and strides; float64 runs on the reference.
            labels: [B, H, W], any integer dtype, on the device of embeddings.
            predictions: [B, h, w] integer classes, or logits [B, K, h, w].

        Raises:
            TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
            RuntimeError: with a process_group, a rank is lost.
        """
        loss = functional.pixel_contrast(
            embeddings,
            labels,
            predictions,
            temperature=self.temperature,
            base_temperature=self.base_temperature,
            max_samples=self.max_samples,
            max_views=self.max_views,
            min_pixels=self.min_pixels,
            ignore_index=self.ignore_index,
            num_classes=self.num_classes,
            denominator=self.denominator,
            memory=self.memory,
            mining=self.mining,
            contrast_with=self.contrast_with,
            seed=self.seed,
            process_group=self.ranks,
        )
        if self.memory is not None and self.training:
            self.memory.enqueue(embeddings, labels, process_group=self.ranks)
        self.seed.add_(1)
        return loss

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, base_temperature={self.base_temperature},"
            f" max_samples={self.max_samples}, max_views={self.max_views}, min_pixels={self.min_pixels},"
            f" ignore_index={self.ignore_index},"
            f" num_classes={self.num_classes}, denominator={self.denominator!r},"
            f" mining={self.mining}, contrast_with={self.contrast_with!r}"
            + ("" if self.ranks is None else f", across={self.ranks.across!r}, ranks={self.ranks.size}")
        )


class _RowLoss(nn.Module):
    """``loss(embeddings [N, D], labels [N])``: every row is an anchor, the others its contrast set."""

    denominator: str

    def __init__(self, temperature: float | Tensor) -> None:
        super().__init__()
        checks.temperature_scale(temperature, None)
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss in nats over the rows that have a positive, [].

        Args:
            embeddings: [N, D] floating, of any norm.
            labels: [N], any integer dtype; -1 leaves a row out.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        return functional.info_nce(embeddings, labels, temperature=self.temperature, denominator=self.denominator)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


class SupConLoss(_RowLoss):
    """Supervised contrastive loss L_out (Khosla et al. 2020, eq. 2): every other row is in the denominator.

    Drops in for pytorch-metric-learning's ``SupConLoss``.

    Args:
        temperature: a number > 0, or a tensor or parameter with gradient of one element, of any shape.
    """

    denominator = "all"

    def __init__(self, temperature: float | Tensor = 0.1) -> None:
        super().__init__(temperature)


class InfoNCELoss(_RowLoss):
    """InfoNCE over negatives: each positive against the rows of other labels; with two views a label, NT-Xent.

    Drops in for pytorch-metric-learning's ``NTXentLoss``; where the labels are not equally frequent, for
    ``NTXentLoss(reducer=PerAnchorReducer())``: the mean is over anchors, not over pairs.

    Args:
        temperature: a number > 0, or a tensor or parameter with gradient of one element, of any shape.
    """

    denominator = "negatives"

    def __init__(self, temperature: float | Tensor = 0.07) -> None:
        super().__init__(temperature)
