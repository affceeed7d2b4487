"""``fastpixcon train``: the main job."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fastpixcon.cli.options import Verbs, add_config, add_verb, config_source, overrides, run_name

if TYPE_CHECKING:
    from fastpixcon.training.config import Config
    from fastpixcon.training.data import DataSet
    from fastpixcon.training.processes import Processes
    from fastpixcon.training.resuming import Resumed

_EXAMPLES = """\
  fastpixcon train                                   the embedded digits scenes, about five minutes on two cores
  fastpixcon train --data ../camvid                  CamVid: images/{train,val}/*.jpg, labels/{train,val}/*.png
  fastpixcon train --data photographs                your own pictures and labels: docs/own-pictures.md
  fastpixcon train --config cityscapes_hrnet_w48 --data /data/cityscapes
  fastpixcon train --set schedule.epochs=2 --set contrast.weight=0.2
  fastpixcon train --config mine.toml --out runs/mine --seed 3
  fastpixcon train --resume                          the last run that a signal stopped, bit for bit
  fastpixcon train --resume --set schedule.epochs=9  on to more epochs, all arms
  torchrun --nproc-per-node 2 -m fastpixcon train    two processes, the same batch"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "train",
        _run,
        "train with and without pixel contrast and compare",
        "Train a segmentation network once for every arm of the config, same seed and schedule: with cross-entropy, "
        "and with pixel contrast, memory and mining besides; then print a table and draw figures.",
        _EXAMPLES,
    )
    add_config(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="run directory, default runs/NAME; numbered if taken")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the last run in --out, bit for bit; what --set may change: docs/training.md",
    )


def _run(options: argparse.Namespace) -> int:
    from fastpixcon.training import config as configs
    from fastpixcon.training import job, processes, resuming, rundir
    from fastpixcon.training.own_folder import SOURCE

    if not options.resume and options.out:
        rundir.check(options.out)
    source, changes = config_source(options), overrides(options)
    named = [*run_name(options, source), *changes]
    resumed = None
    if options.resume:
        # Before the processes join, so that all of them have read it when the first one writes.
        folder = rundir.latest(options.out or Path("runs") / _name(source, named))
        resumed = resuming.resume(folder, options.config, changes, processes.count())
        config = resumed.config
    else:
        config = configs.load(source, named)
    together = processes.join(job.pick_device(config.device))
    try:
        return _train(options, config, together, resumed, changes if source == SOURCE and not resumed else None)
    finally:
        processes.leave()


def _name(source: str, changes: list[str]) -> str:
    """Of the run that a command line means, whose other values are those of that run."""
    from fastpixcon.training import config as configs

    return configs.load(source, [text for text in changes if text.partition("=")[0].strip() == "name"]).name


def _train(
    options: argparse.Namespace,
    config: "Config",
    together: "Processes",
    resumed: "Resumed | None" = None,
    changes: list[str] | None = None,
) -> int:
    """``changes``: of a config that the folder has its part in."""
    from fastpixcon.training import job, resuming, rundir
    from fastpixcon.training.console import make_console, say
    from fastpixcon.training.interrupt import Interrupted, Stopped, status_of

    console = make_console(quiet=not together.is_first)
    data, chosen = None, tuple[str, ...]()
    if changes is not None:
        config, data, chosen = _settled(config, changes)
    config, data = job.prepare(config, together, data)
    for note in (*data.notes, *chosen):
        say(console, note)
    if resumed:
        resumed = resuming.lengthen(resumed, config, len(data.train))
        config, folder = resumed.config, resumed.folder
    else:
        out = options.out or Path("runs") / config.name
        folder = together.from_first(rundir.create(out) if together.is_first else out)
        if folder != out:
            say(console, f"{out} is taken (--resume continues it); this run goes to {folder}")
    try:
        lost = job.run(config, data, folder, console, together, resumed)
    except (Interrupted, Stopped) as stop:
        say(console, f"Stopped. Continue with: fastpixcon train --resume --out {folder}")
        return status_of(stop)
    return 3 if lost else 0


def _settled(config: "Config", changes: list[str]) -> "tuple[Config, DataSet, tuple[str, ...]]":
    """A config with what the folder of the data decides, these data, and what it was, in lines."""
    from fastpixcon.training import own_folder
    from fastpixcon.training.data import open_dataset
    from fastpixcon.training.models import check_model_name

    check_model_name(config.model)  # before the data are read
    data = open_dataset(config.data)
    config, chosen = own_folder.settle(config, data, changes)
    return config, data, chosen
