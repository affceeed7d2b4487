"""The same loss and gradients as pytorch-metric-learning's own, through its own interface."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed")

from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss, SupConLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer, PerAnchorReducer, SumReducer
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

import fastpixcon as fpc
from fastpixcon.adapters.pytorch_metric_learning import InfoNCELoss


def rows(N: int, classes: int = 4, D: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(N, D, dtype=torch.float64, requires_grad=True), torch.arange(N) * 7 % classes


def same(a: Tensor, b: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    for x, y in zip(torch.autograd.grad(a, inputs), torch.autograd.grad(b, inputs), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-9)


THEIRS = {
    "negatives": lambda: NTXentLoss(temperature=0.2, reducer=PerAnchorReducer(AvgNonZeroReducer())),
    "all": lambda: SupConLoss(temperature=0.2),
}


@pytest.mark.parametrize("denominator", THEIRS)
def test_self_contrast(denominator: str) -> None:
    x, y = rows(30)
    same(InfoNCELoss(0.2, denominator)(x, y), THEIRS[denominator]()(x, y), x)


@pytest.mark.parametrize("denominator", THEIRS)
def test_a_contrast_set_of_its_own(denominator: str) -> None:
    (x, y), (c, k) = rows(25, classes=5), rows(12)  # their reducer has no room for M > N
    ours = InfoNCELoss(0.2, denominator)(x, y, ref_emb=c, ref_labels=k)
    same(ours, THEIRS[denominator]()(x, y, ref_emb=c, ref_labels=k), x, c)


def test_rows_without_a_positive_are_no_part_of_the_mean() -> None:
    x, y = rows(20)
    y = torch.cat([y[:18], torch.tensor([77, 78])])
    same(InfoNCELoss(0.2)(x, y), THEIRS["negatives"]()(x, y), x)
    loss = InfoNCELoss(0.2)(x, torch.arange(20))
    loss.backward()
    assert loss == 0


def test_a_label_of_minus_one_leaves_a_row_out() -> None:
    x, y = rows(20)
    y[5:9] = -1
    kept = y != -1
    same(InfoNCELoss(0.2)(x, y), InfoNCELoss(0.2)(x[kept], y[kept]), x)


@pytest.mark.parametrize("reducer", [SumReducer, AvgNonZeroReducer, MeanReducer])
def test_reducers(reducer: Any) -> None:
    x, y = rows(20)
    same(InfoNCELoss(0.2, "all", reducer=reducer())(x, y), SupConLoss(0.2, reducer=reducer())(x, y), x)


def test_all_pairs_as_an_indices_tuple() -> None:
    (x, y), (c, k) = rows(12), rows(15)
    loss = InfoNCELoss(0.2)
    assert loss(x, y, get_all_pairs_indices(y)) == loss(x, y)
    assert loss(x, y, get_all_pairs_indices(y, k), c, k) == loss(x, y, None, c, k)


class Memory(CrossBatchMemory):  # type: ignore[misc]
    @classmethod
    def supported_losses(cls) -> list[str]:
        return [*super().supported_losses(), "InfoNCELoss"]


def test_cross_batch_memory_with_a_mask() -> None:
    """Anchors against a queue that they are no part of, as in MoCo."""
    losses = [Memory(loss, 8, 16) for loss in (InfoNCELoss(0.2, "all"), THEIRS["all"]())]
    for _ in range(3):
        x, y = rows(16)
        mask = torch.arange(16) >= 8
        ours, theirs = (memory(x, y, enqueue_mask=mask) for memory in losses)
        same(ours, theirs, x)


def test_a_choice_of_pairs_is_refused() -> None:
    x, y = rows(20)
    loss = InfoNCELoss()
    with pytest.raises(ValueError, match=r"indices_tuple: got 3 tensors, want None or all pairs.*mining="):
        loss(x, y, TripletMarginMiner()(x, y))
    with pytest.raises(ValueError, match=r"indices_tuple: got \d+ positive and \d+ negative pairs of 80 and 300, want"):
        loss(x, y, MultiSimilarityMiner()(x, y))
    a1, p, a2, n = get_all_pairs_indices(y)
    for wrong in ((p, p, a2, n), (a1[[0, *range(79)]], p[[0, *range(79)]], a2, n), (a1, p, a2, a2)):
        with pytest.raises(ValueError, match="indices_tuple"):
            loss(x, y, wrong)
    with pytest.raises(ValueError, match="indices_tuple"):  # a memory that the anchors are a part of
        Memory(loss, 8, 64)(x, y)


def test_other_arguments() -> None:
    x, y = rows(8)
    with pytest.raises(ValueError, match=r"distance: got .*LpDistance.*want CosineSimilarity"):
        InfoNCELoss(distance=LpDistance())
    with pytest.raises(ValueError, match="labels: got None"):
        InfoNCELoss()(x, None)
    with pytest.raises(ValueError, match="ref_labels: got None"):
        InfoNCELoss()(x, y, ref_emb=x.detach())


def test_temperature_learns_and_mining_draws_anew() -> None:
    x, y = rows(40)
    temperature = torch.nn.Parameter(torch.tensor(0.2))
    InfoNCELoss(temperature)(x, y).backward()
    assert temperature.grad is not None
    loss = InfoNCELoss(mining=fpc.Mining("random", "none", keep=(1, 3)))
    assert loss(x, y) != loss(x, y)
