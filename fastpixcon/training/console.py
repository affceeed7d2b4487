"""What a person sees: on a terminal what moves, in a log a line every so often."""

import os
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_EVERY = 30.0  # seconds, where nothing moves
FIRST_LINE = 5.0  # of a training: it goes, and this fast
_LOG_WIDTH = 200  # columns of tables in a log, where nobody says COLUMNS


def make_console(quiet: bool = False) -> Console:
    """Of standard output: what is no terminal gets no control characters, FORCE_COLOR or not, and wide tables."""
    if sys.stdout.isatty():
        return Console(quiet=quiet)
    width = None if os.environ.get("COLUMNS", "").isdecimal() else _LOG_WIDTH
    return Console(quiet=quiet, force_terminal=False, width=width)


def is_live(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def say(console: Console, text: str) -> None:
    """A line as it is: names of files may have brackets."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class Ticks:
    """Counts towards ``total``, while entered: a bar on a terminal, else a line every ``LINE_EVERY`` seconds."""

    def __init__(self, console: Console, what: str, total: int, unit: str = "images") -> None:
        self.console, self.what, self.total, self.unit = console, what, total, unit
        self.done, self.started = 0, time.monotonic()
        self.last = self.started
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),  # names of files may have brackets
            BarColumn(),
            console=console,
            transient=True,
            disable=not is_live(console),
        )
        self.task = self.bar.add_task(what, total=total)

    def __enter__(self) -> "Ticks":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def count(self, more: int = 1) -> None:
        self.done += more
        now = time.monotonic()
        text = f"{self.what}: {progress(self.done, self.total, self.unit, now - self.started)}"
        if not self.bar.disable:
            self.bar.update(self.task, completed=self.done, description=text)
        elif now - self.last >= LINE_EVERY:
            self.last = now
            say(self.console, text)


def progress(done: int, total: int, unit: str, seconds: float, before: int = 0) -> str:
    """``120 of 500 images (24 %), 3 min left``; ``before``: what was done when the ``seconds`` began."""
    left = seconds / (done - before) * (total - done) if done > before else None
    end = "" if left is None else f", {duration(left)} left"
    return f"{done} of {total} {unit} ({100 * done // max(total, 1)} %){end}"


def duration(seconds: float) -> str:
    """In two units at most: ``50 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
