"""What anchors and contrast rows make of each other: which pairs count, how much, their logits; on [N, M] matrices.

Half precision rows are taken as they are stored and computed with in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastpixcon.reference.select_anchors import hash32, mix32
from fastpixcon.values import ALL_PAIRS, BankRows, Pairs, Rows, Rule

BATCH_STREAM, BANK_STREAM = 0x6A7C, 0x6B4E  # draws of pairs with rows of the batch, of the bank


class These(NamedTuple):
    """Pairs of anchors and contrast rows."""

    cosine: Tensor  # [N, M]
    positives: Tensor  # [N, M] bool, as negatives; both only pairs that are kept
    negatives: Tensor
    positive_weights: Tensor | None  # [N, M]; None: ones
    negative_weights: Tensor | None

    def in_sum(self, rule: Rule) -> Tensor:
        """Which of them are in Z, [N, M]."""
        return self.negatives if rule.apart else self.negatives | self.positives

    def log_weights(self) -> Tensor | None:
        """[N, M] of those in the sum; None: zeros."""
        if self.positive_weights is None or self.negative_weights is None:
            return None
        return torch.where(self.positives, self.positive_weights, self.negative_weights).log()


def taking_part(rows: Rows) -> Tensor:
    """Rows [N, D] with zeros where one is left out, which may hold anything: 0 times NaN is NaN. One that takes part
    and is not finite is NaN altogether: its logits might be infinite, and add nothing to a sum."""
    x = rows.x.where(rows.x.isfinite().all(dim=1, keepdim=True), torch.nan)
    return x.where((rows.labels != -1)[:, None], 0)


def accumulated(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def share(seed: Tensor, stream: int, first_anchor: int, N: int, M: int) -> Tensor:
    """u_ij in [0, 1): the upper 24 bits of the hash of a pair, [N, M] float32."""
    i, j = (torch.arange(n, device=seed.device) for n in (N, M))
    key = hash32(seed, first_anchor + i, stream)  # [N]
    return (mix32(key[:, None] ^ j) >> 8).to(torch.float32) * 2.0**-24


def let_by_groups(which: str, anchors: Rows, contrast: Rows) -> Tensor | bool:
    """Whether anchors may have pairs with contrast rows of their group, of another one, [N, M]; rows of a bank are of
    none."""
    if which == "any":
        return True
    if anchors.groups is None or contrast.groups is None:
        return which == "other"
    same = anchors.groups[:, None] == contrast.groups
    return same if which == "same" else ~same


def weights_of(anchors: Rows, contrast: Rows, rule: Rule, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Of pairs as positives, as negatives, [N, M]; None: ones."""
    W = rule.class_weights
    v, u = contrast.positive_weights, contrast.negative_weights
    if v is None and u is None and W is None:
        return None, None
    of_positives, of_negatives = (like.new_ones(len(contrast.labels)) if x is None else x.to(like) for x in (v, u))
    if W is not None:
        here = [y.long().clamp(min=0) for y in (anchors.labels, contrast.labels)]  # of -1 nobody looks
        of_negatives = of_negatives * W.to(like)[here[0][:, None], here[1]]
    return of_positives.expand_as(like), of_negatives.expand_as(like)


def pairs_of(
    cosine: Tensor, anchors: Rows, contrast: Rows, rule: Rule, itself: Tensor, pairs: Pairs = ALL_PAIRS, stream: int = 0
) -> These:
    """``itself`` [N, M] or []: where both are the same row, which is neither positive nor negative."""
    here = (anchors.labels != -1)[:, None] & (contrast.labels != -1) & ~itself
    same = anchors.labels[:, None] == contrast.labels
    positives = here & same & let_by_groups(rule.positive_groups, anchors, contrast)
    negatives = here & ~same & let_by_groups(rule.negative_groups, anchors, contrast)
    if pairs.mined is not None and pairs.seed is not None:
        least, most, negative_share, positive_share = pairs.mined[..., None]  # [N, 1]
        u = share(pairs.seed, stream, pairs.diagonal or 0, *cosine.shape)
        negatives = negatives & (cosine >= least) & (u < negative_share)
        positives = positives & (cosine <= most) & (u < positive_share)
    return These(cosine, positives, negatives, *weights_of(anchors, contrast, rule, cosine))


