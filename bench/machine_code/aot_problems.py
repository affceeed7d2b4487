"""Problems whose launches are compiled ahead of time: every row of the launch table, every variant of every kernel."""

import os
from dataclasses import dataclass

import torch
from ahead_of_time import ARCHITECTURES, Launch, record
from torch import Tensor

from fastpixcon.values import BankRows, Pairs, Rows, Rule, Statistics

EVERYTHING = os.environ.get("FASTPIXCON_AOT") == "all"
WIDTHS = (64, 128, 256, 512, 1024)


# Of rules of pairs; several in one word: "weights classes".
WEIGHTS, CLASS_WEIGHTS, GROUPS = "weights", "classes", "groups"
CLASSES = 19


def rows(n: int | None, D: int, dtype: torch.dtype, labels: torch.dtype = torch.int32, pairs: str = "") -> Rows | None:
    if n is None:
        return None
    found = Rows(torch.empty(n, D, dtype=dtype), torch.empty(n, dtype=labels))
    if WEIGHTS in pairs.split():
        found = found._replace(positive_weights=torch.empty(n), negative_weights=torch.empty(n))
    return found._replace(groups=torch.empty(n, dtype=torch.int32)) if GROUPS in pairs.split() else found


def rule_of(denominator: str, fixed: bool, is_sorted: bool, pairs: str) -> Rule:
    W = torch.empty(CLASSES, CLASSES) if CLASS_WEIGHTS in pairs.split() else None
    groups = ("other", "same") if GROUPS in pairs.split() else ("any", "any")
    return Rule(torch.empty(()), denominator, fixed, is_sorted, W, *groups)


def statistics_of(n: int | None) -> Statistics:
    assert n is not None
    return Statistics(*(torch.empty(n) for _ in range(4)))


def mined_pairs(n: int, mined: bool) -> tuple[Tensor | None, Tensor | None]:
    return (torch.empty(4, n), torch.empty((), dtype=torch.int64)) if mined else (None, None)


@dataclass(frozen=True)
class InfoNCE:
    """Forward and backward, with the gradient of every set of rows."""

    D: int
    dtype: torch.dtype = torch.bfloat16
    N: int = 65536
    M: int | None = None  # None: self contrast
    denominator: str = "negatives"
    rows: str = "unit"
    fixed: bool = True
    is_sorted: bool = True
    labels: torch.dtype = torch.int32
    d_temperature: bool = False  # whether its gradient is wanted
    tf32: bool = False  # as torch.backends.cuda.matmul.allow_tf32
    pairs: str = ""  # words: what the rule asks of them

    def launches(self, architecture: int) -> list[Launch]:
        with torch.device("meta"):
            sets = [rows(n, self.D, self.dtype, self.labels, self.pairs) for n in (self.N, self.M)]
            rule = rule_of(self.denominator, self.fixed, self.is_sorted, self.pairs)
            statistics = statistics_of(self.N)
        mask = [True, self.M is not None, self.d_temperature]
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        try:
            forward = record(architecture, "info_nce", *sets, rule, self.rows)
            return forward + record(architecture, "info_nce_backward", statistics, *sets, rule, self.rows, mask)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def __str__(self) -> str:
        words = ["self" if self.M is None else "separate", f"D{self.D}", str(self.dtype)[6:], self.denominator]
        words += [self.rows, "fixed" if self.fixed else "online"]
        words += ["d_temperature" if self.d_temperature else ""]
        words += ["" if self.is_sorted else "unsorted", "tf32" if self.tf32 else "", str(self.labels)[6:]]
        words += [f"N{self.N}" if self.N != 65536 else "", *self.pairs.split()]
        return "-".join(word for word in words if word)


