"""The source distribution and the wheels: what is in them, what they are called, and that they install."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_packaging import NO_COMPILER, ROOT, USE, copy_sources

import fastpixcon as fpc

pytest.importorskip("build", reason="the package build is not installed")


def build(source: Path, out: Path, *what: str, **environment: str) -> Path:
    """python -m build, with what is installed here, so without a network."""
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(out), str(source)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=out.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, of a tree where a zoo has a model."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    copy_sources(source)
    models = source / "fastpixcon" / "training" / "zoo_models"
    models.mkdir(exist_ok=True)
    (models / "of_a_test.pt").write_bytes(b"weights")
    return build(source, folder / "dist", "--sdist", FASTPIXCON_BUILD="0")


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


def files(folder: Path, *, of: tuple[str, ...]) -> set[str]:
    found = (path for top in of for path in (folder / top).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in found if path.suffix != ".so" and "__pycache__" not in path.parts}


def test_the_sdist_has_all_that_a_build_needs_and_no_half_a_test_suite(sdist: Path, tmp_path: Path) -> None:
    source = unpacked(sdist, tmp_path)
    assert source.name == f"fastpixcon-{fpc.__version__}"
    here, there = (files(folder, of=("fastpixcon", "kernels", "csrc")) for folder in (ROOT, source))
    assert there - here == {"fastpixcon/training/zoo_models/of_a_test.pt"}
    assert not here - there
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        assert (source / name).read_text() == (ROOT / name).read_text()
    assert not (source / "tests").exists()


def test_a_wheel_of_the_sdist_is_pure_installs_and_runs(sdist: Path, tmp_path: Path) -> None:
    (tmp_path / "sdist").mkdir()
    wheel = build(unpacked(sdist, tmp_path / "sdist"), tmp_path / "dist", "--wheel", FASTPIXCON_BUILD="0")
    assert wheel.name == f"fastpixcon-{fpc.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(f"fastpixcon-{fpc.__version__}.dist-info/METADATA").decode()
        assert f"fastpixcon-{fpc.__version__}.dist-info/licenses/LICENSE" in archive.namelist()
    assert f"\nVersion: {fpc.__version__}\n" in metadata
    wanted = files(ROOT, of=("fastpixcon", "kernels")) | {"fastpixcon/training/zoo_models/of_a_test.pt"}
    assert inside == {name if name.startswith("fastpixcon") else f"fastpixcon/{name}" for name in wanted}
    assert {"fastpixcon/py.typed", "fastpixcon/training/configs/digits.toml"} <= inside
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(pip, capture_output=True, check=True)
    env = {**os.environ, "PYTHONPATH": str(site), "FASTPIXCON_BACKEND": "auto"}
    used = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert used.stdout.startswith(str(site))
    times_a_loss_of_a_users_own(tmp_path, env)


MINE = """
from fastpixcon.functional import info_nce

def loss(rows, labels, *, temperature):
    return info_nce(rows, labels, temperature=temperature, backend="reference", reduction="none")
"""


def times_a_loss_of_a_users_own(folder: Path, env: dict[str, str]) -> None:
    """The suite, where there is no repository: results go to the current folder."""
    (folder / "mine.py").write_text(MINE)
    command = [sys.executable, "-m", "fastpixcon", "bench", "--smallest", "--threads", "1", "--repeats", "1"]
    command += ["--workloads", "self", "--peers", "eager", "--peer", "mine.py:loss"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mine.py:loss: timed on 1 of 1 problems." in done.stdout
    results = json.loads((folder / "runs" / "bench-mine-loss-quick" / "results.json").read_text())
    (run,), (entry,) = results["runs"], results["cells"].values()
    assert run["commit"] == "none, it is installed"
    assert {name: answer["status"] for name, answer in entry["peers"].items()} == dict.fromkeys(
        ("fastpixcon", "eager", "mine.py:loss"), "ok"
    )


def test_a_wheel_whose_extension_could_not_be_built_is_one_for_every_machine(sdist: Path, tmp_path: Path) -> None:
    """Where a compiler is missing at build time, FASTPIXCON_BUILD=auto."""
    (tmp_path / "sdist").mkdir()
    source = unpacked(sdist, tmp_path / "sdist")
    wheel = build(source, tmp_path / "dist", "--wheel", FASTPIXCON_BUILD="auto", **NO_COMPILER)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert b"Root-Is-Purelib: true" in archive.read(next(name for name in names if name.endswith("/WHEEL")))
    assert "fastpixcon/ops/define.py" in names
    assert not [name for name in names if name.endswith((".so", ".pyd")) or ".data/" in name]


def test_a_wheel_with_the_extension_is_one_for_this_platform(tmp_path: Path) -> None:
    """Its name alone: --skip-build, for a build takes minutes."""
    copy_sources(tmp_path / "source")
    command = [
        sys.executable,
        "setup.py",
        "--quiet",
        "bdist_wheel",
        "--skip-build",
        "--dist-dir",
        str(tmp_path / "dist"),
    ]
    env = {**os.environ, "FASTPIXCON_BUILD": "cpu"}
    subprocess.run(command, cwd=tmp_path / "source", env=env, capture_output=True, check=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.startswith(f"fastpixcon-{fpc.__version__}-{version}-{version}-")


def test_the_version_is_in_one_place() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'version = { attr = "fastpixcon._version.__version__" }' in text
    assert fpc.__version__ not in text + (ROOT / "setup.py").read_text()
