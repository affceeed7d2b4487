"""One fixture for every backend on every device, and memory that is never accidentally right."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import torch

import fastpixcon as fpc
from fastpixcon.ops import backends, define

REQUIRED = [name for name in os.environ.get("FASTPIXCON_REQUIRE", "").split(",") if name]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

hypothesis.settings.register_profile(
    "fastpixcon", deadline=None, derandomize=True, print_blob=True, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("fastpixcon")


@dataclass(frozen=True)
class Backend:
    """A backend on a device; an operator that it lacks skips the test, or fails it where it is required."""

    name: str
    device: str

    def op(self, operator: str, dtype: torch.dtype = torch.float32) -> Callable[..., Any]:
        why = backends.unsupported(self.name, operator, torch.device(self.device), dtype)
        if why is not None:
            message = f"backend {self.name!r} on {self.device}, {operator}: {why}"
            pytest.fail(message) if self.name in REQUIRED and self.device == "cpu" else pytest.skip(message)
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


@pytest.fixture(params=TESTED_BACKENDS, ids=str)
def operators(request: pytest.FixtureRequest) -> Backend:
    """Every backend, to call its operators one by one."""
    return request.param


@pytest.fixture
def backend(operators: Backend) -> Iterator[Backend]:
    """Every backend that has all operators; the public functions choose it by themselves."""
    for operator in define.OPERATORS:
        operators.op(operator)
    with fpc.backend(operators.name):
        yield operators


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty, and at::empty in C++, give NaN and the largest integers."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
