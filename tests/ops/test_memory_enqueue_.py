"""What memory_enqueue_ means: rings that advance by what was written and lose nothing but their oldest rows."""

import torch
from harness.tested_backends import Backend
from torch import Tensor

K, D, PIXELS, REGIONS = 3, 2, 5, 2


def empty_bank(device: str) -> tuple[Tensor, Tensor, Tensor]:
    bank = torch.zeros(K, PIXELS + REGIONS, D, device=device)
    labels = torch.full((K, PIXELS + REGIONS), -1, dtype=torch.int32, device=device)
    return bank, labels, torch.zeros(2, K, dtype=torch.int64, device=device)


def rows(numbers: list[int], labels: list[int], device: str) -> tuple[Tensor, Tensor]:
    content = torch.tensor(numbers, dtype=torch.float32, device=device)[:, None].expand(-1, D)
    return content.clone().view(-1, D), torch.tensor(labels, dtype=torch.int32, device=device)


def test_rows_go_to_the_ring_of_their_class_in_order(operators: Backend) -> None:
    op = operators.op("memory_enqueue_")
    bank, labels, written = empty_bank(operators.device)
    op(
        bank,
        labels,
        written,
        PIXELS,
        *rows([1, 2, 3, 4], [2, 0, -1, 2], operators.device),
        *rows([9], [0], operators.device),
    )
    assert bank[..., 0].tolist() == [[2, 0, 0, 0, 0, 9, 0], [0] * 7, [1, 4, 0, 0, 0, 0, 0]]
    assert labels.tolist() == [[0, -1, -1, -1, -1, 0, -1], [-1] * 7, [2, 2, -1, -1, -1, -1, -1]]
    assert written.tolist() == [[1, 0, 2], [1, 0, 0]]


def test_a_ring_wraps_and_overwrites_its_oldest(operators: Backend) -> None:
    op = operators.op("memory_enqueue_")
    bank, labels, written = empty_bank(operators.device)
    nothing = rows([], [], operators.device)
    op(bank, labels, written, PIXELS, *rows([1, 2, 3, 4], [1] * 4, operators.device), *nothing)
    op(bank, labels, written, PIXELS, *rows([5, 6, 7], [1] * 3, operators.device), *nothing)
    assert bank[1, :PIXELS, 0].tolist() == [6, 7, 3, 4, 5]
    assert written[0].tolist() == [0, 7, 0]


def test_of_more_rows_than_places_the_last_stay(operators: Backend) -> None:
    op = operators.op("memory_enqueue_")
    bank, labels, written = empty_bank(operators.device)
    numbers = list(range(1, 14))
    op(bank, labels, written, PIXELS, *rows(numbers, [0] * 13, operators.device), *rows([], [], operators.device))
    assert bank[0, :PIXELS, 0].tolist() == [11, 12, 13, 9, 10]  # as if written one by one
    assert written[0, 0] == 13


def test_in_two_batches_or_in_one(operators: Backend) -> None:
    op = operators.op("memory_enqueue_")
    numbers, classes = list(range(1, 40)), [(i * 7) % 4 - 1 for i in range(39)]
    one, two = empty_bank(operators.device), empty_bank(operators.device)
    nothing = rows([], [], operators.device)
    op(*one, PIXELS, *rows(numbers, classes, operators.device), *nothing)
    for part in (slice(0, 11), slice(11, 39)):
        op(*two, PIXELS, *rows(numbers[part], classes[part], operators.device), *nothing)
    for x, y in zip(one, two, strict=True):
        assert torch.equal(x, y)
