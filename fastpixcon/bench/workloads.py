"""What the suite measures: a Cell says which problem at which size, ``problem`` makes it, the same in every process."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1
NOISE = 1.5  # of a row around the direction of its class, in units of that direction: same-class cosines of 0.3
IMBALANCE = 100  # most frequent over rarest class where labels are long-tailed
BANK_CLASSES, BANK_PLACES = 19, 10_000  # the paper's bank: 190,000 rows
MAP = (8, 256, 128, 256)  # B, D, h, w of the paper-scale step, labels four times as large
QUICK_MAP = (2, 64, 32, 64)
MAX_SAMPLES = 1024
LAST = 2**32  # pairs: 65,536 rows against each other, which take minutes, come when all else is measured

ROW_WORKLOADS = {
    "self": "rows against each other, negatives in the denominator (Wang et al. 2021)",
    "supcon": "rows against each other, all in the denominator (Khosla et al. 2020)",
    "two_views": "two rows a label, NT-Xent (Chen et al. 2020): one positive, itself left out",
    "pairs": "queries against keys, one positive each, gradients of both (InfoNCE)",
    "bank": "anchors against a memory bank, negatives in the denominator",
    "bank_supcon": "anchors against a memory bank, all in the denominator",
}
MAP_WORKLOADS = {
    "step": "selection, gathering, loss and the gradient map, embeddings [B, D, h, w]",
    "select": "selection of hard anchors alone",
}
WORKLOADS = ROW_WORKLOADS | MAP_WORKLOADS


@dataclass(frozen=True)
class Cell:
    """One problem; peers are timed against each other on it."""

    workload: str
    n: int  # anchors: rows of both views, queries, pixels selected at most
    m: int = 0  # contrast rows besides: keys, the bank; pixels of the map
    dim: int = 256
    dtype: str = "float32"
    classes: int = 19
    labels: str = "balanced"  # or long-tailed
    threads: int = 1

    @property
    def key(self) -> str:
        return "/".join(str(x) for x in asdict(self).values())

    @property
    def series(self) -> str:
        """Cells that differ in size only."""
        return replace(self, n=0, m=0).key

    def costs_like(self, other: "Cell") -> bool:
        """As much a pair: whose labels they are makes no difference."""
        return replace(self, classes=0, labels="").series == replace(other, classes=0, labels="").series

    @property
    def pairs(self) -> int:
        return self.n * (self.m if self.workload in ("pairs", "bank", "bank_supcon") else self.n)

    @property
    def flop(self) -> float:
        """The least that forward and backward need in products."""
        return (6.0 if self.workload == "pairs" else 4.0) * self.pairs * self.dim


class Rows(NamedTuple):
    """A row problem: anchors against each other (contrast None) or against contrast rows."""

    cell: Cell
    anchors: Tensor  # [N, D] raw, with gradient
    labels: Tensor  # [N]
    contrast: Tensor | None  # [M, D], raw with gradient (pairs) or unit (bank)
    contrast_labels: Tensor | None  # [M]
    denominator: str

    @property
    def leaves(self) -> list[Tensor]:
        return [x for x in (self.anchors, self.contrast) if x is not None and x.requires_grad]


class Maps(NamedTuple):
    """A problem of a segmentation step."""

    cell: Cell
    embeddings: Tensor  # [B, D, h, w], with gradient
    labels: Tensor  # [B, H, W], in blocks
    logits: Tensor  # [B, K, h, w]
    predictions: Tensor  # [B, h, w]

    @property
    def leaves(self) -> list[Tensor]:
        return [self.embeddings]


def class_labels(n: int, classes: int, kind: str, generator: torch.Generator) -> Tensor:
    """[n] int64; long-tailed: frequencies fall geometrically, by IMBALANCE in all."""
    if kind == "balanced":
        return torch.randint(classes, (n,), generator=generator)
    weights = IMBALANCE ** -(torch.arange(classes) / max(1, classes - 1))
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def rows(cell: Cell, device: str = "cpu") -> Rows:
    """Values, but a bank's, are bfloat16 numbers in every dtype: one truth serves all."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, cell.dtype)

    def around(center: Tensor) -> Tensor:  # [.., D]
        return (center + NOISE * torch.randn(center.shape, generator=generator)).bfloat16()

    def leaf(x: Tensor) -> Tensor:
        return x.to(device, dtype).requires_grad_()

    denominator = "negatives" if cell.workload in ("self", "bank") else "all"
    if cell.workload == "two_views":
        labels = torch.arange(cell.n // 2).repeat(2)
        center = torch.randn(cell.n // 2, cell.dim, generator=generator)
        return Rows(cell, leaf(around(center.repeat(2, 1))), labels.to(device), None, None, denominator)
    if cell.workload == "pairs":
        labels = torch.arange(cell.n, device=device)
        keys = torch.randn(cell.m, cell.dim, generator=generator)
        queries = leaf(around(keys[: cell.n]))
        return Rows(cell, queries, labels, leaf(around(keys)), torch.arange(cell.m, device=device), denominator)
    toward = torch.randn(cell.classes, cell.dim, generator=generator)
    labels = class_labels(cell.n, cell.classes, cell.labels, generator)
    anchors = leaf(around(toward[labels]))
    if not cell.m:
        return Rows(cell, anchors, labels.to(device), None, None, denominator)
    bank_labels = torch.arange(cell.classes).repeat_interleave(cell.m // cell.classes)  # as a bank has them
    bank = F.normalize(around(toward[bank_labels]).float(), dim=1)
    return Rows(cell, anchors, labels.to(device), bank.to(device, dtype), bank_labels.to(device), denominator)


def maps(
    size: tuple[int, int, int, int],
    stride: int,
    classes: int,
    channels_last: bool,
    dtype: torch.dtype,
    device: str,
    cell: Cell = Cell("step", MAX_SAMPLES),
) -> Maps:
    """Embeddings of ``size``, and labels ``stride`` times as large."""
    B, D, h, w = size
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(B, D, h, w, generator=generator).to(device, dtype)
    if channels_last:
        embeddings = embeddings.contiguous(memory_format=torch.channels_last)
    coarse = torch.randint(0, classes, (B, 1, h // 8, w // 8), generator=generator).float()
    labels = F.interpolate(coarse, scale_factor=8 * stride, mode="nearest")[:, 0].long()
    logits = torch.randn(B, classes, h, w, generator=generator).to(device)
    return Maps(cell, embeddings.requires_grad_(), labels.to(device), logits, logits.argmax(dim=1))


def problem(cell: Cell, device: str = "cpu") -> Rows | Maps:
    if cell.workload in ROW_WORKLOADS:
        return rows(cell, device)
    size = next(size for size in (MAP, QUICK_MAP) if cell.m == math.prod(size) // size[1] and cell.dim == size[1])
    return maps(size, 4, cell.classes, False, getattr(torch, cell.dtype), device, cell)


def tiny(cell: Cell) -> Cell:
    """The same kind of problem, to load what is loaded at the first call."""
    if cell.workload in MAP_WORKLOADS:
        return replace(cell, m=math.prod(QUICK_MAP) // QUICK_MAP[1], dim=QUICK_MAP[1])
    n = min(cell.n, 256)
    m = n if cell.workload == "pairs" else 16 * cell.classes
    return replace(cell, n=n, m=m if cell.m else 0)


def _sizes(low: int, high: int) -> list[int]:
    return [2**k for k in range(low.bit_length() - 1, high.bit_length())]


def _maps(size: tuple[int, int, int, int], **more: Any) -> list[Cell]:
    pixels = math.prod(size) // size[1]
    return [Cell("step", MAX_SAMPLES, pixels, size[1], **more), Cell("select", MAX_SAMPLES, pixels, size[1], **more)]


def full() -> list[Cell]:
    """Within a series from small to large."""
    cells = [Cell("self", n) for n in _sizes(1024, 131072)]
    cells += [Cell("self", n, dtype="bfloat16") for n in _sizes(1024, 131072)]
    cells += [Cell("self", n, dtype="float16") for n in (4096, 16384)]
    cells += [Cell("self", 8192, dim=dim) for dim in (64, 128, 512)]
    cells += [Cell("self", 8192, classes=k) for k in (2, 171)]
    cells += [Cell("self", 8192, classes=171, labels="long-tailed")]
    cells += [Cell("supcon", n) for n in (1024, 4096, 16384)]
    cells += [Cell("two_views", n) for n in (1024, 4096, 16384)] + [Cell("two_views", 8192, dtype="bfloat16")]
    cells += [Cell("pairs", n, n) for n in _sizes(1024, 16384)]
    cells += [Cell("pairs", n, n, dtype="bfloat16") for n in (1024, 2048, 8192)]
    bank = BANK_CLASSES * BANK_PLACES
    cells += [Cell("bank", 1024, m) for m in (bank // 8, bank // 4, bank // 2, bank)]
    cells += [Cell("bank", 4096, bank), Cell("bank", 1024, bank, dtype="bfloat16")]
    cells += [Cell("bank_supcon", 1024, m) for m in (bank // 4, bank)]
    cells += _maps(MAP) + _maps(MAP, dtype="bfloat16")[:1]
    return sorted(cells, key=lambda cell: cell.pairs >= LAST and cell.workload == "self")


def quick() -> list[Cell]:
    cells = [Cell("self", n) for n in (1024, 4096)] + [Cell("self", 1024, dtype="bfloat16")]
    cells += [Cell("supcon", 1024), Cell("two_views", 2048), Cell("pairs", 2048, 2048)]
    return [*cells, Cell("bank", 256, 19_000), Cell("bank_supcon", 256, 19_000), *_maps(QUICK_MAP)]


def smallest() -> list[Cell]:
    """Of no use but to test the suite: every workload in a second."""
    small: dict[str, Any] = {"dim": 64, "classes": 5}
    cells = [Cell(w, 64, **small) for w in ("self", "supcon", "two_views")] + [Cell("pairs", 128, 128, **small)]
    return [*cells, *(Cell(w, 64, 500, **small) for w in ("bank", "bank_supcon")), *_maps(QUICK_MAP)]
