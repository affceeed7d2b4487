# %% [markdown]
# # A vision transformer, on its tokens
#
# The contrast takes tokens as they are: embeddings [B, D, n], labels [B, n], logits [B, K, n]. What a
# transformer gives, [B, n, D], is `.mT` of that, a view that the kernels read where it lies. `python
# examples/tokens.py`: a plain ViT of timm with two linear heads learns to tell textures that mean the same
# everywhere, a class a patch.

# %%
import argparse
import time

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastpixcon as fpc

parser = argparse.ArgumentParser(description="Trains a vision transformer with the contrast on its tokens.")
parser.add_argument("--network", default="vit_tiny_patch16_224", help="any plain ViT of timm")
parser.add_argument("--size", type=int, default=128, help="of the images, in pixels")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--batch", type=int, default=8)
options = parser.parse_args()
torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
K, D = 6, 64


# %%
class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model(options.network, pretrained=False, num_classes=0, img_size=options.size)
        self.classifier = nn.Linear(self.backbone.num_features, K)
        # Not used at inference.
        self.projection = nn.Sequential(nn.Linear(self.backbone.num_features, D), nn.GELU(), nn.Linear(D, D))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.backbone.forward_features(images)[:, self.backbone.num_prefix_tokens :]  # [B, n, C]
        return self.classifier(tokens), self.projection(tokens)  # [B, n, K], [B, n, D]


def batch(patch: int) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W] of stripes of K directions, one a patch in blocks, and labels [B, n]."""
    side = options.size // patch
    blocks = torch.randint(K, (options.batch, 1, (side + 1) // 2, (side + 1) // 2)).float()
    labels = F.interpolate(blocks, scale_factor=2).long()[:, 0, :side, :side]  # [B, h, w]
    y, x = torch.meshgrid(torch.arange(options.size), torch.arange(options.size), indexing="ij")
    angle = torch.pi * torch.arange(K) / K
    stripes = torch.sin(0.8 * (x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]))  # [K, H, W]
    chosen = labels.repeat_interleave(patch, 1).repeat_interleave(patch, 2)  # [B, H, W]
    images = torch.stack([stripes.gather(0, one[None])[0] for one in chosen])  # [B, H, W]
    images = images + 2 * torch.randn_like(images)
    return images[:, None].expand(-1, 3, -1, -1).to(device), labels.flatten(1).to(device)


# %%
model = Segmenter().to(device)
patch = model.backbone.patch_embed.patch_size[0]
contrast = fpc.PixelContrastLoss(max_samples=512, max_views=8, num_classes=K)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)


def step(weight: float) -> tuple[float, float, float]:
    images, labels = batch(patch)
    logits, embeddings = model(images)
    cross_entropy = F.cross_entropy(logits.mT, labels)
    term = contrast(embeddings.mT, labels, logits.mT) if weight else cross_entropy.new_zeros(())
    optimizer.zero_grad()
    (cross_entropy + weight * term).backward()
    optimizer.step()
    return cross_entropy.item(), term.item(), (logits.argmax(-1) == labels).float().mean().item()


for done in range(1, options.steps + 1):
    cross_entropy, term, right = step(weight=0.1)
    if done % max(options.steps // 6, 1) == 0:
        print(f"step {done}: cross-entropy {cross_entropy:.3f}, contrast {term:.3f}, {100 * right:.0f} % right")

# %% [markdown]
# On a map of 8 x 8 tokens a class of an image has few: `max_views=8` asks for more than 8 of them,
# `min_pixels=1` would for one.

# %%
print(contrast.last)
seconds = {}
for weight in (0.0, 0.1):
    start = time.perf_counter()
    for _ in range(5):
        step(weight)
    seconds[weight] = (time.perf_counter() - start) / 5
print(f"a step: {1e3 * seconds[0.0]:.0f} ms without, {1e3 * seconds[0.1]:.0f} ms with the contrast")
