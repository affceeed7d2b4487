// fastpixcon._C: build facts. The operators register themselves with torch's dispatcher.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <set>
#include <string>
#include <utility>

#include "common/module_parts.h"
#include "cpu/isa.h"

namespace fastpixcon {

std::vector<ModulePart>& module_parts() {
  static std::vector<ModulePart> parts;
  return parts;
}

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
  const cpu::Choice& choice = cpu::isa_choice();
  std::map<std::string, std::string> facts{
      {"devices", "CPU"}, {"compiler", compiler()}, {"isa", cpu::isa_name(choice.isa)}, {"isa choice", choice.why}};
  for (const ModulePart& part : module_parts()) part.add_facts(facts);
  return facts;
}

// (name, why), of a processor with these features: avx2, avx512, avx512_bf16, amx, sse4a, amx_permitted.
std::pair<std::string, std::string> choose_isa(const std::string& vendor, const std::set<std::string>& features,
                                               const std::string& wanted) {
  const auto has = [&](const char* name) { return features.count(name) > 0; };
  const cpu::Processor processor{vendor,     has("avx2"),  has("avx512"),       has("avx512_bf16"),
                                 has("amx"), has("sse4a"), has("amx_permitted")};
  const cpu::Choice choice = cpu::choose_isa(processor, wanted, {});
  return {cpu::isa_name(choice.isa), choice.why};
}

}  // namespace
}  // namespace fastpixcon

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "C++ operators of fastpixcon";
  m.def("build", &fastpixcon::build, "What was built, and the instruction set in use on this processor.");
  m.def("choose_isa", &fastpixcon::choose_isa, pybind11::arg("vendor"), pybind11::arg("features"),
        pybind11::arg("wanted") = "", "The instruction set on a processor of that kind, and why: for tests.");
  for (const fastpixcon::ModulePart& part : fastpixcon::module_parts()) part.bind(m);
}
