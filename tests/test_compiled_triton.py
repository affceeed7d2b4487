"""What only compiled kernels show: that faults in them are found, that every kernel was run, what memory they move."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ptxemu
import pytest
import torch
from harness import compiled_choice, compiled_triton
from harness.compiled_triton import Emulator, launching
from harness.executed import outputs_of, without
from ptxemu import SECTOR

import fastpixcon as fpc
from fastpixcon.ops import define
from fastpixcon.testing import EnqueueCase, GatherCase, InfoNCECase, SelectCase, backward_arguments

triton = pytest.importorskip("triton")
tl = triton.language

pytestmark = pytest.mark.skipif(compiled_triton.missing() is not None, reason=str(compiled_triton.missing()))


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    emulator = Emulator()
    with launching(emulator):
        yield emulator


@pytest.mark.parametrize("few", [False, True], ids=["", "each"])
def test_every_kernel_is_run_by_the_chosen_cases(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastpixcon.kernels import common

    sources = "".join(path.read_text() for path in Path(common.__file__).parent.glob("*.py"))
    if few:  # as FASTPIXCON_TEST_PTX=each chooses
        monkeypatch.setattr(compiled_choice, "EACH", True)
        looked = compiled_choice.found_by_test.__wrapped__()
        monkeypatch.setattr(compiled_choice, "found_by_test", lambda: looked)
    found = compiled_choice.found_by_test()
    chosen = (compiled_choice.chosen_tests.__wrapped__ if few else compiled_choice.chosen_tests)()
    ran = set().union(*(found[test].names for test in chosen))
    assert ran == set(re.findall(r"^def (\w+_kernel)\(", sources, re.M))


# Faults in compiled code


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (without(r"wgmma\.wait_group"), "InFlightError", "of a wgmma under way"),
        (without(r"wgmma\.fence"), "InFlightError", "before any wgmma.fence"),
        (without(r"fence\.proxy\.async"), "ProxyError", r"no fence.proxy.async between"),
        (without(r"cp\.async\.wait_group"), "PendingCopyError", "no wait has completed"),
        (without(r"bar\.sync", 5), "RaceError", "no barrier between"),
    ],
)
def test_a_fault_in_the_code_for_sm_90_is_found(edit: Callable[[str], str], error: str, message: str) -> None:
    case = InfoNCECase(200, 64, dtype=torch.bfloat16, labels="sorted", rows="unit")
    with launching(emulator := Emulator(architecture=90)):
        define.OVERLOADS["triton", "info_nce"](*case.arguments())
        assert any("wgmma" in launch.ptx for launch in emulator.launches)
        emulator.edit = edit
        with pytest.raises(getattr(ptxemu, error), match=message):
            define.OVERLOADS["triton", "info_nce"](*case.arguments())


FAULTS = [
    (without(r"cp\.async\.wait_group"), "PendingCopyError", "no wait has completed"),
    (without(r"cp\.async\.wait_group", 0), "PendingCopyError", "no wait has completed"),
    (without(r"bar\.sync"), "RaceError", "no barrier between"),
    (without(r"bar\.sync", 5), "RaceError", "no barrier between"),
    (without(r"st\.shared"), "UninitializedReadError", "never written"),
]


@pytest.mark.parametrize(("edit", "error", "message"), FAULTS)
def test_a_fault_in_the_code_is_found(edit: Callable[[str], str], error: str, message: str, emulator: Emulator) -> None:
    case = InfoNCECase(200, 64, dtype=torch.bfloat16, labels="sorted", rows="unit")
    forward = define.OVERLOADS["triton", "info_nce"]
    forward(*case.arguments())
    emulator.edit = edit
    with pytest.raises(getattr(ptxemu, error), match=message):
        forward(*case.arguments())


@triton.jit
def reverse_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr, BARRIER: tl.constexpr):
    """y = x from its end, through memory that every program has for itself."""
    offs = tl.arange(0, BLOCK)
    y_ptr += tl.program_id(0) * BLOCK
    tl.store(y_ptr + offs, tl.load(x_ptr + offs))
    if BARRIER:
        tl.debug_barrier()
    x = tl.load(y_ptr + BLOCK - 1 - offs)
    if BARRIER:
        tl.debug_barrier()
    tl.store(y_ptr + offs, x)


def test_a_race_in_global_memory_is_found(emulator: Emulator) -> None:
    x, y = torch.arange(512.0), torch.zeros(2, 512)
    emulator(reverse_kernel, (2,), (x, y), {"BLOCK": 512, "BARRIER": True})
    assert torch.equal(y, x.flip(0).expand(2, -1))
    race = ptxemu.RaceError
    with pytest.raises(race, match="ld without a barrier after a write"):
        emulator(reverse_kernel, (1,), (x, y), {"BLOCK": 512, "BARRIER": False})
    one_warp = {"BLOCK": 32, "BARRIER": False, "num_warps": 1}
    with pytest.raises(race, match="ld without a barrier after a write"):
        emulator(reverse_kernel, (1,), (x, y), one_warp)


def test_programs_that_write_the_same_place_are_found(emulator: Emulator) -> None:
    x, y = torch.arange(512.0), torch.zeros(512)
    with pytest.raises(ptxemu.RaceError, match="global memory race"):
        emulator(overlapping_kernel, (2,), (x, y), {"BLOCK": 512})


@triton.jit
def overlapping_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """Every program writes the same y."""
    offs = tl.arange(0, BLOCK)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs))


def test_an_access_out_of_bounds_is_found(emulator: Emulator) -> None:
    x, y = torch.arange(512.0), torch.zeros(512)
    with pytest.raises(ptxemu.OutOfBoundsError, match="y_ptr"):
        emulator(overlapping_kernel, (1,), (x, y[:511]), {"BLOCK": 512})


def test_a_label_that_is_too_large_is_an_assertion_on_the_device(emulator: Emulator) -> None:
    labels, *others = SelectCase(classes=5).arguments()
    labels[1, 3, 4] = 5
    with pytest.raises(ptxemu.DeviceAssertError, match="neither below num_classes nor ignore_index"):
        define.OVERLOADS["triton", "select_anchors"](labels, *others)


@pytest.mark.parametrize("value", [2 * 5 * 7, 2**40, -2])
def test_an_index_outside_the_map_is_an_assertion_on_the_device(value: int, emulator: Emulator) -> None:
    embeddings, index = GatherCase(2, 19, 5, 7, 30).arguments()
    index[17] = value
    with pytest.raises(ptxemu.DeviceAssertError, match="neither -1 nor a pixel of embeddings"):
        define.OVERLOADS["triton", "gather_normalize"](embeddings, index)


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf"), 1e-40])
def test_a_temperature_that_is_not_positive_is_an_assertion_on_the_device(value: float, emulator: Emulator) -> None:
    """In the backward of a step; the forward would be slower for it."""
    case = InfoNCECase(20, 16)
    arguments = case.arguments()
    arguments[define.OPERATORS["info_nce"].place("temperature")].fill_(value)
    outputs = define.OVERLOADS["triton", "info_nce"](*arguments)
    with pytest.raises(ptxemu.DeviceAssertError, match="temperature: not a number > 0"):
        define.OVERLOADS["triton", "info_nce_backward"](*backward_arguments(case, arguments, outputs))


@pytest.mark.parametrize("value", [-1, 2**62])
def test_a_count_of_a_bank_that_cannot_be_is_an_assertion_on_the_device(value: int, emulator: Emulator) -> None:
    arguments = EnqueueCase().arguments()
    arguments[2][1, 0] = value
    with pytest.raises(ptxemu.DeviceAssertError, match=r"written: a count"):
        define.OVERLOADS["triton", "memory_enqueue_"](*arguments)


# Schedules

ONE_BY_ONE = {"batch_threads": 1}  # programs after each other; else many run in lockstep
SCHEDULED = [
    SelectCase(size=(40, 33)),
    GatherCase(2, 64, 7, 9, 100, repeated=True),
    InfoNCECase(150, 64, dtype=torch.bfloat16),
]


@pytest.mark.parametrize("case", SCHEDULED, ids=lambda case: case.operator)
def test_the_order_of_programs_does_not_show(case: Any, emulator: Emulator) -> None:
    """The same bits, though atomics give places in another order."""
    together = outputs_of("triton", case)
    emulator.options = ONE_BY_ONE
    for x, y in zip(together, outputs_of("triton", case), strict=True):
        assert torch.equal(x, y)


# Memory


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gather_moves_the_selected_pixels_only(layout: str, emulator: Emulator) -> None:
    case = GatherCase(2, 256, 20, 24, 300, dtype=torch.bfloat16, layout=layout)
    outputs_of("triton", case)
    index = case.arguments()[1]
    pixels = int((index >= 0).sum())
    wanted = pixels * case.D * 2
    forward, backward = emulator.launches
    for traffic in (forward.traffic["embeddings_ptr", "read"], backward.traffic["d_embeddings_ptr", "write"]):
        assert traffic.bytes == wanted
        if layout == "channels_last":  # rows of the map are consecutive
            assert traffic.sectors == traffic.touched == wanted // SECTOR
            assert traffic.widths == {16: wanted}
        else:  # elements of a pixel are a plane apart, each in a sector
            assert traffic.touched <= traffic.sectors <= pixels * case.D
    assert ("d_embeddings_ptr", "read") not in backward.traffic
    for name in ("rows_ptr", "d_rows_ptr"):
        traffic = backward.traffic[name, "read"]
        assert traffic.widths == {16: wanted}
        assert traffic.sectors == wanted // SECTOR


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("M", [None, 70])
def test_info_nce_reads_rows_in_16_bytes(M: int | None, dtype: torch.dtype, emulator: Emulator) -> None:
    """In the loops over tiles too: asynchronously, 16 bytes a thread, and every sector in full."""
    case = InfoNCECase(150, 256, M=M, dtype=dtype, labels="sorted", rows="unit")
    outputs_of("triton", case)
    sweeps = [launch for launch in emulator.launches if ("y_ptr", "read") in rows_read(launch)]
    assert len(sweeps) >= 3
    for launch in sweeps:
        for traffic in rows_read(launch).values():
            assert set(traffic.widths) == {16}, launch.kernel
            assert traffic.bytes == traffic.sectors * SECTOR
        assert re.search(r"cp\.async\.cg\.shared\.global \[[^]]+\], \[[^]]+\], 0x10", launch.ptx), launch.kernel


def rows_read(launch: compiled_triton.Launch) -> dict[tuple[str, str], Any]:
    """Traffic of x and y; of both, if they are the same rows."""
    read: dict[tuple[str, str], Any] = {}
    for (names, how), traffic in launch.traffic.items():
        read |= {(name, how): traffic for name in names.split("|") if name in ("x_ptr", "y_ptr") and how == "read"}
    return read


def test_a_step_runs_compiled(emulator: Emulator) -> None:
    """The whole step, against the reference on the same seed; it touches a small part of the map."""
    labels = torch.randint(0, 19, (2, 64, 96)).repeat_interleave(2, 1)
    results = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        embeddings = torch.randn(2, 64, 32, 48, requires_grad=True)
        loss = fpc.PixelContrastLoss(max_samples=200, max_views=4, num_classes=19)
        with fpc.backend(backend):
            value = loss(embeddings, labels, torch.randint(0, 19, (2, 32, 48)))
            value.backward()
        results.append((value.detach(), embeddings.grad))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    written = emulator.launches[-1].traffic["d_embeddings_ptr", "write"].bytes
    selected = int((results[1][1].abs().amax(1) > 0).sum())
    assert 0 < written <= 200 * 64 * 4
    assert written >= selected * 64 * 4
