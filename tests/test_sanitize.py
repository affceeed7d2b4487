"""The sanitizers' builds: what they are asked for; and that ThreadSanitizer sees through OpenMP what it must."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TORCH = Path(torch.__file__).parent


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"FASTPIXCON_SANITIZE": "memory"}, "got 'memory', want one of address,undefined | thread"),
        ({"FASTPIXCON_SANITIZE": "thread", "FASTPIXCON_BUILD": "cuda"}, "got FASTPIXCON_BUILD=cuda, want cpu"),
        ({"FASTPIXCON_SANITIZE": "thread"}, "got --inplace, want build"),
    ],
)
def test_a_build_that_makes_no_sense_is_refused(environment: dict[str, str], why: str) -> None:
    env = {**os.environ, "FASTPIXCON_BUILD": "cpu", **environment}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"FASTPIXCON_SANITIZE: {why}" in done.stderr


def threads_are_watched(folder: Path, *arguments: str, include: Path) -> subprocess.CompletedProcess[str]:
    """Builds the tickets by themselves, as setup.py does the extension, and runs them."""
    program = folder / "schedule"
    build = ["g++", "-std=c++20", "-O1", "-g", "-fopenmp", "-fsanitize=thread", "-Wl,--wrap=GOMP_parallel"]
    build += [f"-I{include}", f"-I{ROOT / 'csrc'}", f"-I{TORCH / 'include'}", "-Wl,--allow-shlib-undefined"]
    build += [str(ROOT / "tests" / "fuzz" / "schedule.cpp"), str(ROOT / "csrc" / "sanitize" / "thread.cpp")]
    build += [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{TORCH / 'lib'}", "-o", str(program)]
    subprocess.run(build, check=True)
    env = {**os.environ, "TSAN_OPTIONS": "ignore_noninstrumented_modules=1", "OMP_NUM_THREADS": "4"}
    command = ["setarch", "-R", str(program), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux",
    reason="the sanitizers' builds are for Linux on x86-64",
)
@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("setarch") is None, reason="no g++, no setarch")
def test_tickets_order_what_blocks_own_and_a_weaker_order_is_noticed(tmp_path: Path) -> None:
    good = threads_are_watched(tmp_path, include=ROOT / "csrc")
    assert good.returncode == 0, good.stdout + good.stderr
    planted = threads_are_watched(tmp_path, "planted", include=ROOT / "csrc")
    assert "data race" in planted.stderr
    (tmp_path / "cpu").mkdir()
    source = (ROOT / "csrc" / "cpu" / "schedule.h").read_text()
    weaker = source.replace("load(std::memory_order_acquire)", "load(std::memory_order_relaxed)")
    assert weaker != source
    (tmp_path / "cpu" / "schedule.h").write_text(weaker)
    assert "data race" in threads_are_watched(tmp_path, include=tmp_path).stderr
