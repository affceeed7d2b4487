"""Which pairs of an anchor are hard, by sorting all of its cosines."""

import torch
from torch import Tensor

from fastpixcon.reference.pairs import bank_pairs, batch_pairs
from fastpixcon.values import ALL_PAIRS, BankRows, Rows, Rule


def threshold(cosine: Tensor, those: Tensor, kind: str, fraction: float, keep: int) -> tuple[Tensor, Tensor]:
    """The least cosine [N] of the hardest of ``those`` pairs [N, M], the hardest having the largest; and the share of
    them that is kept [N]."""
    n = those.sum(dim=1)
    all_of_them, nothing_less = torch.ones_like(n, dtype=cosine.dtype), cosine.new_full(n.shape, -torch.inf)
    if kind == "none":
        return nothing_less, all_of_them
    if kind == "random":
        return nothing_less, (keep / n.clamp(min=1)).clamp(max=1).to(cosine.dtype)
    pool = n.clamp(max=keep) if kind == "hardest" else (n.double() * fraction).ceil().long()
    of_those = torch.nn.functional.pad(cosine.masked_fill(~those, -torch.inf), (0, 1), value=-torch.inf)  # never empty
    descending = of_those.sort(dim=1, descending=True).values
    least = descending.gather(1, (pool - 1).clamp(min=0)[:, None])[:, 0].where(pool > 0, torch.inf)
    if kind == "hardest":
        return least, all_of_them
    return least, (keep / pool.clamp(min=1)).clamp(max=1).to(cosine.dtype)


def mining_thresholds(
    anchors: Rows,
    contrast: Rows | None,
    diagonal: int | None,
    bank: BankRows | None,
    positive_groups: str,
    negative_groups: str,
    negatives: str,
    positives: str,
    fraction: float,
    keep: list[int],
) -> Tensor:
    rule = Rule(torch.ones(()), "all", False, False, None, positive_groups, negative_groups)
    sets = []
    if contrast is not None:
        sets.append(batch_pairs(anchors, contrast, rule, ALL_PAIRS._replace(diagonal=diagonal)))
    if bank is not None:
        sets.append(bank_pairs(anchors, bank, rule, ALL_PAIRS))
    cosine, is_positive, is_negative = (torch.cat(part, dim=1) for part in zip(*(x[:3] for x in sets), strict=True))
    least, negative_share = threshold(cosine, is_negative, negatives, fraction, keep[1])
    most, positive_share = threshold(-cosine, is_positive, positives, fraction, keep[0])
    return torch.stack([least, -most, negative_share, positive_share])
