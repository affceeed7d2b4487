"""What only executed CUDA kernels show: that every one was run, that faults in them are found, how they access memory;
and what their host code asks for."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import ptxemu
import pytest
import test_conformance
import test_conformance_contrast
import torch
from harness import compiled_cuda
from harness.compiled_cuda import HOPPER, LARGE, SM90, SMALL, Emulator, launching
from harness.executed import outputs_of, without
from harness.tested_backends import Backend
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastpixcon.ops import define
from fastpixcon.ops.backends import CUDA_MAX_WIDTH as MAX_WIDTH
from fastpixcon.testing import (
    CASES,
    ContrastCase,
    EnqueueCase,
    GatherCase,
    InfoNCECase,
    MemoryCase,
    MiningCase,
    SelectCase,
    backward_arguments,
)

pytestmark = pytest.mark.skipif(compiled_cuda.missing() is not None, reason=str(compiled_cuda.missing()))
NATIVE = Backend("native", "cpu", is_executed=True)


DENOMINATORS = ("negatives", "all")


class Variant(NamedTuple):
    """Runs kernels that no Case runs by itself: on a device with less shared memory, or fewer multiprocessors, or with
    TF32 allowed, or with kernels of sm_90a, or of input that no Case has."""

    case: Any
    shared: int = LARGE
    multiprocessors: int = 8
    tf32: bool = False
    sm90: bool = SM90

    def __str__(self) -> str:
        limits = f"{self.shared >> 10}KiB-{self.multiprocessors}SM{'-tf32' if self.tf32 else ''}"
        return f"{self.case.operator}-{limits}{'-sm90' if self.sm90 else ''}-{self.case}"

    @property
    def emulator(self) -> Emulator:
        return Emulator(self.shared, self.multiprocessors, self.sm90)


STEPS = {
    "contrast_sums": ("contrast_sums", "contrast_positives", "contrast_gradient"),
    "memory_sums": ("memory_sums", "memory_positives"),
}


def variants_of_sm90() -> list[Variant]:
    """Every width and dtype against itself and separate, in one part or several; what changes a pair."""
    half = (torch.bfloat16, torch.float16)
    cases: list[Any] = [
        InfoNCECase(N, D, M=M, dtype=dtype, rows="unit", labels=labels, denominator=name)
        for D in (64, 128, 256)
        for dtype in half
        for N, M, labels, name in ((300, None, "ignored", "all"), (150, 420, "overlap", "negatives"))
    ]
    cases += [InfoNCECase(300, 128, dtype=half[0], denominator="decoupled", labels="padded", label_dtype=torch.int32)]
    cases += [InfoNCECase(130, 64, M=140, dtype=half[1], denominator="decoupled", d_loss="expanded", zero_rows=True)]
    cases += [InfoNCECase(140, 64, dtype=half[0], labels=kind, rows="unit") for kind in ("all ignored", "one class")]
    cases += [InfoNCECase(N, 64, M=M, dtype=half[0]) for N, M in ((1, None), (129, 1), (20, 0))]
    cases += [ContrastCase(130, 256, M=290, diagonal=80, dtype=half[0])]
    cases += [ContrastCase(140, 64, M=150, mutual=True, dtype=half[1])]
    whole = [InfoNCECase(560, 64, dtype=half[0], classes=3, labels="sorted", label_dtype=torch.int32, rows="unit")]
    whole += [InfoNCECase(300, 256, M=310, dtype=dtype, rows="unit") for dtype in half]
    found = [Variant(case, HOPPER, sm90=True) for case in cases]
    return found + [Variant(case, HOPPER, multiprocessors=1, sm90=True) for case in whole]


def variants() -> list[Variant]:
    half, single = (torch.bfloat16, torch.float16), torch.float32
    found = [
        Variant(InfoNCECase(150, D, M=M, dtype=dtype, rows=rows), shared=SMALL)
        for dtype in half
        for D, M, rows in ((256, None, "unit"), (200, 130, "any"), (500, None, "unit"))
    ]
    found += [Variant(InfoNCECase(70, D, dtype=single, rows="unit"), shared=SMALL) for D in (256, 500)]
    found += [Variant(InfoNCECase(100, 400, dtype=dtype, rows="any")) for dtype in half]
    found += [Variant(InfoNCECase(100, D, M=M), tf32=True) for D, M in ((100, None), (200, 90), (400, None))]
    found += [Variant(ContrastCase(130, 256, M=70, diagonal=None, dtype=dtype), shared=SMALL) for dtype in half]
    found += [Variant(ContrastCase(40, D, M=90, diagonal=20, dtype=half[D > 450])) for D in (400, 500)]
    found += [Variant(ContrastCase(40, 400, M=90, diagonal=20))]
    unfixed: dict[str, Any] = {"M": 90, "diagonal": 20, "temperature": 0.02, "denominator": "all"}
    found += [Variant(ContrastCase(40, D, **unfixed, mined=not tf32), tf32=tf32) for D in (100, 200, 400)
              for tf32 in (False, True)]  # fmt: skip
    found += [Variant(MemoryCase(40, D, 30), tf32=True) for D in (100, 200, 400)]
    found += [Variant(MemoryCase(40, 500, 30, dtype=dtype, mined=True)) for dtype in (*half, single)]
    found += [Variant(MemoryCase(140, 64, 70, dtype=half[i], denominator=name)) for i, name in enumerate(DENOMINATORS)]
    found += [Variant(MiningCase(70, 200, S=20, dtype=dtype), shared=SMALL) for dtype in (*half, single)]
    found += [Variant(MiningCase(70, 100, S=20), shared=shared, tf32=True) for shared in (SMALL, LARGE)]
    ruled: dict[str, Any] = {"rule_of_pairs": "everything"}
    found += [Variant(InfoNCECase(100, D, M=M, **ruled), tf32=True) for D, M in ((100, None), (200, 90), (400, None))]
    found += [Variant(MemoryCase(40, D, 30, **ruled), tf32=True) for D in (100, 200, 400)]
    found += [Variant(MemoryCase(40, 200, 30, **rule)) for rule in ({}, ruled)]
    found += [Variant(InfoNCECase(40, D, rows="any", **ruled)) for D in (100, 200, 400)]
    found += [Variant(InfoNCECase(60, D, dtype=dtype, rows="any", **ruled)) for dtype in half for D in (200, 400)]
    found += [Variant(InfoNCECase(60, D, M=70, dtype=dtype, **ruled)) for dtype in (*half, single) for D in (200, 400)]
    found += [Variant(MiningCase(70, 100, S=20, dtype=dtype, **ruled)) for dtype in (*half, single)]
    found += [Variant(MiningCase(70, 100, S=20, **ruled), tf32=True)]
    found += [Variant(GatherCase(2, 8, 40, 41, 2100))]  # more pixels than are told apart without marks
    layouts = ("contiguous", "channels_last", "strided")
    found += [
        Variant(SelectCase(predictions=dtype, layout=layout)) for dtype in (*half, torch.float64) for layout in layouts
    ]
    found += [Variant(SelectCase(size=(16, 16), predictions=dtype)) for dtype in half]
    found += variants_of_sm90()
    return found + [
        Variant(GatherCase(2, 64, 7, 9, 100, dtype=dtype, repeated=True), multiprocessors=1)
        for dtype in (*half, single)
    ]


@contextmanager
def allowing_tf32(allowed: bool) -> Iterator[None]:
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_every_kernel_is_run() -> None:
    """By a Case or a variant; nothing is executed here."""
    ran: set[str] = set()
    cases = [case for case in itertools.chain(*CASES.values()) if getattr(case, "D", 0) <= MAX_WIDTH]
    for variant in [*map(Variant, cases), *variants()]:
        emulator = replace(variant.emulator, run=lambda name, *launch: ran.add(name))
        with launching(emulator), allowing_tf32(variant.tf32):
            outputs_of("native", variant.case)
    assert ran == set(compiled_cuda.entries())


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_variant(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very tests of the conformance suite."""
    case = variant.case
    if variant.tf32:  # 10 bits of a row
        monkeypatch.setattr(InfoNCECase, "tol", property(lambda case: 2e-3 * case.largest_logit))
        monkeypatch.setattr(MemoryCase, "tol", property(lambda case: 2e-3 * case.rows.largest_logit))
        monkeypatch.setattr(MiningCase, "rounding", 2e-3)
    with launching(variant.emulator), allowing_tf32(variant.tf32):
        for operator in STEPS.get(case.operator, [case.operator]):
            test = getattr(test_conformance, f"test_{operator}", None)
            test = test or getattr(test_conformance_contrast, f"test_{operator}")
            wanted = {"wanted": True} if operator.startswith("memory_") else {}
            test(case, operators=NATIVE, threads=lambda n: None, **wanted)


