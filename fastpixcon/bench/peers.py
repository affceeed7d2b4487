"""Who is measured: an adapter of a few lines each. ``@peer`` says what it needs of the machine; the function takes a
problem and returns a call that gives the loss, or a text: why its formula can't express that problem.

PyTorch's own full matrices and chunks multiply in the dtype of the rows where the processor or GPU has units for it,
else in float32, as someone would who wants them fast; sums are float32. Libraries get the rows as they are.
"""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastpixcon.bench import rivals
from fastpixcon.bench.workloads import MAX_SAMPLES, TEMPERATURE, Maps, Rows

OURS = "fastpixcon"
Loss = Callable[[], Any]  # -> the loss []; a selection: index and label [A]
Adapter = Callable[[Any], Loss | str]
NO_MAP = "takes rows, not maps"
INDUCTOR = "torch._inductor.compile_fx"
# Where an nvcc is but no GPU, torch would say so in every process that compiles for the CPU.
logging.getLogger("torch.utils.cpp_extension").addFilter(
    lambda record: not str(record.msg).startswith("No CUDA runtime is found")
)


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    make: Adapter
    package: str | None = None  # that it needs
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiles: bool = False  # at the first call of every size
    slow: bool = False  # to compile: not in --quick, unless asked for
    preload: str | None = None  # what its import takes time for

    def reason(self, device: str) -> str | None:
        """Why it can't run on this machine."""
        if device not in self.devices:
            return f"needs {' or '.join(self.devices)}"
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return None


PEERS: dict[str, Peer] = {}


def peer(name: str, title: str, **needs: Any) -> Callable[[Adapter], Adapter]:
    def register(make: Adapter) -> Adapter:
        PEERS[name] = Peer(name, title, make, **needs)
        return make

    return register


def in_product_dtype(x: Tensor) -> Tensor:
    """Cast to float32 where products of its dtype have no units; differentiable."""
    if x.dtype not in (torch.bfloat16, torch.float16) or x.is_cuda:
        return x
    has = torch.ops.mkldnn
    fast = has._is_mkldnn_bf16_supported() if x.dtype == torch.bfloat16 else has._is_mkldnn_fp16_supported()
    return x if fast else x.float()


class Step:
    """The loss of a segmentation step; ``selected`` gives the pixels that the last call chose, index and label [A]."""

    def __init__(self, loss: Callable[[], Tensor], selected: Callable[[], tuple[Tensor, Tensor]]) -> None:
        self.loss, self.selected = loss, selected

    def __call__(self) -> Tensor:
        return self.loss()


