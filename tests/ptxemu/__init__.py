"""A functional emulator of NVIDIA GPUs for PTX of sm_80 and sm_90a: runs kernels without one and checks accesses."""

from .cuda import compile_cuda, find_nvcc, launch_cuda
from .errors import (
    BarrierError,
    ClusterError,
    DeadlockError,
    DeviceAssertError,
    DeviceTrapError,
    DivergenceError,
    EmuError,
    InFlightError,
    MisalignedError,
    OutOfBoundsError,
    PendingCopyError,
    ProxyError,
    PtxSyntaxError,
    RaceError,
    RegisterBudgetError,
    StepLimitError,
    TensorMapError,
    UninitializedReadError,
    UnsupportedError,
)
from .launch import Result, launch
from .machine import Options
from .memory.globals import PtrArray, Struct
from .parser import parse_ptx
from .profile import Profile
from .tensor_map import TensorMap
from .traffic import SECTOR, Traffic
from .triton import compile_triton, launch_triton, run_triton

__all__ = [
    "SECTOR",
    "BarrierError",
    "ClusterError",
    "DeadlockError",
    "DeviceAssertError",
    "DeviceTrapError",
    "DivergenceError",
    "EmuError",
    "InFlightError",
    "MisalignedError",
    "Options",
    "OutOfBoundsError",
    "PendingCopyError",
    "Profile",
    "ProxyError",
    "PtrArray",
    "PtxSyntaxError",
    "RaceError",
    "RegisterBudgetError",
    "Result",
    "StepLimitError",
    "Struct",
    "TensorMap",
    "TensorMapError",
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
