"""A run of a few seconds, and a fresh interpreter to run it in; ``forked.forked`` has one that has imported."""

import os
import subprocess
import sys
from pathlib import Path

TINY = [
    "device='cpu'",  # bit for bit: convolutions on a GPU add up in any order
    "precision='fp32'",  # "auto" is what the processor has
    "data.scenes.train=16",
    "data.scenes.val=4",
    "data.scenes.size=64",
    "data.augmentation.crop=64",
    "schedule.epochs=2",
    "schedule.batch=4",
    "schedule.warmup=1",
    "model.decoder_channels=16",
    "model.embedding_channels=16",
    "contrast.warmup=1",
    "contrast.max_views=5",
    "contrast.max_samples=128",
    "figures.predictions=2",
    "figures.tsne_pixels=10",
]  # 4 iterations an epoch


# Before code for another process: figures take longer than the training.
NO_FIGURES = "from fastpixcon.training import job\njob._draw = lambda *_: ([], [])\n"


def tiny_arguments(out: Path, *more: str) -> list[str]:
    return ["train", "--out", str(out), *(part for value in (*TINY, *more) for part in ("--set", value))]


def python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a fresh interpreter on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
