"""The adapter in mmsegmentation itself: six heads in its EncoderDecoder, train_step and val_step."""

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import mmseg_here
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastpixcon as fpc
from fastpixcon.adapters import mmsegmentation
from fastpixcon.adapters.mmsegmentation import PixelContrastHead, PixelContrastLoss

K, SIZE, CHANNELS = 4, 32, 8
OPTIONS: dict[str, Any] = {"max_samples": 512, "max_views": 64, "min_pixels": 1}  # all: nothing is drawn
SMALL: dict[str, Any] = {"channels": CHANNELS, "num_classes": K, "norm_cfg": {"type": "BN"}}
ALL_STAGES: dict[str, Any] = {**SMALL, "in_channels": [8, 8, 16, 16], "in_index": [0, 1, 2, 3]}
HEADS: dict[str, dict[str, Any]] = {
    "FCNHead": {**SMALL, "in_channels": 16, "in_index": 3, "num_convs": 1},
    "ASPPHead": {**SMALL, "in_channels": 16, "in_index": 3, "dilations": (1, 2)},
    "DepthwiseSeparableASPPHead": {
        **{**SMALL, "in_channels": 16, "in_index": 3, "dilations": (1, 2)},
        **{"c1_in_channels": 8, "c1_channels": 4},
    },
    "SegformerHead": ALL_STAGES,
    "UPerHead": {**ALL_STAGES, "pool_scales": (1, 2)},
    "OCRHead": {**SMALL, "in_channels": 16, "in_index": 3, "ocr_channels": 8},
    "DAHead": {**SMALL, "in_channels": 16, "in_index": 3, "pam_channels": 4},  # returns three logits
    "EncHead": {**SMALL, "in_channels": [8, 16, 16], "in_index": (1, 2, 3), "num_codes": 4},  # logits and a vector
}
SIX = list(HEADS)[:6]


@pytest.fixture(scope="module")
def mmseg() -> Iterator[Any]:
    """The library, with a backbone of four small stages; the adapter has registered its loss."""
    library = mmseg_here.import_or_skip()
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")  # as a Runner does
    importlib.reload(mmsegmentation)
    MODELS.register_module(name="FourStages", module=FourStages, force=True)
    before = set(MODELS.module_dict)
    yield library
    for name in ("FourStages", *(set(MODELS.module_dict) - before)):  # others may want the names
        MODELS.module_dict.pop(name)


class FourStages(nn.Module):
    """Images [B, 3, H, W] -> maps of 8, 8, 16, 16 channels at strides 4, 4, 8, 8."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        sizes = [(3, 8, 4), (8, 8, 1), (8, 16, 2), (16, 16, 1)]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b, stride in sizes
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def contrast_head(name: str) -> type:
    """The decode head of the library under PixelContrastHead, registered."""
    import mmseg.models.decode_heads
    from mmseg.registry import MODELS

    base = getattr(mmseg.models.decode_heads, name)
    made = type(f"Contrast{name}", (PixelContrastHead, base), {})
    MODELS.register_module(module=made, force=True)
    return made


def head_config(name: str, **more: Any) -> dict[str, Any]:
    contrast_head(name)
    return {"type": f"Contrast{name}", "contrast": OPTIONS, "dim": 6, **HEADS[name], **more}


def segmentor(head: dict[str, Any]) -> Any:
    """As a config file builds it."""
    from mmengine.config import ConfigDict
    from mmseg.registry import MODELS

    config: dict[str, Any] = {
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor", "mean": [0.0] * 3, "std": [1.0] * 3, "size": (SIZE, SIZE)},
        "backbone": {"type": "FourStages"},
        "decode_head": head,
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
    if head["type"] == "ContrastOCRHead":
        first = {"type": "FCNHead", **SMALL, "in_channels": 16, "in_index": 3, "num_convs": 1}
        config |= {"type": "CascadeEncoderDecoder", "num_stages": 2, "decode_head": [first, head]}
    return MODELS.build(ConfigDict(config))


def label_map() -> Tensor:
    """[H, W]: stripes of the classes, a void line."""
    labels = torch.arange(K).repeat_interleave(SIZE // K)[:, None].expand(SIZE, SIZE).clone()
    labels[0] = 255
    return labels


def batch(B: int = 2) -> dict[str, list[Any]]:
    """As PackSegInputs makes it: images show their labels."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = label_map()
    images = F.one_hot(labels.clamp(max=K - 1), K)[..., :3].movedim(-1, 0).float() + 0.1 * torch.randn(B, 3, SIZE, SIZE)
    shapes = {"img_shape": (SIZE, SIZE), "ori_shape": (SIZE, SIZE), "pad_shape": (SIZE, SIZE)}
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels[None]), metainfo=shapes) for _ in range(B)]
    return {"inputs": list(images), "data_samples": samples}


def contrast_parts(model: Any) -> Any:
    return model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("mmseg")
