"""Which files of a folder belong to a data set, by their names.

Suffixes count in any case, and where a layout names ``.jpg``, ``.jpeg`` does as well. A file that looks like a picture
and is not taken is an error, unless the layout says what else may lie there: else a data set would be smaller than its
owner believes.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastpixcon.training import TrainingError
from fastpixcon.training.text import read_text, utf8_name

JPEG = (".jpg", ".jpeg")
PNG = (".png",)
PICTURES = frozenset(
    f".{suffix}"
    for suffix in (
        "apng", "avif", "bmp", "dib", "gif", "heic", "heif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "jpx",
        "pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp",
    )
)  # fmt: skip
_OF_SYSTEMS = (".", "@eaDir", "__MACOSX")  # how names begin that operating systems and editors leave behind


def names(folder: Path, endings: Sequence[str], left_alone: Sequence[str] = ()) -> dict[str, Path]:
    """Name without its ending -> file, sorted.

    Args:
        endings: how names of files end, in lower case from the last dot on: ``("_gtFine_labelIds.png",)``.
        left_alone: endings of pictures that may lie there and are not read.

    Raises:
        TrainingError: no such folder or file; several files of a name; pictures that are not taken.
    """
    wanted = _in_words(endings)
    if not os.path.isdir(folder):
        raise TrainingError(f"{folder}: no such folder, want files {wanted} in it")
    found: dict[str, Path] = {}
    strange: list[str] = []
    for file in sorted(_files(folder)):
        ending = None if _ending(file, left_alone) else _ending(file, endings)
        if ending is None:
            if _looks_like_picture(file) and not _ending(file, left_alone):
                strange.append(file)
            continue
        name = file[: -len(ending)]
        if name in found:
            raise several(folder, name, [found[name].name, file])
        found[name] = folder / file
    if not found:
        raise TrainingError(f"{folder}: has no files {wanted}")
    refuse_strangers(folder, strange, wanted, left_alone)
    return found


def refuse_strangers(
    folder: Path, strange: Sequence[str], wanted: str, left_alone: Sequence[str] = (), within: bool = True
) -> None:
    """Raise if a folder has pictures that are not taken: ``strange``, and those in folders within it."""
    strange = [*strange, *(_pictures_within(folder) if within else ())]
    if strange:
        others = f" (and {_in_words(left_alone)}, which is not read)" if left_alone else ""
        raise TrainingError(
            f"{folder}: has {len(strange)} pictures that are not read, the first is {strange[0]}; want only {wanted}"
            f"{others} in it"
        )


def folders_in(folder: Path) -> list[Path]:
    """Folders in one, sorted."""
    return sorted(folder / name for name in _files(folder) if os.path.isdir(folder / name))


def pictures_in(folder: Path) -> list[str]:
    """Names of files in a folder that look like pictures, sorted."""
    return sorted(file for file in _files(folder) if _looks_like_picture(file))


class Finder:
    """The files of one folder by names that a list has."""

    def __init__(self, folder: Path, endings: Sequence[str]) -> None:
        self.folder, self.endings = folder, endings
        self._files: dict[Path, dict[str, list[str]]] = {}  # folder -> name without suffix -> files

    def file(self, name: str, source: Path) -> Path:
        """The file of ``name``; ``source`` is the list that has it."""
        path = self.folder / name
        files = self._there(path.parent).get(path.name, [])
        if len(files) > 1:
            raise several(path.parent, path.name, files)
        if not files or _ending(files[0], self.endings) is None:
            instead = f" (there is {files[0]})" if files else ""
            raise TrainingError(f"{path}{self.endings[0]}: no such file{instead}, but {source} names {name}")
        return path.parent / files[0]

    def _there(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._files:
            there: dict[str, list[str]] = {}
            self._files[folder] = there
            for file in sorted(_files(folder)) if os.path.isdir(folder) else []:
                if _ending(file, self.endings) or _looks_like_picture(file):
                    there.setdefault(utf8_name(os.path.splitext(file)[0]), []).append(file)
        return self._files[folder]


def listed(path: Path) -> list[str]:
    """The names in a list, one a line."""
    lines = [line.strip() for line in read_text(path, "a list of names, one a line").splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise TrainingError(f"{path}: empty, want a list of names, one a line")
    name, times = Counter(found).most_common(1)[0]
    if times > 1:
        raise TrainingError(f"{path}: got {name} {times} times, want each name once")
    return found


def _files(folder: Path) -> list[str]:
    try:
        return [file for file in os.listdir(folder) if not file.startswith(_OF_SYSTEMS)]
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be read: {error.strerror}") from None


def is_of_system(name: str) -> bool:
    """Whether an operating system or an editor has left it behind."""
    return name.startswith(_OF_SYSTEMS)


def _ending(file: str, endings: Sequence[str]) -> str | None:
    """How ``file`` ends, if that is one of ``endings``, whose suffixes count in any case."""
    for ending in endings:
        marker, suffix = os.path.splitext(f"x{ending}")
        name, own = os.path.splitext(file)
        if own.lower() == suffix and name.endswith(marker[1:]):
            return file[-len(ending) :]
    return None


def _looks_like_picture(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in PICTURES


def _pictures_within(folder: Path) -> Iterator[str]:
    """Pictures in the folders within one, as paths from it."""
    # Most names have a suffix that no folder has, and to ask of each is slow.
    for path in (folder / name for name in sorted(_files(folder)) if not _looks_like_picture(name)):
        for where, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith(_OF_SYSTEMS))
            for file in sorted(files):
                if _looks_like_picture(file) and not file.startswith(_OF_SYSTEMS):
                    yield os.path.relpath(os.path.join(where, file), folder)


def several(folder: Path, name: str, files: Sequence[str]) -> TrainingError:
    return TrainingError(f"{folder}: got {' and '.join(files)}, want one file of the name {name}")


def _in_words(endings: Sequence[str]) -> str:
    return " or ".join(f"NAME{ending}" for ending in endings)
