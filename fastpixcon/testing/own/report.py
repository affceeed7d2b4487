"""What a check has found, as a table and as a tree."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from fastpixcon.testing.own.judge import QUANTITIES, Finding, first
from fastpixcon.testing.own.problems import FEATURES, Posed
from fastpixcon.testing.own.smallest import Smallest


class Judged(NamedTuple):
    posed: Posed
    findings: list[Finding]

    @property
    def agrees(self) -> bool:
        return not any(x.kind for x in self.findings)

    @property
    def worst(self) -> Finding:
        return max(self.findings, key=lambda x: x.error)


class Line(NamedTuple):
    """Of the table: of ``of`` Cases ``agree`` agree, and where the error is worst."""

    group: str
    name: str
    agree: int
    of: int
    worst: float  # over what is allowed
    what: str  # of this quantity
    case: str


class Report(NamedTuple):
    """What :func:`fastpixcon.testing.check` has found; ``str`` of it is what the command prints.

    ``name`` of the loss; ``judged``, every Case and what was found on it; ``left_out``, how many Cases by reason;
    ``smallest``, for each kind of disagreement the smallest input found, with ``code`` that runs it.
    """

    name: str
    judged: list[Judged]
    left_out: dict[str, int]
    smallest: list[Smallest]

    @property
    def agrees(self) -> bool:
        """On every Case."""
        return all(x.agrees for x in self.judged)

    def lines(self) -> list[Line]:
        """By quantity and by what is special of a Case; those of no Case are left out."""
        every = [_line("all", "all", self.judged)]
        every += [_line("quantity", name, self.judged, name) for name in QUANTITIES]
        for name, feature in FEATURES.items():
            every.append(_line(feature.group, name, [x for x in self.judged if name in x.posed.features]))
        return [line for line in every if line.of]

    def disagreements(self) -> dict[tuple[str, str], list[tuple[Judged, Finding]]]:
        """By quantity and kind; of each Case the first."""
        found: dict[tuple[str, str], list[tuple[Judged, Finding]]] = {}
        for judged in self.judged:
            finding = first(judged.findings)
            if finding is not None:
                found.setdefault(finding.key, []).append((judged, finding))
        return found

    def tree(self) -> dict[str, Any]:
        """For JSON, where an infinite error has no number."""
        return {
            "loss": self.name,
            "agrees": self.agrees,
            "lines": [{**line._asdict(), "worst": _finite(line.worst)} for line in self.lines()],
            "disagreements": [
                {"what": what, "kind": kind, "cases": len(found), "case": str(found[0][0].posed.problem.case),
                 "text": found[0][1].text}
                for (what, kind), found in self.disagreements().items()
            ],
            "left_out": self.left_out,
            "smallest": [
                {"what": x.finding.what, "kind": x.finding.kind, "N": x.problem.case.N, "D": x.problem.case.D,
                 "M": x.problem.case.M, "code": x.code}
                for x in self.smallest
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        count = sum(x.agrees for x in self.judged)
        verdict = "agrees with the reference" if self.agrees else "disagrees with the reference"
        parts = [f"{self.name} {verdict}: {count} of {len(self.judged)} Cases agree", "", *_table(self.lines())]
        if not self.agrees:
            parts += ["", "Disagreements:"]
            for (what, kind), found in self.disagreements().items():
                (judged, finding), *_ = found
                parts.append(f"  {what} {kind}: {len(found)} Cases; {judged.posed.problem.case}: {finding.text}")
        if self.left_out:
            parts += ["", "Left out:"]
            parts += [f"  {count:>5}  {why}" for why, count in self.left_out.items()]
        for x in self.smallest:
            parts += [
                "",
                f"Smallest input found where {x.finding.what} {x.finding.kind}, {_size(x)}: {x.finding.text}",
                "",
            ]
            parts += [f"    {line}".rstrip() for line in x.code.splitlines()]
        return "\n".join(parts)


def _line(group: str, name: str, judged: Iterable[Judged], quantity: str = "") -> Line:
    agree = of = 0
    worst, what, case = -1.0, "", ""
    for x in judged:
        findings = [f for f in x.findings if quantity in ("", f.what)]
        if findings:
            of += 1
            agree += not any(f.kind for f in findings)
            largest = max(findings, key=lambda f: f.error)
            if largest.error > worst:
                worst, what, case = largest.error, largest.what, str(x.posed.problem.case)
    return Line(group, name, agree, of, worst, what, case)


def _table(lines: list[Line]) -> list[str]:
    """The worst error in units of what is allowed."""
    rows = [f"{'':<12}{'':<16}{'agree':>12}  {'worst':>8}  of"]
    group = ""
    for line in lines:
        shown = "" if line.group == group else line.group
        group = line.group
        mark = "  <-" if line.agree < line.of else ""
        share = f"{line.agree} of {line.of}"
        name = "" if line.name == group else line.name
        rows.append(f"{shown:<12}{name:<16}{share:>12}  {_number(line.worst):>8}  {line.what}{mark}")
    return rows


def _size(x: Smallest) -> str:
    case = x.problem.case
    return f"N = {case.N}, D = {case.D}" + ("" if case.M is None else f", M = {case.M}")


def _number(x: float) -> str:
    return f"{x:.2f}" if x < 1000 else f"{x:.1e}" if math.isfinite(x) else "inf"


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
