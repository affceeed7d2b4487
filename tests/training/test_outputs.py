"""What verbs write, and where they can't: docs/faults.md and docs/command-line.md promise it."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.forked import forked
from PIL import Image
from tiny_run import NO_FIGURES, tiny_arguments

from fastpixcon import cli
from fastpixcon.training import checkpoint, figures
from fastpixcon.training.figures import embeddings

COMMAND = [sys.executable, "-m", "fastpixcon"]
COMMAND_FORKED = "from fastpixcon.cli import command; command()"


def command(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE} | options
    return subprocess.run(
        [*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env=environment, timeout=300, check=False, **options
    )


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), value, dtype=np.uint8)).save(path)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def model(finished_run: Path) -> str:
    return str(finished_run / "ce+contrast")


def refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "pictures", [("a/street.png", "b/street.png"), ("street.png", "street.jpg"), ("Street.png", "street.png")]
)
def test_images_of_one_name_are_refused_before_the_first(
    pictures: tuple[str, str], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(picture(tmp_path / name)) for name in pictures]
    out = tmp_path / "out"
    refused(["predict", model, *files, "--out", str(out)], f"the outputs of {files[0]} and {files[1]} would", capsys)
    assert not out.exists()


def test_predict_replaces_nothing_unasked(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, mine = picture(tmp_path / "a.png"), tmp_path / "out" / "a_classes.png"
    mine.parent.mkdir()
    mine.write_text("mine")
    arguments = ["predict", model, str(image), "--out", str(tmp_path / "out")]
    refused(arguments, f"{mine} is there; want another name, or --overwrite", capsys)
    assert content(tmp_path / "out") == {"a_classes.png": b"mine"}
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert Image.open(mine).size[0] > 100


@pytest.mark.parametrize("through", ["name", "link", "folder"])
def test_predict_never_replaces_what_it_reads(
    through: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--out is the folder of the images, or a link to it; or a link to an image lies in it."""
    folder, out = tmp_path / "in", tmp_path / "out"
    images = [picture(folder / "a.png"), picture(folder / "a_ids.png", 5)]
    if through == "name":
        out = folder
    elif through == "folder":
        out.symlink_to(folder)
    else:
        out.mkdir()
        (out / "a_ids.png").symlink_to(images[1])
    before = content(folder)
    arguments = ["predict", model, *map(str, images), "--out", str(out), "--overwrite"]
    refused(arguments, f"{out / 'a_ids.png'} would replace the input {images[1]}", capsys)
    assert content(folder) == before


def verbs(model: str, image: Path) -> dict[str, tuple[list[str], str]]:
    """Without the output; its option."""
    return {
        "eval": (["eval", model], "--json"),
        "tsne": (["tsne", model], "--out"),
        "export": (["export", model], "--out"),
    }


