"""Weights of other programs: which tensor of theirs is which of ours.

Names follow the published files: torchvision's, those of HRNet's authors (timm's are the same), of
github.com/tfzhou/ContrastiveSeg (Wang et al. 2021), of transformers, of segmentation-models-pytorch and of timm.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor

from fastpixcon.training import TrainingError
from fastpixcon.training.checkpoint import unread
from fastpixcon.training.models import segformer, smp, timm_names, transformers_names, vit
from fastpixcon.training.models.contrast import ContrastNetwork

State = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """How one publication names its tensors; names are matched from their start."""

    what: str  # for the error message
    known_by: str  # a name that only it has
    renames: tuple[tuple[str, str], ...]  # pattern -> ours; the first that matches
    fills: tuple[str, ...]  # parts of the network that it has to fill; others it fills wholly or not at all
    dropped: str = r"(?!)"  # names that we have no use for
    folded: tuple[tuple[str, str], ...] = ()  # convolutions whose bias goes into the batch norm after them
    bgr: bool = False  # channels blue, green, red, normalised in this order by the constants for red, green, blue
    convert: Callable[[State, ContrastNetwork], State] | None = None  # before the renames


_OURS = Published(
    "model.pt of fastpixcon", r"encoder\.", ((r"", ""),), ("encoder", "decoder", "classifier", "auxiliary")
)

_RESNET = (
    Published(
        "ResNet (ImageNet)", r"layer4\.", ((r"(?=(conv1|bn1|layer\d)\.)", "encoder."),), ("encoder",), dropped=r"fc\."
    ),
    Published(
        "torchvision's DeepLabV3",
        r"backbone\.layer4\.",
        ((r"backbone\.", "encoder."), (r"(?=classifier\.)", ""), (r"aux_classifier\.", "auxiliary.1.")),
        ("encoder", "classifier"),
    ),
)

_IMAGENET_HEAD = r"(incre_modules|downsamp_modules|final_layer|classifier)\."
_HRNET_IMAGENET = Published(
    "HRNet (ImageNet)",
    r"stage4\.",
    ((r"(?=(conv\d|bn\d|layer1|transition\d|stage\d)\.)", "encoder."),),
    ("encoder",),
    dropped=_IMAGENET_HEAD,
)
_QUEUES = r"(segment|pixel)_queue"  # the memory bank of the published code
# A batch norm and its ReLU are one Sequential there, a single module where inplace_abn was used.
_PROJECTION = (
    (r"proj_head\.proj\.0\.", "projection.0."),
    (r"proj_head\.proj\.1\.(0\.)?", "projection.1."),
    (r"proj_head\.proj\.2\.", "projection.3."),
)
_CONTRASTIVE_HRNET = Published(
    "ContrastiveSeg's HRNet",
    r"backbone\.stage4\.",
    (
        (r"backbone\.", "encoder."),
        (r"cls_head\.0\.", "classifier.0."),
        (r"cls_head\.1\.(0\.)?", "classifier.1."),
        (r"cls_head\.3\.", "classifier.4."),
        *_PROJECTION,
    ),
    ("encoder", "classifier"),
    dropped=rf"{_QUEUES}|backbone\.{_IMAGENET_HEAD}",
    folded=(("classifier.0", "classifier.1"), ("projection.0", "projection.1")),
    bgr=True,
)


def _blocks(theirs: str, ours: str, blocks: int) -> tuple[tuple[str, str], ...]:
    """Renames of convolution, batch norm and ReLU, ``blocks`` times."""
    return tuple(
        rename
        for i in range(blocks)
        for rename in (
            (rf"{theirs}\.{2 * i}\.", f"{ours}.{3 * i}."),
            (rf"{theirs}\.{2 * i + 1}\.(0\.)?", f"{ours}.{3 * i + 1}."),
        )
    )


_ATTENTION = r"ocr_distri_head\.object_context_block"
_CONTRASTIVE_OCR = Published(
    "ContrastiveSeg's HRNet with OCR",
    r"ocr_distri_head\.",
    (
        (r"backbone\.", "encoder."),
        *_blocks(r"aux_head", "auxiliary", 1),
        (r"aux_head\.2\.", "auxiliary.3."),
        *_blocks(r"conv3x3", "classifier.reduce", 1),
        *_blocks(rf"{_ATTENTION}\.f_pixel", "classifier.pixel", 2),
        *_blocks(rf"{_ATTENTION}\.f_object", "classifier.region", 2),
        *_blocks(rf"{_ATTENTION}\.f_down", "classifier.down", 1),
        *_blocks(rf"{_ATTENTION}\.f_up", "classifier.up", 1),
        *_blocks(r"ocr_distri_head\.conv_bn_dropout", "classifier.fuse", 1),
        (r"cls_head\.", "classifier.classifier."),
        *_PROJECTION,
    ),
    ("encoder", "classifier", "auxiliary"),
    dropped=rf"{_QUEUES}|backbone\.{_IMAGENET_HEAD}",
    folded=(
        ("auxiliary.0", "auxiliary.1"),
        *(
            (f"classifier.{part}.{i}", f"classifier.{part}.{i + 1}")
            for part, starts in (("reduce", (0,)), ("pixel", (0, 3)), ("region", (0, 3)), ("down", (0,)), ("up", (0,)))
            for i in starts
        ),
        ("classifier.fuse.0", "classifier.fuse.1"),
        ("projection.0", "projection.1"),
    ),
    bgr=True,
)

_SEGFORMER = (
    Published(
        "transformers' SegFormer",
        r"decode_head\.",
        ((r"", ""),),
        ("encoder", "decoder", "classifier"),
        convert=segformer.published_names,
    ),
    Published(
        "transformers' MiT (ImageNet)",
        r"segformer\.",
        ((r"", ""),),
        ("encoder",),
        dropped=r"classifier\.",
        convert=segformer.published_names,
    ),
)

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "deeplabv3plus_efficientnet_lite0": (),
    "deeplabv3_resnet50": _RESNET,
    "deeplabv3_resnet101": _RESNET,
    "hrnet_w18": (_HRNET_IMAGENET, _CONTRASTIVE_HRNET),
    "hrnet_w48": (_HRNET_IMAGENET, _CONTRASTIVE_HRNET),
    "hrnet_w48_ocr": (_HRNET_IMAGENET, _CONTRASTIVE_OCR),
    **dict.fromkeys(segformer.VARIANTS, _SEGFORMER),
}

_ANYTHING = r""
_SMP = Published(
    "segmentation-models-pytorch's network",
    r"segmentation_head\.",
    ((r"", ""),),
    ("encoder", "decoder", "classifier"),
    dropped=r"classification_head\.",
    convert=smp.published_names,
)
_SMP_ENCODER = Published(
    "the encoder of smp",
    _ANYTHING,
    ((r"", "encoder."),),
    ("encoder",),
    dropped=r"(_?fc|classifier|head|last_linear|logits)\.",
)
_OF_TIMM = (TimmUniversalEncoder, TimmViTEncoder, vit.Tokens)  # they have its network, or parts, as ``model``


def _candidates(network: ContrastNetwork, name: str) -> tuple[Published, ...]:
    """Who may have written weights of ``network``; the first that knows a name of theirs has."""
    if name in PUBLISHED:
        return (_OURS, *PUBLISHED[name])
    whole = (_SMP,) if name.startswith(smp.PREFIX) else ()
    if not isinstance(network.encoder, _OF_TIMM):
        return (*whole, _OURS, _SMP_ENCODER)
    by_timm = Published(
        f"timm's {network.encoder.name}", _ANYTHING, ((r"", ""),), ("encoder",), convert=timm_names.published_names
    )
    # First, for its transformers have an "encoder" as we do.
    by_transformers = replace(by_timm, what="a vision model of transformers", known_by=transformers_names.KNOWN_BY)
    return (by_transformers, *whole, _OURS, by_timm)


def load_checkpoint(network: ContrastNetwork, name: str, path: str) -> None:
    """Fill the network ``name`` of MODELS with the weights at ``path``, its parts that they are for.

    Raises:
        TrainingError: the file cannot be read, is of nothing known, or its tensors do not fit, which are named.
    """
    state = read(path)
    candidates = _candidates(network, name)
    source = next((p for p in candidates if any(re.match(p.known_by, key) for key in state)), None)
    if source is None:
        wanted = ", ".join(p.what for p in candidates)
        raise TrainingError(
            f"model.checkpoint {path}: got tensors {_listed(list(state))}; {name} wants one of {wanted}"
        )
    try:
        given = _renamed(state, source, network)
    except TrainingError as error:
        raise TrainingError(f"model.checkpoint {path} does not fit {name}: {error}") from error
    target = network.state_dict()
    problems = _problems(given, target, source)
    if problems:
        lines = "\n".join(f"  {line}" for line in problems)
        raise TrainingError(f"model.checkpoint {path} does not fit {name}, as {source.what}:\n{lines}")
    if source.bgr:
        given["encoder.conv1.weight"] = given["encoder.conv1.weight"].flip(1)
        given["mean"], given["std"] = target["mean"].flip(0), target["std"].flip(0)
    network.load_state_dict(given, strict=False)


def read(path: str) -> State:
    """Tensors by name from a file of torch.save or safetensors, with what training programs put around them off."""
    if not os.path.isfile(path):
        raise TrainingError(f"model.checkpoint: got {path!r}, want a file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            stored: Any = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different one for every kind of damage
        raise TrainingError(f"model.checkpoint {path}: no weights that can be read safely: {unread(error)}") from None
    for key in ("state_dict", "model"):
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    state = {k: v for k, v in stored.items() if isinstance(v, Tensor)} if isinstance(stored, Mapping) else {}
    if not state:
        raise TrainingError(f"model.checkpoint {path}: got {type(stored).__name__}, want tensors by name")
    if all(key.startswith("module.") for key in state):  # of DistributedDataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _renamed(state: State, source: Published, network: ContrastNetwork) -> State:
    state = {key: value for key, value in state.items() if not re.match(source.dropped, key)}
    if source.convert is not None:
        state = source.convert(state, network)
    renamed: State = {}
    for key, value in state.items():
        pattern, ours = next(((p, o) for p, o in source.renames if re.match(p, key)), ("", ""))
        renamed[re.sub(pattern, ours, key, count=1)] = value
    for conv, norm in source.folded:
        bias, mean = renamed.get(f"{conv}.bias"), renamed.get(f"{norm}.running_mean")
        if bias is not None and mean is not None and bias.shape == mean.shape:
            renamed[f"{norm}.running_mean"] = mean - renamed.pop(f"{conv}.bias")
    return renamed


def _problems(given: State, target: State, source: Published) -> list[str]:
    """What is missing, unexpected or of another shape, a line each."""
    parts = {key.split(".")[0] for key in given} | set(source.fills)
    optional = ("num_batches_tracked", "mean", "std")  # of batch norms; of the images, for which there are defaults
    wanted = [key for key in target if key.split(".")[0] in parts and key.split(".")[-1] not in optional]
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in target]
    shapes = [
        f"{key}: got {list(value.shape)}, want {list(target[key].shape)}"
        for key, value in given.items()
        if key in target and value.shape != target[key].shape
    ]
    return [
        *([f"{len(missing)} missing: {_listed(missing)}"] if missing else []),
        *([f"{len(unexpected)} unexpected: {_listed(unexpected)}"] if unexpected else []),
        *([f"{len(shapes)} of another shape: {_listed(shapes)}"] if shapes else []),
    ]


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
