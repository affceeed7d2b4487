"""Cases of contrast_mean: the batch, a bank, or both."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastpixcon.reference.pairs import bank_pairs, batch_pairs
from fastpixcon.testing import rounding
from fastpixcon.testing.accuracy import Case, leaves
from fastpixcon.testing.contrast import ContrastCase, mined_somewhere
from fastpixcon.testing.info_nce import with_rules
from fastpixcon.testing.memory import MemoryCase
from fastpixcon.values import ALL_PAIRS, BankRows, Pairs, Rows, Rule


@dataclass(frozen=True)
class ContrastMeanCase(Case):
    operator = "contrast_mean"
    N: int
    D: int
    M: int | None = None  # None: self contrast
    S: int | None = None  # places a class in a bank; None: no bank
    use_batch: bool = True
    mined: bool = False
    tainted: bool = False  # by zeros: NaN can't be compared
    weighed: bool = False
    reduction: str = "mean"
    wants_gradient: bool = True
    scale: float = 0.7
    filled: str = "half"  # as in MemoryCase
    classes: int = 5
    labels: str = "mixed"
    label_dtype: torch.dtype = torch.int64
    dtype: torch.dtype = torch.float32
    bank_dtype: torch.dtype | None = None  # None: that of the rows
    temperature: float = 0.1
    denominator: str = "negatives"
    layout: str = "contiguous"
    rule_of_pairs: str = ""

    @property
    def of_batch(self) -> ContrastCase:
        return ContrastCase(
            self.N, self.D, self.M, classes=self.classes, labels=self.labels, label_dtype=self.label_dtype,
            dtype=self.dtype, temperature=self.temperature, denominator=self.denominator, layout=self.layout,
            rule_of_pairs=self.rule_of_pairs,
        )  # fmt: skip

    @property
    def tol(self) -> float:
        columns = (self.N if self.M is None else self.M) + (self.S or 0) * self.classes
        return rounding.of_losses(1 / self.temperature, self.D, columns)

    def bank(self, device: str | torch.device = "cpu") -> BankRows | None:
        if self.S is None:
            return None
        dtype = self.bank_dtype or self.dtype
        case = MemoryCase(
            self.N, self.D, self.S, self.classes, self.filled, dtype=dtype, rule_of_pairs=self.rule_of_pairs
        )
        return case.values(device)[1]

    def sets(self, device: str | torch.device = "cpu") -> tuple[Rows, Rows | None, Rule, BankRows | None]:
        """Anchors that a bank of another dtype has as they are."""
        anchors, contrast, rule, _ = self.of_batch.values(device)
        if self.bank_dtype is not None:
            anchors = anchors._replace(x=anchors.x.to(self.bank_dtype).to(self.dtype))
        return anchors, contrast, rule, self.bank(device)

    def pairs(self, device: str | torch.device) -> Pairs:
        if not self.mined:
            return ALL_PAIRS
        anchors, contrast, rule, bank = self.sets()
        found = [batch_pairs(anchors, contrast, rule, ALL_PAIRS).cosine] if self.use_batch else []
        if bank is not None:
            near = Rows(anchors.x.to(bank.x.dtype), anchors.labels, groups=anchors.groups)
            found.append(bank_pairs(near, bank, rule, ALL_PAIRS).cosine)
        mined, seed = mined_somewhere(torch.cat(found, dim=1), self.generator(), 2**33 + 5)
        return Pairs(None, mined.to(device), seed.to(device))

    def anchor_weights(self, device: str | torch.device = "cpu") -> Tensor | None:
        if not self.weighed:
            return None
        weights = torch.rand(self.N, generator=self.generator()).mul(2)
        weights[::5] = 0
        return weights.to(device)

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        anchors, contrast, rule, bank = self.sets(device)
        taint = torch.zeros(self.N, device=device) if self.tainted else None
        return leaves(
            "contrast_mean", anchors, contrast, rule, self.pairs(device), bank, self.use_batch, taint,
            self.anchor_weights(device), self.scale, self.reduction, self.wants_gradient,
        )  # fmt: skip


def contrast_mean_cases() -> list[ContrastMeanCase]:
    bf16, half = torch.bfloat16, torch.float16
    cases = []
    for denominator in ("negatives", "all"):
        for mined in (False, True):
            common: dict[str, Any] = {"denominator": denominator, "mined": mined, "tainted": mined}
            cases += [
                ContrastMeanCase(129, 64, S=40, weighed=mined, **common),
                ContrastMeanCase(70, 19, M=101, S=30, label_dtype=torch.int32, reduction="sum", **common),
                ContrastMeanCase(129, 64, S=40, dtype=bf16, reduction="none", weighed=True, **common),
                ContrastMeanCase(65, 40, S=33, use_batch=False, labels="ignored", **common),
                ContrastMeanCase(65, 40, weighed=True, **common),
                ContrastMeanCase(40, 16, S=9, temperature=0.01, filled="some", reduction="none", **common),
                ContrastMeanCase(
                    66, 32, S=20, labels="sorted", label_dtype=torch.int32, wants_gradient=False, **common
                ),
            ]
    cases += [
        ContrastMeanCase(129, 64, S=40, bank_dtype=bf16),
        ContrastMeanCase(66, 48, S=20, dtype=half, bank_dtype=torch.float32),
        ContrastMeanCase(66, 48, S=20, dtype=half, bank_dtype=bf16, labels="padded", label_dtype=torch.int32),
        ContrastMeanCase(300, 256, S=50, classes=19, labels="padded", label_dtype=torch.int32, filled="begun"),
        ContrastMeanCase(40, 16, S=9, filled="empty"),
        ContrastMeanCase(40, 16, S=9, use_batch=False, filled="empty"),
        ContrastMeanCase(40, 16, S=9, labels="all ignored"),
        ContrastMeanCase(40, 16, S=9, labels="singles", classes=30, reduction="none"),
        ContrastMeanCase(40, 16, S=9, labels="wide"),
        ContrastMeanCase(17, 100, M=33, S=5, labels="overlap", layout="strided"),
        ContrastMeanCase(1, 1, S=1),
        ContrastMeanCase(20, 16, M=0, S=7),
        ContrastMeanCase(0, 16, S=7),
        ContrastMeanCase(0, 16, S=7, use_batch=False, reduction="none"),
    ]
    return with_rules(cases)
