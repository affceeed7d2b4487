"""mIoU of groups of classes, from the config to what is printed."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import tiny_arguments

from fastpixcon import cli
from fastpixcon.training import TrainingError, config
from fastpixcon.training.config import Evaluation
from fastpixcon.training.data import open_dataset
from fastpixcon.training.data.survey import Survey, facts_of
from fastpixcon.training.evaluation import class_groups, evaluate


def test_a_group_is_the_mean_of_its_classes_that_occur() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 2]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 0, 1, 2, 2]]]), 5).movedim(-1, 1).float()  # [1, 5, 1, 5]
    groups = {"ends": [0, 2], "with_one_that_does_not_occur": [1, 4], "nowhere": [3]}
    found = evaluate(iter([(torch.empty(0), labels, logits)]), 5, torch.device("cpu"), groups=groups)
    assert found is not None
    assert found["iou"] == [1, 0.5, 0.5, None, None]
    assert found["groups"]["ends"] == 0.75
    assert found["groups"]["with_one_that_does_not_occur"] == 0.5
    assert math.isnan(found["groups"]["nowhere"])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("carr",), r"evaluation\.groups\.small: got carr, no class of the data, want one such as car"),
        (("car", "car"), r"evaluation\.groups\.small: got car, car, want each class once"),
    ],
)
def test_names_that_are_no_classes(members: tuple[str, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        class_groups(Evaluation(groups={"small": members}), ["road", "car"])


def test_a_training_tells_them_and_eval_repeats_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    groups = ['evaluation.groups.odd=["1", "3", "5", "7", "9"]', 'evaluation.groups.ground=["background"]']
    assert cli.main(tiny_arguments(run, "arms=['ce']", "schedule.epochs=1", *groups)) == 0
    said = capsys.readouterr().out
    arm = json.loads((run / "results.json").read_text())["arms"]["ce"]
    odd = [arm["iou"][k] for k in (2, 4, 6, 8, 10) if arm["iou"][k] is not None]
    assert arm["groups"]["odd"] == pytest.approx(np.mean(odd))
    assert arm["groups"]["ground"] == arm["iou"][0] > 0
    assert f"(odd {arm['groups']['odd']:.4f}, ground {arm['groups']['ground']:.4f})" in said
    assert "mIoU % odd (5)" in said
    assert cli.main(["eval", str(run / "ce"), "--json", str(scores)]) == 0
    assert "mIoU % odd" in capsys.readouterr().out
    assert next(iter(json.loads(scores.read_text()).values()))["groups"] == arm["groups"]


def test_a_training_refuses_what_is_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(tiny_arguments(tmp_path / "run", 'evaluation.groups.odd=["eleven"]')) == 2
    assert "evaluation.groups.odd: got eleven, no class of the data" in capsys.readouterr().err


def test_the_groups_of_ccp_are_parts_of_the_classes_that_occur_often() -> None:
    groups = config.load("ccp").evaluation.groups
    parts = [name for part in ("frequent", "middle", "rare") for name in groups[part]]
    assert len(parts) == len(groups["five_or_more"]) == 37
    assert set(parts) == set(groups["five_or_more"])


@pytest.mark.skipif("FASTPIXCON_CCP" not in os.environ, reason="FASTPIXCON_CCP: the folder of Clothing Co-Parsing")
def test_the_groups_of_ccp_are_what_its_config_says() -> None:
    wanted = config.load("ccp")
    data = open_dataset(replace(wanted.data, root=os.environ["FASTPIXCON_CCP"]), check=False)
    images = {}
    for name, split in (("train", data.train), ("val", data.val)):
        survey = Survey.of(split, len(data.classes))
        for facts in facts_of(split):
            survey.add(facts)
        assert not survey.faulty
        images[name] = dict(zip(data.classes, survey.occurs.tolist(), strict=True))
    often = {name for name, count in images["val"].items() if count >= 5}
    groups = {name: set(members) for name, members in wanted.evaluation.groups.items()}
    assert groups == {
        "five_or_more": often,
        "frequent": {name for name in often if images["train"][name] > 100},
        "middle": {name for name in often if 40 <= images["train"][name] <= 100},
        "rare": {name for name in often if images["train"][name] < 40},
    }