# Faults in compiled code


LOSS = InfoNCECase(200, 64, dtype=torch.bfloat16, labels="sorted", rows="unit")
RAW = InfoNCECase(100, 19)
GATHER = GatherCase(2, 64, 7, 9, 61)
SELECT = SelectCase(size=(30, 30))
CONTRAST = ContrastCase(70, 40, M=90, diagonal=5, denominator="all")
MEMORY = MemoryCase(70, 128, 50, dtype=torch.bfloat16)
IN_UNITS = MemoryCase(40, 200, 30)  # whose rows several warps have parts of
MINED = MemoryCase(70, 40, 50, mined=True, label_dtype=torch.int64)
MINING = MiningCase(70, 128, M=90, dtype=torch.bfloat16, negatives="hardest")
FAULTS = [
    ("sums", LOSS, r"bar\.sync", None, "RaceError"),
    *(("sums", LOSS, r"bar\.sync", i, "RaceError") for i in range(4)),
    ("sums", LOSS, r"cp\.async\.wait_group", None, "PendingCopyError"),
    ("positives", LOSS, r"bar\.sync", None, "RaceError"),
    ("positives", LOSS, r"cp\.async\.wait_group", None, "PendingCopyError"),
    ("gradient", LOSS, r"bar\.sync", 0, "RaceError"),
    ("gradient", LOSS, r"bar\.sync", 1, "RaceError"),
    ("gradient", LOSS, r"cp\.async\.wait_group", None, "PendingCopyError"),
    ("gradient", LOSS, r"st\.shared", None, "UninitializedReadError"),
    ("prepare_rows", RAW, r"bra", 0, "OutOfBoundsError"),
    ("terms", RAW, r"bra", 0, "OutOfBoundsError"),
    ("project", RAW, r"bra", 0, "OutOfBoundsError"),
    ("gather_planes", GATHER, r"bar\.sync", None, "RaceError"),
    ("scatter_planes", GATHER, r"bar\.sync", None, "RaceError"),
    *(("contrast_rows", MEMORY, r"bar\.sync", i, "RaceError") for i in (0, 1, 3)),
    ("contrast_rows", CONTRAST, r"bar\.sync", 2, "RaceError"),
    *(("contrast_rows", IN_UNITS, r"bar\.sync", i, "RaceError") for i in (0, 1, 2)),
    ("contrast_rows", MEMORY, r"cp\.async\.wait_group", None, "PendingCopyError"),
    ("contrast_rows", MEMORY, r"st\.shared", None, "UninitializedReadError"),
    ("log_sums", MEMORY, r"bra", 1, "OutOfBoundsError"),
    ("positive_sums", MEMORY, r"bra", 0, "OutOfBoundsError"),
    ("mining", MINED, r"bra", 0, "OutOfBoundsError"),
    ("places", CONTRAST, r"bra", 0, "OutOfBoundsError"),
    ("itself", CONTRAST, r"bra", 0, "OutOfBoundsError"),
    ("count_cosines", MINING, r"bar\.sync", 0, "RaceError"),
    ("count_cosines", MINING, r"bar\.sync", 1, "RaceError"),
    ("count_cosines", MINING, r"cp\.async\.wait_group", None, "PendingCopyError"),
    ("count_cosines", MINING, r"st\.shared", None, "UninitializedReadError"),
    ("mining_thresholds", MINING, r"bra", 0, "OutOfBoundsError"),
    ("codes", SELECT, r"bar\.sync", 0, "RaceError"),
    ("choose", SELECT, r"bar\.sync", None, "RaceError"),
    ("draw", SELECT, r"bar\.sync", None, "RaceError"),
]


