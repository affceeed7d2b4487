"""Any pictures with label maps: a folder of a user's own, described by ``dataset.toml`` in it, by ``[data.folder]`` of
a config, which goes before it key by key, or by nothing but what is in it.

``layout`` finds the splits, ``pairing`` which picture has which label, ``folder_classes`` and ``class_table`` what
labels mean; ``complaints`` says all that is wrong with files at once, before training.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data, explain, toml
from fastpixcon.training.data.base import DataSet
from fastpixcon.training.data.class_table import Meaning, find_entries, meaning_of
from fastpixcon.training.data.complaints import complain_of, notes_on
from fastpixcon.training.data.folder_classes import find_meaning
from fastpixcon.training.data.folder_files import FolderFiles, ticks_of
from fastpixcon.training.data.layout import DESCRIPTION, find_splits
from fastpixcon.training.data.pairing import Matched, described, match, match_list, pair_up, pictures_below
from fastpixcon.training.description import Folder, Pairs
from fastpixcon.training.text import as_path, read_text

_VAL_SHARE = 0.2
_ADAPTER = TypeAdapter(Folder)
_MEANING = ("label_kind", "classes", "ignore", "reduce_zero_label")  # keys that say what labels mean


def folder(config: Data) -> DataSet:
    """Opens the folder ``config.root``."""
    root = as_path(config.root)
    if not config.root or not os.path.isdir(root):
        raise TrainingError(
            f"data.root: got {config.root!r}, want CamVid's folder, or one of your own pictures and labels (--data DIR)"
        )
    own, asked = read_description(root), config.folder or Folder()
    for where, one in ((root / DESCRIPTION, own), ("data.folder", asked)):
        if one.val is not None and one.val_share is not None:
            raise TrainingError(f"{where}: got val and val_share, want one of them")
    said = merged(own, asked)
    splits, how = find_splits(root, said)
    matched = {name: _match(root, pairs, said) for name, pairs in splits.items()}
    notes = _notes_on_layout(root, how, matched)
    for name, found in matched.items():
        if not found.images:
            complain_of({name: found}, str(root))
            raise TrainingError(f"{root}: {name}: no pictures with labels")
    if "val" not in matched:
        share, seed = said.val_share or _VAL_SHARE, said.val_seed or 0
        matched |= _shared(root, matched["train"], share, seed)
        said = replace(said, val_share=share, val_seed=seed)
        total = len(matched["train"].images) + len(matched["val"].images)
        notes.append(f"val: {len(matched['val'].images)} of {total} images, drawn by their names with seed {seed}")
    elif said.val_share is not None:
        text = f"val_share: got {said.val_share}, but {root} has images to validate: {how}"
        if asked.label_kind is None:  # else a trained network's, of another folder
            raise TrainingError(text)
        notes.append(text)
    elif said.val_seed is not None:
        raise TrainingError(f"val_seed: got {said.val_seed}, but {root} has images to validate, none are drawn: {how}")
    _check_apart(root, matched)
    meaning, source, census = find_meaning(root, said, matched)
    notes.append(f"labels are {'colours' if meaning.by_colour else 'ids'}; {len(meaning.names)} classes, {source}")
    notes += meaning.told
    if asked.classes is not None:
        notes += _other_classes(root, own, meaning)
    files = {name: FolderFiles(found, meaning) for name, found in matched.items()}
    for name, facts in census.items():
        files[name].facts = facts
    layout = {f.name: getattr(asked, f.name) for f in fields(Folder) if f.name not in _MEANING}
    keep = replace(meaning.described(), **layout)
    if "val" not in splits:
        keep = replace(keep, val_share=said.val_share, val_seed=said.val_seed)
    return DataSet(
        files["train"], files["val"], meaning.names, meaning.colours, files.get("test"),
        notes=tuple(notes), described=keep, check=partial(_check, root, files, meaning.names),
    )  # fmt: skip


def folder_ids(config: Data) -> list[int]:
    """[K] ids of the classes in labels, as a trained network's config has them."""
    classes = config.folder.classes.entries if config.folder and config.folder.classes else None
    if not classes or not all(one.ids for one in classes):
        raise TrainingError("--ids: got dataset, but labels of this network's folder are colours, want train")
    return [one.ids[0] for one in classes if one.ids]


