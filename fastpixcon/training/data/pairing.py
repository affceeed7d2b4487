"""Which picture has which label, in folders of users' own: by their names, or by lists.

A label lies in the folder of labels as its picture does in that of images, under the same name; suffixes are of any
case. Names may end differently, as in ``0001.png`` and ``0001_L.png``: how is found, where it is not said. Pictures and
labels may lie in one folder, where endings or suffixes tell them apart.
"""

import bisect
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastpixcon.training import TrainingError
from fastpixcon.training.data.names import JPEG, PICTURES, is_of_system, several
from fastpixcon.training.text import read_text, utf8_name

_LABEL = re.compile(r"[_.-]?(?:mask|label|annot|segmentation|seg|gt|labelIds|L)(?:s|ation)?$", re.IGNORECASE)
_HEADER = {"image", "images", "img", "picture", "file", "filename", "name"}  # how a list's first line may begin
_SAMPLED = 32  # labels by which endings are found


@dataclass
class Matched:
    """Pairs of a split, and what has no partner."""

    names: list[str] = field(default_factory=list)  # of the pairs, from their folder on
    images: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    without_label: list[str] = field(default_factory=list)  # images
    without_image: list[str] = field(default_factory=list)  # labels
    missing: list[str] = field(default_factory=list)  # what a list names and is not there, in words
    left: int = 0  # pictures of other endings than the one that was asked for
    endings: tuple[str, str] = ("", "")  # of images and labels

    def add(self, name: str, image: Path, label: Path) -> None:
        self.names.append(name)
        self.images.append(str(image))
        self.labels.append(str(label))


def pictures_below(folder: Path) -> list[str]:
    """Pictures in a folder and in those within, as paths from it, sorted."""
    found, seen = [], set()
    for where, folders, files in os.walk(folder, followlinks=True):
        there = os.path.realpath(where)
        if there in seen:  # links in a circle
            folders.clear()
            continue
        seen.add(there)
        folders[:] = [name for name in folders if not is_of_system(name)]
        at = os.path.relpath(where, folder)
        found += [
            os.path.normpath(os.path.join(at, file))
            for file in files
            if os.path.splitext(file)[1].lower() in PICTURES and not is_of_system(file)
        ]
    return sorted(found)


def match(images: Path, labels: Path, image_ending: str | None, label_ending: str | None) -> Matched:
    """The pairs of two folders, which may be one."""
    for folder, what in ((images, "pictures"), (labels, "labels")):
        if not os.path.isdir(folder):
            raise TrainingError(f"{folder}: no such folder, want {what} in it")
    files, others = pictures_below(images), pictures_below(labels)
    if _is_same(images, labels):
        files, others = _apart(images, files, label_ending)
    for folder, some, what in ((images, files, "pictures"), (labels, others, "labels")):
        if not some:
            raise TrainingError(f"{folder}: has no {what}, want some, as .jpg, .png or .tif")
    endings = _endings(_stems(files), _stems(others), image_ending, label_ending)
    pictures, left = _by_name(images, files, endings[0])
    maps, more = _by_name(labels, others, endings[1])
    found = Matched(left=len(left) + len(more), endings=endings)
    if image_ending is None:  # found, not asked for
        found.left -= len(left)
        found.without_label += [str(images / file) for file in left]
    if label_ending is None:
        found.left -= len(more)
        found.without_image += [str(labels / file) for file in more]
    for name, file in pictures.items():
        if name in maps:
            found.add(name, images / file, labels / maps[name])
        else:
            found.without_label.append(str(images / file))
    found.without_image += [str(labels / file) for name, file in maps.items() if name not in pictures]
    return found


