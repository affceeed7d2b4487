"""The reader of machine code and the model on top of it, on loops small enough to count by hand."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton")

import gpu_model
import measured
import sass
from ahead_of_time import Launch
from gpu_model import GPUS


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
    assert teraflops == {"A100": 312, "RTX 4090": 165, "H200": 989, "B200": 2243}


BODY = ["HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24"] * 4 + ["WARPGROUP.DEPBAR.LE gsb0, 0x0"]
BODY += ["MUFU.EX2 R1, R1"] * 8 + ["BAR.SYNC 0x0", "LDGSTS.E.BYPASS.128 [R3], [R4.64]", "DEPBAR.LE SB0, 0x0"]


def launch(**options: Any) -> Any:
    tile = (64, 64, 64, 64, 64, 3)
    kernel = SimpleNamespace(__name__="info_nce_sums_kernel")
    return Launch(kernel, (1,), (), {"TILE": tile, "num_warps": 4, "num_stages": 3, "HOW": ""} | options, 90)


def test_the_busiest_unit_decides_or_a_team_waits() -> None:
    gpu = GPUS[90]
    tile = gpu_model.tile_of(sass.parse(listing(*BODY)), launch())
    cycles = tile.cycles(gpu)
    assert (cycles["tensor"], cycles["exp"]) == (4 * 2 * 64 * 64 * 16 / 4096, 64)
    assert cycles["shared"] == 4 * (64 + 64) * 16 * 2 / 128 + 4 * 512 / 128  # operands of the products, copies
    assert (tile.busiest(gpu), tile.overlapping(gpu)) == ("shared", cycles["shared"])
    waits = gpu_model.PRODUCT_WAIT + gpu_model.BARRIER
    assert tile.alone(gpu) == pytest.approx(128 + (len(BODY) - 4) * gpu_model.ISSUE_EVERY + waits)


def test_loads_that_nothing_hides_are_waited_for() -> None:
    """One stage too few, or a loop with masks, which asks for no rows ahead."""
    gpu = GPUS[90]
    body = sass.parse(listing(*BODY))
    ahead = gpu_model.tile_of(body, launch())
    for exposed in (gpu_model.tile_of(body, launch(num_stages=1)), gpu_model.tile_of(body, launch(), masked=True)):
        loaded = gpu_model.LOAD_WAIT + ahead.cycles(gpu)["L2"]
        assert exposed.alone(gpu) == pytest.approx(ahead.alone(gpu) + loaded)
    assert gpu_model.tile_of(body, launch(num_stages=2)).load_waits == 0


@pytest.mark.parametrize(("name", "products"), [("16816.F32.BF16", 4096), ("1688.F32.TF32", 2 * 2048)])
def test_products_of_mma_sync(name: str, products: int) -> None:
    """TF32 has half the rate, and Hopper's tensor cores give mma.sync less than two thirds of theirs."""
    tile = gpu_model.synchronous_tile(sass.parse(listing(f"HMMA.{name} R4, R8, R12, R4")), 4, exposed=False)
    assert tile.products == 4 * products
    assert tile.cycles(GPUS[80])["tensor"] == tile.products / 2048
    assert tile.cycles(GPUS[90])["tensor"] == tile.products / 4096 / 0.629


def test_queues() -> None:
    """Alone nobody waits; of many the busiest unit decides; two meet as often as the unit is busy."""
    assert gpu_model.queued(10, 40, 1) == 40
    assert gpu_model.queued(10, 40, 2) == 40 + 10 * (10 / 40)
    assert gpu_model.queued(10, 40, 1000) == pytest.approx(10 * 1000, rel=0.01)


def test_no_faster_than_products_of_matrices() -> None:
    """Power keeps an H200 from its peak."""
    gpu = GPUS[90]
    work = measured.works()["Triton", "bfloat16", 256, 65536, "after", "gradient"]
    endless = work._replace(N=2**22, blocks=2**15)
    assert gpu_model.predict(endless, gpu).bound == "power"
    assert gpu_model.predict(endless, gpu).fraction(gpu)[0] == pytest.approx(gpu.sustained)


def test_what_was_measured_is_predicted() -> None:
    """Also what no constant was fitted to. What the model said before, 5.99 to 8.58 ms of 11.0, would not do."""
    launches = measured.works()
    ratios = {row: measured.predicted(row, launches) / row.ms for row in measured.MEASURED if not row.hosts}
    held_out = [ratio for row, ratio in ratios.items() if row.backend == "Triton" and not row.fitted]
    assert measured.spread([ratio for row, ratio in ratios.items() if row.fitted]) < 0.05
    assert measured.spread(held_out) < 0.12
    assert all(0.7 < ratio < 1.25 for ratio in ratios.values()), ratios


def test_no_more_is_predicted_than_the_host_took() -> None:
    launches = measured.works()
    bounds = {row: measured.predicted(row, launches) for row in measured.MEASURED if row.hosts}
    assert len(bounds) == 6
    assert all(ms < row.ms for row, ms in bounds.items()), bounds


def test_the_page_is_what_the_model_says() -> None:
    """python bench/machine_code/measured.py > docs/predicted.md"""
    assert (measured.WORKS.parents[2] / "docs" / "predicted.md").read_text(encoding="utf-8") == measured.document()
