"""What a compiled kernel executes, read from its SASS: instructions of every loop by kind, tensor FLOP, bytes.

Counts are of one warp and one pass of the loop. NVIDIA does not document SASS; the names here were seen in what ptxas
of CUDA 13 makes of these kernels, and unknown names count as one issue slot each.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
BRANCH = re.compile(r"0x([0-9a-f]+)")
FLOAT64 = re.compile(r"^(DADD|DMUL|DFMA|DMNMX|DSETP|DMMA|MUFU\.\w*64\w*|[A-Z0-9]+2[A-Z0-9]+\..*\bF64\b.*)")

# What executes an instruction, by the first word of its name; "alu" what is not listed.
PIPES = {
    "tensor": ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA"),
    "mufu": ("MUFU",),
    "fma": ("FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2"),
    "imad": ("IMAD",),
    "convert": ("F2F", "F2FP", "F2I", "I2F", "I2FP"),
    "shared": ("LDS", "LDSM", "STS", "STSM", "ATOMS"),
    "global": ("LDG", "LDGSTS", "STG", "LD", "ST", "RED", "ATOM", "ATOMG", "UTMALDG", "UBLKCP"),
    "tmem": ("LDTM", "STTM"),
    "local": ("LDL", "STL"),
    "shuffle": ("SHFL", "REDUX", "MOVM"),
    "barrier": ("BAR", "WARPSYNC", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "SYNCS", "MEMBAR", "FENCE", "ARRIVES"),
    "branch": ("BRA", "EXIT", "BSSY", "BSYNC", "CALL", "RET", "NOP"),
}  # fmt: skip
PIPE = {name: pipe for pipe, names in PIPES.items() for name in names}


class Instruction(NamedTuple):
    address: int
    predicate: str  # "" for none
    name: str  # with its modifiers
    operands: str

    @property
    def base(self) -> str:
        return self.name.split(".")[0]

    @property
    def pipe(self) -> str:
        if self.base in PIPE:
            return PIPE[self.base]
        uniform = self.base.startswith("U") or self.base in ("R2UR", "S2UR")
        return "uniform" if uniform else "alu"

    @property
    def bytes(self) -> int:
        """That a warp moves."""
        if self.base == "LDSM" or self.base == "STSM":
            return 128 * int((re.findall(r"\.([124])\b", self.name) or ["1"])[-1])
        width = re.search(r"\.(8|16|32|64|128)\b", self.name.replace("U8", "8").replace("U16", "16"))
        return 32 * (int(width[1]) if width else 32) // 8

    @property
    def flop(self) -> int:
        """Of a tensor-core instruction, a warp's share; 0 where the name does not tell (tcgen05)."""
        if self.base == "HGMMA":
            m, n, k = map(int, re.search(r"\.(\d+)x(\d+)x(\d+)", self.name).groups())
            return 2 * m * n * k // 4  # a warpgroup of four
        if self.base == "HMMA":
            digits = re.search(r"\.(\d+)", self.name)[1]  # 16816: m16 n8 k16
            return 2 * 16 * 8 * int(digits[3:])
        return 0

    @property
    def operand_bytes(self) -> int:
        """That the tensor core reads from shared memory for it, a warp's share."""
        if self.base != "HGMMA":
            return 0
        m, n, k = map(int, re.search(r"\.(\d+)x(\d+)x(\d+)", self.name).groups())
        size = 4 if "TF32" in self.name else 2
        both = re.match(r"R\d+,\s*gdesc", self.operands) is not None  # else the first one is in registers
        return (n + (m if both else 0)) * k * size // 4


def parse(text: str) -> list[Instruction]:
    """Of one function, as cuobjdump -sass prints it."""
    found = []
    for line in text.splitlines():
        match = LINE.match(line)
        if match:
            found.append(Instruction(int(match[1], 16), match[2] or "", match[3], match[4].strip()))
    return found


