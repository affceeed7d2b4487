"""Bad input raises an error that names the argument, what came and what is wanted, before a kernel runs."""

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastpixcon as fpc
from fastpixcon.functional import gather_normalize, info_nce, pixel_contrast, select_anchors

ROWS, LABELS = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
CONTRAST, CONTRAST_LABELS = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
MAP, MAP_LABELS = torch.randn(2, 4, 3, 5), torch.randint(3, (2, 6, 10))
LOGITS, CLASSES = torch.randn(2, 3, 3, 5), torch.randint(3, (2, 3, 5))
INDEX = torch.tensor([0, 5, -1])


def rows(anchors: Any = ROWS, anchor_labels: Any = LABELS, *contrast: Any, **options: Any) -> Tensor:
    return info_nce(anchors, anchor_labels, *contrast, **options)


def select(labels: Any = MAP_LABELS, predictions: Any = LOGITS, **options: Any) -> Any:
    return select_anchors(labels, predictions, **options)


def pixels(embeddings: Any = MAP, labels: Any = MAP_LABELS, predictions: Any = LOGITS, **options: Any) -> Tensor:
    return pixel_contrast(embeddings, labels, predictions, **options)


Row = tuple[Callable[[], Any], type[Exception], str, str, str]  # call, error, argument, given, wanted
WRONG_OPTIONS: list[tuple[str, Any, type[Exception], str]] = [
    ("temperature", 0, ValueError, "> 0"),
    ("temperature", -0.1, ValueError, "> 0"),
    ("temperature", float("nan"), ValueError, "> 0"),
    ("temperature", float("inf"), ValueError, "> 0"),
    ("temperature", 1e-40, ValueError, "from 2^-126"),
    ("temperature", 1e39, ValueError, "to 3.40282e+38"),
    ("temperature", "0.1", TypeError, "number"),
    ("temperature", None, TypeError, "number"),
    ("temperature", True, TypeError, "number"),
    ("base_temperature", 0.0, ValueError, "> 0"),
    ("base_temperature", -1, ValueError, "> 0"),
    ("base_temperature", "x", TypeError, "number"),
    ("denominator", "positives", ValueError, "'negatives', 'all'"),
    ("denominator", None, ValueError, "'negatives', 'all'"),
]
WRONG_SELECTION: list[tuple[str, Any, type[Exception], str]] = [
    ("max_samples", 0, ValueError, "int > 0"),
    ("max_samples", -5, ValueError, "int > 0"),
    ("max_samples", 10.0, TypeError, "int > 0"),
    ("max_views", 0, ValueError, "int > 0"),
    ("max_views", "4", TypeError, "int > 0"),
    ("min_pixels", 0, ValueError, "int > 0"),
    ("min_pixels", 2.5, TypeError, "int > 0"),
    ("ignore_index", 2.5, TypeError, "int"),
    ("ignore_index", None, TypeError, "int"),
    ("num_classes", 0, ValueError, "int > 0"),
    ("num_classes", 3.0, TypeError, "int > 0"),
]


def option(call: Callable[..., Any], name: str, value: Any) -> Callable[[], Any]:
    return lambda: call(**{name: value})


