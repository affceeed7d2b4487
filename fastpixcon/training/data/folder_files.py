"""A split of a user's own folder: its files, what their values mean, and what was read of them."""

import os
from collections.abc import Mapping, Sequence

from fastpixcon.training import console
from fastpixcon.training.console import Ticks, make_console
from fastpixcon.training.data.class_table import Meaning, unpacked
from fastpixcon.training.data.complaints import complain_of
from fastpixcon.training.data.decoding import any_label_size, read_any_ids, read_colours
from fastpixcon.training.data.files import Files, Ids, LabelFormat
from fastpixcon.training.data.pairing import Matched
from fastpixcon.training.data.survey import Facts, Survey, facts_of

_IDS = LabelFormat(any_label_size, read_any_ids)  # of 1 to 16 bits
_COLOURS = LabelFormat(any_label_size, read_colours)


class DeepIds(Ids):
    """Raw ids of up to 16 bits."""

    def __init__(self, train_ids: Mapping[int, int]) -> None:
        super().__init__(train_ids, 65536)

    def words(self, values: list[int]) -> str:
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        return f"the ids {values[:8]}{more}"


class ColourIds(Ids):
    """Colours, packed as ``read_colours`` gives them."""

    def __init__(self, train_ids: Mapping[int, int]) -> None:
        super().__init__(train_ids, 1 << 24)
        self.known = list(train_ids)

    def words(self, values: list[int]) -> str:
        return f"the colours {colours_in_words(values)}"

    def wanted(self) -> str:
        return f"{colours_in_words(self.known)}"


class FolderFiles(Files):
    """A split of a folder; ``survey`` once it was checked."""

    def __init__(self, matched: Matched, meaning: Meaning) -> None:
        ids: Ids = ColourIds(meaning.train_ids) if meaning.by_colour else DeepIds(meaning.train_ids)
        alone = [f"the image {path} without label" for path in matched.without_label]
        alone += [f"the label {path} without image" for path in matched.without_image]
        alone += matched.missing
        super().__init__(matched.images, matched.labels, ids, _COLOURS if meaning.by_colour else _IDS, alone)
        self.matched, self.classes = matched, len(meaning.names)
        self.facts: list[Facts] = []
        self.survey: Survey | None = None

    def __getstate__(self) -> dict[str, object]:
        """A worker needs no survey."""
        return self.__dict__ | {"facts": [], "survey": None, "matched": Matched()}

    def look(self, ticks: Ticks) -> None:
        """Read all labels, unless the classes were found by that."""
        if self.survey is None:
            self.facts = self.facts or list(facts_of(self, ticks.count))
            self.survey = Survey.of(self, self.classes)
            for facts in self.facts:
                self.survey.add(facts)

    def check(self) -> None:
        with ticks_of(len(self)) as ticks:
            self.look(ticks)
        complain_of({"": self}, "--data")


def ticks_of(total: int) -> Ticks:
    """Progress, of several processes that of the first; in a log a first line soon."""
    ticks = Ticks(make_console(quiet=os.environ.get("RANK", "0") != "0"), "reading labels", total, "labels")
    ticks.last -= max(console.LINE_EVERY - console.FIRST_LINE, 0.0)
    return ticks


def colours_in_words(values: Sequence[int]) -> str:
    more = f" and {len(values) - 8} more" if len(values) > 8 else ""
    return ", ".join(str(list(unpacked(value))) for value in values[:8]) + more
