"""torch.compile(fullgraph=True) looks into the Triton operators: nothing but fake tensors, so nothing can be read."""

from typing import Any

import pytest

pytest.importorskip("triton")
import aot_problems
import torch
import triton
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses.fake_tensor import FakeTensorMode

import fastpixcon as fpc
from fastpixcon.ops import backends, define

pytestmark = pytest.mark.skipif(define.INTERPRETING, reason="interpreted kernels are not traced")

FORWARD = [
    *("codes_kernel", "choose_kernel", "collect_kernel", "draw_kernel"),
    *("gather_normalize_kernel", "info_nce_sums_kernel", "info_nce_positives_kernel", "info_nce_mean_kernel"),
]
AT_ONCE = ["info_nce_terms_kernel", "info_nce_gradient_kernel"]  # gradients of few rows, with their losses
BACKWARD = ["gather_normalize_backward_kernel"]
READING = {"_local_scalar_dense", "item", "nonzero", "_unique2", "masked_select", "equal", "_to_copy"}


class NoDriver:
    """Of a GPU that is not here: enough for PyTorch to find out what a kernel writes to."""

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget("cuda", 80, 32)


@pytest.fixture(autouse=True)
def a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        monkeypatch.setattr(triton.runtime.driver, "_active", NoDriver())


