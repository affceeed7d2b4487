"""The time of a step under a rule of pairs over that without one, in one run: ``fastpixcon bench pairs``. Forward and
backward of self contrast and of a batch against a bank, turns of at least a tenth of a second in random order; the
median of ratios within a turn. And the peak of memory over that without a rule, in processes of their own."""

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import fastpixcon as fpc
from fastpixcon.bench.measure import peak_extra_bytes

CLASSES = 19
RULES: dict[str, Callable[[int], dict[str, Any]]] = {
    "none": lambda n: {},
    "weights": lambda n: {"weights": torch.rand(n), "contrast_weights": torch.rand(n)},
    "class weights": lambda n: {"pairs": fpc.Pairs(class_weights=torch.rand(CLASSES, CLASSES))},
    "balanced": lambda n: {"pairs": fpc.Pairs(balanced=True)},
    "groups": lambda n: {"pairs": fpc.Pairs("other", "other"), "groups": torch.randint(8, (n,))},
    "decoupled": lambda n: {"denominator": "decoupled"},
}
PROBLEMS = {"self, N = 8,192": (8192, 0), "N = 1,024 against 190,000": (1024, 190_000)}
MOST = {"weights": 1.05, "class weights": 1.10, "balanced": 1.10, "groups": 1.15, "decoupled": 1.02}


class Content:
    """Of a bank."""

    def __init__(self, rows: torch.Tensor, labels: torch.Tensor) -> None:
        self.rows, self.labels = rows, labels


def example(problem: str, options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    torch.manual_seed(0)
    N, M = PROBLEMS[problem]
    dtype = getattr(torch, options.dtype)
    x = torch.randn(N, options.dim, dtype=dtype).requires_grad_()
    y = torch.randint(CLASSES, (N,)).sort().values
    if M == 0:
        return x, y, {}
    rows = torch.nn.functional.normalize(torch.randn(CLASSES, M // CLASSES, options.dim), dim=-1).to(dtype)
    labels = torch.arange(CLASSES, dtype=torch.int32)[:, None].repeat(1, M // CLASSES)
    return x, y, {"memory": Content(rows, labels)}


def step(x: torch.Tensor, y: torch.Tensor, given: dict[str, Any]) -> None:
    x.grad = None
    fpc.functional.info_nce(x, y, **given).backward()


def peak(problem: str, rule: str, options: argparse.Namespace) -> float:
    """Of a step, in bytes beyond what was there before; in a fresh process."""
    command = [
        sys.executable, __file__, "--peak", problem, rule, "--dim", str(options.dim), "--dtype", options.dtype,
    ]  # fmt: skip
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        problem, rule = options.peak
        x, y, given = example(problem, options)
        more = RULES[rule](len(x))
        print(peak_extra_bytes(lambda: step(x, y, {**given, **more})))
        return
    for problem in PROBLEMS:
        x, y, given = example(problem, options)
        calls = {rule: {**given, **of(len(x))} for rule, of in RULES.items()}
        times: dict[str, list[float]] = {rule: [] for rule in calls}
        for turn in range(options.turns + 1):
            for rule in random.sample(list(calls), len(calls)):
                count, begin = 0, time.perf_counter()
                while (seconds := time.perf_counter() - begin) < 0.1:
                    step(x, y, calls[rule])
                    count += 1
                if turn > 0:
                    times[rule].append(seconds / count)
        print(f"{problem}: {1e3 * statistics.median(times['none']):.1f} ms")
        memory = {rule: peak(problem, rule, options) for rule in RULES}
        for rule, most in MOST.items():
            ratio = statistics.median(a / b for a, b in zip(times[rule], times["none"], strict=True))
            more = (memory[rule] - memory["none"]) / 1e6
            print(f"  {rule}: {ratio:.3f} of it (at most {most}), {more:+.2f} MB of {memory['none'] / 1e6:.1f}")


if __name__ == "__main__":
    main()
