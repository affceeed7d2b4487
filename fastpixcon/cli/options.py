"""What verbs have in common."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastpixcon.training.text import as_unicode

if TYPE_CHECKING:
    from fastpixcon.training.config import Config
    from fastpixcon.training.data import DataSet
    from fastpixcon.training.trained import Trained

Verbs = Any  # argparse has no public name for it


def add_verb(
    verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int], text: str, more: str, examples: str,
    extra: bool = True,
) -> argparse.ArgumentParser:  # fmt: skip
    """``text``: of the list of verbs; ``more``: of the verb's own help; ``extra``: it needs the train extra."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=more,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, needs_extra=extra)
    return parser


def add_model(parser: argparse.ArgumentParser, several: bool) -> None:
    text = "model.pt of a run, the folder of its arm, or a name of the zoo (fastpixcon zoo)"
    parser.add_argument("model", metavar="MODEL", nargs="+" if several else None, help=text)


def add_config(parser: argparse.ArgumentParser) -> None:
    """What a training is made of: ``config_source`` and ``overrides`` read it."""
    parser.add_argument(
        "--config",
        metavar="NAME|FILE",
        help="digits (default), with --data camvid or folder by what is there, others of `fastpixcon config`, a file",
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the data set (data.root), or of your own pictures")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a value of the config")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of weights, order and augmentation")


def config_source(options: argparse.Namespace) -> str:
    """Name or file of the config."""
    if options.config or not options.data:
        return options.config or "digits"
    from fastpixcon.training.own_folder import SOURCE, source_of

    if any(text.strip().startswith("data.folder") for text in options.set):
        return SOURCE
    return source_of(as_unicode(options.data, "--data"))


def run_name(options: argparse.Namespace, source: str) -> list[str]:
    """``name=...`` of a run of a folder that comes without a config, before what --set says."""
    from fastpixcon.training.own_folder import SOURCE, name_of

    return [f"name={json.dumps(name_of(options.data))}"] if source == SOURCE and options.data else []


def overrides(options: argparse.Namespace) -> list[str]:
    """``key=value`` strings of --set, --data and --seed."""
    changes = list(options.set)
    if options.data is not None:
        root = json.dumps(as_unicode(options.data, "--data"), ensure_ascii=False)  # as TOML has strings, too
        changes.append(f"data.root={root}")
    if options.seed is not None:
        changes.append(f"seed={options.seed}")
    return changes


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DIR", help="folder of the data set; embedded data need none")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default auto")
    help_ = "processes that load images; default: as many as help"
    parser.add_argument("--workers", type=whole, metavar="N", help=help_)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="may replace files that are there; else an error")


def model_files(names: list[str]) -> list[Path]:
    """The files of models, as far as they are there."""
    from fastpixcon.training.trained import MODEL_FILE
    from fastpixcon.training.zoo import path_of

    paths = [path_of(name) for name in names]
    return [path / MODEL_FILE if os.path.isdir(path) else path for path in paths]


def open_models(names: list[str]) -> "list[Trained]":
    from fastpixcon.training.trained import load_trained
    from fastpixcon.training.zoo import path_of

    return [load_trained(path_of(name)) for name in names]


def open_data(trained: "Trained", options: argparse.Namespace) -> "tuple[Config, DataSet]":
    """The data set that a network was trained on, from --data; its classes must be the network's. Of a user's own
    folder the files are not checked: ``check_used`` does, those of the split that is used."""
    from dataclasses import replace

    from fastpixcon.training import TrainingError, job
    from fastpixcon.training.data import open_dataset

    device = job.pick_device(options.device)
    config = replace(
        trained.config,
        data=replace(trained.config.data, root=as_unicode(options.data or "", "--data"), workers=options.workers),
        device="cuda" if device.type == "cuda" else "cpu",
        precision=job.precision_of_trained(trained.config.precision, device),
    )
    data = open_dataset(config.data, check=config.data.name != "folder")
    if list(data.classes) != trained.classes:
        raise TrainingError(
            f"--data: got the classes {list(data.classes)}, want those of the network, {trained.classes}"
        )
    return config, data


def check_used(opened: "list[tuple[Config, DataSet]]") -> None:
    """Of folders of a user's own: tell how they were read, and raise what is wrong with the files to be evaluated."""
    from fastpixcon.training.console import make_console, say
    from fastpixcon.training.data.folder_files import FolderFiles

    for note in dict.fromkeys(note for _, data in opened for note in data.notes):
        say(make_console(), note)
    checked = []
    for config, data in opened:
        if isinstance(data.val, FolderFiles) and config.data not in checked:
            checked.append(config.data)
            data.val.check()


def whole(text: str) -> int:
    value = float(text)
    if value != int(value) or value < 0:
        raise argparse.ArgumentTypeError(f"got {text}, want a whole number")
    return int(value)


def rate(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"got {text}, want a number > 0")
    return value


def pixel(text: str) -> tuple[int, int]:
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, want X,Y in pixels") from None
    return x, y
