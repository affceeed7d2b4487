"""Arguments of operators: values that belong together, one after the other in a schema."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.ops.signature import Mask, flat, signature
from fastpixcon.values import BankRows, Pairs, Rows, Rule, Statistics


def test_the_schema_is_that_of_the_fake_kernel() -> None:
    def fake(of: Statistics, columns: Statistics | None, anchors: Rows, bank: BankRows | None, mask: Mask) -> Any: ...

    made = signature(fake, ["loss", "count"])
    assert made.schema == (
        "(Tensor d_loss, Tensor log_sum, Tensor weight, Tensor mass, Tensor? column_d_loss, Tensor? column_log_sum,"
        " Tensor? column_weight, Tensor? column_mass, Tensor anchors, Tensor anchor_labels,"
        " Tensor? anchor_positive_weights, Tensor? anchor_negative_weights, Tensor? anchor_groups, Tensor? bank,"
        " Tensor? bank_labels, Tensor? bank_negative_weights, bool[3] mask) -> (Tensor loss, Tensor count)"
    )
    assert made.place("anchors") == 8


def test_one_result_is_no_tuple() -> None:
    def fake(x: Tensor, fraction: float, diagonal: int | None) -> Tensor: ...

    assert signature(fake, ["mined"]).schema == "(Tensor x, float fraction, int? diagonal) -> Tensor mined"


@pytest.mark.parametrize("operator", list(define.OPERATORS))
def test_values_and_leaves_are_the_same(operator: str) -> None:
    """Also where a value may begin with nothing, as pairs without a diagonal do."""
    of = define.OPERATORS[operator]
    leaves = [None if leaf.type.endswith("?") else object() for leaf in of.leaves]
    values = of.values(leaves)
    assert list(values) == [argument.name for argument in of.arguments]
    assert flat(tuple(values.values()), of.widths) == leaves
    for name, kind, is_optional in of.arguments:
        assert kind is None or isinstance(values[name], type(None) if is_optional else kind)


def test_values_come_by_name() -> None:
    x, labels, tau = torch.ones(2, 3), torch.zeros(2), torch.tensor(0.1)
    leaves = [x, labels, *[None] * 8, tau, "all", True, False, None, "same", "any", 4, None, None, True]
    assert define.OPERATORS["contrast_sums"].values(leaves) == {
        "anchors": Rows(x, labels),
        "contrast": None,
        "rule": Rule(tau, "all", True, False, None, "same", "any"),
        "pairs": Pairs(4, None, None),
        "mutual": True,
    }
