"""Which tiles can fit, before anything is compiled."""

import os
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET", "0") == "1":
    pytest.skip("this process interprets Triton", allow_module_level=True)

import gpu_model
import tune_triton
from tune_triton import KINDS, Candidate, Place

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.launch_table import Launch

KERNELS = ("sums", "positives", "gradient")
PLACES = [
    Place(kernel, architecture, D, kind)
    for kernel in KERNELS
    for architecture in gpu_model.GPUS
    for D in launch_table.WIDTHS
    for kind in KINDS.values()
]
TABLE = Path(__file__).resolve().parents[1] / "docs" / "triton-kernels.md"


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_rows_of_the_table_can_fit(place: Place) -> None:
    kind = "halves" if place.kind.dtype == torch.float32 else launch_table.kind(place.kind.dtype)
    row = launch_table.row(place.kernel, place.architecture, kind, place.D)
    assert tune_triton.against(place, row) is None


def test_no_more_is_asked_for_than_what_was_compiled_takes() -> None:
    """The columns of docs/triton-kernels.md, shared memory in KiB."""
    line = re.compile(
        r"\| (\w+) \| sm_(80|89|90|100) \| (\d+) \| bfloat16 \| (\d+) x (\d+) \| (\d) \| (\d) \|[^|]*\|[^|]*\| (\d+) "
    )
    found = line.findall(TABLE.read_text(encoding="utf-8"))
    assert len(found) == 3 * 4 * len(launch_table.WIDTHS)
    for kernel, *numbers in found:
        architecture, D, m, n, warps, stages, shared = map(int, numbers)
        least = tune_triton.shared_bytes(Place(kernel, architecture, D, KINDS["bfloat16"]), Launch(m, n, warps, stages))
        assert least / 1024 <= shared + 0.5, (kernel, *numbers)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_every_tile_is_listed_or_has_a_reason_against_it(place: Place) -> None:
    fit, others = tune_triton.judged(place)
    assert len(fit) + others.total() == len(list(tune_triton.tiles(place)))
    assert fit


@pytest.mark.parametrize(
    ("place", "row", "why"),
    [
        (Place("sums", 90, 256, KINDS["bfloat16"]), Launch(64, 128, 4, 2), "columns that do not divide the rows"),
        (Place("gradient", 89, 512, KINDS["bfloat16"]), Launch(64, 64, 8, 2), "more than 99 KiB of shared memory"),
        (Place("gradient", 80, 256, KINDS["bfloat16"]), Launch(128, 16, 4, 2), "more than 200 registers for sums"),
        (Place("gradient", 90, 256, KINDS["bfloat16"]), Launch(32, 64, 4, 2), "too few rows for wgmma or tcgen05"),
        (Place("sums", 80, 64, KINDS["bfloat16"]), Launch(32, 16, 4, 2), "few products for what is loaded"),
        (Place("positives", 80, 64, KINDS["bfloat16"]), Launch(64, 64, 8, 2), "much arithmetic on few tiles"),
        # whole rows of float32, or of two halves each, take twice the bytes; in parts they fit
        (Place("sums", 80, 512, KINDS["float32"]), Launch(64, 64, 8, 2), "more than 163 KiB of shared memory"),
        (Place("sums", 80, 512, KINDS["float32"]), Launch(64, 64, 8, 2, 32), None),
    ],
)
def test_reasons(place: Place, row: Launch, why: str | None) -> None:
    assert tune_triton.against(place, row) == why


def test_a_tile_that_fits_is_compiled_and_timed() -> None:
    place = Place("gradient", 80, 64, KINDS["bfloat16"])
    row = launch_table.row("gradient", 80, "half", 64)
    found = tune_triton.judge(place, row)
    assert isinstance(found, Candidate)
    assert 0 < found.overlapping <= found.expected
    assert found.shared >= tune_triton.shared_bytes(place, row)


def test_listing_compiles_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tune_triton.aot, "compile_launch", None)
    monkeypatch.setattr("sys.argv", ["tune_triton.py", "--list", "--kernels", "gradient", "--widths", "256"])
    tune_triton.main()
    out = capsys.readouterr().out
    assert "gradient sm_90 D=256 bfloat16: 80 tiles, 23 can fit" in out
    assert "19 no: more than 200 registers for sums" in out
    assert "Launch(128, 64, 8, 3, 0, 16)" in out
