"""Embeddings from any segmentation network: a projection head beside its classifier."""

import copy
import difflib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastpixcon import features, grids
from fastpixcon.ops import checks
from fastpixcon.outputs import segmentation

__all__ = ["ContrastModel", "projection_head"]


class ContrastModel(nn.Module):
    """A segmentation network and a projection head on the input of one of its layers (Wang et al. 2021).

    >>> model = ContrastModel(torchvision.models.segmentation.deeplabv3_resnet50(), at="classifier.4")
    >>> outputs = model(images)  # logits [B, K, H, W] as the network gives them, embeddings [B, 256, h, w]
    >>> predictions = F.interpolate(outputs["logits"].detach(), outputs["embeddings"].shape[-2:])  # [B, K, h, w]
    >>> loss = cross_entropy(outputs["logits"], labels) + 0.1 * contrast(outputs["embeddings"], labels, predictions)

    Args:
        model: any module whose output is logits [B, K, H, W], or a mapping (or a named tuple) with "logits" or "out",
            or an object with ``.logits``, or a tuple or list, whose first member that is one of these counts: a loss
            before it, [] or [B, H, W], does not. Or one that classifies masks, as Mask2Former: see below.
        at: name of the submodule, as in ``model.named_modules()``, whose first argument is the features: a map
            [B, C, h, w], as a rule of the last convolution, or [B, h, w, C], a volume [B, C, d, h, w], or the tokens
            [B, p + h w, C] of a transformer, of which the first p, of classes and registers, are left out. If it runs
            several times, the last time counts; if it writes to them in place, what it wrote. It is looked up in every
            forward, so the layer may be replaced.
        dim: D, width of the embeddings.
        channels: C; None: in_channels, num_features, in_features or the like of the first layer in the submodule that
            tells.
        grid: (h, w) of tokens, or (d, h, w); None: found in every forward by the size of the images, patch_size (an
            attribute of any part of the network, or of its config) and num_prefix_tokens (or the parameters of such
            tokens); where no part tells patch_size, by the aspect of the images.

    forward takes what ``model`` takes. It returns {"logits", "embeddings"}, and "auxiliary" if the output is a mapping
    with "aux" or "auxiliary", "loss" if it has one of that name; in eval mode no "embeddings": the head serves training
    only, and :meth:`embed`. Embeddings have any norm: the loss normalises the pixels it selects.

    The logits of a network that classifies masks are log sum_q softmax(classes)[q, k] sigmoid(masks)[q] without the
    last class, which is none: [B, K, h, w] in float32, of the size of the masks. Their argmax is the prediction as
    published, and cross-entropy of them is of the scores' share.

    Parts of the network may be frozen by ``requires_grad_(False)``, also all that is before ``at``: then the contrast
    trains the projection head alone. A gradient that is lost on its way is an error.

    The weights of ``model`` lie under ``model.`` in the state_dict, those of the head under ``projection.``.

    Raises:
        ValueError: ``at`` is no submodule (the nearest names are given); C, or the grid of tokens, cannot be told, may
            be several, or is another than named.
        RuntimeError: the submodule did not run; or, in training, its input has no gradient although parameters that
            require one are before it: a reentrant checkpoint, ``torch.no_grad`` or ``detach`` lies between.
        TypeError: the output has no logits, or more than one tensor that may be them, or the submodule takes something
            else than features.
    """

    grid: tuple[int, ...] | None = None
    _frozen: frozenset[str] = frozenset()  # parameters that are known not to be before the layer

    def __init__(
        self,
        model: nn.Module,
        at: str = "classifier.4",
        dim: int = 256,
        channels: int | None = None,
        grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: got {type(model).__name__}, want a torch.nn.Module")
        checks.positive_int("dim", dim)
        layer = _submodule(model, at)
        if channels is None:
            channels = grids.width(layer)
            if channels is None:
                raise ValueError(f"channels: got None, and {at!r} has no layer that tells; want the width of its input")
        checks.positive_int("channels", channels)
        self.model, self.at, self.dim, self.channels = model, at, dim, channels
        self.grid = _sizes(grid)
        self.projection = projection_head(channels, dim)
        weight = next((x for x in (*layer.parameters(), *model.parameters()) if x.is_floating_point()), None)
        if weight is not None:
            self.projection.to(weight.device, weight.dtype)
        features.watch(layer)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Called as ``model`` is: {"logits" [B, K, H, W], "embeddings" [B, dim, h, w] in training mode}."""
        if not self.training:
            return segmentation(self.model(*args, **kwargs))
        output, before = self._run(args, kwargs)
        outputs = segmentation(output)
        outputs["embeddings"] = self._project(before)
        return outputs

    def embed(self, *args: Any, normalize: bool = False, **kwargs: Any) -> Tensor:
        """Called as ``model`` is: embeddings [B, dim, h, w] in either mode, of any norm; where ``normalize``, of 1.

        The mode stays what it is, and the network and the head run in it: call ``eval()`` before, for what is a
        prediction. Gradients are torch's to decide: ``torch.no_grad()`` leaves them out.
        """
        embeddings = self._project(self._run(args, kwargs)[1])
        return F.normalize(embeddings, dim=1) if normalize else embeddings

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Tensor]:
        """The network's output, and the features before the layer."""
        layer = _submodule(self.model, self.at, "after the network was changed")
        output, inputs = features.run(self.model, layer, args, kwargs)
        if not inputs:
            raise RuntimeError(
                f"at: {self.at!r} did not run in this forward, want a submodule that the network calls (and, if a part"
                " of it was compiled before it was wrapped, torch.compiler.reset())"
            )
        before = self._features(inputs[-1], layer, grids.sizes_of_images(args, kwargs))
        if self.training and torch.is_grad_enabled() and not before.requires_grad:
            if not torch.compiler.is_compiling():
                self._check_frozen(layer, args, kwargs)
            elif all(isinstance(x, Tensor) for x in (*args, *kwargs.values())):
                _check_while_traced(self, layer, tuple(kwargs), *args, *kwargs.values())
        return output, before

    def _features(self, before: Any, layer: nn.Module, images: tuple[int, ...] | None) -> Tensor:
        """[B, C, *S]"""
        if not isinstance(before, Tensor) or not 3 <= before.ndim <= 5:
            got = list(before.shape) if isinstance(before, Tensor) else type(before).__name__
            raise TypeError(
                f"at: {self.at!r} takes {got}, want a submodule that takes features [B, C, h, w], a volume, or tokens"
                " [B, n, C]"
            )
        return grids.as_map(before, self.at, self.channels, self.grid, self.model, layer, images)

    def _project(self, before: Tensor) -> Tensor:
        """[B, C, *S] -> [B, D, *S]; the head is of pixels, so any S will do."""
        if before.ndim == 4:
            return self.projection(before)
        pixels = before[..., None] if before.ndim == 3 else before.flatten(3)  # [B, C, n, 1], [B, C, d, h w]
        embeddings: Tensor = self.projection(pixels)
        return embeddings.reshape(*embeddings.shape[:2], *before.shape[2:])

    def _check_frozen(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises if the features have no gradient but come from a parameter that wants one."""
        own = {id(x) for _, x in features.trained(layer)}
        trained = frozenset(name for name, x in features.trained(self.model) if id(x) not in own)
        if trained <= self._frozen:
            return
        name = features.made_of(self.model, layer, args, kwargs)
        if name is not None:
            raise RuntimeError(
                f"at: the features before {self.at!r} have no gradient, but are made with {name!r}, which requires one:"
                " a reentrant checkpoint, torch.no_grad() or detach() is in between; want use_reentrant=False, a layer"
                f" outside of it, or requires_grad_(False) for what is not to be trained"
            )
        self._frozen = trained

    def export(self) -> nn.Module:
        """A copy of the network as it is without the wrapper: no head, no hook, its own names of weights.

        Raises:
            RuntimeError: it is sharded by ``fully_shard``, of which torch makes no copies.
        """
        sharded = next((n for n, x in self.model.named_modules() if hasattr(x, "unshard")), None)
        if sharded is not None:
            raise RuntimeError(
                f"export: {sharded or 'the network'!r} is sharded, want a whole network: load what"
                " get_model_state_dict(model.model, options=StateDictOptions(full_state_dict=True)) gives into one"
            )
        model = copy.deepcopy(self.model)
        features.unwatch(model)
        return model

    def extra_repr(self) -> str:
        grid = "" if self.grid is None else f", grid={self.grid}"
        return f"at={self.at!r}, dim={self.dim}, channels={self.channels}{grid}"


def _check_while_traced(model: ContrastModel, layer: nn.Module, names: tuple[str, ...], *values: Tensor) -> bool:
    args, named = values[: len(values) - len(names)], values[len(values) - len(names) :]
    model._check_frozen(layer, args, dict(zip(names, named, strict=True)))
    return True


features.call_while_tracing(_check_while_traced)


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


def _submodule(model: nn.Module, at: str, when: str = "") -> nn.Module:
    try:
        if at:
            return model.get_submodule(at)
    except AttributeError:
        pass
    names = [name for name, _ in model.named_modules() if name]
    near = difflib.get_close_matches(at, names, n=5, cutoff=0.3) or names[-5:]
    got = f"got {at!r}" + (f", which is gone {when}" if when else "")
    raise ValueError(f"at: {got}, want the name of a submodule, such as {', '.join(map(repr, near))}")


def _sizes(grid: Any) -> tuple[int, ...] | None:
    if grid is None:
        return None
    if not isinstance(grid, Sequence) or isinstance(grid, str) or not 1 <= len(grid) <= 3:
        raise TypeError(f"grid: got {grid!r}, want (h, w), or (d, h, w) of a volume")
    for size in grid:
        checks.positive_int("grid", size)
    return tuple(grid)
