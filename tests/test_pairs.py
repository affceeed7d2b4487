"""Which pairs count, and how much: every rule against its equation, pair by pair in float64; wrong ones; empty ones."""

import math
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

import fastpixcon as fpc

DENOMINATORS = ("negatives", "all", "decoupled")
GROUPS = ("any", "same", "other")


def one_by_one(given: dict[str, Any], tau: float, denominator: str, pairs: fpc.Pairs) -> list[tuple[float, float]]:
    """Of every anchor its loss and the mass of its positives, from the equations."""
    x, y, u, w = given["x"], given["y"], given["groups"], given["v"]
    sets = [(given["c"], given["z"], given["v"], given["contrast_groups"], given["c"] is x)]
    if given["bank"] is not None:
        K, S, D = given["bank"].shape
        z = given["bank_labels"].flatten()
        sets.append((given["bank"].view(K * S, D), z, [1.0] * (K * S), [None] * (K * S), False))
    mass: dict[int, float] = {}
    for _, z, v, _, _ in sets:
        for k, label in enumerate(z.tolist()):
            if label != -1 and float(v[k]) > 0:
                mass[label] = mass.get(label, 0.0) + float(v[k])
    mean = sum(mass.values()) / max(len(mass), 1)

    def allowed(which: str, a: Any, b: Any) -> bool:
        same = a is not None and b is not None and int(a) == int(b)
        return which == "any" or same == (which == "same")

    results = []
    for i, label in enumerate(y.tolist()):
        positives, Z = [], 0.0
        for c, z, v, groups, own in sets:
            for j, other in enumerate(z.tolist()):
                if label == -1 or other == -1 or (own and i == j):
                    continue
                s, group = float(x[i] @ c[j]) / tau, groups[j]
                if other == label and allowed(pairs.positives, u[i], group):
                    positives.append((float(v[j]), s))
                elif other != label and allowed(pairs.negatives, u[i], group):
                    weight = float(v[j])
                    if pairs.class_weights is not None:
                        weight *= float(pairs.class_weights[label, other])
                    if pairs.balanced:
                        weight *= mean / mass[other] if other in mass else 0.0
                    Z += weight * math.exp(s)
        if denominator == "all":
            Z += sum(v * math.exp(s) for v, s in positives)
        total = sum(v for v, _ in positives)
        loss = 0.0
        for v, s in positives:
            if denominator == "negatives":
                loss += v * math.log1p(Z * math.exp(-s))
            elif Z > 0:
                loss += v * (math.log(Z) - s)
        results.append((loss / total if total > 0 else 0.0, total))
    assert w is given["v"]
    return results


class Content:
    def __init__(self, rows: Tensor, labels: Tensor) -> None:
        self.rows, self.labels = rows, labels


