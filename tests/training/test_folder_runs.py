"""Training on a user's own folder without a config, and all that is done with what it leaves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_folders import COLOURS, build, data_of, describe, opened
from PIL import Image

from fastpixcon import cli
from fastpixcon.training import config as configs
from fastpixcon.training import own_folder
from fastpixcon.training.description import Folder, Pairs
from fastpixcon.training.trained import content, load_trained

SMALL = [
    "device='cpu'",
    "precision='fp32'",
    "schedule.iterations=3",
    "model.decoder_channels=16",
    "model.embedding_channels=16",
    "figures.predictions=1",
    "figures.tsne_pixels=10",
    "tensorboard=false",
]
CLASSES = ["sky", "road", "tree"]


def pictures(root: Path, count: int, raws: np.ndarray | None = None, size: tuple[int, int] = (96, 64)) -> None:
    """photos/N.JPG and masks/N.png: regions of ``raws`` [4] of a seed each, or of CamVid's colours and Void."""
    for i in range(count):
        rng = np.random.default_rng(i)
        ids = np.kron(rng.permutation(np.resize(np.arange(4), 24)).reshape(4, 6), np.ones((16, 16), int))  # [64, 96]
        ids = ids[: size[1], : size[0]]
        label = COLOURS[ids] if raws is None else raws[ids]
        image = (COLOURS[ids] * 0.5 + rng.integers(0, 90, (*ids.shape, 3))).astype(np.uint8)
        for folder, name, pixels in (("photos", f"{i:02d}.JPG", image), ("masks", f"{i:02d}.png", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / name)


def arguments(verb: str, *more: str, values: list[str] = SMALL) -> list[str]:
    return [verb, *more, *(part for value in values for part in ("--set", value))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder "My photos" of colours with a table, the run of it, and what was printed."""
    root = tmp_path_factory.mktemp("own")
    data = root / "My photos"
    pictures(data, 10)
    (data / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,128,0,0\ntree,0,200,30\nVoid,9,9,250\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        torch.set_num_threads(1)
        assert cli.main(arguments("train", "--data", "My photos")) == 0
    return root


def test_a_run_is_named_after_its_folder_and_has_what_it_chose(run: Path) -> None:
    folder = run / "runs" / "My-photos"
    config = json.loads((folder / "config.json").read_text())
    assert (config["name"], config["data"]["name"]) == ("My-photos", "folder")
    assert config["data"]["augmentation"]["crop"] == [64, 96]
    assert config["model"]["name"] == "deeplabv3plus_efficientnet_lite0"
    assert (config["schedule"]["batch"], config["schedule"]["iterations"], config["schedule"]["epochs"]) == (4, 3, None)
    assert config["schedule"]["warmup"] == config["contrast"]["warmup"] == 0
    assert len(config["class_weights"]) == 3
    entries = config["data"]["folder"]["classes"]["entries"]
    assert [(entry["name"], entry["colours"]) for entry in entries] == [
        (name, [colour]) for name, colour in zip(CLASSES, COLOURS[:3].tolist(), strict=True)
    ]
    results = json.loads((folder / "results.json").read_text())
    assert results["classes"] == CLASSES
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "curves.png", "predictions.png", "tsne.png", "similarity.png", "confusion.png",
    }  # fmt: skip


def test_a_model_needs_no_folder_to_predict(run: Path, tmp_path: Path) -> None:
    trained = load_trained(run / "runs" / "My-photos" / "ce")
    assert trained.classes == CLASSES
    assert trained.palette == [tuple(colour) for colour in COLOURS[:3].tolist()]
    assert trained.config.data.root == ""
    shutil.copy(run / "runs" / "My-photos" / "ce" / "model.pt", tmp_path)
    shutil.copy(run / "My photos" / "photos" / "00.JPG", tmp_path)
    model, image, out = str(tmp_path / "model.pt"), str(tmp_path / "00.JPG"), tmp_path / "out"
    assert cli.main(["predict", model, image, "--out", str(out)]) == 0
    assert set(np.unique(np.array(Image.open(out / "00_ids.png"))).tolist()) <= {0, 1, 2}
    assert cli.main(["export", model, "--half", "--out", str(tmp_path / "half.pt")]) == 0
    assert load_trained(tmp_path / "half.pt").classes == CLASSES


def test_ids_of_the_data_set_are_none_where_labels_are_colours(run: Path, tmp_path: Path, capsys: Any) -> None:
    model, image = str(run / "runs" / "My-photos" / "ce"), str(run / "My photos" / "photos" / "00.JPG")
    assert cli.main(["predict", model, image, "--out", str(tmp_path / "out"), "--ids", "dataset"]) == 2
    assert "--ids: got dataset, but labels of this network's folder are colours, want train" in capsys.readouterr().err


def test_eval_and_tsne_read_the_folder_as_training_did(run: Path, tmp_path: Path, capsys: Any) -> None:
    model, data = str(run / "runs" / "My-photos" / "ce+contrast"), str(run / "My photos")
    scores = tmp_path / "scores.json"
    assert cli.main(["eval", model, "--data", data, "--json", str(scores), "--device", "cpu"]) == 0
    (found,) = json.loads(scores.read_text()).values()
    results = json.loads((run / "runs" / "My-photos" / "results.json").read_text())
    assert found["miou"] == pytest.approx(results["arms"]["ce+contrast"]["miou"])
    assert "val: 2 of 10 images, drawn by their names with seed 0" in capsys.readouterr().out
    assert cli.main(["eval", model, "--data", data, "--split", "test"]) == 2
    assert "--split: got 'test', but folder has none" in capsys.readouterr().err
    picture = tmp_path / "tsne.png"
    assert cli.main(["tsne", model, "--data", data, "--pixels", "10", "--out", str(picture), "--device", "cpu"]) == 0
    assert picture.is_file()


def test_eval_on_another_folder_whose_labels_are_alike(run: Path, tmp_path: Path, capsys: Any) -> None:
    """Without a table, as the network has one; with other classes that is said."""
    model = str(run / "runs" / "My-photos" / "ce")
    pictures(tmp_path / "new", 3)
    assert cli.main(["eval", model, "--data", str(tmp_path / "new"), "--split", "train", "--device", "cpu"]) == 0
    (tmp_path / "new" / "class_dict.csv").write_text("name,r,g,b\nA,0,0,0\nB,128,0,0\nC,0,200,30\nD,9,9,250\n")
    assert cli.main(["eval", model, "--data", str(tmp_path / "new"), "--device", "cpu"]) == 0
    assert "classes are those of data.folder, not those of class_dict.csv" in capsys.readouterr().out


def test_eval_reads_the_labels_of_its_split_alone(run: Path, tmp_path: Path, capsys: Any) -> None:
    models = [str(run / "runs" / "My-photos" / arm) for arm in ("ce", "ce+contrast")]
    shutil.copytree(run / "My photos", tmp_path / "new")
    label = sorted((tmp_path / "new" / "masks").iterdir())
    data = ["--data", str(tmp_path / "new"), "--device", "cpu"]
    used = {Path(path).name for path in opened(tmp_path / "new").val.labels}  # type: ignore[attr-defined]
    for path in label:
        if path.name not in used:
            Image.new("RGB", (96, 64), (1, 2, 3)).save(path)
    assert cli.main(["eval", *models, *data]) == 0
    assert capsys.readouterr().out.count("val: 2 of 10 images") == 1
    assert cli.main(["eval", *models, *data, "--split", "train"]) == 2
    assert "8 labels with colours that nothing names" in capsys.readouterr().err


def test_a_run_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(run, tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    more = ["--resume", "--data", "My photos", "--set", "schedule.iterations=4"]
    assert cli.main(["train", *more]) == 0
    changes = json.loads((tmp_path / "own" / "runs" / "My-photos" / "changes.json").read_text())
    assert [change["key"] for change in changes if change["key"] != "schedule.earlier"] == ["schedule.iterations"]
    capsys.readouterr()
    assert cli.main(["train", *more, "--set", "data.folder.val_share=0.5"]) == 2
    assert "data.folder.val_share: the run has 0.2, got 0.5" in capsys.readouterr().err
    Path("mine.toml").write_text('extends = "folder"\nname = "My-photos"\n[data]\nroot = "My photos"\n')
    assert cli.main(["train", "--resume", "--config", "mine.toml", "--set", "schedule.iterations=4"]) == 2
    assert "data.folder" not in capsys.readouterr().err  # what the run has found is what the config leaves open


def test_raw_ids_come_back(tmp_path: Path) -> None:
    """16 bits, where an id needs them; keys of a config instead of a description."""
    pictures(tmp_path / "data", 4, np.array([7, 300, 7, 65535], np.uint16))
    (tmp_path / "mine.toml").write_text(
        'extends = "folder"\nname = "mine"\narms = ["ce"]\n[data.folder]\nval_share = 0.5\n'
        'classes = [{ name = "far", id = 300 }, { name = "near", id = 7 }]\n[data.augmentation]\ncrop = 64\n'
        "[schedule]\nbatch = 2\nwarmup = 0\n[contrast]\nwarmup = 0"
    )
    out = tmp_path / "run"
    values = [*SMALL, "schedule.iterations=1"]
    start = ["--config", str(tmp_path / "mine.toml"), "--data", str(tmp_path / "data"), "--out", str(out)]
    assert cli.main(arguments("train", *start, values=values)) == 0
    image = str(tmp_path / "data" / "photos" / "00.JPG")
    predict = ["predict", str(out / "ce"), image, "--out", str(tmp_path / "maps"), "--ids", "dataset", "--no-pictures"]
    assert cli.main(predict) == 0
    found = np.array(Image.open(tmp_path / "maps" / "00_ids.png"))
    assert found.dtype in (np.uint16, np.int32)
    assert set(np.unique(found).tolist()) <= {7, 300}


def test_what_is_chosen_depends_on_the_folder(tmp_path: Path) -> None:
    pictures(tmp_path, 20, np.array([0, 1, 2, 3], np.uint8), size=(96, 64))
    base = configs.load("folder")
    data = opened(tmp_path)
    chosen, told = own_folder.settle(replace(base, data=data_of(tmp_path)), data, [])
    assert chosen.data.augmentation.crop == (64, 96)
    assert (chosen.schedule.batch, chosen.schedule.epochs) == (4, 100)
    assert chosen.contrast.warmup == 100
    assert chosen.class_weights == pytest.approx((1.0, 1.0, 1.0, 1.0), abs=0.05)
    assert "crops of 96 x 64 px" in told[0]
    assert "100 epochs (400 iterations an arm)" in told[0]
    given = [
        "schedule.epochs=2",
        "data.augmentation.crop=32",
        "class_weights=[1.0,2.0,1.0,1.0]",
        "contrast.min_pixels=2",
    ]
    asked = configs.change(replace(base, data=data_of(tmp_path)), given)
    assert own_folder.settle(asked, data, given)[0] == replace(
        asked,
        schedule=replace(asked.schedule, batch=4, warmup=1, ema=0.0, evaluate_every=1),
        contrast=replace(asked.contrast, warmup=2),
    )


def test_large_pictures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 5)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,128,0,0\ntree,0,200,30\nVoid,9,9,250\n")
    monkeypatch.setattr(own_folder, "_LARGE", 90)
    data = opened(tmp_path)
    _, told = own_folder.settle(replace(configs.load("folder"), data=data_of(tmp_path)), data, [])
    assert told[1].startswith("pictures are large, a crop is 100 % of one: smaller copies, of some 45 to 90 px")


def test_small_segments_take_part(tmp_path: Path) -> None:
    build(tmp_path)  # 96 pixels of a class in each image, 6 on the map, times 0.625, the middle of the scales
    data = opened(tmp_path)
    chosen, _ = own_folder.settle(replace(configs.load("folder"), data=data_of(tmp_path)), data, [])
    assert chosen.contrast.min_pixels == 3
    assert chosen.schedule.batch == 2


@pytest.mark.parametrize(
    ("files", "source"),
    [
        (["images/train/0001TP_006690.jpg", "labels/train/x.png"], "camvid"),
        (["train/0006R0_f00930.png", "trainannot/x.png"], "camvid"),
        (["train/0006R0_f00930.png", "train_labels/x.png"], "folder"),
        (["images/train/a.jpg", "labels/train/a.png"], "folder"),
        (["images/train/0001TP_1.jpg", "labels/train/a.png", "dataset.toml"], "folder"),
        (["images/train/0001TP_1.jpg", "labels/train/a.png", "class_dict.csv"], "folder"),
        (["nothing"], "folder"),
    ],
)
def test_camvid_is_known_by_its_images(files: list[str], source: str, tmp_path: Path) -> None:
    for path in (tmp_path / file for file in files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert own_folder.source_of(str(tmp_path)) == source


@pytest.mark.parametrize(
    ("name", "run"), [("My photos (2)", "My-photos-2"), ("ccp", "ccp"), ("straße", "straße"), ("...", "folder")]
)
def test_names_of_runs(name: str, run: str, tmp_path: Path) -> None:
    assert own_folder.name_of(str(tmp_path / name) if name != "..." else "/") == run


def test_a_description_that_is_wrong_is_one_line_before_the_work(tmp_path: Path, capsys: Any) -> None:
    pictures(tmp_path, 4)
    describe(tmp_path, "trian = 1")
    assert cli.main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "trian: unknown key (given 1)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_inspect_shows_what_train_would_do(run: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "found.json"
    assert cli.main(arguments("inspect", "--data", str(run / "My photos"), "--json", str(file))) == 0
    tree, config = json.loads(file.read_text()), json.loads((run / "runs" / "My-photos" / "config.json").read_text())
    assert tree["classes"] == CLASSES
    assert tree["config"]["contrast"] == config["contrast"]
    assert tree["config"]["data"]["augmentation"] == config["data"]["augmentation"]
    assert "labels are colours; 3 classes, of class_dict.csv" in capsys.readouterr().out


def test_inspect_counts_what_is_wrong(tmp_path: Path, capsys: Any) -> None:
    pictures(tmp_path, 6, np.array([0, 1, 2, 77], np.uint8))
    describe(tmp_path, 'classes = ["a", "b", "c"]')
    (tmp_path / "masks" / "00.png").unlink()
    assert cli.main(arguments("inspect", "--data", str(tmp_path))) == 1
    out = capsys.readouterr().out
    assert "no partner: 1" in out
    assert "unknown ids: " in out


def test_a_model_does_not_tell_where_its_pictures_lay(run: Path) -> None:
    trained = load_trained(run / "runs" / "My-photos" / "ce")
    described = Folder(train=Pairs(images=str(run), labels="b"), val=Pairs(folder="c"), label_kind="ids")
    data = replace(trained.config.data, root=str(run), folder=described)
    kept = content(replace(trained, config=replace(trained.config, data=data)))["config"]["data"]
    assert str(run) not in json.dumps(kept)
    assert (kept["folder"]["train"], kept["folder"]["val"]["folder"], kept["folder"]["label_kind"]) == (
        None,
        "c",
        "ids",
    )
