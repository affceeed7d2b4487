"""The public functions on every backend: what they compose to, layouts, dtypes, and input that breaks other losses."""

from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor
from torch.nn.functional import normalize

import fastpixcon as fpc
from fastpixcon.functional import gather_normalize, info_nce, pixel_contrast, select_anchors

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
B, D, h, w, K = 3, 20, 11, 14, 4
SELECTION: dict[str, Any] = {"max_samples": 80, "max_views": 9}


def images(backend: Backend, H: int = 2 * h, W: int = 2 * w, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """embeddings [B, D, h, w], labels [B, H, W] in blocks with a part ignored, logits [B, K, h, w]."""
    blocks = torch.randint(K, (B, 1, 3, 3)).float()
    labels = torch.nn.functional.interpolate(blocks, (H, W)).long()[:, 0]
    labels[:, :2] = 255
    maps = {"embeddings": torch.randn(B, D, h, w).to(dtype), "labels": labels, "predictions": torch.randn(B, K, h, w)}
    return {name: x.to(backend.device) for name, x in maps.items()}


def check_finite(loss: Tensor, *inputs: Tensor) -> None:
    """A finite loss, attached to the graph, and finite gradients."""
    assert loss.shape == ()
    assert loss.isfinite(), loss
    assert loss.requires_grad
    for x, gradient in zip(inputs, torch.autograd.grad(loss, inputs), strict=True):
        assert (gradient.shape, gradient.dtype) == (x.shape, x.dtype)
        assert gradient.isfinite().all()


def test_pixel_contrast_is_its_three_steps(backend: Backend) -> None:
    maps = images(backend)
    x = maps["embeddings"].requires_grad_()
    selected = select_anchors(maps["labels"], maps["predictions"], seed=5, **SELECTION)
    assert 40 < selected.count <= 80
    rows = gather_normalize(x, selected.index)
    steps = info_nce(rows, selected.label, temperature=0.1, base_temperature=0.07, normalize=False)
    whole = pixel_contrast(**maps, seed=5, **SELECTION)
    torch.testing.assert_close(whole, steps)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (whole, steps)))
    other = pixel_contrast(**maps, seed=6, **SELECTION)
    assert other != whole


@pytest.mark.parametrize("denominator", ["negatives", "all"])
def test_pixel_contrast_against_a_plain_pipeline(denominator: str, backend: Backend) -> None:
    """Normalise the whole map, index it, full matrices, autograd."""
    maps = images(backend)
    x = maps["embeddings"].requires_grad_()
    index, y, count = select_anchors(maps["labels"], maps["predictions"], seed=3, **SELECTION)
    index, y = index[:count], y[:count]
    a = normalize(x).permute(0, 2, 3, 1).reshape(-1, D)[index]
    e = (a @ a.T / 0.1).exp()
    apart = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    same = y[:, None] == y
    Z = (e * (~same if denominator == "negatives" else apart)).sum(1, keepdim=True)
    terms = (Z / e).log1p() if denominator == "negatives" else (Z / e).log()
    positives = same & apart
    theirs = (torch.where(positives, terms, 0).sum(1) / positives.sum(1)).mean() * 0.1 / 0.07
    ours = pixel_contrast(**maps, seed=3, denominator=denominator, **SELECTION)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.autograd.grad(loss, x)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_gather_normalize_is_normalize_and_index(backend: Backend) -> None:
    x = images(backend)["embeddings"].requires_grad_()
    index = torch.randint(B * h * w, (50,), device=x.device)
    theirs = normalize(x.permute(0, 2, 3, 1).reshape(-1, D)[index])
    ours = gather_normalize(x, index)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad((rows * weight).sum(), x)[0] for rows in (ours, theirs)))
    assert (gather_normalize(x, index.new_full((3,), -1)) == 0).all()


@pytest.mark.parametrize("layout", ["channels_last", "strided", "expanded"])
def test_layout_changes_nothing(layout: str, backend: Backend) -> None:
    maps = images(backend)
    loss = pixel_contrast(**maps, **SELECTION)
    if layout == "channels_last":
        for name in ("embeddings", "predictions"):
            maps[name] = maps[name].contiguous(memory_format=torch.channels_last)
        maps["embeddings"].requires_grad_()
        d_x = torch.autograd.grad(pixel_contrast(**maps, **SELECTION), maps["embeddings"])[0]
        assert d_x.is_contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        maps = {name: x.repeat_interleave(2, dim=-1)[..., ::2] for name, x in maps.items()}
    else:
        maps["embeddings"] = maps["embeddings"][:1].expand(B, -1, -1, -1)
        loss = pixel_contrast(**{**maps, "embeddings": maps["embeddings"].contiguous()}, **SELECTION)
    torch.testing.assert_close(pixel_contrast(**maps, **SELECTION), loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32])
