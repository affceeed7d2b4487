"""The launch table: rows that the kernels can run, and what tuning makes of them."""

import time
from collections.abc import Callable

import pytest
import torch

launch_table = pytest.importorskip("fastpixcon.kernels.launch_table", reason="triton is not installed")
provenance = pytest.importorskip("fastpixcon.kernels.launch_provenance", reason="triton is not installed")
triton = pytest.importorskip("triton")

KERNELS = list(launch_table.HALF)
ARCHITECTURES = (80, 86, 89, 90, 100, 120, 70)


@pytest.fixture(autouse=True)
def not_interpreting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_table, "INTERPRETING", False)


def check(kernel: str, row: "launch_table.Launch") -> None:
    for size in (row.BLOCK_M, row.BLOCK_N, row.num_warps):
        assert size & (size - 1) == 0
    assert row.MASKED_N is None if kernel == "positives" else row.BLOCK_N % row.MASKED_N == 0
    if kernel.startswith("sums"):
        assert row.BLOCK_M % row.BLOCK_N == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_and_their_neighbours_can_run(kernel: str) -> None:
    for architecture in ARCHITECTURES:
        for kind in [kind for kind, table in launch_table.TABLES.items() if kernel in table]:
            for block_d in (16, 32, 64, 128, 256, 512, 1024):
                row = launch_table.row(kernel, architecture, kind, block_d)
                check(kernel, row)
                for neighbour in launch_table.neighbours(row):
                    check(kernel, neighbour)


def test_widths() -> None:
    assert [launch_table.width(D) for D in (1, 16, 17, 256, 1000)] == [16, 16, 32, 256, 1024]
    with pytest.raises(ValueError, match="anchors: got feature width 1025, want at most 1024"):
        launch_table.width(1025)


def test_tuning_takes_the_fastest_and_prints_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch_table, "AUTOTUNE", True)
    monkeypatch.setattr(launch_table, "_tuned", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    started: list[launch_table.Launch] = []
    table = launch_table.row("gradient", 80, "half", 256)
    best = table._replace(num_stages=4)

    def start(row: launch_table.Launch) -> None:
        if row.BLOCK_M > table.BLOCK_M:
            raise triton.runtime.errors.OutOfResources(200_000, 100_000, "shared memory")
        started.append(row)

    def do_bench(call: Callable[[], None], **_: object) -> float:
        call()
        return 1.0 if started[-1] == best else 2.0

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    for _ in range(2):
        launch_table.run("gradient", 80, "half", 256, start)
        assert started[-1] == best
        started.clear()
    line, by = capsys.readouterr().out.splitlines()
    assert line == f"sm_80 'gradient' half: 256: {best}  # 1.0000 ms"
    # what is printed for launch_provenance.py is Python, and says by what the row won
    ((row, measured),) = eval(f"{{{by}}}", dict(vars(provenance))).items()
    assert row == ("gradient", "half", 80, 256, best)
    assert measured[:2] == ("a card", time.strftime("%Y-%m-%d"))
    assert (measured.ms, len(measured.rivals), measured.rivals[table]) == (1.0, 3, 2.0)


def test_every_row_says_by_what_it_won() -> None:
    assert provenance.complaints() == []


def test_a_row_that_changes_has_no_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    before = launch_table.GRADIENT_RULED[90][128]
    changed = before._replace(num_warps=4)
    monkeypatch.setitem(launch_table.GRADIENT_RULED[90], 128, changed)
    assert provenance.complaints() == [
        f'missing: (Launch{tuple(changed)}, "half", "gradient_ruled", (90,), (128,)),',
        f"not in the table: {provenance.Row('gradient_ruled', 'half', 90, 128, before)}",
    ]


def test_no_row_is_both_measured_and_not() -> None:
    lines = [line for lines in provenance.UNMEASURED.values() for line in lines]
    count = sum(len(k.split()) * len(families) * len(widths) for _, _, k, families, widths in lines)
    assert len(provenance.MEASURED) + count == len(provenance.everything())
