"""Who may import whom: cli -> bench -> training -> losses -> functional -> ops -> backends; checked in the sources."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fastpixcon"

# From the top to the bottom: a layer imports from those below it, and from itself. A layer's backends are beside
# each other and import none of the others.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"bench"},
    {"training", "plan", "adapters", "testing"},
    {"losses", "contrast_model"},
    {"last_call"},
    {"memory", "mining", "grids", "outputs"},
    {"features"},
    {"functional"},
    {"distributed"},
    {"contrast", "balance", "pairs"},
    {"ops"},
    {"reference", "kernels", "_C"},
    {"values"},
]
ANYWHERE = {"_version"}
BACKEND_IMPORTS = {"reference": {"torch"}, "kernels": {"torch", "triton"}}
STANDARD_IN_BACKENDS = {"collections", "functools", "math", "os", "time", "typing"}


def module_name(path: Path) -> str:
    folder = "fastpixcon.kernels" if path.is_relative_to(ROOT / "kernels") else "fastpixcon"
    base = ROOT / "kernels" if folder == "fastpixcon.kernels" else PACKAGE
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join([folder, *(part for part in parts if part != "__init__")])


def layer_name(module: str) -> str:
    """``fastpixcon.ops.define`` -> ``ops``; the package itself -> ``""``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(source: str, module: str) -> set[str]:
    """The dotted names that a source imports, also inside its functions and by import_module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: -node.level]
                base = ".".join([*parent, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def violations(source: str, module: str) -> list[str]:
    here = layer_name(module)
    if here == "":  # the public names
        return []
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    if here in ANYWHERE:
        return []
    if here not in rank:
        return [f"{module} belongs to no layer"]
    wrong = []
    for name in sorted(imports(source, module)):
        if name.split(".")[0] != "fastpixcon":
            allowed = BACKEND_IMPORTS.get(here)
            if allowed is not None and name.split(".")[0] not in allowed | STANDARD_IN_BACKENDS:
                wrong.append(f"{module} imports {name}")
            continue
        there = layer_name(name)
        if there == here or there in ANYWHERE:
            continue
        if there not in rank:  # `import fastpixcon as fpc`: everything public, for the layers that nothing imports
            if rank[here] > rank["training"]:
                wrong.append(f"{module} imports the whole package")
        elif rank[there] <= rank[here]:
            wrong.append(f"{module} imports {name}")
    return wrong


SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: module_name(path))
def test_imports_only_downwards(path: Path) -> None:
    assert violations(path.read_text(), module_name(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastpixcon.ops.define", "from fastpixcon.functional import info_nce"),
        ("fastpixcon.ops.define", "from fastpixcon import losses"),
        ("fastpixcon.ops.define", "from ..functional import info_nce"),
        ("fastpixcon.functional", "def f():\n    import fastpixcon.losses"),
        ("fastpixcon.losses", "from fastpixcon.training import engine"),
        ("fastpixcon.losses", "import fastpixcon as fpc"),
        ("fastpixcon.reference.info_nce", "from fastpixcon.ops import define"),
        ("fastpixcon.reference.info_nce", "import numpy"),
        ("fastpixcon.kernels.info_nce", "from fastpixcon.reference.info_nce import prepare"),
        ("fastpixcon.extra", "import torch"),
        ("fastpixcon.losses", "from fastpixcon.contrast_model import projection_head"),
        ("fastpixcon.training.engine", "from fastpixcon.adapters import lightning"),
        ("fastpixcon.testing.own", "from fastpixcon.bench import own"),
    ],
)
def test_the_rule_notices(module: str, source: str) -> None:
    assert violations(source, module)


def includes(text: str) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, flags=re.MULTILINE)


CPP_SOURCES = sorted(p for folder in ("common", "cpu", "cuda") for p in (ROOT / "csrc" / folder).rglob("*.*"))


@pytest.mark.parametrize("path", CPP_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_devices_include_only_themselves_and_common(path: Path) -> None:
    """Quoted includes are this project's and relative to csrc/ or to the file itself."""
    folder = path.relative_to(ROOT / "csrc").parts[0]
    for name in includes(path.read_text()):
        where = next((base / name for base in (ROOT / "csrc", path.parent) if (base / name).is_file()), None)
        assert where is not None, f'"{name}" is not in csrc/: other people\'s headers are in <>'
        assert where.resolve().relative_to(ROOT / "csrc").parts[0] in {folder, "common"}, name


def test_every_operator_has_the_same_file_name_everywhere() -> None:
    operators = {p.stem for p in (PACKAGE / "ops").glob("*.py")}
    operators -= {
        "__init__",
        "backends",
        "calls",
        "checks",
        "define",
        "derivatives",
        "extension",
        "maps",
        "plain",
        "signature",
        "void",
    }
    assert operators == {p.stem for p in (PACKAGE / "reference").glob("*.py")} - {"__init__", "pairs"}
    kernels = {p.stem for p in (ROOT / "kernels").glob("*.py")} - {
        "__init__",
        "common",
        "launch_table",
        "launch_provenance",
        "launch_unmeasured",
    }
    assert {name for name in kernels if not any(name.startswith(f"{op}_") for op in operators)} <= operators
    tests = {p.stem.removeprefix("test_") for p in (ROOT / "tests" / "ops").glob("test_*.py")}
    assert operators <= tests
