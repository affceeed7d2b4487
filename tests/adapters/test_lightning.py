"""One fit on two tiny batches, with the real library."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastpixcon as fpc

pytest.importorskip("lightning", reason="lightning is not installed")

import lightning

from fastpixcon.adapters.lightning import ContrastModule

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def batches(count: int = 2) -> DataLoader[Any]:
    labels = torch.arange(4).repeat_interleave(8)[None, :, None].expand(2, 32, 32).clone()
    labels[:, 0] = 255
    return DataLoader(TensorDataset(torch.rand(2 * count, 3, 32, 32), labels.repeat(count, 1, 1)), batch_size=2)


@pytest.mark.filterwarnings("ignore")
def test_a_fit_trains_network_and_head(tmp_path: Path) -> None:
    contrast = fpc.PixelContrastLoss(max_samples=64, max_views=4)
    module = ContrastModule(fpc.ContrastModel(network(), at="3", dim=8), contrast)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer = lightning.Trainer(max_epochs=2, default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, batches(), batches(1))
    assert all(not torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert {"cross_entropy", "contrast", "loss", "val_cross_entropy"} <= trainer.callback_metrics.keys()
    assert contrast.seed - torch.initial_seed() % 2**63 == 4
    saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=False)["state_dict"]
    assert {"model.model.3.weight", "model.projection.0.weight", "contrast.seed"} <= saved.keys()


def test_a_step_is_cross_entropy_and_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ContrastModule(
        fpc.ContrastModel(network(), at="3", dim=8),
        fpc.PixelContrastLoss(max_samples=64, max_views=4),
        weight=0.5,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1),
    )
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    images, labels = next(iter(batches(1)))
    loss = module.training_step((images, labels))
    logits = F.interpolate(module(images)["logits"], (32, 32), mode="bilinear")
    torch.testing.assert_close(logged["cross_entropy"], F.cross_entropy(logits, labels, ignore_index=255))
    torch.testing.assert_close(loss, logged["cross_entropy"] + 0.5 * logged["contrast"])
    assert logged["contrast"] > 0
    assert isinstance(module.configure_optimizers(), torch.optim.SGD)
    assert module.training_step((images, torch.full_like(labels, 255))) == 0
