"""The backends that the tests run on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import compiled_triton
import pytest
import torch

from fastpixcon.ops import backends, define

# Extras, backends on the CPU, and backends on a device, such as triton-cuda.
REQUIRED = [name for name in os.environ.get("FASTPIXCON_REQUIRE", "").split(",") if name]
HAS_CUDA = torch.cuda.is_available() or any(name.endswith("-cuda") for name in REQUIRED)
DEVICES = ["cpu", *(["cuda"] if HAS_CUDA else [])]


if compiled_triton.WANTED:  # conftest.py launches through the emulator
    backends.TRITON_DEVICES.add("cpu")


@dataclass(frozen=True)
class Backend:
    """A backend on a device; an operator that it lacks skips the test, or fails it where it is required."""

    name: str
    device: str

    @property
    def is_emulated(self) -> bool:
        return compiled_triton.WANTED and (self.name, self.device) == ("triton", "cpu")

    @property
    def is_required(self) -> bool:
        return str(self) in REQUIRED or (self.device == "cpu" and self.name in REQUIRED)

    def op(self, operator: str, dtype: torch.dtype = torch.float32) -> Callable[..., Any]:
        why = compiled_triton.missing() if self.is_emulated else None
        why = why or backends.unsupported(self.name, operator, torch.device(self.device), dtype)
        if why is not None:
            message = f"backend {self.name!r} on {self.device}, {operator}: {why}"
            pytest.fail(message) if self.is_required else pytest.skip(message)
        return define.OVERLOADS[self.name, operator]

    def takes(self, dtype: torch.dtype) -> bool:
        device = torch.device(self.device)
        return all(backends.unsupported(self.name, op, device, dtype) is None for op in define.OPERATORS)

    def __str__(self) -> str:
        return f"{self.name}-{self.device}"


def is_here(backend: Backend) -> bool:
    device = torch.device(backend.device)
    return any(backends.unsupported(backend.name, op, device, torch.float32) is None for op in define.OPERATORS)


ALL_BACKENDS = [Backend(name, device) for name in define.NAMESPACES for device in DEVICES]
# The native backend always has its tests: without it they are skipped one by one, with the reason. The presence
# of the others is one test, in test_backends.py.
TESTED_BACKENDS = [b for b in ALL_BACKENDS if is_here(b) or (b.name, b.device) == ("native", "cpu")]