class Graphs:
    """A compiler that keeps the graphs it gets: of forwards and of backwards."""

    def __init__(self) -> None:
        torch._dynamo.reset()
        self.graphs: list[torch.fx.GraphModule] = []
        self.compiler = aot_autograd(fw_compiler=self.keep, bw_compiler=self.keep)

    def keep(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.graphs.append(graph)
        return make_boxed_func(graph)

    def kernels(self, number: int) -> list[str]:
        calls = [node for node in self.graphs[number].graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        found = [kernel_side_table.get_kernel(node.kwargs["kernel_idx"]) for node in calls]
        return [getattr(kernel, "fn", kernel).__name__ for kernel in found]

    def operators(self, number: int) -> set[str]:
        targets = {node.target for node in self.graphs[number].graph.nodes if node.op == "call_function"}
        return {getattr(target, "_opname", str(target)) for target in targets}

    def copied(self, number: int) -> set[str]:
        """Arguments of kernels that are written to, as far as PyTorch can tell."""
        calls = [node for node in self.graphs[number].graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        return {name for node in calls for name in node.kwargs["tensors_to_clone"]}


def step(graphs: Graphs, device: str, **options: Any) -> Any:
    loss = fpc.PixelContrastLoss(max_samples=1024).to(device)
    return torch.compile(loss, fullgraph=True, backend=graphs.compiler, **options)


def maps(device: str, B: int = 2, h: int = 32, w: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    embeddings = torch.zeros(B, 64, h, w, device=device, dtype=torch.bfloat16, requires_grad=device == "cpu")
    return embeddings, torch.zeros(B, 64, 80, device=device, dtype=torch.int64), torch.zeros(B, 19, h, w, device=device)


def test_forward_on_cuda() -> None:
    graphs = Graphs()
    with FakeTensorMode(), fpc.backend("triton"):
        loss = step(graphs, "cuda")(*maps("cuda"))
    assert (loss.device.type, loss.shape) == ("cuda", ())
    assert graphs.kernels(0) == FORWARD
    assert not graphs.operators(0) & READING
    assert not graphs.copied(0) & {"embeddings_ptr", "labels_ptr", "predictions_ptr", "x_ptr", "y_ptr"}


def test_forward_and_backward_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd does not run the backward of a fake CUDA tensor where there is no GPU."""
    monkeypatch.setattr(backends, "TRITON_DEVICES", {"cuda", "cpu"})
    graphs = Graphs()
    with FakeTensorMode(), fpc.backend("triton"):
        inputs = maps("cpu")
        step(graphs, "cpu")(*inputs).backward()
    assert inputs[0].grad is not None
    assert inputs[0].grad.shape == inputs[0].shape
    assert graphs.kernels(0) == FORWARD + AT_ONCE
    assert graphs.kernels(1) == BACKWARD
    for number in (0, 1):
        assert not graphs.operators(number) & READING
    assert graphs.copied(1) == {"d_embeddings_ptr"}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_mode_is_left_out(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Forwards of every way through the launchers, on fake CUDA tensors, without torch.compile."""
    with FakeTensorMode():
        x = torch.empty(2, 48, 9, 11, device="cuda", dtype=dtype).to(memory_format=layout)
        index = torch.empty(30, device="cuda", dtype=torch.int64)
        rows = fpc.functional.gather_normalize(x, index)
        assert (rows.shape, rows.dtype, rows.device.type) == ((30, 48), dtype, "cuda")
        y, z = (torch.empty(n, device="cuda", dtype=torch.int64) for n in (30, 70))
        contrast = torch.empty(70, 48, device="cuda", dtype=dtype)
        tau = torch.empty((), device="cuda")
        for sides in ((rows, y), (rows, y, contrast, z)):
            for denominator in ("negatives", "all"):
                for temperature in (0.1, 0.01, tau):
                    for normalize in (True, False):
                        loss = fpc.functional.info_nce(
                            *sides, temperature=temperature, denominator=denominator, normalize=normalize
                        )
                        assert loss.shape == ()


def test_one_graph_for_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher computes from sizes stays a formula in the graph."""
    monkeypatch.setattr(backends, "TRITON_DEVICES", {"cuda", "cpu"})
    compiled = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        outputs = graph.graph.find_nodes(op="output")[0].args[0]
        compiled.append(graph)
        return make_boxed_func(lambda *_: [torch.zeros(()) if isinstance(x, torch.fx.Node) else x for x in outputs])

    torch._dynamo.reset()
    compiler = aot_autograd(fw_compiler=count)
    loss = torch.compile(fpc.PixelContrastLoss(), fullgraph=True, dynamic=True, backend=compiler)
    rows = torch.compile(fpc.functional.info_nce, fullgraph=True, dynamic=True, backend=compiler)
    with fpc.backend("triton"), torch.no_grad():
        for sizes in ((2, 32, 40), (3, 20, 44), (5, 21, 6)):
            loss(*maps("cpu", *sizes))
        assert len(compiled) == 1
        for N in (20, 33, 50, 64):
            rows(torch.zeros(N, 64), torch.zeros(N, dtype=torch.int64))
        assert len(compiled) == 2


@pytest.mark.parametrize(
    "problem",
    [
        aot_problems.InfoNCE(64, rows="raw", is_sorted=False, M=4096),
        aot_problems.InfoNCE(64, torch.float32, rows="raw", is_sorted=False, M=4096),
        aot_problems.InfoNCE(1024, torch.float32),
        aot_problems.Memory(64, mined=True),
        aot_problems.Memory(64, torch.float16),
        aot_problems.Memory(1024, torch.float32, mined=True),
        aot_problems.Contrast(64, M=256, diagonal=4, mined=True),
        aot_problems.InfoNCE(64, rows="raw", is_sorted=False, M=4096, pairs="weights classes groups"),
        aot_problems.Memory(64, mined=True, pairs="weights classes groups"),
        aot_problems.MemoryRows(64),
        aot_problems.Gather(64, torch.bfloat16),
        aot_problems.Select(torch.int64, torch.bfloat16),
    ],
    ids=str,
)
def test_what_is_only_read_is_not_copied(problem: aot_problems.Problem) -> None:
    """A graph copies what its kernels may write to, as far as PyTorch can tell from where addresses come from."""
    wrapping = pytest.importorskip("torch._higher_order_ops.triton_kernel_wrap")
    if not hasattr(wrapping, "identify_accessed_tensors"):
        pytest.skip("another PyTorch tells it otherwise")
    for launch in problem.launches(80):
        names = launch.kernel.arg_names
        given = {**dict(zip(names, launch.arguments, strict=False)), **launch.options}
        with FakeTensorMode():
            given = {
                name: torch.empty(x.shape, dtype=x.dtype) if isinstance(x, Tensor) else x
                for name, x in given.items()
                if name in names
            }
        found = wrapping.identify_accessed_tensors(launch.kernel, given, {})
        written = {each.name for each in found.read_writes.writes}
        rows = {"x_ptr", "y_ptr", "embeddings_ptr", "predictions_ptr", "labels_ptr", "terms_ptr", "source_ptr"}
        rows |= {"class_weights_ptr", "weights_ptr", "x_groups_ptr", "y_groups_ptr"}
        rows |= {"bank_ptr", "bank_labels_ptr"} if launch.name != "copy_kernel" else set()
        rows -= {"terms_ptr"} if launch.name == "info_nce_terms_kernel" else set()
        rows -= {"source_ptr"} if launch.name == "order_rows_kernel" else set()
        assert not written & rows, launch.name
