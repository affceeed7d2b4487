"""Builds the optional C++ extension fastpixcon._C; everything else is in pyproject.toml.

FASTPIXCON_BUILD=auto  build what torch, a C++ compiler and nvcc are here for, else install less (default)
                 0     do not build it
                 cpu   build it without CUDA; a failure is fatal
                 cuda  build it with CUDA, whether a GPU is here or not; a failure is fatal
TORCH_CUDA_ARCH_LIST and MAX_JOBS are honoured.

FASTPIXCON_BUILD_TESTS=1  also what tests alone execute: instruction sets in software (make test)
FASTPIXCON_PRECOMPILE=1   read torch's headers once, not in every file (make): 300 MB of build/

FASTPIXCON_SANITIZE=address,undefined  build only the CPU sources, with what finds faults in them (make sanitize), into
                    thread             build/sanitize-*/lib beside a copy of the package, never in place
"""

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup

MODE = os.environ.get("FASTPIXCON_BUILD", "auto")
MODES = ("auto", "0", "cpu", "cuda")
if MODE not in MODES:
    raise SystemExit(f"FASTPIXCON_BUILD: got {MODE!r}, want one of {', '.join(MODES)}")
SANITIZE = os.environ.get("FASTPIXCON_SANITIZE", "")
SANITIZERS = ("address,undefined", "thread")
if SANITIZE not in ("", *SANITIZERS):
    raise SystemExit(f"FASTPIXCON_SANITIZE: got {SANITIZE!r}, want one of {' | '.join(SANITIZERS)}")
if SANITIZE and MODE != "cpu":
    raise SystemExit(f"FASTPIXCON_SANITIZE: got FASTPIXCON_BUILD={MODE}, want cpu: the sanitizers are the compiler's")
TESTS = os.environ.get("FASTPIXCON_BUILD_TESTS") == "1" or bool(SANITIZE)
PRECOMPILE = os.environ.get("FASTPIXCON_PRECOMPILE") == "1" and not SANITIZE
PRECOMPILED = ("torch/library.h", "ATen/core/Tensor.h", "ATen/Dispatch.h", "ATen/Parallel.h", "ATen/ops/empty.h",
               "ATen/ops/from_blob.h", "ATen/ops/zeros.h", "c10/util/Exception.h")  # fmt: skip
ARCHITECTURES = "8.0+PTX;8.6;9.0;10.0;12.0"  # 8.9 runs the code of 8.6
HERE = Path(__file__).parent


def say(message: str) -> None:
    print(f"fastpixcon: {message}", file=sys.stderr, flush=True)


