"""The smallest input that still shows a disagreement."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastpixcon.testing.own.code import MOST_NUMBERS, code
from fastpixcon.testing.own.judge import Finding, Loss, first, judge
from fastpixcon.testing.own.problems import EDGES, Claims, Posed, Problem, features
from fastpixcon.values import Rows

ROUNDS = 4
MOST_PAIRS = 10**7  # in all trials: at most seconds


class Smallest(NamedTuple):
    problem: Problem
    finding: Finding
    code: str


def smallest(loss: Loss, posed: Posed, finding: Finding, claims: Claims) -> Smallest:
    """Of a Problem that shows a finding the least that still shows it: rows, then features, then digits.

    It has no edge that the Problem has not, or another defect might take its place.
    """
    forbidden = {name for name in EDGES if name not in posed.features} | set(claims.without)

    pairs = 0

    def shown(problem: Problem) -> Finding | None:
        if forbidden.intersection(features(problem)):
            return None
        nonlocal pairs
        pairs += problem.case.N * len(problem.sets[-1].x)
        if pairs > MOST_PAIRS:
            return None
        found = first(judge(loss, problem, claims))
        return found if found is not None and found.key == finding.key else None

    def shows(problem: Problem) -> bool:
        return shown(problem) is not None

    problem = _simpler(posed.problem, shows, claims)
    for _ in range(ROUNDS):
        before = problem
        problem = _fewer_classes(problem, shows)
        for number in range(len(problem.sets)):
            problem = _fewer(problem, len(problem.sets[number].x), _rows_of(number), shows)
        problem = _fewer(problem, problem.case.D, _features_of, shows)
        if problem is before:
            break
    problem = _plainer(problem, shows)
    found = first(judge(loss, problem, claims)) or finding
    if sum(s.x.numel() for s in problem.sets) > MOST_NUMBERS:  # little was left out
        problem, found = posed.problem, finding
    return Smallest(problem, found, code(loss, problem, found, claims))


def _simpler(problem: Problem, shows: Callable[[Problem], bool], claims: Claims) -> Problem:
    """In plain float32 in memory order at an ordinary temperature, each if it shows there, too."""
    changes: list[dict[str, Any]] = [{"layout": "contiguous"}, {"d_loss": "expanded"}]
    if torch.float32 in claims.dtypes:
        changes.insert(0, {"dtype": torch.float32})
    if claims.temperature is None:
        changes += [{"temperature": x} for x in (0.1, 1.0)]
    for change in changes:
        case = replace(problem.case, **change)
        sets = [s._replace(x=s.x.to(case.dtype)) for s in problem.sets]
        candidate = _with(problem._replace(case=case), sets)
        if case != problem.case and shows(candidate):
            problem = candidate
    return problem


def _with(problem: Problem, sets: list[Rows]) -> Problem:
    anchors, *others = sets
    N, D = anchors.x.shape
    case = replace(problem.case, N=N, D=D, M=len(others[0].x) if others else None)
    return Problem(case, anchors, others[0] if others else None)


def _rows_of(number: int) -> Callable[[Problem, Tensor], Problem]:
    def kept(problem: Problem, index: Tensor) -> Problem:
        sets = list(problem.sets)
        sets[number] = Rows(sets[number].x[index], sets[number].labels[index])
        return _with(problem, sets)

    return kept


def _features_of(problem: Problem, index: Tensor) -> Problem:
    return _with(problem, [s._replace(x=s.x[:, index].contiguous()) for s in problem.sets])


def _fewer_classes(problem: Problem, shows: Callable[[Problem], bool]) -> Problem:
    """Rows of a class go together: one that is left would be alone, which is an edge of its own."""
    for label in torch.cat([s.labels for s in problem.sets]).unique():
        candidate = _with(problem, [Rows(s.x[s.labels != label], s.labels[s.labels != label]) for s in problem.sets])
        if shows(candidate):
            problem = candidate
    return problem


def _fewer(
    problem: Problem, count: int, kept: Callable[[Problem, Tensor], Problem], shows: Callable[[Problem], bool]
) -> Problem:
    """Leaves out what it can: halves, then quarters, at last one by one."""
    index = torch.arange(count)
    whole, size = problem, count
    while size > 1:
        size = (size + 1) // 2
        start = 0
        while start < len(index):
            rest = torch.cat([index[:start], index[start + size :]])
            if 0 < len(rest) < len(index) and shows(kept(whole, rest)):
                index = rest
            else:
                start += size
    return problem if len(index) == count else kept(whole, index)


def _plainer(problem: Problem, shows: Callable[[Problem], bool]) -> Problem:
    """Labels from 0 on, numbers of few digits."""
    every = torch.cat([s.labels for s in problem.sets])
    names = every[every != -1].unique()
    numbered = [s._replace(labels=_numbered(s.labels, names)) for s in problem.sets]
    candidate = _with(problem, numbered)
    if shows(candidate):
        problem = candidate
    for digits in (0, 1, 2, 3):
        rounded = [s._replace(x=s.x.double().round(decimals=digits).to(s.x.dtype)) for s in problem.sets]
        candidate = _with(problem, rounded)
        if shows(candidate):
            return candidate
    return problem


def _numbered(labels: Tensor, names: Tensor) -> Tensor:
    return torch.searchsorted(names, labels).to(labels.dtype).where(labels != -1, -1)
