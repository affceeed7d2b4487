// pixel_contrast on CUDA tensors.
#include "common/pixel_contrast.h"

#include <torch/library.h>

#include "cuda/host/gather_normalize.h"
#include "cuda/host/info_nce.h"
#include "cuda/host/select_anchors.h"

namespace fastpixcon {

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("pixel_contrast", by_name<&pixel_contrast<&select_anchors, &gather_normalize, &info_nce_at_once>>());
}

}  // namespace fastpixcon
