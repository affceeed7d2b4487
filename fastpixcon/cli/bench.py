"""``fastpixcon bench``: the benchmarks of the repository."""

import argparse
import os
import sys
from pathlib import Path

import fastpixcon
from fastpixcon.cli.options import Verbs, add_verb
from fastpixcon.training import TrainingError

_EXAMPLES = """\
  fastpixcon bench                                   every workload against every peer that is installed
  fastpixcon bench --quick                           the same at small sizes, in three minutes
  fastpixcon bench --workloads self --peers eager    some of it
  fastpixcon bench suite --help                      all options
  fastpixcon bench list                              names of single benchmarks beside the suite
  fastpixcon bench mining --memory                   one of them, with its own options"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "bench",
        _run,
        "time and memory against other implementations",
        "Run the suite in the folder bench/ of the repository, which an editable installation sees: tables and plots go"
        " to bench/results/. pip install -e '.[bench]' installs the peers.",
        _EXAMPLES,
        extra=False,
    )
    text = "options of the suite; or the name of a single benchmark and its options"
    parser.add_argument("arguments", nargs="*", metavar="ARG", help=text)
    parser.prefix_chars = "\0"  # options are the benchmark's: here all are arguments
    parser.set_defaults(print_help=parser.print_help)


def _run(options: argparse.Namespace) -> int:
    folder = Path(fastpixcon.__file__).resolve().parents[1] / "bench" / "suite"
    suite = folder / "suite.py"
    if not suite.exists():
        raise TrainingError(f"bench: no {suite}; the benchmarks are in the repository: clone it, pip install -e .")
    found = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    name, *rest = options.arguments or ["suite"]
    if name in ("-h", "--help"):
        options.print_help()
        raise SystemExit(0)
    if name == "list":
        for known, path in found.items():
            print(f"{known:<16}  {path.read_text(encoding='utf-8').split(chr(10), 1)[0].strip(chr(34))}")
        return 0
    if name.startswith("-"):
        name, rest = "suite", options.arguments
    if name != "suite" and name not in found:
        raise TrainingError(f"bench: got {name!r}, want one of {', '.join(['suite', 'list', *found])}")
    command = [sys.executable, str(found.get(name, suite)), *(x for x in rest if x != "--")]
    sys.stdout.flush()
    os.execv(command[0], command)  # in place of this process: signals are the suite's, whose own processes it ends
