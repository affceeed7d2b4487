"""One loss step, selection to gradient map, against eager PyTorch and against zeroing the map, in one run.

python bench/bench_step.py                   # embeddings [8, 256, 128, 256], labels [8, 512, 1024], 19 classes
python bench/bench_step.py --device cuda --dtype bfloat16
"""

import argparse
import statistics
from typing import NamedTuple

import measure
import rivals
import torch
from torch import Tensor

import fastpixcon as fpc


class Maps(NamedTuple):
    embeddings: Tensor  # [B, D, h, w]
    labels: Tensor  # [B, H, W], in blocks
    logits: Tensor  # [B, K, h, w]


def problem(
    size: tuple[int, int, int, int], stride: int, classes: int, channels_last: bool, dtype: torch.dtype, device: str
) -> Maps:
    """Embeddings of ``size``, and labels ``stride`` times as large."""
    B, D, h, w = size
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(B, D, h, w, generator=generator).to(device, dtype)
    if channels_last:
        embeddings = embeddings.contiguous(memory_format=torch.channels_last)
    coarse = torch.randint(0, classes, (B, 1, h // 8, w // 8), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, scale_factor=8 * stride, mode="nearest")[:, 0].long()
    logits = torch.randn(B, classes, h, w, generator=generator)
    return Maps(embeddings.requires_grad_(), labels.to(device), logits.to(device))


def steps(maps: Maps, max_samples: int) -> dict[str, measure.Call]:
    """The rivals by name: whole steps, and the least that a step must write."""
    embeddings, labels, logits = maps
    predictions = logits.argmax(dim=1)  # [B, h, w]
    contrast = fpc.PixelContrastLoss(max_samples=max_samples).to(embeddings.device)

    def ours(guess: Tensor) -> None:
        embeddings.grad = None
        contrast(embeddings, labels, guess).backward()

    def eager() -> None:
        embeddings.grad = None
        rivals.pixel_contrast(embeddings, labels, predictions, max_samples).backward()

    return {
        "zero the map": lambda: torch.zeros_like(embeddings),
        "ours": lambda: ours(predictions),
        "ours, from logits": lambda: ours(logits),
        "eager": eager,
    }


def selections(maps: Maps) -> dict[str, measure.Call]:
    labels, predictions = maps.labels, maps.logits.argmax(dim=1)
    classes = maps.logits.shape[1]
    return {
        "selection": lambda: fpc.functional.select_anchors(labels, predictions, num_classes=classes),
        "eager selection": lambda: rivals.select_anchors(labels, predictions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=4, default=[8, 256, 128, 256], metavar=("B", "D", "h", "w"))
    parser.add_argument("--stride", type=int, default=4, help="labels are this much larger")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--max-samples", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    how = (arguments.channels_last, getattr(torch, arguments.dtype), arguments.device)
    maps = problem(tuple(arguments.size), arguments.stride, arguments.classes, *how)

    print(measure.describe(arguments.device))
    times = measure.seconds_alone(steps(maps, arguments.max_samples), arguments.repeat, arguments.device)
    for name, values in times.items():
        line = f"{name:>18}  {statistics.median(values) * 1e3:9.1f} ms"
        if name.startswith("ours"):
            line += f"  {measure.ratio(times, 'eager', name):6.1f} x eager"
            line += f"  {1 / measure.ratio(times, 'zero the map', name):5.2f} of zeroing the map"
        print(line)
    picked = measure.seconds(selections(maps), arguments.repeat * 3, device=arguments.device)
    mine = statistics.median(picked["selection"]) * 1e3
    print(f"{'selection':>18}  {mine:9.2f} ms  {measure.ratio(picked, 'eager selection', 'selection'):6.1f} x eager")


if __name__ == "__main__":
    main()
