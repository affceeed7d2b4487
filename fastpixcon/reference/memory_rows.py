"""What a batch adds to a memory bank: a few pixels and the mean of each class in each image, as unit rows."""

import torch
from torch import Tensor

from fastpixcon.reference.gather_normalize import normalize
from fastpixcon.reference.select_anchors import check_labels, downsample, hash32

MEMORY_STREAM = 0x3E3D  # draws for the memory use another stream than draws of anchors
MIN_MEAN = 2.0**-16  # a shorter mean of unit rows has no direction: what is left of it is their rounding


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
    unit, _ = normalize(embeddings.permute(0, 2, 3, 1).reshape(-1, D).double())  # [B*h*w, D]
    rows, is_unit = unit.to(embeddings.dtype), (unit != 0).any(dim=1)  # or NaN
    is_row = is_unit & unit.isfinite().all(dim=1)

    # Rank the pixels of each segment by (key, index): two stable sorts.
    by_key = hash32(seed, pixel, MEMORY_STREAM).argsort(stable=True)
    order = by_key[segment[by_key].argsort(stable=True)]
    size = torch.zeros(B * K + 1, dtype=torch.int64, device=device).index_add_(0, segment, torch.ones_like(segment))
    rank = torch.empty_like(pixel)
    rank[order] = pixel - (size.cumsum(0) - size)[segment[order]]
    kept = counted & (rank < P)
    place = torch.where(kept, segment * P + rank, B * K * P)
    pixels = rows.new_zeros(B * K * P + 1, D).index_put_((place,), rows)[:-1]
    has_pixel = torch.zeros(B * K * P + 1, dtype=torch.bool, device=device).index_put_((place,), is_row)[:-1]

    # Of rows that are not rounded to their dtype yet: they may cancel.
    sums = unit.new_zeros(B * K + 1, D).index_add_(0, segment, unit)[:-1]
    units = unit.new_zeros(B * K + 1).index_add_(0, segment, is_unit.double())[:-1]  # [B*K], how many
    norm = torch.linalg.vector_norm(sums, dim=1)
    cancels = norm <= MIN_MEAN * units
    regions = torch.where(cancels[:, None], 0, sums / norm[:, None]).to(embeddings.dtype)
    classes = torch.arange(K, device=device, dtype=torch.int32).expand(B, K)
    return (
        pixels.view(B, K, P, D),
        torch.where(has_pixel.view(B, K, P), classes[..., None], -1),
        regions.view(B, K, D),
        torch.where((cancels | norm.isnan()).view(B, K), -1, classes),
    )
