"""The contrastive losses as losses of pytorch-metric-learning."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from fastpixcon import functional
from fastpixcon.functional.rows import DENOMINATORS
from fastpixcon.mining import Mining
from fastpixcon.ops import checks
from fastpixcon.ops.calls import draw_seed
from fastpixcon.pairs import Pairs, rule_of

__all__ = ["InfoNCELoss"]


class InfoNCELoss(BaseMetricLossFunction):
    """:func:`fastpixcon.functional.info_nce` behind the interface of pytorch-metric-learning.

    >>> loss = InfoNCELoss(temperature=0.07)(embeddings, labels)  # [N, D], [N]
    >>> loss = InfoNCELoss()(embeddings, labels, ref_emb=others, ref_labels=their_labels)  # [M, D], [M]

    "negatives" is their ``NTXentLoss(reducer=PerAnchorReducer(AvgNonZeroReducer()))``, "all" their ``SupConLoss``, in
    memory that grows with N + M. A label of -1 leaves a row out, where theirs takes it for a class.

    Args:
        temperature: a number > 0, or a tensor or parameter with gradient of one element, of any shape.
        denominator: "negatives", "all" or "decoupled".
        mining: a :class:`fastpixcon.Mining`, in place of the library's miners. Its draws take a number of torch's
            generator a call, as dropout does.
        pairs: a :class:`fastpixcon.Pairs` without groups, which this interface has no room for.
        reducer: of the library; it gets a loss for each anchor that has a positive. None: their mean.
        more: arguments of BaseMetricLossFunction. The distance can only be the default, cosine similarity.

    ``indices_tuple`` may be None or hold all pairs that the labels make, as ``CrossBatchMemory`` passes them with an
    ``enqueue_mask``. A choice of some pairs or triplets has no place in the kernels: it is a ValueError, never ignored.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        denominator: str = "negatives",
        mining: Mining | None = None,
        pairs: Pairs | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        checks.temperature_scale(temperature, None)
        checks.one_of("denominator", denominator, DENOMINATORS)
        if rule_of(pairs).grouped:
            raise ValueError(f"pairs: got {pairs}, want one without groups, which this interface has no room for")
        distance = self.distance
        unit = isinstance(distance, CosineSimilarity) and distance.p == 2 and distance.power == 1
        if not unit:
            raise ValueError(f"distance: got {distance}, want CosineSimilarity()")
        self.temperature, self.denominator, self.mining, self.pairs = temperature, denominator, mining, pairs
        self.add_to_recordable_attributes(list_of_names=["temperature"], is_stat=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict.pop(f"{prefix}seed", None)  # of earlier versions
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def get_default_distance(self) -> CosineSimilarity:
        return CosineSimilarity()

    def get_default_reducer(self) -> MeanReducer:
        return MeanReducer()

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: Sequence[Tensor] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, Any]:
        """What the library's forward calls: losses in nats of the anchors that have a positive, and their rows."""
        alone = ref_emb is embeddings
        if labels is None or ref_labels is None:
            raise ValueError(f"{'labels' if labels is None else 'ref_labels'}: got None, want the class of every row")
        if indices_tuple is not None:
            _check_all_pairs(indices_tuple, labels, ref_labels, alone)
        losses = functional.info_nce(
            embeddings,
            labels,
            None if alone else ref_emb,
            None if alone else ref_labels,
            temperature=self.temperature,
            denominator=self.denominator,
            reduction="none",
            mining=self.mining,
            pairs=self.pairs,
            seed=0 if self.mining is None else draw_seed(embeddings),
        )
        anchors = _with_positive(labels, ref_labels, alone).nonzero().flatten()
        if len(anchors) == 0:
            zeros: dict[str, Any] = self.zero_losses()
            return zeros
        return {"loss": {"losses": losses[anchors], "indices": anchors, "reduction_type": "element"}}


def _with_positive(labels: Tensor, ref_labels: Tensor, alone: bool) -> Tensor:
    """[N] bool: rows that share their label with a contrast row."""
    if not alone:
        return torch.isin(labels, ref_labels) & (labels != -1)
    _, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    return (counts[inverse] > 1) & (labels != -1)


def _check_all_pairs(indices_tuple: Sequence[Tensor], labels: Tensor, ref_labels: Tensor, alone: bool) -> None:
    """Raise ValueError unless (anchors, positives, anchors, negatives) are all the pairs that there are, once each."""
    want = "want None or all pairs that the labels make: mining=fastpixcon.Mining(...) takes the place of a miner"
    if len(indices_tuple) != 4:
        raise ValueError(f"indices_tuple: got {len(indices_tuple)} tensors, {want}")
    a1, p, a2, n = indices_tuple
    x, y = labels[labels != -1], ref_labels[ref_labels != -1]
    classes, counts = torch.cat([x, y]).unique(return_counts=True)
    in_x = (torch.searchsorted(classes, x)).bincount(minlength=len(classes))
    same = int((in_x * (counts - in_x)).sum())
    positives, negatives = same - (len(x) if alone else 0), len(x) * len(y) - same
    fits = (
        (len(a1), len(a2)) == (positives, negatives)
        and bool((labels[a1] == ref_labels[p]).all())
        and bool((labels[a2] != ref_labels[n]).all())
        and not (alone and bool((a1 == p).any()))
        and all(len(torch.unique(i * len(ref_labels) + j)) == len(i) for i, j in ((a1, p), (a2, n)))
    )
    if not fits:
        got = f"{len(a1)} positive and {len(a2)} negative pairs of {positives} and {negatives}"
        raise ValueError(f"indices_tuple: got {got}, {want}")
