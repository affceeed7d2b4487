"""``fastpixcon.testing.check`` on losses that people have, and on wrong ones."""

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastpixcon as fpc
from fastpixcon import cli
from fastpixcon.functional.rows import DENOMINATORS
from fastpixcon.testing import CASES, InfoNCECase, Report, check
from fastpixcon.testing.own import DTYPES, FEATURES
from fastpixcon.testing.own.problems import Claims, pose

SOME = [x for x in CASES["info_nce"] if not x.rule_of_pairs][::3]
EAGER = (
    "lonely-anchors",
    "no-positives",
    "ignored-labels",
    "zero-rows",
    "no-rows",
)  # what the published code wants none of


def published(
    anchors: Tensor,
    labels: Tensor,
    contrast: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    *,
    temperature: float,
) -> Tensor:
    """The formula of ContrastiveSeg's ``_contrastive``, which takes unit rows; here any."""
    a = F.normalize(anchors, dim=1)
    c, y = (a, labels) if contrast is None else (F.normalize(contrast, dim=1), contrast_labels)
    mask = (labels[:, None] == y).to(a.dtype)
    logits = a @ c.T / temperature
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    neg_mask = 1 - mask
    if contrast is None:
        mask = mask * (1 - torch.eye(len(a), dtype=a.dtype))
    neg_logits = (logits.exp() * neg_mask).sum(1, keepdim=True)
    log_prob = logits - torch.log(logits.exp() + neg_logits)
    return -((mask * log_prob).sum(1) / mask.sum(1)).mean()


def eager(a: Tensor, y: Tensor, temperature: Any, *, itself: bool = False, detach: bool = False) -> Tensor:
    """A loss without those limits, [N]."""
    a = F.normalize(a, dim=1)
    s = a @ (a.detach() if detach else a).T / temperature
    valid = (y[:, None] >= 0) & (y >= 0)
    P, N = (y[:, None] == y) & valid, (y[:, None] != y) & valid
    if not itself:
        P = P & ~torch.eye(len(y), dtype=torch.bool)
    z = s.masked_fill(~N, -torch.inf).logsumexp(1, keepdim=True)
    return (F.softplus(z - s) * P).sum(1) / P.sum(1).clamp(min=1)


def right(a: Tensor, y: Tensor, temperature: Any) -> Tensor:
    return eager(a, y, temperature)


def with_itself(a: Tensor, y: Tensor, temperature: Any) -> Tensor:
    return eager(a, y, temperature, itself=True)


def detached(a: Tensor, y: Tensor, temperature: Any) -> Tensor:
    return eager(a, y, temperature, detach=True)


def at_a_tenth(a: Tensor, y: Tensor, temperature: Any) -> Tensor:
    return eager(a, y, 0.1)


def contiguous_alone(a: Tensor, y: Tensor, temperature: Any) -> Tensor:
    return eager(a.as_strided(a.shape, (a.shape[1], 1)), y, temperature)


def few_alone(a: Tensor, y: Tensor, temperature: Any) -> Tensor:
    return eager(a, y, temperature) * (1.1 if len(a) > 200 else 1.0)


def line(report: Report, name: str) -> tuple[int, int]:
    return next((x.agree, x.of) for x in report.lines() if x.name == name)


def test_the_published_formula() -> None:
    """All of float32 and bfloat16; in float16 exponentials of low temperatures vanish, and their logarithm is NaN."""
    report = check(published, without=EAGER, raises=False)
    for name in ("float32", "bfloat16"):
        agree, of = line(report, name)
        assert agree == of >= 10
    ((key, found),) = report.disagreements().items()
    assert key == ("loss", "is not finite")
    assert all(x.posed.problem.case.temperature < 0.07 for x, _ in found)
    check(published, without=[*EAGER, "float16"], cases=SOME)


def test_the_published_formula_is_nan_without_a_positive() -> None:
    without = [x for x in EAGER if x != "lonely-anchors"]
    report = check(published, dtypes=[torch.float32], without=without, cases=SOME, raises=False)
    agree, of = line(report, "lonely-anchors")
    assert agree == 0 < of
    (found,) = report.smallest
    assert found.problem.case.N <= 3
    assert "from test_check import published" in found.code
    assert "print(mine)  # nan" in found.code


