"""Names that somebody may have meant."""

import difflib
from collections.abc import Iterable

_MOST = 5


def near(got: str, known: Iterable[str], prefix: str = "") -> list[str]:
    """Of the ``known`` those like ``got``, whatever their case and whether they begin with ``prefix``: the most similar
    first, then those that contain it."""
    names: dict[str, list[str]] = {}
    for name in sorted(known):
        names.setdefault(name.removeprefix(prefix).lower(), []).append(name)
    wanted = got.removeprefix(prefix).lower()
    found = difflib.get_close_matches(wanted, names, n=_MOST) if wanted else []
    found += [name for name in names if wanted and wanted in name and name not in found]
    return [name for similar in found for name in names[similar]][:_MOST]


def or_near(got: str, known: Iterable[str], otherwise: str, prefix: str = "") -> str:
    """For an error message that says what is wanted: the names near ``got``, or ``otherwise`` if there are none."""
    found = near(got, known, prefix)
    return f"one such as {', '.join(found)}" if found else otherwise
