"""Input that is not finite, or nothing at all, on every backend: docs/faults.md is the table."""

import ast
import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.functional import info_nce, pixel_contrast, select_anchors

ROOT = Path(__file__).resolve().parents[1]
N, M, D, K = 24, 30, 8, 3
BAD = 4  # the row that is not finite
VALUES = pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])


def rows(n: int, seed: int) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def bank(device: str = "cpu") -> fpc.MemoryBank:
    memory = fpc.MemoryBank(K, D, 6, 6).to(device)
    pixels, regions = torch.nn.functional.normalize(rows(12, 7)), torch.zeros(0, D)
    labels = torch.arange(12).int() % K
    memory.enqueue_rows(*(x.to(device) for x in (pixels, labels, regions, labels[:0])))
    return memory


def options_of(sets: str, device: str) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Contrast rows, and what else info_nce is told."""
    if sets == "separate":
        return (rows(M, 1).to(device), torch.arange(M, device=device) % K), {}
    more: dict[str, Any] = {"mining": fpc.Mining("hardest", "hardest", keep=(3, 5))} if sets == "mining" else {}
    return (), more | ({"memory": bank(device)} if sets == "memory" else {})


def gradient(x: Tensor, y: Tensor, *contrast: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Losses of the anchors and the gradient of their sum, on the CPU."""
    x = x.clone().requires_grad_()
    losses = info_nce(x, y, *contrast, reduction="none", **options)
    return losses.detach().cpu(), torch.autograd.grad(losses.sum(), x)[0].cpu()


