"""Training of one arm: from the seed, or from its checkpoint, to the end or to an interruption."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import JaccardIndex, MetricCollection

from fastpixcon import PixelContrastLoss
from fastpixcon.training import checkpoint
from fastpixcon.training.config import Config, Schedule
from fastpixcon.training.data import IGNORE, DataSet
from fastpixcon.training.data.loading import EpochOrder, TrainSet, augmentation, train_loader, val_loader
from fastpixcon.training.interrupt import Interrupted
from fastpixcon.training.metering import Meter
from fastpixcon.training.models import ContrastNetwork, build_model


@dataclass
class History:
    """What an arm did, one entry per iteration or per evaluation."""

    cross_entropy: list[float] = field(default_factory=list)
    contrast: list[float | None] = field(default_factory=list)  # None: not computed, during the warm-up or at all
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # iteration, miou, iou [K]
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0


@dataclass
class Runtime:
    """Where and how an arm runs; nothing of it is saved."""

    device: torch.device
    bf16: bool
    stop_requested: Callable[[], bool]
    on_iteration: Callable[[int, History], None]  # iterations done
    on_evaluation: Callable[[int, int, History], None]  # epoch, epochs

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


class Arm:
    """A network, its optimizer, its losses and how far they are; ``run`` takes them to the end.

    Both arms start from the same weights and see the same images in the same order; they differ in one loss line.
    """

    def __init__(self, config: Config, name: str, data: DataSet, folder: Path, runtime: Runtime) -> None:
        self.config, self.name, self.data, self.folder, self.runtime = config, name, data, folder, runtime
        schedule = config.schedule
        self.epoch_length = len(data.train) // schedule.batch  # iterations
        self.iterations = schedule.epochs * self.epoch_length
        checkpoint.seed_all(config.seed)
        self.model: ContrastNetwork = build_model(config.model, len(data.classes))
        self.model.to(runtime.device).to(memory_format=torch.channels_last)
        self.contrast = self._contrast_loss() if name == "ce+contrast" else None
        self.optimizer = make_optimizer(self.model, schedule)
        self.meter = Meter(runtime.device)
        self.history = History()
        self.done = 0  # iterations
        self.evaluated = 0  # epochs
        if self.checkpoint_path.exists():
            self._restore()

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def finished(self) -> bool:
        return self.done == self.iterations and self.evaluated == self.config.schedule.epochs

    def run(self) -> None:
        """Train to the end. Raises ``Interrupted``, with a checkpoint written, if that was requested."""
        self.folder.mkdir(exist_ok=True)
        while not self.finished:
            if self.done < (self.evaluated + 1) * self.epoch_length:
                self._train_epoch()
            self._evaluate_epoch()
            self.save()
        weights = self.model.plain_state_dict()
        checkpoint.save(self.folder / "model.pt", {k: v.cpu().contiguous() for k, v in weights.items()})

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "contrast": self.contrast.state_dict() if self.contrast else None,
            "random": checkpoint.random_state(),
            "threads": torch.get_num_threads(),
            "done": self.done,
            "evaluated": self.evaluated,
            "history": asdict(self.history),
            "meter": self.meter.state(),
        }
        checkpoint.save(self.checkpoint_path, state)

    def _restore(self) -> None:
        state = checkpoint.load(self.checkpoint_path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.contrast:
            self.contrast.load_state_dict(state["contrast"])
        self.done, self.evaluated = state["done"], state["evaluated"]
        self.history = History(**state["history"])
        self.meter.load_state(state["meter"])
        torch.set_num_threads(state["threads"])  # sums over threads depend on their number
        checkpoint.restore_random_state(state["random"])

    def _train_epoch(self) -> None:
        started, losses = time.perf_counter(), _Losses()
        epoch, start = divmod(self.done, self.epoch_length)
        config = self.config
        train = TrainSet(self.data.train, augmentation(config.data.augmentation), config.seed)
        order = EpochOrder(len(self.data.train), config.schedule.batch, config.seed, epoch, start)
        self.model.train()
        try:
            for images, labels in train_loader(train, order, config.data.workers):
                self._step(images, labels, losses)
                self.done += 1
                losses.read_into(self.history, lazily=self.runtime.device.type == "cuda")
                self.runtime.on_iteration(self.done, self.history)
                if self.runtime.stop_requested():
                    break
        finally:
            losses.read_into(self.history)
            self.history.train_seconds += time.perf_counter() - started
        self._stop_if_requested()

    def _step(self, images: Tensor, labels: Tensor, losses: "_Losses") -> None:
        runtime, schedule = self.runtime, self.config.schedule
        images = images.to(runtime.device, memory_format=torch.channels_last, non_blocking=True)  # [B, 3, H, W]
        labels = labels.to(runtime.device, non_blocking=True)  # [B, H, W]
        set_rate(self.optimizer, rate_factor(self.done, self.iterations, schedule))
        with runtime.autocast():
            outputs = self.model(images)
        # The losses see detached outputs: their forward and backward are measured apart from the network's.
        logits = outputs["logits"].detach().requires_grad_()  # [B, K, h, w]
        embeddings = outputs["embeddings"].detach().requires_grad_()  # [B, D, h, w]
        weight = self._contrast_weight()
        # Memory is measured once an epoch, in its last iteration: it is past the warm-up first of all.
        memory = (self.done + 1) % self.epoch_length == 0
        with self.meter.part("cross_entropy", memory):
            cross_entropy = segmentation_loss(logits, labels)
            cross_entropy.backward()
        contrast = None
        if self.contrast and weight:
            with self.meter.part("contrast", memory):
                contrast = self.contrast(embeddings, labels, logits.detach())
                (weight * contrast).backward()
        heads = [(outputs["logits"], logits.grad), (outputs["embeddings"], embeddings.grad)]
        used = [(output, grad) for output, grad in heads if grad is not None]
        torch.autograd.backward([output for output, _ in used], [grad for _, grad in used])
        if schedule.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        losses.append(cross_entropy, contrast)

    def _contrast_weight(self) -> float:
        """Zero during the warm-up, then a ramp as long as it, then the full weight."""
        contrast = self.config.contrast
        if self.done < contrast.warmup:
            return 0.0
        ramp = (self.done - contrast.warmup + 1) / contrast.warmup if contrast.warmup else 1.0
        return contrast.weight * min(ramp, 1.0)

    def _evaluate_epoch(self) -> None:
        schedule = self.config.schedule
        epoch = self.evaluated + 1
        if epoch % schedule.evaluate_every == 0 or epoch == schedule.epochs:
            started = time.perf_counter()
            iou = self._evaluate()
            if iou is None:
                self._stop_if_requested()
            else:
                miou, per_class = iou
                self.history.evaluations.append({"iteration": self.done, "miou": miou, "iou": per_class})
                self.history.evaluate_seconds += time.perf_counter() - started
                self.evaluated = epoch
                self.runtime.on_evaluation(epoch, schedule.epochs, self.history)
        else:
            self.evaluated = epoch

    def _evaluate(self) -> tuple[float, list[float]] | None:
        """mIoU and IoU [K] on val; None if a stop was requested before the end."""
        classes = len(self.data.classes)
        settings: dict[str, Any] = {"task": "multiclass", "num_classes": classes, "ignore_index": IGNORE}
        metrics = MetricCollection(
            {"miou": JaccardIndex(**settings), "iou": JaccardIndex(**settings, average=None)}, compute_groups=True
        ).to(self.runtime.device)
        for _, labels, logits in self.predict_val():
            if self.runtime.stop_requested():
                return None
            metrics.update(logits.argmax(1), labels)
        result = metrics.compute()
        return float(result["miou"]), [float(v) for v in result["iou"]]

    @torch.no_grad()
    def predict_val(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of val: images [B, 3, H, W], labels [B, H, W], logits [B, K, H, W]."""
        self.model.eval()
        device = self.runtime.device
        for images, labels in val_loader(self.data.val, self.config.schedule.batch, self.config.data.workers):
            images = images.to(device, memory_format=torch.channels_last)
            with self.runtime.autocast():
                logits = self.model(images)["logits"]
            yield images, labels.to(device), upsample(logits, labels)

    def _stop_if_requested(self) -> None:
        if self.runtime.stop_requested():
            self.save()
            raise Interrupted

    def _contrast_loss(self) -> PixelContrastLoss:
        contrast = self.config.contrast
        return PixelContrastLoss(
            temperature=contrast.temperature,
            base_temperature=contrast.base_temperature,
            max_samples=contrast.max_samples,
            max_views=contrast.max_views,
            ignore_index=IGNORE,
        ).to(self.runtime.device)


