from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastpixcon.training import TrainingError, config
from fastpixcon.training.config import Augmentation, Data
from fastpixcon.training.data import IGNORE, DataSet, open_dataset
from fastpixcon.training.data.loading import EpochOrder, TrainSet, augmentation, train_loader, val_loader

SIZE = (60, 44)  # width, height


@pytest.fixture
def camvid_folder(tmp_path: Path) -> Path:
    """Two train and two val images whose labels have every id from 0 to 11."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for name in ("a", "b"):
            picture = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
            ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]) % 12
            Image.fromarray(picture).save(tmp_path / "images" / split / f"{name}.jpg")
            Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "labels" / split / f"{name}.png")
    return tmp_path


def camvid(root: Path | str) -> DataSet:
    return open_dataset(replace(config.load("camvid").data, root=str(root), workers=0))


def digits_data(**scenes: int) -> Data:
    data = config.load("digits").data
    assert data.scenes is not None
    return replace(data, scenes=replace(data.scenes, train=8, val=4, size=64, **scenes))


def test_camvid_maps_void_and_keeps_the_rest(camvid_folder: Path) -> None:
    data = camvid(camvid_folder)
    image, label = data.val[0]
    assert image.shape == (3, SIZE[1], SIZE[0])
    assert image.dtype == label.dtype == torch.uint8
    raw = torch.from_numpy(np.array(Image.open(camvid_folder / "labels/val/a.png")))
    assert torch.equal(label, torch.where(raw == 11, IGNORE, raw))
    assert len(data.classes) == len(data.palette) == 11


def test_camvid_without_its_folder() -> None:
    for root in ("", "/no/such/folder"):
        with pytest.raises(TrainingError, match=r"data.root: got .*want CamVid's folder"):
            camvid(root)


def test_camvid_with_a_missing_folder(camvid_folder: Path) -> None:
    (camvid_folder / "labels" / "val").rename(camvid_folder / "labels" / "test")
    with pytest.raises(TrainingError, match="labels/val: no such folder"):
        camvid(camvid_folder)


def test_camvid_with_a_label_missing(camvid_folder: Path) -> None:
    (camvid_folder / "labels" / "val" / "b.png").unlink()
    with pytest.raises(TrainingError, match="2 images and 1 labels; 1 have no partner, the first is b in images"):
        camvid(camvid_folder)


def test_camvid_with_a_wrong_size(camvid_folder: Path) -> None:
    Image.new("L", (SIZE[0], SIZE[1] - 1)).save(camvid_folder / "labels/train/b.png")
    with pytest.raises(TrainingError, match=r"train/b.png: got 60x43 px, want 60x44"):
        camvid(camvid_folder)


def test_camvid_with_unknown_ids(camvid_folder: Path) -> None:
    Image.new("L", SIZE, color=12).save(camvid_folder / "labels/train/b.png")
    with pytest.raises(TrainingError, match=r"train/b.png: got the ids \[12\], want 0 to 11"):
        camvid(camvid_folder)


def test_camvid_with_coloured_labels(camvid_folder: Path) -> None:
    Image.new("RGB", SIZE).save(camvid_folder / "labels/train/b.png")
    with pytest.raises(TrainingError, match=r"train/b.png: got a RGB picture, want one channel"):
        camvid(camvid_folder)


def test_camvid_with_a_broken_picture(camvid_folder: Path) -> None:
    (camvid_folder / "images/train/a.jpg").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=r"train/a.jpg and .* one cannot be read"):
        camvid(camvid_folder)


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
    with pytest.raises(TrainingError, match=r"data.name: got 'x', want one of camvid, digits"):
        open_dataset(replace(digits_data(), name="x"))


def train_set(camvid_folder: Path, seed: int = 3, **changes: object) -> TrainSet:
    settings = Augmentation(scale=(0.5, 2.0), crop=48, flip=0.5, colour=0.3)
    return TrainSet(camvid(camvid_folder).train, augmentation(replace(settings, **changes)), seed)  # type: ignore[arg-type]


def test_augmentation_depends_on_seed_epoch_and_index_only(camvid_folder: Path) -> None:
    samples = train_set(camvid_folder)
    image, label = samples[(2, 1)]
    torch.manual_seed(99)
    torch.rand(7)
    before = torch.get_rng_state()
    again, label_again = samples[(2, 1)]
    assert torch.equal(torch.get_rng_state(), before)  # the stream of the training is untouched
    assert torch.equal(image, again)
    assert torch.equal(label, label_again)
    assert not torch.equal(image, samples[(3, 1)][0])
    assert not torch.equal(image, train_set(camvid_folder, seed=4)[(2, 1)][0])


def test_augmentation_invents_no_label_and_fills_with_ignore(camvid_folder: Path) -> None:
    samples = train_set(camvid_folder, scale=(0.5, 0.5))
    image, label = samples[(0, 0)]
    assert image.shape == (3, 48, 48)
    assert label.dtype == torch.int64
    assert set(label.unique().tolist()) <= {*range(11), IGNORE}
    assert (label == IGNORE).float().mean() > 0.5  # the image shrank to 30x22
    assert 0 <= image.min() <= image.max() <= 1


def test_batches_do_not_depend_on_workers_nor_on_where_an_epoch_starts(camvid_folder: Path) -> None:
    samples = train_set(camvid_folder)
    order = EpochOrder(length=2, batch=1, seed=3, epoch=5)
    alone, shared = (list(train_loader(samples, order, workers)) for workers in (0, 1))
    late = list(train_loader(samples, EpochOrder(2, 1, 3, epoch=5, start=1), 0))
    assert len(alone) == len(shared) == len(order) == 2
    for (a, la), (b, lb) in zip([*alone, alone[1]], [*shared, *late], strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_validation_is_padded_and_complete(camvid_folder: Path) -> None:
    ((images, labels),) = val_loader(camvid(camvid_folder).val, batch=8, workers=0)
    assert images.shape == (2, 3, 64, 64)
    assert (labels[:, SIZE[1] :] == IGNORE).all()
    assert (labels[:, :, SIZE[0] :] == IGNORE).all()
    assert set(labels[:, : SIZE[1], : SIZE[0]].unique().tolist()) == {*range(11), IGNORE}
