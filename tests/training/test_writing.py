"""Files that are written: through links, over nothing that is somebody's, and never half."""

import ast
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from fastpixcon.training import TrainingError, writing
from fastpixcon.training.writing import Outputs

Make = Callable[[Path], object]


ROOT = Path(__file__).resolve().parents[2]


def put(path: Path, text: str = "new", replace: bool = True) -> None:
    writing.write_text(path, text, replace)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    """Relative, absolute, over several, through a folder, to a file that is not there yet."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").write_text("old")
    links = {
        "relative": "store/a",
        "absolute": str(tmp_path / "store" / "a"),
        "chain": "relative",
        "folder": "store",
        "dangling": "store/b",
        "chain to nothing": "dangling",
    }
    for name, to in links.items():
        (tmp_path / name).symlink_to(to)
    for name in ("relative", "absolute", "chain", "folder/a"):
        put(tmp_path / name, name)
        assert (tmp_path / "store" / "a").read_text() == name
    for name in ("dangling", "chain to nothing"):
        put(tmp_path / name, name)
        assert (tmp_path / "store" / "b").read_text() == name
    assert all(os.readlink(tmp_path / name) == to for name, to in links.items())
    assert names(tmp_path / "store") == ["a", "b"]


def circle(path: Path) -> None:
    path.symlink_to("other")
    path.with_name("other").symlink_to(path.name)


def to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere/file")


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)
    os.chdir(here)


NO_FILES = [
    (circle, "links lead in a circle"),
    (to_nowhere, "is a link to .*nowhere/file, whose folder is not there"),
    (os.mkfifo, "is a pipe, want a file"),
    (a_socket, "is a socket, want a file"),
    (Path.mkdir, "is a folder, want a file"),
    (lambda path: path.symlink_to("/dev/null"), "is a device, want a file"),
    (lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")), "is a pipe, want a file"),
]


@pytest.mark.parametrize(("make", "message"), NO_FILES)
def test_what_is_no_file_is_refused_and_stays(make: Make, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    make(path)
    before = path.lstat()
    for overwrite in (False, True):
        with pytest.raises(TrainingError, match=f"--out: .*{message}"):
            Outputs("--out", overwrite).claim(path)
        with pytest.raises(TrainingError, match=message):
            put(path, replace=overwrite)
    assert os.path.samestat(path.lstat(), before)


def test_the_null_device_is_refused() -> None:
    with pytest.raises(TrainingError, match="/dev/null: is a device, want a file"):
        put(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_permissions_stay(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    path.chmod(mode)
    put(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        put(tmp_path / "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_another_name_of_the_file_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    os.link(tmp_path / "x", tmp_path / "backup")
    put(tmp_path / "x")
    assert (tmp_path / "backup").read_text() == "old"


def test_temporary_files_are_nobody_elses(tmp_path: Path) -> None:
    """Whatever lies there stays; one of a process that was killed goes, one that is being written does not."""
    for name in ("x.tmp", "x.part", ".x.tmp"):
        (tmp_path / name).write_text("mine")
    held = []

    def slowly(file: BinaryIO) -> None:
        put(tmp_path / "x", "other")  # by somebody else, meanwhile
        held.append(file.name)
        file.write(b"new")

    writing.write(tmp_path / "x", slowly)
    assert (tmp_path / "x").read_text() == "new"
    assert all((tmp_path / name).read_text() == "mine" for name in ("x.tmp", "x.part", ".x.tmp"))
    assert names(tmp_path) == sorted([".x.tmp", "x", "x.part", "x.tmp"])


@pytest.mark.parametrize("name", ["x" * 255, "a b[red]é", "\udcff.json"])
def test_any_name_of_a_file_will_do(name: str, tmp_path: Path) -> None:
    put(tmp_path / name)
    put(tmp_path / name)
    assert names(tmp_path) == [name]


def test_a_file_that_is_there_stays_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("mine")
    with pytest.raises(TrainingError, match=r"--json: .*x is there; want another name, or --overwrite"):
        Outputs("--json", overwrite=False).claim(path)
    with pytest.raises(TrainingError, match=r"can't be written: File exists"):  # it came after it was claimed
        put(path, replace=False)
    assert path.read_text() == "mine"
    files = Outputs("--json", overwrite=True)
    files.write(files.claim(path), lambda file: file.write(b"new"))
    assert path.read_text() == "new"
    assert names(tmp_path) == ["x"]


def test_outputs_are_distinct(tmp_path: Path) -> None:
    """As names, through links, but for upper and lower case and for how letters are composed."""
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "folder").symlink_to(".")
    for other in ("a", "link", "A", "folder/a", "../" + tmp_path.name + "/a"):
        files = Outputs("--out", overwrite=True)
        files.claim(tmp_path / "a", "one.png")
        with pytest.raises(TrainingError, match=r"--out: the outputs of one.png and two.png would be one file"):
            files.claim(tmp_path / other, "two.png")
    files.claim(tmp_path / "\u00e9", "one.png")
    with pytest.raises(TrainingError, match="would be one file"):
        files.claim(tmp_path / "e\u0301", "two.png")


def test_an_output_is_never_an_input(tmp_path: Path) -> None:
    """Not by another name, through a link, as a hard link, or in a folder that is read; even where it may replace."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in ("a", "data/b", "data/deep/c"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "there").symlink_to("data")
    os.link(tmp_path / "a", tmp_path / "hard")
    files = Outputs("--out", True, [tmp_path / "link", tmp_path / "there", tmp_path / "nothing"])
    for name in ("a", "link", "hard", "data/b", "there/b", "data/deep/c"):
        with pytest.raises(TrainingError, match="would replace the input"):
            files.claim(tmp_path / name)
    files.claim(tmp_path / "data" / "new")


