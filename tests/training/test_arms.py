"""What an arm does beyond the plain step: parts of a batch, half precision, mean weights, memory and mining."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY

from fastpixcon.training import TrainingError, checkpoint, config, job
from fastpixcon.training.engine import Arm, Runtime
from fastpixcon.training.interrupt import Interrupted

MEMORY = ("memory.pixel_size=20", "memory.region_size=20", "memory.pixels_per_image=2")


def make_arm(folder: Path, name: str, *values: str, iterations: int = 3) -> Arm:
    """Stops after some iterations."""
    settings, data = job.prepare(config.load("digits", [*TINY, *MEMORY, f"arms=['{name}']", *values]))
    count = []
    runtime = Runtime(
        device=torch.device("cpu"),
        precision=settings.precision,
        stop_requested=lambda: len(count) == iterations,
        on_iteration=lambda arm: count.append(arm.done),
        on_evaluation=lambda arm: None,
    )
    return Arm(settings, name, data, folder / name, runtime)


def run(arm: Arm) -> Arm:
    arm.folder.parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(Interrupted):
        arm.run()
    return arm


def weights(arm: Arm) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in arm.model.parameters()])


def test_parts_of_a_batch_add_up_to_it(tmp_path: Path) -> None:
    """Without what sees a whole part: batch norm and dropout are as in evaluation."""
    values = ("schedule.optimizer='sgd'", "schedule.learning_rate=0.01")
    arms = [make_arm(tmp_path / str(n), "ce", *values, f"schedule.accumulate={n}", iterations=1) for n in (1, 2)]
    start = weights(arms[0])
    for arm in arms:
        arm.network.train = partial(type(arm.network).train, arm.network, False)  # type: ignore[method-assign]
        run(arm)
    whole, parts = arms
    assert whole.history.cross_entropy == pytest.approx(parts.history.cross_entropy, rel=1e-5)
    assert (weights(whole) - weights(parts)).norm() < 1e-4 * (weights(whole) - start).norm()


def test_arms_share_their_warm_up_bit_for_bit(tmp_path: Path) -> None:
    """The second arm starts where the first one's warm-up ended, and ends where it would have alone."""
    values = ("contrast.warmup=3", "schedule.epochs=2")
    states = []
    for folder, names in ((tmp_path / "alone", ["ce+contrast"]), (tmp_path / "shared", ["ce", "ce+contrast"])):
        folder.mkdir()
        settings, data = job.prepare(config.load("digits", [*TINY, *values, f"arms={names}"]))
        for name in names:
            runtime = Runtime(torch.device("cpu"), "fp32", lambda: False, lambda arm: None, lambda arm: None)
            arm = Arm(settings, name, data, folder / name, runtime)
            started = arm.done
            arm.run()
        assert started == (3 if len(names) > 1 else 0)
        states.append(checkpoint.load(folder / "ce+contrast" / "checkpoint.pt"))
    assert states[0]["history"]["contrast"] == states[1]["history"]["contrast"]
    for key, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][key]), key


def test_a_compiled_network_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(make_arm(tmp_path / "plain", "ce+contrast", iterations=2))
    # Traced, with the backward split off, but without the minutes of a C++ compiler.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = run(make_arm(tmp_path / "compiled", "ce+contrast", "compile=true", iterations=2))
    assert compiled.network is not compiled.model
    assert compiled.history.cross_entropy == pytest.approx(plain.history.cross_entropy, rel=1e-3)
    assert compiled.history.contrast[-1] == pytest.approx(plain.history.contrast[-1], rel=1e-2)


def test_half_precision_trains(tmp_path: Path) -> None:
    arm = run(make_arm(tmp_path, "ce+contrast", "precision='fp16'"))
    assert arm.scaler.get_scale() > 0
    assert all(0 < loss < 10 for loss in arm.history.cross_entropy)
    assert arm.history.contrast[-1] is not None


def test_mean_weights_are_those_that_are_evaluated(tmp_path: Path) -> None:
    arm = run(make_arm(tmp_path, "ce", "schedule.ema=0.5", iterations=2))
    assert arm.evaluated_model is not arm.model
    restored = Arm(arm.config, "ce", arm.data, arm.folder, arm.runtime)
    for ours, theirs in zip(arm.evaluated_model.parameters(), restored.evaluated_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_memory_fills_after_the_warm_up_and_is_saved(tmp_path: Path) -> None:
    arm = run(make_arm(tmp_path, "ce+contrast+memory+mining", "contrast.warmup=1"))
    assert arm.contrast is not None
    bank = arm.contrast.memory
    assert bank is not None
    assert int(bank.written.sum()) > 0
    state: dict[str, Any] = checkpoint.load(arm.checkpoint_path)
    assert torch.equal(state["contrast"]["memory.rows"], bank.rows)


def test_the_last_epoch_may_be_cut_short(tmp_path: Path) -> None:
    settings, data = job.prepare(config.load("digits", [*TINY, "schedule.iterations=5", "schedule.evaluate_every=1"]))
    runtime = Runtime(torch.device("cpu"), "fp32", lambda: False, lambda arm: None, lambda arm: None)
    arm = Arm(settings, "ce", data, tmp_path / "ce", runtime)
    arm.run()
    assert arm.finished
    assert [e["iteration"] for e in arm.history.evaluations] == [4, 5]


def test_memory_without_its_sizes_is_refused() -> None:
    tree = config.to_tree(config.load("digits", ["arms=['ce+contrast+memory']"]))
    tree["memory"] = None
    with pytest.raises(TrainingError, match="memory: missing, want a table of it for the arms with memory"):
        config.parse(tree)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["arms=['ce+memory']"], "arms.0"),
        (["schedule.batch=4", "schedule.accumulate=3"], "schedule.batch: got 4, want a multiple of 3"),
        (["schedule.batch=4", "schedule.accumulate=4"], "4 parts of at least 2 images"),
        (["data.augmentation.aspect=[2.0, 1.0]"], "data.augmentation.aspect: got [2.0, 1.0], want the smaller first"),
    ],
)
def test_what_can_not_be_trained_is_refused(values: list[str], message: str) -> None:
    with pytest.raises(TrainingError) as error:
        job.prepare(config.load("digits", [*TINY, *values]))
    assert message in str(error.value)
