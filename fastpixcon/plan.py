"""What contrast across GPUs takes: memory, FLOP, traffic and a predicted time, of the eager matrix, gather and ring.

Counts of bytes and FLOP follow from ``fastpixcon/distributed`` (tests compare them with what runs); times are
predictions from published peak rates and the assumed efficiencies below. ``python -m fastpixcon.plan`` prints
docs/scaling.md.
"""

from dataclasses import dataclass, field, replace

__all__ = ["DEVICES", "Device", "Plan", "plan", "table"]

COMPUTE_EFFICIENCY = 0.5  # of the peak of matrix products, assumed
MEMORY_EFFICIENCY = 0.8  # of the peak of device memory, assumed
LINK_EFFICIENCY = 0.7  # of the peak of a link, assumed
LATENCY = 20e-6  # seconds a message, assumed
GPUS_PER_NODE = 8  # with more of them the network between nodes is the link
EAGER_MATRICES = 10  # float32 [N, M] that the eager original holds: measured 10.6 GB at N = M = 16,384
EAGER_PASSES = 20  # over such a matrix, forward and backward
FP32_PRODUCTS = 3  # of float16 halves, as fast as those of bfloat16, that make one of float32 on a GPU
ITEM = {"bf16": 2, "fp32": 4}
LABEL = STATISTIC = 4  # bytes


@dataclass(frozen=True)
class Device:
    """Published peak rates: dense, products of bfloat16 accumulated in float32; links in one direction.

    TFLOP/s, GB/s and GB; ``network_gbs`` is a GPU's share of the network between nodes.
    """

    name: str
    bf16_tflops: float
    memory_gbs: float  # GB/s
    memory_gb: float
    link_gbs: float  # GB/s, within a node
    network_gbs: float  # GB/s a GPU, between nodes
    fp32_tflops: float | None = None  # None: of products of halves

    def flops(self, dtype: str) -> float:
        if dtype == "fp32" and self.fp32_tflops is not None:
            return 1e12 * self.fp32_tflops
        return 1e12 * self.bf16_tflops / (1 if dtype == "bf16" else FP32_PRODUCTS)

    def link(self, gpus: int) -> float:
        return 1e9 * (self.link_gbs if gpus <= GPUS_PER_NODE else self.network_gbs)


DEVICES = {
    device.name: device
    for device in (
        Device("a100", 312, 2039, 80, 300, 25),
        Device("h100", 989, 3350, 80, 450, 50),
        Device("h200", 989, 4800, 141, 450, 50),
        Device("b200", 2250, 8000, 180, 900, 50),
        Device("rtx4090", 165, 1008, 24, 32, 12.5),
        Device("l4", 121, 300, 24, 32, 12.5),
        Device("cpu", 1, 50, 64, 1, 1, 1),  # give your own rates
    )
}


@dataclass
class Plan:
    """Of one rank and step, forward and backward.

    ``memory`` and ``traffic``: bytes by part; ``flop``: of products; ``messages``: one after the other; ``seconds``:
    predicted; ``fits``: in the memory of the device.
    """

    mode: str  # eager, gather, ring
    memory: dict[str, int] = field(default_factory=dict)  # bytes at the peak, by part
    flop: float = 0.0  # of products
    traffic: dict[str, int] = field(default_factory=dict)  # bytes sent, by what; the mean over ranks
    messages: int = 0  # one after the other
    seconds: float = 0.0
    fits: bool = True

    @property
    def memory_bytes(self) -> int:
        """At the peak."""
        return sum(self.memory.values())

    @property
    def traffic_bytes(self) -> int:
        """Sent by a rank, the mean over ranks."""
        return sum(self.traffic.values())


def plan(
    anchors: int, dim: int, *, memory_bank: int = 0, gpus: int = 1, device: Device | str = "h100", dtype: str = "bf16"
) -> dict[str, Plan]:
    """What a step takes by mode: "eager", "gather" and "ring".

    Args:
        anchors: N over all ranks.
        dim: D.
        memory_bank: M, rows of the bank on every rank.
        gpus: R, ranks of one GPU each.
        device: a name of ``DEVICES``, or rates of your own.
        dtype: "bf16" or "fp32".

    Returns:
        a :class:`Plan` by mode; bytes, FLOP, and *predicted* seconds.
    """
    device = DEVICES[device] if isinstance(device, str) else device
    plans = {mode: _counts(mode, anchors, dim, memory_bank, gpus, ITEM[dtype]) for mode in ("eager", "gather", "ring")}
    for mode, p in plans.items():
        compute = p.flop / (device.flops(dtype) * COMPUTE_EFFICIENCY)
        if mode == "eager":
            touched = p.memory["matrices"] / EAGER_MATRICES * EAGER_PASSES
            compute += touched / (1e9 * device.memory_gbs * MEMORY_EFFICIENCY)
        send = p.traffic_bytes / (device.link(gpus) * LINK_EFFICIENCY) + p.messages * LATENCY
        p.seconds = max(compute, send) if mode == "ring" else compute + send  # only the ring computes meanwhile
        p.fits = p.memory_bytes <= 1e9 * device.memory_gb
    return plans


