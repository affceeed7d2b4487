"""Runs steps one after the other, each in a process of its own with a time limit, and writes what came of them."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastpixcon.training import writing

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
GRACE = 5.0  # seconds between being asked to end and being ended
LINES = {PASSED: 25, FAILED: 300}  # of the output that a report shows


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    command: Sequence[str] = ()
    limit: float = 60.0  # seconds it may take
    least: float = 10.0  # seconds that are kept for it, however long earlier steps take; no more than the limit
    environment: dict[str, str] = field(default_factory=dict)
    skip: str = ""  # why it can't run here
    is_markdown: bool = False  # the output is part of the report as it stands


@dataclass(frozen=True)
class Result:
    step: Step
    status: str
    seconds: float = 0.0
    why: str = ""  # it failed or was skipped
    output: str = ""


def run_step(step: Step, seconds: float) -> Result:
    """Passed if the command ends with status 0 within so many seconds; it is told them in GPU_CHECK_SECONDS. A command
    that takes longer is interrupted, so that it can say where it was, then killed with all that it started."""
    if step.skip:
        return Result(step, SKIPPED, why=step.skip)
    start = time.monotonic()
    patience = max(0.0, seconds - GRACE)
    env = {**os.environ, **step.environment, "GPU_CHECK_SECONDS": str(patience), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile() as output:

        def result(status: str, why: str = "") -> Result:
            output.seek(0)
            text = output.read().decode(errors="replace")
            return Result(step, status, time.monotonic() - start, why, text)

        try:
            process = subprocess.Popen(
                step.command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return result(FAILED, f"does not start: {error}")
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            signal_all(process, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(GRACE, seconds))
            return result(FAILED, f"took longer than {patience:.0f} s")
        finally:
            signal_all(process, signal.SIGKILL)
            process.wait()
        return result(PASSED) if status == 0 else result(FAILED, f"exit status {status}")


def signal_all(process: "subprocess.Popen[bytes]", number: int) -> None:
    """To the process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def run_steps(steps: Sequence[Step], seconds: float, tell: Callable[[list[Result], Step | None], None]) -> list[Result]:
    """Every step, in no more than so many seconds if what is kept for all of them is no more. ``tell`` gets the
    results so far before and after each one, and the step that begins."""
    end = time.monotonic() + seconds
    results: list[Result] = []
    for number, step in enumerate(steps):
        tell(results, step)
        later = sum(s.least for s in steps[number + 1 :] if not s.skip)
        results.append(run_step(step, min(step.limit, end - time.monotonic() - later)))
        tell(results, None)
    return results


def tail(output: str, lines: int) -> str:
    """The last lines, without trailing space."""
    text = output.rstrip().splitlines()
    cut = [f"... {len(text) - lines} lines before"] if len(text) > lines else []
    return "\n".join([*cut, *text[-lines:]])


def section(result: Result) -> str:
    step = result.step
    heading = f"## {step.title}: {result.status}, {result.seconds:.0f} s"
    if result.status == SKIPPED:
        return f"## {step.title}: skipped\n\n{result.why}\n"
    why = f"\n{result.why}\n" if result.why else ""
    if step.is_markdown:
        return f"{heading}\n{why}\n{result.output.rstrip()}\n"
    shown = tail(result.output, LINES[result.status])
    return f"{heading}\n{why}\n~~~~~~text\n{shown}\n~~~~~~\n"


def report(title: str, facts: dict[str, str], results: Sequence[Result], steps: Sequence[Step], ended: bool) -> str:
    """Markdown: the verdict, where it ran, one line a step, then what each step said."""
    failed = [result.step.title for result in results if result.status == FAILED]
    verdict = f"**Failed: {', '.join(failed)}.**" if failed else "**Nothing failed.**"
    if not ended:
        verdict += f" Not finished: {len(results)} of {len(steps)} steps so far."
    lines = [f"# {title}", "", verdict, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "| step | result | seconds | |", "|---|---|---|---|"]
    lines += [f"| {r.step.title} | {r.status} | {r.seconds:.0f} | {r.why} |" for r in results]
    lines += [f"| {step.title} | not run | | |" for step in steps[len(results) :]]
    if failed and any(r.step.is_markdown and r.status == PASSED for r in results):
        lines += ["", "Something failed: the times below may be those of kernels that are wrong."]
    return "\n".join(lines) + "\n\n" + "\n".join(map(section, results))


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    writing.make_folder(path.parent, "--report")
    writing.write_text(path, text)