def problem(seed: int, separate: bool, bank: bool) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)

    def unit(*size: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(*size, generator=g, dtype=torch.float64), dim=-1)

    def side(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y = torch.randint(-1, 4, (n,), generator=g)
        v = torch.rand(n, generator=g, dtype=torch.float64) * (torch.rand(n, generator=g) < 0.8)
        return unit(n, 5), y, v, torch.randint(3, (n,), generator=g)

    x, y, v, groups = side(14)
    c, z, cv, contrast_groups = side(11) if separate else (x, y, v, groups)
    rows = labels = None
    if bank:
        rows = unit(4, 5, 5)
        labels = torch.where(torch.rand(4, 5, generator=g) < 0.5, torch.arange(4)[:, None], -1).int()
    return {
        "x": x, "y": y, "groups": groups, "c": c, "z": z, "v": cv, "contrast_groups": contrast_groups, "bank": rows,
        "bank_labels": labels, "w": torch.rand(14, generator=g, dtype=torch.float64),
        "W": torch.rand(4, 4, generator=g, dtype=torch.float64) * 2,
    }  # fmt: skip


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("positives", GROUPS)
@pytest.mark.parametrize("negatives", GROUPS)
def test_the_reference_is_its_equation(
    denominator: str, balanced: bool, classes: bool, positives: str, negatives: str
) -> None:
    for seed, (separate, bank, temperature) in enumerate(
        [(False, False, 0.1), (True, False, 0.02), (False, True, 0.5), (True, True, 0.1)]
    ):
        p = problem(seed, separate, bank)
        pairs = fpc.Pairs(positives, negatives, p["W"] if classes else None, balanced)
        grouped = (positives, negatives) != ("any", "any")
        wanted = one_by_one(p, temperature, denominator, pairs)
        given: dict[str, Any] = {"contrast": p["c"], "contrast_labels": p["z"]} if separate else {}
        groups: dict[str, Any] = {"groups": p["groups"]} if grouped else {}
        if grouped and separate:
            groups["contrast_groups"] = p["contrast_groups"]
        content = Content(p["bank"], p["bank_labels"]) if bank else None
        for reduction in ("none", "sum", "mean"):
            loss = fpc.functional.info_nce(
                p["x"], p["y"], **given, **groups, contrast_weights=p["v"], weights=p["w"], pairs=pairs,
                temperature=temperature, denominator=denominator, memory=content, reduction=reduction,
                backend="reference",
            )  # fmt: skip
            w = p["w"].tolist()
            each = [weight * one for weight, (one, _) in zip(w, wanted, strict=True)]
            counted = sum(weight for weight, (_, mass) in zip(w, wanted, strict=True) if mass > 0)
            total = sum(each)
            expected = {"none": each, "sum": total, "mean": total / counted if counted else 0.0}[reduction]
            torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("rule", range(6))
def test_gradients_of_the_reference_are_those_of_differences(denominator: str, temperature: float, rule: int) -> None:
    p = problem(rule, rule % 2 > 0, rule % 3 == 0)
    pairs = fpc.Pairs(GROUPS[rule % 3], GROUPS[(rule + 1) % 3], p["W"], rule % 2 == 0)
    content = None if p["bank"] is None else Content(p["bank"], p["bank_labels"])
    separate = p["c"] is not p["x"]

    def loss(x: Tensor, c: Tensor, tau: Tensor) -> Tensor:
        given: dict[str, Any] = {"contrast": c, "contrast_labels": p["z"]} if separate else {}
        if separate:
            given["contrast_groups"] = p["contrast_groups"]
        return fpc.functional.info_nce(
            x, p["y"], **given, groups=p["groups"], contrast_weights=p["v"], weights=p["w"], pairs=pairs,
            temperature=tau, denominator=denominator, memory=content, backend="reference",
        )  # fmt: skip

    inputs = [
        p["x"].clone().requires_grad_(),
        p["c"].clone().requires_grad_(separate),
        torch.tensor(temperature, dtype=torch.float64, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(loss, inputs, atol=1e-6, eps=1e-7, fast_mode=True)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12])
def test_weights_of_any_size_count_as_much_as_they_say(
    size: float, denominator: str, complete_backend: Backend
) -> None:
    x, y = rows(complete_backend)
    v = size * (0.5 + torch.rand(30, generator=torch.Generator().manual_seed(1)))
    losses, gradients = [], []
    for name, rows_, weights in (
        (complete_backend.name, x, v.to(x.device)),
        ("reference", x.detach().cpu().double().requires_grad_(), v.double()),
    ):
        loss = fpc.functional.info_nce(
            rows_, y.to(rows_.device), temperature=0.05, denominator=denominator, contrast_weights=weights, backend=name
        )
        losses.append(loss.detach().cpu().double())
        gradients.append(torch.autograd.grad(loss, rows_)[0].cpu().double())
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_balance_of_no_rows_is_nothing() -> None:
    x, y = torch.randn(5, 4), torch.arange(5) % 2
    loss = fpc.functional.info_nce(
        x, y, x[:0], y[:0], contrast_weights=torch.ones(0), pairs=fpc.Pairs(balanced=True), reduction="sum"
    )
    assert loss == 0


def rows(backend: Backend) -> tuple[Tensor, Tensor]:
    x = torch.randn(30, 16, generator=torch.Generator().manual_seed(0)).to(backend.device)
    return x.requires_grad_(), (torch.arange(30, device=backend.device) % 3)


NOTHING: dict[str, dict[str, Any]] = {
    "all weights are zero": {"contrast_weights": 0.0},
    "all anchors weigh nothing": {"weights": 0.0},
    "one group, positives of others": {"groups": 0, "pairs": fpc.Pairs(positives="other")},
    "every row its own group, positives of the same": {"groups": None, "pairs": fpc.Pairs(positives="same")},
    "no class weighs, decoupled": {"pairs": fpc.Pairs(class_weights=torch.zeros(3, 3)), "denominator": "decoupled"},
    "no class weighs": {"pairs": fpc.Pairs(class_weights=torch.zeros(3, 3))},
    "one group, negatives of others": {"groups": 0, "pairs": fpc.Pairs(negatives="other")},
}


@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("what", list(NOTHING))
def test_where_nothing_is_left_loss_and_gradient_are_zero(
    what: str, temperature: float, complete_backend: Backend
) -> None:
    x, y = rows(complete_backend)
    given = dict(NOTHING[what])
    for name in ("weights", "contrast_weights"):
        if name in given:
            given[name] = torch.full((30,), given[name], device=x.device)
    if "groups" in given:
        given["groups"] = torch.arange(30, device=x.device) * (0 if given["groups"] == 0 else 1)
    with fpc.backend(complete_backend.name):
        loss = fpc.functional.info_nce(x, y, temperature=temperature, **given)
        (d_x,) = torch.autograd.grad(loss, x)
    assert float(loss) == 0
    assert not d_x.any()


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "negative weights": ("weights", {"weights": -torch.ones(30)}),
    "NaN": ("weights", {"weights": torch.full((30,), torch.nan)}),
    "infinite": ("contrast_weights", {"contrast_weights": torch.full((30,), torch.inf)}),
    "too few": ("weights", {"weights": torch.ones(29)}),
    "whole numbers": ("contrast_weights", {"contrast_weights": torch.ones(30, dtype=torch.int64)}),
    "a map": ("weights", {"weights": torch.ones(30, 1)}),
    "with gradient": ("weights", {"weights": torch.ones(30, requires_grad=True)}),
    "a list": ("contrast_weights", {"contrast_weights": [1.0] * 30}),
    "groups of floats": ("groups", {"groups": torch.ones(30), "pairs": fpc.Pairs("same")}),
    "groups too few": ("groups", {"groups": torch.ones(3, dtype=torch.int64), "pairs": fpc.Pairs("same")}),
    "groups too large": ("groups", {"groups": torch.full((30,), 2**40), "pairs": fpc.Pairs("same")}),
    "no groups": ("groups", {"pairs": fpc.Pairs(negatives="other")}),
    "groups for nothing": ("groups", {"groups": torch.zeros(30, dtype=torch.int64)}),
    "groups of no contrast": ("contrast_groups", {"contrast_groups": torch.zeros(30, dtype=torch.int64)}),
    "a small class matrix": ("anchor_labels", {"pairs": fpc.Pairs(class_weights=torch.ones(2, 2))}),
    "no pairs": ("pairs", {"pairs": "balanced"}),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_is_wrong_names_its_argument(what: str) -> None:
    name, given = WRONG[what]
    y = torch.arange(30) % 3
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        fpc.functional.info_nce(torch.randn(30, 8), y, **given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("positives", {"positives": "others"}),
        ("negatives", {"negatives": None}),
        ("balanced", {"balanced": 1}),
        ("class_weights", {"class_weights": torch.ones(3, 4)}),
        ("class_weights", {"class_weights": torch.ones(3)}),
        ("class_weights", {"class_weights": torch.ones(3, 3, dtype=torch.int64)}),
        ("class_weights", {"class_weights": -torch.ones(3, 3)}),
        ("class_weights", {"class_weights": torch.ones(3, 3) / 0}),
        ("class_weights", {"class_weights": torch.ones(3, 3, requires_grad=True)}),
        ("class_weights", {"class_weights": [[1.0]]}),
    ],
)
def test_a_wrong_rule_names_its_argument(name: str, given: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        fpc.Pairs(**given)


def maps(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 8, 6, 5, generator=g, dtype=torch.float64)
    labels = torch.randint(3, (3, 12, 10), generator=g)
    return x.requires_grad_(), labels, torch.randint(3, (3, 6, 5), generator=g)


def anchors_of(x: Tensor, labels: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    chosen = fpc.functional.select_anchors(labels, predictions, num_classes=3, max_views=4, min_pixels=1, seed=3)
    index = chosen.index[: int(chosen.count)]
    return fpc.functional.gather_normalize(x, index), chosen.label[: len(index)], index


@pytest.mark.parametrize("size", ["labels", "map"])
def test_weights_of_pixels_are_those_of_their_anchors(size: str) -> None:
    x, labels, predictions = maps()
    weights = torch.rand(labels.shape if size == "labels" else predictions.shape, dtype=torch.float64)
    rows, y, index = anchors_of(x, labels, predictions)
    b, place = index // 30, index % 30
    step = 2 if size == "labels" else 1
    w = weights[b, place // 5 * step, place % 5 * step]
    expected = fpc.functional.info_nce(rows, y, weights=w, normalize=False, base_temperature=0.07)
    contrast = fpc.PixelContrastLoss(max_views=4, min_pixels=1, num_classes=3, seed=3)
    torch.testing.assert_close(contrast(x, labels, predictions, weights), expected)


@pytest.mark.parametrize("given", [None, [4, 4, 9]])
def test_groups_are_images_unless_others_are_given(given: list[int] | None) -> None:
    x, labels, predictions = maps()
    rows, y, index = anchors_of(x, labels, predictions)
    groups = torch.tensor([0, 1, 2] if given is None else given)
    pairs = fpc.Pairs(positives="other", negatives="same", balanced=True)
    expected = fpc.functional.info_nce(
        rows, y, groups=groups[index // 30], pairs=pairs, normalize=False, base_temperature=0.07
    )
    contrast = fpc.PixelContrastLoss(max_views=4, min_pixels=1, num_classes=3, seed=3, pairs=pairs)
    loss = contrast(x, labels, predictions, groups=None if given is None else groups)
    torch.testing.assert_close(loss, expected)


def test_class_weights_go_where_the_module_goes() -> None:
    W = torch.rand(3, 3)
    contrast = fpc.PixelContrastLoss(pairs=fpc.Pairs(class_weights=W))
    assert "_class_weights" not in contrast.state_dict()
    assert torch.equal(dict(contrast.named_buffers())["_class_weights"], W)


def test_a_volume_and_tokens_take_weights() -> None:
    for sizes, of_labels in (((7,), (14,)), ((2, 3, 4), (4, 6, 8))):
        weights = torch.rand(2, *of_labels)
        index = torch.tensor([0, 5, -1, 2 * math.prod(sizes) - 1])
        from fastpixcon.ops import maps as of_maps

        found = of_maps.at_pixels(weights, index, torch.Size(sizes))
        nearest = weights[(slice(None), *(slice(None, None, 2) for _ in sizes))].reshape(-1)
        torch.testing.assert_close(found, nearest[index.clamp(min=0)].where(index >= 0, 0))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("weights", {"weights": torch.ones(3, 5, 6)}),
        ("weights", {"weights": torch.ones(3, 12, 10, dtype=torch.int64)}),
        ("weights", {"weights": torch.full((3, 12, 10), -1.0)}),
        ("groups", {"groups": torch.zeros(3, dtype=torch.int64)}),
    ],
)
def test_wrong_maps_of_weights_name_their_argument(name: str, given: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        fpc.PixelContrastLoss(max_views=4, min_pixels=1, num_classes=3)(*maps(), **given)


@pytest.mark.parametrize("loss", [fpc.SupConLoss, fpc.InfoNCELoss])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_rows_take_pairs_weights_and_a_reduction(loss: Any, reduction: str) -> None:
    p = problem(1, False, False)
    pairs = fpc.Pairs("other", "any", p["W"], True)
    made = loss(temperature=0.2, pairs=pairs, reduction=reduction)
    expected = fpc.functional.info_nce(
        p["x"], p["y"], temperature=0.2, pairs=pairs, reduction=reduction, weights=p["w"], groups=p["groups"],
        denominator=loss.denominator,
    )  # fmt: skip
    torch.testing.assert_close(made(p["x"], p["y"], p["w"], p["groups"]), expected)


def test_weights_need_no_more_than_float32_of_half_precision_rows(complete_backend: Backend) -> None:
    x, y = rows(complete_backend)
    for dtype in (torch.bfloat16, torch.float16):
        loss = fpc.functional.info_nce(x.to(dtype), y, contrast_weights=torch.rand(30, device=x.device).to(dtype))
        assert loss.dtype == torch.float32
