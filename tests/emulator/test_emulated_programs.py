"""Kernels in a few lines of PTX: scheduling, copies, what a launch refuses."""

import numpy as np
import ptxemu
import pytest
from handwritten import HEAD, kernel


def test_an_aligned_barrier_is_one_instruction() -> None:
    """Both halves of a warp reach a bar.sync 0, but not the same one."""
    text = kernel(
        """mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 16;
        @%p1 bra A;
        bar.sync 0;
        bra B;
    A:  bar.sync 0;
    B:  mov.u32 %r2, 1;""",
        "",
    )
    with pytest.raises(ptxemu.DivergenceError, match="lanes of one warp wait at different bar instructions"):
        ptxemu.launch(text, "k", 1, 64, [])
    ptxemu.launch(text.replace("bar.sync 0", "barrier.sync 0"), "k", 1, 64, [])


def test_who_is_early_waits_for_its_warp() -> None:
    """The block where the lanes meet lies before the branch."""
    text = kernel(
        """mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [p]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
        bra START;
    MEET:
        shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;
        bar.sync 0;
        st.global.u32 [%rd1], %r3;
        ret;
    START:
        mov.u32 %r2, %r1; and.b32 %r4, %r1, 1; setp.eq.u32 %p1, %r4, 0;
        @%p1 bra MEET;
        mul.lo.u32 %r2, %r2, 10;
        bra MEET;"""
    )
    result = np.zeros(64, np.uint32)
    ptxemu.launch(text, "k", 1, 64, [result])
    t = np.arange(64)
    np.testing.assert_array_equal(result, np.where(t & 1, t * 10, t)[t ^ 1])


COPY = """.shared .align 16 .b8 s[64];
    ld.param.u64 %rd1, [p]; mov.u32 %r1, s;
"""


def test_wait_group_leaves_the_last_groups() -> None:
    body = """cp.async.ca.shared.global [%r1], [%rd1], 16; cp.async.commit_group;
    cp.async.ca.shared.global [%r1+16], [%rd1+16], 16; cp.async.commit_group;
    cp.async.wait_group 1;
    ld.shared.u32 %r2, [%r1+{}]; st.global.u32 [%rd1], %r2;
    cp.async.wait_all;"""
    x = np.arange(5, 13, dtype=np.uint32)
    ptxemu.launch(kernel(COPY + body.format(12)), "k", 1, 1, [x])
    assert x[0] == 8
    with pytest.raises(ptxemu.PendingCopyError):
        ptxemu.launch(kernel(COPY + body.format(16)), "k", 1, 1, [x])


@pytest.mark.parametrize(
    ("size", "source", "expected"), [(8, "%rd1", [5, 6, 0, 0]), (0, "0", [0, 0, 0, 0]), (4, "0", None)]
)
def test_a_copy_fills_with_zeros(size: int, source: str, expected: list[int] | None) -> None:
    body = f"""mov.u32 %r5, {size}; mov.u64 %rd2, {source};
    cp.async.cg.shared.global [%r1], [%rd2], 16, %r5; cp.async.wait_all;
    ld.shared.v4.u32 {{%r6, %r7, %r8, %r9}}, [%r1]; st.global.v4.u32 [%rd1], {{%r6, %r7, %r8, %r9}};"""
    x = np.arange(5, 13, dtype=np.uint32)
    if expected is None:
        with pytest.raises(ptxemu.OutOfBoundsError, match="null"):
            ptxemu.launch(kernel(COPY + body), "k", 1, 1, [x])
    else:
        ptxemu.launch(kernel(COPY + body), "k", 1, 1, [x])
        assert x[:4].tolist() == expected


def test_a_copy_under_way_at_the_end_is_noted() -> None:
    text = kernel(COPY + "cp.async.ca.shared.global [%r1], [%rd1], 4;")
    assert "still in flight at exit" in str(ptxemu.launch(text, "k", 1, 1, [np.ones(4, np.uint32)]).warnings[0])


def test_bytes_of_a_word_are_no_race() -> None:
    """Of a warp each; the same byte is one."""
    body = """.shared .align 4 .b8 s[64];
    mov.u32 %r1, %tid.x; shr.u32 %r2, %r1, 5; {} mov.u32 %r3, s; add.u32 %r3, %r3, %r2;
    and.b32 %r4, %r1, 31; setp.eq.u32 %p1, %r4, 0;
    @%p1 st.shared.u8 [%r3], %r1;"""
    ptxemu.launch(kernel(body.format(""), ""), "k", 1, 128, [])
    with pytest.raises(ptxemu.RaceError):
        ptxemu.launch(kernel(body.format("mov.u32 %r2, 0;"), ""), "k", 1, 128, [])


def test_mma_needs_the_whole_warp() -> None:
    text = kernel(
        """mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 16;
        @%p1 bra DONE;
        mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4},{%r1,%r1},{%r1},{%f1,%f2,%f3,%f4};
    DONE: mov.u32 %r2, 1;""",
        "",
    )
    with pytest.raises(ptxemu.DivergenceError):
        ptxemu.launch(text, "k", 1, 32, [])
    with pytest.raises(ptxemu.DivergenceError, match="whole warp"):
        ptxemu.launch(text.replace("@%p1 bra DONE;", ""), "k", 1, 20, [])


