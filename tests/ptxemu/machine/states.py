"""What a thread does."""

from enum import IntEnum


class State(IntEnum):
    RUNNING = 0
    AT_BARRIER = 1
    AWAITS_LANES = 2  # of its warp, which an instruction names
    EXITED = 3
