"""``python -m fastpixcon``, which torchrun starts as ``-m fastpixcon``."""

from fastpixcon.cli import command

command()
