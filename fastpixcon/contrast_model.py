"""Embeddings from any segmentation network: a projection head beside its classifier."""

import copy
import difflib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fastpixcon.ops import checks

__all__ = ["ContrastModel", "projection_head"]


class ContrastModel(nn.Module):
    """A segmentation network and a projection head on the input of one of its layers (Wang et al. 2021).

    >>> model = ContrastModel(torchvision.models.segmentation.deeplabv3_resnet50(), at="classifier.4")
    >>> outputs = model(images)  # logits [B, K, H, W] as the network gives them, embeddings [B, 256, h, w]
    >>> predictions = F.interpolate(outputs["logits"].detach(), outputs["embeddings"].shape[-2:])  # [B, K, h, w]
    >>> loss = cross_entropy(outputs["logits"], labels) + 0.1 * contrast(outputs["embeddings"], labels, predictions)

    Args:
        model: any module whose output is logits [B, K, H, W], or a mapping with "logits" or "out", or an object with
            ``.logits``, or a tuple or list of which the first is one of these.
        at: name of the submodule, as in ``model.named_modules()``, whose first argument is the features [B, C, h, w]:
            as a rule the last convolution. If it runs several times, the last time counts.
        dim: D, width of the embeddings.
        channels: C; None: in_channels or num_features of the first layer in the submodule that has them.

    forward takes what ``model`` takes. It returns {"logits", "embeddings"}, and "auxiliary" if the output is a mapping
    with "aux" or "auxiliary"; in eval mode no "embeddings": the head serves training only. Embeddings have any norm:
    the loss normalises the pixels it selects.

    The weights of ``model`` lie under ``model.`` in the state_dict, those of the head under ``projection.``.

    Raises:
        ValueError: ``at`` is no submodule (the nearest names are given), or C cannot be told or is another.
        RuntimeError: the submodule did not run.
        TypeError: the output has no logits, or the submodule takes something else than a map of features.
    """

    def __init__(self, model: nn.Module, at: str = "classifier.4", dim: int = 256, channels: int | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: got {type(model).__name__}, want a torch.nn.Module")
        checks.positive_int("dim", dim)
        layer = _submodule(model, at)
        if channels is None:
            channels = _channels(layer, at)
        checks.positive_int("channels", channels)
        self.model, self.at, self.dim, self.channels = model, at, dim, channels
        self.projection = projection_head(channels, dim)
        weight = next((x for x in (*layer.parameters(), *model.parameters()) if x.is_floating_point()), None)
        if weight is not None:
            self.projection.to(weight.device, weight.dtype)
        # A plain function that writes to the layer it is called with: copies and pickles of the model need no repair.
        layer._contrast_inputs = None  # type: ignore[assignment]
        self._hook = layer.register_forward_pre_hook(_keep_input)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Called as ``model`` is: {"logits" [B, K, H, W], "embeddings" [B, dim, h, w] in training mode}."""
        if not self.training:
            return _segmentation(self.model(*args, **kwargs))
        layer: Any = self.model.get_submodule(self.at)
        inputs: list[Any] = []
        layer._contrast_inputs = inputs
        try:
            outputs = _segmentation(self.model(*args, **kwargs))
        finally:
            layer._contrast_inputs = None
        if not inputs:
            raise RuntimeError(f"at: {self.at!r} did not run in this forward, want a submodule that the network calls")
        outputs["embeddings"] = self.projection(self._features(inputs[-1]))
        return outputs

    def _features(self, features: Any) -> Tensor:
        if not isinstance(features, Tensor) or features.ndim != 4:
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"at: {self.at!r} takes {got}, want a submodule that takes features [B, C, h, w]")
        if features.shape[1] != self.channels:
            raise ValueError(
                f"channels: got {self.channels}, want {features.shape[1]}, the features before {self.at!r}"
            )
        return features

    def export(self) -> nn.Module:
        """A copy of the network as it was before it was wrapped: no head, no hook, its own names of weights."""
        model, hook = copy.deepcopy((self.model, self._hook))
        hook.remove()
        del model.get_submodule(self.at)._contrast_inputs
        return model

    def extra_repr(self) -> str:
        return f"at={self.at!r}, dim={self.dim}, channels={self.channels}"


def projection_head(channels: int, dim: int) -> nn.Sequential:
    """1x1 convolution, batch norm, ReLU, 1x1 convolution: features [B, C, h, w] -> [B, D, h, w], of any norm.

    The loss normalises the pixels it selects.

    Args:
        channels: C.
        dim: D.
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, dim, 1),
    )


def _keep_input(layer: Any, arguments: tuple[Any, ...]) -> None:
    """Forward pre-hook: what the layer is called with, while a ContrastModel wants it."""
    if layer._contrast_inputs is not None:
        layer._contrast_inputs.append(arguments[0] if arguments else None)


def _submodule(model: nn.Module, at: str) -> nn.Module:
    modules = dict(model.named_modules())
    if at == "" or at not in modules:
        names = [name for name in modules if name]
        near = difflib.get_close_matches(at, names, n=5, cutoff=0.3) or names[-5:]
        raise ValueError(f"at: got {at!r}, want the name of a submodule, such as {', '.join(map(repr, near))}")
    return modules[at]


def _channels(layer: nn.Module, at: str) -> int:
    for module in layer.modules():
        for name in ("in_channels", "num_features"):
            if isinstance(found := getattr(module, name, None), int):
                return found
    raise ValueError(f"channels: got None, and {at!r} has no layer with in_channels; want the width of its input")


def _segmentation(output: Any) -> dict[str, Tensor]:
    """Logits, and auxiliary logits if there are any, from what a network returned."""
    if isinstance(output, tuple | list) and output:
        return _segmentation(output[0])
    if isinstance(output, Tensor):
        return {"logits": output}
    if isinstance(output, Mapping):
        found = {
            ours: output[theirs]
            for ours, names in (("logits", ("logits", "out")), ("auxiliary", ("auxiliary", "aux")))
            for theirs in names[::-1]
            if theirs in output
        }
        if isinstance(found.get("logits"), Tensor):
            return found
    elif isinstance(logits := getattr(output, "logits", None), Tensor):
        return {"logits": logits}
    got = f"keys {list(output)}" if isinstance(output, Mapping) else type(output).__name__
    raise TypeError(f"model: its output has {got}, want logits: a tensor, 'logits' or 'out' of a mapping, or .logits")
