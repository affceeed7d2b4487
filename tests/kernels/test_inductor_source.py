"""torch.compile writes down the source of a kernel and of all that it calls, by name and without their modules, and
its constants as they print. What it writes has to be the same kernel."""

import builtins
import dis
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton")
import aot_compile
import aot_problems
import torch
import triton
from torch._inductor.codegen.triton import TritonKernel
from torch._inductor.codegen.wrapper import user_defined_triton_kernel_transitive_closure_source_code

from fastpixcon import kernels
from fastpixcon.kernels import common
from fastpixcon.ops import define

pytestmark = pytest.mark.skipif(define.INTERPRETING, reason="interpreted kernels are not traced")

MODULES = [importlib.import_module(f"fastpixcon.kernels.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
KERNELS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": function
    for module in MODULES
    for name, function in vars(module).items()
    if name.endswith("_kernel") and function.fn.__module__ == module.__name__
}


def as_written(kernel: Any, folder: Path) -> ModuleType:
    header = TritonKernel.gen_common_triton_imports()
    text = f"{header}\n@triton.jit\n{user_defined_triton_kernel_transitive_closure_source_code(kernel)}"
    file = folder / f"{kernel.__name__}_as_written.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def used_by(function: Any) -> set[str]:
    """Names that its code looks up in its module."""
    return {each.argval for each in dis.get_instructions(function.fn) if each.opname == "LOAD_GLOBAL"}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_every_name_is_written_down(kernel: Any, tmp_path: Path) -> None:
    written = vars(as_written(kernel, tmp_path))
    waiting = [kernel]
    while waiting:
        function = waiting.pop()
        for name in used_by(function) - vars(builtins).keys():
            assert name in written, f"{function.__name__} uses {name}"
            value = function.fn.__globals__[name]
            if hasattr(value, "src"):  # a function; one of the same name may come from another module
                assert written[name].src == value.src, name
                waiting.append(value)
            elif isinstance(value, triton.language.constexpr):
                assert written[name].value == value.value, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_it_is_the_same_kernel(dtype: torch.dtype, tmp_path: Path) -> None:
    """Its constants as they print, too."""
    for launch in aot_problems.InfoNCE(64, dtype).launches(90):
        written = getattr(as_written(launch.kernel, tmp_path), launch.name)
        # The graph leaves assertions out, which have their place in the source.
        options = eval(repr({k: v for k, v in launch.options.items() if k not in common.ASSERTIONS}))
        sources = [aot_compile.specialize(kernel, launch.arguments, options, 90) for kernel in (launch.kernel, written)]
        ours, theirs = (without_lines(aot_compile.compile_launch(source).asm["ptx"]) for source in sources)
        assert ours == theirs, launch


def without_lines(ptx: str) -> list[str]:
    """What is executed; not where it was written."""
    lines = [line.strip() for line in ptx.splitlines()]
    return [line for line in lines if line.endswith(";") and not line.startswith((".loc", ".file"))]
