"""Argument checks: a ValueError or TypeError names the argument, what came and what is wanted.

Only types, devices, dtypes and shapes are looked at, so that nothing is read back from a device and Dynamo
can trace through.
"""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from fastpixcon.ops.backends import choose
from fastpixcon.reference.info_nce import TEMPERATURES

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
LABEL_DTYPES = (torch.int32, torch.int64)  # what the operators take
DEFAULT_NUM_CLASSES = 256


def _tensor(name: str, value: object, axes: Sequence[str], *, floating: bool) -> None:
    shape = f"[{', '.join(axes)}]"
    kind = "floating point" if floating else "integer"
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, want a {kind} tensor {shape}")
    if value.dtype.is_floating_point != floating or (not floating and value.dtype not in INTEGERS):
        raise TypeError(f"{name}: got dtype {value.dtype}, want a {kind} tensor {shape}")
    if value.dim() != len(axes):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, want {shape}")


def _same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
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


def embeddings_map(embeddings: object) -> None:
    _tensor("embeddings", embeddings, ("B", "D", "h", "w"), floating=True)


def pixel_index(index: object, embeddings: Tensor) -> None:
    _tensor("index", index, ("N",), floating=False)
    assert isinstance(index, Tensor)
    if index.dtype != torch.int64:
        raise TypeError(f"index: got dtype {index.dtype}, want torch.int64")
    _same_device("index", index, "embeddings", embeddings)


def selection(
    labels: object,
    predictions: object,
    num_classes: int | None,
    max_samples: int,
    max_views: int,
    min_pixels: int | None,
) -> int:
    """Checks the arguments of select_anchors; returns the number of classes."""
    _tensor("labels", labels, ("B", "H", "W"), floating=False)
    assert isinstance(labels, Tensor)
    positive_int("max_samples", max_samples)
    positive_int("max_views", max_views)
    if min_pixels is not None:
        positive_int("min_pixels", min_pixels)
    if num_classes is not None:
        positive_int("num_classes", num_classes)
    if not isinstance(predictions, Tensor):
        raise TypeError(
            f"predictions: got {type(predictions).__name__}, want an integer tensor [B, h, w]"
            " or floating point logits [B, K, h, w]"
        )
    logits = predictions.dtype.is_floating_point
    _tensor("predictions", predictions, ("B", "K", "h", "w") if logits else ("B", "h", "w"), floating=logits)
    _same_device("predictions", predictions, "labels", labels)
    if predictions.shape[0] != labels.shape[0]:
        raise ValueError(f"predictions: got {predictions.shape[0]} images, want {labels.shape[0]} as in labels")
    if predictions.shape[-1] * predictions.shape[-2] > 0 and labels.shape[1] * labels.shape[2] == 0:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, want at least one pixel an image")
    if not logits:
        return DEFAULT_NUM_CLASSES if num_classes is None else num_classes
    channels = predictions.shape[1]
    if channels == 0 or (num_classes is not None and channels != num_classes):
        wanted = "at least one" if num_classes is None else f"{num_classes} (num_classes)"
        raise ValueError(f"predictions: got logits of {channels} classes, want {wanted}")
    return channels


def memory_rows(embeddings: Tensor, labels: object, num_classes: int, pixels_per_image: int) -> None:
    _tensor("labels", labels, ("B", "H", "W"), floating=False)
    assert isinstance(labels, Tensor)
    _same_device("labels", labels, "embeddings", embeddings)
    positive_int("num_classes", num_classes)
    positive_int("pixels_per_image", pixels_per_image)
    if labels.shape[0] != embeddings.shape[0]:
        raise ValueError(f"labels: got {labels.shape[0]} images, want {embeddings.shape[0]} as in embeddings")
    if embeddings.shape[2] * embeddings.shape[3] > 0 and labels.shape[1] * labels.shape[2] == 0:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, want at least one pixel an image")


def _integers(name: str, value: object, shape: Sequence[int], dtype: torch.dtype, other: Tensor) -> None:
    if not isinstance(value, Tensor) or value.dtype != dtype:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: got {got}, want a {dtype} tensor {list(shape)}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, want {tuple(shape)}")
    _same_device(name, value, "bank", other)


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
    _tensor("bank", bank, ("K", "S", "D"), floating=True)
    assert isinstance(bank, Tensor)
    _without_gradient("bank", bank)
    K, S, D = bank.shape
    _integers("bank_labels", bank_labels, (K, S), torch.int32, bank)
    _integers("written", written, (2, K), torch.int64, bank)
    positive_int("pixel_size", pixel_size)
    if pixel_size >= S:
        raise ValueError(f"pixel_size: got {pixel_size}, want less than {S}, the places of a class in bank")
    for name, rows, labels in (("pixels", pixels, pixel_labels), ("regions", regions, region_labels)):
        _tensor(name, rows, ("rows", "D"), floating=True)
        assert isinstance(rows, Tensor)
        if rows.shape[1] != D:
            raise ValueError(f"{name}: got {rows.shape[1]} features, want {D}, the width of bank")
        _same_device(name, rows, "bank", bank)
        _integers(f"{name.removesuffix('s')}_labels", labels, rows.shape[:1], torch.int32, bank)


def memory_and_mining(memory: object, mining: object, anchors: Tensor, rows: str, contrast_with: str) -> None:
    if rows == "any":
        raise ValueError("normalize: got False, want True with memory, mining or process_group, which take cosines")
    if memory is None:
        if contrast_with == "memory":
            raise ValueError("contrast_with: got 'memory' without a memory, want 'batch' or a memory")
    else:
        bank, labels = getattr(memory, "rows", None), getattr(memory, "labels", None)
        if not isinstance(bank, Tensor) or not isinstance(labels, Tensor):
            raise TypeError(f"memory: got {type(memory).__name__}, want a MemoryBank")
        if bank.shape[-1] != anchors.shape[1]:
            raise ValueError(
                f"memory: got rows of {bank.shape[-1]} features, want {anchors.shape[1]} as in the anchors"
            )
        _same_device("memory", bank, "anchors", anchors)
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


def same_pixels(embeddings: Tensor, labels: object, predictions: object) -> None:
    """The maps [B, D, h, w], [B, H, W] and [B, (K,) h, w] show the same images."""
    for name, value in (("labels", labels), ("predictions", predictions)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: got {type(value).__name__}, want a tensor")
        _same_device(name, value, "embeddings", embeddings)
        if value.dim() and value.shape[0] != embeddings.shape[0]:
            raise ValueError(f"{name}: got {value.shape[0]} images, want {embeddings.shape[0]} as in embeddings")
    assert isinstance(predictions, Tensor)
    if predictions.shape[-2:] != embeddings.shape[-2:]:
        raise ValueError(
            f"predictions: got shape {tuple(predictions.shape)}, want"
            f" [..., {embeddings.shape[2]}, {embeddings.shape[3]}] as in embeddings"
        )


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
    _tensor(name, rows, axes, floating=True)
    labels_name = f"{name.removesuffix('s')}_labels"
    _tensor(labels_name, labels, axes[:1], floating=False)
    assert isinstance(rows, Tensor)
    assert isinstance(labels, Tensor)
    if labels.shape[0] != rows.shape[0]:
        raise ValueError(f"{labels_name}: got {labels.shape[0]} labels, want {rows.shape[0]}, one a row of {name}")
    _same_device(labels_name, labels, name, rows)


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
    _same_device("contrast", contrast, "anchors", anchors)


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
    return torch.full((), float(temperature), dtype=dtype, device=anchors.device)
