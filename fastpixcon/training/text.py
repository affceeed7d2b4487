"""Text files of users, in UTF-8 whatever the locale, and names in them."""

import codecs
import json
import os
from pathlib import Path
from typing import Any

from fastpixcon.training import TrainingError

_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: Path, what: str) -> str:
    """A file's text, UTF-8 with or without a byte order mark; ``what`` is wanted there, in words.

    Raises:
        TrainingError: it can't be read or is in another encoding, which is named where it can be told.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}; want {what}") from None
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            raise TrainingError(f"{path}: got text in {encoding}, want {what} in UTF-8")
    if b"\0" in content:
        raise TrainingError(f"{path}: has zero bytes in it, as UTF-16 does, want {what} in UTF-8")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TrainingError(
            f"{path}: not UTF-8: byte 0x{content[error.start]:02x} in line {line}, want {what} in UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, what: str) -> Any:
    """As ``read_text``, parsed."""
    text = read_text(path, what)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: no JSON, want {what}: {error}") from None


def as_unicode(name: str, argument: str) -> str:
    """A name from the command line as text that a config can hold; ``argument`` is where it was given.

    Raises:
        TrainingError: it is not UTF-8, which no config can name.
    """
    try:
        name.encode("utf-8")
        return name
    except UnicodeEncodeError:  # bytes that the locale does not know
        known = utf8_name(name)
    if known == name:
        raise TrainingError(f"{argument}: got {name!r}, which is not UTF-8; want a name that is")
    return known


def utf8_name(name: str) -> str:
    """A name as the system gives it, read as UTF-8 instead of the locale's encoding, where it is UTF-8."""
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return name


def as_path(name: str) -> Path:
    """The path of a name that was read from text: in UTF-8 if there is one, else in the locale's encoding."""
    path = Path(os.fsdecode(name.encode("utf-8", "surrogateescape")))
    return path if os.path.exists(path) else Path(name)
