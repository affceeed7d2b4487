"""The scripts in ``examples/`` run as they are, and are pages of the documentation."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "folder": ["--steps", "6", "--batch", "2"],
    "tokens": ["--steps", "6", "--batch", "4"],
    "volume": ["--steps", "6", "--size", "16"],
}
for library in ("timm", "torchvision"):
    pytest.importorskip(library, reason=f"{library} is not installed")


def test_every_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == SMALL.keys()


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SMALL)
def test_an_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(name, SMALL[name], monkeypatch)
    printed = capsys.readouterr().out
    losses = re.findall(r"^step (\d): cross-entropy (\d+\.\d+), contrast (\d+\.\d+)", printed, re.MULTILINE)
    assert [int(step) for step, _, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert any(float(contrast) > 0 for _, _, contrast in losses)
    assert re.search(r"^LastCall\(anchors=tensor\((\d\d+)\)", printed, re.MULTILINE)
    assert re.search(r"^a step: \d+ ms without, \d+ ms with the contrast$", printed, re.MULTILINE)


def test_the_folder_may_be_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for name, shape in (("images", (64, 64, 3)), ("labels", (64, 64))):
        (tmp_path / name).mkdir()
        for i in range(2):
            pixels = random.integers(0, 256, shape) if name == "images" else random.integers(0, 2, shape)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    run("folder", ["--data", str(tmp_path), "--classes", "2", "--steps", "1", "--batch", "2"], monkeypatch)
    assert "step 1: " in capsys.readouterr().out


def test_an_example_is_a_page() -> None:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for name in SMALL:
        path = ROOT / "examples" / f"{name}.py"
        page = pages.example(path)
        assert page.startswith("# ")
        code = "\n".join(re.findall(r"^```python\n(.*?)\n^```$", page, re.MULTILINE | re.DOTALL))
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert [line for line in code.splitlines() if line and not line.startswith("#")] == lines
