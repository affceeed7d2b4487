"""make gpu-check where there is no GPU: its steps at tiny sizes, its runner, its report."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import gpu_checks
import gpu_hopper
import gpu_steps
import gpu_times
import pytest
import torch
from gpu_steps import FAILED, PASSED, SKIPPED, Result, Step
from harness.tested_backends import Backend

from fastpixcon.bench import measure

SIZE, ROWS = (2, 16, 16, 32), (64, 16)
SLEEP = "import time; print('begun', flush=True); time.sleep(60)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("dtype", gpu_checks.DTYPES, ids=str)
def test_synchronisation(dtype: torch.dtype, backend: Backend) -> None:
    text = gpu_checks.check_synchronisation(dtype, backend.device, SIZE, ROWS)
    assert "PixelContrastLoss, SupConLoss, InfoNCELoss" in text
    gpu_checks.check_the_watch(backend.device)


@pytest.mark.parametrize("dtype", gpu_checks.DTYPES, ids=str)
def test_replays(dtype: torch.dtype, backend: Backend) -> None:
    step = gpu_checks.pixel_step(backend.device, SIZE, dtype)
    assert "3 replays drew anew" in gpu_checks.check_replays(step, backend.device, replays=3)
    gpu_checks.check_row_replays(backend.device, ROWS)


def test_a_replay_that_draws_the_same_anchors_again_is_noticed(backend: Backend) -> None:
    """What a graph does whose seed does not advance in it."""
    step = gpu_checks.pixel_step(backend.device, SIZE)

    def frozen(step: gpu_checks.Step, device: str) -> object:
        def replay() -> None:
            torch.manual_seed(12345)
            step()

        return replay

    with pytest.raises(AssertionError, match="replay 1: the loss differs"):
        gpu_checks.check_replays(step, backend.device, make=frozen)


def test_a_replay_that_does_nothing_is_noticed(backend: Backend) -> None:
    step = gpu_checks.pixel_step(backend.device, SIZE)
    with pytest.raises(AssertionError, match="replay 0: the loss differs"):
        gpu_checks.check_replays(step, backend.device, make=lambda step, device: lambda: None)


def test_compiled(backend: Backend) -> None:
    gpu_checks.check_compiled(gpu_checks.pixel_step(backend.device, SIZE), calls=2, backend="aot_eager")
    module = gpu_checks.fpc.SupConLoss()
    gpu_checks.check_compiled(gpu_checks.row_step(module, backend.device, ROWS), calls=2, backend="aot_eager")


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("dtype", gpu_checks.DTYPES, ids=str)
def test_accuracy(dtype: torch.dtype, denominator: str, backend: Backend) -> None:
    for tf32 in (False, True) if dtype == torch.float32 else (False,):
        text = gpu_checks.check_accuracy(dtype, denominator, backend.device, n=150, width=32, tf32=tf32)
        assert text.startswith("N = 150: relative errors: loss")
    assert not torch.backends.cuda.matmul.allow_tf32


def test_wrong_results_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_checks.fpc.functional.info_nce
    monkeypatch.setattr(gpu_checks.fpc.functional, "info_nce", lambda *a, **k: right(*a, **k) * 1.001)
    with pytest.raises(AssertionError, match="loss: error"):
        gpu_checks.check_accuracy(torch.float32, "all", "cpu", n=150, width=32)


def test_blockwise_is_the_reference() -> None:
    x, y = torch.randn(70, 8, dtype=torch.float64, requires_grad=True), torch.randint(-1, 6, (70,))
    for denominator in ("negatives", "all"):
        losses = gpu_checks.fpc.functional.info_nce(x, y, denominator=denominator, reduction="none")
        ours = gpu_checks.blockwise.info_nce(x.detach(), y, denominator=denominator, block=32)
        torch.testing.assert_close(ours, (losses.detach(), *torch.autograd.grad(losses.sum(), x)))


def test_selection(backend: Backend) -> None:
    assert "the reference's" in gpu_checks.check_selection(backend.device, (2, 4, 16, 32))


def test_small_step(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    gpu_check.run_small(backend.device)
    assert "forward and backward of all losses ran" in capsys.readouterr().out


def test_times(backend: Backend) -> None:
    if (backend.name, backend.device) == ("triton", "cpu"):
        pytest.skip("kernels that do not run on a GPU take minutes")
    small = {"sizes": (64, 128), "size": (1, 8, 16, 32), "stride": 2, "anchors": 32, "peak_size": 32, "repeat": 1}
    lines = list(gpu_times.everything(backend.device, 60.0, compile_sizes=(), **small))
    tables = [line for line in lines if line.startswith("| N |")]
    rows = [line for line in lines if line.startswith(("| 64 |", "| 128 |"))]
    assert len(tables) == 1
    assert len(rows) == 2 * len(gpu_checks.DTYPES)
    assert {row.count("|") for row in rows} == {tables[0].splitlines()[0].count("|")}
    assert sum("| eager |" in line for line in lines if "NCHW" in line) == 2
    assert any(line.startswith("select_anchors: ") for line in lines)


def test_times_end_when_the_time_is_up() -> None:
    calls = []
    values = measure.seconds({"a": lambda: calls.append(1)}, repeat=50, warm_up=2, until=time.monotonic() - 1)
    assert (len(values["a"]), len(calls)) == (1, 3)


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setitem(gpu_times.LOSSES, "eager", too_large)
    others = gpu_times.Rivals()
    x, y = torch.randn(20, 4, requires_grad=True), torch.arange(20) % 3
    assert list(others.calls(x, y)) == ["lean"]
    assert others.too_large == {("eager", torch.float32): 20}


def test_every_check_of_a_step_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    def bad() -> str:
        raise ValueError("seven")

    assert not gpu_check.run_checks([("one", bad), ("two", lambda: "fine")])
    text = capsys.readouterr().out
    assert "FAILED  one" in text
    assert "ValueError: seven" in text
    assert "ok      two: fine" in text
    for step in ("synchronisation", "graphs", "compile", "accuracy", "hopper-accuracy"):
        assert len(gpu_check.checks(step, "cpu")) >= 4


STEPS = [
    Step("good", "A good one", python("import os; print('given', os.environ['GPU_CHECK_SECONDS'], os.environ['X'])"),
         environment={"X": "7"}),
    Step("bad", "A bad one", python("print('first'); raise SystemExit('last')")),
    Step("slow", "A slow one", python(SLEEP), limit=gpu_steps.GRACE + 1.5, least=1),
    Step("not", "Not here", skip="there is no such tool"),
    Step("no", "No such command", ["/nonexistent/command"]),
    Step("table", "A table", python("print('| a |'); print('|---|')"), is_markdown=True),
]  # fmt: skip


def test_a_step_that_fails_or_hangs_stops_none_of_the_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.md"
    start = time.monotonic()
    assert gpu_check.run_and_report(STEPS, 100, path) == 1
    assert time.monotonic() - start < 90
    text = path.read_text()
    assert "**Failed: A bad one, A slow one, No such command.**" in text
    assert "Not finished" not in text
    assert "## A good one: passed" in text
    assert "given 55.0 7" in text
    assert "## A bad one: failed" in text
    assert "exit status 1" in text
    assert "first\nlast" in text
    assert "took longer than" in text
    assert "begun" in text
    assert "KeyboardInterrupt" in text  # it was asked to end before it was ended
    assert "## Not here: skipped\n\nthere is no such tool" in text
    assert "does not start" in text
    assert "\n| a |\n|---|\n" in text
    assert "the times below may be those of kernels that are wrong" in text
    for fact in ("date", "commit", "torch", "triton", "python", "processor"):
        assert f"| {fact} | " in text
    assert gpu_check.run_and_report([STEPS[0], STEPS[3]], 100, path) == 0
    assert "**Nothing failed.**" in path.read_text()


def test_what_a_step_started_ends_with_it(tmp_path: Path) -> None:
    code = f"import subprocess; p = subprocess.Popen({python(SLEEP)!r}); print(p.pid, flush=True); p.wait()"
    result = gpu_steps.run_step(Step("parent", "", python(code)), gpu_steps.GRACE + 1.5)
    assert result.status == FAILED
    child = int(result.output.splitlines()[0])
    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child goes on")


def test_an_interrupted_run_leaves_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_step(step: Step, seconds: float) -> Result:
        if step.name == "bad":
            raise KeyboardInterrupt
        return Result(step, PASSED, 1.0, output="found")

    monkeypatch.setattr(gpu_steps, "run_step", run_step)
    path = tmp_path / "report.md"
    assert gpu_check.run_and_report(STEPS, 100, path) == 130
    text = path.read_text()
    assert "Not finished: 1 of 6 steps so far" in text
    assert "found" in text
    assert "| A slow one | not run |" in text


def test_time_is_kept_for_the_later_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def run_step(step: Step, seconds: float) -> Result:
        given.append(round(seconds))
        return Result(step, PASSED)

    monkeypatch.setattr(gpu_steps, "run_step", run_step)
    steps = [Step("a", "", limit=90, least=10), Step("b", "", limit=50, least=30), Step("c", "", skip="no", least=20)]
    gpu_steps.run_steps(steps, 100, lambda results, begins: None)
    assert given[:2] == [70, 50]


def test_all_steps_fit_into_ten_minutes() -> None:
    steps = gpu_check.all_steps(workers=4)
    assert all(step.least <= step.limit for step in steps)
    assert sum(step.least for step in steps) < 8 * 60
    assert len({step.name for step in steps}) == len(steps)


def test_kernels_of_sm90a_are_for_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_hopper.why_not() == "for GPUs of compute capability 9.0"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(gpu_hopper.extension, "build", {"cuda architectures": "8.0+PTX 8.6"})
    assert gpu_hopper.why_not() == "the extension was built for 8.0+PTX 8.6, not for 9.0"
    monkeypatch.setattr(gpu_hopper.extension, "build", {"cuda architectures": "8.0+PTX 9.0"})
    assert gpu_hopper.why_not() == ""
    tests, accuracy, times = gpu_check.hopper_steps(workers=4)
    assert tests.environment["FASTPIXCON_HOPPER"] == accuracy.environment["FASTPIXCON_HOPPER"] == "1"
    assert "FASTPIXCON_HOPPER" in gpu_check.NOT_INHERITED
    assert "FASTPIXCON_HOPPER" not in times.environment


def test_kernels_of_sm90a_that_are_not_taken_are_noticed() -> None:
    names = ["void fastpixcon::info_nce_sums_sm90<1>(void*)", "void fastpixcon::info_nce_gradient_sm90<1>(void*)"]

    def problem(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(1), torch.ones(1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gpu_hopper, "problem", problem)
        assert "info_nce_gradient_sm90" in gpu_hopper.check_taken("cuda", 64, names=lambda call: names)
        with pytest.raises(AssertionError, match="no info_nce_gradient_sm90 among what was launched: void"):
            gpu_hopper.check_taken("cuda", 64, names=lambda call: names[:1])


def test_times_with_kernels_of_sm90a_and_without(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gpu_hopper.print_times("cpu", 30.0, sizes=(64, 128), repeat=1, peak_size=32)
    (line,) = capsys.readouterr().out.splitlines()
    script = tmp_path / "says.py"  # half of the time with the variable
    script.write_text(
        f"import json, os\nhalf = 0.5 if os.environ['FASTPIXCON_HOPPER'] == '1' else 1.0\n"
        f"print(json.dumps({{key: half * value for key, value in {line}.items()}}))\n"
    )
    rows = [row for row in gpu_hopper.both_ways(script, 30.0) if row.startswith(("| 256 |", "| 128 |"))]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| 256", "64"], ["| 128", "64"], ["| 256", "128"], ["| 128", "128"],
    ]  # fmt: skip
    assert all("| 2.00 x |" in row for row in rows)


def test_compute_sanitizer_is_found_and_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    if not Path("/usr/local/cuda/bin/compute-sanitizer").exists():
        assert gpu_check.compute_sanitizer() is None
    fake = tmp_path / "bin" / "compute-sanitizer"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@" $PYTORCH_NO_CUDA_MEMORY_CACHING\nexit 9\n')
    fake.chmod(0o755)
    assert gpu_check.compute_sanitizer() == str(fake)
    result = gpu_steps.run_step(gpu_check.sanitizer_step("racecheck", str(fake)), 30)
    assert (result.status, result.why) == (FAILED, "exit status 9")
    assert result.output.startswith("--tool racecheck --error-exitcode 9 ")
    assert result.output.endswith("gpu_check.py --step small 1\n")
    without = gpu_steps.run_step(gpu_check.sanitizer_step("racecheck", None), 30)
    assert without.status == SKIPPED
    assert "no compute-sanitizer" in without.why


def test_without_a_gpu_it_says_so() -> None:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, gpu_check.__file__]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"gpu-check: no CUDA GPU here (torch {torch.__version__}: " in done.stderr


def test_only_a_report_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--report", str(tmp_path / "notes.md")])
    assert ended.value.code == 2
    assert "notes.md is there and no report of gpu-check" in capsys.readouterr().err
    assert (tmp_path / "notes.md").read_text() == "mine"
