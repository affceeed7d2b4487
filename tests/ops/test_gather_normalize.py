"""What gather_normalize means: unit rows of single pixels, and their gradients back in the map."""

import pytest
import torch
from torch import Tensor

from fastpixcon.functional import gather_normalize
from fastpixcon.ops.backends import choose, missing

BACKENDS = [
    pytest.param(b, marks=pytest.mark.skipif(missing(b) is not None, reason=str(missing(b))))
    for b in ("reference", "native")
]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def random_map(*size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def in_float64(embeddings: Tensor, index: Tensor, d_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and gradient map by PyTorch's own autograd, padding left zero."""
    e = embeddings.detach().double().requires_grad_()
    picked = e.permute(0, 2, 3, 1).reshape(-1, e.shape[1])[index.clamp(min=0)]
    rows = torch.nn.functional.normalize(picked, dim=1, eps=0) * (index >= 0)[:, None]
    rows.backward(d_rows.double())
    assert e.grad is not None
    return rows.detach(), e.grad


def test_worked_example(backend: str) -> None:
    embeddings = torch.zeros(2, 2, 1, 3)
    embeddings[1, :, 0, 2] = torch.tensor([3.0, 4.0])
    embeddings[0, :, 0, 1] = torch.tensor([0.0, -2.0])
    embeddings.requires_grad_()
    rows = gather_normalize(embeddings, torch.tensor([5, -1, 1]), backend=backend)
    torch.testing.assert_close(rows.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]))
    rows.backward(torch.tensor([[1.0, 0.0], [9.0, 9.0], [2.0, 5.0]]))
    wanted = torch.zeros(2, 2, 1, 3)
    # g - (g.r) r = [1, 0] - 0.6 [0.6, 0.8], over |e| = 5
    wanted[1, :, 0, 2] = torch.tensor([0.64, -0.48]) / 5
    wanted[0, :, 0, 1] = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(embeddings.grad, wanted)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(3, 37, 5, 7), (1, 1, 4, 4), (2, 64, 1, 9), (1, 200, 33, 40), (4, 8, 1, 1)])
def test_rows_and_gradient(
    backend: str, size: tuple[int, int, int, int], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    embeddings = random_map(*size, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    pixels = size[0] * size[2] * size[3]
    index = torch.randint(-1, pixels, (301,), generator=torch.Generator().manual_seed(1))  # with repetitions
    d_rows = random_map(301, size[1], dtype=dtype, seed=2)
    rows = gather_normalize(embeddings, index, backend=backend)
    rows.backward(d_rows)
    wanted_rows, wanted = in_float64(embeddings, index, d_rows)
    assert rows.dtype == dtype
    assert rows.is_contiguous()
    torch.testing.assert_close(rows.double(), wanted_rows, atol=TOLERANCE[dtype], rtol=0)
    # The backward starts from the rounded rows, so errors are relative to the largest gradient.
    scale = 20 * TOLERANCE[dtype] * float(wanted.abs().max().clamp(min=float(1 / embeddings.detach().abs().min())))
    torch.testing.assert_close(embeddings.grad.double(), wanted, atol=scale, rtol=0)
    assert embeddings.grad.is_contiguous(memory_format=layout)
    untouched = torch.ones(pixels, dtype=torch.bool)
    untouched[index[index >= 0]] = False
    assert (embeddings.grad.permute(0, 2, 3, 1).reshape(pixels, -1)[untouched] == 0).all()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, :, ::2, 1::3],
        lambda x: x.transpose(2, 3),
        lambda x: x.transpose(0, 1),
        lambda x: x[::2, 3:],
        lambda x: x.permute(0, 3, 1, 2),
        lambda x: x[:1].expand(5, -1, -1, -1),
        lambda x: x[..., :1].expand(-1, -1, -1, 4),
    ],
)
def test_any_strides(backend: str, view) -> None:
    embeddings = view(random_map(4, 18, 10, 12))
    pixels = embeddings.shape[0] * embeddings.shape[2] * embeddings.shape[3]
    index = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))
    wanted = gather_normalize(embeddings.contiguous(), index, backend=backend)
    assert torch.equal(gather_normalize(embeddings, index, backend=backend), wanted)
    strided = torch.stack([index, index], dim=1)[:, 0]
    assert torch.equal(gather_normalize(embeddings, strided, backend=backend), wanted)