@pytest.mark.parametrize("verb", ["eval", "tsne", "export"])
@pytest.mark.parametrize("what", ["there", "pipe", "null", "folder", "below a file", "circle", "model"])
def test_outputs_are_checked_before_the_work(
    verb: str, what: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(checkpoint, "load", lambda path: pytest.fail("no work before"))
    out, arguments = tmp_path / "x", []
    if what == "there":
        out.write_text("mine")
        message = "is there; want another name, or --overwrite"
    elif what == "pipe":
        os.mkfifo(out)
        message = "is a pipe, want a file"
    elif what == "null":
        out, message = Path("/dev/null"), "is a device, want a file"
    elif what == "folder":
        out.mkdir()
        message = "is a folder, want a file"
    elif what == "below a file":
        out.touch()
        out, message = out / "y" / "z", "Not a directory"
    elif what == "circle":
        out.symlink_to("x")
        message = "links lead in a circle"
    else:
        out, arguments = Path(model) / "model.pt", ["--overwrite"]
        message = "would replace the input"
    words, option = verbs(model, tmp_path)[verb]
    refused([*words, option, str(out), *arguments], f"{option}: {out}", capsys)
    with pytest.raises(AssertionError):
        refused([*words, option, str(out), *arguments], "anything else", capsys)
    cli.main([*words, option, str(out), *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["eval", "tsne", "export"])
def test_links_are_followed_by_every_verb(verb: str, model: str, tmp_path: Path) -> None:
    """To a file that is there, with --overwrite, and to one that is not."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "there").write_text("old")
    for name in ("there", "new"):
        (tmp_path / name).symlink_to(f"store/{name}")
        words, option = verbs(model, tmp_path)[verb]
        assert cli.main([*words, option, str(tmp_path / name), "--overwrite"]) == 0
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "store" / name).stat().st_size > 100


def test_train_makes_the_folder_that_a_link_leads_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to("store/run")
    assert cli.main(tiny_arguments(tmp_path / "link", "arms=['ce']", "schedule.iterations=2")) == 0
    assert (tmp_path / "store" / "run" / "ce" / "model.pt").is_file()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    capsys.readouterr()
    faults = {
        "file": "want a folder",
        "pipe": "want a folder",
        "circle": "links lead in a circle",
        "file/x": "Not a directory",
        "x" * 300: "File name too long",
    }
    for name, message in faults.items():
        refused(["train", "--config", "nothing", "--out", str(tmp_path / name)], message, capsys)  # before all else


def test_a_model_twice_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores are kept by name."""
    refused(["eval", model, model], f"MODEL: got {model} twice, want each once", capsys)


# ---- standard output


@pytest.mark.parametrize(
    "arguments", [("config",), ("--help",), ("plan", "--anchors", "9"), ("zoo",), ("bench", "list")]
)
def test_a_full_standard_output_is_a_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        run = command if arguments == ("config",) else partial(forked, COMMAND_FORKED)
        done = run(*arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "fastpixcon: standard output can't be written: No space left on device\n"


def test_a_closed_standard_output_is_a_line() -> None:
    done = command("config", preexec_fn=lambda: os.close(1))
    assert done.returncode == 2
    assert done.stderr.startswith("fastpixcon: standard output is closed")


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    done = command("config", stdout=write)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


def test_training_whose_output_is_full_leaves_a_checkpoint(tmp_path: Path) -> None:
    """The first line fits, the second does not."""
    run, log = tmp_path / "run", tmp_path / "log"
    code = (
        "import sys; from fastpixcon import cli; from fastpixcon.training import job, progress\n"
        "say = progress.console.say\n"
        "def full(console, text):\n"
        "    sys.stdout.flush(); import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); say(console, text)\n"
        "progress.console.say = full\n"
        "cli.command()"
    )
    with log.open("w") as file:
        done = forked(code, *tiny_arguments(run, "arms=['ce']"), stdout=file)
    assert done.returncode == 2
    assert done.stderr == "fastpixcon: standard output can't be written: No space left on device\n"
    assert checkpoint.load(run / "ce" / "checkpoint.pt")["done"] == 5  # the evaluation's line was lost
    assert "16 images to train" in log.read_text()


def test_names_that_are_no_text_are_printed(model: str, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png").rename(tmp_path / "\udcff[red].png")
    done = command("predict", model, os.fsencode(image), "--out", str(tmp_path / "out"))  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    assert "\\udcff[red]_ids.png" in done.stdout


# ---- pictures that can't be drawn


@pytest.mark.usefixtures("figures_are_drawn")
def test_a_picture_that_can_not_be_drawn_is_a_line_after_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = embeddings._pixel_rows

    def spoilt(*arguments: Any) -> Any:
        units, labels = rows(*arguments)
        return units * np.nan, labels

    monkeypatch.setattr(embeddings, "_pixel_rows", spoilt)
    run = tmp_path / "run"
    assert cli.main(tiny_arguments(run, "arms=['ce']", "schedule.iterations=2")) == 0
    out = capsys.readouterr().out
    line = f"{run / 'figures' / 'tsne.png'}: not drawn: ValueError: Input X contains NaN."
    assert line in out.splitlines()
    assert out.index("mIoU %") < out.index("curves.png") < out.index(line)
    drawn = {path.name for path in (run / "figures").iterdir()}
    assert drawn == {"curves.png", "predictions.png", "similarity.png", "confusion.png"}


@pytest.mark.usefixtures("figures_are_drawn")
def test_pictures_that_can_not_be_drawn_at_all_are_a_line(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(figures, "draw_all")  # as where a library can't be imported
    assert cli.main(["train", "--resume", "--out", str(finished_run)]) == 0
    out = capsys.readouterr().out
    assert "mIoU %" in out
    assert f"{finished_run / 'figures'}: not drawn: ImportError: cannot import name 'draw_all'" in out


def test_tsne_that_can_not_be_drawn_is_a_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sklearn.manifold.TSNE", lambda **_: 1 / 0)
    out = tmp_path / "x.png"
    refused(["tsne", model, "--out", str(out)], f"{out}: not drawn: ZeroDivisionError: division by zero", capsys)
    assert not out.exists()


def test_predict_goes_on_without_a_picture(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures.own_images, "segmented", lambda *_: 1 / 0)
    images = [str(picture(tmp_path / name)) for name in ("a.png", "b.png")]
    assert cli.main(["predict", model, *images, "--out", str(tmp_path / "out")]) == 1
    assert content(tmp_path / "out").keys() == {"a_ids.png", "b_ids.png"}
    assert capsys.readouterr().err.count("not drawn: ZeroDivisionError") == 2


# ---- what predict and eval give


def test_predict_writes_embeddings(model: str, tmp_path: Path) -> None:
    """Those of the contrast, in eval mode, of the part of the map that has to do with the image."""
    rng = np.random.default_rng(0)
    image = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 256, (70, 96, 3), dtype=np.uint8)).save(image)
    out = tmp_path / "out"
    assert cli.main(["predict", model, str(image), "--embeddings", "--no-pictures", "--out", str(out)]) == 0
    assert content(out).keys() == {"a_ids.png", "a_embeddings.npy"}
    rows = np.load(out / "a_embeddings.npy")
    from fastpixcon.training.trained import load_trained

    network = load_trained(Path(model)).model.eval()
    padded = np.full((96, 96, 3), 0.5, dtype=np.float32)
    padded[:70] = np.array(Image.open(image), dtype=np.float32) / 255
    images = torch.from_numpy(padded).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(network.embed(images), dim=1)[0]
        trained = network.train()(images.expand(2, -1, -1, -1))["embeddings"]
    stride = 96 // wanted.shape[2]
    assert rows.dtype == np.float32
    assert rows.shape == (16, -(-70 // stride), 96 // stride)
    assert trained.shape[1:] == wanted.shape
    np.testing.assert_allclose(rows, wanted[:, : rows.shape[1]].numpy(), rtol=0, atol=1e-5)


def test_predict_writes_the_ids_of_a_data_set(model: str, tmp_path: Path) -> None:
    """Of Cityscapes labelIds; a network of eleven classes passes for one of nineteen here."""
    from fastpixcon.training.data.cityscapes import CITYSCAPES_IDS

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    state = checkpoint.load(folder / "model.pt")
    state["config"]["data"]["name"] = "cityscapes"
    checkpoint.save(folder / "model.pt", state)
    image = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(image)
    for ids in ("train", "dataset"):
        assert cli.main(["predict", str(folder), str(image), "--ids", ids, "--out", str(tmp_path / ids)]) == 0
    train, raw = (np.array(Image.open(tmp_path / ids / "a_ids.png")) for ids in ("train", "dataset"))
    assert np.array_equal(raw, np.array(CITYSCAPES_IDS)[train])
    assert not np.array_equal(raw, train)


def test_eval_of_another_split(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = str(finished_run / "ce"), tmp_path / "scores.json"
    assert cli.main(["eval", model, "--split", "train", "--json", str(file)]) == 0
    (score,) = json.loads(file.read_text()).values()
    assert score["split"] == "train"
    assert np.sum(score["confusion"]) == 16 * 64 * 64
    capsys.readouterr()
    refused(["eval", model, "--split", "test"], "--split: got 'test', but digits has none", capsys)


def test_a_log_has_a_line_every_so_often(tmp_path: Path) -> None:
    """And no control characters, even where FORCE_COLOR asks for them."""
    code = (
        "import json, sys; from fastpixcon import cli; from fastpixcon.training import console; "
        "console.LINE_EVERY = console.FIRST_LINE = 0; "
        "sys.exit(max(cli.main(verb) for verb in json.loads(sys.argv[1])))"
    )
    run = tmp_path / "run"
    verbs = [
        tiny_arguments(run, "arms=['ce']"),
        ["eval", str(run / "ce")],
        ["tsne", str(run / "ce"), "--out", str(tmp_path / "x.png")],
        ["predict", str(run / "ce"), str(picture(tmp_path / "a.png")), "--out", str(tmp_path)],
    ]
    done = forked(NO_FIGURES + code, json.dumps(verbs), FORCE_COLOR="1", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" iterations (") == 8
    for line in (
        "ce: 6 of 8 iterations (75 %)",
        " left, ",
        f"{run / 'ce'}: 4 of 4 images (100 %), 0 s left",
        "t-SNE: 4 of 4 images (100 %)",
        "predict: 1 of 1 images (100 %)",
    ):
        assert line in done.stdout
    assert not {"\r", "\x1b"} & set(done.stdout)
