"""How long a kernel should take on a GPU, *predicted* from what its loops execute and published rates.

Nothing here was measured on a GPU. A tile costs every unit of a multiprocessor (SM) some cycles; with enough warps that
do not wait for each other the busiest unit decides (``overlapping``), in one block whose warps do, the products and
what lies between them add up (``serial``). The truth lies between; ``Prediction`` has both.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import sass
from ahead_of_time import Compiled, Launch

WARP = 32


@dataclass(frozen=True)
class GPU:
    name: str
    architecture: int
    sms: int
    clock: float  # Hz, boost
    tensor: int  # dense bfloat16 FLOP with float32 sums, a cycle and SM
    fp32: int  # lanes a cycle and SM
    warps: int  # resident on an SM
    shared: int  # bytes an SM
    l2: float  # bytes
    l2_rate: float  # bytes a cycle, whole chip
    dram_rate: float  # bytes a second
    int32: int = 64  # lanes a cycle and SM, integer and logic
    mufu: int = 16  # lanes a cycle and SM, exp2 and 1/x
    convert: int = 64
    shuffle: int = 32
    shared_rate: int = 128  # bytes a cycle and SM
    issue: int = 4  # warp instructions a cycle and SM
    registers: int = 65536

    @property
    def peak(self) -> float:
        return self.sms * self.clock * self.tensor


# Lanes of float32, integer, MUFU, conversion, shuffle: CUDA C++ programming guide, "Throughput of native arithmetic
# instructions". Resident warps, shared memory: the same, "Technical specifications per compute capability". L2 rates
# are not in datasheets, except A100's.
GPUS = {
    # A100 whitepaper: 108 SM, 1.41 GHz, 312 TFLOPS = 2048 a cycle and SM; L2 40 MB, 5120 B a cycle, of which public
    # microbenchmarks see four fifths; 80 GB datasheet: 2039 GB/s.
    80: GPU("A100", 80, 108, 1.41e9, 2048, 64, 64, 164 << 10, 40e6, 4096, 2039e9),
    # Ada whitepaper: 128 SM, 2.52 GHz, 165.2 TFLOPS with float32 sums = 512; L2 72 MB; 1008 GB/s. L2: about 5 TB/s in
    # public microbenchmarks.
    89: GPU("RTX 4090", 89, 128, 2.52e9, 512, 128, 48, 100 << 10, 72e6, 2048, 1008e9),
    # H100 SXM datasheet: 989.4 TFLOPS dense, 132 SM at 1.83 GHz = 4096; L2 50 MB; 3352 GB/s. L2: 5.5 TB/s in public
    # microbenchmarks of the smaller PCIe card, and what plain 128 x 256 matmul tiles need at 600 TFLOPS: 7 TB/s.
    90: GPU("H100", 90, 132, 1.83e9, 4096, 128, 64, 228 << 10, 50e6, 4096, 3352e9),
    # HGX B200 datasheet: 2250 TFLOPS dense, 8 TB/s; 148 SM at 1.85 GHz = 8192; L2 126 MB, its rate taken as H100's for
    # every SM.
    100: GPU("B200", 100, 148, 1.85e9, 8192, 128, 64, 228 << 10, 126e6, 4600, 8000e9),
}
BARRIER = 30  # cycles that a block waits at each, from public microbenchmarks of bar.sync
L2_LATENCY = 270  # cycles; 200 on A100, 260 to 280 on H100 and 4090 in public microbenchmarks
START = 8  # trips to L2 one after the other before a block of rows has its first tile, and after its last


CLASSES = 19  # of the problem that is predicted, all alike; their tiles go through the masked loops


@dataclass(frozen=True)
class Tile:
    """What a block of warps executes for one tile."""

    flop: float  # executed; more than the products need where warps repeat each other's
    instructions: Counter[str]  # of all its warps, by pipe
    shared_bytes: float  # moved by instructions and read by the tensor cores
    operand_bytes: float  # the operands' part of it
    operand_loads: int  # instructions that load operands into registers
    global_bytes: float
    barriers: int
    exposed: bool  # the loop waits for the rows that it has just asked for

    @property
    def issued(self) -> int:
        return sum(self.instructions.values())

    def cycles(self, gpu: GPU) -> dict[str, float]:
        """Of an SM, for each of its units."""
        n = self.instructions
        both = (n["fma"] + n["imad"]) * WARP / gpu.fp32  # IMAD uses the same lanes, half of them since sm_86
        return {
            "tensor": self.flop / gpu.tensor,
            "exp": n["mufu"] * WARP / gpu.mufu,
            "issue": self.issued / gpu.issue,
            "float": max(both, n["imad"] * WARP / 64),
            "integer": n["alu"] * WARP / gpu.int32,
            "convert": n["convert"] * WARP / gpu.convert,
            "shuffle": n["shuffle"] * WARP / gpu.shuffle,
            "shared": self.shared_bytes / gpu.shared_rate,
            "L2": self.l2(gpu),
        }

    def l2(self, gpu: GPU) -> float:
        return self.global_bytes / min(64, gpu.l2_rate / gpu.sms)

    def busiest(self, gpu: GPU) -> str:
        cycles = self.cycles(gpu)
        return max(cycles, key=lambda unit: cycles[unit])

    def overlapping(self, gpu: GPU) -> float:
        return max(self.cycles(gpu).values())

    def serial(self, gpu: GPU) -> float:
        """Cycles where the products, with the operands they read, and everything else take turns."""
        cycles = self.cycles(gpu)
        products = max(cycles["tensor"], self.operand_bytes / gpu.shared_rate)
        units = [cycles[unit] for unit in ("exp", "float", "integer", "convert", "shuffle")]
        between = (self.issued - self.instructions["tensor"] - self.operand_loads) / gpu.issue
        waiting = self.barriers * BARRIER + (L2_LATENCY + cycles["L2"] if self.exposed else 0)
        return max(products + max(between, *units) + waiting, cycles["shared"], cycles["L2"])


def rows_loaded(body: list[sass.Instruction]) -> int:
    """Bytes of rows, 16 a thread at a time; tcgen05 does not tell its FLOP."""
    return sum(x.bytes for x in body if x.base in ("LDG", "LDGSTS") and ".128" in x.name)


def tile_loops(compiled: Compiled) -> list[list[sass.Instruction]]:
    """The loops over tiles, what one warp executes in a pass; the first is the one without masks, where there are two.
    Inside it rows in parts of BLOCK_K are a loop, repeated as often as there are parts, and may be one in halves."""
    tile = compiled.launch.tile
    loops = sass.loops(compiled.code)
    leaves = sass.tensor_leaves(loops)
    if tile.BLOCK_K < tile.BLOCK_D:
        parts = tile.BLOCK_D // tile.BLOCK_K
        outer = [loop for loop in loops if any(leaf in loop.inner for leaf in leaves)]
        inner = [sorted(loop.inner, key=lambda leaf: leaf.header) for loop in outer]
        bodies = [
            loop.own + [x for leaf, times in zip(leaves, (parts, 2), strict=False) for x in leaf.body * times]
            for loop, leaves in zip(outer, inner, strict=True)
        ]
    else:
        bodies = [loop.body for loop in leaves]
    # Masks cost instructions, and may come with narrower tiles, which sm_100 multiplies with mma.sync, whose FLOP alone
    # are known; facts of rows are loaded 16 bytes a thread, too.
    return sorted(
        bodies,
        key=lambda body: (
            not any(x.base == "UTCHMMA" for x in body), -sum(x.flop for x in body), -rows_loaded(body), len(body),
        ),
    )  # fmt: skip


def tile_flop(launch: Launch) -> int:
    """Of the products of a tile: logits, and in the gradient their product with the rows."""
    tile = launch.tile
    products = 2 if "gradient" in launch.name else 1
    passes = 3 if launch.words & {"tf32x3", "fp16x3"} else 1
    return 2 * tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_D * products * passes


def synchronous_tile(body: Iterable[sass.Instruction], warps: int, exposed: bool) -> Tile:
    """Of products whose operands come through registers (mma.sync)."""
    body = list(body)
    moved = sum(x.bytes for x in body if x.pipe == "shared" or x.base == "LDGSTS")
    matrices = [x for x in body if x.base == "LDSM"]
    return Tile(
        flop=sum(x.flop for x in body) * warps,
        instructions=Counter({pipe: n * warps for pipe, n in sass.by_pipe(body).items()}),
        shared_bytes=moved * warps,
        operand_bytes=sum(x.bytes for x in matrices) * warps,
        operand_loads=len(matrices) * warps,
        global_bytes=sum(x.bytes for x in body if x.base in ("LDGSTS", "LDG", "STG")) * warps,
        barriers=sum(x.base == "BAR" for x in body),
        exposed=exposed,
    )


def tile_of(body: list[sass.Instruction], launch: Launch) -> Tile:
    warps, stages = launch.warps, launch.options["num_stages"]
    if any(x.base == "HMMA" for x in body):
        return synchronous_tile(body, warps, exposed=stages < 3)  # Triton keeps stages - 1 tiles
    by_tensor_cores = sum(x.operand_bytes for x in body)
    if launch.architecture == 100:  # SASS has no shapes: both operands from shared memory, each once
        sizes = launch.tile
        by_tensor_cores = (sizes.BLOCK_M + sizes.BLOCK_N) * sizes.BLOCK_D * 2 // warps
    tile = synchronous_tile(body, warps, exposed=stages < 2)  # with wgmma one tile more
    return replace(
        tile,
        flop=tile.flop or tile_flop(launch),  # tcgen05 does not tell
        shared_bytes=tile.shared_bytes + by_tensor_cores * warps,
        operand_bytes=by_tensor_cores * warps,
        operand_loads=0,
    )


def resident(gpu: GPU, registers: int, shared: int, warps: int) -> int:
    """Blocks on an SM at a time; the driver keeps a KiB of shared memory for each."""
    a_block = -(-registers // 8) * 8 * WARP * warps
    return min(gpu.shared // (shared + 1024), gpu.registers // a_block, gpu.warps // warps)


class Prediction(NamedTuple):
    seconds: tuple[float, float]  # if units overlap, and if not
    flop: float  # that the products of its tiles need
    bound: str

    def fraction(self, gpu: GPU) -> tuple[float, float]:
        """Of the dense peak."""
        return self.flop / self.seconds[0] / gpu.peak, self.flop / self.seconds[1] / gpu.peak


class Grid(NamedTuple):
    """Blocks that meet so many tiles each, some of them masked."""

    blocks: int
    resident: int  # on an SM at a time
    tiles: float  # of a block
    masked: float  # fraction of them
    row_blocks: int = 1  # that a block takes one after the other
    masked_tiles: float = 1.0  # that a tile is cut into where masks are needed


def seconds(gpu: GPU, grid: Grid, plain: Tile, masked: Tile) -> tuple[float, float]:
    """If the units of an SM overlap, and if not."""

    def tiles(one: float, other: float) -> float:
        return grid.tiles * ((1 - grid.masked) * one + grid.masked * grid.masked_tiles * other)

    busy = tiles(plain.overlapping(gpu), masked.overlapping(gpu))
    apart = tiles(plain.serial(gpu), masked.serial(gpu))
    start = grid.row_blocks * START * L2_LATENCY

    def wave(blocks: int, alone: float) -> float:
        """Cycles of so many blocks on an SM."""
        return max(blocks * busy, alone + start) if blocks else 0.0

    full, rest = divmod(grid.blocks, gpu.sms * grid.resident)
    last = -(-rest // gpu.sms)
    overlapping, serial = (
        (full * wave(grid.resident, alone) + wave(last, alone)) / gpu.clock for alone in (busy, apart)
    )
    return overlapping, serial


def masked_fraction(N: int, m: int, n: int) -> float:
    """Of the tiles [m, n] of self contrast."""
    return min(1.0, 1 / CLASSES + (m + n) / N)


def dram_bytes(gpu: GPU, N: int, row_bytes: int, waves: int, group_bytes: float | None, tile_bytes: float) -> float:
    """That a kernel reads: of sums, blocks side by side read `group_bytes` of different columns (None: a gradient,
    whose blocks of a wave read the same columns at about the same time); `tile_bytes` are those of all tiles."""
    if group_bytes is not None and group_bytes > gpu.l2:
        return tile_bytes
    if group_bytes is not None or N * row_bytes <= gpu.l2:
        return N * row_bytes
    return waves * N * row_bytes


def predict(compiled: Compiled, gpu: GPU, N: int) -> Prediction:
    """Of the sums or the gradient kernel of self contrast, launched for N rows in CLASSES classes of equal size."""
    launch = compiled.launch
    programs = math.prod(launch.grid)
    m, n = launch.tile.BLOCK_M, launch.tile.BLOCK_N
    sums = "sums" in launch.name
    plain, masked = (tile_of(body, launch) for body in tile_loops(compiled))
    grid = Grid(
        blocks=programs,
        resident=resident(gpu, compiled.registers, compiled.shared, launch.warps),
        tiles=(N / m) * (N / n) * (0.5 + m / N if sums else 1.0) / programs,
        masked=masked_fraction(N, m, n),
        row_blocks=-(-launch.argument("size_x") // m) if sums else 1,
        masked_tiles=plain.flop / masked.flop,
    )
    compute = seconds(gpu, grid, plain, masked)
    row_bytes = launch.arguments[0][0].numel() * launch.arguments[0].element_size()
    side_by_side = gpu.sms * grid.resident
    group_bytes = min(side_by_side, launch.argument("groups")) * launch.argument("size_y") * row_bytes if sums else None
    waves = programs // side_by_side + 1
    dram = dram_bytes(gpu, N, row_bytes, waves, group_bytes, grid.tiles * programs * n * row_bytes) / gpu.dram_rate
    bound = "DRAM" if dram > compute[0] else plain.busiest(gpu)
    return Prediction((max(compute[0], dram), max(compute[1], dram)), grid.tiles * programs * tile_flop(launch), bound)
