"""ContrastModel where its layer is replaced, wrapped, swapped, sharded or compiled after it was wrapped."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastpixcon as fpc


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))

    def forward(self, images: Tensor) -> Any:
        return self.classifier(self.backbone(images))


def images() -> Tensor:
    return torch.rand(2, 3, 8, 8)


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def transferred(model: Any) -> None:
    model.model.classifier[3] = nn.Conv2d(8, 7, 1)


def another_network(model: Any) -> None:
    model.model = Network()


def copied_and_transferred(model: Any) -> None:
    model.model = copy.deepcopy(model.model)
    transferred(model)
    model.model.classifier = pickle.loads(pickle.dumps(model.model.classifier))


def prepared_for_quantisation(model: Any) -> None:
    quantization = pytest.importorskip("torch.ao.quantization", reason="torch.ao.quantization")
    model.model.qconfig = quantization.get_default_qat_qconfig("x86")
    quantization.fuse_modules_qat(model.model, ["backbone.0", "backbone.1", "backbone.2"], inplace=True)
    quantization.prepare_qat(model.model, inplace=True)


def parametrised(model: Any) -> None:
    nn.utils.parametrizations.weight_norm(model.model.classifier[3])


class Adapter(nn.Module):
    """As peft wraps a layer: the old one, hook and all, is inside of the one that bears its name."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.low_rank = base_layer, nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.low_rank(x)


def adapted(model: Any) -> None:
    model.model.classifier[3] = Adapter(model.model.classifier[3])


def compiled_layer(model: Any) -> None:
    model.model.classifier[3] = torch.compile(model.model.classifier[3], backend="aot_eager")


def compiled_network(model: Any) -> None:
    model.model = torch.compile(model.model, backend="aot_eager")


def compiled_in_place(model: Any) -> None:
    model.model.compile(backend="aot_eager")


def checkpointed(model: Any) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    apply_activation_checkpointing(model.model, check_fn=lambda layer: isinstance(layer, nn.Conv2d))


