"""What backends exist here, why not, and which one an operator call takes."""

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from fastpixcon.ops import define, extension
from fastpixcon.ops.derivatives import PLAIN
from fastpixcon.ops.plain import is_plain
from fastpixcon.ops.signature import flat

# On GPUs CUDA C++ has nothing to compile at the first step, less to do before each launch, and the faster products of
# float32 and with a memory; docs/gpu.md has the measurements.
AUTO_ORDER = {
    "cpu": ("native", "reference"),
    "cuda": ("native", "triton", "reference"),
}
PRODUCTS = (
    "pixel_contrast",
    "info_nce",
    "contrast_",
    "memory_sums",
    "memory_positives",
    "mining_",
)  # operators that multiply rows
ALL_PAIRS = ("info_nce", "contrast_")  # what Triton multiplies with Hopper's wgmma, CUDA C++ not
MANY_ANCHORS = 8192  # more of them are Triton's
CUDA_MAX_WIDTH = 512  # D of the native products on GPUs, whose gradient stays in registers
TRITON_DEVICES = {"cuda", *(["cpu"] if define.INTERPRETING else [])}
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def checked(name: object) -> str:
    """``name``, if it names a backend."""
    if not isinstance(name, str) or (name != "auto" and name not in define.NAMESPACES):
        wanted = ", ".join(repr(n) for n in ("auto", *define.NAMESPACES))
        raise ValueError(f"backend: got {name!r}, want one of {wanted}")
    return name


_default = checked(os.environ.get("FASTPIXCON_BACKEND", "auto"))


class backend:  # noqa: N801  (used like torch.no_grad)
    """Sets what ``backend="auto"`` picks, process-wide; as a context manager, until its end.

    >>> fpc.backend("reference")          # from here on
    >>> with fpc.backend("native"): ...   # in this block

    Only forwards choose: a backward runs on the backend that ran its forward. The environment variable
    ``FASTPIXCON_BACKEND`` sets the initial value.

    Args:
        name: "auto", "reference", "native" or "triton".

    Raises:
        ValueError: the name of no backend. One that is missing raises with the reason when an operator is called.
    """

    def __init__(self, name: str) -> None:
        global _default
        new = checked(name)
        self.previous = _default
        _default = new

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        global _default
        _default = self.previous


def missing(name: str) -> str | None:
    """Why backend ``name`` is not here at all; None if it is."""
    if any(owner == name for owner, _ in define.OVERLOADS):
        return None
    if name == "native":
        return extension.reason or "fastpixcon._C has no operators"
    if name == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return f"this version of fastpixcon has no operators for {name}"


def auto_order(operator: str, device_type: str, rows: int) -> tuple[str, ...]:
    """The backends that "auto" tries, in order, of so many anchors."""
    order = AUTO_ORDER.get(device_type, ("reference",))
    if device_type == "cuda" and operator.startswith(ALL_PAIRS) and rows > MANY_ANCHORS:
        return ("triton", *(name for name in order if name != "triton"))
    return order


def unsupported(
    name: str, operator: str, device: torch.device, dtype: torch.dtype, width: int | None = None
) -> str | None:
    """Why backend ``name`` can't run ``operator`` on such tensors, of so many features if that matters; None if it
    can."""
    if (name, operator) not in define.OVERLOADS:
        return missing(name) or f"it has no {operator}"
    if name == "native":
        if device.type.upper() not in extension.build.get("devices", "CPU").split(","):
            return f"it was not built for {device.type} tensors"
        if device.type not in define.NATIVE_DEVICES[operator]:
            return f"it has no {operator} for {device.type} tensors"
        if dtype.is_floating_point and dtype not in KERNEL_DTYPES:
            return f"it takes float32, bfloat16 and float16, not {dtype}; the reference takes any"
        if device.type == "cuda" and operator.startswith(PRODUCTS) and (width or 0) > CUDA_MAX_WIDTH:
            return f"on GPUs it takes at most {CUDA_MAX_WIDTH} features, not {width}; triton takes more"
    if name == "triton" and device.type not in TRITON_DEVICES:
        return f"it takes CUDA tensors, not {device.type} ones, except where Triton interprets (TRITON_INTERPRET=1)"
    if name == "triton" and dtype.is_floating_point and dtype not in KERNEL_DTYPES:
        return f"it takes float32, bfloat16 and float16, not {dtype}; the reference takes any"
    return None


def chosen(operator: str, tensor: Tensor, name: str = "auto") -> str:
    """The name of the backend that :func:`choose` takes."""
    if name == "auto":
        name = _default
    width = tensor.shape[1 if tensor.dim() == 4 else -1] if tensor.dim() > 1 else None  # D of rows, a bank, a map
    if name == "auto":
        for candidate in auto_order(operator, tensor.device.type, tensor.shape[0]):
            if unsupported(candidate, operator, tensor.device, tensor.dtype, width) is None:
                return candidate
    else:
        checked(name)
        why = unsupported(name, operator, tensor.device, tensor.dtype, width)
        if why is None:
            return name
        raise RuntimeError(f"backend {name!r} can't run {operator}: {why}")
    raise RuntimeError(f"no backend runs {operator} on {tensor.device.type} {tensor.dtype} tensors")


def choose(operator: str, tensor: Tensor, name: str = "auto") -> OpOverload:
    """The overload of ``operator`` to call on tensors like ``tensor``: its device, dtype and, of rows, width decide.

    What was asked for by name and can't be had raises with the reason; only "auto" falls back.
    """
    return define.OVERLOADS[chosen(operator, tensor, name), operator]


def call(operator: str, like: Tensor, name: str, *values: Any) -> Any:
    """``operator`` of its arguments, on the backend that :func:`choose` takes for tensors like this one."""
    leaves = flat(values, define.WIDTHS[operator])
    if is_plain(leaves):
        plain = PLAIN.get((chosen(operator, like, name), operator))
        if plain is not None:
            return plain(*leaves)
    return choose(operator, like, name)(*leaves)


def show_config() -> str:
    """One line per backend: what is there, or why not. Prints it and returns it."""
    lines = [f"fastpixcon, torch {torch.__version__}, default backend {_default!r}"]
    for name in define.NAMESPACES:
        why = missing(name)
        if why is not None:
            lines.append(f"{name}: not available: {why}")
            continue
        operators = ", ".join(op for owner, op in define.OVERLOADS if owner == name)
        facts = "; ".join(extension.facts()) if name == "native" else ""
        lines.append(f"{name}: {operators}" + (f" ({facts})" if facts else ""))
    text = "\n".join(lines)
    print(text)
    return text
