"""What is checked of the losses on a GPU: no synchronisation, CUDA graphs, torch.compile, accuracy at large N.

Each check takes a device and sizes and returns a line for the report, or raises. On the CPU the same code runs without
what only a GPU has: nothing watches synchronisations, and a replay is a call.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import blockwise
import torch
from torch import Tensor, nn

import fastpixcon as fpc
from fastpixcon.bench import workloads
from fastpixcon.ops import extension
from fastpixcon.testing import InfoNCECase, Tolerance, assert_as_accurate
from fastpixcon.testing.rounding import of_dtype

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZE = (2, 64, 64, 96)  # B, D, h, w
ROWS = (2048, 128)  # N, D


def backends(device: str) -> list[str]:
    """What is checked: what is chosen by itself, and on a GPU the CUDA kernels alone."""
    has_cuda = "CUDA" in extension.build.get("devices", "").split(",")
    return ["auto", *(["native"] if device != "cpu" and has_cuda else [])]


def on(backend: str, check: Callable[[], Any]) -> Any:
    """What it returns, computed on a backend; the one set before for "auto"."""
    with fpc.backend(backend) if backend != "auto" else contextlib.nullcontext():
        return check()


class Step:
    """Forward and backward of a loss; its results stay in the same place, where a CUDA graph writes them again."""

    def __init__(self, module: nn.Module, x: Tensor, *rest: Tensor) -> None:
        self.module, self.x, self.rest = module, x, rest
        self.call: Callable[..., Tensor] = module
        self.loss = x.new_empty(())

    def __call__(self) -> None:
        self.x.grad = None
        self.module.zero_grad()
        loss = self.call(self.x, *self.rest)
        loss.backward()
        self.loss = loss.detach()

    def results(self) -> list[Tensor]:
        """Copies of the loss and the gradients."""
        assert self.x.grad is not None
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return [x.clone() for x in (self.loss, self.x.grad, *gradients)]


def pixel_step(device: str, size: tuple[int, int, int, int] = SIZE, dtype: torch.dtype = torch.bfloat16) -> Step:
    """Labels are four times as large as the map, of whose pixels one in eight may be an anchor, up to 1,024."""
    samples = min(1024, size[0] * size[2] * size[3] // 8)
    maps = workloads.maps(size, 4, 5, False, dtype, device)
    loss = fpc.PixelContrastLoss(max_samples=samples, max_views=64).to(device)
    return Step(loss, maps.embeddings, maps.labels, maps.logits)


def row_step(module: nn.Module, device: str, rows: tuple[int, int] = ROWS, dtype: torch.dtype = torch.bfloat16) -> Step:
    N, D = rows
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0)).to(device, dtype).requires_grad_()
    return Step(module.to(device), x, torch.arange(N, device=device) % 19)


def all_steps(device: str, size: tuple[int, int, int, int], rows: tuple[int, int], dtype: torch.dtype) -> list[Step]:
    learnt = nn.Parameter(torch.tensor(0.1))
    modules = (fpc.SupConLoss(), fpc.InfoNCELoss(), fpc.InfoNCELoss(learnt))
    return [pixel_step(device, size, dtype), *(row_step(module, device, rows, dtype) for module in modules)]


@contextlib.contextmanager
def no_synchronisation(device: str) -> Iterator[None]:
    """PyTorch raises where the host would wait for the GPU; on the CPU it never does."""
    if device == "cpu":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def check_the_watch(device: str) -> str:
    """Reading a value is noticed."""
    if device == "cpu":
        return "nothing is watched on the CPU"
    x = torch.ones((), device=device)
    with no_synchronisation(device):
        try:
            x.item()
        except RuntimeError:
            return "reading a value raises"
    raise AssertionError("Tensor.item() went unnoticed")


def check_synchronisation(
    dtype: torch.dtype, device: str, size: tuple[int, int, int, int] = SIZE, rows: tuple[int, int] = ROWS
) -> str:
    names = []
    for step in all_steps(device, size, rows, dtype):
        for _ in range(2):
            step()  # compiles
        with no_synchronisation(device):
            step()
        names.append(type(step.module).__name__)
    return f"forward and backward of {', '.join(names)}"


def capture(step: Callable[[], object], device: str) -> Callable[[], object]:
    """What replays ``step`` from a CUDA graph; on the CPU, the step."""
    if device == "cpu":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


Inputs = list[tuple[int, Tensor]]


def use(step: Step, seed: int | None, x: Tensor) -> None:
    """Sets the embeddings and, unless it goes on by itself, the random state."""
    with torch.no_grad():
        step.x.copy_(x)
    if seed is not None:
        torch.manual_seed(seed)


def check_replays(step: Step, device: str, replays: int = 4, make: Callable[..., Any] = capture) -> str:
    """Every replay draws anew and gives, bit for bit, what the same call after the same seed gives."""
    first, other = step.x.detach().clone(), step.x.detach().flip(0)
    start = 12345
    expected = []
    use(step, start, first)
    for _ in range(replays):
        step()
        expected.append(step.results())
    use(step, start, other)
    step()
    on_other = step.results()
    losses = {float(loss) for loss, *_ in expected}
    assert len(losses) == replays, f"calls one after the other gave the losses {losses}"

    replay = make(step, device)
    use(step, start, first)
    for number, wanted in enumerate(expected):
        replay()
        same_bits(step.results(), wanted, f"replay {number}")
    use(step, start, other)
    replay()
    same_bits(step.results(), on_other, "replay on other embeddings")
    return f"{replays} replays drew anew; each has the bits of its call; other embeddings are read anew"


def same_bits(results: list[Tensor], wanted: list[Tensor], what: str) -> None:
    for name, x, y in zip(("loss", "gradient"), results, wanted, strict=False):
        difference = float((x.double() - y.double()).abs().max())
        assert torch.equal(x, y), f"{what}: the {name} differs from that of a call by up to {difference:.3g}"


def check_row_replays(device: str, rows: tuple[int, int] = ROWS, make: Callable[..., Any] = capture) -> str:
    """Losses without a seed: the same again, and of other embeddings what a call gives."""
    for module in (fpc.SupConLoss(), fpc.InfoNCELoss()):
        step = row_step(module, device, rows)
        step()
        wanted = step.results()
        original = step.x.detach().clone()
        use(step, None, original.flip(0))
        step()
        on_other = step.results()
        replay = make(step, device)
        for x, expected in ((original, wanted), (original.flip(0), on_other)):
            use(step, None, x)
            replay()
            same_bits(step.results(), expected, type(module).__name__)
    return "SupConLoss, InfoNCELoss: replays have the bits of a call"


def check_compiled(step: Step, calls: int = 4, **options: Any) -> str:
    """torch.compile(fullgraph=True, **options) gives what eager calls give, and draws what they draw."""
    expected = []
    torch.manual_seed(7)
    for _ in range(calls):
        step()
        expected.append(step.results())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step.call = torch.compile(step.module, fullgraph=True, **options)
    step()  # which compiles, and draws meanwhile
    torch.manual_seed(7)
    for wanted in expected:
        torch.compiler.cudagraph_mark_step_begin()
        step()
        for x, y in zip(step.results(), wanted, strict=True):
            tol = 1e-5 if x.dtype == torch.float32 else 1e-2
            torch.testing.assert_close(x, y, rtol=tol, atol=tol * float(y.abs().max()))
    skipped = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    return f"{calls} calls equal eager ones" + (f"; CUDA graphs were skipped {skipped} times" if skipped else "")


def check_accuracy(
    dtype: torch.dtype, denominator: str, device: str, n: int = 20000, width: int = 256, tf32: bool = False
) -> str:
    """Loss and gradient are as wrong as rounding unit rows to their type makes them, and no more; two runs agree.
    With TF32, which cuts float32 to 11 bits, as wrong as that."""
    case = InfoNCECase(n, width, dtype=dtype, denominator=denominator)
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 19, (n,), generator=generator)
    towards = torch.randn(19, width, generator=generator)
    x = torch.randn(n, width, generator=generator) + 0.5 * towards[y]
    x, y = x.to(device, dtype).requires_grad_(), y.to(device)
    truth = blockwise.info_nce(x.detach().double(), y, denominator=denominator)
    best = blockwise.info_nce(x.detach(), y, denominator=denominator)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    runs = []
    try:
        for _ in range(2):
            loss = fpc.functional.info_nce(x, y, denominator=denominator, reduction="none")
            runs.append((loss.detach(), *torch.autograd.grad(loss.sum(), x)))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    tolerances = (1e-3, 4e-3) if tf32 else (case.tol, case.tol + of_dtype(dtype))
    errors = []
    for name, tol, actual, reached, wanted in zip(("loss", "gradient"), tolerances, runs[0], best, truth, strict=True):
        assert_as_accurate(actual, reached.to(actual.dtype), wanted, Tolerance(tol), name=name)
        errors.append(f"{name} {float((actual.double() - wanted).norm() / wanted.norm()):.1e}")
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True)), "two runs differ"
    return f"N = {n:,}: relative errors: {', '.join(errors)}; two runs have the same bits"


def check_selection(device: str, size: tuple[int, int, int, int] = (8, 16, 128, 256), stride: int = 4) -> str:
    """At the size of a training step the same pixels as the reference, from logits and from classes."""
    maps = workloads.maps(size, stride, 19, False, torch.float32, device)
    count = 0
    for predictions in (maps.logits, maps.logits.argmax(dim=1), maps.logits.bfloat16()):
        picked, wanted = (
            fpc.functional.select_anchors(maps.labels, predictions, num_classes=19, max_samples=2048, seed=3, backend=b)
            for b in ("auto", "reference")
        )
        assert all(torch.equal(a, b) for a, b in zip(picked, wanted, strict=True)), "other pixels than the reference's"
        count = int(picked.count)
    return f"labels {list(maps.labels.shape)}: the reference's {count} pixels"
