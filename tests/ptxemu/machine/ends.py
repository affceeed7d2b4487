"""What must not be under way when the programs of a batch have ended."""

from typing import TYPE_CHECKING

from ..errors import DivergenceError, EmuError, InFlightError, PendingCopyError

if TYPE_CHECKING:
    from .machine import Machine


def check_end(machine: "Machine") -> None:
    for copies in machine.shared.copies[:1]:
        thread, line = int(copies.threads[0]), int(copies.lines[0])
        finding: EmuError = DivergenceError(f"cp.async (PTX line {line}) still in flight at exit", thread)
        inst = next(inst for inst in machine.insts if inst.line == line)
        machine.report("off" if machine.options.pending == "off" else "warn", finding, inst)
    for barrier in machine.mbarriers.by_offset.values():
        for copy in barrier.copies[:1]:
            finding = PendingCopyError(f"{copy.inst.opcode} still in flight at exit: nobody waited for it", copy.thread)
            machine.report(machine.options.pending, finding, copy.inst)
    for read in machine.bulk_groups.reading():
        message = f"{read.inst.opcode} may still read shared memory at exit: no cp.async.bulk.wait_group covers it"
        machine.report(machine.options.pending, PendingCopyError(message, read.thread), read.inst)
    product = machine.warpgroups.unfinished()
    if product is not None:
        inst, thread = product
        machine.report(machine.options.in_flight, InFlightError(f"{inst.opcode} still in flight at exit", thread), inst)
