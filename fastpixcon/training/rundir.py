"""Directories of runs: a new run never writes into one that is there, a resumed one has it to itself."""

import errno
import fcntl
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from fastpixcon.training import TrainingError, writing
from fastpixcon.training.config import Config, parse, to_tree
from fastpixcon.training.text import read_json

CONFIG_FILE = "config.json"
CHANGES_FILE = "changes.json"  # of the config, by --resume


def create(wanted: Path) -> Path:
    """``wanted``, or the first of wanted-2, wanted-3, … that is not taken; where it is a link to nowhere, its end."""
    check(wanted)
    candidate, number = wanted, 1
    if not os.path.exists(wanted):
        candidate = Path(os.path.realpath(wanted))
    while True:
        try:
            candidate.mkdir(parents=True)
            return wanted if number == 1 else candidate
        except FileExistsError:
            if candidate.is_dir() and not any(candidate.iterdir()):
                return candidate
            number += 1
            candidate = wanted.with_name(f"{wanted.name}-{number}")
        except OSError as error:
            raise TrainingError(f"--out: got {wanted}, which can't be made: {error.strerror}") from None


def check(wanted: Path) -> None:
    """Raise ``TrainingError`` if there can't be a folder, before anything is read."""
    try:
        found = wanted.stat()
    except FileNotFoundError:
        writing.check_folder(Path(os.path.realpath(wanted)).parent, "--out")
        return
    except OSError as error:
        why = "links lead in a circle" if error.errno == errno.ELOOP else error.strerror
        raise TrainingError(f"--out: got {wanted}, which can't be made: {why}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise TrainingError(f"--out: got {wanted}, which is there, want a folder")
    free = not any(wanted.iterdir())
    writing.check_folder(wanted if free else wanted.parent, "--out")


def latest(wanted: Path) -> Path:
    """The run that ``create(wanted)`` made last."""
    runs = {1: wanted} | {
        int(path.name.removeprefix(f"{wanted.name}-")): path
        for path in wanted.parent.glob(f"{wanted.name}-*")
        if path.name.removeprefix(f"{wanted.name}-").isdecimal()
    }
    started = {number: path for number, path in runs.items() if os.path.isfile(path / CONFIG_FILE)}
    if not started:
        raise TrainingError(f"--resume: no run in {wanted}, want a directory with a {CONFIG_FILE}")
    return started[max(started)]


def lock(folder: Path) -> IO[str]:
    """Hold the directory while the returned file is open; the system lets go when the process ends."""
    file = (folder / ".lock").open("a", encoding="utf-8")  # nothing is written, nor cut off
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise TrainingError(f"{folder}: another process trains there") from None
    return file


def json_text(tree: Any) -> str:
    """JSON has no NaN and no infinity: null is written for them."""
    return json.dumps(_finite(tree), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, tree: Any) -> None:
    writing.write_text(path, json_text(tree))


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def write_config(folder: Path, config: Config, changes: Sequence[Mapping[str, Any]] = ()) -> None:
    """``changes``: of the config that is there, added to those before."""
    if changes:
        write_json(folder / CHANGES_FILE, [*read_changes(folder), *changes])
    write_json(folder / CONFIG_FILE, to_tree(config))


def read_changes(folder: Path) -> list[dict[str, Any]]:
    """What was changed in the config since the run began, a "key", "before", "after" and "done" (iterations of every
    arm) each."""
    path = folder / CHANGES_FILE
    if not path.is_file():
        return []
    changes = read_json(path, "the changes of a run")
    if not isinstance(changes, list):
        raise TrainingError(f"{path}: no changes of a run: got {type(changes).__name__}, want a list")
    return changes


def read_config(folder: Path) -> Config:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise TrainingError(f"--resume: {folder} has no {CONFIG_FILE}, so no run started there")
    return parse(read_json(path, "the config of a run"), where=str(path))
