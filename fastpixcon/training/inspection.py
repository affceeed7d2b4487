"""What a data set is and what contrast would make of it, as plain values, as tables and in words."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from fastpixcon.training.config import Config, sides_of, to_tree
from fastpixcon.training.data import DataSet
from fastpixcon.training.data.loading import item_loader
from fastpixcon.training.data.survey import Survey
from fastpixcon.training.rehearsal import check_pool, map_size
from fastpixcon.training.segments import Crop, Drawn, Pairs, Rule, TookPart, first_batches, suggestions

_WORTH_WORKERS = 2000  # labels and crops; a worker takes a tenth of a second to begin
_NAMED = 3  # files of a kind of fault, in words
_LOST = 0.1  # of the segments of a class that the map has no pixel of, from which on it is said


def splits_of(data: DataSet) -> dict[str, Any]:
    named = {"train": data.train, "val": data.val, "test": data.test}
    return {name: split for name, split in named.items() if split is not None}


def map_of(config: Config) -> tuple[int, int]:
    """[h, w] of the embeddings of a crop, before pooling; raises ``TrainingError`` as a training would."""
    h, w = map_size(config)
    check_pool(config, h, w)
    return h, w


def inspect(config: Config, data: DataSet, size: tuple[int, int], count: Callable[[], None]) -> dict[str, Any]:
    """All labels are read once, by as many processes as there are cores; ``count`` is called after each.

    Args:
        data: opened without its checks.
        size: [h, w] of the map, of ``map_of``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # maps are small, and the cores have workers
    try:
        return _inspected(config, data, size, count)
    finally:
        torch.set_num_threads(threads)


