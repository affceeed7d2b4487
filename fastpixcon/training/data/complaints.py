"""What is wrong with the files of a folder, all of it at once: counted by kind, the first few named."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastpixcon.training import TrainingError
from fastpixcon.training.data.class_table import unpacked
from fastpixcon.training.data.survey import SIZES, UNKNOWN, UNREADABLE, Survey

_NAMED = 3  # files of a kind that are named
_VALUES = 8  # ids or colours


def complain_of(splits: Mapping[str, Any], where: str) -> None:
    """Raise ``TrainingError`` if anything is wrong with splits: files that were surveyed, or what was matched alone."""
    matched = [getattr(split, "matched", split) for split in splits.values()]
    surveyed = [split for split in splits.values() if getattr(split, "survey", None)]

    def alone(key: str) -> list[str]:
        return [text for found in matched for text in getattr(found, key)]

    def faulty(kind: str) -> list[str]:
        return [text for split in surveyed for text in split.survey.faults.get(kind, [])]

    lines = [
        _line(alone("without_label"), "picture", "pictures", " without a label"),
        _line(alone("without_image"), "label", "labels", " without a picture"),
        _line(alone("missing"), "line", "lines", " of lists without their files"),
        _line(faulty(SIZES), "label", "labels", " of another size than the picture"),
        _line(faulty(UNREADABLE), "file", "files", " that can't be read as wanted"),
        _unknown(surveyed),
    ]
    lines = [line for line in lines if line]
    if lines:
        raise TrainingError(
            f"{where}: has files that can't be trained on:\n" + "\n".join(f"  {line}" for line in lines)
        )


def _line(texts: Sequence[str], one: str, several: str, what: str) -> str:
    if not texts:
        return ""
    named = "; ".join(texts[:_NAMED])
    return f"{len(texts)} {one if len(texts) == 1 else several}{what}: {named}{'; ...' if len(texts) > _NAMED else ''}"


def _unknown(splits: Sequence[Any]) -> str:
    """Labels with ids or colours that nothing names, by id."""
    labels: Counter[int] = Counter()
    texts: list[str] = []
    wanted, by_colour = "", False
    for split in splits:
        by_colour = len(split.ids.table) > 65536
        wanted = split.ids.wanted()
        for path, facts in zip(split.labels, split.facts, strict=True):
            labels.update(facts.unknown.keys() if facts.kind == UNKNOWN else ())
            texts += [path] if facts.kind == UNKNOWN else []
    if not texts:
        return ""
    what = "colours" if by_colour else "ids"
    most = ", ".join(
        f"{list(unpacked(value)) if by_colour else value} ({count} {'label' if count == 1 else 'labels'})"
        for value, count in labels.most_common(_VALUES)
    )
    more = f" and {len(labels) - _VALUES} more" if len(labels) > _VALUES else ""
    line = _line(texts, "label", "labels", f" with {what} that nothing names")
    from_one = "; reduce_zero_label = true is for ids from 1 on" if set(labels) == {splits[0].classes} else ""
    return f"{line}. They have {most}{more}; want {wanted}, or these in classes or ignore of dataset.toml{from_one}"


def notes_on(surveys: Mapping[str, Survey], classes: Sequence[str]) -> tuple[str, ...]:
    """Classes that occur nowhere, and those that are in no label to train on."""
    occurs = {name: survey.occurs > 0 for name, survey in surveys.items()}
    anywhere = np.any(list(occurs.values()), axis=0)  # [K]
    nowhere = [name for name, there in zip(classes, anywhere, strict=True) if not there]
    untrained = [
        name for name, there, train in zip(classes, anywhere, occurs["train"], strict=True) if there and not train
    ]
    notes = []
    if nowhere:
        verb = "occurs" if len(nowhere) == 1 else "occur"
        notes.append(f"{len(nowhere)} of {len(classes)} classes {verb} nowhere: {', '.join(nowhere)}")
    if untrained:
        verb = "is" if len(untrained) == 1 else "are"
        notes.append(
            f"{len(untrained)} of {len(classes)} classes {verb} in no label to train on: {', '.join(untrained)}"
        )
    return tuple(notes)
