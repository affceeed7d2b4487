"""What the tests of executed kernels share, Triton's and CUDA's."""

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.testing import ContrastCase, MemoryCase, backward_arguments


def outputs_of(backend: str, case: Any) -> tuple[Tensor, ...]:
    """Of the forward, and of the backward if there is one; of all steps over a contrast set of several."""
    arguments = case.arguments()
    outputs = define.OVERLOADS[backend, case.operator](*arguments)
    if isinstance(case, ContrastCase):
        positives = define.OVERLOADS[backend, "contrast_positives"](*case.positives(arguments, outputs))
        gradient = define.OVERLOADS[backend, "contrast_gradient"](*case.gradient(arguments, outputs, positives))
        return (*outputs, *positives, *gradient)
    if isinstance(case, MemoryCase):
        positives = define.OVERLOADS[backend, "memory_positives"](*case.positives(arguments, outputs[0]))
        return (*outputs, *positives)
    backward = define.OVERLOADS.get((backend, f"{case.operator}_backward"))
    if backward is None:
        return outputs
    gradients = backward(*backward_arguments(case, arguments, outputs))
    return (*outputs, *((gradients,) if isinstance(gradients, Tensor) else gradients))


def without(pattern: str, which: int | None = None) -> Callable[[str], str]:
    """Removes lines of PTX: all that match, or one of them."""

    def edit(ptx: str) -> str:
        lines = ptx.splitlines()
        found = [i for i, line in enumerate(lines) if re.match(rf"\s*(@\S+ )?{pattern}", line)]
        for i in found if which is None else found[which : which + 1]:
            lines[i] = ""
        return "\n".join(lines)

    return edit
