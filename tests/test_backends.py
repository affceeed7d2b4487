"""Which backends are here, how one is chosen, and what is said about one that is missing."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import tested_backends
from harness.tested_backends import ALL_BACKENDS, Backend, is_here
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastpixcon as fpc
from fastpixcon.functional import info_nce
from fastpixcon.ops import backends, define, extension


class Recorder(TorchDispatchMode):
    """Names of this library's operators, in the order they run."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace.startswith("fastpixcon_"):
            self.ran.append(f"{func.namespace.removeprefix('fastpixcon_')} {func._opname}")
        return func(*args, **(kwargs or {}))


def small_rows(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor]:
    return torch.randn(12, 4, dtype=dtype, device=device, requires_grad=True), torch.arange(12, device=device) % 3


@pytest.fixture
def only_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an installation without a compiler."""
    for backend, operator in list(define.OVERLOADS):
        if backend != "reference":
            monkeypatch.delitem(define.OVERLOADS, (backend, operator))
    monkeypatch.setattr(extension, "reason", "there was no compiler")


@pytest.mark.parametrize("backend", ALL_BACKENDS, ids=str)
def test_backend_is_here(backend: Backend) -> None:
    """Skipped with the reason where a backend is not here; a failure where it is required."""
    if not is_here(backend):
        why = next(filter(None, (backend.lacks(op, torch.float32) for op in define.OPERATORS)))
        message = f"backend {backend}: {why}"
        pytest.fail(message) if backend.is_required else pytest.skip(message)
    for operator in define.OPERATORS:
        backend.op(operator)


def test_what_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend by its name on the CPU, with its device elsewhere."""
    monkeypatch.setattr(tested_backends, "REQUIRED", ["native", "triton-cuda"])
    required = [(b, d) for b in define.NAMESPACES for d in ("cpu", "cuda") if Backend(b, d).is_required]
    assert required == [("native", "cpu"), ("triton", "cuda")]


def of_a_loss(operators: Backend) -> list[str]:
    """What forward and backward of few rows run."""
    at_once = operators.name != "reference"
    return [
        f"{operators.name} {x}" for x in (["info_nce_at_once"] if at_once else ["info_nce_mean", "info_nce_backward"])
    ]


def test_backward_runs_on_the_backend_of_its_forward(operators: Backend) -> None:
    operators.op("info_nce")
    x, y = small_rows(device=operators.device)
    with Recorder() as recorder:
        with fpc.backend(operators.name):
            loss = info_nce(x, y)
        with fpc.backend("reference"):
            loss.backward()
    assert recorder.ran == of_a_loss(operators)


def test_backward_of_several_sets_runs_on_the_backend_of_its_forward(operators: Backend) -> None:
    operators.op("memory_sums")
    x, y = small_rows(device=operators.device)
    bank = fpc.MemoryBank(3, x.shape[1], 4, 4).to(operators.device)
    with Recorder() as recorder:
        with fpc.backend(operators.name):
            loss = info_nce(x, y, memory=bank)
        with fpc.backend("reference"):
            loss.backward()
    assert {name for name in recorder.ran if "gradient" in name} == {f"{operators.name} contrast_gradient"}


def test_the_argument_wins_over_the_default(operators: Backend) -> None:
    operators.op("info_nce")
    x, y = small_rows(device=operators.device)
    with Recorder() as recorder, fpc.backend("reference"):
        info_nce(x, y, backend=operators.name)
    assert recorder.ran == of_a_loss(operators)[:1]


def test_auto_prefers_kernels(operators: Backend) -> None:
    """float32 runs on the first of AUTO_ORDER that is here, and never on the reference if there is another."""
    operators.op("info_nce")
    x, y = small_rows(device=operators.device)
    with Recorder() as recorder, fpc.backend("auto"):
        info_nce(x, y)
    (ran,) = recorder.ran
    order = backends.auto_order("info_nce", operators.device, len(x))
    if operators.name not in order:
        pytest.skip("Triton runs on the CPU for tests only: nothing chooses it there by itself")
    assert order.index(ran.split()[0]) <= order.index(operators.name)


@pytest.mark.parametrize("operator", define.OPERATORS)
def test_auto_on_a_gpu_takes_many_rows_to_triton_and_the_rest_to_native(operator: str) -> None:
    few, many = (backends.auto_order(operator, "cuda", rows) for rows in (8192, 8193))
    assert few == ("native", "triton", "reference")
    assert many[0] == ("triton" if operator.startswith(("info_nce", "contrast_")) else "native")
    assert set(many[:2]) == {"triton", "native"}
    assert many[2] == "reference"


def test_wide_rows_are_not_for_the_native_kernels_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extension.build, "devices", "CPU,CUDA")
    monkeypatch.setitem(define.NATIVE_DEVICES, "info_nce", frozenset({"cpu", "cuda"}))
    if backends.missing("native") is not None:
        pytest.skip(backends.missing("native"))
    widths = {
        device: [backends.unsupported("native", "info_nce", torch.device(device), torch.float32, D) for D in (512, 513)]
        for device in ("cpu", "cuda")
    }
    assert widths["cpu"] == [None, None]
    assert widths["cuda"][0] is None
    assert "at most 512 features, not 513" in widths["cuda"][1]


