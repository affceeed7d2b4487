"""What labels of a folder of a user's own mean: names and colours of its classes, and what they are in the labels.

Classes come from the description, or from a table beside the pictures: ``class_dict.csv`` (name, r, g, b, id; the last
where labels are ids in another order), ``classes.json`` (a list of names, or id -> name), ``classes.txt`` (a name a
line).
"""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastpixcon.training import TrainingError
from fastpixcon.training.data.base import IGNORE, Colour, distinct_colours
from fastpixcon.training.description import Class, Classes, Folder
from fastpixcon.training.text import as_path, read_json, read_text

TABLES = ("class_dict.csv", "classes.csv", "classes.json", "classes.txt")  # that are looked for
MOST_CLASSES = 254  # train ids are of 8 bits, 255 does not count, and 254 is what an id leads to that is none
_VOID = {"void", "unlabeled", "unlabelled", "ignore", "ignored"}  # classes that do not count, by their names
_BACKGROUND, _GROUND = {"background", "null", "none"}, (40, 40, 40)  # which is no distinct colour
VOID_IDS = (IGNORE, 65535)
_COLUMNS = {
    "r": "r",
    "red": "r",
    "g": "g",
    "green": "g",
    "b": "b",
    "blue": "b",
    "id": "id",
    "name": "name",
    "class": "name",
}


@dataclass(frozen=True)
class Entry:
    """A class, as it is described."""

    name: str
    ids: tuple[int, ...] = ()  # (): by its place
    colours: tuple[Colour, ...] = ()


@dataclass(frozen=True)
class Meaning:
    """Of the values in labels, which are ids, or colours packed as ``packed``."""

    names: list[str]  # [K]
    colours: list[Colour]  # [K], to be shown
    values: list[tuple[int, ...]]  # [K]
    void: list[int]  # values that do not count
    by_colour: bool
    told: tuple[str, ...] = ()  # what was decided, a line each

    @property
    def train_ids(self) -> dict[int, int]:
        table = dict.fromkeys(self.void, IGNORE)
        return table | {value: k for k, values in enumerate(self.values) for value in values}

    def described(self) -> Folder:
        """What a description has to say for the same."""
        rows = zip(self.names, self.values, self.colours, strict=True)
        kind: Literal["ids", "colours"] = "colours" if self.by_colour else "ids"
        if self.by_colour:
            entries = [Class(name, colours=tuple(unpacked(value) for value in values)) for name, values, _ in rows]
        else:
            entries = [Class(name, ids=values, colour=colour) for name, values, colour in rows]
        void = tuple(unpacked(value) if self.by_colour else value for value in self.void)
        return Folder(label_kind=kind, classes=Classes(entries=tuple(entries)), ignore=void, reduce_zero_label=False)


def packed(colour: Sequence[int]) -> int:
    """As ``decoding.read_colours`` has it."""
    return colour[0] + 256 * colour[1] + 65536 * colour[2]


def unpacked(value: int) -> Colour:
    return value % 256, value // 256 % 256, value // 65536


def find_entries(root: Path, described: Folder) -> tuple[list[Entry], str]:
    """Classes, [] where nothing names any, and where they are from, in words."""
    classes = described.classes
    if classes and classes.table and classes.entries:
        raise TrainingError("classes: got table and entries, want one of them")
    if classes and classes.entries is not None:
        return _checked([_entry(one) for one in classes.entries], "classes"), "as described"
    if classes and classes.table:
        file = root / as_path(classes.table)
        if not os.path.isfile(file):
            raise TrainingError(f"{file}: no such file, but classes names it")
        return _checked(_read(file), str(file)), f"of {classes.table}"
    there = {name.lower(): name for name in sorted(os.listdir(root), reverse=True)}
    found = [there[name] for name in TABLES if name in there]
    if len(found) > 1:
        raise TrainingError(f"{root}: got {' and '.join(found)}, want one of them; dataset.toml can say which: classes")
    return (_checked(_read(root / found[0]), str(root / found[0])), f"of {found[0]}") if found else ([], "")


