"""``fastpixcon export``: a trained network as a smaller file, or as a plain state dict."""

import argparse
from pathlib import Path

from fastpixcon.cli.options import Verbs, add_model, add_overwrite, add_verb, model_files, open_models

_EXAMPLES = """\
  fastpixcon export runs/camvid/ce+contrast --half --out lite0.pt
  fastpixcon export runs/camvid/ce+contrast --plain --out weights.pt      for torch.load and load_state_dict"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "export",
        _run,
        "a trained network as one file, also without its projection head",
        "Write a network as one file that the other verbs take, or as the bare weights without the projection head.",
        _EXAMPLES,
    )
    add_model(parser, several=False)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)
    add_overwrite(parser)
    parser.add_argument("--half", action="store_true", help="filters and matrices in float16, half the size")
    parser.add_argument("--plain", action="store_true", help="the weights alone, a state dict without the head")


def _run(options: argparse.Namespace) -> int:
    from fastpixcon.training.writing import Outputs

    files = Outputs("--out", options.overwrite, model_files([options.model]))
    files.claim(options.out)
    import torch

    from fastpixcon.training.trained import content, stored

    (trained,) = open_models([options.model])
    dtype = torch.float16 if options.half else None
    state = stored(trained.model.plain_state_dict(), dtype) if options.plain else content(trained, dtype)
    files.write(options.out, lambda file: torch.save(state, file))
    print(f"  {options.out} ({options.out.stat().st_size / 2**20:.1f} MiB)")
    return 0
