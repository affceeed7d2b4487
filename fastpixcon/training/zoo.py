"""The trained networks that come with the package."""

import hashlib
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fastpixcon.training import TrainingError, checkpoint
from fastpixcon.training.trained import check_trained

FOLDER = Path(str(resources.files(__package__) / "zoo_models"))


@dataclass(frozen=True)
class Entry:
    name: str
    path: Path
    data: str
    network: str
    arm: str
    miou: float  # of its last evaluation in training
    bytes: int
    sha256: str


def entries() -> list[Entry]:
    found = []
    for path in sorted(FOLDER.glob("*.pt")):
        state = checkpoint.load(path)
        check_trained(state, path)
        config, content = state["config"], path.read_bytes()
        found.append(
            Entry(
                path.stem,
                path,
                config["data"]["name"],
                config["model"]["name"],
                state["arm"],
                state["results"]["miou"],
                len(content),
                hashlib.sha256(content).hexdigest(),
            )
        )
    return found


def path_of(name: str) -> Path:
    """Of a name of the zoo, else ``name`` as a path."""
    shipped = FOLDER / f"{name}.pt"
    if os.path.isfile(shipped):
        return shipped
    if not os.path.exists(name):
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.pt"))) or "none here"
        raise TrainingError(f"MODEL: got {name!r}, want a file, a folder of a run or a name of the zoo ({known})")
    return Path(name)