class _Losses:
    """Losses of the last iterations, still on the device."""

    def __init__(self) -> None:
        self.pending: list[tuple[Tensor, Tensor | None]] = []

    def append(self, cross_entropy: Tensor, contrast: Tensor | None) -> None:
        self.pending.append((cross_entropy.detach(), None if contrast is None else contrast.detach()))

    def read_into(self, history: History, lazily: bool = False) -> None:
        """Reading waits for the device: ``lazily`` does so every 20 iterations only."""
        if lazily and len(self.pending) < 20:
            return
        for cross_entropy, contrast in self.pending:
            history.cross_entropy.append(float(cross_entropy))
            history.contrast.append(None if contrast is None else float(contrast))
        self.pending.clear()


def upsample(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, K, h, w] -> [B, K, H, W], the size of the labels, in float32."""
    return F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per labelled pixel; 0 if there is none."""
    total = F.cross_entropy(upsample(logits, labels), labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def make_optimizer(model: ContrastNetwork, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW; the encoder slower, vectors (biases, batch norm) without weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = schedule.encoder_rate if name.startswith("encoder.") else 1.0
        decay = schedule.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "full_rate": schedule.learning_rate * factor}
            for (factor, decay), parameters in groups.items()
        ],
        lr=schedule.learning_rate,
    )


def rate_factor(done: int, iterations: int, schedule: Schedule) -> float:
    """Factor on the learning rate: linear warm-up, times polynomial decay to 0."""
    warmup = min((done + 1) / (schedule.warmup + 1), 1.0)
    return float(warmup * (1 - done / iterations) ** schedule.power)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * factor
