"""Logits of networks that classify masks: of queries, classes [B, Q, K + 1] and masks [B, Q, h, w]."""

import types
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastpixcon as fpc
from fastpixcon.outputs import of_queries, segmentation


class Output(NamedTuple):
    loss: Tensor | None
    class_queries_logits: Tensor
    masks_queries_logits: Tensor


def queries(B: int = 2, Q: int = 7, K: int = 5, S: tuple[int, ...] = (4, 6)) -> tuple[Tensor, Tensor]:
    return torch.randn(B, Q, K + 1), torch.randn(B, Q, *S)


@pytest.mark.parametrize("S", [(4, 6), (2, 3, 4)])
def test_a_pixel_is_the_class_of_most_of_the_masks_that_it_is_in(S: tuple[int, ...]) -> None:
    classes, masks = queries(S=S)
    logits = of_queries(classes, masks)
    scores = torch.zeros(2, 5, *S)
    for b in range(2):
        for k in range(5):
            for q in range(7):
                scores[b, k] += classes[b, q].softmax(0)[k] * masks[b, q].sigmoid()
    torch.testing.assert_close(logits, scores.log())
    # Cross-entropy of them is that of the shares of the scores.
    labels = torch.randint(5, (2, *S))
    shares = scores / scores.sum(1, keepdim=True)
    torch.testing.assert_close(F.cross_entropy(logits, labels), F.nll_loss(shares.log(), labels))


def test_none_is_no_class() -> None:
    classes, masks = torch.zeros(1, 2, 4), torch.full((1, 2, 1, 1), 9.0)
    classes[0, 0, 3], classes[0, 1, 1] = 9, 2  # the first says none, whose score would be the largest
    assert of_queries(classes, masks).argmax(1).item() == 1


def test_scores_of_nothing_and_half_precision() -> None:
    classes, masks = queries()
    masks[0] = -1e4
    logits = of_queries(classes.requires_grad_(), masks.requires_grad_())
    assert logits.isfinite().all()
    assert (logits[0] == logits[0, 0, 0, 0]).all()
    logits.sum().backward()
    assert classes.grad is not None
    assert classes.grad.isfinite().all()
    whole = of_queries(classes.detach(), masks.detach())
    for dtype in (torch.float16, torch.bfloat16):
        half = of_queries(classes.detach().to(dtype), masks.detach().to(dtype))
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, whole, atol=0.05, rtol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(of_queries(classes.detach(), masks.detach()), whole)
    assert of_queries(classes.double(), masks.double()).dtype == torch.float64


SHAPES = [
    lambda c, m, loss: {"loss": loss, "class_queries_logits": c, "masks_queries_logits": m, "auxiliary_logits": [m]},
    lambda c, m, loss: types.SimpleNamespace(loss=loss, class_queries_logits=c, masks_queries_logits=m),
    lambda c, m, loss: Output(loss, c, m),
    lambda c, m, loss: {"loss": loss, "pred_logits": c, "pred_masks": m, "aux_outputs": [{"pred_masks": m}]},
    lambda c, m, loss: {"loss": loss, "logits": c, "pred_masks": m, "pred_boxes": c[..., :4]},  # DETR
]


@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_found_by_name_and_the_loss_of_the_network_too(shape: Any) -> None:
    classes, masks = queries()
    found = segmentation(shape(classes, masks, classes.sum()))
    assert set(found) == {"logits", "loss"}
    torch.testing.assert_close(found["logits"], of_queries(classes, masks))
    torch.testing.assert_close(found["loss"], classes.sum())
    assert set(segmentation(shape(classes, masks, None))) == {"logits"}


def test_logits_of_pixels_come_with_the_loss_that_is_named() -> None:
    x = torch.rand(2, 5, 4, 6)
    assert set(segmentation({"loss": x.mean(), "out": x, "aux": x})) == {"logits", "auxiliary", "loss"}
    assert set(segmentation((x.mean(), x))) == {"logits"}


def test_without_names_they_are_refused() -> None:
    classes, masks = queries()
    for output in ((classes, masks), [torch.zeros(()), classes, masks, masks[:, 0]]):
        with pytest.raises(TypeError, match=r"which may be classes and masks of queries, want .* by name.*return_dict"):
            segmentation(output)
    loss = torch.rand(2, 5, 5)  # of each pixel, of as many rows as there are classes
    logits = torch.rand(2, 5, 5, 5)
    assert segmentation((loss, logits))["logits"] is logits
    with pytest.raises(TypeError, match=r"its output has keys \['masks_queries_logits'\], want logits"):
        segmentation({"masks_queries_logits": masks})


@pytest.mark.filterwarnings("ignore")
def test_predictions_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers")
    pytest.importorskip("torchvision", reason="torchvision")
    classes, masks = queries(Q=20)
    output = types.SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    theirs = transformers.MaskFormerImageProcessor().post_process_semantic_segmentation(output)
    torch.testing.assert_close(segmentation(output)["logits"].argmax(1), torch.stack(theirs))


def test_compiles_in_one_graph() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.classes, self.masks = nn.Conv2d(3, 8, 1), nn.Linear(8, 6), nn.Conv2d(8, 7, 1)

        def forward(self, images: Tensor) -> Any:
            x = self.features(images)
            classes = self.classes(x.mean((2, 3)))[:, None].expand(-1, 7, -1)
            return {"class_queries_logits": classes, "masks_queries_logits": self.masks(x)}

    torch._dynamo.reset()
    model = fpc.ContrastModel(Queries(), at="masks", dim=6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.rand(2, 3, 4, 6)
    for key, value in model(x).items():
        torch.testing.assert_close(compiled(x)[key], value)
    torch._dynamo.reset()
