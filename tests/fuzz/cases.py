"""Random Cases, as far as their contracts go: sizes of nothing, of one, and beside those of tiles."""

from collections.abc import Callable
from dataclasses import fields, replace
from random import Random
from typing import Any

import torch

from fastpixcon.testing import (
    ContrastCase,
    ContrastMeanCase,
    EnqueueCase,
    GatherCase,
    InfoNCEAtOnceCase,
    InfoNCECase,
    InfoNCEMeanCase,
    MemoryCase,
    MemoryRowsCase,
    MiningCase,
    PixelContrastCase,
    SelectCase,
)
from fastpixcon.testing.info_nce import RULES

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
LABELS = ("mixed", "sorted", "padded", "ignored", "all ignored", "one class", "singles", "disjoint", "overlap")
ROW_LAYOUTS = ("contiguous", "strided", "offset", "transposed")
MAP_LAYOUTS = ("contiguous", "channels_last", "strided", "part", "transposed")
KINDS = ("none", "hardest", "semi-hard", "random")


def rows(random: Random) -> int:
    """Beside 16, 32, 48, 96, 144: lanes and tiles of some instruction set."""
    return random.choice((0, 1, 2, 3, 15, 16, 17, 31, 33, 49, 95, 97, 143, 145, random.randrange(300)))


def width(random: Random) -> int:
    return random.choice((1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, random.randint(1, 140)))


def steps(random: Random) -> dict[str, Any]:
    """What the operators over rows have in common."""
    return {
        "classes": random.choice((1, 2, 5, 30)),
        "label_dtype": random.choice(INTEGERS[:2]),
        "dtype": random.choice(DTYPES),
        "temperature": random.choice((0.01, 0.02, 0.025, 0.07, 0.1, 1.0)),
        "denominator": random.choice(("negatives", "all")),
    }


def ruled(case: Any, random: Random) -> Any:
    """Some under a rule of pairs, some decoupled. Class weights have a row for every label, so for no strange ones."""
    if not hasattr(case, "rule_of_pairs"):
        return case
    rule = random.choice(("", "", "", *RULES))
    if case.labels in ("wide", "strange", "singles") and rule in ("class weights", "everything"):
        rule = "weights"
    if hasattr(case, "denominator") and random.random() < 0.2:
        case = replace(case, denominator="decoupled")
    return replace(case, rule_of_pairs=rule)


def info_nce(random: Random) -> InfoNCECase:
    how = steps(random)
    kind = random.choice((*LABELS, "wide"))
    if kind == "wide":
        how["label_dtype"] = torch.int64
    norms = (1.0,) if how["dtype"] == torch.float16 else (1.0, 1e-3, 1e3)
    taken = random.choice(("raw", "unit", "any"))
    return InfoNCECase(
        rows(random), width(random), random.choice((None, rows(random))), labels=kind, rows=taken,
        norm=random.choice(norms) if taken == "raw" else 1.0, zero_rows=random.random() < 0.1,
        layout=random.choice(ROW_LAYOUTS), d_loss=random.choice(("random", "expanded")), **how,
    )  # fmt: skip


def info_nce_mean(random: Random) -> InfoNCEMeanCase:
    case = info_nce(random)
    return InfoNCEMeanCase(
        **{x.name: getattr(case, x.name) for x in fields(case)}, weighed=random.choice((True, False)),
        mean=random.choice((True, False)), scale=random.choice((1.0, 0.1, 30.0)),
    )  # fmt: skip


def info_nce_at_once(random: Random) -> InfoNCEAtOnceCase:
    case = info_nce_mean(random)
    return InfoNCEAtOnceCase(**{x.name: getattr(case, x.name) for x in fields(case)})


def contrast(random: Random) -> ContrastCase:
    N, M, diagonal = rows(random), random.choice((None, rows(random))), None
    mutual = M is not None and random.random() < 0.3
    if M is not None and not mutual and random.random() < 0.4:
        diagonal = random.randrange(20)
        M = N + diagonal + random.randrange(40)
    return ContrastCase(
        N, width(random), M, diagonal, mutual, mined=not mutual and random.random() < 0.5,
        elsewhere=random.random() < 0.5, labels=random.choice(LABELS), layout=random.choice(ROW_LAYOUTS),
        **steps(random),
    )  # fmt: skip


