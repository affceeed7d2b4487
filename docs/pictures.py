"""Draws the pictures of kernels.md: ``python docs/pictures.py FOLDER``. Sizes of tiles are read from the sources.

The documentation's build calls :func:`draw`; nothing here is committed as a picture.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pictures_gpu import draw_cuda, draw_ring, draw_triton
from sketch import (
    BLUE,
    COLOURS,
    GREEN,
    INK,
    LINE,
    PALE,
    RED,
    ROOT,
    VIOLET,
    YELLOW,
    arrow,
    box,
    cells,
    constant,
    figure,
    square,
)

import fastpixcon as fpc
from fastpixcon.ops.mining_thresholds import BINS
from fastpixcon.reference.mining_thresholds import mining_thresholds
from fastpixcon.values import Rows

# --- csrc/cpu/schedule.h, in Python: who computes which tile, in what order


def ceil_div(a: int, b: int) -> int:
    return (a + b - 1) // b


def split(n: int, lanes: int, most: int, threads: int) -> int:
    """Rows of a block, as Blocks::split has it."""
    wanted = max(ceil_div(n, most), 6 * threads) | 1
    size = ceil_div(ceil_div(n, wanted), lanes) * lanes
    return max(lanes, min(size, most))


def group(blocks: int, threads: int) -> int:
    largest = constant("csrc/cpu/schedule.h", "kLargestGroup")
    return max(1, min(blocks // (4 * threads), largest))


def tournament(blocks: int, size: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(round, tiles of a task in order), as TileSchedule::triangle lists them."""
    players = ceil_div(blocks, size) | 1
    last = players // 2
    for r in range(players):
        for k in range(last + 1):
            c, t = r * (last + 1), k if r % 2 == 0 else last - k
            i, j = sorted(((c + t) % players, (c + players - t) % players))
            tiles, back = [], False
            for row in range(i * size, min(blocks, (i + 1) * size)):
                columns = list(range(j * size, min(blocks, (j + 1) * size)))
                tiles += [(row, column) for column in (columns[::-1] if back else columns) if row <= column]
                back = not back
            if tiles:
                yield r, tiles


def draw_tournament() -> Figure:
    n, threads, isa = 8192, 2, "csrc/cpu/tile_avx512.cpp"
    lanes = constant(isa, "FASTPIXCON_TILE_VECTORS") * constant(isa, "FASTPIXCON_VECTOR_BYTES") // 4
    rows = split(n, lanes, constant(isa, "FASTPIXCON_TILE_BLOCK"), threads)
    blocks = ceil_div(n, rows)
    size = group(blocks, threads)
    tasks = list(tournament(blocks, size))
    fig, (left, right) = figure(9.6, 4.9, 2)
    square(
        left,
        blocks,
        f"{n:,} anchors, {threads} threads: {blocks} blocks of {rows} rows, tasks of {size} x {size} tiles",
    )
    shown = 0
    cells(left, [(j, i) for r, tiles in tasks if r != shown for i, j in tiles], PALE, 0.3)
    for number, (_, tiles) in enumerate(task for task in tasks if task[0] == shown):
        cells(left, [(j, i) for i, j in tiles], COLOURS[number % len(COLOURS)], 0.3)
    left.text(
        1, blocks - 2, "coloured: the tasks of round 1,\nwhich share no block", fontsize=8, color=INK, va="bottom"
    )
    task = max((tiles for r, tiles in tasks if r == shown), key=len)
    square(right, size, "A task: its tiles in order, back and forth")
    i0, j0 = min(i for i, _ in task), min(j for _, j in task)
    points = [(j - j0 + 0.5, i - i0 + 0.5) for i, j in task]
    for x, y in points:
        box(right, x - 0.5, y - 0.5, 1, 1, PALE)
    for number, (a, b) in enumerate(pairwise(points)):
        arrow(right, a, b, BLUE if number else GREEN, shrinkA=4, shrinkB=4)
    for number, (x, y) in enumerate(points):
        right.text(x - 0.4, y - 0.3, str(number + 1), fontsize=7, color=INK)
    right.text(
        0, size + 0.12, "from a tile to the next one block changes, the other is still in the cache", fontsize=7.5
    )
    right.set_ylim(size * 1.1, -0.02 * size)
    return fig


