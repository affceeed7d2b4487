"""Cases of the steps over one contrast set of several: contrast_sums, contrast_positives, contrast_gradient; and of
mining_thresholds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastpixcon.reference.pairs import bank_pairs, batch_pairs
from fastpixcon.testing.accuracy import EPS, Case, leaves
from fastpixcon.testing.info_nce import RULES, InfoNCECase, with_rules
from fastpixcon.values import ALL_PAIRS, BankRows, Pairs, Rows, Rule, Statistics


def mined_somewhere(cosine: Tensor, generator: torch.Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Thresholds and shares [4, N] for cosines [N, M]: in the widest gap of the middle half of a row's, so that
    rounding does not move a pair across; every third anchor keeps all of its pairs."""
    N, M = cosine.shape
    mined = torch.stack([-torch.inf * torch.ones(N), torch.inf * torch.ones(N), torch.ones(N), torch.ones(N)])
    if M >= 4:
        ordered = cosine.double().sort(dim=1).values[:, M // 4 : M - M // 4]
        gap, at = ordered.diff(dim=1).max(dim=1)
        middle = (ordered.gather(1, at[:, None])[:, 0] + gap / 2).float()
        some = torch.arange(N) % 3 > 0
        wide = some & (gap > 1e-4)
        mined[0] = torch.where(wide, middle, mined[0])
        mined[1] = torch.where(wide, middle, mined[1])
        mined[2:] = torch.where(some, torch.rand(2, N, generator=generator), mined[2:])
    return mined, torch.tensor(seed, dtype=torch.int64)


@dataclass(frozen=True)
class ContrastCase(Case):
    """Of contrast_sums; ``positives`` and ``gradient`` are arguments of the other steps, of what the reference returns.

    ``elsewhere``: other contrast sets have negatives and positives, too.
    """

    operator = "contrast_sums"
    N: int
    D: int
    M: int | None = None  # None: self contrast
    diagonal: int | None = None  # where the anchors are among the contrast rows
    mutual: bool = False
    mined: bool = False
    elsewhere: bool = False
    classes: int = 5
    labels: str = "mixed"
    label_dtype: torch.dtype = torch.int64
    dtype: torch.dtype = torch.float32
    temperature: float = 0.1
    denominator: str = "negatives"
    layout: str = "contiguous"
    rule_of_pairs: str = ""

    @property
    def rows(self) -> InfoNCECase:
        return InfoNCECase(
            self.N, self.D, self.M, self.classes, self.labels, self.label_dtype, self.dtype, self.temperature,
            self.denominator, "unit", layout=self.layout, rule_of_pairs=self.rule_of_pairs,
        )  # fmt: skip

    @property
    def tol(self) -> float:
        return self.rows.tol

    def sets(self, device: str | torch.device = "cpu") -> tuple[Rows, Rows | None]:
        a, c = self.rows.sets(device)
        if self.diagonal is not None and c is not None:
            for all_of_them, own in zip(c, a, strict=True):
                if all_of_them is not None and own is not None:
                    all_of_them[self.diagonal : self.diagonal + self.N] = own
        if self.mutual:  # anchors are contrast rows, too
            v, u, _ = self.rows.make_weights(self.N, True, device)
            a = a._replace(positive_weights=v, negative_weights=u)
        return a, c

    def values(self, device: str | torch.device = "cpu") -> tuple[Rows, Rows | None, Rule, Pairs]:
        mined, seed = None, None
        pairs = ALL_PAIRS._replace(diagonal=self.diagonal)
        if self.mined:
            cosine = batch_pairs(*self.sets(), self.rows.rule(), pairs).cosine
            mined, seed = mined_somewhere(cosine, self.generator(), 2**40 + 17)
        rule = self.rows.rule(device)
        if self.diagonal is not None:
            rule = rule._replace(is_sorted=False)
        return (
            *self.sets(device),
            rule,
            Pairs(self.diagonal, *(x if x is None else x.to(device) for x in (mined, seed))),
        )

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        return leaves("contrast_sums", *self.values(device), self.mutual)

    def totals(self, log_sum: Tensor, device: str | torch.device = "cpu") -> Tensor:
        """log Z of all sets, from that of this one."""
        if not self.elsewhere:
            return log_sum.to(device)
        other = torch.randn(log_sum.shape, generator=self.generator()) + 1 / self.temperature
        return torch.logaddexp(log_sum.cpu(), other.to(log_sum)).to(device)

    def positives(self, arguments: list[Any], sums: tuple[Tensor, ...]) -> list[Any]:
        """Arguments of contrast_positives, from those of contrast_sums and what the reference makes of them."""
        *given, mutual = arguments
        log_sum, column_log_sum = (self.totals(x, given[0].device) for x in sums)
        return [*given, log_sum, column_log_sum if mutual else None]

    def gradient(self, arguments: list[Any], sums: tuple[Tensor, ...], positives: tuple[Tensor, ...]) -> list[Any]:
        """Arguments of contrast_gradient, from what the reference makes of the steps before."""
        *given, mutual = arguments
        generator = torch.Generator().manual_seed(3)
        sides: list[Statistics] = []
        for total, (_, weight, mass) in zip(sums, (positives[:3], positives[3:]), strict=True):
            if self.elsewhere:
                mass = mass + torch.arange(len(mass)) % 3
            d_loss = torch.randn(total.shape, generator=generator).to(total)
            of = (d_loss, self.totals(total), weight / mass.where(mass > 0, 1), mass)
            sides.append(Statistics(*(x.to(given[0].device) for x in of)))
        columns = sides[1] if mutual else [None] * len(sides[1])
        return [*sides[0], *columns, *given, [True, True, True]]


def contrast_cases() -> list[ContrastCase]:
    bf16, half = torch.bfloat16, torch.float16
    cases = []
    for denominator in ("negatives", "all"):
        for mined in (False, True):
            common: dict[str, Any] = {"denominator": denominator, "mined": mined}
            for dtype in (torch.float32, bf16, half):
                cases += [
                    ContrastCase(129, 64, dtype=dtype, **common),
                    ContrastCase(65, 40, M=150, diagonal=33, dtype=dtype, elsewhere=True, **common),
                    ContrastCase(70, 19, M=301, dtype=dtype, **common),
                ]
            cases += [
                ContrastCase(257, 256, classes=11, labels="sorted", label_dtype=torch.int32, elsewhere=True, **common),
                ContrastCase(66, 32, temperature=0.01, **common),
                ContrastCase(66, 32, M=77, temperature=0.01, elsewhere=True, **common),
                ContrastCase(40, 16, M=40, diagonal=0, labels="ignored", **common),
                ContrastCase(17, 100, M=33, labels="overlap", layout="strided", **common),
                ContrastCase(30, 16, labels="padded", label_dtype=torch.int32, **common),
                ContrastCase(30, 16, M=31, labels="disjoint", elsewhere=True, **common),
                ContrastCase(30, 16, labels="one class", elsewhere=True, **common),
                ContrastCase(30, 16, labels="all ignored", elsewhere=True, **common),
                ContrastCase(1, 1, **common),
                ContrastCase(3, 5, M=1, elsewhere=True, **common),
            ]
        for dtype in (torch.float32, bf16):
            cases += [
                ContrastCase(129, 64, M=70, mutual=True, dtype=dtype, denominator=denominator),
                ContrastCase(65, 256, M=300, mutual=True, dtype=dtype, denominator=denominator, elsewhere=True),
            ]
        cases += [
            ContrastCase(33, 16, M=60, mutual=True, temperature=0.01, denominator=denominator, labels="ignored"),
            ContrastCase(300, 32, M=5, mutual=True, denominator=denominator, elsewhere=True),
        ]
    cases += [
        ContrastCase(0, 16),
        ContrastCase(20, 16, M=0, elsewhere=True),
        ContrastCase(0, 16, M=20, mutual=True),
        ContrastCase(20, 16, M=0, mutual=True, elsewhere=True),
    ]
    return with_rules(cases)


@dataclass(frozen=True)
class MiningCase(Case):
    operator = "mining_thresholds"
    N: int
    D: int
    M: int | None = None  # rows of the batch that are no anchors; None: the anchors themselves; 0: no set of the batch
    S: int | None = None  # places a class in a bank, half of them empty; None: no bank
    negatives: str = "semi-hard"
    positives: str = "semi-hard"
    fraction: float = 0.1
    keep: tuple[int, int] = (5, 20)
    classes: int = 5
    labels: str = "mixed"
    dtype: torch.dtype = torch.float32
    rule_of_pairs: str = ""

    @property
    def rows(self) -> InfoNCECase:
        return InfoNCECase(
            self.N, self.D, self.M or None, self.classes, self.labels, dtype=self.dtype, rows="unit",
            rule_of_pairs=self.rule_of_pairs,
        )  # fmt: skip

    def values(self, device: str | torch.device = "cpu") -> tuple[Rows, Rows | None, int | None, BankRows | None]:
        rows = self.rows
        anchors, contrast = rows.sets(device)
        batch = (anchors, 0) if self.M is None else (None if self.M == 0 else contrast, None)
        if self.S is None:
            return anchors, *batch, None
        generator = self.generator()
        labels = torch.arange(self.classes, dtype=torch.int32)[:, None].repeat(1, self.S)
        content = rows.make_rows(labels.flatten(), generator, device).view(self.classes, self.S, self.D)
        labels[torch.rand(labels.shape, generator=generator) < 0.5] = -1
        return anchors, *batch, BankRows(content, labels.to(device))

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        rule = self.rows.rule()
        how = (self.negatives, self.positives, self.fraction, list(self.keep))
        return leaves("mining_thresholds", *self.values(device), rule.positive_groups, rule.negative_groups, *how)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines [N, all contrast rows] in float64, masks of positives and negatives."""
        anchors, contrast, diagonal, bank = self.values()
        anchors = anchors._replace(x=anchors.x.double())
        rule = self.rows.rule()._replace(class_weights=None)  # weights do not matter to it
        sets = []
        if contrast is not None:
            contrast = contrast._replace(x=contrast.x.double())
            sets.append(batch_pairs(anchors, contrast, rule, ALL_PAIRS._replace(diagonal=diagonal)))
        if bank is not None:
            sets.append(bank_pairs(anchors, bank._replace(x=bank.x.double()), rule, ALL_PAIRS))
        cosine, positives, negatives = (torch.cat(x, dim=1) for x in zip(*(of[:3] for of in sets), strict=True))
        return cosine, positives, negatives

    @property
    def rounding(self) -> float:
        """Of a cosine in float32."""
        return 4 * EPS[torch.float32]


def mining_cases() -> list[MiningCase]:
    cases = []
    for kind in ("none", "hardest", "semi-hard", "random"):
        cases += [
            MiningCase(129, 64, negatives=kind),
            MiningCase(129, 64, positives=kind, dtype=torch.bfloat16),
            MiningCase(65, 40, M=0, S=60, negatives=kind, positives=kind),
            MiningCase(65, 40, M=90, S=30, positives=kind, negatives=kind, fraction=0.3, keep=(100, 3)),
        ]
    return [
        *cases,
        MiningCase(300, 256, S=200, classes=11, dtype=torch.bfloat16),
        MiningCase(70, 19, labels="ignored", fraction=1.0),
        MiningCase(70, 19, M=33, labels="disjoint", positives="hardest"),
        MiningCase(70, 19, labels="one class", negatives="hardest"),
        MiningCase(70, 19, labels="all ignored"),
        MiningCase(30, 1, keep=(1, 1), negatives="hardest", positives="hardest"),
        MiningCase(33, 16, M=200, dtype=torch.float16, negatives="hardest"),
        MiningCase(1, 16),
        MiningCase(0, 16, S=7),
        MiningCase(129, 64, negatives="hardest", rule_of_pairs=RULES[2]),
        MiningCase(65, 40, M=90, S=30, rule_of_pairs=RULES[3]),
        MiningCase(65, 40, S=30, positives="hardest", negatives="random", rule_of_pairs=RULES[4]),
        MiningCase(65, 40, M=90, positives="random", dtype=torch.bfloat16, rule_of_pairs=RULES[4]),
        MiningCase(65, 40, M=0, S=60, negatives="random", positives="random", rule_of_pairs=RULES[3]),
    ]