def read_description(root: Path) -> Folder:
    """``dataset.toml`` of a folder; nothing is said where there is none."""
    path = root / DESCRIPTION
    if not os.path.isfile(path):
        return Folder()
    tree = toml(read_text(path, "a description of the folder, in TOML"), str(path))
    try:
        return _ADAPTER.validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        lines = "\n".join(f"  {explain(problem)}" for problem in error.errors())
        raise TrainingError(f"{path}:\n{lines}") from None


def merged(own: Folder, asked: Folder) -> Folder:
    """What is asked for, and where that is silent what the folder says of itself."""
    said = {f.name: getattr(asked, f.name) for f in fields(Folder) if getattr(asked, f.name) is not None}
    return replace(own, **said)


def _match(root: Path, pairs: Pairs, said: Folder) -> Matched:
    endings = said.image_ending, said.label_ending
    images, labels = (root / as_path(folder) if folder else None for folder in (pairs.images, pairs.labels))
    if pairs.list:
        return match_list(root / as_path(pairs.list), root, images, labels, *endings)
    if pairs.pairs:
        return pair_up([(f"{root}: pairs", image, label) for image, label in pairs.pairs], [root])
    assert images is not None
    assert labels is not None
    return match(images, labels, *endings)


def _shared(root: Path, whole: Matched, share: float, seed: int) -> dict[str, Matched]:
    """Train and val: a share of the images, those whose names have the smallest hashes. So it is the same everywhere,
    and new pictures leave most of the others where they are."""
    count = len(whole.names)
    if count < 2:
        raise TrainingError(f"{root}: has {count} picture with a label, want at least 2, one of them to validate")

    def draw(index: int) -> bytes:
        return hashlib.sha256(f"{seed}/{whole.names[index]}".encode("utf-8", "surrogateescape")).digest()

    order = sorted(range(count), key=draw)
    size = min(max(round(share * count), 1), count - 1)
    parts = {"train": replace(whole), "val": Matched(endings=whole.endings)}
    for name, indices in (("train", sorted(order[size:])), ("val", sorted(order[:size]))):
        for key in ("names", "images", "labels"):
            setattr(parts[name], key, [getattr(whole, key)[i] for i in indices])
    return parts


def _check_apart(root: Path, matched: Mapping[str, Matched]) -> None:
    seen: dict[str, str] = {}
    for name, found in matched.items():
        both = [path for path in found.images if path in seen]
        if both:
            raise TrainingError(
                f"{root}: {len(both)} images are in {seen[both[0]]} and in {name}, the first is {both[0]}; "
                "want each in one of them"
            )
        seen |= dict.fromkeys(found.images, name)


def _other_classes(root: Path, own: Folder, meaning: Meaning) -> list[str]:
    """A line where the folder by itself says that labels mean something else."""
    try:
        entries, source = find_entries(root, own)
        theirs = meaning_of(entries, own, meaning.by_colour, {}) if entries else meaning
    except TrainingError:
        return []
    same = (theirs.names, theirs.values) == (meaning.names, meaning.values)
    where = source if own.classes is None else f"of {DESCRIPTION}"
    return [] if same else [f"classes are those of data.folder, not those {where}"]


def _notes_on_layout(root: Path, how: str, matched: Mapping[str, Matched]) -> list[str]:
    notes = [f"{root}: {how}"]
    endings = described({name: found.endings for name, found in matched.items()})
    if endings:
        notes.append(f"pictures and labels are named {endings}")
    used = {
        os.path.normpath(path)
        for found in matched.values()
        for path in (*found.images, *found.labels, *found.without_label, *found.without_image)
    }
    left = [path for path in pictures_below(root) if os.path.normpath(root / path) not in used]
    if left:
        folders = Counter(os.path.dirname(path) or "." for path in left)
        shown = ", ".join(f"{count} in {name}" for name, count in sorted(folders.items())[:5])
        notes.append(f"not read: {len(left)} pictures, {shown}{', ...' if len(folders) > 5 else ''}")
    return notes


def _check(root: Path, files: Mapping[str, FolderFiles], classes: Sequence[str]) -> tuple[str, ...]:
    """All that is wrong with all splits, in one error; what is said of classes otherwise."""
    with ticks_of(sum(len(split) for split in files.values())) as ticks:
        for split in files.values():
            split.look(ticks)
    complain_of(files, str(root))
    return notes_on({name: split.survey for name, split in files.items() if split.survey}, classes)