def draw_info_nce() -> Figure:
    """The logits of self contrast, sorted by class."""
    sizes = [5, 4, 3, 4]
    n = sum(sizes)
    of = [c for c, size in enumerate(sizes) for _ in range(size)]
    fig, (left, middle, right) = figure(11, 4.1, 3, [n + 3.3, n + 0.6, n + 5.3])  # one scale
    for ax, title in (
        (left, "Forward, first sweep: sums of e^s\nover tiles of the triangle"),
        (middle, 'Second sweep ("negatives"): positives,\nonly where classes meet'),
        (right, "Backward: a tile of H = G + G^T\nserves rows I and rows J"),
    ):
        square(ax, n, title)
        places = [(j, i) for i in range(n) for j in range(n)]
        cells(ax, places, "white", 0.4)
        upper = [(j, i) for j, i in places if i <= j]
        alike = [(j, i) for j, i in upper if of[i] == of[j]]
        if ax is not middle:
            cells(ax, upper, BLUE if ax is left else PALE, 0.4)
        if ax is not right:
            cells(ax, alike, GREEN, 0.4)
    start = 0
    for c, size in enumerate(sizes):
        for ax in (left, middle):
            ax.add_patch(Rectangle((start, start), size, size, fill=False, edgecolor=INK, linewidth=1.1))
        left.text(-0.4, start + size / 2, f"class {c}", fontsize=7, ha="right", va="center", color=INK)
        start += size
    i, j = 3, 11
    box(right, j, i, 1, 1, RED)
    right.add_patch(Rectangle((0, i), n, 1, fill=False, edgecolor=BLUE, linewidth=1.4))
    right.add_patch(Rectangle((0, j), n, 1, fill=False, edgecolor=VIOLET, linewidth=1.4))
    right.text(n + 0.2, i + 0.5, "dA_I += H A_J", fontsize=7, va="center", color=BLUE)
    right.text(n + 0.2, j + 0.5, "dA_J += H^T A_I", fontsize=7, va="center", color=VIOLET)
    right.set_xlim(-0.3, n + 5)
    left.set_xlim(-3, n + 0.3)
    return fig


def draw_registers() -> Figure:
    """A tile of the CPU and the part of it that is in registers."""
    fig, axes = figure(10, 3.9, 3)
    most = constant("csrc/cpu/tile.h", "kTile")
    for ax, level in zip(axes, ("baseline", "avx2", "avx512"), strict=True):
        path = f"csrc/cpu/tile_{level}.cpp"
        block = constant(path, "FASTPIXCON_TILE_BLOCK")
        rows, vectors = constant(path, "FASTPIXCON_TILE_ROWS"), constant(path, "FASTPIXCON_TILE_VECTORS")
        width = constant(path, "FASTPIXCON_VECTOR_BYTES") // 4
        square(ax, most, f"{level}: tiles of up to {block} x {block}")
        box(ax, 0, 0, block, block)
        for y in range(0, block, rows):
            ax.plot([0, block], [y, y], color="white", linewidth=0.5)
        for x in range(0, block, vectors * width):
            ax.plot([x, x], [0, block], color="white", linewidth=0.5)
        at_x, at_y = vectors * width, rows * 3
        for v in range(vectors):
            box(ax, at_x + v * width, at_y, width, rows, BLUE)
        text = f"{rows} x {vectors * width} sums in registers:\n{rows} rows of {vectors} vectors of {width} floats"
        ax.text(0, block + 4, text, fontsize=8, va="top", color=INK)
        ax.set_ylim(most * 1.18, -4)
    return fig


