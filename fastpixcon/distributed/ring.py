"""Contrast with the shards of all ranks, which pass around a ring: no rank ever holds more than three of them.

Rank r computes its own shard with itself, then, while the next one is on its way, with the shard of rank r - k for
k = 1, 2, .. R // 2, each pair of shards both ways at once (``mutual``), so that R // 2 hops are enough. If R is even,
two ranks meet each other in the last hop; the lower one takes the first half of the upper one's rows, the upper one its
own second half. What a visitor is owed goes to its owner, who adds it up hop by hop: the same bits every time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastpixcon.contrast import LocalBatch
from fastpixcon.distributed.ranks import Exchange, Ranks
from fastpixcon.ops.backends import call
from fastpixcon.values import ALL_PAIRS, Rows, Rule, Statistics

__all__ = ["Ring", "hops"]


class Hop(NamedTuple):
    """A visit of another rank's rows at this rank, and of this rank's rows elsewhere."""

    owner: int  # whose rows visit here
    visitors: int  # how many: its first ones
    own: slice  # the rows of this rank that they are computed with
    helper: int  # where rows of this rank visit meanwhile
    away: int  # how many: the first ones


def hops(rank: int, sizes: Sequence[int]) -> list[Hop]:
    R, n = len(sizes), sizes[rank]
    result = []
    for k in range(1, R // 2 + 1):
        owner, helper = (rank - k) % R, (rank + k) % R
        if 2 * k < R:
            result.append(Hop(owner, sizes[owner], slice(0, n), helper, n))
        elif rank < k:
            result.append(Hop(owner, first_half(sizes[owner]), slice(0, n), helper, n))
        else:
            result.append(Hop(owner, sizes[owner], slice(first_half(n), n), helper, first_half(n)))
    return result


def first_half(n: int) -> int:
    return (n + 1) // 2


class Tour:
    """A shard of every rank passes around: construction starts it."""

    def __init__(self, ranks: Ranks, sizes: Sequence[int], shard: Sequence[Tensor], what: str) -> None:
        """``shard``: tensors [n, ..] of this rank, the same ones on all ranks."""
        self.ranks, self.what = ranks, what
        self.hops = hops(ranks.rank, sizes)
        self.next_ones = hops((ranks.rank + 1) % ranks.size, sizes)
        self.returning: tuple[Hop, Exchange] | None = None
        self.coming = self.pass_on([x.contiguous() for x in shard], 0)

    def pass_on(self, held: Sequence[Tensor], number: int) -> Exchange:
        """Sends the next rank its visitor of a hop and receives that of this rank."""
        to, source = (self.ranks.rank + 1) % self.ranks.size, (self.ranks.rank - 1) % self.ranks.size
        leaving, coming = self.next_ones[number].visitors, self.hops[number].visitors
        received = [x.new_empty(coming, *x.shape[1:]) for x in held]
        return self.ranks.exchange([x[:leaving] for x in held], to, received, source, f"shards for {self.what}")

    def visits(self) -> Iterator[tuple[Hop, list[Tensor]]]:
        for number, hop in enumerate(self.hops):
            held = self.coming.wait()
            if number + 1 < len(self.hops):
                self.coming = self.pass_on(held, number + 1)
            yield hop, held

    def send_home(self, hop: Hop, results: Sequence[Tensor], add: Callable[[int, list[Tensor]], None]) -> None:
        """Sends ``results [visitors, ..]`` to their owner; ``add`` gets what came from the hop before."""
        self.finish(add)
        received = [x.new_empty(hop.away, *x.shape[1:]) for x in results]
        sent = [x.contiguous() for x in results]
        exchange = self.ranks.exchange(sent, hop.owner, received, hop.helper, f"results of {self.what}")
        self.returning = (hop, exchange)

    def finish(self, add: Callable[[int, list[Tensor]], None]) -> None:
        if self.returning is not None:
            hop, exchange = self.returning
            add(hop.away, exchange.wait())
        self.returning = None


class Ring(NamedTuple):
    """The batch of all ranks, see ``contrast.Batch``."""

    anchors: Rows  # unit rows [n, D] of this rank
    rule: Rule
    backend: str
    ranks: Ranks
    sizes: Sequence[int]  # n of every rank

    def own_shard(self) -> LocalBatch:
        return LocalBatch(self.anchors, None, self.rule, ALL_PAIRS, self.backend)

    def tour(self, what: str, *more: Tensor) -> Tour:
        return Tour(self.ranks, self.sizes, [*self.anchors.tensors(), *more], what)

    def visiting(self, tensors: Sequence[Tensor]) -> tuple[Rows, list[Tensor]]:
        """The rows of a visitor, and what came with them."""
        here = len(self.anchors.tensors())
        return self.anchors.like(tensors[:here]), list(tensors[here:])

    def with_visitors(self, operator: str, *arguments: Any) -> Any:
        return call(operator, self.anchors.x, self.backend, *arguments)

    def of(self, hop: Hop) -> Rows:
        return self.anchors.each(lambda x: x[hop.own])

    def sums(self) -> Tensor:
        tour = self.tour("sums")
        log_sum = self.own_shard().sums()  # [n]

        def add(away: int, results: list[Tensor]) -> None:
            log_sum[:away] = torch.logaddexp(log_sum[:away], results[0])

        for hop, held in tour.visits():
            sets = (self.of(hop), self.visiting(held)[0], self.rule, ALL_PAIRS)
            here, columns = self.with_visitors("contrast_sums", *sets, True)
            log_sum[hop.own] = torch.logaddexp(log_sum[hop.own], here)
            tour.send_home(hop, [columns], add)
        tour.finish(add)
        return log_sum

    def positives(self, log_z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tour = self.tour("positives", log_z)
        sums = self.own_shard().positives(log_z)  # loss, weight, mass, each [n]

        def add(away: int, results: list[Tensor]) -> None:
            for total, more in zip(sums, results, strict=True):
                total[:away] += more

        for hop, held in tour.visits():
            visitor, (column_log_z,) = self.visiting(held)
            sets = (self.of(hop), visitor, self.rule, ALL_PAIRS)
            results = self.with_visitors("contrast_positives", *sets, log_z[hop.own], column_log_z)
            for total, here in zip(sums, results[:3], strict=True):
                total[hop.own] += here
            tour.send_home(hop, results[3:], add)
        tour.finish(add)
        return sums

    def gradient(self, of: Statistics, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the anchors [n, D], nothing of contrast rows [0], of the temperature []: this rank's part of it."""
        of = of._replace(d_loss=of.d_loss.contiguous())
        tour = self.tour("gradients", *of)
        d_anchors, nothing, d_temperature = self.own_shard().gradient(of, [wanted[0], False, wanted[2]])

        def add(away: int, results: list[Tensor]) -> None:
            d_anchors[:away] += results[0]

        for hop, held in tour.visits():
            visitor, columns = self.visiting(held)
            sets = (self.of(hop), visitor, self.rule, ALL_PAIRS)
            statistics = (Statistics(*(x[hop.own] for x in of)), Statistics(*columns))
            mask = [wanted[0], wanted[0], wanted[2]]
            here, d_rows, d_more = self.with_visitors("contrast_gradient", *statistics, *sets, mask)
            d_temperature = d_temperature + d_more
            if wanted[0]:
                d_anchors[hop.own] += here
                tour.send_home(hop, [d_rows], add)
            del here, d_rows, visitor, sets  # else they would still be there when the next ones are made
        tour.finish(add)
        return d_anchors, nothing, d_temperature