def is_itself(N: int, M: int, diagonal: int | None, device: torch.device) -> Tensor:
    """Where contrast row i + diagonal is anchor i, [N, M]; [] for None."""
    if diagonal is None:
        return torch.zeros((), dtype=torch.bool, device=device)
    return torch.arange(N, device=device)[:, None] + diagonal == torch.arange(M, device=device)


def batch_pairs(anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs) -> These:
    if contrast is None:
        contrast, pairs = anchors, pairs._replace(diagonal=0)
    cosine = accumulated(taking_part(anchors)) @ accumulated(taking_part(contrast)).T
    itself = is_itself(len(anchors.x), len(contrast.x), pairs.diagonal, cosine.device)
    return pairs_of(cosine, anchors, contrast, rule, itself, pairs, BATCH_STREAM)


def column_pairs(anchors: Rows, contrast: Rows, rule: Rule, pairs: Pairs) -> These:
    """Of the contrast rows as anchors, with the anchors as their contrast set, [M, N]; nothing is mined."""
    cosine = accumulated(taking_part(contrast)) @ accumulated(taking_part(anchors)).T
    itself = is_itself(len(anchors.x), len(contrast.x), pairs.diagonal, cosine.device)
    itself = itself.T if itself.dim() == 2 else itself
    return pairs_of(cosine, contrast, anchors, rule, itself)


def bank_pairs(anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs) -> These:
    u = bank.negative_weights
    contrast = Rows(
        bank.x.flatten(0, 1),
        bank.labels.flatten(),
        negative_weights=None if u is None else u.repeat_interleave(bank.x.shape[1]),
    )
    cosine = accumulated(taking_part(anchors)) @ accumulated(taking_part(contrast)).T
    nowhere = torch.zeros((), dtype=torch.bool, device=cosine.device)
    return pairs_of(cosine, anchors, contrast, rule, nowhere, pairs, BANK_STREAM)


def logits(these: These, rule: Rule) -> Tensor:
    return these.cosine / rule.temperature.to(these.cosine)


def weighted_logits(these: These, rule: Rule) -> Tensor:
    """[N, M] logits and the logarithms of their weights in Z; -inf of what is not in it."""
    s, log_weights = logits(these, rule), these.log_weights()
    return (s if log_weights is None else s + log_weights).where(these.in_sum(rule), -torch.inf)


def log_sums(these: These, rule: Rule) -> Tensor:
    """log Z, [N]."""
    return weighted_logits(these, rule).logsumexp(dim=1)


def softmax(these: These, rule: Rule, log_sum: Tensor) -> Tensor:
    """[N, M] what of Z is due to each pair; zeros of an empty one."""
    share = torch.exp(weighted_logits(these, rule) - log_sum[:, None]).where(these.in_sum(rule), 0)
    return share.where((log_sum != -torch.inf)[:, None], 0)


class PositiveSums(NamedTuple):
    loss: Tensor  # [N] sums over positives, weighted
    weight: Tensor  # [N]
    mass: Tensor  # [N]
    pull: Tensor  # [N, M] of each positive


def positive_sums(these: These, rule: Rule, log_sum: Tensor) -> PositiveSums:
    s = logits(these, rule)
    margin = log_sum[:, None] - s  # log(Z_i / e^s_ij)
    if rule.denominator == "negatives":
        loss, pull = softplus(margin), margin.sigmoid()
    else:  # of an empty Z nothing, but of a positive that is NaN
        empty = (log_sum == -torch.inf)[:, None]
        loss, pull = torch.where(empty, s * 0, margin), (~empty).to(s).expand_as(s)
    v = these.positives.to(s)
    if these.positive_weights is not None:
        v = v * these.positive_weights
        loss = loss * these.positive_weights
    loss, pull = loss.where(these.positives, 0), pull.where(these.positives, 0) * v
    weight = pull.sum(dim=1) if rule.denominator == "negatives" else torch.zeros_like(log_sum)
    return PositiveSums(loss.sum(dim=1), weight, v.sum(dim=1), pull)
