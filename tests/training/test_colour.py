"""Colours are torchvision's, to the bit."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastpixcon.training.data.colour import ColourJitter, shifted_hue


@pytest.mark.parametrize("shift", [0.0, 0.06, -0.06, 1 / 3, -1 / 3, 0.5, -0.5, 1e-8, -1e-8])
def test_the_hue_of_every_colour(shift: float) -> None:
    """16 steps of each part and their neighbours: every order of the three, equal ones, grey, black and white."""
    steps = torch.tensor(
        sorted({min(max(17 * i + j, 0), 255) for i in range(16) for j in (-1, 0, 1)}), dtype=torch.uint8
    )
    colours = torch.cartesian_prod(steps, steps, steps).T.reshape(3, len(steps), -1).contiguous()  # [3, H, W]
    wanted = v2.functional.adjust_hue_image(colours, shift)
    assert torch.equal(torch.from_numpy(shifted_hue(colours.numpy(), shift)), wanted)


def test_jitter_draws_and_computes_the_same() -> None:
    picture = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    mask = tv_tensors.Mask(torch.zeros(20, 30, dtype=torch.uint8))
    settings = (0.3, 0.3, 0.3, 0.06)
    for seed in range(30):
        found = []
        for jitter in (v2.ColorJitter(*settings), ColourJitter(*settings)):
            torch.manual_seed(seed)
            image, same = jitter(tv_tensors.Image(picture), mask)
            assert torch.equal(same, mask)
            assert isinstance(image, tv_tensors.Image)
            found.append((image, torch.rand(())))
        (theirs, their_next), (ours, our_next) = found
        assert torch.equal(theirs, ours)
        assert their_next == our_next
    assert not np.array_equal(ours.numpy(), picture.numpy())
