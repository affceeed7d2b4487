"""Whole kernels for sm_90a: one by hand, and products that Triton makes of descriptors."""

import re
from collections.abc import Callable
from typing import Any

import ptxemu
import pytest
import torch
from ptxemu import TensorMap

Cuda = Callable[..., ptxemu.Result]
triton = pytest.importorskip("triton")
tl = triton.language


def matrices(M: int, N: int, K: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(M, K).bfloat16(), torch.randn(N, K).bfloat16(), torch.zeros(M, N).bfloat16()


def check(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(c.double(), a.double() @ b.double().T, rtol=1e-2, atol=1e-2)


# By hand


def gemm(hopper: Cuda, edit: Callable[[str], str] = str) -> ptxemu.Result:
    a, b, c = matrices(256, 128, 328)
    maps = [TensorMap.of(x, (rows, 64), 128) for x, rows in ((a, 64), (b, 32), (c, 64))]
    result = hopper("hopper_gemm.cu", "gemm", (2, 2), 384, [*maps, 328], dynamic_smem=90112, profile=True, edit=edit)
    check(c, a, b)
    return result


def test_producers_consumers_and_a_cluster(hopper: Cuda) -> None:
    result = gemm(hopper)
    assert result.warnings == []
    assert result.profile.flops == 2 * 256 * 128 * 384
    assert result.traffic["arg1", "read"].bytes == 2 * 64 * 328 * 2  # once a cluster


def without(pattern: str, number: int = 0) -> Callable[[str], str]:
    """The text without an instruction."""

    def edit(text: str) -> str:
        found = list(re.finditer(rf"[^;{{}}\n]*{pattern}[^;]*;", text))
        return text[: found[number].start()] + text[found[number].end() :]

    return edit


def with_other(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (without("wgmma.wait_group"), "RaceError", "write after read.* a wgmma of warpgroup"),
        (without("fence.proxy.async"), "ProxyError", "no fence.proxy.async"),
        (without("bar.sync"), "RaceError", "read after write"),
        (without("mbarrier.arrive.release.cluster"), "DeadlockError", "lacks [24] of 4 arrivals"),
        (without("cp.async.bulk.wait_group"), "PendingCopyError", "may still read"),
        (
            with_other("inc.sync.aligned.u32 232", "inc.sync.aligned.u32 240"),
            "RegisterB",
            "at a setmaxnreg",
        ),
        (without("barrier.cluster.wait"), "RaceError|BarrierError|ClusterError", "mbarrier|cluster"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_fault_in_it_is_found(edit: Callable[[str], str], error: str, message: str, hopper: Cuda) -> None:
    with pytest.raises(ptxemu.EmuError, match=message) as found:
        gemm(hopper, edit)
    assert re.match(error, type(found.value).__name__)


# Triton's


@triton.jit
def described_kernel(a_desc, b_desc, c_desc, K, M: tl.constexpr, N: tl.constexpr, DEPTH: tl.constexpr):
    row, column = tl.program_id(0) * M, tl.program_id(1) * N
    sums = tl.zeros((M, N), tl.float32)
    for k in tl.range(0, K, DEPTH):
        sums = tl.dot(a_desc.load([row, k]), b_desc.load([column, k]).T, sums)
    c_desc.store([row, column], sums.to(tl.bfloat16))


@triton.jit
def describing_kernel(
    a_ptr, b_ptr, c_ptr, sizes, K, M: tl.constexpr, N: tl.constexpr, DEPTH: tl.constexpr, SPECIAL: tl.constexpr
):
    """Which makes its descriptors, and perhaps has a warp that only loads."""
    row, column = tl.program_id(0) * M, tl.program_id(1) * N
    a_desc = tl.make_tensor_descriptor(a_ptr, [sizes, K], [K, 1], [M, DEPTH])
    b_desc = tl.make_tensor_descriptor(b_ptr, [sizes, K], [K, 1], [N, DEPTH])
    c_desc = tl.make_tensor_descriptor(c_ptr, [sizes, sizes], [sizes, 1], [M, N])
    sums = tl.zeros((M, N), tl.float32)
    for k in tl.range(0, K, DEPTH, warp_specialize=SPECIAL):
        sums = tl.dot(a_desc.load([row, k]), b_desc.load([column, k]).T, sums)
    c_desc.store([row, column], sums.to(tl.bfloat16))


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], **options: Any) -> Any:
    signature = types | dict.fromkeys(constants, "constexpr")
    divisible = {(i,): [["tt.divisibility", 16]] for i, x in enumerate(types.values()) if x[0] == "*"}
    source = triton.compiler.ASTSource(kernel, signature, constants, divisible)
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": 4, "num_stages": 3, **options})


@pytest.mark.parametrize("options", [{}, {"num_ctas": 2, "num_warps": 8}], ids=["", "cluster"])
def test_descriptors_of_the_host(options: dict[str, int]) -> None:
    from triton.tools.tensor_descriptor import TensorDescriptor

    a, b, c = matrices(200, 256, 200)
    types = {f"{x}_desc": f"tensordesc<bf16[128,{n}]>" for x, n in (("a", 64), ("b", 64), ("c", 128))}
    kernel = compiled(described_kernel, {**types, "K": "i32"}, {"M": 128, "N": 128, "DEPTH": 64}, **options)
    shapes = ((a, [128, 64]), (b, [128, 64]), (c, [128, 128]))
    descriptors = [TensorDescriptor.from_tensor(x, shape) for x, shape in shapes]
    assert ptxemu.launch_triton(kernel, (2, 2), *descriptors, 200).warnings == []
    check(c, a, b)


@pytest.mark.parametrize("special", [False, True], ids=["", "specialised"])
def test_descriptors_of_the_kernel(special: bool) -> None:
    a, b, c = matrices(136, 136, 200)
    types = {"a_ptr": "*bf16", "b_ptr": "*bf16", "c_ptr": "*bf16", "sizes": "i32", "K": "i32"}
    kernel = compiled(describing_kernel, types, {"M": 128, "N": 128, "DEPTH": 64, "SPECIAL": special})
    assert ("setmaxnreg" in kernel.asm["ptx"]) == special
    assert ptxemu.launch_triton(kernel, (2, 2), a, b, c, 136, 200).warnings == []
    check(c, a, b)
