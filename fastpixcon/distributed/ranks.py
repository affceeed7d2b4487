"""The ranks of a process group: what they exchange, that they agree, and what they say when one of them fails."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["ACROSS", "Exchange", "Ranks", "contents"]

ACROSS = ("gather", "ring")
# The older names warn where there are new ones, which torch 2.7 has not.
ALL_GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
REDUCE_SCATTER = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"

_CONTENTS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # of a tensor: its version and what it held then


def contents(x: Tensor | None) -> str:
    """What ranks can compare; a tensor is read back once, and after a change in place."""
    if x is None:
        return "none"
    version = -1 if x.is_inference() else x._version
    if _CONTENTS.get(x, (None,))[0] != version:
        checksum = zlib.crc32(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        _CONTENTS[x] = version, f"{list(x.shape)} with the checksum {checksum:08x}"
    return str(_CONTENTS[x][1])


class Ranks:
    """A process group and how to contrast across it.

    ``same_sizes``: arguments of a rank have the shapes that they had at the first call, so that these are exchanged
    once, not with a wait for the device at every step.
    """

    def __init__(self, group: Any, across: str, same_sizes: bool = False) -> None:
        self.group = group
        self.across = across
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)
        self.same_sizes = same_sizes
        self.known: dict[tuple[Any, ...], list[int]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        return Ranks(self.group, self.across, self.same_sizes)  # a copy of a module is in the same group

    def __reduce__(self) -> Any:
        raise TypeError("process_group: can't be pickled; save the state_dict")

    @contextmanager
    def waiting(self, what: str, peer: int | None = None) -> Iterator[None]:
        """Says what was waited for where a rank is lost."""
        try:
            yield
        except RuntimeError as error:
            whom = "the other ranks" if peer is None else f"rank {peer}"
            raise RuntimeError(
                f"contrast across ranks ({self.across}): rank {self.rank} of {self.size} waited for {whom} to exchange"
                f" {what}: {error}"
            ) from error

    def agree(self, rows: int, device: torch.device, **values: int | str) -> list[int]:
        """Raises a ValueError on every rank if ``values`` are not the same on all; returns the rows of every rank."""
        key = (rows, *values.values())
        if self.same_sizes and key in self.known:
            return self.known[key]
        numbers = [x if isinstance(x, int) else zlib.crc32(x.encode()) for x in values.values()]
        own = torch.tensor([rows, *numbers], dtype=torch.int64, device=device)
        everyone = own.new_empty(self.size * len(own))
        with self.waiting("sizes"):
            getattr(dist, ALL_GATHER)(everyone, own, group=self.group)
        sizes, *columns = everyone.view(self.size, -1).T.tolist()  # a wait for the device
        for (name, value), column in zip(values.items(), columns, strict=True):
            if len(set(column)) > 1:
                others = [r for r in range(self.size) if column[r] != column[self.rank]]
                got = f"{column} on the ranks" if isinstance(value, int) else f"{value}, something else on {others}"
                raise ValueError(f"{name}: rank {self.rank} of {self.size} got {got}, want the same on all ranks")
        self.known[key] = sizes
        return sizes

    def gather_rows(self, tensors: Sequence[Tensor], sizes: Sequence[int], what: str) -> list[Tensor]:
        """Of every tensor ``[sizes[rank], ..]`` those of all ranks, in their order, [sum of sizes, ..]."""
        longest = max(sizes)
        padded = []
        with self.waiting(what):
            works: list[tuple[Any, Tensor]] = []
            for x in tensors:
                whole = x.new_empty(self.size * longest, *x.shape[1:])
                sent = x.contiguous() if len(x) == longest else _padded(x, longest)
                works.append((getattr(dist, ALL_GATHER)(whole, sent, group=self.group, async_op=True), sent))
                padded.append(whole)
            for work, _sent in works:
                work.wait()
        if min(sizes) == longest:
            return padded
        return [torch.cat([x[r * longest : r * longest + n] for r, n in enumerate(sizes)]) for x in padded]

    def reduce_scatter_rows(self, x: Tensor, sizes: Sequence[int], what: str) -> Tensor:
        """The sum over the ranks of ``x [sum of sizes, ..]``, of it the rows of this rank, [sizes[rank], ..]."""
        longest = max(sizes)
        if min(sizes) < longest:
            x = torch.cat([_padded(part, longest) for part in x.split(list(sizes))])
        own = x.new_empty(longest, *x.shape[1:])
        with self.waiting(what):
            try:
                getattr(dist, REDUCE_SCATTER)(own, x.contiguous(), group=self.group)
            except RuntimeError as error:
                if "does not support" not in str(error) and "not implemented" not in str(error):
                    raise
                dist.all_reduce(x, group=self.group)  # Gloo before torch 2.8
                own = x[self.rank * longest : (self.rank + 1) * longest]
        return own[: sizes[self.rank]]

    def all_reduce_(self, x: Tensor, what: str) -> Tensor:
        """``x`` becomes its sum over the ranks."""
        with self.waiting(what):
            dist.all_reduce(x, group=self.group)
        return x

    def exchange(
        self, sent: Sequence[Tensor], to: int, received: Sequence[Tensor], source: int, what: str
    ) -> "Exchange":
        """Starts to send tensors to a rank and to fill others from a rank; all ranks call it, in the same order."""
        return Exchange(self, sent, to, received, source, what)


class Exchange:
    """Tensors on their way; they stay alive until they arrived."""

    def __init__(
        self, ranks: Ranks, sent: Sequence[Tensor], to: int, received: Sequence[Tensor], source: int, what: str
    ) -> None:
        self.ranks, self.what = ranks, what
        self.received = list(received)
        # One batch, as one kernel of NCCL: sends and receives one after the other would wait for each other.
        pairs = [(dist.isend, x, to) for x in sent if x.numel()] + [
            (dist.irecv, x, source) for x in received if x.numel()
        ]
        self.operations = [dist.P2POp(op, x, group=ranks.group, group_peer=peer) for op, x, peer in pairs]
        self.peers = [peer for _, _, peer in pairs]
        self.works: list[Any] = []
        if self.operations:
            with ranks.waiting(what, source if source == to else None):
                self.works = dist.batch_isend_irecv(self.operations)

    def wait(self) -> list[Tensor]:
        """What was received."""
        one_each = len(self.works) == len(self.peers)
        for number, work in enumerate(self.works):
            with self.ranks.waiting(self.what, self.peers[number] if one_each else None):
                work.wait()
        self.works, self.operations = [], []
        return self.received


def _padded(x: Tensor, length: int) -> Tensor:
    padded = x.new_zeros(length, *x.shape[1:])
    padded[: len(x)] = x
    return padded
