"""Steps of a loss over several contrast sets, on full [N, M] matrices."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastpixcon.reference.info_nce import check_temperature, taking_part
from fastpixcon.reference.select_anchors import hash32, mix32

BATCH_STREAM, BANK_STREAM = 0x6A7C, 0x6B4E  # draws of pairs with rows of the batch, of the bank


class Pairs(NamedTuple):
    """What anchors make of a contrast set."""

    cosine: Tensor  # [N, M]
    positives: Tensor  # [N, M] bool, as negatives; both only pairs that are kept
    negatives: Tensor


def accumulated(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def share(seed: Tensor, stream: int, first_anchor: int, N: int, M: int) -> Tensor:
    """u_ij in [0, 1): the upper 24 bits of the hash of a pair, [N, M] float32."""
    i, j = (torch.arange(n, device=seed.device) for n in (N, M))
    key = hash32(seed, first_anchor + i, stream)  # [N]
    return (mix32(key[:, None] ^ j) >> 8).to(torch.float32) * 2.0**-24


def batch_pairs(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    diagonal: int | None,
    mined: Tensor | None,
    seed: Tensor | None,
) -> Pairs:
    if contrast is None or contrast_labels is None:
        contrast, contrast_labels, diagonal = anchors, anchor_labels, 0
    itself = torch.zeros(len(anchors), len(contrast), dtype=torch.bool, device=anchors.device)
    if diagonal is not None:
        i, j = (torch.arange(len(x), device=anchors.device) for x in (anchors, contrast))
        itself = i[:, None] + diagonal == j
    return pairs(anchors, anchor_labels, contrast, contrast_labels, itself, mined, seed, BATCH_STREAM, diagonal or 0)


def bank_pairs(
    anchors: Tensor,
    anchor_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    first_anchor: int,
    mined: Tensor | None,
    seed: Tensor | None,
) -> Pairs:
    rows, labels = bank.flatten(0, 1), bank_labels.flatten()
    itself = torch.zeros((), dtype=torch.bool, device=bank.device)
    return pairs(anchors, anchor_labels, rows, labels, itself, mined, seed, BANK_STREAM, first_anchor)


def pairs(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor,
    contrast_labels: Tensor,
    itself: Tensor,
    mined: Tensor | None,
    seed: Tensor | None,
    stream: int,
    first_anchor: int,
) -> Pairs:
    a, c = taking_part(anchors, anchor_labels), taking_part(contrast, contrast_labels)
    cosine = accumulated(a) @ accumulated(c).T
    same = anchor_labels[:, None] == contrast_labels
    here = (anchor_labels != -1)[:, None] & (contrast_labels != -1) & ~itself
    positives, negatives = here & same, here & ~same
    if mined is not None and seed is not None:
        least, most, negative_share, positive_share = mined[..., None]  # [N, 1]
        u = share(seed, stream, first_anchor, *cosine.shape)
        negatives &= (cosine >= least) & (u < negative_share)
        positives &= (cosine <= most) & (u < positive_share)
    return Pairs(cosine, positives, negatives)


def log_sums(these: Pairs, temperature: Tensor, denominator: str) -> Tensor:
    """[N] log of the sum of e^s."""
    in_sum = these.negatives if denominator == "negatives" else these.negatives | these.positives
    logits = these.cosine / temperature.to(these.cosine)
    return logits.masked_fill(~in_sum, -torch.inf).logsumexp(dim=1)


def contrast_sums(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    diagonal: int | None,
    mutual: bool,
    mined: Tensor | None,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    check_temperature(temperature)
    these = batch_pairs(anchors, anchor_labels, contrast, contrast_labels, diagonal, mined, seed)
    log_sum = log_sums(these, temperature, denominator)
    if not mutual:
        return log_sum, log_sum.new_empty(0)
    return log_sum, log_sums(Pairs(*(x.T for x in these)), temperature, denominator)
