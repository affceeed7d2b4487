"""From data sets to batches: augmentation and order depend on (seed, epoch, index) and on nothing else.

So it does not matter how many workers load, in which order they run, or whether the run was interrupted.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Augmentation, sides_of
from fastpixcon.training.data.base import IGNORE, Split
from fastpixcon.training.data.colour import ColourJitter
from fastpixcon.training.interrupt import SIGNALS

_GREY = 128  # fill of images outside their border, close to the mean that models subtract
_MOST_WORKERS = 8  # of a process
_PORTION = 16  # items that a worker hands over at a time

Sample = tuple[Tensor, Tensor]  # image [3, H, W] float in [0, 1], label [H, W] int64
Key = tuple[int, int]  # epoch, index


def augmentation(config: Augmentation) -> v2.Transform:
    """Scale, crop, flip, colour, on an (Image, Mask) pair. Masks are resized to the nearest pixel."""
    jitter = config.colour
    size = sides_of(config)  # height, width
    return v2.Compose(
        [
            _RandomScale(config.scale, config.aspect),
            v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Image: _GREY, tv_tensors.Mask: IGNORE}),
            _Planar(),
            v2.RandomHorizontalFlip(config.flip),
            ColourJitter(jitter, jitter, jitter, jitter / 5) if jitter else v2.Identity(),
        ]
    )


class _RandomScale(v2.Transform):
    """Resize by one factor, and by another one the width more and the height less, each drawn log-uniformly."""

    def __init__(self, scale: tuple[float, float], aspect: tuple[float, float]) -> None:
        super().__init__()
        self.scale, self.aspect = scale, aspect

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, list[int]]:
        factor = _log_uniform(self.scale)
        stretch = 1.0 if self.aspect == (1, 1) else _log_uniform(self.aspect) ** 0.5
        height, width = flat_inputs[0].shape[-2:]
        return {"size": [round(height * factor / stretch), round(width * factor * stretch)]}

    def transform(self, inpt: Tensor, params: dict[str, list[int]]) -> Tensor:
        if isinstance(inpt, tv_tensors.Mask):
            # The mask's resize in v2 rounds the coordinate down, which shifts it by up to half a pixel.
            mask = F.interpolate(inpt.as_subclass(Tensor)[None, None], params["size"], mode="nearest-exact")[0, 0]
            return tv_tensors.wrap(mask, like=inpt)
        resized: Tensor = self._call_kernel(v2.functional.resize, inpt, params["size"], antialias=True)
        return resized


class _Planar(v2.Transform):
    """Channel by channel, as colour is computed; until then they lie side by side."""

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        planar: Tensor = tv_tensors.wrap(inpt.as_subclass(Tensor).contiguous(), like=inpt)
        return planar


def _log_uniform(bounds: tuple[float, float]) -> float:
    low, high = torch.tensor(bounds).log()
    return float((low + (high - low) * torch.rand(())).exp())


class TrainSet(Dataset[Sample]):
    """Augmented samples by key (epoch, index)."""

    def __init__(self, split: Split, transform: v2.Transform, seed: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __getitem__(self, key: Key) -> Sample:
        image, label = self.split[key[1]]
        with _draws_of(self.seed, key):
            image, label = self.transform(tv_tensors.Image(image), tv_tensors.Mask(label))
        return _as_sample(image, label)


class LabelCrops:
    """The labels that ``TrainSet`` gives, without their images: place, size and mirroring are drawn before colour."""

    def __init__(self, config: Augmentation, seed: int) -> None:
        self.transform, self.seed = augmentation(replace(config, colour=0.0)), seed

    def __call__(self, label: Tensor, key: Key) -> Tensor:
        """[H, W] uint8 as the split has it -> [H', W'] uint8."""
        with _draws_of(self.seed, key):
            crop: Tensor = self.transform(tv_tensors.Mask(label))
        return crop.as_subclass(Tensor)


class ValSet(Dataset[Sample]):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        return _as_sample(*self.split[index])


class EpochOrder(Sampler[list[Key]]):
    """Batches of keys of one epoch from batch ``start`` on; the last, incomplete batch is left out. Of every batch
    the part of process ``share[0]`` of ``share[1]``."""

    def __init__(
        self, length: int, batch: int, seed: int, epoch: int, start: int = 0, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.length, self.batch, self.seed, self.epoch, self.start = length, batch, seed, epoch, start
        self.rank, self.processes = share

    def __len__(self) -> int:
        return max(self.length // self.batch - self.start, 0)

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch, -1))
        order = torch.randperm(self.length, generator=generator).tolist()
        for i in range(self.start, self.length // self.batch):
            batch = order[i * self.batch : (i + 1) * self.batch]
            yield [(self.epoch, index) for index in batch[self.rank :: self.processes]]


def worker_count(wanted: int | None, device: torch.device) -> int:
    """What ``data.workers`` is on ``device``. None: for a GPU the cores that a process of this machine has beside its
    own, at most 8; on CPUs 0, as the network takes them all."""
    if wanted is not None:
        return wanted
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(min(cores - 1, _MOST_WORKERS), 0)


def train_loader(data: TrainSet, order: EpochOrder, workers: int, pinned: bool = False) -> DataLoader[Sample]:
    """``pinned``: in memory that a GPU copies from by itself; it waits for a copy from any other."""
    return _Loader(data, batch_sampler=order, pin_memory=pinned, **_options(workers))


def val_loader(
    split: Split, batch: int, workers: int, rank: int = 0, processes: int = 1, multiple: int = 32
) -> DataLoader[Sample]:
    """Images in their order and size, padded to multiples of ``multiple`` px with grey and ``IGNORE``; every process
    has its share of them."""
    share = Subset(ValSet(split), range(rank, len(split), processes))
    return _Loader(share, batch_size=batch, collate_fn=partial(_pad_together, multiple), **_options(workers))


class _Loader(DataLoader[Any]):
    """What is wrong with a file reads the same from a worker as from the training process."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names a private class
        try:
            # Workers begin with signals blocked, until they have said that they don't listen.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                batches = super().__iter__()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for worker in getattr(batches, "_workers", ()):
                worker.terminate = worker.kill  # of one that doesn't end by itself
            yield from batches
        except TrainingError as error:
            # A worker sends the text of its traceback, whose last part is "module.class: message".
            name = f"{TrainingError.__module__}.{TrainingError.__qualname__}: "
            raise TrainingError(str(error).rpartition(name)[2].rstrip()) from None


