"""Maps of any rank: [B, D, *S] with one (tokens), two or three (volumes) sizes in S. Their checks, and how operators
see them: as maps of two sizes.

Pixel index = b*prod(S) + the place in S, last size fastest. A map folds into rows and columns without changing it: [n]
is one row, [d, h] are d*h rows, and to row z*h + y of those the nearest of d*H is row floor((z*h + y)*H/h) = z*H +
floor(y*H/h): what is nearest in y stays so where both maps have the same depth.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastpixcon.ops.checks import DEFAULT_NUM_CLASSES, positive_int, same_device, tensor
from fastpixcon.ops.void import WIDER, Void

SIZES = {1: ("n",), 2: ("h", "w"), 3: ("d", "h", "w")}  # of a map, by how many they are
_LABEL_SIZES = {1: ("N",), 2: ("H", "W"), 3: ("D", "H", "W")}
_WORDS = {1: "one size", 2: "two sizes", 3: "three sizes"}


class Selection(NamedTuple):
    """How anchors are selected, as :func:`fastpixcon.functional.select_anchors` has it."""

    num_classes: int | None
    max_samples: int
    max_views: int
    min_pixels: int | None
    ignore_index: Void

    def check(self) -> None:
        """Of numbers; ``ignore_index`` is checked where it is used."""
        positive_int("max_samples", self.max_samples)
        positive_int("max_views", self.max_views)
        if self.min_pixels is not None:
            positive_int("min_pixels", self.min_pixels)
        if self.num_classes is not None:
            positive_int("num_classes", self.num_classes)

    @property
    def least(self) -> int:
        """Pixels of the smallest segment that takes part."""
        return self.max_views + 1 if self.min_pixels is None else self.min_pixels


def _shape(axes: Sequence[str]) -> str:
    return f"[{', '.join(axes)}]"


def _map(name: str, value: object, lead: tuple[str, ...], sizes: dict[int, tuple[str, ...]], floating: bool) -> int:
    """Checks a map [*lead, *S]; returns how many sizes S has."""
    rank = value.dim() - len(lead) if isinstance(value, Tensor) else 2
    if rank in sizes:
        tensor(name, value, (*lead, *sizes[rank]), floating=floating)
        return rank
    shapes = [_shape((*lead, *sizes[n])) for n in (1, 2, 3)]
    assert isinstance(value, Tensor)
    raise ValueError(f"{name}: got shape {tuple(value.shape)}, want {shapes[0]}, {shapes[1]} or {shapes[2]}")


def _embeddings(value: object) -> int:
    return _map("embeddings", value, ("B", "D"), SIZES, floating=True)


def _labels(value: object) -> int:
    return _map("labels", value, ("B",), _LABEL_SIZES, floating=False)


def _predictions(value: object) -> int:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"predictions: got {type(value).__name__}, want an integer tensor [B, h, w]"
            " or floating point logits [B, K, h, w]"
        )
    logits = value.dtype.is_floating_point
    return _map("predictions", value, ("B", "K") if logits else ("B",), SIZES, floating=logits)


def _wanted(name: str, value: Tensor, rank: int) -> str:
    if name == "labels":
        return _shape(("B", *_LABEL_SIZES[rank]))
    channels = {"embeddings": ("D",), "predictions": ("K",) if value.dtype.is_floating_point else ()}
    return _shape(("B", *channels[name], *SIZES[rank]))


def _same_rank(ranks: dict[str, int], maps: dict[str, Tensor]) -> None:
    """Names the map whose number of sizes is not that of the others; of two the one that has fewer, as a batch of one
    is forgotten more often than a size is added, unless labels have a channel of their own."""
    if len(set(ranks.values())) == 1:
        return
    counts = list(ranks.values())
    name = min(ranks, key=lambda x: (counts.count(ranks[x]), ranks[x]))
    if ranks["labels"] == max(counts) and maps["labels"].shape[1] == 1:
        name = "labels"
    other = next(x for x in ranks if ranks[x] != ranks[name])
    raise ValueError(
        f"{name}: got shape {tuple(maps[name].shape)}, want {_wanted(name, maps[name], ranks[other])}, with"
        f" {_WORDS[ranks[other]]} as {other} {tuple(maps[other].shape)}"
    )


def _pixels(labels: Tensor, lead: int, other: Tensor) -> None:
    """Where there are pixels, there are labels to bring to them."""
    if 0 in labels.shape[1:] and 0 not in other.shape[lead:]:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, want at least one pixel an image")


def _same_images(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.shape[0] != other.shape[0]:
        raise ValueError(f"{name}: got {value.shape[0]} images, want {other.shape[0]} as in {other_name}")


def check_embeddings(embeddings: object) -> None:
    _embeddings(embeddings)


def check_index(index: object, embeddings: Tensor) -> None:
    tensor("index", index, ("N",), floating=False)
    assert isinstance(index, Tensor)
    if index.dtype != torch.int64:
        raise TypeError(f"index: got dtype {index.dtype}, want torch.int64")
    same_device("index", index, "embeddings", embeddings)


def check_selection(labels: object, predictions: object, selection: Selection) -> Selection:
    """Checks the arguments of select_anchors; returns the selection with its number of classes."""
    ranks = {"labels": _labels(labels), "predictions": _predictions(predictions)}
    assert isinstance(labels, Tensor)
    assert isinstance(predictions, Tensor)
    _same_rank(ranks, {"labels": labels, "predictions": predictions})
    same_device("predictions", predictions, "labels", labels)
    _same_images("predictions", predictions, "labels", labels)
    return _selection(labels, predictions, selection)


def _selection(labels: Tensor, predictions: Tensor, selection: Selection) -> Selection:
    selection.check()
    num_classes = selection.num_classes
    logits = predictions.dtype.is_floating_point
    _pixels(labels, 1 + logits, predictions)
    if not logits:
        return selection._replace(num_classes=DEFAULT_NUM_CLASSES if num_classes is None else num_classes)
    channels = predictions.shape[1]
    if channels == 0 or (num_classes is not None and channels != num_classes):
        wanted = "at least one" if num_classes is None else f"{num_classes} (num_classes)"
        raise ValueError(f"predictions: got logits of {channels} classes, want {wanted}")
    return selection._replace(num_classes=channels)


def check_memory_rows(embeddings: object, labels: object, num_classes: int, pixels_per_image: int) -> None:
    ranks = {"embeddings": _embeddings(embeddings), "labels": _labels(labels)}
    assert isinstance(embeddings, Tensor)
    assert isinstance(labels, Tensor)
    _same_rank(ranks, {"embeddings": embeddings, "labels": labels})
    same_device("labels", labels, "embeddings", embeddings)
    positive_int("num_classes", num_classes)
    positive_int("pixels_per_image", pixels_per_image)
    _same_images("labels", labels, "embeddings", embeddings)
    _pixels(labels, 2, embeddings)


def check_contrast(embeddings: object, labels: object, predictions: object, selection: Selection) -> Selection:
    """Checks maps [B, D, *S], [B, *S'] and [B, (K,) *S] of the same images, and how anchors are selected; returns that
    with the number of classes."""
    ranks = {"embeddings": _embeddings(embeddings), "labels": _labels(labels), "predictions": _predictions(predictions)}
    assert isinstance(embeddings, Tensor)
    assert isinstance(labels, Tensor)
    assert isinstance(predictions, Tensor)
    maps = {"embeddings": embeddings, "labels": labels, "predictions": predictions}
    _same_rank(ranks, maps)
    for name in ("labels", "predictions"):
        same_device(name, maps[name], "embeddings", embeddings)
        _same_images(name, maps[name], "embeddings", embeddings)
    if predictions.shape[-ranks["predictions"] :] != embeddings.shape[2:]:
        wanted = ", ".join(map(str, embeddings.shape[2:]))
        raise ValueError(f"predictions: got shape {tuple(predictions.shape)}, want [..., {wanted}] as in embeddings")
    return _selection(labels, predictions, selection)


def check_weights(weights: object, embeddings: Tensor, labels: Tensor) -> None:
    """[B, *S'] as labels, or [B, *S] as the map; whether they are >= 0 is looked at where they are used."""
    rank = embeddings.dim() - 2
    tensor("weights", weights, ("B", *SIZES[rank]), floating=True)
    assert isinstance(weights, Tensor)
    if weights.requires_grad:
        raise ValueError("weights: got weights that require a gradient, want them detached: they would get none")
    same_device("weights", weights, "embeddings", embeddings)
    wanted = (tuple(labels.shape), (len(embeddings), *embeddings.shape[2:]))
    if tuple(weights.shape) not in wanted:
        raise ValueError(f"weights: got shape {tuple(weights.shape)}, want {wanted[0]} as labels or {wanted[1]}")


def at_pixels(values: Tensor, index: Tensor, sizes: Sequence[int]) -> Tensor:
    """``values [B, *S']`` at pixels of a map of ``sizes`` S, the nearest as of labels, [N]; of index -1 zeros."""
    rest, place, stride = index.clamp(min=0), torch.zeros_like(index), 1
    for size, own in zip(reversed(sizes), reversed(values.shape[1:]), strict=True):
        place = place + rest % size * own // size * stride
        rest, stride = rest // size, stride * own
    found = values.reshape(-1)[place + rest * stride] if values.numel() else values.new_zeros(len(index))
    return found.where(index >= 0, 0)


def folded(x: Tensor, lead: int) -> Tensor:
    """``x [*lead, *S]`` as [*lead, rows, columns], pixels in their order; ``lead`` sizes before S. A view, but of a
    volume with gaps between its rows as well as between its planes, which is copied."""
    rank = x.dim() - lead
    if rank == 1:
        return x.unsqueeze(lead)
    if rank == 2:
        return x
    stride_d, stride_h, stride_w = x.stride()[lead:]
    planes, rows = stride_d == x.shape[-2] * stride_h, stride_h == x.shape[-1] * stride_w
    return x.flatten(lead + 1) if rows and not planes else x.flatten(lead, lead + 1)


def folded_rows(x: Tensor, lead: int) -> Tensor:
    """:func:`folded`, where it matters which sizes are rows: [d, h, w] as [d*h, w]. Gaps between planes: a copy."""
    return x.flatten(lead, lead + 1) if x.dim() - lead == 3 else folded(x, lead)


def folded_labels(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """``labels [B, *S']`` for a map of ``sizes`` S that is :func:`folded_rows`: of a volume those of the nearest planes
    alone, floor(z*D/d), if it has others."""
    if labels.dim() == 4 and labels.shape[1] != sizes[0]:
        planes = torch.arange(sizes[0], device=labels.device) * labels.shape[1] // sizes[0]
        labels = labels.to(WIDER.get(labels.dtype, labels.dtype)).index_select(1, planes)
    return folded_rows(labels, 1)
