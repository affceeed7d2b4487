"""Contract of ``memory_positives``: ``contrast_positives`` over a memory bank, see ``memory_sums``.

log_sum    [N] log Z_i, of all contrast sets together
-> loss    [N] sum over kept positives of log(1 + Z_i e^-s_ip) ("negatives") or of log Z_i - s_ip
   weight  [N] sum of Z_i / (Z_i + e^s_ip) ("negatives"), or zeros
   mass    [N] how many kept positives there are
   pull    [N, D] float32 (float64 for float64 rows): sum of Z_i / (Z_i + e^s_ip) c_p ("negatives") or of c_p, if
           Z_i > 0; [0] unless wants_pull
"""

from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.values import BankRows, Pairs, Rows, Rule


def fake(
    anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, log_sum: Tensor, wants_pull: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N = anchors.x.shape[0]
    loss, weight, mass = (log_sum.new_empty(N) for _ in range(3))
    return loss, weight, mass, log_sum.new_empty(anchors.x.shape if wants_pull else (0,))


define("memory_positives", fake, "loss weight mass pull")
