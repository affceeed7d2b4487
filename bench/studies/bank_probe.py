"""What a memory bank and mining do to a training, measured in it: why they help, or don't.

    python bench/studies/bank_probe.py --config camvid --data ../camvid --out runs/probe.json

Trains the arm ce+contrast+memory and looks, every so many iterations, at batches that stay the same (images, crops and
pixels), with the network as it trains and the bank as it is then:

- drift: cosine of the row that the network gives a pixel now with the row that it gave it so many iterations ago;
- full: share of the bank's places that are taken, by class;
- share of Z and of the gradient of an anchor that comes from the bank; of the batch's gradient what the rows get as
  anchors, and what they get as contrast rows, which a bank takes away;
- negatives: of the hardest tenth of an anchor's negatives in the batch, and of all, how many lie within one or two
  pixels of the map of a boundary, and how many the network takes for the anchor's class; the same of positives, hardest
  first, that it takes for another;
- mining: the share of pairs, of Z and of the push that it keeps.
"""

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.training import config as configs
from fastpixcon.training import job, writing
from fastpixcon.training.config import Config
from fastpixcon.training.data import IGNORE
from fastpixcon.training.data.loading import EpochOrder, TrainSet, augmentation, train_loader
from fastpixcon.training.engine import Arm, Runtime

ARM = "ce+contrast+memory"
HARDEST = 0.1  # of the pairs of an anchor
FOLLOWED = 400  # labelled pixels of a batch whose rows are compared over time


class Seen(NamedTuple):
    """A batch, as the network sees it now."""

    labels: Tensor  # [B, h, w] on the map
    rows: Tensor  # [B * h * w, D] unit
    predicted: Tensor  # [B * h * w]
    index: Tensor  # [N] of the anchors
    label: Tensor  # [N]


def on_map(labels: Tensor, h: int, w: int) -> Tensor:
    """Labels [B, H, W] by nearest, floor(i H / h)."""
    y = torch.arange(h) * labels.shape[1] // h
    x = torch.arange(w) * labels.shape[2] // w
    return labels[:, y][:, :, x]


@torch.no_grad()
def see(arm: Arm, images: Tensor, labels: Tensor) -> Seen:
    """As in training, so with the batch's own statistics; the network stays as it is."""
    before = {name: value.clone() for name, value in arm.model.named_buffers()}
    random = torch.get_rng_state()
    arm.model.train()
    outputs = arm.model(images)
    for name, value in arm.model.named_buffers():
        value.copy_(before[name])
    torch.set_rng_state(random)
    embeddings, logits = outputs["embeddings"].float(), outputs["logits"]  # [B, D, h, w], [B, K, h', w']
    h, w = embeddings.shape[-2:]
    logits = F.interpolate(logits.float(), (h, w), mode="bilinear", align_corners=False)
    contrast = arm.config.contrast
    selected = fpc.functional.select_anchors(
        labels, logits, max_samples=contrast.max_samples, max_views=contrast.max_views, min_pixels=contrast.min_pixels,
        ignore_index=IGNORE, num_classes=len(arm.data.classes), seed=0,
    )  # fmt: skip
    taken = selected.label != -1
    rows = F.normalize(embeddings.movedim(1, -1).reshape(-1, embeddings.shape[1]), dim=1)
    return Seen(
        on_map(labels, h, w), rows, logits.argmax(1).flatten(), selected.index[taken], selected.label[taken].long()
    )


def distance_to_boundary(labels: Tensor, most: int = 3) -> Tensor:
    """[B, h, w]: 0 where a neighbour (of 8) has another label, then pixels of the map from there, up to ``most``."""
    y = labels[:, None].float()
    y = F.pad(y, (1, 1, 1, 1), mode="replicate")
    edge = (F.max_pool2d(y, 3, 1) != -F.max_pool2d(-y, 3, 1)).float()  # [B, 1, h, w]
    distance = torch.full_like(edge, float(most))
    for d in reversed(range(most)):
        distance[F.max_pool2d(edge, 2 * d + 1, 1, d) > 0] = d
    return distance[:, 0]


class Pairs(NamedTuple):
    """Of the anchors against themselves and against the bank, float64."""

    cosines: Tensor  # [N, N]
    bank_cosines: Tensor  # [N, M]
    same: Tensor  # [N, N], itself left out
    other: Tensor
    bank_same: Tensor  # [N, M]
    bank_other: Tensor


