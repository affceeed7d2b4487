"""info_nce forward and backward against a full-matrix implementation, time and memory, in one run.

    python bench/bench_info_nce.py                       # N = 8,192 and 16,384, D = 256, 19 classes
    python bench/bench_info_nce.py --sizes 1024 --dtypes float32 --repeat 20
    python bench/bench_info_nce.py --processor-time      # where others work too: one thread, seconds it ran itself
    python bench/bench_info_nce.py --memory              # peak memory, up to N = 131,072
    python bench/bench_info_nce.py --device cuda         # on a GPU; with FASTPIXCON_AUTOTUNE=1 tiles are tuned first

Efficiency is 4 N^2 D FLOP, the least that self contrast needs, over the fp32 matmul of the same run. The rivals: eager,
the equations as they stand; lean, the same with the fewest passes; eager32 and lean32, these in float32 always. On a
processor without bfloat16 units eager PyTorch is hundreds of times slower in bfloat16 than in float32.
"""

import argparse
import statistics
import time

import measure
import rivals
import torch

import fastpixcon as fpc

D, CLASSES = 256, 19


def problem(n: int, dtype: torch.dtype, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, D, generator=generator).to(device, dtype).requires_grad_()  # [N, D]
    return rows, torch.randint(0, CLASSES, (n,), generator=generator).to(device)


def step(loss, rows: torch.Tensor, labels: torch.Tensor, denominator: str) -> measure.Call:
    def run() -> None:
        rows.grad = None
        loss(rows, labels, denominator=denominator).backward()

    return run


def times(
    n: int, dtype: torch.dtype, denominator: str, repeat: int, eager: list[str], eager_repeat: int, device: str
) -> None:
    rows, labels = problem(n, dtype, device)
    single = rows.detach().float().requires_grad_()
    ours = step(fpc.functional.info_nce, rows, labels, denominator)
    peak, peak_flop = measure.matmul(device=device)
    own = measure.seconds({"ours": ours, "matmul": peak}, repeat, device=device)
    efficiency = statistics.median(
        (4 * n * n * D / o) / (peak_flop / m) for o, m in zip(own["ours"], own["matmul"], strict=True)
    )
    rivals_here = {
        "eager": step(rivals.info_nce, rows, labels, denominator),
        "lean": step(rivals.info_nce_lean, rows, labels, denominator),
        "eager32": step(rivals.info_nce, single, labels, denominator),
        "lean32": step(rivals.info_nce_lean, single, labels, denominator),
    }
    chosen = {name: call for name, call in rivals_here.items() if name in eager}
    rounds = measure.seconds(chosen | {"ours": ours}, eager_repeat, warm_up=int(device != "cpu"), device=device)
    line = f"{n:>7} {str(dtype)[6:]:>9} {denominator:>9}  {statistics.median(own['ours']):8.4f} s"
    line += f"  efficiency {efficiency:5.2f}"
    for rival in chosen:
        line += f"  {measure.ratio(rounds, rival, 'ours'):7.1f} x {rival}"
    print(line, flush=True)


def memory(sizes: list[int], eager_sizes: list[int], device: str) -> None:
    print("peak memory added by forward and backward, float32, MiB (rows alone: N * D * 4)")
    for n in sizes:
        rows, labels = problem(n, torch.float32, device)
        step(fpc.functional.info_nce, *problem(256, torch.float32, device), "negatives")()
        ours = measure.peak_extra_bytes(step(fpc.functional.info_nce, rows, labels, "negatives"), device)
        line = f"{n:>7}  ours {ours / 2**20:8.1f}  per row {ours / n:7.0f} B"
        if n in eager_sizes:
            eager = measure.peak_extra_bytes(step(rivals.info_nce, rows, labels, "negatives"), device)
            line += f"  eager {eager / 2**20:9.1f}  ratio {eager / ours:6.1f}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="anchors N")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--denominators", nargs="+", default=["negatives"])
    parser.add_argument("--repeat", type=int, default=5, help="rounds of ours against the matmul")
    parser.add_argument(
        "--rivals", nargs="*", default=["eager", "lean"], choices=["eager", "lean", "eager32", "lean32"]
    )
    parser.add_argument("--eager-repeat", type=int, default=2, help="rounds against the rivals")
    parser.add_argument("--processor-time", action="store_true", help="one thread, and the time that it ran")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.processor_time:
        measure.clock = time.process_time
        torch.set_num_threads(1)
    print(measure.describe(device))
    fpc.show_config()
    if arguments.memory:
        memory(arguments.sizes or [16384, 32768, 65536, 131072], [16384], device)
        return
    for name in arguments.dtypes:
        for n in arguments.sizes or [8192, 16384]:
            for denominator in arguments.denominators:
                how = (arguments.repeat, arguments.rivals, arguments.eager_repeat, device)
                times(n, getattr(torch, name), denominator, *how)


if __name__ == "__main__":
    main()