def test_supcon_of_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch_metric_learning is not installed")

    def supcon(
        anchors: Tensor, labels: Tensor, contrast: Tensor | None, contrast_labels: Tensor | None, temperature: float
    ) -> Tensor:
        loss = losses.SupConLoss(temperature=temperature)
        value: Tensor = loss(anchors, labels, ref_emb=contrast, ref_labels=contrast_labels)
        return value

    supcon_of_rows = partial(supcon, contrast=None, contrast_labels=None)
    # Its reducer leaves out anchors whose loss is rounded to 0
    without = ["ignored-labels", "zero-rows", "no-negatives", "T=0.01"]
    report = check(supcon_of_rows, denominators=["all"], without=without, cases=SOME)
    assert line(report, "separate")[0] > 10
    report = check(
        losses.SupConLoss(temperature=0.2), temperature=0.2, denominators=["all"], without=without, cases=SOME
    )
    assert report.left_out["separate: the loss takes no contrast"] > 0
    report = check(supcon_of_rows, denominators=["negatives"], without=without, cases=SOME, raises=False)
    assert not report.agrees


@pytest.mark.parametrize("normalize", [True, False])
def test_the_library_itself(normalize: bool) -> None:
    every = DENOMINATORS
    strict: dict[str, Any] = {"strict": True, "temperature_gradient": True, "normalize": normalize}
    report = check(fpc.functional.info_nce, denominators=every, cases=SOME[::3], **strict)
    assert {x.name for x in report.lines() if x.group == "denominator"} == set(every)
    assert line(report, "d_temperature")[0] > 50


def test_every_feature_is_in_the_cases() -> None:
    claims = Claims(DENOMINATORS, DTYPES, True, None, False, False, (), torch.device("cpu"))
    posed, _ = pose(CASES["info_nce"], claims, separate=True)
    assert {name for x in posed for name in x.features} == set(FEATURES)


@pytest.mark.parametrize(("loss", "what"), [(with_itself, "loss"), (detached, "d_anchors"), (at_a_tenth, "loss")])
def test_a_wrong_loss_and_the_smallest_input(loss: Callable[..., Tensor], what: str) -> None:
    report = check(loss, without=["zero-rows"], dtypes=[torch.float32], raises=False)
    assert not report.agrees
    found = next(x for x in report.smallest if x.finding.what == what)
    case = found.problem.case
    assert case.N == 4  # two of two classes each
    assert case.D <= 2
    mine, want = printed(found.code)
    assert mine != want


