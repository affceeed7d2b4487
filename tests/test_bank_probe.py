"""bench/studies/bank_probe.py, whose figures say why a bank helps or does not."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fastpixcon as fpc

pytest.importorskip("pydantic", reason="the extra train is not installed")
PATH = Path(__file__).resolve().parents[1] / "bench" / "studies" / "bank_probe.py"
_spec = importlib.util.spec_from_file_location("bank_probe", PATH)
bank_probe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bank_probe)


def test_its_gradients_are_those_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    N, D, K, S = 24, 16, 3, 7
    bank = fpc.MemoryBank(K, D, S - 2, 2)
    bank.rows = F.normalize(torch.randn(K, S, D, generator=generator).double(), dim=2)
    bank.labels = torch.arange(K).int()[:, None].expand(K, S).contiguous()
    bank.labels[1, 3:] = -1  # empty
    x = F.normalize(torch.randn(N, D, generator=generator).double(), dim=1).requires_grad_()
    y = torch.arange(N) % K
    seen = bank_probe.Seen(y.view(1, 4, 6), x.detach(), y, torch.arange(N), y)
    found = bank_probe.shares(*bank_probe.pairs_of(seen, bank), 0.1)
    for name, memory in (("gradient", bank), ("gradient_without_bank", None)):
        loss = fpc.functional.info_nce(x, y, temperature=0.1, memory=memory)
        (gradient,) = torch.autograd.grad(loss, x)
        assert found[name] == pytest.approx(float(gradient.norm()), rel=1e-9)
    assert found["positives_in_batch"] == N / K - 1
    assert found["positives_in_bank"] == pytest.approx((S + 3 + S) / K)


def test_distance_to_a_boundary() -> None:
    labels = torch.zeros(1, 3, 8, dtype=torch.int64)
    labels[:, :, 4:] = 5
    assert bank_probe.distance_to_boundary(labels)[0, 1].tolist() == [3, 2, 1, 0, 0, 1, 2, 3]
