"""What only executed kernels of sm_90a show: by what rule they are taken, that faults in them are found, how they
access memory. That they are right is shown by the variants of test_compiled_cuda.py."""

import re
from collections.abc import Callable
from typing import Any

import ptxemu
import pytest
import torch
from harness import compiled_cuda
from harness.compiled_cuda import HOPPER, Emulator, launching
from harness.executed import outputs_of, without

from fastpixcon.testing import InfoNCECase

pytestmark = pytest.mark.skipif(compiled_cuda.missing() is not None, reason=str(compiled_cuda.missing()))
SORTED: dict[str, Any] = {"labels": "sorted", "label_dtype": torch.int32, "rows": "unit"}
# More tiles of columns than stages, in one part.
LOSS = InfoNCECase(640, 64, dtype=torch.bfloat16, classes=4, **SORTED)


def emulator(**settings: Any) -> Emulator:
    return Emulator(**{"shared": HOPPER, "multiprocessors": 1, "sm90": True} | settings)


def gradients(case: InfoNCECase, **settings: Any) -> list[str]:
    """Kernels that made them, none of which is executed."""
    ran: list[str] = []
    with launching(emulator(run=lambda name, *launch: ran.append(name), **settings)):
        outputs_of("native", case)
    return [name for name in ran if "info_nce_gradient" in name or "contrast_rows" in name]


@pytest.mark.parametrize("D", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_rows_of_16_bits_and_three_widths_take_them(dtype: torch.dtype, D: int) -> None:
    for M in (None, 200):
        for rows in ("unit", "raw"):
            names = gradients(InfoNCECase(200, D, M=M, dtype=dtype, rows=rows))
            assert len(names) == (1 if M is None else 2)
            assert all(f"gradient_sm90INS_14WarpgroupTilesILi{D}E" in name for name in names)


@pytest.mark.parametrize(
    "case",
    [
        InfoNCECase(200, 64),
        InfoNCECase(200, 32, dtype=torch.bfloat16),
        InfoNCECase(200, 120, dtype=torch.bfloat16),
        InfoNCECase(200, 192, dtype=torch.float16),
        InfoNCECase(200, 512, dtype=torch.bfloat16),
        InfoNCECase(200, 64, dtype=torch.bfloat16, temperature=0.02),
        InfoNCECase(200, 64, dtype=torch.bfloat16, rows="any"),
        InfoNCECase(200, 64, dtype=torch.bfloat16, rule_of_pairs="everything"),
    ],
    ids=str,
)
def test_others_take_the_kernels_of_every_architecture(case: InfoNCECase) -> None:
    names = gradients(case)
    assert names
    assert not any("sm90" in name for name in names)
    assert names == gradients(case, sm90=False)


def test_they_are_taken_where_they_are_asked_for_and_fit() -> None:
    assert "sm90" in gradients(LOSS)[0]
    assert "sm90" not in gradients(LOSS, sm90=False)[0]
    wide = InfoNCECase(200, 256, dtype=torch.bfloat16)
    assert "sm90" not in gradients(wide, shared=HOPPER // 2)[0]


def test_two_runs_give_the_same_bits() -> None:
    def run() -> list[torch.Tensor]:
        with launching(emulator(multiprocessors=8)):
            return [x for x in outputs_of("native", LOSS) if x.numel()]

    assert all(torch.equal(x, y) for x, y in zip(run(), run(), strict=True))


# Faults in compiled code


def waits(which: int | None) -> Callable[[str], str]:
    """One wait at a barrier that counts bytes, or all of them, finds its phase over."""

    def edit(ptx: str) -> str:
        found = list(re.finditer(r"mbarrier\.try_wait\S+ done, \[.*\], .*;", ptx))
        for match in reversed(found if which is None else found[which : which + 1]):
            ptx = ptx[: match.start()] + "setp.eq.s32 done, 0, 0;" + ptx[match.end() :]
        return ptx

    return edit


def replaced(pattern: str, by: str) -> Callable[[str], str]:
    def edit(ptx: str) -> str:
        changed, count = re.subn(pattern, by, ptx)
        assert count
        return changed

    return edit


FAULTS = [
    ("no fence before a product", without(r"wgmma\.fence"), "InFlightError"),
    ("no wait for a product", without(r"wgmma\.wait_group"), "InFlightError"),
    ("no wait for the logits", without(r"wgmma\.wait_group\S* 1"), "InFlightError"),
    ("nothing waits for copies", waits(None), "PendingCopyError|BarrierError"),
    ("a stage that nobody gives back", without(r"mbarrier\.arrive\.shared"), "DeadlockError"),
    ("bytes that do not come", replaced(r"(arrive\.expect_tx\S* _, \[\S+\]), \S+;", r"\1, 65552;"), "DeadlockError"),
    ("barriers used before they are there", without(r"bar\.sync"), "RaceError|BarrierError"),
]


def emulator_of(edit: Callable[[str], str]) -> Emulator:
    """With another gradient."""
    return emulator(edit=lambda name, ptx: edit(ptx) if "gradient_sm90" in name else ptx)


@pytest.mark.parametrize(("fault", "edit", "error"), FAULTS, ids=[fault for fault, *_ in FAULTS])
def test_a_fault_in_the_code_is_found(fault: str, edit: Callable[[str], str], error: str) -> None:
    errors = tuple(getattr(ptxemu, name) for name in error.split("|"))
    with launching(emulator_of(edit)), pytest.raises(errors):
        outputs_of("native", LOSS)


def test_every_wait_for_a_copy_is_needed() -> None:
    """The producer's is for stages that may be filled again, which were read too early or too late else."""
    ptx = next(ptx for name, ptx in compiled_cuda.entries().items() if "gradient_sm90" in name and "ILi64E" in name)
    count = len(re.findall(r"mbarrier\.try_wait", ptx))
    assert count >= 3
    for which in range(count):
        errors = (ptxemu.PendingCopyError, ptxemu.RaceError, ptxemu.BarrierError)
        with launching(emulator_of(waits(which))), pytest.raises(errors):
            outputs_of("native", LOSS)


def test_rows_come_in_whole_sectors_and_without_bank_conflicts() -> None:
    of_kernels = emulator()
    with launching(of_kernels):
        outputs_of("native", InfoNCECase(300, 256, dtype=torch.bfloat16, classes=3, **SORTED))
    hot = [launch for launch in of_kernels.launches if "sm90" in launch.kernel or "panels" in launch.kernel]
    assert len(hot) == 2
    for launch in hot:
        assert launch.profile.bank_conflict_degree() == 1.0, f"{launch.kernel}: {launch.profile}"
    panels = next(launch for launch in hot if "panels" in launch.kernel)
    assert panels.profile.sector_efficiency() >= 0.9, str(panels.profile)
