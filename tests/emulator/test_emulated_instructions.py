"""Single instructions on the numbers where they go wrong, against Python's integers and torch's floats."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ptxemu
import pytest
from handwritten import kernel

EDGES = [0, 1, 2, 3, 5, 7, 15, 16, 31, 32, 33, 63, 64, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0xDEADBEEF]
REGISTER = {1: "%rs", 2: "%rs", 4: "%r", 8: "%rd"}


def run(instruction: str, inputs: Sequence[np.ndarray], output: type, suffix: str = "") -> np.ndarray:
    """``instruction d, a, b, ...`` for every element."""
    result = np.zeros(len(inputs[0]), output)
    body = "mov.u32 %r0, %tid.x;\n"
    registers = []
    for i, x in enumerate((*inputs, result)):
        bits, register = 8 * x.itemsize, f"{REGISTER[x.itemsize]}{i + 1}"
        body += f"mul.wide.u32 %rd20, %r0, {x.itemsize}; ld.param.u64 %rd21, [p{i}]; add.s64 %rd22, %rd21, %rd20;\n"
        if x is result:
            body += (
                f"{instruction} {', '.join([register, *registers])}{suffix};\nst.global.b{bits} [%rd22], {register};\n"
            )
        else:
            body += f"ld.global.b{bits} {register}, [%rd22];\n"
        registers.append(register)
    params = ", ".join(f".param .u64 p{i}" for i in range(len(registers)))
    ptxemu.launch(kernel(body, params), "k", 1, len(result), [*inputs, result])
    return result


def integers(rng: np.random.Generator, count: int, bits: int = 32) -> np.ndarray:
    """The edges, in any order, and others."""
    numbers = (
        rng.integers(0, 2**bits, count, dtype=np.uint64) if bits < 64 else rng.integers(0, 2**64, count, np.uint64)
    )
    edges = [x % 2**bits for x in EDGES] + [2**bits - 1, 2 ** (bits - 1)]
    numbers[: len(edges)] = rng.permutation(np.array(edges, np.uint64))
    return numbers.astype(f"u{bits // 8}")


def signed(x: int, bits: int = 32) -> int:
    return x - 2**bits if x >> (bits - 1) & 1 else x


def towards_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def extracted(a: int, b: int, c: int, sign: bool) -> int:
    position, length = b & 255, c & 255
    if not sign:
        return (a >> position) & ((1 << length) - 1) if position < 32 else 0
    if length == 0:
        return 0
    kept = min(length, 32)
    field = signed(a) >> min(position, 31)
    return signed(field & ((1 << kept) - 1), kept)


def inserted(a: int, b: int, c: int, d: int) -> int:
    position, length = c & 255, min(d & 255, 32)
    field = ((1 << length) - 1) << position if position < 32 else 0
    return (b & ~field) | ((a << position) & field)


INTEGERS: list[tuple[str, int, Callable[..., int]]] = [
    ("add.u32", 2, lambda a, b: a + b),
    ("sub.u32", 2, lambda a, b: a - b),
    ("add.sat.s32", 2, lambda a, b: min(max(signed(a) + signed(b), -(2**31)), 2**31 - 1)),
    ("mul.lo.u32", 2, lambda a, b: a * b),
    ("mul.hi.u32", 2, lambda a, b: a * b >> 32),
    ("mul.hi.s32", 2, lambda a, b: signed(a) * signed(b) >> 32),
    ("mad.lo.s32", 3, lambda a, b, c: a * b + c),
    ("mad.hi.u32", 3, lambda a, b, c: (a * b >> 32) + c),
    ("div.u32", 2, lambda a, b: a // b if b else -1),
    ("div.s32", 2, lambda a, b: towards_zero(signed(a), signed(b)) if b else -1),
    ("rem.s32", 2, lambda a, b: int(math.fmod(signed(a), signed(b))) if b else -1),
    ("min.s32", 2, lambda a, b: min(signed(a), signed(b))),
    ("max.u32", 2, max),
    ("abs.s32", 1, lambda a: abs(signed(a))),
    ("neg.s32", 1, lambda a: -a),
    ("popc.b32", 1, int.bit_count),
    ("clz.b32", 1, lambda a: 32 - a.bit_length()),
    ("brev.b32", 1, lambda a: int(f"{a:032b}"[::-1], 2)),
    ("bfind.u32", 1, lambda a: a.bit_length() - 1),
    ("bfind.shiftamt.u32", 1, lambda a: 32 - a.bit_length() if a else -1),
    ("bfind.s32", 1, lambda a: (~a % 2**32 if signed(a) < 0 else a).bit_length() - 1),
    ("shl.b32", 2, lambda a, b: a << b if b < 32 else 0),
    ("shr.u32", 2, lambda a, b: a >> b),
    ("shr.s32", 2, lambda a, b: signed(a) >> min(b, 31)),
    ("shf.l.wrap.b32", 3, lambda a, b, c: (b << 32 | a) << (c & 31) >> 32),
    ("shf.r.clamp.b32", 3, lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("bfe.u32", 3, lambda a, b, c: extracted(a, b, c, False)),
    ("bfe.s32", 3, lambda a, b, c: extracted(a, b, c, True)),
    ("bfi.b32", 4, inserted),
    ("and.b32", 2, lambda a, b: a & b),
    ("xor.b32", 2, lambda a, b: a ^ b),
    ("not.b32", 1, lambda a: ~a),
]


@pytest.mark.parametrize(("instruction", "operands", "expected"), INTEGERS, ids=[x[0] for x in INTEGERS])
def test_integers(instruction: str, operands: int, expected: Callable[..., int], rng: np.random.Generator) -> None:
    inputs = [integers(rng, 256) for _ in range(operands)]
    if instruction.startswith(("div", "rem")):
        inputs[1][inputs[1] == 0] = 9  # undefined
        inputs[1][inputs[1] == 2**32 - 1] = 11
    actual = run(instruction, inputs, np.uint32)
    assert actual.tolist() == [expected(*(int(x) for x in row)) % 2**32 for row in zip(*inputs, strict=True)]


def test_products_of_64_bits(rng: np.random.Generator) -> None:
    a, b = integers(rng, 64, 64), integers(rng, 64, 64)
    pairs = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    assert run("mul.hi.u64", [a, b], np.uint64).tolist() == [x * y >> 64 for x, y in pairs]
    assert run("mul.hi.s64", [a, b], np.uint64).tolist() == [
        (signed(x, 64) * signed(y, 64) >> 64) % 2**64 for x, y in pairs
    ]
    low = [x.astype(np.uint32) for x in (a, b)]
    products = [int(x) * int(y) for x, y in zip(*low, strict=True)]
    assert run("mul.wide.u32", low, np.uint64).tolist() == products


def test_lop3_of_all_tables() -> None:
    a, b, c = (np.array([x], np.uint32) for x in (0xF0F0F0F0, 0xCCCCCCCC, 0xAAAAAAAA))
    for table in range(0, 256, 5):
        assert run("lop3.b32", [a, b, c], np.uint32, f", {table}")[0] == table * 0x01010101


def test_prmt(rng: np.random.Generator) -> None:
    a, b = integers(rng, 32), integers(rng, 32)

    def expected(x: int, y: int, selector: int) -> int:
        data = (y << 32 | x).to_bytes(8, "little")
        chosen = [selector >> 4 * i & 15 for i in range(4)]
        return int.from_bytes(bytes(255 * (data[s & 7] >> 7) if s & 8 else data[s] for s in chosen), "little")

    for selector in (0x5410, 0x7632, 0x0123, 0x9A3C, 0xFFFF):
        wanted = [expected(int(x), int(y), selector) for x, y in zip(a, b, strict=True)]
        assert run("prmt.b32", [a, b], np.uint32, f", {selector}").tolist() == wanted
        selectors = np.full(32, selector, np.uint32)
        assert run("prmt.b32", [a, b, selectors], np.uint32).tolist() == wanted


def test_carry_goes_through_all_words(rng: np.random.Generator) -> None:
    """A product of 64 by 64 bits and a sum of 96, in words of 32."""
    body = """ld.param.u64 %rd1, [p]; mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, 16; add.s64 %rd1, %rd1, %rd2;
    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
    mul.lo.u32 %r5, %r1, %r3; mul.hi.u32 %r6, %r1, %r3;
    mad.lo.cc.u32 %r6, %r1, %r4, %r6; madc.hi.u32 %r7, %r1, %r4, 0;
    mad.lo.cc.u32 %r6, %r2, %r3, %r6; madc.hi.cc.u32 %r7, %r2, %r3, %r7; addc.u32 %r8, 0, 0;
    mad.lo.cc.u32 %r7, %r2, %r4, %r7; madc.hi.u32 %r8, %r2, %r4, %r8;
    sub.cc.u32 %r5, %r5, %r1; subc.cc.u32 %r6, %r6, %r2; subc.cc.u32 %r7, %r7, %r3; subc.u32 %r8, %r8, %r4;
    st.global.v4.u32 [%rd1], {%r5, %r6, %r7, %r8};"""
    words = np.stack([integers(rng, 64) for _ in range(4)], 1)

    def number(row: Sequence[Any]) -> int:
        return sum(int(x) << 32 * i for i, x in enumerate(row))

    expected = [(number(row[:2]) * number(row[2:]) - number(row)) % 2**128 for row in words]
    ptxemu.launch(kernel(body), "k", 1, 64, [words])
    assert [number(row) for row in words] == expected


FLOATS = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    1e-40,
    -1e-40,
    65504.0,
    65520.0,
    1e10,
    -1e10,
    3e38,
    math.inf,
    -math.inf,
    math.nan,
]


def clamped(x: float, low: int, high: int) -> int:
    return 0 if math.isnan(x) else low if x <= low else high if x >= high else int(x)


@pytest.mark.parametrize(
    ("mode", "whole"), [("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)]
)
def test_float_to_integer_is_clamped(mode: str, whole: Callable[[float], int]) -> None:
    x = np.array(FLOATS, np.float32)
    for type_, dtype, low, high in (("s32", np.int32, -(2**31), 2**31 - 1), ("u32", np.uint32, 0, 2**32 - 1)):
        rounded = [float(whole(v)) if math.isfinite(v) else v for v in x.tolist()]
        assert run(f"cvt.{mode}.{type_}.f32", [x], dtype).tolist() == [clamped(v, low, high) for v in rounded]


@pytest.mark.parametrize(("type_", "dtype"), [("f16", "float16"), ("bf16", "bfloat16")])
def test_float_to_half(type_: str, dtype: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = np.concatenate([np.array(FLOATS[:-1]), rng.standard_normal(200), [1 + 2**-9, 1 + 2**-11, 1 + 3 * 2**-11]])
    x = x.astype(np.float32)
    expected = torch.from_numpy(x).to(getattr(torch, dtype)).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(run(f"cvt.rn.{type_}.f32", [x], np.uint16), expected)
    pair = run(f"cvt.rn.{type_}x2.f32", [x, x[::-1].copy()], np.uint32)
    np.testing.assert_array_equal(pair, expected.astype(np.uint32) << 16 | expected[::-1])
    back = run(f"cvt.f32.{type_}", [expected], np.float32)
    np.testing.assert_array_equal(
        back, torch.from_numpy(expected.view(np.int16)).view(getattr(torch, dtype)).float().numpy()
    )


def test_float_to_tf32_ties_away_from_zero() -> None:
    x = np.array([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 1 + 2**-12, 0], np.float32)
    expected = np.array([1 + 2**-10, 1 + 2**-9, -1 - 2**-10, 1, 0], np.float32)
    assert run("cvt.rna.tf32.f32", [x], np.float32).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("instruction", "a", "b", "expected"),
    [
        ("add.rn.f32", 1.0, 2**-24, 1.0),
        ("add.rp.f32", 1.0, 2**-24, 1 + 2**-23),
        ("mul.rz.f32", 1 + 2**-23, 1 + 2**-23, 1 + 2**-22),
        ("add.ftz.f32", 1e-40, 0.0, 0.0),
        ("add.sat.f32", 3.0, 1.0, 1.0),
        ("min.f32", math.nan, 2.0, 2.0),
        ("max.NaN.f32", math.nan, 2.0, math.nan),
        ("div.full.f32", 1.0, 0.0, math.inf),
        ("copysign.f32", -1.0, 3.0, -3.0),
    ],
)
def test_floats(instruction: str, a: float, b: float, expected: float) -> None:
    actual = run(instruction, [np.array([a], np.float32), np.array([b], np.float32)], np.float32)
    np.testing.assert_array_equal(actual, np.array([expected], np.float32))


def test_fma_rounds_once() -> None:
    x = np.array([1 + 2**-23], np.float32)
    assert run("fma.rn.f32", [x, x, -x * x], np.float32)[0] == 2**-46
    half = np.array([1 + 2**-10], np.float16)
    assert run("fma.rn.f16", [half, half, -(half * half)], np.float16)[0] == 2**-20


COMPARISONS = {
    "eq": (False, False),
    "ne": (True, False),
    "lt": (True, False),
    "neu": (True, True),
    "geu": (False, True),
}
COMPARISONS |= {"nan": (False, True), "num": (True, False)}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_with_nan(name: str) -> None:
    """Of 1 with 2, and with NaN."""
    for b, expected in zip((2.0, math.nan), COMPARISONS[name], strict=True):
        x = np.array([1.0, b], np.float32)
        y = np.zeros(1, np.uint32)
        body = f"""ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.global.v2.f32 {{%f1, %f2}}, [%rd1];
        setp.{name}.f32 %p1, %f1, %f2; selp.u32 %r1, 1, 0, %p1; st.global.u32 [%rd2], %r1;"""
        ptxemu.launch(kernel(body, ".param .u64 x, .param .u64 y"), "k", 1, 1, [x, y])
        assert bool(y[0]) is expected
