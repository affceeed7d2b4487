"""Trained networks in one file: the weights and all that is needed to use them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastpixcon.training import TrainingError, checkpoint
from fastpixcon.training.config import Config, parse, to_tree
from fastpixcon.training.data import DataSet
from fastpixcon.training.description import LAYOUT_KEYS
from fastpixcon.training.models import ContrastNetwork, build_model

MODEL_FILE = "model.pt"


@dataclass(frozen=True)
class Trained:
    """A network with the config that made it."""

    config: Config
    arm: str
    classes: list[str]  # [K]
    palette: list[tuple[int, int, int]]  # [K] RGB
    results: dict[str, Any]  # of its last evaluation
    model: ContrastNetwork

    @property
    def contrasts(self) -> bool:
        """Whether its projection head was trained."""
        return "contrast" in self.arm


def save_trained(
    path: Path, config: Config, arm: str, data: DataSet, model: ContrastNetwork, results: dict[str, Any]
) -> None:
    """ "model": the plain network, to predict with; "projection": its head, apart."""
    checkpoint.save(path, content(Trained(config, arm, list(data.classes), list(data.palette), results, model)))


def stored(state: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What a file holds of a state dict: filters and matrices in ``dtype`` (None: as they are). Vectors, of which there
    are few, stay as they are: variances may be too small for float16, and their errors shift whole channels."""
    constants = ("mean", "std")  # of the images
    kept = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    halved = {k for k, v in kept.items() if v.is_floating_point() and v.dim() > 1 and k not in constants}
    return {k: v.to(dtype) if dtype and k in halved else v for k, v in kept.items()}


def content(trained: Trained, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What ``save_trained`` writes; ``dtype``: of the filters and matrices in the file."""
    tree = to_tree(trained.config)
    tree["data"]["root"] = ""  # where the data lay is nobody else's business
    described = tree["data"]["folder"] or {}
    described |= {key: None for key in LAYOUT_KEYS if key in described and not _is_relative(described[key])}
    return {
        "config": tree,
        "arm": trained.arm,
        "classes": trained.classes,
        "palette": [list(colour) for colour in trained.palette],
        "results": trained.results,
        "model": stored(trained.model.plain_state_dict(), dtype),
        "projection": stored(trained.model.projection.state_dict(), dtype),
    }


def _is_relative(tree: Any) -> bool:
    """Whether no path in it begins at the root of a disk."""
    if isinstance(tree, dict | list):
        return all(_is_relative(value) for value in (tree.values() if isinstance(tree, dict) else tree))
    return not (isinstance(tree, str) and os.path.isabs(tree))


_PARTS = {
    "config": dict,
    "arm": str,
    "classes": list,
    "palette": list,
    "results": dict,
    "model": dict,
    "projection": dict,
}


def check_trained(state: dict[str, Any], file: Path) -> None:
    """Raises ``TrainingError`` if ``save_trained`` has not written that."""
    wrong = [name for name, kind in _PARTS.items() if not isinstance(state.get(name), kind)]
    if wrong:
        raise TrainingError(
            f"{file}: no trained network of this program, or of another version: no {', '.join(wrong)} in it"
        )


def load_trained(path: Path) -> Trained:
    """From the file, or the folder of a run's arm. Nothing in a file is executed."""
    file = path / MODEL_FILE if os.path.isdir(path) else path
    if os.path.isdir(path) and not os.path.isfile(file):
        arms = sorted(found.parent.name for found in path.glob(f"*/{MODEL_FILE}"))
        hint = f", want one of its arms: {', '.join(str(path / arm) for arm in arms)}" if arms else ""
        raise TrainingError(f"{path}: no {MODEL_FILE} in it{hint}")
    if not os.path.isfile(file):
        raise TrainingError(
            f"{file}: no such file, want a {MODEL_FILE}, the folder of a run's arm or a name of the zoo"
        )
    state = checkpoint.load(file)
    check_trained(state, file)
    config = parse(state["config"], where=str(file))
    model = build_model(replace(config.model, pretrained=False, checkpoint=""), len(state["classes"]))
    weights = {**state["model"], **{f"projection.{k}": v for k, v in state["projection"].items()}}
    try:
        model.load_state_dict(weights)
    except Exception as error:  # keys, shapes and things that are no tensors
        raise TrainingError(f"{file}: not the weights of {config.model.name}: {error}") from None
    palette = [(r, g, b) for r, g, b in state["palette"]]
    return Trained(config, state["arm"], state["classes"], palette, state["results"], model)
