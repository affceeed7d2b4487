"""Runs the instructions of a kernel."""

from .machine import Machine
from .options import Options

__all__ = ["Machine", "Options"]