def test_repeated_indices_add_up_before_rounding(backend: str) -> None:
    """256 equal gradients of 1 and one of 256: in bfloat16 one by one they would get stuck at 256."""
    embeddings = torch.zeros(1, 2, 2, 2, dtype=torch.bfloat16)
    embeddings[:, 1] = 1
    for layout in LAYOUTS:
        e = embeddings.clone(memory_format=layout).requires_grad_()
        rows = gather_normalize(e, torch.full((513,), 2), backend=backend)
        rows.backward(torch.tensor([1.0, 7.0], dtype=torch.bfloat16).expand(513, 2))  # a gradient without strides
        assert e.grad[0, :, 1, 0].tolist() == [512.0, 0.0]  # 513 rounded to bfloat16
        assert int(e.grad.count_nonzero()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-11, 1e-6, 1e18, 1e30, 1e37])
def test_tiny_and_huge_rows(backend: str, scale: float, dtype: torch.dtype) -> None:
    direction = random_map(1, 16, 2, 2).sign()
    embeddings = (direction * scale).to(dtype).requires_grad_()
    rows = gather_normalize(embeddings, torch.arange(4), backend=backend)
    rows.backward(torch.ones_like(rows))
    assert torch.isfinite(embeddings.grad).all()
    if scale * 4 < 1e-12:  # no direction
        assert (rows == 0).all()
        assert (embeddings.grad == 0).all()
    else:
        wanted = direction.permute(0, 2, 3, 1).reshape(4, 16) / 4
        torch.testing.assert_close(rows.detach().float(), wanted, atol=1e-6, rtol=0)


def test_not_a_number_stays_visible(backend: str) -> None:
    embeddings = torch.ones(1, 3, 1, 3)
    embeddings[0, 1, 0, 1] = torch.nan
    rows = gather_normalize(embeddings, torch.arange(3), backend=backend)
    assert rows.isnan().any(dim=1).tolist() == [False, True, False]
    # Padding reads nothing, not even a poisoned first pixel.
    poisoned = torch.full((1, 3, 1, 1), torch.nan)
    assert (gather_normalize(poisoned, torch.tensor([-1, -1]), backend=backend) == 0).all()


@pytest.mark.parametrize("wrong", [-2, 24, 2**40, -(2**63)])
def test_index_outside_the_map(backend: str, wrong: int) -> None:
    embeddings = random_map(2, 5, 3, 4)
    with pytest.raises(ValueError, match="index"):
        gather_normalize(embeddings, torch.tensor([0, wrong, 3]), backend=backend)


def test_backward_checks_memory_safety(backend: str) -> None:
    op = choose("gather_normalize_backward", torch.zeros(1), backend)
    rows, inv_norm, size = torch.zeros(2, 5), torch.ones(2), [2, 5, 3, 4]
    if backend == "reference":
        pytest.skip("PyTorch's own indexing checks")
    for index in ([0, 24], [-2, 0]):
        with pytest.raises(ValueError, match="index"):
            op(rows, rows, inv_norm, torch.tensor(index), size, False)
    index = torch.tensor([0, 1])
    for bad in ((rows[:1], rows, inv_norm), (rows, rows[:, :4], inv_norm), (rows, rows, inv_norm[:1])):
        with pytest.raises(ValueError, match="got shape"):
            op(*bad, index, size, False)
    with pytest.raises(TypeError, match="index"):
        op(rows, rows, inv_norm, index.int(), size, False)


@pytest.mark.parametrize("size", [(0, 4, 2, 2), (2, 4, 0, 3), (2, 4, 3, 3)])
def test_no_anchors(backend: str, size: tuple[int, int, int, int]) -> None:
    embeddings = random_map(*size).requires_grad_()
    rows = gather_normalize(embeddings, torch.empty(0, dtype=torch.int64), backend=backend)
    assert rows.shape == (0, 4)
    rows.sum().backward()
    assert embeddings.grad.shape == size
    assert (embeddings.grad == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_do_not_matter(backend: str, layout: torch.memory_format) -> None:
    embeddings = random_map(3, 48, 64, 48).contiguous(memory_format=layout)
    index = torch.randint(0, 500, (2000,), generator=torch.Generator().manual_seed(1))
    d_rows = random_map(2000, 48, seed=2)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            e = embeddings.clone().requires_grad_()
            rows = gather_normalize(e, index, backend=backend)
            rows.backward(d_rows)
            results.append((rows.detach(), e.grad))
    finally:
        torch.set_num_threads(threads)
    for rows, grad in results[1:]:
        assert torch.equal(rows, results[0][0])
        assert torch.equal(grad, results[0][1])