def match_list(
    source: Path,
    root: Path,
    images: Path | None = None,
    labels: Path | None = None,
    image_ending: str | None = None,
    label_ending: str | None = None,
) -> Matched:
    """The pairs of a list: ``image label`` a line, as paths from ``root`` or from the list's folder on, or a name a
    line of what lies in ``images`` and ``labels``. Tabs, commas or spaces separate."""
    lines = [line.strip() for line in read_text(source, "a list of images and labels").splitlines()]
    rows = [(number, _fields(line)) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if rows and rows[0][1][0].lower() in _HEADER:
        rows = rows[1:]
    if not rows:
        raise TrainingError(f"{source}: empty, want a list of images and labels, one pair a line")
    columns = {len(fields) for _, fields in rows}
    wrong = next((number for number, fields in rows if len(fields) != len(rows[0][1]) or len(fields) > 2), None)
    if wrong is not None:
        raise TrainingError(
            f"{source}: line {wrong}: want 'image label', or a name, in every line, with a tab or comma between where "
            f"names have spaces; got {sorted(columns)} columns"
        )
    name, times = Counter(fields[0] for _, fields in rows).most_common(1)[0]
    if times > 1:
        raise TrainingError(f"{source}: got {name} {times} times, want each image once")
    if columns == {2}:
        pairs = [(f"{source}: line {number}", image, label) for number, (image, label) in rows]
        return pair_up(pairs, [root, source.parent])
    if images is None or labels is None:
        raise TrainingError(
            f"{source}: has one name a line, want 'image label' a line, or the folders images and labels of those names"
        )
    return _named(source, rows, match(images, labels, image_ending, label_ending), images, root)


def pair_up(pairs: Iterable[tuple[str, str, str]], folders: Sequence[Path]) -> Matched:
    """``(where, image, label)``, paths from one of ``folders`` on."""
    found = Matched()
    for where, image, label in pairs:
        picture, ids = _file(image, folders), _file(label, folders)
        if picture and ids:
            found.add(image, picture, ids)
        else:
            gone = [name for name, file in ((image, picture), (label, ids)) if file is None]
            found.missing.append(f"{where}: {' and '.join(gone)}: no such file")
    return found


def _file(name: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        for path in (folder / name, Path(os.fsdecode(os.fsencode(str(folder)) + b"/" + name.encode()))):
            if os.path.isfile(path):
                return path
    return None


def _fields(line: str) -> list[str]:
    separator = next((mark for mark in ("\t", ",", ";") if mark in line), None)
    return [part.strip().strip('"') for part in line.split(separator)]


def _named(source: Path, rows: list[tuple[int, list[str]]], there: Matched, images: Path, root: Path) -> Matched:
    """Of all pairs of two folders those that a list names."""
    at = {name: i for i, name in enumerate(there.names)}
    at |= {os.path.relpath(file, folder): i for i, file in enumerate(there.images) for folder in (images, root)}
    at |= {os.path.splitext(name)[0]: i for name, i in list(at.items()) if name not in there.names}
    found = Matched(endings=there.endings)
    for number, (name,) in rows:
        i = at.get(os.path.normpath(name))
        if i is None:
            alone = next(
                (p for p in there.without_label if os.path.splitext(os.path.relpath(p, images))[0] == name), None
            )
            why = f"{alone} has no label" if alone else f"no such image in {images}"
            found.missing.append(f"{source}: line {number}: {name}: {why}")
        else:
            found.add(there.names[i], Path(there.images[i]), Path(there.labels[i]))
    return found


def _is_same(a: Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _apart(folder: Path, files: list[str], label_ending: str | None) -> tuple[list[str], list[str]]:
    """Of the pictures of one folder the images and the labels."""

    def apart(is_label: Callable[[str], bool]) -> tuple[list[str], list[str]]:
        return [f for f in files if not is_label(f)], [f for f in files if is_label(f)]

    if label_ending:
        return apart(lambda file: os.path.splitext(file)[0].endswith(label_ending))
    ends = Counter(m[0] for file in files if (m := _LABEL.search(os.path.splitext(file)[0])) and m[0][0] in "_.-")
    if len(ends) == 1:
        (ending,) = ends
        return apart(lambda file: os.path.splitext(file)[0].endswith(ending))
    images, labels = apart(lambda file: os.path.splitext(file)[1].lower() not in JPEG)
    if images and labels:
        return images, labels
    raise TrainingError(
        f"{folder}: has pictures and no folder of labels; want labels that end alike, as NAME_mask.png beside NAME.png "
        "(label_ending), or .png beside .jpg"
    )


def _stem(file: str) -> str:
    """The path without its suffix, with accents as any system writes them."""
    return unicodedata.normalize("NFC", utf8_name(os.path.splitext(file)[0]))


def _stems(files: Iterable[str]) -> list[str]:
    return sorted(_stem(file) for file in files)


def _by_name(folder: Path, files: list[str], ending: str) -> tuple[dict[str, str], list[str]]:
    """Name without ending and suffix -> file; files of other endings."""
    found: dict[str, str] = {}
    left = []
    for file in files:
        stem = _stem(file)
        if not stem.endswith(ending):
            left.append(file)
            continue
        name = stem[: len(stem) - len(ending)]
        if name in found:
            raise several(folder, name, [found[name], file])
        found[name] = file
    return found, left


def _endings(images: list[str], labels: list[str], image: str | None, label: str | None) -> tuple[str, str]:
    """How names of images and labels end beyond what they share: as most pairs of a sample have it."""
    if image is not None and label is not None:
        return image, label
    there, maps = set(images), set(labels)

    def pairs(endings: tuple[str, str]) -> int:
        a, b = endings
        names = {stem[: len(stem) - len(a)] for stem in there if stem.endswith(a)}
        return len(names & {stem[: len(stem) - len(b)] for stem in maps if stem.endswith(b)})

    plain = (image or "", label or "")
    candidates = {plain: pairs(plain)}
    step = max(len(labels) // _SAMPLED, 1)
    for stem in labels[::step]:
        at = bisect.bisect_left(images, stem)
        shared = [_common(stem, other) for other in images[max(at - 1, 0) : at + 1]]
        prefix = max(shared, key=len)
        if not os.path.basename(prefix):
            continue
        other = images[max(at - 1, 0) + shared.index(prefix)]
        if prefix not in (stem, other):  # _sat and _seg share more than the name
            prefix = prefix[: len(prefix) - len(re.split(r"[_.-]", prefix)[-1])].rstrip("_.-") or prefix
        endings = (
            image if image is not None else other[len(prefix) :],
            label if label is not None else stem[len(prefix) :],
        )
        if endings not in candidates and not any(re.match(r"\d|[_.-]*\d+$", ending) for ending in endings):
            candidates[endings] = pairs(endings)
    best = max(candidates, key=lambda endings: (candidates[endings], -len(endings[0]) - len(endings[1])))
    return (
        best
        if candidates[best] > candidates[plain] and 2 * candidates[best] >= min(len(images), len(labels))
        else plain
    )


def _common(a: str, b: str) -> str:
    """How both begin."""
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def described(endings: Mapping[str, tuple[str, str]]) -> str:
    """Endings of all splits in words, "" where names are the same."""
    (a, b), *others = dict.fromkeys(endings.values())
    return "" if others or not (a or b) else f"NAME{a} and NAME{b}"
