// The tile kernels in what every processor of the architecture has: SSE2 or NEON.
#define FASTPIXCON_VECTOR_BYTES 16
#define FASTPIXCON_TILE_ROWS 4
#define FASTPIXCON_TILE_VECTORS 2
#define FASTPIXCON_TILE_BLOCK 144
#define FASTPIXCON_TILE_KERNELS tile_kernels_baseline
#include "cpu/tile_kernels.h"
