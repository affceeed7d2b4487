"""What a step costs its host, without a GPU: launches, operators of torch beside them, allocations, microseconds.

    fastpixcon bench host                        # every step on the CPU and on the host code of the GPU backends
    fastpixcon bench host --backends triton --steps maps --list

The host code of the GPU backends runs on CPU tensors, and what it launches does nothing: the time is Python's, the
dispatcher's, autograd's, and of operators of torch, whose work on these small tensors is little. Launches that cost the
host of a GPU some microseconds each are not in it. On the CPU it is the whole step, what operators
take of it beside it.
"""

import argparse
import importlib
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

import fastpixcon as fpc
from fastpixcon.ops import define, info_nce_at_once

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from harness import compiled_cuda, compiled_triton

CLASSES, D, N = 19, 64, 256
GPU = {"shared": 227 << 10, "multiprocessors": 132}  # of an H200
ALLOCATIONS = ("aten::empty", "aten::empty_strided")
READS = ("aten::item", "aten::_local_scalar_dense", "aten::is_nonzero")  # of CPU tensors, where arguments are checked
MANGLED = re.compile(r"_ZN10fastpixcon(\d+)(\w+)")  # a kernel's symbol

Step = Callable[[], object]


def steps(dtype: torch.dtype) -> dict[str, Step]:
    """Forward and backward."""
    torch.manual_seed(0)
    x, c = (torch.randn(N, D, dtype=dtype, requires_grad=True) for _ in range(2))
    y, z = (torch.randint(CLASSES, (N,)) for _ in range(2))
    few_x, few_y = x.detach()[:64].clone().requires_grad_(), y[:64]
    embeddings = torch.randn(2, D, 16, 16, dtype=dtype, requires_grad=True)
    labels = torch.randint(CLASSES, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    logits = torch.randn(2, CLASSES, 16, 16, dtype=dtype)
    of_bank = torch.float32 if dtype == torch.float16 else dtype
    banks = [fpc.MemoryBank(CLASSES, D, 64, 16, dtype=of_bank) for _ in range(2)]
    learned = torch.tensor(0.1, requires_grad=True)
    options = {"max_samples": N, "max_views": 16, "min_pixels": 1, "num_classes": CLASSES}
    plain, with_bank = fpc.PixelContrastLoss(**options), fpc.PixelContrastLoss(**options, memory=banks[1])

    def of_rows(*given: Any, **more: Any) -> Step:
        def run() -> None:
            given[0].grad = c.grad = learned.grad = None
            fpc.functional.info_nce(*given, **more).backward()

        return run

    def maps(loss: fpc.PixelContrastLoss) -> Step:
        def run() -> None:
            embeddings.grad = None
            loss(embeddings, labels, logits).backward()

        return run

    return {
        "rows": of_rows(x, y),
        "rows, 64 of them": of_rows(few_x, few_y),
        "rows, unit": of_rows(x, y, normalize=False, base_temperature=0.07),
        "rows, learned temperature": of_rows(x, y, temperature=learned),
        "separate rows": of_rows(x, y, c, z),
        "rows and a bank": of_rows(x, y, memory=banks[0]),
        "maps": maps(plain),
        "maps and a bank": maps(with_bank),
    }


class Counts(NamedTuple):
    launches: list[str]  # of our kernels
    kernels: Counter[str]  # operators of torch that do something: on a GPU they launch
    allocations: int


def is_view(name: str) -> bool:
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    if packet is None:
        return False
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()]
    aliases = [r.alias_info for schema in schemas for r in schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def kernels_of(event: Any) -> list[str]:
    """The outermost operators of torch in it that do something."""
    name = event.name
    if "empty" in name or name in READS:
        return []
    if name.startswith("aten::") and not is_view(name):
        return [name.removeprefix("aten::")]
    return [found for child in event.cpu_children for found in kernels_of(child)]


def count(step: Step, launches: list[str]) -> Counts:
    step()
    launches.clear()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    events = seen.events()
    kernels = Counter(name for e in events if e.cpu_parent is None for name in kernels_of(e))
    return Counts(list(launches), kernels, sum(e.name in ALLOCATIONS for e in events))


def microseconds(step: Step, seconds: float) -> float:
    """Of this processor for a step, the least of many means: others may use the machine."""
    for _ in range(10):
        step()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.process_time()
        for _ in range(10):
            step()
        least = min(least, (time.process_time() - begin) / 10)
    return least * 1e6


@contextmanager
def nothing_known() -> Iterator[None]:
    """Of the values of tensors, for which a GPU is not asked."""
    is_one, info_nce_at_once.is_one = info_nce_at_once.is_one, lambda _: False
    try:
        yield
    finally:
        info_nce_at_once.is_one = is_one


@contextmanager
def host_of(backend: str, launches: list[str] | None) -> Iterator[None]:
    """The backend for CPU tensors; its launches by name into the list, or to nothing."""
    if backend == "cpu":
        with fpc.backend("native"):
            yield
    elif backend == "cuda":
        record = Recorder(launches if launches is not None else [])
        with compiled_cuda.launching(record), fpc.backend("native"), nothing_known():
            if launches is None:
                extension = importlib.import_module("fastpixcon._C")
                extension.skip_launches(**GPU)
            yield
    else:

        def start(kernel: Any, *_: Any) -> None:
            if launches is not None:
                launches.append(kernel.__name__.removesuffix("_kernel"))

        with compiled_triton.launching(start), fpc.backend("triton"), nothing_known():
            yield


class Recorder:
    """In place of a GPU."""

    shared, multiprocessors = GPU["shared"], GPU["multiprocessors"]

    def __init__(self, launches: list[str]) -> None:
        self.launches = launches

    def __call__(self, name: str, *_: Any) -> None:
        length, rest = MANGLED.match(name).groups()
        self.launches.append(rest[: int(length)])


def detour() -> float:
    """Microseconds that an operator takes to reach the CUDA kernels from CPU tensors, which no GPU has."""
    x, index = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
    op = define.OVERLOADS["native", "gather_normalize"]

    def directly() -> None:
        op._op_dk(torch._C.DispatchKey.CUDA, x, index)

    def redirected() -> None:
        op._op_dk(torch._C.DispatchKey.CPU, x, index)

    with host_of("cuda", None):
        return microseconds(redirected, 0.3) - microseconds(directly, 0.3)


def operators_of(step: Step) -> list[float]:
    """Microseconds of each operator of the native backend in a step, the least of ten, without those around it."""
    least: list[float] = []
    for _ in range(10):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            step()
        ours = [e for e in seen.events() if e.name.startswith("fastpixcon_native::")]
        inner = [e for e in ours if not any(child.name.startswith("fastpixcon_native::") for child in e.cpu_children)]
        times = [float(e.cpu_time_total) for e in inner]
        least = [min(pair) for pair in zip(least or times, times, strict=True)]
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=("cpu", "cuda", "triton"), default=["cpu", "cuda", "triton"])
    parser.add_argument("--steps", nargs="+", metavar="STEP", help="some of them, by name")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--seconds", type=float, default=1.0, help="a step is timed for")
    parser.add_argument("--list", action="store_true", help="launches and operators of torch by name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("step", "backend", "launches", "operators of torch", "allocations", "host, us", "of it operators")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for backend in options.backends:
        more = detour() if backend == "cuda" else 0.0
        for name, step in steps(getattr(torch, options.dtype)).items():
            if options.steps is not None and name not in options.steps:
                continue
            launches: list[str] = []
            with host_of(backend, launches):
                counts = count(step, launches)
            with host_of(backend, None):
                time_of = microseconds(step, options.seconds)
                ours = operators_of(step) if backend != "triton" else []
                time_of -= more * len(ours)
            numbers: list[int | str] = [
                len(counts.launches),
                counts.kernels.total(),
                counts.allocations,
                f"{time_of:.0f}",
            ]
            numbers.append(f"{sum(ours):.0f}" if backend == "cpu" else "")
            print(f"| {name} | {backend} | {' | '.join(map(str, numbers))} |", flush=True)
            if options.list:
                print(f"{', '.join(counts.launches)}; {dict(counts.kernels)}")


if __name__ == "__main__":
    main()
