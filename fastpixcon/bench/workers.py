"""A process for every peer and cell: forked from one that has imported torch and computed nothing, within limits of
memory and time, and driven through a pipe, so that peers take turns without sharing memory.

A worker makes its problem and answers, in this order: ``prepare``, which checks the first call's gradients against the
truth and measures the memory of the second; then ``round`` as often as asked, the median seconds of a turn's calls.
"""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

OK, MEMORY, TIME, WRONG, FAILED = "ok", "out of memory", "over the time limit", "wrong result", "failed"
ABSENT, NO_FORMULA = "not here", "can't express it"
SET_UP = 120.0  # seconds to import and to make a problem
COMPILE = 240.0  # to compile, of those that do
REST = 0.05  # seconds before a turn: for some milliseconds yet threads of the one before it spin, on the same cores
TURN = 0.1  # seconds of calls in a turn, at least: one short call tells how long threads took to wake up
OUT_OF_MEMORY = ("can't allocate", "not enough memory", "out of memory", "bad_alloc")


@dataclass(frozen=True)
class Limits:
    memory: int  # bytes a worker may add
    seconds: float  # a call


class NoResultError(Exception):
    """A worker's status other than OK, and why."""

    def __init__(self, status: str, reason: str = "") -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


SUITE = "fastpixcon.bench"
PRELOADED = ["torch", "fastpixcon", *(f"{SUITE}.{x}" for x in ("workloads", "rivals", "measure", "truth", "peers"))]
"""Modules that are imported once, before all forks."""


def _context() -> multiprocessing.context.ForkServerContext:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes beside
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class Worker:
    """A process that runs ``main(pipe, *arguments)``; what it raises is raised by ``ask``."""

    def __init__(self, main: Callable[..., None], *arguments: Any) -> None:
        context = _context()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_guarded, args=(theirs, main, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, seconds: float, question: Any = None) -> Any:
        """The next answer, to ``question`` if there is one."""
        try:
            if question is not None:
                self.pipe.send(question)
            if not self.pipe.poll(seconds):
                raise NoResultError(TIME)
            status, answer = self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join(5)
            killed = self.process.exitcode == -9  # by the kernel, where memory is short
            text = "" if killed else f"ended with status {self.process.exitcode}"
            raise NoResultError(MEMORY if killed else FAILED, text) from None
        if status != OK:
            raise NoResultError(status, answer)
        return answer

    def close(self) -> None:
        self.pipe.close()
        self.process.join(1)  # one that waits for a question ends by itself
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # compilers, too, that it has started
        self.process.kill()
        self.process.join()


