"""The command line: ``fastpixcon train``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastpixcon.training.config import Config

_EXAMPLES = """\
examples:
  fastpixcon train                                   the embedded digits scenes, about five minutes on two cores
  fastpixcon train --data ../camvid                  CamVid: images/{train,val}/*.jpg, labels/{train,val}/*.png
  fastpixcon train --set schedule.epochs=2 --set contrast.weight=0.2
  fastpixcon train --config mine.toml --out runs/mine --seed 3
  fastpixcon train --resume                          the last run that Ctrl-C stopped, bit for bit
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 2 after a user's mistake, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    from fastpixcon.training import TrainingError, require_extra

    try:
        require_extra()
        return _train(options)
    except TrainingError as error:
        print(f"fastpixcon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastpixcon: interrupted; what the run directory holds is whole", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastpixcon", description="Pixel-wise supervised contrastive learning.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser(
        "train",
        help="train with and without pixel contrast and compare",
        description="Train a segmentation network twice, with cross-entropy and with cross-entropy plus pixel "
        "contrast, same seed and schedule; then print a table and draw figures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "--config", metavar="NAME|FILE", help="digits (default), camvid (default with --data), a TOML file"
    )
    train.add_argument("--data", metavar="DIR", help="folder of the data set (data.root)")
    train.add_argument("--out", metavar="DIR", type=Path, help="run directory, default runs/NAME; numbered if taken")
    train.add_argument("--resume", action="store_true", help="continue the last run in --out, bit for bit")
    train.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a value of the config")
    train.add_argument("--seed", type=int, metavar="N", help="seed of weights, order and augmentation")
    return parser


def _train(options: argparse.Namespace) -> int:
    from rich.console import Console

    from fastpixcon.training import config as configs
    from fastpixcon.training import job, rundir
    from fastpixcon.training.interrupt import Interrupted

    overrides = list(options.set)
    if options.data is not None:
        overrides.append(f"data.root={json.dumps(options.data)}")
    if options.seed is not None:
        overrides.append(f"seed={options.seed}")
    config = configs.load(options.config or ("camvid" if options.data else "digits"), overrides)
    out = options.out or Path("runs") / config.name
    console = Console()
    if options.resume:
        folder = rundir.latest(out)
        config, data = job.prepare(_resumed(rundir.read_config(folder), config, options))
    else:
        config, data = job.prepare(config)
        folder = rundir.create(out)
        if folder != out:
            console.print(f"{out} is taken (--resume continues it); this run goes to {folder}")
    try:
        job.run(config, data, folder, console)
    except Interrupted:
        console.print(f"Stopped. Continue with: fastpixcon train --resume --out {folder}", soft_wrap=True)
        return 130
    return 0


def _resumed(stored: "Config", given: "Config", options: argparse.Namespace) -> "Config":
    """The stored config; what the command line names must agree with it, except where the data lie."""
    from fastpixcon.training import rundir

    if options.config or options.set or options.seed is not None:
        automatic = {key: getattr(stored, key) for key in ("device", "precision") if getattr(given, key) == "auto"}
        rundir.check_unchanged(stored, replace(given, **automatic))
    if options.data is not None:
        return replace(stored, data=replace(stored.data, root=options.data))
    return stored


if __name__ == "__main__":
    sys.exit(main())
