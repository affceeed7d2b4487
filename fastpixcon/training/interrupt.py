"""Signals that ask a process to end: SIGINT (Ctrl-C), SIGTERM (schedulers, containers), SIGHUP (a closing terminal).

Training takes them as a request (``GracefulInterrupt``): whoever loops asks ``number`` and stops where it suits.
Elsewhere they raise ``Stopped`` (``Raising``). A second signal ends the process at once. What was ignored when the
process began, as ``nohup`` does with SIGHUP and a shell with SIGINT in the background, stays ignored.
"""

import contextlib
import ctypes
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# One request may come twice: timeout(1) signals its child and then the group, schedulers signal all processes, and
# torchrun, which is one of them, passes it on.
_SAME_REQUEST = 0.3  # seconds
_SAME_REQUEST_TORCHRUN = 5.0


class Interrupted(Exception):  # noqa: N818
    """The run was stopped by a signal and its checkpoint is written."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


class Stopped(KeyboardInterrupt):
    """A signal came where nothing is left to do but to clean up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def status_of(stop: BaseException) -> int:
    """The exit status after ``Interrupted``, ``Stopped`` or KeyboardInterrupt, as a shell has it: 128 + the signal."""
    return 128 + int(getattr(stop, "number", signal.SIGINT))


def end_at_once(number: int) -> NoReturn:
    """From any thread; nothing is cleaned up. After SIGINT a shell goes on with its loop, unless that ended us."""
    if number == signal.SIGINT:
        ctypes.CDLL(None).signal(number, None)  # signal.signal is for the main thread
        os.kill(os.getpid(), number)
    os._exit(128 + number)  # also where the signal does nothing, as to the first process of a container


class _Signals:
    """Installs a handler for those of ``SIGNALS`` that are not ignored, while entered, in the main thread."""

    def __init__(self) -> None:
        self.number = 0  # of the first that came
        self._came = 0.0
        self._before: dict[int, object] = {}

    def _install(self) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._on_signal)
        return bool(self._before)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        raise NotImplementedError

    def _is_second(self) -> bool:
        """Of two requests; the first is noted."""
        now, same = time.monotonic(), _SAME_REQUEST
        if "TORCHELASTIC_RUN_ID" in os.environ:
            same = _SAME_REQUEST_TORCHRUN
        if not self._came:
            self._came = now
        return now - self._came > same


class Raising(_Signals):
    """While entered, the first signal raises ``Stopped``."""

    def __enter__(self) -> "Raising":
        self._install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_second():
            end_at_once(number)
        if not self.number:
            self.number = number
            raise Stopped(number)


class GracefulInterrupt(_Signals):
    """While entered, the first signal sets ``number`` and does nothing else.

    A thread waits for signals beside the main one, which hears of them only between two operations of torch: a second
    signal ends the process in the middle of one, too.
    """

    def __enter__(self) -> "GracefulInterrupt":
        self._process = os.getpid()
        if self._install():
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            self._restore()
            os.write(self._write, b"\0")
            self._thread.join()
            os.close(self._read)
            os.close(self._write)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:  # not a fork
            self.number = self.number or number

    def _watch(self) -> None:
        while True:
            for number in os.read(self._read, 64):
                if not number:
                    return
                if number in self._before:
                    self._note(number)

    def _note(self, number: int) -> None:
        is_first = not self._came
        if self._is_second():
            end_at_once(number)
        self.number = self.number or number
        if is_first and os.environ.get("RANK", "0") == "0":
            name = signal.Signals(number).name
            # Not print: the signal may have come in the middle of one.
            text = f"\n{name}: stopping after this iteration; the checkpoint follows. Another one ends it at once.\n"
            with contextlib.suppress(OSError):  # nobody listens
                os.write(2, text.encode())