@dataclass(frozen=True)
class Gather:
    D: int
    dtype: torch.dtype
    channels_last: bool = False

    def launches(self, architecture: int) -> list[Launch]:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        with torch.device("meta"):
            maps = torch.empty(8, self.D, 128, 256, dtype=self.dtype).contiguous(memory_format=layout)
            index, inv_norm = torch.empty(1024, dtype=torch.int64), torch.empty(1024)
            rows = torch.empty(1024, self.D, dtype=self.dtype)
        forward = record(architecture, "gather_normalize", maps, index)
        given = (rows, rows, inv_norm, index, list(maps.shape), self.channels_last)
        return forward + record(architecture, "gather_normalize_backward", *given)

    def __str__(self) -> str:
        return f"gather-D{self.D}-{str(self.dtype)[6:]}" + ("-channels_last" if self.channels_last else "")


@dataclass(frozen=True)
class Select:
    labels: torch.dtype
    predictions: torch.dtype  # floating point: logits
    classes: int = 19

    def launches(self, architecture: int) -> list[Launch]:
        K, logits = self.classes, self.predictions.is_floating_point
        with torch.device("meta"):
            labels = torch.empty(8, 512, 1024, dtype=self.labels)
            shape = (8, K, 128, 256) if logits else (8, 128, 256)
            predictions = torch.empty(shape, dtype=self.predictions)
            seed = torch.empty((), dtype=torch.int64)
        return record(architecture, "select_anchors", labels, predictions, seed, K, 1024, 100, 101, 255)

    def __str__(self) -> str:
        return f"select-{str(self.labels)[6:]}-{str(self.predictions)[6:]}-K{self.classes}"


@dataclass(frozen=True)
class Memory:
    """Every step over a memory bank, and one of self contrast to mine from."""

    D: int
    dtype: torch.dtype = torch.bfloat16
    N: int = 1024
    denominator: str = "negatives"
    fixed: bool = True
    is_sorted: bool = True
    mined: bool = False
    wanted: bool = True  # what the gradient needs
    classes: int = CLASSES
    places: int = 10000
    tf32: bool = False
    pairs: str = ""

    def launches(self, architecture: int) -> list[Launch]:
        K, S, N, D = self.classes, self.places, self.N, self.D
        with torch.device("meta"):
            anchors = rows(N, D, self.dtype, pairs=self.pairs)
            of_classes = torch.empty(K) if WEIGHTS in self.pairs.split() else None
            bank = BankRows(torch.empty(K, S, D, dtype=self.dtype), torch.empty(K, S, dtype=torch.int32), of_classes)
            rule, log_sum = rule_of(self.denominator, self.fixed, self.is_sorted, self.pairs), torch.empty(N)
            pairs = Pairs(0, *mined_pairs(N, self.mined))
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        try:
            found = record(architecture, "memory_sums", anchors, bank, rule, pairs, self.wanted)
            found += record(architecture, "memory_positives", anchors, bank, rule, pairs, log_sum, self.wanted)
            if self.mined:
                how = ("semi-hard", "semi-hard", 0.1, [1024, 2048])
                found += record(
                    architecture, "mining_thresholds", anchors, anchors, 0, bank, rule.positive_groups,
                    rule.negative_groups, *how,
                )  # fmt: skip
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        return found

    def __str__(self) -> str:
        words = ["memory", f"D{self.D}", str(self.dtype)[6:], self.denominator, "fixed" if self.fixed else "online"]
        words += ["" if self.is_sorted else "unsorted", "mined" if self.mined else "", "tf32" if self.tf32 else ""]
        words += ["" if self.wanted else "loss_only", f"N{self.N}" if self.N != 1024 else "", *self.pairs.split()]
        return "-".join(word for word in words if word)


