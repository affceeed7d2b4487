"""Rows into the rings of a memory bank."""

import torch
from torch import Tensor


def enqueue_ring(bank: Tensor, bank_labels: Tensor, written: Tensor, rows: Tensor, labels: Tensor) -> None:
    """``rows [R, D]`` into the rings ``bank [K, size, D]``; ``written [K]`` counts them."""
    K, size, _ = bank.shape
    c = torch.where((labels >= 0) & (labels < K), labels, K).to(torch.int64)  # [R]; K: left out
    one_hot = torch.nn.functional.one_hot(c, K + 1)  # [R, K + 1]
    rank = (one_hot.cumsum(0) - one_hot).gather(1, c[:, None])[:, 0]  # among the rows of its class
    count = one_hot.sum(0)[:K]
    for r in range(len(rows)):
        k = int(c[r])
        if k < K and int(rank[r]) >= int(count[k]) - size:  # of too many rows the last ones
            place = int((written[k] + rank[r]) % size)
            bank[k, place] = rows[r].to(bank.dtype)
            bank_labels[k, place] = k
    written += count


def memory_enqueue_(
    bank: Tensor,
    bank_labels: Tensor,
    written: Tensor,
    pixel_size: int,
    pixels: Tensor,
    pixel_labels: Tensor,
    regions: Tensor,
    region_labels: Tensor,
) -> None:
    P = pixel_size
    if written.device.type == "cpu" and bool(((written < 0) | (written >= 2**62)).any()):
        raise ValueError(f"written: got {written.tolist()}, want counts in [0, 2^62)")
    enqueue_ring(bank[:, :P], bank_labels[:, :P], written[0], pixels, pixel_labels)
    enqueue_ring(bank[:, P:], bank_labels[:, P:], written[1], regions, region_labels)
