"""Everything that only a GPU can show, in under ten minutes, and one Markdown report of it.

    python bench/on_gpu/gpu_check.py [--minutes 9.5] [--report runs/gpu-check.md] [--only tests synchronisation]

The test suite with its GPU, compute-sanitizer, synchronisations, CUDA graphs, torch.compile, accuracy at large N, then
times against eager PyTorch; on capability 9.0 also the kernels of sm_90a, which FASTPIXCON_HOPPER=1 asks for. A step
that fails or hangs stops none of the later ones; the report is written anew after each. The exit status is 1 if one
failed, or if there is no GPU. The launch table is used as it stands: what tunes tiles is
``FASTPIXCON_AUTOTUNE=1 fastpixcon bench --device cuda``.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import gpu_checks
import gpu_hopper
import gpu_steps
import torch
from gpu_steps import Result, Step

from fastpixcon.ops import extension

ROOT = Path(__file__).resolve().parents[2]
TITLE = "# fastpixcon on "  # how a report begins
# They would change what is checked.
NOT_INHERITED = ("FASTPIXCON_AUTOTUNE", "FASTPIXCON_BACKEND", gpu_hopper.VARIABLE, "TRITON_INTERPRET")
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck")
MOST_WORKERS = 12
GIB_A_WORKER = 3


def why_no_gpu() -> str | None:
    """None if PyTorch can use one."""
    if torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return "torch.cuda.is_available() is False"


def said_by(*command: str) -> str:
    """What a command prints; "" where it can't be run."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def facts() -> dict[str, str]:
    """Where the report comes from."""
    commit = said_by("git", "rev-parse", "HEAD") or "unknown"
    changed = said_by("git", "status", "--porcelain").splitlines()
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "not installed"
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit + (f"; changed files: {len(changed)}" if changed else "; no file changed"),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "triton": triton,
        "python": platform.python_version(),
        "processor": f"{os.cpu_count()} cores",
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        kind = f"compute capability {gpu.major}.{gpu.minor}, {gpu.multi_processor_count} multiprocessors"
        driver = said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").replace("\n", ", ")
        found = {
            "GPU": f"{gpu.name}, {kind}",
            "memory": f"{gpu.total_memory / 2**30:.1f} GiB",
            "driver": driver or "unknown: nvidia-smi says nothing",
            **found,
        }
    return found


def compute_sanitizer() -> str | None:
    """Where it is."""
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    folders = [os.path.join(home, "bin") for home in homes if home]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def built_for_cuda() -> list[str]:
    return ["native-cuda"] if "CUDA" in extension.build.get("devices", "").split(",") else []


def pytest_step(name: str, title: str, selected: str, workers: int, **times: float) -> Step:
    """The tests whose name has ``selected`` in it."""
    command = [sys.executable, "-m", "pytest", "-n", str(workers), "--dist", "worksteal", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=--strict-markers", "-rfE", "--tb=short", "-k", selected]
    environment = {
        "FASTPIXCON_REQUIRE": ",".join(["native", "train", "triton-cuda", *built_for_cuda()]),
        "OMP_NUM_THREADS": "1",
        "MALLOC_PERTURB_": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the reference on a GPU gives the same bits only with it
        "COLUMNS": "150",
    }
    return Step(name, title, command, environment=environment, **times)


def hopper_steps(workers: int) -> list[Step]:
    """Of the kernels that nothing takes by itself."""
    skip, wanted = gpu_hopper.why_not(), {gpu_hopper.VARIABLE: "1"}
    cases = " or ".join(f"native-cuda-{name}" for name in ("info_nce", "contrast", "pixel_contrast"))
    tests = pytest_step("hopper", "Kernels of sm_90a: tests", cases, workers, limit=80, least=10)
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in ("conformance", "conformance_contrast")]
    tests = replace(tests, command=[*tests.command, *files], environment={**tests.environment, **wanted}, skip=skip)
    accuracy = own_step("hopper-accuracy")
    return [
        tests,
        Step("hopper-accuracy", "Kernels of sm_90a: taken, and accurate at large N", accuracy, 40, 6, wanted, skip),
        Step("hopper-times", "Kernels of sm_90a: times", own_step("hopper-times"), 80, 8, skip=skip, is_markdown=True),
    ]


