"""A loss that is no number any more, and scores that are none."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score
from test_run import checkpoint_of
from tiny_run import tiny_arguments

from fastpixcon import cli
from fastpixcon.training import engine, report, rundir
from fastpixcon.training.data import IGNORE
from fastpixcon.training.evaluation import evaluate
from fastpixcon.training.history import Diverged, History


def spoil(monkeypatch: pytest.MonkeyPatch, arm: str, iteration: int) -> None:
    """The loss of that iteration, from 1 on, is NaN."""
    part = engine.Arm._part

    def spoilt(self: engine.Arm, *arguments: Any) -> Any:
        cross_entropy, contrast = part(self, *arguments)
        if (self.name, self.done + 1) == (arm, iteration):
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)
            return cross_entropy * math.nan, contrast
        return cross_entropy, contrast

    monkeypatch.setattr(engine.Arm, "_part", spoilt)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_learning_rate_that_is_too_high_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = tiny_arguments(out, "schedule.learning_rate=1e12", "schedule.clip=0.0", "contrast.warmup=7")
    assert cli.main(arguments) == 3
    text = told(capsys)
    found = re.search(r"ce: not finite in iteration (\d) of 8: cross-entropy nan; this arm ends here, and so do", text)
    assert found, text
    assert "no checkpoint was written before. Want a smaller schedule.learning_rate" in text
    assert "ce+contrast" not in text  # the same until then
    results = json.loads((out / "results.json").read_text())
    assert results["arms"] == {}
    assert results["not_finite"]["ce"]["iteration"] == int(found[1])
    assert not list(out.rglob("*.pt"))


def test_the_others_go_on_and_the_checkpoint_before_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        spoil(patched, "ce", 6)
        assert cli.main(tiny_arguments(out)) == 3
    text = told(capsys)
    assert "ce: not finite in iteration 6 of 8: cross-entropy nan; this arm ends here; its checkpoint of" in text
    assert "of iteration 4 is kept" in text
    assert "mIoU %" in text  # the table of the other
    assert list(json.loads((out / "results.json").read_text())["arms"]) == ["ce+contrast"]
    state: Any = checkpoint_of(out, "ce")
    assert state["done"] == 4
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not (out / "ce" / "model.pt").exists()
    assert cli.main(["train", "--resume", "--out", str(out)]) == 0
    assert list(json.loads((out / "results.json").read_text())["arms"]) == ["ce", "ce+contrast"]


@pytest.mark.parametrize("where", ["weight", "variance", "optimizer"])
def test_a_state_that_is_not_finite_is_not_saved(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss was finite, and val was not looked at."""
    step = engine.Arm._step

    def spoilt(self: engine.Arm, *arguments: Any) -> None:
        step(self, *arguments)
        if self.done == 7:
            name = {"weight": "projection.0.weight", "variance": "projection.1.running_var"}.get(where)
            state = next(iter(self.optimizer.state.values()))
            (state["exp_avg_sq"] if name is None else self.model.state_dict()[name]).fill_(math.inf)

    monkeypatch.setattr(engine.Arm, "_step", spoilt)
    out = tmp_path / "run"
    assert cli.main(tiny_arguments(out, "arms=['ce']")) == 3
    assert "ce: not finite in iteration 8 of 8: a weight or the state of the optimizer is not finite" in told(capsys)
    assert checkpoint_of(out, "ce")["done"] == 4


def test_half_precision_may_leave_out_steps_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_arms import make_arm

    arm = make_arm(
        tmp_path, "ce", "precision='fp16'", "schedule.epochs=20", "schedule.evaluate_every=20", iterations=1000
    )
    arm.folder.parent.mkdir(exist_ok=True)

    def infinite(*arguments: Any) -> Any:
        for parameter in arm.model.parameters():
            parameter.grad = torch.full_like(parameter, math.inf)
        arm.scaler.scale(torch.zeros(()))  # as its backward would
        return torch.zeros(()), None

    monkeypatch.setattr(arm, "_part", infinite)
    with pytest.raises(Diverged, match="step after step left out in fp16") as error:
        arm.run()
    assert error.value.iteration == 27  # 2^16 to 2^-11
    assert all(value.isfinite().all() for value in arm.model.state_dict().values())


def test_losses_that_are_not_finite_are_found_in_their_iteration() -> None:
    history = History([1.0, 2.0, 3.0], [None, math.nan, math.inf])
    history.check_finite(3)
    for start, iteration in ((0, 2), (2, 3)):
        with pytest.raises(Diverged) as error:
            history.check_finite(start)
        assert error.value.iteration == iteration


def test_logits_that_are_not_finite_are_counted() -> None:
    logits = torch.randn(1, 3, 4, 4)
    logits[0, 1, 2, 2], logits[0, :, 3, 3] = math.nan, math.inf
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    found = evaluate(iter([(torch.empty(0), labels, logits)]), 3, torch.device("cpu"))
    assert found is not None
    assert found["not_finite"] == 2


def test_scores_without_a_labelled_pixel_are_none(tmp_path: Path) -> None:
    labels = torch.full((1, 4, 4), IGNORE)
    found = evaluate(iter([(torch.empty(0), labels, torch.randn(1, 3, 4, 4))]), 3, torch.device("cpu"))
    assert found is not None
    assert math.isnan(found["miou"])
    assert math.isnan(found["accuracy"])
    assert found["iou"] == [None] * 3
    rundir.write_json(tmp_path / "scores.json", found)  # JSON has no NaN
    assert json.loads((tmp_path / "scores.json").read_text())["miou"] is None
    arm = {"miou": math.nan, "iou": [None], "losses": {}, "train_seconds": 0.0, "evaluate_seconds": 0.0}
    run = {"config": {"name": "x", "seed": 0}, "classes": ["a"], "arms": {"ce": arm, "ce+contrast": arm}}
    cells = [list(column.cells) for column in report.table(run).columns]
    assert [cell[0] for cell in cells] == ["mIoU %", "nan", "nan"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_an_evaluation_counts_as_scikit_learn_does(dtype: torch.dtype) -> None:
    K, batches, seen = 5, [], []
    for _ in range(3):
        labels = torch.randint(K, (2, 9, 7)).masked_fill(torch.rand(2, 9, 7) < 0.2, 255).to(dtype)
        logits = torch.randn(2, K, 9, 7)
        batches.append((torch.empty(2, 3, 9, 7), labels, logits))
        seen.append((labels[labels != 255], logits.argmax(1)[labels != 255]))
    found = evaluate(iter(batches), K, torch.device("cpu"))
    true, predicted = (torch.cat(x).numpy() for x in zip(*seen, strict=True))
    assert found is not None
    assert found["confusion"] == confusion_matrix(true, predicted, labels=range(K)).tolist()
    assert found["miou"] == pytest.approx(jaccard_score(true, predicted, average="macro"))
    assert found["accuracy"] == pytest.approx((true == predicted).mean())