def test_nesting_and_leaving() -> None:
    before = backends._default
    with fpc.backend("reference"):
        assert backends._default == "reference"
        with fpc.backend("auto"):
            assert backends._default == "auto"
            with pytest.raises(ValueError, match="backend: got 'numpy'"), fpc.backend("numpy"):
                pass
            assert backends._default == "auto"
        assert backends._default == "reference"
        with pytest.raises(KeyError), fpc.backend("triton"):
            raise KeyError
        assert backends._default == "reference"
    assert backends._default == before


def test_without_a_block_it_stays() -> None:
    before = backends._default
    fpc.backend("reference")
    try:
        assert backends._default == "reference"
    finally:
        fpc.backend(before)
    assert backends._default == before


def test_a_backward_in_another_thread_keeps_its_backend(operators: Backend) -> None:
    operators.op("info_nce")
    x, y = small_rows(device=operators.device)
    with fpc.backend(operators.name):
        loss = info_nce(x, y)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert x.grad is not None


@pytest.mark.usefixtures("only_reference")
@pytest.mark.parametrize("name", ["native", "triton"])
def test_asked_for_and_missing_raises_with_the_reason(name: str) -> None:
    x, y = small_rows()
    reason = "there was no compiler" if name == "native" else "no operators for triton"
    with pytest.raises(RuntimeError, match=f"backend {name!r} can't run info_nce: .*{reason}"):
        info_nce(x, y, backend=name)
    with fpc.backend(name), pytest.raises(RuntimeError, match=reason):
        info_nce(x, y)
    with Recorder() as recorder, fpc.backend("auto"):
        info_nce(x, y)
    assert recorder.ran == ["reference info_nce_mean"]


def test_float64_is_for_the_reference(operators: Backend) -> None:
    operators.op("info_nce")
    x, y = small_rows(torch.float64, operators.device)
    if operators.name != "reference":
        with fpc.backend(operators.name), pytest.raises(RuntimeError, match=r"torch\.float64"):
            info_nce(x, y)
    with Recorder() as recorder, fpc.backend("auto"):
        info_nce(x, y)
    assert recorder.ran == ["reference info_nce_mean"]


def test_show_config_names_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    text = fpc.show_config()
    assert capsys.readouterr().out == text + "\n"
    first, *lines = text.splitlines()
    assert torch.__version__ in first
    assert repr(backends._default) in first
    assert [line.split(":")[0] for line in lines] == list(define.NAMESPACES)
    for line, name in zip(lines, define.NAMESPACES, strict=True):
        why = backends.missing(name)
        if why is not None:
            assert line == f"{name}: not available: {why}"
            continue
        for backend, operator in define.OVERLOADS:
            assert backend != name or re.search(rf"\b{operator}\b", line)
    if extension.reason is None and backends.missing("native") is None:
        assert f"cpu_isa {extension.build['isa']} (of baseline" in text
        assert extension.build["compiler"] in text


@pytest.mark.usefixtures("only_reference")
def test_show_config_says_why_a_backend_is_missing() -> None:
    assert "native: not available: there was no compiler" in fpc.show_config()


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_the_environment_sets_the_default() -> None:
    done = python("import fastpixcon as fpc; fpc.show_config()", FASTPIXCON_BACKEND="reference")
    assert "default backend 'reference'" in done.stdout, done.stderr
    done = python("import fastpixcon", FASTPIXCON_BACKEND="numpy")
    assert done.returncode != 0
    assert "backend: got 'numpy', want one of 'auto'" in done.stderr


BF16 = {"avx2", "avx512", "avx512_bf16"}
AMX = BF16 | {"amx"}
AMD, INTEL = "AuthenticAMD", "GenuineIntel"
NAMES = "of baseline, avx2, avx512"


