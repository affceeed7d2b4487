"""The main job: train every arm of a config, then report and draw."""

import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import fastpixcon
from fastpixcon.training import TrainingError, report, rundir
from fastpixcon.training.config import Config, to_tree
from fastpixcon.training.data import DataSet, open_dataset
from fastpixcon.training.engine import Arm, History, Runtime
from fastpixcon.training.figures import draw_all
from fastpixcon.training.interrupt import GracefulInterrupt, Interrupted
from fastpixcon.training.metering import keep_freed_memory
from fastpixcon.training.models import check_model_name


def prepare(config: Config) -> tuple[Config, DataSet]:
    """Check everything that can be checked before a run has a directory.

    Returns the config with what "auto" meant here, so that a resumed run does the same wherever it is, and the data.
    """
    device = pick_device(config.device)
    precision: Literal["bf16", "fp32"] = "bf16" if use_bf16(config.precision, device) else "fp32"
    check_model_name(config.model)
    data = open_dataset(config.data)
    batch = config.schedule.batch
    if batch > len(data.train):
        raise TrainingError(f"schedule.batch: got {batch}, want at most {len(data.train)}, the images to train on")
    return replace(config, device="cuda" if device.type == "cuda" else "cpu", precision=precision), data


def run(config: Config, data: DataSet, folder: Path, console: Console) -> None:
    """Train what is left to train of a prepared ``config`` in ``folder``; raises ``Interrupted`` after Ctrl-C.

    The folder gets config.json, one folder per arm with checkpoint.pt (to resume) and model.pt (to predict),
    results.json and figures/*.png.
    """
    held = rundir.lock(folder)
    keep_freed_memory()
    try:
        rundir.write_config(folder, config)
        console.print(
            f"[bold]{config.name}[/] in {folder}: {len(data.train)} images to train, {len(data.val)} to validate, "
            f"{len(data.classes)} classes; {config.model.name}, {config.precision} on {config.device}, "
            f"{torch.get_num_threads()} threads"
        )
        with _ArmProgress(console) as progress, GracefulInterrupt() as interrupt:
            arms = []
            for name in config.arms:
                runtime = Runtime(
                    device=torch.device(config.device),
                    bf16=config.precision == "bf16",
                    stop_requested=lambda: interrupt.requested,
                    on_iteration=progress.on_iteration,
                    on_evaluation=progress.on_evaluation,
                )
                arm = Arm(config, name, data, folder / name, runtime)
                progress.start(arm)
                arm.run()
                arms.append(arm)
                if interrupt.requested and len(arms) < len(config.arms):
                    raise Interrupted
        _finish(config, data, arms, folder, console)
    finally:
        held.close()


def pick_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device: got 'cuda', but torch sees no GPU; want 'cpu' or 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Without matrix instructions for bf16 a CPU is many times slower in it than in fp32."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _finish(config: Config, data: DataSet, arms: list[Arm], folder: Path, console: Console) -> None:
    results: dict[str, Any] = {
        "config": to_tree(config),
        "environment": {
            "fastpixcon": fastpixcon.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
        },
        "classes": list(data.classes),
        "arms": {arm.name: report.summarise(arm.history, arm.meter) for arm in arms},
    }
    rundir.write_json(folder / "results.json", results)
    with console.status("Drawing figures"):
        figures = draw_all(config, data, arms, folder / "figures")
    console.print(report.table(results))
    for path in (folder / "results.json", *figures):
        console.print(f"  {os.path.relpath(path)}", highlight=False, soft_wrap=True)


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


class _ArmProgress:
    """A bar for the arm in training, a printed line for each evaluation."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} {task.fields[losses]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            expand=True,
            speed_estimate_period=60,
        )

    def __enter__(self) -> "_ArmProgress":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def start(self, arm: Arm) -> None:
        self.arm, self.first, self.started = arm, arm.done, time.monotonic()
        self.task = self.progress.add_task(arm.name, total=arm.iterations, completed=arm.done, rate="", losses="")
        if arm.finished:
            self.console.print(f"{arm.name}: finished before")
        elif arm.done:
            self.console.print(f"{arm.name}: resumed after iteration {arm.done} of {arm.iterations}")

    def on_iteration(self, done: int, history: History) -> None:
        images = (done - self.first) * self.arm.config.schedule.batch
        rate = f"{images / (time.monotonic() - self.started):.1f} img/s"
        losses = ""
        if history.cross_entropy:
            losses = f"CE {_mean(history.cross_entropy[-20:]):.3f}"
            if history.contrast[-1] is not None:
                losses += f" contrast {_mean([c for c in history.contrast[-20:] if c is not None]):.3f}"
        self.progress.update(self.task, completed=done, rate=rate, losses=losses)

    def on_evaluation(self, epoch: int, epochs: int, history: History) -> None:
        recent = _mean(history.cross_entropy[-self.arm.epoch_length :])
        self.console.print(
            f"{self.arm.name}: epoch {epoch} of {epochs}, cross-entropy {recent:.3f}, "
            f"val mIoU {history.evaluations[-1]['miou']:.4f}, {history.train_seconds + history.evaluate_seconds:.0f} s",
            highlight=False,
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
