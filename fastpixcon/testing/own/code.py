"""A Problem as Python that a user can run."""

import sys
from dataclasses import fields

import torch
from torch import Tensor

from fastpixcon.testing.info_nce import InfoNCECase
from fastpixcon.testing.own.judge import Finding, Loss
from fastpixcon.testing.own.problems import Claims, Problem

MOST_NUMBERS = 100  # beyond, rows come from the Case
MOST_SHOWN = 12


def code(loss: Loss, problem: Problem, finding: Finding, claims: Claims) -> str:
    """Python that prints what came and what is wanted."""
    case = problem.case
    many = sum(s.x.numel() for s in problem.sets) > MOST_NUMBERS
    lines, name = _imports(loss)
    if many:
        lines.append("from fastpixcon.testing import InfoNCECase")
    elif case.layout != "contiguous":
        lines.append("from fastpixcon.testing.accuracy import with_layout")
    lines += ["", *([f"case = {_call(case)}"] if many else [])]
    sides = [("anchors", "labels"), ("contrast", "contrast_labels")][: len(problem.sets)]
    for number, ((rows, labels), s) in enumerate(zip(sides, problem.sets, strict=True)):
        if many:
            lines += [f"{rows}, {labels} = case.sets()[{number}][:2]", f"{rows}.requires_grad_()"]
            continue
        value = _tensor(s.x)
        if case.layout != "contiguous":
            value = f"with_layout({value}, {case.layout!r})"
        lines += [f"{rows} = {value}.requires_grad_()", f"{labels} = {_tensor(s.labels)}"]
    temperature = repr(case.temperature)
    if claims.temperature_gradient:
        lines.append(f"temperature = torch.tensor({temperature}, requires_grad=True)")
        temperature = "temperature"
    others = {"temperature": temperature, "denominator": f'"{case.denominator}"'}
    others |= {} if claims.normalize else {"normalize": "False"}
    separate = {x: x for x in sides[1]} if len(sides) > 1 else {}
    lines.append(f"mine = {name}({_arguments('anchors', separate | others, loss.takes)})")
    if separate:
        separate["contrast"] = "contrast.double()"
    rule = {**separate, **others, "backend": '"reference"'}
    if finding.d_loss is not None and finding.d_loss.dim():
        rule["reduction"] = '"none"'
    lines.append(f"want = fastpixcon.functional.info_nce({_arguments('anchors.double()', rule, set(rule))})")
    if finding.what == "loss":
        return "\n".join(
            [
                *lines,
                f"print(mine)  # {_shown(finding.got, finding)}",
                f"print(want)  # {_shown(finding.want, finding)}",
            ]
        )
    lines.append(f"d_loss = {_d_loss(problem, finding)}")
    of = finding.what.removeprefix("d_")
    for which, cast, found in (("mine", "", finding.got), ("want", ".double()", finding.want)):
        lines.append(f"print(torch.autograd.grad({which}, {of}, d_loss{cast})[0])  # {_shown(found, finding)}")
    return "\n".join(lines)


def _call(case: InfoNCECase) -> str:
    """The Case, by what differs from the defaults."""
    given = [x for x in fields(case) if getattr(case, x.name) != x.default]
    return f"InfoNCECase({', '.join(f'{x.name}={getattr(case, x.name)!r}' for x in given)})"


def _arguments(anchors: str, others: dict[str, str], taken: set[str]) -> str:
    return ", ".join([anchors, "labels", *(f"{name}={value}" for name, value in others.items() if name in taken)])


def _imports(loss: Loss) -> tuple[list[str], str]:
    """Imports, and the name of the loss; one that can't be imported is the user's to fill in."""
    lines = ["import torch", "import fastpixcon"]
    name, module = getattr(loss.function, "__name__", ""), getattr(loss.function, "__module__", "")
    if module != "__main__" and getattr(sys.modules.get(module), name, None) is loss.function:
        lines.append(f"from {module} import {name}")
        return lines, name
    return lines, "loss"


def _tensor(x: Tensor) -> str:
    if not x.numel():
        return f"torch.zeros({list(x.shape)}, dtype={x.dtype})"
    plain = x.dtype in (torch.float32, torch.int64)  # of what is written so
    return f"torch.tensor({_nested(x)}{'' if plain else f', dtype={x.dtype}'})"


def _nested(x: Tensor) -> str:
    if x.dim():
        return f"[{', '.join(_nested(part) for part in x)}]"
    return _digits(x) if x.is_floating_point() else str(int(x))


def _digits(x: Tensor) -> str:
    """As few as make the same number of its dtype."""
    for count in range(1, 17):
        text = f"{float(x):.{count}g}"
        if torch.equal(torch.tensor(float(text), dtype=x.dtype), x):
            return text if set(text) & set(".en") else f"{text}.0"
    return repr(float(x))


def _d_loss(problem: Problem, finding: Finding) -> str:
    assert finding.d_loss is not None
    if finding.d_loss.dim() and problem.case.d_loss == "random":
        return "torch.randn(mine.shape, generator=torch.Generator().manual_seed(1)).to(mine)"
    return f"torch.full_like(mine, {_few(finding.d_loss.flatten()[0])})"


def _shown(x: Tensor | None, finding: Finding) -> str:
    if x is None:
        return f"it {finding.kind}"
    if x.numel() > MOST_SHOWN:
        return f"norm {float(x.double().norm()):.4g}"
    return _few(x)


def _few(x: Tensor) -> str:
    if x.dim():
        return f"[{', '.join(_few(part) for part in x)}]"
    return f"{float(x) + 0.0:.4g}"  # no -0
