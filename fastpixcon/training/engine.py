"""Training of one arm: from the seed, or from its checkpoint, to the end or to an interruption."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from fastpixcon.training import TrainingError, checkpoint
from fastpixcon.training.config import Config, sides_of
from fastpixcon.training.criteria import contrast_loss, contrast_weight, labelled, segmentation_loss, weights_of
from fastpixcon.training.data import DataSet
from fastpixcon.training.data.loading import EpochOrder, TrainSet, augmentation, train_loader, worker_count
from fastpixcon.training.evaluation import Batch, class_groups, evaluate, evaluation_batch, predict
from fastpixcon.training.history import Diverged, History, Losses
from fastpixcon.training.interrupt import Interrupted
from fastpixcon.training.metering import Meter
from fastpixcon.training.models import ContrastNetwork, build_model
from fastpixcon.training.models.reached import freeze_unreached
from fastpixcon.training.models.synchronised import synchronise_norms
from fastpixcon.training.optimisation import Length, make_optimizer, mean_weights, rate_factor, set_rate
from fastpixcon.training.participation import Participation
from fastpixcon.training.processes import Processes
from fastpixcon.training.trained import save_trained

_ASK_EVERY = 10  # iterations between questions to all processes, for whose answer a GPU waits
# fp16: a GradScaler begins at 2^16 and halves at every step that it skips, as it does now and then. Here 26 more were
# skipped than it grew by since: the gradient does not fit into float16 whatever its scale.
_SMALLEST_SCALE = 2.0**-10


@dataclass
class Runtime:
    """Where and how an arm runs; nothing of it is saved."""

    device: torch.device
    precision: str  # fp32, bf16, fp16
    stop_requested: Callable[[], int]  # the signal that did, or 0
    on_iteration: Callable[["Arm"], None]
    on_evaluation: Callable[["Arm"], None]
    on_validation: Callable[["Arm", int, int], None] = lambda arm, done, images: None  # of this process's share of val
    processes: Processes = field(default_factory=Processes)
    say: Callable[[str], None] = print

    def autocast(self) -> AbstractContextManager[Any]:
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32")


class Arm:
    """A network, its optimizer, its losses and how far they are; ``run`` takes them to the end.

    All arms start from the same weights and see the same images in the same order; they differ in one loss line.
    """

    def __init__(self, config: Config, name: str, data: DataSet, folder: Path, runtime: Runtime) -> None:
        self.config, self.name, self.data, self.folder, self.runtime = config, name, data, folder, runtime
        schedule, device = config.schedule, runtime.device
        length = Length.of(schedule, len(data.train))
        self.epoch_length, self.iterations, self.epochs = length.epoch, length.iterations, length.epochs
        checkpoint.seed_all(config.seed)
        self.model: ContrastNetwork = build_model(config.model, len(data.classes))
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model.to(device).to(memory_format=self.layout)
        self.class_weights = weights_of(config, len(data.classes), device)
        self.contrast = contrast_loss(config, name, len(data.classes), device, runtime.processes)
        self.optimizer = make_optimizer(self.model, schedule)
        self.mean = mean_weights(self.model, schedule.ema)
        self.scaler = torch.amp.GradScaler(device.type, enabled=runtime.precision == "fp16")
        self.meter = Meter(device)
        self.history = History()
        self.participation = Participation(runtime.processes)
        self.done = 0  # iterations
        self.evaluated = 0  # epochs
        if runtime.processes.size > 1:
            freeze_unreached(self.model, sides_of(config.data.augmentation))
            synchronise_norms(self.model, device)
            torch.manual_seed(config.seed + runtime.processes.rank)  # of dropout and of anchors
        # Seen by all processes alike: none writes before all are here.
        self.leaves_warm_state = len(config.arms) > 1 and not self.warm_path.exists()
        if self.checkpoint_path.exists():
            self._restore(self.checkpoint_path)
        elif self.warm_path.exists():
            self._restore(self.warm_path)
        self.network = self._network()

    def _network(self) -> nn.Module:
        """The model as it is trained: compiled, and its gradients averaged over processes."""
        network: nn.Module = self.model
        if self.config.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        if self.runtime.processes.size > 1:
            devices = [self.runtime.device] if self.runtime.device.type == "cuda" else None
            network = nn.parallel.DistributedDataParallel(network, device_ids=devices)
        return network

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def warm_path(self) -> Path:
        """Until the warm-up of the contrast is over all arms are one: the first to get there leaves its state to the
        others."""
        return self.folder.parent / "warm.pt"

    @property
    def finished(self) -> bool:
        return self.done == self.iterations and self.evaluated == self.epochs

    @property
    def evaluated_model(self) -> ContrastNetwork:
        """The mean of the weights, where there is one."""
        return cast(ContrastNetwork, self.mean.module) if self.mean else self.model

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: as requested, with a checkpoint written.
            Diverged: the checkpoint written before is kept.
        """
        self.folder.mkdir(exist_ok=True)
        while not self.finished:
            if self.done < min((self.evaluated + 1) * self.epoch_length, self.iterations):
                self._train_epoch()
            self._evaluate_epoch()
            self.save()
        if self.runtime.processes.is_first:
            last = self.history.evaluations[-1]
            save_trained(self.folder / "model.pt", self.config, self.name, self.data, self.evaluated_model, last)

    def save(self, path: Path | None = None) -> None:
        processes = self.runtime.processes
        if processes.any(not self._is_finite(), self.runtime.device):
            raise Diverged(self.done, "a weight or the state of the optimizer is not finite")
        random = processes.from_all(checkpoint.random_state())
        if not processes.is_first:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "mean": self.mean.state_dict() if self.mean else None,
            "contrast": self.contrast.state_dict() if self.contrast else None,
            "random": random,  # of every process
            "threads": torch.get_num_threads(),
            "device": self.runtime.device.type,
            "images": len(self.data.train),
            "done": self.done,
            "evaluated": self.evaluated,
            "history": asdict(self.history),
            "meter": self.meter.state(),
        }
        checkpoint.save(path or self.checkpoint_path, state)

    def _is_finite(self) -> bool:
        """What a checkpoint has is worth going on from."""
        states = [self.model.state_dict(), *self.optimizer.state_dict()["state"].values()]
        states += [self.mean.state_dict()] if self.mean else []
        floats = [v for state in states for v in state.values() if isinstance(v, Tensor) and v.is_floating_point()]
        return bool(torch.stack([v.isfinite().all().to(self.runtime.device) for v in floats]).all())

    def _restore(self, path: Path) -> None:
        state = checkpoint.load(path)
        try:
            self._restore_from(state, path)
        except TrainingError:
            raise
        except Exception as error:  # what does not fit shows in many ways
            raise TrainingError(
                f"{path}: not of this config, of {self.config.model.name} with {len(self.data.classes)} classes, or of"
                f" another version of this program: {type(error).__name__}: {error}"
            ) from error

    def _restore_from(self, state: dict[str, Any], path: Path) -> None:
        processes = self.runtime.processes
        if len(state["random"]) != processes.size:
            raise TrainingError(
                f"{path}: written by {len(state['random'])} processes, want as many to go on, got {processes.size}"
            )
        images = state.get("images", len(self.data.train))
        if images != len(self.data.train):
            raise TrainingError(
                f"data.root: got {len(self.data.train)} images to train, want the {images} that {path} was trained on"
            )
        self.model.load_state_dict(state["model"])
        for group, ours in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            group["fused"] = ours["fused"]  # of this device; where the state lies follows from it
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:  # there is none in other precisions
            self.scaler.load_state_dict(state["scaler"])
        if self.mean:
            self.mean.load_state_dict(state["mean"])
        if self.contrast and path != self.warm_path:
            self.contrast.load_state_dict(state["contrast"])
        self.done, self.evaluated = int(state["done"]), int(state["evaluated"])
        if self.done < self.iterations:  # an epoch that was the last and cut short is one to finish now
            self.evaluated = min(self.evaluated, self.done // self.epoch_length)
        self.history = History(**state["history"])
        if state.get("device", self.runtime.device.type) == self.runtime.device.type:
            self.meter.load_state(state["meter"])  # times of another device are of no use
        torch.set_num_threads(state["threads"])  # sums over threads depend on their number
        checkpoint.restore_random_state(state["random"][processes.rank])

    def _train_epoch(self) -> None:
        started, losses = time.perf_counter(), Losses(self.runtime.processes)
        epoch, start = divmod(self.done, self.epoch_length)
        config, processes = self.config, self.runtime.processes
        train = TrainSet(self.data.train, augmentation(config.data.augmentation), config.seed)
        share = (processes.rank, processes.size)
        order = EpochOrder(len(self.data.train), config.schedule.batch, config.seed, epoch, start, share)
        on_gpu = self.runtime.device.type == "cuda"
        self.network.train()
        stop = 0
        workers = worker_count(config.data.workers, self.runtime.device)
        for images, labels in train_loader(train, order, workers, pinned=on_gpu):
            self._step(images, labels, losses)
            self.done += 1
            self._read(losses, lazily=on_gpu)
            self.runtime.on_iteration(self)
            if self.done == config.contrast.warmup and self.leaves_warm_state:
                self._read(losses)
                self.save(self.warm_path)
            if not on_gpu or self.done % _ASK_EVERY == 0:
                stop = processes.largest(self.runtime.stop_requested(), self.runtime.device)
            if stop or self.done == self.iterations:
                break
        self._read(losses)
        self.history.train_seconds += time.perf_counter() - started
        if stop:
            self._stop(stop)

    def _read(self, losses: Losses, lazily: bool = False) -> None:
        """Losses into the history; raises ``Diverged`` where it is time to."""
        known = len(self.history.cross_entropy)
        if not losses.read_into(self.history, lazily):
            return
        self.participation.read_into(self.history.contrasted, (self.done - 1) // self.epoch_length + 1)
        self._say_what_takes_no_part()
        if not self.scaler.is_enabled():
            self.history.check_finite(known)
        elif self.scaler.get_scale() < _SMALLEST_SCALE:  # it leaves out steps whose loss is not finite
            raise Diverged(
                self.done, f"step after step left out in fp16, the scale is down to {self.scaler.get_scale():g}"
            )

    def _say_what_takes_no_part(self) -> None:
        """Once, after as many calls of the contrast as an epoch has, or at the end."""
        schedule, history = self.config.schedule, self.history
        wanted = 1 if self.done == self.iterations else self.epoch_length * schedule.accumulate
        if history.said:
            return
        words = self.participation.words(history.contrasted, self.config.contrast, self.data.classes, wanted)
        if words:
            history.said = True
            self.runtime.say(f"{self.name}: {words}")

    def _step(self, images: Tensor, labels: Tensor, losses: Losses) -> None:
        runtime, schedule = self.runtime, self.config.schedule
        images = images.to(runtime.device, memory_format=self.layout, non_blocking=True)  # [B, 3, H, W]
        labels = labels.to(runtime.device, non_blocking=True)  # [B, H, W]
        set_rate(self.optimizer, rate_factor(self.done, self.iterations, schedule))
        # Per labelled pixel of the whole batch, wherever its images are.
        counted = runtime.processes.sum(labelled(labels, self.class_weights)) / runtime.processes.size
        parts = list(zip(images.chunk(schedule.accumulate), labels.chunk(schedule.accumulate), strict=True))
        for i, (part, part_labels) in enumerate(parts):
            with self._gradients_stay(i < len(parts) - 1):
                losses.append(*self._part(part, part_labels, counted, len(parts)))
        self.scaler.unscale_(self.optimizer)
        if schedule.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.mean:
            self.mean.update_parameters(self.model)
        losses.step_done()

    def _gradients_stay(self, yes: bool) -> AbstractContextManager[None]:
        """Within a process, until the last part of the batch."""
        if yes and isinstance(self.network, nn.parallel.DistributedDataParallel):
            context: AbstractContextManager[None] = self.network.no_sync()
            return context
        return nullcontext()

    def _part(self, images: Tensor, labels: Tensor, counted: Tensor, parts: int) -> tuple[Tensor, Tensor | None]:
        """Forward and backward of a part of the batch; its share of the losses."""
        with self.runtime.autocast():
            outputs = self.network(images)
        # The losses see detached outputs: their forward and backward are measured apart from the network's.
        heads = {name: output.detach().requires_grad_() for name, output in outputs.items()}  # [B, ., h, w] each
        # Memory is measured once an epoch, in its last iteration: it is past the warm-up first of all.
        memory = (self.done + 1) % self.epoch_length == 0
        with self.meter.part("cross_entropy", memory):
            how = (labels, counted, self.class_weights)
            cross_entropy = segmentation_loss(heads["logits"], *how)
            total = cross_entropy
            if "auxiliary" in heads:
                total = total + self.config.schedule.auxiliary * segmentation_loss(heads["auxiliary"], *how)
            self.scaler.scale(total).backward()
        contrast = None
        weight = contrast_weight(self.config.contrast, self.done)
        if self.contrast and weight:
            with self.meter.part("contrast", memory):
                contrast = self._contrast(self.contrast, heads["embeddings"], labels, heads["logits"].detach()) / parts
                self.scaler.scale(weight * contrast).backward()
            size = tuple(side // self.config.contrast.pool for side in heads["embeddings"].shape[-2:])
            self.participation.note(self.contrast.last, size)
        if self.runtime.processes.size > 1:  # which wait for the gradient of every parameter
            for head in heads.values():
                head.grad = torch.zeros_like(head) if head.grad is None else head.grad
        used = [name for name, head in heads.items() if head.grad is not None]
        torch.autograd.backward([outputs[name] for name in used], [heads[name].grad for name in used])
        return cross_entropy.detach(), None if contrast is None else contrast.detach()

    def _contrast(self, loss: nn.Module, embeddings: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        pool = self.config.contrast.pool
        if pool > 1:
            embeddings = nn.functional.avg_pool2d(embeddings, pool)  # [B, D, h, w]
        if logits.shape[-2:] != embeddings.shape[-2:]:
            size = embeddings.shape[-2:]
            logits = nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        value: Tensor = loss(embeddings, labels, logits)
        return value

    def _evaluate_epoch(self) -> None:
        epoch = self.evaluated + 1
        if epoch % self.config.schedule.evaluate_every == 0 or epoch == self.epochs:
            started = time.perf_counter()
            processes, device = self.runtime.processes, self.runtime.device
            groups = class_groups(self.config.evaluation, self.data.classes)
            count, stops = len(self.data.classes), self._stops_evaluation()
            found = evaluate(self.predict_val(), count, device, stops, processes, groups)
            if stop := processes.largest(self.runtime.stop_requested(), device):
                self._stop(stop)
            assert found is not None
            if found.pop("not_finite"):
                raise Diverged(self.done, "logits of val are not finite")
            for earlier in self.history.evaluations:
                earlier.pop("confusion", None)
            self.history.evaluations.append({"iteration": self.done, **found})
            self.history.evaluate_seconds += time.perf_counter() - started
            self.evaluated = epoch
            self.runtime.on_evaluation(self)
        else:
            self.evaluated = epoch

    def predict_val(self) -> Iterator[Batch]:
        """This process's share of val, by the weights that are evaluated."""
        return predict(self.evaluated_model, self.data, self.config, self.runtime.device, self.runtime.processes)

    def _stops_evaluation(self) -> Callable[[], bool]:
        """To be asked before every batch. Of several processes none may stop alone, which would leave the others
        waiting: they agree before every batch that all of them have."""
        processes, device = self.runtime.processes, self.runtime.device
        images = len(self.data.val) // processes.size  # of the process that has fewest
        batch = evaluation_batch(self.config, processes)
        common = -(-images // batch)  # batches
        every = _ASK_EVERY if device.type == "cuda" else 1
        numbers = iter(range(common))

        def stops() -> bool:
            number = next(numbers, None)
            if number is None:
                return False
            self.runtime.on_validation(self, min((number + 1) * batch, images), images)
            if number % every:
                return False
            return bool(processes.largest(self.runtime.stop_requested(), device))

        return stops

    def _stop(self, number: int) -> NoReturn:
        self.save()
        # Together, when the first has written it: torchrun ends the others as soon as one has ended.
        raise Interrupted(self.runtime.processes.largest(number, self.runtime.device))
