"""The CUDA kernels as they were built, for every architecture, without a GPU: what must hold of the machine code."""

import importlib.util
import math
import re
import shutil
from typing import Any

import pytest
import torch

from fastpixcon.ops import define, extension
from fastpixcon.testing.accuracy import leaves
from fastpixcon.values import BankRows, Pairs, Rows, Rule, Statistics

if "CUDA" not in extension.build.get("devices", "").split(","):
    pytest.skip(extension.reason or "fastpixcon._C was built without CUDA kernels", allow_module_level=True)
if importlib.util.find_spec("triton") is None:
    pytest.skip("cuobjdump comes with Triton, which is not installed", allow_module_level=True)

import cuda_binary
import cuda_emulated
import cuda_model
import gpu_model
import sass
from harness import compiled_cuda

ARCHITECTURES = sorted(
    {int(a.replace(".", "")) for a in re.findall(r"\d+\.\d+", extension.build["cuda architectures"])}
)
TILES = ("info_nce_sums", "info_nce_positives", "info_nce_gradient", "contrast_rows", "count_cosines")


def kernels(architecture: int) -> list[cuda_binary.Kernel]:
    return [k for k in cuda_binary.kernels() if k.architecture == architecture]


def test_every_kernel_is_there_for_every_architecture() -> None:
    names = {a: {k.symbol for k in kernels(a) if not k.is_of_sm90} for a in ARCHITECTURES}
    assert {k.architecture for k in cuda_binary.kernels()} == set(ARCHITECTURES)
    assert all(there == names[ARCHITECTURES[0]] for there in names.values())
    assert any(name in k.name for name in TILES for k in cuda_binary.kernels())
    if "+PTX" in extension.build["cuda architectures"]:
        assert f"sm_{ARCHITECTURES[0]}" in cuda_binary.embedded_ptx()
    assert all((a == 90) == any(k.is_of_sm90 for k in kernels(a)) for a in ARCHITECTURES)


def spills(kernel: cuda_binary.Kernel, code: list[sass.Instruction]) -> bool:
    """More than 8 bytes, or in a loop of products: what is set aside around such a loop costs nothing in it. Where
    there is none, ptxas may make do with so few registers that more warps run."""
    loops = sass.tensor_leaves(sass.loops(code))
    in_loops = any(x.base in ("LDL", "STL") for loop in loops for x in loop.body)
    return kernel.stack > 8 or (in_loops if loops else kernel.stack > 0 and kernel.registers > 64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture: int) -> None:
    """No spills, no float64; where tiles are multiplied tensor cores, fed 16 bytes a thread."""
    wrong = {}
    for kernel in kernels(architecture):
        code = cuda_binary.code(kernel)
        doubles = {x.name for x in code if sass.FLOAT64.match(x.name)}
        found = [] if "<double" in kernel.name else sorted(doubles)  # of logits
        if any(name in kernel.name for name in TILES) and not kernel.is_of_sm90:
            names = {x.base for x in code}
            # Logits alone are plain float32 there; gradients, which those under rules make, are products besides.
            gradient = "gradient" in kernel.name or re.search(r"contrast_rows<.*, true>", kernel.name) is not None
            without_tensor_cores = "Precision)5" in kernel.name and not gradient
            if ("HMMA" in names) == without_tensor_cores:
                found.append("tensor cores" if without_tensor_cores else "no tensor cores")
            if not any(x.base == "LDGSTS" and ".128" in x.name for x in code):
                found.append("no copies of 16 bytes")
        if kernel.stack and spills(kernel, code):
            found.append(f"spills: {kernel.stack} bytes")
        if found:
            wrong[kernel.name] = found
    assert not wrong


@pytest.mark.skipif(90 not in ARCHITECTURES, reason="not built for sm_90")
def test_machine_code_of_sm90() -> None:
    """No spills; products of warpgroups go on while H is made, which ptxas may forbid: of a tile of a gradient there
    are two groups of them, begun together, of which the former is waited for first; of sums one. Copies in bulk, or of
    16 bytes a thread."""
    of_sm90 = [kernel for kernel in kernels(90) if kernel.is_of_sm90]
    assert all(kernel.stack == 0 for kernel in of_sm90)
    panels, tiles = [[k for k in of_sm90 if ("panels" in k.name) == wanted] for wanted in (True, False)]
    assert (len(panels), len(tiles)) == (1, 12)
    for kernel in tiles:
        gradient, code = "gradient" in kernel.name, cuda_binary.code(kernel)
        (loop,) = sass.tensor_leaves(sass.loops(code))
        assert not {"LDL", "STL", "HMMA"} & {x.base for x in loop.body}
        groups = [x for x in loop.body if x.base == "HGMMA" and x.operands.endswith("gsb0")]
        assert len(groups) == (2 if gradient else 1)
        waits = sorted(x.operands[-1] for x in loop.body if x.name.startswith("WARPGROUP.DEPBAR"))
        assert waits == (["0", "0", "1"] if gradient else ["0"])  # "0": of H with masks, and without
        assert [x.name for x in loop.body].count("WARPGROUP.ARRIVE") == 1
        assert "UBLKCP" in {x.base for x in code}
    names = {x.name for x in cuda_binary.code(panels[0])}
    assert {"LDG.E.128", "STG.E.128"} <= {re.sub(r"\.CONSTANT|\.STRONG.*", "", name) for name in names}


