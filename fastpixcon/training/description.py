"""What a folder of pictures and label maps is, as its owner describes it: ``dataset.toml`` in it, or ``[data.folder]``
of a config, which has the same keys.

Every key may be left out: it is then found by what is in the folder, or is an error that says what was looked for.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
# Of tables that have a shorter form: what that is made into is no JSON, which strict dataclasses want.
_SHORT = ConfigDict(extra="forbid", allow_inf_nan=False)

LAYOUT_KEYS = ("images", "labels", "train", "val", "test")  # of Folder, where its files are
LISTS = (".txt", ".lst", ".csv", ".tsv")  # how files end that are lists of pairs

Text = Annotated[str, Strict(), Field(min_length=1)]
Id = Annotated[int, Strict(), Field(ge=0, le=65535)]  # as labels of 8 or 16 bits have them
Byte = Annotated[int, Strict(), Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]  # RGB
Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=_SHORT)
class Pairs:
    """Where the pictures and labels of a split are. Paths begin at the folder of the data set.

    ``"some/folder"`` is short for ``folder``, ``"some.txt"`` (or .lst, .csv, .tsv) for ``list``, a list for ``pairs``.
    """

    images: Text | None = None  # folder, with all folders in it
    labels: Text | None = None  # folder, in which a label lies as its picture does in images
    folder: Text | None = None  # in which images and labels are, by the usual names or beside each other
    list: Text | None = None  # file: "image label" a line, or a name a line of what is in images and labels
    pairs: tuple[tuple[Text, Text], ...] | None = None  # image, label


@dataclass(frozen=True, config=_SHORT)
class Class:
    """A class; ``"name"`` alone is short for it."""

    name: Text
    id: Id | None = None  # in the labels; none of all: 0, 1, ... in order
    ids: tuple[Id, ...] | None = None  # where it has several
    colour: Colour | None = None  # in pictures, and in labels that are colours
    colours: tuple[Colour, ...] | None = None  # where it has several; the first is that of pictures


def _pairs(value: Any) -> Any:
    if isinstance(value, str):
        return {"list" if value.lower().endswith(LISTS) else "folder": value}
    return _table(
        {"pairs": value} if isinstance(value, list | tuple) else value,
        "a folder, a list, or a table of images and labels",
    )


def _classes(value: Any) -> Any:
    if isinstance(value, str):
        return {"table": value}
    return _table(
        {"entries": value} if isinstance(value, list | tuple) else value, "a list of classes, or a file that has it"
    )


def _class(value: Any) -> Any:
    return _table({"name": value} if isinstance(value, str) else value, "a name, or a table of name, id and colour")


def _table(value: Any, wanted: str) -> Any:
    if not isinstance(value, dict | Pairs | Class | Classes):
        raise PydanticCustomError("table", "Input should be {wanted}", {"wanted": wanted})
    return value


def _one_message(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:  # or each alternative would be reported; a list is what JSON makes of a tuple
        return validate(tuple(value) if isinstance(value, list) else value)
    except ValidationError:
        raise PydanticCustomError("void", "Input should be an id, a colour [r, g, b] or the name of a class") from None


@dataclass(frozen=True, config=_SHORT)
class Classes:
    """A file, or the classes themselves; both are written without these keys."""

    table: Text | None = None  # class_dict.csv (name, r, g, b, id), classes.json or classes.txt
    entries: tuple[Annotated[Class, BeforeValidator(_class)], ...] | None = None


SplitPairs = Annotated[Pairs, BeforeValidator(_pairs)]


@dataclass(frozen=True, config=STRICT)
class Folder:
    images: Text | None = None  # folder of all pictures, of which splits are folders or lists, or a share is for val
    labels: Text | None = None  # folder of all labels
    train: SplitPairs | None = None
    val: SplitPairs | None = None
    test: SplitPairs | None = None
    val_share: Share | None = None  # of train, drawn by name, where there is no val; none: 0.2
    val_seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None  # of that draw; none: 0
    image_ending: str | None = None  # of names of pictures before their suffix, as "_leftImg8bit"; none: found
    label_ending: str | None = None  # of names of labels, as "_L"; pictures with others are then left alone
    label_kind: Literal["ids", "colours"] | None = None  # none: found
    classes: Annotated[Classes, BeforeValidator(_classes)] | None = None  # in the order of the train ids
    # What does not count: ids, colours or names of classes. None: 255 (65535 of 16 bits) and classes called void,
    # unlabelled or ignore.
    ignore: tuple[Annotated[Id | Colour | Text, WrapValidator(_one_message)], ...] | None = None
    reduce_zero_label: bool | None = None  # id 0 does not count, k is class k - 1
