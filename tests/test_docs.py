"""The documentation: its code runs, the files and names that it mentions exist, its pictures show what is computed."""

import doctest
import importlib
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fastpixcon as fpc

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
RUN = {  # page -> what it takes
    "installation": (),
    "tutorial": (),
    "mathematics": (),
    "choosing": (),
    "sub-batches": (),
    "training": ("pydantic",),
    "own-pictures": ("pydantic",),
    "migration": ("pytorch_metric_learning",),
    "check-your-own": ("pytorch_metric_learning",),
    "benchmark-your-own": ("pytorch_metric_learning",),
}
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh", ".toml", ".yml", ".yaml"}


def python_blocks(text: str) -> list[tuple[int, str]]:
    """(first line, code) of the blocks of a page."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: m.start()].count("\n") + 2, m[1]) for m in found]


def tree() -> set[str]:
    """Files of the repository, as git would have them."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    return {name for name in names if name and (ROOT / name).is_file()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", RUN)
def test_code_of_a_page_runs(page: str) -> None:
    for library in RUN[page]:
        pytest.importorskip(library, reason=f"{library} is not installed")
    path = DOCS / f"{page}.md"
    blocks = python_blocks(path.read_text())
    assert blocks
    names: dict[str, Any] = {}
    for line, code in blocks:
        if ">>>" in code:
            test = doctest.DocTestParser().get_doctest(code, names, path.name, str(path), line - 1)
            test.globs = names
            messages: list[str] = []
            failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
                test, out=messages.append, clear_globs=False
            )[0]
            assert failed == 0, "".join(messages)
        else:
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_files_that_a_page_mentions_exist(page: Path) -> None:
    files = tree()
    if not files:
        pytest.skip("not a git repository")
    tops = {name.split("/")[0] for name in files if "/" in name}
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    mentioned = [m for m in re.findall(r"`([\w./-]+)`", text) if m.split("/")[0] in tops and "/" in m]
    wanted = {m.rstrip("/") for m in mentioned} - {"fastpixcon/einsum/gather_normalize.py", "bench/results"}
    missing = {m for m in wanted if m not in files and not any(name.startswith(f"{m}/") for name in files)}
    assert not missing, f"{page.name} mentions {missing}"
    if page.parent == ROOT:
        links = {m.split("#")[0] for m in re.findall(r"\]\(([\w./#-]+)\)", text) if not m.startswith("#")}
        assert not {m for m in links if not (ROOT / m).exists()}


def test_every_fault_has_a_test() -> None:
    rows = [line for line in (DOCS / "faults.md").read_text().splitlines() if line.startswith("| ")]
    named = {row: re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row) for row in rows if "| test |" not in row}
    assert len(named) > 20
    for row, tests in named.items():
        assert tests, row
        for file, name in tests:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {name}"


def test_names_of_the_contributors_page_exist() -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    sources = "\n".join((ROOT / name).read_text() for name in tree() if Path(name).suffix in SUFFIXES)
    names = set(re.findall(r"`([A-Za-z_]\w+)`", text)) - {"einsum"}
    assert {"define", "fake", "CASES", "AUTO_ORDER", "devices_of"} <= names
    missing = {name for name in names if not re.search(rf"\b{name}\b", sources)}
    assert not missing


