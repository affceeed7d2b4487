"""What an installation gives: with a compiler, without one, and without being asked for one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastpixcon.ops import extension

ROOT = Path(__file__).resolve().parents[1]
BUILT = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")


def copy_sources(copy: Path) -> None:
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    for name in ("fastpixcon", "kernels", "csrc"):
        shutil.copytree(ROOT / name, copy / name, ignore=BUILT)


def install(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Installs a copy of the sources into ``folder/site``."""
    copy = folder / "source"
    copy_sources(copy)
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-v"]
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    command = [*pip, "--target", str(folder / "site"), str(copy)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


USE = """
import sys  # an editable installation would lend its extension
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
import torch, fastpixcon as fpc
print(fpc.__file__)
x, y = torch.randn(10, 4, requires_grad=True), torch.arange(10) % 3
loss = fpc.SupConLoss()(x, y)
loss.backward()
assert loss.isfinite() and x.grad.isfinite().all()
from fastpixcon.testing import CASES, check
assert check(fpc.functional.info_nce, cases=CASES["info_nce"][:40]).agrees
fpc.show_config()
"""


NO_COMPILER = {"CXX": "/nonexistent", "TORCH_CUDA_ARCH_LIST": "8.0"}  # one: nvcc has begun when the compiler is missed


@pytest.mark.parametrize("environment", [{"FASTPIXCON_BUILD": "0"}, {"FASTPIXCON_BUILD": "auto", **NO_COMPILER}])
def test_without_the_extension_it_runs_on_the_reference_and_says_so(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = install(tmp_path, **environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    if "CXX" in environment:
        assert "building without the C++ extension" in done.stdout + done.stderr
    site = tmp_path / "site"
    assert not list(site.rglob("*.so"))
    env = {**os.environ, "PYTHONPATH": str(site), "FASTPIXCON_BACKEND": "auto"}
    used = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert used.stdout.startswith(str(site))
    assert "RuntimeWarning: fastpixcon runs on its slow reference: fastpixcon._C was not built" in used.stderr
    assert "native: not available: fastpixcon._C was not built" in used.stdout
    for file in ("py.typed", "kernels/__init__.py", "reference/info_nce.py", "ops/define.py", "testing/__init__.py"):
        assert (site / "fastpixcon" / file).is_file(), file


def test_an_extension_that_is_asked_for_and_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    done = install(tmp_path, FASTPIXCON_BUILD="cpu", **NO_COMPILER)
    assert done.returncode != 0
    assert not (tmp_path / "site" / "fastpixcon").exists()


def test_an_unknown_way_to_build_is_an_error(tmp_path: Path) -> None:
    done = install(tmp_path, FASTPIXCON_BUILD="maybe")
    assert done.returncode != 0
    assert "FASTPIXCON_BUILD: got 'maybe', want one of auto, 0, cpu, cuda" in done.stdout + done.stderr


SHOW = """
import json, runpy, setuptools
def show(ext_modules, **others):
    (module,) = ext_modules
    print(json.dumps([module.sources, module.include_dirs, module.define_macros, module.extra_compile_args["cxx"]]))
setuptools.setup = show
runpy.run_path("setup.py")
"""


def described(**environment: str) -> list[list[str]]:
    """Sources, folders of headers, macros and flags of C++ that setup.py asks for; it says nothing but why not CUDA."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("FASTPIXCON_")} | environment
    done = subprocess.run([sys.executable, "-c", SHOW], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all("building without CUDA kernels" in line for line in done.stderr.splitlines()), done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_instruction_sets_in_software_are_built_for_tests_alone() -> None:
    plain = described(FASTPIXCON_BUILD="cpu")
    for_tests = described(FASTPIXCON_BUILD="cpu", FASTPIXCON_BUILD_TESTS="1")
    assert not any("emulated" in source for source in plain[0])
    assert {source for source in for_tests[0] if "emulated" in source} == set(for_tests[0]) - set(plain[0])
    assert len(for_tests[0]) == len(plain[0]) + 3
    assert for_tests[1:] == plain[1:]  # what is built already stays


def test_adding_cuda_compiles_nothing_anew() -> None:
    """Nor does it say that there is no GPU."""
    if shutil.which("nvcc") is None or "CUDA" not in extension.build.get("devices", ""):
        pytest.skip("no nvcc that fits")
    cpu, cuda = described(FASTPIXCON_BUILD="cpu"), described(FASTPIXCON_BUILD="cuda")
    assert set(cpu[0]) < set(cuda[0])
    assert cpu[1:] == cuda[1:]


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch was built without CUDA")
@pytest.mark.parametrize("release", ["9.2", None])
def test_an_nvcc_that_does_not_fit_is_not_used(release: str | None, tmp_path: Path) -> None:
    """And an error where CUDA kernels are asked for."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    if release is not None:
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
        nvcc.chmod(0o755)
    why = f"no nvcc at {nvcc}" if release is None else f"{nvcc} is of CUDA 9, torch was built with CUDA "
    for mode in ("auto", "cuda"):
        env = {**os.environ, "CUDA_HOME": str(tmp_path), "FASTPIXCON_BUILD": mode}
        command = [sys.executable, "setup.py", "--version"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (mode == "auto"), done.stderr
        assert why in done.stderr


def test_no_instruction_set_is_assumed_of_the_whole_build() -> None:
    assert "-march" not in (ROOT / "setup.py").read_text().replace("No -march", "")
