"""The table of networks in docs/adapters.md, row by row."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from library_networks import CLASSES, NETWORKS, Network, eomt, library, segformer
from torch import Tensor, nn

import fastpixcon as fpc
from fastpixcon.outputs import segmentation

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "adapters.md").read_text()


def test_the_table_is_what_is_tested() -> None:
    table = re.findall(r"^\| .* \| 1/\d+ \|$", TEXT, flags=re.MULTILINE)
    assert table == [network.row() for network in NETWORKS]


def test_every_architecture_of_segmentation_models_pytorch_is_in_it() -> None:
    smp: Any = library("segmentation-models-pytorch")
    ours = {network.name.lower() for network in NETWORKS if network.library == "segmentation-models-pytorch"}
    assert ours == set(smp.MODEL_ARCHITECTURES_MAPPING)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_network(network: Network) -> None:
    torch.manual_seed(0)
    plain = network.build(library(network.library))
    model = fpc.ContrastModel(plain, at=network.at, dim=6)
    taken: list[Tensor] = []
    model.model.get_submodule(network.at).register_forward_pre_hook(
        lambda _, inputs, named: taken.append(next(iter((*inputs, *named.values())))), with_kwargs=True
    )
    x = torch.rand(2, 3 if len(network.size) == 2 else 1, *network.size)
    sizes = tuple(size // network.stride for size in network.size)

    outputs = network.call(model, x)
    embeddings, logits = outputs["embeddings"], outputs["logits"]
    assert embeddings.shape == (2, 6, *sizes)
    assert logits.shape[:2] == (2, CLASSES)
    assert gives(taken[-1], model.channels, sizes) == network.gives

    predictions = F.interpolate(logits.detach(), sizes).argmax(1)  # [B, *S]
    labels = torch.zeros(2, *network.size, dtype=torch.uint8)
    labels[:, network.size[0] // 2 :] = 1
    contrast = fpc.PixelContrastLoss(max_samples=32, max_views=2)
    loss = contrast(embeddings, labels, predictions)
    assert loss.isfinite()
    assert loss > 0
    loss.backward()
    stem = next(m for m in plain.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    assert stem.weight.grad is not None
    assert stem.weight.grad.abs().max() > 0

    exported = model.eval().export()
    assert type(exported) is type(plain)
    assert list(exported.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        found = network.call(model, x)
        assert set(found) == set(outputs) - {"embeddings"}
        torch.testing.assert_close(segmentation(network.call(exported, x))["logits"], found["logits"])
        assert network.call(model.embed, x).shape == embeddings.shape


@pytest.mark.filterwarnings("ignore")
def test_weights_from_a_path(tmp_path: Path) -> None:
    timm: Any = library("timm")
    small = {"depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 0, "img_size": 56}
    first = timm.create_model("vit_small_patch14_reg4_dinov2", **small)
    torch.save(first.state_dict(), tmp_path / "vit.pth")
    second = timm.create_model("vit_small_patch14_reg4_dinov2", **small, checkpoint_path=tmp_path / "vit.pth")
    torch.testing.assert_close(second.state_dict(), first.state_dict())
    transformers: Any = library("transformers")
    network = segformer(transformers)
    network.save_pretrained(tmp_path / "segformer")
    loaded = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "segformer")
    torch.testing.assert_close(loaded.state_dict(), network.state_dict())


def test_queries_are_no_tokens_of_a_grid() -> None:
    transformers: Any = library("transformers")
    model = fpc.ContrastModel(eomt(transformers), at="layernorm")
    with pytest.raises(ValueError, match=r"27 tokens before 'layernorm' .* fit no grid .*\(patch_size 16; 5 tokens"):
        model(torch.rand(2, 3, 64, 64))


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_timm() -> None:
    network = NETWORKS[0]
    model = fpc.ContrastModel(network.build(library("timm")), at=network.at, dim=6)
    x, found = torch.rand(2, 3, *network.size), []
    for enable in (False, True):
        model.zero_grad()
        model.model.backbone.set_grad_checkpointing(enable)  # type: ignore[union-attr,operator]  # of timm
        model(x)["embeddings"].square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert "model.backbone.patch_embed.proj.weight" in found[0]
    torch.testing.assert_close(*found)


def test_a_network_of_timm_compiles_in_one_graph() -> None:
    torch._dynamo.reset()
    network = NETWORKS[2]
    model = fpc.ContrastModel(network.build(library("timm")), at=network.at, dim=6)
    compiled, x = torch.compile(model, fullgraph=True, backend="eager"), torch.rand(2, 3, *network.size)
    torch.testing.assert_close(compiled(x), model(x))
    torch._dynamo.reset()


def gives(x: Tensor, C: int, sizes: tuple[int, ...]) -> str:
    """In the words of the table."""
    if x.ndim == 3:
        return f"tokens, p = {x.shape[1] - sizes[0] * sizes[1]}"
    assert C in (x.shape[1], x.shape[-1])
    if x.shape[-1] == C and x.shape[1:-1] == sizes:
        return "a map, channels last"
    assert x.shape[2:] == sizes
    return "a map" if x.ndim == 4 else "a volume"
