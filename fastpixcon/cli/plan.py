"""``fastpixcon plan``: what contrast across GPUs costs, before anybody pays."""

import argparse

from fastpixcon.cli.options import Verbs, add_verb, rate, whole
from fastpixcon.plan import DEVICES, ITEM, plan, table, with_rates
from fastpixcon.training import TrainingError


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "plan",
        _plan,
        "memory, traffic and predicted time of contrast across GPUs",
        "Memory, FLOP, bytes sent and predicted time of one rank and step, for the eager matrix, gather and"
        " ring. Counts follow from the code; times are predictions from published peak rates and assumed efficiencies.",
        "  fastpixcon plan --anchors 65536 --gpus 8\n"
        "  fastpixcon plan --anchors 1e6 --memory-bank 190000 --gpus 64 --device a100",
        extra=False,
    )
    parser.add_argument("--anchors", type=whole, required=True, metavar="N", help="over all GPUs, 65536 or 1e6")
    parser.add_argument("--dim", type=whole, default=256, metavar="D", help="features, default 256")
    parser.add_argument("--memory-bank", type=whole, default=0, metavar="M", help="rows of the bank, default 0")
    parser.add_argument("--gpus", type=whole, default=1, metavar="R", help="default 1")
    parser.add_argument("--device", choices=list(DEVICES), default="h100", help="default h100")
    parser.add_argument("--dtype", choices=list(ITEM), default="bf16", help="of the rows, default bf16")
    parser.add_argument("--tflops", type=rate, help="peak of products, instead of the published one")
    parser.add_argument("--gbs", type=rate, help="peak of memory in GB/s, instead of the published one")
    parser.add_argument("--link-gbs", type=rate, help="peak of a link in GB/s, instead of the published one")


def _plan(options: argparse.Namespace) -> int:
    for name in ("anchors", "dim", "gpus"):
        if getattr(options, name) == 0:
            raise TrainingError(f"--{name}: got 0, want a whole number > 0")
    device = with_rates(options.device, options.tflops, options.gbs, options.link_gbs)
    plans = plan(
        options.anchors,
        options.dim,
        memory_bank=options.memory_bank,
        gpus=options.gpus,
        device=device,
        dtype=options.dtype,
    )
    head, *rows = table(plans)
    title = (
        f"{options.anchors:,} anchors of {options.dim} features, {options.dtype}, on {options.gpus} x {options.device}:"
        " one rank, one step"
    )
    try:
        from rich.table import Table

        from fastpixcon.training.console import make_console
    except ImportError:
        print(title)
        for row in (head, *rows):
            print(f"{row[0]:<40}" + "".join(f"{cell:>16}" for cell in row[1:]))
        return 0
    printed = Table(*head, title=title)
    for row in rows:
        printed.add_row(*row)
    make_console().print(printed)
    return 0
