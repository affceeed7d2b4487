"""What a command owes to whoever started it: an exit status, a line instead of a traceback, output that arrived.

| status | |
|---|---|
| 0 | done |
| 1 | done, but not a picture; ``inspect`` or ``check`` found faults; part of ``bench`` or ``study`` failed |
| 2 | a mistake of the user's, or of a file's or the machine's; standard output that can't be written |
| 3 | the loss of an arm of ``train`` was not finite |
| 128 + n | ended by signal n: 129 SIGHUP, 130 SIGINT, 143 SIGTERM |
| 141 | whoever read standard output has left |
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from fastpixcon.training import OutputLostError, TrainingError
from fastpixcon.training.interrupt import SIGNALS, Raising, Stopped, status_of

_MISTAKE = 2


def run(work: Callable[[], int], kept: str = "every file that was written is whole") -> int:
    """The exit status of ``work``. In the main thread, signals raise ``Stopped`` in it; ``kept``: what is said then."""
    if sys.stdout is None:
        complain("standard output is closed, want it open; > /dev/null if nobody wants it")
        return _MISTAKE
    with _standard_output() as output, Raising():
        try:
            try:
                status = work()
            except SystemExit:  # --help, wrong arguments
                output.flush()
                raise
            output.flush()
            return status
        except TrainingError as error:
            complain(str(error))
            return _MISTAKE
        except OutputLostError as error:
            output.silence()
            if error.number == errno.EPIPE:
                return 128 + signal.SIGPIPE
            complain(str(error))
            return _MISTAKE
        except KeyboardInterrupt as stop:
            name = signal.Signals(stop.number if isinstance(stop, Stopped) else signal.SIGINT).name
            complain(f"{name}: stopped; {kept}")
            return status_of(stop)
        finally:
            with contextlib.suppress(OutputLostError):
                output.flush()


def end(status: int) -> NoReturn:
    """End the process. Of SIGINT it dies: a shell that has seen it, too, ends its loop then and only then."""
    with contextlib.suppress(ValueError):  # not in the main thread
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)  # no traceback while Python ends
    if status == status_of(KeyboardInterrupt()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):
                stream.flush()
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(status)


def complain(text: str) -> None:
    """A line on standard error, if anybody listens; of several processes by the first."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None and os.environ.get("RANK", "0") == "0":
            print(f"fastpixcon: {text}", file=sys.stderr, flush=True)


class _Output:
    """Standard output, line by line even in a file; what it can't take raises ``OutputLostError``."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        if stream is not None and stream is sys.__stdout__:
            sys.__stdout__.reconfigure(errors="backslashreplace")  # names of files are not always text

    def write(self, text: str) -> int:
        try:
            count: int = self.stream.write(text)
            if "\n" in text:
                self.stream.flush()
        except OSError as error:
            raise OutputLostError(error) from None
        return count

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            raise OutputLostError(error) from None

    def silence(self) -> None:
        """What is still held back goes nowhere, or Python would complain as it ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _standard_output() -> Iterator[_Output]:
    output = _Output(sys.stdout)
    with contextlib.redirect_stdout(output):
        yield output
