"""Functions that the driver provides: printf and the end of a failed assert."""

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeviceAssertError, UnsupportedError
from ..memory.addresses import WINDOW_SIZE, WINDOWS

if TYPE_CHECKING:
    from .machine import Machine

CONVERSION = re.compile(r"%([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+))?(hh|h|ll|l|j|z|t|L)?([diouxXcsfFeEgGaAp%])")


def host_function(
    machine: "Machine", name: str, results: list[Any], arguments: list[Any]
) -> Callable[[np.ndarray], None]:
    """What a call does for the threads of a mask."""
    buffers = [machine.calls.buffer(x.name) for x in arguments]
    if name == "__assertfail":
        return assertion(machine, buffers)
    if name == "vprintf":
        result = machine.calls.buffer(results[0].name) if results else None
        return printing(machine, buffers, result)
    raise UnsupportedError(f"call of undefined function {name}")


def pointer(buffer: np.ndarray, thread: int) -> int:
    return int(buffer[thread, :8].view(np.int64)[0])


def assertion(machine: "Machine", buffers: list[np.ndarray]) -> Callable[[np.ndarray], None]:
    def fail(running: np.ndarray) -> None:
        thread = int(np.flatnonzero(running)[0])
        message, file, function = (machine.globals.string_at(pointer(buffers[i], thread)) for i in (0, 1, 3))
        line = int(buffers[2][thread, :4].view(np.int32)[0])
        raise DeviceAssertError(f"device assertion failed: {message} at {file}:{line} in {function}", thread)

    return fail


def printing(machine: "Machine", buffers: list[np.ndarray], result: Any) -> Callable[[np.ndarray], None]:
    def printf(running: np.ndarray) -> None:
        for thread in np.flatnonzero(running).tolist():
            template = machine.globals.string_at(pointer(buffers[0], thread))
            text = formatted(machine, template, pointer(buffers[1], thread), thread)
            machine.printed.append(text)
            if machine.options.echo_printf:
                sys.stdout.write(text)
        if result is not None:
            result[running, :4] = 0

    return printf


def formatted(machine: "Machine", template: str, arguments: int, thread: int) -> str:
    """``arguments``: address in local memory, where they lie aligned to their sizes."""
    place = arguments - WINDOWS["local"]
    end = 0

    def argument(dtype: type) -> Any:
        nonlocal end
        if not 0 <= place < WINDOW_SIZE:
            raise UnsupportedError("printf arguments outside local memory")
        size = np.dtype(dtype).itemsize
        start = (end + size - 1) // size * size
        end = start + size
        offset = place + start + thread * machine.local.stride
        return machine.local.bytes.data[offset : offset + size].view(dtype)[0].item()

    def convert(match: re.Match[str]) -> str:
        flags, width, precision, length, kind = match.groups()
        if kind == "%":
            return "%"
        width = argument(np.int32) if width == "*" else width or ""
        precision = argument(np.int32) if precision == "*" else precision
        spec = f"%{flags}{width}" + (f".{precision}" if precision is not None else "")
        long = length in ("l", "ll", "j", "z", "t")
        if kind in "di":
            return (spec + "d") % argument(np.int64 if long else np.int32)
        if kind in "ouxX":
            return (spec + ("d" if kind == "u" else kind)) % argument(np.uint64 if long else np.uint32)
        if kind == "c":
            return (spec + "c") % argument(np.int32)
        if kind == "s":
            return (spec + "s") % machine.globals.string_at(argument(np.int64))
        if kind == "p":
            return hex(argument(np.uint64))
        return (spec + ("e" if kind in "aA" else kind)) % argument(np.float64)

    return CONVERSION.sub(convert, template)
