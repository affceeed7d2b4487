"""Tables over seeds, against numbers worked out by hand."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastpixcon import cli
from fastpixcon.training import TrainingError, seeds
from fastpixcon.training.config import load, to_tree


def run(seed: int, **miou: float) -> dict[str, Any]:
    config = to_tree(load("digits", [f"seed={seed}"]))
    return {"config": config, "arms": {name: {"miou": value} for name, value in miou.items()}}


RUNS = [run(0, ce=0.60, better=0.61), run(1, ce=0.62, better=0.65), run(2, ce=0.61, better=0.63)]


def test_mean_deviation_gain_and_paired_test() -> None:
    ce, better = seeds.compare(RUNS)
    assert ce.mean == pytest.approx(61)
    assert ce.deviation == pytest.approx(1)
    assert ce.p is None
    assert better.gain == pytest.approx({0: 1, 1: 3, 2: 2})
    assert better.p == pytest.approx(0.0741799, rel=1e-5)  # t = 2 / (1 / sqrt(3)), two degrees of freedom


def test_an_arm_without_all_seeds_is_compared_where_it_can_be() -> None:
    _, better = seeds.compare([*RUNS[:2], run(2, ce=0.61)])
    assert better.gain == pytest.approx({0: 1, 1: 3})
    assert "-" in seeds.markdown(seeds.compare([*RUNS[:2], run(2, ce=0.61)]))


def test_runs_of_other_settings_and_seeds_twice_are_refused() -> None:
    other = deepcopy(RUNS[1])
    other["config"]["schedule"]["epochs"] += 1
    with pytest.raises(TrainingError, match=r"seed 1 has another schedule\.epochs, want"):
        seeds.compare([RUNS[0], other])
    with pytest.raises(TrainingError, match="seed 0 has ce twice"):
        seeds.compare([RUNS[0], RUNS[0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"not_finite": {"ce+contrast": {"iteration": 7, "what": "nan"}}},
            r"ce\+contrast was not finite in iteration 7",
        ),
        ({"changes": [{"key": "precision", "before": "fp32", "after": "bf16"}]}, "with another precision, fp32 before"),
        ({"arms": {"ce": {"miou": None}}}, "ce has no mIoU, for no pixel of its val was labelled"),
    ],
)
def test_runs_without_a_whole_result_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=f"runs: seed 1.*{message}"):
        seeds.compare([RUNS[0], RUNS[1] | change])
    harmless = {"changes": [{"key": "data.workers", "before": 0, "after": 1}], "not_finite": {}}
    assert seeds.compare([RUNS[0], RUNS[1] | harmless, RUNS[2]]) == seeds.compare(RUNS)


def test_a_key_that_an_older_version_did_not_write_has_its_default() -> None:
    older = deepcopy(RUNS[1])
    del older["config"]["contrast"]["min_pixels"]
    assert seeds.compare([RUNS[0], older, RUNS[2]]) == seeds.compare(RUNS)


def test_the_verb_prints_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for results in RUNS:
        files.append(tmp_path / f"{results['config']['seed']}.json")
        files[-1].write_text(json.dumps(results))
    assert cli.main(["table", "--markdown", *map(str, files)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| ce | 60.00 | 62.00 | 61.00 | 61.00 | 1.00 | - | - | - |"
    assert lines[3] == "| better | 61.00 | 65.00 | 63.00 | 63.00 | 2.00 | +2.00 | +1.00 | 0.074 |"


def in_groups(seed: int, **rare: float | None) -> dict[str, Any]:
    results = run(seed, **dict.fromkeys(rare, 0.5))
    for name, value in rare.items():
        results["arms"][name]["groups"] = {"rare": value}
    return results


def test_the_score_of_a_group() -> None:
    runs = [in_groups(0, ce=0.2, better=0.3), in_groups(1, ce=0.25, better=0.15)]
    assert seeds.scores_of(runs) == ["miou", "rare"]
    assert seeds.scores_of([*runs, run(2, ce=0.5)]) == ["miou"]
    _, better = seeds.compare(runs, "rare")
    assert better.gain == pytest.approx({0: 10, 1: -10})
    assert better.worst == 1
    with pytest.raises(TrainingError, match="--score: got 'small', want one that seed 0 has: miou, rare"):
        seeds.compare(runs, "small")
    with pytest.raises(TrainingError, match="seed 2: ce has no rare: none of its classes occurs in its val"):
        seeds.compare([*runs, in_groups(2, ce=None)], "rare")


def test_gains_seed_by_seed() -> None:
    lines = seeds.markdown(seeds.compare([*RUNS, run(3, ce=0.60)]), gains=True).splitlines()
    assert lines[0] == "| gain | seed 0 | seed 1 | seed 2 | seed 3 | mean | deviation | worst | p |"
    assert lines[2:] == ["| better | +1.00 | +3.00 | +2.00 | - | +2.00 | 1.00 | +1.00 (seed 0) | 0.074 |"]


def test_variants_are_arms_of_their_seeds() -> None:
    other = run(1, **{"ce+contrast": 0.7})
    other["config"]["contrast"]["max_views"] = 7
    runs = seeds.with_variants(RUNS, [("max_views-7", "ce+contrast", other)])
    assert [list(found["arms"]) for found in runs] == [
        ["ce", "better"],
        ["ce", "better", "max_views-7"],
        ["ce", "better"],
    ]
    assert seeds.compare(runs)[2].gain == pytest.approx({1: 8})
    assert "max_views-7" not in RUNS[1]["arms"]
    with pytest.raises(TrainingError, match="seed 1 has better twice"):
        seeds.with_variants(RUNS, [("better", "ce+contrast", other)])
    with pytest.raises(TrainingError, match=r"max_views-7 has seed 1, want one of \[0, 2\]"):
        seeds.with_variants([RUNS[0], RUNS[2]], [("max_views-7", "ce+contrast", other)])


def test_names_of_arms_are_whole_in_80_columns() -> None:
    miou = {0: 57.75, 1: 56.19, 2: 57.95}
    names = ["ce", "ce+contrast", "ce+contrast+memory", "ce+contrast+memory+mining"]
    table = seeds.table([seeds.Arm(name, miou, dict.fromkeys(miou, 0.0), 0.5) for name in names])
    console = Console(width=80, record=True)
    console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert [text.count(part) for part in ("ce ", "+contrast", "+memory", "+mining", "0.500")] == [4, 3, 2, 1, 4]
    assert "…" not in text
