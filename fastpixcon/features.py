"""What a layer of a network is called with, and whether a gradient can reach what lies before it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


def keep_input(layer: Any, arguments: tuple[Any, ...], named: dict[str, Any] | None = None) -> None:
    """Forward pre-hook: the first argument of the layer, while somebody wants it.

    A plain function that writes to the layer it is called with, so that copies, pickles and replicas need no repair,
    and that another layer may inherit, as torch.ao's swaps have it.
    """
    wanted = getattr(layer, "_contrast_inputs", None)
    if wanted is not None:
        wanted.append(next(iter((*arguments, *(named or {}).values())), None))


def watch(layer: nn.Module) -> None:
    """Puts the hook on the layer, unless it has it: the one that bears a name now may not be the one that did."""
    if not any(hook is keep_input for hook in layer._forward_pre_hooks.values()):
        _register(layer)


def _register(layer: nn.Module) -> bool:
    layer.register_forward_pre_hook(keep_input, with_kwargs=True)
    return True


def call_while_tracing(function: Any) -> None:
    """Dynamo, which can't trace it, calls it on what is there when it traces; modules, tensors and constants may be its
    arguments. That is torch.compiler.assume_constant_result, which would import Dynamo."""
    function._dynamo_marked_constant = True


call_while_tracing(_register)


def unwatch(network: nn.Module) -> None:
    """Takes every hook off, also from layers that have been put into others or lost their names."""
    for layer in network.modules():
        for key in [key for key, hook in layer._forward_pre_hooks.items() if hook is keep_input]:
            del layer._forward_pre_hooks[key]
            layer._forward_pre_hooks_with_kwargs.pop(key, None)
        layer.__dict__.pop("_contrast_inputs", None)


def run(network: nn.Module, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Calls the network: its output, and what the layer was called with, each time."""
    watch(layer)
    inputs: list[Any] = []
    layer._contrast_inputs = inputs
    try:
        return network(*args, **kwargs), inputs
    finally:
        layer._contrast_inputs = None


def trained(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Its parameters that require a gradient, by name; also of a replica that DataParallel makes, which has none."""
    for prefix, layer in network.named_modules():
        for name, x in {**layer._parameters, **getattr(layer, "_former_parameters", {})}.items():
            if x is not None and x.requires_grad:
                yield f"{prefix}.{name}" if prefix else name, x


def made_of(network: nn.Module, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The name of a parameter with requires_grad that the layer's input comes from, whatever autograd says; or None.

    Runs the network once more, without gradient; random state and buffers are afterwards what they were.
    """
    args, kwargs = tree_map_only(Tensor, torch.clone, (args, kwargs))  # which it may write to
    saved = [(buffer, buffer.clone()) for buffer in network.buffers()]
    devices = {x.device for x in network.parameters() if x.device.type == "cuda"}
    torch.clear_autocast_cache()  # of casts that were made before the mode could see them
    with (
        torch.no_grad(),
        torch.random.fork_rng(sorted({x.index for x in devices})),
        _Origins(dict(trained(network))) as origins,
    ):
        inputs = run(network, layer, args, kwargs)[1]
    torch.clear_autocast_cache()  # of casts without gradient
    with torch.no_grad():
        for buffer, value in saved:
            buffer.copy_(value)
    return origins.of(inputs[-1:])


class _Origins(TorchDispatchMode):
    """Follows tensors through all that is computed from them, where autograd does not look, too."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = WeakIdKeyDictionary()
        for name, x in named.items():
            self._names[x] = name

    def of(self, values: Iterable[Any]) -> str | None:
        """The name of one that any of the values comes from."""
        return next((self._names[x] for x in values if isinstance(x, Tensor) and x in self._names), None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = self.of(tree_leaves((args, kwargs)))
        if name is not None:
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self._names[x] = name
        return result
