"""The Cases of info_nce as a user's loss is given them, what is special of each, and which are left out."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastpixcon.functional.rows import DENOMINATORS
from fastpixcon.testing.accuracy import leaves, with_layout
from fastpixcon.testing.info_nce import InfoNCECase
from fastpixcon.testing.tolerances import eager_tol
from fastpixcon.values import Rows

COARSE = 0.25  # nats: where rounding alone may take more, a loss says nothing


class Claims(NamedTuple):
    """What a loss says it computes, as :func:`fastpixcon.testing.check` has it."""

    denominators: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    normalize: bool
    temperature: float | None
    temperature_gradient: bool
    strict: bool
    without: tuple[str, ...]
    device: torch.device


class Problem(NamedTuple):
    """A Case with its rows, which may be fewer than it makes; in memory order, on the CPU."""

    case: InfoNCECase
    anchors: Rows
    contrast: Rows | None

    @classmethod
    def of(cls, case: InfoNCECase) -> "Problem":
        anchors, *others = (x._replace(x=x.x.contiguous()) for x in case.sets() if x is not None)
        return cls(case, anchors, others[0] if others else None)

    @property
    def sets(self) -> list[Rows]:
        return [self.anchors] if self.contrast is None else [self.anchors, self.contrast]

    @property
    def arguments(self) -> list[Any]:
        return leaves("info_nce", self.anchors, self.contrast, self.case.rule(), self.case.rows)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """[N, M] bool: positives, negatives."""
        y, v = self.anchors.labels, self.sets[-1].labels
        both = (y != -1)[:, None] & (v != -1)
        same = y[:, None] == v
        itself = torch.eye(len(y), dtype=torch.bool) if self.contrast is None else torch.zeros_like(same)
        return same & both & ~itself, both & ~same

    def has_positive(self) -> Tensor:
        return self.pairs()[0].any(dim=1)

    def leaves(self, device: torch.device) -> list[Tensor]:
        """Rows in the layout of the Case, that want a gradient."""
        return [with_layout(s.x.clone().to(device), self.case.layout).requires_grad_() for s in self.sets]


def _lonely(p: Problem) -> bool:
    has = p.has_positive()[p.anchors.labels != -1]
    return bool(has.any()) and not bool(has.all())


def _no_negatives(p: Problem) -> bool:
    positives, negatives = (x.any(dim=1) for x in p.pairs())
    return bool((positives & ~negatives).any())


def _any_row(p: Problem, what: Callable[[Rows], Tensor]) -> bool:
    return any(bool(what(s).any()) for s in p.sets)


class Feature(NamedTuple):
    group: str
    meaning: str
    has: Callable[[Problem], bool]


def _same(field: str, value: object) -> Callable[[Problem], bool]:
    return lambda p: bool(getattr(p.case, field) == value)


# What a table has a row for, and ``without`` leaves out
FEATURES: dict[str, Feature] = {
    **{str(x).removeprefix("torch."): Feature("dtype", "of the rows", _same("dtype", x))
       for x in (torch.float32, torch.bfloat16, torch.float16)},
    **{x: Feature("denominator", "", _same("denominator", x)) for x in DENOMINATORS},
    "self-contrast": Feature("contrast", "the anchors are the contrast rows", lambda p: p.contrast is None),
    "separate": Feature("contrast", "contrast rows of their own", lambda p: p.contrast is not None),
    "few-rows": Feature("shape", "1 to 3 anchors", lambda p: 1 <= p.case.N <= 3),
    "many-rows": Feature("shape", "257 anchors or more", lambda p: p.case.N >= 257),
    "narrow": Feature("shape", "1 to 3 features", lambda p: p.case.D <= 3),
    "wide": Feature("shape", "512 features or more", lambda p: p.case.D >= 512),
    "contiguous": Feature("layout", "rows in memory order", _same("layout", "contiguous")),
    "strided": Feature("layout", "features two apart", _same("layout", "strided")),
    "offset": Feature("layout", "a part of wider rows, at odd addresses", _same("layout", "offset")),
    "transposed": Feature("layout", "columns in memory order", _same("layout", "transposed")),
    **{f"T={x:g}": Feature("temperature", "", _same("temperature", x)) for x in (1.0, 0.1, 0.07, 0.025, 0.01)},
    "lonely-anchors": Feature("edge", "some anchors have no positive", _lonely),
    "no-positives": Feature("edge", "none has one", lambda p: p.case.N > 0 and not bool(p.has_positive().any())),
    "no-negatives": Feature("edge", "an anchor has positives alone", _no_negatives),
    "ignored-labels": Feature("edge", "rows of label -1, which take no part",
                              lambda p: _any_row(p, lambda s: s.labels == -1)),
    "int32-labels": Feature("edge", "labels of 32 bits", _same("label_dtype", torch.int32)),
    "wide-labels": Feature("edge", "labels that differ above 32 bits alone",
                           lambda p: _any_row(p, lambda s: s.labels.long() >= 2**32)),
    "zero-rows": Feature("edge", "rows of zeros, whose cosines and, normalised, gradients are 0",
                         lambda p: _any_row(p, lambda s: (s.x == 0).all(dim=1))),
    "large-norms": Feature("edge", "norms of 30 or 10,000", lambda p: p.case.norm > 1),
    "no-rows": Feature("edge", "no anchors, or no contrast rows", lambda p: any(len(s.x) == 0 for s in p.sets)),
}  # fmt: skip
EDGES = tuple(name for name, feature in FEATURES.items() if feature.group == "edge")


def features(problem: Problem) -> tuple[str, ...]:
    return tuple(name for name, feature in FEATURES.items() if feature.has(problem))


class Posed(NamedTuple):
    problem: Problem
    features: tuple[str, ...]


def pose(cases: Sequence[InfoNCECase], claims: Claims, separate: bool) -> tuple[list[Posed], dict[str, int]]:
    """What a loss is asked, each Case under each denominator; how many are left out, by reason. ``separate``: it takes
    contrast rows of their own."""
    left_out: Counter[str] = Counter()
    posed = []
    rules = sum(bool(case.rule_of_pairs) for case in cases)
    if rules:
        left_out["a rule of pairs, which check does not pass"] = rules
    for case in dict.fromkeys(_as_claimed(x, d, claims) for x in cases if not x.rule_of_pairs for d in DENOMINATORS):
        why = _unclaimed(case, claims, separate)
        if not why:
            problem = Problem.of(case)
            found = features(problem)
            why = next((f"without {name}" for name in found if name in claims.without), "")
            if not why:
                posed.append(Posed(problem, found))
        if why:
            left_out[why] += 1
    return posed, dict(left_out)


def _as_claimed(case: InfoNCECase, denominator: str, claims: Claims) -> InfoNCECase:
    """Raw rows of a loss that normalises; of one that does not, unit rows where the Case has raw ones."""
    rows = "raw" if claims.normalize else "unit" if case.rows == "raw" else case.rows
    norm = 1.0 if rows == "unit" else case.norm
    temperature = case.temperature if claims.temperature is None else claims.temperature
    return replace(case, denominator=denominator, rows=rows, norm=norm, temperature=temperature)


def _unclaimed(case: InfoNCECase, claims: Claims, separate: bool) -> str:
    dtype = str(case.dtype).removeprefix("torch.")
    if case.denominator not in claims.denominators:
        return f"denominator {case.denominator}"
    if case.dtype not in claims.dtypes:
        return f"dtype {dtype}"
    if case.M is not None and not separate:
        return "separate: the loss takes no contrast"
    if not claims.strict and case.dtype.itemsize < 4 and eager_tol(case) > COARSE:
        return f"logits that {dtype} rounds by more than {COARSE} nats, if operation by operation"
    return ""
