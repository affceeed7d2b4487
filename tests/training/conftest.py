"""A run small enough for a test, on one thread."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.tested_backends import REQUIRED
from tiny_run import tiny_arguments

if "train" not in REQUIRED:
    pytest.importorskip("segmentation_models_pytorch", reason="needs the train extra")
    pytest.importorskip("pydantic", reason="needs the train extra")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def figures_are_drawn() -> None:
    """At the end of a training; a test asks for it."""


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the training."""
    from fastpixcon.training import job

    if "figures_are_drawn" not in request.fixturenames:
        monkeypatch.setattr(job, "_draw", lambda *_: ([], []))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nobody interrupted."""
    from fastpixcon import cli

    out = tmp_path_factory.mktemp("runs") / "tiny"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    status = cli.main(tiny_arguments(out))
    torch.set_num_threads(threads)
    assert status == 0
    return out


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """timm's networks as they are, of another size: call it with the settings."""
    import timm

    create = timm.create_model

    def change(**settings: Any) -> None:
        monkeypatch.setattr(timm, "create_model", lambda *args, **more: create(*args, **{**more, **settings}))

    return change
