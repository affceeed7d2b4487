#include "cpu/problem.h"

#include <c10/util/Exception.h>

#include <unordered_map>

#include "common/checks.h"

namespace fastpixcon::cpu {

// Products of bfloat16 are for bfloat16 rows only; float16 has more bits than that and is computed with in float.
const TileKernels& tile_kernels(at::ScalarType dtype) {
  const bool bf16 = dtype == at::kBFloat16;
  switch (isa()) {
    case Isa::kAmx: return bf16 ? tile_kernels_amx() : tile_kernels_avx512();
    case Isa::kAvx512Bf16: return bf16 ? tile_kernels_avx512_bf16() : tile_kernels_avx512();
    case Isa::kAvx512: return tile_kernels_avx512();
    case Isa::kAvx2: return tile_kernels_avx2();
    case Isa::kAmxEmulated:
    case Isa::kAvx512Bf16Emulated:
    case Isa::kAvx512Emulated: return emulated_kernels(bf16 ? isa() : Isa::kAvx512Emulated)();
    case Isa::kBaseline: break;
  }
  return tile_kernels_baseline();
}

Scale::Scale(const at::Tensor& temperature_in, bool unit_rows) {
  const double temperature = temperature_in.item<double>();
  check_temperature(temperature);
  online = !unit_rows || temperature < kFixedShiftMin;
  scale = static_cast<float>(1 / temperature / (online ? 1 : kLn2));
  inverse = scale * (online ? 1 : kLn2);
}

Problem::Problem(const Rows& anchors_in, const std::optional<Rows>& contrast_in, const Rule& rule,
                 c10::string_view rows, bool mutual_, Gathered gathered)
    : kernels(tile_kernels(anchors_in.x.scalar_type())),
      self(!contrast_in.has_value()),
      of{rule.apart(), rule.negatives()},
      mutual(mutual_ && !self),
      scale(rule.temperature, rows != "any") {
  if (gathered == Gathered::kAll) {
    anchors = sort_rows(anchors_in, rows == "raw", kernels);
    anchors.pack(Part::kLeft, kernels);
  } else {
    anchors = in_order(anchors_in, rows == "raw", kernels);
  }
  if (!self) separate = sort_rows(*contrast_in, rows == "raw", kernels);
  contrast().pack(Part::kRight, kernels);
  classes = match_classes(anchors, contrast());
  row_blocks = Blocks::split(anchors.n, kernels.lanes, kernels.block);
  column_blocks = self ? row_blocks : Blocks::split(contrast().n, kernels.lanes, kernels.block);
  rules = batch_rules(rule, scale.online, anchors_in, anchors, contrast_in, contrast(), classes);
  if (!self) return;
  itself.resize(anchors.n);
  for (int64_t i = 0; i < anchors.n; ++i) itself[i] = static_cast<int32_t>(i);
}

std::vector<bool> Problem::have_positives() const {
  std::vector<bool> have(anchors.n);
  const RuleOfRows none, &rows = rules.has_value() ? rules->rows : none;
  const RuleOfRows& columns = self || !rules.has_value() ? rows : rules->columns;
  const Groups groups = rules.has_value() ? rules->rule.positives : Groups::kAny;
  const auto counts = [](const RuleOfRows& of, int64_t i) { return of.mass.empty() || of.mass[i] > 0; };
  for (const ClassRange& range : classes.range) {
    std::unordered_map<int32_t, int64_t> of_group;
    int64_t all = 0;
    for (int64_t j = range.contrast_first; j < range.contrast_last; ++j) {
      if (!counts(columns, j)) continue;
      ++all;
      if (groups != Groups::kAny) ++of_group[columns.group[j]];
    }
    for (int64_t i = range.anchor_first; i < range.anchor_last; ++i) {
      const int64_t itself_too = self && counts(rows, i) ? 1 : 0;
      const int64_t same = groups == Groups::kAny ? 0 : of_group[rows.group[i]];
      have[i] = groups == Groups::kAny ? all > itself_too : groups == Groups::kSame ? same > itself_too : all > same;
    }
  }
  return have;
}

Problem::Problem(const InfoNCE& call, Gathered gathered)
    : Problem(call.anchors, call.contrast, call.rule, call.rows, false, gathered) {}

Problem::Problem(const ContrastSet& set, bool mutual)
    : Problem(set.anchors, set.contrast, set.rule, "unit", mutual, Gathered::kAll) {
  if (!self && set.pairs.diagonal.has_value())
    itself = places(anchors, separate, set.contrast->count(), *set.pairs.diagonal);
  if (set.pairs.mined.has_value())
    kept.emplace(set.pairs, kBatchStream, anchors.source, self ? nullptr : &separate.source);
}

}  // namespace fastpixcon::cpu
