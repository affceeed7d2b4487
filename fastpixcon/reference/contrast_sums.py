"""Steps of a loss over several contrast sets, on full [N, M] matrices."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastpixcon.reference.info_nce import accumulated, check_temperature, in_sum, masks, taking_part
from fastpixcon.reference.select_anchors import hash32, mix32
from fastpixcon.values import BankRows, Pairs, Rows, Rule

BATCH_STREAM, BANK_STREAM = 0x6A7C, 0x6B4E  # draws of pairs with rows of the batch, of the bank


class These(NamedTuple):
    """What anchors make of a contrast set."""

    cosine: Tensor  # [N, M]
    positives: Tensor  # [N, M] bool, as negatives; both only pairs that are kept
    negatives: Tensor

    def in_sum(self, rule: Rule) -> Tensor:
        return in_sum(self.positives, self.negatives, rule.denominator)

    def transposed(self) -> "These":
        return These(*(x.T for x in self))


def share(seed: Tensor, stream: int, first_anchor: int, N: int, M: int) -> Tensor:
    """u_ij in [0, 1): the upper 24 bits of the hash of a pair, [N, M] float32."""
    i, j = (torch.arange(n, device=seed.device) for n in (N, M))
    key = hash32(seed, first_anchor + i, stream)  # [N]
    return (mix32(key[:, None] ^ j) >> 8).to(torch.float32) * 2.0**-24


def batch_pairs(anchors: Rows, contrast: Rows | None, pairs: Pairs) -> These:
    if contrast is None:
        contrast, pairs = anchors, pairs._replace(diagonal=0)
    N, M, device = len(anchors.x), len(contrast.x), anchors.x.device
    itself = torch.zeros(N, M, dtype=torch.bool, device=device)
    if pairs.diagonal is not None:
        itself = torch.arange(N, device=device)[:, None] + pairs.diagonal == torch.arange(M, device=device)
    return kept_pairs(anchors, contrast, itself, pairs, BATCH_STREAM)


def bank_pairs(anchors: Rows, bank: BankRows, pairs: Pairs) -> These:
    rows = Rows(bank.x.flatten(0, 1), bank.labels.flatten())
    return kept_pairs(anchors, rows, torch.zeros((), dtype=torch.bool, device=bank.x.device), pairs, BANK_STREAM)


def kept_pairs(anchors: Rows, contrast: Rows, itself: Tensor, pairs: Pairs, stream: int) -> These:
    cosine = accumulated(taking_part(anchors)) @ accumulated(taking_part(contrast)).T
    positives, negatives = masks(anchors.labels, contrast.labels, itself)
    if pairs.mined is not None and pairs.seed is not None:
        least, most, negative_share, positive_share = pairs.mined[..., None]  # [N, 1]
        u = share(pairs.seed, stream, pairs.diagonal or 0, *cosine.shape)
        negatives &= (cosine >= least) & (u < negative_share)
        positives &= (cosine <= most) & (u < positive_share)
    return These(cosine, positives, negatives)


def logits(these: These, rule: Rule) -> Tensor:
    return these.cosine / rule.temperature.to(these.cosine)


def log_sums(these: These, rule: Rule) -> Tensor:
    """[N] log of the sum of e^s."""
    return logits(these, rule).masked_fill(~these.in_sum(rule), -torch.inf).logsumexp(dim=1)


def softmax(these: These, rule: Rule, log_sum: Tensor) -> Tensor:
    """[N, M] e^s / Z of the pairs in the sum."""
    return torch.exp(logits(these, rule) - log_sum[:, None]).masked_fill(~these.in_sum(rule), 0)


def contrast_sums(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, mutual: bool
) -> tuple[Tensor, Tensor]:
    check_temperature(rule.temperature)
    these = batch_pairs(anchors, contrast, pairs)
    log_sum = log_sums(these, rule)
    return log_sum, log_sums(these.transposed(), rule) if mutual else log_sum.new_empty(0)
