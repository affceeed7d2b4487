// fastpixcon._C: build facts only. The operators register themselves with torch's dispatcher.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "cpu/isa.h"

namespace {

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
  return {{"devices", "CPU"}, {"compiler", compiler()}, {"isa", fastpixcon::isa_name(fastpixcon::isa())}};
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "C++ operators of fastpixcon";
  m.def("build", &build, "What was built, and the instruction set in use on this processor.");
}
