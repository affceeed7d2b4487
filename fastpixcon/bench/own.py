"""A user's own loss as a peer: what ``fastpixcon check`` takes, on every workload that its formula can express.

The file is executed in the processes of its peer alone, once in each.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from fastpixcon.bench import workers
from fastpixcon.bench.peers import Loss, Peer, eager_step
from fastpixcon.bench.workloads import TEMPERATURE, Maps, Rows
from fastpixcon.testing.own import file
from fastpixcon.testing.own.judge import Loss as Function
from fastpixcon.testing.own.judge import no_loss

DENOMINATORS = ("negatives", "all")  # of the workloads
_FILES = contextlib.ExitStack()  # stays open as long as the process


def peer(text: str, denominators: Sequence[str]) -> Peer:
    """Of ``FILE.py:FUNCTION``.

    Raises:
        FileError: what is wrong with it.
    """
    file.split(text)
    with workers.open_worker(_look, text, tuple(denominators)) as worker:
        try:
            worker.ask(workers.SET_UP)
        except workers.NoResultError as error:
            raise file.FileError(error.reason or f"{text}: {error.status} while it was loaded") from None
    # It may compile at the first call of every size, for all that is known.
    return Peer(text, "a loss of your own", partial(adapt, text, tuple(denominators)), compiles=True)


def contents(text: str) -> str:
    """By which a file that has changed is known."""
    return hashlib.sha256(file.split(text)[0].read_bytes()).hexdigest()


def _loss(text: str, denominators: tuple[str, ...]) -> Function:
    try:
        loss = Function(_FILES.enter_context(file.loaded(text)))
    except TypeError as error:
        raise file.FileError(f"{text}: {error}") from None
    if len(denominators) > 1 and "denominator" not in loss.takes:
        got = ", ".join(denominators)
        raise file.FileError(f"--denominator: got {got}, want the one that a loss without that argument computes")
    return loss


def _look(pipe: Connection, text: str, denominators: tuple[str, ...]) -> None:
    """Main of a process: whether it can be a peer at all."""
    try:
        _loss(text, denominators)
    except file.FileError as error:
        raise workers.NoResultError(workers.FAILED, str(error)) from None
    pipe.send((workers.OK, None))


def adapt(text: str, denominators: tuple[str, ...], problem: Rows | Maps) -> Loss | str:
    loss = _loss(text, denominators)
    wanted = "negatives" if isinstance(problem, Maps) else problem.denominator
    if isinstance(problem, Maps) and problem.cell.workload == "select":
        return "a loss selects nothing"
    if wanted not in denominators:
        return f'computes the denominator "{denominators[0]}", not "{wanted}"'
    rule = {"temperature": TEMPERATURE, "denominator": wanted, "normalize": True}
    if isinstance(problem, Maps):
        return eager_step(problem, lambda a, y: _mean(loss, [a], [y], rule, _counted(y, None)))
    if problem.contrast is not None and not loss.separate:
        return "takes no contrast and contrast_labels"
    rows = [x for x in (problem.anchors, problem.contrast) if x is not None]
    labels = [x for x in (problem.labels, problem.contrast_labels) if x is not None]
    counted = _counted(problem.labels, problem.contrast_labels)
    return lambda: _mean(loss, rows, labels, rule, counted)


def _counted(labels: Tensor, contrast_labels: Tensor | None) -> int:
    """Anchors that have a positive."""
    if contrast_labels is None:
        return int((torch.bincount(labels)[labels] > 1).sum())
    return int(torch.isin(labels, contrast_labels).sum())


def _mean(loss: Function, rows: list[Tensor], labels: list[Tensor], rule: dict[str, Any], counted: int) -> Tensor:
    """The loss [] of a call.

    Raises:
        NoResultError: it says that it can't express this, or what it returns is no loss.
    """
    try:
        value = loss(rows, labels, rule)
    except NotImplementedError as error:
        why = " ".join(str(error).split())
        raise workers.NoResultError(workers.NO_FORMULA, why or "raises NotImplementedError") from None
    if value is NotImplemented:
        raise workers.NoResultError(workers.NO_FORMULA, "returns NotImplemented")
    wrong = no_loss(value, len(rows[0]))
    if wrong is not None:
        raise workers.NoResultError(workers.FAILED, ": ".join(wrong))
    if not value.requires_grad:
        raise workers.NoResultError(workers.FAILED, "is not attached to the graph: it has no grad_fn")
    mean: Tensor = value if value.dim() == 0 else value.sum(dtype=torch.float32) / max(1, counted)
    return mean
