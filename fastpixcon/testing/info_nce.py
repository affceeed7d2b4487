"""Cases of info_nce."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from fastpixcon.testing import rounding
from fastpixcon.testing.accuracy import Case, leaves, with_layout
from fastpixcon.values import Rows, Rule

RULES = (
    "weights",
    "class weights",
    "positives of other groups",
    "negatives of the same group",
    "everything",
)


@dataclass(frozen=True)
class InfoNCECase(Case):
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
    rule_of_pairs: str = ""  # one of RULES

    @property
    def largest_logit(self) -> float:
        return (max(1.0, 4 * self.norm**2) if self.rows == "any" else 1.0) / self.temperature

    @property
    def tol(self) -> float:
        return rounding.of_losses(self.largest_logit, self.D, self.N if self.M is None else self.M)

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
        return with_layout(x.to(device, self.dtype), self.layout)

    def sets(self, device: str | torch.device = "cpu") -> tuple[Rows, Rows | None]:
        """Anchors and contrast set."""
        generator = self.generator()

        def rows(count: int, contrast: bool) -> Rows:
            y = self.make_labels(count, contrast, generator)
            x = self.make_rows(y, generator, device)
            return Rows(x, y.to(device), *self.make_weights(count, contrast or self.M is None, device))

        anchors = rows(self.N, False)
        return anchors, None if self.M is None else rows(self.M, True)

    def rule(self, device: str | torch.device = "cpu") -> Rule:
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        temperature = torch.tensor(self.temperature, dtype=wide, device=device)
        W = None
        if self.rule_of_pairs in ("class weights", "everything"):
            generator = self.generator()
            K = 2 * self.classes + 8
            W = torch.rand(K, K, generator=generator) * 2
            W = (W * (torch.rand(K, K, generator=generator) < 0.8)).to(device, wide)
        groups = {"positives of other groups": ("other", "any"), "negatives of the same group": ("any", "same")}
        groups["everything"] = ("same", "other")
        which = groups.get(self.rule_of_pairs, ("any", "any"))
        return Rule(temperature, self.denominator, *self.known, W, *which)

    def make_weights(
        self, count: int, contrast: bool, device: str | torch.device
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of rows, if they are contrast rows; and their groups."""
        generator = torch.Generator().manual_seed(count + 7 * contrast)
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        v, u = torch.rand(2, count, generator=generator).mul(3).to(device, wide)
        v[::7] = 0
        groups = torch.randint(-1, 2, (count,), generator=generator).to(device, torch.int32)
        if not contrast or self.rule_of_pairs not in ("weights", "everything"):
            v = u = None
        return v, u, groups if self.rule_of_pairs in RULES[2:] else None

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        return leaves("info_nce", *self.sets(device), self.rule(device), self.rows)


@dataclass(frozen=True)
class InfoNCEMeanCase(InfoNCECase):
    operator = "info_nce_mean"
    weighed: bool = True
    mean: bool = True
    scale: float = 0.7

    def anchor_weights(self, device: str | torch.device = "cpu") -> Tensor | None:
        if not self.weighed:
            return None
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        weights = torch.rand(self.N, generator=self.generator()).mul(2)
        weights[::5] = 0
        return weights.to(device, wide)

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        values = *self.sets(device), self.rule(device), self.rows, self.anchor_weights(device), self.scale, self.mean
        return leaves("info_nce_mean", *values)


def info_nce_mean_cases() -> list[InfoNCEMeanCase]:
    kinds = ("all ignored", "singles", "disjoint")
    few = [case for n, case in enumerate(info_nce_cases()) if n % 7 == 0 or case.N < 2 or case.labels in kinds]
    made = [{x.name: getattr(case, x.name) for x in fields(case)} for case in few]
    cases = [InfoNCEMeanCase(**of, weighed=n % 2 == 0, mean=n % 3 > 0) for n, of in enumerate(made)]
    return [*cases, InfoNCEMeanCase(2100, 3, classes=60), InfoNCEMeanCase(2100, 3, classes=60, weighed=False)]


@dataclass(frozen=True)
class InfoNCEAtOnceCase(InfoNCEMeanCase):
    operator = "info_nce_at_once"

    def arguments(self, device: str | torch.device = "cpu") -> list[Any]:
        values = *self.sets(device), self.rule(device), self.rows, self.anchor_weights(device), self.scale, self.mean
        return leaves("info_nce_at_once", *values, [True, True, True])


def info_nce_at_once_cases() -> list[InfoNCEAtOnceCase]:
    chosen = [case for number, case in enumerate(info_nce_cases()) if number % 3 == 0 or case.M == 0]
    made = [{x.name: getattr(case, x.name) for x in fields(case)} for case in chosen]
    return [InfoNCEAtOnceCase(**of, weighed=n % 2 == 0, mean=n % 3 > 0) for n, of in enumerate(made)]


def with_rules(cases: Sequence[Any]) -> list[Any]:
    """Each case besides under a rule of pairs, one after the other; some of them decoupled."""
    ruled = []
    for number, case in enumerate(cases):
        rule = RULES[number % len(RULES)]
        if case.labels in ("wide", "strange", "singles") and rule in ("class weights", "everything"):
            rule = "weights"
        denominator = "decoupled" if number % 3 == 0 else case.denominator
        ruled.append(replace(case, rule_of_pairs=rule, denominator=denominator))
    decoupled = [replace(case, denominator="decoupled") for case in cases[:: max(1, len(cases) // 12)]]
    return list(dict.fromkeys([*cases, *ruled, *decoupled]))


def info_nce_cases() -> list[InfoNCECase]:
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
    return with_rules(list(dict.fromkeys(cases)))
