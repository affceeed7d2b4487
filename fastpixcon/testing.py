"""Cases of every operator and the rule of accuracy, shared by the tests and the benchmarks.

A Case makes the arguments of one operator call: ``case.arguments(device)``; the same ones every time. A backward
takes them from :func:`backward_arguments`. :data:`CASES` lists them by operator.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = [
    "CASES",
    "GatherCase",
    "InfoNCECase",
    "SelectCase",
    "assert_as_accurate",
    "backward_arguments",
    "float64",
]

EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


def assert_as_accurate(
    actual: Tensor, reference: Tensor, truth: Tensor, tol: float, *, scale: float = 0.0, name: str = "result"
) -> None:
    """|actual - truth| <= |reference - truth| + tol, in norms relative to |truth|, or to ``scale`` if that is more.

    Args:
        actual: what the kernel returned.
        reference: what the reference returned on the same arguments, in the same dtype.
        truth: what the reference returned in float64. Where it is not finite, actual must be the same.
        scale: a norm under which truth counts as a cancelled sum.
    """
    assert actual.shape == reference.shape == truth.shape, f"{name}: shape {actual.shape}, want {truth.shape}"
    assert actual.dtype == reference.dtype, f"{name}: dtype {actual.dtype}, want {reference.dtype}"
    actual, reference, truth = (x.detach().double().cpu() for x in (actual, reference, truth))
    finite = truth.isfinite()
    infinite_alike = torch.equal(actual[~finite], truth[~finite])
    assert infinite_alike, f"{name}: want {truth[~finite].unique()} where it is not finite, got {actual[~finite]}"
    assert actual[finite].isfinite().all(), f"{name}: {int((~actual[finite].isfinite()).sum())} entries are not finite"
    size = max(float(truth[finite].norm()), scale)
    error, allowed = (float((x - truth)[finite].norm()) for x in (actual, reference))
    if size > 0:
        error, allowed = error / size, allowed / size
    assert error <= allowed + tol, f"{name}: error {error:.3g}, reference {allowed:.3g} + tolerance {tol:.3g}"


def float64(arguments: Sequence[Any]) -> list[Any]:
    """The arguments with every floating point tensor in float64: of the reference, the truth."""
    return [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments]


def _with_layout(x: Tensor, layout: str) -> Tensor:
    """``x [N, D]`` or ``[B, D, h, w]`` with other strides; the memory between its elements is NaN."""
    if layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "offset":  # rows begin at odd addresses
        wide = x.new_full((*x.shape[:-1], x.shape[-1] + 3), torch.nan)
        view = wide[..., 1:-2]
    elif layout == "strided":
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan)
        view = wide[..., ::2]
    elif layout == "part":  # every other channel of a channels_last map
        wide = x.new_full((x.shape[0], 2 * x.shape[1], *x.shape[2:]), torch.nan)
        view = wide.contiguous(memory_format=torch.channels_last)[:, ::2]
    else:
        raise ValueError(f"layout: got {layout!r}")
    return view.copy_(x)


@dataclass(frozen=True)
class _Case:
    operator: ClassVar[str]

    def __str__(self) -> str:
        """What differs from the defaults."""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name}={str(value).removeprefix('torch.')}".replace("=True", ""))
        return "-".join(parts)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(str(self).encode()))


@dataclass(frozen=True)
class InfoNCECase(_Case):
    """``labels``: "mixed" unsorted classes, "sorted", "padded" (sorted, then a third -1), "ignored" (a third is -1, any
    where), "all ignored", "one class", "singles" (no positive anywhere), "disjoint" (no class on both sides), "overlap"
    (classes missing on either side), "wide" (64-bit values that agree in their lower 32 bits).
    """

    operator = "info_nce"
    N: int
    D: int
    M: int | None = None  # None: self contrast
    classes: int = 5
    labels: str = "mixed"
    label_dtype: torch.dtype = torch.int64
    dtype: torch.dtype = torch.float32
    temperature: float = 0.1
    denominator: str = "negatives"
    rows: str = "raw"
    norm: float = 1.0  # of rows that are not unit
    zero_rows: bool = False
    layout: str = "contiguous"
    d_loss: str = "random"  # or "expanded", what the backward of a sum gives

    @property
    def largest_logit(self) -> float:
        return (max(1.0, 4 * self.norm**2) if self.rows == "any" else 1.0) / self.temperature

    @property
    def tol(self) -> float:
        """A logit is as exact as its float32 rounding; a gradient no more than the rows it is made with."""
        return min(2e-6 + 4 * EPS[torch.float32] * self.largest_logit, 1e-3)

    @property
    def gradient_tol(self) -> float:
        return self.tol + (0 if self.dtype == torch.float32 else EPS[self.dtype] / 2)

    @property
    def known(self) -> tuple[bool, bool]:
        """fixed_shift and is_sorted, as the contract of info_nce has them."""
        return self.temperature >= 0.025, self.labels in ("sorted", "padded", "all ignored", "one class")

    def make_labels(self, count: int, contrast: bool, generator: torch.Generator) -> Tensor:
        y = torch.randint(self.classes, (count,), generator=generator)
        if self.labels in ("sorted", "padded"):
            y = y.sort().values
            if self.labels == "padded":
                y[count - count // 3 :] = -1
        elif self.labels == "ignored":
            y[torch.rand(count, generator=generator) < 1 / 3] = -1
        elif self.labels == "all ignored":
            y.fill_(-1)
        elif self.labels == "one class":
            y.fill_(7)
        elif self.labels == "singles":
            y = torch.randperm(count, generator=generator)
        elif self.labels == "disjoint":
            y += self.classes * contrast
        elif self.labels == "overlap":
            y += self.classes // 2 * contrast
        elif self.labels == "wide":
            y = 3 + (y << 32)
        elif self.labels != "mixed":
            raise ValueError(f"labels: got {self.labels!r}")
        return y.to(self.label_dtype)

    def make_rows(self, y: Tensor, generator: torch.Generator, device: str | torch.device) -> Tensor:
        """Rows that lean towards the direction of their class; strides would not survive a change of device."""
        toward = torch.randn(64, self.D, generator=torch.Generator().manual_seed(self.D))[y % 64]
        x = torch.randn(len(y), self.D, generator=generator) + toward
        x = torch.nn.functional.normalize(x.double())
        if self.rows != "unit":
            x *= self.norm * (0.5 + torch.rand(len(y), 1, generator=generator))
        if self.zero_rows:
            x[::3] = 0
        return _with_layout(x.to(device, self.dtype), self.layout)

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        generator = self.generator()
        sides: list[Tensor | None] = []
        for contrast, count in ((False, self.N), (True, self.M)):
            if count is None:
                sides += [None, None]
                continue
            y = self.make_labels(count, contrast, generator)
            sides += [self.make_rows(y, generator, device), y]
        tensors = [x if x is None else x.to(device) for x in sides]
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        return [
            *tensors,
            torch.tensor(self.temperature, dtype=wide, device=device),
            self.denominator,
            self.rows,
            *self.known,
        ]


@dataclass(frozen=True)
class GatherCase(_Case):
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

    tol = 2e-6

    @property
    def gradient_tol(self) -> float:
        return self.tol + (0 if self.dtype == torch.float32 else EPS[self.dtype] / 2)

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
        return [_with_layout(x.to(device, self.dtype), self.layout), index.to(device)]


@dataclass(frozen=True)
class SelectCase(_Case):
    operator = "select_anchors"
    B: int = 2
    size: tuple[int, int] = (12, 17)  # h, w of the predictions
    label_size: tuple[int, int] | None = None  # H, W; None: as the predictions
    classes: int = 5
    max_samples: int = 64
    max_views: int = 4
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
            predictions = _with_layout((one_hot + noise).to(device, self.predictions), self.layout)
        seed = torch.tensor(self.seed, dtype=torch.int64, device=device)
        sizes = (self.classes, self.max_samples, self.max_views, self.ignore_index)
        return [labels.to(self.label_dtype).to(device), predictions.to(device), seed, *sizes]


def backward_arguments(
    case: InfoNCECase | GatherCase, arguments: Sequence[Any], outputs: Sequence[Tensor]
) -> list[Any]:
    """Arguments of the backward, as autograd gives them, from those of the forward and what that returned."""
    generator = torch.Generator().manual_seed(1)
    first = outputs[0]
    if isinstance(case, GatherCase):
        x, index = arguments
        d_rows = torch.randn(first.shape, generator=generator).to(case.dtype).to(first)
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return [d_rows, *outputs, index, list(x.shape), channels_last]
    d_loss = torch.randn(first.shape, generator=generator).to(first)
    if case.d_loss == "expanded":
        d_loss = d_loss.new_tensor(0.7).expand_as(first)
    *tensors, denominator, rows, fixed_shift, is_sorted = arguments
    return [d_loss, *tensors, *outputs[1:], denominator, rows, fixed_shift, is_sorted, [True, True, True]]


def _info_nce_cases() -> list[InfoNCECase]:
    widths = (1, 3, 16, 19, 64, 100, 256, 512, 1024)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    temperatures = (0.1, 0.07, 0.025, 0.01, 1.0)
    denominators = ("negatives", "all")
    labels = ("mixed", "sorted", "ignored")
    layouts = ("contiguous", "strided", "contiguous", "offset", "transposed")
    cases = []
    for number, N in enumerate((1, 2, 3, 17, 65, 129, 257, 1000)):
        for k, D in enumerate(widths):
            i = 5 * number + k  # steps through every list at its own pace
            cases.append(
                InfoNCECase(
                    N,
                    D,
                    M=(None, 130, None, 33, 1, 301)[(i + number) % 6],
                    classes=(2, 5, 19, 3)[(i // 2) % 4],
                    labels=("mixed", "sorted", "ignored", "mixed", "overlap")[(i + k) % 5],
                    dtype=dtypes[(i // 3 + number) % 3],
                    temperature=temperatures[(i + 2 * number) % 5],
                    denominator=denominators[(i + k // 2) % 2],
                    rows=("raw", "unit", "any")[i % 3],
                    layout=layouts[i % 5],
                    d_loss=("random", "expanded")[(i // 4) % 2],
                )
            )
    for denominator in denominators:
        for M in (None, 77):
            common: dict[str, Any] = {"M": M, "denominator": denominator}
            for rows in ("raw", "unit", "any"):
                cases += [InfoNCECase(129, 64, rows=rows, temperature=t, **common) for t in temperatures]
                cases += [InfoNCECase(129, 64, rows=rows, dtype=t, **common) for t in dtypes[1:]]
            kinds = (*labels, "padded", "all ignored", "one class", "singles", "disjoint", "overlap", "wide")
            cases += [InfoNCECase(70, 19, labels=kind, rows="unit", **common) for kind in kinds]
            cases += [InfoNCECase(65, 32, layout=layout, rows="unit", **common) for layout in sorted(set(layouts))]
            cases += [
                InfoNCECase(300, 256, classes=60, **common),
                InfoNCECase(300, 64, classes=3, labels="sorted", label_dtype=torch.int32, rows="unit", **common),
                InfoNCECase(66, 32, zero_rows=True, **common),
                InfoNCECase(66, 32, zero_rows=True, rows="any", **common),
                InfoNCECase(66, 32, norm=1e4, rows="any", **common),
                InfoNCECase(66, 32, norm=1e4, **common),
                InfoNCECase(66, 32, norm=30, rows="any", dtype=torch.bfloat16, temperature=0.07, **common),
                InfoNCECase(150, 64, temperature=0.01, dtype=torch.bfloat16, labels="sorted", **common),
            ]
    cases.append(InfoNCECase(20, 16, M=0))
    cases.append(InfoNCECase(0, 16))
    return list(dict.fromkeys(cases))


def _gather_cases() -> list[GatherCase]:
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
    cases += [GatherCase(2, 24, 4, 6, 0), GatherCase(1, 5, 1, 1, 3, repeated=True)]
    return cases


def _select_cases() -> list[SelectCase]:
    half, bf16, fp32 = torch.float16, torch.bfloat16, torch.float32
    cases = [
        SelectCase(),
        SelectCase(B=1, size=(1, 1), max_views=1),
        SelectCase(label_size=(24, 34)),
        SelectCase(label_size=(25, 40)),  # no multiple of each other
        SelectCase(label_size=(7, 5)),  # labels are the smaller map
        SelectCase(max_samples=7),  # more segments than samples
        SelectCase(max_samples=1),
        SelectCase(max_samples=5000, max_views=100, size=(40, 33)),
        SelectCase(max_views=1),
        SelectCase(max_views=1000),  # nothing is eligible
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


CASES: dict[str, Sequence[InfoNCECase | GatherCase | SelectCase]] = {
    "select_anchors": _select_cases(),
    "gather_normalize": _gather_cases(),
    "info_nce": _info_nce_cases(),
}