def memory(random: Random) -> MemoryCase:
    how = steps(random)
    kind = random.choice(("mixed", "strange", "sorted", "padded", "ignored", "all ignored", "one class"))
    how["classes"] = max(how["classes"], 8 if kind == "one class" else 1)
    return MemoryCase(
        rows(random), width(random), max(1, rows(random) // 3), labels=kind, mined=random.random() < 0.5,
        filled=random.choice(("all", "half", "begun", "empty", "some")), elsewhere=random.random() < 0.5,
        first_anchor=random.choice((0, 1000, 2**31, 2**40)), **how,
    )  # fmt: skip


def contrast_mean(random: Random) -> ContrastMeanCase:
    S = random.choice((None, max(1, rows(random) // 3), max(1, rows(random) // 3)))
    use_batch = S is None or random.random() < 0.8
    how = steps(random)
    bank = random.choice((None, None, *DTYPES))
    mined = random.random() < 0.3 and bank in (None, how["dtype"])
    return ContrastMeanCase(
        rows(random), width(random), random.choice((None, rows(random))), S, use_batch, mined,
        tainted=random.random() < 0.3, weighed=random.random() < 0.5,
        reduction=random.choice(("mean", "sum", "none")), wants_gradient=random.random() < 0.7,
        scale=random.choice((1.0, 0.1, 30.0)), filled=random.choice(("all", "half", "begun", "empty", "some")),
        labels=random.choice(LABELS), bank_dtype=bank, layout=random.choice(ROW_LAYOUTS), **how,
    )  # fmt: skip


def mining(random: Random) -> MiningCase:
    S = random.choice((None, 1, random.randint(2, 60)))
    return MiningCase(
        rows(random), width(random), random.choice((None, max(1, rows(random)), 0 if S is not None else None)), S,
        random.choice(KINDS), random.choice(KINDS), random.choice((0.01, 0.1, 0.5, 1.0)),
        (random.randint(1, 200), random.randint(1, 200)), random.choice((1, 5, 30)), random.choice(LABELS),
        random.choice(DTYPES),
    )  # fmt: skip


def gather(random: Random) -> GatherCase:
    return GatherCase(
        random.randint(1, 3), width(random), random.randint(1, 20), random.randint(1, 20), rows(random),
        random.choice(DTYPES), random.choice(MAP_LAYOUTS), repeated=random.random() < 0.4,
        padding=random.choice((0.0, 0.2, 1.0)), zero_pixels=random.random() < 0.2,
    )  # fmt: skip


def pixel_contrast(random: Random) -> PixelContrastCase:
    how = steps(random)
    return PixelContrastCase(
        width(random), select(random), how["dtype"], random.choice(MAP_LAYOUTS), random.choice((1.0, 1e-3)),
        how["temperature"], random.choice((how["denominator"], "decoupled")), random.choice((1.0, 30.0)),
        learns_temperature=random.random() < 0.5,
    )  # fmt: skip


def labelled(random: Random) -> dict[str, Any]:
    """A map and its labels."""
    dtype = random.choice((*INTEGERS, torch.int8))
    return {
        "B": random.randint(1, 4),
        "size": (random.randint(1, 40), random.randint(1, 40)),
        "label_size": random.choice((None, (random.randint(1, 90), random.randint(1, 90)))),
        "classes": random.choice((1, 2, 19, 120)),
        "label_dtype": dtype,
        "ignored": random.choice((0.0, 0.1, 0.9, 1.0)),
        "ignore_index": -1 if dtype == torch.int8 else random.choice((0, 255)),
        "seed": random.randrange(-(2**63), 2**63),
    }


def select(random: Random) -> SelectCase:
    predictions = random.choice((torch.int64, torch.uint8, *DTYPES))
    return SelectCase(
        max_samples=random.choice((1, 7, 64, 1000)), max_views=random.choice((1, 4, 100)),
        min_pixels=random.choice((None, 1, 3, 50)), predictions=predictions, right=random.random(),
        layout=random.choice(("contiguous", "channels_last", "strided")),
        ties=predictions in DTYPES and random.random() < 0.3, **labelled(random),
    )  # fmt: skip


def memory_rows(random: Random) -> MemoryRowsCase:
    return MemoryRowsCase(
        D=width(random), pixels_per_image=random.choice((1, 3, 50)), dtype=random.choice(DTYPES),
        layout=random.choice(MAP_LAYOUTS), runs=random.random() < 0.3, **labelled(random),
    )  # fmt: skip


def enqueue(random: Random) -> EnqueueCase:
    return EnqueueCase(
        random.choice((1, 5, 171)), width(random), (random.randint(1, 40), random.randint(1, 10)), rows(random),
        rows(random), random.choice(("empty", "some", "often")), random.choice(("mixed", "one", "none", "strange")),
        random.choice(DTYPES), random.choice(DTYPES),
    )  # fmt: skip


CASES: dict[str, Callable[[Random], Any]] = {
    "select_anchors": select,
    "gather_normalize": gather,
    "gather_normalize_backward": gather,
    "info_nce": info_nce,
    "info_nce_backward": info_nce,
    "info_nce_mean": info_nce_mean,
    "info_nce_at_once": info_nce_at_once,
    "pixel_contrast": pixel_contrast,
    "contrast_sums": contrast,
    "contrast_positives": contrast,
    "contrast_gradient": contrast,
    "contrast_mean": contrast_mean,
    "memory_rows": memory_rows,
    "memory_enqueue_": enqueue,
    "memory_sums": memory,
    "memory_positives": memory,
    "mining_thresholds": mining,
}
