"""The backends that the tests run on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch

from fastpixcon.ops import backends, define
from fastpixcon.testing.accuracy import leaves
from harness import compiled_cuda, compiled_triton

# Extras, backends on the CPU, backends on a device, such as triton-cuda, and executed ones, such as native-ptx.
REQUIRED = [name for name in os.environ.get("FASTPIXCON_REQUIRE", "").split(",") if name]
HAS_CUDA = torch.cuda.is_available() or any(name.endswith("-cuda") for name in REQUIRED)
DEVICES = ["cpu", *(["cuda"] if HAS_CUDA else [])]
EXECUTED = {"triton": compiled_triton, "native": compiled_cuda}


@dataclass(frozen=True)
class Backend:
    """A backend on a device; an operator that it lacks skips the test, or fails it where it is required."""

    name: str
    device: str
    is_executed: bool = False  # its kernels for GPUs, on CPU tensors, in the emulator

    @property
    def executed(self) -> ModuleType:
        return EXECUTED[self.name]

    @property
    def is_required(self) -> bool:
        return str(self) in REQUIRED or (str(self) == f"{self.name}-cpu" and self.name in REQUIRED)

    def lacks(self, operator: str, dtype: torch.dtype, width: int | None = None) -> str | None:
        """Why it can't run the operator; None if it can."""
        if self.is_executed and self.executed.missing() is not None:
            return self.executed.missing()
        device = torch.device("cuda" if self.is_executed else self.device)
        return backends.unsupported(self.name, operator, device, dtype, width)

    def op(self, operator: str, dtype: torch.dtype = torch.float32, width: int | None = None) -> Callable[..., Any]:
        too_wide = self.lacks(operator, dtype) is None and self.lacks(operator, dtype, width) is not None
        why = self.lacks(operator, dtype, width)
        if why is not None:
            message = f"backend {self}, {operator}: {why}"
            pytest.fail(message) if self.is_required and not too_wide else pytest.skip(message)
        return define.OVERLOADS[self.name, operator]

    def of_values(self, operator: str) -> Callable[..., Any]:
        """The operator, of arguments as values."""
        op = self.op(operator)
        return lambda *values: op(*leaves(operator, *values))

    def takes(self, dtype: torch.dtype) -> bool:
        return all(self.lacks(op, dtype) is None for op in define.OPERATORS)

    def __str__(self) -> str:
        return f"{self.name}-{'ptx' if self.is_executed else self.device}"


def is_here(backend: Backend) -> bool:
    return any(backend.lacks(op, torch.float32) is None for op in define.OPERATORS)


ALL_BACKENDS = [Backend(name, device) for name in define.NAMESPACES for device in DEVICES]
# The native backend always has its tests: without it they are skipped one by one, with the reason. The presence
# of the others is one test, in test_backends.py.
TESTED_BACKENDS = [b for b in ALL_BACKENDS if is_here(b) or (b.name, b.device) == ("native", "cpu")]
if compiled_triton.WANTED:  # what else there is has its tests in other processes
    TESTED_BACKENDS = [Backend(name, "cpu", is_executed=True) for name in EXECUTED]
