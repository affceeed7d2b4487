"""Ctrl-C as a request: whoever loops asks ``requested`` and stops where it suits."""

import os
import signal
from types import FrameType, TracebackType


class Interrupted(Exception):  # noqa: N818
    """The run was stopped by Ctrl-C and its checkpoint is written."""


class GracefulInterrupt:
    """While entered, SIGINT sets ``requested`` and does nothing else, however often it comes."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "GracefulInterrupt":
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nStopping after this iteration; the checkpoint follows.\n")
        self.requested = True