@VALUES
@pytest.mark.parametrize("sets", ["batch", "separate", "memory", "mining"])
def test_a_row_that_is_not_finite_shows_in_the_loss(value: float, sets: str, complete_backend: Backend) -> None:
    """And in the gradient, and in the same losses as in the reference's."""
    device = complete_backend.device
    x, y = rows(N, 0).to(device), torch.arange(N, device=device) % K
    x[BAD, 2] = value
    contrast, options = options_of(sets, device)
    for denominator, tau in (("negatives", 0.1), ("all", 0.01)):
        options.update(denominator=denominator, temperature=tau)
        losses, d_x = gradient(x, y, *contrast, **options)
        expected = info_nce(x, y, *contrast, reduction="none", backend="reference", **options).cpu()
        assert losses[BAD].isnan()
        assert not d_x[BAD].isfinite().any()
        assert not info_nce(x, y, *contrast, **options).isfinite()
        assert torch.equal(losses.isfinite(), expected.isfinite())
        if sets == "separate":  # then no other anchor has to do with it
            others = torch.arange(N) != BAD
            clean, d_clean = gradient(x[others.to(device)], y[others.to(device)], *contrast, **options)
            torch.testing.assert_close(losses[others], clean, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(d_x[others], d_clean, rtol=1e-4, atol=1e-5)
        else:
            assert not losses.isfinite().any()


@VALUES
@pytest.mark.parametrize("mining", [None, fpc.Mining("hardest", "hardest", keep=(3, 5))], ids=["all", "mined"])
def test_a_contrast_row_that_is_not_finite_shows_in_the_loss(
    value: float, mining: fpc.Mining | None, complete_backend: Backend
) -> None:
    device = complete_backend.device
    x, y = rows(N, 0).to(device), torch.arange(N, device=device) % K
    (c, z), _ = options_of("separate", device)
    c[BAD, 2] = value
    losses, _ = gradient(x, y, c, z, mining=mining)
    assert not losses.isfinite().any()
    z[BAD] = -1  # left out
    losses, d_x = gradient(x, y, c, z, mining=mining)
    assert losses.isfinite().all()
    assert d_x.isfinite().all()


@VALUES
def test_rows_as_they_are_that_are_not_finite_show_in_the_loss(value: float, backend: Backend) -> None:
    """Without normalize."""
    x, y = torch.nn.functional.normalize(rows(N, 0)).to(backend.device), torch.arange(N, device=backend.device) % K
    x[BAD, 2] = value
    for denominator, tau in (("negatives", 0.1), ("all", 0.01)):
        options: dict[str, Any] = {"normalize": False, "denominator": denominator, "temperature": tau}
        losses, _ = gradient(x, y, **options)
        expected = info_nce(x, y, reduction="none", backend="reference", **options).cpu()
        assert torch.equal(losses.isfinite(), expected.isfinite())
        assert not info_nce(x, y, **options).isfinite()


@VALUES
@pytest.mark.parametrize("sets", ["batch", "separate", "memory", "mining"])
def test_a_row_left_out_may_hold_anything(value: float, sets: str, complete_backend: Backend) -> None:
    device = complete_backend.device
    x, y = rows(N, 0).to(device), torch.arange(N, device=device) % K
    y[BAD] = -1
    contrast, options = options_of(sets, device)
    losses, d_x = gradient(x, y, *contrast, **options)
    x[BAD] = value
    spoilt, d_spoilt = gradient(x, y, *contrast, **options)
    assert torch.equal(spoilt, losses)
    assert torch.equal(d_spoilt, d_x)
    assert not d_x[BAD].any()


def maps(device: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "embeddings": torch.randn(2, D, 6, 8, generator=generator).to(device),
        "labels": torch.arange(12).repeat(2, 8, 1).div(4, rounding_mode="floor").to(device),  # stripes of classes
        "predictions": torch.randn(2, K, 6, 8, generator=generator).to(device),
    }


@VALUES
def test_a_pixel_that_is_not_finite_shows_if_it_is_an_anchor(value: float, backend: Backend) -> None:
    """And not if it is ignored."""
    m = maps(backend.device)
    x = m["embeddings"].requires_grad_()
    options: dict[str, Any] = {"max_samples": 96, "max_views": 10}
    index = select_anchors(m["labels"], m["predictions"], **options).index
    drawn = int(index[0])
    with torch.no_grad():
        x.view(2, D, 48)[drawn // 48, 1, drawn % 48] = value
    loss = pixel_contrast(**m, **options)
    assert not loss.isfinite()
    assert not torch.autograd.grad(loss, x)[0].isfinite().all()
    with torch.no_grad():
        x.view(2, D, 48)[drawn // 48, 1, drawn % 48] = 0
        x[0, :, :, 0] = value
    m["labels"][0, :, :2] = 255
    loss = pixel_contrast(**m, **options)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


@VALUES
def test_logits_that_are_not_finite_only_choose_anchors(value: float, backend: Backend) -> None:
    """NaN never wins the argmax, so the loss is finite, and all backends select the same."""
    m = maps(backend.device)
    m["predictions"][0, 1, :3] = value
    m["predictions"][1] = value
    options: dict[str, Any] = {"max_samples": 48, "max_views": 6}
    selected = select_anchors(m["labels"], m["predictions"], **options)
    expected = select_anchors(m["labels"], m["predictions"], backend="reference", **options)
    assert selected.count > 20
    assert all(torch.equal(a, b) for a, b in zip(selected, expected, strict=True))
    x = m["embeddings"].requires_grad_()
    loss = pixel_contrast(**m, **options)
    assert loss > 0
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


@VALUES
def test_a_bank_takes_no_row_that_is_not_finite(value: float, complete_backend: Backend) -> None:
    """A step that overflows is skipped, but a row would stay in the bank for thousands."""
    device = complete_backend.device
    m = maps(device)
    memory = fpc.MemoryBank(K, D, 20, 5).to(device)
    torch.manual_seed(0)
    loss = fpc.PixelContrastLoss(memory=memory, max_samples=96, max_views=10).to(device)
    spoilt = m["embeddings"].clone()
    spoilt[0, 2, :, 0] = value  # a column of class 0
    spoilt[1, 2] = value
    loss(spoilt, m["labels"], m["predictions"])
    memory.flush()
    assert memory.rows.isfinite().all()
    # Of image 0 class 0 has lost the drawn pixels of its column, and its region; image 1 has nothing.
    assert memory.written[1].tolist() == [0, 1, 1]
    assert memory.written[0, 0] < memory.written[0, 1] == memory.written[0, 2] == 10
    assert loss(m["embeddings"], m["labels"], m["predictions"]).isfinite()


@pytest.mark.parametrize("nothing", ["no images", "no pixel of a class"])
def test_nothing_to_learn_from(nothing: str, complete_backend: Backend) -> None:
    """With memory and mining: the loss is 0, has a gradient of the right shape, and the bank stays as it was."""
    device = complete_backend.device
    m = maps(device)
    if nothing == "no images":
        m = {name: x[:0] for name, x in m.items()}
    else:
        m["labels"].fill_(255)
    x = m["embeddings"].requires_grad_()
    memory = bank(device)
    before = copy.deepcopy(memory.rows)
    for options in ({}, {"memory": memory}, {"memory": memory, "mining": fpc.Mining()}):
        loss = fpc.PixelContrastLoss(**options).to(device)(x, m["labels"], m["predictions"])
        assert loss == 0
        (d_x,) = torch.autograd.grad(loss, x)
        assert d_x.shape == x.shape
        assert not d_x.any()
    assert torch.equal(memory.rows, before)


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_hostile_state_of_a_bank_is_refused_and_not_executed(tmp_path: Path) -> None:
    """torch's own default; nothing in the states of this library needs another."""
    loss = fpc.PixelContrastLoss(memory=bank())
    file, trace = tmp_path / "loss.pt", tmp_path / "trace"
    torch.save(loss.state_dict(), file)
    loss.load_state_dict(torch.load(file, weights_only=True))
    torch.save({**loss.state_dict(), "memory._extra_state": Hostile(trace)}, file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file)
    assert not trace.exists()


def test_a_state_of_a_bank_of_another_version_is_refused() -> None:
    memory = bank()
    for extra in ({}, {"pixel_size": 6}, [6, 7], None, torch.tensor([6, 5]), torch.tensor(6)):
        with pytest.raises(ValueError, match=r"memory bank: got .*, want rings of 6 pixels and 6 regions"):
            memory.load_state_dict({**memory.state_dict(), "_extra_state": extra})


@pytest.mark.parametrize("wrong", [-1, -(2**63), 2**63 - 1])
def test_a_state_of_a_bank_with_counts_that_cannot_be_is_refused(wrong: int) -> None:
    memory = bank()
    before, state = copy.deepcopy(memory.state_dict()), copy.deepcopy(memory.state_dict())
    state["written"][1, 0] = wrong
    with pytest.raises(ValueError, match=r"written: got .*, want counts in \[0, 2\^62\)"):
        memory.load_state_dict(state)
    assert torch.equal(memory.rows, before["rows"])
    assert torch.equal(memory.written, before["written"])


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]


def test_nothing_is_unpickled() -> None:
    """Every torch.load takes weights only; no pickle, no shelve, no arrays of objects."""
    loads = 0
    for folder in ("fastpixcon", "kernels", "bench", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in calls(ast.parse(path.read_text())):
                assert isinstance(call.func, ast.Attribute)
                called = ast.unparse(call.func)
                where = f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                if called == "torch.load":
                    loads += 1
                    assert given.get("weights_only") == "True", where
                assert called.partition(".")[0] not in ("pickle", "shelve", "marshal", "dill", "joblib"), where
                assert given.get("allow_pickle", "False") == "False", where
    assert loads >= 4
