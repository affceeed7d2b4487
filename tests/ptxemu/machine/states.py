"""What a thread does."""

from enum import IntEnum


class State(IntEnum):
    RUNNING = 0
    AT_BARRIER = 1
    AWAITS_LANES = 2  # of its warp, which an instruction names
    EXITED = 3
    AT_CLUSTER_BARRIER = 4
    AWAITS_PHASE = 5  # of an mbarrier
    AWAITS_REGISTERS = 6
    AWAITS_WARPGROUP = 7  # of which not all warps have come to a wgmma
