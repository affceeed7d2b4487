"""Files that are whole or not there, and the state of the random generators."""

import contextlib
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from fastpixcon.training import TrainingError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write`` on a temporary file beside ``path``, then put it in place; a crash leaves the old file.

    Raises:
        TrainingError: the file can't be written, because the disk is full or it may not; the old one is whole.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # on a full disk half a file is in everybody's way
        cause = _os_error(error)
        if cause is None:
            raise
        raise TrainingError(f"{path}: can't be written: {cause.strerror}; what was there before is whole") from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def _os_error(error: BaseException | None) -> OSError | None:
    """The system's error: torch.save raises one of its own while it handles that."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def save(path: Path, state: dict[str, Any]) -> None:
    write_atomically(path, lambda file: torch.save(state, file))


def load(path: Path, lazily: bool = False) -> dict[str, Any]:
    """Tensors and plain values by name; nothing in the file is executed. ``lazily``: tensors are read when looked at.

    Raises:
        TrainingError: the file is damaged, holds objects of other classes, or is no dict.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # torch raises a different one for every kind of damage
        raise TrainingError(f"{path}: no checkpoint of this program: {unread(error)}") from None
    if not isinstance(state, dict):
        raise TrainingError(f"{path}: no checkpoint of this program: got {type(state).__name__}, want a dict")
    return state


def unread(error: Exception) -> str:
    """Why torch.load refused a file, without its advice to execute what is in it."""
    foreign = re.search(r"(?:global|GLOBAL):? (?:GLOBAL )?([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and foreign:
        return f"it holds {foreign[1]}, want tensors and plain values only; nothing in it was executed"
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"it is damaged or something else ({type(error).__name__}{text and f': {text}'})"


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Of python, numpy and torch, as tensors and plain values."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():  # another machine may have fewer GPUs, or have had none
        for i, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(of_device, i)
