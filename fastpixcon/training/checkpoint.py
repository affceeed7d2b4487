"""Checkpoints, and the state of the random generators."""

import pickle
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastpixcon.training import TrainingError, writing


def save(path: Path, state: dict[str, Any]) -> None:
    writing.write(path, lambda file: torch.save(state, file))


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
