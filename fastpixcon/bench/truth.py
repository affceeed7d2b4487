"""What a right result is: losses and gradients in float64 by blocks of rows, and the rule by which peers are refused.

Nothing of [N, M] is stored. Up to EXACT pairs all is float64; beyond, products are float32 and sums float64, and the
gradient is that of ROWS rows, drawn at random, so that the truth costs little more than a forward. Rows are sorted by
label: positives of a block of rows lie in a window of columns, and only there masks are needed.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastpixcon.bench import workloads

EXACT = 2**24  # pairs: 4,096 rows against each other
ROWS = 1024
BLOCK_ELEMENTS = 2**21  # of one block of logits
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}  # of the gradient in relative norm, and of the loss


class Truth(NamedTuple):
    loss: float
    gradients: list[tuple[Tensor, Tensor]]  # of each leaf: rows [R], and their gradient [R, D], float64


class _Statistics(NamedTuple):
    """Of each anchor, [N, 1]: enough to make dL/ds of any pair."""

    log_sum: Tensor
    weight: Tensor  # mean of the positives' pulls
    positives: Tensor  # |P_i|, 0 where the anchor does not count


class _Pairs:
    """Logits and dL/ds of any block of pairs, of unit rows sorted by label."""

    def __init__(self, problem: workloads.Rows, dtype: torch.dtype) -> None:
        self.own = problem.contrast is None
        self.negatives_only = problem.denominator == "negatives"
        unit = F.normalize(problem.anchors.detach().double(), dim=1).to(dtype)
        self.a, self.y, self.place = _sorted(unit, problem.labels)
        self.c, self.yc, self.place_c = self.a, self.y, self.place
        if problem.contrast is not None and problem.contrast_labels is not None:
            unit = problem.contrast.detach().double()
            unit = F.normalize(unit, dim=1) if problem.contrast.requires_grad else unit
            self.c, self.yc, self.place_c = _sorted(unit.to(dtype), problem.contrast_labels)
        self.losses = 0.0
        self.step = max(1, BLOCK_ELEMENTS // len(self.c))
        parts = [self._forward(i) for i in torch.arange(len(self.a)).split(self.step)]
        self.statistics = _Statistics(*(torch.cat(x) for x in zip(*parts, strict=True)))
        self.count = max(1, int((self.statistics.positives > 0).sum()))

    def masks(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Positives, and what is in the denominator's sum, [I, J]."""
        same = self.y[i, None] == self.yc[j]
        positive = same & (i[:, None] != j) if self.own else same
        return positive, ~same if self.negatives_only else ~same | positive

    def _forward(self, i: Tensor) -> _Statistics:
        """Of consecutive anchors i; with the shift 1 / temperature no exponential of unit rows overflows."""
        shift = 1 / workloads.TEMPERATURE
        s = (self.a[i] * shift) @ self.c.T  # [I, M]
        first, last = self.y[i[0]], self.y[i[-1]]
        low, high = int(torch.searchsorted(self.yc, first)), int(torch.searchsorted(self.yc, last, right=True))
        positive, summed = self.masks(i, torch.arange(low, high))  # [I, window]
        s_window = s[:, low:high].to(torch.float64, copy=True)
        e = s.sub_(shift).exp_()
        e[:, low:high].masked_fill_(~summed, 0)
        log_sum = e.sum(dim=1, keepdim=True, dtype=torch.float64).log() + shift
        positives = positive.sum(dim=1, keepdim=True)
        margin = log_sum - s_window
        losses, pull = (F.softplus(margin), margin.sigmoid()) if self.negatives_only else (margin, positive.double())
        each = 1 / positives.clamp(min=1).double()
        self.losses += float((losses.masked_fill(~positive, 0) * each).sum())
        return _Statistics(log_sum, pull.masked_fill(~positive, 0).sum(dim=1, keepdim=True) * each, positives)

    def d_logits(self, i: Tensor, j: Tensor) -> Tensor:
        """[I, J] of the mean loss."""
        s = self.a[i] @ self.c[j].T / workloads.TEMPERATURE
        positive, summed = self.masks(i, j)
        log_sum, weight, positives = (x[i] for x in self.statistics)
        margin = (log_sum - s).to(s.dtype)
        d_s = (weight.to(s.dtype) * torch.exp(-margin)).masked_fill_(~summed, 0)
        pull = margin.sigmoid_() if self.negatives_only else torch.ones_like(s)
        return d_s.sub_(pull.masked_fill_(~positive, 0).div_(positives.clamp(min=1))).div_(self.count)

    def of_anchors(self, index: Tensor) -> Tensor:
        """dL/da [R, D] through the anchors' own logits."""
        every = torch.arange(len(self.c))
        parts = [(self.d_logits(i, every) @ self.c).double() for i in self.place[index].split(self.step)]
        return torch.cat(parts) / workloads.TEMPERATURE

    def of_contrast(self, index: Tensor) -> Tensor:
        """dL/dc [R, D] through all anchors' logits."""
        j = self.place_c[index]
        d_c = torch.zeros(len(j), self.a.shape[1], dtype=torch.float64)
        for i in torch.arange(len(self.a)).split(max(1, BLOCK_ELEMENTS // len(j))):
            d_c += self.d_logits(i, j).T @ self.a[i]
        return d_c / workloads.TEMPERATURE


def _sorted(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and labels by label, and the place of each row there."""
    order = labels.argsort(stable=True)
    return rows[order].contiguous(), labels[order].contiguous(), order.argsort()


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
    from fastpixcon.bench import rivals

    index, label = index[label >= 0], label[label >= 0]
    flat = problem.embeddings.detach().permute(0, 2, 3, 1).flatten(0, 2)  # [P, D], a view where it can be
    picked = flat[index].double().requires_grad_()
    loss = rivals.info_nce(picked, label) * (workloads.TEMPERATURE / 0.07)
    (gradient,) = torch.autograd.grad(loss, picked)
    return Truth(float(loss.detach()), [(index, gradient)])


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