TABLE: list[Row] = [
    *((option(rows, n, v), e, n, str(v), w) for n, v, e, w in WRONG_OPTIONS),
    *((option(pixels, n, v), e, n, str(v), w) for n, v, e, w in WRONG_OPTIONS),
    *((option(fpc.PixelContrastLoss, n, v), e, n, str(v), w) for n, v, e, w in WRONG_OPTIONS),
    *((option(fpc.SupConLoss, n, v), e, n, str(v), w) for n, v, e, w in WRONG_OPTIONS[:7]),
    *((option(fpc.InfoNCELoss, n, v), e, n, str(v), w) for n, v, e, w in WRONG_OPTIONS[:7]),
    *((option(call, n, v), e, n, str(v), w) for call in (select, pixels) for n, v, e, w in WRONG_SELECTION),
    *((option(fpc.PixelContrastLoss, n, v), e, n, str(v), w) for n, v, e, w in WRONG_SELECTION),
    (lambda: rows(temperature=torch.ones(2)), TypeError, "temperature", "(2,)", "of one element"),
    (lambda: rows(temperature=torch.tensor(1)), TypeError, "temperature", "torch.int64", "of one element"),
    (lambda: rows(reduction="average"), ValueError, "reduction", "'average'", "'mean', 'sum', 'none'"),
    (lambda: rows([[1.0]]), TypeError, "anchors", "list", "[N, D]"),
    (lambda: rows(ROWS.long()), TypeError, "anchors", "torch.int64", "floating point"),
    (lambda: rows(ROWS.to(torch.complex64)), TypeError, "anchors", "torch.complex64", "floating point"),
    (lambda: rows(ROWS[0]), ValueError, "anchors", "(4,)", "[N, D]"),
    (lambda: rows(ROWS[None]), ValueError, "anchors", "(1, 6, 4)", "[N, D]"),
    (lambda: rows(ROWS, LABELS.float()), TypeError, "anchor_labels", "torch.float32", "integer"),
    (lambda: rows(ROWS, LABELS > 0), TypeError, "anchor_labels", "torch.bool", "integer"),
    (lambda: rows(ROWS, [0] * 6), TypeError, "anchor_labels", "list", "integer"),
    (lambda: rows(ROWS, LABELS[:5]), ValueError, "anchor_labels", "5", "6"),
    (lambda: rows(ROWS, LABELS[:, None]), ValueError, "anchor_labels", "(6, 1)", "[N]"),
    (lambda: rows(ROWS, LABELS.to("meta")), ValueError, "anchor_labels", "meta", "cpu"),
    (lambda: rows(ROWS, LABELS, CONTRAST), ValueError, "contrast_labels", "None", "[M]"),
    (lambda: rows(ROWS, LABELS, None, CONTRAST_LABELS), ValueError, "contrast_labels", "without contrast", "both"),
    (lambda: rows(ROWS, LABELS, CONTRAST[:, :3], CONTRAST_LABELS), ValueError, "contrast", "3", "4"),
    (lambda: rows(ROWS, LABELS, CONTRAST.half(), CONTRAST_LABELS), TypeError, "contrast", "float16", "float32"),
    (lambda: rows(ROWS, LABELS, CONTRAST, CONTRAST_LABELS[:2]), ValueError, "contrast_labels", "2", "5"),
    (lambda: rows(ROWS, LABELS, CONTRAST, CONTRAST_LABELS.float()), TypeError, "contrast_labels", "float32", "integer"),
    (
        lambda: rows(ROWS, LABELS, CONTRAST.to("meta"), CONTRAST_LABELS.to("meta")),
        ValueError,
        "contrast",
        "meta",
        "cpu",
    ),
    (lambda: fpc.SupConLoss()(ROWS, LABELS[:5]), ValueError, "anchor_labels", "5", "6"),
    (lambda: fpc.InfoNCELoss()(ROWS, LABELS.float()), TypeError, "anchor_labels", "float32", "integer"),
    (lambda: gather_normalize(MAP[0, 0], INDEX), ValueError, "embeddings", "(3, 5)", "[B, D, h, w]"),
    (lambda: gather_normalize(MAP.int(), INDEX), TypeError, "embeddings", "torch.int32", "floating point"),
    (lambda: gather_normalize(MAP, INDEX.float()), TypeError, "index", "torch.float32", "integer"),
    (lambda: gather_normalize(MAP, INDEX.int()), TypeError, "index", "torch.int32", "torch.int64"),
    (lambda: gather_normalize(MAP, INDEX[None]), ValueError, "index", "(1, 3)", "[N]"),
    (lambda: gather_normalize(MAP, INDEX.to("meta")), ValueError, "index", "meta", "cpu"),
    (lambda: select(MAP_LABELS.float()), TypeError, "labels", "torch.float32", "integer"),
    (lambda: select(MAP_LABELS.bool()), TypeError, "labels", "torch.bool", "integer"),
    (lambda: select(MAP_LABELS[0]), ValueError, "labels", "(6, 10)", "[B, H, W]"),
    (lambda: select(MAP_LABELS, LOGITS[0]), ValueError, "predictions", "(3, 3, 5)", "[B, K, h, w]"),
    (lambda: select(MAP_LABELS, CLASSES[0]), ValueError, "predictions", "(3, 5)", "[B, h, w]"),
    (lambda: select(MAP_LABELS, LOGITS[:1]), ValueError, "predictions", "1 images", "2"),
    (lambda: select(MAP_LABELS, LOGITS, num_classes=4), ValueError, "predictions", "3 classes", "4"),
    (lambda: select(MAP_LABELS, LOGITS[:, :0]), ValueError, "predictions", "0 classes", "at least one"),
    (lambda: select(MAP_LABELS, None), TypeError, "predictions", "NoneType", "[B, h, w]"),
    (lambda: select(MAP_LABELS[:, :0]), ValueError, "labels", "(2, 0, 10)", "at least one pixel"),
    (lambda: select(MAP_LABELS, LOGITS.to("meta")), ValueError, "predictions", "meta", "cpu"),
    (lambda: select(seed=1.5), TypeError, "seed", "1.5", "int64"),
    (lambda: select(seed=2**64), ValueError, "seed", str(2**64), "64 bits"),
    (lambda: select(seed=torch.zeros(2, dtype=torch.int64)), TypeError, "seed", "(2,)", "[] int64"),
    (lambda: select(seed=torch.tensor(0.0)), TypeError, "seed", "float32", "[] int64"),
    (lambda: pixels(MAP[0]), ValueError, "embeddings", "(4, 3, 5)", "[B, D, h, w]"),
    (lambda: pixels(None), TypeError, "embeddings", "NoneType", "[B, D, h, w]"),
    (lambda: pixels(MAP[:1]), ValueError, "labels", "2 images", "1"),
    (lambda: pixels(MAP[..., :4]), ValueError, "predictions", "(2, 3, 3, 5)", "3, 4]"),
    (lambda: pixels(MAP, MAP_LABELS.float()), TypeError, "labels", "float32", "integer"),
    (lambda: pixels(MAP, MAP_LABELS, LOGITS, num_classes=7), ValueError, "predictions", "3 classes", "7"),
    (lambda: pixels(MAP, MAP_LABELS.to("meta")), ValueError, "labels", "meta", "cpu"),
    (lambda: fpc.PixelContrastLoss(num_classes=4)(MAP, MAP_LABELS, LOGITS), ValueError, "predictions", "3", "4"),
    (lambda: fpc.PixelContrastLoss(memory=object()), TypeError, "memory", "object", "MemoryBank"),
    (lambda: fpc.PixelContrastLoss(mining="hardest"), TypeError, "mining", "hardest", "Mining"),
    (lambda: fpc.backend("cuda"), ValueError, "backend", "'cuda'", "'reference', 'native', 'triton'"),
    (lambda: fpc.backend(None), ValueError, "backend", "None", "'auto'"),
    (lambda: rows(backend="numpy"), ValueError, "backend", "'numpy'", "'auto'"),
    (lambda: select(backend="numpy"), ValueError, "backend", "'numpy'", "'auto'"),
    (lambda: gather_normalize(MAP, INDEX, backend="numpy"), ValueError, "backend", "'numpy'", "'auto'"),
    (lambda: pixels(backend="numpy"), ValueError, "backend", "'numpy'", "'auto'"),
]


