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
    from fastpixcon.training import zoo

    entries = zoo.entries()
    for entry in entries:
        print(f"{entry.name}: {entry.data}, mIoU {100 * entry.miou:.2f} %, {entry.bytes / 2**20:.1f} MiB")
        print(f"  {entry.network}, {entry.arm}")
        print(f"  SHA-256 {entry.sha256}")
    if not entries:
        print("no trained networks in this installation")
    return 0
