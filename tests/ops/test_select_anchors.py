"""What select_anchors means: worked examples of every rule, an oracle in plain Python, and uniform draws."""

import math

import pytest
import torch
from torch import Tensor

from fastpixcon.functional import SelectedAnchors, select_anchors
from fastpixcon.ops.backends import missing

BACKENDS = [
    pytest.param(b, marks=pytest.mark.skipif(missing(b) is not None, reason=str(missing(b))))
    for b in ("reference", "native")
]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)
MASK = 0xFFFFFFFF


def mix(x: int) -> int:
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def hashed(seed: int, counter: int, stream: int = 0) -> int:
    key = mix((seed & MASK) ^ stream)
    for word in ((seed >> 32) & MASK, counter >> 32):
        key = mix(word ^ key)
    return mix((counter & MASK) ^ key)


def oracle(
    labels: Tensor,
    predictions: Tensor,
    *,
    num_classes: int,
    max_samples: int,
    max_views: int,
    min_pixels: int | None = None,
    ignore_index: int,
    seed: int,
) -> tuple[list[int], list[int]]:
    """The rules one by one, over lists: chosen pixels and their classes."""
    B, H, W = labels.shape
    h, w = predictions.shape[-2:]
    hard: dict[tuple[int, int], list[int]] = {}
    easy: dict[tuple[int, int], list[int]] = {}
    for b in range(B):
        for y in range(h):
            for x in range(w):
                label = int(labels[b, math.floor(y * H / h), math.floor(x * W / w)])
                if label < 0 or label == ignore_index:
                    continue
                if predictions.dim() == 3:
                    predicted = int(predictions[b, y, x])
                else:
                    predicted, best = 0, -math.inf
                    for k in range(num_classes):
                        if float(predictions[b, k, y, x]) > best:
                            predicted, best = k, float(predictions[b, k, y, x])
                for kind, member in ((hard, predicted != label), (easy, predicted == label)):
                    pixels = kind.setdefault((label, b), [])
                    if member:
                        pixels.append(b * h * w + y * w + x)
    least = max_views + 1 if min_pixels is None else min_pixels
    segments = sorted(s for s in hard if len(hard[s]) + len(easy[s]) >= least)
    most = min(max_views, max_samples // max(1, len(segments)))
    if len(segments) > max_samples:
        most = 1
        drawn = sorted(segments, key=lambda s: (hashed(seed, s[0] * B + s[1], 0x5E6D), s))
        segments = sorted(drawn[:max_samples])
    index, label = [], []
    for s in segments:
        views = min(most, len(hard[s]) + len(easy[s]))
        if len(hard[s]) >= views / 2 and len(easy[s]) >= views / 2:
            keep = views // 2
        elif len(hard[s]) >= views / 2:
            keep = views - len(easy[s])
        else:
            keep = len(hard[s])
        chosen = sorted(hard[s], key=lambda p: (hashed(seed, p), p))[:keep]
        chosen += sorted(easy[s], key=lambda p: (hashed(seed, p), p))[: views - keep]
        index += sorted(chosen)
        label += [s[0]] * views
    return index, label


def check(selected: SelectedAnchors, index: list[int], label: list[int], max_samples: int) -> None:
    padding = [-1] * (max_samples - len(index))
    assert selected.index.tolist() == index + padding
    assert selected.label.tolist() == label + padding
    assert selected.count.tolist() == [len(index)]
    assert (selected.index.dtype, selected.label.dtype, selected.count.dtype) == (torch.int64, torch.int32, torch.int32)


def row(values: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    """One image of one row, [1, 1, w]."""
    return torch.tensor(values, dtype=dtype).view(1, 1, -1)


def kept(
    backend: str, num_hard: int, num_easy: int, max_samples: int, max_views: int, min_pixels: int | None = None
) -> tuple[int, int]:
    """How many hard and easy pixels the one segment keeps."""
    predictions = row([1] * num_hard + [0] * num_easy)
    selected = select_anchors(
        torch.zeros_like(predictions),
        predictions,
        num_classes=2,
        max_samples=max_samples,
        max_views=max_views,
        min_pixels=min_pixels,
        backend=backend,
    )
    index = selected.index[: int(selected.count)]
    assert index.unique().numel() == index.numel()
    return int((index < num_hard).sum()), int((index >= num_hard).sum())


@pytest.mark.parametrize(
    ("num_hard", "num_easy", "max_samples", "max_views", "wanted"),
    [
        (10, 10, 100, 6, (3, 3)),  # enough of both
        (10, 10, 100, 7, (3, 4)),  # the odd one is easy
        (3, 20, 100, 6, (3, 3)),  # exactly half is enough
        (20, 3, 100, 6, (3, 3)),
        (3, 20, 100, 7, (3, 4)),  # 3 < 3.5: all hard, the rest easy
        (20, 3, 100, 7, (4, 3)),  # 3 < 3.5: all easy, the rest hard
        (20, 2, 100, 6, (4, 2)),
        (2, 20, 100, 6, (2, 4)),
        (20, 0, 100, 6, (6, 0)),
        (0, 20, 100, 6, (0, 6)),
        (10, 10, 4, 6, (2, 2)),  # max_samples cuts the views
        (10, 10, 1, 6, (0, 1)),  # one view of both kinds: easy
        (10, 0, 1, 6, (1, 0)),
        (3, 3, 100, 6, (0, 0)),  # not more than max_views pixels
        (3, 4, 100, 6, (3, 3)),
    ],
)
def test_keep_rule(
    backend: str, num_hard: int, num_easy: int, max_samples: int, max_views: int, wanted: tuple[int, int]
) -> None:
    assert kept(backend, num_hard, num_easy, max_samples, max_views) == wanted


@pytest.mark.parametrize(
    ("num_hard", "num_easy", "min_pixels", "wanted"),
    [
        (2, 3, 5, (2, 3)),  # fewer than max_views: all of them
        (2, 3, 6, (0, 0)),
        (5, 1, 5, (5, 1)),  # as many as max_views: all, whatever the halves
        (6, 1, 5, (5, 1)),
        (0, 1, 1, (0, 1)),
        (9, 9, 18, (3, 3)),
        (9, 9, 19, (0, 0)),
    ],
)
def test_small_segments_give_what_they_have(
    backend: str, num_hard: int, num_easy: int, min_pixels: int, wanted: tuple[int, int]
) -> None:
    assert kept(backend, num_hard, num_easy, 100, 6, min_pixels) == wanted


def test_order_is_class_image_pixel(backend: str) -> None:
    labels = torch.tensor([[[2, 0, 2, 0]], [[0, 2, 0, 2]]])
    selected = select_anchors(
        labels, torch.zeros_like(labels), num_classes=3, max_samples=10, max_views=1, seed=5, backend=backend
    )
    assert selected.label.tolist() == [0, 0, 2, 2] + [-1] * 6
    images = (selected.index[:4] // 4).tolist()
    assert images == [0, 1, 0, 1]
    assert labels.view(-1)[selected.index[:4]].tolist() == [0, 0, 2, 2]


def test_ignored_and_negative_labels_do_not_count(backend: str) -> None:
    labels = row([0, 0, 7, 7, 7, -1, -1, -9, -9])
    selected = select_anchors(
        labels, torch.zeros_like(labels), num_classes=3, max_samples=8, max_views=1, ignore_index=7, backend=backend
    )
    assert int(selected.count) == 1
    assert int(selected.index[0]) in (0, 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_label_dtypes(backend: str, dtype: torch.dtype) -> None:
    labels = torch.randint(0, 5, (2, 9, 11), generator=torch.Generator().manual_seed(0))
    labels[:, 2:4] = 100
    predictions = labels.flip(2).clamp(max=4)
    arguments = {"num_classes": 5, "max_samples": 30, "max_views": 6, "ignore_index": 100, "seed": 9}
    selected = select_anchors(labels.to(dtype), predictions.to(dtype), backend=backend, **arguments)
    check(selected, *oracle(labels, predictions, **arguments), 30)


def test_uint8_255_is_a_label_unless_ignored(backend: str) -> None:
    labels = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    arguments = {"num_classes": 256, "max_samples": 4, "max_views": 2, "backend": backend}
    assert int(select_anchors(labels, labels, ignore_index=255, **arguments).count) == 0
    assert select_anchors(labels, labels, ignore_index=-1, **arguments).label.tolist() == [255, 255, -1, -1]


def test_label_beyond_the_classes_raises(backend: str) -> None:
    labels = row([0, 1, 2, 300, 4])
    for ignore_index in (255, 4):
        with pytest.raises(ValueError, match=r"labels: got label (3|300), .*\[0, 3\)"):
            select_anchors(labels, torch.zeros_like(labels), num_classes=3, ignore_index=ignore_index, backend=backend)
    big = row([0, 2**40, 2**32])  # equal to class 0 in 32 bits
    with pytest.raises(ValueError, match=f"labels: got label {2**40}"):
        select_anchors(big, torch.zeros_like(big), num_classes=3, ignore_index=2**32, backend=backend)


def test_predictions_outside_the_classes_are_hard(backend: str) -> None:
    predictions = row([-1, 2**32, 99, 0, 0, 0])
    selected = select_anchors(
        torch.zeros_like(predictions), predictions, num_classes=2, max_samples=2, max_views=2, backend=backend
    )
    assert int((selected.index < 3).sum()) == 1  # one hard, one easy


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_argmax_ties_and_nan(backend: str, dtype: torch.dtype) -> None:
    nan, inf = math.nan, math.inf
    pixels = [  # logits of three classes and their argmax
        ([1, 1, 0], 0),
        ([0, 1, 1], 1),
        ([0.0, -0.0, -1], 0),
        ([-0.0, 0.0, -1], 0),
        ([nan, nan, nan], 0),
        ([nan, -inf, -5], 2),
        ([nan, -inf, -inf], 0),
        ([-inf, -inf, nan], 0),
        ([nan, 3, inf], 2),
        ([2, nan, 1], 0),
        ([-1, -2, -0.5], 2),
        ([inf, inf, inf], 0),
    ]
    for layout in (torch.contiguous_format, torch.channels_last):
        for values, winner in pixels:
            logits = torch.tensor(values, dtype=dtype).view(1, 3, 1, 1).repeat(2, 1, 5, 7)
            logits = logits.contiguous(memory_format=layout)
            for label in range(3):  # one hard and one easy of a mixed map show which it is
                labels = torch.full((2, 5, 7), label)
                other = torch.zeros(3, dtype=dtype)
                other[(label + (winner == label)) % 3] = 1
                mixed = logits.clone()
                mixed[:, :, :2] = other.view(1, 3, 1, 1)
                selected = select_anchors(labels, mixed, max_samples=4, max_views=2, seed=1, backend=backend)
                top = int((selected.index % 35 < 14).sum())
                assert top == 2, (values, label)


@pytest.mark.parametrize(("source", "target"), [((7, 9), (3, 4)), ((3, 4), (7, 9)), ((5, 5), (5, 5)), ((1, 8), (4, 3))])
def test_nearest_at_odd_ratios(backend: str, source: tuple[int, int], target: tuple[int, int]) -> None:
    H, W = source
    labels = torch.arange(H * W).view(1, H, W)  # every source pixel a class of its own
    predictions = torch.zeros(1, *target, dtype=torch.int64)
    nearest = [y * H // target[0] * W + x * W // target[1] for y in range(target[0]) for x in range(target[1])]
    classes = [c for c in sorted(set(nearest)) if nearest.count(c) > 1]
    selected = select_anchors(labels, predictions, num_classes=H * W, max_samples=100, max_views=1, backend=backend)
    assert selected.label[: int(selected.count)].tolist() == classes
    assert [nearest[i] for i in selected.index[: int(selected.count)].tolist()] == classes


@pytest.mark.parametrize("seed", range(12))
def test_oracle_on_random_input(backend: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=g))

    B, K, h, w = draw(1, 4), draw(2, 7), draw(3, 14), draw(3, 14)
    labels = torch.randint(-1, K, (B, draw(3, 30), draw(3, 30)), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.1] = 200
    predictions = torch.randint(0, K, (B, h, w), generator=g)
    if seed % 2:
        predictions = torch.randint(0, 3, (B, K, h, w), generator=g).float()  # many ties
        if seed % 4 == 1:
            predictions = predictions.contiguous(memory_format=torch.channels_last)
    if seed % 3 == 0:
        labels = labels.transpose(1, 2)
    arguments = {
        "num_classes": K,
        "max_samples": (3, 17, 200)[seed % 3],
        "max_views": (1, 4, 9)[seed // 3 % 3],
        "min_pixels": (None, 1, 3, 12)[seed % 4],
        "ignore_index": 200,
        "seed": (seed - 5) * 0x1234567_89ABCDEF % 2**63,
    }
    selected = select_anchors(labels, predictions, backend=backend, **arguments)
    check(selected, *oracle(labels, predictions, **arguments), arguments["max_samples"])


def test_more_segments_than_samples(backend: str) -> None:
    labels = torch.arange(60).repeat_interleave(4).view(1, 12, 20)
    arguments = {"num_classes": 60, "max_samples": 16, "max_views": 3, "ignore_index": 255}
    seen: set[int] = set()
    for seed in range(30):
        selected = select_anchors(labels, labels, seed=seed, backend=backend, **arguments)
        check(selected, *oracle(labels, labels, seed=seed, **arguments), 16)
        assert int(selected.count) == 16
        assert selected.label.unique().numel() == 16
        seen |= set(selected.label.tolist())
    assert len(seen) > 55  # every segment has its turn


@pytest.mark.parametrize("seed", [12207, 30744, 36425])
def test_uncommonly_large_keys(backend: str, seed: int) -> None:
    """Seeds whose small keys are so few that a threshold on the keys misses some of the smallest."""
    predictions = torch.arange(4096).view(1, 64, 64) % 2
    arguments = {"num_classes": 2, "max_samples": 100, "max_views": 100, "ignore_index": 255}
    labels = torch.zeros_like(predictions)
    selected = select_anchors(labels, predictions, seed=seed, backend=backend, **arguments)
    check(selected, *oracle(labels, predictions, seed=seed, **arguments), 100)


def test_draws_are_uniform(backend: str) -> None:
    """Chi-square of how often each of 64 pixels is among the 8 drawn, and of the pairs' parity."""
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    times, views = 2000, 8
    drawn = torch.zeros(64)
    neighbours = 0
    for seed in range(times):
        selected = select_anchors(
            labels, labels, num_classes=1, max_samples=views, max_views=views, seed=seed << 20, backend=backend
        )
        drawn[selected.index] += 1
        neighbours += int((selected.index.diff() == 1).sum())
    p = views / 64
    chi_square = float(((drawn - times * p) ** 2 / (times * p * (1 - p))).sum())
    assert 20 < chi_square < 130  # 64 degrees of freedom, five sigma
    expected = 63 * views * (views - 1) / (64 * 63)  # pairs of neighbouring pixels in one draw
    assert abs(neighbours / times - expected) < 0.12


def test_seed(backend: str) -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)

    def index(seed: int | Tensor) -> list[int]:
        arguments = {"num_classes": 1, "max_samples": 20, "max_views": 20, "backend": backend}
        return select_anchors(labels, labels, seed=seed, **arguments).index.tolist()

    assert index(3) == index(torch.tensor(3))
    seeds = [0, 1, -1, 2**32, 2**62, -(2**63)]
    assert len({tuple(index(s)) for s in seeds}) == len(seeds)


def test_nothing_to_select(backend: str) -> None:
    labels = torch.full((2, 6, 6), 255)
    check(select_anchors(labels, torch.zeros_like(labels), max_samples=5, backend=backend), [], [], 5)
    empty = torch.zeros(0, 4, 4, dtype=torch.int64)
    check(select_anchors(empty, empty, max_samples=5, backend=backend), [], [], 5)


def test_threads_do_not_matter(backend: str) -> None:
    g = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(0, 9, (3, 90, 70), generator=g), torch.randn(3, 9, 45, 70, generator=g)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(select_anchors(labels, logits, max_views=20, seed=4, backend=backend))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