@pytest.mark.parametrize("name", SIX)
def test_a_head_trains_and_predicts(name: str) -> None:
    from mmengine.optim import OptimWrapper

    model = segmentor(head_config(name)).train()
    head = contrast_parts(model)
    before = head.projection[0].weight.detach().clone()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), 3e-3))
    logs = [model.train_step(batch(), wrapper) for _ in range(15)]
    prefix = "decode_1." if name == "OCRHead" else "decode."
    assert {"loss", f"{prefix}loss_ce", f"{prefix}loss_contrast", f"{prefix}acc_seg"} <= logs[0].keys()
    for key in ("loss", f"{prefix}loss_contrast"):
        first, last = (sum(float(log[key]) for log in part) for part in (logs[:4], logs[-4:]))
        assert last < first, key
    assert head._kept is None
    assert not torch.equal(head.projection[0].weight, before)

    found = model.eval().val_step(batch())
    assert [x.pred_sem_seg.data.shape for x in found] == [(1, SIZE, SIZE)] * 2
    assert [x.seg_logits.data.shape for x in found] == [(K, SIZE, SIZE)] * 2
    assert head._kept is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("mmseg")
@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_the_contrast_of_what_cls_seg_takes(name: str) -> None:
    model = segmentor(head_config(name)).train()
    head = contrast_parts(model)
    seen: list[tuple[Tensor, Tensor]] = []
    head.conv_seg.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    head.dropout, before = None, head.projection[1].num_batches_tracked.clone()
    data = model.data_preprocessor(batch(), True)
    losses = model.loss(**data)
    (loss,) = (x for key, x in losses.items() if key.endswith("loss_contrast"))
    ((features, logits),) = seen
    contrast = fpc.PixelContrastLoss(**OPTIONS)
    labels = label_map().expand(2, SIZE, SIZE)
    torch.testing.assert_close(loss, 0.1 * contrast(head.projection(features), labels, logits))
    assert loss > 0
    assert head.projection[1].num_batches_tracked == before + 2  # ours is one of them
    loss.backward()
    assert model.backbone.stages[0][0].weight.grad.abs().max() > 0


def fcn_head(**more: Any) -> Any:
    from mmseg.registry import MODELS

    return MODELS.build(head_config("FCNHead", **more)).train()


