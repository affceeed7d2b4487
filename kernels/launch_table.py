"""How the tiles of info_nce are launched: one table, a row for each kind of rows, of GPU, and width.

A row is (BLOCK_M rows, BLOCK_N columns, num_warps, num_stages, BLOCK_K, MASKED_N). In sums BLOCK_N divides BLOCK_M;
MASKED_N divides BLOCK_N. Rows fit the registers and the shared memory of their architectures: 163 KiB on sm_80, 227 KiB
on sm_90 and sm_100, 99 KiB on sm_86, sm_89 and sm_120. With FASTPIXCON_AUTOTUNE=1 the first call of each row times its
neighbours and prints the best one, to be copied here, and by what it won, to be copied to launch_provenance.py, which
has that of every row.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fastpixcon.kernels.common import INTERPRETING, power_of_two

AUTOTUNE = os.environ.get("FASTPIXCON_AUTOTUNE", "0") == "1"


class Launch(NamedTuple):
    BLOCK_M: int
    BLOCK_N: int
    num_warps: int
    num_stages: int
    BLOCK_K: int = 0  # logits in parts of so many columns of the rows; 0: of whole rows
    MASKED_N: int | None = 16  # columns of a tile with masks, which needs more registers

    def written(self) -> str:
        """As it stands here."""
        return f"Launch{tuple(self)}"


FAMILY = {80: 80, 86: 89, 87: 80, 89: 89, 90: 90, 100: 100, 103: 100, 120: 89, 121: 89}

# Half precision: architecture -> BLOCK_D -> Launch; 89 stands for all with 99 KiB.
SUMS = {
    80: {
        64: Launch(128, 64, 4, 3, 0, 32),
        128: Launch(128, 64, 4, 3, 0, 32),
        256: Launch(128, 64, 8, 3, 0, 32),
        512: Launch(64, 64, 8, 2, 0, 32),
        1024: Launch(32, 32, 8, 2),
    },
    89: {
        64: Launch(128, 128, 8, 3, 0, 32),
        128: Launch(128, 64, 4, 2, 0, 32),
        256: Launch(128, 32, 8, 2),
        512: Launch(32, 32, 4, 2),
        1024: Launch(16, 16, 4, 2),
    },
    90: {
        64: Launch(128, 64, 8, 3, 0, 64),
        128: Launch(128, 64, 8, 3, 0, 64),
        256: Launch(256, 64, 8, 2, 0, 64),
        512: Launch(64, 32, 4, 2, 0, 32),
        1024: Launch(32, 32, 4, 2),
    },
    100: {
        64: Launch(128, 64, 8, 3, 0, 64),
        128: Launch(128, 64, 8, 3, 0, 64),
        256: Launch(128, 64, 8, 3, 0, 64),
        512: Launch(64, 32, 8, 2, 0, 32),
        1024: Launch(32, 32, 4, 2),
    },
}
# Sums of separate contrast or of "all": other masks, other registers.
SUMS_ANY = {
    80: SUMS[80],
    89: SUMS[89],
    90: SUMS[90] | {128: Launch(128, 64, 8, 3, 0, 64), 256: Launch(128, 64, 8, 3, 0, 32)},
    100: SUMS[100],
}
# Without a fixed shift every sum has a maximum beside it.
SUMS_ONLINE = {
    80: {
        64: Launch(64, 64, 4, 2, 0, 32),
        128: Launch(64, 64, 4, 2, 0, 32),
        256: Launch(64, 32, 4, 2),
        512: Launch(64, 16, 4, 2),
        1024: Launch(16, 16, 4, 2),
    },
    89: {
        64: Launch(64, 64, 4, 2, 0, 32),
        128: Launch(64, 64, 4, 2, 0, 32),
        256: Launch(64, 32, 4, 2),
        512: Launch(64, 16, 4, 2),
        1024: Launch(32, 16, 4, 2),
    },
    90: {
        64: Launch(64, 64, 4, 2, 0, 64),
        128: Launch(64, 64, 4, 2, 0, 64),
        256: Launch(128, 64, 8, 2, 0, 64),
        512: Launch(64, 16, 4, 2),
        1024: Launch(32, 16, 4, 2),
    },
    100: {
        64: Launch(64, 64, 4, 2, 0, 32),
        128: Launch(64, 64, 4, 2, 0, 32),
        256: Launch(64, 64, 8, 2, 0, 32),
        512: Launch(64, 16, 4, 2),
        1024: Launch(32, 16, 4, 2),
    },
}
GRADIENT = {
    80: {
        64: Launch(128, 64, 4, 3, 0, 32),
        128: Launch(64, 128, 4, 2),
        256: Launch(64, 64, 4, 2),
        512: Launch(64, 32, 8, 2),
        1024: Launch(32, 16, 8, 2),
    },
    89: {
        64: Launch(64, 64, 4, 3, 0, 32),
        128: Launch(64, 64, 4, 3),
        256: Launch(64, 64, 8, 2),
        512: Launch(32, 32, 8, 2),
        1024: Launch(16, 16, 8, 2),
    },
    90: {
        64: Launch(128, 64, 4, 3, 0, 32),
        128: Launch(64, 64, 4, 3, 0, 32),
        256: Launch(128, 64, 8, 3, 0, 32),
        512: Launch(32, 64, 8, 2, 0, 32),
        1024: Launch(32, 16, 8, 2),
    },
    100: {
        64: Launch(64, 64, 8, 3),
        128: Launch(128, 64, 8, 3, 0, 32),
        256: Launch(128, 64, 8, 2),
        512: Launch(64, 32, 8, 2),
        1024: Launch(16, 16, 8, 2),
    },
}
GRADIENT_ONLINE = {
    80: GRADIENT[80] | {256: Launch(64, 32, 4, 2)},
    89: GRADIENT[89] | {512: Launch(16, 16, 4, 2)},
    90: GRADIENT[90],
    100: GRADIENT[100] | {128: Launch(128, 32, 8, 3)},
}
# Positives, on every architecture: 1 / classes of the tiles.
POSITIVES = {
    64: Launch(64, 32, 4, 2, MASKED_N=None),
    128: Launch(32, 32, 4, 2, MASKED_N=None),
    256: Launch(64, 32, 4, 2, MASKED_N=None),
    512: Launch(32, 16, 4, 2, MASKED_N=None),
    1024: Launch(16, 16, 4, 2, MASKED_N=None),
}
# Of mined pairs, which have a hash each: all tiles are masked, so both widths are the same.
NARROW = {
    64: Launch(64, 32, 8, 2, 0, 32),
    128: Launch(64, 32, 8, 2, 0, 32),
    256: Launch(32, 32, 8, 2, 0, 32),
    512: Launch(32, 32, 8, 2, 0, 32),
    1024: Launch(16, 16, 8, 2),
}
SUMS_MINED = {
    64: Launch(64, 64, 8, 2, 0, 64),
    128: Launch(64, 64, 8, 2, 0, 64),
    256: Launch(128, 32, 8, 2, 0, 32),
    512: Launch(64, 32, 8, 2, 0, 32),
    1024: Launch(16, 16, 8, 2),
}
GRADIENT_MINED = {
    80: NARROW,
    89: NARROW | {512: Launch(32, 16, 8, 2)},
    90: NARROW | {256: Launch(64, 32, 8, 2, 0, 32)},
    100: NARROW | {256: Launch(128, 32, 8, 2, 0, 32), 512: Launch(64, 32, 8, 2, 0, 32)},
}


def ruled(table: dict[int, dict[int, Launch]]) -> dict[int, dict[int, Launch]]:
    """Where weights take registers: more warps, narrower tiles with masks, in which each pair looks for its own."""
    return {
        family: {width: row._replace(num_warps=8, MASKED_N=16) for width, row in rows.items()}
        for family, rows in table.items()
    }


SUMS_RULED = ruled(SUMS_ANY)
SUMS_ONLINE_RULED = ruled(SUMS_ONLINE)
GRADIENT_RULED = ruled(GRADIENT_ONLINE)
SUMS_RULED[89][64] = Launch(128, 64, 8, 3)
GRADIENT_RULED[89] |= {64: Launch(64, 64, 4, 3), 128: Launch(64, 64, 8, 2), 256: Launch(32, 32, 8, 2)}
GRADIENT_RULED[80] |= {128: Launch(64, 64, 8, 2), 256: Launch(64, 64, 8, 2)}
# Two groups of four warps have 64 rows each: with fewer they repeat each other's products.
GRADIENT_RULED[90] |= {128: Launch(128, 64, 8, 3), 256: Launch(128, 32, 8, 2)}
# Of a memory bank: sums of e^s and of rows, in tiles of one class; mined ones have a hash in every pair. Rows have no
# tiles with masks beside those without.
MEMORY_SUMS = {
    80: GRADIENT[80] | {64: Launch(128, 64, 8, 3), 256: Launch(64, 64, 8, 2)},
    89: GRADIENT[89],
    90: GRADIENT[90] | {128: Launch(64, 128, 8, 2), 512: Launch(32, 32, 8, 2)},
    100: GRADIENT[100] | {256: Launch(64, 64, 8, 2), 512: Launch(32, 32, 8, 2)},
}
MEMORY_SUMS_ONLINE = {
    80: MEMORY_SUMS[80] | {256: Launch(64, 32, 8, 2), 512: Launch(64, 16, 8, 2)},
    89: GRADIENT_ONLINE[89],
    90: MEMORY_SUMS[90],
    100: MEMORY_SUMS[100] | {128: Launch(128, 32, 8, 3), 512: Launch(64, 16, 8, 2)},
}
MEMORY_SUMS_MINED = {
    80: MEMORY_SUMS_ONLINE[80] | {128: Launch(64, 32, 8, 2), 512: Launch(32, 32, 8, 2)},
    89: GRADIENT_ONLINE[89] | {128: Launch(64, 32, 8, 3)},
    90: MEMORY_SUMS[90] | {64: Launch(128, 64, 8, 3), 128: Launch(64, 64, 8, 2), 256: Launch(128, 32, 8, 3)},
    100: MEMORY_SUMS[100] | {128: Launch(128, 32, 8, 3)},
}
MEMORY_POSITIVES = {
    80: MEMORY_SUMS_MINED[80],
    89: MEMORY_SUMS_MINED[89] | {64: Launch(64, 64, 8, 3), 256: Launch(64, 32, 8, 2)},
    90: MEMORY_SUMS_MINED[90],
    100: MEMORY_SUMS_MINED[100] | {512: Launch(64, 16, 8, 2)},
}
# Of float16, whose products of a tile lie beside what they are added to, see info_nce_halves.lifted.
LIFTED = {
    64: Launch(64, 64, 8, 2),
    128: Launch(64, 64, 8, 2),
    256: Launch(64, 32, 8, 2),
    512: Launch(32, 16, 8, 2),
    1024: Launch(16, 16, 8, 2),
}
MINING_COUNTS = {
    80: SUMS_ONLINE[80] | {128: Launch(64, 64, 8, 2)},
    89: SUMS_ONLINE[89] | {128: Launch(64, 64, 8, 2), 1024: Launch(16, 16, 4, 2)},
    90: SUMS_ONLINE[90] | {128: Launch(64, 64, 8, 2)},
    100: SUMS_ONLINE[100] | {128: Launch(64, 64, 8, 2)},
}
HALF = {
    "sums": SUMS,
    "sums_any": SUMS_ANY,
    "sums_online": SUMS_ONLINE,
    "positives": dict.fromkeys(SUMS, POSITIVES),
    "gradient": GRADIENT,
    "gradient_online": GRADIENT_ONLINE,
    "sums_ruled": SUMS_RULED,
    "sums_online_ruled": SUMS_ONLINE_RULED,
    "gradient_ruled": GRADIENT_RULED,
    "sums_mined": dict.fromkeys(SUMS, SUMS_MINED),
    "gradient_mined": GRADIENT_MINED,
    "memory_sums": MEMORY_SUMS,
    "memory_sums_online": MEMORY_SUMS_ONLINE,
    "memory_sums_mined": MEMORY_SUMS_MINED,
    "memory_positives": MEMORY_POSITIVES,
    "memory_sums_lifted": dict.fromkeys(SUMS, LIFTED),
    "memory_positives_lifted": dict.fromkeys(SUMS, LIFTED),
    "mining_counts": MINING_COUNTS,
}
WIDTHS = (64, 128, 256, 512, 1024)
# Unit rows of float32 as halves of float16, whose products add up in chains, which mma.sync shares among warps by rows,
# 16 each, or, where there are more columns, by these; else warps repeat each other's. Where a block of rows and a tile
# of them do not fit together, logits come in parts.
IN_PARTS = Launch(64, 64, 8, 2, 64, 32)
SUMS_HALVES = {
    80: {
        64: Launch(64, 64, 4, 3, 0, 32),
        128: Launch(64, 64, 4, 2, 0, 32),
        256: Launch(128, 64, 8, 2, 64, 32),
        512: Launch(128, 64, 8, 2, 64, 32),
        1024: Launch(128, 64, 8, 2, 64, 32),
    },
    90: {
        64: Launch(64, 64, 4, 3, 0, 64),
        128: Launch(64, 64, 4, 2, 0, 64),
        256: Launch(128, 128, 8, 3, 32, 64),
        512: Launch(128, 128, 8, 3, 32, 64),
        1024: Launch(128, 128, 8, 3, 32, 64),
    },
    100: {64: Launch(64, 64, 4, 1, 0, 64)} | dict.fromkeys(WIDTHS[1:], IN_PARTS),
}
SUMS_HALVES[89] = SUMS_HALVES[80] | dict.fromkeys(WIDTHS[2:], Launch(64, 64, 8, 2, 32, 32))
GRADIENT_HALVES = {
    80: {
        64: Launch(64, 64, 4, 2),
        128: Launch(64, 32, 4, 2),
        256: Launch(32, 32, 4, 2),
        512: Launch(32, 64, 8, 2, 64),
        1024: Launch(16, 64, 8, 2, 64),
    },
    90: {
        64: Launch(64, 64, 4, 3, 0, 32),
        128: Launch(128, 64, 8, 2, 0, 32),
        256: Launch(128, 32, 8, 2),
        512: Launch(32, 64, 8, 2, 64),
        1024: Launch(16, 64, 8, 2, 64),
    },
    100: {
        64: Launch(128, 64, 8, 1, 0, 32),
        128: Launch(64, 64, 8, 1),
        256: Launch(64, 32, 8, 1),
        512: Launch(32, 64, 8, 2, 64),
        1024: Launch(16, 64, 8, 2, 64),
    },
}
GRADIENT_HALVES[89] = GRADIENT_HALVES[80]
POSITIVES_HALVES = {
    64: Launch(64, 32, 4, 2, MASKED_N=None),
    128: Launch(64, 32, 4, 2, MASKED_N=None),
} | dict.fromkeys(WIDTHS[2:], Launch(32, 32, 4, 2, 64, None))
GRADIENT_HALVES_RULED = {
    64: Launch(32, 64, 8, 2),
    128: Launch(32, 64, 8, 2),
    256: Launch(32, 64, 8, 2),
    512: Launch(32, 64, 8, 2, 64),
    1024: Launch(16, 64, 8, 2, 64),
}
GRADIENT_HALVES_MINED = {
    64: Launch(32, 64, 8, 2, 0, 64),
    128: Launch(32, 64, 8, 2, 0, 64),
    256: Launch(32, 64, 8, 2, 0, 64),
    512: Launch(32, 32, 8, 2, 64, 32),
    1024: Launch(16, 32, 8, 2, 64, 32),
}
GRADIENT_ONLINE_HALVES = GRADIENT_HALVES | {100: GRADIENT_HALVES[100] | {256: Launch(32, 64, 8, 2)}}
NARROW_HALVES = Launch(32, 32, 8, 2, 0, 32)
MEMORY_SUMS_HALVES_MINED = dict.fromkeys(SUMS, GRADIENT_HALVES_MINED)
MEMORY_SUMS_HALVES_MINED[89] = GRADIENT_HALVES_MINED | {64: NARROW_HALVES, 256: Launch(16, 32, 4, 2, 0, 32)}
MEMORY_POSITIVES_HALVES = dict.fromkeys(SUMS, GRADIENT_HALVES_MINED | {512: Launch(32, 16, 8, 2, 64, 16)})
MEMORY_POSITIVES_HALVES[89] = MEMORY_POSITIVES_HALVES[80] | {256: NARROW_HALVES}
HALVES = {
    "sums": SUMS_HALVES,
    "sums_any": SUMS_HALVES,
    "positives": dict.fromkeys(SUMS, POSITIVES_HALVES)
    | {100: POSITIVES_HALVES | dict.fromkeys(WIDTHS[:2], Launch(32, 32, 4, 2, MASKED_N=None))},
    "gradient": GRADIENT_HALVES,
    "gradient_online": GRADIENT_ONLINE_HALVES,
    "sums_ruled": dict.fromkeys(SUMS, dict.fromkeys(WIDTHS, Launch(64, 32, 8, 2, 64, 16))),
    "gradient_ruled": dict.fromkeys(SUMS, GRADIENT_HALVES_RULED)
    | {
        89: GRADIENT_HALVES_RULED | {256: Launch(32, 32, 4, 2)},
        100: GRADIENT_HALVES_RULED | {256: Launch(16, 32, 4, 2)},
    },
    "sums_mined": dict.fromkeys(SUMS, dict.fromkeys(WIDTHS, Launch(64, 32, 8, 2, 64, 32))),
    "gradient_mined": dict.fromkeys(SUMS, GRADIENT_HALVES_MINED)
    | {89: GRADIENT_HALVES_MINED | {256: Launch(16, 32, 4, 2, 0, 32)}},
    "memory_sums": GRADIENT_ONLINE_HALVES | {89: GRADIENT_HALVES[89] | {64: Launch(64, 32, 4, 2, 0, 32)}},
    "memory_sums_mined": MEMORY_SUMS_HALVES_MINED,
    "memory_positives": MEMORY_POSITIVES_HALVES,
    "mining_counts": dict.fromkeys(SUMS, dict.fromkeys(WIDTHS, Launch(64, 32, 8, 2, 64))),
}
# Rows of float32 as they are, of any norm.
ROWS_FLOAT32 = {
    64: Launch(32, 32, 8, 2, 32, 32),
    128: Launch(32, 32, 8, 2, 32, 32),
    256: Launch(32, 16, 8, 2, 32, 16),
    512: Launch(32, 16, 8, 2, 64, 16),
    1024: Launch(16, 16, 8, 2, 64, 16),
}
FLOAT32 = {
    "sums_online": dict.fromkeys(SUMS, dict.fromkeys(WIDTHS, Launch(64, 32, 8, 3, 32, 32))),
    "positives": dict.fromkeys(SUMS, dict.fromkeys(WIDTHS, Launch(32, 32, 4, 2, 32, None))),
    "gradient_online": dict.fromkeys(SUMS, ROWS_FLOAT32),
    "sums_online_ruled": dict.fromkeys(SUMS, dict.fromkeys(WIDTHS, Launch(64, 32, 8, 3, 32, 16))),
    "gradient_ruled": dict.fromkeys(SUMS, ROWS_FLOAT32),
    "sums_mined": dict.fromkeys(SUMS, dict.fromkeys(WIDTHS, Launch(64, 32, 8, 3, 32, 32))),
    "gradient_mined": dict.fromkeys(SUMS, ROWS_FLOAT32),
    "memory_sums_online": dict.fromkeys(SUMS, ROWS_FLOAT32),
    "memory_sums_mined": dict.fromkeys(SUMS, ROWS_FLOAT32),
    "memory_positives": dict.fromkeys(SUMS, ROWS_FLOAT32 | {1024: Launch(16, 16, 8, 2, 32)}),
}
TABLES = {"half": HALF, "halves": HALVES, "float32": FLOAT32}


def kind(dtype: torch.dtype, precision: str = "") -> str:
    """Of rows as kernels take them, and the word for their products: one of TABLES."""
    return "halves" if precision == "fp16x3" else "float32" if dtype == torch.float32 else "half"


def width(D: int) -> int:
    """BLOCK_D: a power of two."""
    block = power_of_two(D)
    if block > 1024:
        raise ValueError(f"anchors: got feature width {D}, want at most 1024 for backend 'triton'")
    return block


class Tile(NamedTuple):
    """What a kernel of tiles knows of its launch, TILE."""

    BLOCK_M: int
    BLOCK_N: int
    MASKED_N: int  # 0: all its tiles have masks
    BLOCK_D: int
    BLOCK_K: int
    STAGES: int


def tile(row: Launch, block_d: int) -> dict[str, Any]:
    """The options of a launch."""
    block_k = min(row.BLOCK_K or block_d, block_d)
    sizes = Tile(row.BLOCK_M, row.BLOCK_N, row.MASKED_N or 0, block_d, block_k, row.num_stages)
    return {"TILE": tuple(sizes), "num_warps": row.num_warps, "num_stages": row.num_stages}


def row(kernel: str, architecture: int, kind: str, block_d: int) -> Launch:
    """Of one of the kernels in the table of this kind of rows."""
    if INTERPRETING:  # a tile costs the same whatever its size
        return Launch(64, 64, 4, 1, MASKED_N=None if kernel == "positives" else 32)
    # an architecture that is not listed may have as little shared memory as 89
    return TABLES[kind][kernel][FAMILY.get(architecture, 89)][max(64, block_d)]


_tuned: dict[tuple[str, int, str, int], Launch] = {}


def neighbours(launch: Launch) -> list[Launch]:
    near = [m for m in (16, 32, 64, 128, 256) if launch.BLOCK_M / 2 <= m <= launch.BLOCK_M * 2]
    return [
        launch._replace(
            BLOCK_M=m,
            BLOCK_N=n,
            num_warps=warps,
            num_stages=stages,
            MASKED_N=None if launch.MASKED_N is None else min(launch.MASKED_N, n),
        )
        for m in near
        for n in (16, 32, 64, 128)
        if m % n == 0 and abs(n - launch.BLOCK_N) <= 64
        for warps in (4, 8)
        for stages in (1, 2, 3, 4)
    ]


def run(kernel: str, architecture: int, kind: str, block_d: int, start: Callable[[Launch], None]) -> None:
    """start(row of the table); with FASTPIXCON_AUTOTUNE=1 the fastest row near it."""
    best = row(kernel, architecture, kind, block_d)
    if AUTOTUNE and torch.cuda.is_available() and not torch.compiler.is_compiling():
        best = _tune(kernel, architecture, kind, block_d, start)
    start(best)


def _tune(kernel: str, architecture: int, kind: str, block_d: int, start: Callable[[Launch], None]) -> Launch:
    import triton

    from fastpixcon.kernels import launch_provenance  # which reads this table

    key = (kernel, architecture, kind, max(64, block_d))
    if key not in _tuned:
        times: dict[Launch, float] = {}
        near = dict.fromkeys([row(*key), *neighbours(row(*key))])
        for launch in near:
            try:
                start(launch)
                times[launch] = triton.testing.do_bench(lambda launch=launch: start(launch), warmup=5, rep=30)
            except (triton.runtime.errors.OutOfResources, triton.CompilationError):
                continue
        _tuned[key] = min(times, key=lambda launch: times[launch])
        print(f"sm_{architecture} {kernel!r} {kind}: {key[-1]}: {_tuned[key]}  # {times[_tuned[key]]:.4f} ms")
        print(launch_provenance.measured(*key, times, len(near)))
    return _tuned[key]
