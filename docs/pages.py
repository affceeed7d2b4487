"""Writes the pages that are made of the code and of what the benchmarks left: the command line, the benchmarks."""

import argparse
import re
import shutil
from pathlib import Path

from fastpixcon.cli import parser

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def command_line() -> str:
    """The help of every verb, as ``fastpixcon VERB --help`` prints it."""
    lines = []
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                inner.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
                lines += [f"## {verb}", "", "```text", inner.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def benchmarks(folder: Path) -> str:
    """What ``bench/results`` holds, tables and pictures; nothing is typed here by hand."""
    if not (tables := sorted(RESULTS.glob("*.md"))):
        return "No results of the benchmark suite are in this tree.\n"
    text = "\n".join(table.read_text() for table in tables)
    text = re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)  # below the title of the page
    for picture in (*RESULTS.glob("*.png"), *RESULTS.glob("*.svg")):
        shutil.copy(picture, folder)
        text = text.replace(f"]({picture.name})", f"]({folder.name}/{picture.name})")
    return text


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "command-line.md").write_text(command_line())
    contributing = (ROOT / "CONTRIBUTING.md").read_text().replace("(ARCHITECTURE.md)", "(architecture.md)")
    (folder / "contributing.md").write_text(contributing)
    (folder / "benchmarks.md").write_text(benchmarks(folder))
