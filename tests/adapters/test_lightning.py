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
from fastpixcon.adapters.targets import targets

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
    assert contrast.last.anchors > 0
    saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=False)["state_dict"]
    assert {"model.model.3.weight", "model.projection.0.weight"} <= saved.keys()


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


def step(labels: Tensor, ignore_index: int = 255) -> tuple[dict[str, Tensor], Tensor]:
    """What a step and a validation log, and the gradient of the last layer."""
    torch.manual_seed(0)
    contrast = fpc.PixelContrastLoss(max_samples=64, max_views=4, ignore_index=ignore_index)
    module = ContrastModule(fpc.ContrastModel(network(), at="3", dim=8), contrast)
    logged: dict[str, Tensor] = {}
    module.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign,assignment]
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign,assignment]
    images = torch.rand(2, 3, 32, 32)
    module.validation_step((images, labels))
    module.training_step((images, labels)).backward()
    weight: Any = module.model.get_submodule("model.3").weight
    return {name: x.detach() for name, x in logged.items()}, weight.grad


def some_labels() -> Tensor:
    labels = torch.arange(4).repeat_interleave(8)[None, :, None].expand(2, 32, 32).clone()
    labels[:, :3], labels[:, 3:5, :9] = 255, 2
    return labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64], ids=str
)
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    torch.testing.assert_close(step(some_labels().to(dtype)), step(some_labels()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("void", [-100, -1])
def test_negative_labels_are_void_to_both_losses(void: int, dtype: torch.dtype) -> None:
    expected, labels = step(some_labels()), some_labels()
    for ignore_index in (255, void, 3):
        these = labels.where(labels != 255, void).to(dtype)
        if ignore_index == 3:
            expected = step(labels.where(labels != 3, 255))
        torch.testing.assert_close(step(these, ignore_index), expected)


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_batch_is_told() -> None:
    labels = some_labels()
    for wrong, error, message in (
        (labels[:, None], ValueError, r"labels: got shape \(2, 1, 32, 32\), want \[2, H, W\]"),
        (labels[:1], ValueError, r"labels: got shape \(1, 32, 32\), want \[2, H, W\]"),
        (labels.float(), TypeError, r"labels: got dtype torch.float32, want an integer tensor"),
        (labels.bool(), TypeError, r"labels: got dtype torch.bool, want an integer tensor"),
        (labels.where(labels != 2, 4), ValueError, r"labels: got 4, want less than 4, the classes of logits"),
        (labels.where(labels != 255, 254), ValueError, r"labels: got 254, want less than 4"),
    ):
        with pytest.raises(error, match=message):
            step(wrong)
    module = ContrastModule(fpc.ContrastModel(network(), at="3", dim=8))
    with pytest.raises(TypeError, match=r"batch: got dict of 2, want \(images \[B, 3, H, W\], labels \[B, H, W\]\)"):
        module.training_step({"image": labels, "mask": labels})  # type: ignore[arg-type]
    module.eval()  # which a Trainer leaves as it is
    with pytest.raises(ValueError, match=r"model: its output in eval mode has \['logits'\], want .* 'embeddings'"):
        module.training_step((torch.rand(2, 3, 32, 32), labels))


def test_targets_ignore_what_the_contrast_ignores() -> None:
    labels = torch.tensor([[[0, 1, 255, -7, 2]]])
    logits = torch.zeros(1, 3, 1, 5)
    assert targets(labels, logits, 255).tolist() == [[[0, 1, -100, -100, 2]]]
    assert targets(labels, logits, (255, 1)).tolist() == [[[0, -100, -100, -100, 2]]]
    assert targets(torch.zeros(1, 0, 0, dtype=torch.uint8), logits, 255).dtype == torch.int64
    assert targets(labels[0], logits[:, :, 0], 255).tolist() == [[0, 1, -100, -100, 2]]
    with pytest.raises(ValueError, match=r"labels: got shape \(1, 1, 5\), want \[1, N\], an image each"):
        targets(labels, logits[:, :, 0], 255)
    with pytest.raises(TypeError, match=r"logits: got torch.float32 \[1, 3\], want .* \[B, K, h, w\]"):
        targets(labels, logits[:, :, 0, 0], 255)


def test_a_step_on_volumes() -> None:
    model = nn.Sequential(nn.Conv3d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv3d(8, 4, 1))
    contrast = fpc.PixelContrastLoss(max_samples=64, max_views=8)

    class Outputs(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            features = model[:2](x)
            return {"logits": model[2](features), "embeddings": features}

    module = ContrastModule(Outputs(), contrast)
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]  # without a Trainer
    labels = torch.arange(4).repeat_interleave(4)[None, None, :, None].expand(2, 8, 16, 12).clone()
    module.training_step((torch.rand(2, 1, 8, 16, 12), labels)).backward()
    assert contrast.last.anchors == 64
    assert all(p.grad is not None and p.grad.norm() > 0 for p in model.parameters())
