"""Argument checks: a ValueError or TypeError names the argument, what came and what is wanted.

Only types, devices, dtypes and shapes are looked at, so that nothing is read back from a device and Dynamo
can trace through.
"""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active

from fastpixcon.ops.backends import choose
from fastpixcon.ops.plain import constant
from fastpixcon.reference.info_nce import TEMPERATURES

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
LABEL_DTYPES = (torch.int32, torch.int64)  # what the operators take
DEFAULT_NUM_CLASSES = 256


def tensor(name: str, value: object, axes: Sequence[str], *, floating: bool) -> None:
    if isinstance(value, Tensor):
        dtype = value.dtype
        if value.dim() == len(axes) and (dtype.is_floating_point if floating else dtype in INTEGERS):
            return
    shape = f"[{', '.join(axes)}]"
    kind = "floating point" if floating else "integer"
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, want a {kind} tensor {shape}")
    if value.dtype.is_floating_point != floating or (not floating and value.dtype not in INTEGERS):
        raise TypeError(f"{name}: got dtype {value.dtype}, want a {kind} tensor {shape}")
    raise ValueError(f"{name}: got shape {tuple(value.shape)}, want {shape}")


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(f"{name}: got a tensor on {value.device}, want {other.device}, the device of {other_name}")


def _without_gradient(name: str, value: Tensor) -> None:
    if value.requires_grad:
        raise ValueError(f"{name}: got a bank that requires a gradient, want one without: it would get none")


def whole_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: got {value!r}, want an int")


def positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: got {value!r}, want an int > 0")
    if value <= 0:
        raise ValueError(f"{name}: got {value}, want an int > 0")


def one_of(name: str, value: object, wanted: Sequence[str]) -> None:
    if value not in wanted:
        raise ValueError(f"{name}: got {value!r}, want one of {', '.join(map(repr, wanted))}")


def _positive_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {value!r}, want a number > 0")
    if not 0 < value < math.inf:  # type: ignore[operator]  # in this form Dynamo traces it for a float that changes
        raise ValueError(f"{name}: got {value}, want a finite number > 0")


def _temperature(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"temperature: got {value!r}, want a number > 0")
    least, most = TEMPERATURES
    if not least <= value <= most:  # type: ignore[operator]
        raise ValueError(f"temperature: got {value}, want a number > 0, from 2^-126 to {most:.6g}")


def _integers(name: str, value: object, shape: Sequence[int], dtype: torch.dtype, other: Tensor) -> None:
    if not isinstance(value, Tensor) or value.dtype != dtype:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: got {got}, want a {dtype} tensor {list(shape)}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, want {tuple(shape)}")
    same_device(name, value, "bank", other)


def memory_enqueue(
    bank: object,
    bank_labels: object,
    written: object,
    pixel_size: int,
    pixels: object,
    pixel_labels: object,
    regions: object,
    region_labels: object,
) -> None:
    tensor("bank", bank, ("K", "S", "D"), floating=True)
    assert isinstance(bank, Tensor)
    _without_gradient("bank", bank)
    K, S, D = bank.shape
    _integers("bank_labels", bank_labels, (K, S), torch.int32, bank)
    _integers("written", written, (2, K), torch.int64, bank)
    positive_int("pixel_size", pixel_size)
    if pixel_size >= S:
        raise ValueError(f"pixel_size: got {pixel_size}, want less than {S}, the places of a class in bank")
    for name, rows, labels in (("pixels", pixels, pixel_labels), ("regions", regions, region_labels)):
        tensor(name, rows, ("rows", "D"), floating=True)
        assert isinstance(rows, Tensor)
        if rows.shape[1] != D:
            raise ValueError(f"{name}: got {rows.shape[1]} features, want {D}, the width of bank")
        same_device(name, rows, "bank", bank)
        _integers(f"{name.removesuffix('s')}_labels", labels, rows.shape[:1], torch.int32, bank)


def has_memory(contrast_with: str, memory: object) -> None:
    if memory is None and contrast_with in ("memory", "each"):
        raise ValueError(f"contrast_with: got {contrast_with!r} without a memory, want 'batch' or a memory")


