"""The optimizer, its learning rate over time, and the mean of the weights."""

from dataclasses import dataclass

import torch
from torch import nn

from fastpixcon.training.config import Schedule


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW or SGD; the encoder slower. Without weight decay are vectors (biases, norms) and what timm's networks say
    of theirs: embeddings of positions, class and register tokens."""
    spared = {
        f"{name}.{own}" for name, module in model.named_modules() for own in getattr(module, "no_weight_decay", set)()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = schedule.encoder_rate if name.startswith("encoder.") else 1.0
        decay = schedule.weight_decay if parameter.ndim > 1 and name not in spared else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    parameters = [
        {"params": parameters, "weight_decay": decay, "full_rate": schedule.learning_rate * factor}
        for (factor, decay), parameters in groups.items()
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=schedule.learning_rate, momentum=schedule.momentum)
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    return torch.optim.AdamW(parameters, lr=schedule.learning_rate, fused=on_gpu or None)


@dataclass(frozen=True)
class Length:
    """Of a training; the last epoch may be cut short."""

    epoch: int  # iterations
    iterations: int
    epochs: int

    @staticmethod
    def of(schedule: Schedule, images: int) -> "Length":
        """``images``: of the training split."""
        epoch = images // schedule.batch
        if schedule.iterations is not None:
            return Length(epoch, schedule.iterations, -(-schedule.iterations // epoch))
        epochs = schedule.epochs or 1
        return Length(epoch, epochs * epoch, epochs)


def rate_factor(done: int, iterations: int, schedule: Schedule) -> float:
    """Factor on the learning rate: linear warm-up, times polynomial decay to 0 at the end of all iterations: those that
    were planned when iteration ``done`` came, if the run was made longer or shorter since."""
    total = next((planned for until, planned in schedule.earlier if done < until), iterations)
    warmup = min((done + 1) / (schedule.warmup + 1), 1.0)
    return float(warmup * (1 - done / total) ** schedule.power)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * factor


def mean_weights(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel | None:
    """Exponential mean of weights and buffers; None if ``decay`` is 0."""
    if not decay:
        return None
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