def _inspected(config: Config, data: DataSet, size: tuple[int, int], count: Callable[[], None]) -> dict[str, Any]:
    K, (h, w) = len(data.classes), size
    sizes = {pool: (h // pool, w // pool) for pool in {1, config.contrast.pool}}
    has_batch = config.schedule.batch <= len(data.train)
    order = first_batches(config, len(data.train)) if has_batch else []
    surveys: dict[str, Survey] = {}
    crops: list[Crop] = []
    for name, split in splits_of(data).items():
        survey = surveys[name] = Survey.of(split, K)
        pairs = Pairs(split, K, config, order, sizes) if name == "train" else Pairs(split, K)
        work = len(split) + (sum(map(len, order)) if name == "train" else 0)
        workers = len(os.sched_getaffinity(0)) if work >= _WORTH_WORKERS else 0
        for items in item_loader(pairs, workers):
            for facts, some in items:
                survey.add(facts)
                crops += some
                count()
    drawn = Drawn(crops, order, config.schedule.accumulate, K)
    return {
        "config": to_tree(config),
        "classes": list(data.classes),
        "splits": {name: survey.tree() for name, survey in surveys.items()},
        "contrast": _contrast(config, drawn, sizes, order[-1][0][0] + 1) if drawn.calls else None,
    }


def _contrast(config: Config, drawn: Drawn, sizes: Mapping[int, Sequence[int]], epochs: int) -> dict[str, Any]:
    """What takes part by the config and by other rules, each of them tried."""
    now = Rule.of(config.contrast)
    tried = [drawn.take_part(rule) for rule in (now, *suggestions(drawn, config.contrast))]
    enough = next((i for i, found in enumerate(tried) if found.is_enough()), None)
    return {
        "crop": list(sides_of(config.data.augmentation)),
        "map": list(sizes[now.pool]),
        "epochs": epochs,
        "calls": len(drawn.calls),
        "crops": drawn.images,
        "segments_in_crops": drawn.in_crops.tolist(),
        "segments_on_map": drawn.on_map(now.pool).tolist(),
        "nine_in_ten_have": drawn.wanted(now.pool).tolist(),
        "tried": [_tried(found, now) for found in tried],  # the config's own first
        "enough": enough,  # the first of them that lets nine in ten of every class in
    }


def _tried(found: TookPart, now: Rule) -> dict[str, Any]:
    return {
        "settings": found.rule._asdict(),
        "changes": found.rule.changes(now),
        "share": [None if math.isnan(share) else share for share in found.shares.tolist()],  # of segments on the map
        "segments": found.segments.tolist(),
        "left_out": found.left_out.tolist(),
        "anchors": found.anchors.tolist(),
        "anchors_a_call": int(found.anchors.sum()) / found.calls,
    }


def faulty(tree: Mapping[str, Any]) -> int:
    return sum(fault["count"] for split in tree["splits"].values() for fault in split["faults"].values())


def tables(tree: Mapping[str, Any]) -> list[Table]:
    """A row a class, of the data and of the contrast, then a row for each of the settings that were tried."""
    if not tree["contrast"]:
        return [_of_data(tree)]
    return [_of_data(tree), _of_classes(tree), _of_settings(tree["contrast"])]


def _of_data(tree: Mapping[str, Any]) -> Table:
    splits, train = tree["splits"], tree["splits"]["train"]
    table = _table(f"{tree['config']['name']}: images with a class, and its pixels in train", "class")
    for name, split in splits.items():
        table.add_column(f"{name}, {split['images']}", justify="right")
    table.add_column("% of pixels", justify="right")
    counted, ignored = sum(train["pixels"]), train["ignored_pixels"]
    for k, name in enumerate(tree["classes"]):
        share = train["pixels"][k] / max(counted, 1)
        table.add_row(escape(name), *(_count(s["images_with"][k]) for s in splits.values()), _percent(share, 2))
    table.caption = f"{_percent(ignored / max(counted + ignored, 1))} % of all pixels do not count"
    return table


def _of_classes(tree: Mapping[str, Any]) -> Table:
    config, contrast = tree["config"], tree["contrast"]
    now, best = contrast["tried"][0], _best(contrast)
    (h, w), (H, W) = contrast["map"], contrast["crop"]
    then = [f"% with {_in_words(best)}"] if best and best is not now else []
    table = _table(f"contrast, on the map of {h} x {w} of {config['model']['name']}", "class")
    for head in ("segments", "% on the map", "nine in ten have", "% take part", "anchors a call", *then):
        table.add_column(head, justify="right", overflow="fold")
    for k, name in enumerate(tree["classes"]):
        there, whole = contrast["segments_on_map"][k], contrast["segments_in_crops"][k]
        least = contrast["nine_in_ten_have"][k]
        cells = [str(whole), _percent(there / whole if whole else None), f"{least} px" if least else "-"]
        cells += [_share(now["share"][k]), f"{now['anchors'][k] / contrast['calls']:.1f}"]
        table.add_row(escape(name), *cells, *([_share(best["share"][k])] if then else []))
    table.caption = (
        f"The {contrast['crops']} crops of {H} x {W} px of the first {contrast['calls']} calls of the loss, as a "
        f"training of seed {config['seed']} draws them in {_counted(contrast['epochs'], 'epoch')}. A segment: a class "
        "in a crop; its pixels are those of the map, which has the nearest labels, as in the loss."
    )
    return table


def _of_settings(contrast: Mapping[str, Any]) -> Table:
    names = [f"now: {_in_words(contrast['tried'][0], all_of_them=True)}"]
    names += [_in_words(tried) for tried in contrast["tried"][1:]]
    table = _table("settings, tried by the selection of the loss", "of contrast")
    for head in ("% take part", "% of the lowest class", "classes with nine in ten", "anchors a call"):
        table.add_column(head, justify="right")
    for name, tried in zip(names, contrast["tried"], strict=True):
        shares = [share for share in tried["share"] if share is not None]
        taken, left = sum(tried["segments"]), sum(tried["left_out"])
        full = sum(10 * out <= t + out for t, out in zip(tried["segments"], tried["left_out"], strict=True) if t + out)
        table.add_row(
            name,
            _percent(taken / max(taken + left, 1)),
            _share(min(shares)) if shares else "-",
            f"{full}/{len(shares)}",
            f"{tried['anchors_a_call']:.0f}",
        )
    return table


def words(tree: Mapping[str, Any]) -> list[str]:
    """What is to be said besides: sizes, faults, classes that are nowhere, what to set."""
    splits, names, contrast = tree["splits"], tree["classes"], tree["contrast"]
    lines = [f"{name}: {_sizes(split['sizes'])}" for name, split in splits.items()]
    for name, split in splits.items():
        for kind, fault in split["faults"].items():
            lines.append(f"{name}: {kind}: {fault['count']}, which training refuses; {_first(fault)}")
    for name, split in splits.items():
        nowhere = [names[k] for k, count in enumerate(split["images_with"]) if not count]
        if nowhere and split["images"]:
            lines.append(f"{name}: {len(nowhere)} of {len(names)} classes occur nowhere: {', '.join(nowhere)}")
    if not contrast:
        batch, images = tree["config"]["schedule"]["batch"], splits["train"]["images"]
        return [*lines, f"contrast: no batch to look at: schedule.batch is {batch}, images to train on are {images}"]
    return [*lines, *_of_contrast(names, contrast)]


def _of_contrast(names: Sequence[str], contrast: Mapping[str, Any]) -> list[str]:
    now, best, lines = contrast["tried"][0], _best(contrast), []
    below = [
        k for k, share in enumerate(now["share"]) if share is not None and 10 * now["left_out"][k] > _there(now, k)
    ]
    lost = [
        names[k]
        for k, (there, whole) in enumerate(zip(contrast["segments_on_map"], contrast["segments_in_crops"], strict=True))
        if whole and 1 - there / whole > _LOST
    ]
    if below:
        said = ", ".join(f"{names[k]} {math.floor(100 * now['share'][k])} %" for k in below)
        lines.append(f"contrast: fewer than nine in ten segments take part of {said}")
    if best is now:
        lines.append("contrast: nine in ten segments of every class take part")
    elif best:
        options = " ".join(f"--set contrast.{key}={value}" for key, value in best["changes"].items())
        lines.append(f"contrast: nine in ten segments of every class take part with {options}")
    if lost:
        lines.append(
            f"contrast: the map has no pixel of more than a tenth of the segments of {', '.join(lost)}, which no "
            "setting of contrast lets in; a finer map or a larger data.augmentation.scale does"
        )
    return lines


def _best(contrast: Mapping[str, Any] | None) -> Any:
    return contrast["tried"][contrast["enough"]] if contrast and contrast["enough"] is not None else None


def _there(tried: Mapping[str, Any], k: int) -> int:
    return int(tried["segments"][k] + tried["left_out"][k])


def _in_words(tried: Mapping[str, Any], all_of_them: bool = False) -> str:
    settings = tried["settings"] if all_of_them else tried["changes"]
    shown = {key: value for key, value in settings.items() if value is not None and (key, value) != ("pool", 1)}
    shown |= {} if all_of_them else tried["changes"]
    return ", ".join(f"{key}={value}" for key, value in shown.items())


def _sizes(sizes: Sequence[Sequence[int]]) -> str:
    """Width x height, as the files have them."""
    if not sizes:
        return "no image without fault"
    images = sum(count for _, _, count in sizes)
    if len(sizes) == 1:
        return f"{_counted(images, 'image')} of {sizes[0][0]} x {sizes[0][1]} px"
    width, height, most = max(sizes, key=lambda size: size[2])
    ranges = [
        " to ".join(str(n) for n in sorted({min(side), max(side)})) for side in list(zip(*sizes, strict=True))[:2]
    ]
    return (
        f"{images} images of {len(sizes)} sizes, {ranges[0]} px wide, {ranges[1]} px high; "
        f"{most} of {width} x {height} px"
    )


def _first(fault: Mapping[str, Any]) -> str:
    named = fault["first"][:_NAMED]
    return f"the first {'are' if len(named) > 1 else 'is'} {'; '.join(named)}"


def _table(title: str, first: str) -> Table:
    """The first column is the last one to be made narrow."""
    table = Table(title=escape(title))
    table.add_column(first, no_wrap=True)
    return table


def _count(number: int) -> str:
    return str(number) if number else "[red]0[/]"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _share(share: float | None) -> str:
    """In red below half, in yellow below nine in ten."""
    if share is None:
        return "-"
    colour = "red" if share < 0.5 else "yellow" if share < 0.9 else ""
    return f"[{colour}]{_percent(share)}[/]" if colour else _percent(share)
