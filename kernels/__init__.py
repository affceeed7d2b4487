"""Triton kernels, one file an operator; importable as ``fastpixcon.kernels`` only."""
