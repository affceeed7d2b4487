"""No launcher reads a tensor: with every reading method made to raise, a step runs all the same (interpreted)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.ops import define

common = pytest.importorskip("fastpixcon.kernels.common", reason="triton is not installed")
pytestmark = pytest.mark.skipif(not define.INTERPRETING, reason="kernels run on the CPU with TRITON_INTERPRET=1 only")

READING = [
    *("item", "tolist", "numpy", "cpu", "nonzero", "unique", "masked_select", "equal", "allclose", "is_nonzero"),
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__array__"),
]


class HostReadError(AssertionError):
    pass


@contextmanager
def reading(allowed: bool) -> Iterator[None]:
    """Whether the values of a tensor can be read in the block."""
    before = {name: getattr(Tensor, name) for name in READING}
    for name in READING:

        def refuse(*_: Any, name: str = name, **__: Any) -> Any:
            raise HostReadError(f"Tensor.{name} reads the values of a tensor")

        setattr(Tensor, name, ORIGINAL[name] if allowed else refuse)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Tensor, name, method)


ORIGINAL = {name: getattr(Tensor, name) for name in READING}


@pytest.fixture(autouse=True)
def interpreted_launches_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter itself does."""
    start = common.launcher

    def launcher(*arguments: Any) -> None:
        with reading(True):
            start(*arguments)

    monkeypatch.setattr(common, "launcher", launcher)


def test_reading_is_noticed() -> None:
    with reading(False):
        for read in (Tensor.item, bool, int, float, Tensor.tolist, Tensor.nonzero):
            with pytest.raises(HostReadError):
                read(torch.ones(()))
    assert torch.ones(()).item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("temperature", ["number", "tensor"])
def test_a_whole_step(dtype: torch.dtype, denominator: str, temperature: str) -> None:
    tau = torch.tensor(0.1, requires_grad=True) if temperature == "tensor" else 0.1
    loss = fpc.PixelContrastLoss(tau, max_samples=40, max_views=6, denominator=denominator)
    labels = torch.arange(3).repeat_interleave(8)[None, :, None].repeat(2, 1, 20)
    embeddings = torch.randn(2, 16, 12, 10, dtype=dtype, requires_grad=True)
    logits = torch.randn(2, 3, 12, 10, dtype=dtype)
    with fpc.backend("triton"), reading(False):
        loss(embeddings, labels, logits).backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum() > 0
    if isinstance(tau, Tensor):
        assert tau.grad is not None


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("separate", [True, False])
def test_rows_in_any_order(normalize: bool, separate: bool) -> None:
    x, c = (torch.randn(n, 19, requires_grad=True) for n in (50, 30))
    y, z = torch.arange(50) % 4, torch.arange(30) % 5 - 1
    with fpc.backend("triton"), reading(False):
        contrast = (c, z) if separate else (None, None)
        fpc.functional.info_nce(x, y, *contrast, normalize=normalize, base_temperature=0.07).backward()
    assert x.grad is not None
    assert (c.grad is not None) == separate
