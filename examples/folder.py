# %% [markdown]
# # A plain PyTorch loop on a folder
#
# A network of torchvision, pictures in `images/`, label maps of the same names in `labels/` (PNG, a class a
# pixel, 255 = ignore), cross-entropy, and the pixel contrast loss in one line more. `python examples/folder.py
# --data FOLDER --classes 5`; without a folder it draws one: discs and boxes of noise on noise.

# %%
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

import fastpixcon as fpc

parser = argparse.ArgumentParser(description="Trains on a folder of pictures with the pixel contrast loss.")
parser.add_argument("--data", type=Path, help="folder with images/ and labels/; without it one is drawn")
parser.add_argument("--classes", type=int, default=3)
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--batch", type=int, default=4)
options = parser.parse_args()
torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


# %%
def draw(folder: Path, count: int = 24, size: int = 128) -> Path:
    """Background, discs and boxes, a grey each, in noise."""
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for i in range(count):
        label = Image.new("L", (size, size))
        for k in (1, 2, 1, 2):
            x, y = random.integers(0, size - 40, 2)
            (ImageDraw.Draw(label).ellipse if k == 1 else ImageDraw.Draw(label).rectangle)((x, y, x + 36, y + 36), k)
        grey = np.array([80, 120, 170])[np.array(label)] + random.normal(0, 30, (size, size))
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / "images" / f"{i}.png")
        label.save(folder / "labels" / f"{i}.png")
    return folder


class Folder(Dataset):
    def __init__(self, folder: Path) -> None:
        self.images = sorted((folder / "images").iterdir())
        self.labels = [folder / "labels" / f"{path.stem}.png" for path in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(np.array(Image.open(self.images[i]).convert("RGB")))  # [H, W, 3]
        return image.permute(2, 0, 1) / 255, torch.from_numpy(np.array(Image.open(self.labels[i])))


# %% [markdown]
# `ContrastModel` puts a projection head before the network's last layer. The contrast takes labels of any
# integer type and of any size; predictions are the logits, at the size of the embeddings. A class of an image
# takes part with more than `max_views` pixels of the map, by default 100; `min_pixels=4` lets the small ones
# in.

# %%
network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=options.classes)
model = fpc.ContrastModel(network, at="classifier.4", dim=64).to(device)
contrast = fpc.PixelContrastLoss(max_samples=1024, max_views=50, min_pixels=4, num_classes=options.classes)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def step(images: torch.Tensor, labels: torch.Tensor, weight: float) -> tuple[float, float]:
    outputs = model(images)  # logits [B, K, H, W], embeddings [B, 64, h, w]
    cross_entropy = F.cross_entropy(outputs["logits"], labels.long(), ignore_index=255)
    predictions = F.interpolate(outputs["logits"].detach(), outputs["embeddings"].shape[2:])
    term = contrast(outputs["embeddings"], labels, predictions) if weight else cross_entropy.new_zeros(())
    optimizer.zero_grad()
    (cross_entropy + weight * term).backward()
    optimizer.step()
    return cross_entropy.item(), term.item()


# %%
drawn = tempfile.TemporaryDirectory()
data = Folder(options.data or draw(Path(drawn.name)))
loader = DataLoader(data, options.batch, shuffle=True, drop_last=True)
done = 0
while done < options.steps:
    for images, labels in loader:
        cross_entropy, term = step(images.to(device), labels.to(device), weight=0.1)
        done += 1
        if done % max(options.steps // 6, 1) == 0:
            print(f"step {done}: cross-entropy {cross_entropy:.3f}, contrast {term:.3f}")
        if done == options.steps:
            break

# %% [markdown]
# What took part in the last call, what was left out, and what the contrast costs:

# %%
print(contrast.last)
seconds = {}
for weight in (0.0, 0.1):
    start = time.perf_counter()
    for _ in range(5):
        step(images.to(device), labels.to(device), weight)
    seconds[weight] = (time.perf_counter() - start) / 5
print(f"a step: {1e3 * seconds[0.0]:.0f} ms without, {1e3 * seconds[0.1]:.0f} ms with the contrast")

# %% [markdown]
# The network as it was, without the head, for inference:

# %%
plain = model.export().eval()
with torch.no_grad():
    found = plain(images[:1].to(device))["out"].argmax(1)  # [1, H, W]
print(f"predicted classes: {found.unique().tolist()}")
drawn.cleanup()
