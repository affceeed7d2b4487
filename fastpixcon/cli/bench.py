"""``fastpixcon bench``: the suite, and single benchmarks of the repository."""

import argparse
import os
import sys
from pathlib import Path

import fastpixcon
from fastpixcon.cli import process
from fastpixcon.cli.options import Verbs, add_verb
from fastpixcon.training import TrainingError

_EXAMPLES = """\
  fastpixcon bench                                   every workload against every peer that is installed
  fastpixcon bench --quick                           the same at small sizes, in three minutes
  fastpixcon bench --workloads self --peers eager    some of it
  fastpixcon bench --peer my_kernel.py:loss          a loss of your own beside them
  fastpixcon bench suite --help                      all options
  fastpixcon bench list                              names of single benchmarks beside the suite
  fastpixcon bench mining --memory                   one of them, with its own options"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "bench",
        _run,
        "time and memory against other implementations",
        "Run the suite: every workload against every peer that is installed, or against a loss of your own"
        " (docs/benchmark-your-own.md). pip install 'fastpixcon[bench]' installs the peers. Single benchmarks are in"
        " the repository, where an editable installation finds them.",
        _EXAMPLES,
        extra=False,
    )
    text = "options of the suite; or the name of a single benchmark and its options"
    parser.add_argument("arguments", nargs="*", metavar="ARG", help=text)
    parser.prefix_chars = "\0"  # options are the benchmark's: here all are arguments
    parser.set_defaults(print_help=parser.print_help)


def _run(options: argparse.Namespace) -> int:
    folder = Path(fastpixcon.__file__).resolve().parents[1] / "bench" / "single"
    found = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    name, *rest = options.arguments or ["suite"]
    if name in ("-h", "--help"):
        options.print_help()
        raise SystemExit(0)
    if name == "list":
        for known, path in found.items():
            print(f"{known:<16}  {path.read_text(encoding='utf-8').split(chr(10), 1)[0].strip(chr(34))}")
        if not found:
            raise TrainingError(f"bench: no {folder}; they are in the repository: clone it, pip install -e .")
        return 0
    if name.startswith("-"):
        name, rest = "suite", options.arguments
    if name != "suite" and name not in found:
        raise TrainingError(f"bench: got {name!r}, want one of {', '.join(['suite', 'list', *found])}")
    rest = [x for x in rest if x != "--"]
    if name == "suite":
        from fastpixcon.bench import suite

        return process.run(lambda: suite.main(rest), "what was measured is kept, run it again to go on")
    command = [sys.executable, str(found[name]), *rest]
    sys.stdout.flush()
    os.execv(command[0], command)  # in place of this process: signals are the benchmark's
