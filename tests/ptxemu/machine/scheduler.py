"""Which threads go on: those at the lowest place, so that the others, behind a branch, catch up.

A group of threads at one place runs up to the next control instruction, or to where another group waits.
"""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import EmuError, StepLimitError
from .deadlocks import deadlock
from .ends import check_end
from .linker import Kind
from .states import State

if TYPE_CHECKING:
    from .machine import Machine

NOWHERE = 1 << 30


class Scheduler:
    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.steps = 0  # control instructions so far
        self.place = 0

    def run(self) -> None:
        """Until all threads of the batch have left."""
        machine = self.machine
        self.turn = 0  # other than 0 while groups that loop take turns
        self.streak = 0  # jumps backwards
        while True:
            running = machine.state == State.RUNNING
            if not running.any():
                if machine.alive_count == 0:
                    return
                if not self.something_goes_on():
                    raise deadlock(machine)
                continue
            places = np.where(running, machine.pc, NOWHERE)
            self.place = int(places.min())
            patience = NOWHERE
            if self.turn:
                machine.mbarriers.deliver_to_waiting()
                groups = np.unique(places[running])
                self.place = int(groups[self.turn % len(groups)])
                patience = machine.options.fair_quantum
                self.turn = self.turn + 1 if self.turn < 1000 and len(groups) > 1 else 0
            group = places == self.place
            others = places[places > self.place]
            stop = int(others.min()) if len(others) else NOWHERE
            are_others = np.count_nonzero(group) != np.count_nonzero(running)
            everyone = np.count_nonzero(group) == machine.alive_count
            self.run_group(group, None if everyone else group, stop, are_others, patience)
            self.check_steps()

    def something_goes_on(self) -> bool:
        """What is under way by itself may end, and waits may be in vain."""
        machine = self.machine
        return machine.mbarriers.deliver_to_waiting() or machine.mbarriers.give_up()

    def check_steps(self) -> None:
        if self.steps > self.machine.options.max_steps:
            thread = int(np.flatnonzero(self.machine.alive)[0])
            raise StepLimitError(f"no end after {self.steps} jumps; endless loop?", thread)

    def run_group(self, group: np.ndarray, mask: np.ndarray | None, stop: int, are_others: bool, patience: int) -> None:
        machine = self.machine
        program, code, counts = machine.program, machine.code, machine.counts
        kinds, quantum = program.kinds, machine.options.fair_quantum
        by_warp = group.reshape(-1, 32)
        warps = by_warp.any(1)
        whole_warps = bool((warps == by_warp.all(1)).all()) and not (
            mask is not None and (machine.state == State.AWAITS_LANES).any()
        )
        ends = program.next_control if whole_warps else program.next_together
        warp_count = int(np.count_nonzero(warps))
        place = self.place
        while True:
            start, place = place, min(ends[place], stop)
            for self.place in range(start, place):
                code[self.place](mask)
            counts[start] += warp_count
            counts[place] -= warp_count
            if place == stop:
                machine.pc[group] = place
                return
            self.place = place
            counts[place] += warp_count
            counts[place + 1] -= warp_count
            self.steps += 1
            if kinds[place] is Kind.TOGETHER:
                target = machine.single_lanes(place)(place, mask)
            else:
                target = code[place](place, mask)
            if target < 0:
                return
            if (target <= place and self.is_tired(are_others, patience, quantum)) or target >= stop:
                machine.pc[group] = target
                return
            place = target

    def is_tired(self, are_others: bool, patience: int, quantum: int) -> bool:
        """After a jump backwards: is it the others' turn?"""
        self.streak += 1
        self.check_steps()
        if are_others and (self.streak >= quantum or self.machine.spinning > 8):
            self.machine.spinning = 0
            self.turn = max(self.turn, 1)
        elif self.streak < patience:
            return False
        self.streak = 0
        return True


def run_batch(machine: "Machine") -> None:
    """Runs the programs of a batch; an error says where they failed."""
    scheduler = machine.scheduler
    try:
        scheduler.run()
    except EmuError as error:
        machine.located(error, machine.insts[scheduler.place])
        raise
    except Exception as error:
        inst = machine.insts[scheduler.place]
        raise EmuError(
            f"{machine.entry.name}: internal error at PTX line {inst.line} ({inst.text}): "
            f"{type(error).__name__}: {error}"
        ) from error
    check_end(machine)