def sanitizer_step(tool: str, found: str | None) -> Step:
    skip = "" if found else "no compute-sanitizer in PATH, $CUDA_HOME/bin, $CUDA_PATH/bin or /usr/local/cuda/bin"
    command = [found or "", "--tool", tool, "--error-exitcode", "9", *own_step("small")]
    # every tensor an allocation of its own, so that what lies beyond it is not another one's
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return Step(tool, f"compute-sanitizer {tool}", command, 75, 25, environment, skip)


def own_step(name: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--step", name]


def all_steps(workers: int) -> list[Step]:
    """In this order; what is kept for all of them together is less than the time there is."""
    sanitizer = compute_sanitizer()
    return [
        pytest_step("tests", "Tests on the GPU", "cuda", workers, limit=240, least=120),
        *(sanitizer_step(tool, sanitizer) for tool in SANITIZER_TOOLS),
        Step("synchronisation", "No synchronisation", own_step("synchronisation"), 70, 20),
        Step("graphs", "CUDA graphs", own_step("graphs"), 40, 20),
        Step("compile", "torch.compile", own_step("compile"), 80, 40),
        Step("accuracy", "Accuracy at large N", own_step("accuracy"), 80, 30),
        Step("times", "Times and memory", own_step("times"), 150, 90, is_markdown=True),
        *hopper_steps(workers),
        pytest_step("rest", "All other tests", "not cuda", workers, limit=300, least=60),
    ]


Check = tuple[str, Callable[[], str]]


def checks(step: str, device: str) -> list[Check]:
    """What a step looks at, one by one, on each backend; torch.compile is for the one that is chosen by itself."""
    found = checks_of(step, device)
    names = gpu_checks.backends(device)
    if step == "hopper-accuracy":
        names = ["native"]
    elif step == "compile":
        names = ["auto"]
    if names == ["auto"]:
        return found
    return [
        (f"{backend}: {name}", partial(gpu_checks.on, backend, check)) for backend in names for name, check in found
    ]


def checks_of(step: str, device: str) -> list[Check]:
    if step == "synchronisation":
        found: list[Check] = [("the watch", partial(gpu_checks.check_the_watch, device))]
        return found + [(str(t)[6:], partial(gpu_checks.check_synchronisation, t, device)) for t in gpu_checks.DTYPES]
    if step == "graphs":
        found = [(f"PixelContrastLoss, {str(t)[6:]}", lambda t=t: replays(device, t)) for t in gpu_checks.DTYPES]
        return [*found, ("losses of rows", partial(gpu_checks.check_row_replays, device))]
    if step == "compile":
        return [
            (f"{loss}, {mode or 'default'}", lambda loss=loss, mode=mode: compiled(device, loss, mode))
            for mode in (None, "reduce-overhead")
            for loss in ("PixelContrastLoss", "SupConLoss")
        ]
    if step == "hopper-accuracy":
        taken = [(f"D = {D}", partial(gpu_hopper.check_taken, device, D)) for D in (64, 128, 256)]
        return taken + [
            (f"{str(t)[6:]}, D = {D}", partial(gpu_checks.check_accuracy, t, "negatives", device, width=D))
            for t in (torch.bfloat16, torch.float16)
            for D in (64, 128, 256)
        ]
    assert step == "accuracy", step
    found = [
        (f"{str(t)[6:]}, {denominator}", partial(gpu_checks.check_accuracy, t, denominator, device))
        for t in gpu_checks.DTYPES
        for denominator in ("negatives", "all")
    ]
    tf32 = partial(gpu_checks.check_accuracy, torch.float32, "negatives", device, tf32=True)
    return [*found, ("float32 with TF32 allowed", tf32), ("selection", partial(gpu_checks.check_selection, device))]


def replays(device: str, dtype: torch.dtype) -> str:
    return gpu_checks.check_replays(gpu_checks.pixel_step(device, dtype=dtype), device)


def compiled(device: str, loss: str, mode: str | None) -> str:
    if loss == "PixelContrastLoss":
        return gpu_checks.check_compiled(gpu_checks.pixel_step(device), mode=mode)
    return gpu_checks.check_compiled(gpu_checks.row_step(gpu_checks.fpc.SupConLoss(), device), mode=mode)


def run_checks(checks: Iterable[Check]) -> bool:
    """All of them, each with a line; True if none raised."""
    good = True
    for name, check in checks:
        try:
            print(f"ok      {name}: {check()}", flush=True)
        except Exception:  # whatever one raises is its result; the others still run
            good = False
            print(f"FAILED  {name}", flush=True)
            print(traceback.format_exc(limit=-6), flush=True)
    return good


def run_small(device: str) -> None:
    """Every kernel once, on little data."""
    for backend in gpu_checks.backends(device):
        for dtype in (torch.float32, torch.bfloat16):
            for step in gpu_checks.all_steps(device, (2, 32, 32, 48), (200, 48), dtype):
                gpu_checks.on(backend, step)
    if device != "cpu":
        torch.cuda.synchronize()
    print("forward and backward of all losses ran")


def run_own_step(name: str, device: str = "cuda") -> int:
    """In a process of its own: the exit status."""
    if name == "small":
        run_small(device)
        return 0
    seconds = float(os.environ.get("GPU_CHECK_SECONDS", "150"))
    if name == "hopper-times-of":
        gpu_hopper.print_times(device, seconds)
        return 0
    if name == "hopper-times":
        for line in gpu_hopper.both_ways(Path(__file__).resolve(), seconds):
            print(line, flush=True)
        return 0
    if name == "times":
        import gpu_times

        for line in gpu_times.everything(device, seconds):
            print(line, flush=True)
        return 0
    return 0 if run_checks(checks(name, device)) else 1


def run_and_report(steps: Sequence[Step], seconds: float, path: Path) -> int:
    """The exit status; after each step the report has what is known."""
    where = facts()
    title = f"{TITLE.removeprefix('# ')}{torch.cuda.get_device_name() if torch.cuda.is_available() else 'the CPU'}"
    results: list[Result] = []

    def tell(so_far: list[Result], begins: Step | None) -> None:
        results[:] = so_far
        if begins is not None:
            print(f"{begins.title} ... ", end="", flush=True)
            return
        last = results[-1]
        print(f"{last.status}, {last.seconds:.0f} s" + (f": {last.why}" if last.why else ""), flush=True)
        gpu_steps.write(path, gpu_steps.report(title, where, results, steps, ended=len(results) == len(steps)))

    try:
        gpu_steps.run_steps(steps, seconds, tell)
    except KeyboardInterrupt:
        gpu_steps.write(path, gpu_steps.report(title, where, results, steps, ended=False))
        print(f"\ninterrupted; what was found is in {path}")
        return 130
    print(f"report: {path}")
    return 1 if any(result.status == gpu_steps.FAILED for result in results) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="for all steps together, at least 8")
    parser.add_argument("--report", type=Path, default=Path("runs/gpu-check.md"))
    parser.add_argument("--only", nargs="+", metavar="STEP", help="names of steps")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.report.is_file() and not options.report.read_text(encoding="utf-8", errors="replace").startswith(TITLE):
        parser.error(f"--report: {options.report} is there and no report of gpu-check; want another name")
    reason = why_no_gpu()
    if reason is not None:
        print(f"gpu-check: no CUDA GPU here (torch {torch.__version__}: {reason})", file=sys.stderr)
        return 1
    if options.step:
        return run_own_step(options.step)
    for name in NOT_INHERITED:
        os.environ.pop(name, None)
    memory = torch.cuda.get_device_properties(0).total_memory >> 30
    workers = max(1, min(os.cpu_count() or 1, MOST_WORKERS, memory // GIB_A_WORKER))
    steps = all_steps(workers)
    if options.only:
        unknown = set(options.only) - {step.name for step in steps}
        if unknown:
            parser.error(f"--only: got {', '.join(sorted(unknown))}, want {', '.join(step.name for step in steps)}")
        steps = [step for step in steps if step.name in options.only]
    return run_and_report(steps, 60 * options.minutes, options.report)


if __name__ == "__main__":
    sys.exit(main())
