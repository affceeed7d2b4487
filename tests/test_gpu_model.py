"""The reader of machine code and the model on top of it, on loops small enough to count by hand."""

from collections import Counter

import pytest

pytest.importorskip("triton")

import sass
from gpu_model import GPUS, Tile


def listing(*lines: str) -> str:
    return "\n".join(f"        /*{16 * i:04x}*/    {line} ;  /* 0x0 */" for i, line in enumerate(lines))


NESTED = sass.parse(
    listing(
        "MOV R1, RZ",  # 00
        "IADD3 R2, R2, 0x1, RZ",  # 10: the outer loop
        "HMMA.16816.F32.BF16 R4, R8, R12, R4",  # 20: the inner one
        "@!P0 BRA 0x20",  # 30
        "BRA.DIV ~URZ, 0x80",  # 40: its target is not executed
        "@P1 BRA 0x10",  # 50
        "EXIT",  # 60
        "BRA 0x70",  # 70: the end of every kernel
        "SHFL.BFLY PT, R3, R3, 0x1, 0x1f",  # 80
        "BRA 0x10",  # 90
    )
)


def test_loops_are_natural_and_nested() -> None:
    found = sass.loops(NESTED)
    outer, inner = found
    assert [x.address for x in inner.body] == [0x20, 0x30]
    assert [x.address for x in outer.body] == [0x10, 0x20, 0x30, 0x40, 0x50]
    assert [x.address for x in outer.own] == [0x10, 0x40, 0x50]
    assert outer.inner == [inner]
    assert sass.tensor_leaves(found) == [inner]


@pytest.mark.parametrize(
    ("line", "flop", "moved", "from_shared"),
    [
        ("HMMA.16816.F32.BF16 R4, R8, R12, R4", 2 * 16 * 8 * 16, None, 0),
        ("HMMA.1688.F32.TF32 R4, R8, R12, R4", 2 * 16 * 8 * 8, None, 0),
        # a warp's quarter of 64 x N x 16; A and B, or B alone
        ("HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24", 2 * 64 * 64 * 16 // 4, None, (64 + 64) * 16 * 2 // 4),
        ("HGMMA.64x256x16.F32.BF16 R24, R184, gdesc[UR4].tnspB, R24", 2 * 64 * 256 * 16 // 4, None, 256 * 16 * 2 // 4),
        ("LDSM.16.M88.4 R4, [R8]", 0, 512, 0),
        ("LDGSTS.E.BYPASS.128 [R3], [R4.64]", 0, 512, 0),
        ("LDS R4, [R8]", 0, 128, 0),
        ("STS.64 [R8], R4", 0, 256, 0),
        ("LDG.E.U16 R4, [R8.64]", 0, 64, 0),
    ],
)
def test_what_an_instruction_does(line: str, flop: int, moved: int | None, from_shared: int) -> None:
    (x,) = sass.parse(listing(line))
    assert (x.flop, x.operand_bytes) == (flop, from_shared)
    assert moved is None or x.bytes == moved


@pytest.mark.parametrize("name", ["DFMA", "F2F.F64.F32", "MUFU.RCP64H", "I2F.F64"])
def test_float64_is_noticed(name: str) -> None:
    assert sass.FLOAT64.match(name)


@pytest.mark.parametrize(
    "name", ["FFMA", "F2F.BF16.F32", "IMAD.WIDE.U32", "MUFU.EX2", "DEPBAR.LE", "F2FP.BF16.PACK_AB"]
)
def test_nothing_else_is_float64(name: str) -> None:
    assert not sass.FLOAT64.match(name)


def test_peaks_are_those_of_the_datasheets() -> None:
    teraflops = {gpu.name: round(gpu.peak / 1e12) for gpu in GPUS.values()}
    assert teraflops == {"A100": 312, "RTX 4090": 165, "H100": 989, "B200": 2243}


def test_the_busiest_unit_decides_or_all_add_up() -> None:
    gpu = GPUS[90]
    body = sass.parse(listing("HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24", *["MUFU.EX2 R1, R1"] * 8))
    tile = Tile(
        flop=4 * body[0].flop,
        instructions=Counter({"tensor": 4, "mufu": 32}),
        shared_bytes=4 * body[0].operand_bytes,
        operand_bytes=4 * body[0].operand_bytes,
        operand_loads=0,
        global_bytes=0,
        barriers=1,
        exposed=False,
    )
    assert tile.cycles(gpu)["tensor"] == 32
    assert tile.cycles(gpu)["shared"] == 32
    assert tile.cycles(gpu)["exp"] == 64
    assert (tile.busiest(gpu), tile.overlapping(gpu), tile.serial(gpu)) == ("exp", 64, 32 + 64 + 30)
