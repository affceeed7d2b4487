"""Logits in whatever a segmentation network returns."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

LOGITS, AUXILIARY, LOSS = ("logits", "out"), ("auxiliary", "aux"), ("loss",)
# Of queries: classes [B, Q, K + 1] and masks [B, Q, h, w], in transformers, detectron2 and DETR.
QUERIES = (("class_queries_logits", "masks_queries_logits"), ("pred_logits", "pred_masks"), ("logits", "pred_masks"))
NAMES = tuple(dict.fromkeys((*LOGITS, *AUXILIARY, *LOSS, *(name for pair in QUERIES for name in pair))))
WANT = "want logits [B, K, H, W]: a tensor, 'logits' or 'out' of a mapping, or .logits"


def segmentation(output: Any) -> dict[str, Tensor]:
    """{"logits"} and, of a mapping with them, {"auxiliary"} and {"loss"}.

    Raises:
        TypeError: there are none, or more than one claim to be.
    """
    found = _search(output)
    if found is None:
        raise TypeError(f"model: its output has {_described(output)}, {WANT}")
    return found


def is_map(value: Any) -> bool:
    """Scores [B, K, ...] of pixels: no loss, no labels, no scores of whole images."""
    return isinstance(value, Tensor) and value.ndim >= 3 and value.is_floating_point()


def of_queries(classes: Tensor, masks: Tensor) -> Tensor:
    """[B, K, *S], the logarithm of the scores of classes that queries give to pixels, in float32 or float64.

    scores[b, k] = sum_q softmax(classes)[b, q, k] sigmoid(masks)[b, q], without the last class, which is none.

    Args:
        classes: [B, Q, K + 1], logits.
        masks: [B, Q, *S], logits.
    """
    dtype = torch.promote_types(classes.dtype, torch.float32)
    with torch.autocast(classes.device.type, enabled=False):
        shares = classes.to(dtype).softmax(-1)[..., :-1]  # [B, Q, K]
        scores = shares.mT @ masks.to(dtype).sigmoid().flatten(2)  # [B, K, prod(S)]
    return scores.clamp_min(torch.finfo(dtype).tiny).log().unflatten(2, masks.shape[2:])


def _search(output: Any) -> dict[str, Tensor] | None:
    if isinstance(output, Tensor):
        return {"logits": output} if is_map(output) else None
    if isinstance(output, Mapping):
        return _of_mapping(output)
    if isinstance(output, tuple) and set(NAMES) & set(getattr(output, "_fields", ())):
        return _of_mapping(output._asdict())  # type: ignore[attr-defined]
    if isinstance(output, tuple | list):
        _check_unnamed(output)
        # [B, H, W] may be the loss of each pixel, before logits [B, K, H, W].
        found = [x for x in map(_search, output) if x is not None]
        return next((x for x in found if x["logits"].ndim > 3), found[0] if found else None)
    named = {name: getattr(output, name, None) for name in NAMES if name not in AUXILIARY}
    return _of_mapping(named)


def _of_mapping(output: Mapping[str, Any]) -> dict[str, Tensor] | None:
    found = {}
    for classes, masks in QUERIES:
        if _are_queries(output.get(classes), output.get(masks)):
            found["logits"] = of_queries(output[classes], output[masks])
            break
    for ours, names in (("logits", LOGITS), ("auxiliary", AUXILIARY)):
        if ours in found:
            continue
        given = {name: output[name] for name in names if output.get(name) is not None}
        maps = [x for x in given.values() if is_map(x)]
        if any(x is not maps[0] for x in maps) or (given and not maps and ours == "auxiliary"):
            raise TypeError(f"model: its output has {_described(given)}, want {ours} [B, K, H, W], one of them")
        if maps:
            found[ours] = maps[0]
    if "logits" in found and isinstance(output.get("loss"), Tensor):
        found["loss"] = output["loss"]
    return found if "logits" in found else None


def _are_queries(classes: Any, masks: Any) -> bool:
    """Classes [B, Q, K + 1] and masks [B, Q, h, w] of the same queries."""
    if not is_map(classes) or not is_map(masks) or classes.ndim != 3 or masks.ndim < 4:
        return False
    return classes.shape[:2] == masks.shape[:2] and classes.shape[2] > 1


def _check_unnamed(output: tuple[Any, ...] | list[Any]) -> None:
    """Raises if logits [B, K, H, W] may be masks of queries, whose classes lie before them without a name."""
    tensors = [x for x in output if isinstance(x, Tensor)]
    for classes, masks in itertools.pairwise(tensors):
        if _are_queries(classes, masks) and classes.shape[1:] != masks.shape[2:]:
            raise TypeError(
                f"model: its output has {_described(output)}, which may be classes and masks of queries, want them by"
                " name, as transformers gives them with return_dict=True"
            )


def _described(value: Any, depth: int = 2) -> str:
    """Types and shapes, as ``(a tensor of shape [], a tensor of shape [2, 5, 4, 4])``."""
    if isinstance(value, Tensor):
        kind = "a tensor" if value.is_floating_point() else f"a tensor of {value.dtype}"
        return f"{kind} of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        known = {name: value[name] for name in (*LOGITS, *AUXILIARY) if name in value}
        if depth and known:
            return ", ".join(f"{name!r}: {_described(x, 0)}" for name, x in known.items())
        return f"keys {list(value)}"
    if depth and isinstance(value, tuple | list):
        return f"({', '.join(_described(x, depth - 1) for x in value)})"
    if depth and hasattr(value, "logits"):
        return f"{type(value).__name__} with logits: {_described(value.logits, 0)}"
    return type(value).__name__
