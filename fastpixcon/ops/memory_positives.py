"""Contract of ``memory_positives``: ``contrast_positives`` over a memory bank, see ``memory_sums``.

log_sum    [N] log Z_i, of all contrast sets together
-> loss    [N] sum over kept positives of log(1 + Z_i e^-s_ip) ("negatives") or of log Z_i - s_ip ("all")
   weight  [N] sum of Z_i / (Z_i + e^s_ip) ("negatives"), or zeros
   count   [N] int32, the kept positives
   pull    [N, D] float32 (float64 for float64 rows): sum of Z_i / (Z_i + e^s_ip) c_p ("negatives") or of c_p; [0]
           unless wants_pull
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.values import BankRows, Pairs, Rows, Rule


def fake(
    anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, log_sum: Tensor, wants_pull: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N = anchors.x.shape[0]
    return (
        log_sum.new_empty(N),
        log_sum.new_empty(N),
        log_sum.new_empty(N, dtype=torch.int32),
        log_sum.new_empty(anchors.x.shape if wants_pull else (0,)),
    )


define("memory_positives", fake, "loss weight count pull")
