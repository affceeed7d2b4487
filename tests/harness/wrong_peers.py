"""Peers as they must not be: for tests of the suite, in the place of fastpixcon/bench/peers.py."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from fastpixcon.bench import peers
from fastpixcon.bench.peers import OURS, Peer
from fastpixcon.bench.peers import PEERS as REAL


def oversleep(pipe: Any) -> None:
    time.sleep(60)


PEERS = {name: REAL[name] for name in (OURS, "eager")}


def _spoilt(how: str, problem: Any) -> Any:
    right = peers.eager(problem)

    def loss() -> Any:
        value = right()
        if how == "gradient":  # the right loss, one row's gradient missing
            problem.anchors.register_hook(lambda g: g.index_fill(0, g.new_zeros(1).long(), 0))
        if how == "slow":
            if began := os.environ.get("SLOW_PEER_BEGAN"):
                Path(began).touch()
            time.sleep(60)
        if how == "large":
            value = value + value.new_zeros(2**34).sum()  # 64 GiB
        if how == "raises":
            raise KeyError("no such thing")
        return value * 1.01 if how == "loss" else value * float("nan") if how == "nan" else value

    return loss


# Adapters go to the processes of their peers by name.
PEERS |= {how: Peer(how, how, partial(_spoilt, how)) for how in ("gradient", "loss", "nan", "slow", "large", "raises")}
