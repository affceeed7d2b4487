"""The pictures of what runs on GPUs, and between them."""

from matplotlib.figure import Figure
from sketch import BLUE, COLOURS, GREEN, PALE, RED, VIOLET, arrow, box, constant, figure, square

from fastpixcon.distributed.ring import hops


def draw_triton() -> Figure:
    """Groups of rows, a pair of them a program, and the tiles of one program."""
    from fastpixcon.kernels.launch_table import GRADIENT, SUMS

    sums, gradient = SUMS[90][256], GRADIENT[90][256]
    groups = 7
    fig, (left, middle, right) = figure(12, 4.2, 3)
    square(left, groups, "Sums: program (p, c) has the pair\nof groups c - p, c")
    for p in range(groups // 2 + 1):
        for c in range(groups):
            g = (c - p) % groups
            box(left, c, g, 1, 1, COLOURS[p], f"{p},{c}", alpha=0.75)
    left.text(
        0,
        groups + 0.15,
        "an odd number of groups: every pair once, sums\nin slots of their own, no atomics",
        fontsize=7.5,
        va="top",
    )
    left.set_ylim(groups * 1.15, -0.1)
    wide, masked = sums.BLOCK_N, sums.MASKED_N or sums.BLOCK_N
    square(
        middle,
        512,
        f"Sums of {sums.BLOCK_M} rows (sm_90, D = 256, 16 bits):\ntiles of {wide} columns, masked ones of {masked}",
        512,
    )
    plain = [(0, 192), (384, 512)]
    for begin, end in plain:
        for x in range(begin, end, wide):
            box(middle, x, 100, wide, sums.BLOCK_M, BLUE, alpha=0.6)
    for x in range(192, 384, masked):
        box(middle, x, 100, masked, sums.BLOCK_M, GREEN, alpha=0.7)
    middle.text(
        0, 380, "blue: no class in common with the block,\na loop without masks", fontsize=8, va="top", color=BLUE
    )
    middle.text(0, 450, "green: the range of blocks that share a class", fontsize=8, va="top", color=GREEN)
    square(
        right,
        512,
        f"Gradient: {gradient.BLOCK_M} rows sweep all columns,\n{gradient.BLOCK_N} at a time; d_x is written once",
        512,
    )
    for x in range(0, 512, gradient.BLOCK_N):
        box(right, x, 60, gradient.BLOCK_N, gradient.BLOCK_M, PALE)
    box(right, 128, 60, gradient.BLOCK_N, gradient.BLOCK_M, RED, "S, e^S,\nH")
    box(right, 0, 290, 512, 60, PALE, "columns: rows of the batch [N, D]")
    arrow(right, (128 + gradient.BLOCK_N / 2, 290), (128 + gradient.BLOCK_N / 2, 190))
    box(right, 0, 400, 512, 60, VIOLET, "d_x of the block in registers += H rows", alpha=0.6)
    arrow(right, (128 + gradient.BLOCK_N / 2, 190), (300, 400), RED)
    return fig


def draw_cuda() -> Figure:
    """A block of the forward's loop and the swizzle of its panels."""
    panel, piece = constant("csrc/cuda/tile.cuh", "kPanel"), constant("csrc/cuda/tile.cuh", "kPiece")
    columns = constant("csrc/cuda/info_nce.h", "kSweepColumns")
    stages = constant("csrc/cuda/sweep.cuh", "kStages")
    rows = 128
    fig, (left, right) = figure(10, 4.2, 2, [1.1, 1])
    square(
        left, rows, f"info_nce_sums: a block of {rows} rows against a tile of {columns} columns,\na warp for 32 x 64"
    )
    for number in range(rows // 32 * 2):
        y, x = number // 2 * 32, number % 2 * 64
        box(left, x, y, 64, 32, COLOURS[number % 5], f"warp {number}", alpha=0.6)
    text = f"columns come in panels of {panel} bytes a row, {stages} of them\non their way or in use (cp.async)"
    left.text(0, rows + 3, text, fontsize=8, va="top")
    left.set_ylim(rows * 1.16, -2)
    pieces = panel // piece
    square(right, pieces, f"A panel in shared memory: piece p of row r\n({piece} bytes) lies at place p xor (r mod 8)")
    for r in range(8):
        for p in range(pieces):
            at = p ^ (r & 7)
            box(right, at, r, 1, 1, COLOURS[p % 5], str(p), alpha=0.35 + 0.08 * p)
        right.text(-0.2, r + 0.5, f"row {r}", ha="right", va="center", fontsize=7.5)
    right.set_xlim(-1.5, pieces)
    right.text(0, 8.15, "8 rows of a piece and 8 pieces of a row\nlie in different banks", fontsize=8, va="top")
    right.set_ylim(9.2, -0.1)
    return fig


def draw_ring() -> Figure:
    """Which pairs of shards which rank computes in which hop."""
    fig, axes = figure(8.6, 4.2, 2)
    for ax, R in zip(axes, (4, 5), strict=True):
        square(ax, R, f'across="ring", {R} ranks: {R // 2} hops')
        sizes = [2] * R
        for rank in range(R):
            box(ax, rank, rank, 1, 1, PALE, f"rank {rank}\nhop 0")
            for number, hop in enumerate(hops(rank, sizes), 1):
                half = hop.visitors < sizes[hop.owner] or hop.own != slice(0, sizes[rank])
                first, second = (0.5, 0.5) if half and hop.own.start else (0, 0.5 if half else 1)
                upper_row = rank < hop.owner
                i, j = (rank, hop.owner) if upper_row else (hop.owner, rank)
                box(ax, j + (first if half else 0), i, second if half else 1, 1, COLOURS[number - 1], alpha=0.7)
                x = j + (first + second / 2 if half else 0.5)
                ax.text(x, i + 0.5, f"rank {rank}\nhop {number}", ha="center", va="center", fontsize=5.6 if half else 7)
        ax.text(0, R + 0.05, "each pair of shards once, for both", fontsize=8, va="top")
        ax.set_ylim(R * 1.08, -0.05)
    return fig
