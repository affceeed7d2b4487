"""Self contrast and its gradient in float64 by blocks of rows: the truth where the [N, N] matrix does not fit."""

import torch
from torch import Tensor

from fastpixcon.reference.gather_normalize import normalize, normalize_backward


def info_nce(
    rows: Tensor, labels: Tensor, temperature: float = 0.1, denominator: str = "negatives", block: int = 1024
) -> tuple[Tensor, Tensor]:
    """Raw rows [N, D], labels [N] (-1: left out) -> loss of every anchor [N] and the gradient of their sum [N, D], in
    float64. Unit rows are rounded to the type of the rows: float64 ones give the truth, others what a kernel that
    multiplies in that type can reach at best."""
    rounded, inv_norm = normalize(rows)
    a = rounded.double()
    N, valid = len(a), labels != -1
    counts = torch.stack([(labels == y).sum() - 1 for y in labels.unique()])
    positives_of = counts[labels.unique(return_inverse=True)[1]] * valid  # [N]
    losses = a.new_zeros(N)
    d_a = torch.zeros_like(a)
    for start in range(0, N, block):
        here = slice(start, min(start + block, N))
        s = a[here] @ a.T / temperature  # [block, N]
        both = valid[here, None] & valid
        both[torch.arange(len(s)), torch.arange(start, start + len(s))] = False
        positive = both & (labels[here, None] == labels)
        count = positives_of[here].clamp(min=1)[:, None]
        in_sum = both & ~positive if denominator == "negatives" else both
        log_sum = s.masked_fill(~in_sum, -torch.inf).logsumexp(dim=1, keepdim=True)
        softmax = torch.exp(s - log_sum).masked_fill(~in_sum, 0)
        if denominator == "negatives":
            margin = log_sum - s
            losses[here] = (torch.nn.functional.softplus(margin).masked_fill(~positive, 0) / count).sum(dim=1)
            pull = margin.sigmoid().masked_fill(~positive, 0) / count
            d_s = softmax * pull.sum(dim=1, keepdim=True) - pull
        else:
            mean = (s.masked_fill(~positive, 0) / count).sum(dim=1)
            losses[here] = (log_sum[:, 0] - mean).where(positives_of[here] > 0, 0)
            d_s = softmax - positive / count
        d_s *= (positives_of[here] > 0)[:, None]
        d_s /= temperature
        d_a[here] += d_s @ a
        d_a += d_s.T @ a[here]
    return losses, normalize_backward(d_a, a, inv_norm)
