"""What every rank of a group checks, and the processes that are the ranks; started by test_distributed.py."""

import copy
import datetime
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.autograd import forward_ad

import fastpixcon as fpc
import fastpixcon.contrast
import fastpixcon.distributed
import fastpixcon.distributed.ring
from fastpixcon.contrast import how_to
from fastpixcon.distributed import ranks_of
from fastpixcon.functional import info_nce
from fastpixcon.values import Rows, Rule

K = 4


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _rank(rank: int, size: int, port: int, seconds: float, check: Callable[..., Any], queue: Any, more: Any) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=seconds),
        )
        queue.put((rank, check(rank, size, *more), None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))
    queue.close()
    queue.join_thread()
    os._exit(0)  # others may be gone, and be waited for at the exit of a group


def on_ranks(size: int, check: Callable[..., Any], *more: Any, seconds: float = 20, dying: int = 0) -> list[Any]:
    """What ``check(rank, size, *more)`` returns on every rank; None of the ``dying`` ones."""
    context = mp.get_context("forkserver")  # imports once, and has run nothing that a fork would break
    context.set_forkserver_preload(["harness.distributed_checks", "fastpixcon"])
    queue, port = context.Queue(), free_port()
    processes = [
        context.Process(target=_rank, args=(r, size, port, seconds, check, queue, more), daemon=True)
        for r in range(size)
    ]
    for p in processes:
        p.start()
    results: list[Any] = [None] * size
    try:
        for _ in range(size - dying):
            rank, result, error = queue.get(timeout=120)
            assert error is None, f"rank {rank}:\n{error}"
            results[rank] = result
    finally:
        for p in processes:
            p.join(timeout=5)
            if p.is_alive():
                p.kill()
    return results


