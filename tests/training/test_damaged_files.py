"""Files that are damaged, hostile, of something else, or never written to the end: docs/faults.md is their table."""

import errno
import os
import pickle
import re
import shutil
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.forked import forked
from tiny_run import tiny_arguments

from fastpixcon import cli
from fastpixcon.training import TrainingError, checkpoint, job, rundir, seeds, zoo
from fastpixcon.training.config import load
from fastpixcon.training.engine import Arm, Runtime
from fastpixcon.training.models import build_model
from fastpixcon.training.trained import load_trained


class Hostile:
    """Whoever unpickles it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.open, (str(self.trace), os.O_CREAT | os.O_WRONLY)


def write_hostile(file: Path, how: str, trace: Path) -> None:
    content = {"model": {"x": torch.ones(1)}, "state_dict": Hostile(trace)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))  # torch warns of others
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")


def check_that_it_works(file: Path, trace: Path) -> None:
    torch.load(file, weights_only=False)
    assert trace.exists()
    trace.unlink()


def copied(run: Path, tmp_path: Path) -> Path:
    """A run that can be spoilt."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    return copy


VERBS: dict[str, tuple[str, list[str]]] = {  # the file that is read, the command line
    "resume": ("ce/checkpoint.pt", ["train", "--resume", "--out", "{run}"]),
    "eval": ("ce/model.pt", ["eval", "{run}/ce"]),
    "predict": ("ce/model.pt", ["predict", "{run}/ce", "picture.png"]),
    "tsne": ("ce/model.pt", ["tsne", "{run}/ce", "--out", "{run}/tsne.png"]),
    "export": ("ce/model.pt", ["export", "{run}/ce", "--out", "{run}/small.pt"]),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_hostile_pickle_is_refused_and_not_executed(
    verb: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, arguments = VERBS[verb]
    run, trace = copied(finished_run, tmp_path), tmp_path / "trace"
    write_hostile(run / name, "zip", trace)
    check_that_it_works(run / name, trace)
    assert cli.main([part.format(run=run) for part in arguments]) == 2
    message = capsys.readouterr().err
    assert f"{run / name}: no checkpoint of this program: it holds {os.open.__module__}.open, want tensors" in message
    assert "weights_only" not in message  # torch's advice: to execute it
    assert not trace.exists()


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("read", [checkpoint.load, load_trained])
def test_a_hostile_pickle_of_any_format_is_refused(read: Callable[[Path], Any], how: str, tmp_path: Path) -> None:
    file, trace = tmp_path / "model.pt", tmp_path / "trace"
    write_hostile(file, how, trace)
    with pytest.raises(TrainingError, match=f"{file}: no checkpoint of this program: it holds"):
        read(file)
    assert not trace.exists()


def test_a_hostile_model_checkpoint_is_refused_and_not_executed(tmp_path: Path) -> None:
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    model = replace(load("digits").model, pretrained=False, checkpoint=str(file))
    for how in ("zip", "legacy", "pickle"):
        write_hostile(file, how, trace)
        with pytest.raises(TrainingError, match=f"model.checkpoint {file}: no weights that can be read safely"):
            build_model(model, 5)
    assert not trace.exists()


def test_a_hostile_file_of_the_zoo_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    file, trace = tmp_path / "net.pt", tmp_path / "trace"
    write_hostile(file, "zip", trace)
    for read in (zoo.entries, lambda: load_trained(zoo.path_of("net"))):
        with pytest.raises(TrainingError, match=f"{file}: no checkpoint of this program: it holds"):
            read()
    assert not trace.exists()


def cut(content: bytes, part: float) -> bytes:
    return content[: int(part * len(content))]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "a tenth": lambda content: cut(content, 0.1),
    "a half": lambda content: cut(content, 0.5),
    "nearly all": lambda content: cut(content, 0.99),
    "garbage": lambda content: bytes(i * 2654435761 >> 13 & 255 for i in range(5000)),
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"<html>not found</html>\n" * 50,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    checkpoint.save(file, {"model": {"x": torch.arange(1000)}})
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    for read in (checkpoint.load, load_trained):
        with pytest.raises(TrainingError, match=f"{file}: no checkpoint of this program: it is damaged"):
            read(file)


def test_resuming_from_a_damaged_checkpoint_ends_with_a_message(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(finished_run, tmp_path)
    file = run / "ce" / "checkpoint.pt"
    file.write_bytes(cut(file.read_bytes(), 0.5))
    assert cli.main(["train", "--resume", "--out", str(run)]) == 2
    assert f"{file}: no checkpoint of this program: it is damaged" in capsys.readouterr().err
    assert file.stat().st_size > 0  # left as it was


def spoilt(file: Path, **changes: Any) -> None:
    """``None``: without that entry."""
    state = {**torch.load(file, weights_only=True), **changes}
    torch.save({key: value for key, value in state.items() if value is not None}, file)


CHANGES: list[dict[str, Any]] = [
    {"model": {"classifier.weight": torch.ones(3)}},
    {"optimizer": None},
    {"contrast": None},
    {"random": [{}]},
    {"history": {"of another version": []}},
    {"done": "two"},
]


def test_a_checkpoint_of_another_config_or_version_is_named(finished_run: Path, tmp_path: Path) -> None:
    config, data = job.prepare(rundir.read_config(finished_run))
    folder = copied(finished_run, tmp_path) / "ce+contrast"
    runtime = Runtime(torch.device("cpu"), "fp32", lambda: False, lambda arm: None, lambda arm: None)
    arm = Arm(config, folder.name, data, folder, runtime)
    assert arm.finished
    whole = arm.checkpoint_path.read_bytes()
    for change in CHANGES:
        arm.checkpoint_path.write_bytes(whole)
        spoilt(arm.checkpoint_path, **change)
        message = f"{arm.checkpoint_path}: not of this config, of {config.model.name} with 11 classes, or of"
        with pytest.raises(TrainingError, match=re.escape(message)):
            arm._restore(arm.checkpoint_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection": None}, "or of another version: no projection in it"),
        ({"classes": "road"}, "no classes in it"),
        ({"classes": ["road", "sky"]}, "not the weights of deeplabv3plus_efficientnet_lite0"),
        ({"model": {"x": 3}}, "not the weights of deeplabv3plus_efficientnet_lite0"),
        ({"config": {"name": "x"}}, "model: missing"),
    ],
)
def test_a_model_of_other_classes_or_another_version_is_named(
    changes: dict[str, Any], message: str, finished_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.pt"
    shutil.copy(finished_run / "ce" / "model.pt", file)
    spoilt(file, **changes)
    with pytest.raises(TrainingError, match=message) as error:
        load_trained(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0"])
def test_damaged_text_files_of_a_run_are_named(content: str, tmp_path: Path) -> None:
    for name, read in (("config.json", rundir.read_config), ("results.json", seeds.read)):
        (tmp_path / name).write_text(content)
        with pytest.raises(TrainingError, match=str(tmp_path / name)):
            read(tmp_path)


# Writes a checkpoint and dies in the middle of writing the next.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from fastpixcon.training import checkpoint, writing

path = Path(sys.argv[1])
checkpoint.save(path, {"number": 1, "x": torch.arange(100_000)})

class Dies:
    def __init__(self, file):
        self.file, self.written = file, 0
    def write(self, content):
        self.written += len(content)
        if self.written > 300_000:
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(content)
    def flush(self):
        self.file.flush()

writing.write(path, lambda file: torch.save({"number": 2, "x": torch.arange(100_000)}, Dies(file)))
"""


def test_a_save_that_is_killed_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    done = forked(KILLED, str(file))
    assert done.returncode == -signal.SIGKILL, done.stderr
    (half,) = tmp_path.glob(".fastpixcon-*")
    assert half.stat().st_size > 0
    assert checkpoint.load(file)["number"] == 1
    checkpoint.save(file, {"number": 3})
    assert checkpoint.load(file)["number"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


FULL = """
import resource, sys
from pathlib import Path
import torch
from fastpixcon.training import TrainingError, checkpoint

path = Path(sys.argv[1])
checkpoint.save(path, {"number": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoint.save(path, {"number": 2, "x": torch.arange(100_000)})
except TrainingError as error:
    print(error)
"""


def test_a_file_that_grows_too_large_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """The system's own error, through torch.save, which raises another."""
    file = tmp_path / "checkpoint.pt"
    done = forked(FULL, str(file))
    assert done.stdout == f"{file}: can't be written: File too large; what was there before is whole\n", done.stderr
    assert checkpoint.load(file)["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_ends_training_with_a_message_and_a_checkpoint_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = tiny_arguments(run, "arms=['ce']")
    save, calls = torch.save, []

    def full(state: Any, file: Any) -> None:
        calls.append(state)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    monkeypatch.setattr(checkpoint.torch, "save", full)
    assert cli.main(arguments) == 2
    file = run / "ce" / "checkpoint.pt"
    assert f"{file}: can't be written: No space left on device; what was there before is whole" in (
        capsys.readouterr().err
    )
    assert checkpoint.load(file)["done"] == 4
    assert not list(run.rglob(".fastpixcon-*"))
    monkeypatch.undo()
    assert cli.main(["train", "--resume", "--out", str(run)]) == 0
    assert checkpoint.load(file)["done"] == 8


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(TrainingError, match=r"--out: got .*Permission denied"):
        rundir.create(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"x.pt: can't be written: Permission denied"):
        checkpoint.save(tmp_path / "x.pt", {})


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"--out: got .*Not a directory"):
        rundir.create(tmp_path / "file" / "run")
