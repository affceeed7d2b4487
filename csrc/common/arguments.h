// An operator's arguments, taken by the names that its schema has (fastpixcon/ops/signature.py), so that no kernel
// spells out their list. A kernel is a function of a struct that is made of Arguments.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "common/values.h"

namespace fastpixcon {

class Arguments {
 public:
  Arguments(const c10::FunctionSchema& schema, at::ArrayRef<c10::IValue> values) : schema_(schema), values_(values) {}

  const c10::IValue& at(const std::string& name) const {
    const auto& arguments = schema_.arguments();
    for (size_t k = 0; k < arguments.size(); ++k)
      if (arguments[k].name() == name) return values_[k];
    TORCH_INTERNAL_ASSERT(false, schema_.name(), " has no argument ", name);
  }

  const at::Tensor& tensor(const std::string& name) const { return at(name).toTensor(); }
  std::optional<at::Tensor> optional_tensor(const std::string& name) const { return at(name).toOptional<at::Tensor>(); }
  std::optional<int64_t> optional_int(const std::string& name) const { return at(name).toOptional<int64_t>(); }
  c10::string_view word(const std::string& name) const { return at(name).toStringView(); }  // while the call lasts
  bool flag(const std::string& name) const { return at(name).toBool(); }
  std::array<bool, 3> mask(const std::string& name) const {
    const c10::List<bool> wanted = at(name).toBoolList();
    TORCH_CHECK_VALUE(wanted.size() == 3, name, ": got ", wanted.size(), " values, want 3");
    return {wanted[0], wanted[1], wanted[2]};
  }

  // anchors, anchor_labels and so on.
  Rows rows(const std::string& name) const {
    const std::string of = singular(name);
    return {tensor(name), tensor(of + "_labels"), optional_tensor(of + "_positive_weights"),
            optional_tensor(of + "_negative_weights"), optional_tensor(of + "_groups")};
  }
  BankRows bank() const { return {tensor("bank"), tensor("bank_labels"), optional_tensor("bank_negative_weights")}; }
  std::optional<Rows> optional_rows(const std::string& name) const {
    if (!is_there(name)) return std::nullopt;
    return rows(name);
  }
  std::optional<BankRows> optional_bank() const {
    if (!is_there("bank")) return std::nullopt;
    return bank();
  }
  Rule rule() const {
    return {tensor("temperature"),
            word("denominator"),
            flag("fixed_shift"),
            flag("is_sorted"),
            optional_tensor("class_weights"),
            word("positive_groups"),
            word("negative_groups")};
  }
  Pairs pairs() const { return {optional_int("diagonal"), optional_tensor("mined"), optional_tensor("seed")}; }
  // Of the anchors, or with the prefix "column_" of the contrast rows.
  Statistics statistics(const std::string& prefix = "") const {
    const auto of = [&](const char* name) {
      TORCH_CHECK_VALUE(!at(prefix + name).isNone(), prefix, name, ": got None, want it with ", prefix, "d_loss");
      return tensor(prefix + name);
    };
    return {of("d_loss"), of("log_sum"), of("weight"), of("mass")};
  }

 private:
  static std::string singular(const std::string& name) {
    return name.back() == 's' ? name.substr(0, name.size() - 1) : name;
  }
  bool is_there(const std::string& rows) const {
    if (at(rows).isNone()) return false;
    const std::string labels = singular(rows) + "_labels";
    TORCH_CHECK_VALUE(!at(labels).isNone(), labels, ": got None, want the labels of ", rows);
    return true;
  }

  const c10::FunctionSchema& schema_;
  at::ArrayRef<c10::IValue> values_;
};

namespace detail {

template <class Function>
struct Kernel;
template <class Results, class Call>
struct Kernel<Results (*)(const Call&)> {
  using Argument = Call;
};

template <class... Results>
void push(torch::jit::Stack& stack, std::tuple<Results...>&& results) {
  std::apply([&](Results&... each) { (stack.emplace_back(std::move(each)), ...); }, results);
}
inline void push(torch::jit::Stack& stack, at::Tensor&& result) { stack.emplace_back(std::move(result)); }

template <auto function>
void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  using Call = typename Kernel<decltype(function)>::Argument;
  const size_t count = op.schema().arguments().size();
  auto results = function(Call(Arguments(op.schema(), torch::jit::last(*stack, count))));
  torch::jit::drop(*stack, count);
  push(*stack, std::move(results));
}

}  // namespace detail

// A kernel `Results function(const Call&)` for a library's impl().
template <auto function>
torch::CppFunction by_name() {
  return torch::CppFunction::makeFromBoxedFunction<&detail::run<function>>();
}

}  // namespace fastpixcon
