"""Anchor selection and pixel gathering beside their eager implementations, in one run.

python bench/bench_select_gather.py [--repeat 15] [--threads 2] [--dtype float32] [--anchors 1024] [--device cpu]

The eager selection is the published one (Wang et al. 2021, section 3.3): a loop over images and classes
with unique, nonzero and randperm. The eager gather normalises, permutes and indexes the whole map. Rivals
take turns, so that other jobs on the machine disturb all alike; printed are medians and their ratios.
"""

import argparse
import statistics
from collections.abc import Callable

import measure
import rivals as eager
import torch
import torch.nn.functional as F
from torch import Tensor

import fastpixcon as fpc

B, D, h, w, K = 8, 256, 128, 256, 19
IGNORE, MAX_SAMPLES, MAX_VIEWS = 255, 1024, 100


def scenes() -> tuple[Tensor, Tensor]:
    """Labels [B, 4h, 4w] in patches, 5 % ignored, and logits [B, K, h, w] that are right for about 80 %."""
    labels = torch.randint(0, K, (B, h // 16, w // 16)).repeat_interleave(64, 1).repeat_interleave(64, 2)
    labels[torch.rand(labels.shape) < 0.05] = IGNORE
    small = labels[:, ::4, ::4].clamp(max=K - 1)
    predicted = torch.where(torch.rand(small.shape) < 0.8, small, torch.randint(0, K, small.shape))
    logits = torch.randn(B, K, h, w).scatter_(1, predicted[:, None], 8.0)
    return labels, logits


def eager_select(labels: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor]:
    if predictions.dim() == 4:
        predictions = predictions.argmax(dim=1)
    return eager.select_anchors(labels, predictions, MAX_SAMPLES, MAX_VIEWS, IGNORE)


def eager_gather(embeddings: Tensor, index: Tensor) -> Tensor:
    return F.normalize(embeddings, dim=1).permute(0, 2, 3, 1).reshape(-1, D)[index]


def with_backward(
    gather: Callable[[Tensor, Tensor], Tensor], embeddings: Tensor, index: Tensor, d_rows: Tensor
) -> None:
    embeddings.grad = None
    gather(embeddings, index).backward(d_rows)
    embeddings.grad = None


def medians(rivals: dict[str, measure.Call], repeat: int, device: str) -> dict[str, float]:
    """Seconds by name; the rivals take turns."""
    return {name: statistics.median(times) for name, times in measure.seconds(rivals, repeat, device=device).items()}


def report(title: str, seconds: dict[str, float], ours: str) -> None:
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:<34} {value * 1e3:9.2f} ms  {value / seconds[ours]:7.2f} x {ours}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--anchors", type=int, default=MAX_SAMPLES)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    print(f"{measure.describe(args.device)}, {args.dtype}, medians of {args.repeat}")

    labels, logits = (x.to(args.device) for x in scenes())
    logits = logits.to(dtype)
    for title, given in (("logits", logits), ("predictions", logits.argmax(dim=1))):

        def select(given: Tensor = given) -> fpc.functional.SelectedAnchors:
            return fpc.functional.select_anchors(
                labels,
                given,
                num_classes=K,
                max_samples=MAX_SAMPLES,
                max_views=MAX_VIEWS,
                ignore_index=IGNORE,
                seed=0,
                backend=args.backend,
            )

        assert int(select().count) == len(eager_select(labels, given)[0])
        rivals = {"fastpixcon": select, "eager": lambda given=given: eager_select(labels, given)}
        shapes = f"labels {list(labels.shape)} int64, {title} {list(given.shape)}"
        report(f"select_anchors: {shapes}", medians(rivals, args.repeat, args.device), "fastpixcon")

    for layout in (torch.contiguous_format, torch.channels_last):
        embeddings = torch.randn(B, D, h, w, dtype=dtype, device=args.device).contiguous(memory_format=layout)
        embeddings.requires_grad_()
        index = torch.randperm(B * h * w, device=args.device)[: args.anchors]
        d_rows = torch.randn(args.anchors, D, dtype=dtype, device=args.device)

        def ours(embeddings: Tensor, index: Tensor) -> Tensor:
            return fpc.functional.gather_normalize(embeddings, index, backend=args.backend)

        steps = {"fastpixcon": ours, "eager normalise, permute, gather": eager_gather}
        rivals = {
            name: lambda step=step, e=embeddings, i=index, g=d_rows: with_backward(step, e, i, g)
            for name, step in steps.items()
        }
        zero = {"zeroing the map": lambda e=embeddings: torch.zeros_like(e)}
        title = f"gather_normalize forward and backward: {list(embeddings.shape)}, {layout}, N = {args.anchors}"
        # Two runs: what the eager step leaves behind in memory must not be charged to the others.
        zero["fastpixcon"] = rivals["fastpixcon"]
        report(title, medians(zero, args.repeat, args.device), "zeroing the map")
        report(title, medians(rivals, max(1, args.repeat // 5), args.device), "fastpixcon")


if __name__ == "__main__":
    main()
