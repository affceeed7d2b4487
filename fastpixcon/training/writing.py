"""Files that are written: whole or not at all, where the user said, over nothing that is somebody's.

``write`` is how every file is written. ``Outputs`` is asked by a verb before its work, of every file to come.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from fastpixcon.training import TrainingError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_TEMPORARY = ".fastpixcon-"  # how names of temporary files begin


def write(path: Path, content: Callable[[BinaryIO], object], replace: bool = True) -> None:
    """Call ``content`` on a temporary file beside ``path``, then put it in place; a crash leaves the old file.

    A link is followed and stays; the file that it leads to is replaced and keeps its permissions. (Of a file with
    several names, hard links, the others keep the old content.) Without ``replace`` a file that is there stays.

    Raises:
        TrainingError: ``path`` is no regular file, or can't be written, because the disk is full, it may not, or,
            without ``replace``, it is there; the old one is whole.
    """
    target, before = _target(path)
    try:
        temporary, descriptor = _create_beside(target)
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        with open(descriptor, "wb") as file:
            if before is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)  # of others, by root
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            content(file)
            file.flush()
            os.fsync(descriptor)
            _put(temporary, target, replace)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # on a full disk half a file is in everybody's way
        cause = _os_error(error) if isinstance(error, Exception) else None
        if cause is None:
            raise
        raise _unwritten(path, cause) from error
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def write_text(path: Path, text: str, replace: bool = True) -> None:
    """As ``write``, in UTF-8."""
    write(path, lambda file: file.write(text.encode()), replace)


class Outputs:
    """What a verb will write, checked before its work: ``claim`` each file, then ``write`` it.

    Args:
        option: what the user named them by, ``--out``.
        overwrite: may replace files that are there.
        inputs: files that are read, and folders whose files are; none of them is ever replaced.
    """

    def __init__(self, option: str, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
        self.option, self.overwrite = option, overwrite
        self._files: dict[tuple[int, int], Path] = {}  # by device and number
        self._folders: list[Path] = []
        for path in inputs:
            with contextlib.suppress(OSError):  # whoever reads it says so
                found = path.stat()
                if stat.S_ISDIR(found.st_mode):
                    self._folders.append(path.resolve())
                else:
                    self._files[found.st_dev, found.st_ino] = path
        self._claimed: dict[str, tuple[Path, str]] = {}

    def claim(self, path: Path, whose: str = "") -> Path:
        """``path``, if it can be written and is nobody else's; ``whose``: what it is made of, in words.

        Raises:
            TrainingError: it is another output, too, also but for upper and lower case; it is, or lies at, an input;
                it is there and may not be replaced; it is no regular file; its folder can't be made or written to.
        """
        target, found = _target(path, self.option)
        key = unicodedata.normalize("NFC", str(target)).casefold()  # some file systems take no case
        if key in self._claimed:
            other, others = self._claimed[key]
            of = f" of {others} and {whose}" if whose else ""
            names = str(path) if other == path else f"{other} and {path}"
            raise TrainingError(f"{self.option}: the outputs{of} would be one file, {names}; want different names")
        if found is not None:
            read = self._files.get((found.st_dev, found.st_ino))
            inside = next((folder for folder in self._folders if folder in target.parents), None)
            if read or inside:
                raise TrainingError(
                    f"{self.option}: {path} would replace the input {read or target}; want another name"
                )
            if not self.overwrite:
                raise TrainingError(f"{self.option}: {path} is there; want another name, or --overwrite to replace it")
        self._claimed[key] = path, whose
        return path

    def write(self, path: Path, content: Callable[[BinaryIO], object]) -> None:
        """A file that was claimed."""
        make_folder(path.parent, self.option)
        write(path, content, self.overwrite)


def make_folder(path: Path, option: str) -> None:
    """With its parents, unless it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{option}: got {path}, which can't be made: {error.strerror}") from None


def check_folder(path: Path, option: str) -> None:
    """Raise ``TrainingError`` unless files can be written in the folder ``path``, which may have to be made."""
    _check_folder(path, option, path)


def irregular(found: os.stat_result) -> str | None:
    """What it is, in words, if it is no file."""
    return None if stat.S_ISREG(found.st_mode) else _KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def _target(path: Path, option: str = "") -> tuple[Path, os.stat_result | None]:
    """The file that ``path`` leads to through links, and what it is if it is there."""
    start = f"{option}: " if option else ""
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        why = "links lead in a circle" if error.errno == errno.ELOOP else error.strerror
        raise TrainingError(f"{start}{path}: can't be written: {why}") from None
    target = Path(os.path.realpath(path))
    if found is None:
        if target.is_symlink():  # realpath gives up in a circle
            raise TrainingError(f"{start}{path}: can't be written: links lead in a circle")
        if path.is_symlink() and not target.parent.is_dir():
            raise TrainingError(f"{start}{path}: is a link to {target}, whose folder is not there")
        if option:
            _check_folder(target.parent, option, path)
        return target, None
    if kind := irregular(found):
        raise TrainingError(f"{start}{path}: is {kind}, want a file")
    if not target.exists() or not os.path.samestat(found, target.stat()):
        raise TrainingError(f"{start}{path}: is a file without a name, want one that can be replaced")
    if not os.access(target, os.W_OK):
        raise TrainingError(f"{start}{path}: can't be written: Permission denied")
    if option:
        _check_folder(target.parent, option, path)
    return target, found


def _check_folder(folder: Path, option: str, path: Path) -> None:
    while not folder.exists():
        if folder.is_symlink():
            raise TrainingError(f"{option}: got {path}, but {folder} is a link to nowhere")
        folder = folder.parent
    if not folder.is_dir():
        raise TrainingError(f"{option}: got {path}, but {folder} is none: Not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TrainingError(f"{option}: got {path}, but {folder} may not be written to: Permission denied")


def _create_beside(target: Path) -> tuple[Path, int]:
    """A new file, locked, with the permissions that new files have here, and its descriptor."""
    name = f"{_TEMPORARY}{zlib.crc32(os.fsencode(target.name)):08x}"  # one as long as its own might be too long
    for number in itertools.count():
        temporary = target.with_name(f"{name}-{number}")
        _remove_left_over(temporary)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            return temporary, descriptor
    raise AssertionError


def _remove_left_over(temporary: Path) -> None:
    """Of a process that was killed: nobody holds its lock."""
    with contextlib.suppress(OSError):
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
        finally:
            os.close(descriptor)


def _put(temporary: Path, target: Path, replace: bool) -> None:
    if replace:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)  # which never replaces
    except OSError as error:
        if isinstance(error, FileExistsError) or target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        temporary.replace(target)  # a file system without links
        return
    temporary.unlink()


def _os_error(error: BaseException | None) -> OSError | None:
    """The system's error: torch.save raises one of its own while it handles that."""
    while error is not None and not (isinstance(error, OSError) and error.errno):
        error = error.__context__
    return error


def _unwritten(path: Path, error: OSError) -> TrainingError:
    return TrainingError(f"{path}: can't be written: {error.strerror}; what was there before is whole")
