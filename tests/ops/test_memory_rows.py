"""What memory_rows means: a few random pixels of each class in each image, and the mean of all."""

from typing import Any

import pytest
import torch
from harness.tested_backends import Backend

from fastpixcon.testing import MemoryRowsCase


def test_pixels_are_unit_rows_of_their_class_without_repetition(operators: Backend) -> None:
    op = operators.op("memory_rows")
    case = MemoryRowsCase(B=3, D=16, size=(14, 15), pixels_per_image=6)
    embeddings, labels, *rest = case.arguments(operators.device)
    pixels, pixel_labels, _, _ = op(embeddings, labels, *rest)
    unit = torch.nn.functional.normalize(embeddings, dim=1).permute(0, 2, 3, 1)
    for b in range(3):
        for c in range(case.classes):
            of_class = unit[b][labels[b] == c]
            kept = pixels[b, c][pixel_labels[b, c] == c]
            assert len(kept) == min(len(of_class), 6)
            nearest = (kept[:, None] - of_class).norm(dim=-1).min(dim=1)
            assert (nearest.values < 1e-5).all()
            assert len(nearest.indices.unique()) == len(kept)


def test_region_is_the_renormalised_mean_of_unit_embeddings(operators: Backend) -> None:
    op = operators.op("memory_rows")
    case = MemoryRowsCase(B=2, D=16, classes=4)
    embeddings, labels, *rest = case.arguments(operators.device)
    _, _, regions, region_labels = op(embeddings, labels, *rest)
    unit = torch.nn.functional.normalize(embeddings, dim=1).permute(0, 2, 3, 1)
    for b in range(2):
        for c in range(4):
            mean = torch.nn.functional.normalize(unit[b][labels[b] == c].mean(dim=0), dim=0)
            assert region_labels[b, c] == c
            torch.testing.assert_close(regions[b, c], mean, rtol=1e-5, atol=1e-5)


def test_class_zero_counts_and_an_absent_class_leaves_nothing(operators: Backend) -> None:
    op = operators.op("memory_rows")
    embeddings = torch.ones(1, 4, 2, 2, device=operators.device)
    labels = torch.tensor([[[0, 0], [0, 255]]], device=operators.device)
    seed = torch.tensor(5, device=operators.device)
    pixels, pixel_labels, regions, region_labels = op(embeddings, labels, seed, 2, 5, 255)
    assert pixel_labels.tolist() == [[[0, 0, 0, -1, -1], [-1] * 5]]
    assert region_labels.tolist() == [[0, -1]]
    assert (pixels[0, 0, :3] == 0.5).all()
    assert not pixels[0, 0, 3:].any()
    assert not regions[0, 1].any()


def test_another_seed_draws_other_pixels_evenly(operators: Backend) -> None:
    op = operators.op("memory_rows")
    count, draws = 12, 60
    embeddings = torch.eye(count, device=operators.device).view(1, count, 1, count)  # each pixel is its own direction
    labels = torch.zeros(1, 1, count, dtype=torch.int64, device=operators.device)
    hits = torch.zeros(count)
    for seed in range(draws):
        pixels, *_ = op(embeddings, labels, torch.tensor(seed, device=operators.device), 1, 3, 255)
        hits += pixels[0, 0].sum(dim=0).cpu()
    assert hits.sum() == 3 * draws
    assert (hits > 4).all()  # 15 on average
    assert (hits < 30).all()


def regions_of(operators: Backend, pixels: list[list[float]], dtype: torch.dtype = torch.float32) -> Any:
    """What an image of these pixels, of one class, adds."""
    embeddings = torch.tensor(pixels, dtype=dtype, device=operators.device).T[None, :, None]  # [1, D, 1, pixels]
    labels = torch.zeros(1, 1, len(pixels), dtype=torch.int64, device=operators.device)
    seed = torch.tensor(0, device=operators.device)
    return operators.op("memory_rows", dtype)(embeddings, labels, seed, 1, 4, 255)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pixels_that_cancel_have_no_region(dtype: torch.dtype, operators: Backend) -> None:
    """What would be left is their rounding. Of one channel all unit rows are 1 and -1."""
    third = [0.3, -0.1, 0.7]
    for pixels in (
        [[2.0], [-7.0]],
        [[1.0], [3.0], [-0.1], [-5.0]],
        [third, [-4 * x for x in third]],
        [[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]],
    ):
        rows, labels, regions, region_labels = regions_of(operators, pixels, dtype)
        cancels = dtype == torch.float32 or len(pixels) != 3  # in half precision the three are no 120 degrees apart
        assert labels[0, 0].tolist() == [0] * len(pixels) + [-1] * (4 - len(pixels))
        assert rows[0, 0, : len(pixels)].norm(dim=1).sub(1).abs().max() < 0.01
        assert region_labels.tolist() == [[-1 if cancels else 0]]
        assert regions.any() != cancels


def test_pixels_that_nearly_cancel_have_one(operators: Backend) -> None:
    """It is as exact as the mean: here of length 5e-4 and 2^-18, of which the second has none."""
    for angle, label in ((1e-3, 0), (2.0**-17, -1)):
        _, _, regions, region_labels = regions_of(operators, [[1.0, 0.0], [-1.0, angle]])
        assert region_labels.tolist() == [[label]]
        wanted = torch.tensor([0.0, 1.0]) if label == 0 else torch.zeros(2)
        torch.testing.assert_close(regions[0, 0].cpu(), wanted, rtol=0, atol=2e-3)


def test_pixels_without_direction_are_left_out(operators: Backend) -> None:
    """They have no row, and make no mean shorter."""
    count = 2000
    pixels = [[0.0, 0.0]] * count + [[0.0, 3.0]] + [[0.0, 1e-14]] * count
    _, _, regions, region_labels = regions_of(operators, pixels)
    assert region_labels.tolist() == [[0]]
    torch.testing.assert_close(regions[0, 0].cpu(), torch.tensor([0.0, 1.0]))
    rows, labels, regions, region_labels = regions_of(operators, [[0.0, 0.0], [1e-13, 0.0], [0.0, 2.0]])
    assert sorted(labels[0, 0].tolist()) == [-1, -1, -1, 0]
    assert torch.equal(rows[0, 0].any(dim=1), labels[0, 0] == 0)
    rows, labels, regions, region_labels = regions_of(operators, [[0.0, 0.0]])
    assert (labels == -1).all()
    assert region_labels.tolist() == [[-1]]
    assert not rows.any()
    assert not regions.any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_pixel_that_is_not_finite_shows(value: float, operators: Backend) -> None:
    """And the bank takes neither the row nor the region."""
    rows, labels, regions, region_labels = regions_of(operators, [[1.0, value], [-1.0, 0.5], [1.0, -0.5]])
    assert sorted(labels[0, 0].tolist()) == [-1, -1, 0, 0]
    broken = rows[0, 0].isnan().any(dim=1)
    assert broken.sum() == 1
    assert (labels[0, 0][broken] == -1).all()
    assert region_labels.tolist() == [[-1]]
    assert regions.isnan().any()


def test_a_label_beyond_the_classes_is_refused(operators: Backend) -> None:
    if operators.device == "cuda" or operators.is_executed or operators.name == "triton":
        pytest.skip("on GPUs it is an assertion")
    embeddings, labels, *rest = MemoryRowsCase().arguments()
    labels[1, 2, 3] = 17
    with pytest.raises(ValueError, match="labels: got label 17"):
        operators.op("memory_rows")(embeddings, labels, *rest)
