"""``fastpixcon bench``: the benchmarks of the repository."""

import argparse
import subprocess
import sys
from pathlib import Path

import fastpixcon
from fastpixcon.cli.options import Verbs, add_verb
from fastpixcon.training import TrainingError

_EXAMPLES = """\
  fastpixcon bench                                   the names
  fastpixcon bench info_nce                          N anchors against each other
  fastpixcon bench memory -- --memory                options after -- are the benchmark's; --help lists them"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "bench",
        _run,
        "time and memory against other implementations",
        "Run benchmarks of the folder bench/ of the repository, which an editable installation sees.",
        _EXAMPLES,
        extra=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="without one, list them")
    parser.add_argument("arguments", nargs="*", metavar="ARG", help="handed to the benchmark")


def _run(options: argparse.Namespace) -> int:
    folder = Path(fastpixcon.__file__).resolve().parents[1] / "bench"
    found = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    if not found:
        raise TrainingError(f"bench: no {folder}; the benchmarks are in the repository: clone it, pip install -e .")
    if options.name is None:
        for name, path in found.items():
            print(f"{name:<16}  {path.read_text().split(chr(10), 1)[0].strip(chr(34))}")
        return 0
    if options.name not in found:
        raise TrainingError(f"bench: got {options.name!r}, want one of {', '.join(found)}")
    return subprocess.run([sys.executable, str(found[options.name]), *options.arguments], check=False).returncode