@pytest.mark.parametrize(("kernel", "case", "pattern", "which", "error"), FAULTS)
def test_a_fault_in_the_code_is_found(kernel: str, case: Any, pattern: str, which: int | None, error: str) -> None:
    def edit(name: str, ptx: str) -> str:
        return without(pattern, which)(ptx) if kernel in name else ptx

    with launching(Emulator(edit=edit)), pytest.raises(getattr(ptxemu, error)):
        outputs_of("native", case)


def test_a_label_that_is_too_large_is_an_assertion_on_the_device() -> None:
    labels, *others = SelectCase(classes=5).arguments()
    labels[1, 3, 4] = 5
    with launching(Emulator()), pytest.raises(ptxemu.DeviceAssertError, match="labels"):
        define.OVERLOADS["native", "select_anchors"](labels, *others)


def test_an_index_beyond_the_map_is_an_assertion_on_the_device() -> None:
    embeddings, index = GatherCase(2, 64, 7, 9, 61).arguments()
    index[5] = 2 * 7 * 9
    with launching(Emulator()), pytest.raises(ptxemu.DeviceAssertError, match="index"):
        define.OVERLOADS["native", "gather_normalize"](embeddings, index)


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf"), 1e-40])
def test_a_temperature_that_is_not_positive_is_an_assertion_on_the_device(value: float) -> None:
    arguments = InfoNCECase(20, 16).arguments()
    arguments[define.OPERATORS["info_nce"].place("temperature")].fill_(value)
    with launching(Emulator()), pytest.raises(ptxemu.DeviceAssertError, match="temperature: not a number > 0"):
        define.OVERLOADS["native", "info_nce"](*arguments)


