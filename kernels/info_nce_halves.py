"""Products of unit rows of float32 by two float16 halves, "fp16x3".

4096 x = hi + lo, hi the nearest float16 and lo that of the rest: 22 bits where |x| is 2^-15 or more, beyond that 2^-37.
So x.y = 2^-24 (hi.lo + lo.hi + hi.hi); lo.lo would be below 2^-22 of its terms (after Ootomo and Yokota 2022, doi
10.1177/10943420221090256, who scale lo, for numbers of any size). Rows lie [N, 2, D], split when they are prepared; of
a tile of rows the halves are tuples of chunks, [BLOCK, 64] each.

Assembly is called pure, as it is: of any other torch.compile thinks that it writes to all that its kernel gets.

Tensor cores do not round what they add up, they cut it off: a chain of products, the small ones first, is no longer
than a chunk of logits, or a tile of a gradient, and is added up outside of them.
"""

import triton
import triton.language as tl

from fastpixcon.kernels.common import INTERPRETED, cast, dot

UNIT = tl.constexpr(4096.0)  # what 1 is in halves; rows up to 15 are finite
MOST = tl.constexpr(16384.0)  # what the largest |d_loss| is in dL/ds, which is no more than twice as large


@triton.constexpr_function
def width_of_chunk(HOW, TILE):
    """Of the chunks of a block of rows; without halves it is one."""
    return min(64, TILE[3]) if "fp16x3" in HOW.split() else TILE[3]


@triton.constexpr_function
def number_of_chunks(D, HOW, TILE):
    """None lies beyond D."""
    return (D + 63) // 64 if "fp16x3" in HOW.split() else 1


@triton.jit
def split(x):
    """hi and lo of float32; of what is too large, or NaN, lo is NaN or of the other sign."""
    hi = cast(x, tl.float16)
    return hi, cast(x - hi.to(tl.float32), tl.float16)


