"""Labels that do not count: one, or several, as the operators take them, who know one."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Void", "of_rows", "one_void", "void_labels"]

Void = int | Sequence[int]
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}  # torch compares few unsigned integers


def void_labels(ignore_index: object) -> tuple[int, ...]:
    """``ignore_index``, a label or several, in ascending order.

    Raises:
        TypeError: it is something else.
    """
    if type(ignore_index) is int:
        return (ignore_index,)
    given = [ignore_index] if isinstance(ignore_index, int) else ignore_index
    if not isinstance(given, (list, tuple, set, frozenset)) or not given:
        raise TypeError(f"ignore_index: got {ignore_index!r}, want an int, or several")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"ignore_index: got {ignore_index!r}, want an int, or several")
    return tuple(sorted(set(given)))


def one_void(labels: Tensor, ignore_index: Void) -> tuple[Tensor, int]:
    """``labels`` of a map with one label that does not count in place of several; which one. Negative ones never do."""
    void = void_labels(ignore_index)
    if len(void) == 1:
        return labels, void[0]
    first, *others = [x for x in void if 0 <= x <= torch.iinfo(labels.dtype).max] or [-1]
    labels = labels.to(WIDER.get(labels.dtype, labels.dtype))
    for other in others:
        labels = torch.where(labels == other, first, labels)
    return labels, first


def of_rows(labels: Tensor, ignore_index: Void) -> Tensor:
    """Labels of rows, int32 or int64, with -1, which leaves a row out, in place of those that do not count."""
    others = [value for value in void_labels(ignore_index) if value != -1]
    if not others:
        return labels
    limits = torch.iinfo(labels.dtype)
    for value in others:
        if limits.min <= value <= limits.max:
            labels = torch.where(labels == value, -1, labels)
    return labels
