// How the host code of the CUDA kernels starts them: every launch goes through launch(), so that tests can count
// launches, and execute the compiled kernels where there is no GPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <cuda_runtime_api.h>

#include <array>
#include <functional>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace fastpixcon {

// An argument of a launch: its value, and the tensor that a pointer points into.
struct Argument {
  void* value;
  size_t size;  // bytes
  bool is_floating;
  const at::Tensor* tensor;  // null: a number, or a null pointer if is_pointer
  bool is_pointer;
  std::vector<Argument> fields;  // of a struct

  // The first tensor of it, or null.
  const at::Tensor* first_tensor() const {
    const at::Tensor* found = tensor;
    for (const Argument& field : fields) found = found == nullptr ? field.first_tensor() : found;
    return found;
  }
};

struct Launch {
  const void* kernel;
  dim3 grid, block;
  int shared;  // bytes of dynamic shared memory
  const Argument* arguments;
  size_t count;
};

// What the host code asks of the device that tensors are on.
struct DeviceLimits {
  int shared;           // bytes of shared memory that a block can have
  int multiprocessors;  // how many
  bool sm90;            // whether it is of capability 9.0 and FASTPIXCON_HOPPER=1 asks for kernels that only it has
};
DeviceLimits device_limits(const at::Tensor& x);

// Stands in for the GPU: executes launches on CPU tensors, as a device of these limits. Null: none.
struct Emulator {
  std::function<void(const Launch&)> run;
  DeviceLimits limits;
};
void set_emulator(std::optional<Emulator> emulator);

// The symbol of a kernel, as its PTX names it.
const char* kernel_name(const void* kernel);

void start(const Launch& launch, const at::Tensor* on);

namespace detail {

template <typename A>
const at::Tensor* tensor_of(const A& x) {
  if constexpr (std::is_same_v<A, at::Tensor>) {
    return x.defined() ? &x : nullptr;
  } else if constexpr (std::is_same_v<A, std::optional<at::Tensor>>) {
    return x.has_value() ? &*x : nullptr;
  } else {
    return nullptr;
  }
}

// A tensor as a pointer of the type that the kernel takes, which must be its dtype's; numbers as they are.
template <typename P, typename A>
P convert(const A& x) {
  if constexpr (std::is_pointer_v<P>) {
    using T = std::remove_pointer_t<P>;
    const at::Tensor* tensor = tensor_of(x);
    if (tensor == nullptr) return nullptr;
    if constexpr (std::is_void_v<T> && std::is_const_v<T>) {
      return tensor->const_data_ptr();
    } else if constexpr (std::is_void_v<T>) {
      return tensor->mutable_data_ptr();
    } else if constexpr (std::is_const_v<T>) {
      return tensor->const_data_ptr<std::remove_const_t<T>>();
    } else {
      return tensor->mutable_data_ptr<T>();
    }
  } else {
    static_assert(std::is_arithmetic_v<A>, "a number for a number");
    return static_cast<P>(x);
  }
}

// The argument of a kernel, and what it is made of: a struct of a tuple, see cuda/values.h.
template <typename P, typename A>
Argument fill(P& value, const A& x) {
  if constexpr (std::is_class_v<P>) {
    Argument argument{&value, sizeof(P), false, nullptr, false, {}};
    static_assert(std::tuple_size_v<decltype(P::kFields)> == std::tuple_size_v<A>, "as many values as fields");
    [&]<size_t... I>(std::index_sequence<I...>) {
      (argument.fields.push_back(fill(value.*std::get<I>(P::kFields), std::get<I>(x))), ...);
    }(std::make_index_sequence<std::tuple_size_v<A>>{});
    return argument;
  } else {
    value = convert<P>(x);
    return {&value, sizeof(P), std::is_floating_point_v<P>, tensor_of(x), std::is_pointer_v<P>, {}};
  }
}

template <typename... P, typename... A, size_t... I>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, int shared, std::index_sequence<I...>, const A&... arguments) {
  std::tuple<P...> values{};
  const std::array<Argument, sizeof...(P)> list{fill(std::get<I>(values), arguments)...};
  const at::Tensor* on = nullptr;
  for (const Argument& argument : list) on = on == nullptr ? argument.first_tensor() : on;
  start({reinterpret_cast<const void*>(kernel), grid, block, shared, list.data(), list.size()}, on);
}

}  // namespace detail

// kernel<<<grid, block, shared>>>(arguments...) on the current stream of the first tensor's device. Tensors stand for
// pointers; none, or std::nullopt, for null; tuples for structs. A grid without blocks starts nothing.
template <typename... P, typename... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, int shared, const A&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "as many arguments as parameters");
  if (grid.x != 0 && grid.y != 0 && grid.z != 0)
    detail::launch(kernel, grid, block, shared, std::index_sequence_for<P...>{}, arguments...);
}

}  // namespace fastpixcon
