"""Runs a kernel of PTX on arrays of this process."""

import gc
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import EmuError
from .machine import Machine, Options
from .machine.layout import align
from .memory.globals import Array, GlobalMemory, PtrArray, Struct
from .numerics import f32_to_bf16
from .parser import parse_ptx
from .profile import Profile
from .program import Function, Module, Variable
from .tensor_map import TensorMap
from .traffic import Traffic

Sizes = int | Sequence[int]  # of a grid or a block


@dataclass
class Result:
    warnings: list[EmuError] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    profile: Profile | None = None
    traffic: dict[tuple[str, str], Traffic] = field(default_factory=dict)  # (array, "read" or "write"); if profiled
    seconds: float = 0.0


def three(sizes: Sizes) -> tuple[int, int, int]:
    numbers = [int(x) for x in np.atleast_1d(sizes)]
    x, y, z = numbers + [1] * (3 - len(numbers))
    return x, y, z


def is_array(x: Any) -> bool:
    return (isinstance(x, np.ndarray) and x.ndim > 0) or (hasattr(x, "data_ptr") and hasattr(x, "stride"))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A launch makes many objects and little garbage, and a collection visits all objects of the process."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@no_garbage_collection()
def launch(
    ptx: str,
    entry: str,
    grid: Sizes,
    block: Sizes,
    args: Sequence[Any],
    dynamic_smem: int = 0,
    names: Sequence[str] | None = None,
    kinds: Sequence[str | None] | None = None,
    options: Options | None = None,
    scratch: Sequence[int] = (),
    cluster: Sizes | None = None,
    **settings: Any,
) -> Result:
    """Runs an entry of a module, its name or a unique part of it.

    ``args`` are arrays and CPU tensors, PtrArray and None for pointers, numbers, and Struct, bytes or TensorMap for
    structs; ``names`` and ``kinds`` (f16, bf16, f32 or f64 where the PTX has only bits) say more of them. ``scratch``:
    sizes of zeroed buffers, appended as pointers. ``cluster``: in programs, if the kernel wasn't compiled for one.
    ``settings``: the fields of Options.
    """
    options = options or Options(**settings)
    module = parse_ptx(ptx)
    function = module.entry(entry)
    grid, block = three(grid), three(block)
    if min(grid) < 1:
        return Result()
    check_block(function, block)
    if len(args) + len(scratch) != len(function.params):
        wanted = [f"{x.name}:{x.type}:{x.size}" for x in function.params]
        raise EmuError(f"{function.name} takes {len(wanted)} parameters ({wanted}), got {len(args) + len(scratch)}")
    names = names or [f"arg{i}" for i in range(len(args))]
    arguments = Arguments(module, function, args, names, kinds or [None] * len(args), scratch)
    sizes = None if cluster is None else three(cluster)
    parameters = arguments.parameter_block()
    machine = Machine(module, function, grid, block, dynamic_smem, arguments.memory, parameters, options, sizes)
    try:
        machine.run()
    finally:
        arguments.memory.copy_back()
        arguments.memory.watchers.clear()
    traffic = machine.traffic.by_name()
    result = Result(machine.warnings, machine.printed, Profile(machine), traffic, machine.seconds)
    machine.release()
    return result


def check_block(function: Function, block: tuple[int, int, int]) -> None:
    required, most = function.directives.get("reqntid"), function.directives.get("maxntid")
    if required and three(required) != block:
        raise EmuError(f"{function.name} was compiled for blocks of {required}, launched with {block}")
    if most and math.prod(block) > math.prod(most):
        raise EmuError(f"{function.name}: block {block} exceeds .maxntid {most}")


