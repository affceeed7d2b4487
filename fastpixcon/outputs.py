"""Logits in whatever a segmentation network returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

LOGITS, AUXILIARY = ("logits", "out"), ("auxiliary", "aux")
WANT = "want logits [B, K, H, W]: a tensor, 'logits' or 'out' of a mapping, or .logits"


def segmentation(output: Any) -> dict[str, Tensor]:
    """{"logits"} and, of a mapping with them, {"auxiliary"}.

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


def _search(output: Any) -> dict[str, Tensor] | None:
    if isinstance(output, Tensor):
        return {"logits": output} if is_map(output) else None
    if isinstance(output, Mapping):
        return _of_mapping(output)
    if isinstance(output, tuple) and set(LOGITS) & set(getattr(output, "_fields", ())):
        return _of_mapping(output._asdict())  # type: ignore[attr-defined]
    if isinstance(output, tuple | list):
        # [B, H, W] may be the loss of each pixel, before logits [B, K, H, W].
        found = [x for x in map(_search, output) if x is not None]
        return next((x for x in found if x["logits"].ndim > 3), found[0] if found else None)
    logits: Any = getattr(output, "logits", None)
    return {"logits": logits} if is_map(logits) else None


def _of_mapping(output: Mapping[str, Any]) -> dict[str, Tensor] | None:
    found = {}
    for ours, names in (("logits", LOGITS), ("auxiliary", AUXILIARY)):
        given = {name: output[name] for name in names if output.get(name) is not None}
        maps = [x for x in given.values() if is_map(x)]
        if any(x is not maps[0] for x in maps) or (given and not maps and ours == "auxiliary"):
            raise TypeError(f"model: its output has {_described(given)}, want {ours} [B, K, H, W], one of them")
        if maps:
            found[ours] = maps[0]
    return found if "logits" in found else None


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
