"""One fixture for every backend on every device, and memory that is never accidentally right."""

import os
import zlib
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import torch
from harness import compiled_choice, interpreted
from harness.tested_backends import TESTED_BACKENDS, Backend

import fastpixcon as fpc
from fastpixcon.ops import define

hypothesis.settings.register_profile(
    "fastpixcon", deadline=None, derandomize=True, print_blob=True, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("fastpixcon")
if define.INTERPRETING and ("triton", "info_nce") in define.OVERLOADS:
    interpreted.spare_work()


# Where Triton interprets, which takes a second a call: of what is hard for every backend alike, and of the Cases, whose
# branches all run when compiled, one in so many, drawn by their names.
ONE_IN = {
    "test_info_nce_survives": 15,
    "test_pixel_contrast_survives": 15,
    "test_every_backend_selects_the_same_pixels": 15,
    "test_sizes_that_are_no_multiple_of_each_other": 5,
    "test_labels_of_any_integer_type": 5,
    "test_labels_of_a_volume_of_any_integer_type": 6,
    "test_a_layout_of_a_map": 8,
    "test_a_map_without_pixels": 2,
    "test_nothing_to_learn_from": 4,
    "test_layout_changes_nothing": 3,
    "test_a_batch_may_have_another_dtype_than_the_bank": 3,
    "test_a_pixel_that_is_not_finite_shows_if_it_is_an_anchor": 3,
    "test_loss_with_memory_and_mining": 4,
    "test_autocast_casts_rows": 2,
    "test_replays": 3,
    "test_synchronisation": 4,
    "test_a_row_that_is_not_finite_shows_in_the_loss": 6,
    "test_a_row_left_out_may_hold_anything": 6,
    "test_a_contrast_row_that_is_not_finite_shows_in_the_loss": 6,
    "test_as_the_only_negative": 5,
    "test_without_negatives": 5,
    "test_rows_as_they_are": 3,
    "test_mining_shows_it_to_every_anchor": 3,
    "test_the_bits_of_its_steps": 3,
    "test_maps_of_any_rank_and_dtype": 2,
    **dict.fromkeys((f"test_{operator}" for operator in define.OPERATORS), 8),
}
# And nothing of what is about schedules, which an interpreter has not, about schemas, which executed kernels share,
# about many steps after one another, or about seeds, of which kernels know nothing.
NOT_INTERPRETED = (
    "test_two_runs_give_the_same_bits",
    "test_opcheck",
    "test_fake_kernel_tells_shapes_dtypes_and_strides",
    "test_it_trains",
    "test_it_teaches",
    "test_state_dict_round_trip_goes_on_as_before",
    "test_what_is_drawn_follows_manual_seed",
    "test_a_restored_random_state_draws_the_same_pixels",
    "test_every_call_draws_other_pixels",
    "test_a_copy_is_the_same_loss",
    "test_as_if_it_had_run_once",
    "test_pixel_contrast_loss_draws_what_eager_draws",
)


def is_interpreted(item: pytest.Item) -> bool:
    name = item.name.partition("[")[0]
    return name not in NOT_INTERPRETED and zlib.crc32(item.name.encode()) % ONE_IN.get(name, 1) == 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what executed and interpreted kernels need not be asked."""
    kept, dropped = compiled_choice.choose(items)
    if define.INTERPRETING:
        dropped += [x for x in kept if "triton" in x.name and not is_interpreted(x)]
        kept = [x for x in kept if "triton" not in x.name or is_interpreted(x)]
    if dropped:
        items[:] = kept
        config.hook.pytest_deselected(items=dropped)


def has_lost_its_gpu() -> bool:
    """An illegal access or a failed assertion on the device stays with the process: all that follows would fail."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid: str) -> None:
    """A worker that has lost its GPU ends after telling what failed; another takes its place."""
    if "PYTEST_XDIST_WORKER" in os.environ and has_lost_its_gpu():
        os._exit(1)


@pytest.fixture(params=TESTED_BACKENDS, ids=str)
def operators(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend, to call its operators one by one."""
    if request.param.is_executed and request.param.executed.missing() is None:
        with request.param.executed.launching(request.param.executed.Emulator()):
            yield request.param
    else:
        yield request.param


BATCH = (
    "select_anchors",
    "gather_normalize",
    "gather_normalize_backward",
    "info_nce",
    "info_nce_mean",
    "info_nce_backward",
    "pixel_contrast",
)


@pytest.fixture
def backend(operators: Backend) -> Iterator[Backend]:
    """Every backend that has the operators of a loss over the batch; the public functions choose it by themselves."""
    for operator in BATCH:
        operators.op(operator)
    with fpc.backend(operators.name):
        yield operators


@pytest.fixture
def complete_backend(backend: Backend) -> Backend:
    """One that also has all operators of several contrast sets, the memory bank and mining."""
    for operator in define.OPERATORS:
        backend.op(operator)
    return backend


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty, and at::empty in C++, give NaN and the largest integers."""
    torch._C._set_deterministic_algorithms(True, warn_only=True)  # torch's own function imports inductor, for seconds
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch._C._set_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
