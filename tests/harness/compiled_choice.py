"""Which tests run on executed kernels, unless FASTPIXCON_TEST_PTX=all. CUDA kernels are compiled once, and what takes
time is execution: of the Cases of an operator that has many, an eighth, drawn by their names. Compiling Triton's takes
seconds a kernel, and the Cases ask for some seven hundred.

Of those, some are chosen that together compile every Triton kernel for every dtype and width, and in every pair of its
branches, for as little work as can be found greedily; and those of extreme logits. With FASTPIXCON_TEST_PTX=each, for
another architecture, every Triton kernel runs once for every dtype and every width, by small Cases, in three minutes.
"""

import functools
import itertools
import os
import zlib
from collections.abc import Callable, Sequence
from operator import or_
from typing import Any, NamedTuple

import pytest
import torch

from fastpixcon.ops import define
from fastpixcon.testing import CASES, ContrastCase, InfoNCECase, MemoryCase, MiningCase, backward_arguments
from harness.compiled_triton import ARCHITECTURE, WANTED, launching

EVERYTHING = os.environ.get("FASTPIXCON_TEST_PTX") == "all"
EACH = os.environ.get("FASTPIXCON_TEST_PTX") == "each"
FEW, SMALL = 5, 1  # of so many Cases one is looked at then, if it takes so many seconds at most
# They are about launchers, about schedules that an emulator has not, or as slow as they are many.
LEFT_OUT = (
    "test_opcheck",
    "test_fake_kernel_tells_shapes_dtypes_and_strides",
    "test_two_runs_give_the_same_bits",
    "test_every_backend_selects_the_same_pixels",
)
MASK = (True, True, False)  # of test_output_mask: the one that needs a kernel which no Case needs
MANY = 60  # Cases
WANTING = ("memory_sums", "memory_positives")  # their tests have a parameter `wanted`
# Sizes of tiles follow from dtype and width, by the table of launches.
NOT_CHOICES = ("STAGES", "BLOCK_M", "BLOCK_N", "BLOCK_K", "HOW", "TILE")
# Of HOW, those that are branches.
WORDS = ("negatives", "positives", "fixed", "fp16x3", "diagonal", "numbered", "triangle", "home", "x_moved", "y_moved")


class Found(NamedTuple):
    """What the launches of a Case show."""

    names: set[str]  # of kernels
    properties: set[Any]  # what they test that others may not
    compiled: set[str]  # what has to be compiled for them


def look_at(found: Found) -> Callable[..., None]:
    from aot_compile import specialize  # needs Triton, which need not be here

    from fastpixcon.kernels.launch_table import Tile

    def look(kernel: Any, grid: Any, arguments: Sequence[Any], options: dict[str, Any]) -> None:
        """Single choices for each dtype, pairs of branches for each size of it."""
        source = specialize(kernel, arguments, options, ARCHITECTURE).source
        name = kernel.__name__
        if name == "order_rows_kernel":
            arguments[1].zero_()  # places of rows, by which torch takes their weights
        dtypes = {x.dtype for x in arguments if isinstance(x, torch.Tensor)}
        rows = min(dtypes, key=lambda dtype: (not dtype.is_floating_point, dtype.itemsize, str(dtype)))
        constants = {kernel.arg_names[i]: value for (i,), value in source.constants.items()}
        words = options.get("HOW", "").split()
        rows = torch.float32 if "fp16x3" in words else rows  # halves of it
        sizes = Tile(*options["TILE"])._asdict() if "TILE" in options else {}
        named = {key: options[key] for key in kernel.arg_names if key in options} | sizes
        chosen = sorted((key, value) for key, value in named.items() if key not in NOT_CHOICES)
        branches = [(key, value) for key, value in chosen if isinstance(value, bool)]
        branches += [(word, word in words) for word in WORDS]
        branches += [(key, constants.get(key, 0) is None) for key in kernel.arg_names if key not in options]
        chosen += [(word, True) for word in words if word in WORDS]
        found.names.add(name)
        found.compiled.add(f"{source.hash()} {sorted(options.items())}")
        if EACH:
            found.properties.update([(name, rows), (name, sizes.get("BLOCK_D")), (name, "fp16x3" in words)])
            return
        found.properties.update((name, rows, choice) for choice in chosen)
        found.properties.update((name, rows.itemsize, pair) for pair in itertools.combinations(branches, 2))
        found.properties.update((name, dtype) for dtype in dtypes)
        found.properties.update((name, "constant", constant) for constant in constants.keys() - options.keys())

    return look


