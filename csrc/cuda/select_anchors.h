// Kernels of select_anchors, for their host code; a segment is the pixels of a class in an image, class * B + image,
// and its groups are its wrongly and its rightly predicted pixels: 2 * segment + easy.
//
// 1. codes: every pixel's group, counted with integer atomics, whose order does not matter;
// 2. choose: one block decides what every segment keeps, and a limit below which about that many keys of a group lie;
// 3. collect: those pixels, a few more than are kept, in any order;
// 4. draw: a block a segment keeps the smallest keys and writes their pixels in order. A group of which too few or too
//    many were collected, one in some ten thousand, is searched again in the image.
//
// Keys are 32-bit words that a bijection makes of pixel indices, of which there are at most 2^32: no two are equal.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"
#include "cuda/values.h"

namespace fastpixcon {

constexpr int kCodesThreads = 128, kChooseThreads = 512, kCollectThreads = 256, kDrawThreads = 256;
constexpr int kCollectPixels = 4;  // a thread
constexpr float kSlack = 4;        // standard deviations of candidates beyond those kept
constexpr int kMostSorted = 2048;  // anchors of a segment that are sorted in shared memory

enum class Predictions {
  kClasses,  // integers
  kLogits,   // [B, K, h, w] of any strides
  kPlanes,   // planes without gaps, of multiples of 16 bytes
  kPixels,   // images [h, w, K] without gaps, of which kCodesThreads pixels fit into shared memory
};
enum class Logits { kFloat, kBFloat16, kHalf, kDouble };

// predictions: classes, or logits, whose classes are stride_k apart. `blocks` blocks an image; a thread takes 16 bytes
// of a plane at a time, else a pixel. Shared memory: `bins` counters, 2 K or, if they are too many, 0; rounded up to 16
// bytes; and, of kPixels, kCodesThreads * K logits, copied 16 bytes at a time if is_aligned. codes [B, pixels]: group
// or -1; counts [2 * K * B]: zeroed.
using CodesKernel = void (*)(LabelMap labels, LabelMap predictions, int64_t stride_k, int32_t* codes, int32_t* counts,
                             int B, int K, int64_t ignore_index, int blocks, int bins, bool is_aligned);
CodesKernel codes_kernel(Predictions predictions, Logits logits);

// One block. keep [2 * segments]; limit [2 * segments]: candidates have smaller keys; begin [2 * segments + 1]: where
// the room of a group for candidates begins; offset [segments]: where its anchors are written; taken [2, K], zeroed: of
// every class its segments that give anchors, and those left out. Pads index and label.
using ChooseKernel = void (*)(const int32_t* counts, const int64_t* seed, int32_t* keep, uint32_t* limit,
                              int32_t* begin, int32_t* offset, int64_t* index, int32_t* label, int32_t* total,
                              int32_t* taken, int segments, int B, int max_samples, int max_views, int min_pixels);
ChooseKernel choose_kernel();

// codes [pixels] of all images; found [2 * segments]: zeroed; candidates: pixels of all images.
using CollectKernel = void (*)(const int32_t* codes, const int64_t* seed, const uint32_t* limit, const int32_t* begin,
                               int32_t* found, uint32_t* candidates, int64_t pixels);
CollectKernel collect_kernel();

// A block a segment; pixels: of an image.
using DrawKernel = void (*)(const int32_t* codes, const int64_t* seed, const int32_t* keep, const int32_t* begin,
                            const int32_t* offset, const int32_t* found, const uint32_t* candidates, int64_t* index,
                            int32_t* label, int B, int pixels);
DrawKernel draw_kernel();

}  // namespace fastpixcon
