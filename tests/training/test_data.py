"""The registry and the digits scenes."""

from dataclasses import replace

import pytest
import torch

from fastpixcon.training import TrainingError, config
from fastpixcon.training.config import Data
from fastpixcon.training.data import open_dataset


def digits_data(**scenes: int) -> Data:
    data = config.load("digits").data
    assert data.scenes is not None
    return replace(data, scenes=replace(data.scenes, train=8, val=4, size=64, **scenes))


def test_digits_scenes_are_the_same_every_time() -> None:
    first, second = (open_dataset(digits_data()) for _ in range(2))
    for index in range(4):
        for a, b in zip(first.val[index], second.val[index], strict=True):
            assert torch.equal(a, b)
    labels = torch.cat([first.train[i][1].flatten() for i in range(8)])
    assert set(labels.unique().tolist()) == set(range(11))
    assert 0.5 < (labels == 0).float().mean() < 0.98


def test_train_and_val_share_no_digit_and_no_photograph() -> None:
    from fastpixcon.training.data.digits import _sources

    train, val = _sources()
    seen = {tuple(d.flatten().tolist()) for d in train.digits}
    assert not seen & {tuple(d.flatten().tolist()) for d in val.digits}
    assert len(train.digits) + len(val.digits) == 1797
    widths = [a.shape[2] + b.shape[2] for a, b in zip(train.photographs, val.photographs, strict=True)]
    assert widths == [640, 640]


def test_digits_refuse_a_folder() -> None:
    with pytest.raises(TrainingError, match=r"data.root: got 'x', want none"):
        open_dataset(replace(digits_data(), root="x"))


def test_unknown_data_set() -> None:
    with pytest.raises(
        TrainingError, match=r"data\.name: got 'x', want one of camvid, ccp, cityscapes, .*, pascal_context_60"
    ):
        open_dataset(replace(digits_data(), name="x"))
