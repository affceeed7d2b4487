"""One loss step, selection to gradient map, against eager PyTorch and against zeroing the map, in one run.

python bench/bench_step.py            # embeddings [8, 256, 128, 256], labels [8, 512, 1024], 19 classes
"""

import argparse
import statistics

import measure
import rivals
import torch

import fastpixcon as fpc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=4, default=[8, 256, 128, 256], metavar=("B", "D", "h", "w"))
    parser.add_argument("--stride", type=int, default=4, help="labels are this much larger")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--max-samples", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    B, D, h, w = arguments.size
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(B, D, h, w, generator=generator)
    if arguments.channels_last:
        embeddings = embeddings.contiguous(memory_format=torch.channels_last)
    embeddings.requires_grad_()
    coarse = torch.randint(0, arguments.classes, (B, 1, h // 8, w // 8), generator=generator).float()
    scale = 8 * arguments.stride
    labels = torch.nn.functional.interpolate(coarse, scale_factor=scale, mode="nearest")[:, 0].long()  # [B, H, W]
    logits = torch.randn(B, arguments.classes, h, w, generator=generator)
    predictions = logits.argmax(dim=1)  # [B, h, w]
    contrast = fpc.PixelContrastLoss(max_samples=arguments.max_samples)

    def ours(guess: torch.Tensor) -> measure.Call:
        def run() -> None:
            embeddings.grad = None
            contrast(embeddings, labels, guess).backward()

        return run

    def eager() -> None:
        embeddings.grad = None
        rivals.pixel_contrast(embeddings, labels, predictions, arguments.max_samples).backward()

    print(measure.describe())
    times = measure.seconds_alone(
        {
            "zero the map": lambda: torch.zeros_like(embeddings),
            "ours": ours(predictions),
            "ours, from logits": ours(logits),
            "eager": eager,
        },
        arguments.repeat,
    )
    for name, values in times.items():
        line = f"{name:>18}  {statistics.median(values) * 1e3:9.1f} ms"
        if name.startswith("ours"):
            line += f"  {measure.ratio(times, 'eager', name):6.1f} x eager"
            line += f"  {1 / measure.ratio(times, 'zero the map', name):5.2f} of zeroing the map"
        print(line)
    picked = measure.seconds(
        {
            "selection": lambda: fpc.functional.select_anchors(labels, predictions, num_classes=arguments.classes),
            "eager selection": lambda: rivals.select_anchors(labels, predictions),
        },
        arguments.repeat * 3,
    )
    mine = statistics.median(picked["selection"]) * 1e3
    print(f"{'selection':>18}  {mine:9.2f} ms  {measure.ratio(picked, 'eager selection', 'selection'):6.1f} x eager")


if __name__ == "__main__":
    main()
