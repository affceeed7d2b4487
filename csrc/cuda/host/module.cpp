// What CUDA adds to fastpixcon._C: build facts, and a way into the kernels for tests.
#include <cuda_runtime_api.h>
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/autograd/python_variable.h>

#include <map>
#include <string>

#include "common/module_parts.h"
#include "cuda/architectures.h"
#include "cuda/host/launch.h"

namespace fastpixcon {
namespace {

namespace py = pybind11;

void add_facts(std::map<std::string, std::string>& facts) {
  facts["devices"] = "CPU,CUDA";
  facts["cuda"] = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  facts["cuda architectures"] = architectures();
}

py::object number(const Argument& x) {
  if (x.is_floating) return py::float_(x.size == 4 ? *static_cast<float*>(x.value) : *static_cast<double*>(x.value));
  switch (x.size) {
    case 1: return py::bool_(*static_cast<bool*>(x.value));
    case 4: return py::int_(*static_cast<int32_t*>(x.value));
    default: return py::int_(*static_cast<int64_t*>(x.value));
  }
}

// A tensor, None or a number; of a struct (its bytes, {offset: tensor of a pointer}).
py::object as_python(const Argument& x) {
  if (x.fields.empty() && !x.is_pointer) return number(x);
  if (x.fields.empty())
    return x.tensor == nullptr ? py::none() : py::reinterpret_steal<py::object>(THPVariable_Wrap(*x.tensor));
  py::dict pointers;
  for (const Argument& field : x.fields)
    if (field.tensor != nullptr)
      pointers[py::int_(static_cast<char*>(field.value) - static_cast<char*>(x.value))] = as_python(field);
  return py::make_tuple(py::bytes(static_cast<const char*>(x.value), x.size), pointers);
}

// run(name, grid, block, shared, arguments).
void emulate(py::object run, int shared, int multiprocessors, bool sm90) {
  if (run.is_none()) return set_emulator(std::nullopt);
  const auto call = [run](const Launch& launch) {
    const py::gil_scoped_acquire gil;
    py::list arguments;
    for (size_t i = 0; i < launch.count; ++i) arguments.append(as_python(launch.arguments[i]));
    run(kernel_name(launch.kernel), py::make_tuple(launch.grid.x, launch.grid.y, launch.grid.z),
        py::make_tuple(launch.block.x, launch.block.y, launch.block.z), launch.shared, arguments);
  };
  set_emulator(Emulator{call, {shared, multiprocessors, sm90}});
}

void skip(int shared, int multiprocessors) {
  set_emulator(Emulator{[](const Launch&) {}, {shared, multiprocessors, false}});
}

void bind(py::module_& m) {
  m.def("set_emulator", &emulate, py::arg("run"), py::arg("shared") = 0, py::arg("multiprocessors") = 0,
        py::arg("sm90") = false,
        "Launches of CUDA kernels on CPU tensors go to run(name, grid, block, shared, arguments); None: they are "
        "refused.");
  m.def("skip_launches", &skip, py::arg("shared"), py::arg("multiprocessors"),
        "Launches of CUDA kernels on CPU tensors do nothing, until set_emulator(None): what is left is host code.");
}

const bool added = (module_parts().push_back({add_facts, bind}), true);

}  // namespace
}  // namespace fastpixcon