def native(operator: str, *values: Any) -> Any:
    return define.OVERLOADS["native", operator](*leaves(operator, *values))


def sweep(x: torch.Tensor, labels: torch.Tensor, fixed: bool, mined: torch.Tensor | None) -> None:
    """Over a bank and over the batch, mined or not."""
    bank = BankRows(x.new_zeros(3, 50, x.shape[1]), torch.zeros(3, 50, dtype=torch.int32))
    pairs = Pairs(0, mined, None if mined is None else torch.tensor(0))
    rule, rows = Rule(torch.tensor(0.1), "all", fixed, True), Rows(x, labels)
    log_sum, _ = native("memory_sums", rows, bank, rule, pairs, True)
    native("memory_positives", rows, bank, rule, pairs, log_sum, True)
    log_sum, _ = native("contrast_sums", rows, rows, rule, pairs, False)
    loss, weight, mass, *_ = native("contrast_positives", rows, rows, rule, pairs, log_sum, None)
    statistics = Statistics(loss, log_sum, weight, mass)
    native("contrast_gradient", statistics, None, rows, rows, rule, pairs, [True, True, True])
    native("mining_thresholds", rows, rows, 0, bank, "any", "any", "hardest", "hardest", 0.1, [5, 5])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_shared_memory_is_within_the_limit(architecture: int, dtype: torch.dtype) -> None:
    """Static and dynamic, of every launch at every width, both with a fixed shift and without."""
    limit = cuda_binary.SHARED_LIMIT[architecture]
    static = {k.symbol: k.shared for k in kernels(architecture)}
    recorder = cuda_emulated.Recorder(shared=limit, sm90=architecture == 90)
    with compiled_cuda.launching(recorder):
        for D in (1, 16, 64, 100, 128, 192, 256, 320, 512):
            x, labels = torch.zeros(300, D, dtype=dtype), torch.zeros(300, dtype=torch.int32)
            for fixed in (False, True):
                given = (Rows(x, labels), None, Rule(torch.tensor(0.1), "negatives", fixed, True), "unit")
                statistics = Statistics(*native("info_nce", *given))
                native("info_nce_backward", statistics, *given, [True, False, True])
                for mined in (None, torch.zeros(4, 300)):
                    sweep(x, labels, fixed, mined)
    asked = {call[0]: call[3] + static[call[0]] for call in recorder.calls}
    assert {name: n for name, n in asked.items() if n > limit} == {}
    for kernel in ("gradient", "contrast_rows", "count_cosines"):
        assert any(kernel in name for name in asked)
    assert all(math.prod(call[2]) <= 1024 for call in recorder.calls)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the path")
@pytest.mark.parametrize("make", [cuda_model.sums_kernel, cuda_model.gradient_kernel])
def test_tiles_are_predicted_to_go_at_three_fifths_of_the_peak(make: Any) -> None:
    """Before what blocks of rows begin and end with, which may be more or less on an A100 than on the H200 where the
    model has it from."""
    gpu = gpu_model.GPUS[80]
    kernel = make(256, gpu)
    work = cuda_model.work(kernel, gpu, 256, 65536)
    blocks = gpu_model.resident(gpu, work.registers, work.shared, kernel.warps)
    assert blocks * work.flop / gpu.tensor >= 0.6 * gpu_model.expected(gpu, work.plain, blocks)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the path")
@pytest.mark.parametrize(("make", "D"), [(cuda_model.sums_kernel, 128), (cuda_model.gradient_kernel, 256)])
def test_the_model_counts_what_was_executed(make: Any, D: int) -> None:
    """A tile in the model is as much as the emulator executes: products, matrices loaded, exponentials, copies."""
    kernel = make(D, gpu_model.GPUS[80])
    tile = cuda_model.tile(kernel, 80, D, masked=False)
    executed = cuda_emulated.executed_tile(kernel.name, D)
    assert tile.products == executed["flop"]
    assert tile.instructions["tensor"] == executed["mma"]
    assert tile.operand_bytes == 4 * 128 * executed["ldmatrix"]
    assert tile.instructions["mufu"] == executed["ex2"]
    assert tile.instructions["shuffle"] == executed["shfl"]
    assert executed["cp.async"] <= tile.instructions["global"] <= 1.6 * executed["cp.async"]