def stages() -> list[Tensor]:
    return [torch.randn(2, C, 8, 8, requires_grad=True) for C in (8, 8, 16, 16)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("mmseg")
def test_without_training_mode_there_are_no_embeddings() -> None:
    head, samples = fcn_head(ignore_index=9), batch()["data_samples"]
    assert head.contrast.contrast.ignore_index == 9
    head = fcn_head().eval()
    assert head(stages()).shape == (2, K, 8, 8)
    with pytest.raises(RuntimeError, match=r"cls_seg of ContrastFCNHead did not run .* there are no embeddings"):
        head.loss(stages(), samples, {})
    head.train().conv_seg = nn.Conv2d(CHANNELS, K, 1)  # replaced: the features are the same
    assert head.loss(stages(), samples, {})["loss_contrast"] > 0
    assert head.loss_by_feat(head(stages()), samples)["loss_contrast"] > 0  # step by step
    head.contrast._loss_name = "loss_ce"
    with pytest.raises(ValueError, match=r"loss_name: got 'loss_ce', want another than \['loss_ce', 'acc_seg'\]"):
        head.loss(stages(), samples, {})
    assert head._kept is None  # nor is anything left after an error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("mmseg")
def test_a_head_in_a_checkpoint() -> None:
    samples = batch()["data_samples"]
    found = []
    for how in ("plain", "not reentrant"):
        torch.manual_seed(0)
        head, inputs = fcn_head(dropout_ratio=0), stages()
        logits = checkpoint(head, inputs, use_reentrant=False) if how != "plain" else head(inputs)
        head.loss_by_feat(logits, samples)["loss_contrast"].backward()
        assert head._kept is None  # also by what ran anew
        assert head.projection[1].num_batches_tracked == 1
        found.append({name: x.grad for name, x in head.named_parameters() if x.grad is not None})
        found[-1]["inputs"] = inputs[3].grad
    assert found[0].keys() >= {"inputs", "convs.0.conv.weight", "projection.3.weight"}
    torch.testing.assert_close(*found)

    head, inputs = fcn_head(), stages()
    logits = checkpoint(lambda x: head([*inputs[:3], x]), inputs[3], use_reentrant=True)
    with pytest.raises(RuntimeError, match=r"cls_seg of ContrastFCNHead ran without gradient.*use_reentrant=False"):
        head.loss_by_feat(logits, samples)

    head, inputs = fcn_head(), stages()
    whole = checkpoint(
        lambda x: head.loss([*inputs[:3], x], samples, {})["loss_contrast"], inputs[3], use_reentrant=True
    )
    whole.backward()
    assert inputs[3].grad is not None
    assert inputs[3].grad.abs().max() > 0
    assert head._kept is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("mmseg")
def test_frozen_features_train_the_head() -> None:
    head = fcn_head(num_convs=0, in_channels=CHANNELS, in_index=0, concat_input=False)
    inputs = [x.detach() for x in stages()]
    head.loss(inputs, batch()["data_samples"], {})["loss_contrast"].backward()
    assert head.projection[0].weight.grad.abs().max() > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("mmseg")
def test_two_classes_by_one_score() -> None:
    """Hard anchors are those on the wrong side of the threshold."""
    head = fcn_head(
        num_classes=2, out_channels=1, threshold=0.4, loss_decode={"type": "CrossEntropyLoss", "use_sigmoid": True}
    )
    head.dropout = None
    data = batch()
    for sample in data["data_samples"]:
        sample.gt_sem_seg.data = (sample.gt_sem_seg.data % 2).long()
    inputs = stages()
    loss = head.loss(inputs, data["data_samples"], {})["loss_contrast"]
    contrast = fpc.PixelContrastLoss(**OPTIONS)
    features = head._forward_feature(inputs)
    predictions = (head.cls_seg(features).sigmoid() > 0.4).squeeze(1).long()
    labels = torch.stack([x.gt_sem_seg.data[0] for x in data["data_samples"]])
    torch.testing.assert_close(loss, 0.1 * contrast(head.projection(features), labels, predictions))
    assert 0 < predictions.float().mean() < 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("mmseg")
def test_importing_registers_the_loss() -> None:
    from mmseg.registry import MODELS

    loss = MODELS.build(
        {
            "type": "PixelContrastLoss",
            "loss_weight": 0.5,
            "max_samples": 64,
            "memory": {"num_classes": 4, "dim": 8, "pixel_size": 10, "region_size": 10},
            "mining": {"negatives": "hardest"},
        }
    )
    assert type(loss).__name__ == "PixelContrastLoss"
    assert loss.loss_name == "loss_contrast"
    assert loss.contrast.memory is not None
    assert loss.contrast.mining == fpc.Mining(negatives="hardest")
    assert MODELS.build({"type": "PixelContrastLoss", "loss_name": "loss_pixels"}).loss_name == "loss_pixels"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("mmseg")
def test_among_the_losses_of_a_head_it_says_what_it_wants() -> None:
    losses = [{"type": "CrossEntropyLoss"}, {"type": "PixelContrastLoss"}]
    model = segmentor({"type": "FCNHead", **HEADS["FCNHead"], "loss_decode": losses}).train()
    with pytest.raises(
        TypeError, match=r"pred: got Tensor, want \(embeddings, logits\), as PixelContrastHead gives it"
    ):
        model.loss(**model.data_preprocessor(batch(), True))


def test_without_mmsegmentation_it_imports_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmseg", None)
    importlib.reload(mmsegmentation)


def test_the_loss_is_the_weighted_pixel_contrast() -> None:
    embeddings, logits = torch.randn(2, 8, 8, 8), torch.randn(2, 4, 32, 32)
    labels = torch.arange(4).repeat_interleave(8)[None, :, None].expand(2, 32, 32)
    loss = PixelContrastLoss(loss_weight=0.25, **OPTIONS)((embeddings, logits), labels, weight=None, ignore_index=255)
    expected = fpc.PixelContrastLoss(**OPTIONS)(embeddings, labels, logits[:, :, ::4, ::4])
    torch.testing.assert_close(loss, 0.25 * expected)
    assert loss > 0


def test_weights_of_pixels_and_rules_of_pairs_are_those_of_the_library() -> None:
    labels, weight = torch.arange(4).view(1, 4, 1).repeat_interleave(8, 1).expand(2, -1, 32), torch.rand(2, 32, 32)
    embeddings, logits = torch.randn(2, 8, 8, 8), torch.randn(2, 4, 32, 32)
    W = [[1.0, 0.5, 0.0, 2.0]] * 4
    loss = PixelContrastLoss(loss_weight=0.25, max_views=9, pairs={"balanced": True, "class_weights": W})
    pairs = fpc.Pairs(balanced=True, class_weights=torch.tensor(W))
    ours = fpc.PixelContrastLoss(max_views=9, pairs=pairs)
    torch.manual_seed(3)
    actual = loss((embeddings, logits), labels, weight=weight)
    torch.manual_seed(3)
    expected = ours(embeddings, labels, torch.nn.functional.interpolate(logits, (8, 8)), weight)
    torch.testing.assert_close(actual, 0.25 * expected)


def test_what_a_mean_over_anchors_cannot_do_is_refused() -> None:
    loss, labels = PixelContrastLoss(), torch.zeros(1, 8, 8, dtype=torch.long)
    pred = torch.randn(1, 8, 4, 4), torch.randn(1, 3, 8, 8)
    with pytest.raises(TypeError, match=r"pred: got Tensor, want \(embeddings, logits\)"):
        loss(pred[1], labels)
    with pytest.raises(ValueError, match="avg_factor: got int, want None"):
        loss(pred, labels, avg_factor=3)
    with pytest.raises(ValueError, match="reduction_override: got str, want None"):
        loss(pred, labels, reduction_override="sum")
    with pytest.raises(ValueError, match="ignore_index: got 0, want 255"):
        loss(pred, labels, ignore_index=0)
