"""Which ranks a user means: by name, by group, none; and what only looks like none."""

import copy
import os
from functools import partial
from typing import Any

import torch.distributed as dist

from fastpixcon.distributed.ranks import ACROSS, Ranks
from fastpixcon.ops import checks

__all__ = ["NO_GROUP", "Group", "ranks_of"]

WORLD = "world"
WANTED = "'world', a torch.distributed.ProcessGroup that this rank belongs to, or to be left out"


class _NoGroup:
    """The default of ``process_group``. Not None: ``torch.distributed.group.WORLD`` is None until
    ``init_process_group``, and who passes that does not mean to be alone."""

    def __repr__(self) -> str:
        return "no group"

    def __reduce__(self) -> str:
        return "NO_GROUP"


NO_GROUP = _NoGroup()


def ranks_of(process_group: Any, across: str, *, same_sizes: bool = False) -> Ranks | None:
    """The ranks to contrast across, as they are now; None where there is only this one.

    Raises:
        ValueError: it names no group of this rank, or names one that is not there yet.
        TypeError: it is something else.
    """
    checks.one_of("across", across, ACROSS)
    if isinstance(process_group, Ranks):
        return process_group
    if process_group is NO_GROUP:
        return None
    if process_group is None or process_group == WORLD:
        if process_group is None and _is_there():
            return None  # group.WORLD would be something: this None means none
        _refuse_if_launched(process_group)
        process_group = dist.group.WORLD if _is_there() else None
        if process_group is None:
            return None
    if not dist.is_available():
        raise ValueError(f"process_group: got {process_group!r}, want none: this torch has no torch.distributed")
    if process_group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"process_group: got one without this rank, want {WANTED}")
    if not isinstance(process_group, dist.ProcessGroup):
        kind = ValueError if isinstance(process_group, str) else TypeError
        raise kind(f"process_group: got {process_group!r}, want {WANTED}")
    return Ranks(process_group, across, same_sizes) if dist.get_world_size(process_group) > 1 else None


class Group:
    """What a module was given as ``process_group`` and ``across``; its ranks are found when it is first called."""

    def __init__(self, process_group: Any, across: str | None, *, same_sizes: bool) -> None:
        self.across = "gather" if across is None else across
        checks.one_of("across", self.across, ACROSS)
        if across is not None and (process_group is NO_GROUP or process_group is None):
            raise ValueError(
                f"process_group: got {process_group!r} with across={across!r}, want {WANTED}; torch.distributed.group"
                ".WORLD is None until init_process_group: 'world' means it at the first call"
            )
        self.process_group, self.same_sizes = process_group, same_sizes
        self.was_there = _is_there()
        self._ranks: Ranks | None = None
        if not self.is_by_name:
            self._ranks = ranks_of(process_group, self.across, same_sizes=same_sizes)  # raises now

    @property
    def is_by_name(self) -> bool:
        return isinstance(self.process_group, str) and self.process_group == WORLD

    @property
    def is_asked_for(self) -> bool:
        """Whether it is anything else than none."""
        return self.process_group is not NO_GROUP and self.process_group is not None

    def ranks(self) -> Ranks | None:
        """The ranks; None where there is only this one, up to now."""
        if self.is_by_name:
            if self._ranks is None or self._ranks.group is not dist.group.WORLD:  # there is none yet, or a new one
                self._ranks = ranks_of(WORLD, self.across, same_sizes=self.same_sizes)
        elif self.process_group is None and not self.was_there and _is_there() and dist.get_world_size() > 1:
            raise ValueError(
                f"process_group: got None, which torch.distributed.group.WORLD was when this module was made, before"
                f" init_process_group, and now there are {dist.get_world_size()} ranks; want {WANTED}"
            )
        return self._ranks

    def words(self) -> str:
        """For a repr."""
        if not self.is_asked_for:
            return ""
        known = self._ranks
        return f", across={self.across!r}, " + ("process_group='world'" if known is None else f"ranks={known.size}")

    def __deepcopy__(self, memo: dict[int, Any]) -> "Group":
        copied = object.__new__(Group)  # a copy of a module is in the same group
        copied.__dict__.update(self.__dict__)
        copied._ranks = copy.deepcopy(self._ranks, memo)
        return copied

    def __reduce__(self) -> Any:
        """To pickle: the name, by which other processes find their own ranks."""
        if self.is_asked_for and not self.is_by_name:
            raise TypeError("process_group: can't be pickled; save the state_dict, or want 'world', a name")
        across = self.across if self.is_by_name else None
        return partial(Group, same_sizes=self.same_sizes), (self.process_group, across)


def _is_there() -> bool:
    return dist.is_available() and dist.is_initialized()


def _refuse_if_launched(process_group: Any) -> None:
    """A launcher has made several processes, and nobody has made them a group."""
    size = os.environ.get("WORLD_SIZE", "1")
    if not _is_there() and size.isdigit() and int(size) > 1:
        raise ValueError(
            f"process_group: got {process_group!r}, but torch.distributed is not initialised in this process of"
            f" {size} (WORLD_SIZE); want init_process_group before the first call, or process_group to be left out"
        )
