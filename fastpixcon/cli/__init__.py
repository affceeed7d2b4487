"""The command line: ``fastpixcon VERB``, one module a verb."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from fastpixcon.cli import (
    bench,
    check,
    config,
    evaluate,
    export,
    inspect,
    plan,
    predict,
    process,
    study,
    table,
    train,
    tsne,
    zoo,
)
from fastpixcon.training import require_extra

_VERBS = (train, inspect, evaluate, predict, tsne, table, study, export, zoo, config, plan, check, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status, of which ``process`` has the list."""

    def work() -> int:
        options = parser().parse_args(arguments)
        if options.needs_extra:
            require_extra()
        status: int = options.run(options)
        return status

    return process.run(work)


def command() -> NoReturn:
    """What a shell starts: ``main``, and the process ends with its status."""
    process.end(main())


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="fastpixcon", description="Pixel-wise supervised contrastive learning.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add(verbs)
    return top
