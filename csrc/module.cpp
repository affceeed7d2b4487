// fastpixcon._C: build facts, and a way into the CUDA kernels for tests. The operators register themselves with
// torch's dispatcher.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "cpu/isa.h"

#ifdef FASTPIXCON_CUDA_ARCHITECTURES
#include <torch/csrc/autograd/python_variable.h>

#include "cuda/host/launch.h"
#endif

namespace {

namespace py = pybind11;

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

std::map<std::string, std::string> build() {
  std::map<std::string, std::string> facts{
      {"devices", "CPU"}, {"compiler", compiler()}, {"isa", fastpixcon::cpu::isa_name(fastpixcon::cpu::isa())}};
#ifdef FASTPIXCON_CUDA_ARCHITECTURES
  facts["devices"] = "CPU,CUDA";
  facts["cuda"] = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  facts["cuda architectures"] = FASTPIXCON_CUDA_ARCHITECTURES;
#endif
  return facts;
}

#ifdef FASTPIXCON_CUDA_ARCHITECTURES
py::object number(const fastpixcon::Argument& x) {
  if (x.is_floating) return py::float_(x.size == 4 ? *static_cast<float*>(x.value) : *static_cast<double*>(x.value));
  switch (x.size) {
    case 1: return py::bool_(*static_cast<bool*>(x.value));
    case 4: return py::int_(*static_cast<int32_t*>(x.value));
    default: return py::int_(*static_cast<int64_t*>(x.value));
  }
}

// run(name, grid, block, shared, arguments), tensors for pointers.
void set_emulator(py::object run, int shared, int multiprocessors) {
  if (run.is_none()) return fastpixcon::set_emulator(std::nullopt);
  const auto call = [run](const fastpixcon::Launch& launch) {
    const py::gil_scoped_acquire gil;
    py::list arguments;
    for (size_t i = 0; i < launch.count; ++i) {
      const fastpixcon::Argument& x = launch.arguments[i];
      if (!x.is_pointer) {
        arguments.append(number(x));
      } else if (x.tensor == nullptr) {
        arguments.append(py::none());
      } else {
        arguments.append(py::reinterpret_steal<py::object>(THPVariable_Wrap(*x.tensor)));
      }
    }
    run(fastpixcon::kernel_name(launch.kernel), py::make_tuple(launch.grid.x, launch.grid.y, launch.grid.z),
        py::make_tuple(launch.block.x, launch.block.y, launch.block.z), launch.shared, arguments);
  };
  fastpixcon::set_emulator(fastpixcon::Emulator{call, {shared, multiprocessors}});
}
#endif

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "C++ operators of fastpixcon";
  m.def("build", &build, "What was built, and the instruction set in use on this processor.");
#ifdef FASTPIXCON_CUDA_ARCHITECTURES
  m.def("set_emulator", &set_emulator, py::arg("run"), py::arg("shared") = 0, py::arg("multiprocessors") = 0,
        "Launches of CUDA kernels on CPU tensors go to run(name, grid, block, shared, arguments); None: they are "
        "refused.");
#endif
}
