"""Bulk groups: copies from shared memory that a thread waits for."""

from typing import TYPE_CHECKING, NamedTuple

from ..operands import Inst

if TYPE_CHECKING:
    from .machine import Machine


class Reading(NamedTuple):
    inst: Inst
    thread: int
    column: int  # of its agent
    tick: int


class BulkGroups:
    """Groups of each thread, oldest first; the last one is not committed yet."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine

    def start_batch(self) -> None:
        self.groups: dict[int, list[list[Reading]]] = {}

    def start(self, copy: Reading) -> None:
        self.groups.setdefault(copy.thread, [[]])[-1].append(copy)

    def commit(self, thread: int) -> None:
        self.groups.setdefault(thread, [[]]).append([])

    def wait(self, thread: int, pending: int) -> None:
        """Until at most so many groups are under way."""
        groups = self.groups.get(thread)
        if groups is None:
            return
        *committed, still_open = groups
        covered = committed[: max(0, len(committed) - pending)]
        self.groups[thread] = [*committed[len(covered) :], still_open]
        clocks = self.machine.clocks
        warp = self.machine.warp_of[thread : thread + 1]
        for copy in (copy for group in covered for copy in group):
            clocks.learn_of_agent(warp, copy.column, copy.tick)

    def reading(self) -> list[Reading]:
        return [copy for groups in self.groups.values() for group in groups for copy in group]
