"""Triton kernels, one file per operator, importable as ``fastpixcon.kernels`` only."""
