"""Cases of pixel_contrast: anchors selected, gathered and contrasted with each other."""

from dataclasses import dataclass, field
from typing import Any

import torch

from fastpixcon.testing.accuracy import Case, leaves, with_layout
from fastpixcon.testing.pixels import SelectCase
from fastpixcon.values import Rule


@dataclass(frozen=True)
class PixelContrastCase(Case):
    operator = "pixel_contrast"
    D: int
    select: SelectCase = field(default_factory=SelectCase)
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"  # of embeddings
    norm: float = 3.0
    temperature: float = 0.1
    denominator: str = "negatives"
    scale: float = 0.7
    learns_temperature: bool = True

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        labels, predictions, *how = self.select.arguments(device)
        h, w = self.select.size
        x = torch.randn(self.select.B, self.D, h, w, generator=self.generator()) * self.norm
        embeddings = with_layout(x.to(device, self.dtype), self.layout)
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        temperature = torch.tensor(self.temperature, dtype=wide, device=device)
        rule = Rule(temperature, self.denominator, self.temperature >= 0.025, is_sorted=True)
        given = embeddings, labels, predictions, *how, rule, self.scale, self.learns_temperature
        return leaves("pixel_contrast", *given)


def pixel_contrast_cases() -> list[PixelContrastCase]:
    layouts = ("contiguous", "channels_last", "strided", "part", "transposed")
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    selects = [
        SelectCase(),
        SelectCase(label_size=(25, 40), predictions=torch.bfloat16),
        SelectCase(max_samples=7),
        SelectCase(max_views=1000),  # no anchors
        SelectCase(ignored=1.0),
        SelectCase(classes=1),
        SelectCase(classes=40, B=4, size=(30, 31), max_samples=300, min_pixels=1),
        SelectCase(max_samples=200, max_views=37, min_pixels=3, predictions=torch.float32, layout="channels_last"),
    ]
    widths = (1, 19, 64, 256, 100)
    maps = [
        PixelContrastCase(
            D, selects[n], dtypes[n % 3], layout, temperature=(0.1, 0.07, 0.02)[n % 3],
            denominator=("negatives", "all", "decoupled")[n // 2], learns_temperature=n % 2 > 0,
        )
        for n, (D, layout) in enumerate(zip(widths, layouts, strict=True))
    ]  # fmt: skip
    return [*maps, *(PixelContrastCase(24, select) for select in selects)]
