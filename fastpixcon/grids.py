"""Maps [B, C, *S] of what a layer takes: of tokens, and of maps with channels last."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from fastpixcon.features import call_while_tracing

Sizes = tuple[int, ...]

# Parameters of a token, or of several, that come before those of the patches.
PREFIX_NAMES = frozenset({
    "cls_token", "class_token", "class_embedding", "dist_token", "distillation_token",
    "reg_token", "register_tokens", "storage_tokens",
})  # fmt: skip


def width(layer: nn.Module) -> int | None:
    """C of its input: that of the first layer in it that tells."""
    return next((found for found in map(_own_width, layer.modules()) if found is not None), None)


def _own_width(layer: nn.Module) -> int | None:
    for name in ("in_channels", "num_features", "in_features"):
        if isinstance(found := getattr(layer, name, None), int):
            return found
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    shape = getattr(layer, "normalized_shape", None)
    return shape[0] if isinstance(shape, tuple | list) and len(shape) == 1 else None


def sizes_of_images(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Sizes | None:
    """S of the first tensor [B, C, *S] of two sizes or more that a network is called with, also in a mapping."""
    return next((tuple(x.shape[2:]) for x in _tensors((*args, *kwargs.values())) if x.ndim > 3), None)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())


def as_map(
    x: Tensor, at: str, channels: int, grid: Sizes | None, network: nn.Module, layer: nn.Module, images: Sizes | None
) -> Tensor:
    """[B, C, *S], a view: of tokens [B, p + prod(S), C] without the first p, of a map [B, *S, C], or x itself.

    Args:
        x: what the layer takes, of three to five axes.
        at: the name of the layer.
        channels: C.
        grid: S of tokens, if it is named.
        images: sizes of the images that the network was called with.

    Raises:
        ValueError: C is another; the grid can't be told, or is not the one that is named.
    """
    axis = _axis(x, at, channels, grid, layer)
    if x.shape[axis] != channels:
        raise ValueError(f"channels: got {channels}, want {x.shape[axis]}, the features before {at!r}")
    if x.ndim == 3 and axis == 2:
        sizes = grid_of(x.shape[1], at, grid, network, images)
        return x[:, x.shape[1] - math.prod(sizes) :].mT.unflatten(2, sizes)
    features = x if axis == 1 else x.movedim(-1, 1)
    if grid is not None and tuple(features.shape[2:]) != grid:
        raise ValueError(f"grid: got {grid}, and {at!r} takes a map of {_by(features.shape[2:])}, want None")
    return features


def _axis(x: Tensor, at: str, channels: int, grid: Sizes | None, layer: nn.Module) -> int:
    """Which axis the channels are: 1 or the last."""
    last = x.ndim - 1
    told, by_itself = _told_axis(layer)
    fitting = [axis for axis in (1, last) if x.shape[axis] == channels]
    if len(fitting) == 1 and not by_itself:
        return fitting[0]
    if told:
        return 1 if told == 1 else last
    if x.ndim == 3 and len(fitting) == 2 and grid is None:
        raise ValueError(
            f"grid: got None, and {list(x.shape)} before {at!r} may be tokens [B, n, C] or a map [B, C, n], want the"
            " grid of the tokens, or a submodule that begins with a convolution, Linear or LayerNorm"
        )
    return last if x.ndim == 3 else 1


def _told_axis(layer: nn.Module) -> tuple[int, bool]:
    """1 or -1, or 0 where no layer in it tells; whether it is the layer itself that does."""
    for module in layer.modules():
        if isinstance(module, _ConvNd | _NormBase | nn.GroupNorm):
            return 1, module is layer
        if isinstance(module, nn.Linear):
            return -1, module is layer
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):  # subclasses of timm and transformers among them
            first = type(module).__name__.endswith("2d") or getattr(module, "data_format", "") == "channels_first"
            return 1 if first else -1, module is layer
    return 0, False


call_while_tracing(_told_axis)


def grid_of(n: int, at: str, grid: Sizes | None, network: nn.Module, images: Sizes | None) -> Sizes:
    """S of n tokens, of which those before the last prod(S) are of classes and registers.

    Raises:
        ValueError: it can't be told, or is not the one that is named.
    """
    patches, prefixes = told(network)
    if grid is not None:
        before = n - math.prod(grid)
        # Where nothing tells how many there are: fewer than another row would add.
        if before == 0 or before in prefixes or (not prefixes and 0 < before < min(grid)):
            return grid
        raise ValueError(
            f"grid: got {grid}, {math.prod(grid)} tokens, and {at!r} takes {n}{_of(images)} ({_described(prefixes)}),"
            " want the grid of these images, or num_prefix_tokens of the network set to what it is"
        )
    found: list[Sizes] = []
    for sizes in _fitting(n, patches, prefixes, images) if images is not None else ():
        if sizes not in found:
            found.append(sizes)
    if len(found) == 1:
        return found[0]
    if found:
        why = f"may be {' or '.join(map(_by, found))}"
    else:
        why = f"fit no grid that can be told ({_patches(patches)}; {_described(prefixes)})"
    raise ValueError(f"grid: got None, and the {n} tokens before {at!r}{_of(images)} {why}, want grid=(h, w)")


def _fitting(n: int, patches: Iterable[Sizes], prefixes: Sequence[int], images: Sizes) -> Iterator[Sizes]:
    for before in (0, *prefixes):
        for patch in patches:
            each = patch * len(images) if len(patch) == 1 else patch
            if len(each) == len(images):
                for rest in (0, 1):  # of the image is left out, or padded
                    sizes = tuple((s + rest * (p - 1)) // p for s, p in zip(images, each, strict=True))
                    if math.prod(sizes) + before == n:
                        yield sizes
        if not patches and prefixes and len(images) == 2 and n > before:
            yield from _by_aspect(n - before, *images)


def _by_aspect(n: int, H: int, W: int) -> Iterator[Sizes]:
    """Square patches that cut the image into n, without a rest."""
    h = 1
    while h * h * W < n * H:
        h += 1
    w = n // h
    if h * w == n and h * W == w * H and H % h == 0:
        yield h, w


def told(network: nn.Module) -> tuple[tuple[Sizes, ...], Sizes]:
    """Sizes of patches, and numbers of tokens before those of the patches, that any part of the network tells."""
    patches: set[Sizes] = set()
    prefixes: set[int] = set()
    configs: dict[int, Any] = {}
    for module in network.modules():
        own = vars(module)  # getattr is slow where there is none, and a network has hundreds of parts
        if "config" in own:
            configs[id(own["config"])] = own["config"]
        if "patch_size" in own:
            patches.update(_patch(own["patch_size"]))
        if "num_prefix_tokens" in own or hasattr(type(module), "num_prefix_tokens"):
            before = module.num_prefix_tokens
            prefixes.update([before] if isinstance(before, int) else ())
        elif not (PREFIX_NAMES.isdisjoint(module._parameters) and PREFIX_NAMES.isdisjoint(own)):
            tokens = [x for x in (getattr(module, name, None) for name in PREFIX_NAMES) if isinstance(x, Tensor)]
            prefixes.update([sum(x.shape[-2] if x.ndim > 1 else 1 for x in tokens)] if tokens else ())
    for config in configs.values():
        patches.update(_patch(getattr(config, "patch_size", None)))
    return tuple(sorted(patches)), tuple(sorted(prefixes))


call_while_tracing(told)


def _patch(size: Any) -> list[Sizes]:
    """None or one."""
    each = (size,) if isinstance(size, int) else size
    if not isinstance(each, tuple | list) or not each or not all(isinstance(x, int) for x in each):
        return []
    return [tuple(each) if len(set(each)) > 1 else (each[0],)]


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def _of(images: Sizes | None) -> str:
    return f" of images of {_by(images)}" if images is not None else ", of no images that are seen,"


def _patches(patches: Sequence[Sizes]) -> str:
    if not patches:
        return "the network tells no patch_size"
    return f"patch_size {' or '.join(map(_by, patches))}"


def _described(prefixes: Sequence[int]) -> str:
    if not prefixes:
        return "no tokens are told to be before the grid"
    return f"{' or '.join(map(str, prefixes))} tokens are told to be before the grid"
