"""What every rank of a group checks, and the processes that are the ranks; started by test_distributed.py."""

import datetime
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.functional import info_nce

TIMEOUT = datetime.timedelta(seconds=20)
K = 4


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _rank(rank: int, size: int, port: int, seconds: float, check: Callable[..., Any], queue: Any, more: Any) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=seconds),
        )
        queue.put((rank, check(rank, size, *more), None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))
    queue.close()
    queue.join_thread()
    os._exit(0)  # others may be gone, and be waited for at the exit of a group


def on_ranks(size: int, check: Callable[..., Any], *more: Any, seconds: float = 20, dying: int = 0) -> list[Any]:
    """What ``check(rank, size, *more)`` returns on every rank; None of the ``dying`` ones."""
    context = mp.get_context("fork")  # nothing has run on threads or devices here that a fork would break
    queue, port = context.Queue(), free_port()
    processes = [
        context.Process(target=_rank, args=(r, size, port, seconds, check, queue, more), daemon=True)
        for r in range(size)
    ]
    for p in processes:
        p.start()
    results: list[Any] = [None] * size
    try:
        for _ in range(size - dying):
            rank, result, error = queue.get(timeout=120)
            assert error is None, f"rank {rank}:\n{error}"
            results[rank] = result
    finally:
        for p in processes:
            p.join(timeout=5)
            if p.is_alive():
                p.kill()
    return results


@dataclass(frozen=True)
class Setting:
    sizes: str = "uneven"  # even, uneven, empty (a rank without rows), ignored (a rank with label -1 only), none
    denominator: str = "negatives"
    temperature: float = 0.1
    learned: bool = False  # the temperature is a tensor with gradient
    memory: bool = False
    mining: bool = False
    contrast: str = "both"
    reduction: str = "mean"
    dtype: torch.dtype = torch.float64
    normalize: bool = True

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(5)
        numbers = [7] * size if self.sizes == "even" else [5 + 4 * ((r * 3 + 1) % 4) for r in range(size)]
        if self.sizes == "empty":
            numbers[size // 2] = 0
        if self.sizes == "none":
            numbers = [0] * size
        rows = [torch.randn(n, 6, generator=generator, dtype=torch.float64).to(self.dtype) for n in numbers]
        labels = [torch.randint(-1, K, (n,), generator=generator) for n in numbers]
        if self.sizes == "ignored":
            labels[size // 2].fill_(-1)
        return list(zip(rows, labels, strict=True))

    def options(self) -> dict[str, Any]:
        bank = None
        if self.memory:
            bank = fpc.MemoryBank(K, 6, 3, 2, dtype=self.dtype)
            generator = torch.Generator().manual_seed(6)
            rows = torch.randn(bank.rows.shape, generator=generator, dtype=torch.float64)
            bank.rows.copy_(torch.nn.functional.normalize(rows, dim=-1))
            bank.labels[:, :4] = torch.arange(K, dtype=torch.int32)[:, None]
        mining = fpc.Mining("semi-hard", "random", fraction=0.5, keep=(3, 4)) if self.mining else None
        return {
            "denominator": self.denominator, "reduction": self.reduction, "memory": bank, "mining": mining,
            "base_temperature": 0.07, "seed": 77,
        }  # fmt: skip


def loss_and_gradients(setting: Setting, rows: Tensor, labels: Tensor, **where: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = rows.clone().requires_grad_()
    tau: Any = torch.tensor(setting.temperature, dtype=setting.dtype, requires_grad=True)
    temperature = tau if setting.learned else setting.temperature
    loss = info_nce(rows, labels, temperature=temperature, **setting.options(), **where)
    loss.backward()
    return loss.detach(), rows.grad, torch.zeros_like(tau) if tau.grad is None else tau.grad


def same_as_one_process(rank: int, size: int, settings: list[Setting], across: str, backend: str) -> None:
    for setting in settings:
        batches = setting.batches(size)
        rows, labels = (torch.cat(x) for x in zip(*batches, strict=True))
        loss, d_rows, d_tau = loss_and_gradients(setting, rows, labels, backend=backend)
        first = sum(len(x) for x, _ in batches[:rank])
        where = {"process_group": dist.group.WORLD, "across": across, "backend": backend}
        own_loss, own_d_rows, own_d_tau = loss_and_gradients(setting, *batches[rank], **where)
        dist.all_reduce(own_d_tau)
        tol = {"rtol": 1e-9, "atol": 1e-12} if setting.dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-6}
        message = f"{setting}, {across}, rank {rank} of {size}"
        for actual, wanted in (
            (own_loss, loss),
            (own_d_rows / size, d_rows[first : first + len(own_d_rows)]),
            (own_d_tau / size, d_tau),
        ):
            torch.testing.assert_close(actual, wanted, **tol, msg=lambda text, m=message: f"{m}\n{text}")