def printed(code: str) -> list[str]:
    """The two tensors that code prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        exec(code, {})
    return [x.partition("grad_fn")[0] for x in text.getvalue().split("tensor(")[1:]]


@pytest.mark.parametrize(
    ("loss", "name", "line_of_code"),
    [(contiguous_alone, "contiguous", "anchors = with_layout("), (few_alone, "few-rows", "case = InfoNCECase(N=")],
)
def test_what_shows_in_some_layout_or_size_alone(loss: Callable[..., Tensor], name: str, line_of_code: str) -> None:
    report = check(loss, without=["zero-rows"], dtypes=[torch.float32], cases=SOME, raises=False)
    agree, of = line(report, name)
    assert agree == of
    assert not report.agrees
    assert line_of_code in report.smallest[0].code
    mine, want = printed(report.smallest[0].code)
    assert mine != want


def test_what_is_right_agrees() -> None:
    report = check(right, without=["zero-rows"], temperature_gradient=True)
    agree, of = line(report, "ignored-labels")
    assert agree == of > 5
    assert report.left_out["a rule of pairs, which check does not pass"] > 200
    with pytest.raises(AssertionError, match=r"right disagrees with the reference: [\s\S]*zero-rows +0 of 1"):
        check(right, cases=[x for x in CASES["info_nce"] if x.zero_rows])


def raising(a: Tensor, y: Tensor, temperature: float) -> Tensor:
    raise IndexError("no\nrow")


def integers(a: Tensor, y: Tensor, temperature: float) -> Tensor:
    return y


def of_pairs(a: Tensor, y: Tensor, temperature: float) -> Tensor:
    return a @ a.T


def without_graph(a: Tensor, y: Tensor, temperature: float) -> Tensor:
    return eager(a, y, temperature).detach()


def renaming(a: Tensor, y: Tensor, temperature: float) -> Tensor:
    loss = eager(a, y, temperature)
    y[:] = 0
    return loss


@pytest.mark.parametrize(
    ("loss", "kind", "text"),
    [
        (raising, "raises IndexError", r"^no row \(test_check.py:\d+\)$"),
        (integers, "is torch.int64", r"^want a floating point tensor \[\] or \[20\]$"),
        (of_pairs, "has another shape", r"^got \[20, 20\], want a floating point tensor \[\] or \[20\]$"),
        (without_graph, "is not attached to the graph", "^it has no grad_fn"),
        (renaming, "changes its labels", "^want them as they were$"),
        (lambda a, y, temperature: [0.0], "is list", r"^want a floating point tensor \[\] or \[20\]$"),
    ],
)
def test_what_is_no_loss(loss: Callable[..., Any], kind: str, text: str) -> None:
    report = check(loss, cases=[InfoNCECase(20, 4)], raises=False)
    ((key, ((_, finding), *_)),) = report.disagreements().items()
    assert key == ("loss", kind)
    assert re.search(text, finding.text)
    assert "Smallest input found" in str(report)
    assert json.loads(json.dumps(report.tree(), allow_nan=False))["lines"][0]["worst"] is None


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (7, {}, "loss: got int, want a function of rows"),
        (fpc.SupConLoss, {}, "loss: got the class SupConLoss, want a function of rows"),
        (lambda a, temperature: a, {}, r"loss: got a function of \(a\), want one of rows"),
        (fpc.SupConLoss(), {}, "temperature: got None, want the one of a loss that has no argument of that name"),
        (fpc.SupConLoss(), {"temperature": 0.1, "temperature_gradient": True}, "temperature_gradient: got True, want"),
        (right, {"temperature": -1.0}, "temperature: got -1.0, want"),
        (right, {"denominators": ["none"]}, "denominators: got 'none', want one of 'negatives', 'all', 'decoupled'"),
        (right, {"denominators": ["all", "negatives"]}, r"denominators: got \('all', 'negatives'\), want the one"),
        (right, {"dtypes": [torch.float64]}, "dtypes: got torch.float64, want some of"),
        (right, {"without": ["nothing"]}, "without: got 'nothing', want one of 'float32'"),
        (right, {"without": ["self-contrast"]}, r"without: got \['self-contrast'\].* leave no Case"),
        (right, {"device": "nowhere"}, "device: got 'nowhere', want one that is here"),
    ],
)
def test_wrong_arguments(loss: object, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        check(loss, **options)


def test_the_page_says_what_every_name_means() -> None:
    page = (Path(__file__).parents[1] / "docs" / "check-your-own.md").read_text()
    for name, feature in FEATURES.items():
        assert not feature.meaning or f"| `{name}` | {feature.group} | {feature.meaning} |" in page


FILE = """
import beside
def loss(anchors, labels, *, temperature):
    return beside.loss(anchors, labels, temperature)
def wrong(anchors, labels, *, temperature):
    return 2 * loss(anchors, labels, temperature=temperature)
number = 7
"""
BESIDE = "import fastpixcon as fpc\ndef loss(x, y, t): return fpc.functional.info_nce(x, y, temperature=t)\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text(BESIDE)
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "broken.py").write_text("import torch\n1 / 0\n")
    return tmp_path / "mine.py"


def test_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = file.with_name("report.json")
    assert cli.main(["check", f"{file}:wrong", "--dtype", "float32", "--json", str(report)]) == 1
    text = capsys.readouterr().out
    assert f"{file}:wrong disagrees with the reference" in text
    assert "from mine import wrong" in text
    tree = json.loads(report.read_text())
    assert tree["agrees"] is False
    assert tree["smallest"][0]["N"] <= 4
    assert "mine" not in sys.modules
    assert str(file.parent) not in sys.path


def test_command_in_another_folder(file: Path) -> None:
    """As it is installed: nothing of the repository is looked at."""
    command = [sys.executable, "-W", "ignore", "-m", "fastpixcon", "check", "mine.py:loss", "--dtype", "float32"]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine.py:loss agrees with the reference")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.py"], "FILE.py:FUNCTION: got 'mine.py', want a file and the name of a function in it"),
        (["none.py:loss"], "none.py: is no file, want a file .py"),
        (["mine.txt:loss"], "mine.txt: ends otherwise, want a file .py"),
        (["mine.py:los"], "mine.py: has no 'los', want one of: loss, wrong"),
        (["mine.py:number"], "mine.py:number: loss: got int, want a function of rows [N, D] and labels [N]"),
        (["broken.py:loss"], "broken.py:2: ZeroDivisionError: division by zero"),
        (["mine.py:loss", "--without", "x"], "mine.py:loss: without: got 'x', want one of 'float32'"),
        (["mine.py:loss", "--json", "mine.py"], "--json: mine.py would replace the input mine.py"),
    ],
)
def test_a_mistake_is_two(
    arguments: list[str], message: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(file.parent)
    assert cli.main(["check", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fastpixcon: {message}")
