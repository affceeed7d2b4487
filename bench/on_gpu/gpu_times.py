"""Times and memory on a GPU as Markdown tables, each rival in the same run: the losses' rows and a whole step."""

import statistics
import time
from collections.abc import Callable, Iterator

import gpu_checks
import torch
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.bench import measure, rivals, workloads
from fastpixcon.bench.workloads import Cell

D = 256
Step = tuple[int, int, int, int]


def fits(call: measure.Call) -> bool:
    """Runs it once; False if it needs more memory than there is."""
    try:
        call()
        return True
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # only here has the error let go of what its frames held
    return False


def milliseconds(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:.3g}"


def table(*columns: str) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def matmul_peaks(device: str, size: int, repeat: int) -> Iterator[str]:
    """What products of whole matrices reach here."""
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
    ):
        call, flop = measure.matmul(size, dtype, device)
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        seconds = statistics.median(measure.seconds({name: call}, repeat, device=device)[name])
        torch.backends.cuda.matmul.allow_tf32 = before
        yield f"- matmul {size} x {size} x {size}, {name}: {flop / seconds / 1e12:.3g} TFLOP/s"


def step(loss: Callable[..., Tensor], rows: Tensor, labels: Tensor) -> measure.Call:
    """Forward and backward of a self contrast."""

    def run() -> None:
        rows.grad = None
        loss(rows, labels, denominator="negatives").backward()

    return run


