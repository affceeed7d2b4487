"""The modules: what they compute, and the state that PixelContrastLoss carries."""

import copy
import pickle
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor, nn

import fastpixcon as fpc
from fastpixcon.functional import info_nce, pixel_contrast
from fastpixcon.ops.calls import draw_seed

B, D, h, w, K = 2, 12, 16, 18, 3
OPTIONS: dict[str, Any] = {"max_samples": 24, "max_views": 6}


def images(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.arange(K).repeat_interleave(12)[None, :, None].expand(B, -1, 40).contiguous()
    return tuple(x.to(device) for x in (torch.randn(B, D, h, w), labels, torch.randn(B, K, h, w)))


def test_pixel_contrast_loss_is_the_function_with_its_seed(backend: Backend) -> None:
    maps = images(backend.device)
    loss = fpc.PixelContrastLoss(temperature=0.2, base_temperature=0.5, denominator="all", **OPTIONS).to(backend.device)
    options = {"temperature": 0.2, "base_temperature": 0.5, "denominator": "all", **OPTIONS}
    torch.manual_seed(4)
    seeds = [draw_seed(maps[0]) for _ in range(3)]
    torch.manual_seed(4)
    for seed in seeds:
        assert torch.equal(loss(*maps), pixel_contrast(*maps, seed=seed, **options))


def test_min_pixels_lets_small_segments_in(backend: Backend) -> None:
    maps = images(backend.device)
    maps[1][:, :12] = 255
    maps[1][:, :3, :3] = 0  # all of class 0: four pixels of the map
    options = {"max_samples": 24, "max_views": 6}
    loss = fpc.PixelContrastLoss(**options, min_pixels=1, seed=3).to(backend.device)
    wanted = {least: pixel_contrast(*maps, seed=3, min_pixels=least, **options) for least in (None, 1)}
    assert torch.equal(loss(*maps), wanted[1])
    assert wanted[1] != wanted[None]


def test_defaults_are_those_of_the_paper() -> None:
    loss = fpc.PixelContrastLoss()
    assert (loss.temperature, loss.base_temperature, loss.max_samples, loss.max_views) == (0.1, 0.07, 1024, 100)
    assert (loss.ignore_index, loss.num_classes, loss.denominator) == (255, None, "negatives")
    assert (fpc.SupConLoss().temperature, fpc.InfoNCELoss().temperature) == (0.1, 0.07)


def test_every_call_draws_other_pixels(backend: Backend) -> None:
    maps = images(backend.device)
    loss = fpc.PixelContrastLoss(**OPTIONS).to(backend.device)
    assert len({loss(*maps).item() for _ in range(6)}) == 6


def test_what_is_drawn_follows_manual_seed(backend: Backend) -> None:
    maps = images(backend.device)
    loss = fpc.PixelContrastLoss(**OPTIONS).to(backend.device)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(loss(*maps).item())
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("options", [{}, {"seed": 3}, {"max_samples": 3}], ids=["plain", "seed", "small"])
def test_a_call_takes_one_number_of_the_generator(options: dict[str, Any], backend: Backend) -> None:
    """Whatever its options are, so that a forward computed anew leaves what comes after it the same."""
    maps = images(backend.device)
    loss = fpc.PixelContrastLoss(**{**OPTIONS, **options}).to(backend.device)
    torch.manual_seed(0)
    maps[0].requires_grad_()
    loss(*maps).backward()
    following = torch.rand((), device=backend.device)
    torch.manual_seed(0)
    draw_seed(maps[0])
    assert torch.equal(torch.rand((), device=backend.device), following)


def test_a_restored_random_state_draws_the_same_pixels(backend: Backend) -> None:
    maps = images(backend.device)
    loss = fpc.PixelContrastLoss(**OPTIONS).to(backend.device)
    loss(*maps)
    with torch.random.fork_rng():
        expected = [loss(*maps).item() for _ in range(3)]
    assert [loss(*maps).item() for _ in range(3)] == expected


def test_a_state_of_the_first_version_loads() -> None:
    """It had a seed."""
    loss = fpc.PixelContrastLoss(**OPTIONS)
    assert loss.state_dict() == {}
    loss.load_state_dict({"seed": torch.tensor(3)})
    nn.Sequential(loss).load_state_dict({"0.seed": torch.tensor(3)})


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_the_same_loss(duplicate: Any, backend: Backend) -> None:
    maps = images(backend.device)
    loss = fpc.PixelContrastLoss(**OPTIONS).to(backend.device)
    loss(*maps)
    other = duplicate(loss)
    assert [int(x) for x in other.last[:6]] == [int(x) for x in loss.last[:6]]
    with torch.random.fork_rng():
        expected = loss(*maps).item()
    assert other(*maps).item() == expected


def test_a_learnt_temperature(backend: Backend) -> None:
    """A parameter given as temperature is one of the module's, and learns."""
    maps = images(backend.device)
    tau = nn.Parameter(torch.tensor(0.2, device=backend.device))
    loss = fpc.PixelContrastLoss(temperature=tau, **OPTIONS, seed=6).to(backend.device)
    assert [name for name, _ in loss.named_parameters()] == ["temperature"]
    x = maps[0].requires_grad_()
    loss(x, *maps[1:]).backward()
    step = 1e-2
    high, low = (pixel_contrast(*maps, temperature=0.2 + d, seed=6, **OPTIONS).item() for d in (step, -step))
    assert tau.grad is not None
    assert tau.grad.item() == pytest.approx((high - low) / (2 * step), rel=0.02)


def test_it_teaches(backend: Backend) -> None:
    """Gradient steps on the map bring classes together: the loss falls."""
    maps = images(backend.device)
    x = maps[0].requires_grad_()
    loss = fpc.PixelContrastLoss(max_samples=150, max_views=30).to(backend.device)
    optimizer = torch.optim.Adam([x], lr=0.3)
    losses = []
    for _ in range(16):
        optimizer.zero_grad()
        losses.append(loss(x, *maps[1:]))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("module", "denominator"), [(fpc.SupConLoss, "all"), (fpc.InfoNCELoss, "negatives")])
def test_row_losses(module: Any, denominator: str, backend: Backend) -> None:
    x, y = torch.randn(40, 9, device=backend.device) * 3, torch.arange(40, device=backend.device) % 6
    for tau in (0.05, 0.5):
        assert torch.equal(module(tau)(x, y), info_nce(x, y, temperature=tau, denominator=denominator))
    tau = nn.Parameter(torch.tensor(0.3, device=backend.device))
    learnt = module(tau)
    learnt(x, y).backward()
    assert list(learnt.parameters()) == [tau]
    assert tau.grad is not None
    assert tau.grad != 0


def test_repr_shows_the_options() -> None:
    text = repr(fpc.PixelContrastLoss(temperature=0.3, max_samples=77, denominator="all"))
    for part in ("temperature=0.3", "max_samples=77", "denominator='all'"):
        assert part in text
    assert repr(fpc.SupConLoss(0.4)) == "SupConLoss(temperature=0.4)"
