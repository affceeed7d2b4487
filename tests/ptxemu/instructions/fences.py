"""Fences, and sleep."""

from typing import TYPE_CHECKING

from ..builder import builds
from ..memory.clocks import is_fence
from ..operands import Inst
from ..types import Mask, Step

if TYPE_CHECKING:
    from ..machine import Machine


@builds("fence", "membar")
def fence(machine: "Machine", inst: Inst) -> Step:
    """Nothing to do for memory, which is sequentially consistent here; of the program alone, no order either."""
    if any(x.startswith("async") for x in inst.modifiers):  # .proxy.async
        spaces = ("shared", "global") if inst.space == "generic" else (inst.space,)
        return lambda mask: machine.clocks.fence_proxies(machine.warps_of(mask), spaces)
    if not is_fence(inst):
        return lambda mask: None
    return lambda mask: machine.clocks.fence(machine.warps_of(mask))


@builds("nanosleep")
def sleep(machine: "Machine", inst: Inst) -> Step:
    """A loop that waits: let the others go on."""

    def step(mask: Mask) -> None:
        machine.spinning = 99

    return step
