"""Two processes, as torchrun starts them, train as one does on the same batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness.distributed_checks import free_port
from harness.forked import Forked, forked
from tiny_run import NO_FIGURES, tiny_arguments

from fastpixcon.training.checkpoint import seed_all
from fastpixcon.training.config import parse
from fastpixcon.training.models import build_model

# Which pixels are anchors depends on how many images a process has: here the same ones are taken of every image.
SAME_ANCHORS = f"""{NO_FIGURES}
import sys
import torch
from fastpixcon import cli, functional

def every_ninth_pixel(labels, predictions, *_):
    B, h, w = predictions.shape[0], *predictions.shape[-2:]
    small = torch.nn.functional.interpolate(labels[:, None].float(), (h, w), mode="nearest")[:, 0].long()
    index = (torch.arange(B)[:, None] * h * w + torch.arange(0, h * w, 9)).flatten()
    chosen = small.flatten()[index].int()
    order = torch.where(chosen == 255, 1000, chosen).sort(stable=True).indices  # by label
    label = torch.where(chosen == 255, -1, chosen)[order]
    selected = functional.SelectedAnchors(index[order], label, (label >= 0).sum()[None].int())
    return selected, torch.zeros(2, 11, dtype=torch.int32)

functional.maps.select_with_segments = every_ninth_pixel
functional.maps.takes_one_call = lambda *_: False
sys.exit(cli.main(sys.argv[1:]))
"""
# SIGINT to the second process.
INTERRUPTED = SAME_ANCHORS.replace(
    "functional.maps.select_with_segments = every_ninth_pixel",
    """functional.maps.select_with_segments = every_ninth_pixel
import os, signal
from fastpixcon.training import engine

step = engine.Arm._step

def interrupted_step(self, *arguments):
    if self.done == 1 and self.runtime.processes.rank == 1:
        os.kill(os.getpid(), signal.SIGINT)
    step(self, *arguments)

engine.Arm._step = interrupted_step""",
)
# Processes draw their own.
NO_DROPOUT = """
import torch
torch.nn.functional.dropout = lambda x, *_, **__: x
"""
# SGD: AdamW's first steps are of the sign of a gradient, whatever its size, so that rounding would show.
SETTINGS = ("schedule.optimizer='sgd'", "schedule.learning_rate=0.01", "schedule.iterations=2", "contrast.warmup=0")


def torchrun_command(code: Path, processes: int, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return [*command, "--master-addr=127.0.0.1", f"--master-port={free_port()}", str(code), *arguments]


def torchrun(code: Path, processes: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = torchrun_command(code, processes, *arguments)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def two_processes(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """With the environment that torchrun makes, and without torchrun, which imports for ten seconds a process."""
    everywhere = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "COLUMNS": "200"}
    processes = [Forked(code, *arguments, RANK=rank, LOCAL_RANK=rank, **everywhere) for rank in "01"]
    told = [process.communicate() for process in processes]
    status = max(abs(process.returncode or 0) for process in processes)
    return subprocess.CompletedProcess(arguments, status, *("".join(text) for text in zip(*told, strict=True)))


def flat(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> torch.Tensor:
    """Difference of all weights, float64."""
    return torch.cat([(a[key] - b[key]).double().flatten() for key in a if a[key].is_floating_point()])


@pytest.mark.parametrize("arm", ["ce+contrast", "ce+contrast+memory"])
def test_two_processes_train_as_one(arm: str, tmp_path: Path) -> None:
    code = NO_DROPOUT + SAME_ANCHORS
    memory = ("memory.pixel_size=16", "memory.region_size=64", "memory.pixels_per_image=1")
    values = (*SETTINGS, *memory, f'arms=["{arm}"]')
    one = forked(code, *tiny_arguments(tmp_path / "one", *values))
    assert one.returncode == 0, one.stderr
    two = two_processes(code, *tiny_arguments(tmp_path / "two", *values))
    assert two.returncode == 0, two.stderr
    histories = [json.loads((tmp_path / n / "results.json").read_text())["arms"][arm] for n in ("one", "two")]
    torch.testing.assert_close(*(torch.tensor(h["cross_entropy"]) for h in histories), rtol=2e-4, atol=0)
    if arm == "ce+contrast":  # a memory draws the pixels that it takes from a process's own images
        torch.testing.assert_close(*(torch.tensor(h["contrast"]) for h in histories), rtol=2e-4, atol=0)
    states = [torch.load(tmp_path / n / arm / "checkpoint.pt", weights_only=True) for n in ("one", "two")]
    if arm != "ce+contrast+memory":
        first = parse(json.loads((tmp_path / "one" / "config.json").read_text()))
        seed_all(first.seed)
        start = build_model(first.model, 11).state_dict()
        moved, apart = (flat(states[0]["model"], other) for other in (start, states[1]["model"]))
        assert apart.norm() <= 1e-3 * moved.norm()
    assert len(states[1]["random"]) == 2


def test_two_processes_stop_and_go_on(tmp_path: Path) -> None:
    """SIGINT in one of them; resumed by two, it ends as if nobody had interrupted; by one it is refused."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    interrupted = tmp_path / "interrupted.py"
    interrupted.write_text(INTERRUPTED)
    values = (*SETTINGS, 'arms=["ce+contrast"]')
    first = two_processes(SAME_ANCHORS, *tiny_arguments(whole, *values))
    assert first.returncode == 0, first.stderr
    stopped = torchrun(interrupted, 2, *tiny_arguments(out, *values))
    assert "--resume --out" in stopped.stdout, stopped.stderr
    alone = forked(SAME_ANCHORS, "train", "--resume", "--out", str(out))
    assert alone.returncode == 2
    assert "written by 2 processes" in alone.stderr
    resumed = two_processes(SAME_ANCHORS, "train", "--resume", "--out", str(out))
    assert resumed.returncode == 0, resumed.stderr
    states = [torch.load(folder / "ce+contrast" / "checkpoint.pt", weights_only=True) for folder in (whole, out)]
    assert all(torch.equal(states[1]["model"][key], value) for key, value in states[0]["model"].items())


def test_a_batch_that_processes_can_not_share_is_refused(tmp_path: Path) -> None:
    found = two_processes(SAME_ANCHORS, *tiny_arguments(tmp_path / "run", "schedule.batch=5"))
    assert found.returncode != 0
    assert "schedule.batch: got 5, want a multiple of 2, 2 processes" in found.stderr
