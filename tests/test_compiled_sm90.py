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


def taken(case: InfoNCECase, **settings: Any) -> list[str]:
    """Kernels of sums and gradients, none of which is executed."""
    ran: list[str] = []
    with launching(emulator(run=lambda name, *launch: ran.append(name), **settings)):
        outputs_of("native", case)
    return [name for name in ran if re.search("info_nce_sums|info_nce_gradient|contrast_rows", name)]


@pytest.mark.parametrize("D", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_rows_of_16_bits_and_three_widths_take_them(dtype: torch.dtype, D: int) -> None:
    for M in (None, 200):
        for rows in ("unit", "raw"):
            sums, *gradients = taken(InfoNCECase(200, D, M=M, dtype=dtype, rows=rows))
            assert f"sums_sm90INS_8SumTilesILi{D}E" in sums
            assert len(gradients) == (1 if M is None else 2)
            assert all(f"gradient_sm90INS_14WarpgroupTilesILi{D}E" in name for name in gradients)


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
    names = taken(case)
    assert names
    assert not any("sm90" in name for name in names)
    assert names == taken(case, sm90=False)


def test_they_are_taken_where_they_are_asked_for_and_fit() -> None:
    assert all("sm90" in name for name in taken(LOSS))
    assert not any("sm90" in name for name in taken(LOSS, sm90=False))
    wide = InfoNCECase(200, 256, dtype=torch.bfloat16)
    assert not any("sm90" in name for name in taken(wide, shared=HOPPER // 2))


def test_two_runs_give_the_same_bits() -> None:
    def run() -> list[torch.Tensor]:
        with launching(emulator(multiprocessors=8)):
            return [x for x in outputs_of("native", LOSS) if x.numel()]

    assert all(torch.equal(x, y) for x, y in zip(run(), run(), strict=True))


def sums_in_groups(labels: str) -> Callable[..., torch.Tensor]:
    """Of self contrast: a launch of sums for which rows are prepared, with groups of any size, as there are with more
    rows than an emulator can take; what it adds up, [N]."""
    calls: list[tuple[Any, ...]] = []
    case = InfoNCECase(700, 64, dtype=torch.bfloat16, **SORTED | {"labels": labels})
    with launching(emulator(run=lambda *call: calls.append(call))):
        outputs_of("native", case)
    panels, sums = (next(call for call in calls if f"info_nce_{kernel}" in call[0]) for kernel in ("panels", "sums"))
    emulator()(*panels)
    name, _, block, shared, (x, y, temperature, _, size, _, groups, _, *rest) = sums
    assert (size, groups) == (192, 5)

    def run(size: int, parts: int, on: Emulator) -> torch.Tensor:
        groups = -(-case.N // size) // 2 * 2 + 1
        pairs = groups // 2 + 1
        found = torch.full((parts + 3 * pairs, case.N), torch.nan)
        on(
            name,
            (parts, groups, 1),
            block,
            shared,
            [x, y, temperature, found, size, size, groups, -(-pairs // parts), *rest],
        )
        return found.double().sum(0)

    return run


@pytest.mark.parametrize("labels", ["sorted", "padded"])
def test_sums_of_groups_of_several_blocks(labels: str) -> None:
    run = sums_in_groups(labels)
    total = run(192, 1, emulator())
    for size, parts in ((192, 3), (384, 1), (384, 2), (768, 1)):
        torch.testing.assert_close(run(size, parts, emulator()), total, rtol=1e-6, atol=0)


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


BOTH = [
    ("no fence before a product", without(r"wgmma\.fence"), "InFlightError"),
    ("no wait for a product", without(r"wgmma\.wait_group"), "InFlightError|RaceError"),
    ("nothing waits for copies", waits(None), "PendingCopyError|BarrierError"),
    ("a stage that nobody gives back", without(r"mbarrier\.arrive\.shared"), "DeadlockError"),
    ("bytes that do not come", replaced(r"(arrive\.expect_tx\S* _, \[\S+\]), \S+;", r"\1, 65552;"), "DeadlockError"),
    ("barriers used before they are there", without(r"bar\.sync"), "RaceError|BarrierError"),
]
FAULTS = [
    *(("sums", *fault) for fault in BOTH),
    *(("gradient", *fault) for fault in BOTH),
    ("gradient", "no wait for the logits", without(r"wgmma\.wait_group\S* 1"), "InFlightError"),
    (
        "sums",
        "warps that do not wait for each other's sums",
        without(r"bar\.sync\s+%"),
        "RaceError|UninitializedReadError",
    ),
]


def emulator_of(kernel: str, edit: Callable[[str], str]) -> Emulator:
    """With another kernel."""
    return emulator(edit=lambda name, ptx: edit(ptx) if f"{kernel}_sm90" in name else ptx)


@pytest.mark.parametrize(("kernel", "fault", "edit", "error"), FAULTS, ids=[f"{x[0]}: {x[1]}" for x in FAULTS])
def test_a_fault_in_the_code_is_found(kernel: str, fault: str, edit: Callable[[str], str], error: str) -> None:
    errors = tuple(getattr(ptxemu, name) for name in error.split("|"))
    with launching(emulator_of(kernel, edit)), pytest.raises(errors):
        outputs_of("native", LOSS)


@pytest.mark.parametrize("kernel", ["sums", "gradient"])
def test_every_wait_for_a_copy_is_needed(kernel: str) -> None:
    """The producer's is for stages that may be filled again, which were read too early or too late else."""
    entries = compiled_cuda.entries().items()
    ptx = next(ptx for name, ptx in entries if f"{kernel}_sm90" in name and "ILi64E" in name)
    count = len(re.findall(r"mbarrier\.try_wait", ptx))
    assert count >= 3
    in_groups = sums_in_groups("sorted")

    def run(on: Emulator) -> None:
        if kernel == "sums":
            in_groups(384, 1, on)
            return
        with launching(on):
            outputs_of("native", LOSS)

    run(emulator())
    for which in range(count):
        with pytest.raises((ptxemu.PendingCopyError, ptxemu.RaceError, ptxemu.BarrierError)):
            run(emulator_of(kernel, waits(which)))


def test_rows_come_in_whole_sectors_and_without_bank_conflicts() -> None:
    of_kernels = emulator()
    with launching(of_kernels):
        outputs_of("native", InfoNCECase(300, 256, dtype=torch.bfloat16, classes=3, **SORTED))
    hot = [launch for launch in of_kernels.launches if "sm90" in launch.kernel]
    assert [re.search("panels|sums|gradient", launch.kernel)[0] for launch in hot] == [
        "panels",
        "sums",
        "panels",
        "gradient",
    ]
    for launch in hot:
        assert launch.profile.bank_conflict_degree() == 1.0, f"{launch.kernel}: {launch.profile}"
        if "panels" in launch.kernel:
            assert launch.profile.sector_efficiency() >= 0.9, str(launch.profile)
