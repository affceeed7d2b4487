"""A launch: the threads of a batch of programs in lockstep, as vectors, each with its own place in the code."""

import math
import time
from typing import Any

import numpy as np

from .. import instructions  # noqa: F401  (registers them)
from ..builder import Registers, builder_of
from ..errors import EmuError, PtxSyntaxError
from ..instructions.mma import Fragments
from ..instructions.warp import is_barrier_of_a_warp, needs_partners, synchronize_warp
from ..memory.addresses import LOG2
from ..memory.agents import Agents
from ..memory.clocks import Clocks, orders_programs
from ..memory.globals import GlobalMemory
from ..memory.local import LocalMemory, Parameters
from ..memory.races import GlobalRaces
from ..memory.shared import SharedMemory
from ..memory.spaces import Spaces
from ..operands import Inst, Reg
from ..profile import Profiler
from ..program import Function, Module
from ..traffic import TrafficCount
from ..types import RAW, Active, Getter, Mask, Step
from . import calls, control, mbarrier_instructions, register_pools  # noqa: F401  (register themselves)
from .barriers import Barriers
from .bulk_groups import BulkGroups
from .calls import Calls
from .cluster_barriers import ClusterBarriers
from .clusters import block_index, cluster_of, coordinates
from .control import Jump, is_control
from .layout import Layout
from .linker import link
from .mbarriers import MBarriers
from .options import Options
from .partners import Partners
from .register_pools import RegisterPools
from .scheduler import Scheduler, run_batch
from .special import SpecialRegisters
from .states import State
from .warpgroups import Warpgroups

SHADOW_LIMIT = 256e6  # bytes for the checks of shared memory

Dim3 = tuple[int, int, int]


