import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_run import python

from fastpixcon.training import TrainingError, config, job
from fastpixcon.training.criteria import contrast_weight, labelled, segmentation_loss, weights_of
from fastpixcon.training.job import pick_precision, precision_of_trained
from fastpixcon.training.models import build_model
from fastpixcon.training.optimisation import make_optimizer, rate_factor, set_rate

# In a fresh process, as the readings are of the whole process.
MEASURED = """
import time, torch
from fastpixcon.training.metering import Meter, keep_freed_memory
keep_freed_memory()
meter = Meter(torch.device("cpu"))
torch.ones(2**24)  # 64 MiB that are free again: they must not hide what follows
for memory in (True, False, False):
    with meter.part("loss", memory):
        kept = [torch.ones(2**23), torch.ones(2**21).sum()]  # 32 MiB, and 8 MiB for a moment
        time.sleep(0.05)
reading = meter.state()["loss"]
print(reading["calls"], reading["seconds"], reading["peak_bytes"] / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory of the process is measured on Linux only")
def test_meter_sees_the_peak_and_only_times_the_other_calls() -> None:
    calls, seconds, peak = python(MEASURED).stdout.split()
    assert int(calls) == 2
    assert 0.1 <= float(seconds) < 5
    assert 40 <= float(peak) < 46


def test_schedule_warms_up_and_decays_to_nothing() -> None:
    schedule = replace(config.load("digits").schedule, warmup=9, power=1.0)
    factors = [rate_factor(done, 100, schedule) for done in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(0.91)
    assert factors[99] == pytest.approx(0.01)


def test_optimizer_holds_every_parameter_once_with_its_rate_and_decay() -> None:
    settings = config.load("digits")
    schedule = replace(settings.schedule, learning_rate=0.1, encoder_rate=0.5, weight_decay=0.01)
    model = build_model(replace(settings.model, pretrained=False, decoder_channels=16), 11)
    optimizer = make_optimizer(model, schedule)
    set_rate(optimizer, 0.5)
    held = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(held) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group = held[id(parameter)]
        assert group["lr"] == pytest.approx(0.025 if name.startswith("encoder.") else 0.05)
        assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0)


def test_segmentation_loss_is_the_mean_over_labelled_pixels() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[0, :5] = 255
    up = F.interpolate(logits, (8, 8), mode="bilinear")
    torch.testing.assert_close(segmentation_loss(logits, labels), F.cross_entropy(up, labels, ignore_index=255))


def test_class_weights_are_those_of_cross_entropy() -> None:
    logits, labels, weights = torch.randn(4, 3, 4, 4), torch.randint(0, 3, (4, 8, 8)), torch.tensor([0.1, 2.0, 30.0])
    labels[0] = 255
    up = F.interpolate(logits, (8, 8), mode="bilinear")
    expected = F.cross_entropy(up, labels, weights, ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, labels, None, weights), expected)
    counted = labelled(labels, weights)
    parts = [segmentation_loss(*x, counted, weights) for x in zip(logits.chunk(2), labels.chunk(2), strict=True)]
    torch.testing.assert_close(parts[0] + parts[1], expected)
    assert segmentation_loss(logits[:1], labels[:1], None, weights) == 0


def test_class_weights_are_as_many_as_classes() -> None:
    three = replace(config.load("digits"), class_weights=(1.0, 2.0, 3.0))
    with pytest.raises(TrainingError, match="class_weights: got 3 numbers, want one for each of 11"):
        weights_of(three, 11, torch.device("cpu"))


def test_segmentation_loss_without_labels_is_zero() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 8, 8), 255))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_segmentation_loss_of_parts_adds_up_to_that_of_the_batch() -> None:
    logits, labels = torch.randn(4, 3, 4, 4), torch.randint(0, 3, (4, 8, 8))
    labels[0] = 255
    labels[1, :3] = 255
    counted = (labels != 255).sum()
    parts = [segmentation_loss(x, y, counted) for x, y in zip(logits.chunk(2), labels.chunk(2), strict=True)]
    torch.testing.assert_close(parts[0] + parts[1], segmentation_loss(logits, labels))


def test_contrast_is_off_then_ramps_up() -> None:
    contrast = replace(config.load("digits").contrast, weight=0.5, warmup=10)
    weights = [contrast_weight(contrast, done) for done in range(30)]
    assert weights[:10] == [0] * 10
    assert weights[10] == pytest.approx(0.05)
    assert weights[19:] == [0.5] * 11


def test_precision_is_as_asked_for() -> None:
    assert pick_precision("bf16", torch.device("cpu")) == "bf16"
    assert pick_precision("fp16", torch.device("cpu")) == "fp16"
    assert pick_precision("fp32", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize("here", ["fp32", "bf16"])
def test_trained_networks_are_evaluated_as_they_were_trained_where_that_is_fast(
    here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "pick_precision", lambda name, device: here if name == "auto" else name)
    names = ("auto", "bf16", "fp16", "fp32")
    on = {kind: [precision_of_trained(name, torch.device(kind)) for name in names] for kind in ("cpu", "cuda")}
    assert on == {"cpu": [here, here, "fp32", "fp32"], "cuda": [here, here, "fp16", "fp32"]}
