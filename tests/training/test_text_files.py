"""Lists, configs and results in any encoding, and names that are in none, whatever the locale."""

import ast
import codecs
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from data_layouts import LAYOUTS, SPLIT, Built

from fastpixcon import cli
from fastpixcon.training import TrainingError, config, rundir, seeds
from fastpixcon.training.config import shipped
from fastpixcon.training.data import open_dataset
from fastpixcon.training.text import as_unicode, read_text

ROOT = Path(__file__).resolve().parents[2]
LIST = "ImageSets/SegmentationContext/train.txt"
NAMES = ["straße", "夜道"]


def with_names(root: Path) -> Built:
    """A data set whose first images have names beyond ASCII."""
    built = LAYOUTS["pascal_context_59"].build(root)
    for pair, name in zip(built.pairs, NAMES, strict=False):
        for path in pair:
            path.rename(path.with_name(f"{name}{path.suffix}"))
    (root / LIST).write_bytes("".join(f"{name}\n" for name in NAMES).encode())
    return built


# What is said of each encoding, the same in every file

OTHERS = {
    "UTF-16": ("utf-16", "got text in UTF-16, want {what} in UTF-8"),
    "UTF-16, big end first": ("utf-16-be", "has zero bytes in it, as UTF-16 does, want {what} in UTF-8"),
    "UTF-32": ("utf-32", "got text in UTF-32, want {what} in UTF-8"),
    "Latin-1": ("latin-1", "not UTF-8: byte 0xdf in line 2, want {what} in UTF-8"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_encodings_are_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    encoding, message = OTHERS[name]
    built = with_names(tmp_path)
    (tmp_path / LIST).write_bytes("2008_1\nstraße\n".encode(encoding))
    with pytest.raises(TrainingError, match=re.escape(message.format(what="a list of names, one a line"))):
        open_dataset(built.data())
    mine = tmp_path / "mine.toml"
    mine.write_bytes('extends = "digits"\nname = "straße"\n'.encode(encoding))
    assert cli.main(["config", str(mine)]) == 2
    assert capsys.readouterr().err == f"fastpixcon: {mine}: {message.format(what='a TOML file')}\n"
    run = tmp_path / "run"
    run.mkdir()
    for file, read, what in (
        (rundir.CONFIG_FILE, rundir.read_config, "the config of a run"),
        ("results.json", seeds.read, "the results of a run"),
    ):
        (run / file).write_bytes('{"a":\n"straße"}'.encode(encoding))
        with pytest.raises(TrainingError) as error:
            read(run)
        assert str(error.value) == f"{run / file}: {message.format(what=what)}"


def test_a_byte_order_mark_is_no_part_of_the_text(finished_run: Path, tmp_path: Path) -> None:
    built = with_names(tmp_path)
    path = tmp_path / LIST
    path.write_bytes(codecs.BOM_UTF8 + "\r\n".join(NAMES).encode())
    assert len(open_dataset(built.data()).train) == SPLIT
    mine = tmp_path / "mine.toml"
    mine.write_bytes(codecs.BOM_UTF8 + shipped()["digits"].encode())
    assert config.load(str(mine)) == config.load("digits")
    run = tmp_path / "run"
    run.mkdir()
    for name in (rundir.CONFIG_FILE, "results.json"):
        (run / name).write_bytes(codecs.BOM_UTF8 + (finished_run / name).read_bytes())
    assert rundir.read_config(run) == rundir.read_config(finished_run)
    assert seeds.read(run) == seeds.read(finished_run)


def test_text_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(TrainingError, match=f"^{re.escape(str(path))}: cannot be read: {why}.*; want a poem$"):
            read_text(path, "a poem")


def test_json_and_toml_of_any_depth(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "results.json").write_text(deep)
    with pytest.raises(TrainingError, match=r"results\.json: no JSON, want the results of a run"):
        seeds.read(tmp_path)
    mine = tmp_path / "mine.toml"
    mine.write_text(f"x = {deep}")
    with pytest.raises(TrainingError, match=r"mine\.toml: not TOML"):
        config.load(str(mine))


@pytest.mark.parametrize(
    "change",
    [
        lambda results: results | {"arms": []},
        lambda results: results | {"arms": {}},
        lambda results: results | {"arms": {"ce": 1}},
        lambda results: results | {"arms": {"ce": {"iou": [1]}}},
        lambda results: results | {"arms": {"ce": {"miou": None}}},
        lambda results: results | {"config": 5},
        lambda results: results | {"config": {"name": "x"}},
    ],
)
def test_results_of_another_shape_are_named(finished_run: Path, tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    results = json.loads((finished_run / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(change(results)))
    assert cli.main(["table", str(tmp_path)]) == 2
    with pytest.raises(TrainingError, match=re.escape(str(tmp_path / "results.json"))):
        seeds.read(tmp_path)


# Locales and names

LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "UTF-8": {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"},
}


IN_A_LOCALE = """
import json, os, sys
from fastpixcon import cli
from fastpixcon.training import config
from fastpixcon.training.data import open_dataset

root, *commands = (os.fsencode(argument) for argument in sys.argv[1:])
overrides = ["data.name='pascal_context_59'", "data.root='" + os.fsdecode(root) + "'"]
data = open_dataset(config.load("camvid", overrides).data)
print(len(data.train), data.train[0][0].shape[0], flush=True)
for command in commands:
    status = cli.main([os.fsdecode(part) for part in command.split(b"|")])
    print(f"status {status}", file=sys.stderr, flush=True)
"""
COMMANDS = {  # what is printed of each, and what the last line says; names that are not UTF-8, and one that is
    b"predict|{run}/ce|{here}/stra\xdfe.png|--out|{here}/out": "stra\\udcdfe.png: cannot be read: No such file",
    b"eval|{run}/ce|--data|{here}/stra\xdfe": "--data: got '{here}/stra\\udcdfe', which is not UTF-8",
    b"train|--data|{here}/stra\xdfe": "--data: got '{here}/stra\\udcdfe', which is not UTF-8",
    b"train|--set|data.root=stra\xdfe": "--set: got 'data.root=stra\\udcdfe', which is not UTF-8",
    b"train|--config|{here}/stra\xdfe": "stra\\udcdfe', want a TOML file",
    b"eval|{here}/stra\xdfe": "stra\\udcdfe', want a file",
    b"table|{here}/stra\xdfe": "stra\\udcdfe: no such file",
    "train|--config|{here}/größe.toml|--data|{here}/Köln 📷/JPEGImages".encode(): "no such folder, want files NAME.jpg",
}


@pytest.mark.parametrize("locale", LOCALES)
def test_names_in_any_encoding_in_every_locale(finished_run: Path, tmp_path: Path, locale: str) -> None:
    """Lists are UTF-8, folders beyond ASCII are found, and what can't be is an error in one line."""
    root = tmp_path / "Köln 📷"
    with_names(root)
    (tmp_path / "größe.toml").write_bytes('# ein Maß\nextends = "camvid"\n'.encode())
    places = ((b"{here}", os.fsencode(tmp_path)), (b"{run}", os.fsencode(finished_run)))
    commands = []
    for command in COMMANDS:
        for name, path in places:
            command = command.replace(name, path)
        commands.append(command)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONIOENCODING"))}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_LOCALE, os.fsencode(root), *commands],
        capture_output=True,
        env=environment | LOCALES[locale] | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    errors = done.stderr.decode()
    assert done.stdout.decode() == f"{SPLIT} 3\n", errors
    lines = errors.splitlines()
    assert len(lines) == 2 * len(COMMANDS), errors
    for part, line, status in zip(COMMANDS.values(), lines[::2], lines[1::2], strict=True):
        assert line.startswith("fastpixcon: "), errors
        assert part.replace("{here}", str(tmp_path)) in line
        assert status == "status 2"


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config", "{long}"],
        ["train", "--data", "{long}"],
        ["train", "--out", "{long}"],
        ["train", "--resume", "--out", "{long}"],
        ["train", "--set", "model.checkpoint='{long}'"],
        ["eval", "{long}"],
        ["eval", "{run}/ce", "--data", "{long}"],
        ["predict", "{run}/ce", "{long}.png", "--out", "{here}/out"],
        ["export", "{long}", "--out", "{here}/small.pt"],
        ["table", "{long}"],
    ],
)
def test_names_that_are_too_long(
    finished_run: Path, tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The system refuses even to look for them."""
    long = tmp_path / ("x" * 300)
    assert cli.main([part.format(long=long, run=finished_run, here=tmp_path) for part in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("fastpixcon: ")
    assert message.count("\n") == 1
    assert "x" * 300 in message


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    for name, layout in LAYOUTS.items():
        data = layout.build(tmp_path / name).data()
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", refuse)
            with pytest.raises(TrainingError, match=r": cannot be read: Permission denied$"):
                open_dataset(data)


def test_as_unicode() -> None:
    assert as_unicode("straße", "--data") == "straße"
    with pytest.raises(TrainingError, match=r"^--data: got 'x\\udcdf', which is not UTF-8"):
        as_unicode(os.fsdecode(b"x\xdf"), "--data")


def unspecified(path: Path) -> list[str]:
    """Calls that read or write text in the encoding of the locale."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("read_text", "write_text"):
            is_ours = ast.unparse(node.func) in ("read_text", "text.read_text", "write_text", "writing.write_text")
            found += [] if is_ours else [f"{path.name}:{node.lineno}"]
        elif name == "open" and isinstance(node.func, ast.Name | ast.Attribute):
            of = ast.unparse(node.func)
            values = [a.value for a in (*node.args, *(w.value for w in node.keywords)) if isinstance(a, ast.Constant)]
            binary = any(isinstance(value, str) and "b" in value and len(value) < 4 for value in values)
            if not binary and of not in ("os.open", "Image.open"):
                found.append(f"{path.name}:{node.lineno}")
    return found


@pytest.mark.parametrize("folder", ["fastpixcon", "bench", "docs"])
def test_no_file_is_opened_in_the_encoding_of_the_locale(folder: str) -> None:
    sources = sorted((ROOT / folder).rglob("*.py"))
    assert sources
    assert [line for path in sources for line in unspecified(path)] == []


def test_the_rule_notices(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text('p.read_text()\np.open("w")\nopen(p)\np.open("rb")\nread_text(p, "x")\np.write_text(t)\n')
    assert unspecified(path) == ["x.py:1", "x.py:2", "x.py:3", "x.py:6"]
