"""``fastpixcon eval``: how right trained networks are."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fastpixcon.cli.options import (
    Verbs,
    add_data,
    add_model,
    add_overwrite,
    add_verb,
    check_used,
    model_files,
    open_data,
    open_models,
    rate,
)
from fastpixcon.training import TrainingError

if TYPE_CHECKING:
    from fastpixcon.training.data import DataSet

_EXAMPLES = """\
  fastpixcon eval runs/camvid/ce+contrast --data ../camvid
  fastpixcon eval runs/camvid/ce runs/camvid/ce+contrast --data ../camvid --scales 0.75 1 1.25 --flip
  fastpixcon eval camvid_lite0_contrast --data ../camvid --split test --json scores.json"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "eval",
        _run,
        "mIoU of trained networks on validation images, or others",
        "Evaluate networks on the validation images, or others, of the data set that they were trained on.",
        _EXAMPLES,
    )
    add_model(parser, several=True)
    add_data(parser)
    parser.add_argument("--split", choices=["val", "test", "train"], default="val", help="images, default val")
    parser.add_argument("--scales", type=rate, nargs="+", metavar="S", help="sizes of the images, default 1")
    parser.add_argument("--flip", action="store_true", help="mean of each image and its mirror image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores and confusions there too")
    add_overwrite(parser)


def _run(options: argparse.Namespace) -> int:
    from fastpixcon.training.writing import Outputs

    twice = {name for name in options.model if options.model.count(name) > 1}
    if twice:
        raise TrainingError(f"MODEL: got {', '.join(sorted(twice))} twice, want each once")
    read = [*model_files(options.model), *([Path(options.data)] if options.data else [])]
    files = Outputs("--json", options.overwrite, read)
    if options.json:
        files.claim(options.json)
    from dataclasses import replace

    import torch
    from rich.markup import escape
    from rich.table import Table

    from fastpixcon.training import rundir
    from fastpixcon.training.console import Ticks, make_console, say
    from fastpixcon.training.evaluation import class_groups, counted, evaluate, predict

    console, scores = make_console(), {}
    networks = open_models(options.model)
    opened = [open_data(trained, options) for trained in networks]
    opened = [(config, _with_split(data, options.split, config.data.name)) for config, data in opened]
    check_used(opened)
    for name, trained, (config, data) in zip(options.model, networks, opened, strict=True):
        trained_with = trained.config.evaluation
        how = replace(trained_with, scales=tuple(options.scales or trained_with.scales), flip=options.flip)
        device = torch.device(config.device)
        with Ticks(console, name, len(data.val)) as ticks:
            batches = predict(trained.model.to(device), data, replace(config, evaluation=how), device)
            groups = class_groups(how, data.classes)
            scores[name] = evaluate(counted(batches, ticks.count), len(data.classes), device, groups=groups)
    table = Table(title=f"{options.split}, scales {list(how.scales)}{', flip' if how.flip else ''}")
    table.add_column()
    for name in scores:
        table.add_column(escape(name), justify="right", overflow="fold")
    found = [score for score in scores.values() if score is not None]
    table.add_row("mIoU %", *(f"{100 * score['miou']:.2f}" for score in found), style="bold")
    for group in dict.fromkeys(group for score in found for group in score["groups"]):
        mious = [score["groups"].get(group) for score in found]
        table.add_row(f"mIoU % {group}", *("-" if miou is None else f"{100 * miou:.2f}" for miou in mious))
    table.add_row("accuracy %", *(f"{100 * score['accuracy']:.2f}" for score in found))
    table.add_section()
    for k, label in enumerate(networks[0].classes):
        ious = [score["iou"][k] for score in found]
        table.add_row(f"IoU % {label}", *("-" if iou is None else f"{100 * iou:.2f}" for iou in ious))
    try:
        if options.json:
            more = {"classes": networks[0].classes, "split": options.split}
            tree = {name: {**score, **more} for name, score in scores.items() if score}
            text = rundir.json_text(tree).encode()
            files.write(options.json, lambda file: file.write(text))
    finally:
        console.print(table)  # also where the file could not be written
        for name, score in scores.items():
            if score and score["not_finite"]:
                say(console, f"{name}: {score['not_finite']} pixels have logits that are not finite, so no class")
    if options.json:
        say(console, f"  {options.json}")
    return 0


def _with_split(data: "DataSet", split: str, name: str) -> "DataSet":
    """The data set with a split in the place of val."""
    from dataclasses import replace

    if split == "test" and data.test is None:
        raise TrainingError(f"--split: got 'test', but {name} has none: {data.no_test}; want val or train")
    chosen = {"val": data.val, "train": data.train, "test": data.test}[split]
    return replace(data, val=chosen or data.val)