def test_a_label_beyond_the_class_weights_is_an_assertion_on_the_device() -> None:
    arguments = InfoNCECase(20, 16, rule_of_pairs="class weights").arguments()
    W = arguments[define.OPERATORS["info_nce"].place("class_weights")]
    arguments[1][3] = len(W)
    with launching(Emulator()), pytest.raises(ptxemu.DeviceAssertError, match="labels: not below the size"):
        define.OVERLOADS["native", "info_nce"](*arguments)


@pytest.mark.parametrize("value", [-1, 2**62])
def test_a_count_of_a_bank_that_cannot_be_is_an_assertion_on_the_device(value: int) -> None:
    arguments = EnqueueCase().arguments()
    arguments[2][1, 0] = value
    with launching(Emulator()), pytest.raises(ptxemu.DeviceAssertError, match=r"written: a count"):
        define.OVERLOADS["native", "memory_enqueue_"](*arguments)


# Memory


@pytest.mark.parametrize("D", [64, 200, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=lambda dtype: str(dtype)[6:])
def test_hot_loops_have_no_bank_conflicts_and_whole_sectors(dtype: torch.dtype, D: int) -> None:
    """Of products of rows, which come as copies of 16 bytes a thread."""
    emulator = Emulator(multiprocessors=1)
    with launching(emulator):
        outputs_of("native", InfoNCECase(260, D, dtype=dtype, labels="sorted", rows="unit", classes=7))
    hot = [launch for launch in emulator.launches if re.search("sums|positives|gradient", launch.kernel)]
    assert len(hot) == 3
    for launch in hot:
        profile = launch.profile
        assert profile.bank_conflict_degree() == 1.0, f"{launch.kernel}: {profile}"
        copies = [entry for entry in profile.memory if entry[1].startswith("cp.async") and "16" not in entry[1][:8]]
        assert copies
        rows = [(sectors, ideal) for _, opcode, space, _, sectors, ideal in copies if ".cg" in opcode]
        assert sum(ideal for _, ideal in rows) >= 0.9 * sum(sectors for sectors, _ in rows), str(profile)
        share = profile.by_class["mma"] / profile.total
        assert share >= (0.05 if dtype == torch.float32 else 0.02), str(profile)


@pytest.mark.parametrize(
    "case",
    [
        case
        for dtype in (torch.bfloat16, torch.float32)
        for case in (MemoryCase(130, 128, 100, dtype=dtype), MiningCase(130, 128, S=100, M=0, dtype=dtype))
    ],
    ids=str,
)
def test_a_bank_is_read_in_whole_sectors_and_without_bank_conflicts(case: Any) -> None:
    """But for the counts of cosines, which lie where the cosines are."""
    emulator = Emulator(multiprocessors=1)
    with launching(emulator):
        outputs_of("native", case)
    hot = [launch for launch in emulator.launches if re.search("contrast_rows|count_cosines", launch.kernel)]
    assert len(hot) == 2
    for launch in hot:
        uses = launch.profile.memory
        conflicts = [x for x in uses if x.space == "shared" and x.measured > 1 and not re.match("atom|red", x.opcode)]
        assert not conflicts, str(launch.profile)
        copies = [x for x in uses if x.opcode.startswith("cp.async.cg") and x.space == "global"]
        assert copies
        assert sum(x.executions * x.ideal for x in copies) >= 0.9 * sum(x.executions * x.measured for x in copies)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
def test_channels_last_pixels_are_read_and_written_in_whole_sectors(dtype: torch.dtype) -> None:
    emulator = Emulator()
    with launching(emulator):
        outputs_of("native", GatherCase(2, 256, 9, 11, 60, dtype=dtype, layout="channels_last"))
    for launch in emulator.launches:
        if "mark_owners" not in launch.kernel:
            assert launch.profile.sector_efficiency() >= 0.9, str(launch.profile)


# Host code


class Host(TorchDispatchMode):
    """What the host code asks torch for, of which nothing may read a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.most = 0  # bytes of a tensor that it made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        self.ran.append(func._opname)
        outputs = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        for x in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given:
                self.most = max(self.most, x.untyped_storage().nbytes())
        return outputs


def metadata(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.dtype, x.stride(), x.device


@pytest.mark.parametrize("operator", CASES)
def test_host_code_reads_nothing_and_returns_what_the_fake_kernel_says(operator: str) -> None:
    """For every Case; nothing is executed."""
    cuda = torch._C.DispatchKey.CUDA
    for case in CASES[operator]:
        if getattr(case, "D", 0) > MAX_WIDTH:
            continue
        arguments = test_conformance_contrast.call_arguments(operator, case, "cpu")
        for name in (operator, f"{operator}_backward"):
            if name not in define.OPERATORS:
                continue
            op = define.OVERLOADS["native", name]
            with torch._subclasses.FakeTensorMode() as mode:
                fakes = op(*[mode.from_tensor(x) if isinstance(x, Tensor) else x for x in arguments])
            with launching(lambda *launch: None), Host() as host:
                outputs = op._op_dk(cuda, *arguments)
            if outputs is None:
                assert fakes is None
                continue
            assert {"empty", "zeros"} & set(host.ran), "the mode sees nothing"
            outputs, fakes = ((x,) if isinstance(x, Tensor) else x for x in (outputs, fakes))
            assert [metadata(x) for x in outputs] == [metadata(x) for x in fakes], (name, case)
            if f"{name}_backward" in define.OPERATORS:
                arguments = backward_arguments(case, arguments, outputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("D", [64, 200])
@pytest.mark.parametrize("operator", ["memory_sums", "memory_positives", "mining_thresholds"])
def test_a_bank_is_copied_once_if_it_is_float32(operator: str, D: int, dtype: torch.dtype) -> None:
    """In whole panels of halves; else not at all, nor is anything else as large as it."""
    case = (
        MiningCase(9, D, M=0, S=1000, dtype=dtype)
        if operator.startswith("mining")
        else MemoryCase(9, D, 1000, dtype=dtype)
    )
    arguments = test_conformance_contrast.call_arguments(operator, case, "cpu")
    bank = next(x for x in arguments if isinstance(x, Tensor) and x.dim() == 3)
    seen: list[tuple[Any, ...]] = []
    with launching(lambda *launch: seen.append(launch)), Host() as host:
        define.OVERLOADS["native", operator]._op_dk(torch._C.DispatchKey.CUDA, *arguments)
    assert len(seen) >= 2
    rows = bank.shape[0] * bank.shape[1]
    copies = [name for name, grid, *_ in seen if "prepare_rows" in name and grid[0] * 8 >= rows]
    if dtype == torch.float32:
        assert len(copies) == 1
        assert host.most == bank.nbytes // D * (-(-D // 32) * 32)
    else:
        assert not copies
        assert 0 < host.most < bank.nbytes


@pytest.fixture
def names() -> Iterator[list[str]]:
    """Of kernels, as they are launched."""
    found: list[str] = []
    with launching(lambda name, *launch: found.append(name)):
        yield found


@pytest.mark.parametrize("predictions", [torch.int64, torch.bfloat16], ids=["classes", "logits"])
def test_selection_is_four_launches(predictions: torch.dtype, names: list[str]) -> None:
    for B, size in itertools.product((1, 8), ((16, 16), (128, 256))):
        names.clear()
        outputs_of("native", SelectCase(B=B, size=size, predictions=predictions, max_samples=1024))
        assert len(names) <= 4, names