class Arguments:
    """In global memory, and in the parameter block."""

    def __init__(
        self,
        module: Module,
        function: Function,
        args: Sequence[Any],
        names: Sequence[str],
        kinds: Sequence[str | None],
        scratch: Sequence[int],
    ) -> None:
        maps = {i for i, x in enumerate(args) if isinstance(x, TensorMap)}
        args = [x.encoded() if isinstance(x, TensorMap) else x for x in args]
        self.function, self.args, self.kinds = function, args, kinds
        self.memory = memory = GlobalMemory()
        hosts: dict[tuple[int, int], tuple[str, Any]] = {}  # (argument, index in a PtrArray, byte of a Struct)
        for i, (x, parameter) in enumerate(zip(args, function.params, strict=False)):
            if is_array(x):
                if parameter.size != 8:
                    raise EmuError(
                        f"{function.name}: parameter {i} ({parameter.name}) of {parameter.size} bytes is no pointer"
                    )
                hosts[i, 0] = (names[i], x)
            elif isinstance(x, Struct):
                hosts |= {(i, at): (names[i] if i in maps else f"{names[i]}[{at}]", y) for at, y in x.pointers.items()}
            elif isinstance(x, PtrArray):
                hosts |= {(i, j): (f"{names[i]}[{j}]", y) for j, y in enumerate(x.arrays) if y is not None}
        self.pointed = {
            i: memory.add_bytes(names[i], bytes(8 * len(x.arrays)))
            for i, x in enumerate(args)
            if isinstance(x, PtrArray)
        }
        # Structs of which the kernel gets pointers
        self.structs = {
            i: memory.add_bytes(names[i], bytes(len(x.data)))
            for i, (x, parameter) in enumerate(zip(args, function.params, strict=False))
            if isinstance(x, Struct) and parameter.size == 8 != len(x.data)
        }
        self.placed = dict(zip(hosts, memory.add_hosts(list(hosts.values())), strict=True))
        self.scratch = [memory.add_bytes("scratch", bytes(size)) if size else None for size in scratch]
        variables = [x for x in module.variables.values() if x.space in ("global", "const")]
        memory.variables = {x.name: memory.add_bytes(x.name, bytes(x.size)) for x in variables}
        memory.place()
        for variable in variables:
            self.write(memory.variables[variable.name], variable.initial_bytes(lambda x: memory.variables[x].address))
        for i, array in self.pointed.items():
            self.write(array, b"".join(self.pointer(i, j) for j in range(len(args[i].arrays))))
        for i, array in self.structs.items():
            self.write(array, self.struct(i))

    def write(self, array: Array, data: bytes) -> None:
        self.memory.data[array.place] = np.frombuffer(data, np.uint8)

    def pointer(self, argument: int, index: int = 0) -> bytes:
        array, offset = self.placed.get((argument, index), (None, 0))
        return struct.pack("<Q", array.address + offset if array is not None else 0)

    def parameter_block(self) -> bytes:
        block = bytearray()
        for i, parameter in enumerate(self.function.params):
            block += bytes(align(len(block), parameter.align) - len(block))
            data = self.parameter(i, parameter)
            if len(data) != parameter.size:
                wanted = f"parameter {i} ({parameter.name}) has {parameter.size} bytes"
                raise EmuError(f"{self.function.name}: {wanted}, got {len(data)}")
            block += data
        return bytes(block)

    def parameter(self, i: int, parameter: Variable) -> bytes:
        if i >= len(self.args):
            buffer = self.scratch[i - len(self.args)]
            return struct.pack("<Q", buffer.address if buffer is not None else 0)
        if i in self.pointed or i in self.structs:
            return struct.pack("<Q", (self.pointed.get(i) or self.structs[i]).address)
        if self.args[i] is None:
            return bytes(parameter.size)
        if is_array(self.args[i]):
            return self.pointer(i)
        if isinstance(self.args[i], Struct):
            return self.struct(i)
        return scalar_bytes(self.args[i], parameter, self.kinds[i])

    def struct(self, i: int) -> bytes:
        data = bytearray(self.args[i].data)
        for at in self.args[i].pointers:
            data[at : at + 8] = self.pointer(i, at)
        return bytes(data)


def scalar_bytes(x: Any, parameter: Variable, kind: str | None) -> bytes:
    """Of the type of the parameter; where that is only bits, a float is one of their size."""
    if isinstance(x, bytes | bytearray):
        return bytes(x)
    if isinstance(x, np.generic | np.ndarray) and x.nbytes == parameter.size:
        return x.tobytes()
    x = x.item() if hasattr(x, "item") else x
    kind = kind or parameter.type
    if isinstance(x, float) and kind[0] in "bus":
        kind = {2: "f16", 4: "f32", 8: "f64"}[parameter.size]
    if kind == "bf16":
        return f32_to_bf16(np.array([x], np.float32)).tobytes()
    if kind in ("f16", "f32", "f64"):
        return np.array(x, f"f{int(kind[1:]) // 8}").tobytes()
    return (int(x) & ((1 << 8 * parameter.size) - 1)).to_bytes(parameter.size, "little")
