"""``fastpixcon eval``: how right trained networks are."""

import argparse
from pathlib import Path

from fastpixcon.cli.options import Verbs, add_data, add_model, add_verb, open_data, open_models, rate, write_json

_EXAMPLES = """\
  fastpixcon eval runs/camvid/ce+contrast --data ../camvid
  fastpixcon eval runs/camvid/ce runs/camvid/ce+contrast --data ../camvid --scales 0.75 1 1.25 --flip
  fastpixcon eval camvid_lite0_contrast --data ../camvid --json scores.json"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "eval",
        _run,
        "mIoU of trained networks on validation images",
        "Evaluate networks on the validation images of the data set that they were trained on.",
        _EXAMPLES,
    )
    add_model(parser, several=True)
    add_data(parser)
    parser.add_argument("--scales", type=rate, nargs="+", metavar="S", help="sizes of the images, default 1")
    parser.add_argument("--flip", action="store_true", help="mean of each image and its mirror image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores and confusions there too")


def _run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    import torch
    from rich.console import Console
    from rich.table import Table

    from fastpixcon.training.config import Evaluation
    from fastpixcon.training.evaluation import evaluate, predict

    console, scores = Console(), {}
    networks = open_models(options.model)
    for name, trained in zip(options.model, networks, strict=True):
        config, data = open_data(trained, options)
        how = Evaluation(tuple(options.scales or trained.config.evaluation.scales), options.flip)
        device = torch.device(config.device)
        with console.status(f"{name}: {len(data.val)} images"):
            batches = predict(trained.model.to(device), data, replace(config, evaluation=how), device)
            scores[name] = evaluate(batches, len(data.classes), device)
    table = Table(title=f"scales {list(how.scales)}{', flip' if how.flip else ''}")
    table.add_column()
    for name in scores:
        table.add_column(name, justify="right")
    found = [score for score in scores.values() if score is not None]
    table.add_row("mIoU %", *(f"{100 * score['miou']:.2f}" for score in found), style="bold")
    table.add_row("accuracy %", *(f"{100 * score['accuracy']:.2f}" for score in found))
    table.add_section()
    for k, label in enumerate(networks[0].classes):
        ious = [score["iou"][k] for score in found]
        table.add_row(f"IoU % {label}", *("-" if iou is None else f"{100 * iou:.2f}" for iou in ious))
    console.print(table)
    if options.json:
        write_json(
            options.json, {name: {**score, "classes": networks[0].classes} for name, score in scores.items() if score}
        )
        console.print(f"  {options.json}", highlight=False, soft_wrap=True)
    return 0
