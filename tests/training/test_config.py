from pathlib import Path

import pytest

from fastpixcon.training import TrainingError, config
from fastpixcon.training.data import DATASETS
from fastpixcon.training.models import FAMILIES, MODELS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.epoch=3", "schedule.epoch: unknown key (given 3)"),
        ("schedules.epochs=3", "schedules: unknown key"),
        ("schedule.epochs=many", "schedule.epochs: got 'many', want a valid integer"),
        ("schedule.epochs=2.5", "schedule.epochs: got 2.5, want a valid integer"),
        ("schedule.epochs=0", "schedule.epochs: got 0, want greater than or equal to 1"),
        ("data.workers=true", "data.workers: got True, want a valid integer"),
        ("contrast.temperature=0", "contrast.temperature: got 0, want greater than 0"),
        ("contrast.temperature=inf", "contrast.temperature: "),
        ("precision=fp64", "precision: got 'fp64', want 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("data.augmentation.scale=[1.5, 0.5]", "data.augmentation.scale: got [1.5, 0.5], want the smaller first"),
        ("data.augmentation.crop=0", "data.augmentation.crop: got 0, want an integer from 1 on, or [height, width]"),
        (
            "data.augmentation.crop=[64]",
            "data.augmentation.crop: got [64], want an integer from 1 on, or [height, width]",
        ),
        ('arms=["ce", "ce"]', "arms: got ['ce', 'ce'], want each once"),
        ("name=a/b", "name: got 'a/b'"),
        ("schedule.earlier=[[9, 8]]", "schedule.earlier: got [[9, 8]], want [until, total]"),
        ("schedule.earlier=[[4, 8], [4, 9]]", "schedule.earlier: got [[4, 8], [4, 9]], want [until, total]"),
        ("schedule.epochs", "--set: got 'schedule.epochs', want key=value"),
        ("seed.x=1", "--set seed.x=1: seed is a value, not a table"),
    ],
)
def test_errors_name_the_key_the_value_and_what_is_wanted(override: str, message: str) -> None:
    with pytest.raises(TrainingError) as error:
        config.load("digits", [override])
    assert message in str(error.value)


def test_crop_is_a_side_or_height_and_width() -> None:
    square = config.load("camvid", ["data.augmentation.crop=192"])
    assert square.data.augmentation.crop == 192
    wide = config.load("camvid", ["data.augmentation.crop=[360, 480]"])
    assert wide.data.augmentation.crop == (360, 480)
    assert config.parse(config.to_tree(wide)) == wide


def test_every_error_is_reported_at_once() -> None:
    with pytest.raises(TrainingError) as error:
        config.load("digits", ["seed=-1", "model.nmae=x"])
    assert "seed:" in str(error.value)
    assert "model.nmae:" in str(error.value)


def test_config_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(config.shipped()["digits"].replace("seed = 0", "seed = 7"))
    assert config.load(str(path)).seed == 7
    path.write_text("seed = ")
    with pytest.raises(TrainingError, match="not TOML"):
        config.load(str(path))
    with pytest.raises(TrainingError, match="missing"):
        config.parse({"seed": 1})


def test_unknown_config_lists_the_shipped_ones() -> None:
    with pytest.raises(TrainingError, match=r"one of camvid, .*cityscapes_hrnet_w48,.* digits,"):
        config.load("cityscapes")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastpixcon import training

    monkeypatch.setitem(training._EXTRA, "no_such_module", "no-such-package")
    with pytest.raises(TrainingError, match=r"no-such-package.*fastpixcon\[train\]"):
        training.require_extra()


def test_a_config_extends_another(tmp_path: Path) -> None:
    base, mine = tmp_path / "base.toml", tmp_path / "mine.toml"
    base.write_text(config.shipped()["digits"])
    mine.write_text(f'extends = "{base}"\nname = "mine"\n[schedule]\nbatch = 16\n')
    merged, plain = config.load(str(mine)), config.load("digits")
    assert config.differences(merged, plain) == ["name", "schedule.batch"]


def test_epochs_and_iterations_take_each_others_place(tmp_path: Path) -> None:
    """Neither is there without a word and without effect."""
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "cityscapes_hrnet_w48"\n[schedule]\nepochs = 7\n')
    for settings in (
        config.load(str(mine)),
        config.load("cityscapes_hrnet_w48", ["schedule.epochs=7"]),
        config.load("digits", ["schedule.iterations=9", "schedule.epochs=7"]),
        config.change(config.load("digits", ["schedule.iterations=9"]), ["schedule.epochs=7"]),
    ):
        assert (settings.schedule.epochs, settings.schedule.iterations) == (7, None)
    assert config.load("digits", ["schedule.iterations=9"]).schedule.epochs is None
    mine.write_text('extends = "digits"\n[schedule]\nepochs = 7\niterations = 9\n')
    with pytest.raises(TrainingError, match="schedule: got epochs and iterations, want one of them"):
        config.load(str(mine))


def test_a_table_that_is_not_there_can_be_set() -> None:
    without = config.parse(config.to_tree(config.load("digits")) | {"memory": None})
    sizes = ("pixel_size", "region_size", "pixels_per_image")
    changed = config.change(without, [f"memory.{name}=3" for name in sizes])
    assert changed.memory == config.Memory(3, 3, 3)


def test_extending_in_a_circle_is_an_error(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(f'extends = "{mine}"\n')
    with pytest.raises(TrainingError, match="extends itself"):
        config.load(str(mine))
    mine.write_text('extends = "nobody"\n')
    with pytest.raises(TrainingError, match="extends: got 'nobody', want a TOML file or one of"):
        config.load(str(mine))


@pytest.mark.parametrize("name", sorted(config.shipped()))
def test_every_shipped_config_is_whole(name: str) -> None:
    settings = config.load(name)
    assert settings.data.name in DATASETS
    family = next((x for x in FAMILIES if settings.model.name.startswith(x)), None)
    if family is None:
        assert settings.model.name in MODELS
    else:
        FAMILIES[family][0](settings.model)  # raises
    assert settings.name == name
    assert config.parse(config.to_tree(settings)) == settings
    first = config.shipped()[name].splitlines()[0]
    assert first.startswith("# ")
