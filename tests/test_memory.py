"""The memory bank as a user has it."""

import copy
import io
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend

import fastpixcon as fpc


def batch(B: int = 2, D: int = 16, h: int = 9, w: int = 10, K: int = 4, seed: int = 0) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(B, D, h, w, generator=generator)
    labels = torch.randint(K, (B, 2 * h, 2 * w), generator=generator)
    labels[:, 0] = 255
    logits = torch.randn(B, K, h, w, generator=generator)
    return embeddings, labels, logits


def loss_with_memory(dtype: torch.dtype = torch.float32, **how: Any) -> fpc.PixelContrastLoss:
    memory = fpc.MemoryBank(4, 16, pixel_size=20, region_size=5, pixels_per_image=3, dtype=dtype)
    return fpc.PixelContrastLoss(memory=memory, max_views=5, max_samples=60, **how)


def test_a_training_step_adds_its_batch_after_the_loss(complete_backend: Backend) -> None:
    loss = loss_with_memory().to(complete_backend.device)
    arguments = [x.to(complete_backend.device) for x in batch()]
    torch.manual_seed(0)
    first = loss(*arguments)
    assert loss.memory is not None
    assert not loss.memory.written.any()  # until the next call begins
    without = fpc.PixelContrastLoss(max_views=5, max_samples=60).to(complete_backend.device)
    torch.manual_seed(0)
    torch.testing.assert_close(first, without(*arguments), rtol=1e-5, atol=1e-5)  # the bank was empty
    torch.manual_seed(0)
    assert not torch.allclose(loss(*arguments), first, rtol=1e-3)
    assert loss.memory.written.tolist() == [[6] * 4, [2] * 4]
    loss.memory.flush()
    assert loss.memory.written.tolist() == [[12] * 4, [4] * 4]
    loss.memory.flush()  # nothing waits any more
    assert loss.memory.written.tolist() == [[12] * 4, [4] * 4]


@pytest.mark.parametrize("mining", [None, fpc.Mining(keep=(2, 5), fraction=0.5)], ids=["all", "mined"])
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float32)],
    ids=["bfloat16-float32", "float32-bfloat16", "float16-float32"],
)
def test_a_batch_may_have_another_dtype_than_the_bank(
    dtype: torch.dtype, stored: torch.dtype, mining: Any, complete_backend: Backend
) -> None:
    """As under autocast."""
    values = []
    for rows, bank in ((torch.float32, torch.float32), (dtype, stored)):
        torch.manual_seed(0)
        loss = loss_with_memory(bank, mining=mining).to(complete_backend.device)
        for seed in range(2):  # the first fills the bank
            embeddings, *others = (x.to(complete_backend.device) for x in batch(seed=seed))
            embeddings = embeddings.to(rows).requires_grad_()
            value = loss(embeddings, *others)
        (gradient,) = torch.autograd.grad(value, embeddings)
        assert gradient.dtype == rows
        assert gradient.isfinite().all()
        values.append(value.detach().float())
    torch.testing.assert_close(values[1], values[0], rtol=0.03, atol=0)


def test_evaluation_leaves_the_bank_alone(complete_backend: Backend) -> None:
    loss = loss_with_memory().to(complete_backend.device).eval()
    loss(*[x.to(complete_backend.device) for x in batch()])
    assert loss.memory is not None
    loss.memory.flush()
    assert not loss.memory.written.any()
    loss.train()(*[x.to(complete_backend.device) for x in batch()])
    loss.eval()(*[x.to(complete_backend.device) for x in batch()])  # what the training left goes in before
    assert loss.memory.written[1].tolist() == [2] * 4


