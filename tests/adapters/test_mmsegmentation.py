"""The adapter with stand-ins for mmsegmentation's registry and decode head."""

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_mmseg import fake_mmseg

import fastpixcon as fpc
from fastpixcon.adapters import mmsegmentation
from fastpixcon.adapters.mmsegmentation import PixelContrastHead, PixelContrastLoss


@pytest.fixture
def mmseg(monkeypatch: pytest.MonkeyPatch) -> Any:
    modules = fake_mmseg()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(
        registry=modules["mmseg.registry"].MODELS, FCNHead=modules["mmseg.models.decode_heads"].FCNHead
    )


def samples(B: int = 2) -> list[Any]:
    labels = torch.arange(4).repeat_interleave(8)[None, :, None].expand(1, 32, 32)
    return [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=labels)) for _ in range(B)]


def test_importing_registers_the_loss_where_there_is_a_registry(mmseg: Any) -> None:
    module = importlib.reload(mmsegmentation)
    loss = mmseg.registry.build(
        {
            "type": "PixelContrastLoss",
            "loss_weight": 0.5,
            "max_samples": 64,
            "memory": {"num_classes": 4, "dim": 8, "pixel_size": 10, "region_size": 10},
            "mining": {"negatives": "hardest"},
        }
    )
    assert type(loss) is module.PixelContrastLoss
    assert loss.loss_name == "loss_contrast"
    assert loss.contrast.memory is not None
    assert loss.contrast.mining == fpc.Mining(negatives="hardest")


def test_without_mmsegmentation_it_imports_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmseg", None)
    importlib.reload(mmsegmentation)


def test_the_loss_is_the_weighted_pixel_contrast() -> None:
    embeddings, logits = torch.randn(2, 8, 8, 8), torch.randn(2, 4, 32, 32)
    labels = torch.arange(4).repeat_interleave(8)[None, :, None].expand(2, 32, 32)
    options = {"max_samples": 64, "max_views": 4}
    loss = PixelContrastLoss(loss_weight=0.25, **options)((embeddings, logits), labels, weight=None, ignore_index=255)
    expected = fpc.PixelContrastLoss(**options)(embeddings, labels, logits[:, :, ::4, ::4])
    torch.testing.assert_close(loss, 0.25 * expected)
    assert loss > 0


def test_a_decode_head_gets_embeddings_and_the_loss(mmseg: Any) -> None:
    class ContrastFCNHead(PixelContrastHead, mmseg.FCNHead):  # type: ignore[misc, name-defined]
        pass

    head = ContrastFCNHead(6, 4, ignore_index=9, contrast={"max_samples": 64, "max_views": 4}, dim=8)
    assert head.contrast.contrast.ignore_index == 9
    features = torch.randn(2, 6, 8, 8)
    losses = head.loss(features, samples())
    assert set(losses) == {"loss_ce", "loss_contrast"}
    losses["loss_contrast"].backward()
    assert head.projection[0].weight.grad is not None
    assert head._embeddings is None
    head.eval()
    assert head(features).shape == (2, 4, 8, 8)
    with pytest.raises(RuntimeError, match="there are no embeddings"):
        head.loss(features, samples())


def test_what_a_mean_over_anchors_cannot_do_is_refused() -> None:
    loss, labels = PixelContrastLoss(), torch.zeros(1, 8, 8, dtype=torch.long)
    pred = torch.randn(1, 8, 4, 4), torch.randn(1, 3, 8, 8)
    with pytest.raises(TypeError, match=r"pred: got Tensor, want \(embeddings, logits\)"):
        loss(pred[1], labels)
    with pytest.raises(ValueError, match="weight: got Tensor, want None"):
        loss(pred, labels, weight=torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match="reduction_override: got str, want None"):
        loss(pred, labels, reduction_override="sum")
    with pytest.raises(ValueError, match="ignore_index: got 0, want 255"):
        loss(pred, labels, ignore_index=0)
