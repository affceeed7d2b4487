"""What a batch adds to a memory bank: a few pixels and the mean of each class in each image, as unit rows."""

import torch
from torch import Tensor

from fastpixcon.reference.gather_normalize import normalize
from fastpixcon.reference.select_anchors import check_labels, downsample, hash32

MEMORY_STREAM = 0x3E3D  # draws for the memory use another stream than draws of anchors


def memory_rows(
    embeddings: Tensor, labels: Tensor, seed: Tensor, num_classes: int, pixels_per_image: int, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, D, h, w = embeddings.shape
    K, P, device = num_classes, pixels_per_image, embeddings.device
    label = downsample(labels, h, w).view(-1)  # [B*h*w]
    counted = (label != ignore_index) & (label >= 0)
    check_labels(label, counted, K)
    pixel = torch.arange(label.numel(), device=device)
    segment = torch.where(counted, pixel // max(h * w, 1) * K + label, B * K)  # [B*h*w], image * K + class
    rows, _ = normalize(embeddings.permute(0, 2, 3, 1).reshape(-1, D))  # [B*h*w, D]

    # Rank the pixels of each segment by (key, index): two stable sorts.
    by_key = hash32(seed, pixel, MEMORY_STREAM).argsort(stable=True)
    order = by_key[segment[by_key].argsort(stable=True)]
    size = torch.zeros(B * K + 1, dtype=torch.int64, device=device).index_add_(0, segment, torch.ones_like(segment))
    rank = torch.empty_like(pixel)
    rank[order] = pixel - (size.cumsum(0) - size)[segment[order]]
    kept = counted & (rank < P)
    place = torch.where(kept, segment * P + rank, B * K * P)
    pixels = rows.new_zeros(B * K * P + 1, D).index_put_((place,), rows)[:-1]
    has_pixel = torch.zeros(B * K * P + 1, dtype=torch.bool, device=device).index_fill_(0, place, True)[:-1]

    accumulate = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    sums = torch.zeros(B * K + 1, D, dtype=accumulate, device=device).index_add_(0, segment, rows.to(accumulate))[:-1]
    regions = normalize(sums)[0].to(embeddings.dtype)
    classes = torch.arange(K, device=device, dtype=torch.int32).expand(B, K)
    return (
        pixels.view(B, K, P, D),
        torch.where(has_pixel.view(B, K, P), classes[..., None], -1),
        regions.view(B, K, D),
        torch.where(size[:-1].view(B, K) > 0, classes, -1),
    )