def item_loader(items: Dataset[Any], workers: int) -> DataLoader[list[Any]]:
    """Items in their order, in lists, as they are: what workers make of files beside training."""
    return _Loader(items, batch_size=_PORTION, collate_fn=list, **_options(workers))


@contextlib.contextmanager
def _draws_of(seed: int, key: Key) -> Iterator[None]:
    """What is drawn for a key, and for it alone."""
    with torch.random.fork_rng(devices=[]):
        # Of the CPU alone: torch.manual_seed keeps, of every call, a stack for GPUs that are yet to be used.
        torch.default_generator.manual_seed(mix(seed, *key))
        yield


def mix(seed: int, epoch: int, index: int) -> int:
    """One 63-bit seed from three numbers (splitmix64's finaliser)."""
    mask = 2**64 - 1
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + (index + 1) * 0x94D049BB133111EB) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1


def _as_sample(image: Tensor, label: Tensor) -> Sample:
    return image.as_subclass(Tensor).float() / 255, label.as_subclass(Tensor).long()


def _pad_together(multiple: int, samples: list[Sample]) -> Sample:
    height, width = (max(label.shape[i] for _, label in samples) for i in (0, 1))
    height, width = (-(-side // multiple) * multiple for side in (height, width))
    images = torch.full((len(samples), 3, height, width), _GREY / 255)
    labels = torch.full((len(samples), height, width), IGNORE)
    for i, (image, label) in enumerate(samples):
        images[i, :, : label.shape[0], : label.shape[1]] = image
        labels[i, : label.shape[0], : label.shape[1]] = label
    return images, labels


def _options(workers: int) -> dict[str, Any]:
    # The loader draws a base seed for its workers: from a generator of its own, or it would move the random stream
    # of the training, once per (re)start.
    options: dict[str, Any] = {"num_workers": workers, "generator": torch.Generator()}
    if workers:
        options |= {"worker_init_fn": _start_worker, "prefetch_factor": 2}
    return options


def _start_worker(worker: int) -> None:
    """Signals reach every process of a terminal or a job; the training process decides what to do. The worker ends with
    it, or when it is told to."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)  # the training process's own
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    torch.set_num_threads(1)
