"""The command line: ``fastpixcon train``, ``fastpixcon plan``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastpixcon.plan import DEVICES, ITEM, plan, table, with_rates

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
    if options.verb == "plan":
        return _plan(options)
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
    planned = verbs.add_parser(
        "plan",
        help="memory, traffic and predicted time of contrast across GPUs",
        description="Memory, FLOP, bytes sent and predicted time of one rank and step, for the eager matrix, gather and"
        " ring. Counts follow from the code; times are predictions from published peak rates and assumed efficiencies.",
    )
    planned.add_argument("--anchors", type=_count, required=True, metavar="N", help="over all GPUs, 65536 or 1e6")
    planned.add_argument("--dim", type=_count, default=256, metavar="D", help="features, default 256")
    planned.add_argument("--memory-bank", type=_count, default=0, metavar="M", help="rows of the bank, default 0")
    planned.add_argument("--gpus", type=_count, default=1, metavar="R", help="default 1")
    planned.add_argument("--device", choices=list(DEVICES), default="h100", help="default h100")
    planned.add_argument("--dtype", choices=list(ITEM), default="bf16", help="of the rows, default bf16")
    planned.add_argument("--tflops", type=_rate, help="peak of products, instead of the published one")
    planned.add_argument("--gbs", type=_rate, help="peak of memory in GB/s, instead of the published one")
    planned.add_argument("--link-gbs", type=_rate, help="peak of a link in GB/s, instead of the published one")
    return parser


def _count(text: str) -> int:
    value = float(text)
    if value != int(value) or value < 0:
        raise argparse.ArgumentTypeError(f"got {text}, want a whole number")
    return int(value)


def _rate(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"got {text}, want a number > 0")
    return value


def _plan(options: argparse.Namespace) -> int:
    for name in ("anchors", "dim", "gpus"):
        if getattr(options, name) == 0:
            print(f"fastpixcon: --{name}: got 0, want a whole number > 0", file=sys.stderr)
            return 2
    device = with_rates(options.device, options.tflops, options.gbs, options.link_gbs)
    plans = plan(
        options.anchors,
        options.dim,
        memory_bank=options.memory_bank,
        gpus=options.gpus,
        device=device,
        dtype=options.dtype,
    )
    head, *rows = table(plans)
    title = (
        f"{options.anchors:,} anchors of {options.dim} features, {options.dtype}, on {options.gpus} x {options.device}:"
        " one rank, one step"
    )
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title)
        for row in (head, *rows):
            print(f"{row[0]:<40}" + "".join(f"{cell:>16}" for cell in row[1:]))
        return 0
    printed = Table(*head, title=title)
    for row in rows:
        printed.add_row(*row)
    Console().print(printed)
    return 0


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