def memory_and_mining(memory: object, mining: object, anchors: Tensor, rows: str) -> None:
    if rows == "any":
        raise ValueError("normalize: got False, want True with memory, mining or process_group, which take cosines")
    if memory is not None:
        bank, labels = getattr(memory, "rows", None), getattr(memory, "labels", None)
        if not isinstance(bank, Tensor) or not isinstance(labels, Tensor):
            raise TypeError(f"memory: got {type(memory).__name__}, want a MemoryBank")
        if bank.shape[-1] != anchors.shape[1]:
            raise ValueError(
                f"memory: got rows of {bank.shape[-1]} features, want {anchors.shape[1]} as in the anchors"
            )
        same_device("memory", bank, "anchors", anchors)
        _without_gradient("memory", bank)
    names = ("negatives", "positives", "fraction", "keep")
    if mining is not None and not all(hasattr(mining, name) for name in names):
        raise TypeError(f"mining: got {type(mining).__name__}, want a Mining")


def contrast_takes_part(contrast: object, memory: object, contrast_with: str) -> None:
    if contrast is not None and memory is not None and contrast_with == "memory":
        raise ValueError(
            "contrast: got rows with contrast_with='memory', want None, or 'both': they would take no part"
        )


def wants_float64(name: str, anchors: Tensor, bank: Tensor, backend: str) -> bool:
    """Whether anchors and bank are computed with in the wider dtype of both, since one of them is float64."""
    if anchors.dtype == bank.dtype or torch.float64 not in (anchors.dtype, bank.dtype):
        return False
    try:
        choose("memory_sums", bank[:, :0].double(), backend)
    except RuntimeError as why:
        raise TypeError(
            f"{name}, memory: got rows of {anchors.dtype} and a bank of {bank.dtype}, want one dtype, or a backend"
            f" that takes torch.float64: {why}"
        ) from None
    return True


def across_ranks(contrast: object, mining: object, across: str) -> None:
    if contrast is not None:
        raise ValueError("contrast: got rows, want None with a process_group, whose anchors are the contrast rows")
    if mining is not None and across == "ring":
        raise ValueError(
            "mining: got one across a 'ring', want None, or across 'gather': a ring sees no row's pairs at once"
        )


def _all_good(good: Tensor, message: str) -> None:
    """Raises on the CPU; on a GPU, and in a compiled graph, it is asserted, without a read-back."""
    if good.device.type == "meta" or (not torch.compiler.is_compiling() and _are_functorch_transforms_active()):
        return
    if good.device.type == "cpu" and not torch.compiler.is_compiling():
        if not bool(good.all()):
            raise ValueError(message)
    else:
        torch._assert_async(good.all(), message)


def _weights(name: str, value: object, axes: Sequence[str]) -> Tensor:
    tensor(name, value, axes, floating=True)
    assert isinstance(value, Tensor)
    if value.requires_grad:
        raise ValueError(f"{name}: got weights that require a gradient, want them detached: they would get none")
    return value


def _finite_weights(name: str, value: Tensor) -> None:
    message = f"{name}: got weights that are negative, infinite or NaN, want finite ones >= 0"
    _all_good((value >= 0) & (value < math.inf), message)


def class_weights(value: object) -> None:
    """[K, K]."""
    W = _weights("class_weights", value, ("K", "K"))
    if W.shape[0] != W.shape[1] or W.shape[0] == 0:
        raise ValueError(f"class_weights: got shape {tuple(W.shape)}, want [K, K], a row and a column of each class")
    _finite_weights("class_weights", W)


def row_weights(name: str, value: object, rows_name: str, rows: Tensor, axis: str) -> Tensor:
    """[N] of rows, float32, or float64 for float64 rows."""
    weights = _weights(name, value, (axis,))
    if len(weights) != len(rows):
        raise ValueError(f"{name}: got {len(weights)} weights, want {len(rows)}, one a row of {rows_name}")
    same_device(name, weights, rows_name, rows)
    _finite_weights(name, weights)
    return weights.to(torch.float64 if rows.dtype == torch.float64 else torch.float32)


def row_groups(name: str, value: object, rows_name: str, rows: Tensor, axis: str) -> Tensor:
    """[N] of rows, int32."""
    tensor(name, value, (axis,), floating=False)
    assert isinstance(value, Tensor)
    if len(value) != len(rows):
        raise ValueError(f"{name}: got {len(value)} groups, want {len(rows)}, one a row of {rows_name}")
    same_device(name, value, rows_name, rows)
    return small_groups(name, value)


