"""Runs that differ in their seed alone, together: mean, deviation, paired test; of all classes or some."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table
from scipy.stats import ttest_rel

from fastpixcon.training import TrainingError, config
from fastpixcon.training.text import read_json

MIOU = "miou"  # the score of all classes; others are names of groups, of config.Evaluation
# Between runs that are compared.
MAY_DIFFER = {"name", "seed", "arms", "tensorboard", "figures", "data.root", "data.workers"}

# By --resume, in a run that is compared.
_ALL_THE_WAY = {"device", "precision", "compile", "channels_last", "contrast.across", "model.checkpoint"}


@dataclass(frozen=True)
class Arm:
    """A score in percent of every seed that has the arm."""

    name: str
    score: dict[int, float]  # by seed
    gain: dict[int, float]  # on the first arm, of the seeds that have both
    p: float | None  # two-sided, of the paired t-test of the gain; None: fewer than two seeds

    @property
    def mean(self) -> float:
        return mean(self.score.values())

    @property
    def deviation(self) -> float | None:
        return stdev(self.score.values()) if len(self.score) > 1 else None

    @property
    def worst(self) -> int:
        """The seed that gained least."""
        return min(self.gain, key=self.gain.__getitem__)


def read(path: Path) -> dict[str, Any]:
    """The results of a run, from its directory or its file."""
    file = path / "results.json" if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise TrainingError(f"{file}: no such file, want the directory of a finished run or its results.json")
    results: Any = read_json(file, "the results of a run")
    if not isinstance(results, dict) or not {"config", "arms"} <= results.keys():
        raise TrainingError(f"{file}: no results of a run: want config and arms in it")
    config.parse(results["config"], where=str(file))
    arms = results["arms"]
    each = list(arms.values()) if isinstance(arms, dict) else []
    scores = [arm.get("miou") if isinstance(arm, dict) else None for arm in each]
    if not scores or not all(isinstance(score, float | int) and isfinite(score) for score in scores):
        raise TrainingError(f"{file}: no results of a run: got the arms {arms!r:.200}, want a miou of each")
    return results


def with_variants(
    runs: Sequence[dict[str, Any]], variants: Iterable[tuple[str, str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """``runs`` with arms of other settings: of each variant its name, and the arm and the run, of one of their seeds,
    that it is."""
    by_seed = {run["config"]["seed"]: {**run, "arms": dict(run["arms"])} for run in runs}
    for name, arm, run in variants:
        seed = run["config"]["seed"]
        if seed not in by_seed:
            raise TrainingError(f"runs: {name} has seed {seed}, want one of {sorted(by_seed)} to compare it with")
        _check_whole(seed, run)
        if name in by_seed[seed]["arms"]:
            raise TrainingError(f"runs: seed {seed} has {name} twice, want each seed once")
        by_seed[seed]["arms"][name] = run["arms"][arm]
    return list(by_seed.values())


def scores_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    """``MIOU`` and the groups that all runs have."""
    groups = [list(arm.get("groups", {})) for run in runs for arm in run["arms"].values()]
    return [MIOU, *(name for name in groups[0] if all(name in others for others in groups))]


def compare(runs: Sequence[dict[str, Any]], score: str = MIOU) -> list[Arm]:
    """Every arm over all seeds; the first arm of the first run is what the others are compared with."""
    by_arm: dict[str, dict[int, float]] = {}
    first = config.parse(runs[0]["config"])
    for run in runs:
        ran = config.parse(run["config"])
        seed = ran.seed
        different = [key for key in config.differences(first, ran) if not MAY_DIFFER & {key, key.split(".")[0]}]
        if different:
            raise TrainingError(f"runs: seed {seed} has another {', '.join(different)}, want the same")
        _check_whole(seed, run)
        for name, arm in run["arms"].items():
            if seed in by_arm.setdefault(name, {}):
                raise TrainingError(f"runs: seed {seed} has {name} twice, want each seed once")
            by_arm[name][seed] = 100 * _score(seed, name, arm, score)
    baseline = next(iter(by_arm.values()))
    arms = []
    for name, found in by_arm.items():
        both = sorted(found.keys() & baseline.keys())
        gain = {seed: found[seed] - baseline[seed] for seed in both}
        p = None
        if found is not baseline and len(both) > 1:
            p = float(ttest_rel([found[s] for s in both], [baseline[s] for s in both]).pvalue)
        arms.append(Arm(name, found, {} if found is baseline else gain, p))
    return arms


def _score(seed: int, name: str, arm: dict[str, Any], score: str) -> float:
    groups = arm.get("groups", {})
    if score != MIOU and score not in groups:
        raise TrainingError(f"--score: got {score!r}, want one that seed {seed} has: {', '.join([MIOU, *groups])}")
    found = arm["miou"] if score == MIOU else groups[score]
    if found is None:
        raise TrainingError(f"runs: seed {seed}: {name} has no {score}: none of its classes occurs in its val")
    return float(found)


def _check_whole(seed: int, run: dict[str, Any]) -> None:
    """Every arm ran to its end, all the way alike, and has a score."""
    for name, found in run.get("not_finite", {}).items():
        raise TrainingError(f"runs: seed {seed}: {name} was not finite in iteration {found['iteration']}: no result")
    for change in run.get("changes", ()):
        if change["key"] in _ALL_THE_WAY:
            raise TrainingError(
                f"runs: seed {seed} was resumed with another {change['key']}, {change['before']} before, want the same "
                "all the way"
            )
    for name, arm in run["arms"].items():
        if arm["miou"] is None:
            raise TrainingError(f"runs: seed {seed}: {name} has no mIoU, for no pixel of its val was labelled")


def _rows(arms: Sequence[Arm]) -> tuple[list[str], list[list[str]]]:
    seeds = _seeds(arms)
    head = ["arm", *(f"seed {seed}" for seed in seeds), "mean", "deviation", "gain", "worst gain", "p"]
    rows = []
    for arm in arms:
        cells = [arm.name, *(f"{arm.score[s]:.2f}" if s in arm.score else "-" for s in seeds), f"{arm.mean:.2f}"]
        cells.append("-" if arm.deviation is None else f"{arm.deviation:.2f}")
        cells += [f"{mean(arm.gain.values()):+.2f}", f"{min(arm.gain.values()):+.2f}"] if arm.gain else ["-", "-"]
        cells.append("-" if arm.p is None else f"{arm.p:.3f}")
        rows.append(cells)
    return head, rows


def _gain_rows(arms: Sequence[Arm]) -> tuple[list[str], list[list[str]]]:
    """Of every seed what an arm is more than the first."""
    seeds = _seeds(arms)
    head = ["gain", *(f"seed {seed}" for seed in seeds), "mean", "deviation", "worst", "p"]
    rows = []
    for arm in arms:
        if not arm.gain:
            continue
        cells = [arm.name, *(f"{arm.gain[s]:+.2f}" if s in arm.gain else "-" for s in seeds)]
        cells.append(f"{mean(arm.gain.values()):+.2f}")
        cells.append(f"{stdev(arm.gain.values()):.2f}" if len(arm.gain) > 1 else "-")
        cells.append(f"{arm.gain[arm.worst]:+.2f} (seed {arm.worst})")
        cells.append("-" if arm.p is None else f"{arm.p:.3f}")
        rows.append(cells)
    return head, rows


def _seeds(arms: Sequence[Arm]) -> list[int]:
    return sorted({seed for arm in arms for seed in arm.score})


def table(arms: Sequence[Arm], score: str = MIOU, gains: bool = False) -> Table:
    """``gains``: of every seed, instead of the scores."""
    head, rows = _gain_rows(arms) if gains else _rows(arms)
    what = "mIoU" if score == MIOU else f"mIoU of {score}"
    caption = "gain: on the first arm, mean over seeds; p: paired t-test, two-sided"
    if gains:
        what, caption = f"gain in {what}", f"on {arms[0].name}; p: paired t-test, two-sided"
    result = Table(padding=0, title=f"{what}, %", caption=caption)
    for i, name in enumerate(head):
        result.add_column(name, justify="right" if i else "left", overflow="fold", min_width=None if i else 9)
    for name, *cells in rows:
        result.add_row(name.replace("+", " +"), *cells)  # wraps between its parts
    return result


def markdown(arms: Sequence[Arm], gains: bool = False) -> str:
    head, rows = _gain_rows(arms) if gains else _rows(arms)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
