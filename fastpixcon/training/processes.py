"""The processes that train together: torchrun starts them, this process is one of them."""

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fastpixcon.training import TrainingError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """``rank`` of ``size``; ``local``: the number of its GPU on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """The one that prints and writes."""
        return self.rank == 0

    @property
    def group(self) -> Any:
        return dist.group.WORLD if self.size > 1 else None

    def largest(self, number: int, device: torch.device) -> int:
        """Of what they say; all get the same answer."""
        if self.size == 1:
            return number
        numbers = torch.tensor([number], dtype=torch.int32, device=device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers.item())

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any of them says so; all get the same answer."""
        return bool(self.largest(int(flag), device))

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Over all of them."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def from_first(self, value: T) -> T:
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def from_all(self, value: T) -> list[T]:
        """Of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def count() -> int:
    """How many processes torchrun started, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: torch.device) -> Processes:
    """The processes that torchrun started, or this one alone."""
    if count() == 1:
        return Processes()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda" and local >= torch.cuda.device_count():
        raise TrainingError(
            f"torchrun --nproc-per-node: process {local} here has no GPU, want at most {torch.cuda.device_count()}"
        )
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(local)
    return Processes(dist.get_rank(), dist.get_world_size(), local)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
