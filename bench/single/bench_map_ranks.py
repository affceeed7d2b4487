"""The time of a step of PixelContrastLoss on tokens and volumes over that on images of as many pixels, in one run:
``fastpixcon bench map_ranks``. Forward and backward, turns of a tenth of a second in random order, medians."""

import argparse
import random
import statistics
import time

import torch

import fastpixcon as fpc

SHAPES = {"image": (128, 128), "tokens": (16384,), "volume": (16, 32, 32)}


def example(sizes: tuple[int, ...], layout: str, options: argparse.Namespace) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    flat = torch.randn(options.batch, options.dim, 16384, dtype=getattr(torch, options.dtype))
    labels = torch.randint(options.classes, (options.batch, 64)).repeat_interleave(256, 1)
    logits = torch.randn(options.batch, options.classes, 16384)
    if layout == "last":  # tokens [B, n, D] as .mT, channels_last, channels_last_3d
        flat, logits = (x.mT.contiguous().mT for x in (flat, logits))
    x, logits = (x.unflatten(2, sizes) for x in (flat, logits))
    return x.detach().requires_grad_(), labels.view(options.batch, *sizes), logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--anchors", type=int, default=1024)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args()
    bank = {"num_classes": options.classes, "dim": options.dim, "pixel_size": 50, "region_size": 20}
    for layout in ("first", "last"):
        calls = {}
        for name, sizes in SHAPES.items():
            found = example(sizes, layout, options)
            contrast = fpc.PixelContrastLoss(
                max_samples=options.anchors, num_classes=options.classes, memory=fpc.MemoryBank(**bank), seed=1
            )
            calls[name] = (contrast, found)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(options.turns + 2):
            for name in random.sample(list(calls), len(calls)):
                contrast, found = calls[name]
                count, begin = 0, time.perf_counter()
                while (seconds := time.perf_counter() - begin) < 0.1:
                    found[0].grad = None
                    contrast(*found).backward()
                    count += 1
                if turn >= 2:
                    times[name].append(seconds / count)
        image = statistics.median(times["image"])
        for name, values in times.items():
            median = statistics.median(values)
            print(f"channels {layout}, {name}: {1e3 * median:.2f} ms, {median / image:.3f} of the image's")


if __name__ == "__main__":
    main()
