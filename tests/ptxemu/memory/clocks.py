"""Vector clocks: what of the work of other warps each warp has seen.

Within a program they are joined at barriers; so are those of the programs of a cluster, which share them. Across
clusters, by a release and an acquire: a fence and then an atomic (or a store) of one, an atomic (or a load) of the same
place and then a fence of the other.

What reads and writes shared memory by itself (agents.py) has columns behind those of the warps: its ticks are known to
who has waited for it.
"""

from typing import TYPE_CHECKING

import numpy as np

from ..operands import Inst
from ..types import S64, U32, Active
from .addresses import Access, Kind

if TYPE_CHECKING:
    from ..machine import Machine

Snapshot = list[np.ndarray]  # a row of every table


def is_fence(inst: Inst) -> bool:
    """Of more than the program; membar.gl is fence.sc.gpu."""
    narrow = {"cta", "cluster", "proxy", "mbarrier_init"}
    return inst.op in ("fence", "membar") and not narrow & {x.split("::")[0] for x in inst.modifiers}


def orders_programs(inst: Inst) -> bool:
    if inst.op not in ("ld", "st", "atom", "red"):
        return is_fence(inst)
    access = Access(inst, Kind.READ)
    return inst.space in ("global", "generic") and (access.acquires or access.releases)


class Clocks:
    """A warp's own clock goes on when something may come to know of its work so far."""

    def __init__(self, machine: "Machine", across: bool) -> None:
        self.machine, self.agents = machine, machine.agents
        self.warps = np.arange(machine.warps)
        self.width: int = machine.cluster_warps
        self.place = self.warps % self.width  # in its cluster, which mostly is a program
        self.columns: int = self.width + self.agents.count
        self.seen: np.ndarray = np.zeros((machine.warps, self.columns), U32)  # [warps, warps and agents of the cluster]
        self.flat: np.ndarray = self.seen.reshape(-1)
        self.tables = [self.seen]
        # what it was at the last fence between the proxies, so far as a warp knows: what the async proxy sees
        self.proxied: np.ndarray | None = None
        if self.agents.count:
            self.proxied = np.zeros_like(self.seen)
            self.tables.append(self.proxied)
        self.launch_warps = machine.cta_count * machine.cta_warps
        self.proxied_globally = np.zeros(self.launch_warps, U32)  # of the warps of the launch
        self.across: np.ndarray | None = None
        if across:
            launch = (machine.warps, self.launch_warps)
            self.across = np.zeros(launch, U32)  # [warps, warps of the launch]
            self.acquired = np.zeros(launch, U32)  # what the next fence adds to it
            self.fenced = np.zeros(launch, U32)  # what it was at the last fence, which an atomic then releases
            self.tables += [self.across, self.acquired, self.fenced]
        self.released: dict[int, np.ndarray] = {}  # by the place of the atomic
        self.known_least: int | None = None

    def start_batch(self) -> None:
        for table in self.tables:
            table[:] = 0
        self.advance(self.warps)
        first = self.machine.first_cta * self.machine.cta_warps
        launch_cluster = self.warps // self.width * self.width + first
        self.own = launch_cluster[:, None] + np.arange(self.width)  # columns of the own cluster
        # in the last batch some programs don't exist
        self.own = np.minimum(self.own, self.launch_warps - 1)

    def advance(self, warps: np.ndarray) -> None:
        self.seen[warps, self.place[warps]] += U32(1)
        self.known_least = None

    def least(self) -> int:
        """What all live warps have seen of all others of their programs: work up to this clock is no race."""
        if self.known_least is None:
            alive = self.machine.alive.reshape(-1, 32).any(1)
            seen = self.seen[alive]
            self.known_least = int(seen[:, : self.width].min(initial=2**32 - 1))
            if self.agents.count:  # those that all have waited for are no bound
                of_agents = seen[:, self.width :]
                behind = of_agents < self.agents.last[self.warps[alive] // self.width]
                self.known_least = int(of_agents[behind].min(initial=self.known_least))
        return self.known_least

    def threads_exit(self) -> None:
        self.known_least = None

    # Barriers

    def join(self, warps: np.ndarray) -> None:
        """A barrier of some warps of a program."""
        for table in self.tables:
            table[warps] = table[warps].max(0)
        self.advance(warps)

    def join_programs(self, ctas: np.ndarray) -> None:
        """A barrier of all warps of each of the programs."""
        count = self.machine.cta_warps
        for table in self.tables:
            by_cta = table.reshape(-1, count, table.shape[1])
            if len(ctas) == len(by_cta):
                by_cta[:] = by_cta.max(1)[:, None]
            else:
                by_cta[ctas] = by_cta[ctas].max(1)[:, None]
        self.advance(
            self.warps if len(ctas) * count == len(self.warps) else self.warps.reshape(-1, count)[ctas].ravel()
        )

    def leave(self, warps: np.ndarray) -> Snapshot:
        """bar.arrive: what these warps have seen, for those who wait."""
        snapshot = [table[warps].max(0) for table in self.tables]
        self.advance(warps)
        return snapshot

    def receive(self, warps: np.ndarray, snapshot: Snapshot) -> None:
        for table, row in zip(self.tables, snapshot, strict=True):
            table[warps] = np.maximum(table[warps], row)
        self.known_least = None

    def learn_of_agent(self, warps: np.ndarray, column: np.ndarray | int, ticks: np.ndarray | int) -> None:
        """They have waited for what it did up to these ticks."""
        self.seen[warps, column] = np.maximum(self.seen[warps, column], np.asarray(ticks, U32))
        self.known_least = None

    def fence_proxies(self, warps: np.ndarray, spaces: tuple[str, ...]) -> None:
        """fence.proxy.async: what they know of becomes visible to the async proxy, for who knows of them. In global
        memory, for everybody."""
        if self.proxied is None:
            return
        if "shared" in spaces:
            self.proxied[warps] = np.maximum(self.proxied[warps], self.seen[warps])
        if "global" in spaces:
            for warp in warps.tolist():
                own = self.own[warp]
                known = np.maximum(self.proxied_globally[own], self.seen[warp, : self.width])
                self.proxied_globally[own] = known
                if self.across is not None:
                    np.maximum(self.proxied_globally, self.across[warp], out=self.proxied_globally)
        self.advance(warps)

    # Fences and atomics

    def everything(self, warps: np.ndarray) -> np.ndarray:
        """What they have seen, of the whole launch: [warps, warps of the launch]."""
        assert self.across is not None
        rows, own = self.across[warps], self.own[warps]
        every = np.arange(len(warps))[:, None]
        rows[every, own] = np.maximum(rows[every, own], self.seen[warps, : self.width])
        return rows

    def learn(self, warps: np.ndarray, rows: np.ndarray) -> None:
        assert self.across is not None
        self.across[warps] = np.maximum(self.across[warps], rows)
        own = self.across[warps[:, None], self.own[warps]]
        self.seen[warps, : self.width] = np.maximum(self.seen[warps, : self.width], own)

    def fence(self, warps: np.ndarray) -> None:
        if self.across is None:
            return
        self.learn(warps, self.acquired[warps])
        self.fenced[warps] = self.everything(warps)
        self.advance(warps)

    def communicate(
        self, access: Access, addresses: np.ndarray, offsets: np.ndarray, size: int, active: Active
    ) -> None:
        """Watches strong accesses to global memory, in the order of the threads."""
        if not access.communicates or self.across is None:
            return
        warps = self.machine.warp_of if active is None else self.machine.warp_of[active]
        pairs = dict.fromkeys(zip(warps.tolist(), offsets.tolist(), strict=True))
        for number, place in pairs:
            warp = np.array([number], S64)
            if access.kind is not Kind.WRITE and place in self.released:
                if access.acquires:
                    self.learn(warp, self.released[place][None])
                else:
                    self.acquired[number] = np.maximum(self.acquired[number], self.released[place])
            if access.kind is not Kind.READ:
                row = self.everything(warp)[0] if access.releases else self.fenced[number]
                if access.kind is Kind.ATOMIC and place in self.released:
                    row = np.maximum(row, self.released[place])
                if row.any():
                    self.released[place] = row.copy()
                else:
                    self.released.pop(place, None)
                if access.releases:
                    self.advance(warp)
