"""Races in global memory. Here, the programs of a cluster are one.

Programs are ordered by releases and acquires only (clocks.py), so else one must not touch what another writes. The
warps of a program are ordered by its barriers, and so, stricter than the hardware, are the threads of a warp.
"""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ProxyError, RaceError
from ..types import S32, S64, U32, Active
from .addresses import Access, Kind
from .agents import is_bulk

if TYPE_CHECKING:
    from ..machine import Machine


class GlobalRaces:
    """Who last wrote every granule of the arrays of a launch, and who read it since."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.granule = machine.layout.global_granule  # bytes
        count = len(machine.globals.data) // self.granule
        self.writer = np.zeros(count, S64)  # thread of the launch, from 1; 0: none
        self.written = np.zeros(count, U32)  # clock of its warp
        self.write_was_strong = np.zeros(count, bool)
        self.write_was_bulk = np.zeros(count, bool)  # by the async proxy
        self.write_line = np.zeros(count, S32)
        self.reader = np.zeros(count, S64)  # the last one, from 1
        # clocks of the last reads by the warps of its program
        self.read = np.zeros((count, machine.cluster_warps), U32)
        self.shared = np.zeros(count, bool)  # read by several programs that nothing orders

    def watch(self, access: Access, addresses: np.ndarray, offsets: np.ndarray, size: int, active: Active) -> None:
        machine = self.machine
        threads = machine.all_threads if active is None else active
        places = offsets // self.granule
        if size > self.granule:
            count = size // self.granule
            places = (places[:, None] + np.arange(count)).reshape(-1)
            threads = np.repeat(threads, count)
        touch = Touch(self, access, places, threads)
        touch.check_against_writes()
        if touch.is_bulk and machine.options.proxy != "off":
            touch.check_proxies()
        if access.kind is Kind.READ:
            if not access.strong:
                touch.note_read()
        else:
            touch.check_against_reads()
            touch.note_write()


class Touch:
    """An access, by the granules that its threads touch."""

    def __init__(self, races: GlobalRaces, access: Access, places: np.ndarray, threads: np.ndarray) -> None:
        machine = races.machine
        self.races, self.access, self.places, self.threads = races, access, places, threads
        self.is_bulk = is_bulk(access.inst)
        self.launch_thread = machine.first_cta * machine.cta_threads + threads + 1
        self.warp, self.here = machine.warp_of[threads], machine.warp_in_cluster[threads]
        self.program = machine.first_cta // machine.cluster_size + machine.cluster_of[threads]
        self.now = machine.clocks.seen[self.warp, self.here]

    def across(self, launch_warp: np.ndarray) -> np.ndarray:
        """What the warps know of these of other programs."""
        table = self.races.machine.clocks.across
        return U32(0) if table is None else table[self.warp.reshape(-1, *[1] * (launch_warp.ndim - 1)), launch_warp]

    def check(self, wrong: np.ndarray, what: str) -> None:
        if not wrong.any():
            return
        machine = self.races.machine
        k = int(np.flatnonzero(wrong)[0])
        line = self.races.write_line[self.places[k]]
        where = f"which line {line} wrote" if line else "which nothing wrote before"
        message = f"global memory race: {self.access.inst.op} {what}, {where}"
        machine.report(machine.options.global_race, RaceError(message, int(self.threads[k])), self.access.inst)

    def check_against_writes(self) -> None:
        races, machine = self.races, self.races.machine
        writer = races.writer[self.places]
        if not writer.any():
            return
        written, before = races.written[self.places], writer - 1
        writers_warp = before % machine.cluster_threads // 32
        own = before // machine.cluster_threads == self.program
        seen = np.where(own, machine.clocks.seen[self.warp, writers_warp], self.across(before // 32))
        same_warp = own & (writers_warp == self.here) & (written == self.now) & (writer != self.launch_thread)
        wrong = (writer > 0) & ((written > seen) | same_warp)
        if self.access.strong:
            wrong &= ~races.write_was_strong[self.places]
        self.check(wrong, "without a barrier after a write")

    def check_proxies(self) -> None:
        """What the async proxy reads, the other must not have written without a fence of somebody who knew of it."""
        races, machine = self.races, self.races.machine
        writer, written = races.writer[self.places], races.written[self.places]
        covered = machine.clocks.proxied_globally[np.maximum(writer - 1, 0) // 32]
        wrong = (writer > 0) & (written > covered) & ~races.write_was_bulk[self.places]
        if wrong.any():
            k = int(np.flatnonzero(wrong)[0])
            line = races.write_line[self.places[k]]
            message = (
                f"{self.access.inst.op} by the async proxy, of what line {line} wrote with no fence.proxy.async between"
            )
            machine.report(machine.options.proxy, ProxyError(message, int(self.threads[k])), self.access.inst)

    def unseen_reads(self) -> np.ndarray:
        """Granules whose last readers, all of one program, this warp doesn't know to be done."""
        races, machine = self.races, self.races.machine
        reader = races.reader[self.places] - 1
        program, reads = reader // machine.cluster_threads, races.read[self.places]
        own = program == self.program
        unseen = (reads > machine.clocks.seen[self.warp, : machine.cluster_warps]).any(1) & own
        if not own.all():
            columns = np.maximum(program, 0)[:, None] * machine.cluster_warps + np.arange(machine.cluster_warps)
            unseen |= (reads > self.across(columns)).any(1) & ~own
        return unseen & (reader >= 0)

    def check_against_reads(self) -> None:
        races, machine = self.races, self.races.machine
        shared = races.shared[self.places]
        if shared.any() and (across := machine.clocks.across) is not None:
            # read by several programs: nothing races with one that has heard from every other
            by_program = across.reshape(len(across), machine.cta_count // machine.cluster_size, -1)
            heard = np.logical_or.reduce(by_program, axis=2)
            heard[machine.clocks.warps, machine.clocks.own[:, 0] // machine.cluster_warps] = True
            shared &= ~heard.all(1)[self.warp]
        self.check(shared | self.unseen_reads(), "without a barrier after a read")

    def note_read(self) -> None:
        races, machine = self.races, self.races.machine
        other = races.reader[self.places]
        other = (other > 0) & ((other - 1) // machine.cluster_threads != self.program)
        if other.any():
            races.shared[self.places] |= other if machine.clocks.across is None else other & self.unseen_reads()
            races.read[self.places[other]] = 0
        races.reader[self.places] = self.launch_thread
        races.read[self.places, self.here] = self.now

    def note_write(self) -> None:
        races = self.races
        races.writer[self.places] = self.launch_thread
        races.written[self.places] = self.now
        races.write_line[self.places] = self.access.line
        races.write_was_strong[self.places] = self.access.strong
        races.write_was_bulk[self.places] = self.is_bulk
        races.shared[self.places] = False
        if not self.access.strong:
            self.check(races.writer[self.places] != self.launch_thread, "by several threads at once")
