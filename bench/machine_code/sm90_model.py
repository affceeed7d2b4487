"""What `gpu_model.py` says of the kernels of sm_90a, which no card has run, beside those that an H200 has.

    python bench/machine_code/sm90_model.py > bench/machine_code/sm90.jsonl     # of the extension as it was built

sm90.jsonl has their launches as measured.jsonl has those that were measured; ``measured.py`` makes a part of
docs/predicted.md of it.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cuda_binary
import gpu_model
import sass
from cuda_model import MOST_GROUPS, best_splits
from gpu_model import Tile, Work

WORKS = Path(__file__).with_name("sm90.jsonl")
GPU = gpu_model.GPUS[90]
SIZES = (1024, 4096, 8192, 16384, 65536)
# By width, as in csrc/cuda/info_nce_sm90.cu: columns of a gradient's tile, KiB of shared memory of it and of sums.
SHAPES = {64: (128, 89, 84), 128: (128, 169, 155), 256: (96, 213, 203)}
GRADIENT_ROWS, SUMS_ROWS, SUMS_COLUMNS = 128, 192, 96
MOST_PARTS, TILES_TO_START = 32, 8  # csrc/cuda/host/sm90.cpp


def target(x: sass.Instruction) -> int:
    """Of a branch."""
    return int(re.findall(r"0x([0-9a-f]+)", x.operands)[-1], 16)


def loop(symbol: str) -> list[sass.Instruction]:
    """The one over tiles, of consumers, with both ways through a tile."""
    (code,) = [sass.parse(text) for name, text in cuda_binary.listings(90).items() if re.search(symbol, name)]
    (found,) = sass.tensor_leaves(sass.loops(code))
    return found.body


def at(body: list[sass.Instruction], address: int) -> int:
    return next(i for i, x in enumerate(body) if x.address == address)


def first_wait(body: list[sass.Instruction]) -> int:
    return next(i for i, x in enumerate(body) if x.name.startswith("WARPGROUP.DEPBAR"))


def gradient_ways(body: list[sass.Instruction]) -> tuple[list[sass.Instruction], list[sass.Instruction]]:
    """Without masks and with them: the branch before the first wait goes where there are none."""
    wait = first_wait(body)
    branch = [i for i, x in enumerate(body[:wait]) if x.base == "BRA" and x.predicate and "0x" in x.operands][-1]
    plain = at(body, target(body[branch]))
    return body[: branch + 1] + body[plain:], body[:plain] + body[at(body, target(body[plain - 1])) :]


def sums_ways(body: list[sass.Instruction]) -> tuple[list[sass.Instruction], list[sass.Instruction]]:
    """The first two branches after the wait: into the way with masks, and at the end of that without, over it."""
    wait = first_wait(body)
    choice, end = [i for i, x in enumerate(body) if x.base == "BRA" and i > wait][:2]
    return body[: end + 1] + body[at(body, target(body[end])) :], body[: choice + 1] + body[end + 1 :]


def tile(body: list[sass.Instruction], warps: int, waits: int, loaded: int, barriers: int) -> Tile:
    """Of products that are waited for so often; rows of columns come by copies in bulk, which cost no instructions."""
    found = gpu_model.synchronous_tile(body, warps, exposed=False)
    operands = sum(x.operand_bytes for x in body) * warps
    return replace(
        found,
        shared_bytes=found.shared_bytes + operands + loaded,
        operand_bytes=operands,
        global_bytes=loaded,
        barriers=barriers,
        asynchronous=True,
        product_waits=waits,
    )


def gradient(D: int, N: int) -> Work:
    m, (n, shared, _) = GRADIENT_ROWS, SHAPES[D]
    ways = gradient_ways(loop(rf"gradient_sm90.*WarpgroupTilesILi{D}E.*bfloat16"))
    plain, masked = (tile(body, 8, 2, n * (2 * D + 16), 0) for body in ways)
    blocks, flop = -(-N // m), 2 * 2 * m * n * D
    assert plain.products == masked.products == flop
    blocks *= best_splits(blocks, -(-N // n), N, GPU.sms)
    return Work("gradient", N, 2 * D, m, n, n, flop, 168, shared << 10, blocks, m, 0, plain, masked)


def sums(D: int, N: int) -> Work:
    m, n = SUMS_ROWS, SUMS_COLUMNS
    ways = sums_ways(loop(rf"sums_sm90.*SumTilesILi{D}E.*PrecisionE0"))
    plain, masked = (tile(body, 12, 1, n * 2 * D, 1) for body in ways)
    flop = 2 * m * n * D
    assert plain.products == masked.products == flop
    rows = math.ceil(math.ceil(N / MOST_GROUPS) / m) * m
    groups = -(-N // rows) // 2 * 2 + 1
    blocks = groups * parts_of(groups, groups // 2 + 1, rows // n)
    return Work("sums", N, 2 * D, m, n, n, flop, 128, SHAPES[D][2] << 10, blocks, rows, groups, plain, masked)


def parts_of(groups: int, pairs: int, tiles: int) -> int:
    """As in the host code."""

    def time(parts: int) -> int:
        size = -(-pairs // parts)
        return -(-groups * -(-pairs // size) // GPU.sms) * (size * tiles + TILES_TO_START)

    best = min(range(1, min(pairs, MOST_PARTS) + 1), key=time)
    return -(-pairs // -(-pairs // best))


def all_works() -> Iterator[tuple[tuple[int, int, str], Work]]:
    for D in SHAPES:
        for N in SIZES:
            for work in (sums(D, N), gradient(D, N)):
                yield (D, N, work.kernel), work


def loop_row(work: Work) -> str:
    """Cycles of a tile without masks."""
    cycles, expected = work.plain.cycles(GPU), gpu_model.expected(GPU, work.plain, 1)
    masked = gpu_model.expected(GPU, work.masked, 1)
    cells = [work.kernel, str(work.row_bytes // 2), f"{work.m} x {work.n}"]
    cells += [f"{cycles[unit]:,.0f}" for unit in ("tensor", "shared", "issue", "exp")]
    return " | ".join([*cells, f"{expected:,.0f}", f"{masked:,.0f}", f"{100 * cycles['tensor'] / expected:.0f}"])


def panels(N: int, D: int) -> float:
    """Seconds in which rows are read and written anew, for sums and for the gradient."""
    return 2 * 2 * N * 2 * D / GPU.dram_rate


def main() -> None:
    for key, work in all_works():
        fields = work._asdict() | {"plain": vars(work.plain), "masked": vars(work.masked)}
        print(json.dumps([key, fields]))


if __name__ == "__main__":
    main()
