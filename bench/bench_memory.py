"""Contrast with a memory bank, mined or not, forward and backward, against a full matrix, time and memory, in one run.

    python bench/bench_memory.py                      # 1,024 anchors, 19 classes x 10,000 rows, D = 256
    python bench/bench_memory.py --dtypes float32 --repeat 5
    python bench/bench_memory.py --memory             # peak memory instead of time
    python bench/bench_memory.py --processor-time     # where others work too: one thread, seconds it ran itself

Efficiency is 4 N M D FLOP, the least that contrast without gradient for the bank needs, over the fp32 matmul of the
same run. The rivals: eager, the equations as they stand; lean, the same with the fewest passes; eager32 and lean32,
these in float32 always.
"""

import argparse
import statistics
import time

import measure
import rivals
import torch

import fastpixcon as fpc

CLASSES, D = 19, 256
MININGS = {
    "none": None,
    "semi-hard": fpc.Mining(),
    "hardest": fpc.Mining("hardest", "hardest"),
    "random": fpc.Mining("random", "random"),
}


def problem(n: int, places: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor, fpc.MemoryBank]:
    """Raw anchors [N, D] that lean towards their class, labels [N], a full bank."""
    generator = torch.Generator().manual_seed(0)
    toward = torch.randn(CLASSES, D, generator=generator)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    rows = toward[labels] + 1.5 * torch.randn(n, D, generator=generator)
    bank = fpc.MemoryBank(CLASSES, D, places // 2, places - places // 2, dtype=dtype)
    for c in range(CLASSES):
        content = toward[c] + 1.5 * torch.randn(places, D, generator=generator)
        bank.rows[c] = torch.nn.functional.normalize(content, dim=1).to(dtype)
        bank.labels[c] = c
    return rows.to(device, dtype).requires_grad_(), labels.to(device), bank.to(device)


def ours(rows: torch.Tensor, labels: torch.Tensor, bank: fpc.MemoryBank, mining: fpc.Mining | None) -> measure.Call:
    def run() -> None:
        rows.grad = None
        loss = fpc.functional.info_nce(rows, labels, memory=bank, mining=mining, contrast_with="memory")
        loss.backward()

    return run


def full_matrix(loss, rows: torch.Tensor, labels: torch.Tensor, bank: fpc.MemoryBank) -> measure.Call:
    content, bank_labels = bank.rows.flatten(0, 1).to(rows.dtype), bank.labels.flatten()

    def run() -> None:
        rows.grad = None
        loss(rows, labels, content, bank_labels).backward()

    return run


def times(arguments: argparse.Namespace, dtype: torch.dtype) -> None:
    n, m, device = arguments.anchors, CLASSES * arguments.places, arguments.device
    rows, labels, bank = problem(n, arguments.places, dtype, device)
    plain = ours(rows, labels, bank, None)
    peak, peak_flop = measure.matmul(device=device)
    mined = {name: ours(rows, labels, bank, MININGS[name]) for name in arguments.minings}
    own = measure.seconds({"ours": plain, "matmul": peak} | mined, arguments.repeat, device=device)
    efficiency = statistics.median(
        (4 * n * m * D / o) / (peak_flop / p) for o, p in zip(own["ours"], own["matmul"], strict=True)
    )
    single = rows.detach().float().requires_grad_()
    rivals_here = {
        "eager": (rivals.memory_info_nce, rows),
        "lean": (rivals.memory_info_nce_lean, rows),
        "eager32": (rivals.memory_info_nce, single),
        "lean32": (rivals.memory_info_nce_lean, single),
    }
    chosen = {
        name: full_matrix(loss, x, labels, bank)
        for name, (loss, x) in rivals_here.items()
        if name in arguments.rivals and not (x is single and dtype == torch.float32)
    }
    warm_up = int(device != "cpu")
    rounds = measure.seconds(chosen | {"ours": plain}, arguments.eager_repeat, warm_up=warm_up, device=device)
    line = f"{n} x {m} {str(dtype)[6:]:>9}  {statistics.median(own['ours']):8.4f} s  efficiency {efficiency:5.2f}"
    line += "".join(f"  {measure.ratio(rounds, rival, 'ours'):6.1f} x {rival}" for rival in chosen)
    line += "".join(f"  mining {name} {measure.ratio(own, name, 'ours'):5.2f}" for name in mined)
    print(line, flush=True)


def memory(arguments: argparse.Namespace, dtype: torch.dtype) -> None:
    rows, labels, bank = problem(arguments.anchors, arguments.places, dtype, arguments.device)
    ours(*problem(64, 16, dtype, arguments.device), None)()
    line = f"{str(dtype)[6:]:>9}  peak memory added, MiB:"
    for name in ["none", *arguments.minings]:
        added = measure.peak_extra_bytes(ours(rows, labels, bank, MININGS[name]), arguments.device)
        line += f"  mining {name} {added / 2**20:.1f}"
    if "eager" in arguments.rivals:
        call = full_matrix(rivals.memory_info_nce, rows, labels, bank)
        line += f"  eager {measure.peak_extra_bytes(call, arguments.device) / 2**20:.1f}"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=1024)
    parser.add_argument("--places", type=int, default=10000, help="rows of the bank, a class")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--minings", nargs="*", default=["semi-hard"], choices=[x for x in MININGS if x != "none"])
    parser.add_argument("--repeat", type=int, default=5, help="rounds of ours against the matmul")
    parser.add_argument(
        "--rivals", nargs="*", default=["eager", "lean", "eager32"], choices=["eager", "lean", "eager32", "lean32"]
    )
    parser.add_argument("--eager-repeat", type=int, default=2, help="rounds against the rivals")
    parser.add_argument("--processor-time", action="store_true", help="one thread, and the time that it ran")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    if arguments.processor_time:
        measure.clock = time.process_time
        torch.set_num_threads(1)
    print(measure.describe(arguments.device))
    fpc.show_config()
    for name in arguments.dtypes:
        (memory if arguments.memory else times)(arguments, getattr(torch, name))


if __name__ == "__main__":
    main()