class Machine(Registers):
    def __init__(
        self,
        module: Module,
        entry: Function,
        grid: Dim3,
        block: Dim3,
        dynamic_smem: int,
        memory: GlobalMemory,
        parameters: bytes,
        options: Options,
        cluster: Dim3 | None = None,
    ) -> None:
        self.module, self.entry, self.grid, self.block, self.options = module, entry, grid, block, options
        self.cluster = cluster_of(entry, cluster, grid)
        self.cluster_size = math.prod(self.cluster)
        self.globals, self.parameters = memory, Parameters(parameters)
        self.layout = Layout(module, entry, dynamic_smem, options.smem_guard)
        self.program = link(module, entry)
        self.insts = self.program.insts
        self.count_threads()
        self.special_registers = SpecialRegisters(self, dynamic_smem)
        self.set_up_memory()
        self.barriers, self.partners, self.calls = Barriers(self), Partners(self), Calls(self)
        self.cluster_barriers, self.mbarriers = ClusterBarriers(self), MBarriers(self)
        self.warpgroups, self.register_pools = Warpgroups(self), RegisterPools(self)
        self.bulk_groups = BulkGroups(self)
        self.scheduler = Scheduler(self)
        self.fragments = Fragments()
        self.warnings: list[EmuError] = []
        self.warned: set[tuple[type, int]] = set()
        self.printed: list[str] = []
        self.carry = len(self.program.registers)
        self.R = [None] * (self.carry + 1)
        # Built when they are executed for the first time.
        self.code: list[Any] = [self.build_later(place) for place in range(len(self.insts))]
        self.single: dict[int, Jump] = {}  # instructions of warps, for lanes that come one by one
        self.counts = np.zeros(len(self.insts) + 1, np.int64)  # warps, as differences

    def count_threads(self) -> None:
        """Programs, warps and threads of a batch, numbered throughout; the last warp of a program is filled up."""
        self.block_threads = math.prod(self.block)
        if not 1 <= self.block_threads <= 1024:
            raise EmuError(f"{self.entry.name}: block of {self.block_threads} threads")
        self.cta_count = math.prod(self.grid)
        self.cta_warps = (self.block_threads + 31) // 32
        self.cta_threads = 32 * self.cta_warps
        granules = self.layout.shared_size >> LOG2[self.layout.shared_granule]
        shadow = self.layout.shared_size + granules * (4 * self.cta_warps + 16)
        most = min(self.cta_count, self.options.batch_threads // self.cta_threads, int(SHADOW_LIMIT / max(1, shadow)))
        self.ctas = max(1, most // self.cluster_size) * self.cluster_size
        self.first_cta = 0  # of the batch
        self.threads, self.warps = self.ctas * self.cta_threads, self.ctas * self.cta_warps
        self.all_threads = np.arange(self.threads)
        self.cta_of = self.all_threads // self.cta_threads
        self.warp_of = self.all_threads // 32
        self.thread_in_cta = self.all_threads % self.cta_threads
        self.warp_in_cta = self.thread_in_cta // 32
        self.cluster_threads, self.cluster_warps = (self.cluster_size * n for n in (self.cta_threads, self.cta_warps))
        self.cluster_of = self.all_threads // self.cluster_threads
        self.warp_in_cluster = self.all_threads % self.cluster_threads // 32
        self.lane = (self.all_threads % 32).astype(np.uint32)

    def set_up_memory(self) -> None:
        across = any(orders_programs(inst) for inst in self.insts)
        self.agents = Agents(self)
        self.clocks = Clocks(self, across)
        self.shared = SharedMemory(self, self.layout.shared_size, self.layout.shared_granule)
        self.local = LocalMemory(self, self.layout.local_size)
        self.spaces = Spaces(self)
        options, watchers = self.options, self.globals.watchers
        self.profiler = Profiler(self, options.profile_samples if options.profile else 0)
        self.traffic = TrafficCount(self)
        if options.profile:
            watchers += [self.profiler.globals, self.traffic.watch]
        if options.global_race != "off":
            watchers.append(GlobalRaces(self).watch)
        if across:
            watchers.append(self.clocks.communicate)

    # What the instructions ask for

    def address_of(self, name: str) -> int:
        layout = self.layout
        if name in layout.shared:
            return layout.shared[name][0]
        for places in (layout.local, layout.parameters):
            if name in places:
                return places[name]
        if name in self.globals.variables:
            return self.globals.variables[name].address
        variable = self.module.variables.get(name)
        if variable is not None and variable.space == "shared":
            return 0
        if name in self.module.functions:
            return 0x100 + 16 * list(self.module.functions).index(name)
        raise PtxSyntaxError(f"unknown symbol {name}")

    def special(self, name: str) -> Getter:
        return self.special_registers.getter(name)

    def running(self, mask: Mask) -> np.ndarray:
        return self.alive if mask is None else mask

    def active(self, mask: Mask) -> Active:
        return self.alive_threads if mask is None else np.flatnonzero(mask)

    def warps_of(self, mask: Mask) -> np.ndarray:
        return np.flatnonzero(self.running(mask).reshape(-1, 32).any(1))

    def whole_programs(self, mask: Mask) -> np.ndarray | None:
        """The programs of these threads, if they are all that live of them."""
        if mask is None and self.exited == 0:
            return np.arange(self.ctas)
        running = self.running(mask).reshape(self.ctas, -1)
        programs = np.flatnonzero(running.any(1))
        alive = self.alive.reshape(self.ctas, -1)[programs]
        return programs if np.array_equal(running[programs], alive) else None

    def fall_through_where_guarded(self, inst: Inst, pc: int, mask: Mask, behind: int = 1) -> np.ndarray:
        """Sends those threads on that the guard excludes; gives the others."""
        running = self.running(mask)
        if inst.guard is None:
            return running
        allowed = self.bits(inst.guard, 1)()
        self.pc[running & ~allowed] = pc + behind
        return running & allowed

    def exit(self, threads: np.ndarray) -> None:
        self.partners.threads_exit(threads)
        self.state[threads] = State.EXITED
        self.update_alive()
        self.clocks.threads_exit()
        self.barriers.threads_exit(threads)
        self.cluster_barriers.threads_exit(threads)

    def update_alive(self) -> None:
        self.alive = self.state != State.EXITED
        self.alive_count = int(np.count_nonzero(self.alive))
        self.exited = self.threads - self.alive_count
        self.alive_threads: Active = None if self.exited == 0 else np.flatnonzero(self.alive)

    # Code

    def build_later(self, place: int) -> Step:
        def step(*arguments: Any) -> Any:
            self.build(place)
            return self.code[place](*arguments)

        return step

    def build(self, place: int) -> None:
        inst = self.insts[place]
        build = synchronize_warp if is_barrier_of_a_warp(inst) else builder_of(inst)
        step = build(self, inst)
        if needs_partners(inst):
            self.single[place] = self.partners.step(inst, step)
            step = step if inst.guard is None else self.single[place]
        elif inst.guard is not None and not is_control(inst):
            step = self.guarded(step, inst.guard)
        self.code[place] = self.warpgroups.watched(place, step)

    def single_lanes(self, place: int) -> Jump:
        """An instruction of a warp, for lanes that come one by one."""
        if place not in self.single:
            self.build(place)
        return self.single[place]

    def guarded(self, step: Step, guard: Reg) -> Step:
        get = self.bits(guard, 1)

        def guarded_step(mask: Mask) -> None:
            allowed = get()
            if mask is not None:
                allowed = allowed & mask
            elif self.exited:
                allowed = allowed & self.alive
            count = np.count_nonzero(allowed)
            if count:
                step(None if count == self.alive_count else allowed)

        return guarded_step

    # Findings

    def describe(self, thread: int) -> str:
        block = block_index(self, self.first_cta + int(self.cta_of[thread]))
        number = int(self.thread_in_cta[thread])
        thread_in_block = coordinates(number, self.block)
        return f"block {block} thread {thread_in_block} (warp {number // 32} lane {number % 32})"

    def located(self, error: EmuError, inst: Inst) -> EmuError:
        """The error, knowing where it is."""
        if error.kernel is None:
            error.kernel, error.line, error.source = self.entry.name, inst.line, inst.source
        if error.where is None and error.thread is not None:
            error.where = self.describe(error.thread)
        return error

    def report(self, mode: str, error: EmuError, inst: Inst) -> None:
        """A finding: raised, kept or dropped."""
        if mode == "error":
            raise self.located(error, inst)
        key = (type(error), inst.line)
        if mode == "warn" and key not in self.warned and len(self.warnings) < self.options.max_warnings:
            self.warned.add(key)
            self.warnings.append(self.located(error, inst))

    # Running

    def run(self) -> None:
        start = time.perf_counter()
        with np.errstate(all="ignore"):
            for first in range(0, self.cta_count, self.ctas):
                self.start_batch(first)
                run_batch(self)
        self.seconds = time.perf_counter() - start

    def release(self) -> None:
        """Lets go of what refers to the machine, which would else wait for a collection of garbage."""
        self.code.clear()
        self.single.clear()

    def start_batch(self, first: int) -> None:
        self.first_cta = first
        zeros = {bits: np.zeros(self.threads, bool if bits == 1 else RAW[bits]) for bits in (1, *RAW)}
        self.R[:] = [zeros[bits] for bits in (*self.program.registers, 1)]
        self.pc = np.full(self.threads, self.program.starts[self.entry.name])
        absent = (self.thread_in_cta >= self.block_threads) | (self.cta_of >= self.cta_count - first)
        self.state = np.where(absent, State.EXITED, State.RUNNING).astype(np.int8)
        self.spinning = 0  # attempts at a lock
        self.progress = 0  # barriers and phases that somebody waited for
        self.copy_group = np.zeros(self.threads, np.int64)  # open group of cp.async of each thread
        self.fragments.kept.clear()
        for part in (
            *(self.special_registers, self.agents, self.clocks, self.shared, self.barriers, self.partners, self.calls),
            *(self.cluster_barriers, self.mbarriers, self.warpgroups, self.register_pools, self.bulk_groups),
        ):
            part.start_batch()
        self.update_alive()