def draw_memory() -> Figure:
    """Blocks of anchors against the bank."""
    path = "csrc/cpu/column_sets.cpp"
    most = constant(path, "kMostBlocks")
    block = constant("csrc/cpu/tile_avx512.cpp", "FASTPIXCON_TILE_BLOCK")
    K, S, shards = 4, 6, 3
    fig, (ax,) = figure(10, 4.4)
    ax.set_xlim(-5, K * S + 3)
    ax.set_ylim(most + 4.6, -3.6)
    for c in range(K):
        for s in range(S):
            fill = YELLOW if s < S / 2 else GREEN
            empty = c == 2 and s in (2, 5)
            box(ax, c * S + s, -2, 1, 0.9, "white" if empty else fill, alpha=0.9)
        ax.text(c * S + S / 2, -2.35, f"bank[{c}]: pixels, regions", ha="center", fontsize=7.5, color=INK)
        ax.plot([c * S] * 2, [-2, most], color=INK, linewidth=1)
    ax.text(2 * S + 2.5, -0.6, "empty places are left out", ha="center", fontsize=7, color=INK)
    for i in range(most):
        box(ax, -1.6, i, 1.2, 0.9, BLUE)
        for j in range(K * S):
            box(ax, j, i, 1, 0.9, PALE, linewidth=0.3)
    per = K * S // shards
    for k in range(shards):
        ax.add_patch(Rectangle((k * per, -0.05), per, most, fill=False, edgecolor=COLOURS[k], linewidth=2))
        ax.text(k * per + per / 2, most + 0.6, f"a task: shard {k + 1}", ha="center", fontsize=8, color=COLOURS[k])
    box(ax, 9, 0, 1, most - 0.1, RED, alpha=0.5)
    ax.text(
        9.5, most + 1.4, "a packed block of the bank\nserves all blocks of anchors", ha="center", va="top", fontsize=8
    )
    ax.text(
        -4.9, most / 2, f"chunk:\nup to {most}\nblocks of\nup to {block}\nanchors", fontsize=8, va="center", color=INK
    )
    ax.text(-4.9, most + 3.4, "sums of the shards are added up in their order; nothing of N x M is stored", fontsize=8)
    ax.set_title(
        "memory_sums and memory_positives on the CPU: tasks of a chunk of anchors and a shard of the bank", fontsize=9
    )
    return fig


