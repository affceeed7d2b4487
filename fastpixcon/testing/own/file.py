"""A user's own loss as ``FILE.py:FUNCTION`` names it."""

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

WANTED = "FILE.py:FUNCTION"


class FileError(ValueError):
    """What is wrong with the name, or with the file; a line."""


def split(text: str) -> tuple[Path, str]:
    """The file and the function's name.

    Raises:
        FileError: there is no such file, or the text is none of these.
    """
    name, _, function = text.rpartition(":")
    if not name or not function:
        raise FileError(f"{WANTED}: got {text!r}, want a file and the name of a function in it")
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise FileError(f"{path}: {'is no file' if path.suffix == '.py' else 'ends otherwise'}, want a file .py")
    return path, function


@contextlib.contextmanager
def loaded(text: str) -> Iterator[object]:
    """The function of a file, which is executed and a module of its name meanwhile.

    Raises:
        FileError: as ``split``; or executing the file raised; or it has no such name.
    """
    path, function = split(text)
    with _executed(path) as names:
        if function not in names:
            there = ", ".join(x for x, value in names.items() if callable(value) and not x.startswith("_"))
            raise FileError(f"{path}: has no {function!r}, want one of: {there}")
        yield names[function]


@contextlib.contextmanager
def _executed(path: Path) -> Iterator[dict[str, object]]:
    """The names of a file, which is a module of its name meanwhile and imports what lies beside it."""
    if path.stem in sys.modules:
        raise FileError(f"{path}: {path.stem} is a module that is imported already, want another name")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # a user's file may raise anything, which is its fault and no traceback of ours
            lines = [x.lineno for x in traceback.extract_tb(error.__traceback__) if x.filename == spec.origin]
            place = f"{path}:{lines[-1]}" if lines else str(path)  # of a SyntaxError the message has it
            raise FileError(f"{place}: {type(error).__name__}: {' '.join(str(error).split())}") from None
        yield vars(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
        del sys.modules[path.stem]
