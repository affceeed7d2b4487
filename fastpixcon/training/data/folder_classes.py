"""What labels of a user's own folder mean: by its description or a table of classes, else by what occurs in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastpixcon.training import TrainingError
from fastpixcon.training.data.base import IGNORE, Colour
from fastpixcon.training.data.class_table import (
    MOST_CLASSES,
    VOID_IDS,
    Entry,
    Meaning,
    find_entries,
    meaning_of,
    packed,
)
from fastpixcon.training.data.decoding import label_kind, palette_of, read_any_ids, read_colours, without_warnings
from fastpixcon.training.data.folder_files import FolderFiles, colours_in_words, ticks_of
from fastpixcon.training.data.layout import DESCRIPTION
from fastpixcon.training.data.pairing import Matched
from fastpixcon.training.data.survey import Facts, facts_of
from fastpixcon.training.description import Folder

_SAMPLED = 32  # labels whose headers tell what all are
_NOTHING = Meaning(["nothing"], [(0, 0, 0)], [()], [], by_colour=False)  # leads every value to none


Census = dict[str, list[Facts]]  # split -> what was read of its labels


def find_meaning(root: Path, said: Folder, matched: Mapping[str, Matched]) -> tuple[Meaning, str, Census]:
    """What labels mean, where that is from, and what was read of them on the way."""
    labels = [path for found in matched.values() for path in found.labels]
    sample = labels[:: max(len(labels) // _SAMPLED, 1)]
    entries, source = find_entries(root, said)
    kind, palette = _kind(sample, said, entries)
    if kind == "colours" and not entries:
        raise TrainingError(_no_colours(root, sample))
    if entries:
        return meaning_of(entries, said, kind == "colours", palette), source, {}
    files = {name: FolderFiles(found, _NOTHING) for name, found in matched.items()}
    facts: Census = {}
    with ticks_of(len(labels)) as ticks:
        for name, split in files.items():
            facts[name] = list(facts_of(split, ticks.count))
    found = Counter(value for some in facts.values() for one in some for value in one.unknown)
    void = _void_of(said)
    values = sorted(set(found) - void)
    if len(values) < 2:
        raise TrainingError(_too_few(root, found, [one.fault for some in facts.values() for one in some if one.fault]))
    if len(values) > MOST_CLASSES:
        raise TrainingError(
            f"{root}: nothing names the classes, and labels have {len(values)} ids, from {values[0]} to {values[-1]}; "
            f"want classes in {root / DESCRIPTION}, or in classes.txt or class_dict.csv beside it"
        )
    plain = replace(said, reduce_zero_label=None, ignore=tuple(sorted(void)))
    meaning = meaning_of([Entry(f"class {value}", (value,)) for value in values], plain, False, palette)
    known = {name: [_resolved(one, meaning) for one in some] for name, some in facts.items()}
    return meaning, "the ids that occur, as nothing names them", known


def _void_of(said: Folder) -> set[int]:
    """Ids that do not count, where there are no names."""
    zero = {0, IGNORE} if said.reduce_zero_label else set()
    if said.ignore is None:
        return zero | set(VOID_IDS)
    wrong = [what for what in said.ignore if not isinstance(what, int)]
    if wrong:
        raise TrainingError(f"ignore: got {wrong[0]!r}, want ids: nothing names the classes, and labels are ids")
    return zero | {what for what in said.ignore if isinstance(what, int)}


def _resolved(one: Facts, meaning: Meaning) -> Facts:
    """What was read before the classes were known."""
    if not one.unknown:
        return one
    pixels = np.zeros(256, np.int64)
    for value, count in one.unknown.items():
        pixels[meaning.train_ids[value]] += count
    return Facts(one.size, pixels)


def _kind(sample: Sequence[str], said: Folder, entries: Sequence[Entry]) -> tuple[str, dict[int, Colour]]:
    """Whether labels are "ids" or "colours", and the palette of the first that has one."""
    kinds: set[str] = set()
    palette: dict[int, Colour] = {}
    with without_warnings():
        for path in sample:
            try:
                kind = label_kind(path)
            except TrainingError:
                continue  # which is said of all files that it is true of
            kinds.add(kind)
            if kind == "palette" and not palette:
                palette = dict(enumerate(palette_of(path)))
    if said.label_kind:
        return said.label_kind, palette
    have_colours = any(entry.colours for entry in entries)
    if "colours" in kinds:
        grey = kinds == {"colours"} and not have_colours and _are_grey(sample)  # ids in three channels
        return "ids" if grey else "colours", palette
    # Palettes, and grey, of the colours of classes in another order than theirs are read by them.
    if have_colours and not any(entry.ids for entry in entries) and _have_colours(sample, entries):
        return "colours", palette
    return "ids", palette


def _have_colours(sample: Sequence[str], entries: Sequence[Entry]) -> bool:
    """Whether a sample of labels of one channel has colours of classes alone, which can't be ids as well."""
    known = {packed(colour) for entry in entries for colour in entry.colours}
    largest, with_palette = 0, True
    for path in sample:
        try:
            if not known.issuperset(np.unique(read_colours(path)).tolist()):
                return False
            largest = max(largest, int(read_any_ids(path).max()))
            with_palette &= bool(palette_of(path))
        except TrainingError:
            continue
    return with_palette or largest >= len(entries)


def _are_grey(sample: Sequence[str]) -> bool:
    """Whether all have the same value in every channel, as far as they can be read."""

    def is_grey(path: str) -> bool:
        try:
            read_any_ids(path)
        except TrainingError:
            return False
        return True

    return all(is_grey(path) for path in sample)


def _no_colours(root: Path, sample: Sequence[str]) -> str:
    found: Counter[int] = Counter()
    for path in sample:
        try:
            values, pixels = np.unique(read_colours(path), return_counts=True)
        except TrainingError:
            continue
        found.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
    most = [value for value, _ in found.most_common()]
    return (
        f"{root}: labels are colours, and nothing says of which classes; want class_dict.csv (name,r,g,b) in it, or "
        f"classes with a colour in {root / DESCRIPTION}. {len(sample)} labels have {colours_in_words(most)}"
    )


def _too_few(root: Path, found: Mapping[int, int], faults: Sequence[str]) -> str:
    have = ", ".join(str(value) for value in sorted(found)[:8]) or "none"
    mask = ""
    if set(found) == {0, 255}:
        mask = (
            '; of masks: classes = [{ name = "background", id = 0 }, { name = "object", id = 255 }] says that 255 is a '
            "class, which else does not count"
        )
    unread = [fault for fault in faults if "got the ids" not in fault]
    more = f"; {len(unread)} can't be read as wanted, the first: {unread[0]}" if unread else ""
    return f"{root}: labels have the ids {have}, want two classes at least that count{mask}{more}"
