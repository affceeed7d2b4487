"""The planner: its counts are those of what runs, on the CPU; its table is printed."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness.distributed_checks import on_ranks
from harness.distributed_measures import measured_all

from fastpixcon import cli
from fastpixcon.plan import DEVICES, plan, scaling


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_counts_are_those_of_what_runs(size: int) -> None:
    n, dim = 400, 64
    ways = [(across, dtype) for across in ("gather", "ring") for dtype in ("fp32", "bf16")]
    runs = on_ranks(size, measured_all, ways, n, dim)
    for (across, dtype), of_ranks in zip(ways, zip(*runs, strict=True), strict=True):
        planned = plan(n * size, dim, gpus=size, dtype=dtype)[across]
        sent = sum(sent for sent, _ in of_ranks) / size
        assert planned.traffic_bytes == pytest.approx(sent, rel=0.1), (across, dtype)
        beyond = planned.memory_bytes - planned.memory["rows"]
        assert beyond == pytest.approx(max(peak for _, peak in of_ranks), rel=0.1), (across, dtype)


def test_a_ring_holds_less_the_more_ranks_there_are() -> None:
    few, many = (plan(10**6, 256, gpus=gpus) for gpus in (8, 64))
    assert many["ring"].memory_bytes < few["ring"].memory_bytes / 7
    assert many["gather"].memory_bytes > few["gather"].memory_bytes / 2
    assert many["ring"].flop == pytest.approx(4 * 1e12 * 256 / 64)


def test_one_gpu_sends_nothing() -> None:
    for p in plan(1000, 64).values():
        assert p.traffic_bytes == p.messages == 0


def test_the_eager_matrix_is_what_was_measured() -> None:
    eager = plan(16384, 256, dtype="fp32", device="cpu")["eager"]
    assert eager.memory_bytes == pytest.approx(10.6e9, rel=0.1)


@pytest.mark.parametrize("device", DEVICES)
def test_command(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--anchors", "1e6", "--dim", "256", "--memory-bank", "1000", "--gpus", "8", "--device", device]
    assert cli.main(["plan", *options, "--tflops", "2", "--gbs", "30", "--link-gbs", "3"]) == 0
    text = capsys.readouterr().out
    for word in ("eager", "gather", "ring", "memory: bank", "predicted time"):
        assert word in text


def test_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("rich.table", "fastpixcon.training.console"):  # either may have been imported before
        monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["plan", "--anchors", "65536", "--gpus", "4"]) == 0
    assert "reduce-scatter of gradients" in capsys.readouterr().out


def test_a_mistake_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--anchors", "0"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["plan", "--anchors", "1.5"])
    assert "want a whole number" in capsys.readouterr().err


def test_the_page_is_what_the_code_prints() -> None:
    page = Path(__file__).parents[1] / "docs" / "scaling.md"
    assert page.read_text() == scaling() + "\n"
    printed = subprocess.run([sys.executable, "-m", "fastpixcon.plan"], capture_output=True, text=True, check=True)
    assert printed.stdout == page.read_text()
