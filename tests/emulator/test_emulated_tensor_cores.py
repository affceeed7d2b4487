"""What tensor cores cut off: hand-made sums, after Fasi, Higham, Mikaitis and Pranesh, 2021."""

import numpy as np
import ptxemu
import pytest
from handwritten import kernel
from ptxemu import tensor_core


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_core, "EXACT", True)


def test_sums_that_are_cut_off_alone_drift_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do where a kernel is executed and nothing else is asked for."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((4096, n, 3), np.float32).astype(np.float16).astype(np.float32) for n in (2, 5))
    truth = np.einsum("kmw,knw->mnw", a.astype(np.float64), b)
    results = []
    for exact in (True, False):
        monkeypatch.setattr(tensor_core, "EXACT", exact)
        results.append(tensor_core.multiply_add(a, b, np.zeros((2, 5, 3), np.float32), "f16"))
    of_terms, of_sums = ((truth - x) / truth for x in results)
    assert (of_sums > 5e-6).all()
    assert (of_sums < of_terms).all()


def total(products: list[tuple[float, float]], summand: float, type_: str = "f16") -> float:
    """The sum of products of a row and a column, of which there are as many as an instruction takes."""
    K = 8 if type_ == "tf32" else 16
    a, b = np.zeros((K, 1, 1), np.float32), np.zeros((K, 1, 1), np.float32)
    for k, (x, y) in enumerate(products):
        a[k], b[k] = x, y
    return tensor_core.multiply_add(a, b, np.full((1, 1, 1), summand, np.float32), type_).item()


@pytest.mark.parametrize(
    ("products", "summand", "wanted"),
    [
        ([(2**-12, 2**-12)] * 2, 1.0, 1 + 2**-23),  # one bit more than float32 has is kept
        ([(2**-12, 2**-12)], 1.0, 1.0),  # what is left is cut off
        ([(1.5 * 2**-12, 2**-12)] * 2, 1.0, 1 + 2**-23),  # by summands, not their sum of 1.5 * 2^-23
        ([(2**-12, 2**-13)] * 8, 1.0, 1.0),
        ([(3 * 2**-12, 2**-12)], 1.0, 1 + 2**-23),  # 1.5 units in the last place, which float32 would round to 2
        ([(3 * 2**-12, -(2**-13))], 1.0, 1 - 2**-24),  # towards zero, of either sign
        ([(3 * 2**-12, 2**-13)], -1.0, -(1 - 2**-24)),
        ([(1.5, 1.5), (1.5, -1.5), (2**-12, 2**-12)], 0.0, 2**-24),  # 2.25 counts as 1.5 * 1.5 does, as 1
        ([(0.0, 1.0)] * 16, 0.0, 0.0),
        ([(2.0**-14, 2.0**-10)] * 4, 0.0, 2.0**-22),
    ],
)
def test_what_is_below_the_largest_is_cut_off(
    products: list[tuple[float, float]], summand: float, wanted: float
) -> None:
    assert total(products, summand) == wanted
    assert total(products[:4], summand, "tf32") == (wanted if len(products) <= 4 else total(products[:4], summand))


def test_eight_columns_are_added_up_at_once_and_four_of_tf32() -> None:
    small, large = [(2**-12, 2**-13)] * 4, [(1.0, 1.0)]
    assert total(small * 2 + large, 0.0) == 1 + 2**-22
    assert total(small + large + small, 0.0) == 1.0
    assert total(small + large, 0.0) == 1.0
    assert total(small + large, 0.0, "tf32") == 1 + 2**-23


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_remains_so(value: float) -> None:
    np.testing.assert_equal(total([(value, 1.0)], 1.0), value)
    np.testing.assert_equal(total([(1.0, 1.0)], value), value)
    assert np.isnan(total([(value, 0.0)], 1.0))
    assert total([(2.0**100, 2.0**100)], 1.0, "bf16") == np.inf


def test_long_sums_drift() -> None:
    """Not those that are added up in float32 outside."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((8192, 4, 1)).astype(np.float16).astype(np.float32) for _ in range(2))
    exact = np.einsum("kmw,knw->mnw", a.astype(np.float64), b)
    inside, outside = np.zeros((4, 4, 1), np.float32), np.zeros((4, 4, 1), np.float32)
    nothing = np.zeros_like(inside)
    for k in range(0, 8192, 16):
        columns = a[k : k + 16], b[k : k + 16]
        inside = tensor_core.multiply_add(*columns, inside, "f16")
        outside = outside + tensor_core.multiply_add(*columns, nothing, "f16")
    assert np.abs(inside / exact - 1).min() > 1e-5
    assert np.all(inside < exact)
    assert np.abs(outside / exact - 1).max() < 1e-6


@pytest.mark.parametrize(("to", "wanted"), [("f32", 1.0), ("f16", 1 + 2**-9)])
def test_an_instruction_cuts_off(to: str, wanted: float) -> None:
    """Every element is 1 and 8 products: of 2^-25, which float32 would have, or of 1.5 * 2^-13, whose sum float16
    rounds."""
    small = "0x0a000a00" if to == "f16" else "0x0c000c00"  # 1.5 * 2^-13 and 2^-12, twice
    other = "0x3c003c00" if to == "f16" else "0x08000800"  # 1 and 2^-13
    summands = "%r6, %r6" if to == "f16" else "%f1, %f1, %f1, %f1"
    sums = "%r7, %r8" if to == "f16" else "%f2, %f3, %f4, %f5"
    first, type_ = ("%r7", "b32") if to == "f16" else ("%f2", "f32")
    text = kernel(
        f"""ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
        mov.u32 %r2, {small}; mov.u32 %r3, {other}; mov.f32 %f1, 0f3F800000; mov.u32 %r6, 0x3c003c00;
        mma.sync.aligned.m16n8k8.row.col.{to}.f16.f16.{to} {{{sums}}}, {{%r2, %r2}}, {{%r3}}, {{{summands}}};
        st.global.{type_} [%rd1], {first};"""
    )
    out = np.zeros(64 if to == "f16" else 32, np.float16 if to == "f16" else np.float32)
    ptxemu.launch(text, "k", 1, 32, [out])
    np.testing.assert_array_equal(out, wanted)
