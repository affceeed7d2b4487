"""Processes that have imported what training needs: forked from a server that has imported it and run nothing else.

Each has a process's own streams, signals, environment, exit status and end of the interpreter, without ten seconds of
imports. What an interpreter or a library does at its start is not shown: that is for ``tiny_run.python``.
"""

import functools
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

PRELOADED = (
    "fastpixcon.cli",
    "fastpixcon.training.job",
    "fastpixcon.training.figures.own_images",
    "fastpixcon.training.trained",
    "matplotlib.pyplot",
    "sklearn.manifold",
    "torch.distributed",
    "torch.utils.data",
)
NUMBER = struct.Struct("i")
LARGEST = 1 << 18  # bytes of a request


class Request(NamedTuple):
    code: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    own_group: bool
    ignored: int | None  # signal


def serve(requests: socket.socket) -> Request:
    """Returns in forked processes, with what they have to run; the server ends when nobody can ask any more."""
    for name in PRELOADED:
        importlib.import_module(name)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads, of which a fork has one"
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    running: dict[int, int] = {}  # who wants to know of whose end
    while True:
        if select.select([requests], [], [], 0.02 if running else None)[0]:
            message, files, *_ = socket.recv_fds(requests, LARGEST, 3)
            if not message:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                requests.close()
                for file in running.values():
                    os.close(file)
                return begin(Request(*json.loads(message)), files)
            running[pid] = files.pop()
            for file in files:
                os.close(file)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                file = running.pop(pid)
                os.write(file, NUMBER.pack(status))
                os.close(file)


def begin(request: Request, files: list[int]) -> Request:
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(files[number - 1], number)
        old = getattr(sys, name)  # which knows whether its file can seek
        raw = io.FileIO(number, "w", closefd=False)
        new = io.TextIOWrapper(
            raw if old.write_through else io.BufferedWriter(raw),
            old.encoding, old.errors, line_buffering=old.line_buffering, write_through=old.write_through,
        )  # fmt: skip
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    if request.own_group:
        os.setsid()
    if request.ignored is not None:
        signal.signal(request.ignored, signal.SIG_IGN)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = ["-c", *request.arguments]
    sys.modules["__main__"] = types.ModuleType("__main__")
    os.write(files[2], NUMBER.pack(os.getpid()))
    for file in files:
        os.close(file)
    return request


@functools.cache
def server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    process.returncode = 0  # it ends after us
    return ours


class Forked:
    """As subprocess.Popen, of code. ``stdout``: a file instead of a pipe; ``more``: of the environment."""

    def __init__(
        self, code: str, *arguments: str, own_group: bool = False, ignored: int | None = None, stdout: Any = None,
        **more: str,
    ) -> None:  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
        request = Request(code, arguments, environment, os.getcwd(), own_group, ignored)
        pipes = [os.pipe() for _ in range(3)]
        ends = [write for _, write in pipes]
        files = [ends[0] if stdout is None else stdout.fileno(), *ends[1:]]
        socket.send_fds(server(), [json.dumps(request).encode()], files)
        for end in ends:
            os.close(end)
        *self._output, self._status = [read for read, _ in pipes]
        self.returncode: int | None = None
        self.pid = self._number()

    def _number(self) -> int:
        (number,) = NUMBER.unpack(os.read(self._status, NUMBER.size))
        return int(number)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(self._number())
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """All that it wrote, when it has ended."""
        end = time.monotonic() + timeout
        written = dict.fromkeys(self._output, b"")
        left = [*self._output, self._status]
        while left:
            ready = select.select(left, [], [], max(0, end - time.monotonic()))[0]
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired("forked", timeout, *written.values())
            for file in ready:
                if file == self._status:
                    self.poll()
                    left.remove(file)
                elif part := os.read(file, 1 << 16):
                    written[file] += part
                else:
                    os.close(file)
                    left.remove(file)
        out, error = (part.decode(errors="backslashreplace") for part in written.values())
        return out, error


def forked(code: str, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run code in a fork, on one thread."""
    process = Forked(code, *arguments, **options)
    out, error = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    code = serve(socket.socket(fileno=int(sys.argv[1]))).code
    exec(compile(code, "<string>", "exec"), sys.modules["__main__"].__dict__)
