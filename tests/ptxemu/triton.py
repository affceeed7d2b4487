"""Kernels of Triton, compiled ahead of time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import EmuError
from .launch import Result, Sizes, is_array, launch, no_garbage_collection, three
from .memory.globals import extent_of
from .parser import parse_ptx
from .tensor_map import ON_DEVICE, SWIZZLES, TensorMap

FLOATS = {"fp16": "f16", "bf16": "bf16", "fp32": "f32", "fp64": "f64"}
SIGNATURES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64", "bool": "i1"}
SIGNATURES |= {f"{'u' * unsigned}int{n}": f"{'iu'[unsigned]}{n}" for n in (8, 16, 32, 64) for unsigned in (0, 1)}

compiled_kernels: dict[Any, Any] = {}


@no_garbage_collection()
def launch_triton(compiled: Any, grid: Sizes, *args: Any, ptx: str | None = None, **settings: Any) -> Result:
    """Runs what triton.compile gives. ``args``: the run-time arguments in order, or all that are no constexpr, or
    all. ``ptx``: run this text in place of the compiled one."""
    metadata = compiled.metadata
    signature = dict(compiled.src.signature)
    names = [name for name, type_ in signature.items() if type_ != "constexpr"]
    if len(args) != len(names):
        declared = {parameter.name for parameter in compiled.src.fn.params if parameter.is_constexpr}
        for given in (list(signature), [name for name in signature if name not in declared]):
            if len(args) == len(given):  # without what was made constant
                args = tuple(x for x, name in zip(args, given, strict=True) if signature[name] != "constexpr")
                break
    if len(args) != len(names):
        raise EmuError(f"{metadata.name} takes {len(names)} run-time arguments {names}, got {len(args)}")
    kinds = [FLOATS.get(str(signature[name])) for name in names]
    values, names, kinds = with_tensor_maps(args, names, kinds, getattr(metadata, "tensordesc_meta", None) or [])
    programs_of_one = getattr(metadata, "num_ctas", 1)
    x, y, z = three(grid)
    grid = (x * programs_of_one, y, z)
    ptx = ptx or compiled.asm["ptx"]
    function = parse_ptx(ptx).entry(metadata.name)
    hidden = len(function.params) - len(values)
    if hidden not in (0, 1, 2):
        raise EmuError(f"{function.name}: {len(function.params)} PTX parameters for {len(values)} arguments")
    programs = math.prod(three(grid))
    per_program = [getattr(metadata, f"{x}_scratch_size", 0) for x in ("global", "profile")]
    scratch = [programs * size for size in per_program[:hidden]]
    return launch(
        ptx,
        metadata.name,
        grid,
        32 * metadata.num_warps,
        values,
        metadata.shared,
        names,
        [*kinds, *[None] * hidden],
        scratch=scratch,
        **settings,
    )


def with_tensor_maps(
    args: Sequence[Any], names: list[str], kinds: list[str | None], found: list[dict[str, Any]]
) -> tuple[list[Any], list[str], list[str | None]]:
    """As Triton's launcher makes of each descriptor: its map, its sizes, its strides."""
    flat: list[tuple[Any, str, str | None]] = []
    of_descriptors = iter(found)
    for x, name, kind in zip(args, names, kinds, strict=True):
        if not hasattr(x, "block_shape"):
            flat.append((x, name, kind))
            continue
        how = next(of_descriptors)
        numbers = [*x.shape, *x.strides]
        flat += [(tensor_map(x, how), name, None), *((n, f"{name}.{i}", None) for i, n in enumerate(numbers))]
    return [x for x, _, _ in flat], [name for _, name, _ in flat], [kind for _, _, kind in flat]


def tensor_map(descriptor: Any, how: Mapping[str, Any]) -> TensorMap:
    """Of a TensorDescriptor, for the block that a program loads of it."""
    size = how["elem_size"]
    made = TensorMap(
        descriptor.base,
        "tf32" if descriptor.round_f32_to_tf32 else ON_DEVICE[how["elem_type"]],
        tuple(int(n) for n in descriptor.shape[::-1]),
        tuple(int(n) * size for n in descriptor.strides[:-1][::-1]),
        tuple(how["block_size"][::-1]),
        SWIZZLES[how["swizzle"]],
        descriptor.padding == "nan",
    )
    made.check()
    return made


def is_integer(x: Any) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def type_in_signature(x: Any) -> str:
    if is_array(x):
        return "*" + SIGNATURES[str(x.dtype).removeprefix("torch.")]
    if isinstance(x, bool):
        return "i1"
    if is_integer(x):
        return "i32" if -(2**31) <= x < 2**31 else "i64"
    return "fp32"


def is_divisible_by_16(x: Any) -> bool:
    if is_array(x):
        extent = extent_of(x)
        return (extent.pointer - extent.storage) % 16 == 0
    return is_integer(x) and x % 16 == 0


def compile_triton(
    kernel: Any,
    args: Sequence[Any],
    constexprs: Mapping[str, Any],
    num_warps: int = 4,
    num_stages: int = 3,
    sm: int = 80,
    signature: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """Compiles a @triton.jit function for these run-time arguments. Specialised as Triton's launcher does: for what
    16 divides, and for integers that are 1."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names, given = kernel.arg_names, dict(signature or {})
    run_time = [name for name in names if name not in constexprs]
    if len(run_time) != len(args):
        raise EmuError(f"{kernel.__name__}: run-time arguments {run_time}, got {len(args)} values")
    values = dict(zip(run_time, args, strict=True))
    fixed = {p.name for p in kernel.params if getattr(p, "do_not_specialize", False)} | given.keys()
    constants = dict(constexprs)
    constants |= {name: 1 for name, x in values.items() if is_integer(x) and x == 1 and name not in fixed}
    types = {
        name: "constexpr" if name in constants else given.get(name) or type_in_signature(values[name]) for name in names
    }
    divisible = [(i,) for i, x in enumerate(names) if x not in constants and is_divisible_by_16(values[x])]
    all_options = {"num_warps": num_warps, "num_stages": num_stages, **options}
    key = (kernel, str(types), str(divisible), str(sorted(constants.items())), sm, str(sorted(all_options.items())))
    if key not in compiled_kernels:
        attributes = {place: [["tt.divisibility", 16]] for place in divisible}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=attributes)
        compiled_kernels[key] = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=all_options)
    return compiled_kernels[key]


def run_triton(
    kernel: Any,
    grid: Sizes,
    *args: Any,
    num_warps: int = 4,
    num_stages: int = 3,
    sm: int = 80,
    settings: Mapping[str, Any] | None = None,
    signature: Mapping[str, str] | None = None,
    **constexprs: Any,
) -> Result:
    """Compiles a @triton.jit function for these arguments and runs it; ``settings`` are those of the emulator."""
    compiled = compile_triton(kernel, args, constexprs, num_warps, num_stages, sm, signature)
    return launch_triton(compiled, grid, *args, **(settings or {}))
