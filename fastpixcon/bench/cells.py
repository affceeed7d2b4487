"""The cells of results.json, for tables and plots."""

from collections.abc import Iterable
from typing import Any

from fastpixcon.bench import peers, workloads
from fastpixcon.bench.workloads import Cell

Entry = dict[str, Any]
DTYPES = ("float32", "bfloat16", "float16")


def entries(results: dict[str, Any], workload: str | None = None) -> list[tuple[Cell, Entry]]:
    """By workload, dtype, and size."""
    found = [(Cell(**entry["cell"]), entry) for entry in results["cells"].values()]
    order = list(workloads.WORKLOADS)
    found.sort(key=lambda x: (order.index(x[0].workload), DTYPES.index(x[0].dtype), x[0].series, x[0].pairs, x[0].m))
    return [x for x in found if workload in (None, x[0].workload)]


def in_order(names: Iterable[str]) -> list[str]:
    """As PEERS has them; then losses of a user's own."""
    seen = dict.fromkeys(names)
    return [*(name for name in peers.PEERS if name in seen), *(name for name in seen if name not in peers.PEERS)]


def measured(results: dict[str, Any]) -> list[str]:
    """Every peer of any cell."""
    return in_order(name for entry in results["cells"].values() for name in entry["peers"])
