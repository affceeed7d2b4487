"""What the kernels are measured against: plain PyTorch, written from the equations."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(rows: Tensor, labels: Tensor, temperature: float = 0.1, denominator: str = "negatives") -> Tensor:
    """Full-matrix self contrast as the equations stand: rows [N, D], labels [N] (-1: left out) -> mean loss, []."""
    a = F.normalize(rows, dim=1)
    s = a @ a.T / temperature  # [N, N]
    valid = labels >= 0
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = labels[:, None] == labels
    both = valid[:, None] & valid
    positives, negatives = same & both & ~itself, both & ~same
    count = positives.sum(dim=1)
    if denominator == "negatives":
        z = (s.exp() * negatives).sum(dim=1, keepdim=True)
        losses = torch.log1p(z * (-s).exp())
    else:
        losses = (s.exp() * (both & ~itself)).sum(dim=1, keepdim=True).log() - s
    loss = losses.masked_fill(~positives, 0).sum(dim=1) / count.clamp(min=1)
    return loss.sum() / (count > 0).sum().clamp(min=1)


def info_nce_lean(rows: Tensor, labels: Tensor, temperature: float = 0.1, denominator: str = "negatives") -> Tensor:
    """The same with as few passes over [N, N] as eager PyTorch allows: one exp, one log, masks filled in."""
    a = F.normalize(rows, dim=1)
    s = a @ a.T / temperature  # [N, N]
    valid = labels >= 0
    same = labels[:, None] == labels
    positives = (same & valid[:, None]).fill_diagonal_(False)
    e = s.exp()
    if denominator == "negatives":
        z = e.masked_fill(same | ~valid, 0).sum(dim=1, keepdim=True)
        log_p = s - (e + z).log()
    else:
        log_p = s - e.masked_fill(~valid, 0).fill_diagonal_(0).sum(dim=1, keepdim=True).log()
    count = positives.sum(dim=1)
    loss = -log_p.masked_fill(~positives, 0).sum(dim=1) / count.clamp(min=1)
    return loss.sum() / (count > 0).sum().clamp(min=1)


def memory_info_nce(
    rows: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, temperature: float = 0.1
) -> Tensor:
    """Full-matrix contrast with a memory bank as the equations stand: rows [N, D], labels [N], unit bank [M, D],
    bank_labels [M] (-1: empty) -> mean loss, []."""
    a = F.normalize(rows, dim=1)
    s = a @ bank.T / temperature  # [N, M]
    here = bank_labels >= 0
    same = labels[:, None] == bank_labels
    positives, negatives = same & here, ~same & here
    count = positives.sum(dim=1)
    z = (s.exp() * negatives).sum(dim=1, keepdim=True)
    loss = torch.log1p(z * (-s).exp()).masked_fill(~positives, 0).sum(dim=1) / count.clamp(min=1)
    return loss.sum() / (count > 0).sum().clamp(min=1)


def memory_info_nce_lean(
    rows: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, temperature: float = 0.1
) -> Tensor:
    """The same with as few passes over [N, M] as eager PyTorch allows: one exp, one log, masks filled in."""
    a = F.normalize(rows, dim=1)
    s = a @ bank.T / temperature  # [N, M]
    same = labels[:, None] == bank_labels
    e = s.exp()
    z = e.masked_fill(same | (bank_labels < 0), 0).sum(dim=1, keepdim=True)
    losses = ((e + z).log() - s).masked_fill(~same, 0)
    count = same.sum(dim=1)
    return (losses.sum(dim=1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def select_anchors(
    labels: Tensor, predictions: Tensor, max_samples: int = 1024, max_views: int = 100, ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Hard-anchor selection by a loop over images and classes: labels [B, H, W], predictions [B, h, w] ->
    index [A], label [A]."""
    B, h, w = predictions.shape
    y = F.interpolate(labels[:, None].float(), (h, w), mode="nearest")[:, 0].long().view(B, -1)
    p = predictions.view(B, -1)
    classes = []
    for b in range(B):
        present, counts = y[b].unique(return_counts=True)
        large = present[(counts > max_views) & (present != ignore_index)]
        classes.append(large.tolist())
    segments = sum(map(len, classes))
    if segments == 0:
        empty = y.new_empty(0)
        return empty, empty
    views = min(max_samples // segments, max_views)
    index, label = [], []
    for b in range(B):
        for c in classes[b]:
            hard = ((y[b] == c) & (p[b] != c)).nonzero()[:, 0]
            easy = ((y[b] == c) & (p[b] == c)).nonzero()[:, 0]
            if len(hard) >= views / 2 and len(easy) >= views / 2:
                keep_hard = views // 2
            elif len(hard) >= views / 2:
                keep_hard = views - len(easy)
            else:
                keep_hard = len(hard)
            hard = hard[torch.randperm(len(hard), device=y.device)[:keep_hard]]
            easy = easy[torch.randperm(len(easy), device=y.device)[: views - keep_hard]]
            index.append(torch.cat([hard, easy]) + b * h * w)
            label.append(y.new_full((views,), c))
    return torch.cat(index), torch.cat(label)


def pixel_contrast(embeddings: Tensor, labels: Tensor, predictions: Tensor, max_samples: int = 1024) -> Tensor:
    """The whole loss step: the map [B, D, h, w] normalised and permuted once, all anchors gathered at once."""
    index, label = select_anchors(labels, predictions, max_samples)
    pixels = F.normalize(embeddings, dim=1).permute(0, 2, 3, 1).reshape(-1, embeddings.shape[1])  # [P, D]
    return info_nce_lean(pixels[index], label) * (0.1 / 0.07)
