"""What a step across ranks sends and holds, measured on real processes; started by test_plan.py."""

import importlib
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastpixcon
import fastpixcon.contrast
import fastpixcon.distributed
import fastpixcon.distributed.ring
from fastpixcon.distributed.ranks import ALL_GATHER, REDUCE_SCATTER
from fastpixcon.values import Rows, Rule


class LiveBytes(TorchDispatchMode):
    """The most bytes at a time of storages made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            storage = x.untyped_storage() if isinstance(x, Tensor) else None
            if storage is not None and id(storage) not in self.live and id(storage) not in given:
                self.live[id(storage)] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, id(storage))
        self.peak = max(self.peak, sum(self.live.values()))
        return result


def measured(rank: int, size: int, across: str, n: int, dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes sent, and held at the peak beyond the rows given, of a step whose operators keep nothing of their own."""
    sent = 0

    def counted(name: str, bytes_of: Callable[..., float]) -> None:
        original = getattr(dist, name)

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal sent
            sent += round(bytes_of(*arguments))
            return original(*arguments, **more)

        setattr(dist, name, call)

    counted(ALL_GATHER, lambda out, x: (size - 1) * x.nbytes)
    counted(REDUCE_SCATTER, lambda out, x: (size - 1) / size * x.nbytes)
    counted("all_reduce", lambda x: 2 * (size - 1) / size * x.nbytes)
    counted("batch_isend_irecv", lambda ops: sum(op.tensor.nbytes for op in ops if op.op is dist.isend))
    contracts = ("contrast_sums", "contrast_positives", "contrast_gradient")
    outputs = {name: importlib.import_module(f"fastpixcon.ops.{name}").fake for name in contracts}
    for module in (fastpixcon.contrast, fastpixcon.distributed.ring):
        module.call = lambda name, _like, _backend, *values: outputs[name](*values)  # allocates what it returns
    rows = torch.zeros(n, dim, dtype=dtype, requires_grad=True)
    labels = torch.zeros(n, dtype=torch.int32)
    ranks = fastpixcon.distributed.Ranks(dist.group.WORLD, across)
    how = fastpixcon.contrast.how_to(mining=None, use_batch=True, backend="auto")
    given = (Rows(rows, labels), Rule(torch.tensor(0.1), "negatives", fixed_shift=True, is_sorted=False))
    with LiveBytes() as memory:
        loss, _ = fastpixcon.distributed.ranks_loss(*given, bank=None, seed=None, how=how, ranks=ranks)
        loss.sum().backward()
    return sent, memory.peak


def measured_all(rank: int, size: int, ways: list[tuple[str, str]], n: int, dim: int) -> list[tuple[int, int]]:
    """Of every way (across, dtype) in turn: processes take longer to start than to run one."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return [measured(rank, size, across, n, dim, dtypes[dtype]) for across, dtype in ways]
