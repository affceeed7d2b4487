"""Every Case under every rule of pairs, on the CPU; on other backends each has one of them (``with_rules``)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import test_conformance as batch
import test_conformance_contrast as sets
from harness.tested_backends import Backend

from fastpixcon.testing import CASES
from fastpixcon.testing.info_nce import RULES

CHECKS: dict[str, Callable[..., None]] = {
    "info_nce": batch.test_info_nce,
    "contrast_sums": sets.test_contrast_sums,
    "contrast_positives": sets.test_contrast_positives,
    "contrast_gradient": sets.test_contrast_gradient,
    "contrast_mean": sets.test_contrast_mean,
    "memory_sums": sets.test_memory_sums,
    "memory_positives": sets.test_memory_positives,
    "mining_thresholds": sets.test_mining_thresholds,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("operator", list(CHECKS))
def test_every_case_under_every_rule(operator: str, rule: str, threads: Callable[[int], None]) -> None:
    backend = Backend("native", "cpu")
    for case in CASES[operator]:
        no_row = case.labels in ("wide", "strange", "singles") and rule in ("class weights", "everything")
        if case.rule_of_pairs or no_row:  # of class weights for such labels
            continue
        given: Any = replace(case, rule_of_pairs=rule)
        more = (True,) if operator in ("memory_sums", "memory_positives") else ()
        try:
            CHECKS[operator](given, *more, backend, threads)
        except AssertionError as error:
            raise AssertionError(str(given)) from error
