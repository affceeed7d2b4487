"""What a network says of images, at one size or several, and how right it is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Config, Evaluation
from fastpixcon.training.data import IGNORE, DataSet
from fastpixcon.training.data.loading import val_loader, worker_count
from fastpixcon.training.models import ContrastNetwork
from fastpixcon.training.near import or_near
from fastpixcon.training.processes import Processes

Batch = tuple[Tensor, Tensor, Tensor]  # images [B, 3, H, W], labels [B, H, W], logits [B, K, H, W]


def upsample(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, K, h, w] -> [B, K, *size], in float32."""
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


def logits_of(model: ContrastNetwork, images: Tensor, how: Evaluation) -> Tensor:
    """[B, 3, H, W] -> [B, K, H, W]; of several views the logarithm of their mean probability."""
    size = tuple(images.shape[-2:])
    views = [(scale, flipped) for scale in how.scales for flipped in ((False, True) if how.flip else (False,))]
    if views == [(1.0, False)]:
        return upsample(model(images)["logits"], size)
    total: Tensor | None = None
    for scale, flipped in views:
        view = images.flip(-1) if flipped else images
        if scale != 1:
            scaled = [max(round(side * scale / model.padding), 1) * model.padding for side in size]
            view = F.interpolate(view, scaled, mode="bilinear", align_corners=False)
        probabilities = upsample(model(view)["logits"], size).softmax(1)
        probabilities = probabilities.flip(-1) if flipped else probabilities
        total = probabilities if total is None else total + probabilities
    assert total is not None
    return (total / len(views)).clamp(min=1e-12).log()


def class_groups(how: Evaluation, classes: Sequence[str]) -> dict[str, list[int]]:
    """Ids of the classes of every group of ``how``; raises ``TrainingError`` for names that are not in ``classes``."""
    for name, members in how.groups.items():
        key = f"evaluation.groups.{name}"
        if unknown := [member for member in members if member not in classes]:
            wanted = or_near(unknown[0], classes, f"classes of the data, of {', '.join(classes)}")
            raise TrainingError(f"{key}: got {', '.join(unknown)}, no class of the data, want {wanted}")
        if len(set(members)) < len(members):
            raise TrainingError(f"{key}: got {', '.join(members)}, want each class once")
    return {name: [list(classes).index(member) for member in members] for name, members in how.groups.items()}


def evaluation_batch(config: Config, processes: Processes) -> int:
    """Images of val that a process takes at a time."""
    return max(config.schedule.batch // processes.size, 1)


@torch.no_grad()
def predict(
    model: ContrastNetwork, data: DataSet, config: Config, device: torch.device, processes: Processes | None = None
) -> Iterator[Batch]:
    """Batches of val in its order; of several processes each takes its share."""
    model.eval()
    processes = processes or Processes()
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    batch = evaluation_batch(config, processes)
    share = (processes.rank, processes.size)
    workers = worker_count(config.data.workers, device)
    for images, labels in val_loader(data.val, batch, workers, *share, multiple=model.padding):
        images = images.to(device, memory_format=layout)
        with torch.autocast(device.type, precision, enabled=precision is not None):
            logits = logits_of(model, images, config.evaluation)
        yield images, labels.to(device), logits


def counted(batches: Iterator[Batch], seen: Callable[[int], object]) -> Iterator[Batch]:
    """The same; ``seen`` is called with the images of each before it is given."""
    for batch in batches:
        seen(len(batch[0]))
        yield batch


def evaluate(
    batches: Iterator[Batch],
    classes: int,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any] | None:
    """Counts of true against predicted class over all ``processes``, and what follows from them; None if ``stop`` said
    so.

    miou: the mean IoU of the classes that occur in labels or predictions; groups: of those that do of every one of
    ``groups`` (ids by name, of ``class_groups``); iou [K] (None of those that do not); accuracy: of pixels; confusion
    [K, K]: rows are true classes; not_finite: pixels whose logits are not, which are of no class. Without a labelled
    pixel, miou and accuracy are NaN, and so is a group of which nothing occurs.
    """
    counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    not_finite = torch.zeros((), dtype=torch.int64, device=device)
    for _, labels, logits in batches:
        if stop():
            return None
        taken = labels != IGNORE
        pairs = labels[taken].long() * classes + logits.argmax(1)[taken]
        counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        not_finite += (~logits.isfinite()).any(1).sum()
    processes = processes or Processes()
    not_finite = processes.sum(not_finite)
    confusion = processes.sum(counts).double().cpu()  # [K, K]
    hits = confusion.diagonal()
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)  # [K]
    return {
        "miou": float(iou.nanmean()),
        "groups": {name: float(iou[list(ids)].nanmean()) for name, ids in (groups or {}).items()},
        "iou": [None if v.isnan() else float(v) for v in iou],
        "accuracy": float(hits.sum() / confusion.sum()),
        "confusion": confusion.long().tolist(),
        "not_finite": int(not_finite),
    }
