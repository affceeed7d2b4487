"""A study: arms compared over seeds, and one of them with other settings, as one TOML file says.

``jobs`` are the trainings that it asks for, in their order; ``study_state`` finds on disk how far each is, and
``study_queue`` runs those that are left.
"""

import json
import os
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fastpixcon.training import TrainingError, config
from fastpixcon.training.config import ArmName, Config, Name, explain, toml
from fastpixcon.training.description import STRICT
from fastpixcon.training.text import read_text

FileName = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Changes = tuple[Name, ...]  # "KEY=VALUE", as --set has them

# Settings that nothing asks for until the warm-up of the contrast is over.
_LATER = ("contrast.", "memory.", "mining.")
_EARLIER = "contrast.warmup"


@dataclass(frozen=True, config=STRICT)
class Variant:
    """An arm, with other settings or one that the study does not train for every seed; compared with those of its
    seed."""

    arm: ArmName
    set: Changes = ()
    seeds: tuple[Seed, ...] | None = None  # of the study's; none: all


@dataclass(frozen=True, config=STRICT)
class Study:
    name: FileName  # of its folder in runs/
    config: Name  # that comes with the package, or the path of a TOML file
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    arms: Annotated[tuple[ArmName, ...], Field(min_length=1)] = ("ce", "ce+contrast")  # the first is the baseline
    set: Changes = ()  # of every training
    data: str = ""  # data.root; --data goes before it
    results: str = ""  # folder of the results, a JSON file a training; "": that of the trainings
    variants: dict[FileName, Variant] = field(default_factory=dict)  # by name


@plain_dataclass(frozen=True)
class Job:
    """A training of the study."""

    name: str  # of its folder, its log and its results
    source: str  # name or path of the config
    changes: Changes  # of it, all of them
    variant: str = ""  # "": the arms of the study
    first: str = ""  # the job whose first iterations it has; "": it trains them

    @cached_property
    def config(self) -> Config:
        return config.load(self.source, self.changes)


_ADAPTER = TypeAdapter(Study)


def read(path: Path) -> Study:
    """Raises ``TrainingError`` with every key that is unknown, missing or out of range."""
    if not os.path.isfile(path):
        raise TrainingError(f"{path}: no such file, want a TOML file that says what is to be trained")
    tree = toml(read_text(path, "a study, in TOML"), str(path))
    try:
        study: Study = _ADAPTER.validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        lines = "\n".join(f"  {explain(problem)}" for problem in error.errors())
        raise TrainingError(f"{path}:\n{lines}") from None
    for key, values in (("seeds", study.seeds), ("arms", study.arms)):
        if len(set(values)) < len(values):
            raise TrainingError(f"{path}: {key}: got {list(values)}, want each once")
    for name, variant in study.variants.items():
        other = sorted(set(variant.seeds or ()) - set(study.seeds))
        if other:
            raise TrainingError(f"{path}: variants.{name}.seeds: got {other}, want some of {list(study.seeds)}")
        if name in study.arms:
            raise TrainingError(f"{path}: variants: got {name}, which is an arm of the study, want another name")
    return study


def jobs(study: Study, data: str = "") -> list[Job]:
    """The arms of every seed, one training each, then the variants; ``data``: instead of ``study.data``."""
    root = [f"data.root={json.dumps(data or study.data, ensure_ascii=False)}"] if data or study.data else []

    def wanted(seed: int, arms: tuple[str, ...], changes: Changes) -> Changes:
        return (*study.set, *changes, *root, f"seed={seed}", f"arms={json.dumps(arms)}")

    if study.config == "folder":
        raise TrainingError("config: got 'folder', whose settings the pictures decide; want a TOML file that has them")
    arms = {seed: Job(f"seed-{seed}", study.config, wanted(seed, study.arms, ())) for seed in study.seeds}
    found = list(arms.values())
    for name, variant in study.variants.items():
        for seed in variant.seeds or study.seeds:
            job = Job(f"variants/{name}-seed-{seed}", study.config, wanted(seed, (variant.arm,), variant.set), name)
            first = arms[seed].name if _begins_alike(arms[seed].config, job.config) else ""
            found.append(replace(job, first=first))
    return found


def _begins_alike(arms: Config, variant: Config) -> bool:
    """Whether a variant's first iterations are those that the arms of its seed leave to each other."""
    different = [key for key in config.differences(arms, variant) if key != "arms"]
    leaves = len(arms.arms) > 1 and arms.contrast.warmup > 0
    return leaves and all(key.startswith(_LATER) and key != _EARLIER for key in different)
