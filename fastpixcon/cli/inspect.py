"""``fastpixcon inspect``: what a data set is, before a minute is spent on training."""

import argparse
from pathlib import Path

from fastpixcon.cli.options import Verbs, add_config, add_overwrite, add_verb, config_source, overrides, run_name

_EXAMPLES = """\
  fastpixcon inspect --data ../camvid                CamVid by the config that train has for it
  fastpixcon inspect --data photographs              your own pictures and labels: docs/own-pictures.md
  fastpixcon inspect --data ../camvid --set contrast.min_pixels=5 --set data.augmentation.crop=480
  fastpixcon inspect --config cityscapes_hrnet_w48 --data /data/cityscapes --json cityscapes.json
  fastpixcon inspect --data ../camvid --figure camvid.png"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "inspect",
        _run,
        "what a data set is and what contrast would make of it, before training",
        "Read every label of a data set: classes, sizes, what is wrong with files. Then draw the crops of the first "
        "batches as training does and tell, class by class, what would take part in the contrast on the map of the "
        "network, and which settings let nine in ten segments of every class in. Needs no weights and no GPU.",
        _EXAMPLES,
    )
    add_config(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there too")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw pixels and what takes part there, a PNG")
    add_overwrite(parser)


def _run(options: argparse.Namespace) -> int:
    from fastpixcon.training import config as configs
    from fastpixcon.training.writing import Outputs

    source = config_source(options)
    read = [Path(source), *([Path(options.data)] if options.data else [])]
    files = Outputs("--json, --figure", options.overwrite, read)
    for path in (options.json, options.figure):
        if path:
            files.claim(path)
    changes = overrides(options)
    config = configs.load(source, [*run_name(options, source), *changes])

    from fastpixcon.cli.process import complain
    from fastpixcon.training import inspection, own_folder, rundir
    from fastpixcon.training.console import Ticks, make_console, say
    from fastpixcon.training.data import open_dataset

    console, status, chosen = make_console(), 0, tuple[str, ...]()
    by_folder = source == own_folder.SOURCE  # by what is there, as train does
    size = (0, 0) if by_folder else inspection.map_of(config)  # before the data are opened
    data = open_dataset(config.data, check=False)
    if by_folder:
        config, chosen = own_folder.settle(config, data, changes)
        size = inspection.map_of(config)
    for note in (*data.notes, *chosen):
        say(console, note)
    with Ticks(console, "inspect", sum(map(len, inspection.splits_of(data).values())), "labels") as ticks:
        tree = inspection.inspect(config, data, size, ticks.count)
    try:
        if options.json:
            text = rundir.json_text(tree).encode()
            files.write(options.json, lambda file: file.write(text))
    finally:
        for table in inspection.tables(tree):
            console.print(table)  # also where the file could not be written
        for line in inspection.words(tree):
            say(console, line)
    if options.json:
        say(console, f"  {options.json}")
    if options.figure:
        from fastpixcon.training.figures import attempt, inspected

        failed = attempt(lambda: inspected(tree), options.figure, files.write)
        if failed:
            complain(failed)
            status = 1
        else:
            say(console, f"  {options.figure}")
    return 1 if inspection.faulty(tree) else status