def test_state_dict_round_trip_goes_on_as_before(complete_backend: Backend) -> None:
    loss = loss_with_memory(mining=fpc.Mining(keep=(2, 5), fraction=0.5)).to(complete_backend.device)
    for seed in range(3):
        loss(*[x.to(complete_backend.device) for x in batch(seed=seed)])
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other = loss_with_memory(mining=fpc.Mining(keep=(2, 5), fraction=0.5)).to(complete_backend.device)
    other.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(3, 6):
        arguments = [x.to(complete_backend.device) for x in batch(seed=seed)]
        losses = []
        for module in (loss, other):
            torch.manual_seed(seed)
            losses.append(module(*arguments))
        assert torch.equal(*losses)
    for name, value in loss.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize(
    "sizes", [(5, 16, 20, 5), (4, 8, 20, 5), (4, 16, 21, 5), (4, 16, 19, 6)], ids=["classes", "dim", "places", "rings"]
)
def test_a_bank_of_another_size_is_refused(sizes: tuple[int, ...]) -> None:
    saved = fpc.MemoryBank(*sizes).state_dict()
    bank = fpc.MemoryBank(4, 16, 20, 5)
    before = copy.deepcopy(bank.state_dict())
    with pytest.raises((ValueError, RuntimeError), match="can't be resized"):
        bank.load_state_dict(saved)
    assert torch.equal(bank.rows, before["rows"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("contrast_with", ["both", "memory", "batch", "each"])
def test_it_trains(dtype: torch.dtype, contrast_with: str, complete_backend: Backend) -> None:
    """The loss of a map that is moved against its gradient goes down."""
    loss = loss_with_memory(contrast_with=contrast_with).to(complete_backend.device)
    assert loss.memory is not None
    loss.memory.rows = loss.memory.rows.to(dtype)
    embeddings, labels, logits = [x.to(complete_backend.device) for x in batch()]
    embeddings.requires_grad_()
    values = []
    for _ in range(12):
        value = loss(embeddings, labels, logits)
        values.append(float(value.detach()))
        (gradient,) = torch.autograd.grad(value, embeddings)
        assert gradient.isfinite().all()
        with torch.no_grad():
            embeddings -= 20 * gradient
    assert sum(values[-3:]) < sum(values[2:5]) or contrast_with == "memory"


def test_an_empty_memory_alone_is_no_loss(complete_backend: Backend) -> None:
    loss = loss_with_memory(contrast_with="memory").to(complete_backend.device)
    embeddings, labels, logits = [x.to(complete_backend.device) for x in batch()]
    value = loss(embeddings.requires_grad_(), labels, logits)
    value.backward()
    assert float(value.detach()) == 0
    assert not embeddings.grad.any()


def test_defaults_are_the_papers() -> None:
    bank = fpc.MemoryBank(19, 256)
    assert bank.rows.shape == (19, 10000, 256)
    assert (bank.labels == -1).all()
    assert bank.pixels_per_image == 10
    mining = fpc.Mining()
    assert (mining.negatives, mining.positives) == ("semi-hard", "semi-hard")
    assert (mining.fraction, mining.keep) == (0.1, (1024, 2048))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fpc.MemoryBank(0, 16), "num_classes: got 0"),
        (lambda: fpc.MemoryBank(4, 16, pixel_size=2.5), "pixel_size: got 2.5"),
        (lambda: fpc.MemoryBank(4, 16, dtype=torch.int32), "dtype: got torch.int32"),
        (lambda: fpc.MemoryBank(4, 8, 3, 3).enqueue(*batch()[:2]), "embeddings: got 16 features, want 8"),
        (lambda: fpc.MemoryBank(4, 16, 3, 3).enqueue(batch()[0], batch()[1][:1]), "labels: got 1 images, want 2"),
        (lambda: fpc.MemoryBank(2, 16, 3, 3).enqueue(*batch()[:2]), "labels: got label"),
        (lambda: fpc.Mining(negatives="hard"), "negatives: got 'hard', want one of"),
        (lambda: fpc.Mining(fraction=0), "fraction: got 0"),
        (lambda: fpc.Mining(fraction="all"), "fraction: got 'all'"),
        (lambda: fpc.Mining(keep=(1, 0)), "keep: got 0"),
        (lambda: fpc.Mining(keep=5), "keep: got 5"),
        (lambda: fpc.PixelContrastLoss(memory=torch.zeros(3)), "memory: got tensor"),
        (lambda: fpc.PixelContrastLoss(mining="hardest"), "mining: got 'hardest'"),
        (
            lambda: fpc.PixelContrastLoss(memory=fpc.MemoryBank(4, 16, 3, 3), ignore_index=0),
            "memory: got ignore_index 255, want 0",
        ),
        (lambda: fpc.PixelContrastLoss(contrast_with="memory"), "contrast_with: got 'memory' without a memory"),
        (lambda: fpc.PixelContrastLoss(contrast_with="each"), "contrast_with: got 'each' without a memory"),
        (
            lambda: fpc.functional.info_nce(torch.zeros(3, 8), torch.zeros(3).int(), contrast_with="memory"),
            "contrast_with: got 'memory' without a memory",
        ),
        (
            lambda: fpc.functional.info_nce(
                torch.zeros(3, 8), torch.zeros(3).int(), memory=fpc.MemoryBank(4, 16, 3, 3)
            ),
            "memory: got rows of 16 features, want 8",
        ),
        (
            lambda: fpc.functional.info_nce(
                torch.zeros(3, 8), torch.zeros(3).int(), mining=fpc.Mining(), normalize=False
            ),
            "normalize: got False",
        ),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(")):
        call()


def test_a_bank_takes_no_row_without_direction(complete_backend: Backend) -> None:
    """Of pixels of zeros no row, of pixels that cancel no region: a row of zeros is as near to one anchor as to any."""
    device = complete_backend.device
    memory = fpc.MemoryBank(2, 3, pixel_size=8, region_size=4, pixels_per_image=8).to(device)
    embeddings = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.tensor([[[0, 0], [1, 1]]] * 2, device=device)
    embeddings[0, :, 0, 1] = -2 * embeddings[0, :, 0, 0]  # class 0 of image 0 cancels
    embeddings[1, :, 1] = 0  # class 1 of image 1
    memory.enqueue(embeddings, labels)
    assert memory.written.tolist() == [[4, 2], [1, 1]]
    filled = memory.labels >= 0
    torch.testing.assert_close(memory.rows[filled].norm(dim=1), torch.ones(8, device=device))
