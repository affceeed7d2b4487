"""Which parameters of a network its outputs depend on: some encoders have stages that a decoder does not take."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def freeze_unreached(model: nn.Module, sides: Sequence[int]) -> list[str]:
    """Takes the gradient from parameters that no output depends on, of which several processes would wait for one.

    Args:
        model: images [B, 3, H, W] -> outputs by name; its forward and backward run without memory.
        sides: [H, W] of such images.

    Returns:
        Names of the parameters.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    blank = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(isinstance(tensor, nn.Parameter))
        for name, tensor in tensors.items()
    }
    training = model.training
    images = torch.empty(2, 3, *sides, device="meta")
    outputs: dict[str, Tensor] = torch.func.functional_call(model.train(), blank, (images,))
    torch.stack([output.float().sum() for output in outputs.values()]).sum().backward()
    model.train(training)
    unreached = [name for name, _ in model.named_parameters() if blank[name].grad is None]
    for name in unreached:
        model.get_parameter(name).requires_grad_(False)
    return unreached