def _guarded(pipe: Connection, main: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - KeOps tells what it compiles
    try:
        main(pipe, *arguments)
    except NoResultError as error:
        pipe.send((error.status, error.reason))
    except EOFError:
        pass  # nobody asks any more
    except BaseException as error:
        text = str(error) or type(error).__name__
        is_memory = isinstance(error, MemoryError) or any(word in text.lower() for word in OUT_OF_MEMORY)
        pipe.send((MEMORY, "") if is_memory else (FAILED, f"{type(error).__name__}: {text.splitlines()[0][:200]}"))


@contextlib.contextmanager
def open_worker(main: Callable[..., None], *arguments: Any) -> Iterator[Worker]:
    worker = Worker(main, *arguments)
    try:
        yield worker
    finally:
        worker.close()


def _settle(threads: int, memory: int | None) -> None:
    """Threads of PyTorch and of others' OpenMP, and the limit of memory, which allocations beyond it meet as errors."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    from fastpixcon.bench import measure

    torch.set_num_threads(threads)
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (measure.status("VmData") + memory, resource.RLIM_INFINITY))


def _map_large_blocks() -> None:
    """From glibc's heap every aligned block of [I, M] leaves a hole that the next one does not fit into: 16 MiB more a
    round, where mapped ones are returned."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD


def write_truth(pipe: Connection, cell: Any, path: str) -> None:
    """Main of the process that makes the truth of a cell."""
    import torch

    from fastpixcon.bench import truth, workloads

    _settle(cell.threads, None)
    _map_large_blocks()
    torch.save(truth.of_rows(workloads.rows(cell))._asdict(), path)
    pipe.send((OK, None))


def serve(pipe: Connection, cell: Any, peer: Any, truth_path: str | None, device: str, limits: Limits) -> None:
    """Main of a peer's process."""
    from fastpixcon.bench import measure, workloads

    _settle(cell.threads, limits.memory)
    problem = workloads.problem(cell, device)
    loss = peer.make(problem)
    if isinstance(loss, str):
        raise NoResultError(NO_FORMULA, loss)
    if not peer.compiles:
        small = workloads.problem(workloads.tiny(cell), device)
        _call(peer.make(small), small)()
        for leaf in small.leaves:
            leaf.grad = None
    call = _call(loss, problem)
    pipe.send((OK, None))
    first = _measured(call, problem, device)
    reason, errors = _check(loss, call.result, problem, truth_path)
    if reason is not None:
        raise NoResultError(WRONG, reason)
    # Beyond the limit, where only the library itself may go, one call tells all; unless it has compiled.
    again = first if first["seconds"] > limits.seconds and not peer.compiles else None
    pipe.send((OK, errors))
    if again is None:
        _forget(call, problem)
        again = _measured(call, problem, device)
    pipe.send((OK, again))
    while True:
        pipe.recv()
        times: list[float] = []
        while sum(times) < TURN:
            _forget(call, problem)
            times.append(measure.once(call, device))
        _forget(call, problem)
        pipe.send((OK, statistics.median(times)))


class _Call:
    """Forward and backward; the gradients are made anew."""

    def __init__(self, loss: Any, problem: Any) -> None:
        self.loss, self.problem, self.result = loss, problem, None

    def __call__(self) -> None:
        for leaf in self.problem.leaves:
            leaf.grad = None
        loss = self.loss()
        if self.problem.cell.workload != "select":
            loss.backward()
            loss = loss.detach()
        self.result = loss


_call = _Call


def _forget(call: _Call, problem: Any) -> None:
    call.result = None
    for leaf in problem.leaves:
        leaf.grad = None


def _measured(call: _Call, problem: Any, device: str) -> dict[str, float]:
    """Seconds, and memory at the peak without inputs and outputs: the gradients."""
    from fastpixcon.bench import measure

    times = []
    extra = measure.peak_extra_bytes(lambda: times.append(measure.once(call, device)), device)
    outputs = sum(leaf.grad.nbytes for leaf in problem.leaves if leaf.grad is not None)
    return {"seconds": times[0], "memory": max(0, extra - outputs)}


def _check(loss: Any, result: Any, problem: Any, truth_path: str | None) -> tuple[str | None, dict[str, float]]:
    """Why the result is wrong, or None, and its errors."""
    import torch

    from fastpixcon.bench import truth

    cell = problem.cell
    if cell.workload == "select":
        return truth.selection_error(problem, *result), {}
    if cell.workload == "step":
        reason = truth.selection_error(problem, *loss.selected())
        if reason is not None:
            return reason, {}
        wanted = truth.of_step(problem, *loss.selected())
    else:
        assert truth_path is not None
        wanted = truth.Truth(**torch.load(truth_path, weights_only=True))
    if any(leaf.grad is None for leaf in problem.leaves):
        return "no gradient", {}
    loss_error, gradient_error = truth.errors(wanted, float(result), [leaf.grad for leaf in problem.leaves])
    errors = {"loss_error": loss_error, "gradient_error": gradient_error}
    return truth.refusal(cell.dtype, loss_error, gradient_error), errors


def run_peer(worker: Worker, compiles: bool, seconds: float) -> dict[str, Any]:
    """Preparation: errors, seconds and memory of the second call; over the limit it raises."""
    worker.ask(SET_UP)
    answer: dict[str, Any] = dict(worker.ask(seconds + 30 + COMPILE * compiles))  # 30: to read and compare the truth
    return answer | worker.ask(seconds)


def take_turns(
    workers: dict[str, Worker], repeats: int, until: float, seconds: dict[str, float]
) -> Iterator[tuple[str, Any]]:
    """(peer, seconds) round after round; (peer, NoResultError) once, then without it."""
    left = dict(workers)
    for turn in range(repeats):
        if turn > 0 and time.monotonic() > until:
            return
        for name in list(left):
            time.sleep(REST)
            try:
                yield name, left[name].ask(seconds[name], "round")
            except NoResultError as error:
                yield name, error
                del left[name]
