"""Instructions become closures: who builds which, and how the closures read and write registers.

A register is an array with an element for every thread of the batch. It is never modified in place, so that several
registers may share one, and a decoded fragment stays valid as long as its registers are the same arrays.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import numerics
from .errors import UnsupportedError
from .operands import Imm, Inst, Reg, Sink, Special, Sym
from .types import BITS, F16, F32, F64, FLOATS, NUMPY, RAW, S16, S32, S64, SIGNED, U16, U32, Active, Getter, Mask, Step

Build = Callable[[Any, Inst], Any]
BUILDERS: dict[tuple[str, str], Build] = {}


def builds(*names: str, of: tuple[str, ...] = ("float", "other")) -> Callable[[Build], Build]:
    """Registers the builder of some opcodes, maybe only for operands that are floats, or others."""

    def register(build: Build) -> Build:
        BUILDERS.update({(name, kind): build for name in names for kind in of})
        return build

    return register


def builder_of(inst: Inst) -> Build:
    kind = "float" if inst.types and inst.type in FLOATS else "other"
    if (inst.op, kind) not in BUILDERS:
        raise UnsupportedError(f"unknown instruction: {inst.text}")
    return BUILDERS[inst.op, kind]


def unsupported(inst: Inst, why: str = "unsupported form") -> UnsupportedError:
    return UnsupportedError(f"{why}: {inst.text}")


class Registers(ABC):
    """The registers of the machine, as getters and setters of operands."""

    R: list[Any]
    threads: int  # of the batch
    carry: int  # number of the carry flag
    fragments: Any  # decoded ones, of mma

    @abstractmethod
    def address_of(self, name: str) -> int:
        """Of a variable."""

    @abstractmethod
    def special(self, name: str) -> Getter:
        """Of a special register, such as %tid.x."""

    # Reading

    def bits(self, operand: Any, bits: int) -> Getter:
        """The operand as unsigned integers of so many bits: an array, or one number if it is constant."""
        R = self.R
        if isinstance(operand, Reg):
            i = operand.index
            if (operand.bits == 1) != (bits == 1):
                raise UnsupportedError(f"predicate expected, got {operand!r}")
            if operand.negated:
                return lambda: ~R[i]
            if operand.bits == bits:
                return partial(R.__getitem__, i)
            raw = RAW[bits]
            return lambda: R[i].astype(raw)
        if isinstance(operand, Special):
            get, raw = self.special(operand.name), RAW.get(bits, bool)
            return lambda: get().astype(raw, copy=False)
        value: Any
        if isinstance(operand, Imm):
            if bits == 1:
                value = bool(operand.value)
            elif operand.kind == "decimal":
                value = np.array(operand.value, F64 if bits == 64 else F32).view(RAW[bits])[()]
            else:
                value = RAW[bits](operand.value & ((1 << bits) - 1))
        elif isinstance(operand, Sym):
            value = RAW[bits](self.address_of(operand.name) + operand.offset)
        elif isinstance(operand, Sink):
            value = RAW[bits](0)
        else:
            raise UnsupportedError(f"operand {operand!r}")
        return lambda: value

    def value(self, operand: Any, type_: str) -> Getter:
        """The operand in the type that computes it: halves as float32, pairs of them as float32 [threads, 2]."""
        if type_ == "pred":
            return self.bits(operand, 1)
        if isinstance(operand, Imm):
            return self.constant(operand, type_)
        bits = BITS[type_]
        get = self.bits(operand, bits)
        if isinstance(operand, Sym):
            number = get().view(NUMPY[type_])
            return lambda: number
        if type_ == "f16":
            return lambda: get().view(F16).astype(F32)
        if type_ == "bf16":
            return lambda: numerics.bf16_to_f32(get())
        if type_ == "f16x2":
            return lambda: get().view(F16).reshape(-1, 2).astype(F32)
        if type_ == "bf16x2":
            return lambda: numerics.bf16_to_f32(get().view(U16).reshape(-1, 2))
        if type_ in ("u16x2", "s16x2"):
            half = U16 if type_ == "u16x2" else S16
            return lambda: get().view(half).reshape(-1, 2)
        dtype = NUMPY[type_]
        return get if dtype is RAW[bits] else lambda: get().view(dtype)

    def constant(self, operand: Imm, type_: str) -> Getter:
        number: Any
        if type_ in ("f32", "f64", "tf32"):
            dtype = F64 if type_ == "f64" else F32
            if operand.kind == "decimal" or (operand.kind == "int" and abs(operand.value) <= 1):
                number = dtype(operand.value)
            else:  # bits, maybe of the other size
                bits = {"f32": 32, "f64": 64, "int": BITS[type_]}[operand.kind]
                of = F64 if bits == 64 else F32
                number = dtype(RAW[bits](operand.value & ((1 << bits) - 1)).view(of))
        else:
            raw = self.bits(operand, BITS[type_])()
            if type_ in ("f16", "bf16", "f16x2", "bf16x2", "u16x2", "s16x2"):
                number = self.value_of_bits(np.array([raw]), type_)
                number = number if type_.endswith("x2") else number[0]
            else:
                number = raw.view(NUMPY[type_])
        return lambda: number

    @staticmethod
    def value_of_bits(raw: np.ndarray, type_: str) -> np.ndarray:
        if type_.startswith("f16"):
            return raw.view(F16).astype(F32)
        if type_.startswith("bf16"):
            return numerics.bf16_to_f32(raw.view(U16))
        return raw.view(U16 if type_ == "u16x2" else S16)

    def values(self, *operands: tuple[Any, str]) -> list[Getter]:
        """Of (operand, type); if all are constants, the first one as an array."""
        getters = [self.value(operand, type_) for operand, type_ in operands]
        if not any(isinstance(operand, Reg | Special) for operand, _ in operands):
            constant = getters[0]()
            full = np.broadcast_to(constant, (self.threads, *np.shape(constant)[-1:])).copy()
            getters[0] = lambda: full
        return getters

    def array(self, operand: Any, type_: str) -> Getter:
        """As an array in any case."""
        return self.values((operand, type_))[0]

    # Writing

    @staticmethod
    def packer(type_: str) -> Callable[[np.ndarray], np.ndarray] | None:
        """From the type that computes it to bits; None if they are the same."""
        if type_ == "pred":
            return None
        if type_ == "f16":
            return lambda x: x.astype(F16).view(U16)
        if type_ == "bf16":
            return numerics.f32_to_bf16
        if type_ == "f16x2":
            return lambda x: np.ascontiguousarray(x.astype(F16)).view(U32).reshape(-1)
        if type_ == "bf16x2":
            return lambda x: np.ascontiguousarray(numerics.f32_to_bf16(x)).view(U32).reshape(-1)
        if type_ in ("u16x2", "s16x2"):
            return lambda x: np.ascontiguousarray(x).view(U32).reshape(-1)
        raw = RAW[BITS[type_]]
        return None if NUMPY[type_] is raw else lambda x: x.view(raw)

    @staticmethod
    def widener(target: Reg, type_: str) -> Callable[[np.ndarray], np.ndarray] | None:
        """From the bits of a type to those of a register of another size."""
        if target.bits == BITS[type_]:
            return None
        if target.bits == 1:
            raise UnsupportedError(f"{target!r} is a predicate")
        raw = RAW[target.bits]
        if target.bits > BITS[type_] and type_ in SIGNED:
            narrow, wide = NUMPY[type_], {16: S16, 32: S32, 64: S64}[target.bits]
            return lambda x: x.view(narrow).astype(wide).view(raw)
        return lambda x: x.astype(raw)

    def setter(self, target: Any, type_: str) -> Callable[[np.ndarray, Mask], None]:
        """Stores a result of all threads where the mask says so."""
        if isinstance(target, Sink):
            return lambda x, mask: None
        if not isinstance(target, Reg):
            raise UnsupportedError(f"destination {target!r}")
        R, i = self.R, target.index
        conversions = [x for x in (self.packer(type_), self.widener(target, type_)) if x is not None]

        def store(x: np.ndarray, mask: Mask) -> None:
            R[i] = x if mask is None else np.where(mask, x, R[i])

        if not conversions:
            return store
        if len(conversions) == 1:
            (convert,) = conversions
            return lambda x, mask: store(convert(x), mask)
        pack, widen = conversions
        return lambda x, mask: store(widen(pack(x)), mask)

    def scatterer(self, target: Any, type_: str) -> Callable[[np.ndarray, Active], None]:
        """Stores the bits of some threads."""
        if isinstance(target, Sink):
            return lambda x, active: None
        R, i = self.R, target.index
        widen = self.widener(target, type_)

        def store(x: np.ndarray, active: Active) -> None:
            if widen is not None:
                x = widen(x)
            if active is not None:
                all_threads = R[i].copy()
                all_threads[active] = x
                x = all_threads
            R[i] = x

        return store

    # Most of arithmetic

    def compute(
        self, target: Any, result: str, function: Callable[..., np.ndarray], *operands: tuple[Any, str]
    ) -> Step:
        """target = function(operands), of the types given."""
        store = self.setter(target, result)
        getters = self.values(*operands)
        if len(getters) == 1:
            (a,) = getters
            return lambda mask: store(function(a()), mask)
        if len(getters) == 2:
            a, b = getters
            return lambda mask: store(function(a(), b()), mask)
        a, b, c = getters
        return lambda mask: store(function(a(), b(), c()), mask)