def test_the_worked_example_of_a_backend_runs(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    ((_, code),) = python_blocks(text)
    (patch,) = re.findall(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    shutil.copytree(ROOT / "fastpixcon", tmp_path / "fastpixcon", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "fastpixcon" / "einsum"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "gather_normalize.py").write_text(code)
    removed = [line[1:] for line in patch.splitlines() if re.match(r"-(?!--)", line)]
    define = tmp_path / "fastpixcon" / "ops" / "define.py"
    lines = define.read_text().splitlines()
    before = [line for line in patch.splitlines()[3:] if line[0] in " -"]
    after = [line[1:] for line in patch.splitlines()[3:] if line[0] in " +"]
    at = next(i for i in range(len(lines)) if lines[i : i + len(before)] == [line[1:] for line in before])
    assert removed
    define.write_text("\n".join([*lines[:at], *after, *lines[at + len(before) :]]))
    use = """
import torch, fastpixcon as fpc
x, index = torch.randn(2, 8, 4, 5), torch.tensor([3, -1, 9, 3])
results = []
for backend in ("einsum", "reference"):
    e = x.clone().requires_grad_()
    rows = fpc.functional.gather_normalize(e, index, backend=backend)
    rows.backward(torch.arange(32.0).view(4, 8))
    results.append((rows, e.grad))
torch.testing.assert_close(*results)
try:
    fpc.functional.info_nce(torch.randn(4, 4), torch.arange(4), backend="einsum")
except RuntimeError as error:
    assert "it has no info_nce" in str(error)
print(fpc.__file__)
"""
    command = [sys.executable, "-W", "ignore", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}){use}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


def test_the_reference_has_every_public_name() -> None:
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    public = {f"fastpixcon.{name}" for name in fpc.__all__ if name not in ("functional", "ops", "__version__")}
    public |= {f"fastpixcon.functional.{name}" for name in fpc.functional.__all__}
    public |= {f"fastpixcon.ops.{name}" for name in fpc.ops.__all__}
    for adapter in ("pytorch_metric_learning", "lightning", "mmsegmentation"):
        source = (ROOT / "fastpixcon" / "adapters" / f"{adapter}.py").read_text()
        (names,) = re.findall(r"^__all__ = \[(.*)\]$", source, re.MULTILINE)
        public |= {f"fastpixcon.adapters.{adapter}.{name}" for name in re.findall(r'"(\w+)"', names)}
    assert not {name for name in public if f" {name}\n" not in text}


@pytest.mark.parametrize(
    "name", [*(f"functional.{n}" for n in fpc.functional.__all__), *(n for n in fpc.__all__ if n[0].isupper())]
)
def test_docstrings_name_every_argument(name: str) -> None:
    public: Any = fpc
    for part in name.split("."):
        public = getattr(public, part)
    text = inspect.getdoc(public) or ""
    arguments = set(inspect.signature(public).parameters) - {"self"}
    assert not {a for a in arguments if not re.search(rf"\b{a}\b", text)}


def pictures() -> ModuleType:
    for library in ("matplotlib", "triton"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        return importlib.import_module("pictures")


@pytest.mark.parametrize(("blocks", "size"), [(1, 1), (6, 1), (43, 4), (44, 4), (17, 3)])
def test_the_tournament_of_the_picture(blocks: int, size: int) -> None:
    """Every pair of blocks once; tasks of a round share no block."""
    rounds: dict[int, list[set[int]]] = {}
    seen: list[tuple[int, int]] = []
    for number, tiles in pictures().tournament(blocks, size):
        rounds.setdefault(number, []).append({block for tile in tiles for block in tile})
        seen += tiles
    assert sorted(seen) == [(i, j) for i in range(blocks) for j in range(i, blocks)]
    assert all(sum(map(len, tasks)) == len(set().union(*tasks)) for tasks in rounds.values())


def test_nothing_of_a_picture_is_cut_off() -> None:
    """The rim is white, no box reaches beyond axes that clip it, no text lies on another."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.image import imread

    for name, make in pictures().PICTURES.items():
        figure = make()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=50, **pictures().SAVED)
        file.seek(0)
        pixels = imread(file)[..., :3]  # [H, W, 3]
        for rim in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
            assert (rim == 1).all(), name
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        texts = []
        for ax in figure.axes:
            texts += [ax.title, *ax.texts]
            for artist in [*ax.patches, *ax.collections]:
                if artist.get_clip_on():
                    inside, box = ax.bbox.padded(1), artist.get_window_extent(renderer)
                    assert inside.contains(box.x0, box.y0), f"{name}: {artist}"
                    assert inside.contains(box.x1, box.y1), f"{name}: {artist}"
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]
        for number, (text, box) in enumerate(boxes):
            for other, beside in boxes[:number]:
                assert not box.overlaps(beside), f"{name}: {text!r} on {other!r}"


def test_results_of_benchmarks_are_included() -> None:
    """Headings below the page's title, pictures where the build has them, links to files as text."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    text = "# R\n![a](b.png) [c](d.json) [e](https://f)\n```\n# g\n[h](i)\n```\n## j\n"
    assert pages.included(text, "x") == ("## R\n![a](x/b.png) c [e](https://f)\n```\n# g\n[h](i)\n```\n### j\n")


def test_every_picture_is_shown() -> None:
    text = "\n".join(path.read_text() for path in DOCS.glob("*.md"))
    assert {f"_made/{name}.svg" for name in pictures().PICTURES} == set(re.findall(r"_made/\w+\.svg", text))


def test_citation_and_changelog_have_the_version() -> None:
    assert f"version: {fpc.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert fpc.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_linters_are_the_same_everywhere() -> None:
    """make lint, the hooks, and what runs elsewhere."""
    lint = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for tool in ("ruff check", "ruff format", "clang-format", "mypy"):
        assert f"$(BIN)/{tool}" in lint
        assert f"entry: .venv/bin/{tool}" in hooks
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r"run: (.*)", workflow) == [".ci/run"]


def test_the_figures_of_camvid_are_those_of_its_runs() -> None:
    pytest.importorskip("pydantic", reason="pydantic is not installed")
    from fastpixcon.training import seeds

    runs = [seeds.read(file) for file in sorted((ROOT / "bench" / "camvid" / "long").glob("seed-*.json"))]
    table = [[cell.strip() for cell in line.split("|")] for line in seeds.markdown(seeds.compare(runs)).splitlines()]
    columns = {name: i for i, name in enumerate(table[0])}
    rows = {row[1]: row for row in table if len(row) > 2}
    before, after = (rows[arm][columns["mean"]] for arm in ("ce", "ce+contrast"))
    worst, p = (rows["ce+contrast"][columns[name]] for name in ("worst gain", "p"))
    readme, front = (ROOT / "README.md").read_text(), (DOCS / "index.md").read_text()
    assert f"from {before} to {after}; every seed gains, {worst.lstrip('+')} at least\n  (p = {p})" in readme
    assert f"from {before} to {after}" in front
    gains = {}
    for name, score in (("camvid", "miou"), ("ccp", "frequent"), ("ccp", "five_or_more")):
        runs = [seeds.read(file) for file in sorted((ROOT / "bench" / "studies" / name).glob("seed-*.json"))]
        assert len(runs) == 5
        gains[score] = list(seeds.compare(runs, score)[1].gain.values())
    mean, worst = (f"{x:.2f}" for x in (sum(gains["miou"]) / 5, min(gains["miou"])))
    assert f"it gains {mean} in five seeds, {worst} at least" in readme
    frequent, five_or_more = (f"{sum(gains[score]) / 5:.2f}" for score in ("frequent", "five_or_more"))
    assert f"{frequent} in\n  its 15 frequent classes and {five_or_more} in the 37" in readme
