"""What a right result is: losses and gradients in float64 by blocks of rows, and the rule by which peers are refused.

Nothing of [N, M] is stored. Up to EXACT pairs all is float64; beyond, products are float32 and sums float64, and the
gradient is that of ROWS rows, drawn at random, so that the truth costs less than what is checked.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
import workloads
from torch import Tensor

EXACT = 2**28  # pairs: 16,384 rows against each other
ROWS = 4096
BLOCK_ELEMENTS = 2**23  # of one block of logits
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}  # of the gradient in relative norm, and of the loss


class Truth(NamedTuple):
    loss: float
    gradients: list[tuple[Tensor, Tensor]]  # of each leaf: rows [R], and their gradient [R, D], float64


class _Statistics(NamedTuple):
    """Of each anchor, [N, 1]: enough to make dL/ds of any pair."""

    log_sum: Tensor
    weight: Tensor  # sum of the positives' pulls
    positives: Tensor  # |P_i|, 0 where the anchor does not count


class _Pairs:
    """Logits and dL/ds of any block of pairs."""

    def __init__(self, problem: workloads.Rows, dtype: torch.dtype) -> None:
        self.a = F.normalize(problem.anchors.detach().double(), dim=1).to(dtype)  # [N, D]
        self.own = problem.contrast is None
        self.c = self.a if problem.contrast is None else problem.contrast.detach().double()
        if problem.contrast is not None and problem.contrast.requires_grad:
            self.c = F.normalize(self.c, dim=1)
        self.c = self.c.to(dtype)  # [M, D]
        self.y = problem.labels
        self.yc = problem.labels if problem.contrast_labels is None else problem.contrast_labels
        self.negatives_only = problem.denominator == "negatives"
        self.losses = 0.0
        n, m = len(self.a), len(self.c)
        self.step = max(1, BLOCK_ELEMENTS // m)
        parts = [self._block(torch.arange(i, min(i + self.step, n))) for i in range(0, n, self.step)]
        self.statistics = _Statistics(*(torch.cat(x) for x in zip(*parts, strict=True)))
        self.count = max(1, int((self.statistics.positives > 0).sum()))

    def logits(self, i: Tensor, j: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """s, positives and what is in the denominator's sum, [I, J]; j None: all."""
        c, yc = (self.c, self.yc) if j is None else (self.c[j], self.yc[j])
        s = self.a[i] @ c.T / workloads.TEMPERATURE
        same = self.y[i, None] == yc
        positive = same.clone()
        if self.own:
            positive &= i[:, None] != (torch.arange(len(self.c)) if j is None else j)
        return s, positive, ~same if self.negatives_only else ~same | positive

    def _block(self, i: Tensor) -> _Statistics:
        s, positive, summed = self.logits(i, None)
        log_sum = s.masked_fill(~summed, -torch.inf).logsumexp(dim=1, keepdim=True)
        positives = positive.sum(dim=1, keepdim=True)
        here, at = positive.nonzero(as_tuple=True)  # the positives only, as there are few
        margin = log_sum[here, 0].double() - s[here, at].double()
        losses, pull = (F.softplus(margin), margin.sigmoid()) if self.negatives_only else (margin, None)
        mean = torch.zeros(len(i), dtype=torch.float64).index_add_(0, here, losses) / positives[:, 0].clamp(min=1)
        self.losses += float(mean.sum())
        weight = torch.zeros(len(i), dtype=torch.float64)
        if pull is not None:
            weight.index_add_(0, here, pull)
        weight = (weight if pull is not None else positives[:, 0].double()) / positives[:, 0].clamp(min=1)
        return _Statistics(log_sum.double(), weight[:, None], positives)

    def d_logits(self, i: Tensor, j: Tensor | None) -> Tensor:
        """[I, J] of the mean loss."""
        s, positive, summed = self.logits(i, j)
        log_sum, weight, positives = (x[i] for x in self.statistics)
        pulled = torch.sigmoid(log_sum - s) if self.negatives_only else torch.ones_like(s)
        pushed = weight * torch.exp(s - log_sum).masked_fill(~summed, 0)
        return (pushed - pulled.masked_fill(~positive, 0) / positives.clamp(min=1)) / self.count

    def of_anchors(self, index: Tensor) -> Tensor:
        """dL/da [R, D] through the anchors' own logits."""
        parts = [self.d_logits(i, None) @ self.c.double() for i in index.split(self.step)]
        return torch.cat(parts) / workloads.TEMPERATURE

    def of_contrast(self, index: Tensor) -> Tensor:
        """dL/dc [R, D] through all anchors' logits."""
        d_c = torch.zeros(len(index), self.a.shape[1], dtype=torch.float64)
        for i in torch.arange(len(self.a)).split(max(1, BLOCK_ELEMENTS // len(index))):
            d_c += self.d_logits(i, index).T @ self.a[i].double()
        return d_c / workloads.TEMPERATURE


def _through_norm(d_unit: Tensor, raw: Tensor) -> Tensor:
    """Gradient of raw rows [R, D] from that of unit rows."""
    raw = raw.double()
    norm = raw.norm(dim=1, keepdim=True)
    unit = raw / norm
    return (d_unit - unit * (unit * d_unit).sum(dim=1, keepdim=True)) / norm


def of_rows(problem: workloads.Rows) -> Truth:
    exact = problem.cell.pairs <= EXACT
    pairs = _Pairs(problem, torch.float64 if exact else torch.float32)
    generator = torch.Generator().manual_seed(1)
    gradients = []
    for leaf in problem.leaves:
        index = torch.arange(len(leaf)) if exact else torch.randperm(len(leaf), generator=generator)[:ROWS].sort()[0]
        d_unit = pairs.of_anchors(index) if leaf is problem.anchors else pairs.of_contrast(index)
        if pairs.own:
            d_unit += pairs.of_contrast(index)
        gradients.append((index, _through_norm(d_unit, leaf.detach()[index])))
    return Truth(pairs.losses / pairs.count, gradients)


def of_step(problem: workloads.Maps, index: Tensor, label: Tensor) -> Truth:
    """Of a step that has selected pixels ``index [A]``, b*h*w + y*w + x, of labels [A]."""
    import rivals

    index, label = index[label >= 0], label[label >= 0]
    flat = problem.embeddings.detach().permute(0, 2, 3, 1).flatten(0, 2)  # [P, D], a view where it can be
    picked = flat[index].double().requires_grad_()
    loss = rivals.info_nce(picked, label) * (workloads.TEMPERATURE / 0.07)
    loss.backward()
    return Truth(float(loss.detach()), [(index, picked.grad)])


def selection_error(problem: workloads.Maps, index: Tensor, label: Tensor, max_views: int = 100) -> str | None:
    """Why a selection is not that of Wang et al. 2021, section 3.3; None if it is: which pixels is chance, how many
    hard and easy ones of each class in each image is not."""
    B, h, w = problem.predictions.shape
    index, label = index[label >= 0], label[label >= 0]
    y = problem.labels[:, :: problem.labels.shape[1] // h, :: problem.labels.shape[2] // w].reshape(-1)
    hard = problem.predictions.reshape(-1) != y
    K = problem.logits.shape[1]
    segment = torch.arange(B).repeat_interleave(h * w) * K + y  # of each pixel
    if len(index.unique()) != len(index) or not torch.equal(y[index].long(), label.long()):
        return "pixels drawn twice, or of other labels than said"
    size, hards = (torch.bincount(segment[m], minlength=B * K) for m in (slice(None), hard))
    eligible = size > max_views
    views = min(max_views, workloads.MAX_SAMPLES // max(1, int(eligible.sum())))
    easy = size - hards
    many_hard, many_easy = 2 * hards >= views, 2 * easy >= views
    keep_hard = torch.where(many_hard & many_easy, views // 2, torch.where(many_hard, views - easy, hards)) * eligible
    got, got_hard = (torch.bincount(segment[i], minlength=B * K) for i in (index, index[hard[index]]))
    if torch.equal(got, views * eligible) and torch.equal(got_hard, keep_hard):
        return None
    return "numbers of hard and easy pixels differ from the paper's rule"


def errors(truth: Truth, loss: float, gradients: list[Tensor]) -> tuple[float, float]:
    """Relative errors of the loss and, in norm, of the gradients; of a map [B, D, h, w] also what lies outside the
    pixels of the truth."""
    squares = total = 0.0
    for (index, wanted), got in zip(truth.gradients, gradients, strict=True):
        rows = got.permute(0, 2, 3, 1).flatten(0, 2) if got.dim() == 4 else got
        squares += float((rows[index].double() - wanted).square().sum())
        total += float(wanted.square().sum())
        if got.dim() == 4:
            squares += float(rows.float().index_fill(0, index, 0).norm()) ** 2
    return abs(loss - truth.loss) / abs(truth.loss), (squares / total) ** 0.5


def refusal(dtype: str, loss_error: float, gradient_error: float) -> str | None:
    """Why a result is not timed; NaN is no result."""
    for name, error in (("gradient", gradient_error), ("loss", loss_error)):
        if not error <= TOLERANCE[dtype]:
            return f"wrong {name}: relative error {error:.1e}, want {TOLERANCE[dtype]:.0e} at most"
    return None
