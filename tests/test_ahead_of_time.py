"""Every Triton kernel compiled for every architecture, without a GPU: what must hold of the machine code.

By default every row of the launch table is compiled for every architecture (of sm_86 and sm_89, which share rows, half
for each), and each variant for one;
FASTPIXCON_AOT=all compiles every variant for every architecture, which takes hours.
"""

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET", "0") == "1":
    pytest.skip("this process interprets Triton", allow_module_level=True)

import ahead_of_time as aot
import aot_problems
import gpu_model
import sass
import triton_table
from ahead_of_time import Compiled

TENSOR = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
# Spills of these rows of float32 cost less than what they save, measured: docs/gpu.md.
MAY_SPILL = {(90, "info_nce_sums_kernel"), (90, "info_nce_gradient_kernel")}
TILES = ("info_nce_sums_kernel", "info_nce_positives_kernel", "info_nce_gradient_kernel")
BANK_TILES = ("memory_sums_kernel", "memory_positives_kernel", "mining_counts_kernel")  # one loop over tiles


def complaints(compiled: Compiled) -> list[str]:
    launch, architecture = compiled.launch, compiled.launch.architecture
    found = []
    may_spill = (architecture, launch.name) in MAY_SPILL and launch.arguments[0].dtype == torch.float32
    if compiled.spills and not may_spill:
        found.append(f"spills: {compiled.spills} instructions, {compiled.stack} bytes a thread")
    if compiled.shared > aot.SHARED_LIMIT[architecture]:
        found.append(f"shared memory: {compiled.shared} bytes, at most {aot.SHARED_LIMIT[architecture]}")
    if "f64" in compiled.ptx:  # ptxas brings in none
        found.append("float64")
    if compiled.launch.name in TILES + BANK_TILES:
        doubles = sorted({x.name for x in compiled.code if sass.FLOAT64.match(x.name)})
        found += [f"float64: {doubles}"] if doubles else []
        found += tile_complaints(compiled)
    return found


def tile_complaints(compiled: Compiled) -> list[str]:
    """Of kernels whose loops are products of tiles."""
    launch, tile = compiled.launch, compiled.launch.tile
    if "ieee" in launch.words and launch.arguments[0].dtype == torch.float32:
        return []  # no tensor core can
    if any(x.name.startswith("CALL.ABS") for x in compiled.code):
        return ["a call, which makes ptxas wait after every wgmma"]
    names = {x.base for x in compiled.code if x.pipe == "tensor"}
    wanted = {TENSOR[launch.architecture], "HMMA"}  # tiles of fewer than 64 rows and tf32x3 are mma.sync everywhere
    if not names or not names <= wanted:
        return [f"tensor-core instructions: {names}, want {wanted}"]
    if tile.BLOCK_K < tile.BLOCK_D:  # the parts are a loop of their own
        return wide_loads([loop.body for loop in sass.tensor_leaves(sass.loops(compiled.code))], launch, 1)
    if launch.name in BANK_TILES:
        loops = [loop.body for loop in sass.tensor_leaves(sass.loops(compiled.code))]
        return wide_loads(loops, launch, 1) if launch.options["D"] == tile.BLOCK_D else []
    loops = gpu_model.tile_loops(compiled)
    mined = launch.argument("mined_ptr") is not None or "x_grouped" in launch.words  # masks everywhere
    if len(loops) != (1 if "positives" in launch.name or mined else 2):
        return [f"{len(loops)} loops over tiles"]
    found = []
    want = gpu_model.tile_flop(launch)
    for number, body in enumerate(loops):
        flop = sum(x.flop for x in body) * launch.warps
        part = 1 if number == 0 else tile.BLOCK_N // tile.MASKED_N  # a masked tile is narrower
        plain = number == 0 and not mined
        most = 1.5 if tile.BLOCK_D <= 256 and plain else 4  # warps that share rows repeat their logits
        if launch.architecture != 100 and not want <= flop * part <= most * want:
            found.append(f"{flop} FLOP of tensor cores in a tile, want {want}")
        found += wide_loads([body], launch, part)
    return found


def wide_loads(loops: list[list[sass.Instruction]], launch: aot.Launch, part: int) -> list[str]:
    """The rows of a tile come 16 bytes at a time, if there are so many for every thread."""
    tile, size = launch.tile, launch.arguments[0].element_size()
    want = tile.BLOCK_N * tile.BLOCK_K * size // part
    if want < 16 * 32 * launch.warps:
        return []
    loaded = [
        sum(x.bytes for x in body if x.base in ("LDG", "LDGSTS") and ".128" in x.name) * launch.warps for body in loops
    ]
    return [f"{n} bytes of a tile's {want} are loaded 16 at a time" for n in loaded if n < want]


@pytest.mark.parametrize(("architecture", "problem"), aot_problems.chosen(), ids=str)
def test_machine_code(architecture: int, problem: aot_problems.Problem) -> None:
    wrong = {}
    for launch in problem.launches(architecture):
        found = complaints(aot.compile_launch(launch))
        if found:
            wrong[str(launch)] = found
    assert not wrong


def test_the_table_in_docs_is_of_what_is_launched() -> None:
    """python bench/machine_code/triton_table.py > docs/triton-kernels.md"""
    assert triton_table.stale(triton_table.DOCUMENT.read_text()) == []
