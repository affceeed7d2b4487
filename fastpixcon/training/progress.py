"""What a person sees of a run: a bar for the arm in training (where standard output is no terminal a line every so
often), a line for each evaluation; TensorBoard beside it."""

import signal
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastpixcon.training import OutputLostError, console
from fastpixcon.training.engine import Arm
from fastpixcon.training.evaluation import evaluation_batch
from fastpixcon.training.participation import means
from fastpixcon.training.pictures import coloured
from fastpixcon.training.tracking import Tracker

_EVERY = 10  # iterations between scalars


class ArmProgress:
    """Watches one arm after another; of several processes the first alone does.

    Where standard output can't be written any more, training is to stop and to leave a checkpoint: ``stop`` is then
    the number of a signal, and ``check`` raises what happened.
    """

    def __init__(self, to: Console, tensorboard: bool) -> None:
        self.console, self.tensorboard = to, tensorboard
        self.stop = 0
        self.lost: OutputLostError | None = None
        self.said = time.monotonic()
        self.tracker: Tracker | None = None
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} {task.fields[losses]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=to,
            disable=not console.is_live(to),
            expand=True,
            speed_estimate_period=60,
        )

    def __enter__(self) -> "ArmProgress":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.tracker:
            self.tracker.close()

    def check(self) -> None:
        if self.lost:
            raise self.lost

    def say(self, text: str) -> None:
        try:
            console.say(self.console, text)
        except OutputLostError as error:
            self.lost, self.stop = self.lost or error, signal.SIGPIPE

    def start(self, arm: Arm) -> None:
        self.first, self.started = arm.done, time.monotonic()
        self.said = self.started - console.LINE_EVERY + console.FIRST_LINE
        self.task = self.progress.add_task(arm.name, total=arm.iterations, completed=arm.done, rate="", losses="")
        if arm.finished:
            self.say(f"{arm.name}: finished before")
        elif arm.done:
            self.say(f"{arm.name}: resumed after iteration {arm.done} of {arm.iterations}")
        if self.tracker:
            self.tracker.close()
        self.tracker = Tracker(arm.folder, arm.done) if self.tensorboard and not arm.finished else None

    def on_iteration(self, arm: Arm) -> None:
        history, done = arm.history, arm.done
        images = (done - self.first) * arm.config.schedule.batch
        rate = images / (time.monotonic() - self.started)
        losses = ""
        if history.cross_entropy:
            losses = f"CE {_mean(history.cross_entropy[-20:]):.3f}"
            recent = [c for c in history.contrast[-20:] if c is not None]
            if recent:
                losses += f" contrast {_mean(recent):.3f}"
        self.progress.update(self.task, completed=done, rate=f"{rate:.1f} img/s", losses=losses)
        now = time.monotonic()
        if self.progress.disable and now - self.said >= console.LINE_EVERY:
            self.said = now
            how_far = console.progress(done, arm.iterations, "iterations", now - self.started, self.first)
            self.say(f"{arm.name}: {how_far}, {rate:.1f} img/s, {losses}")
        if self.tracker and done % _EVERY == 0 and history.cross_entropy:
            values = {
                "train/cross-entropy": history.cross_entropy[-1],
                "train/contrast": history.contrast[-1],
                "train/learning rate": arm.optimizer.param_groups[-1]["lr"],
                "train/images per second": rate,
                **{f"contrast/{name}": value for name, value in arm.participation.latest.items()},
            }
            self.tracker.iteration(done, values)

    def on_validation(self, arm: Arm, done: int, images: int) -> None:
        now = time.monotonic()
        if done <= evaluation_batch(arm.config, arm.runtime.processes):
            self.validating = now
        if self.progress.disable and now - self.said >= console.LINE_EVERY:
            self.said = now
            how_far = console.progress(done, images, "images", now - self.validating)
            self.say(f"{arm.name}: epoch {arm.evaluated + 1}, validation: {how_far}")

    def on_evaluation(self, arm: Arm) -> None:
        history, found = arm.history, arm.history.evaluations[-1]
        recent = _mean(history.cross_entropy[-arm.epoch_length :])
        self.said = time.monotonic()
        groups = ", ".join(f"{name} {miou:.4f}" for name, miou in found["groups"].items())
        seconds = history.train_seconds + history.evaluate_seconds
        self.say(
            f"{arm.name}: epoch {arm.evaluated} of {arm.epochs}, cross-entropy {recent:.3f}, "
            f"val mIoU {found['miou']:.4f}{groups and f' ({groups})'}, {seconds:.0f} s"
        )
        if self.tracker:
            self.tracker.evaluation(arm.done, found, list(arm.data.classes), _pictures(arm))
            for epoch in means(history.contrasted[-1:]):
                self.tracker.by_class(arm.done, "contrast anchors", arm.data.classes, epoch["class_anchors"])
                left_out = epoch["class_left_out"]
                self.tracker.by_class(arm.done, "contrast segments left out", arm.data.classes, left_out)


def _pictures(arm: Arm, count: int = 2) -> list[NDArray[Any]]:
    """Image, label and prediction of the first images of val, [H, 3 W, 3] each."""
    images, labels, logits = next(arm.predict_val())
    shown = []
    for image, label, prediction in list(zip(images, labels, logits.argmax(1), strict=True))[:count]:
        picture = (image.permute(1, 2, 0) * 255).to(torch.uint8).cpu().numpy()  # [H, W, 3]
        palette = arm.data.palette
        shown.append(np.concatenate([picture, coloured(label.cpu(), palette), coloured(prediction.cpu(), palette)], 1))
    return shown


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