@dataclass(frozen=True)
class Setting:
    sizes: str = "uneven"  # even, uneven, empty (a rank without rows), ignored (a rank with label -1 only), none
    denominator: str = "negatives"
    temperature: float = 0.1
    learned: bool = False  # the temperature is a tensor with gradient
    memory: bool = False
    mining: bool = False
    contrast: str = "both"
    reduction: str = "mean"
    dtype: torch.dtype = torch.float64
    normalize: bool = True
    pairs: str = ""  # "weights", "balanced", "classes" or groups as "same other"

    def weighed(self, labels: Tensor, rank: int) -> dict[str, Any]:
        """Of the rows of a rank."""
        n, generator = len(labels), torch.Generator().manual_seed(11 + rank)
        v, w = torch.rand(2, n, generator=generator, dtype=torch.float64)
        groups = torch.randint(3, (n,), generator=generator)
        if self.pairs in ("weights", "balanced"):
            return {"contrast_weights": v.to(self.dtype), "weights": w.to(self.dtype)}
        return {"groups": groups} if " " in self.pairs else {}

    def rule(self) -> fpc.Pairs:
        W = torch.rand(K, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        which = self.pairs.split(" ") if " " in self.pairs else ()
        return fpc.Pairs(
            *which, class_weights=W if self.pairs == "classes" else None, balanced=self.pairs == "balanced"
        )

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(5)
        numbers = [7] * size if self.sizes == "even" else [5 + 4 * ((r * 3 + 1) % 4) for r in range(size)]
        if self.sizes == "empty":
            numbers[size // 2] = 0
        if self.sizes == "none":
            numbers = [0] * size
        rows = [torch.randn(n, 6, generator=generator, dtype=torch.float64).to(self.dtype) for n in numbers]
        labels = [torch.randint(-1, K, (n,), generator=generator) for n in numbers]
        if self.sizes == "ignored":
            labels[size // 2].fill_(-1)
        return list(zip(rows, labels, strict=True))

    def options(self) -> dict[str, Any]:
        bank = None
        if self.memory:
            bank = fpc.MemoryBank(K, 6, 3, 2, dtype=self.dtype)
            generator = torch.Generator().manual_seed(6)
            rows = torch.randn(bank.rows.shape, generator=generator, dtype=torch.float64)
            bank.rows.copy_(torch.nn.functional.normalize(rows, dim=-1))
            bank.labels[:, :4] = torch.arange(K, dtype=torch.int32)[:, None]
        mining = fpc.Mining("semi-hard", "random", fraction=0.5, keep=(3, 4)) if self.mining else None
        return {
            "denominator": self.denominator, "reduction": self.reduction, "memory": bank, "mining": mining,
            "base_temperature": 0.07, "seed": 77, "pairs": self.rule(),
        }  # fmt: skip


def loss_and_gradients(setting: Setting, rows: Tensor, labels: Tensor, **where: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = rows.clone().requires_grad_()
    tau: Any = torch.tensor(setting.temperature, dtype=setting.dtype, requires_grad=True)
    temperature = tau if setting.learned else setting.temperature
    loss = info_nce(rows, labels, temperature=temperature, **setting.options(), **where)
    loss.backward()
    return loss.detach(), rows.grad, torch.zeros_like(tau) if tau.grad is None else tau.grad


def same_as_one_process(rank: int, size: int, settings: list[Setting], across: str, backend: str) -> None:
    for setting in settings:
        batches = setting.batches(size)
        rows, labels = (torch.cat(x) for x in zip(*batches, strict=True))
        weighed = [setting.weighed(y, r) for r, (_, y) in enumerate(batches)]
        together = {name: torch.cat([of[name] for of in weighed]) for name in weighed[0]}
        loss, d_rows, d_tau = loss_and_gradients(setting, rows, labels, backend=backend, **together)
        first = sum(len(x) for x, _ in batches[:rank])
        where = {"process_group": dist.group.WORLD, "across": across, "backend": backend}
        own_loss, own_d_rows, own_d_tau = loss_and_gradients(setting, *batches[rank], **where, **weighed[rank])
        dist.all_reduce(own_d_tau)
        tol = {"rtol": 1e-9, "atol": 1e-12} if setting.dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-6}
        message = f"{setting}, {across}, rank {rank} of {size}"
        for actual, wanted in (
            (own_loss, loss),
            (own_d_rows / size, d_rows[first : first + len(own_d_rows)]),
            (own_d_tau / size, d_tau),
        ):
            torch.testing.assert_close(actual, wanted, **tol, msg=lambda text, m=message: f"{m}\n{text}")


def images(rank: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, 3, 8, 10], labels [B, 16, 20], predictions [B, 8, 10] of a rank."""
    generator = torch.Generator().manual_seed(100 + rank)
    labels = torch.randint(K, (count, 4, 5), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    predictions = torch.randint(K, (count, 8, 10), generator=generator)
    return torch.randn(count, 3, 8, 10, generator=generator), labels, predictions


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    convolutions = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 6, 1)
    return torch.nn.Sequential(convolutions[0], torch.nn.Tanh(), convolutions[1]).double()


def trains_as_one_process(rank: int, size: int, across: str) -> None:
    """DistributedDataParallel with PixelContrastLoss, two steps; ranks have 1, 2, 3.. images."""
    options: dict[str, Any] = {"max_samples": 40, "max_views": 9, "num_classes": K}
    net, tau = network(), torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
    wrapped = torch.nn.parallel.DistributedDataParallel(net)
    bank = fpc.MemoryBank(K, 6, 20, 10, dtype=torch.float64)
    loss = fpc.PixelContrastLoss(tau, memory=bank, process_group=dist.group.WORLD, across=across, **options, seed=5)
    alone, alone_tau = network(), torch.nn.Parameter(tau.detach().clone())
    for step in range(2):
        before = bank.state_dict()
        single_bank = fpc.MemoryBank(K, 6, 20, 10, dtype=torch.float64)
        single_bank.load_state_dict({k: v.clone() if isinstance(v, Tensor) else v for k, v in before.items()})
        rows, labels = [], []
        for r in range(size):
            x, y, predicted = images(10 * step + r, 1 + r)
            selected = fpc.functional.select_anchors(y, predicted, seed=5, **options)
            rows.append(fpc.functional.gather_normalize(alone(x.double()), selected.index))
            labels.append(selected.label)
        wanted = info_nce(
            torch.cat(rows), torch.cat(labels), temperature=alone_tau, base_temperature=0.07, memory=single_bank
        )
        wanted.backward()
        x, y, predicted = images(10 * step + rank, 1 + rank)
        actual = loss(wrapped(x.double()), y, predicted)
        actual.backward()
        assert actual > 0.1
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)
        dist.all_reduce(tau.grad)
        tau.grad /= size
        for mine, theirs in zip([*net.parameters(), tau], [*alone.parameters(), alone_tau], strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)
            mine.grad = theirs.grad = None


def made_before_the_group(rank: int, size: int, port: int, across: str) -> None:
    """As Lightning, accelerate and transformers do: modules first, ``init_process_group`` later."""
    dist.destroy_process_group()
    assert dist.group.WORLD is None
    options: dict[str, Any] = {"max_samples": 24, "max_views": 5, "num_classes": K, "seed": 3}

    def bank() -> fpc.MemoryBank:
        return fpc.MemoryBank(K, 3, 20, 10)

    early = fpc.PixelContrastLoss(process_group="world", across=across, memory=bank(), **options)
    copied = pickle.loads(pickle.dumps(early))
    forgotten = fpc.PixelContrastLoss(process_group=dist.group.WORLD, memory=bank(), **options)
    alone = fpc.PixelContrastLoss(**options)
    with pytest.raises(ValueError, match=r"^process_group: got None with across='.*', want 'world'"):
        fpc.PixelContrastLoss(process_group=dist.group.WORLD, across=across, **options)
    assert early.ranks is None
    assert "process_group='world'" in repr(early)
    os.environ["WORLD_SIZE"] = str(size)  # as torchrun sets it
    try:
        for wrong in (lambda: early(*images(rank, 2)), lambda: fpc.PixelContrastLoss(process_group=dist.group.WORLD)):
            with pytest.raises(ValueError, match=r"^process_group: got .*WORLD_SIZE"):
                wrong()
    finally:
        del os.environ["WORLD_SIZE"]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    late = fpc.PixelContrastLoss(process_group=dist.group.WORLD, across=across, memory=bank(), **options)
    for step in range(3):
        maps = images(size * step + rank, 2)
        losses = []
        for module in (early, copied, late):
            torch.manual_seed(step)
            losses.append(module(*maps))
        assert losses[0] == losses[1] == losses[2]
        assert losses[0] != alone(*maps)
        everyone = [torch.zeros(()) for _ in range(size)]
        dist.all_gather(everyone, losses[0])
        assert all(loss == losses[0] for loss in everyone)
    for name, x in late.state_dict().items():
        assert torch.equal(early.state_dict()[name], x), name
    assert early.ranks is not None
    assert early.ranks.size == size
    assert pickle.loads(pickle.dumps(early)).ranks.size == size
    with pytest.raises(ValueError, match=rf"^process_group: got None, .* before init_process_group, .* {size} ranks"):
        forgotten(*images(rank, 2))


def banks_stay_the_same(rank: int, size: int) -> dict[str, Any]:
    bank = fpc.MemoryBank(K, 3, 7, 5, pixels_per_image=3)
    for step in range(4):
        x, y, _ = images(size * step + rank, (rank + step) % 3)  # also none
        bank.enqueue(x, y, process_group=("world", dist.group.WORLD)[step % 2])
    return {name: x.numpy() if isinstance(x, Tensor) else x for name, x in bank.state_dict().items()}


def survivors_say_so(rank: int, size: int, across: str, when: str) -> str:
    rows = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    loss = fpc.PixelContrastLoss(max_samples=8, process_group=dist.group.WORLD, across=across)
    arguments = (rows, torch.arange(8) % 2)
    if rank == 1 and when == "forward":
        os._exit(1)
    try:
        value = info_nce(*arguments, process_group=loss.ranks)
        if rank == 1:
            os._exit(1)
        value.backward()
    except RuntimeError as error:
        return str(error)
    return "no error"


def disagreements(rank: int, size: int) -> None:
    group = dist.group.WORLD
    labels = torch.arange(8) % 2
    cases: list[tuple[str, Tensor, dict[str, Any]]] = [
        ("width", torch.randn(8, 6 + rank), {}),
        ("dtype", torch.randn(8, 6, dtype=torch.float64 if rank else torch.float32), {}),
        ("requires_grad", torch.randn(8, 6, requires_grad=rank == 0), {}),
        ("across", torch.randn(8, 6), {"across": "ring" if rank else "gather"}),
        ("denominator", torch.randn(8, 6), {"denominator": "all" if rank else "negatives"}),
        ("pairs", torch.randn(8, 6), {"pairs": fpc.Pairs(balanced=bool(rank))}),
        ("pairs", torch.randn(8, 6), {"contrast_weights": torch.ones(8) if rank else None}),
        ("class_weights", torch.randn(8, 6), {"pairs": fpc.Pairs(class_weights=torch.ones(2, 2) + rank)}),
    ]
    for name, rows, options in cases:
        with pytest.raises(ValueError, match=f"^{name}: rank {rank} of {size} got"):
            info_nce(rows, labels, process_group=group, **options)


def refuses(rank: int, size: int) -> None:
    rows, labels = torch.randn(8, 6), torch.arange(8) % 2
    group = dist.group.WORLD
    wrong: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ValueError, "process_group", lambda: info_nce(rows, labels, process_group="all")),
        (ValueError, "process_group", lambda: fpc.PixelContrastLoss(process_group=None, across="ring")),
        (ValueError, "process_group", lambda: fpc.PixelContrastLoss(across="ring")),
        (TypeError, "process_group", lambda: fpc.PixelContrastLoss(process_group=3)),
        (ValueError, "across", lambda: fpc.PixelContrastLoss(process_group=group, across="tree")),
        (ValueError, "mining", lambda: fpc.PixelContrastLoss(process_group=group, across="ring", mining=fpc.Mining())),
        (ValueError, "contrast", lambda: info_nce(rows, labels, rows, labels, process_group=group)),
        (ValueError, "normalize", lambda: info_nce(rows, labels, normalize=False, process_group=group)),
    ]
    for kind, name, call in wrong:
        with pytest.raises(kind, match=f"^{name}: got"):
            call()
    loss = fpc.PixelContrastLoss(process_group=group)
    assert copy.deepcopy(loss).ranks.group is group
    assert "ranks=2" in repr(loss)
    assert set(loss.state_dict()) == set()


def derivatives_that_there_are_not(rank: int, size: int, across: str) -> None:
    x, y = torch.randn(6, 5), torch.arange(6) % 2

    def loss(z: Tensor) -> Tensor:
        return info_nce(z, y, process_group=dist.group.WORLD, across=across)

    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z), z, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"second derivatives .* are not supported"):
        gradient.square().sum().backward()
    for attempt in (
        lambda: torch.func.jvp(loss, (x,), (x,)),
        lambda: torch.func.grad(loss)(x),
        lambda: torch.func.vmap(loss)(x[None]),
    ):
        with pytest.raises(NotImplementedError, match="not supported"):
            attempt()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=r"forward mode .* is not supported"):
        loss(forward_ad.make_dual(x, x))
    rows = torch.nn.functional.normalize(x)
    ranks = ranks_of(dist.group.WORLD, across)
    for of in ((rows, torch.tensor(0.1)), (rows, torch.tensor(0.1, requires_grad=True))):
        how = how_to(mining=None, use_batch=True, backend="auto")
        steps = partial(fastpixcon.distributed.ranks_loss, bank=None, seed=None, how=how, ranks=ranks)
        rule = Rule(of[1], "all", fixed_shift=True, is_sorted=False)
        unit = of[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(steps(Rows(unit, y), rule)[0].sum(), unit, create_graph=True)
        with pytest.raises(NotImplementedError, match=r"across ranks .*: second derivatives"):
            gradient.square().sum().backward()
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=r"across ranks .*: forward mode"):
            steps(Rows(forward_ad.make_dual(of[0], of[0]), y), rule)


def rows_and_bank_of_other_dtypes(rank: int, size: int, across: str) -> None:
    labels = [torch.arange(9) % K, torch.arange(7) % K]
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(len(y), 6, generator=generator, dtype=torch.float64) for y in labels]
    places = torch.nn.functional.normalize(torch.randn(K, 5, 6, generator=generator, dtype=torch.float64), dim=-1)
    for of_rows, of_bank in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        bank = fpc.MemoryBank(K, 6, 3, 2, dtype=of_bank)
        bank.rows.copy_(places)
        bank.labels.copy_(torch.arange(K)[:, None].expand(K, 5))
        for contrast_with in ("both", "memory", "each"):
            options: dict[str, Any] = {"memory": bank, "contrast_with": contrast_with}
            x = rows[rank].to(of_rows).clone().requires_grad_()
            loss = info_nce(x, labels[rank], process_group=dist.group.WORLD, across=across, **options)
            loss.backward()
            everyone = torch.cat(rows).to(of_rows).requires_grad_()
            wanted = info_nce(everyone, torch.cat(labels), **options)
            wanted.backward()
            assert loss.dtype == torch.float64
            torch.testing.assert_close(loss, wanted)
            torch.testing.assert_close(x.grad / size, everyone.grad.split([9, 7])[rank])


def trains_a_sharded_temperature(rank: int, size: int) -> None:
    """A loss module that FSDP2 shards, whose parameters want a dimension."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # imports for seconds, which no other test should wait for

    mesh = init_device_mesh("cpu", (size,))
    x, y = torch.randn(12, 6), torch.arange(12) % K
    for make in (fpc.SupConLoss, partial(fpc.PixelContrastLoss, max_views=3, min_pixels=1, num_classes=K, seed=0)):
        given = (x, y) if make is fpc.SupConLoss else (x.T.reshape(1, 6, 3, 4), y.view(1, 3, 4), y.view(1, 3, 4))
        plain, sharded = (make(torch.nn.Parameter(torch.full((1,), 0.2))) for _ in range(2))
        fully_shard(sharded, mesh=mesh)
        wanted, value = plain(*given), sharded(*given)
        torch.testing.assert_close(value, wanted)
        wanted.backward()
        value.backward()
        torch.testing.assert_close(sharded.temperature.grad.full_tensor(), plain.temperature.grad)
        torch.optim.SGD(sharded.parameters(), lr=0.1).step()
        assert float(sharded.temperature.full_tensor()) != 0.2


def memory_alone(rank: int, size: int) -> None:
    """Contrast with the memory only: no rows travel, the mean is that of all ranks."""
    setting = Setting(memory=True)
    batches = setting.batches(size)
    rows, labels = (torch.cat(x) for x in zip(*batches, strict=True))
    maps = (rows.T[None, :, None], labels[None, None], torch.zeros(1, 1, len(labels), dtype=torch.int64))
    options: dict[str, Any] = {
        "contrast_with": "memory",
        "max_views": 1,
        "seed": 4,
        "max_samples": 99,
        "num_classes": K,
    }
    memory = setting.options()["memory"]
    whole = fpc.functional.pixel_contrast(*maps, memory=memory, **options)
    group = dist.group.WORLD
    for across in ("gather", "ring"):
        mine = fpc.functional.pixel_contrast(*maps, memory=memory, process_group=group, across=across, **options)
        torch.testing.assert_close(mine, whole)
