"""Builds the optional C++ extension fastpixcon._C; everything else is in pyproject.toml.

FASTPIXCON_BUILD=auto  build it if torch and a C++ compiler are here, else install the reference only (default)
                 0     do not build it
                 cpu   build it; a failure is fatal
"""

import os
import sys
from pathlib import Path

from setuptools import find_packages, setup

MODE = os.environ.get("FASTPIXCON_BUILD", "auto")
MODES = ("auto", "0", "cpu")
if MODE not in MODES:
    raise SystemExit(f"FASTPIXCON_BUILD: got {MODE!r}, want one of {', '.join(MODES)}")


def say(message: str) -> None:
    print(f"fastpixcon: {message}", file=sys.stderr, flush=True)


def extension() -> dict[str, object]:
    """The arguments of setup() that build the extension; {} where it can't or shall not be built."""
    if MODE == "0":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:  # an isolated build has no torch
        if MODE != "auto":
            raise
        say(f"building without the C++ extension: {error}; use --no-build-isolation with torch installed")
        return {}

    class Build(BuildExtension):
        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:  # no compiler, a failing one, or no ninja: all mean no extension
                if MODE != "auto":
                    raise
                say(f"building without the C++ extension: {error}")
                self.extensions = []

    # No -march here: instruction sets are chosen at run time (csrc/cpu/isa.h).
    flags = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wno-psabi", "-Wno-unknown-pragmas"]
    here = Path(__file__).parent
    sources = sorted(str(p.relative_to(here)) for p in (here / "csrc").glob("*.cpp"))
    sources += sorted(str(p.relative_to(here)) for p in (here / "csrc" / "cpu").glob("*.cpp"))
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    module = CppExtension(
        "fastpixcon._C",
        sources,
        include_dirs=[str(here / "csrc")],
        depends=[str(p.relative_to(here)) for p in (here / "csrc").rglob("*.h")],
        extra_compile_args={"cxx": flags + openmp},
        extra_link_args=openmp,
    )
    return {"ext_modules": [module], "cmdclass": {"build_ext": Build}}


setup(packages=[*find_packages(include=["fastpixcon*"]), "fastpixcon.kernels"], **extension())
