"""The recipe of docs/sub-batches.md: its gradients are those of the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_docs import python_blocks
from torch import Tensor, nn

import fastpixcon as fpc

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sub-batches.md"
EVERY_PIXEL: dict[str, Any] = {"max_samples": 5 * 4 * 64, "max_views": 64, "min_pixels": 1}  # so that nothing is drawn


@pytest.fixture(scope="module")
def recipe() -> Any:
    names: dict[str, Any] = {}
    (_, code), *_ = python_blocks(PAGE.read_text())
    exec(compile(code, str(PAGE), "exec"), names)
    return names["step_in_parts"]


class Network(nn.Module):
    def __init__(self, norm: nn.Module, dropout: float) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm, nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.classifier(self.backbone(images))}


def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    labels = torch.randint(4, (5, 4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, :3] = 255
    return torch.rand(5, 3, 16, 16, dtype=dtype), labels


def make(norm: nn.Module, dropout: float, dtype: torch.dtype) -> tuple[fpc.ContrastModel, fpc.PixelContrastLoss]:
    model = fpc.ContrastModel(Network(norm, dropout), at="classifier", dim=6).to(dtype)
    temperature = nn.Parameter(torch.tensor(0.2, dtype=dtype))
    return model, fpc.PixelContrastLoss(temperature, **EVERY_PIXEL)


def gradients(model: nn.Module, contrast: nn.Module) -> dict[str, Tensor]:
    found = {name: x.grad.clone() for module in (model, contrast) for name, x in module.named_parameters()}  # type: ignore[union-attr]
    model.zero_grad()
    contrast.zero_grad()
    return found


def whole(model: Any, contrast: Any, images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The same losses with one graph, over outputs of sub-batches."""
    outputs = [model(some) for some in images.split(size)]
    logits, embeddings = (torch.cat([x[name] for x in outputs]) for name in ("logits", "embeddings"))
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
    cross_entropy = F.cross_entropy(upsampled, labels, ignore_index=255)
    loss = contrast(embeddings, labels, logits.detach().argmax(1))
    (cross_entropy + 0.1 * loss).backward()
    return cross_entropy.detach(), loss.detach()


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, {"rtol": 1e-9, "atol": 1e-12}), (torch.float32, {"rtol": 1e-4, "atol": 1e-6})],
)
def test_gradients_are_those_of_the_whole_batch(recipe: Any, size: int, dtype: torch.dtype, tolerance: Any) -> None:
    images, labels = batch(dtype)
    model, contrast = make(nn.GroupNorm(2, 8), 0, dtype)
    model.projection[1] = nn.GroupNorm(2, 8).to(dtype)
    losses = recipe(model, contrast, images, labels, size)
    found = gradients(model, contrast)
    assert found["temperature"] != 0
    torch.testing.assert_close(losses, whole(model, contrast, images, labels, len(images)), **tolerance)
    torch.testing.assert_close(found, gradients(model, contrast), **tolerance)
    recipe(model, contrast, images, labels, size, weight=0.2)
    assert not torch.allclose(gradients(model, contrast)["projection.0.weight"], found["projection.0.weight"])


@pytest.mark.parametrize("size", [2, 3])
def test_dropout_and_batch_norm_run_alike_both_times(recipe: Any, size: int) -> None:
    images, labels = batch(torch.float64)
    model, contrast = make(nn.BatchNorm2d(8), 0.5, torch.float64)
    torch.manual_seed(3)
    losses = recipe(model, contrast, images, labels, size)
    found, after = gradients(model, contrast), torch.rand(())
    torch.manual_seed(3)
    torch.testing.assert_close(losses, whole(model, contrast, images, labels, size))
    torch.testing.assert_close(found, gradients(model, contrast), rtol=1e-9, atol=1e-12)
    assert torch.rand(()) == after  # the generator goes on as if there had been one forward


def test_a_bank_gets_the_batch_once(recipe: Any) -> None:
    images, labels = batch(torch.float32)
    model, _ = make(nn.GroupNorm(2, 8), 0, torch.float32)
    banks = [fpc.MemoryBank(4, 6, pixel_size=100, region_size=50, pixels_per_image=4) for _ in range(2)]
    for bank, call in zip(banks, (lambda *given: recipe(*given, 3), lambda *given: whole(*given, 3)), strict=True):
        contrast = fpc.PixelContrastLoss(memory=bank, **EVERY_PIXEL)
        call(model, contrast, images, labels)
        contrast(torch.zeros(1, 6, 4, 4), torch.full((1, 4, 4), 255), torch.zeros(1, 4, 4, dtype=torch.long))
    assert banks[0].written.sum() > 0
    assert torch.equal(banks[0].written, banks[1].written)
