"""The main job: train every arm of a config, then report and draw."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

import fastpixcon
from fastpixcon.training import OutputLostError, TrainingError, checkpoint, report, rundir
from fastpixcon.training.config import Config, to_tree
from fastpixcon.training.console import say
from fastpixcon.training.criteria import weights_of
from fastpixcon.training.data import DataSet, open_dataset
from fastpixcon.training.engine import Arm, Runtime
from fastpixcon.training.history import Diverged
from fastpixcon.training.interrupt import GracefulInterrupt, Interrupted
from fastpixcon.training.metering import keep_freed_memory
from fastpixcon.training.models import check_model_name
from fastpixcon.training.processes import Processes
from fastpixcon.training.progress import ArmProgress
from fastpixcon.training.rehearsal import check_data, check_settings
from fastpixcon.training.resuming import Resumed


def prepare(config: Config, processes: Processes | None = None, data: DataSet | None = None) -> tuple[Config, DataSet]:
    """Check everything that can be checked before a run has a directory. ``data``: where they are open by now.

    Returns the config with what "auto" meant here, and what labels of a user's own folder mean, so that a resumed run
    does the same wherever it is, and the data.
    """
    processes = processes or Processes()
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    check_model_name(config.model)
    config = replace(config, device="cuda" if device.type == "cuda" else "cpu", precision=precision)
    batch, parts = config.schedule.batch, processes.size * config.schedule.accumulate
    if batch % parts or batch < 2 * config.schedule.accumulate:
        raise TrainingError(
            f"schedule.batch: got {batch}, want a multiple of {parts}, {processes.size} processes times "
            f"{config.schedule.accumulate} parts of at least 2 images"
        )
    if processes.size > 1 and config.contrast.across == "ring" and any("mining" in arm for arm in config.arms):
        raise TrainingError("contrast.across: got 'ring', want 'gather' for the arms with mining")
    check_settings(config, device)
    data = data or open_dataset(config.data)
    if data.described:
        config = replace(config, data=replace(config.data, folder=data.described))
    weights_of(config, len(data.classes), device)  # raises
    if batch > len(data.train):
        raise TrainingError(f"schedule.batch: got {batch}, want at most {len(data.train)}, the images to train on")
    check_data(config, data, device)
    return config, data


def run(
    config: Config,
    data: DataSet,
    folder: Path,
    console: Console,
    processes: Processes | None = None,
    resumed: Resumed | None = None,
) -> dict[str, Diverged]:
    """Train what is left to train of a prepared ``config`` in ``folder``; raises ``Interrupted`` after a signal.

    The folder gets config.json, one folder per arm with checkpoint.pt (to resume), model.pt (to predict) and event
    files of TensorBoard, results.json and figures/*.png; changes.json if it is ``resumed`` with another config.

    Returns the arms that ended before their time, as their loss was not finite.
    """
    processes = processes or Processes()
    held = rundir.lock(folder) if processes.is_first else None
    keep_freed_memory()
    device = torch.device(config.device, processes.local) if config.device == "cuda" else torch.device(config.device)
    try:
        if processes.is_first:
            rundir.write_config(folder, config, resumed.changes if resumed else ())
            say(
                console,
                f"{config.name} in {folder}: {len(data.train)} images to train, {len(data.val)} to validate, "
                f"{len(data.classes)} classes; {config.model.name}, {config.precision} on {config.device}, "
                f"{processes.size} x {torch.get_num_threads()} threads",
            )
            for line in resumed.told if resumed else ():
                say(console, line)
        with ArmProgress(console, config.tensorboard) as progress, GracefulInterrupt() as interrupt:
            watched = processes.is_first
            arms: list[Arm] = []
            lost: dict[str, Diverged] = {}
            for name in config.arms:
                runtime = Runtime(
                    device=device,
                    precision=config.precision,
                    stop_requested=lambda: interrupt.number or progress.stop,
                    on_iteration=progress.on_iteration if watched else _nothing,
                    on_evaluation=progress.on_evaluation if watched else _nothing,
                    on_validation=progress.on_validation if watched else _nothing,
                    processes=processes,
                    say=progress.say if watched else _unsaid,
                )
                arm = Arm(config, name, data, folder / name, runtime)
                if watched:
                    progress.start(arm)
                try:
                    arm.run()
                    arms.append(arm)
                except Diverged as error:
                    lost[name] = error
                    progress.say(_explain(arm, error))
                    if error.iteration <= config.contrast.warmup and not arm.warm_path.exists():
                        progress.check()
                        break  # until then the arms are all the same
                except Interrupted:
                    progress.check()  # whether it was for want of standard output
                    raise
                if number := processes.largest(interrupt.number or progress.stop, device):
                    progress.check()
                    raise Interrupted(number)
        if processes.is_first:
            _finish(config, data, arms, lost, folder, console)
        return lost
    finally:
        if held:
            held.close()


def _nothing(arm: Arm, *_: int) -> None:
    pass


def _unsaid(text: str) -> None:
    pass


def _explain(arm: Arm, error: Diverged) -> str:
    """What became of an arm whose loss is not finite."""
    common = error.iteration <= arm.config.contrast.warmup and len(arm.config.arms) > 1 and not arm.warm_path.exists()
    kept = "no checkpoint was written before"
    if arm.checkpoint_path.exists():
        kept = f"its checkpoint of iteration {checkpoint.load(arm.checkpoint_path, lazily=True)['done']} is kept"
    wanted = ["a smaller schedule.learning_rate", "another schedule.warmup or clip"]
    wanted += ["a smaller contrast.weight"] if arm.contrast else []
    wanted += ["--set precision=fp32"] if arm.config.precision != "fp32" else []
    return (
        f"{arm.name}: not finite in iteration {error.iteration} of {arm.iterations}: {error.what}; "
        f"this arm ends here{', and so do the others, the same until then' if common else ''}; {kept}. "
        f"Want {', or '.join(wanted)}"
    )


def pick_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device: got 'cuda', but torch sees no GPU; want 'cpu' or 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def pick_precision(
    name: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Literal["fp32", "bf16", "fp16"]:
    """Without matrix instructions for bf16 a CPU is many times slower in it than in fp32."""
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise TrainingError("precision: got 'bf16', which this GPU does not compute in, want 'fp16', 'fp32' or 'auto'")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return "fp32"
    return "bf16" if "amx_bf16" in flags or "avx512_bf16" in flags else "fp32"


def precision_of_trained(
    name: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Literal["fp32", "bf16", "fp16"]:
    """As the network was trained, so that its results are repeated; fp32 where the device is not made for that."""
    if name == "bf16":
        return pick_precision("auto", device)
    if name == "fp16" and device.type == "cpu":
        return "fp32"
    return pick_precision(name, device)


def _finish(
    config: Config, data: DataSet, arms: Sequence[Arm], lost: Mapping[str, Diverged], folder: Path, console: Console
) -> None:
    results: dict[str, Any] = {
        "config": to_tree(config),
        "environment": {
            "fastpixcon": fastpixcon.__version__,
            "commit": _commit(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
        },
        "classes": list(data.classes),
        "changes": rundir.read_changes(folder),
        "arms": {arm.name: report.summarise(arm.history, arm.meter) for arm in arms},
        "not_finite": {name: {"iteration": error.iteration, "what": error.what} for name, error in lost.items()},
    }
    try:
        rundir.write_json(folder / "results.json", results)
    finally:
        if arms:
            console.print(report.table(results))  # before anything that may fail
    say(console, f"  {os.path.relpath(folder / 'results.json')}")
    if not arms:
        return
    with console.status("Drawing figures"):
        drawn, failed = _draw(config, data, arms, folder / "figures")
    for path in drawn:
        say(console, f"  {os.path.relpath(path)}")
    for line in failed:
        say(console, line)


def _draw(config: Config, data: DataSet, arms: Sequence[Arm], folder: Path) -> tuple[list[Path], list[str]]:
    """The figures, and a line for each that could not be drawn, or for all, where matplotlib can't be imported."""
    try:
        from fastpixcon.training.figures import draw_all

        return draw_all(config, data, arms, folder)
    except OutputLostError:
        raise
    except Exception as error:
        return [], [f"{folder}: not drawn: {type(error).__name__}: {str(error).partition(chr(10))[0]}"]


def _commit() -> str | None:
    """Of the sources that ran, with + where they had been changed; None where they are not a repository."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
