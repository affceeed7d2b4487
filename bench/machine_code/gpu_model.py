"""How long a kernel should take on a GPU, *predicted* from what its loops execute and published rates.

A tile costs every unit of a multiprocessor (SM) some cycles; if they all overlap the busiest decides. But a warp issues
one instruction after the other, waits for tensor cores and for loads, and queues with others for the units: that is
what is expected. Five constants of it, ``ISSUE_EVERY`` to ``REST``, were fitted to some of what an H200 was measured
at; ``measured.py`` has all of that beside what is predicted. ``Prediction`` has both times.
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
    synchronous: float = 1.0  # of `tensor`, what mma.sync reaches
    sustained: float = 1.0  # of the peak, what products of large matrices reach; measured on H200 alone
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
    # H200 SXM datasheet: 989.4 TFLOPS dense, 132 SM at 1.83 GHz = 4096; L2 50 MB; 4.8 TB/s. L2: 5.5 TB/s in public
    # microbenchmarks of the smaller H100 PCIe, and what plain 128 x 256 matmul tiles need at 600 TFLOPS: 7 TB/s.
    # mma.sync: 62.9 % of the peak (Luo et al. 2024, "Benchmarking and dissecting the NVIDIA Hopper GPU architecture").
    # torch.mm: 734 TFLOPS, docs/gpu.md; power keeps the clock below its boost.
    90: GPU("H200", 90, 132, 1.83e9, 4096, 128, 64, 228 << 10, 50e6, 4096, 4800e9, 0.629, 734 / 989.4),
    # HGX B200 datasheet: 2250 TFLOPS dense, 8 TB/s; 148 SM at 1.85 GHz = 8192; L2 126 MB, its rate taken as H100's for
    # every SM.
    100: GPU("B200", 100, 148, 1.85e9, 8192, 128, 64, 228 << 10, 126e6, 4600, 8000e9),
}
BARRIER = 30  # cycles that a block waits at each, from public microbenchmarks of bar.sync
RELOAD = 33  # cycles to L1, where spilled registers come from: public microbenchmarks of H100
TEAM = 4  # warps, one on each scheduler: what has a group of wgmma together
# Fitted to rows of measured.py, of an H200 at the clock above; taken for other GPUs, too.
ISSUE_EVERY = 1.3  # cycles between two instructions of a warp that has a scheduler for itself
PRODUCT_WAIT = 550  # cycles from a group of wgmma to its sums, beyond the products, with the fences around it
LOAD_WAIT = 600  # cycles that a load takes for which nothing else is done
START = 44  # such loads one after the other before a block of rows has its first tile, and after its last
REST = 75e-6  # seconds: what a step launches beside the kernels of tiles, sorts above all; half of it forward


CLASSES = 19  # of the problem that is predicted, all alike; their tiles go through the masked loops


@dataclass(frozen=True)
class Tile:
    """What a block of warps executes for one tile."""

    products: float  # FLOP executed, those of TF32 twice; more than needed where warps repeat each other's
    instructions: Counter[str]  # of all its warps, by pipe
    shared_bytes: float  # moved by instructions and read by the tensor cores
    operand_bytes: float  # the tensor cores' part of it
    global_bytes: float
    barriers: int
    warps: int
    asynchronous: bool  # wgmma, tcgen05: products that are waited for
    product_waits: int = 0
    load_waits: int = 0  # for loads that have just been asked for
    reloads: int = 0  # of spilled registers, a warp

    @property
    def issued(self) -> int:
        return sum(self.instructions.values())

    @property
    def teams(self) -> float:
        return max(1.0, self.warps / TEAM)

    def cycles(self, gpu: GPU) -> dict[str, float]:
        """Of an SM, for each of its units."""
        n = self.instructions
        both = (n["fma"] + n["imad"]) * WARP / gpu.fp32  # IMAD uses the same lanes, half of them since sm_86
        return {
            "tensor": self.products / gpu.tensor / (1.0 if self.asynchronous else gpu.synchronous),
            "exp": n["mufu"] * WARP / gpu.mufu,
            "issue": self.issued / gpu.issue,
            "float": max(both, n["imad"] * WARP / 64),
            "integer": n["alu"] * WARP / gpu.int32,
            "convert": n["convert"] * WARP / gpu.convert,
            "shuffle": n["shuffle"] * WARP / gpu.shuffle,
            "shared": self.shared_bytes / gpu.shared_rate,
            "L2": l2_cycles(gpu, self.global_bytes),
        }

    def busiest(self, gpu: GPU) -> str:
        cycles = self.cycles(gpu)
        return max(cycles, key=lambda unit: cycles[unit])

    def overlapping(self, gpu: GPU) -> float:
        return max(self.cycles(gpu).values())

    def alone(self, gpu: GPU) -> float:
        """Cycles of a team that has the SM for itself: instructions one after the other, and all that it waits for. Of
        products that come through registers, the instructions are those of the products, too."""
        cycles = self.cycles(gpu)
        between = self.issued - (self.instructions["tensor"] if self.asynchronous else 0)
        busy = between / self.warps * ISSUE_EVERY
        if self.asynchronous:
            busy += max(cycles["tensor"], self.operand_bytes / gpu.shared_rate) / self.teams
        else:
            busy = max(busy, *(cycles[unit] / self.teams for unit in cycles if unit != "L2"))
        waiting = self.product_waits * PRODUCT_WAIT + self.barriers * BARRIER + self.reloads * RELOAD
        if self.load_waits:
            waiting += self.load_waits * LOAD_WAIT + cycles["L2"]
        return max(busy + waiting, self.overlapping(gpu) / self.teams)


def l2_cycles(gpu: GPU, moved: float) -> float:
    return moved / min(64, gpu.l2_rate / gpu.sms)


def queued(demand: float, alone: float, customers: int) -> float:
    """Cycles until each of them has had `demand` of one unit and all else, which takes `alone` without the others:
    mean value analysis of a closed queue."""
    waiting = 0.0  # in the queue when another one comes
    time = alone
    for number in range(1, customers + 1):
        time = alone + demand * waiting
        waiting = number * demand * (1 + waiting) / time
    return time


def expected(gpu: GPU, tile: Tile, blocks: int) -> float:
    """Cycles in which so many blocks on an SM get through a tile each."""
    return queued(tile.overlapping(gpu) / tile.teams, tile.alone(gpu), round(blocks * tile.teams))


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
    """Of products whose operands come through registers (mma.sync). Spilled registers go through the port of shared
    memory."""
    body = list(body)
    moved = sum(x.bytes for x in body if x.pipe in ("shared", "local") or x.base == "LDGSTS")
    return Tile(
        products=sum(x.flop * (2 if "TF32" in x.name else 1) for x in body) * warps,
        instructions=Counter({pipe: n * warps for pipe, n in sass.by_pipe(body).items()}),
        shared_bytes=moved * warps,
        operand_bytes=sum(x.bytes for x in body if x.base == "LDSM") * warps,
        global_bytes=sum(x.bytes for x in body if x.base in ("LDGSTS", "LDG", "STG")) * warps,
        barriers=sum(x.base == "BAR" for x in body),
        warps=warps,
        asynchronous=False,
        load_waits=max(1, sum(x.base == "DEPBAR" for x in body)) if exposed else 0,
        reloads=sum(x.base == "LDL" for x in body),
    )


def tile_of(body: list[sass.Instruction], launch: Launch, masked: bool = False) -> Tile:
    """`masked`: of a second loop, which asks for no rows ahead."""
    warps, sizes = launch.warps, launch.tile
    ahead = launch.options["num_stages"] - any(x.base == "HMMA" for x in body)  # tiles that Triton keeps
    exposed = ahead < 2 or (masked and sizes.BLOCK_K == sizes.BLOCK_D)
    tile = synchronous_tile(body, warps, exposed)
    if any(x.base == "HMMA" for x in body):
        return tile
    by_tensor_cores = sum(x.operand_bytes for x in body) * warps
    waits = sum(x.name.startswith("WARPGROUP.DEPBAR") for x in body)
    if launch.architecture == 100:  # SASS has no shapes: both operands from shared memory, each once
        by_tensor_cores = (sizes.BLOCK_M + sizes.BLOCK_N) * sizes.BLOCK_D * 2
        waits = 2 if "gradient" in launch.name else 1
    return replace(
        tile,
        products=tile.products or tile_flop(launch),  # tcgen05 does not tell
        shared_bytes=tile.shared_bytes + by_tensor_cores,
        operand_bytes=by_tensor_cores,
        asynchronous=True,
        product_waits=waits,
    )


def resident(gpu: GPU, registers: int, shared: int, warps: int) -> int:
    """Blocks on an SM at a time; the driver keeps a KiB of shared memory for each."""
    a_block = -(-registers // 8) * 8 * WARP * warps
    return min(gpu.shared // (shared + 1024), gpu.registers // a_block, gpu.warps // warps)


class Prediction(NamedTuple):
    seconds: tuple[float, float]  # if units overlap, and as expected
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
    row_block_bytes: float = 0.0  # loaded for each
    masked_tiles: float = 1.0  # that a tile is cut into where masks are needed


def seconds(gpu: GPU, grid: Grid, plain: Tile, masked: Tile) -> tuple[float, float]:
    """If the units of an SM overlap, and as expected."""

    def tiles(one: float, other: float) -> float:
        return grid.tiles * ((1 - grid.masked) * one + grid.masked * grid.masked_tiles * other)

    busy = tiles(plain.overlapping(gpu), masked.overlapping(gpu))
    alone = tiles(plain.alone(gpu), masked.alone(gpu))
    start = grid.row_blocks * (START * LOAD_WAIT + l2_cycles(gpu, grid.row_block_bytes))

    def wave(blocks: int) -> tuple[float, float]:
        """Cycles of so many blocks on an SM."""
        if not blocks:
            return 0.0, 0.0
        teams = round(blocks * plain.teams)
        return max(blocks * busy, busy + start), queued(busy / plain.teams, alone, teams) + start

    full, rest = divmod(grid.blocks, gpu.sms * grid.resident)
    waves = wave(grid.resident), wave(-(-rest // gpu.sms))
    overlapping, expected = ((full * of_full + of_rest) / gpu.clock for of_full, of_rest in zip(*waves, strict=True))
    return overlapping, expected


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


class Work(NamedTuple):
    """A launch of self contrast, by all that its time is predicted from."""

    kernel: str  # "sums", "positives" or "gradient"
    N: int
    row_bytes: int
    m: int  # rows and columns of a tile
    n: int
    masked_n: int  # columns of a masked tile
    flop: int  # that the products of a tile need
    registers: int
    shared: int  # bytes a block
    blocks: int
    rows: int  # that a block takes, m at a time
    groups: int  # of sums, blocks side by side; 0: of a gradient, whose blocks read the same columns
    plain: Tile
    masked: Tile


def work_of(compiled: Compiled, N: int) -> Work:
    launch = compiled.launch
    sizes = launch.tile
    sums = "sums" in launch.name
    tiles = [tile_of(body, launch, number == 1) for number, body in enumerate(tile_loops(compiled))]
    return Work(
        launch.name.removeprefix("info_nce_").removesuffix("_kernel"),
        N,
        launch.arguments[0][0].numel() * launch.arguments[0].element_size(),
        sizes.BLOCK_M,
        sizes.BLOCK_N,
        sizes.MASKED_N or sizes.BLOCK_N,
        tile_flop(launch),
        compiled.registers,
        compiled.shared,
        math.prod(launch.grid),
        launch.argument("size_x") if sums else sizes.BLOCK_M,
        launch.argument("groups") if sums else 0,
        tiles[0],
        tiles[-1],
    )


def tiles_in_all(work: Work) -> float:
    """Of all blocks: the triangle, the classes of a block of rows, or everything."""
    N, m, n = work.N, work.m, work.n
    if work.kernel == "positives":
        return N / m * ((N / CLASSES + m) / n + 1)
    return (N / m) * (N / n) * (0.5 + m / N if work.kernel == "sums" else 1.0)


def predict(work: Work, gpu: GPU) -> Prediction:
    """In CLASSES classes of equal size."""
    tiles = tiles_in_all(work)
    grid = Grid(
        blocks=work.blocks,
        resident=resident(gpu, work.registers, work.shared, work.plain.warps),
        tiles=tiles / work.blocks,
        masked=0.0 if work.kernel == "positives" else masked_fraction(work.N, work.m, work.n),
        row_blocks=-(-work.rows // work.m),
        row_block_bytes=work.m * work.row_bytes,
        masked_tiles=work.n / work.masked_n,
    )
    compute = seconds(gpu, grid, work.plain, work.masked)
    side_by_side = gpu.sms * grid.resident
    group_bytes = min(side_by_side, work.groups) * work.rows * work.row_bytes if work.groups else None
    waves = work.blocks // side_by_side + 1
    dram = dram_bytes(gpu, work.N, work.row_bytes, waves, group_bytes, tiles * work.n * work.row_bytes) / gpu.dram_rate
    least = max(dram, tiles * work.plain.products / gpu.peak / gpu.sustained)
    bound = work.plain.busiest(gpu) if compute[0] >= least else "DRAM" if least == dram else "power"
    return Prediction((max(compute[0], least), max(compute[1], least)), tiles * work.flop, bound)
