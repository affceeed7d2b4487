"""The Makefile's set-up, with a Python that only writes down what it is asked for: what is installed and built for
which target, what is not done twice, and what a failing step says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
echo "$FASTPIXCON_BUILD $FASTPIXCON_BUILD_TESTS [$TORCH_CUDA_ARCH_LIST] $*" >> calls
case "$*" in *"$FAILING"*) echo 'all is lost'; exit 3;; esac
"""
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


class Clone:
    """A folder with the Makefile, and a machine with or without nvcc and GPUs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        for name in ("Makefile", "setup.py", "pyproject.toml", ".ci/step"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.source = folder / "csrc" / "cpu" / "tile.cpp"
        self.source.parent.mkdir(parents=True)
        self.source.touch()
        for name in ("bench", "fastpixcon", "tests"):
            (folder / name).mkdir()
        self.program(folder / ".venv" / "bin" / "python", PYTHON)
        self.program(folder / ".venv" / "bin" / "fastpixcon", "#!/bin/sh\necho $* >> calls\n")
        self.program(self.bin / "c++", "#!/bin/sh\n")

    def program(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def has(self, *capabilities: str, nvcc: bool = True) -> None:
        if nvcc:
            self.program(self.bin / "nvcc", NVCC)
        lines = "".join(f"echo {capability}\n" for capability in capabilities or ["No devices were found"])
        self.program(self.bin / "nvidia-smi", f"#!/bin/sh\n{lines}")

    def age(self) -> None:
        """As if all had been made earlier: a file system's clock ticks too seldom to tell."""
        for path in (self.folder, *self.folder.rglob("*")):
            made = path.stat().st_mtime_ns - 10**10
            os.utime(path, ns=(made, made))

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {"HOME": os.environ.get("HOME", "/"), "PATH": f"{self.bin}:/usr/bin:/bin", "FAILING": "nothing of this"}
        return subprocess.run(
            ["make", *arguments], cwd=self.folder, env=kept | environment, capture_output=True, text=True, check=False
        )

    def make(self, *arguments: str, **environment: str) -> list[str]:
        """What was called, in the order of the alphabet: two steps go on at a time."""
        (self.folder / "calls").write_text("")
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr
        return sorted((self.folder / "calls").read_text().splitlines())


def builds(calls: list[str]) -> list[str]:
    return [call.split(" setup.py")[0] for call in calls if "build_ext" in call]


def installed(calls: list[str]) -> list[str]:
    return [call.split()[-1] for call in calls if " pip install" in call]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.mark.parametrize(
    ("capabilities", "nvcc", "train", "test"),
    [
        ((), False, "cpu 0 []", "cpu 1 []"),
        ((), True, "cpu 0 []", "cuda 1 []"),
        (("9.0",), False, "cpu 0 []", "cpu 1 []"),
        (("9.0",), True, "cuda 0 [9.0]", "cuda 1 []"),
        (("9.0", "8.6", "9.0"), True, "cuda 0 [8.6;9.0]", "cuda 1 []"),
        (("7.5",), True, "cpu 0 []", "cuda 1 []"),  # older than what the kernels are for
    ],
)
def test_each_target_builds_what_it_needs(
    capabilities: tuple[str, ...], nvcc: bool, train: str, test: str, clone: Clone
) -> None:
    clone.has(*capabilities, nvcc=nvcc)
    calls = clone.make("train", "ARGS=--seed 3")
    assert builds(calls) == [train]
    assert installed(calls) == ["ninja", ".[train]"]
    assert "train --seed 3" in calls
    assert builds(clone.make("train")) == []
    calls = clone.make("test", "ARGS=tests/ops")
    assert builds(calls) == [test]
    assert ".[train,dev]" in installed(calls)
    assert any(call.endswith("-m pytest -n 2 --dist worksteal tests/ops") for call in calls)
    assert clone.make("train") == ["train"]  # neither anew nor less
    assert clone.make("bench", "ARGS=--quick")[-1] == "bench --quick"
    assert clone.make("bench") == ["bench"]
    assert builds(clone.make("test", "ARGS=tests/ops")) == []


def test_lint_and_documentation_need_no_kernels(clone: Clone) -> None:
    for name in ("ruff", "clang-format", "mypy", "sphinx-build"):
        clone.program(clone.folder / ".venv" / "bin" / name, "#!/bin/sh\n")
    for target in ("lint", "docs"):
        assert builds(clone.make(target)) == []


def test_what_changes_is_built_again_as_it_was(clone: Clone) -> None:
    clone.has()
    clone.make("test", "ARGS=x")
    clone.age()
    clone.source.touch()
    assert builds(clone.make("train")) == ["cuda 1 []"]
    clone.age()
    (clone.source.parent / "more.cpp").touch()
    assert builds(clone.make("train")) == ["cuda 1 []"]
    assert clone.make("train") == ["train"]


def test_the_environment_decides(clone: Clone) -> None:
    clone.has("9.0")
    assert builds(clone.make("train", FASTPIXCON_BUILD="0")) == []
    assert builds(clone.make("train", FASTPIXCON_BUILD="cpu")) == ["cpu 0 []"]
    assert builds(clone.make("train")) == ["cuda 0 [9.0]"]  # more than there was
    assert builds(clone.make("train", FASTPIXCON_BUILD="cpu")) == []
    assert builds(clone.make("test", "ARGS=x", TORCH_CUDA_ARCH_LIST="8.0 9.0+PTX")) == ["cuda 1 [8.0;9.0+PTX]"]
    assert builds(clone.make("test", "ARGS=x", TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX")) == []


def test_without_a_compiler_the_build_may_fail(clone: Clone) -> None:
    assert builds(clone.make("train", CXX="/nonexistent")) == ["auto 0 []"]


def test_set_up_says_a_line_a_step(clone: Clone) -> None:
    done = clone.run("train")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["set-up"] * 4 + [".venv/bin/fastpixcon train  "]
    assert clone.run("train").stdout.splitlines() == [".venv/bin/fastpixcon train  "]


@pytest.mark.parametrize(("failing", "step"), [("torch", "torch"), (".[train]", "train"), ("build_ext", "kernels")])
def test_a_failing_step_says_why_and_is_done_again(failing: str, step: str, clone: Clone) -> None:
    done = clone.run("train", FAILING=failing)
    assert done.returncode != 0
    assert "all is lost" in done.stderr
    assert f"failed, status 3; all that was said is in build/setup/{step}.log" in done.stderr
    log = (clone.folder / "build" / "setup" / f"{step}.log").read_text()
    assert log.startswith("$ ")
    assert log.endswith("all is lost\n")
    assert any(failing in call for call in clone.make("train"))
    assert clone.make("train") == ["train"]
