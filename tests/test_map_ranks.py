"""Maps of one, two and three sizes: tokens, images, volumes, on every backend, against maps flattened by hand."""

from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.functional import gather_normalize, memory_rows, pixel_contrast, select_anchors
from fastpixcon.ops import maps

B, D, K = 2, 20, 4
SIZES = {1: (157,), 2: (11, 14), 3: (3, 7, 9)}
LABEL_SIZES = {1: (401,), 2: (23, 14), 3: (7, 7, 22)}
SELECTION: dict[str, Any] = {"max_samples": 60, "max_views": 8}
RANKS = sorted(SIZES)


def blocks(sizes: tuple[int, ...]) -> Tensor:
    """Labels [B, *sizes], a class in a few places each; some pixels ignored."""
    parts = torch.randint(K, (B, *(3 for _ in sizes)))
    for dim, size in enumerate(sizes, 1):
        parts = parts.index_select(dim, torch.arange(size) * 3 // size)
    return torch.where(torch.rand(parts.shape) < 0.1, 255, parts)


def example(rank: int, device: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """embeddings [B, D, *S], labels [B, *S'], logits [B, K, *S]."""
    S = SIZES[rank]
    found = {
        "embeddings": torch.randn(B, D, *S).to(dtype),
        "labels": blocks(LABEL_SIZES[rank]),
        "predictions": torch.randn(B, K, *S),
    }
    return {name: x.to(device) for name, x in found.items()}


def nearest(labels: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Pixel by pixel, floor(i * S' / S) in each dimension: [B, prod(S)]."""
    places = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).view(-1, len(sizes))  # [prod(S), rank]
    of = [places[:, i] * labels.shape[1 + i] // size for i, size in enumerate(sizes)]
    return labels[(slice(None), *of)]


def flat(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same pixels as 2-D maps of one row."""
    S = tuple(found["embeddings"].shape[2:])
    return {
        "embeddings": found["embeddings"].reshape(B, D, 1, -1),
        "labels": nearest(found["labels"], S)[:, None],
        "predictions": found["predictions"].reshape(B, K, 1, -1),
    }


@pytest.mark.parametrize("rank", RANKS)
def test_the_same_pixels(rank: int, backend: Backend) -> None:
    found = example(rank, backend.device)
    theirs = {name: x.cpu() for name, x in flat(found).items()}
    expected = select_anchors(theirs["labels"], theirs["predictions"], seed=7, backend="reference", **SELECTION)
    assert expected.count > 30
    classes = found["predictions"].argmax(1)
    for predictions in (found["predictions"], classes)[: 1 if backend.name == "triton" else 2]:
        selected = select_anchors(found["labels"], predictions, num_classes=K, seed=7, **SELECTION)
        for one, two in zip(selected, expected, strict=True):
            assert torch.equal(one.cpu(), two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", RANKS)
def test_loss_and_gradient_against_float64(rank: int, dtype: torch.dtype, backend: Backend) -> None:
    found = example(rank, backend.device, dtype)
    x = found["embeddings"].requires_grad_()
    loss = pixel_contrast(**found, seed=7, **SELECTION)
    d_x = torch.autograd.grad(loss, x)[0]
    assert (d_x.shape, d_x.dtype) == (x.shape, dtype)
    theirs = {name: y.detach().cpu() for name, y in flat(found).items()}
    theirs["embeddings"] = theirs["embeddings"].double().requires_grad_()
    expected = pixel_contrast(**theirs, seed=7, backend="reference", **SELECTION)
    d_expected = torch.autograd.grad(expected, theirs["embeddings"])[0].view(x.shape)
    bound = 2e-5 if dtype == torch.float32 else 0.02
    assert abs(loss.double().cpu() - expected) < bound * abs(expected)
    assert (d_x.double().cpu() - d_expected).norm() < bound * d_expected.norm()


@pytest.mark.parametrize("rank", RANKS)
def test_what_a_bank_takes(rank: int, backend: Backend) -> None:
    found = example(rank, backend.device)
    ours = memory_rows(found["embeddings"], found["labels"], num_classes=K, seed=7)
    theirs = flat(found)
    expected = memory_rows(
        theirs["embeddings"].cpu().double(), theirs["labels"].cpu(), num_classes=K, seed=7, backend="reference"
    )
    for rows, labels, rows_expected, labels_expected in zip(
        *(x[i::2] for x in (ours, expected) for i in (0, 1)), strict=True
    ):
        assert torch.equal(labels.cpu(), labels_expected)
        torch.testing.assert_close(rows.cpu().double(), rows_expected, rtol=1e-5, atol=1e-6)


def layouts(rank: int, x: Tensor) -> dict[str, Tensor]:
    """The map ``x [B, D, *S]`` in memory of other orders."""
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    found = {"contiguous": x.contiguous(), "channels last": last, "part": last.repeat_interleave(2, 1)[:, ::2]}
    if rank == 1:
        found["tokens"] = torch.cat([x.mT[:, :5], x.mT], dim=1)[:, 5:].mT  # what follows a network's prefix
    if rank == 3:
        found["every other plane"] = x.repeat_interleave(2, 2)[:, :, ::2]
        found["every other row"] = x.repeat_interleave(2, 3)[:, :, :, ::2]
        found["every other voxel"] = x.repeat_interleave(2, 4)[..., ::2]
        found["inner part"] = torch.nn.functional.pad(x, (1, 2, 3, 1, 2, 2))[:, :, 2:-2, 3:-1, 1:-2]
    return found


LAYOUTS = {rank: [*layouts(rank, torch.zeros(1, 2, *SIZES[rank]))] for rank in RANKS}


@pytest.mark.parametrize(("rank", "layout"), [(rank, layout) for rank in RANKS for layout in LAYOUTS[rank]])
def test_a_layout_of_a_map(rank: int, layout: str, backend: Backend) -> None:
    found = example(rank, backend.device)
    x = layouts(rank, found["embeddings"])[layout].detach().requires_grad_()
    loss = pixel_contrast(x, found["labels"], layouts(rank, found["predictions"])[layout], **SELECTION)
    torch.testing.assert_close(loss, pixel_contrast(**found, **SELECTION), rtol=1e-6, atol=0)
    d_x = torch.autograd.grad(loss, x)[0]
    if layout in ("contiguous", "channels last", "tokens"):
        assert maps.folded(x, 2).data_ptr() == x.data_ptr()  # no copy
        last = layouts(rank, torch.empty_like(x))["channels last"]
        assert d_x.stride() == (x if layout == "contiguous" else last).stride()
    ours, theirs = (memory_rows(e, found["labels"], num_classes=K) for e in (x, found["embeddings"]))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_what_is_copied() -> None:
    """A volume folds into rows, or planes, where they lie close together."""
    x = torch.randn(2, 4, 6, 8, 10)
    for view, copies in ((x, False), (x[:, :, ::2], False), (x[:, :, :, ::2], False), (x[..., 1:7, 2:9], True)):
        assert (maps.folded(view, 2).untyped_storage().data_ptr() != x.untyped_storage().data_ptr()) == copies


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32])
def test_labels_of_a_volume_of_any_integer_type(dtype: torch.dtype, backend: Backend) -> None:
    found = example(3, backend.device)
    labels = torch.where(found["labels"] == 255, 100, found["labels"])
    expected = select_anchors(labels, found["predictions"], ignore_index=(100, 2), **SELECTION)
    selected = select_anchors(labels.to(dtype), found["predictions"], ignore_index=(100, 2), **SELECTION)
    assert expected.count > 0
    for one, two in zip(selected, expected, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("rank", RANKS)
def test_rows_of_pixels(rank: int, backend: Backend) -> None:
    x = example(rank, backend.device)["embeddings"].requires_grad_()
    index = torch.randint(x.numel() // D, (50,), device=x.device)
    theirs = torch.nn.functional.normalize(x.movedim(1, -1).reshape(-1, D)[index])
    ours = gather_normalize(x, index)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad((rows * weight).sum(), x)[0] for rows in (ours, theirs)))


@pytest.mark.parametrize("rank", [1, 3])
def test_the_loss_with_a_bank_compiled_and_not(rank: int) -> None:
    losses = []
    for compiles in (False, True):
        torch.manual_seed(3)
        bank = fpc.MemoryBank(K, D, pixel_size=20, region_size=8, pixels_per_image=4)
        contrast = fpc.PixelContrastLoss(num_classes=K, memory=bank, seed=5, **SELECTION)
        call = torch.compile(contrast, fullgraph=True, backend="aot_eager") if compiles else contrast
        torch.manual_seed(4)
        for _ in range(3):
            found = example(rank, "cpu")
            x = found["embeddings"].requires_grad_()
            loss = call(**found)
            losses.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
        bank.flush()
        assert (bank.labels >= 0).any()
        assert contrast.last.anchors > 20
    for plain, compiled in zip(losses[:3], losses[3:], strict=True):
        torch.testing.assert_close(plain, compiled)


def test_images_are_as_they_were() -> None:
    """Of a build before maps had ranks."""
    b, y, x = torch.meshgrid(torch.arange(2), torch.arange(13), torch.arange(17), indexing="ij")
    labels, predictions = (b * 5 + y // 3 + x // 4) % 4, (b + y * 7 + x * 13) % 4
    selected = select_anchors(labels, predictions, num_classes=4, max_samples=24, max_views=3, seed=12345)
    assert selected.index.tolist() == [
        *(18, 98, 157, 250, 252, 300, 5, 131, 151, 303, 351, 441),
        *(11, 42, 168, 308, 401, 430, 170, 171, 219, 277, 313, 420),
    ]


def test_a_map_without_pixels(backend: Backend) -> None:
    for sizes in ((0,), (0, 3, 4), (3, 0, 4), (3, 4, 0)):
        x = torch.randn(B, D, *sizes, device=backend.device, requires_grad=True)
        labels = torch.zeros(B, *(5 for _ in sizes), dtype=torch.int64, device=backend.device)
        loss = pixel_contrast(x, labels, x[:, :K], **SELECTION)
        assert loss == 0
        assert torch.autograd.grad(loss, x)[0].shape == x.shape


X1, X2, X3 = (torch.randn(B, D, *SIZES[rank]) for rank in RANKS)
L1, L2, L3 = (torch.zeros(B, *LABEL_SIZES[rank], dtype=torch.int64) for rank in RANKS)


@pytest.mark.parametrize(
    ("embeddings", "labels", "predictions", "name", "words"),
    [
        (X2, L1, X2, "labels", "(2, 401), want [B, H, W], with two sizes as embeddings (2, 20, 11, 14)"),
        (X2, L2[:, None], X2, "labels", "(2, 1, 23, 14), want [B, H, W], with two sizes"),
        (X2, L2, X1, "predictions", "(2, 20, 157), want [B, K, h, w]"),
        (X1, L2, X2, "embeddings", "(2, 20, 157), want [B, D, h, w]"),
        (X3, L3, X3[:, :, 0], "predictions", "want [B, K, d, h, w], with three sizes"),
        (X3, L3, X3[:, 0, 0].long(), "predictions", "want [B, d, h, w]"),
        (X3, L2, X3, "labels", "want [B, D, H, W], with three sizes"),
        (X1[..., 0], L1, X1, "embeddings", "(2, 20), want [B, D, n], [B, D, h, w] or [B, D, d, h, w]"),
        (X3[..., None], L3, X3, "embeddings", "want [B, D, n], [B, D, h, w] or [B, D, d, h, w]"),
        (X3, L3[..., None], X3, "labels", "want [B, N], [B, H, W] or [B, D, H, W]"),
        (X1, L1, X1[..., :-1], "predictions", "(2, 20, 156), want [..., 157] as in embeddings"),
        (X3, L3, X3[..., :-1], "predictions", "want [..., 3, 7, 9] as in embeddings"),
        (X3, L3[:, :0], X3, "labels", "(2, 0, 7, 22), want at least one pixel an image"),
        (X1, L1[:1], X1, "labels", "got 1 images, want 2"),
    ],
)
def test_ranks_that_do_not_fit(embeddings: Tensor, labels: Tensor, predictions: Tensor, name: str, words: str) -> None:
    for loss in (pixel_contrast, fpc.PixelContrastLoss(num_classes=D)):
        with pytest.raises(ValueError, match=f"^{name}: ") as error:
            loss(embeddings, labels, predictions)
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("call", "name", "words"),
    [
        (lambda: select_anchors(L1, X2), "labels", "(2, 401), want [B, H, W], with two sizes as predictions"),
        (lambda: select_anchors(L3, X2), "predictions", "want [B, K, d, h, w], with three sizes as labels"),
        (lambda: select_anchors(L2[:, None], X2), "labels", "(2, 1, 23, 14), want [B, H, W]"),
        (lambda: memory_rows(X2, L1, num_classes=K), "labels", "want [B, H, W]"),
        (lambda: memory_rows(X1, L3, num_classes=K), "embeddings", "want [B, D, d, h, w]"),
        (lambda: fpc.MemoryBank(K, D).enqueue(X1, L2), "embeddings", "want [B, D, h, w]"),
        (lambda: gather_normalize(X1[0], torch.zeros(3, dtype=torch.int64)), "embeddings", "(20, 157)"),
    ],
)
def test_ranks_of_two_that_do_not_fit(call: Any, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: ") as error:
        call()
    assert words in str(error.value)
