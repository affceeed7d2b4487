"""What ``PixelContrastLoss.last`` says of the last call, and that it says it when nothing takes part."""

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

import fastpixcon as fpc

K, D = 4, 8


def maps(device: str, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Image 0: classes 0 and 1, half each; image 1: class 0, and two pixels of class 2. Class 3 is nowhere."""
    labels = torch.zeros(2, size, size, dtype=torch.int64)
    labels[0, size // 2 :] = 1
    labels[1, 0, :2] = 2
    labels[1, 1, 0] = 255
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, D, size, size), (2, K, size, size))
    embeddings, logits = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    return embeddings, labels.to(device), logits


def numbers(last: fpc.LastCall) -> dict[str, int | list[int]]:
    return {name: value.tolist() for name, value in last._asdict().items()}


def test_by_hand(backend: Backend) -> None:
    contrast = fpc.PixelContrastLoss(max_samples=64, max_views=5).to(backend.device)
    assert not any(numbers(contrast.last)[name] for name in ("anchors", "segments", "left_out", "classes"))
    contrast(*maps(backend.device))
    assert numbers(contrast.last) == {
        "anchors": 15,
        "segments": 3,
        "left_out": 1,
        "classes": 2,
        "without_positive": 0,
        "bank_places": 0,
        "class_anchors": [10, 5, 0, 0],
        "class_segments": [2, 1, 0, 0],
        "class_left_out": [0, 0, 1, 0],
    }
    assert all(x.device.type == backend.device and x.dtype == torch.int64 for x in contrast.last)


def test_nothing_takes_part(backend: Backend) -> None:
    """With more views than a segment has pixels: the loss is 0, and this says why."""
    embeddings, labels, logits = maps(backend.device)
    contrast = fpc.PixelContrastLoss(max_views=64).to(backend.device)
    assert contrast(embeddings, labels, logits) == 0
    last = numbers(contrast.last)
    assert (last["anchors"], last["segments"], last["left_out"], last["classes"]) == (0, 0, 4, 0)
    assert last["class_left_out"] == [2, 1, 1, 0]


def test_more_segments_than_anchors(backend: Backend) -> None:
    contrast = fpc.PixelContrastLoss(max_samples=3, max_views=5, min_pixels=1).to(backend.device)
    contrast(*maps(backend.device))
    last = numbers(contrast.last)
    assert (last["anchors"], last["segments"], last["left_out"]) == (3, 3, 1)


def test_anchors_without_a_positive(backend: Backend) -> None:
    embeddings, labels, logits = maps(backend.device)
    contrast = fpc.PixelContrastLoss(max_samples=64, max_views=1, min_pixels=2).to(backend.device)
    contrast(embeddings, labels, logits)
    assert numbers(contrast.last)["class_anchors"] == [2, 1, 1, 0]
    assert int(contrast.last.without_positive) == 2


def test_places_of_the_bank(complete_backend: Backend) -> None:
    memory = fpc.MemoryBank(K, D, pixel_size=5, region_size=3, pixels_per_image=2)
    contrast = fpc.PixelContrastLoss(max_samples=64, max_views=5, memory=memory).to(complete_backend.device)
    places = []
    for _ in range(5):
        contrast(*maps(complete_backend.device))
        places.append(int(contrast.last.bank_places))
    assert memory.labels.ge(0).sum() == places[-1]
    assert places == [0, 12, 20, 24, 24]


@pytest.mark.parametrize("num_classes", [None, K])
def test_compiled(num_classes: int | None, backend: Backend) -> None:
    contrast = fpc.PixelContrastLoss(max_samples=64, max_views=5, num_classes=num_classes).to(backend.device)
    eager = fpc.PixelContrastLoss(max_samples=64, max_views=5, num_classes=num_classes).to(backend.device)
    step = torch.compile(contrast, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        step(*maps(backend.device)), eager(*maps(backend.device))
    for name, value in eager.last._asdict().items():
        found = getattr(contrast.last, name)
        assert torch.equal(found[:K] if name.startswith("class_") else found, value), name
        assert not name.startswith("class_") or not found[K:].any()