@pytest.mark.skipif(extension.reason is not None, reason=str(extension.reason))
@pytest.mark.parametrize(
    ("vendor", "features", "isa", "why"),
    [
        (INTEL, set(), "baseline", "of baseline"),
        (AMD, {"sse4a"}, "baseline", "of baseline"),
        (INTEL, {"avx2"}, "avx2", "of baseline, avx2"),
        (AMD, {"avx2", "sse4a"}, "avx2", "of baseline, avx2"),
        (INTEL, {"avx2", "avx512"}, "avx512", NAMES),
        # Zen 4 and 5 multiply bfloat16 pairs fast, Intel without AMX slowly.
        (AMD, {*BF16, "sse4a"}, "avx512_bf16", f"{NAMES}, avx512_bf16"),
        ("HygonGenuine", {*BF16, "sse4a"}, "avx512_bf16", f"{NAMES}, avx512_bf16"),
        (INTEL, BF16, "avx512", f"{NAMES}, avx512_bf16; avx512_bf16 is there, slower on Intel"),
        # A hypervisor that puts its own letters: what only AMD has says whose processor it is.
        ("KVMKVMKVM", {*BF16, "sse4a"}, "avx512_bf16", f"{NAMES}, avx512_bf16"),
        ("KVMKVMKVM", BF16, "avx512",
         f"{NAMES}, avx512_bf16; avx512_bf16 is there, not known to be faster on 'KVMKVMKVM'"),
        ("", BF16, "avx512", f"{NAMES}, avx512_bf16; avx512_bf16 is there, not known to be faster on ''"),
        # AMX is the best anywhere, where the system hands it out.
        (INTEL, {*AMX, "amx_permitted"}, "amx", f"{NAMES}, avx512_bf16, amx"),
        ("KVMKVMKVM", {*AMX, "amx_permitted"}, "amx", f"{NAMES}, avx512_bf16, amx"),
        (INTEL, AMX, "avx512", f"{NAMES}, avx512_bf16; amx is there, the system does not permit it;"
         " avx512_bf16 is there, slower on Intel"),
        (AMD, {*AMX, "sse4a"}, "avx512_bf16", f"{NAMES}, avx512_bf16; amx is there, the system does not permit it"),
    ],
)  # fmt: skip
def test_the_instruction_set_is_what_the_processor_is_good_at(
    vendor: str, features: set[str], isa: str, why: str
) -> None:
    from fastpixcon import _C

    assert _C.choose_isa(vendor, features) == (isa, why)


@pytest.mark.skipif(extension.reason is not None, reason=str(extension.reason))
def test_an_instruction_set_by_name_is_taken_slow_or_not_and_a_missing_one_is_an_error() -> None:
    from fastpixcon import _C

    for name in ("baseline", "avx2", "avx512", "avx512_bf16"):
        assert _C.choose_isa(INTEL, BF16, name) == (name, f"{NAMES}, avx512_bf16; by FASTPIXCON_CPU_ISA")
    wrong = f"FASTPIXCON_CPU_ISA: got amx, this processor has {NAMES[3:]}, avx512_bf16"
    with pytest.raises(ValueError, match=f"{wrong}$"):
        _C.choose_isa(INTEL, BF16, "amx")
    with pytest.raises(ValueError, match=f"{wrong}; amx is there, the system does not permit it$"):
        _C.choose_isa(INTEL, AMX, "amx")
    with pytest.raises(ValueError, match="FASTPIXCON_CPU_ISA: amx_emulated needs a processor with AVX2"):
        _C.choose_isa(INTEL, set(), "amx_emulated")
    with pytest.raises(
        ValueError, match="got amx_emulated, which only builds for tests have: FASTPIXCON_BUILD_TESTS=1"
    ):
        _C.choose_isa(INTEL, BF16, "amx_emulated")
    with pytest.raises(ValueError, match="FASTPIXCON_CPU_ISA: got avx1024, want baseline, avx2"):
        _C.choose_isa(INTEL, BF16, "avx1024")


@pytest.mark.skipif(extension.reason is not None, reason=str(extension.reason))
def test_this_processor_gets_what_suits_it() -> None:
    """By what Linux says of it."""
    info = Path("/proc/cpuinfo")
    if not info.is_file() or "avx512_bf16" not in info.read_text():
        pytest.skip("this processor has no avx512_bf16")
    text = info.read_text()
    done = python("import fastpixcon as fpc; fpc.show_config()", FASTPIXCON_CPU_ISA="")
    wanted = "amx" if "amx_bf16" in text else "avx512_bf16" if AMD in text else "avx512"
    if wanted == "amx" and "the system does not permit it" in done.stdout:
        wanted = "avx512"
    assert f"cpu_isa {wanted} ({NAMES}, avx512_bf16" in done.stdout, done.stderr


ISAS = ["baseline", "avx2", "avx512", "avx512_bf16", "amx"]
ISAS += ["avx512_emulated", "avx512_bf16_emulated", "amx_emulated"]
# What is compiled for each; schedules are the same, so one number of threads is enough.
KERNELS_AND_DETERMINISM = "native and info_nce and (test_info_nce or (same_bits and 5]))"
CONFORMANCE = """
import sys
from fastpixcon.ops import extension
print("isa", extension.build["isa"], flush=True)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("isa", ISAS)
def test_conformance_on_every_instruction_set(isa: str, pytestconfig: pytest.Config) -> None:
    """The kernels that this processor would not choose by itself."""
    if backends.missing("native") is not None:
        pytest.skip(backends.missing("native"))
    if isa == extension.build["isa"]:
        pytest.skip(f"{isa} is what the other tests run on")
    chosen = KERNELS_AND_DETERMINISM
    if "bf16" in isa or "amx" in isa:  # other dtypes run on what the level below has
        chosen += " and bfloat16"
    command = [sys.executable, "-c", CONFORMANCE, "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    env = {**os.environ, "FASTPIXCON_CPU_ISA": isa}
    env = {name: value for name, value in env.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, "tests/test_conformance.py", "-k", chosen],
        env=env,
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
    )
    if f"isa {isa}\n" not in done.stdout:
        assert "FASTPIXCON_CPU_ISA" in done.stderr, done.stderr
        assert "native" not in os.environ.get("FASTPIXCON_REQUIRE", "") or "builds for tests" not in done.stderr
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