class NoKernels(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not func.namespace.startswith("fastpixcon"), f"{func} ran on bad input"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("call", "error", "argument", "given", "wanted"),
    TABLE,
    ids=[f"{i}-{row[2]}-{row[3]}" for i, row in enumerate(TABLE)],
)
def test_names_the_argument_what_came_and_what_is_wanted(
    call: Callable[[], Any], error: type[Exception], argument: str, given: str, wanted: str
) -> None:
    with NoKernels(), pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    pattern = rf"{argument}: got .*{re.escape(given)}.*, want .*{re.escape(wanted)}"
    assert re.match(pattern, message), message


def test_what_only_the_values_show(backend: Backend) -> None:
    """Found by the kernels: on the CPU a ValueError, elsewhere an assertion on the device."""
    if backend.device != "cpu" or backend.name == "triton":
        pytest.skip("a failed assertion on the device ends its context; Triton's launchers read nothing anywhere")
    with pytest.raises(ValueError, match=r"labels: got label 3, want .*3"):
        select(torch.full((2, 6, 10), 3))
    with pytest.raises(ValueError, match=r"labels: got label 7, want .*5"):
        select(torch.full((2, 6, 10), 7), CLASSES, num_classes=5)
    for outside in (30, -2):
        with pytest.raises(ValueError, match=r"index: got .*, want|index: got values outside \[-1, 30\)"):
            gather_normalize(MAP, torch.tensor([0, outside]))
    for tau in (0.0, -0.5, float("nan"), float("inf"), 1e-40, 1e-46):
        with pytest.raises(ValueError, match=r"temperature: got .*, want a number > 0, from 2\^-126"):
            rows(temperature=torch.tensor(tau))
    for tau in (2.0**-126, 3e38):
        for temperature in (tau, torch.tensor(tau)):
            assert rows(temperature=temperature, reduction="none").isfinite().all()


BEYOND = """
import sys, torch, fastpixcon as fpc
labels, logits = torch.full((2, 6, 10), 3, device="cuda"), torch.zeros(2, 3, 3, 5, device="cuda")
fpc.functional.select_anchors(labels, logits, backend=sys.argv[1])
print("no host read", flush=True)
torch.cuda.synchronize()
print("went unnoticed")
"""


def test_a_label_beyond_the_classes_is_asserted_on_the_device(backend: Backend) -> None:
    """In a process of its own, whose GPU context it ends. Only the reference may wait for the device before that."""
    if backend.device != "cuda":
        pytest.skip("a ValueError on the CPU")
    command = [sys.executable, "-c", BEYOND, backend.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout in ("no host read\n", *([""] if backend.name == "reference" else []))
    assert "assert" in done.stderr.lower()


def test_a_label_that_is_ignored_may_be_any(backend: Backend) -> None:
    labels = MAP_LABELS.to(backend.device)
    labels = torch.where(labels == 0, 255, labels)
    assert select(labels, LOGITS.to(backend.device), max_views=1).count > 0
    assert select(torch.where(labels == 1, -100, labels), LOGITS.to(backend.device), max_views=1).count > 0
