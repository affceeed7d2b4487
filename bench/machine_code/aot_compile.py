"""Triton kernels compiled for an architecture that need not be here, as their launches would compile them."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import create_function_from_signature


class Specialized(NamedTuple):
    """What a launch makes of its arguments: some are compiled in, the others are passed."""

    source: ASTSource
    options: dict[str, Any]  # num_warps and the like
    arguments: list[Any]  # those that are passed
    target: GPUTarget


@functools.cache
def _binder(kernel: Any, target: GPUTarget) -> Any:
    return create_function_from_signature(kernel.signature, kernel.params, make_backend(target))


def specialize(kernel: Any, arguments: Sequence[Any], options: dict[str, Any], architecture: int = 80) -> Specialized:
    """As Triton's own launcher does it: None and 1 are constants; divisibility by 16; integers beyond 2^31.

    Args:
        arguments: of ``kernel[grid](*arguments, **options)``; tensors on any device, meta included.
        options: constexprs, num_warps and num_stages.
    """
    target = GPUTarget("cuda", architecture, 32)
    bound, specialization, others = _binder(kernel, target)(*arguments, **options)
    names = list(bound)
    types = [kind for kind, _ in specialization]
    constants = {name: bound[name] for name, kind in zip(names, types, strict=True) if kind == "constexpr"}
    parse = make_backend(target).parse_attr
    attributes = {
        (i,): parse(how) for i, (kind, how) in enumerate(specialization) if kind != "constexpr" and isinstance(how, str)
    }
    source = ASTSource(kernel, dict(zip(names, types, strict=True)), constants, attributes)
    return Specialized(source, others, [bound[name] for name in names if name not in constants], target)


@contextmanager
def _without_cubin() -> Iterator[None]:
    def hook(*arguments: Any) -> Any:
        if not arguments:  # what the cache is told
            return "no cubin", "no cubin"
        arguments[1]["cubin"] = lambda ptx, metadata: b""
        return None

    runtime = triton.knobs.runtime
    before, runtime.add_stages_inspection_hook = runtime.add_stages_inspection_hook, hook
    try:
        yield
    finally:
        runtime.add_stages_inspection_hook = before


_compiled: dict[str, CompiledKernel] = {}


def compile_launch(launch: Specialized, *, cubin: bool = False) -> CompiledKernel:
    """The kernel of a launch; ``asm`` has its "ttgir", "llir", "ptx" and, if ``cubin``, what ptxas makes of it."""
    key = f"{launch.source.hash()} {sorted(launch.options.items())} {launch.target} {cubin}"
    if key not in _compiled:
        if cubin:
            _compiled[key] = triton.compile(launch.source, target=launch.target, options=launch.options)
        else:
            with _without_cubin():
                _compiled[key] = triton.compile(launch.source, target=launch.target, options=launch.options)
    return _compiled[key]