def eager_step(problem: Maps, loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """The map is normalised and permuted once, all anchors gathered at once."""
    last: list[tuple[Tensor, Tensor]] = []

    def step() -> Tensor:
        index, label = rivals.select_anchors(problem.labels, problem.predictions, MAX_SAMPLES)
        last[:] = [(index, label)]
        x = F.normalize(problem.embeddings, dim=1)
        pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # [P, D]
        return loss(pixels[index], label) * (TEMPERATURE / 0.07)

    return Step(step, lambda: last[0])


@peer(OURS, "fastpixcon")
def ours(problem: Rows | Maps) -> Loss | str:
    import fastpixcon as fpc

    if isinstance(problem, Maps):
        maps = (problem.labels, problem.predictions)
        how: dict[str, Any] = {"num_classes": problem.logits.shape[1], "max_samples": MAX_SAMPLES}
        if problem.cell.workload == "select":
            return lambda: fpc.functional.select_anchors(*maps, **how)[:2]
        contrast = partial(fpc.functional.pixel_contrast, problem.embeddings, *maps, temperature=TEMPERATURE, **how)
        return Step(contrast, lambda: fpc.functional.select_anchors(*maps, **how)[:2])  # the same seed, 0
    how = {"temperature": TEMPERATURE, "denominator": problem.denominator}
    if problem.contrast is None or problem.contrast.requires_grad:
        return lambda: fpc.functional.info_nce(
            problem.anchors, problem.labels, problem.contrast, problem.contrast_labels, **how
        )
    bank = memory_bank(problem)
    return lambda: fpc.functional.info_nce(problem.anchors, problem.labels, memory=bank, contrast_with="memory", **how)


def memory_bank(problem: Rows) -> Any:
    """The contrast rows of a problem in a bank, the pixels' ring and the regions' of the same size."""
    import fastpixcon as fpc

    rows, labels, K = problem.contrast, problem.contrast_labels, problem.cell.classes
    assert rows is not None
    assert labels is not None
    places = len(rows) // K
    dtype = torch.bfloat16 if rows.dtype == torch.bfloat16 else torch.float32
    bank = fpc.MemoryBank(K, rows.shape[1], places // 2, places - places // 2, dtype=dtype)
    bank.rows.copy_(rows.view(bank.rows.shape))
    bank.labels.copy_(labels.view(bank.labels.shape))
    return bank.to(rows.device)


def unit(c: Tensor) -> Tensor:
    """Contrast rows of norm 1; those of a bank are."""
    return F.normalize(c, dim=1) if c.requires_grad else c


def full_matrix(problem: Rows | Maps, lean: bool, wrap: Callable[[Any], Any] = lambda x: x) -> Loss | str:
    """The loss that someone would write for this problem, on a full matrix."""
    among, against = (
        (rivals.info_nce_lean, rivals.memory_info_nce_lean) if lean else (rivals.info_nce, rivals.memory_info_nce)
    )
    if isinstance(problem, Maps):
        if problem.cell.workload == "select":
            return (
                "multiplies nothing here"
                if lean
                else partial(rivals.select_anchors, problem.labels, problem.predictions, MAX_SAMPLES)
            )
        loss = wrap(among)
        return eager_step(problem, lambda a, y: loss(in_product_dtype(a), y))
    x, y, c, yc = problem.anchors, problem.labels, problem.contrast, problem.contrast_labels
    if problem.cell.workload == "two_views":
        loss = wrap(rivals.nt_xent)
        return lambda: loss(in_product_dtype(x))
    if problem.cell.workload == "pairs" and c is not None:
        loss = wrap(rivals.cross_entropy)
        return lambda: loss(in_product_dtype(x), in_product_dtype(c))
    loss = wrap(among if c is None else against)
    rest = () if c is None else (in_product_dtype(c), yc)
    return lambda: loss(in_product_dtype(x), y, *rest, TEMPERATURE, problem.denominator)


@peer("eager", "eager PyTorch, as the equations stand")
def eager(problem: Rows | Maps) -> Loss | str:
    return full_matrix(problem, lean=False)


@peer("lean", "eager PyTorch, fewest passes")
def lean(problem: Rows | Maps) -> Loss | str:
    if isinstance(problem, Rows) and problem.cell.workload in ("two_views", "pairs"):
        return "the same as eager: cross-entropy"
    return full_matrix(problem, lean=True)


@peer("compiled", "torch.compile of the full matrix", compiles=True, preload=INDUCTOR)
def compiled(problem: Rows | Maps) -> Loss | str:
    return full_matrix(problem, lean=True, wrap=partial(torch.compile, dynamic=False))


def in_chunks(problem: Rows | Maps, losses: Callable[..., Tensor]) -> Loss | str:
    if isinstance(problem, Maps):
        return "1,024 anchors fit in one chunk"
    rest = (problem.contrast_labels, TEMPERATURE, problem.denominator, losses)
    x, y, c = problem.anchors, problem.labels, problem.contrast

    def loss() -> Tensor:
        contrast = None if c is None else unit(in_product_dtype(c))
        return rivals.chunked(in_product_dtype(x), y, contrast, *rest)

    return loss


@peer("chunked", "a loop over chunks, checkpointed")
def chunked(problem: Rows | Maps) -> Loss | str:
    return in_chunks(problem, rivals.chunk_losses)


@peer("compiled_chunks", "torch.compile of such chunks", compiles=True, slow=True, preload=INDUCTOR)
def compiled_chunks(problem: Rows | Maps) -> Loss | str:
    return in_chunks(problem, torch.compile(rivals.chunk_losses, dynamic=False))


def as_cross_entropy(problem: Rows | Maps, linear: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Loss | str:
    """``linear(a, c, target)``, the mean cross-entropy of a @ c.T. Against a bank, with all in the denominator, it is
    taken at any one positive and the mean positive logit put in its place, which is linear."""
    if isinstance(problem, Maps):
        return NO_MAP
    x, y, c, yc = problem.anchors, problem.labels, problem.contrast, problem.contrast_labels
    if c is None or yc is None:
        return "can't leave a row itself out of its denominator"
    if problem.denominator == "negatives":
        return "one positive a row, in the denominator"
    if problem.cell.workload == "pairs":
        return lambda: linear(F.normalize(x, dim=1) / TEMPERATURE, F.normalize(c, dim=1), y)
    K = problem.cell.classes
    first = torch.stack([(yc == k).nonzero()[0, 0] for k in range(K)])  # [K] one row of each class

    def loss() -> Tensor:
        a = F.normalize(x, dim=1) / TEMPERATURE
        mean = torch.zeros(K, c.shape[1]).to(c).index_add_(0, yc, c) / torch.bincount(yc, minlength=K)[:, None].to(c)
        return linear(a, c, first[y]) + (a * (c[first[y]] - mean[y])).float().sum(dim=1).mean()

    return loss


@peer("linear_cross_entropy", "F.linear_cross_entropy, chunked")
def linear_cross_entropy(problem: Rows | Maps) -> Loss | str:
    if not hasattr(F, "linear_cross_entropy"):
        return "needs torch 2.13"
    options = torch.nn.LinearCrossEntropyOptions()
    return as_cross_entropy(problem, lambda a, c, t: F.linear_cross_entropy(a, c, t, options=options))


@peer("cut_cross_entropy", "cut-cross-entropy", package="cut_cross_entropy")
def cut_cross_entropy(problem: Rows | Maps) -> Loss | str:
    from cut_cross_entropy import linear_cross_entropy as cut

    if isinstance(problem, Rows) and problem.contrast is not None:
        if not problem.anchors.is_cuda:
            return "its kernels need a GPU; on a CPU it is torch.compile of the full matrix"
        if problem.anchors.dtype == torch.float32:
            return "takes bfloat16 and float16"
    return as_cross_entropy(problem, lambda a, c, t: cut(a, c, t))


@peer(
    "metric_learning",
    "pytorch-metric-learning",
    package="pytorch_metric_learning",
    preload="pytorch_metric_learning.losses",
)
def metric_learning(problem: Rows | Maps) -> Loss | str:
    from pytorch_metric_learning import losses, reducers

    negatives = isinstance(problem, Maps) or problem.denominator == "negatives"
    if negatives:  # the mean over an anchor's positives, then over anchors
        reducer = reducers.PerAnchorReducer(reducer=reducers.MeanReducer())
        loss = losses.NTXentLoss(temperature=TEMPERATURE, reducer=reducer)
    else:
        loss = losses.SupConLoss(temperature=TEMPERATURE)
    if isinstance(problem, Maps):
        if problem.cell.workload == "select":
            return "has no selection"
        return eager_step(problem, loss)
    x, y, c, yc = problem.anchors, problem.labels, problem.contrast, problem.contrast_labels
    if negatives and c is not None:
        return "its PerAnchorReducer takes no reference rows"
    return lambda: loss(x, y) if c is None else loss(x, y, ref_emb=c, ref_labels=yc)


@peer("lightly", "lightly", package="lightly", preload="lightly.loss")
def lightly(problem: Rows | Maps) -> Loss | str:
    from lightly.loss import NTXentLoss

    if isinstance(problem, Maps):
        return NO_MAP
    if problem.cell.workload != "two_views":
        return "two views of a row only"
    loss = NTXentLoss(temperature=TEMPERATURE)
    return lambda: loss(*problem.anchors.chunk(2))


@peer("info_nce_pytorch", "info-nce-pytorch", package="info_nce")
def info_nce_pytorch(problem: Rows | Maps) -> Loss | str:
    from info_nce import InfoNCE

    if isinstance(problem, Maps):
        return NO_MAP
    if problem.cell.workload != "pairs":
        return "one key a query only"
    loss = InfoNCE(temperature=TEMPERATURE)
    return lambda: loss(problem.anchors, problem.contrast)


@peer("keops", "KeOps", package="pykeops", compiles=True, slow=True)
def keops(problem: Rows | Maps) -> Loss | str:
    if isinstance(problem, Maps):
        return NO_MAP
    if problem.anchors.dtype != torch.float32:
        return "float32 only, on a CPU"
    from pykeops.torch import LazyTensor

    def number(x: Tensor, axis: int) -> Any:  # exact up to 2^24
        return LazyTensor(x.float()[:, None, None] if axis == 0 else x.float()[None, :, None])

    def loss() -> Tensor:
        a = F.normalize(problem.anchors, dim=1)
        c = a if problem.contrast is None else unit(problem.contrast)
        yc = problem.labels if problem.contrast_labels is None else problem.contrast_labels
        s = (LazyTensor(a[:, None, :]) | LazyTensor(c[None, :, :])) / TEMPERATURE  # [N, M], never stored
        # what is >= 0 where two labels differ, and where two rows are not the same row
        differ = (number(problem.labels, 0) - number(yc, 1)).square() - 0.5
        positive = -differ
        if problem.contrast is None:
            i = torch.arange(len(a), device=a.device)
            other = (number(i, 0) - number(i, 1)).square() - 0.5
            positive = other.ifelse(positive, -1.0)
        counts = torch.bincount(yc, minlength=int(yc.max()) + 1)[problem.labels][:, None] - int(
            problem.contrast is None
        )
        if problem.denominator == "negatives":
            z = differ.ifelse(s.exp(), 0.0).sum(dim=1)  # [N, 1]
            losses = positive.ifelse((LazyTensor(z[:, None, :]) * (-s).exp() + 1.0).log(), 0.0).sum(dim=1)
            return (losses / counts).mean()
        z = (s.exp() if problem.contrast is not None else other.ifelse(s.exp(), 0.0)).sum(dim=1)
        if problem.cell.workload == "pairs":
            return (z.log()[:, 0] - (a * c[: len(a)]).sum(dim=1) / TEMPERATURE).mean()
        return (z.log() - positive.ifelse(s, 0.0).sum(dim=1) / counts).mean()

    return loss


@peer("liger", "Liger-Kernel", package="liger_kernel", devices=("cuda",))
def liger(problem: Rows | Maps) -> Loss | str:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Function

    return as_cross_entropy(problem, lambda a, c, t: Function.apply(a, c, t)[0])


@peer("memeff", "memeff", package="memeff", devices=("cuda",))
def memeff(problem: Rows | Maps) -> Loss | str:
    from memeff import MemoryEfficientQwen3Loss

    if isinstance(problem, Maps):
        return NO_MAP
    if problem.cell.workload != "pairs":
        return "one key a query only"
    # margin 2: no negative is taken for a positive; not stable: gradients as they are
    loss = MemoryEfficientQwen3Loss(temperature=TEMPERATURE, margin=2.0, stable=False)
    return lambda: loss(problem.anchors, problem.contrast)


@peer("inf_cl", "Inf-CL", package="inf_cl", devices=("cuda",))
def inf_cl(problem: Rows | Maps) -> Loss | str:
    from inf_cl import cal_flash_loss

    width = min(256, problem.cell.dim)  # of a head, whose products are added up
    return as_cross_entropy(problem, lambda a, c, t: cal_flash_loss(a, c, t, head_dim=width).mean())


@peer("torch_info_nce", "F.info_nce_loss")
def torch_info_nce(problem: Rows | Maps) -> Loss | str:
    loss = getattr(F, "info_nce_loss", None)
    if loss is None:
        return "no released torch has it yet: pytorch/pytorch#195380"
    if isinstance(problem, Maps):
        return NO_MAP
    if problem.cell.workload != "pairs":
        return "one key a query only"
    return lambda: loss(problem.anchors, problem.contrast, temperature=TEMPERATURE)


@peer("siglip", "siglip-kernel")
def siglip(problem: Rows | Maps) -> Loss | str:
    return "sigmoid of each pair by itself, no sum over a row"


@peer("flashlib", "flashlib")
def flashlib(problem: Rows | Maps) -> Loss | str:
    return "clusters, neighbours, embeddings of points: no loss with a gradient (version 0.4)"
