"""``fastpixcon check``: a user's own loss against the reference in float64."""

import argparse
import json
from pathlib import Path

from fastpixcon.cli.options import Verbs, add_overwrite, add_verb
from fastpixcon.training import TrainingError

_EXAMPLES = """\
  fastpixcon check my_kernel.py:loss                       a function of rows [N, D], labels [N] and temperature
  fastpixcon check my_loss.py:module --temperature 0.1     it has a temperature of its own
  fastpixcon check my_kernel.py:loss --denominator all --dtype float32 --without ignored-labels --without zero-rows
  fastpixcon check my_kernel.py:loss --strict --device cuda  a kernel, whose sums are float32
  fastpixcon check my_kernel.py:loss --json report.json"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "check",
        _run,
        "a loss of your own against the reference in float64",
        "Run a loss function of a file over sizes, dtypes, layouts and edges, and compare it and its gradients with"
        " the reference in float64: a table of what agrees, and the smallest input found that shows a disagreement, as"
        " code. docs/check-your-own.md says what the function gets and what it returns.",
        _EXAMPLES,
        extra=False,
    )
    parser.add_argument("loss", metavar="FILE.py:FUNCTION", help="the file is executed")
    parser.add_argument(
        "--denominator",
        action="append",
        choices=["negatives", "all", "decoupled"],
        help="that it computes, default negatives; may be given several times",
    )
    parser.add_argument(
        "--dtype",
        action="append",
        choices=["float32", "bfloat16", "float16"],
        help="of its rows, default all of them; may be given several times",
    )
    text = "of a loss that has one of its own; default: those of the Cases, as its argument"
    parser.add_argument("--temperature", type=float, metavar="T", help=text)
    parser.add_argument("--temperature-gradient", action="store_true", help="compare the temperature's gradient, too")
    parser.add_argument("--no-normalize", action="store_true", help="it takes its rows as they are")
    text = "a name of the table: leave such Cases out; may be given several times"
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help=text)
    parser.add_argument("--strict", action="store_true", help="16 bits as a kernel with sums in float32 has them")
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="where it runs, cuda:0; default cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    add_overwrite(parser)


def _run(options: argparse.Namespace) -> int:
    import torch

    from fastpixcon.testing.own import DTYPES, check, file
    from fastpixcon.training.writing import Outputs

    try:
        path, _ = file.split(options.loss)
        files = Outputs("--json", options.overwrite, [path])
        if options.json:
            files.claim(options.json)
        with file.loaded(options.loss) as loss:
            report = check(
                loss,
                denominators=options.denominator or ("negatives",),
                dtypes=[getattr(torch, x) for x in options.dtype] if options.dtype else DTYPES,
                normalize=not options.no_normalize,
                temperature=options.temperature,
                temperature_gradient=options.temperature_gradient,
                without=options.without,
                strict=options.strict,
                device=options.device,
                raises=False,
                name=options.loss,
            )
    except file.FileError as error:
        raise TrainingError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{options.loss}: {error}") from None
    print(report)
    if options.json:
        text = json.dumps(report.tree(), indent=2, allow_nan=False) + "\n"
        files.write(options.json, lambda file: file.write(text.encode()))
    return 0 if report.agrees else 1
