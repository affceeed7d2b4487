"""Seconds and peak memory of a part of the training step.

The losses run forward and backward on their own, on detached outputs of the network, so a plain stopwatch around both
is exact. Memory is what the process grows by at its highest point between start and end:

- CUDA: the allocator's peak above what was allocated at the start.
- Linux: free heap is first handed back to the kernel (``malloc_trim``), so that everything the loss touches is counted
  anew, the kernel's high-water mark of resident memory is reset (``/proc/self/clear_refs``), and read at the end. This
  sees C++ scratch buffers too, which torch's profiler does not. It costs page faults, so it is done once an epoch, and
  those calls are left out of the time.
- elsewhere: not measured.
"""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Reading:
    calls: int = 0  # timed
    seconds: float = 0.0  # of the timed calls
    peak_bytes: int | None = None

    @property
    def milliseconds(self) -> float | None:
        """Mean of a call."""
        return 1000 * self.seconds / self.calls if self.calls else None


@dataclass
class Meter:
    """Readings by name; ``part(name)`` around what is measured."""

    device: torch.device
    readings: dict[str, Reading] = field(default_factory=dict)
    _events: list[tuple[str, Any, Any]] = field(default_factory=list)

    @contextmanager
    def part(self, name: str, memory: bool) -> Iterator[None]:
        """Measure the block: its memory if ``memory``, else its time."""
        reading = self.readings.setdefault(name, Reading())
        if memory:
            start = self._memory_start()
            yield
            peak = self._memory_peak(start)
            if peak is not None:
                reading.peak_bytes = max(reading.peak_bytes or 0, peak)
        elif self.device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            yield
            after.record()
            self._events.append((name, before, after))  # read later: no synchronisation inside a step
        else:
            started = time.perf_counter()
            yield
            reading.seconds += time.perf_counter() - started
            reading.calls += 1

    def state(self) -> dict[str, Any]:
        """The readings as plain values, up to date."""
        if self._events:
            torch.cuda.synchronize(self.device)
        for name, before, after in self._events:
            self.readings[name].seconds += before.elapsed_time(after) / 1000
            self.readings[name].calls += 1
        self._events.clear()
        return {name: asdict(reading) for name, reading in self.readings.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.readings = {name: Reading(**values) for name, values in state.items()}

    def _memory_start(self) -> int | None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        try:
            ctypes.CDLL(None).malloc_trim(0)
            _CLEAR_REFS.write_text("5", encoding="utf-8")
            return _status_bytes("VmRSS")
        except (OSError, AttributeError, KeyError):
            return None

    def _memory_peak(self, start: int | None) -> int | None:
        if start is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - start
        return max(_status_bytes("VmHWM") - start, 0)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next allocation.

    By default it returns every freed block above 32 MiB to the kernel, which zeroes it page by page when it is wanted
    again: a fifth of a CPU iteration with large feature maps.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    except (OSError, AttributeError):
        pass  # another C library


def _status_bytes(key: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines())
    return int(lines[key].split()[0]) * 1024
