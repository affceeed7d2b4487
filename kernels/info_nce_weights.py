"""What weighs pairs.

A weight in Z is a factor: of e^s with a fixed shift; else its logarithm, -inf for 0, which is added to s, so that
nothing overflows that counts little. None: ones.
"""

import triton
import triton.language as tl

from fastpixcon.kernels.common import LN_2, has
from fastpixcon.kernels.info_nce_blocks import load_keys
from fastpixcon.kernels.info_nce_pairs import load_weight


@triton.jit
def as_factor(weight, HOW: tl.constexpr):
    if weight is None or has(HOW, "fixed"):
        return weight
    else:
        return tl.log2(weight) * LN_2


@triton.jit
def times(x, factor, HOW: tl.constexpr):
    """What e^s, or s, or another factor of it becomes."""
    if factor is None:
        return x
    elif x is None:
        return factor
    elif has(HOW, "fixed"):
        return x * factor
    else:
        return x + factor


@triton.jit
def without(x, factor):
    """A logarithm less that of a factor."""
    if factor is None:
        return x
    else:
        return x - factor


@triton.jit
def weighed(x, weight):
    if weight is None:
        return x
    else:
        return x * weight


@triton.jit
def class_weight(key, other_key, classes):
    """W of anchors of these keys with contrast rows of those; NaN of a label that has none, as of a row left out."""
    class_weights_ptr, K = classes
    if class_weights_ptr is None:
        return None
    else:
        at = class_weights_ptr + (key.to(tl.int32) * K + other_key.to(tl.int32))
        known = (key < tl.cast(K, tl.uint32)) & (other_key < tl.cast(K, tl.uint32))
        return tl.load(at, mask=known, other=float("nan"))


@triton.jit
def weight_in_sum(anchor, other, classes, HOW: tl.constexpr):
    """Of pairs in a tile with masks, a factor: v of positives, u W of negatives."""
    if other[5] is None and classes[0] is None:
        return None
    else:
        weight = weighed_class(other[5], class_weight(anchor[0], other[0], classes))
        if has(HOW, "apart"):
            return as_factor(weight, HOW)
        elif other[4] is None:
            return as_factor(tl.where(anchor[0] == other[0], 1.0, weight), HOW)
        else:
            return as_factor(tl.where(anchor[0] == other[0], other[4], weight), HOW)


@triton.jit
def weighed_class(u, W):
    """u W of which at least one is given."""
    if u is None:
        return W
    else:
        return weighed(u, W)


@triton.jit
def load_plain(rows, offs, end, classes, HOW: tl.constexpr):
    """Of rows, for a tile without masks: keys, if classes are weighed; factors as negatives."""
    if classes[0] is None:
        return None, as_factor(load_weight(rows, offs, end, 1), HOW)
    else:
        return load_keys(rows[1], offs, end), as_factor(load_weight(rows, offs, end, 1), HOW)


@triton.jit
def plain_weights(i, j, classes, HOW: tl.constexpr):
    """Factors in a tile without masks, whose rows i are all of one class, the key of i: in sums of the rows, of its
    columns; in sums of the columns, of the rows and of its columns, as anchors."""
    key_i, of_i = i
    key_j, of_j = j
    return (
        times(of_j, as_factor(class_weight(key_i, key_j, classes), HOW), HOW),
        of_i,
        as_factor(class_weight(key_j, key_i, classes), HOW),
    )
