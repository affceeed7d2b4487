"""Products of wgmma: CUDA sources of them, and images of their matrices in shared memory."""

from typing import NamedTuple

import numpy as np

HEAD = r"""
#include <stdint.h>
extern __shared__ __align__(1024) uint4 tiles[];
"""


class Product(NamedTuple):
    """Of 64 rows and N columns, over 16 (tf32: 8) at a time."""

    N: int
    of: str = "bf16"
    to: str = "f32"
    left_in_registers: bool = False
    left_by_columns: bool = False  # MN-major
    right_by_columns: bool = False
    signs: tuple[int, int] = (1, 1)

    @property
    def depth(self) -> int:
        return 8 if self.of == "tf32" else 16

    @property
    def size(self) -> int:
        """Of an element, bytes."""
        return 4 if self.of == "tf32" else 2

    @property
    def registers(self) -> int:
        return self.N // 2 if self.to == "f32" else self.N // 4

    @property
    def name(self) -> str:
        sides = f"{int(self.left_in_registers)}{int(self.left_by_columns)}{int(self.right_by_columns)}"
        negative = "".join("n" if sign < 0 else "p" for sign in self.signs)
        return f"wgmma_{self.N}_{self.of}_{self.to}_{sides}_{negative}"

    def instruction(self, left: str = "a") -> str:
        """Inline PTX, which adds to d if p."""
        n, kind = self.registers, "f" if self.to == "f32" else "r"
        d = ", ".join(f"%{i}" for i in range(n))
        a = ", ".join(f"%{i}" for i in range(n + 2, n + 6))
        sides = f"{{{a}}}, %{n}" if self.left_in_registers else f"%{n + 2}, %{n}"
        numbers = [*self.signs]
        if self.of != "tf32":
            numbers += [int(self.right_by_columns)]
            numbers[2:2] = [] if self.left_in_registers else [int(self.left_by_columns)]
        inputs = [f'"r"(left[{i}])' for i in range(4)] if self.left_in_registers else [f'"l"({left})']
        outputs = ", ".join(f'"+{kind}"(d[{i}])' for i in range(n))
        shape = f"m64n{self.N}k{self.depth}.{self.to}.{self.of}.{self.of}"
        return (
            f'asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{n + 1}, 0;"\n'
            f'"wgmma.mma_async.sync.aligned.{shape} {{{d}}}, {sides}, p, {", ".join(map(str, numbers))}; }}"\n'
            f': {outputs} : "l"(b), "r"(added), {", ".join(inputs)} : "memory");'
        )

    def source(self) -> str:
        """Copies an image to shared memory, multiplies step by step, and gives the registers of every thread."""
        d = "float" if self.to == "f32" else "uint32_t"
        return f"""
extern "C" __global__ void {self.name}(
    const uint4* image, int size, uint64_t a, uint64_t b, int next_a, int next_b, int steps, const uint4* lefts,
    {d}* out)
{{
    for (int i = threadIdx.x; i < size / 16; i += blockDim.x) tiles[i] = image[i];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    {d} d[{self.registers}];
    for (int i = 0; i < {self.registers}; ++i) d[i] = 0;
    for (int step = 0; step < steps; ++step) {{
        int added = step > 0;
        uint4 row = lefts ? lefts[step * blockDim.x + threadIdx.x] : uint4{{}};
        uint32_t left[4] = {{row.x, row.y, row.z, row.w}};
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        {self.instruction()}
        asm volatile("wgmma.commit_group.sync.aligned;\\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
        a += next_a;
        b += next_b;
    }}
    for (int i = 0; i < {self.registers}; ++i) out[threadIdx.x * {self.registers} + i] = d[i];
}}
"""


class Layout(NamedTuple):
    """Of a matrix [rows, K] in shared memory, as CuTe's canonical layouts have it; bytes."""

    start: int
    leading: int
    stride: int
    width: int = 16  # of the swizzle; 16: none
    by_columns: bool = False

    @property
    def descriptor(self) -> int:
        swizzle = {16: 0, 128: 1, 64: 2, 32: 3}[self.width]
        return self.start >> 4 | self.leading >> 4 << 16 | self.stride >> 4 << 32 | swizzle << 62

    def place(self, row: int, k: int, size: int) -> int:
        T, W = 16 // size, self.width // 16
        if not self.by_columns:
            columns = k * size if W > 1 else k // T * self.leading + k % T * size
            offset = row % 8 * self.width + row // 8 * self.stride + columns
        elif W == 1:
            offset = row % T * size + row // T * self.stride + k % 8 * 16 + k // 8 * self.leading
        else:
            offset = row % T * size + row // T % W * 16 + row // (T * W) * self.leading
            offset += k % 8 * self.width + k // 8 * self.stride
        address = self.start + offset
        return address ^ (address >> 7 & W - 1) << 4

    def put(self, image: np.ndarray, matrix: np.ndarray) -> None:
        """``image`` bytes, ``matrix`` [rows, K] of bits."""
        size = matrix.itemsize
        for row, values in enumerate(matrix):
            for k, x in enumerate(values):
                at = self.place(row, k, size)
                image[at : at + size] = np.frombuffer(x.tobytes(), np.uint8)


def fragments(left: np.ndarray, K: int) -> np.ndarray:
    """Of a left side [64, all K] of bits, the registers: [steps, threads, 4]"""
    found = []
    for k in range(0, left.shape[1], K):
        for thread in range(128):
            warp, lane = divmod(thread, 32)
            group, place = divmod(lane, 4)
            per = 4 // left.itemsize  # elements of a register
            for column in (0, 4 * per):
                for row in (0, 8):
                    at = left[16 * warp + group + row, k + column + per * place :][:per]
                    found.append(np.frombuffer(at.tobytes(), np.uint32)[0])
    return np.array(found, np.uint32).reshape(-1, 128, 2, 2).reshape(-1, 128, 4)


def matrix_of(registers: np.ndarray) -> np.ndarray:
    """Of accumulators [128, N / 2] the matrix [64, N]."""
    found = np.zeros((64, 2 * registers.shape[1]), registers.dtype)
    for thread, values in enumerate(registers):
        warp, lane = divmod(thread, 32)
        for i, x in enumerate(values):
            found[16 * warp + lane // 4 + i // 2 % 2 * 8, i // 4 * 8 + lane % 4 * 2 + i % 2] = x
    return found
