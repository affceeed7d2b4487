"""The losses as other libraries want them, a module each, by the library's name; each needs its library.

``fastpixcon.adapters.pytorch_metric_learning``, ``.mmsegmentation``, ``.lightning``: docs/adapters.md has each in a few
lines. ``.targets`` needs none: labels for a cross-entropy beside the contrast. Nothing in fastpixcon imports them.
"""