def problem(n: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    return workloads.rows(Cell("self", n, dim=D, dtype=str(dtype)[6:]), device)[1:3]


def steps(maps: workloads.Maps, max_samples: int) -> dict[str, measure.Call]:
    """The rivals by name: whole steps, and the least that a step must write."""
    embeddings, labels = maps.embeddings, maps.labels
    contrast = fpc.PixelContrastLoss(max_samples=max_samples).to(embeddings.device)

    def ours(guess: Tensor) -> None:
        embeddings.grad = None
        contrast(embeddings, labels, guess).backward()

    def eager() -> None:
        embeddings.grad = None
        rivals.pixel_contrast(embeddings, labels, maps.predictions, max_samples).backward()

    return {
        "zero the map": lambda: torch.zeros_like(embeddings),
        "ours": lambda: ours(maps.predictions),
        "ours, from logits": lambda: ours(maps.logits),
        "eager": eager,
    }


def selections(maps: workloads.Maps) -> dict[str, measure.Call]:
    classes = maps.logits.shape[1]
    return {
        "selection": lambda: fpc.functional.select_anchors(maps.labels, maps.predictions, num_classes=classes),
        "eager selection": lambda: rivals.select_anchors(maps.labels, maps.predictions),
    }


LOSSES = {"eager": rivals.info_nce, "lean": rivals.info_nce_lean}
ROW_SECONDS = 4.0  # of rounds for one row of a table


class Rivals:
    """The eager full matrix, as long as it fits."""

    def __init__(self) -> None:
        self.too_large: dict[tuple[str, torch.dtype], int] = {}

    def calls(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, measure.Call]:
        """Those that ran once; what did not fit is not tried again at a larger size."""
        found = {}
        for name, loss in LOSSES.items():
            call = step(loss, x, y)
            if len(x) >= self.too_large.get((name, x.dtype), len(x) + 1):
                continue
            if fits(call):
                found[name] = call
            else:
                self.too_large[name, x.dtype] = len(x)
        return found


def rows(
    device: str, sizes: tuple[int, ...], dtypes: tuple[torch.dtype, ...], repeat: int, peak_size: int, until: float
) -> Iterator[str]:
    """info_nce, forward and backward; efficiency is 4 N^2 D FLOP over the bfloat16 matmul of the same rounds."""
    yield table(
        "N", "dtype", "ms", "ms, replayed", "TFLOP/s", "of bf16 matmul", "eager", "lean eager", "MiB", "eager MiB"
    )
    others = Rivals()
    peak, peak_flop = measure.matmul(peak_size, torch.bfloat16, device)
    for n in sizes:
        for dtype in dtypes:
            if time.monotonic() > until:
                yield "\nThe time was up before the rest."
                return
            x, y = problem(n, dtype, device)
            ours = step(fpc.functional.info_nce, x, y)
            ours()
            calls = {"ours": ours, **others.calls(x, y)}
            x.grad = None
            memory = {name: measure.peak_extra_bytes(call, device) / 2**20 for name, call in calls.items()}
            calls["matmul"] = peak
            enough = min(until, time.monotonic() + ROW_SECONDS)
            times = measure.seconds(calls, repeat, device=device, until=enough)
            replay = gpu_checks.capture(ours, device)
            replayed = measure.seconds({"replay": replay}, repeat, device=device, until=enough + 1)["replay"]
            flop = 4 * n * n * D
            share = statistics.median(
                (flop / o) / (peak_flop / m) for o, m in zip(times["ours"], times["matmul"], strict=True)
            )
            speed = flop / statistics.median(times["ours"]) / 1e12
            cells = [milliseconds(times["ours"]), milliseconds(replayed), f"{speed:.3g}", f"{share:.2f}"]
            cells += [f"{measure.ratio(times, name, 'ours'):.1f} x" if name in times else "-" for name in LOSSES]
            cells += [f"{memory[name]:,.0f}" if name in memory else "-" for name in ("ours", "eager")]
            yield f"| {n:,} | {str(dtype)[6:]} | {' | '.join(cells)} |"
            del x, y, ours, calls, replay


def compiled(
    device: str, sizes: tuple[int, ...], dtypes: tuple[torch.dtype, ...], repeat: int, until: float
) -> Iterator[str]:
    """torch.compile of the lean full matrix."""
    yield table("N", "dtype", "ms", "compiled eager")
    rival = torch.compile(rivals.info_nce_lean, dynamic=True)
    for dtype in dtypes:
        for n in sizes:
            x, y = problem(n, dtype, device)
            calls = {
                "ours": step(fpc.functional.info_nce, x, y),
                "compiled": step(rival, x, y),
            }
            if time.monotonic() > until or not fits(calls["compiled"]):
                continue
            times = measure.seconds(calls, repeat, device=device, until=min(until, time.monotonic() + ROW_SECONDS))
            ratio = measure.ratio(times, "compiled", "ours")
            yield f"| {n:,} | {str(dtype)[6:]} | {milliseconds(times['ours'])} | {ratio:.1f} x |"


def whole_step(
    device: str, size: Step, stride: int, anchors: int, dtypes: tuple[torch.dtype, ...], repeat: int, until: float
) -> Iterator[str]:
    """Selection to gradient map against eager PyTorch and against zeroing the map."""
    yield table("dtype", "layout", "", "ms", "eager", "of zeroing the map", "MiB")
    for dtype in dtypes:
        for channels_last in (False, True):
            if time.monotonic() > until:
                return
            maps = workloads.maps(size, stride, 19, channels_last, dtype, device)
            calls = steps(maps, anchors)
            times = measure.seconds(calls, repeat, warm_up=2, device=device, until=until)
            for name, values in times.items():
                eager, zero = (measure.ratio(times, rival, name) for rival in ("eager", "zero the map"))
                maps.embeddings.grad = None
                memory = measure.peak_extra_bytes(calls[name], device) / 2**20
                layout = "channels_last" if channels_last else "NCHW"
                cells = [str(dtype)[6:], layout, name, milliseconds(values), f"{eager:.1f} x", f"{1 / zero:.2f}"]
                yield f"| {' | '.join(cells)} | {memory:,.0f} |"
            maps.embeddings.grad = None


def selection(device: str, size: Step, stride: int, repeat: int) -> Iterator[str]:
    """Alone, from predicted classes."""
    maps = workloads.maps(size, stride, 19, False, torch.float32, device)
    times = measure.seconds(selections(maps), repeat, device=device)
    ratio = measure.ratio(times, "eager selection", "selection")
    yield f"select_anchors: {milliseconds(times['selection'])} ms, {ratio:.1f} x a loop over images and classes."


def everything(
    device: str,
    seconds: float,
    sizes: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072),
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32, torch.float16),
    size: Step = (8, 256, 128, 256),
    stride: int = 4,
    anchors: int = 1024,
    repeat: int = 15,
    peak_size: int = 8192,
    compile_sizes: tuple[int, ...] = (4096, 16384),
) -> Iterator[str]:
    """All tables, shortened so that they take no more than about ``seconds``."""
    start = time.monotonic()
    yield f"{measure.describe(device)}; medians of up to {repeat} rounds in which the rivals take turns.\n"
    yield from matmul_peaks(device, peak_size, repeat)
    shape = f"[{', '.join(map(str, size))}]"
    yield f"\n### One loss step: embeddings {shape}, labels {stride} times as large, 19 classes, {anchors:,} anchors\n"
    yield from whole_step(device, size, stride, anchors, dtypes[:2], repeat, start + 0.3 * seconds)
    yield ""
    yield from selection(device, size, stride, repeat)
    yield f"\n### info_nce, forward and backward: D = {D}, 19 classes, self contrast\n"
    yield from rows(device, sizes, dtypes, repeat, peak_size, start + 0.7 * seconds)
    if compile_sizes:
        yield "\n### The same against torch.compile of the full matrix\n"
        yield from compiled(device, compile_sizes, dtypes[:2], repeat, start + 0.9 * seconds)
