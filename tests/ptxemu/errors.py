"""What the emulator raises."""


class EmuError(Exception):
    """Says what happened and, where known, in which kernel, PTX line, source line, block and thread."""

    def __init__(self, message: str, thread: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.thread = thread  # of the batch
        self.kernel: str | None = None
        self.line: int | None = None  # of the PTX
        self.where: str | None = None  # block and thread
        self.source: tuple[str, int] | None = None  # file and line, where the PTX tells them

    def __str__(self) -> str:
        text = self.message
        if self.kernel is not None:
            source = f" ({self.source[0]}:{self.source[1]})" if self.source else ""
            text = f"{self.kernel}: PTX line {self.line}{source}: {text}"
        return f"{text} [{self.where}]" if self.where else text


class PtxSyntaxError(EmuError):
    """Text that is no PTX, or none that the parser knows."""


class UnsupportedError(EmuError):
    """An instruction, or a form of one, that the emulator has not."""


class OutOfBoundsError(EmuError):
    """An access outside the arrays of the launch, shared memory, local memory or the parameters."""


class MisalignedError(EmuError):
    """An access at an address that its size does not divide."""


class UninitializedReadError(EmuError):
    """A read of shared memory that nothing has written."""


class PendingCopyError(EmuError):
    """An access to the destination of an asynchronous copy before a wait that covers it."""


class RaceError(EmuError):
    """Accesses to the same place, one of them a write, that nothing orders."""


class ProxyError(EmuError):
    """The async proxy reads what the generic one wrote, and no fence between the proxies lies between."""


class InFlightError(EmuError):
    """A register of a wgmma is touched before a wait that covers it, or a wgmma takes registers without a fence."""


class BarrierError(EmuError):
    """Something that an mbarrier may not be used for, or counts that it can't hold."""


class ClusterError(EmuError):
    """Shared memory of a program that has exited, or a barrier of a cluster out of turn."""


class TensorMapError(EmuError):
    """A tensor map that the driver refuses, or none where there should be one."""


class RegisterBudgetError(EmuError):
    """setmaxnreg asks for registers that the program will never have."""


class DivergenceError(EmuError):
    """A barrier or an instruction of a warp that some of its lanes don't reach."""


class DeadlockError(DivergenceError):
    """Every thread waits."""


class DeviceAssertError(EmuError):
    """A failed assert()."""


class DeviceTrapError(EmuError):
    """A trap."""


class StepLimitError(EmuError):
    """More jumps than Options.max_steps."""
