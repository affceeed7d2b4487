"""A row that is not finite shows in every loss that has it, also where it adds nothing to a sum: without negatives,
where masks leave nothing else of a tile, where its logit would be infinite, where mining would leave it out."""

from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.functional import info_nce, pixel_contrast

VALUES = pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
DENOMINATORS = ("negatives", "all")
TEMPERATURES = (0.1, 0.01)  # a fixed shift, a running maximum


def rows(n: int, seed: int, device: str) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)).to(device)


def bank(labels: Tensor, device: str) -> fpc.MemoryBank:
    memory = fpc.MemoryBank(2, 5, 6, 6).to(device)
    pixels = torch.nn.functional.normalize(rows(len(labels), 7, device))
    memory.enqueue_rows(pixels, labels.int().to(device), pixels[:0], labels[:0].int().to(device))
    return memory


@VALUES
@pytest.mark.parametrize("sets", ["batch", "separate", "memory", "memory alone", "mining"])
def test_without_negatives(value: float, sets: str, complete_backend: Backend) -> None:
    """Two rows of one class, and more: the loss is 0, but not with one that is not finite."""
    device = complete_backend.device
    for n in (2, 40):
        x, y = rows(n, 0, device), torch.zeros(n, dtype=torch.int64, device=device)
        options: dict[str, Any] = {"reduction": "none"}
        contrast: tuple[Tensor, ...] = ()
        if sets == "separate":
            contrast = (rows(9, 1, device), y[:1].expand(9))
        elif "memory" in sets:
            options["memory"] = bank(torch.zeros(4), device)
            options["contrast_with"] = "memory" if sets == "memory alone" else "both"
        elif sets == "mining":
            options["mining"] = fpc.Mining("hardest", "hardest", keep=(3, 5))
        for temperature in TEMPERATURES:
            clean = info_nce(x, y, *contrast, temperature=temperature, **options)
            torch.testing.assert_close(clean, torch.zeros_like(clean), rtol=0, atol=1e-6)
            spoilt = x.clone()
            spoilt[1, 2] = value
            losses = info_nce(spoilt, y, *contrast, temperature=temperature, **options)
            assert losses[1].isnan()
            if sets in ("separate", "memory alone"):  # the others have nothing to do with it
                assert torch.equal(losses[::2], clean[::2])
            else:
                assert losses.isnan().all()
            if sets == "separate":
                spoilt = contrast[0].clone()
                spoilt[8, 4] = value
                assert info_nce(x, y, spoilt, contrast[1], temperature=temperature, **options).isnan().all()


@VALUES
@pytest.mark.parametrize("n", [3, 20, 70])
def test_as_the_only_negative(value: float, n: int, complete_backend: Backend) -> None:
    """In the middle of a tile of positives, which masks leave out: a maximum would forget it."""
    device = complete_backend.device
    for at in (0, n // 2, n - 1):
        x, y = rows(n, 0, device), torch.zeros(n, dtype=torch.int64, device=device)
        x[at, 1], y[at] = value, 1
        others = torch.arange(n, device=device) != at
        for denominator in DENOMINATORS:
            for temperature in TEMPERATURES:
                how: dict[str, Any] = {"denominator": denominator, "temperature": temperature, "reduction": "none"}
                assert info_nce(x, y, **how)[others].isnan().all()
                contrast = torch.nn.functional.normalize(x).nan_to_num(0, 0, 0), y
                assert info_nce(x[others], y[others], x, y, **how).isnan().all()
                assert info_nce(x[others], y[others], *contrast, **how).isfinite().all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_bank_against_an_anchor_that_is_not_finite(temperature: float, complete_backend: Backend) -> None:
    """Whether it has positives there, negatives, or both."""
    device = complete_backend.device
    for labels in (torch.zeros(3), torch.ones(3), torch.arange(6) % 2):
        memory = bank(labels, device)
        x, y = rows(4, 0, device), torch.tensor([0, 0, 1, 1], device=device)
        x[2, 0] = torch.inf
        for contrast_with in ("both", "memory"):
            losses = info_nce(
                x, y, memory=memory, contrast_with=contrast_with, temperature=temperature, reduction="none"
            )
            has_positive = contrast_with == "both" or bool((labels == 1).any())
            assert losses[2].isnan() == has_positive
            assert losses[:2].isnan().all() == (contrast_with == "both")


@VALUES
def test_rows_as_they_are(value: float, backend: Backend) -> None:
    """A logit of -inf adds nothing to a sum of exponentials, one of inf makes the loss of a positive 0."""
    device = backend.device
    for denominator in DENOMINATORS:
        how: dict[str, Any] = {"denominator": denominator, "normalize": False, "reduction": "none"}
        for labels in ([0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 2, 2]):
            y = torch.tensor(labels, device=device)
            x = rows(len(y), 3, device).abs()
            x[1, 0] = value
            assert info_nce(x, y, **how).isnan().all()
            assert info_nce(x, y, **how, backend="reference").isnan().all()
            anchors = torch.ones_like(x)
            assert info_nce(anchors, y, x, y, **how).isnan().all()
            y[1] = -1
            assert info_nce(x, y, **how).isfinite().all()


@VALUES
def test_images_of_one_class(value: float, backend: Backend) -> None:
    x = torch.randn(1, 6, 4, 5, generator=torch.Generator().manual_seed(1)).to(backend.device)
    labels = torch.zeros(1, 4, 5, dtype=torch.int64, device=backend.device)
    options: dict[str, Any] = {"min_pixels": 1, "num_classes": 2}
    assert pixel_contrast(x, labels, labels, **options) == 0
    x[0, 3, 2, 2] = value
    assert pixel_contrast(x, labels, labels, **options).isnan()


@VALUES
def test_mining_shows_it_to_every_anchor(value: float, complete_backend: Backend) -> None:
    """But to none that is left out, and of none that is."""
    device = complete_backend.device
    x, y = rows(12, 0, device), torch.arange(12, device=device) % 3
    y[5] = -1
    for negatives in ("none", "hardest", "semi-hard", "random"):
        how: dict[str, Any] = {"mining": fpc.Mining(negatives, "hardest", keep=(2, 3)), "reduction": "none"}
        spoilt = x.clone()
        spoilt[5] = value
        assert info_nce(spoilt, y, **how).isfinite().all()
        spoilt[7, 1] = value
        losses = info_nce(spoilt, y, **how)
        assert losses[y != -1].isnan().all()
        assert losses[5] == 0


@VALUES
def test_its_gradient_is_not_finite(value: float, backend: Backend) -> None:
    """Also without negatives, of whose sum the gradient has the inverse."""
    y = torch.zeros(6, dtype=torch.int64, device=backend.device)
    for normalize in (True, False):
        x = rows(6, 0, backend.device)
        x[1, 2] = value
        x.requires_grad_()
        loss = info_nce(x, y, normalize=normalize)
        assert loss.isnan()
        assert not torch.autograd.grad(loss, x)[0][1].isfinite().any()
