"""What to check, and how."""

from dataclasses import dataclass

MODES = ("error", "warn", "off")


@dataclass
class Options:
    """A finding is an error, a warning in Result.warnings, or not looked for."""

    race: str = "error"  # unordered accesses of different warps to shared memory
    global_race: str = "error"  # the same in global memory, and of different programs
    uninit: str = "error"  # reads of shared memory that nothing wrote
    pending: str = "error"  # accesses to destinations of asynchronous copies before a wait
    proxy: str = "error"  # the async proxy reads what was written without a fence between the proxies
    in_flight: str = "error"  # registers of a wgmma under way, or that no fence covers
    divergence: str = "error"  # barriers and instructions of a warp without some of its threads
    benign_same_value: bool = True  # two warps may write the same value to the same place in shared memory
    profile: bool = False  # sample the addresses of each access, and count the traffic of each array
    profile_samples: int = 4  # executions
    registers: int | None = None  # of a thread at launch, for setmaxnreg; None: what the bounds of the launch allow
    batch_threads: int = 4096  # that run in lockstep: several programs, if they fit
    max_steps: int = 50_000_000  # jumps
    smem_guard: int = 0  # unused bytes between variables in shared memory
    fair_quantum: int = 2000  # jumps backwards after which a looping group of threads lets the others go on
    max_warnings: int = 50
    echo_printf: bool = True

    def __post_init__(self) -> None:
        modes = (self.race, self.global_race, self.uninit, self.pending, self.proxy, self.in_flight, self.divergence)
        for mode in modes:
            if mode not in MODES:
                raise ValueError(f"'error', 'warn' or 'off' expected, got {mode!r}")
