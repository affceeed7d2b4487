"""What the library would launch on a GPU, recorded and compiled without one.

The public launchers run on meta tensors with ``kernels.common.launcher`` replaced, so a launch comes out with the very
arguments, tile sizes and specialisation (types, divisibility by 16, constants) that a GPU of that architecture would
get, at any N and without memory. ``compile_launch`` then gives its cubin, ``Compiled`` the facts about it.
"""

import functools
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aot_compile
import sass
import triton

from fastpixcon.kernels import common, launch_table
from fastpixcon.kernels.launch_table import Tile

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
# CUDA programming guide, technical specifications per compute capability: the most a block may use, bytes.
SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
TOOLS = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin"


class Launch(NamedTuple):
    kernel: Any  # the jitted function
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]  # constexprs, num_warps, num_stages
    architecture: int

    @property
    def name(self) -> str:
        return self.kernel.__name__

    @property
    def words(self) -> set[str]:
        """What it is compiled for."""
        return set(self.options.get("HOW", "").split())

    @property
    def tile(self) -> Tile:
        return Tile(*self.options["TILE"])

    @property
    def warps(self) -> int:
        return int(self.options["num_warps"])

    def argument(self, name: str) -> Any:
        return self.arguments[self.kernel.arg_names.index(name)]

    def __str__(self) -> str:
        names = ("BLOCK_M", "BLOCK_N", "BLOCK_D", "BLOCK_K")
        sizes = self.tile._asdict() if "TILE" in self.options else self.options
        tile = "x".join(str(sizes[name]) for name in names if name in sizes)
        return f"sm_{self.architecture}-{self.name.removesuffix('_kernel')}-{tile}"


@contextmanager
def recording(architecture: int) -> Iterator[list[Launch]]:
    """Launches go into the list instead of to a device that claims to be of this architecture."""
    launches: list[Launch] = []
    before = common.launcher

    def record(kernel: Any, grid: tuple[int, ...], arguments: Any, options: dict[str, Any]) -> None:
        launches.append(Launch(kernel, grid, tuple(arguments), dict(options), architecture))

    modules = [m for name, m in sys.modules.items() if name.startswith("fastpixcon.kernels.")]
    asking = {m: m.architecture for m in modules if hasattr(m, "architecture")}
    common.launcher = record
    for module in asking:
        module.architecture = lambda x: architecture
    try:
        yield launches
    finally:
        common.launcher = before
        for module, function in asking.items():
            module.architecture = function


@contextmanager
def instead(rows: dict[str, launch_table.Launch]) -> Iterator[None]:
    """Rows of the launch table for kernels, by their names there, whatever architecture and width."""
    before = launch_table.row
    launch_table.row = lambda kernel, *others: rows.get(kernel) or before(kernel, *others)
    try:
        yield
    finally:
        launch_table.row = before


def record(architecture: int, operator: str, *arguments: Any) -> list[Launch]:
    """Of one operator of ``fastpixcon.kernels``; arguments are meta tensors."""
    module = importlib.import_module(f"fastpixcon.kernels.{operator.removesuffix('_backward')}")
    with recording(architecture) as launches:
        getattr(module, operator)(*arguments)
    return launches


@dataclass(frozen=True)
class Compiled:
    launch: Launch
    ptx: str
    cubin: bytes
    shared: int  # bytes a block asks for; the driver keeps another KiB
    registers: int
    stack: int  # bytes a thread: what did not fit the registers

    @functools.cached_property
    def code(self) -> list[sass.Instruction]:
        return sass.parse(_tool("cuobjdump", self.cubin, "-sass"))  # half a second, however short

    @functools.cached_property
    def spills(self) -> int:
        """Instructions that move registers to and from memory."""
        return sum(x.pipe == "local" for x in self.code) if self.stack else 0


def _tool(name: str, cubin: bytes, *arguments: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / name), *arguments, file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": str(TOOLS)})
    return done.stdout


def tool_version(name: str) -> str:
    done = subprocess.run([str(TOOLS / name), "--version"], capture_output=True, text=True, check=True)
    return re.search(r"V([\d.]+)", done.stdout)[1]


def compile_launch(launch: Launch) -> Compiled:
    special = aot_compile.specialize(launch.kernel, launch.arguments, launch.options, launch.architecture)
    kernel = aot_compile.compile_launch(special, cubin=True)
    cubin = kernel.asm["cubin"]
    usage = _tool("cuobjdump", cubin, "-res-usage")
    registers, stack, local = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK", "LOCAL"))
    return Compiled(launch, kernel.asm["ptx"], cubin, kernel.metadata.shared, registers, stack + local)