def _counts(mode: str, N: int, D: int, M: int, R: int, item: int) -> Plan:
    n = -(-N // R)
    one = n * D  # numbers in a shard
    p = Plan(mode)
    p.memory["rows"] = one * item + n * LABEL
    if M:
        p.memory["bank"] = M * (D * item + LABEL)
    if mode == "eager":
        p.memory["matrices"] = EAGER_MATRICES * n * (N + M) * 4
        p.memory["gradients"] = (one + (N * D if R > 1 else 0)) * 4
        p.flop = 2.0 * n * D * (3 * N + 2 * M)  # logits; gradients of both sides, of the bank's none
    else:
        p.flop = (4.0 if mode == "ring" or R == 1 else 8.0) * n * N * D + 4.0 * n * M * D
        p.memory["statistics"] = 6 * n * STATISTIC
        if M:
            p.memory["gradient of the bank's pairs"] = one * 4
        if R == 1:
            p.memory["gradients"] = one * (4 + item)
    if R > 1 and mode != "ring":
        p.memory["gathered rows"] = N * (D * item + LABEL)
        p.traffic = {
            "all-gather of rows": (R - 1) * one * item,
            "all-gather of labels": (R - 1) * n * LABEL,
            "reduce-scatter of gradients": (R - 1) * one * 4,
        }
        p.messages = 2 * (R - 1) + 4
        if mode == "gather":
            p.memory["gradients"] = (N * D + 2 * one) * 4
    if R > 1 and mode == "ring":
        gradients, shards = ring_peak(R, item)
        p.memory["gradients"] = int(gradients * one * 4)
        p.memory["visiting rows"] = int(shards * (one * item + n * (LABEL + 4 * STATISTIC)))
        visits = R // 2 - (0.25 if R % 2 == 0 else 0)  # the last hop of an even ring: all rows or half of them
        p.traffic = {
            "rows, three times": int(3 * visits * (one * item + n * LABEL)),
            "gradients, sent home": int(visits * one * 4),
            "statistics": int(visits * n * STATISTIC * (1 + 1 + 3 + 4)),
        }
        p.messages = 3 * (R // 2) + 4
    return p


def ring_peak(R: int, item: int) -> tuple[float, float]:
    """Float32 gradients and visiting rows of a rank where they need most, in shards, see ``distributed/ring.py``."""
    last = R // 2 if R % 2 == 0 else 0  # the hop in which one has all rows of the other as half of its own
    peaks = []
    for lower in (True, False):
        visitors = [0.5 if k == last and lower else 1.0 for k in range(1, R // 2 + 1)]
        own = [0.5 if k == last and not lower else 1.0 for k in range(1, R // 2 + 1)]
        for k, (v, o) in enumerate(zip(visitors, own, strict=True)):
            coming = visitors[k + 1] if k + 1 < len(visitors) else 0.0
            back = visitors[k - 1] + own[k - 1] if k else 0.0  # of the hop before: sent and received
            peaks += [(1 + o + v + max(back, o), v + coming)]
    return max(peaks, key=lambda peak: peak[0] * 4 + peak[1] * item)


def number(value: float, unit: str) -> str:
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def table(plans: dict[str, Plan]) -> list[list[str]]:
    """Rows of a table, the first one its head."""
    rows = [["", *plans]]
    for title, of, unit in (("memory", "memory", "B"), ("sent", "traffic", "B")):
        for part in dict.fromkeys(name for p in plans.values() for name in getattr(p, of)):
            values = (getattr(p, of).get(part) for p in plans.values())
            rows.append([f"{title}: {part}", *("-" if x is None else number(x, unit) for x in values)])
        total = (sum(getattr(p, of).values()) for p in plans.values())
        rows.append([f"{title}, in all", *(number(x, unit) for x in total)])
    rows.append(["products", *(number(p.flop, "FLOP") for p in plans.values())])
    rows.append(["predicted time", *(duration(p.seconds) if p.fits else "does not fit" for p in plans.values())])
    return rows


def scaling(device: str = "h100", dim: int = 256) -> str:
    """docs/scaling.md."""
    lines = [
        "# Scaling: predictions",
        "",
        "Printed by `python -m fastpixcon.plan`. **No time here was measured.** Memory, traffic and FLOP are counted",
        f"from the code. Times are predicted for {device.upper()} GPUs from published peak rates; assumed are",
        f"{COMPUTE_EFFICIENCY:.0%} of the peak of products, {MEMORY_EFFICIENCY:.0%} of that of device memory,",
        f"{LINK_EFFICIENCY:.0%} of that of links, {LATENCY * 1e6:.0f} µs a message, nodes of {GPUS_PER_NODE} GPUs. A",
        "ring computes while shards are on their way, a gather does not. Workspaces of kernels and what the network",
        "itself needs are not counted. `fastpixcon plan` prints the same for your numbers.",
        "",
        f"D = {dim}, bfloat16, no memory bank; pairs = anchors squared; memory and traffic are a GPU's; in brackets:",
        f"more than its {DEVICES[device].memory_gb:.0f} GB.",
        "",
        "| pairs | anchors | GPUs | eager memory | gather: memory | sent | time | ring: memory | sent | time |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for exponent in range(9, 16):
        anchors = round(10 ** (exponent / 2))
        for gpus in (1, 8, 64, 256, 1024):
            plans = plan(anchors, dim, gpus=gpus, device=device)
            memory = {m: number(p.memory_bytes, "B") for m, p in plans.items()}
            shown = {m: text if plans[m].fits else f"({text})" for m, text in memory.items()}
            cells = [f"1e{exponent}", f"{anchors:,}", f"{gpus:,}", shown["eager"]]
            for mode in ("gather", "ring"):
                p = plans[mode]
                cells += [shown[mode], number(p.traffic_bytes, "B"), duration(p.seconds) if p.fits else "-"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_rates(name: str, tflops: float | None, gbs: float | None, link_gbs: float | None) -> Device:
    """A device with rates of the user's."""
    device = DEVICES[name]
    if tflops is not None:
        device = replace(device, bf16_tflops=tflops, fp32_tflops=tflops)
    if gbs is not None:
        device = replace(device, memory_gbs=gbs)
    if link_gbs is not None:
        device = replace(device, link_gbs=link_gbs, network_gbs=link_gbs)
    return device


if __name__ == "__main__":
    print(scaling())
