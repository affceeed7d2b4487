"""Cases of the memory bank's operators."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastpixcon.reference.gather_normalize import normalize
from fastpixcon.reference.pairs import bank_pairs
from fastpixcon.reference.select_anchors import downsample
from fastpixcon.testing import rounding
from fastpixcon.testing.accuracy import Case, leaves, with_layout
from fastpixcon.testing.contrast import mined_somewhere
from fastpixcon.testing.info_nce import InfoNCECase, with_rules
from fastpixcon.values import BankRows, Pairs, Rows, Rule


@dataclass(frozen=True)
class MemoryRowsCase(Case):
    operator = "memory_rows"
    B: int = 2
    D: int = 19
    size: tuple[int, int] = (9, 11)
    label_size: tuple[int, int] | None = None
    classes: int = 5
    pixels_per_image: int = 3
    label_dtype: torch.dtype = torch.int64
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    ignored: float = 0.2
    ignore_index: int = 255
    runs: bool = False  # labels in long runs, as in real scenes
    norm: float = 1.0
    seed: int = 0

    @property
    def tol(self) -> float:
        return rounding.of_rows(self.D)

    @property
    def region_tol(self) -> float:
        """Of means of unit rows: of all pixels of an image, if need be."""
        return math.hypot(self.tol, rounding.of_mean(self.size[0] * self.size[1]))

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        generator = self.generator()
        H, W = self.label_size or self.size
        labels = torch.randint(self.classes, (self.B, H, W), generator=generator)
        if self.runs:
            labels = labels[:, :: max(H // 3, 1), :: max(W // 2, 1)]
            labels = labels.repeat_interleave(max(H // 3, 1), 1).repeat_interleave(max(W // 2, 1), 2)[:, :H, :W].clone()
        labels[torch.rand(labels.shape, generator=generator) < self.ignored] = self.ignore_index
        if self.label_dtype.is_signed:
            labels[torch.rand(labels.shape, generator=generator) < self.ignored / 4] = -3
        x = torch.randn(self.B, self.D, *self.size, generator=generator) + 0.3
        x = x * self.norm
        seed = torch.tensor(self.seed, dtype=torch.int64, device=device)
        embeddings = with_layout(x.to(device, self.dtype), self.layout)
        how = (self.classes, self.pixels_per_image, self.ignore_index)
        return [embeddings, labels.to(self.label_dtype).to(device), seed, *how]


def mean_lengths(arguments: list[Any]) -> Tensor:
    """Of the means of memory_rows, before they are unit rows, the lengths [B, K]; -1 where there are none. What a mean
    is off by, its direction is off by over its length; one of about MIN_MEAN may have one or not."""
    embeddings, labels, _, K, _, ignore_index = arguments
    B, D, h, w = embeddings.shape
    label = downsample(labels, h, w).flatten(1)
    counted = (label != ignore_index) & (label >= 0)
    segment = torch.where(counted, label + K * torch.arange(B)[:, None], B * K).flatten()
    unit, _ = normalize(embeddings.double().permute(0, 2, 3, 1).reshape(-1, D))
    sums = unit.new_zeros(B * K + 1, D + 1)
    sums.index_add_(0, segment, torch.cat([unit, (unit != 0).any(dim=1, keepdim=True)], dim=1))
    length = torch.where(sums[:, -1] > 0, sums[:, :-1].norm(dim=1) / sums[:, -1], -1)
    return length[:-1].view(B, K)


def memory_rows_cases() -> list[MemoryRowsCase]:
    layouts = ("contiguous", "channels_last", "strided", "part", "transposed")
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    cases = [
        MemoryRowsCase(D=D, layout=layout, dtype=dtypes[(i + k) % 3], pixels_per_image=(1, 3, 10)[(i + 2 * k) % 3])
        for i, D in enumerate((1, 16, 64, 100, 256))
        for k, layout in enumerate(layouts)
    ]
    return [
        *cases,
        MemoryRowsCase(B=1, size=(1, 1)),
        MemoryRowsCase(label_size=(18, 22)),
        MemoryRowsCase(size=(1, 157), label_size=(1, 401)),  # tokens
        MemoryRowsCase(size=(1, 1157), layout="channels_last", runs=True),
        MemoryRowsCase(size=(3 * 7, 9), label_size=(3 * 16, 14), layout="strided"),  # a volume of 3 planes
        MemoryRowsCase(label_size=(20, 35), label_dtype=torch.uint8),
        MemoryRowsCase(label_size=(5, 4), label_dtype=torch.int32),
        MemoryRowsCase(classes=40, B=3, size=(20, 21)),
        MemoryRowsCase(classes=300, pixels_per_image=2),
        MemoryRowsCase(classes=1, pixels_per_image=200),
        MemoryRowsCase(ignored=1.0),
        MemoryRowsCase(ignored=0.0, ignore_index=0),
        MemoryRowsCase(ignore_index=-1, label_dtype=torch.int16),
        MemoryRowsCase(size=(33, 40), runs=True, D=32, label_size=(66, 80)),
        MemoryRowsCase(size=(33, 40), runs=True, D=32, layout="channels_last", ignored=0.01),
        MemoryRowsCase(norm=1e15),
        MemoryRowsCase(norm=1e-13),
        MemoryRowsCase(norm=1e-12, D=3),  # some pixels have a direction
        MemoryRowsCase(D=1, size=(40, 40), ignored=0.0, classes=9),
        MemoryRowsCase(seed=-5),
        MemoryRowsCase(seed=2**62 + 3, pixels_per_image=20, B=4),
        MemoryRowsCase(B=0),
    ]


@dataclass(frozen=True)
class EnqueueCase(Case):
    operator = "memory_enqueue_"
    K: int = 5
    D: int = 19
    sizes: tuple[int, int] = (7, 4)
    pixels: int = 30
    regions: int = 6
    written: str = "some"  # or "empty", "often"
    labels: str = "mixed"  # or "one", "none", "strange"
    dtype: torch.dtype = torch.float32
    row_dtype: torch.dtype = torch.float32

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        generator = self.generator()
        K, S = self.K, sum(self.sizes)
        most = {"empty": 1, "some": 2 * max(self.sizes), "often": 2**40}[self.written]
        written = torch.randint(most, (2, K), generator=generator)
        ring = torch.arange(S) - (torch.arange(S) >= self.sizes[0]).long() * self.sizes[0]
        count = written.repeat_interleave(torch.tensor(self.sizes), dim=0).T  # [K, S]
        bank_labels = torch.where(ring < count, torch.arange(K)[:, None], -1).to(torch.int32)
        bank = torch.randn(K, S, self.D, generator=generator) * (bank_labels >= 0)[..., None]
        tensors = []
        for rows in (self.pixels, self.regions):
            labels = torch.randint(-1, K, (rows,), generator=generator)
            if self.labels == "strange":
                labels = torch.randint(-(2**31), 2**31 - 1, (rows,), generator=generator)
                labels[::3] = K
            elif self.labels != "mixed":
                labels.fill_({"one": K - 1, "none": -1}[self.labels])
            tensors += [torch.randn(rows, self.D, generator=generator).to(self.row_dtype), labels.to(torch.int32)]
        tensors = [bank.to(self.dtype), bank_labels, written, *tensors]
        tensors = [x.to(device) for x in tensors]
        return [*tensors[:3], self.sizes[0], *tensors[3:]]


def enqueue_cases() -> list[EnqueueCase]:
    bf16 = torch.bfloat16
    return [
        EnqueueCase(),
        EnqueueCase(written="empty"),
        EnqueueCase(written="often"),
        EnqueueCase(labels="one"),  # more than the ring has places
        EnqueueCase(labels="one", sizes=(30, 6)),  # exactly as many
        EnqueueCase(labels="one", sizes=(1, 1)),
        EnqueueCase(labels="none"),
        EnqueueCase(labels="strange"),
        EnqueueCase(K=1, D=1),
        EnqueueCase(K=19, D=256, pixels=700, regions=70, sizes=(20, 10)),
        EnqueueCase(K=171, D=64, pixels=3000, regions=300, sizes=(10, 3)),
        EnqueueCase(dtype=bf16),
        EnqueueCase(dtype=bf16, row_dtype=bf16, D=33),
        EnqueueCase(row_dtype=torch.float16, D=16),
        EnqueueCase(dtype=torch.float16, row_dtype=torch.float16, labels="one"),
        EnqueueCase(pixels=0, regions=0),
        EnqueueCase(regions=0, written="often"),
    ]


@dataclass(frozen=True)
class MemoryCase(Case):
    """Of memory_sums; ``positives`` are arguments of memory_positives, from what the reference returns.

    ``filled``: "all", "half" (of every ring's places, at random), "begun" (the first third), "empty", "some" (every
    other class).
    """

    operator = "memory_sums"
    N: int
    D: int
    S: int
    classes: int = 5
    filled: str = "half"
    first_anchor: int = 0
    mined: bool = False
    elsewhere: bool = False
    labels: str = "mixed"  # "strange": also classes that the bank does not have
    label_dtype: torch.dtype = torch.int32
    dtype: torch.dtype = torch.float32
    temperature: float = 0.1
    denominator: str = "negatives"
    rule_of_pairs: str = ""

    @property
    def rows(self) -> InfoNCECase:
        labels = "mixed" if self.labels == "strange" else self.labels
        return InfoNCECase(
            self.N, self.D, None, self.classes, labels, self.label_dtype, self.dtype, self.temperature,
            self.denominator, "unit", rule_of_pairs=self.rule_of_pairs,
        )  # fmt: skip

    @property
    def tol(self) -> float:
        return rounding.of_losses(self.rows.largest_logit, self.D, self.N + self.S * self.classes)

    def values(self, device: str | torch.device = "cpu") -> tuple[Rows, BankRows, Rule, Pairs]:
        anchors, _ = self.rows.sets()
        anchors = anchors._replace(positive_weights=None, negative_weights=None)  # they are no contrast rows
        y = anchors.labels
        if self.labels == "strange":
            y[::3] = torch.tensor([self.classes, -2, 2**31 - 1, -1]).to(y)[torch.arange(len(y[::3])) % 4]
        generator = self.generator()
        K, S = self.classes, self.S
        labels = torch.arange(K, dtype=torch.int32)[:, None].repeat(1, S)
        bank = self.rows.make_rows(labels.flatten(), generator, "cpu").view(K, S, self.D)
        random = torch.rand(K, S, generator=generator)
        empty = {
            "all": random < 0,
            "half": random < 0.5,
            "begun": (torch.arange(S) >= S // 3).expand(K, S),
            "empty": random < 2,
            "some": (torch.arange(K) % 2 > 0)[:, None].expand(K, S),
        }[self.filled]
        labels[empty] = -1
        pairs = Pairs(self.first_anchor, None, None)
        if self.mined:
            cosine = bank_pairs(anchors, BankRows(bank, labels), self.rows.rule(), pairs).cosine
            mined, seed = mined_somewhere(cosine, generator, -(2**50) + 3)
            pairs = Pairs(self.first_anchor, mined.to(device), seed.to(device))
        of_classes = None
        if self.rule_of_pairs in ("weights", "everything"):
            of_classes = (3 * torch.rand(K, generator=generator) * (torch.arange(K) % 5 > 0)).to(device)
        bank_rows = BankRows(bank.to(device), labels.to(device), of_classes)
        return anchors.each(lambda x: x.to(device)), bank_rows, self.rows.rule(device), pairs

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        return leaves("memory_sums", *self.values(device), True)

    def positives(self, arguments: list[Any], log_sum: Tensor) -> list[Any]:
        """Arguments of memory_positives, from those of memory_sums and what the reference makes of them."""
        *given, wants_mean = arguments
        total = log_sum
        if self.elsewhere:
            other = torch.randn(log_sum.shape, generator=self.generator()) + 1 / self.temperature
            total = torch.logaddexp(log_sum, other.to(log_sum))
        return [*given, total.to(given[0].device), wants_mean]


def memory_cases() -> list[MemoryCase]:
    bf16 = torch.bfloat16
    cases = []
    for denominator in ("negatives", "all"):
        for mined in (False, True):
            common: dict[str, Any] = {"denominator": denominator, "mined": mined}
            cases += [
                *(
                    MemoryCase(65, 64, 40, filled=filled, **common)
                    for filled in ("all", "half", "begun", "empty", "some")
                ),
                MemoryCase(129, 256, 70, dtype=bf16, **common),
                MemoryCase(129, 256, 130, dtype=bf16, filled="begun", labels="sorted", elsewhere=True, **common),
                MemoryCase(257, 100, 33, classes=11, elsewhere=True, first_anchor=1000, **common),
                MemoryCase(33, 19, 300, classes=2, label_dtype=torch.int64, **common),
                MemoryCase(33, 19, 20, temperature=0.01, **common),
                MemoryCase(33, 48, 20, temperature=0.01, dtype=bf16, elsewhere=True, labels="ignored", **common),
                MemoryCase(40, 16, 9, labels="strange", **common),
                MemoryCase(40, 16, 9, labels="one class", classes=8, **common),
                MemoryCase(3, 5, 1, **common),
            ]
    cases += [
        MemoryCase(300, 512, 40, classes=19, labels="padded", filled="all"),
        MemoryCase(1000, 32, 21, classes=60, labels="sorted"),
        MemoryCase(30, 16, 9, labels="all ignored"),
        MemoryCase(0, 16, 9),
    ]
    return with_rules(cases)
