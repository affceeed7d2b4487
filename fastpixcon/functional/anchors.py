"""Anchors of maps: which pixels, and their rows."""

from typing import Any, NamedTuple

from torch import Tensor

from fastpixcon.ops import checks, maps
from fastpixcon.ops.backends import call
from fastpixcon.ops.void import Void, one_void, void_labels

__all__ = [
    "SelectedAnchors",
    "gather_normalize",
    "gathered",
    "select_anchors",
    "select_with_segments",
    "selection_arguments",
]


class SelectedAnchors(NamedTuple):
    """Anchors in order (class, image, pixel), padded to a static length.

    Attributes:
        index: [max_samples] int64, b*h*w + y*w + x, of any S b*prod(S) + its place in S; padded with -1.
        label: [max_samples] int32, the class, padded with -1.
        count: [1] int32, the anchors before the padding; on the device of the labels.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index; [max_samples] int64, b*prod(S) + place in S, padding -1
    label: Tensor  # [max_samples] int32, padding -1
    count: Tensor  # type: ignore[assignment]  # hides tuple.count; [1] int32, anchors before the padding


def select_anchors(
    labels: Tensor,
    predictions: Tensor,
    *,
    num_classes: int | None = None,
    max_samples: int = 1024,
    max_views: int = 100,
    min_pixels: int | None = None,
    ignore_index: Void = 255,
    seed: int | Tensor = 0,
    backend: str = "auto",
) -> SelectedAnchors:
    """Class-aware hard-anchor selection (Wang et al. 2021, segmentation-aware hard anchor sampling).

    Of every class in every image, a segment, about as many wrongly predicted (hard) as rightly predicted (easy)
    pixels are drawn, ``min(max_views, max_samples // segments)`` in all, or all of a segment that has fewer. Segments
    of fewer than ``min_pixels`` pixels do not count.

    Args:
        labels: ``[B, *S']``, any integer dtype, S' of one (tokens), two or three (volumes) sizes; brought to S by
            nearest in each of them, source index floor(i*S'/S).
        predictions: ``[B, *S]`` integer classes, or logits ``[B, K, *S]``, whose argmax is taken.
        num_classes: K; None: K of the logits, else 256.
        max_samples: length of the result.
        max_views: the most pixels drawn of one class in one image.
        min_pixels: the smallest segment that takes part, in pixels of the map; None: max_views + 1, as published,
            which leaves out small objects.
        ignore_index: label, or several, that do not count, nor do negative ones.
        seed: int or [] int64 tensor on the device of labels. The same seed selects the same pixels on
            every backend and device.
        backend: "auto", "reference", "native" or "triton".

    Returns:
        :class:`SelectedAnchors` of static length, on the device of labels.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
    """
    asked = maps.Selection(num_classes, max_samples, max_views, min_pixels, ignore_index)
    selection = maps.check_selection(labels, predictions, asked)
    void_labels(ignore_index)  # raises
    return select_with_segments(labels, predictions, selection, seed, backend)[0]


def select_with_segments(
    labels: Tensor, predictions: Tensor, selection: maps.Selection, seed: int | Tensor, backend: str
) -> tuple[SelectedAnchors, Tensor]:
    """Of checked arguments the anchors; of every class the segments that give some, and those that are left out,
    [2, K]."""
    given = selection_arguments(labels, predictions, selection, seed)
    *selected, segments = call("select_anchors", given[0], backend, *given)
    return SelectedAnchors(*selected), segments


def selection_arguments(
    labels: Tensor, predictions: Tensor, selection: maps.Selection, seed: int | Tensor
) -> tuple[Any, ...]:
    """Those of the operator, of checked ones."""
    logits = predictions.is_floating_point()
    labels, void = one_void(maps.folded_labels(labels, predictions.shape[1 + logits :]), selection.ignore_index)
    predictions = maps.folded_rows(predictions.detach(), 1 + logits)
    seed = checks.seed_tensor(seed, labels.device)
    sizes = (selection.num_classes, selection.max_samples, selection.max_views, selection.least)
    return labels, predictions, seed, *sizes, void


def gather_normalize(embeddings: Tensor, index: Tensor, *, backend: str = "auto") -> Tensor:
    """Pixels of a feature map as unit rows: ``normalize(embeddings.movedim(1, -1).reshape(-1, D)[index])``, but
    only the pixels in ``index`` are read. Differentiable in ``embeddings``.

    Args:
        embeddings: ``[B, D, *S]`` floating, S of one, two or three sizes, any strides: channels first or last, tokens
            [B, n, D] as ``.mT``. Only a volume with gaps between its rows and between its planes is copied.
        index: [N] int64, b*prod(S) + place in S, as b*h*w + y*w + x; -1 gives a zero row. Equal indices add up in
            the gradient.
        backend: "auto", "reference", "native" or "triton".

    Returns:
        [N, D] rows of norm 1 in the dtype of embeddings; zero where ``|e| < 1e-12``, without gradient.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for an index outside the map.
    """
    maps.check_embeddings(embeddings)
    maps.check_index(index, embeddings)
    return gathered(embeddings, index, backend)


def gathered(embeddings: Tensor, index: Tensor, backend: str) -> Tensor:
    """:func:`gather_normalize` of checked arguments."""
    rows: Tensor
    rows, _inv_norm = call("gather_normalize", embeddings, backend, maps.folded(embeddings, 2), index)
    return rows