def _entry(one: Class) -> Entry:
    for short, several in (("id", "ids"), ("colour", "colours")):
        if getattr(one, short) is not None and getattr(one, several) is not None:
            raise TrainingError(f"classes: {one.name}: got {short} and {several}, want one of them")
    ids = one.ids if one.ids is not None else () if one.id is None else (one.id,)
    colours = one.colours if one.colours is not None else () if one.colour is None else (one.colour,)
    return Entry(one.name, tuple(ids), tuple(colours))


def _checked(entries: list[Entry], where: str) -> list[Entry]:
    if not entries:
        raise TrainingError(f"{where}: has no classes, want some")
    name, times = Counter(entry.name for entry in entries).most_common(1)[0]
    if times > 1:
        raise TrainingError(f"{where}: got the class {name} {times} times, want each once")
    bare = [entry.name for entry in entries if not entry.ids]
    if bare and len(bare) < len(entries):
        raise TrainingError(
            f"{where}: got ids of some classes, none of {', '.join(bare[:5])}; want them of all or of none"
        )
    return entries


def _read(path: Path) -> list[Entry]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _of_json(path, read_json(path, "names of classes"))
    text = read_text(path, "names of classes")
    if suffix == ".csv":
        return _of_csv(path, text)
    return [Entry(line.strip()) for line in text.splitlines() if line.strip()]


def _of_json(path: Path, tree: Any) -> list[Entry]:
    wanted = "want a list of names, or names by id"
    if isinstance(tree, list) and all(isinstance(name, str) and name for name in tree):
        return [Entry(name) for name in tree]
    if isinstance(tree, dict):
        pairs = list(tree.items())
        if all(isinstance(value, str) for value in tree.values()):  # id -> name
            pairs = [(value, key) for key, value in pairs]
        try:
            return [Entry(str(name), (_number(key, 65535),)) for name, key in pairs]
        except ValueError as error:
            raise TrainingError(f"{path}: {error}; {wanted}") from None
    raise TrainingError(f"{path}: got {type(tree).__name__}, {wanted}")


def _of_csv(path: Path, text: str) -> list[Entry]:
    wanted = "want a table of classes: name,r,g,b, and id where labels are ids in another order"
    first = text.lstrip().partition("\n")[0]
    mark = next((mark for mark in (",", ";", "\t") if mark in first), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=mark)]
    numbered = [(number, row) for number, row in enumerate(rows, 1) if any(row)]
    if not numbered:
        raise TrainingError(f"{path}: empty, {wanted}")
    columns = ["name", "r", "g", "b"]
    head = [cell.lower() for cell in numbered[0][1]]
    if any(cell in _COLUMNS for cell in head[1:]) or head == ["name"]:
        columns = [_COLUMNS.get(cell, cell) for cell in head]
        numbered = numbered[1:]
    twice = [name for name, times in Counter(columns).items() if times > 1]
    if "name" not in columns or twice or 0 < len({"r", "g", "b"} & set(columns)) < 3:
        raise TrainingError(f"{path}: got the columns {', '.join(columns)}, {wanted}")
    entries = []
    for number, row in numbered:
        cells = dict(zip(columns, row, strict=False))
        try:
            if len(row) < len(columns) or not cells["name"]:
                raise ValueError(f"got {len(row)} columns of {len(columns)}, or no name")
            r, g, b = (_number(cells[c], 255) if c in columns else 0 for c in "rgb")
            ids = (_number(cells["id"], 65535),) if "id" in columns else ()
        except ValueError as error:
            raise TrainingError(f"{path}: line {number}: {error}; {wanted}") from None
        entries.append(Entry(cells["name"], ids, ((r, g, b),) if "r" in columns else ()))
    return entries


def _number(text: Any, most: int) -> int:
    value = int(text) if isinstance(text, str) and text.strip().isdecimal() else text
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"got {text!r}, want a whole number from 0 to {most}")
    return value


