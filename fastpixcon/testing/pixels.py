"""Cases of the operators that pick pixels: select_anchors and gather_normalize."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from fastpixcon.testing import rounding
from fastpixcon.testing.accuracy import Case, with_layout


@dataclass(frozen=True)
class GatherCase(Case):
    operator = "gather_normalize"
    B: int
    D: int
    h: int
    w: int
    N: int
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    norm: float = 1.0
    repeated: bool = False  # pixels that are gathered several times
    padding: float = 0.2  # share of indices that are -1
    zero_pixels: bool = False

    @property
    def tol(self) -> float:
        return rounding.of_rows(self.D)

    @property
    def gradient_tol(self) -> float:
        """Relative to gradients of rows over the norms of their pixels; of a pixel gathered several times a sum."""
        return math.hypot(self.tol, rounding.of_mean(self.D), rounding.of_mean(self.N if self.repeated else 1))

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        generator = self.generator()
        x = torch.randn(self.B, self.D, self.h, self.w, generator=generator) * self.norm
        if self.zero_pixels:
            x[..., ::2] = 0
        pixels = self.B * self.h * self.w
        if self.repeated:
            index = torch.randint(min(pixels, 5), (self.N,), generator=generator)
        else:
            index = torch.randperm(pixels, generator=generator)[: self.N]
        index[torch.rand(len(index), generator=generator) < self.padding] = -1
        return [with_layout(x.to(device, self.dtype), self.layout), index.to(device)]


@dataclass(frozen=True)
class SelectCase(Case):
    operator = "select_anchors"
    B: int = 2
    size: tuple[int, int] = (12, 17)  # h, w of the predictions
    label_size: tuple[int, int] | None = None  # H, W; None: as the predictions
    classes: int = 5
    max_samples: int = 64
    max_views: int = 4
    min_pixels: int | None = None  # None: max_views + 1
    label_dtype: torch.dtype = torch.int64
    predictions: torch.dtype = torch.int64  # an integer type: classes; a floating one: logits
    right: float = 0.5  # share of pixels predicted as labelled
    ignored: float = 0.1
    ignore_index: int = 255
    layout: str = "contiguous"  # of logits
    ties: bool = False  # logits of few values, and NaN
    seed: int = 0

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        generator = self.generator()
        H, W = self.label_size or self.size
        h, w = self.size
        labels = torch.randint(self.classes, (self.B, H, W), generator=generator)
        rows, columns = torch.arange(h) * H // h, torch.arange(w) * W // w
        guess = torch.randint(self.classes, (self.B, h, w), generator=generator)
        right = torch.rand(self.B, h, w, generator=generator) < self.right
        guess = torch.where(right, labels[:, rows[:, None], columns], guess)
        labels[torch.rand(self.B, H, W, generator=generator) < self.ignored] = self.ignore_index
        if self.label_dtype.is_signed:
            labels[torch.rand(self.B, H, W, generator=generator) < self.ignored / 4] = -3
        predictions = guess.to(self.predictions)
        if self.predictions.is_floating_point:
            one_hot = torch.nn.functional.one_hot(guess, self.classes).movedim(-1, 1)
            noise = torch.randn(self.B, self.classes, h, w, generator=generator)
            if self.ties:
                noise = noise.sign().masked_fill(noise.abs() > 1.5, torch.nan)
            predictions = with_layout((one_hot + noise).to(device, self.predictions), self.layout)
        seed = torch.tensor(self.seed, dtype=torch.int64, device=device)
        least = self.max_views + 1 if self.min_pixels is None else self.min_pixels
        sizes = (self.classes, self.max_samples, self.max_views, least, self.ignore_index)
        return [labels.to(self.label_dtype).to(device), predictions.to(device), seed, *sizes]


def gather_cases() -> list[GatherCase]:
    layouts = ("contiguous", "channels_last", "strided", "part", "transposed")
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    cases = []
    for i, D in enumerate((1, 3, 16, 19, 64, 100, 256, 512)):
        for k, layout in enumerate(layouts):
            N = (1, 7, 40, 100)[(i + k) % 4]
            cases.append(
                GatherCase(2, D, 7, 9, N, layout=layout, dtype=dtypes[(i + k) % 3], repeated=(i + k // 2) % 2 > 0)
            )
    for dtype in dtypes:
        cases += [
            GatherCase(3, 33, 5, 11, 80, dtype=dtype, repeated=True, padding=0.5),
            GatherCase(3, 33, 5, 11, 80, dtype=dtype, zero_pixels=True, layout="channels_last"),
            GatherCase(2, 24, 4, 6, 30, dtype=dtype, padding=1.0),
        ]
    cases += [GatherCase(2, 24, 4, 6, 30, norm=norm) for norm in (1e30, 1e-8, 1e-30)]
    for layout in ("contiguous", "channels_last", "strided"):  # tokens; a volume's 3 planes
        cases += [GatherCase(2, 20, 1, 157, 60, layout=layout), GatherCase(2, 20, 3 * 7, 9, 60, layout=layout)]
    cases += [GatherCase(2, 24, 4, 6, 0), GatherCase(1, 5, 1, 1, 3, repeated=True)]
    return cases


def select_cases() -> list[SelectCase]:
    half, bf16, fp32 = torch.float16, torch.bfloat16, torch.float32
    cases = [
        SelectCase(),
        SelectCase(B=1, size=(1, 1), max_views=1),
        SelectCase(label_size=(24, 34)),
        SelectCase(label_size=(25, 40)),  # no multiple of each other
        SelectCase(label_size=(7, 5)),  # labels are the smaller map
        SelectCase(size=(1, 1157), label_size=(1, 2401)),  # tokens
        SelectCase(size=(1, 1157), predictions=bf16, layout="channels_last"),
        SelectCase(size=(3 * 11, 9), label_size=(3 * 25, 14)),  # a volume of 3 planes
        SelectCase(max_samples=7),  # more segments than samples
        SelectCase(max_samples=1),
        SelectCase(max_samples=5000, max_views=100, size=(40, 33)),
        SelectCase(max_views=1),
        SelectCase(max_views=1000),  # nothing is eligible
        SelectCase(max_views=1000, min_pixels=1, max_samples=1000),  # all pixels are chosen
        SelectCase(max_views=37, min_pixels=33, max_samples=500),  # some segments give all they have, some are left out
        SelectCase(classes=60, max_views=6, min_pixels=1),  # a few pixels each, and more segments than samples
        SelectCase(classes=40, B=4, size=(30, 31), max_samples=900, max_views=23, min_pixels=10, right=0.8),
        SelectCase(max_views=4, min_pixels=40),  # larger than max_views + 1
        SelectCase(ignored=1.0),
        SelectCase(classes=1),
        SelectCase(classes=40, B=4, size=(30, 31), max_samples=300),
        SelectCase(classes=300, size=(30, 31), max_views=2),  # too many for counts in shared memory
        SelectCase(right=0.0),
        SelectCase(right=1.0),
        SelectCase(right=0.95, max_views=9),
        SelectCase(right=0.05, max_views=9),
        SelectCase(ignore_index=0),
        SelectCase(ignore_index=-1),
        SelectCase(seed=-1),
        SelectCase(seed=2**63 - 1),
        SelectCase(seed=2**33 + 5, B=5),
    ]
    cases += [SelectCase(label_dtype=t) for t in (torch.uint8, torch.int8, torch.int16, torch.int32) if t != torch.int8]
    cases += [SelectCase(label_dtype=torch.int8, ignore_index=-1), SelectCase(predictions=torch.uint8)]
    cases += [SelectCase(predictions=torch.int32, label_dtype=torch.uint8, label_size=(96, 136))]
    for dtype in (fp32, bf16, half):
        cases += [SelectCase(predictions=dtype, layout=layout) for layout in ("contiguous", "channels_last", "strided")]
        cases += [SelectCase(predictions=dtype, ties=True, classes=3), SelectCase(predictions=dtype, classes=1)]
    return cases