@triton.jit
def add_outside(sum, x):
    """sum + x, rounded. Neither does Triton make x a product that begins with the sum, nor does LLVM put the addition
    off to where the next products are done, which takes registers for all of them."""
    if INTERPRETED:
        return sum + x
    else:
        return tl.inline_asm_elementwise(
            "add.rn.f32 $0, $1, $2;", "=f,f,f", [sum, x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def add_lifted(sum, x, down):
    """sum + x down [rows], rounded once, likewise; None: down is 1."""
    if down is None:
        return add_outside(sum, x)
    elif INTERPRETED:
        return sum + x * down[:, None]
    else:
        return tl.inline_asm_elementwise(
            "fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", [x, down[:, None], sum], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def lifted(h):
    """h >= 0 [M, N], each row times a power of two that makes its largest number one of the largest of float16, whose
    exponents are few; and by what that is undone, [M]."""
    largest = tl.max(h, axis=1)
    exponent = tl.maximum(largest.to(tl.int32, bitcast=True) & 0x7F800000, 15 << 23)
    up = (0x7F000000 - exponent + (14 << 23)).to(tl.float32, bitcast=True)
    return h * up[:, None], (exponent - (14 << 23)).to(tl.float32, bitcast=True)


@triton.jit
def zeros_after(x):
    """Zeros that wait for x, or ptxas puts off what makes it."""
    if INTERPRETED:
        return tl.zeros_like(x)
    else:
        return tl.inline_asm_elementwise(
            "{ .reg .f32 t; abs.f32 t, $1; min.f32 $0, t, 0f00000000; }",
            "=f,f",
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def load_chunk(ptrs, inside, k, D: tl.constexpr, MASKED: tl.constexpr, WIDTH: tl.constexpr):
    """Columns k.. of rows that begin at ptrs, zeros beyond D and, if MASKED, where rows are not inside."""
    offs_k = tl.arange(0, WIDTH)
    if D % WIDTH == 0 and MASKED:
        return tl.load(ptrs + k, mask=inside, other=0.0)
    elif D % WIDTH == 0:
        return tl.load(ptrs + k)
    elif MASKED:
        return tl.load(ptrs + k, mask=inside & (offs_k < D - k)[None, :], other=0.0)
    else:
        return tl.load(ptrs + k, mask=(offs_k < D - k)[None, :], other=0.0)


@triton.jit
def places(ptr, start, n, D: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Of the rows start.. of [n, 2, D], where they begin, [BLOCK, WIDTH], and which there are, [BLOCK, 1]."""
    offs_n = tl.arange(0, BLOCK)
    ptrs = ptr + tl.cast(start, tl.int64) * (2 * D) + (offs_n[:, None] * (2 * D) + tl.arange(0, WIDTH)[None, :])
    return ptrs, (offs_n < n - start)[:, None]


@triton.jit
def load_halves(ptr, start, n, D: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """hi and lo of the rows start.. of [n, 2, D], tuples of chunks [BLOCK, WIDTH]."""
    ptrs, inside = places(ptr, start, n, D, BLOCK, WIDTH)
    hi = ()
    lo = ()
    for k in tl.static_range(0, D, WIDTH):
        hi += (load_chunk(ptrs, inside, k, D, MASKED, WIDTH),)
        lo += (load_chunk(ptrs + D, inside, k, D, MASKED, WIDTH),)
    return hi, lo


@triton.jit
def add_products(x_hi, x_lo, y_hi, y_lo, sum, HOW: tl.constexpr):
    """sum + x y, of halves."""
    sum = dot(x_hi, y_lo, sum, HOW)
    sum = dot(x_lo, y_hi, sum, HOW)
    return dot(x_hi, y_hi, sum, HOW)


@triton.jit
def product_of_halves(x, y, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CHUNKS: tl.constexpr, HOW: tl.constexpr):
    """Dot products of rows x with rows y, [BLOCK_M, BLOCK_N]."""
    x_hi, x_lo = x
    y_hi, y_lo = y
    s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for c in tl.static_range(CHUNKS):
        chain = tl.zeros([BLOCK_M, BLOCK_N], tl.float32) if c == 0 else zeros_after(s)
        s = add_outside(s, add_products(x_hi[c], x_lo[c], tl.trans(y_hi[c]), tl.trans(y_lo[c]), chain, HOW))
    return s * (1.0 / (UNIT * UNIT))


@triton.jit
def halves_in_parts(
    x_ptr, i0, x_end, y_ptr, j0, y_end, D: tl.constexpr, HOW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The same of the rows i0.. and j0.., in parts of BLOCK_K columns: for rows that do not fit shared memory."""
    s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    x_ptrs, x_inside = places(x_ptr, i0, x_end, D, BLOCK_M, BLOCK_K)
    y_ptrs, y_inside = places(y_ptr, j0, y_end, D, BLOCK_N, BLOCK_K)
    for k in tl.range(0, D, BLOCK_K, num_stages=STAGES):
        x_hi = load_chunk(x_ptrs, x_inside, k, D, True, BLOCK_K)
        x_lo = load_chunk(x_ptrs + D, x_inside, k, D, True, BLOCK_K)
        y_hi = load_chunk(y_ptrs, y_inside, k, D, True, BLOCK_K)
        y_lo = load_chunk(y_ptrs + D, y_inside, k, D, True, BLOCK_K)
        chain = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        s = add_outside(s, add_products(x_hi, x_lo, tl.trans(y_hi), tl.trans(y_lo), chain, HOW))
    return s * (1.0 / (UNIT * UNIT))


@triton.jit
def add_rows_of_halves(
    h, y, y_ptr, j0, y_end, MASKED: tl.constexpr, D: tl.constexpr, total, down, HOW: tl.constexpr, TILE: tl.constexpr
):
    """total + h [BLOCK_M, BLOCK_N] times UNIT times the rows j0.. of y, given or None, in chunks; times down, see
    ``lifted``."""
    BLOCK_N: tl.constexpr = h.shape[1]
    WIDTH: tl.constexpr = width_of_chunk(HOW, TILE)
    h_hi, h_lo = split(h)
    ptrs, inside = places(y_ptr, j0, y_end, D, BLOCK_N, WIDTH)
    sums = ()
    for c in tl.static_range(number_of_chunks(D, HOW, TILE)):
        if y is not None:
            y_hi = y[0][c]
            y_lo = y[1][c]
        else:
            y_hi = load_chunk(ptrs, inside, c * WIDTH, D, MASKED, WIDTH)
            y_lo = load_chunk(ptrs + D, inside, c * WIDTH, D, MASKED, WIDTH)
        if c == 0:
            chain = tl.zeros([h.shape[0], WIDTH], tl.float32)
        else:
            chain = zeros_after(sums[c - 1])
        sums += (add_lifted(total[c], add_products(h_hi, h_lo, y_hi, y_lo, chain, HOW), down),)
    return sums


@triton.jit
def load_joined(ptr, start, n, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows start.. of [n, 2, D] -> float32 [BLOCK, BLOCK_D], zeros beyond."""
    ptrs, inside = places(ptr, start, n, D, BLOCK, BLOCK_D)
    hi = load_chunk(ptrs, inside, 0, D, True, BLOCK_D).to(tl.float32)
    return (hi + load_chunk(ptrs + D, inside, 0, D, True, BLOCK_D).to(tl.float32)) * (1.0 / UNIT)
