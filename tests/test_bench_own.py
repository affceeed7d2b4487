"""``fastpixcon bench --peer``: losses of a user's own in the suite, of docs/benchmark-your-own.md and wrong ones."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fastpixcon import cli
from fastpixcon.bench import own, report, workers, workloads
from fastpixcon.bench.workloads import Cell
from fastpixcon.functional import info_nce
from fastpixcon.testing.own.judge import Loss as Function

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "benchmark-your-own.md").read_text()
FAST = ["--smallest", "--threads", "1", "--repeats", "1", "--time-limit", "30", "--peers", "eager"]

ODD = """
import torch
from fastpixcon.functional import info_nce


def raises(rows, labels, contrast=None, contrast_labels=None, *, temperature, denominator):
    if contrast is not None:
        raise NotImplementedError("no bank yet")
    return info_nce(rows, labels, temperature=temperature, denominator=denominator, reduction="none")


def returns(rows, labels):
    return NotImplemented


def shape(rows, labels):
    return rows.sum(dim=1, keepdim=True)


def apart(rows, labels):
    return rows.detach().sum()


def fails(rows, labels):
    return {}["no such thing"]


def number(rows):
    return rows.sum()


number_of_classes = 19
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with the page's my_kernel.py and odd.py."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_kernel.py").write_text("\n\n".join(blocks))
    (tmp_path / "odd.py").write_text(ODD)
    (tmp_path / "broken.py").write_text("x = 1\ny = x / 0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """What each peer gave, by workload."""
    assert cli.main(["bench", *FAST, "--out", "out", *arguments]) == status
    results = json.loads(Path("out/results.json").read_text())
    return {entry["cell"]["workload"]: entry["peers"] for entry in results["cells"].values()}


def test_losses_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed")
    found = run("--peer", "my_kernel.py:published", "--peer", "my_kernel.py:detached", status=1)
    for workload in ("self", "bank", "step"):
        right = found[workload]["my_kernel.py:published"]
        assert right["status"] == workers.OK, right
        assert right["gradient_error"] < 1e-5
    for workload in ("self", "step"):
        wrong = found[workload]["my_kernel.py:detached"]
        assert wrong["status"] == workers.WRONG
        assert re.match(r"wrong gradient: relative error [\d.e-]+, want 1e-04 at most", wrong["reason"])
        assert "seconds" not in wrong
    assert found["bank"]["my_kernel.py:detached"]["reason"] == "takes no contrast and contrast_labels"
    assert found["supcon"]["my_kernel.py:published"]["reason"] == 'computes the denominator "negatives", not "all"'
    assert found["select"]["my_kernel.py:published"]["status"] == workers.NO_FORMULA
    assert all(peers["fastpixcon"]["status"] == workers.OK for peers in found.values())
    said = capsys.readouterr().out
    assert "my_kernel.py:published: timed on 3 of 8 problems." in said
    assert '\n- 4: can\'t express it: computes the denominator "negatives", not "all"\n' in said
    assert "my_kernel.py:detached: timed on 0 of 8 problems." in said
    assert re.search(r"^- 1: wrong result: wrong gradient: relative error \S+, want 1e-04 at most$", said, re.MULTILINE)
    assert "## my_kernel.py:detached" in (folder / "out" / "README.md").read_text()
    found = run("--peer", "my_kernel.py:supcon", "--denominator", "all", "--fresh", "--workloads", *ROWS)
    for workload in ROWS:
        assert found[workload]["my_kernel.py:supcon"]["status"] == workers.OK, found[workload]


ROWS = ("supcon", "two_views", "pairs", "bank_supcon")


def test_what_a_loss_says_of_itself_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("returns", "shape", "apart", "fails")
    peers = [x for name in names for x in ("--peer", f"odd.py:{name}")]
    found = run(*peers, "--workloads", "self", status=1)["self"]
    answers = {name: found[f"odd.py:{name}"] for name in names}
    assert answers["returns"] == {"status": workers.NO_FORMULA, "reason": "returns NotImplemented"}
    want = "want a floating point tensor [] or [64]"
    assert answers["shape"] == {"status": workers.FAILED, "reason": f"has another shape: got [64, 1], {want}"}
    assert answers["apart"] == {
        "status": workers.FAILED,
        "reason": "is not attached to the graph: it has no grad_fn",
    }
    assert answers["fails"] == {"status": workers.FAILED, "reason": "KeyError: 'no such thing'"}
    both = ("--denominator", "negatives", "--denominator", "all")
    found_all = run("--peer", "odd.py:raises", *both, "--fresh", "--workloads", "self", "supcon", "bank")
    for workload in ("self", "supcon"):  # a loss of each anchor
        assert found_all[workload]["odd.py:raises"]["status"] == workers.OK
    assert found_all["bank"]["odd.py:raises"] == {"status": workers.NO_FORMULA, "reason": "no bank yet"}
    assert "odd.py:raises: timed on 2 of 3 problems.\n\n- 1: can't express it: no bank yet\n" in capsys.readouterr().out


def test_the_mean_is_over_anchors_with_a_positive() -> None:
    problem = workloads.rows(Cell("self", 64, dim=64, classes=5))
    lonely = problem.labels.index_fill(0, torch.tensor([3]), 99)
    how: dict[str, Any] = {"temperature": workloads.TEMPERATURE, "denominator": "negatives"}
    loss = Function(partial(info_nce, reduction="none"))
    for labels, count in ((problem.labels, 64), (lonely, 63)):
        counted = own._counted(labels, None)
        assert counted == count
        mean = own._mean(loss, [problem.anchors], [labels], how, counted)
        assert mean.item() == pytest.approx(info_nce(problem.anchors, labels, **how).item(), rel=1e-6)


def test_a_file_that_has_changed_is_measured_anew(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--peer", "odd.py:fails", "--workloads", "self")
    run(*arguments, status=1)
    capsys.readouterr()
    run(*arguments, status=1)
    assert "[1/" not in capsys.readouterr().out
    path = folder / "odd.py"
    path.write_text(path.read_text().replace("no such thing", "another"))
    found = run(*arguments, status=1)["self"]["odd.py:fails"]
    assert found["reason"] == "KeyError: 'another'"
    assert "odd.py:fails: the file has changed, measured anew" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["odd.py"], "FILE.py:FUNCTION: got 'odd.py', want a file and the name of a function in it"),
        (["none.py:loss"], "none.py: is no file, want a file .py"),
        (["odd.py:los"], "odd.py: has no 'los', want one of: info_nce, raises, returns, shape, apart, fails, number"),
        (["odd.py:number"], "odd.py:number: loss: got a function of (rows), want one of rows [N, D] and labels [N]"),
        (["odd.py:number_of_classes"], "odd.py:number_of_classes: loss: got int, want a function of rows [N, D] and"),
        (["broken.py:loss"], "broken.py:2: ZeroDivisionError: division by zero"),
        (
            ["odd.py:returns", "--denominator", "negatives", "--denominator", "all"],
            "--denominator: got negatives, all, want the one that a loss without that argument computes",
        ),
    ],
)
def test_a_mistake_is_two(arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As ``fastpixcon check`` has it."""
    assert cli.main(["bench", "--smallest", "--out", "out", "--peer", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fastpixcon: {message}")
    assert not (folder / "out").exists()


def test_the_table_is_aligned() -> None:
    cell = Cell("self", 64, dim=64)
    ours = {"status": workers.OK, "median": 1.0, "memory": 2**20}
    peers = {"fastpixcon": ours, "a|b.py:loss": ours | {"gradient_error": 1e-7}}
    results = {"cells": {cell.key: {"cell": vars(cell), "run": 0, "peers": peers}}, "runs": [{}]}
    head, _, row, *_ = report.own_table(results, "a|b.py:loss")
    assert len(head) == len(row)
    assert row.startswith("| self     | 64 | - | 64 | float32 | 1 s  | 1.0 MiB | 1.0e-07            | 1 s ")
