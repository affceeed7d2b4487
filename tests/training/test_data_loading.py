"""Augmentation and batches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_layouts import LAYOUTS, SIZE
from torch import Tensor

from fastpixcon.training import config
from fastpixcon.training.config import Augmentation
from fastpixcon.training.data import IGNORE, DataSet, loading, open_dataset
from fastpixcon.training.data.loading import EpochOrder, TrainSet, augmentation, train_loader, val_loader, worker_count

SETTINGS = Augmentation(scale=(0.5, 2.0), crop=16, flip=0.5, colour=0.3)
PLAIN = Augmentation(scale=(1.0, 1.0), crop=16, flip=0.0, colour=0.0)


@pytest.fixture
def camvid(tmp_path: Path) -> DataSet:
    return open_dataset(LAYOUTS["camvid"].build(tmp_path).data())


class Single:
    """A split of one image."""

    def __init__(self, image: Tensor, label: Tensor) -> None:
        self.pair = image, label

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pair


def train_set(data: DataSet, seed: int = 3, **changes: object) -> TrainSet:
    return TrainSet(data.train, augmentation(replace(SETTINGS, **changes)), seed)  # type: ignore[arg-type]


def test_augmentation_depends_on_seed_epoch_and_index_only(camvid: DataSet) -> None:
    samples = train_set(camvid)
    image, label = samples[(2, 1)]
    torch.manual_seed(99)
    torch.rand(7)
    before = torch.get_rng_state()
    again, label_again = samples[(2, 1)]
    assert torch.equal(torch.get_rng_state(), before)  # the stream of the training is untouched
    assert torch.equal(image, again)
    assert torch.equal(label, label_again)
    assert not torch.equal(image, samples[(3, 1)][0])
    assert not torch.equal(image, train_set(camvid, seed=4)[(2, 1)][0])


@pytest.mark.parametrize(("crop", "shape"), [(48, (48, 48)), ((20, 40), (20, 40)), ((40, 8), (40, 8))])
def test_augmentation_invents_no_label_and_fills_with_ignore(
    camvid: DataSet, crop: int | tuple[int, int], shape: tuple[int, int]
) -> None:
    samples = train_set(camvid, scale=(0.5, 0.5), crop=crop)  # the image shrinks to 12x8
    image, label = samples[(0, 0)]
    assert image.shape == (3, *shape)
    assert label.shape == shape
    assert label.dtype == torch.int64
    assert set(label.unique().tolist()) <= {*range(11), IGNORE}
    inside = min(shape[0], 8) * min(shape[1], 12)
    assert (label == IGNORE).sum() >= shape[0] * shape[1] - inside
    assert (label != IGNORE).any()
    assert 0 <= image.min() <= image.max() <= 1


def test_image_and_label_stay_together() -> None:
    """Image and label show the same numbers, so they do after scale 1, any crop and any flip."""
    label = torch.arange(20 * 12, dtype=torch.uint8).view(12, 20) % 200
    split = Single(label.expand(3, 12, 20).contiguous(), label)
    samples = TrainSet(split, augmentation(replace(PLAIN, crop=(8, 30), flip=0.5)), seed=0)
    seen = set()
    for epoch in range(30):
        image, ids = samples[(epoch, 0)]
        counts = ids != IGNORE
        assert counts.sum() == 8 * 20
        assert torch.equal((image[0] * 255).round().long()[counts], ids[counts])
        row = ids[0][counts[0]]
        seen.add("flipped" if row[0] > row[1] else "as it was")
    assert seen == {"flipped", "as it was"}


def test_colour_leaves_labels_alone(camvid: DataSet) -> None:
    plain, coloured = (train_set(camvid, scale=(1.0, 1.0), crop=16, flip=0.0, colour=c) for c in (0.0, 0.8))
    raw = camvid.train[0][1]
    for epoch in range(4):
        columns = [ids for _, ids in (plain[(epoch, 0)], coloured[(epoch, 0)])]
        assert torch.equal(*columns)
        assert any(torch.equal(columns[0], raw[:, x : x + 16].long()) for x in range(SIZE[0] - 15))
    assert not torch.equal(plain[(0, 0)][0], coloured[(0, 0)][0])


@pytest.mark.parametrize("scale", [0.55, 0.75, 0.9, 1.3, 2.0])
def test_labels_are_not_shifted_against_the_image(scale: float) -> None:
    """On average over the places of an edge it stays where the image has it, to a fifth of a pixel."""
    shifts = []
    for edge in range(20, 60):
        label = torch.zeros(4, 80, dtype=torch.uint8)
        label[:, edge:] = 1
        changes = augmentation(replace(PLAIN, scale=(scale, scale), crop=(round(4 * scale), round(80 * scale))))
        image, ids = TrainSet(Single((label * 255).expand(3, 4, 80).contiguous(), label), changes, 0)[(0, 0)]
        shifts.append(float(image[0, 0].sum() - ids[0].sum()))
    assert abs(sum(shifts) / len(shifts)) < 0.2


def test_batches_do_not_depend_on_workers_nor_on_where_an_epoch_starts(camvid: DataSet) -> None:
    samples = train_set(camvid)
    order = EpochOrder(length=2, batch=1, seed=3, epoch=5)
    alone, shared = (list(train_loader(samples, order, workers)) for workers in (0, 1))
    late = list(train_loader(samples, EpochOrder(2, 1, 3, epoch=5, start=1), 0))
    assert len(alone) == len(shared) == len(order) == 2
    for (a, la), (b, lb) in zip([*alone, alone[1]], [*shared, *late], strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_workers_where_they_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU waits for images, and CPUs have the network to compute; what is asked for holds."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda _: range(12))
    assert (worker_count(None, cpu), worker_count(None, gpu)) == (0, 8)
    assert (worker_count(3, cpu), worker_count(0, gpu)) == (3, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(None, gpu) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "12")
    assert worker_count(None, gpu) == 0
    assert all(config.load(name).data.workers is None for name in config.shipped())


def test_validation_is_padded_and_complete(camvid: DataSet) -> None:
    ((images, labels),) = val_loader(camvid.val, batch=8, workers=0)
    assert images.shape == (2, 3, 32, 32)
    assert (labels[:, SIZE[1] :] == IGNORE).all()
    assert (labels[:, :, SIZE[0] :] == IGNORE).all()
    assert set(labels[:, : SIZE[1], : SIZE[0]].unique().tolist()) == {*range(11), IGNORE}
