"""Calls of functions, whose arguments and results are bytes of each thread; printf and assert."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..builder import builds
from ..errors import PtxSyntaxError
from ..operands import Inst, Paren, Sym
from ..program import Variable
from ..types import RAW, U8, Mask
from .control import Jump
from .host_functions import host_function

if TYPE_CHECKING:
    from .machine import Machine


class Calls:
    """Buffers of parameters, and where each thread returns to."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.buffers: dict[str, np.ndarray] = {}
        self.sizes: dict[str, int] = {}
        for function in machine.layout.functions:
            self.sizes |= {x.name: x.size for x in (*function.params, *function.returns)}
            self.sizes |= {name: x.size for name, x in function.variables.items()}

    def start_batch(self) -> None:
        self.depth = np.zeros(self.machine.threads, np.int64)
        self.stack = np.zeros((4, self.machine.threads), np.int64)

    def buffer(self, name: str) -> np.ndarray:
        """[threads, bytes]"""
        if name not in self.sizes:
            raise PtxSyntaxError(f"unknown parameter {name}")
        if name not in self.buffers:
            self.buffers[name] = np.zeros((self.machine.threads, max(16, self.sizes[name])), U8)
        return self.buffers[name]

    def push(self, threads: np.ndarray, place: int) -> None:
        depth = self.depth[threads]
        if depth.max() >= len(self.stack):
            self.stack = np.concatenate([self.stack, np.zeros_like(self.stack)])
        self.stack[depth, threads] = place
        self.depth[threads] = depth + 1

    def pop(self, threads: np.ndarray) -> np.ndarray:
        self.depth[threads] -= 1
        return self.stack[self.depth[threads], threads]


class Call(NamedTuple):
    """``call (results), name, (arguments);``"""

    name: str
    results: list[Any]
    arguments: list[Any]

    @staticmethod
    def of(inst: Inst) -> "Call":
        at = next(i for i, x in enumerate(inst.args) if isinstance(x, Sym))
        before = [x.items for x in inst.args[:at] if isinstance(x, Paren)]
        after = [x.items for x in inst.args[at + 1 :] if isinstance(x, Paren)]
        return Call(inst.args[at].name, before[0] if before else [], after[0] if after else [])


@builds("call")
def call(machine: "Machine", inst: Inst) -> Jump:
    name, _, arguments = Call.of(inst)
    function = machine.module.functions.get(name)
    if function is None or not function.is_defined:
        return call_of_host(machine, inst)
    target = machine.program.starts[name]
    copies = [argument_copy(machine, x, parameter) for x, parameter in zip(arguments, function.params, strict=True)]

    def step(pc: int, mask: Mask) -> int:
        running = machine.fall_through_where_guarded(inst, pc, mask, behind=2)
        threads = np.flatnonzero(running)
        if len(threads):
            for copy in copies:
                copy(threads)
            machine.calls.push(threads, pc + 1)
            machine.pc[threads] = target
        return -1

    return step


def argument_copy(machine: "Machine", argument: Any, parameter: Variable) -> Callable[[np.ndarray], None]:
    target, size = machine.calls.buffer(parameter.name), parameter.size
    if isinstance(argument, Sym):
        source = machine.calls.buffer(argument.name)
        get = lambda: source  # noqa: E731
    else:
        get_value = machine.array(argument, f"b{8 * size}")
        get = lambda: np.ascontiguousarray(get_value()).view(U8).reshape(-1, size)  # noqa: E731

    def copy(threads: np.ndarray) -> None:
        target[threads, :size] = get()[threads, :size]

    return copy


@builds("call_returned")
def call_returned(machine: "Machine", inst: Inst) -> Jump:
    """Takes the results; the linker puts it behind every call."""
    name, results, _ = Call.of(inst)
    takes = [result_copy(machine, x, of) for x, of in zip(results, machine.module.functions[name].returns, strict=True)]

    def step(pc: int, mask: Mask) -> int:
        for take in takes:
            take(mask)
        return pc + 1

    return step


def result_copy(machine: "Machine", result: Any, of: Variable) -> Callable[[Mask], None]:
    source, size = machine.calls.buffer(of.name), of.size
    if isinstance(result, Sym):
        target = machine.calls.buffer(result.name)

        def copy(mask: Mask) -> None:
            running = machine.running(mask)
            target[running, :size] = source[running, :size]

        return copy
    store = machine.setter(result, f"b{8 * size}")
    return lambda mask: store(np.ascontiguousarray(source[:, :size]).view(RAW[8 * size]).reshape(-1), mask)


def call_of_host(machine: "Machine", inst: Inst) -> Jump:
    name, results, arguments = Call.of(inst)
    function = host_function(machine, name, results, arguments)

    def step(pc: int, mask: Mask) -> int:
        running = machine.running(mask)
        if inst.guard is not None:
            running = running & machine.bits(inst.guard, 1)()
        if running.any():
            function(running)
        return pc + 1

    return step


@builds("ret")
def ret(machine: "Machine", inst: Inst) -> Jump:
    in_kernel = inst.function is machine.entry

    def step(pc: int, mask: Mask) -> int:
        running = machine.fall_through_where_guarded(inst, pc, mask)
        threads = np.flatnonzero(running)
        if in_kernel and len(threads):
            machine.exit(running)
        elif len(threads):
            machine.pc[threads] = machine.calls.pop(threads)
        return -1

    return step
