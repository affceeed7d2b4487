"""barrier.cluster: arrivals of all threads of a cluster, and the wait that each of them owes."""

from typing import TYPE_CHECKING

import numpy as np

from ..builder import unsupported
from ..errors import ClusterError
from ..memory.clocks import Snapshot
from ..operands import Inst
from ..types import Mask
from .control import Jump
from .states import State

if TYPE_CHECKING:
    from .machine import Machine


class ClusterBarriers:
    """Between its arrival and its wait, a thread has arrived; when all have, all may wait no more."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine

    def start_batch(self) -> None:
        self.has_arrived = np.zeros(self.machine.threads, bool)
        self.may_pass = np.zeros(self.machine.threads, bool)
        self.acquires = np.ones(self.machine.threads, bool)
        clusters = self.machine.ctas // self.machine.cluster_size
        self.seen: list[Snapshot | None] = [None] * clusters  # by those that have arrived
        self.released: list[Snapshot | None] = [None] * clusters

    def arrive(self, threads: np.ndarray, inst: Inst) -> None:
        machine = self.machine
        twice = threads[self.has_arrived[threads] | self.may_pass[threads]]
        if len(twice):
            message = "barrier.cluster.arrive a second time before barrier.cluster.wait"
            raise machine.located(ClusterError(message, int(twice[0])), inst)
        self.has_arrived[threads] = True
        for cluster in np.unique(machine.cluster_of[threads]).tolist():
            if "relaxed" not in inst.modifiers:
                warps = np.unique(machine.warp_of[threads[machine.cluster_of[threads] == cluster]])
                seen, before = machine.clocks.leave(warps), self.seen[cluster]
                if before is not None:
                    seen = [np.maximum(a, b) for a, b in zip(seen, before, strict=True)]
                self.seen[cluster] = seen
            self.complete(cluster)

    def complete(self, cluster: int) -> None:
        """If all that live have arrived."""
        machine = self.machine
        members = slice(cluster * machine.cluster_threads, (cluster + 1) * machine.cluster_threads)
        alive, arrived = machine.state[members] != State.EXITED, self.has_arrived[members]
        if not arrived.any() or not arrived[alive].all():
            return
        self.released[cluster], self.seen[cluster] = self.seen[cluster], None
        self.has_arrived[members] = False
        self.may_pass[members] = alive
        machine.progress += 1
        waiting = np.flatnonzero(machine.state[members] == State.AT_CLUSTER_BARRIER) + members.start
        if len(waiting):
            machine.state[waiting] = State.RUNNING
            machine.pc[waiting] += 1
            self.go_on(waiting)

    def wait(self, threads: np.ndarray, place: int, inst: Inst) -> None:
        machine = self.machine
        early = threads[~(self.has_arrived[threads] | self.may_pass[threads])]
        if len(early):
            message = "barrier.cluster.wait without barrier.cluster.arrive before"
            raise machine.located(ClusterError(message, int(early[0])), inst)
        self.acquires[threads] = "relaxed" not in inst.modifiers
        passing = threads[self.may_pass[threads]]
        machine.pc[threads] = place
        machine.state[threads[self.has_arrived[threads]]] = State.AT_CLUSTER_BARRIER
        machine.pc[passing] = place + 1
        self.go_on(passing)

    def go_on(self, threads: np.ndarray) -> None:
        machine = self.machine
        self.may_pass[threads] = False
        threads = threads[self.acquires[threads]]
        for cluster in np.unique(machine.cluster_of[threads]).tolist():
            released = self.released[cluster]
            if released is not None:
                machine.clocks.receive(
                    np.unique(machine.warp_of[threads[machine.cluster_of[threads] == cluster]]), released
                )

    def threads_exit(self, threads: np.ndarray) -> None:
        """Which counts as an arrival."""
        if self.has_arrived.any():
            for cluster in np.unique(self.machine.cluster_of[threads]).tolist():
                self.complete(cluster)


def cluster_barrier(machine: "Machine", inst: Inst) -> Jump:
    barriers = machine.cluster_barriers
    kind = inst.one_of("arrive", "wait")
    if kind is None:
        raise unsupported(inst)

    def step(pc: int, mask: Mask) -> int:
        threads = np.flatnonzero(machine.fall_through_where_guarded(inst, pc, mask))
        if kind == "wait":
            barriers.wait(threads, pc, inst)
        else:
            machine.pc[threads] = pc + 1
            barriers.arrive(threads, inst)
        return -1

    return step