CHANGES = [
    transferred,
    another_network,
    copied_and_transferred,
    prepared_for_quantisation,
    parametrised,
    adapted,
    compiled_layer,
    compiled_network,
    compiled_in_place,
    checkpointed,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_hook_is_found_again_and_comes_off(change: Callable[[Any], None]) -> None:
    model = fpc.ContrastModel(Network(), at="classifier.3", dim=6)
    model(images())
    change(model)
    model.export()  # before any forward has looked for the layer
    for _ in range(2):
        model.zero_grad()
        outputs = model(images())
        assert outputs["embeddings"].shape == (2, 6, 4, 4)
        outputs["embeddings"].square().mean().backward()
        reached = [x for name, x in model.model.named_parameters() if "classifier.0" in name and x.grad is not None]
        assert max(x.grad.abs().max() for x in reached) > 0  # type: ignore[union-attr]
    plain = model.export()
    for layer in plain.modules():
        assert not any("fastpixcon" in hook.__module__ for hook in layer._forward_pre_hooks.values())
        assert "_contrast_inputs" not in vars(layer)
    x = images()
    torch.testing.assert_close(plain.eval()(x), model.eval()(x)["logits"])


def test_the_features_are_those_of_the_new_layer() -> None:
    model = fpc.ContrastModel(Network(), at="classifier.1", dim=6)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    layer: Any = model.model.classifier[1]  # type: ignore[index]
    assert type(layer) is nn.SyncBatchNorm
    model.eval()  # on CPUs it runs in this mode alone
    x = images()
    features = model.model.classifier[0](model.model.backbone(x))  # type: ignore[index,operator]
    torch.testing.assert_close(model.embed(x), model.projection(features))
    assert not model.export().classifier[1]._forward_pre_hooks  # type: ignore[index,union-attr]


def test_peft() -> None:
    peft = pytest.importorskip("peft", reason="peft")
    for how in (
        {"target_modules": ["backbone.0", "classifier.3"]},
        {"target_modules": ["backbone.0"], "modules_to_save": ["classifier.3"]},
    ):
        model = fpc.ContrastModel(Network(), at="classifier.3", dim=6)
        model.model = peft.get_peft_model(model.model, peft.LoraConfig(r=2, **how))
        assert model(images())["embeddings"].shape == (2, 6, 4, 4)
        assert model.export()(images()).shape == (2, 5, 4, 4)


def test_a_compiled_graph_finds_the_new_layer() -> None:
    model = fpc.ContrastModel(Network(), at="classifier.3", dim=6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for classes in (7, 9):
        model.model.classifier[3] = nn.Conv2d(8, classes, 1)  # type: ignore[operator]
        outputs = compiled(images())
        assert outputs["logits"].shape == (2, classes, 4, 4)
        assert outputs["embeddings"].requires_grad
    assert model.model.classifier[3]._contrast_inputs is None  # type: ignore[index,union-attr]


def test_what_was_compiled_before_it_was_wrapped_is_told() -> None:
    network = Network()
    network.compile(backend="aot_eager")
    network(images())
    model = fpc.ContrastModel(network, at="classifier.3")
    with pytest.raises(RuntimeError, match=r"did not run .* compiled before it was wrapped, torch.compiler.reset\(\)"):
        model(images())
    torch.compiler.reset()
    assert "embeddings" in model(images())


def test_a_name_that_is_gone_and_a_width_that_is_another() -> None:
    model = fpc.ContrastModel(Network(), at="classifier.3", dim=6)
    model.model.classifier = nn.Conv2d(8, 5, 1)
    with pytest.raises(ValueError, match=r"at: got 'classifier.3', which is gone .*, want .*, such as 'classifier'"):
        model(images())
    assert model.export()(images()).shape == (2, 5, 4, 4)
    assert set(model.eval()(images())) == {"logits"}
    model.train().model = nn.DataParallel(Network())
    with pytest.raises(ValueError, match=r"such as 'module.classifier.3'"):
        model(images())
    model.at = "module.classifier.3"
    assert "embeddings" in model(images())
    model = fpc.ContrastModel(Network(), at="classifier.3", dim=6)
    model.model.classifier[2] = nn.Conv2d(8, 12, 1)  # type: ignore[operator]
    model.model.classifier[3] = nn.Conv2d(12, 5, 1)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"channels: got 8, want 12, the features before 'classifier.3'"):
        model(images())


def test_features_by_name_and_a_layer_that_runs_twice() -> None:
    class Twice(Network):
        def forward(self, images: Tensor) -> Tensor:
            features = self.backbone(images)
            self.classifier[0](input=torch.zeros_like(features))
            return self.classifier[0](input=features)

    network = Twice()
    model, x = fpc.ContrastModel(network, at="classifier.0", dim=6), images()
    torch.testing.assert_close(model(x)["embeddings"], model.projection(network.backbone(x)))


def replica(module: Any) -> Any:
    """As DataParallel makes one a device: attributes are shared, submodules are not."""
    made = module._replicate_for_data_parallel()
    made._former_parameters = dict(module._parameters)
    for name, child in module._modules.items():
        made._modules[name] = replica(child)
    for name, x in module._parameters.items():
        setattr(made, name, x)
    return made


def test_replicas_in_threads_keep_their_own_features() -> None:
    model = fpc.ContrastModel(Network(), at="classifier.3", dim=6)
    transferred(model)
    model.model.classifier[1] = model.model.backbone[1] = nn.Identity()  # type: ignore[index,operator]
    model.projection[1] = nn.Identity()
    batches = [images() for _ in range(4)]
    found: dict[int, Tensor] = {}
    replicas = [replica(model) for _ in batches]
    start = threading.Barrier(len(batches))

    def work(i: int) -> None:
        start.wait()
        found[i] = replicas[i](batches[i])["embeddings"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, x in enumerate(batches):
        torch.testing.assert_close(found[i], model(x)["embeddings"])
    for layer in (*model.model.backbone, *replicas[0].model.backbone):  # type: ignore[misc,operator,union-attr]
        layer.register_forward_hook(lambda _, inputs, output: output.detach())
    for one in (model, replicas[0]):
        with pytest.raises(RuntimeError, match=r"made with 'backbone.0.weight'"):
            fpc.ContrastModel.forward(one, images())


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_network_trains_and_tells_how_it_is_exported() -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = fpc.ContrastModel(Network(), at="classifier.3", dim=6)
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(model.model.classifier[3], mesh=mesh)  # type: ignore[index,arg-type]
        outputs = model(images())
        outputs["embeddings"].square().mean().backward()
        assert model.model.backbone[0].weight.grad.abs().max() > 0  # type: ignore[index,union-attr]
        with pytest.raises(RuntimeError, match=r"export: 'classifier.3' is sharded, want .* get_model_state_dict"):
            model.export()
        whole = get_model_state_dict(model.model, options=StateDictOptions(full_state_dict=True))
        plain, x = Network(), images()
        plain.load_state_dict(whole)
        torch.testing.assert_close(plain.eval()(x), model.eval()(x)["logits"])
    finally:
        dist.destroy_process_group()
