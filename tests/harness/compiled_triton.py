"""The triton backend on CPU tensors from compiled code: every launch is compiled for sm_80 and its PTX is executed by
the emulator in ``ptxemu/``, with every access checked.

With ``FASTPIXCON_TEST_PTX=1`` the tests on the triton backend run so, on the Cases that ``compiled_choice.py``
chooses; with ``FASTPIXCON_TEST_PTX=all`` on every Case, which takes an hour. ``FASTPIXCON_TEST_PTX_ARCH=90`` compiles
for sm_90, with the tiles that are launched there.
"""

import functools
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ptxemu

from fastpixcon.ops import backends

WANTED = os.environ.get("FASTPIXCON_TEST_PTX", "0") != "0"
ARCHITECTURE = int(os.environ.get("FASTPIXCON_TEST_PTX_ARCH", "80"))  # 10 * major + minor
INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def missing() -> str | None:
    """Why compiled kernels can't run here; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if INTERPRETING:
        return "Triton interprets in this process (TRITON_INTERPRET=1)"
    return None


@dataclass
class Launch:
    """One launch as it happened."""

    kernel: str
    grid: tuple[int, ...]
    options: dict[str, Any]
    ptx: str
    profile: ptxemu.Profile | None
    traffic: dict[tuple[str, str], ptxemu.Traffic]  # (argument, "read" or "write") -> what of it


@dataclass
class Emulator:
    """A launcher that executes PTX, and what it launched. ``edit`` changes the text before it runs."""

    architecture: int = ARCHITECTURE
    edit: Callable[[str], str] | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of ptxemu
    launches: list[Launch] = field(default_factory=list)

    def __call__(self, kernel: Any, grid: tuple[int, ...], arguments: Sequence[Any], options: dict[str, Any]) -> None:
        from aot_compile import compile_launch, specialize  # needs Triton, which need not be here

        launch = specialize(kernel, arguments, options, self.architecture)
        compiled = compile_launch(launch)
        ptx = compiled.asm["ptx"]
        if self.edit is not None:
            ptx = self.edit(ptx)
        result = ptxemu.launch_triton(compiled, grid, *launch.arguments, ptx=ptx, profile=True, **self.options)
        assert not result.warnings, result.warnings
        self.launches.append(Launch(kernel.__name__, grid, options, ptx, result.profile, result.traffic))


@contextmanager
def launching(launch: Callable[..., None]) -> Iterator[None]:
    """Every launch of the library goes through ``launch``, with the tiles of its architecture, and the triton backend
    takes CPU tensors."""
    common = importlib.import_module("fastpixcon.kernels.common")
    before, devices = common.launcher, set(backends.TRITON_DEVICES)
    architecture = getattr(launch, "architecture", ARCHITECTURE)
    package = importlib.import_module("fastpixcon.kernels")
    modules = [importlib.import_module(x.name) for x in pkgutil.iter_modules(package.__path__, "fastpixcon.kernels.")]
    asking = {m: m.architecture for m in modules if hasattr(m, "architecture")}
    common.launcher = launch
    for module in asking:
        module.architecture = lambda x: architecture
    backends.TRITON_DEVICES.add("cpu")
    try:
        yield
    finally:
        common.launcher = before
        for module, function in asking.items():
            module.architecture = function
        backends.TRITON_DEVICES.clear()
        backends.TRITON_DEVICES.update(devices)