def pairs_of(seen: Seen, bank: fpc.MemoryBank) -> tuple[Pairs, Tensor, Tensor]:
    """And the rows of anchors and bank."""
    x = seen.rows[seen.index].double()
    places = bank.labels.flatten() != -1
    y, y_label = bank.rows.flatten(0, 1)[places].double(), bank.labels.flatten()[places].long()
    same = seen.label[:, None] == seen.label[None, :]
    bank_same = seen.label[:, None] == y_label[None, :]
    itself = torch.eye(len(x), dtype=torch.bool)
    return Pairs(x @ x.T, x @ y.T, same & ~itself, ~same, bank_same, ~bank_same), x, y


def shares(p: Pairs, x: Tensor, y: Tensor, temperature: float) -> dict[str, float]:
    """Of Z and of the gradient, "negatives" (Wang et al. 2021): with w = mean over positives of Z / (Z + e^s_ip) a
    negative pushes by w e^s / Z, a positive pulls by Z / (Z + e^s) / |P|."""
    e, bank_e = torch.exp(p.cosines / temperature), torch.exp(p.bank_cosines / temperature)
    counts = p.same.sum(1) + p.bank_same.sum(1) > 0

    def gradients(with_bank: bool) -> tuple[Tensor, ...]:
        z_batch, z_bank = (e * p.other).sum(1), (bank_e * p.bank_other).sum(1) * with_bank
        z = (z_batch + z_bank)[:, None]
        positives = (p.same.sum(1) + p.bank_same.sum(1) * with_bank).clamp(min=1)[:, None]
        pull, bank_pull = p.same * z / (z + e) / positives, p.bank_same * z / (z + bank_e) / positives * with_bank
        w = pull.sum(1, keepdim=True) + bank_pull.sum(1, keepdim=True)
        h = (p.other * e * w / z - pull) / len(x) / temperature  # dL/ds, [N, N]
        bank_h = (p.bank_other * bank_e * w / z - bank_pull) / len(x) / temperature * with_bank

        def tangential(d: Tensor) -> Tensor:  # what normalisation lets through
            return d - (d * x).sum(1, keepdim=True) * x

        return tangential(h @ x), tangential(h.T @ x), tangential(bank_h @ y), z_bank / z[:, 0]

    as_anchor, as_contrast, from_bank, share = gradients(True)
    alone_anchor, alone_contrast, *_ = gradients(False)
    both, alone = as_anchor + as_contrast + from_bank, alone_anchor + alone_contrast

    def size(d: Tensor) -> float:
        return float(d.norm())

    return {
        "share_of_Z": float(share[counts].mean()),
        "positives_in_batch": float(p.same.sum(1)[counts].double().mean()),
        "positives_in_bank": float(p.bank_same.sum(1)[counts].double().mean()),
        "gradient": size(both),
        "gradient_as_anchors": size(as_anchor),
        "gradient_as_contrast_rows": size(as_contrast),
        "gradient_from_bank": size(from_bank),
        "gradient_without_bank": size(alone),
        "gradient_without_bank_as_contrast_rows": size(alone_contrast),
        "cosine_of_both": float(F.cosine_similarity(both.flatten(), alone.flatten(), dim=0)),
    }


def hard_pairs(seen: Seen, p: Pairs) -> dict[str, float]:
    """What the hardest pairs in the batch are, beside all of them."""
    distance = distance_to_boundary(seen.labels).flatten()[seen.index]  # [N]
    predicted = seen.predicted[seen.index]
    taken_for = predicted[None, :] == seen.label[:, None]  # [N, N], the column for the class of the row
    found = {}
    for name, pairs, hardness in (("negatives", p.other, p.cosines), ("positives", p.same, -p.cosines)):
        hardness = hardness.where(pairs, -torch.inf)
        number = (pairs.sum(1) * HARDEST).ceil().long().clamp(min=1)
        order = hardness.argsort(1, descending=True).argsort(1)
        for which, some in (("hardest", pairs & (order < number[:, None])), ("all", pairs)):
            count = some.sum().clamp(min=1)
            of = f"{which}_{name}"
            found[f"{of}_at_boundary"] = float((some & (distance <= 0)[None, :]).sum() / count)
            found[f"{of}_within_1"] = float((some & (distance <= 1)[None, :]).sum() / count)
            wrong = taken_for if name == "negatives" else ~taken_for
            found[f"{of}_confused"] = float((some & wrong).sum() / count)
    return found