@pytest.mark.parametrize("name", ["file", "file/x", "file/deep/x"])
def test_at_or_below_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"--json: .*(is there|Not a directory)"):
        Outputs("--json", False).claim(tmp_path / name)


def test_folders_are_made_when_the_file_is_written(tmp_path: Path) -> None:
    files = Outputs("--out", False)
    path = files.claim(tmp_path / "a" / "b" / "x")
    assert not (tmp_path / "a").exists()
    files.write(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_what_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "x").touch(mode=0o444)
    with pytest.raises(TrainingError, match="Permission denied"):
        put(tmp_path / "x")
    tmp_path.chmod(0o555)
    with pytest.raises(TrainingError, match="may not be written to"):
        Outputs("--out", True).claim(tmp_path / "y")


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def fails(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing.write(tmp_path / "x", fails)
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_every_file_is_written_by_one_function() -> None:
    """What goes to a path of its own is neither atomic nor asks what is there."""
    sources = [*(ROOT / "fastpixcon").rglob("*.py"), ROOT / "bench" / "on_gpu" / "gpu_steps.py"]
    found = []
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and writes(node):
                found.append(f"{source.relative_to(ROOT)}: {ast.unparse(node)}")
    assert {call for call in found if not call.startswith("fastpixcon/training/writing.py: ")} == {
        "fastpixcon/training/metering.py: _CLEAR_REFS.write_text('5', encoding='utf-8')",  # of the kernel
        "fastpixcon/training/rundir.py: (folder / '.lock').open('a', encoding='utf-8')",  # stays empty
        "fastpixcon/training/study_queue.py: log.open('ab')",  # what its process says, line by line
        "fastpixcon/bench/workers.py: open(os.devnull, 'w', encoding='utf-8')",
        "fastpixcon/bench/workers.py: torch.save(truth.of_rows(workloads.rows(cell))._asdict(), path)",  # of our own
        "fastpixcon/bench/measure.py: Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')",  # of the kernel
    }


MODES = {repr(mode + more) for mode in "wax" for more in ("", "b", "+", "b+")}


def writes(call: ast.Call) -> bool:
    """To a path, by itself: what is given an open file or ``writing.write`` is fine."""
    name = ast.unparse(call.func)
    method = name.rpartition(".")[2]
    values = [ast.unparse(value) for value in (*call.args, *(keyword.value for keyword in call.keywords))]
    if method in ("write_text", "write_bytes", "tofile", "to_csv"):
        return not name.startswith("writing.")
    if method in ("savefig", "save", "dump"):
        return "." in name and "file" not in values and name not in ("self.save", "checkpoint.save", "autograd.save")
    return method == "open" and any(value in MODES for value in values)
