"""What one step of the pixel contrast loss launches, on the backends for GPUs and at the scale of the paper."""

import functools
import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import bench_host
import pytest
import torch
from harness import compiled_cuda
from harness.compiled_triton import launching
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastpixcon as fpc
from fastpixcon.ops import define

pytest.importorskip("triton")

MOST_LAUNCHES = 11
# Kernels of torch in the step: the seed; zeroing of counts and of the gradient map; the temperature, which a plain call
# has already; the gradient of the loss, and of each anchor's.
TORCH_KERNELS = Counter({"aten.randint": 1, "aten.zero_": 2, "aten.full": 1, "aten.ones_like": 1, "aten.mul": 1})
PLAIN_KERNELS = {"randint": 1, "ones_like": 1, "mul": 1}  # beside the zeros


class TorchKernels(TorchDispatchMode):
    """Counts the operators of torch that are neither views nor allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()
        self.is_within = False  # an operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = [r.alias_info for r in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if func.namespace == "aten" and not is_view and "empty" not in func._opname:
            self.ran[f"aten.{func._opname}"] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def torch_kernels(monkeypatch: pytest.MonkeyPatch) -> TorchKernels:
    """Sees inside the operators of the triton backend, which a dispatch mode does not by itself."""
    mode = TorchKernels()

    def seen(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            if mode.is_within:  # one within another
                return function(*arguments, **named)
            mode.is_within = True
            with mode:
                result = function(*arguments, **named)
            mode.is_within = False
            return result

        return run

    for (backend, _), where in define.IMPLEMENTATIONS.items():
        if backend == "triton":
            module, name = where.split(":")
            monkeypatch.setattr(f"{module}.{name}", seen(getattr(importlib.import_module(module), name)))
    return mode


def inputs(predictions: str) -> tuple[Tensor, Tensor, Tensor]:
    """[8, 256, 128, 256] embeddings, [8, 512, 1024] labels of 19 classes."""
    embeddings = torch.zeros(8, 256, 128, 256, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(8, 512, 1024, dtype=torch.int64)
    shape, dtype = ((8, 128, 256), torch.int64) if predictions == "classes" else ((8, 19, 128, 256), torch.bfloat16)
    return embeddings, labels, torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("predictions", ["classes", "logits"])
def test_triton_has_few_launches(predictions: str, torch_kernels: TorchKernels) -> None:
    """1,024 anchors; nothing is computed."""
    launches: list[str] = []

    def count(kernel: Any, *_: Any) -> None:
        launches.append(kernel.__name__)

    loss, maps = fpc.PixelContrastLoss(max_samples=1024, num_classes=19), inputs(predictions)
    with launching(count), fpc.backend("triton"), torch_kernels:
        loss(*maps).backward()
    assert maps[0].grad is not None
    ran = torch_kernels.ran
    print(f"{len(launches)} launches: {launches}; {ran.total()} kernels of torch: {dict(ran)}")
    assert len(launches) <= MOST_LAUNCHES, launches
    assert not ran - TORCH_KERNELS, f"more than before: {ran - TORCH_KERNELS}"


@pytest.mark.skipif(compiled_cuda.missing() is not None, reason=str(compiled_cuda.missing()))
@pytest.mark.parametrize("predictions", ["classes", "logits"])
def test_native_has_few_launches(predictions: str) -> None:
    """One more than Triton: those that add up gradients of parts."""
    launches: list[str] = []
    loss, maps = fpc.PixelContrastLoss(max_samples=1024, num_classes=19), inputs(predictions)
    with compiled_cuda.launching(lambda name, *launch: launches.append(name)), fpc.backend("native"):
        loss(*maps).backward()
    assert maps[0].grad is not None
    print(f"{len(launches)} launches: {launches}")
    assert 8 < len(launches) <= MOST_LAUNCHES + 1, launches


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_a_plain_step_has_few_operators_of_torch(name: str) -> None:
    """As ``fastpixcon bench host`` counts them."""
    if name == "cuda" and compiled_cuda.missing() is not None:
        pytest.skip(str(compiled_cuda.missing()))
    launches: list[str] = []
    with bench_host.host_of(name, launches):
        counts = bench_host.count(bench_host.steps(torch.float16)["maps"], launches)
    kernels = Counter({kernel: n for kernel, n in counts.kernels.items() if kernel not in ("zeros", "zero_")})
    assert kernels == PLAIN_KERNELS
    assert counts.kernels.total() - kernels.total() == 2
    assert len(counts.launches) <= MOST_LAUNCHES + (name == "cuda")


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_plain_rows_have_two(name: str) -> None:
    """The gradient of the loss, and of each anchor's; few labels are put in order by a launch of ours."""
    if name == "cuda" and compiled_cuda.missing() is not None:
        pytest.skip(str(compiled_cuda.missing()))
    launches: list[str] = []
    with bench_host.host_of(name, launches):
        counts = bench_host.count(bench_host.steps(torch.float32)["rows"], launches)
    assert counts.kernels == {"ones_like": 1, "mul": 1}
    assert len(counts.launches) <= 10
