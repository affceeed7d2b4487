"""``fastpixcon tsne``: pictures of pixel embeddings."""

import argparse
from pathlib import Path

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
    whole,
)
from fastpixcon.training import TrainingError

_EXAMPLES = """\
  fastpixcon tsne runs/camvid/ce runs/camvid/ce+contrast --data ../camvid        before and after
  fastpixcon tsne camvid_lite0_contrast --data ../camvid --pixels 300 --out tsne.png"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "tsne",
        _run,
        "t-SNE of the pixel embeddings of trained networks, side by side",
        "Draw validation pixels by t-SNE of their embeddings, a panel a network, coloured by label.",
        _EXAMPLES,
    )
    add_model(parser, several=True)
    add_data(parser)
    parser.add_argument("--pixels", type=whole, metavar="N", help="of a class, default as in the network's config")
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("tsne.png"), help="default tsne.png")
    add_overwrite(parser)


def _run(options: argparse.Namespace) -> int:
    from fastpixcon.training.writing import Outputs

    read = [*model_files(options.model), *([Path(options.data)] if options.data else [])]
    files = Outputs("--out", options.overwrite, read)
    files.claim(options.out)
    from dataclasses import replace

    import torch

    from fastpixcon.training.console import Ticks, make_console, say
    from fastpixcon.training.figures import Shown, attempt, tsne

    networks = open_models(options.model)
    config, data = open_data(networks[0], options)
    check_used([(config, data)])
    if options.pixels:
        config = replace(config, figures=replace(config.figures, tsne_pixels=options.pixels))
    device = torch.device(config.device)
    shown = [
        Shown(f"{name}: {trained.arm}", trained.model.to(device), trained.contrasts)
        for name, trained in zip(options.model, networks, strict=True)
    ]
    console = make_console()
    with Ticks(console, "t-SNE", len(shown) * len(data.val)) as ticks:
        failed = attempt(lambda: tsne(config, data, shown, device, ticks.count), options.out, files.write)
    if failed:
        raise TrainingError(failed)
    say(console, f"  {options.out}")
    return 0
