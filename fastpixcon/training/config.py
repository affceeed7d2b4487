"""What a run is made of: frozen dataclasses, read from TOML.

Every key has its type, range and unit here and its value in ``configs/*.toml``. A key that is unknown, or whose value
has the wrong type or range, is an error that names the key, the value given and what is wanted.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from fastpixcon.training import TrainingError
from fastpixcon.training.description import STRICT as _STRICT
from fastpixcon.training.description import Folder
from fastpixcon.training.text import as_unicode, read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[Positive, Positive]
Name = Annotated[str, Field(min_length=1)]
Key = Annotated[str, Field(pattern=r"^[\w+-]+$")]  # of a table, as --set can name it
# What an arm trains with: cross-entropy, and the paper's parts besides.
ArmName = Annotated[str, Field(pattern=r"^ce(\+contrast(\+memory)?(\+mining)?)?$")]


def _one_message(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    # A list is what JSON makes of a tuple. Pydantic would report each alternative of a union under a name of its own.
    try:
        return validate(tuple(value) if isinstance(value, list) else value)
    except ValidationError:
        raise PydanticCustomError("side", "Input should be an integer from 1 on, or [height, width] of such") from None


Sides = Annotated[Count | tuple[Count, Count], WrapValidator(_one_message)]


@dataclass(frozen=True, config=_STRICT)
class Augmentation:
    """Random scale, crop (filled with "ignore"), flip, colour; in this order."""

    scale: Range  # the image is resized by a factor drawn from here
    crop: Sides  # px, [height, width] or a square
    flip: Fraction  # probability of a horizontal flip
    colour: Fraction  # strength of brightness, contrast and saturation jitter; hue gets a fifth
    aspect: Range = (1.0, 1.0)  # width over height is multiplied by a factor drawn from here


def sides_of(augmentation: Augmentation) -> tuple[int, int]:
    """[height, width] of its crops."""
    crop = augmentation.crop
    return (crop, crop) if isinstance(crop, int) else crop


@dataclass(frozen=True, config=_STRICT)
class Scenes:
    """Size of the embedded digits scenes; other data sets have their own size and leave this out."""

    train: Count  # scenes
    val: Count
    size: Annotated[int, Field(ge=64, le=400)]  # px, square
    digits: Annotated[int, Field(ge=1, le=8)]  # pasted per scene


@dataclass(frozen=True, config=_STRICT)
class Data:
    name: Name  # a key of data.DATASETS
    augmentation: Augmentation
    # Processes that load images, 0: the training process itself; none: on a GPU as many as help, on CPUs 0
    workers: Annotated[int, Field(ge=0)] | None = None
    root: str = ""  # folder of the data set; "" for embedded data
    scenes: Scenes | None = None
    folder: Folder | None = None  # of the data set "folder": goes before its dataset.toml, which has the same keys


@dataclass(frozen=True, config=_STRICT)
class Model:
    name: Name  # a key of models.MODELS, "smp/ARCHITECTURE" or "vit/NAME"
    pretrained: bool  # ImageNet weights for the encoder, from a package where one has them, else from checkpoint
    encoder: str = ""  # of smp/ARCHITECTURE: one of smp's own, or "tu-" and a name of timm; "" for others
    decoder_channels: Count = 256  # of DeepLabV3+ and of smp's decoders of one width; others have those of their papers
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of DeepLabV3(+), PSPNet, FPN; short schedules want less
    embedding_channels: Count = 256  # D
    checkpoint: str = ""  # path of ImageNet or published weights, or of a model.pt; "": none


@dataclass(frozen=True, config=_STRICT)
class Schedule:
    """Warm-up and polynomial decay; the same for every arm. Its length is ``epochs`` or ``iterations``: what is said
    last, by a file that extends another or by --set, takes the place of what was there."""

    batch: Annotated[int, Field(ge=2)]  # images of a step over all processes; batch norm needs two
    learning_rate: Positive
    encoder_rate: Positive  # factor on the learning rate of the pretrained encoder
    weight_decay: NotNegative
    warmup: Annotated[int, Field(ge=0)]  # iterations
    power: Positive  # of the polynomial decay
    clip: NotNegative  # largest gradient norm; 0: no clipping
    evaluate_every: Count  # epochs; the last is always evaluated
    epochs: Count | None = None
    iterations: Count | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of sgd
    accumulate: Count = 1  # parts that a process takes its share of a batch in
    auxiliary: NotNegative = 0.4  # weight of the cross-entropy of auxiliary logits, of models that have them
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the mean of weights that is evaluated; 0: none
    # Written by --resume: [until, total] of earlier lengths. Until iteration ``until`` the rate is that of ``total``.
    earlier: tuple[tuple[Count, Count], ...] = ()


@dataclass(frozen=True, config=_STRICT)
class Contrast:
    """The loss line of the arms with contrast: weight * PixelContrastLoss."""

    weight: Positive
    warmup: Annotated[int, Field(ge=0)]  # iterations of cross-entropy alone; the weight then ramps up as long again
    temperature: Positive
    base_temperature: Positive
    max_samples: Count  # anchors per batch and process
    max_views: Count  # anchors per class and image
    min_pixels: Count | None = None  # of a class in an image, on the map, that takes part; none: max_views + 1
    pool: Count = 1  # side of the squares of embeddings that are averaged before the contrast
    denominator: Literal["negatives", "all", "decoupled"] = "negatives"
    balanced: bool = False  # every class weighs alike in the sum over negatives
    positives: Literal["any", "same", "other"] = "any"  # of images: of the anchor's, of others
    negatives: Literal["any", "same", "other"] = "any"
    across: Literal["gather", "ring"] = "gather"  # of several processes


@dataclass(frozen=True, config=_STRICT)
class Memory:
    """MemoryBank of the arms with memory."""

    pixel_size: Count  # per class
    region_size: Count  # per class
    pixels_per_image: Count  # of a class
    dtype: Literal["fp32", "bf16"] = "fp32"
    contrast_with: Literal["both", "memory", "each"] = "both"  # as PixelContrastLoss has it


@dataclass(frozen=True, config=_STRICT)
class Mining:
    """Mining of the arms with mining."""

    negatives: Literal["none", "hardest", "semi-hard", "random"] = "semi-hard"
    positives: Literal["none", "hardest", "semi-hard", "random"] = "semi-hard"
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    keep: tuple[Count, Count] = (1024, 2048)  # positives, negatives


@dataclass(frozen=True, config=_STRICT)
class Evaluation:
    """Mean of the class probabilities at several sizes of the image, and mirrored; classes whose mIoU is told apart."""

    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    flip: bool = False
    # Names of classes, by the name of their group; every group has an mIoU beside that of all classes.
    groups: dict[Key, Annotated[tuple[Name, ...], Field(min_length=1)]] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class Figures:
    predictions: Count  # validation images shown
    tsne_pixels: Annotated[int, Field(ge=10)]  # validation pixels per class, at most


@dataclass(frozen=True, config=_STRICT)
class Config:
    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")]  # of the run directory
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    arms: Annotated[tuple[ArmName, ...], Field(min_length=1)]
    device: Literal["auto", "cpu", "cuda"]
    # auto: bf16 autocast where the processor has bf16 matrix instructions
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    data: Data
    model: Model
    schedule: Schedule
    contrast: Contrast
    figures: Figures
    memory: Memory | None = None  # wanted by arms with memory
    mining: Mining = Mining()
    evaluation: Evaluation = Evaluation()
    class_weights: tuple[Positive, ...] = ()  # of the cross-entropy, one a class; (): all 1
    compile: bool = False  # torch.compile of the network
    channels_last: bool = True  # memory format of images and features
    tensorboard: bool = True  # event files beside the checkpoints


_ADAPTER = TypeAdapter(Config)
_INSTEAD = {"epochs": "iterations", "iterations": "epochs"}  # keys of schedule that take each other's place


def shipped() -> dict[str, str]:
    """Name -> text of the configs in the package."""
    folder = resources.files(__package__) / "configs"
    found = [f for f in folder.iterdir() if f.name.endswith(".toml")]
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in found}


def load(source: str, overrides: Iterable[str] = ()) -> Config:
    """Config from a shipped name or the path of a TOML file, changed by ``key=value`` strings."""
    return _changed(_tree(source, ()), overrides, source)


def change(config: Config, overrides: Iterable[str]) -> Config:
    """The config with ``key=value`` strings, and nothing else, changed."""
    return _changed(to_tree(config), overrides, "--set")


def _changed(tree: dict[str, Any], overrides: Iterable[str], where: str) -> Config:
    for override in overrides:
        _override(tree, override)
    return parse(tree, where=where)


def _tree(source: str, extended_by: tuple[str, ...]) -> dict[str, Any]:
    """``extends = "other"`` at the top of a file: its values are those of the other, changed by its own."""
    configs = shipped()
    if source in configs:
        text = configs[source]
    elif os.path.isfile(source):
        text = read_text(Path(source), "a TOML file")
    else:
        where = f"config {extended_by[-1]}: extends" if extended_by else "config"
        raise TrainingError(f"{where}: got {source!r}, want a TOML file or one of {', '.join(sorted(configs))}")
    if source in extended_by:
        raise TrainingError(f"config {source}: extends itself, through {' and '.join(extended_by)}")
    tree = toml(text, f"config {source}")
    schedule = tree.get("schedule")
    if isinstance(schedule, dict) and schedule.keys() >= {"epochs", "iterations"}:
        raise TrainingError(f"config {source}: schedule: got epochs and iterations, want one of them")
    base = tree.pop("extends", None)
    return tree if base is None else _merged(_tree(str(base), (*extended_by, source)), tree)


def toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TrainingError(f"{where}: not TOML: {error}") from None


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged.pop(_INSTEAD.get(key, ""), None)
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged


def parse(tree: Mapping[str, Any], where: str = "config") -> Config:
    """Config from nested mappings, as TOML or JSON gives them."""
    try:
        # From JSON, because strict dataclasses take dicts and lists from nowhere else.
        config: Config = _ADAPTER.validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        lines = [explain(problem) for problem in error.errors()]
        raise TrainingError(f"config {where}:\n" + "\n".join(f"  {line}" for line in lines)) from None
    for name in ("scale", "aspect"):
        low, high = getattr(config.data.augmentation, name)
        if low > high:
            raise TrainingError(f"data.augmentation.{name}: got [{low}, {high}], want the smaller first")
    if len(set(config.arms)) < len(config.arms):
        raise TrainingError(f"arms: got {list(config.arms)}, want each once")
    if any("memory" in arm for arm in config.arms) and config.memory is None:
        raise TrainingError("memory: missing, want a table of it for the arms with memory")
    if config.schedule.epochs is None and config.schedule.iterations is None:
        raise TrainingError("schedule: has neither epochs nor iterations, want one")
    reached = 0
    for until, total in config.schedule.earlier:
        if not reached < until <= total:
            got = [list(pair) for pair in config.schedule.earlier]
            raise TrainingError(
                f"schedule.earlier: got {got}, want [until, total], each until larger, none above its total"
            )
        reached = until
    return config


def to_tree(config: Config) -> dict[str, Any]:
    """Nested dicts and lists; ``parse`` takes them back."""
    return dict(_ADAPTER.dump_python(config, mode="json"))


def differences(a: Config, b: Config) -> list[str]:
    """Dotted keys whose values differ."""
    left, right = flat(a), flat(b)
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def _override(tree: dict[str, Any], text: str) -> None:
    text = as_unicode(text, "--set")
    key, equals, value = text.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise TrainingError(f"--set: got {text!r}, want key=value, as in schedule.epochs=3")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    for parent in parents:
        if tree.get(parent) is None:  # a table that is not there
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise TrainingError(f"--set {text}: {parent} is a value, not a table")
    if parents == ["schedule"]:
        tree.pop(_INSTEAD.get(last, ""), None)
    tree[last] = parsed


def explain(problem: Mapping[str, Any]) -> str:
    """What is wrong with a key, in words."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        return f"{key}: unknown key (given {problem['input']!r})"
    if problem["type"] == "missing":
        return f"{key}: missing"
    wanted = problem["msg"].removeprefix("Input should be ").replace(" should ", " that should ")
    return f"{key}: got {problem['input']!r}, want {wanted}"


def flat(config: Config) -> dict[str, Any]:
    """Values by dotted key."""
    return _flat(to_tree(config))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
