"""``fastpixcon table``: several seeds together."""

import argparse
from pathlib import Path

from fastpixcon.cli.options import Verbs, add_verb

_EXAMPLES = """\
  fastpixcon table runs/camvid-s*                    mean, deviation and paired test of every arm
  fastpixcon table runs/ccp-s* --score rare --gains  of a group of classes, seed by seed what is gained
  fastpixcon table results/camvid/*.json --markdown"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "table",
        _run,
        "mean, deviation and paired test over the seeds of a run",
        "Runs that differ in their seed alone, as one table: of every arm the mean IoU of the last evaluation, its "
        "mean and standard deviation over seeds, and the gain on the first arm with a paired t-test.",
        _EXAMPLES,
    )
    parser.add_argument("results", metavar="RUN", type=Path, nargs="+", help="run directory or its results.json")
    help_ = "group of classes, of evaluation.groups; default miou, all of them"
    parser.add_argument("--score", metavar="GROUP", default="miou", help=help_)
    parser.add_argument("--gains", action="store_true", help="of every seed the gain on the first arm, not the score")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")


def _run(options: argparse.Namespace) -> int:
    from fastpixcon.training import seeds
    from fastpixcon.training.console import make_console

    compared = seeds.compare([seeds.read(path) for path in options.results], options.score)
    if options.markdown:
        print(seeds.markdown(compared, options.gains))
    else:
        make_console().print(seeds.table(compared, options.score, options.gains))
    return 0
