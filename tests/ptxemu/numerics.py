"""Number formats bit by bit: bf16, tf32, directed rounding, saturating conversion."""

import numpy as np

F16, F32, F64 = np.float16, np.float32, np.float64
U16, U32, U64 = np.uint16, np.uint32, np.uint64


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(U32) << U32(16)).view(F32)


def f32_to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounds to nearest even; NaN becomes 0x7fff."""
    x = np.ascontiguousarray(x, F32)
    bits = x.view(U32)
    rounded = ((bits + U32(0x7FFF) + ((bits >> U32(16)) & U32(1))) >> U32(16)).astype(U16)
    nan = np.isnan(x)
    return np.where(nan, U16(0x7FFF), rounded) if nan.any() else rounded


def f32_to_bf16_rz(x: np.ndarray) -> np.ndarray:
    x = np.ascontiguousarray(x, F32)
    return np.where(np.isnan(x), U16(0x7FFF), (x.view(U32) >> U32(16)).astype(U16))


def f64_to_f32_odd(x: np.ndarray) -> np.ndarray:
    """Rounds to odd, so that a second rounding to a narrower type is as exact as one."""
    rounded = x.astype(F32)
    back = rounded.astype(F64)
    inexact = (back != x) & np.isfinite(x) & np.isfinite(rounded)
    if not inexact.any():
        return rounded
    bits = np.atleast_1d(rounded).view(U32).reshape(np.shape(rounded))
    bits = np.where(inexact & (np.abs(back) > np.abs(x)), bits - U32(1), bits)
    return np.where(inexact, bits | U32(1), bits).astype(U32).view(F32)


def f64_to_bf16(x: np.ndarray) -> np.ndarray:
    return f32_to_bf16(f64_to_f32_odd(x))


def tf32(x: np.ndarray) -> np.ndarray:
    """What a tensor core sees of float32 bits: it ignores the low 13."""
    return (np.ascontiguousarray(x).view(U32) & U32(0xFFFFE000)).view(F32)


def f32_to_tf32(x: np.ndarray, ties_away: bool) -> np.ndarray:
    """Bits, rounded to the nearest; ties away from zero (.rna) or to even (.rn)."""
    bits = np.ascontiguousarray(x, F32).view(U32)
    finite = (bits & U32(0x7F800000)) != U32(0x7F800000)
    half = U32(0x1000) if ties_away else U32(0xFFF) + ((bits >> U32(13)) & U32(1))
    return np.where(finite, (bits + half) & U32(0xFFFFE000), bits).astype(U32)


def flush(x: np.ndarray) -> np.ndarray:
    """Denormal float32 become zeros of their sign (.ftz)."""
    small = np.abs(x) < F32(1.1754944e-38)
    return np.where(small, np.copysign(F32(0), x), x) if small.any() else x


def saturate(x: np.ndarray) -> np.ndarray:
    """Into [0, 1]; NaN becomes 0 (.sat)."""
    return np.where(np.isnan(x), x.dtype.type(0), np.clip(x, x.dtype.type(0), x.dtype.type(1)))


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), x, np.maximum(x, x.dtype.type(0)))


def directed(x: np.ndarray, dtype: type, mode: str) -> np.ndarray:
    """float64 or wider to dtype, rounded by rz, rm or rp."""
    rounded: np.ndarray = x.astype(dtype)
    back = rounded.astype(x.dtype)
    if mode == "rm":
        wrong, towards = back > x, -np.inf
    elif mode == "rp":
        wrong, towards = back < x, np.inf
    else:
        wrong, towards = np.abs(back) > np.abs(x), 0.0
    return np.where(wrong, np.nextafter(rounded, dtype(towards)), rounded) if np.any(wrong) else rounded


def round_to(x: np.ndarray, dtype: type, mode: str | None) -> np.ndarray:
    return directed(x, dtype, mode) if mode in ("rz", "rm", "rp") else x.astype(dtype)


WHOLE = {"rni": np.rint, "rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc}


def to_int(x: np.ndarray, dtype: type, mode: str | None) -> np.ndarray:
    """Float to integer, clamped. NaN gives 0 for f16 and f32 to at most 32 bits, else the sign bit alone."""
    info = np.iinfo(dtype)
    of_nan = 0 if x.dtype != F64 and info.bits < 64 else 1 << (info.bits - 1)
    x = WHOLE[mode or "rzi"](x.astype(F64))
    nan = np.isnan(x)
    if info.bits < 64:
        return np.where(nan, float(of_nan), np.clip(x, float(info.min), float(info.max))).astype(np.int64).astype(dtype)
    # the largest 64-bit integers are no float64
    large, small = x >= float(info.max), x < float(info.min)
    whole: np.ndarray = np.where(nan | large | small, 0.0, x).astype(dtype)
    whole = np.where(large, dtype(info.max), whole)
    whole = np.where(small, dtype(info.min), whole)
    return np.where(nan, np.uint64(of_nan).astype(dtype), whole) if nan.any() else whole


def saturate_int(x: np.ndarray, dtype: type) -> np.ndarray:
    """Integer to integer, clamped (.sat)."""
    to, of = np.iinfo(dtype), np.iinfo(x.dtype)
    low, high = max(to.min, of.min), min(to.max, of.max)
    return np.clip(x, x.dtype.type(low), x.dtype.type(high)).astype(dtype)
