"""What the kernels are measured against: plain PyTorch, written from the equations."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


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
    rows: Tensor,
    labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    temperature: float = 0.1,
    denominator: str = "negatives",
) -> Tensor:
    """Full-matrix contrast with a memory bank as the equations stand: rows [N, D], labels [N], unit bank [M, D],
    bank_labels [M] (-1: empty) -> mean loss, []."""
    a = F.normalize(rows, dim=1)
    s = a @ bank.T / temperature  # [N, M]
    here = bank_labels >= 0
    same = labels[:, None] == bank_labels
    positives, negatives = same & here, ~same & here
    count = positives.sum(dim=1)
    if denominator == "negatives":
        z = (s.exp() * negatives).sum(dim=1, keepdim=True)
        losses = torch.log1p(z * (-s).exp())
    else:
        losses = (s.exp() * here).sum(dim=1, keepdim=True).log() - s
    loss = losses.masked_fill(~positives, 0).sum(dim=1) / count.clamp(min=1)
    return loss.sum() / (count > 0).sum().clamp(min=1)


def memory_info_nce_lean(
    rows: Tensor,
    labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    temperature: float = 0.1,
    denominator: str = "negatives",
) -> Tensor:
    """The same with as few passes over [N, M] as eager PyTorch allows: one exp, one log, masks filled in."""
    a = F.normalize(rows, dim=1)
    s = a @ bank.T / temperature  # [N, M]
    same = labels[:, None] == bank_labels
    count = same.sum(dim=1)
    if denominator == "negatives":
        e = s.exp()
        z = e.masked_fill(same | (bank_labels < 0), 0).sum(dim=1, keepdim=True)
        losses = ((e + z).log() - s).masked_fill(~same, 0).sum(dim=1)
    else:
        here = s if (bank_labels >= 0).all() else s.masked_fill(bank_labels < 0, -torch.inf)
        losses = here.logsumexp(dim=1) * count - s.masked_fill(~same, 0).sum(dim=1)
    return (losses / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def nt_xent(rows: Tensor, temperature: float = 0.1) -> Tensor:
    """Two views of N / 2 examples, one after the other, rows [N, D] -> cross-entropy of each row's other view, []."""
    a = F.normalize(rows, dim=1)
    s = (a @ a.T / temperature).fill_diagonal_(-torch.inf)  # [N, N]
    return F.cross_entropy(s, torch.arange(len(a), device=a.device).roll(len(a) // 2))


def cross_entropy(queries: Tensor, keys: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE with one positive: queries [N, D] against keys [M, D], query i's is key i -> mean loss, []."""
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature  # [N, M]
    return F.cross_entropy(logits, torch.arange(len(queries), device=queries.device))


CHUNK_ELEMENTS = 2**20  # of a chunk's logits: at N = 4,096 the fastest of 2**18 to 2**24
CHUNK_ROWS = 64  # at least


def chunk_losses(
    a: Tensor, y: Tensor, i: Tensor, c: Tensor, yc: Tensor, of_all: Tensor | None, temperature: float, denominator: str
) -> Tensor:
    """Sum of the losses of a chunk: unit anchors a [n, D], labels y [n], their numbers i [n], unit contrast rows c
    [M, D], labels yc [M], their numbers of_all [M] where they are the anchors, too -> []."""
    s = a @ c.T / temperature  # [n, M]
    same = y[:, None] == yc
    positive = same if of_all is None else same & (i[:, None] != of_all)
    count = positive.sum(dim=1)
    if denominator == "negatives":
        log_z = s.masked_fill(same, -torch.inf).logsumexp(dim=1, keepdim=True)
        losses = F.softplus(log_z - s).masked_fill(~positive, 0).sum(dim=1)
    else:
        log_z = s.masked_fill(same & ~positive, -torch.inf).logsumexp(dim=1)
        losses = log_z * count - s.masked_fill(~positive, 0).sum(dim=1)
    return (losses / count.clamp(min=1)).sum()


def chunked(
    rows: Tensor,
    labels: Tensor,
    contrast: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    temperature: float = 0.1,
    denominator: str = "negatives",
    losses: Callable[..., Tensor] = chunk_losses,
) -> Tensor:
    """A loop over chunks of anchors, each made again in backward: rows [N, D], labels [N]; unit contrast [M, D],
    labels [M], None: the rows -> mean loss over anchors, of which every one has a positive, []."""
    a = F.normalize(rows, dim=1)
    c, yc = (a, labels) if contrast is None else (contrast, contrast_labels)
    numbers = torch.arange(len(a), device=a.device)
    size = max(CHUNK_ROWS, CHUNK_ELEMENTS // len(c))
    total = a.new_zeros(())
    for n in range(0, len(a), size):
        here = slice(n, n + size)
        arguments = (a[here], labels[here], numbers[here], c, yc, numbers if contrast is None else None)
        total = total + checkpoint(losses, *arguments, temperature, denominator, use_reentrant=False)
    return total / len(a)


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
