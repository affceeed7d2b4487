# %% [markdown]
# # Volumes
#
# Embeddings [B, D, d, h, w], labels [B, D', H', W'] of any size, logits [B, K, d, h, w]; a memory bank of
# earlier volumes beside the batch, as of volumes few fit into one. `python examples/volume.py`: a small 3-D
# network tells balls from boxes in noise.

# %%
import argparse
import itertools
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastpixcon as fpc

parser = argparse.ArgumentParser(description="Trains a 3-D network with the contrast on volumes.")
parser.add_argument("--size", type=int, default=32, help="of the volumes, in voxels")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--batch", type=int, default=2)
options = parser.parse_args()
torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
K, D = 3, 32


# %%
class Network(nn.Module):
    """Embeddings [B, D, d, h, w] and logits [B, K, d, h, w] at half the size of the volume."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = (1, width, 2 * width, 2 * width)
        blocks = [
            nn.Sequential(nn.Conv3d(a, b, 3, stride=2 if a == 1 else 1, padding=1), nn.BatchNorm3d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        ]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Conv3d(2 * width, K, 1)
        self.projection = nn.Sequential(nn.Conv3d(2 * width, D, 1), nn.ReLU(), nn.Conv3d(D, D, 1))

    def forward(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(volumes)
        return self.classifier(features), self.projection(features)


def batch() -> tuple[Tensor, Tensor]:
    """Volumes [B, 1, S, S, S] and labels [B, S, S, S]: a ball and a box of nearly the same grey in noise."""
    S, B = options.size, options.batch
    grid = torch.stack(torch.meshgrid(*3 * [torch.arange(S)], indexing="ij"))  # [3, S, S, S]
    labels = torch.zeros(B, S, S, S, dtype=torch.int64)
    for label in labels:
        for k in (1, 2):
            centre = torch.randint(S // 4, 3 * S // 4, (3, 1, 1, 1))
            away = (grid - centre).float()
            inside = away.norm(dim=0) < S / 5 if k == 1 else away.abs().amax(0) < S / 6
            label[inside] = k
    volumes = 0.4 * labels[:, None] + 0.5 * torch.randn(B, 1, S, S, S)
    return volumes.to(device), labels.to(device)


# %% [markdown]
# The labels stay at full size: the contrast brings them to the map by nearest in each dimension. The bank takes
# `pixels_per_image` voxels of a class in a volume, and the mean of a class, in every call in training mode.

# %%
model = Network().to(device)
bank = fpc.MemoryBank(num_classes=K, dim=D, pixel_size=500, region_size=100, pixels_per_image=20).to(device)
contrast = fpc.PixelContrastLoss(max_samples=512, max_views=100, memory=bank, num_classes=K)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def step(weight: float) -> tuple[float, float]:
    volumes, labels = batch()
    logits, embeddings = model(volumes)
    full = F.interpolate(logits, labels.shape[1:], mode="trilinear", align_corners=False)
    cross_entropy = F.cross_entropy(full, labels)
    term = contrast(embeddings, labels, logits) if weight else cross_entropy.new_zeros(())
    optimizer.zero_grad()
    (cross_entropy + weight * term).backward()
    optimizer.step()
    return cross_entropy.item(), term.item()


for done in range(1, options.steps + 1):
    cross_entropy, term = step(weight=0.1)
    if done % max(options.steps // 6, 1) == 0:
        print(f"step {done}: cross-entropy {cross_entropy:.3f}, contrast {term:.3f}")

# %%
print(contrast.last)
seconds = {}
for weight in (0.0, 0.1):
    start = time.perf_counter()
    for _ in range(5):
        step(weight)
    seconds[weight] = (time.perf_counter() - start) / 5
print(f"a step: {1e3 * seconds[0.0]:.0f} ms without, {1e3 * seconds[0.1]:.0f} ms with the contrast")