class Test(NamedTuple):
    operator: str
    case: Any
    wanted: bool  # of operators of a memory bank: what the gradient needs

    @property
    def work(self) -> float:
        """In seconds, about."""
        if not isinstance(self.case, (InfoNCECase, ContrastCase, MemoryCase, MiningCase)):
            return 1
        M = getattr(self.case, "M", None) or self.case.N
        columns = M + self.case.classes * (getattr(self.case, "S", None) or 0)
        return self.case.N * columns * self.case.D / 3e7

    @property
    def is_drawn(self) -> bool:
        """For a short look: more rows than a warp has, little work, one of a few."""
        rows = getattr(self.case, "N", 64) > 32
        return rows and self.work <= SMALL and zlib.crc32(str(self).encode()) % FEW == 0


def run(operator: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    outputs = define.OVERLOADS["triton", operator](*arguments)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def run_all_of(test: Test) -> None:
    """The operator, and its backward."""
    from test_conformance_contrast import call_arguments  # imports pytest's plugins, of which this is one

    arguments = call_arguments(test.operator, test.case, "cpu")
    if test.operator in WANTING:
        arguments[-1] = test.wanted
    outputs = run(test.operator, arguments)
    if f"{test.operator}_backward" in define.OPERATORS:
        run(f"{test.operator}_backward", backward_arguments(test.case, arguments, outputs))


@functools.cache
def found_by_test() -> dict[Test, Found]:
    """Without executing anything."""
    found: dict[Test, Found] = {}

    def look(*launch: Any) -> None:
        look_at(found[test])(*launch)

    with launching(look):
        for operator, cases in CASES.items():
            if ("triton", operator) not in define.OVERLOADS:
                continue
            for case, wanted in itertools.product(cases, (True, False) if operator in WANTING else (True,)):
                test = Test(operator, case, wanted)
                if EACH and not test.is_drawn:
                    continue
                found[test] = Found(set(), set(), set())
                run_all_of(test)
    return found


def as_bits(sets: Sequence[set[Any]]) -> list[int]:
    """Sets as numbers, a bit a member: to be compared by the hundred thousand."""
    places = {member: 1 << place for place, member in enumerate(dict.fromkeys(itertools.chain(*sets)))}
    return [sum(places[member] for member in members) for members in sets]


@functools.cache
def chosen_tests() -> frozenset[Test]:
    tests = list(found_by_test())
    properties = as_bits([found.properties for found in found_by_test().values()])
    compiled = as_bits([found.compiled for found in found_by_test().values()])
    # Where the rounding of a logit shows, and so what the compiler makes of a product and a difference.
    chosen = {i for i, x in enumerate(tests) if not EACH and x.operator == "info_nce" and x.case.largest_logit > 1e6}
    covered = functools.reduce(or_, (properties[i] for i in chosen), 0)
    here = functools.reduce(or_, (compiled[i] for i in chosen), 0)

    def worth(i: int) -> float:
        return (properties[i] & ~covered).bit_count() / (3 * (compiled[i] & ~here).bit_count() + tests[i].work + 0.1)

    while left := [i for i in range(len(tests)) if properties[i] & ~covered]:
        best = max(left, key=worth)
        chosen.add(best)
        covered |= properties[best]
        here |= compiled[best]
    return frozenset(tests[i] for i in chosen)


def is_chosen(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    backend = parameters.get("operators")
    if EVERYTHING or backend is None or not backend.is_executed or backend.executed.missing() is not None:
        return True
    operator = item.originalname.removeprefix("test_")
    if operator in CASES:
        test = Test(operator, parameters["case"], parameters.get("wanted", True))
        if backend.name == "native":
            drawn = len(CASES[operator]) < MANY or zlib.crc32(item.name.encode()) % 8 == 0
            return drawn and not EACH
        return test in chosen_tests()
    return not EACH and item.originalname not in LEFT_OUT and parameters.get("mask", MASK) == MASK


def choose(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Those to run and those to leave out."""
    if not WANTED:
        return items, []
    chosen = [is_chosen(item) for item in items]
    return list(itertools.compress(items, chosen)), [item for item, yes in zip(items, chosen, strict=True) if not yes]