def meaning_of(entries: Sequence[Entry], described: Folder, by_colour: bool, palette: Mapping[int, Colour]) -> Meaning:
    """What values of labels are which class; ``palette``: of labels that have one, by value."""
    reduce = bool(described.reduce_zero_label)
    if reduce and by_colour:
        raise TrainingError("reduce_zero_label: got true, but the labels are colours, want ids")
    if reduce and any(entry.ids for entry in entries):
        raise TrainingError("reduce_zero_label: got true and ids of classes, want one of them")
    values: list[tuple[int, ...]] = []
    for place, entry in enumerate(entries):
        if by_colour:
            if not entry.colours:
                raise TrainingError(
                    f"classes: {entry.name} has no colour, but the labels are colours; want one of each"
                )
            values.append(tuple(packed(colour) for colour in entry.colours))
        else:
            values.append(entry.ids or (place + reduce,))
    void, named = _void(entries, described, by_colour, reduce)
    rows = list(zip(entries, values, strict=True))
    void |= {value for entry, own in rows if entry.name in named for value in own}
    if described.ignore is None:  # 255 may be a class
        void -= {value for entry, own in rows if entry.name not in named for value in own}
    left = [(entry, tuple(value for value in own if value not in void)) for entry, own in rows]
    kept = [(entry, own) for entry, own in left if own]
    _check_once(kept, by_colour)
    by_name = [entry.name for entry, own in left if not own]
    told = [f"{', '.join(by_name)} {'do' if len(by_name) > 1 else 'does'} not count"] if by_name else []
    told += ["id 0 does not count, id k is class k - 1"] if reduce else []
    names, own = [entry.name for entry, _ in kept], [own for _, own in kept]
    return Meaning(names, _colours(kept, palette), own, sorted(void), by_colour, tuple(told))


def _void(entries: Sequence[Entry], described: Folder, by_colour: bool, reduce: bool) -> tuple[set[int], set[str]]:
    """Values and names of classes that do not count."""
    if described.ignore is None:
        void = set() if by_colour else {*VOID_IDS, *([0] if reduce else [])}
        return void, {entry.name for entry in entries if entry.name.lower() in _VOID}
    void, names = {0, IGNORE} if reduce else set(), set()
    known = [entry.name for entry in entries]
    for what in described.ignore:
        if isinstance(what, str):
            if what not in known:
                raise TrainingError(
                    f"ignore: got {what!r}, want an id, a colour or one of the classes {', '.join(known)}"
                )
            names.add(what)
        elif isinstance(what, int) == by_colour:
            raise TrainingError(
                f"ignore: got {what}, want {'colours [r, g, b]' if by_colour else 'ids'}, as the labels have"
            )
        else:
            void.add(what if isinstance(what, int) else packed(what))
    return void, names


def _check_once(kept: Sequence[tuple[Entry, tuple[int, ...]]], by_colour: bool) -> None:
    if not 2 <= len(kept) <= MOST_CLASSES:
        raise TrainingError(f"classes: got {len(kept)} that count, want 2 to {MOST_CLASSES}")
    owner: dict[int, str] = {}
    for entry, own in kept:
        for value in own:
            if value in owner:
                what = _shown([value], by_colour)
                raise TrainingError(f"classes: {owner[value]} and {entry.name} both have {what}, want another of each")
            owner[value] = entry.name


def _shown(values: Sequence[int], by_colour: bool) -> str:
    return ", ".join(str(list(unpacked(value))) if by_colour else str(value) for value in values)


def _colours(kept: Sequence[tuple[Entry, tuple[int, ...]]], palette: Mapping[int, Colour]) -> list[Colour]:
    """As described, else as labels show them, else distinct ones."""
    shown = [palette.get(own[0]) for _, own in kept]
    known = [colour for colour in shown if colour]
    taken = {entry.colours[0] for entry, _ in kept if entry.colours}
    if not taken and len(set(known)) == len(kept) and not _is_grey(known):
        return known
    free = (colour for colour in distinct_colours(1, 255) if colour not in taken)
    ground = next((entry.name for entry, _ in kept if entry.name.lower() in _BACKGROUND), None)
    return [entry.colours[0] if entry.colours else _GROUND if entry.name == ground else next(free) for entry, _ in kept]


def _is_grey(colours: Sequence[Colour]) -> bool:
    return all(len(set(colour)) == 1 for colour in colours)
