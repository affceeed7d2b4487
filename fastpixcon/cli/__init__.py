"""The command line: ``fastpixcon VERB``, one module a verb."""

import argparse
import os
import sys
from collections.abc import Sequence

from fastpixcon.cli import bench, config, evaluate, export, plan, predict, table, train, tsne, zoo
from fastpixcon.training import TrainingError, require_extra

_VERBS = (train, evaluate, predict, tsne, table, export, zoo, config, plan, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 2 after a user's mistake, 3 where a training's loss was not
    finite, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        if options.needs_extra:
            require_extra()
        status: int = options.run(options)
        return status
    except TrainingError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"fastpixcon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastpixcon: interrupted; what the run directory holds is whole", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="fastpixcon", description="Pixel-wise supervised contrastive learning.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add(verbs)
    return top