@dataclass(frozen=True)
class Contrast:
    """Every step over one contrast set of several."""

    D: int
    dtype: torch.dtype = torch.bfloat16
    N: int = 1024
    M: int | None = None  # None: self contrast
    diagonal: int | None = None
    mutual: bool = False
    mined: bool = False
    denominator: str = "negatives"
    fixed: bool = True
    is_sorted: bool = False
    pairs: str = ""

    def launches(self, architecture: int) -> list[Launch]:
        with torch.device("meta"):
            sets = [rows(n, self.D, self.dtype, pairs=self.pairs) for n in (self.N, self.M)]
            rule = rule_of(self.denominator, self.fixed, self.is_sorted, self.pairs)
            pairs = Pairs(self.diagonal, *mined_pairs(self.N, self.mined))
            statistics, columns = statistics_of(self.N), statistics_of(self.M) if self.mutual else None
        given = (*sets, rule, pairs)
        column_log_sum = None if columns is None else columns.log_sum
        mask = [True, self.M is not None, True]
        found = record(architecture, "contrast_sums", *given, self.mutual)
        found += record(architecture, "contrast_positives", *given, statistics.log_sum, column_log_sum)
        return found + record(architecture, "contrast_gradient", statistics, columns, *given, mask)

    def __str__(self) -> str:
        words = ["contrast", "self" if self.M is None else "separate", f"D{self.D}", str(self.dtype)[6:]]
        words += [self.denominator, "fixed" if self.fixed else "online", "" if self.diagonal is None else "diagonal"]
        words += ["mutual" if self.mutual else "", "mined" if self.mined else "", "sorted" if self.is_sorted else ""]
        words += self.pairs.split()
        return "-".join(word for word in words if word)


@dataclass(frozen=True)
class MemoryRows:
    """What a batch adds to a memory bank, and adding it."""

    D: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    classes: int = 19

    def launches(self, architecture: int) -> list[Launch]:
        K, D, P = self.classes, self.D, 10
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        with torch.device("meta"):
            maps = torch.empty(8, D, 128, 256, dtype=self.dtype).contiguous(memory_format=layout)
            labels, seed = torch.empty(8, 512, 1024, dtype=torch.int64), torch.empty((), dtype=torch.int64)
            bank, bank_labels = torch.empty(K, 10000, D, dtype=self.dtype), torch.empty(K, 10000, dtype=torch.int32)
            written = torch.empty(2, K, dtype=torch.int64)
            pixels, regions = (torch.empty(8 * K * n, D, dtype=self.dtype) for n in (P, 1))
            pixel_labels, region_labels = (torch.empty(8 * K * n, dtype=torch.int32) for n in (P, 1))
        found = record(architecture, "memory_rows", maps, labels, seed, K, P, 255)
        rings = (bank, bank_labels, written, 5000)
        return found + record(architecture, "memory_enqueue_", *rings, pixels, pixel_labels, regions, region_labels)

    def __str__(self) -> str:
        return f"memory_rows-D{self.D}-{str(self.dtype)[6:]}" + ("-channels_last" if self.channels_last else "")


Problem = InfoNCE | Gather | Select | Memory | Contrast | MemoryRows