def draw_mining() -> Figure:
    """Counts of cosines of one anchor, computed here, and what semi-hard mining keeps."""
    generator = torch.Generator().manual_seed(0)
    D, M = 32, 6000
    anchor = torch.nn.functional.normalize(torch.randn(1, D, generator=generator), dim=1)
    labels = (torch.rand(M, generator=generator) < 0.15).to(torch.int32)  # 1: positives
    rows = torch.randn(M, D, generator=generator) + anchor * (0.8 + 5.5 * labels[:, None])
    rows = torch.nn.functional.normalize(rows, dim=1)
    one, kinds = torch.ones(1, dtype=torch.int32), ("any", "any", "semi-hard", "semi-hard")
    mined = mining_thresholds(Rows(anchor, one), Rows(rows, labels), None, None, *kinds, 0.1, [20, 100])[:, 0]
    cosine = (rows @ anchor[0]).numpy()
    fig, (ax,) = figure(9.5, 3.4)
    ax.set_axis_on()
    negative, positive = labels.numpy() == 0, labels.numpy() == 1
    bins = [-1 + 2 * k / 64 for k in range(65)]
    ax.hist(cosine[negative], bins, color=PALE, edgecolor=LINE, linewidth=0.5, label="negatives")
    hard = negative & (cosine >= float(mined[0]))
    ax.hist(cosine[hard], bins, color=RED, alpha=0.8, label=f"hardest tenth of them: {int(hard.sum())}")
    ax.hist(cosine[positive], bins, color="#cfe5d9", edgecolor=LINE, linewidth=0.5, label="positives")
    hard = positive & (cosine <= float(mined[1]))
    ax.hist(cosine[hard], bins, color=GREEN, alpha=0.9, label=f"hardest tenth of them: {int(hard.sum())}")
    for value, colour in ((mined[0], RED), (mined[1], GREEN)):
        ax.axvline(float(value), color=colour, linewidth=1.2)
    ax.text(
        float(mined[0]) - 0.01,
        ax.get_ylim()[1] * 0.93,
        f"each kept with\nprobability {float(mined[2]):.2f}",
        fontsize=7.5,
        color=RED,
        ha="right",
        va="top",
    )
    ax.text(
        float(mined[1]) + 0.01,
        ax.get_ylim()[1] * 0.5,
        f"each kept with\nprobability {float(mined[3]):.2f}",
        fontsize=7.5,
        color=GREEN,
        va="top",
    )
    ax.set_xlabel(
        f"cosine; the kernels count in {BINS:,} bins, here every {BINS // 64} of them are one bar", fontsize=8
    )
    ax.set_ylabel("pairs of one anchor", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.set_xlim(-1, 1)
    ax.legend(fontsize=7.5, frameon=False, loc="upper left")
    ax.set_title("mining_thresholds: semi-hard, fraction 0.1, keep=(20, 100)", fontsize=9)
    return fig


def draw_select() -> Figure:
    """What select_anchors really draws of a small image."""
    h, w = 24, 32
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    labels = torch.where(y < 9, 0, torch.where((x - 20) ** 2 + (y - 13) ** 2 < 40, 2, 1))
    labels[15:18, 2:5] = 3
    labels[:, :1] = 255
    predictions = labels.clone()
    predictions[7:12] = labels[[11, 10, 9, 8, 7]]
    predictions[predictions == 255] = 0
    chosen = fpc.functional.select_anchors(
        labels[None], predictions[None], num_classes=4, max_samples=24, max_views=10, seed=1, backend="reference"
    )
    count = int(chosen.count)
    fig, axes = figure(11, 3, 3)
    palette = [mpl.colors.to_rgb(c) for c in (BLUE, YELLOW, GREEN, RED)]

    def show(ax: Any, classes: torch.Tensor, title: str) -> None:
        picture = torch.full((h, w, 3), 0.92)
        for c, colour in enumerate(palette):
            picture[classes == c] = torch.tensor(colour)
        ax.imshow(picture.numpy(), alpha=0.55)
        ax.set_title(title, fontsize=9, color=INK)

    show(axes[0], labels, "labels (grey: ignore_index)")
    show(axes[1], labels, "hard pixels: predicted as another class")
    hard = (predictions != labels) & (labels != 255)
    axes[1].scatter(*hard.nonzero().T.flip(0), s=6, marker="s", color=INK, clip_on=False)
    show(axes[2], labels, f"drawn: {count} anchors, {count // 3} of each of 3 segments")
    for index in chosen.index[:count].tolist():
        row, column = divmod(index, w)
        is_hard = bool(hard[row, column])
        marker, colour = ("X", RED) if is_hard else ("o", INK)
        axes[2].scatter(column, row, s=26, marker=marker, color=colour, linewidths=0, clip_on=False)
    axes[2].text(0, h + 1.5, "x hard, o easy; the small segment (9 pixels, max_views 10) has no anchors", fontsize=7.5)
    return fig


def draw_gather() -> Figure:
    """Anchors in a map of planes."""
    line = constant("csrc/cpu/gather_normalize.cpp", "kLine")
    anchors = constant("csrc/cpu/gather_normalize.cpp", "kAnchors")
    floats = line // 4
    fig, (ax,) = figure(10.5, 3.7)
    ax.set_xlim(-0.5, 31)
    ax.set_ylim(9.6, -2.4)
    places = [(1, 1), (4, 1), (2, 3), (6, 4)]
    for plane in (3, 2, 1, 0):
        x0, y0 = plane * 1.1, plane * 0.9
        box(ax, x0, y0, 8, 5.4, "white")
        for px, py in places:
            box(ax, x0 + px, y0 + py, 0.8, 0.7, BLUE)
    ax.text(0, -0.5, "map [B, D, h, w] as NCHW: a value of a pixel\nlies on another page for every channel", fontsize=8)
    arrow(ax, (12.2, 4), (14.6, 4))
    for i in range(4):
        for d in range(4):
            box(ax, 15 + d * 1.3, 1.2 + i * 1.3, 1.3, 1.1, BLUE if d == 0 else PALE, linewidth=0.4)
    ax.text(
        15,
        0.1,
        f"tasks: {anchors} anchors in the order of their\npixels, {floats} channels (a cache line) at a time",
        fontsize=8,
    )
    ax.text(15, 7.2, "rows [N, D], lines written whole", fontsize=8)
    arrow(ax, (20.8, 4), (23.2, 4))
    for i in range(4):
        box(ax, 23.6, 1.2 + i * 1.3, 5.2, 1.1, GREEN, "e / |e|" if i == 0 else "", alpha=0.8)
    ax.text(23.6, 0.1, "norms in float64, rows in\nthe dtype of the map", fontsize=8)
    ax.text(
        0,
        9.2,
        "backward: gradients of equal pixels are added up; planes are zeroed and written while in the cache",
        fontsize=8,
    )
    ax.set_title("gather_normalize on the CPU", fontsize=9)
    return fig


def draw_step() -> Figure:
    """The way of the data."""
    fig, (ax,) = figure(11, 3.1)
    ax.set_xlim(0, 44)
    ax.set_ylim(10.5, -0.5)
    for x, y, w, fill, text in (
        (0, 0.5, 7.5, PALE, "labels\n[B, H, W]"),
        (0, 3.8, 7.5, PALE, "predictions [B, h, w]\nor logits [B, K, h, w]"),
        (0, 7.1, 7.5, PALE, "embeddings\n[B, D, h, w]"),
        (10.5, 2.1, 7.5, BLUE, "select_anchors\nindex, label [N]"),
        (20.5, 4.6, 7.5, YELLOW, "gather_normalize\nunit rows [N, D]"),
        (30.5, 2.1, 7.5, GREEN, "info_nce\nnats per anchor [N]"),
        (40, 2.1, 4, PALE, "loss []"),
    ):
        box(ax, x, y, w, 2.4, fill, text, alpha=0.75)
    for start, end in (
        ((7.5, 1.7), (10.5, 2.9)), ((7.5, 5), (10.5, 3.7)), ((18, 3.9), (20.5, 5.4)), ((7.5, 8.3), (20.5, 6.2)),
        ((28, 5.4), (30.5, 3.7)), ((18, 2.8), (30.5, 2.8)), ((38, 3.3), (40, 3.3)),
    ):  # fmt: skip
        arrow(ax, start, end)
    arrow(ax, (31.5, 4.5), (28, 6.3), RED, linestyle="--")
    arrow(ax, (20.5, 6.8), (7.5, 9), RED, linestyle="--")
    ax.text(22, 8.3, "backward: d_rows [N, D], then the gradient map, written once", fontsize=8, color=RED)
    return fig


def layers() -> list[set[str]]:
    """LAYERS of tests/test_layering.py, from the top to the bottom."""
    for node in ast.parse((ROOT / "tests" / "test_layering.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            found: list[set[str]] = ast.literal_eval(node.value)
            return found
    raise ValueError("tests/test_layering.py: no LAYERS")


def draw_layers() -> Figure:
    """Who may import whom: a layer imports from those below it."""
    shown = [layer for layer in layers() if "__main__" not in layer]
    fig, (ax,) = figure(8.6, 3.9)
    ax.set_xlim(0, 30)
    ax.set_ylim(len(shown) + 0.3, -0.4)
    for row, layer in enumerate(shown):
        names = sorted(layer)
        width = 24 / len(names)
        for column, name in enumerate(names):
            last = row == len(shown) - 1
            text = {"_C": "_C: csrc/cpu, csrc/cuda"}.get(name, name)
            box(ax, 5.5 + column * width, row, width - 0.3, 0.72, GREEN if last else PALE, text, alpha=0.8)
    for row, text in ((0, "users"), (len(shown) - 1, "backends")):
        ax.text(0, row + 0.36, text, fontsize=8, va="center", color=INK)
    arrow(ax, (4.2, 0.2), (4.2, len(shown) - 0.3))
    ax.text(3.9, len(shown) / 2, "imports", fontsize=8, rotation=90, ha="right", va="center", color=INK)
    return fig


PICTURES: dict[str, Callable[[], Figure]] = {
    "step": draw_step,
    "select_anchors": draw_select,
    "gather_normalize": draw_gather,
    "info_nce": draw_info_nce,
    "tournament": draw_tournament,
    "registers": draw_registers,
    "memory": draw_memory,
    "mining": draw_mining,
    "triton": draw_triton,
    "cuda": draw_cuda,
    "ring": draw_ring,
    "layers": draw_layers,
}


# Tight: what stands out of its axes, as titles may, widens the picture.
SAVED: dict[str, Any] = {"facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.1}


def draw(folder: Path) -> None:
    """Writes every picture as SVG into ``folder``; the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "fastpixcon", "svg.fonttype": "path"}):
        for name, make in PICTURES.items():
            make().savefig(folder / f"{name}.svg", metadata={"Date": None}, **SAVED)


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/_made"))