def mining_keeps(p: Pairs, temperature: float, config: Config) -> dict[str, float]:
    """Of batch and bank together: semi-hard mining keeps the hardest ``fraction``, of these at most ``keep``."""
    mining = config.mining
    cosines = torch.cat([p.cosines, p.bank_cosines], 1)
    other, same = torch.cat([p.other, p.bank_other], 1), torch.cat([p.same, p.bank_same], 1)
    e = torch.exp(cosines / temperature)
    found = {}
    for name, pairs, hardness, keep in (
        ("negatives", other, cosines, mining.keep[1]), ("positives", same, -cosines, mining.keep[0]),
    ):  # fmt: skip
        order = hardness.where(pairs, -torch.inf).argsort(1, descending=True).argsort(1)
        hard = pairs & (order < (pairs.sum(1, keepdim=True) * mining.fraction).ceil())
        share = (keep / hard.sum(1).clamp(min=1)).clamp(max=1)
        found[f"mining_keeps_{name}"] = float((hard.sum(1) * share).sum() / pairs.sum().clamp(min=1))
        if name == "negatives":
            found["mining_keeps_of_Z"] = float(((e * hard).sum(1) * share / (e * pairs).sum(1).clamp(min=1e-30)).mean())
    return found


class EnoughError(Exception):
    """Nothing more is to be looked at."""


class Probe:
    def __init__(self, batches: list[tuple[Tensor, Tensor]], every: int, until: int | None = None) -> None:
        self.batches, self.every, self.until = batches, every, until
        self.followed: dict[int, list[Tensor]] = {}  # iteration -> of each batch rows [FOLLOWED, D]
        self.places: list[Tensor] = []
        self.found: list[dict[str, Any]] = []

    def __call__(self, arm: Arm) -> None:
        if self.until is not None and arm.done > self.until:
            raise EnoughError
        after = arm.done - arm.config.contrast.warmup
        if arm.contrast is None or arm.contrast.memory is None or after < 1 or after % self.every:
            return
        bank, temperature = arm.contrast.memory, arm.config.contrast.temperature
        saved = bank.state_dict()  # adds what waits
        taken = (saved["labels"] != -1).float().mean(1)
        sums: dict[str, float] = {}
        self.followed[arm.done] = []
        for number, (images, labels) in enumerate(self.batches):
            seen = see(arm, images, labels)
            if number == len(self.places):
                known = (seen.labels.flatten() != IGNORE).nonzero()[:, 0]
                generator = torch.Generator().manual_seed(number)
                self.places.append(known[torch.randperm(len(known), generator=generator)[:FOLLOWED]])
            self.followed[arm.done].append(seen.rows[self.places[number]].clone())
            p, x, y = pairs_of(seen, bank)
            for part in (shares(p, x, y, temperature), hard_pairs(seen, p), mining_keeps(p, temperature, arm.config)):
                for name, value in part.items():
                    sums[name] = sums.get(name, 0.0) + value / len(self.batches)
        entry = {"iteration": arm.done, "full": [round(float(v), 3) for v in taken], **sums}
        self.found.append(entry)
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()}), flush=True)

    def drift(self) -> dict[int, dict[str, float]]:
        """Cosine by age in iterations, over all times: mean, and the tenth that moved most."""
        ages: dict[int, list[Tensor]] = {}
        for now, rows in self.followed.items():
            for before, old in self.followed.items():
                if before < now:
                    cosines = torch.cat([(a * b).sum(1) for a, b in zip(rows, old, strict=True)])
                    ages.setdefault(now - before, []).append(cosines)
        return {
            age: {"mean": float(torch.cat(c).mean()), "least_tenth": float(torch.cat(c).quantile(0.1))}
            for age, c in sorted(ages.items())
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="camvid")
    parser.add_argument("--data", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--every", type=int, default=40, help="iterations")
    parser.add_argument("--until", type=int, help="iteration after which it ends; left out: all of the training")
    parser.add_argument("--batches", type=int, default=4, help="that are looked at")
    parser.add_argument("--run", type=Path, default=Path("runs/bank-probe"), help="folder of the training")
    parser.add_argument("--out", type=Path, default=Path("runs/bank-probe.json"))
    options = parser.parse_args()
    given = [f"data.root={options.data}", f'arms=["{ARM}"]', *options.set]
    config, data = job.prepare(configs.load(options.config, given))
    train = TrainSet(data.train, augmentation(config.data.augmentation), config.seed + 1)  # crops not trained on
    order = EpochOrder(len(data.train), config.schedule.batch, config.seed + 1, 0, 0, (0, 1))
    loader = train_loader(train, order, 0)
    probe = Probe(
        [batch for batch, _ in zip(loader, range(options.batches), strict=False)], options.every, options.until
    )
    options.run.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(
        torch.device("cpu"), config.precision, lambda: 0, on_iteration=probe, on_evaluation=lambda arm: None
    )
    with suppress(EnoughError):
        Arm(config, ARM, data, options.run / ARM, runtime).run()
    tree = configs.to_tree(config)
    tree["data"]["root"] = ""  # where it lies is nobody's business
    result = {"config": tree, "measured": probe.found, "drift": probe.drift()}
    writing.write_text(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["drift"], indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
