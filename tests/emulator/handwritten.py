"""Kernels of a few lines of PTX, and what assembles them where Triton is."""

import functools
import subprocess
import tempfile
from pathlib import Path

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
REGISTERS = """
.reg .pred %p<20>; .reg .b16 %rs<20>; .reg .b32 %r<50>; .reg .b64 %rd<50>; .reg .f32 %f<20>; .reg .f64 %fd<20>;
"""


@functools.cache
def ptxas() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    path = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    return str(path) if path.exists() else None


def kernel(body: str, params: str = ".param .u64 p", head: str = HEAD) -> str:
    """Named k; what ptxas doesn't take is no test."""
    text = f"{head}.visible .entry k({params})\n{{{REGISTERS}{body}\nret;\n}}\n"
    assembler = ptxas()
    if assembler is not None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "k.ptx")
            source.write_text(text)
            command = [assembler, "-arch=sm_80", str(source), "-o", str(Path(folder, "k.cubin"))]
            run = subprocess.run(command, capture_output=True, text=True)
            assert run.returncode == 0, run.stderr + text
    return text