@dataclass(eq=False)
class Loop:
    header: int  # address of its first instruction
    blocks: frozenset[int]
    body: list[Instruction]  # with those of inner loops
    inner: list["Loop"] = field(default_factory=list)

    @property
    def own(self) -> list[Instruction]:
        inside = {x.address for loop in self.inner for x in loop.body}
        return [x for x in self.body if x.address not in inside]


def basic_blocks(code: list[Instruction]) -> tuple[dict[int, list[Instruction]], dict[int, list[int]]]:
    """By the address they begin at: instructions, and where they go on. What only divergent warps execute (the other
    side of BRA.DIV) is nobody's successor. A CALL with a predicate is how ptxas may leave a loop."""
    here = {x.address for x in code}
    heads = {code[0].address}
    leave: dict[int, list[int]] = {}  # of a branch: its targets
    for x, following in zip(code, [*code[1:], None], strict=True):
        branches = (x.base == "BRA" and ".DIV" not in x.name) or (x.base == "CALL" and x.predicate)
        target = BRANCH.search(x.operands) if branches else None
        ends = target is not None or x.base in ("EXIT", "RET", "BRX")
        if not ends:
            continue
        always = not x.predicate and not re.match(r"!?U?P\d", x.operands)
        leave[x.address] = [int(target[1], 16)] if target else []
        if not always and following:
            leave[x.address].append(following.address)
        heads |= set(leave[x.address]) | ({following.address} if following else set())
    blocks: dict[int, list[Instruction]] = {}
    for x in code:
        if x.address in heads:
            blocks[x.address] = current = []
        current.append(x)
    starts = sorted(blocks)
    edges = {
        begin: leave.get(blocks[begin][-1].address, [after] if after else [])
        for begin, after in zip(starts, [*starts[1:], 0], strict=True)
    }
    return blocks, {begin: [t for t in targets if t in here] for begin, targets in edges.items()}


def dominators(edges: dict[int, list[int]], entry: int) -> dict[int, set[int]]:
    """Of every block that can be reached."""
    order, seen, stack = [], {entry}, [(entry, iter(edges[entry]))]
    while stack:  # depth first
        _, rest = stack[-1]
        following = next((t for t in rest if t not in seen), None)
        if following is None:
            order.append(stack.pop()[0])
        else:
            seen.add(following)
            stack.append((following, iter(edges[following])))
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for t in edges[block]:
            before[t].append(block)
    result = {block: set(order) for block in order}
    result[entry] = {entry}
    changed = True
    while changed:
        changed = False
        for block in reversed(order):
            if block == entry:
                continue
            new = set.intersection(*(result[p] for p in before[block])) | {block}
            changed |= new != result[block]
            result[block] = new
    return result


def loops(code: list[Instruction]) -> list[Loop]:
    """All natural loops; ``inner`` has those directly inside."""
    blocks, edges = basic_blocks(code)
    over = dominators(edges, code[0].address)
    members: dict[int, set[int]] = {}
    before: dict[int, set[int]] = {}
    for block in over:
        for t in edges[block]:
            before.setdefault(t, set()).add(block)
    for block in over:
        for header in set(edges[block]) & over[block]:  # a branch back
            inside, stack = members.setdefault(header, {header}), [block]
            while stack:
                at = stack.pop()
                if at not in inside:
                    inside.add(at)
                    stack += before.get(at, ())
    found = [
        Loop(header, frozenset(inside), [x for b in sorted(inside) for x in blocks[b]])
        for header, inside in members.items()
    ]
    found.sort(key=lambda loop: len(loop.blocks))
    for i, loop in enumerate(found):
        outer = next((other for other in found[i + 1 :] if loop.blocks < other.blocks), None)
        if outer:
            outer.inner.append(loop)
    return sorted(found, key=lambda loop: loop.header)


def has_tensor(loop: Loop) -> bool:
    return any(x.pipe == "tensor" for x in loop.body)


def tensor_leaves(found: list[Loop]) -> list[Loop]:
    """The innermost loops with tensor-core instructions."""
    return [loop for loop in found if has_tensor(loop) and not any(map(has_tensor, loop.inner))]


def by_pipe(body: list[Instruction]) -> Counter[str]:
    return Counter(x.pipe for x in body)
