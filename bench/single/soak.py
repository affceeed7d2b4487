"""Many training steps with everything that has a state: does memory stay flat, and the loss finite?

    python bench/single/soak.py [--steps 10000] [--seed 0] [--threads 1]

A small network on the CPU, PixelContrastLoss with a MemoryBank whose rings fill up early, Mining, new images of varying
size a step. Resident memory is read after every hundredth of the steps; after a fifth of them, the warm-up, a line is
fitted.
"""

import argparse
import sys
import time
from array import array
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastpixcon as fpc
from fastpixcon.bench.measure import status

K, D = 4, 16
SIZES = ((16, 16), (12, 20), (17, 13), (8, 31))  # of maps: every allocation comes in several sizes
# What an allocator may keep for itself, once, and what may come a step: less than a float an anchor (64 of them).
NOISE_KIB, PER_STEP_BYTES = 512, 32


@dataclass(frozen=True)
class Soak:
    steps: list[int]
    resident: list[int]  # bytes
    losses: list[float]  # of every step
    seconds: float

    @property
    def growth(self) -> float:
        """KiB over the steps after the warm-up, by the fitted line."""
        x, y = (torch.tensor(v, dtype=torch.float64)[len(self.steps) // 5 :] for v in (self.steps, self.resident))
        x, y = x - x.mean(), y - y.mean()
        return float((x * y).sum() / (x * x).sum() * (x[-1] - x[0])) / 1024

    @property
    def allowed(self) -> float:
        """KiB."""
        return NOISE_KIB + PER_STEP_BYTES * (self.steps[-1] - self.steps[len(self.steps) // 5]) / 1024

    def __str__(self) -> str:
        low, high = min(self.resident[len(self.resident) // 5 :]) / 2**20, max(self.resident) / 2**20
        return (
            f"{self.steps[-1]} steps in {self.seconds:.0f} s, loss {self.losses[0]:.3f} to {self.losses[-1]:.3f};"
            f" resident {self.resident[0] / 2**20:.1f} MiB at first, then {low:.1f} to {high:.1f} MiB,"
            f" growth {self.growth:.0f} KiB, allowed {self.allowed:.0f} KiB"
        )


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, D, 3, padding=1), nn.ReLU(), nn.Conv2d(D, D, 3, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(D, K, 1)
        self.head = nn.Conv2d(D, D, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(images)
        return self.classifier(features), self.head(features)


def batch(step: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images [2, 3, h, w] that show their labels [2, h, w], of which some do not count."""
    h, w = SIZES[step % len(SIZES)]
    coarse = torch.randint(K, (2, 1, 4, 4), generator=random).float()
    labels = nn.functional.interpolate(coarse, (h, w))[:, 0].long()
    images = torch.stack([labels == 1, labels == 2, labels > 2], dim=1) + torch.randn(2, 3, h, w, generator=random)
    labels[torch.rand(labels.shape, generator=random) < 0.1] = 255
    return images, labels


def soak(steps: int, seed: int = 0) -> Soak:
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = Network()
    memory = fpc.MemoryBank(K, D, pixel_size=50, region_size=20)
    mining = fpc.Mining(fraction=0.3, keep=(16, 64))
    contrast = fpc.PixelContrastLoss(max_samples=64, max_views=8, memory=memory, mining=mining)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    at: list[int] = []
    resident: list[int] = []
    losses = array("d", [0.0]) * steps  # numbers in a list would be objects, and grow
    began = time.perf_counter()
    for step in range(steps):
        images, labels = batch(step, random)
        logits, embeddings = network(images)
        entropy = nn.functional.cross_entropy(logits, labels, ignore_index=255)
        loss = entropy + 0.1 * contrast(embeddings, labels, logits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses[step] = float(loss.detach())
        if losses[step] - losses[step] != 0:
            raise AssertionError(f"step {step}: the loss is {losses[step]}")
        if (step + 1) % max(1, steps // 100) == 0:
            at.append(step + 1)
            resident.append(status("VmRSS"))
    return Soak(at, resident, losses.tolist(), time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = soak(arguments.steps, arguments.seed)
    print(result)
    return 0 if result.growth <= result.allowed else 1


if __name__ == "__main__":
    sys.exit(main())