# Rows of float32 that use most registers: products of halves, anchors and contrast rows in kernels of their own.
TIGHTEST = [
    *[InfoNCE(1024, torch.float32, M=M) for M in (None, 65536)],
    InfoNCE(256, torch.float32),
    InfoNCE(512, torch.float32, M=65536, denominator="all"),
]
# Beside the table's rows: what makes other kernels of the same row.
VARIANTS = [
    InfoNCE(256, M=65536),
    InfoNCE(256, d_temperature=True),
    InfoNCE(256, M=65536, dtype=torch.float16, denominator="all", rows="any", fixed=False, labels=torch.int64),
    InfoNCE(256, dtype=torch.float16, denominator="all", rows="raw", is_sorted=False, labels=torch.int64),
    InfoNCE(256, fixed=False),
    InfoNCE(100, rows="raw", N=1001),
    InfoNCE(19, M=77, N=100, dtype=torch.float16, labels=torch.int64),
    InfoNCE(16, fixed=False, denominator="all"),
]
FLOAT32 = [
    *[InfoNCE(D, torch.float32) for D in (64, 128)],
    *[InfoNCE(D, torch.float32, tf32=True, M=M) for D, M in ((128, None), (512, 4096))],
    InfoNCE(512, torch.float32, M=4096, rows="raw", fixed=False),
    InfoNCE(100, torch.float32, fixed=False, rows="any", M=4096),
    InfoNCE(256, torch.float32, fixed=False, denominator="all"),
]
MEMORY = [
    Memory(256, mined=True),
    Memory(512, mined=True, fixed=False, denominator="all", is_sorted=False),
    Memory(128, denominator="all", fixed=False),
    Memory(64, wanted=False, is_sorted=False),
    Memory(100, N=1001, mined=True, denominator="all"),
    Memory(1024, mined=True),
    Memory(256, torch.float16),
    Memory(256, torch.float32, mined=True),
    Memory(64, torch.float32, fixed=False, tf32=True),
    Memory(19, torch.float32, mined=True, N=100),
    MemoryRows(256),
    MemoryRows(64, torch.bfloat16, channels_last=True),
    MemoryRows(19, torch.float16, classes=171),
]
CONTRAST = [
    Contrast(256, mined=True),
    Contrast(256, M=8192, diagonal=1024, mined=True),
    Contrast(128, M=8192, diagonal=1024, denominator="all"),
    Contrast(64, torch.float16, mined=True, denominator="all", fixed=False),
    Contrast(256, M=8192, mutual=True),
    Contrast(256, torch.float32, mined=True),
    Contrast(256, torch.float32, M=8192, diagonal=1024, mutual=True),
]
RULES = [
    InfoNCE(256, pairs="weights classes"),
    InfoNCE(256, torch.float32, pairs="weights classes"),
    InfoNCE(256, pairs="groups", denominator="all"),
    InfoNCE(128, pairs="weights", denominator="decoupled", fixed=False),
    InfoNCE(64, M=65536, pairs="classes", is_sorted=False, labels=torch.int64),
    Contrast(128, M=8192, mutual=True, pairs="weights"),
    Memory(256, pairs="weights classes groups", mined=True),
]
OTHERS = [
    Gather(256, torch.bfloat16),
    Gather(19, torch.float32, channels_last=True),
    Select(torch.int64, torch.int64),
    Select(torch.uint8, torch.bfloat16, classes=300),
]


def cross_product() -> list[InfoNCE]:
    found = []
    for D in (16, 19, 64, 100, 128, 256, 512, 1024):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for M in (None, 65536):
                for denominator in ("negatives", "all"):
                    for rows, fixed in (("unit", True), ("raw", False)):
                        common = {"M": M, "denominator": denominator, "rows": rows, "fixed": fixed}
                        found.append(InfoNCE(D, dtype, is_sorted=fixed, **common))
                        if dtype == torch.float32:
                            found.append(InfoNCE(D, dtype, is_sorted=fixed, tf32=True, **common))
    return found


def chosen() -> list[tuple[int, Problem]]:
    """(architecture, problem): the table and what is tightest everywhere, the rest on one each; all if EVERYTHING.

    Of sm_86 and sm_89, which have the same rows, tiles and tensor cores, each has half of what is everywhere."""
    tables = (InfoNCE, Memory)
    table = [of(D) for of in tables for D in WIDTHS]
    tightest = [*TIGHTEST, Memory(256, torch.float32)]
    rest = [*VARIANTS, *FLOAT32, *MEMORY, *CONTRAST, *OTHERS, *RULES]
    if EVERYTHING:
        problems = dict.fromkeys([*table, *tightest, *rest, *cross_product()])
        return [(a, p) for p in problems for a in ARCHITECTURES]
    turns = [(ARCHITECTURES[i % 6], p) for i, p in enumerate(rest)]
    everywhere = [(a, p) for i, p in enumerate([*table, *tightest]) for a in ARCHITECTURES if a != (86, 89)[i % 2]]
    return everywhere + turns