def find_cuda() -> None:
    """Sets CUDA_HOME by the nvcc on the path, which says where it lies: torch takes a link or script for it."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or "CUDA_HOME" in os.environ:
        return
    steps = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-E", os.devnull], capture_output=True, text=True).stderr
    here = re.search(r"^#\$ _HERE_=(.+)$", steps, re.MULTILINE)
    if here is not None:
        os.environ["CUDA_HOME"] = str(Path(here[1]).parent)


def is_about_building(record: logging.LogRecord) -> bool:
    """Not what torch says of a machine without a GPU, which builds as well as any."""
    return not str(record.msg).startswith("No CUDA runtime is found")


def no_cuda() -> str | None:
    """Why CUDA sources can't be built; None if they can. A GPU is not needed."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    nvcc = Path(CUDA_HOME or "/usr/local/cuda") / "bin" / "nvcc"
    if not nvcc.is_file():
        return f"no nvcc at {nvcc} (CUDA_HOME names its folder)"
    found = re.search(r"release (\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    wanted = torch.version.cuda.split(".")[0]
    if found is None or found[1] != wanted:
        return f"{nvcc} is of CUDA {found[1] if found else 'unknown'}, torch was built with CUDA {wanted}"
    return None


def write(path: Path, text: str) -> None:
    """Leaves the file as old as it is where nothing changes."""
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def precompiled(build: Any, module: Extension) -> Path:
    """The header that stands for torch's, beside what the compiler made of it; without that it is a header still."""
    import torch

    folder = Path(build.build_temp).resolve() / "precompiled"
    header, source = folder / "torch_headers.h", folder / "torch_headers.cpp"
    lines = [f"// torch {torch.__version__}, {torch.__file__}", "#pragma once", "#pragma GCC system_header"]
    write(header, "\n".join([*lines, *(f"#include <{name}>" for name in PRECOMPILED)]) + "\n")
    write(source, f'#include "{header.name}"\n')
    (made,) = build.compiler.compile(
        [os.path.relpath(source)],
        output_dir=str(folder),
        macros=module.define_macros,
        include_dirs=module.include_dirs,
        extra_preargs=["-x", "c++-header"],
        extra_postargs=module.extra_compile_args,
    )
    compiled = Path(f"{header}.gch")
    compiled.unlink(missing_ok=True)
    compiled.symlink_to(made)
    return header


def gencode(architectures: str) -> list[str]:
    """Machine code of all from the PTX of the least, which takes a third of the time: no kernel asks for more than it
    has. make test executes this PTX. [] leaves names that are not numbers to torch."""
    names = architectures.replace(";", " ").split()
    if not all(re.fullmatch(r"\d+\.\d(\+PTX)?", name) for name in names):
        return []
    numbers = sorted(int(name.removesuffix("+PTX").replace(".", "")) for name in names)
    codes = [f"sm_{n}" for n in dict.fromkeys(numbers)]
    if TESTS or "+PTX" in architectures:
        codes.append(f"compute_{numbers[0]}")
    return [f"-gencode=arch=compute_{numbers[0]},code=[{','.join(codes)}]"]


def for_sm90(architectures: str) -> list[str]:
    """What sources for it alone are compiled with; [] if nothing is built for it, for which they have no kernels."""
    names = architectures.replace(";", " ").split()
    if not any(re.fullmatch(r"9\.0a?(\+PTX)?", name) for name in names):
        return []
    codes = ["sm_90a", "compute_90a"] if TESTS else ["sm_90a"]  # make test executes the PTX
    return [f"-gencode=arch=compute_90a,code=[{','.join(codes)}]", "-DFASTPIXCON_SM90A"]


def compile_for_sm90(build: Any, module: Extension, nvcc: list[str]) -> None:
    """Sources for it alone, which torch would compile as all others; as they are without arguments for nvcc."""
    own = [name for name in module.sources if name.endswith("_sm90.cu")] if nvcc else []
    if not own:
        return
    module.sources = [name for name in module.sources if name not in own]
    module.depends = [*module.depends, *own]
    module.extra_objects = build.compiler.compile(
        own,
        output_dir=str(Path(build.build_temp) / "sm90"),  # a folder has one list of what ninja is to build
        macros=module.define_macros,
        include_dirs=module.include_dirs,
        extra_postargs=module.extra_compile_args | {"nvcc": list(nvcc)},
        depends=module.depends,
    )


def sources(*patterns: str) -> list[str]:
    return sorted(str(p.relative_to(HERE)) for pattern in patterns for p in HERE.glob(pattern))


def extension() -> dict[str, object]:
    """The arguments of setup() that build the extension; {} where it can't or shall not be built."""
    if MODE == "0":
        return {}
    find_cuda()
    logging.getLogger("torch.utils.cpp_extension").addFilter(is_about_building)
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension, include_paths
    except ImportError as error:  # an isolated build has no torch
        if MODE != "auto":
            raise
        say(f"building without the C++ extension: {error}; use --no-build-isolation with torch installed")
        return {}
    no_toolkit = no_cuda()
    why = "FASTPIXCON_BUILD=cpu" if MODE == "cpu" else no_toolkit
    if why is not None:
        if MODE == "cuda":
            raise SystemExit(f"FASTPIXCON_BUILD=cuda: {why}")
        say(f"building without CUDA kernels: {why}")
    has_cuda = why is None

    class Build(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            if SANITIZE and self.inplace:
                raise SystemExit("FASTPIXCON_SANITIZE: got --inplace, want build, which leaves _C as it is")

        def build_extension(self, module: Extension) -> None:
            if not self.debug and not SANITIZE:
                # Python's own flags have -g, which takes a sixth of the time.
                module.extra_compile_args["cxx"].append("-g0")
            if PRECOMPILE and self.use_ninja:
                os.environ.setdefault("CCACHE_SLOPPINESS", "pch_defines,time_macros")
                header = precompiled(self, module)
                module.extra_compile_args["cxx"] += ["-include", str(header)]
            compile_for_sm90(self, module, sm90_args)
            super().build_extension(module)

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:  # no compiler, a failing one, or no ninja: all mean no extension
                if MODE != "auto":
                    raise
                say(f"building without the C++ extension: {error}")
                self.extensions = []
                # A wheel without it is one for every machine, which bdist_wheel has decided before.
                self.distribution.ext_modules = []
                wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
                if wheel is not None:
                    wheel.root_is_pure = True

    # No -march here: instruction sets are chosen at run time (csrc/cpu/isa.h).
    flags = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wno-psabi", "-Wno-unknown-pragmas"]
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    link_args = list(openmp)
    if SANITIZE:
        # A conversion of NaN to an integer is no part of "undefined".
        flags[0] = "-O1"
        flags += ["-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
        flags += ["-fsanitize=float-cast-overflow"] if "undefined" in SANITIZE else []
        link_args.append(f"-fsanitize={SANITIZE}")
        if SANITIZE == "thread":
            link_args.append("-Wl,--wrap=GOMP_parallel")  # csrc/sanitize/thread.cpp
    compile_args, sm90_args = {"cxx": flags + openmp}, []
    if has_cuda:
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHITECTURES
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures
        # Kernels of templates keep the symbols by which launch.cpp names them.
        common = ["-O3", "-static-global-template-stub=false", "-device-entity-has-hidden-visibility=false"]
        names = f'-DFASTPIXCON_CUDA_ARCHITECTURES="{architectures.replace(";", " ")}"'
        compile_args["nvcc"] = [*gencode(architectures), names, *common]
        if for_sm90(architectures):
            sm90_args = [*for_sm90(architectures), *common]
    more_sources = ["csrc/cuda/host/*.cpp", "csrc/cuda/*.cu"] if has_cuda else []
    if SANITIZE == "thread":
        more_sources.append("csrc/sanitize/thread.cpp")
    cpu_sources = sources("csrc/*.cpp", "csrc/cpu/*.cpp")
    module = (CUDAExtension if has_cuda else CppExtension)(
        "fastpixcon._C",
        [source for source in cpu_sources if TESTS or not source.endswith("_emulated.cpp")] + sources(*more_sources),
        include_dirs=[str(HERE / "csrc")],
        depends=sources("csrc/**/*.h", "csrc/**/*.cuh"),
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    if not has_cuda and no_toolkit is None:
        # One command line with CUDA and without: adding CUDA compiles nothing anew.
        more = include_paths(device_type="cuda")
        module.include_dirs += [path for path in more if path not in module.include_dirs]
    folder = f"build/sanitize-{SANITIZE.replace(',', '-')}"
    options = {"build": {"build_base": folder, "build_lib": f"{folder}/lib"}} if SANITIZE else {}
    return {"ext_modules": [module], "cmdclass": {"build_ext": Build}, "options": options}


setup(packages=[*find_packages(include=["fastpixcon*"]), "fastpixcon.kernels"], **extension())
