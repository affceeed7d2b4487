"""The losses of an arm: cross-entropy of the logits, the paper's contrast of the embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastpixcon import MemoryBank, Mining, Pairs, PixelContrastLoss
from fastpixcon.training import TrainingError
from fastpixcon.training.config import Config, Contrast
from fastpixcon.training.data import IGNORE
from fastpixcon.training.evaluation import upsample
from fastpixcon.training.processes import Processes


def segmentation_loss(
    logits: Tensor, labels: Tensor, counted: Tensor | None = None, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy [B, K, h, w], [B, H, W] -> []: the sum over labelled pixels, each times the weight of its class
    [K], per ``counted``, [] (by default the sum of those weights); 0 if there is none."""
    total = F.cross_entropy(
        upsample(logits, labels.shape[-2:]), labels, class_weights, ignore_index=IGNORE, reduction="sum"
    )
    counted = labelled(labels, class_weights) if counted is None else counted
    return total / counted.where(counted > 0, 1)


def labelled(labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """How many pixels count, [] float32; with weights [K], the sum of theirs."""
    counts = labels != IGNORE
    if class_weights is None:
        return counts.sum().float()
    return class_weights[labels.where(counts, 0)].where(counts, 0).sum()


def weights_of(config: Config, classes: int, device: torch.device) -> Tensor | None:
    """Of the classes in the cross-entropy, [K] float32."""
    if not config.class_weights:
        return None
    if len(config.class_weights) != classes:
        raise TrainingError(f"class_weights: got {len(config.class_weights)} numbers, want one for each of {classes}")
    return torch.tensor(config.class_weights, device=device)


def contrast_loss(
    config: Config, arm: str, classes: int, device: torch.device, processes: Processes
) -> PixelContrastLoss | None:
    """The contrast that the arm's name asks for, in whose state_dict the memory bank is."""
    parts = arm.split("+")
    if "contrast" not in parts:
        return None
    contrast, memory, mining = config.contrast, config.memory, config.mining
    bank = None
    if "memory" in parts and memory is not None:
        bank = MemoryBank(
            classes,
            config.model.embedding_channels,
            memory.pixel_size,
            memory.region_size,
            memory.pixels_per_image,
            ignore_index=IGNORE,
            dtype=torch.bfloat16 if memory.dtype == "bf16" else torch.float32,
        )
    loss = PixelContrastLoss(
        temperature=contrast.temperature,
        base_temperature=contrast.base_temperature,
        max_samples=contrast.max_samples,
        max_views=contrast.max_views,
        min_pixels=contrast.min_pixels,
        ignore_index=IGNORE,
        num_classes=classes,
        memory=bank,
        mining=Mining(mining.negatives, mining.positives, mining.fraction, mining.keep) if "mining" in parts else None,
        denominator=contrast.denominator,
        contrast_with="both" if bank is None or memory is None else memory.contrast_with,
        pairs=Pairs(contrast.positives, contrast.negatives, balanced=contrast.balanced),
        **({} if processes.group is None else {"process_group": processes.group, "across": contrast.across}),
    )
    return loss.to(device)


def contrast_weight(contrast: Contrast, done: int) -> float:
    """Zero during the warm-up, then a ramp as long as it, then the full weight."""
    if done < contrast.warmup:
        return 0.0
    ramp = (done - contrast.warmup + 1) / contrast.warmup if contrast.warmup else 1.0
    return contrast.weight * min(ramp, 1.0)