@pytest.mark.parametrize(
    ("shape", "K", "registers"),
    [("m16n8k8.row.col.f32.tf32.tf32.f32", 8, 4), ("m16n8k4.row.col.f32.tf32.tf32.f32", 4, 2)],
)
def test_mma_of_tf32_ignores_low_bits(shape: str, K: int, registers: int, rng: np.random.Generator) -> None:
    """A [16, K] and B [8, K], loaded element by element as the manual lays them out."""
    body = """ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c];
    mov.u32 %r1, %tid.x; shr.u32 %r2, %r1, 2; and.b32 %r3, %r1, 3; mov.f32 %f1, 0f00000000;\n"""
    of_a, of_b = [f"%r{10 + i}" for i in range(registers)], [f"%r{20 + i}" for i in range(registers // 2)]
    for i, register in enumerate(of_a):  # rows group and group + 8, then 4 columns on
        body += f"add.u32 %r4, %r2, {i % 2 * 8}; mad.lo.u32 %r4, %r4, {K}, %r3;\n"
        body += f"mad.wide.u32 %rd4, %r4, 4, %rd1; ld.global.b32 {register}, [%rd4+{i // 2 * 16}];\n"
    for i, register in enumerate(of_b):
        body += f"mad.lo.u32 %r4, %r2, {K}, %r3; mad.wide.u32 %rd4, %r4, 4, %rd2;\n"
        body += f"ld.global.b32 {register}, [%rd4+{i * 16}];\n"
    body += f"""mma.sync.aligned.{shape}
        {{%f1, %f2, %f3, %f4}}, {{{",".join(of_a)}}}, {{{",".join(of_b)}}}, {{%f1, %f1, %f1, %f1}};
    mul.lo.u32 %r4, %r2, 8; mad.lo.u32 %r4, %r3, 2, %r4; mad.wide.u32 %rd4, %r4, 4, %rd3;
    st.global.v2.f32 [%rd4], {{%f1, %f2}}; st.global.v2.f32 [%rd4+256], {{%f3, %f4}};"""
    a, b = (rng.standard_normal((n, K)).astype(np.float32) for n in (16, 8))
    c = np.zeros((16, 8), np.float32)
    ptxemu.launch(kernel(body, ".param .u64 a, .param .u64 b, .param .u64 c"), "k", 1, 32, [a, b, c])
    a, b = ((x.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64) for x in (a, b))
    np.testing.assert_allclose(c, a @ b.T, atol=1e-6)


def test_shared_memory_is_limited() -> None:
    text = kernel(".shared .align 16 .b8 s[1024]; mov.u32 %r1, s; st.shared.u32 [%r1], %r1;", "")
    ptxemu.launch(text, "k", 1, 1, [], 160000)
    with pytest.raises(ptxemu.EmuError, match="needs 171024 bytes of shared memory, sm_80 has 166912"):
        ptxemu.launch(text, "k", 1, 1, [], 170000)


def test_messages_name_the_source() -> None:
    body = ".loc 1 42 0\nld.param.u64 %rd1, [p];\n.loc 1 43 7\nld.global.u32 %r1, [%rd1+64];"
    text = kernel(body, head=HEAD + '.file 1 "source/model.py"\n')
    with pytest.raises(ptxemu.OutOfBoundsError, match=r"\(model.py:43\)"):
        ptxemu.launch(text, "k", 1, 1, [np.zeros(4, np.float32)])


def test_pointers_to_pointers() -> None:
    text = kernel(
        """ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 8; add.s64 %rd1, %rd1, %rd2;
        ld.global.u64 %rd3, [%rd1]; ld.u32 %r2, [%rd3+4]; add.u32 %r2, %r2, 1; st.u32 [%rd3+4], %r2;"""
    )
    a, b, c = (np.arange(4, dtype=np.uint32) * k for k in (1, 10, 100))
    ptxemu.launch(text, "k", 1, 3, [ptxemu.PtrArray([a, b, c])])
    assert [x[1] for x in (a, b, c)] == [2, 11, 101]
    with pytest.raises(ptxemu.OutOfBoundsError, match=r"arg0\[1\]"):
        ptxemu.launch(text, "k", 1, 3, [ptxemu.PtrArray([a, b[:1], c])])
    with pytest.raises(ptxemu.OutOfBoundsError, match="null"):
        ptxemu.launch(text, "k", 1, 3, [ptxemu.PtrArray([a, None, c])])


def test_views_have_their_own_bounds() -> None:
    text = kernel("ld.param.u64 %rd1, [p]; ld.global.u32 %r1, [%rd1]; st.global.u32 [%rd1+4], %r1;")
    x = np.arange(8, dtype=np.uint32)
    ptxemu.launch(text, "k", 1, 1, [x[2:4]])
    assert x.tolist() == [0, 1, 2, 2, 4, 5, 6, 7]
    with pytest.raises(ptxemu.OutOfBoundsError, match="offset 4 of array 'arg0' of 4 bytes"):
        ptxemu.launch(text, "k", 1, 1, [x[2:3]])


@pytest.mark.parametrize(
    "instruction",
    [
        "tcgen05.fence::before_thread_sync",
        "tex.1d.v4.f32.s32 {%f1, %f2, %f3, %f4}, [p, {%r1}]",
        "mma.sync.aligned.m8n8k128",
    ],
)
def test_an_unknown_instruction_stops_the_launch_by_name(instruction: str) -> None:
    text = f"{HEAD}.visible .entry k(.param .u64 p)\n{{.reg .f32 %f<5>; .reg .b32 %r<5>;\n{instruction};\nret;\n}}\n"
    with pytest.raises(
        (ptxemu.UnsupportedError, ptxemu.PtxSyntaxError), match=r"tcgen05|unknown instruction: tex|mma\.sync"
    ):
        ptxemu.launch(text, "k", 1, 32, [np.zeros(4)])
