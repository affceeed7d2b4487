"""What nvcc made of the CUDA kernels: registers, stack and SASS, read from the built extension for each of its
architectures. No GPU is needed; cuobjdump comes with Triton."""

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import sass

TOOLS = Path(importlib.util.find_spec("triton").origin).parent / "backends" / "nvidia" / "bin"
SOURCES = Path(__file__).resolve().parents[2] / "csrc"
# CUDA programming guide, technical specifications per compute capability: the most a block may use, bytes.
RESERVED = 1024  # bytes that the driver has in every block, which cuobjdump counts from sm_90 on
SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class Kernel(NamedTuple):
    architecture: int  # 90 for sm_90a, too
    symbol: str
    name: str  # without parameters
    registers: int  # a thread
    stack: int  # bytes a thread: what did not fit the registers
    shared: int  # static bytes a block

    @property
    def is_of_sm90(self) -> bool:
        """For it alone, as sm_90a."""
        return "_sm90" in self.name


def extension() -> Path | None:
    """Of the file; None where it was not built."""
    spec = importlib.util.find_spec("fastpixcon._C")
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _cuobjdump(*arguments: str, file: Path | None = None) -> str:
    command = [str(TOOLS / "cuobjdump"), *arguments, str(file or extension())]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": str(TOOLS)}).stdout


def _demangled(symbols: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    names = [name.replace("fastpixcon::", "").removeprefix("void ") for name in done.stdout.splitlines()]
    return [re.sub(r"\((void const\*|float const\*|int const\*|PanelSet).*", "", name) for name in names]


@functools.cache
def kernels() -> tuple[Kernel, ...]:
    found = []
    for part in re.split(r"\narch = sm_", _cuobjdump("-res-usage"))[1:]:
        usage = USAGE.findall(part)
        names = _demangled([symbol for symbol, *_ in usage])
        for (symbol, registers, stack, shared, local), name in zip(usage, names, strict=True):
            spilled = int(stack) + int(local)
            architecture = int(re.match(r"\d+", part)[0])
            reserved = min(int(shared), RESERVED) if architecture >= 90 else 0
            found.append(Kernel(architecture, symbol, name, int(registers), spilled, int(shared) - reserved))
    return tuple(found)


@functools.cache
def listings(architecture: int) -> dict[str, str]:
    """SASS by symbol."""
    parts = re.split(r"\n\s*Function : ", _cuobjdump("-sass", "-arch", f"sm_{architecture}"))[1:]
    return {part.split("\n")[0].strip(): part for part in parts}


def code(kernel: Kernel) -> list[sass.Instruction]:
    return sass.parse(listings(kernel.architecture)[kernel.symbol])


class Machine(NamedTuple):
    code: list[sass.Instruction]
    registers: int


def compile_source(text: str, architecture: int, edits: dict[str, str], symbol: str) -> Machine:
    """The function with ``symbol`` in its name of CUDA C++ that includes files of ``csrc``, these first changed: every
    key of ``edits`` stands in one place of one of them."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "cuda"
        shutil.copytree(SOURCES / "cuda", copy, ignore=shutil.ignore_patterns("host"))
        shutil.copytree(SOURCES / "common", Path(folder) / "common")
        for old, new in edits.items():
            (place,) = [
                copy / name for name in includes(text, copy) if old in (copy / name).read_text(encoding="utf-8")
            ]
            assert place.read_text(encoding="utf-8").count(old) == 1, f"{old} in {place.name}"
            place.write_text(place.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        source, cubin = Path(folder) / "one.cu", Path(folder) / "one.cubin"
        source.write_text(text, encoding="utf-8")
        flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-cubin", f"-arch=sm_{architecture}", f"-I{folder}"]
        subprocess.run(["nvcc", *flags, str(source), "-o", str(cubin)], check=True, capture_output=True, text=True)
        listing = _cuobjdump("-res-usage", "-sass", file=cubin)
    (usage,) = [found for found in USAGE.findall(listing) if symbol in found[0]]
    (part,) = [p for p in re.split(r"\n\s*Function : ", listing)[1:] if symbol in p.split("\n")[0]]
    return Machine(sass.parse(part), int(usage[1]))


def includes(text: str, folder: Path) -> set[str]:
    """Names of the files that ``text`` includes from ``folder``, directly or not."""
    found: set[str] = set()
    for name in re.findall(r'#include "cuda/([\w.]+)"', text):
        if name not in found:
            found |= {name} | includes((folder / name).read_text(encoding="utf-8"), folder)
    return found


def embedded_ptx() -> str:
    """What cuobjdump lists."""
    return _cuobjdump("--list-ptx")
