"""``fastpixcon check``: a user's own loss against the reference in float64."""

import argparse
import contextlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator
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

    from fastpixcon.testing.own import DTYPES, check
    from fastpixcon.training.writing import Outputs

    name, _, function = options.loss.rpartition(":")
    if not name or not function:
        raise TrainingError(f"FILE.py:FUNCTION: got {options.loss!r}, want a file and the name of a function in it")
    path = Path(name)
    files = Outputs("--json", options.overwrite, [path])
    if options.json:
        files.claim(options.json)
    with _executed(path) as names:
        if function not in names:
            there = ", ".join(x for x, value in names.items() if callable(value) and not x.startswith("_"))
            raise TrainingError(f"{path}: has no {function!r}, want one of: {there}")
        try:
            report = check(
                names[function],
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
        except (TypeError, ValueError) as error:
            raise TrainingError(f"{options.loss}: {error}") from None
    print(report)
    if options.json:
        text = json.dumps(report.tree(), indent=2, allow_nan=False) + "\n"
        files.write(options.json, lambda file: file.write(text.encode()))
    return 0 if report.agrees else 1


@contextlib.contextmanager
def _executed(path: Path) -> Iterator[dict[str, object]]:
    """The names of a file, which is a module of its name meanwhile and imports what lies beside it."""
    if path.suffix != ".py" or not path.is_file():
        raise TrainingError(f"{path}: {'is no file' if path.suffix == '.py' else 'ends otherwise'}, want a file .py")
    if path.stem in sys.modules:
        raise TrainingError(f"{path}: {path.stem} is a module that is imported already, want another name")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # a user's file may raise anything, which is its fault and no traceback of ours
            lines = [x.lineno for x in traceback.extract_tb(error.__traceback__) if x.filename == spec.origin]
            place = f"{path}:{lines[-1]}" if lines else str(path)  # of a SyntaxError the message has it
            raise TrainingError(f"{place}: {type(error).__name__}: {' '.join(str(error).split())}") from None
        yield vars(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
        del sys.modules[path.stem]