def test_labels_of_any_integer_type(dtype: torch.dtype, backend: Backend) -> None:
    maps = images(backend)
    ignore_index = 100  # fits all
    labels = torch.where(maps["labels"] == 255, ignore_index, maps["labels"])
    expected = select_anchors(labels, maps["predictions"], ignore_index=ignore_index, **SELECTION)
    assert expected.count > 0
    selected = select_anchors(labels.to(dtype), maps["predictions"], ignore_index=ignore_index, **SELECTION)
    classes = maps["predictions"].argmax(1)
    of_classes = select_anchors(labels, classes.to(dtype), num_classes=K, ignore_index=ignore_index, **SELECTION)
    for one, two, three in zip(selected, expected, of_classes, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(three, two)
    x, y = torch.randn(30, 8, device=backend.device), torch.arange(30, device=backend.device) % 7
    assert torch.equal(info_nce(x, y.to(dtype)), info_nce(x, y))


def everything_ignored(maps: dict[str, Tensor]) -> None:
    maps["labels"].fill_(255)


def one_class_only(maps: dict[str, Tensor]) -> None:
    maps["labels"].fill_(2)


def one_view_of_each_class(maps: dict[str, Tensor]) -> None:
    maps["labels"].fill_(255)
    for k in range(K):
        maps["labels"][0, 4 * k] = k  # one image, and max_samples allows one view a segment


def zero_embeddings(maps: dict[str, Tensor]) -> None:
    maps["embeddings"].zero_()


def some_zero_embeddings(maps: dict[str, Tensor]) -> None:
    maps["embeddings"][..., ::2] = 0


def huge_embeddings(maps: dict[str, Tensor]) -> None:
    maps["embeddings"].clamp_(-1, 1).mul_(min(1e30, torch.finfo(maps["embeddings"].dtype).max))


def tiny_embeddings(maps: dict[str, Tensor]) -> None:
    maps["embeddings"].mul_(1e-30)


def small_embeddings(maps: dict[str, Tensor]) -> None:
    """So small that 1 / norm is huge, but a gradient of that size still fits the type."""
    maps["embeddings"].mul_(1e-3 if maps["embeddings"].dtype == torch.float16 else 1e-7)


def channels_last(maps: dict[str, Tensor]) -> None:
    maps["embeddings"] = maps["embeddings"].contiguous(memory_format=torch.channels_last)


def uint8_labels(maps: dict[str, Tensor]) -> None:
    maps["labels"] = maps["labels"].to(torch.uint8)


def no_images(maps: dict[str, Tensor]) -> None:
    for name in maps:
        maps[name] = maps[name][:0]


def equal_embeddings(maps: dict[str, Tensor]) -> None:
    maps["embeddings"].fill_(0.5)


HARD_INPUT = [
    (everything_ignored, {}),
    (one_class_only, {}),
    (one_view_of_each_class, {"max_samples": K, "max_views": 3}),
    (uint8_labels, {"max_samples": 3, "max_views": 1}),  # more segments than samples
    (uint8_labels, {"max_samples": 1, "max_views": 1}),
    (zero_embeddings, {}),
    (some_zero_embeddings, {}),
    (huge_embeddings, {}),
    (tiny_embeddings, {}),
    (small_embeddings, {}),
    (equal_embeddings, {"temperature": 0.01}),
    (channels_last, {"temperature": 0.01}),
    (uint8_labels, {"temperature": 0.01}),
    (no_images, {}),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize(("spoil", "options"), HARD_INPUT)
def test_pixel_contrast_survives(
    spoil: Any, options: dict[str, Any], denominator: str, dtype: torch.dtype, backend: Backend
) -> None:
    maps = images(backend, dtype=dtype)
    spoil(maps)
    x = maps["embeddings"].requires_grad_()
    loss = pixel_contrast(**maps, denominator=denominator, **{**SELECTION, **options})
    check_finite(loss, x)
    if spoil in (everything_ignored, one_view_of_each_class, no_images):
        assert loss == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("H", "W"), [(37, 53), (5, 3), (h, w), (1, 1), (2 * h + 1, w - 1)])
def test_sizes_that_are_no_multiple_of_each_other(H: int, W: int, dtype: torch.dtype, backend: Backend) -> None:
    maps = images(backend, H, W, dtype)
    maps["embeddings"].requires_grad_()
    check_finite(pixel_contrast(**maps, **SELECTION), maps["embeddings"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("norm", [0.0, 1e-30, 1e-7, 1.0, 1e15, 1e30])
@pytest.mark.parametrize("labels", ["mixed", "ignored", "one class", "singles"])
def test_info_nce_survives(
    labels: str, norm: float, separate: bool, denominator: str, dtype: torch.dtype, backend: Backend
) -> None:
    y = {
        "mixed": torch.arange(40) % 3,
        "ignored": torch.full((40,), -1),
        "one class": torch.full((40,), 2),
        "singles": torch.arange(40),
    }[labels].to(backend.device)
    if dtype == torch.float16:  # a gradient of 1 / norm, or of the norm of rows taken as they are, must fit float16
        norm = {1e-7: 1e-3, 1e15: 1e2, 1e30: 6e4}.get(norm, norm)
    x, c = ((torch.rand(40, 9).sub(0.5).double() * norm).to(dtype).to(backend.device) for _ in range(2))
    x.requires_grad_()
    inputs, contrast = [x], (None, None)
    if separate:
        inputs, contrast = [x, c.requires_grad_()], (c, y)
    for tau in (0.01, 0.1):
        check_finite(info_nce(x, y, *contrast, temperature=tau, denominator=denominator), *inputs)
        if norm not in (6e4, 1e30):  # rows as they are: their products must exist in float32
            loss = info_nce(x, y, *contrast, temperature=tau, denominator=denominator, normalize=False)
            check_finite(loss, *inputs)


@pytest.mark.parametrize("sizes", [(0, None), (0, 5), (5, 0), (1, None), (1, 1)])
def test_no_rows(sizes: tuple[int, int | None], backend: Backend) -> None:
    N, M = sizes
    x = torch.randn(N, 8, device=backend.device, requires_grad=True)
    y = torch.zeros(N, dtype=torch.int64, device=backend.device)
    if M is None:
        loss = info_nce(x, y)
        assert loss == 0
    else:
        c = torch.randn(M, 8, device=backend.device)
        loss = info_nce(x, y, c, torch.zeros(M, dtype=torch.int64, device=backend.device))
    check_finite(loss, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_rows(dtype: torch.dtype, backend: Backend) -> None:
    x, y = torch.randn(50, 16, device=backend.device, requires_grad=True), torch.arange(50, device=backend.device) % 4
    with torch.autocast(backend.device, dtype):
        loss = info_nce(x, y)
        maps = images(backend)
        pixels = pixel_contrast(**maps, **SELECTION)
    unit = torch.nn.functional.normalize(x).to(dtype)
    torch.testing.assert_close(loss, info_nce(unit, y, normalize=False), rtol=1e-5, atol=0)
    assert loss.dtype == torch.float32
    check_finite(loss, x)
    torch.testing.assert_close(pixels, pixel_contrast(**maps, **SELECTION), rtol=0.02, atol=0.02)


def test_half_precision_is_close_to_single(backend: Backend) -> None:
    maps = images(backend)
    x = maps["embeddings"].requires_grad_()
    loss = pixel_contrast(**maps, **SELECTION)
    d_x = torch.autograd.grad(loss, x)[0]
    for dtype, tol in ((torch.bfloat16, 0.03), (torch.float16, 0.005)):
        maps["embeddings"] = x.detach().to(dtype).requires_grad_()
        half = pixel_contrast(**maps, **SELECTION)
        d_half = torch.autograd.grad(half, maps["embeddings"])[0]
        assert half.dtype == torch.float32
        assert abs(half.item() / loss.item() - 1) < tol
        assert float((d_half.float() - d_x).norm() / d_x.norm()) < tol


def test_no_gradient_is_asked_of_labels_or_predictions(backend: Backend) -> None:
    maps = images(backend)
    maps["predictions"].requires_grad_()
    maps["embeddings"].requires_grad_()
    loss = pixel_contrast(**maps, **SELECTION)
    d_x, d_logits = torch.autograd.grad(loss, [maps["embeddings"], maps["predictions"]], allow_unused=True)
    assert d_x.abs().sum() > 0
    assert d_logits is None


def test_float64_runs_on_the_reference() -> None:
    x, y = torch.randn(20, 6, dtype=torch.float64, requires_grad=True), torch.arange(20) % 3
    loss = info_nce(x, y)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss.item(), info_nce(x.float(), y).item(), rtol=1e-5, atol=0)
    with fpc.backend("reference"):
        assert torch.equal(loss, info_nce(x, y))