def small_groups(name: str, value: Tensor) -> Tensor:
    """As int32."""
    if value.dtype in (torch.int64, torch.uint32):
        message = f"{name}: got a group that no int32 holds, want numbers of 32 bits"
        _all_good(value.long() == value.to(torch.int32), message)
    return value.to(torch.int32)


def labels_below(name: str, labels: Tensor, num_classes: int) -> None:
    """Labels that class_weights have a row for, or -1."""
    wanted = f"want labels in [0, {num_classes}), or -1, as class_weights are [{num_classes}, {num_classes}]"
    _all_good((labels >= -1) & (labels < num_classes), f"{name}: got a label out of range, {wanted}")


def seed_tensor(seed: object, device: torch.device) -> Tensor:
    """The seed as a [] int64 tensor on ``device``."""
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.dim() != 0:
            raise TypeError(f"seed: got {seed.dtype} {tuple(seed.shape)}, want an int or a [] int64 tensor")
        if seed.device != device:
            raise ValueError(f"seed: got a tensor on {seed.device}, want {device}, the device of labels")
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: got {seed!r}, want an int or a [] int64 tensor")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: got {seed}, want an int of 64 bits")
    return torch.full((), seed, dtype=torch.int64, device=device)


def _rows(name: str, rows: object, labels: object, axes: tuple[str, str]) -> None:
    tensor(name, rows, axes, floating=True)
    labels_name = f"{name.removesuffix('s')}_labels"
    tensor(labels_name, labels, axes[:1], floating=False)
    assert isinstance(rows, Tensor)
    assert isinstance(labels, Tensor)
    if labels.shape[0] != rows.shape[0]:
        raise ValueError(f"{labels_name}: got {labels.shape[0]} labels, want {rows.shape[0]}, one a row of {name}")
    same_device(labels_name, labels, name, rows)


def contrast_sets(anchors: object, anchor_labels: object, contrast: object, contrast_labels: object) -> None:
    _rows("anchors", anchors, anchor_labels, ("N", "D"))
    assert isinstance(anchors, Tensor)
    if contrast is None:
        if contrast_labels is not None:
            raise ValueError("contrast_labels: got labels without contrast, want both or neither")
        return
    if contrast_labels is None:
        raise ValueError("contrast_labels: got None, want [M] labels of contrast")
    _rows("contrast", contrast, contrast_labels, ("M", "D"))
    assert isinstance(contrast, Tensor)
    if contrast.shape[1] != anchors.shape[1]:
        raise ValueError(
            f"contrast: got feature width {contrast.shape[1]}, want {anchors.shape[1]}, the width of anchors"
        )
    if contrast.dtype != anchors.dtype:
        raise TypeError(f"contrast: got dtype {contrast.dtype}, want {anchors.dtype}, the dtype of anchors")
    same_device("contrast", contrast, "anchors", anchors)


def label_rows(labels: Tensor) -> Tensor:
    """Labels in a dtype that the operators take."""
    if labels.dtype in LABEL_DTYPES:
        return labels
    return labels.to(torch.int64 if labels.dtype == torch.uint32 else torch.int32)


def temperature_scale(temperature: float | Tensor, base_temperature: float | None) -> float | Tensor | None:
    """Checks both; temperature / base_temperature, [] or a number, or None where there is nothing to scale."""
    if isinstance(temperature, Tensor):
        if not temperature.dtype.is_floating_point or temperature.numel() != 1:
            raise TypeError(
                f"temperature: got {temperature.dtype} {tuple(temperature.shape)}, want a number or a floating point"
                " tensor of one element"
            )
    else:
        _temperature(temperature)
    if base_temperature is None:
        return None
    _positive_number("base_temperature", base_temperature)
    return (temperature.reshape(()) if isinstance(temperature, Tensor) else temperature) / base_temperature


def temperature_tensor(temperature: float | Tensor, anchors: Tensor) -> Tensor:
    """[] on the device of anchors, float64 for float64 rows, else float32."""
    dtype = torch.float64 if anchors.dtype == torch.float64 else torch.float32
    if isinstance(temperature, Tensor):
        return temperature.reshape(()).to(device=anchors.device, dtype=dtype)
    return constant(float(temperature), dtype, anchors)
