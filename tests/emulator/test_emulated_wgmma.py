"""Products of wgmma, whose matrices lie in shared memory in every layout, against numpy."""

from collections.abc import Callable

import numpy as np
import ptxemu
import pytest
from ptxemu.numerics import bf16_to_f32, f32_to_bf16, tf32
from wgmma_products import HEAD, Layout, Product, fragments, matrix_of

Cuda = Callable[..., ptxemu.Result]


def bits_of(x: np.ndarray, type_: str) -> np.ndarray:
    if type_ == "f16":
        return x.astype(np.float16).view(np.uint16)
    return f32_to_bf16(x).reshape(x.shape) if type_ == "bf16" else x.view(np.uint32)


def numbers_of(bits: np.ndarray, type_: str) -> np.ndarray:
    if type_ == "f16":
        return bits.view(np.float16).astype(np.float64)
    return (bf16_to_f32(bits) if type_ == "bf16" else tf32(bits)).astype(np.float64)


# K-major, of matrices with 4 steps of 16 columns (tf32: 8), which lie side by side in a line of the swizzle.
ROWS = {
    128: (Layout(0, 16, 1024, 128), 32),
    64: (Layout(0, 16, 512, 64), 32),
    32: (Layout(0, 16, 256, 32), 32),
    16: (Layout(0, 1024, 128), 2048),  # the two halves of a step 1024 bytes apart, eight rows 128
}
STEPS = {128: 4, 64: 2, 32: 1, 16: 2}  # of a line of the swizzle


def layout(rows: int, width: int, by_columns: bool, start: int) -> tuple[Layout, int]:
    """And how far apart the steps are, bytes."""
    if not by_columns:
        found, step = ROWS[width]
        if width == 16:
            found, step = found._replace(leading=16 * rows), 32 * rows
        return found._replace(start=start), step
    # eight columns of all rows lie together, in parts as wide as the swizzle
    parts = -(-2 * rows // width)
    eight = 8 * width * parts
    if width == 16:
        return Layout(start, eight, 128, 16, True), 2 * eight
    return Layout(start, 8 * width, eight, width, True), 2 * eight


PRODUCTS = [
    *(Product(n) for n in (8, 24, 128, 256)),
    *(Product(64, of) for of in ("f16", "tf32", "bf16")),
    Product(32, "f16", "f16"),
    Product(32, "f16", "f16", left_in_registers=True),
    Product(64, "bf16", left_by_columns=True),
    Product(64, "bf16", right_by_columns=True),
    Product(128, "f16", left_by_columns=True, right_by_columns=True),
    Product(64, "bf16", left_in_registers=True),
    Product(64, "bf16", left_in_registers=True, right_by_columns=True),
    Product(16, "tf32", left_in_registers=True),
    Product(8, signs=(-1, 1)),
    Product(8, left_in_registers=True, signs=(1, -1)),
]
SOURCE = HEAD + "".join(product.source() for product in dict.fromkeys(PRODUCTS))


@pytest.mark.parametrize("width", [16, 32, 64, 128])
@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_a_product(product: Product, width: int, hopper: Cuda, rng: np.random.Generator) -> None:
    steps = STEPS[width]
    K = steps * product.depth
    a, b = (rng.standard_normal((rows, K), np.float32) for rows in (64, product.N))
    a, b = bits_of(a, product.of), bits_of(b, product.of)
    left, next_a = layout(64, width, product.left_by_columns, 0)
    right, next_b = layout(product.N, width, product.right_by_columns, 16384)
    image = np.zeros(16384 + 65536, np.uint8)
    left.put(image, a)
    right.put(image, b)
    lefts = fragments(a, product.depth) if product.left_in_registers else None
    out = np.zeros((128, product.registers), np.float32 if product.to == "f32" else np.uint32)
    arguments = [image, len(image), left.descriptor, right.descriptor, next_a >> 4, next_b >> 4, steps, lefts, out]
    result = hopper(SOURCE, product.name, 1, 128, arguments, dynamic_smem=len(image))
    assert result.warnings == []
    if product.to == "f16":
        out = out.view(np.float16).astype(np.float32)
    wanted = numbers_of(a, product.of) @ numbers_of(b, product.of).T * np.prod(product.signs)
    tolerance = 2e-2 if product.to == "f16" else 2e-5
    np.testing.assert_allclose(matrix_of(out), wanted, rtol=tolerance, atol=tolerance)
    assert result.profile.flops == 2 * 64 * product.N * K
