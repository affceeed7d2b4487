"""Labels that do not count: one or several, of maps and of rows."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.functional import info_nce, memory_rows, pixel_contrast, select_anchors

DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32]


def maps() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (2, 20, 24), generator=generator)
    return torch.randn(2, 8, 10, 12, generator=generator), labels, torch.randn(2, 6, 10, 12, generator=generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("void", [(4,), (0, 4), [5, 1, 0], (-100, 4), (4, 2**40), {0, 4, -1}], ids=str)
def test_several_labels_of_a_map(void: Any, dtype: torch.dtype) -> None:
    """As if they were all one."""
    x, labels, p = maps()
    one = torch.where(torch.isin(labels, torch.tensor(list(void))), 100, labels).to(dtype)
    labels = labels.to(dtype)
    options: dict[str, Any] = {"max_samples": 40, "max_views": 5}
    for found, wanted in zip(
        select_anchors(labels, p, ignore_index=void, **options),
        select_anchors(one, p, ignore_index=100, **options),
        strict=True,
    ):
        assert torch.equal(found, wanted)
    rows, wanted_rows = (memory_rows(x, y, num_classes=6, ignore_index=i) for y, i in ((labels, void), (one, 100)))
    for found, wanted in zip(rows, wanted_rows, strict=True):
        assert torch.equal(found, wanted)
    memory = fpc.MemoryBank(6, 8, 20, 10, ignore_index=void)
    contrast = fpc.PixelContrastLoss(ignore_index=void, memory=memory, seed=0, **options)
    torch.testing.assert_close(contrast(x, labels, p), pixel_contrast(x, one, p, ignore_index=100, seed=0, **options))
    memory.flush()
    assert not any(memory.written[1, c] for c in void if 0 <= c < 6)
    assert labels.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_labels_of_rows(dtype: torch.dtype) -> None:
    x, y = torch.randn(40, 8), torch.arange(40) % 5
    c, z = torch.randn(30, 8), torch.arange(30) % 5
    for void in (3, (0, 3), [3, 2**40, -100]):
        taken = [
            ~torch.isin(labels, torch.tensor(void if isinstance(void, (list, tuple)) else [void])) for labels in (y, z)
        ]
        wanted = info_nce(x[taken[0]], y[taken[0]], c[taken[1]], z[taken[1]])
        found = info_nce(x, y.to(dtype), c, z.to(dtype), ignore_index=void)
        torch.testing.assert_close(found, wanted)
        for module in (fpc.SupConLoss, fpc.InfoNCELoss):
            found = module(0.1, ignore_index=void)(x, y.to(dtype))
            torch.testing.assert_close(found, module(0.1)(x[taken[0]], y[taken[0]]))


def test_minus_hundred_is_a_class_unless_it_is_said() -> None:
    x, y = torch.randn(12, 8), torch.tensor([0, 1, -100] * 4)
    assert info_nce(x, y) != info_nce(x, y, ignore_index=-100)
    torch.testing.assert_close(info_nce(x, y, ignore_index=-100), info_nce(x[y >= 0], y[y >= 0]))
    assert "ignore_index=-100" in repr(fpc.SupConLoss(ignore_index=-100))


@pytest.mark.parametrize("wrong", [None, "255", 2.0, True, (), (1, "2"), (1, True), torch.tensor(3)])
def test_what_is_no_label(wrong: Any) -> None:
    x, labels, p = maps()
    for call in (
        lambda: fpc.PixelContrastLoss(ignore_index=wrong),
        lambda: fpc.MemoryBank(3, 8, ignore_index=wrong),
        lambda: fpc.SupConLoss(ignore_index=wrong),
        lambda: select_anchors(labels, p, ignore_index=wrong),
        lambda: memory_rows(x, labels, num_classes=6, ignore_index=wrong),
        lambda: info_nce(x[0, :, 0].T, labels[0, 0, :12], ignore_index=wrong),
    ):
        with pytest.raises(TypeError, match=r"^ignore_index: got .*, want an int, or several"):
            call()


def test_those_of_a_loss_and_of_its_memory_are_the_same() -> None:
    fpc.PixelContrastLoss(ignore_index=(255, 0), memory=fpc.MemoryBank(3, 8, ignore_index=[0, 255]))
    with pytest.raises(ValueError, match=r"memory: got ignore_index 255, want \(255, 0\)"):
        fpc.PixelContrastLoss(ignore_index=(255, 0), memory=fpc.MemoryBank(3, 8))


def test_compiled() -> None:
    contrast = fpc.PixelContrastLoss(ignore_index=(255, 0), max_samples=40, max_views=5, seed=0)
    expected = contrast(*maps())
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(contrast, backend="aot_eager", fullgraph=True)(*maps()), expected)
