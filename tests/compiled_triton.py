"""The triton backend on CPU tensors from compiled code: every launch is compiled for sm_80 and its PTX is executed by
ptxemu, with every access checked.

ptxemu is looked for in the folder that the environment variable PTXEMU names (the package, or what holds it) and in
``../shared``. With ``FASTPIXCON_TEST_PTX=1`` the tests on the triton backend run so, on the Cases that
``compiled_choice.py`` chooses; with ``FASTPIXCON_TEST_PTX=all`` on every Case, which takes an hour.
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from global_memory import Traffic, watching

from fastpixcon.ops import backends

WANTED = os.environ.get("FASTPIXCON_TEST_PTX", "0") != "0"
INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") == "1"
ROOT = Path(__file__).resolve().parents[1]


def _folders() -> list[Path]:
    """Where the package may lie."""
    named = os.environ.get("PTXEMU")
    return [Path(named), Path(named).parent] if named else [ROOT.parent / "shared"]


@functools.cache
def no_ptxemu() -> str | None:
    """Why PTX can't be executed here; None if it can."""
    for folder in _folders():
        if (folder / "ptxemu" / "__init__.py").is_file():
            return None
    return f"no ptxemu in {' or '.join(map(str, _folders()))}; PTXEMU names its folder"


@functools.cache
def missing() -> str | None:
    """Why compiled kernels can't run here; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if INTERPRETING:
        return "Triton interprets in this process (TRITON_INTERPRET=1)"
    return no_ptxemu()


@functools.cache
def ptxemu() -> Any:
    folder = next(folder for folder in _folders() if (folder / "ptxemu" / "__init__.py").is_file())
    sys.path.append(str(folder))
    return importlib.import_module("ptxemu")


@dataclass
class Launch:
    """One launch as it happened."""

    kernel: str
    grid: tuple[int, ...]
    options: dict[str, Any]
    ptx: str
    profile: Any  # ptxemu.Profile
    traffic: dict[tuple[str, str], Traffic]  # (argument, "read" or "write") -> what of it


@dataclass
class Emulator:
    """A launcher that executes PTX, and what it launched. ``edit`` changes the text before it runs."""

    edit: Callable[[str], str] | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of ptxemu
    launches: list[Launch] = field(default_factory=list)

    def __call__(self, kernel: Any, grid: tuple[int, ...], arguments: Sequence[Any], options: dict[str, Any]) -> None:
        from aot_compile import compile_launch, specialize  # needs Triton, which need not be here

        launch = specialize(kernel, arguments, options)
        compiled = compile_launch(launch)
        ptx = compiled.asm["ptx"]
        if self.edit is not None:
            ptx = self.edit(ptx)
        run = ptxemu().launch_triton
        with watching() as watchers:
            result = run(compiled, grid, *launch.arguments, ptx=ptx, profile=True, **self.options)
        assert not result.warnings, result.warnings
        traffic = watchers[0].traffic if watchers else {}
        self.launches.append(Launch(kernel.__name__, grid, options, ptx, result.profile, traffic))


@contextmanager
def launching(launch: Callable[..., None]) -> Iterator[None]:
    """Every launch of the library goes through ``launch``, and the triton backend takes CPU tensors."""
    common = importlib.import_module("fastpixcon.kernels.common")
    before, devices = common.launcher, set(backends.TRITON_DEVICES)
    common.launcher = launch
    backends.TRITON_DEVICES.add("cpu")
    try:
        yield
    finally:
        common.launcher = before
        backends.TRITON_DEVICES.clear()
        backends.TRITON_DEVICES.update(devices)
