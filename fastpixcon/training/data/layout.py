"""Where a folder of pictures and labels has its splits: by its description, else by the usual names of folders."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fastpixcon.training import TrainingError
from fastpixcon.training.data.names import folders_in, is_of_system, pictures_in
from fastpixcon.training.description import LISTS, Folder, Pairs
from fastpixcon.training.text import as_path

_IMAGES = "images?|imgs?|pictures?|photos?|photographs?|jpegimages|rgb"
_LABELS = "labels?|masks?|annotations?|annots?|gt|ground_?truth|segmentations?|segmentationclass"
_SPLITS = {"train": "train|training", "val": "val|valid|validation", "test": "test|testing"}
_LOOKED_FOR = (
    "images/ and labels/ (or masks/, annotations/), with train/, val/, test/ in both or lists (train.txt) beside them; "
    "train/, val/ and test/ with images/ and labels/ in each; train/ and train_labels/, val/ and val_labels/; "
    "or pictures and labels in one folder, as NAME.jpg and NAME.png, or NAME.png and NAME_mask.png"
)
_OTHERS = {  # data sets that have readers of their own, by what is in their folders
    "leftImg8bit": "Cityscapes: --config cityscapes_hrnet_w48",
    "SegmentationClassContext": "PASCAL-Context: --config pascal_context_hrnet_w48",
    "imageLists": "COCO-Stuff 10k: --config coco_stuff_10k_hrnet_w48",
}
DESCRIPTION = "dataset.toml"

Splits = dict[str, Pairs]


def find_splits(root: Path, described: Folder) -> tuple[Splits, str]:
    """Train, and val and test where there are any, and how they were found, in words.

    Raises:
        TrainingError: nothing is found, or several.
    """
    given = {name: pairs for name in _SPLITS if (pairs := getattr(described, name)) is not None}
    if given:
        if "train" not in given:
            raise TrainingError(
                f"{root}: {', '.join(given)} without train, want train in {DESCRIPTION} or data.folder, too"
            )
        splits = {name: _completed(root, name, pairs, described) for name, pairs in given.items()}
        return splits, f"{_words(splits)}, as described"
    if described.images or described.labels:
        if not (described.images and described.labels):
            have = "images" if described.images else "labels"
            raise TrainingError(f"{root}: {have} alone, want images and labels in {DESCRIPTION} or data.folder")
        found = [_of_two(root, described.images, described.labels)]
    else:
        found = list(_found(root))
        if not found and pictures_in(root):
            found = [{"train": Pairs(images=".", labels=".")}]
    if not found:
        raise TrainingError(
            f"{root}: no pictures and labels that fit together; {_there(root)}. Looked for: {_LOOKED_FOR}. "
            f"Another layout can be described in {root / DESCRIPTION}: docs/own-pictures.md"
        )
    if len(found) > 1:
        ways = "; or ".join(_words(splits) for splits in found)
        raise TrainingError(f"{root}: could be read in {len(found)} ways: {ways}. Want which in {root / DESCRIPTION}")
    _check_val(root, found[0])
    return found[0], _words(found[0])


def _check_val(root: Path, splits: Splits) -> None:
    """Raise where there are pictures of val, and train would be asked for a share."""
    if "val" in splits or splits["train"].list:
        return
    val, words = _SPLITS["val"], f"(?:{_IMAGES}|{_LABELS})"
    pattern = rf"(?:{val})(?:\d{{4}})?(?:[_-]?{words})?|{words}[_-]?(?:{val})"
    there = _named([folder.name for folder in folders_in(root) if _has_pictures(folder)], pattern)
    if there:
        raise TrainingError(
            f"{root}: has {' and '.join(f'{name}/' for name in there)}, but no pictures and labels to validate that "
            f"lie as those to train do: {_words(splits)}. Want both of them, or where they are in {root / DESCRIPTION}"
        )


def _completed(root: Path, name: str, pairs: Pairs, described: Folder) -> Pairs:
    """A split as described, with folders by the usual names within it."""
    if pairs.pairs is not None and len(pairs.pairs) == 0:
        raise TrainingError(f"{root}: {name}: got no pairs, want some")
    ways = [key for key in ("folder", "list", "pairs") if getattr(pairs, key) is not None]
    if pairs.list or pairs.pairs:
        if len(ways) > 1:
            raise TrainingError(f"{root}: {name}: got {' and '.join(ways)}, want one of them")
        return replace(pairs, images=pairs.images or described.images, labels=pairs.labels or described.labels)
    if pairs.folder:
        if pairs.images or pairs.labels or len(ways) > 1:
            raise TrainingError(f"{root}: {name}: got folder and others, want folder alone")
        if not os.path.isdir(root / as_path(pairs.folder)):
            raise TrainingError(f"{root / pairs.folder}: no such folder, but {name} names it")
        inside = [split["train"] for split in _within(root, Path(pairs.folder), "train")]
        if len(inside) != 1:
            raise TrainingError(
                f"{root / pairs.folder}: want images/ and labels/ in it, or pictures and labels beside each other; "
                f"{_there(root / pairs.folder)}"
            )
        return inside[0]
    if not (pairs.images and pairs.labels):
        raise TrainingError(f"{root}: {name}: want images and labels, a folder, a list or pairs")
    return pairs


def _of_two(root: Path, images: str, labels: str) -> Splits:
    """Two folders with a folder a split in them, or without."""
    for folder, what in ((images, "images"), (labels, "labels")):
        if not os.path.isdir(root / as_path(folder)):
            raise TrainingError(f"{root / folder}: no such folder, but {what} names it")
    lists = _lists(root)
    if lists:
        return {name: Pairs(list=file, images=images, labels=labels) for name, file in lists.items()}
    ours, theirs = _splits_in(root / images), _splits_in(root / labels)
    if "train" not in ours:
        return {"train": Pairs(images=images, labels=labels)}
    both = {name: (ours.get(name) or theirs[name], theirs.get(name) or ours[name]) for name in {**ours, **theirs}}
    return {  # of val one that is missing is said, test may have no labels
        name: Pairs(images=f"{images}/{image}", labels=f"{labels}/{label}")
        for name, (image, label) in both.items()
        if name != "test" or (name in ours and name in theirs)
    }


def _found(root: Path) -> Iterator[Splits]:
    """Every layout that fits."""
    folders = [folder.name for folder in folders_in(root) if _has_pictures(folder)]
    lists = _lists(root)
    two = list(itertools.product(_named(folders, _IMAGES), _named(folders, _LABELS)))
    for images, labels in two:
        yield _of_two(root, images, labels)
    if lists and not two:
        yield {name: Pairs(list=file) for name, file in lists.items()}
    whole = _splits(folders)
    if "train" in whole:
        inside = {name: list(_within(root, Path(folder), name)) for name, folder in whole.items()}
        for way in inside["train"]:
            kind = _kind(way["train"], whole["train"])
            yield way | {
                name: split[name]
                for name in ("val", "test")
                for split in inside.get(name, [])
                if _kind(split[name], whole[name]) == kind
            }
    after, before = "{split}{sep}{word}", "{word}{sep}{split}"
    for left, right in (("{split}", after), (after, after), (before, before)):
        beside = dict(_beside(folders, left, right))
        if "train" in beside:
            yield beside


def _within(root: Path, folder: Path, name: str) -> Iterator[Splits]:
    """A split in a folder of its own: images and labels by their names, or beside each other."""
    inside = [path.name for path in folders_in(root / folder) if _has_pictures(path)]
    pairs = list(itertools.product(_named(inside, _IMAGES), _named(inside, _LABELS)))
    for images, labels in pairs:
        yield {name: Pairs(images=str(folder / images), labels=str(folder / labels))}
    if not pairs and _beside_each_other(root / folder):
        yield {name: Pairs(images=str(folder), labels=str(folder))}


def _beside_each_other(folder: Path) -> bool:
    """Whether pictures in it have others of their name, or names of labels."""
    stems = [os.path.splitext(file)[0] for file in pictures_in(folder)]
    is_label = re.compile(rf".*[_.-](?:{_LABELS})$", re.IGNORECASE)
    return len(set(stems)) < len(stems) or any(is_label.match(stem) for stem in stems)


def _has_pictures(folder: Path) -> bool:
    return any(pictures_in(Path(where)) for where, _, _ in os.walk(folder, followlinks=False))


def _beside(folders: list[str], left: str, right: str) -> Iterator[tuple[str, Pairs]]:
    """``train`` and ``train_labels``: the folders of images by ``left``, those of labels by ``right``."""
    for name, words in _SPLITS.items():
        images = _named(folders, left.format(split=f"(?:{words})", sep="[_-]?", word=f"(?:{_IMAGES})"))
        labels = _named(folders, right.format(split=f"(?:{words})", sep="[_-]?", word=f"(?:{_LABELS})"))
        if len(images) == len(labels) == 1:
            yield name, Pairs(images=images[0], labels=labels[0])


def _kind(pairs: Pairs, folder: str) -> tuple[str, str]:
    return os.path.relpath(str(pairs.images), folder).lower(), os.path.relpath(str(pairs.labels), folder).lower()


def _named(folders: list[str], pattern: str) -> list[str]:
    return [folder for folder in folders if re.fullmatch(pattern, folder, re.IGNORECASE)]


def _splits(folders: list[str]) -> dict[str, str]:
    """Split -> folder; a year may follow its name."""
    found: dict[str, str] = {}
    for name, words in _SPLITS.items():
        for folder in _named(folders, rf"(?:{words})(?:\d{{4}})?"):
            if name in found:
                raise TrainingError(
                    f"got the folders {found[name]} and {folder}, want which of them is {name} in {DESCRIPTION}"
                )
            found[name] = folder
    return found


def _splits_in(folder: Path) -> dict[str, str]:
    return _splits([path.name for path in folders_in(folder)])


def _lists(root: Path) -> dict[str, str]:
    """Split -> list of it, if there is one of train: beside the pictures, or where PASCAL VOC has them."""
    found: dict[str, str] = {}
    for folder in ("", "ImageSets/Segmentation"):
        for file in sorted(os.listdir(root / folder)) if os.path.isdir(root / folder) else []:
            stem, suffix = os.path.splitext(file)
            for name, words in _SPLITS.items():
                if suffix.lower() in LISTS and re.fullmatch(words, stem, re.IGNORECASE) and not is_of_system(file):
                    if name in found:
                        raise TrainingError(f"{root}: got {found[name]} and {file}, want one list of {name}")
                    found[name] = f"{folder}/{file}" if folder else file
        if "train" in found:
            return found
    return {}


def _words(splits: Mapping[str, Pairs]) -> str:
    def one(name: str, pairs: Pairs) -> str:
        if pairs.list or pairs.pairs:
            return f"{name} by {pairs.list or f'{len(pairs.pairs or ())} pairs'}"
        same = pairs.images == pairs.labels
        return f"{name} in {pairs.images}" if same else f"{name} in {pairs.images} and {pairs.labels}"

    return ", ".join(one(name, pairs) for name, pairs in splits.items())


def _there(root: Path) -> str:
    """What lies in a folder, in words."""
    if not os.path.isdir(root):
        return "there is no such folder"
    known = next((text for name, text in _OTHERS.items() if os.path.isdir(root / name)), None)
    if known:
        return f"it looks like {known}"
    folders = [folder.name for folder in folders_in(root)]
    shown = ", ".join(f"{name}/" for name in folders[:8]) + (", ..." if len(folders) > 8 else "")
    pictures = len(pictures_in(root))
    return f"it has {shown or 'no folders'} and {pictures or 'no'} pictures"
