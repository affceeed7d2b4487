"""A functional emulator of NVIDIA GPUs for PTX of sm_80: runs kernels without one, and checks every access."""

from .cuda import compile_cuda, find_nvcc, launch_cuda
from .errors import (
    DeadlockError,
    DeviceAssertError,
    DeviceTrapError,
    DivergenceError,
    EmuError,
    MisalignedError,
    OutOfBoundsError,
    PendingCopyError,
    PtxSyntaxError,
    RaceError,
    StepLimitError,
    UninitializedReadError,
    UnsupportedError,
)
from .launch import Result, launch
from .machine import Options
from .memory.globals import PtrArray, Struct
from .parser import parse_ptx
from .profile import Profile
from .traffic import SECTOR, Traffic
from .triton import compile_triton, launch_triton, run_triton

__all__ = [
    "SECTOR",
    "DeadlockError",
    "DeviceAssertError",
    "DeviceTrapError",
    "DivergenceError",
    "EmuError",
    "MisalignedError",
    "Options",
    "OutOfBoundsError",
    "PendingCopyError",
    "Profile",
    "PtrArray",
    "PtxSyntaxError",
    "RaceError",
    "Result",
    "StepLimitError",
    "Struct",
    "Traffic",
    "UninitializedReadError",
    "UnsupportedError",
    "compile_cuda",
    "compile_triton",
    "find_nvcc",
    "launch",
    "launch_cuda",
    "launch_triton",
    "parse_ptx",
    "run_triton",
]
