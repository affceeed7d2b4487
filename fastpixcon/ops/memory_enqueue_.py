"""Contract of ``memory_enqueue_``: writes rows into the rings of a memory bank, in place.

    bank           [K, S, D], S = pixel_size + region_size: class c has a ring of pixels bank[c, :pixel_size] and a
                   ring of regions, the rest
    bank_labels    [K, S] int32: c where bank[c, s] has been written, -1 where it is empty
    written        [2, K] int64: how many rows each ring of pixels, of regions, has taken since the start
    pixels         [P, D], pixel_labels  [P] int32: a row of label c goes to the next place of the ring of pixels of
                   class c, in the order of the rows; a row of another label than 0..K-1 is left out
    regions        [R, D], region_labels [R] int32: the same for the rings of regions

The next place of a ring is written % size; it advances by what was written. Of more rows than a ring has places the
last ones stay. Rows are rounded to the dtype of the bank.
"""

from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.ops.signature import InPlace


def fake(
    bank: InPlace,
    bank_labels: InPlace,
    written: InPlace,
    pixel_size: int,
    pixels: Tensor,
    pixel_labels: Tensor,
    regions: Tensor,
    region_labels: Tensor,
) -> None:
    return None


define("memory_enqueue_", fake, "")
