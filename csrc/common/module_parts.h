// What optional parts of a build add to the module fastpixcon._C, each from its own source.
#pragma once

#include <pybind11/pybind11.h>

#include <map>
#include <string>
#include <vector>

namespace fastpixcon {

struct ModulePart {
  void (*add_facts)(std::map<std::string, std::string>& facts);
  void (*bind)(pybind11::module_& module);
};

std::vector<ModulePart>& module_parts();

}  // namespace fastpixcon
