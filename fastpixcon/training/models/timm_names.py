"""Networks of timm by name: what there is, and which of the tensors of its published weights is which of ours."""

import re
import sys
from collections.abc import Collection
from typing import Any

import timm
import torch
from timm.models import get_arch_name, get_pretrained_cfg, model_entrypoint
from timm.models.eva import Eva
from torch import Tensor

from fastpixcon.training import TrainingError
from fastpixcon.training.models import transformers_names
from fastpixcon.training.near import or_near

State = dict[str, Tensor]


def check_name(key: str, name: str, known: Collection[str], what: str, prefix: str) -> None:
    """Raise ``TrainingError`` if ``name``, which may end in one of timm's tags of weights, is not ``known``.

    Names of timm's networks begin with ``prefix``; ``what`` they are is said, too.
    """
    architecture, dot, tag = name.partition(".")
    if architecture not in known:
        near = or_near(name, known, "which timm.list_models() lists", prefix)
        raise TrainingError(f"{key}: got {name!r}, want {what}, {near}")
    if dot:
        tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{architecture.removeprefix(prefix)}.*")]
        if tag not in tags:
            wanted = f"one of {', '.join(tags)}" if tags else "none"
            raise TrainingError(f"{key}: got {name!r}, whose tag {tag!r} timm has not, want {wanted}")


def constants(name: str) -> dict[str, Any]:
    """Mean and deviation of the images that the network ``name`` was pretrained on."""
    found = get_pretrained_cfg(name)
    return {} if found is None else {"mean": found.mean, "std": found.std}


def create(name: str, **settings: Any) -> Any:
    """The network ``name`` without weights."""
    return timm.create_model(name, pretrained=False, **settings)


def published_names(state: State, network: Any) -> State:
    """Published weights of the network of timm in the encoder, by its names or those of transformers -> by ours.

    timm's own filter of the network knows the names of the authors, and resamples position embeddings and patches to
    the size that it has. What it has and the encoder has not (a head, stages that are not reached) is left out; an
    unknown tensor keeps its name.
    """
    encoder = network.encoder
    whole = _on_meta(encoder.name)
    rotary = isinstance(whole, Eva)
    if any(re.match(transformers_names.KNOWN_BY, key) for key in state):
        state = transformers_names.timm_names(state, rotary)
    if rotary:
        state = _without_zero_biases(state, whole, encoder.name)
    module = sys.modules[model_entrypoint(get_arch_name(encoder.name)).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = convert(dict(state), whole)
        except Exception as error:  # it takes for granted what it knows
            raise TrainingError(
                f"timm finds no weights of {encoder.name} in it: {type(error).__name__}: {error}"
            ) from error
    target, known = encoder.model.state_dict(), whole.state_dict()
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    renamed: State = {}
    for key, value in state.items():
        # Where timm takes maps out of a network it joins the first two parts of a name, or has it as ``model``.
        found = next((x for x in (key, key.replace(".", "_", 1), f"model.{key}") if x in target), None)
        if found:
            renamed[f"encoder.model.{found}"] = value
        elif key not in known and not key.startswith(heads):
            renamed[key] = value
    return renamed


def _on_meta(name: str) -> Any:
    """The network as timm makes it, with its head, without memory."""
    try:
        with torch.device("meta"):
            return create(name)
    except RuntimeError as error:
        if "meta tensors" not in str(error):  # of which some read a number while they are built
            raise
        return create(name).to("meta")


def _without_zero_biases(state: State, whole: Any, name: str) -> State:
    """DINOv3's queries and values have biases, of zeros in most files; timm has networks with and without."""
    if "storage_tokens" not in state or any(key.endswith("attn.q_bias") for key in whole.state_dict()):
        return state
    biases = [key for key in state if key.endswith("attn.qkv.bias")]
    filled = [key for key in biases if state[key].any()]
    if filled:
        raise TrainingError(
            f"{len(filled)} biases such as {filled[0]} are not zero; want {name.partition('.')[0]}_qkvb"
        )
    return {key: value for key, value in state.items() if key not in biases}
