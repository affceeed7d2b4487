"""What a tensor core makes of a product of matrices, as that of an A100 was found to (Fasi, Higham, Mikaitis and
Pranesh, 2021): of a few columns at a time, the products are exact, they and the summand are cut off below one bit more
than the largest of them has as float32, what is left is added up exactly, and the sum is cut off to float32. All cuts
are towards zero, so long sums drift, which sums that round do not. Others differ in the columns and bits alone.

That takes fifty times as long as a product of numpy. Unless FASTPIXCON_TEST_CORES is "exact", the sum of a few columns
alone is cut off, which takes six times as long and drifts a little less."""

import os

import numpy as np

from .types import F32, F64, U32, U64

COLUMNS = {"f16": 8, "bf16": 8, "tf32": 4}  # added up at once
EXACT = os.environ.get("FASTPIXCON_TEST_CORES") == "exact"
BITS = 24  # behind the point of the largest
LEAST = F32(2.0**-100)  # what is less counts as that, which keeps the scales finite


def power(x: np.ndarray) -> np.ndarray:
    """2^exponent of float32; 0 for zeros and denormals, infinite for what is not finite."""
    return (x.view(U32) & U32(0x7F800000)).view(F32)


def cut_to_float32(x: np.ndarray) -> np.ndarray:
    return (x.view(U64) & U64(0xFFFFFFFFE0000000)).view(F64).astype(F32)


def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray, type_: str) -> np.ndarray:
    """a^T b + c of float32 a [K, M, warps], b [K, N, warps], c [M, N, warps], of numbers that the type has."""
    with np.errstate(all="ignore"):
        if not EXACT:
            return cut_sums(a, b, c, COLUMNS[type_])
        for k in range(0, len(a), COLUMNS[type_]):
            c = add_columns(a[k : k + COLUMNS[type_], :, None], b[k : k + COLUMNS[type_], None], c)
    return c


def cut_sums(a: np.ndarray, b: np.ndarray, c: np.ndarray, columns: int) -> np.ndarray:
    return np.ascontiguousarray(
        cut_sums_of_units(a.transpose(2, 1, 0), b.transpose(2, 0, 1), c.transpose(2, 0, 1), columns).transpose(1, 2, 0)
    )


def cut_sums_of_units(a: np.ndarray, b: np.ndarray, c: np.ndarray, columns: int) -> np.ndarray:
    """Of [units, M, K], [units, K, N] and [units, M, N]."""
    x, y, sums = a.astype(F64), b.astype(F64), c.astype(F64)
    for k in range(0, x.shape[2], columns):
        sums = cut_to_float32(x[:, :, k : k + columns] @ y[:, k : k + columns] + sums).astype(F64)
    return sums.astype(F32)


def multiply_add_units(a: np.ndarray, b: np.ndarray, c: np.ndarray, type_: str) -> np.ndarray:
    """a b + c of wgmma, [units, M, N]: on an H100, of twice as many columns at once."""
    columns = 2 * COLUMNS[type_]
    with np.errstate(all="ignore"):
        if not EXACT:
            return cut_sums_of_units(a, b, c, columns)
        left, right = (np.ascontiguousarray(x) for x in (a.transpose(2, 1, 0), b.transpose(1, 2, 0)))
        sums = np.ascontiguousarray(c.transpose(1, 2, 0))
        for k in range(0, len(left), columns):
            sums = add_columns(left[k : k + columns, :, None], right[k : k + columns, None], sums)
    return np.ascontiguousarray(sums.transpose(2, 0, 1))


def add_columns(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    terms = power(a) * power(b)
    largest = np.maximum(terms.max(0), np.maximum(power(c), LEAST))
    scale = F32(2.0**BITS) / largest
    np.multiply(a, b, out=terms)
    finite = np.isfinite(largest)
    ordinary = None if finite.all() else terms.sum(0) + c
    terms *= scale
    total = terms.astype(np.int32).sum(0, dtype=np.int32) + (c * scale).astype(np.int32)  # a conversion cuts off
    sums = cut_to_float32(total * (largest * F32(2.0**-BITS)).astype(F64))
    return sums if ordinary is None else np.where(finite, sums, ordinary)
