"""The cells of results.json, for tables and plots."""

from typing import Any

import workloads
from workloads import Cell

Entry = dict[str, Any]
DTYPES = ("float32", "bfloat16", "float16")


def entries(results: dict[str, Any], workload: str | None = None) -> list[tuple[Cell, Entry]]:
    """By workload, dtype, and size."""
    found = [(Cell(**entry["cell"]), entry) for entry in results["cells"].values()]
    order = list(workloads.WORKLOADS)
    found.sort(key=lambda x: (order.index(x[0].workload), DTYPES.index(x[0].dtype), x[0].series, x[0].pairs, x[0].m))
    return [x for x in found if workload in (None, x[0].workload)]
