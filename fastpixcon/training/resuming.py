"""What a run that goes on may change of its config, and how its schedule then goes on: docs/training.md has the table.

What changes nothing of the mathematics is free. What rounds otherwise may change and is told: from there on the run is
no longer, bit for bit, what it would have been. The length may change: all arms then train to the new one, with the
same rates. The rest is what the run is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from fastpixcon.training import TrainingError, checkpoint, config, rundir
from fastpixcon.training.config import Config, Schedule
from fastpixcon.training.description import Folder
from fastpixcon.training.optimisation import Length, rate_factor
from fastpixcon.training.trained import MODEL_FILE

FREE = ("name", "tensorboard", "figures", "data.root", "data.workers", "schedule.evaluate_every")
_ROUNDS = "rounds otherwise: from here on not bit for bit what it would have been"
TOLD = {
    "device": _ROUNDS,
    "precision": _ROUNDS,
    "compile": _ROUNDS,
    "channels_last": _ROUNDS,
    "contrast.across": _ROUNDS,
    "model.checkpoint": "taken to be the same weights in another place",
    "arms": "the new ones train as long as the others",
}
LENGTH = ("schedule.epochs", "schedule.iterations", "schedule.earlier")


@dataclass(frozen=True)
class Resumed:
    """A run that goes on: its config, as it is to be now, and what is to be told of that."""

    folder: Path
    stored: Config
    config: Config
    done: dict[str, int] = field(default_factory=dict)  # iterations of the arms that have begun
    told: tuple[str, ...] = ()  # a line each

    @property
    def changes(self) -> list[dict[str, Any]]:
        """For the run's record."""
        before, after = config.flat(self.stored), config.flat(self.config)
        return [
            {"key": key, "before": before.get(key), "after": after.get(key), "done": self.done}
            for key in config.differences(self.stored, self.config)
        ]


def resume(folder: Path, source: str | None, overrides: Sequence[str], processes: int = 1) -> Resumed:
    """The run in ``folder`` with what ``--config source`` and ``--set overrides`` change of it, by so many processes.

    Raises:
        TrainingError: with every key that can't change, its stored value and the one asked for.
    """
    stored = rundir.read_config(folder)
    asked = config.change(stored, overrides) if source is None else config.load(source, overrides)
    if source is not None and asked.name != stored.name:
        raise TrainingError(
            f"--config: got {source}, of the name {asked.name!r}, but the run in {folder} is {stored.name!r}; "
            "leave it out: a run that goes on has its config"
        )
    asked = replace(asked, data=replace(asked.data, folder=_filled(asked.data.folder, stored.data.folder)))
    automatic = {key: getattr(stored, key) for key in ("device", "precision") if getattr(asked, key) == "auto"}
    asked = replace(asked, **automatic, schedule=replace(asked.schedule, earlier=stored.schedule.earlier))
    _check_keys(stored, asked, folder)
    if asked.device == "cuda" and not torch.cuda.is_available() and stored.device == "cuda":
        raise TrainingError(
            f"device: the run in {folder} was on 'cuda', but torch sees no GPU here; --set device=cpu goes on on the "
            "CPU, from there on not bit for bit what it would have been"
        )
    before, after = config.flat(stored), config.flat(asked)
    told = [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}, {TOLD[key]}"
        for key in config.differences(stored, asked)
        if key in TOLD
    ]
    return Resumed(folder, stored, asked, _done(folder, asked.arms, processes), tuple(told))


def _filled(asked: Folder | None, stored: Folder | None) -> Folder | None:
    """A description of a folder, with what the run has found where it says nothing."""
    if asked is None or stored is None:
        return stored if asked is None else asked
    return replace(stored, **{f.name: value for f in fields(Folder) if (value := getattr(asked, f.name)) is not None})


def _check_keys(stored: Config, asked: Config, folder: Path) -> None:
    before, after = config.flat(stored), config.flat(asked)

    def may(key: str) -> bool:
        if key == "arms":
            return asked.arms[: len(stored.arms)] == stored.arms
        if key == "model.checkpoint":
            return bool(stored.model.checkpoint and asked.model.checkpoint)
        return key in (*TOLD, *LENGTH) or any(key == free or key.startswith(f"{free}.") for free in FREE)

    fixed = [key for key in config.differences(stored, asked) if not may(key)]
    if fixed:
        lines = [f"{key}: the run has {_shown(before.get(key))}, got {_shown(after.get(key))}" for key in fixed]
        raise TrainingError(
            f"--resume: can't change in a run that has begun, {folder}; a new run can have it:\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value)


def _done(folder: Path, arms: Sequence[str], processes: int) -> dict[str, int]:
    """Iterations of the arms that have begun, and of "warm", which those take over that have not."""
    done = {}
    for name, path in [("warm", folder / "warm.pt"), *((arm, folder / arm / "checkpoint.pt") for arm in arms)]:
        if path.is_file():
            state = checkpoint.load(path, lazily=True)
            iterations, random = state.get("done"), state.get("random")
            if not isinstance(iterations, int) or not isinstance(random, list):
                raise TrainingError(f"{path}: not of this program, or of another version: no done and random in it")
            if len(random) != processes:
                raise TrainingError(
                    f"{path}: written by {len(random)} processes, want as many to go on, got {processes}: each has its "
                    "own random state, and anchors of its share of a batch"
                )
            done[name] = iterations
        elif (path.parent / MODEL_FILE).is_file():
            raise TrainingError(
                f"{path}: no such file, but {MODEL_FILE} beside it: the arm was finished and can't go on without; "
                f"remove {path.parent} to train it anew"
            )
    return done


def lengthen(resumed: Resumed, asked: Config, images: int) -> Resumed:
    """``asked``, of a resumed run with so many images to train, if it is of another length.

    The rate of the polynomial decay depends on the length. What was trained has the rate of the old one, so the
    others train with it up to the iteration that the first of them has reached, and from there on all with the new one.
    """
    before, after = resumed.stored.schedule, asked.schedule
    old, new = Length.of(before, images), Length.of(after, images)
    if old.iterations == new.iterations:
        return replace(resumed, config=asked)
    key, got = "schedule.iterations", after.iterations
    first = max(resumed.done.values(), default=0)
    least = first
    if got is None:
        key, got, least = "schedule.epochs", new.epochs, -(-first // new.epoch)
    reached = ", ".join(f"{name} {iterations}" for name, iterations in resumed.done.items())
    if new.iterations < first:
        raise TrainingError(
            f"--resume: {key}: got {got}, which is {new.iterations} iterations, want at least {least}: "
            f"trained so far are {reached}"
        )
    line = f"{key}: {new.iterations} iterations instead of {old.iterations}, for all arms"
    if first:
        if not after.earlier or after.earlier[-1][0] < first:
            after = replace(after, earlier=(*after.earlier, (first, old.iterations)))
        line += (
            f", finished ones too (trained so far: {reached}). Up to iteration {first} the learning rate is that of "
            f"{old.iterations} iterations, from there on that of {new.iterations}: it goes from "
            f"{_rate(first, old, before):.3g} to {_rate(first, new, after):.3g} there"
        )
    return replace(resumed, config=replace(asked, schedule=after), told=(*resumed.told, line))


def _rate(done: int, length: Length, schedule: Schedule) -> float:
    return schedule.learning_rate * rate_factor(done, length.iterations, schedule) if done < length.iterations else 0.0
