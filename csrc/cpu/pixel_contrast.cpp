// pixel_contrast on CPU tensors.
#include "common/pixel_contrast.h"

#include <torch/library.h>

#include "cpu/gather_normalize.h"
#include "cpu/info_nce.h"
#include "cpu/select_anchors.h"

namespace fastpixcon::cpu {

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) {
  m.impl("pixel_contrast", by_name<&pixel_contrast<&select_anchors, &gather_normalize, &info_nce_at_once>>());
}

}  // namespace fastpixcon::cpu
