"""Every Triton kernel compiled for every architecture, without a GPU: what must hold of the machine code.

By default every row of the launch table is compiled for every architecture (of sm_86 and sm_89, which share rows, half
for each), and each variant for one;
FASTPIXCON_AOT=all compiles every variant for every architecture, which takes hours.
"""

import os
import re

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
TILES = ("info_nce_sums_kernel", "info_nce_positives_kernel", "info_nce_gradient_kernel")
BANK_TILES = ("memory_sums_kernel", "memory_positives_kernel", "mining_counts_kernel")  # one loop over tiles


def complaints(compiled: Compiled) -> list[str]:
    architecture = compiled.launch.architecture
    found = []
    if compiled.spills:
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
    wanted = {TENSOR[launch.architecture], "HMMA"}  # tiles of fewer than 64 rows are mma.sync everywhere
    if not names or not names <= wanted:
        return [f"tensor-core instructions: {names}, want {wanted}"]
    if launch.words & {"fp16x1", "fp16x3"} and re.search(r"tf32|bf16", compiled.ptx):
        return ["products of TF32 or bfloat16, want float16"]
    if tile.BLOCK_K < tile.BLOCK_D:  # the parts are a loop of their own
        bodies = [loop.body for loop in sass.tensor_leaves(sass.loops(compiled.code))]
        # of halves, in masked tiles of a gradient, there are too few for every thread
        return wide_loads(bodies[:1] if "fp16x3" in launch.words else bodies, launch, 1)
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
    at_a_time = want
    if "fp16x3" in launch.words:  # halves, in chunks of 64 columns
        at_a_time = want * min(64, tile.BLOCK_K) // tile.BLOCK_K
        want *= 2
    if at_a_time < 16 * 32 * launch.warps:
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


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("separate", [False, True])
def test_unit_rows_of_float32_are_multiplied_as_float16(architecture: int, separate: bool) -> None:
    """Not rows of any norm, whose logits have no bound."""
    for tf32, word in ((False, "fp16x3"), (True, "fp16x1")):
        problem = aot_problems.InfoNCE(64, torch.float32, M=4096 if separate else None, tf32=tf32)
        launches = [launch for launch in problem.launches(architecture) if launch.name in TILES]
        assert len(launches) == 3 + separate
        for launch in launches:
            assert word in launch.words
            assert {x.dtype for x in (launch.argument("x_ptr"), launch.argument("y_ptr"))} == {torch.float16}
    for launch in aot_problems.InfoNCE(64, torch.float32, rows="any", fixed=False).launches(architecture):
        assert launch.name not in TILES or launch.argument("x_ptr").dtype == torch.float32


@pytest.mark.parametrize("architecture", [80, 90])
def test_a_bank_of_float32_is_multiplied_as_float16(architecture: int) -> None:
    for tf32, word in ((False, "fp16x3"), (True, "fp16x1")):
        problem = aot_problems.Memory(64, torch.float32, mined=True, tf32=tf32)
        launches = [launch for launch in problem.launches(architecture) if launch.name in BANK_TILES]
        assert {launch.name for launch in launches} == set(BANK_TILES)
        for launch in launches:
            assert word in launch.words
            bank = launch.argument("y_ptr" if "mining" in launch.name else "bank_ptr")
            assert {launch.argument("x_ptr").dtype, bank.dtype} == {torch.float16}


def test_the_table_in_docs_is_of_what_is_launched() -> None:
    """python bench/machine_code/triton_table.py > docs/triton-kernels.md"""
    assert triton_table.stale(triton_table.DOCUMENT.read_text()) == []
