"""What a data set is and what of it takes part in the contrast, class by class."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fastpixcon.training.figures.style import STYLE, arm_colour

_GREY = "#b8b8b8"


def inspected(tree: Mapping[str, Any]) -> Figure:
    """Of ``inspection.inspect``: bars of the share of pixels and, if there is a batch, of the segments that take part,
    by the config's settings and by those that let nine in ten of every class in."""
    names, train, contrast = tree["classes"], tree["splits"]["train"], tree["contrast"]
    places = np.arange(len(names))
    panels = 2 if contrast else 1
    with plt.rc_context(STYLE | {"axes.grid.axis": "x"}):
        size = 6 * panels + 1, 1.6 + 0.26 * len(names)
        figure, axes = plt.subplots(1, panels, figsize=size, squeeze=False, sharey=True, layout="constrained")
        pixels, taking = axes[0, 0], axes[0, -1]
        shares = 100 * np.array(train["pixels"]) / max(sum(train["pixels"]), 1)
        pixels.barh(places, shares, color=arm_colour("ce"))
        if shares.any():
            pixels.set_xscale("log")
            pixels.set_xlim(left=10.0 ** math.floor(math.log10(shares[shares > 0].min())))
            pixels.xaxis.set_major_formatter("{x:g}")
        pixels.set_yticks(places, names)
        pixels.set_ylim(len(names) - 0.4, -0.6)
        pixels.set(title="Share of the pixels of train, %")
        if contrast:
            now, enough = contrast["tried"][0], contrast["enough"]
            if enough:
                _bars(taking, places - 0.2, contrast["tried"][enough], _GREY)
            _bars(taking, places + (0.2 if enough else 0), now, arm_colour("ce+contrast"), 0.4 if enough else 0.8)
            taking.axvline(90, color="black", linewidth=0.8, linestyle=":")
            h, w = contrast["map"]
            taking.set(title=f"Segments that take part, %, map {h} x {w}", xlim=(0, 100))
            taking.tick_params("y", length=0)
            figure.legend(loc="outside lower right", ncols=2)
        for axis in axes.flat:
            axis.title.set_weight("bold")
        figure.suptitle(f"{tree['config']['name']}: {train['images']} images", x=0.01, ha="left", color="grey")
        return figure


def _bars(axis: Any, places: Any, tried: Mapping[str, Any], colour: str, height: float = 0.4) -> None:
    settings = {key: value for key, value in tried["settings"].items() if value is not None}
    label = ", ".join(f"{key}={value}" for key, value in settings.items() if key in ("max_views", "min_pixels"))
    shares = [100 * (share or 0) for share in tried["share"]]
    axis.barh(places, shares, height, color=colour, label=label)
