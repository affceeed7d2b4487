"""``fastpixcon zoo``: the trained networks that come with the package."""

import argparse

from fastpixcon.cli.options import Verbs, add_verb

_EXAMPLES = """\
  fastpixcon zoo
  fastpixcon eval camvid_lite0_contrast --data ../camvid      repeats its row"""


def add(verbs: Verbs) -> None:
    add_verb(
        verbs,
        "zoo",
        _run,
        "the trained networks that come with the package",
        "List trained networks: name, data set, network, arm, mIoU, size and SHA-256. Other verbs take their names.",
        _EXAMPLES,
    )


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from fastpixcon.training import zoo

    table = Table("name", "data", "network", "arm", "mIoU %", "MiB", "SHA-256")
    for entry in zoo.entries():
        table.add_row(
            entry.name, entry.data, entry.network, entry.arm, f"{100 * entry.miou:.2f}", f"{entry.bytes / 2**20:.1f}",
            entry.sha256[:16],
        )  # fmt: skip
    Console().print(table if table.rows else "no trained networks in this installation")
    return 0
