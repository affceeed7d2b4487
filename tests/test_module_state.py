"""States of modules as tools take them: tensors alone, modules made on the meta device, averages of weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastpixcon as fpc

K, D = 3, 8


def maps(step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    labels = torch.arange(K).repeat_interleave(3)[None, :, None].expand(2, 9, 10).contiguous()
    return torch.randn(2, D, 9, 10, generator=generator), labels, torch.randn(2, K, 9, 10, generator=generator)


class Network(nn.Module):
    """A layer, and the loss with its bank inside the module, as people have it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(D, D, 1)
        memory = fpc.MemoryBank(K, D, pixel_size=12, region_size=5, pixels_per_image=2)
        self.contrast = fpc.PixelContrastLoss(max_samples=30, max_views=5, memory=memory)

    def forward(self, x: Tensor, y: Tensor, p: Tensor) -> Tensor:
        loss: Tensor = self.contrast(self.layer(x), y, p)
        return loss


def trained(steps: int = 3) -> Network:
    torch.manual_seed(0)
    network = Network()
    for step in range(steps):
        network(*maps(step)).backward()
    return network


def same_state(network: nn.Module, other: nn.Module) -> None:
    for (name, x), y in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_a_state_is_tensors_alone() -> None:
    network = trained()
    state = {name: value.cpu().clone() for name, value in network.state_dict().items()}
    assert state["contrast.memory.written"].sum() > 0
    other = Network()
    other.load_state_dict(state)
    same_state(network, other)


def test_a_state_of_the_first_version_loads() -> None:
    """Its seeds are torch's random state now; sizes were a dict."""
    network = trained()
    state: dict[str, Any] = dict(network.state_dict())
    state["contrast.memory._extra_state"] = {"pixel_size": 12, "region_size": 5}
    state |= {"contrast.seed": torch.tensor(5), "contrast.memory.seed": torch.tensor(5)}
    other = Network()
    other.load_state_dict(state)
    same_state(network, other)


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    network, other = trained(), Network()
    safetensors.save_file(network.state_dict(), tmp_path / "state.safetensors")
    other.load_state_dict(safetensors.load_file(tmp_path / "state.safetensors"))
    same_state(network, other)
    safetensors.save_model(network, str(tmp_path / "model.safetensors"))
    third = Network()
    safetensors.load_model(third, str(tmp_path / "model.safetensors"))
    same_state(network, third)


def test_averages_of_timm_and_torch() -> None:
    utils = pytest.importorskip("timm.utils")
    network = trained()
    averages: list[Any] = [utils.ModelEma(network), utils.ModelEmaV2(network), utils.ModelEmaV3(network)]
    for average in averages:
        network(*maps(5)).backward()
        average.update(network)
    averages[1].set(network)
    same_state(averages[1].module, network)
    for use_buffers in (False, True):
        averaged = torch.optim.swa_utils.AveragedModel(network, use_buffers=use_buffers)
        averaged.update_parameters(network)
        copy.deepcopy(averaged).load_state_dict(averaged.state_dict())


def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    network = accelerator.prepare(trained())
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.save_model(network, str(tmp_path / "model"))
    kept = copy.deepcopy(network)
    network(*maps(9))
    accelerator.load_state(str(tmp_path / "state"))
    same_state(network, kept)


def test_trainer_of_transformers(tmp_path: Path) -> None:
    """To its checkpoints, and on from the first."""
    transformers = pytest.importorskip("transformers")

    class Wrapped(Network):
        def forward(self, x: Tensor, y: Tensor, p: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"loss": super().forward(x, y, p)}

    rows = [dict(zip(("x", "y", "p"), (v[i] for v in maps(step)), strict=True)) for step in range(4) for i in range(2)]

    def trainer(steps: int) -> Any:
        options = {"per_device_train_batch_size": 2, "save_steps": 2, "report_to": [], "use_cpu": True}
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=steps, remove_unused_columns=False, disable_tqdm=True, **options
        )
        return transformers.Trainer(Wrapped(), arguments, train_dataset=rows)

    trainer(2).train()
    later = trainer(4)
    later.train(resume_from_checkpoint=True)
    assert later.state.global_step == 4
    assert later.model.state_dict()["contrast.memory.written"][1].tolist() == [8] * K


def test_distributed_checkpoint(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    network, other = trained(), Network()
    dcp.save(network.state_dict(), checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    state = other.state_dict()
    dcp.load(state, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    other.load_state_dict(state)
    same_state(network, other)


def test_a_module_made_on_the_meta_device_starts_empty() -> None:
    with torch.device("meta"):
        network = Network()
    network.to_empty(device="cpu")
    for buffer in network.buffers():  # whatever was there
        buffer.fill_(3 if not buffer.is_floating_point() else float("nan"))
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    memory = network.contrast.memory
    assert memory is not None
    fresh = Network().contrast
    for (name, x), y in zip(network.contrast.named_buffers(), fresh.buffers(), strict=True):
        assert torch.equal(x, y), name
    assert (memory.labels == -1).all()
    for step in range(3):
        assert network(*maps(step)).isfinite()
    assert network.contrast.last.bank_places > 0


def test_every_module_with_buffers_can_be_reset() -> None:
    modules = [fpc.MemoryBank(K, D, 4, 4), fpc.PixelContrastLoss(), fpc.SupConLoss(), fpc.InfoNCELoss()]
    for module in modules:
        own = list(module.buffers(recurse=False))
        assert not own or hasattr(module, "reset_parameters"), type(module)


def test_what_waits_is_in_the_state_and_moves_with_the_module() -> None:
    network = trained(1)
    memory = network.contrast.memory
    assert memory is not None
    assert not memory.written.any()
    moved = copy.deepcopy(network).to(torch.bfloat16)
    assert moved.state_dict()["contrast.memory.written"][1].tolist() == [2] * K
    assert network.state_dict()["contrast.memory.written"][1].tolist() == [2] * K
    network.contrast.memory.reset()
    assert not network.state_dict()["contrast.memory.written"].any()
    network(*maps(1))
    empty = Network().state_dict()
    network.load_state_dict(empty)  # what waited is not of this state
    assert not network.state_dict()["contrast.memory.written"].any()
