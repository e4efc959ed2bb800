#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sparseserve {

// One step of a stage of a tokenizer.json, such as of its normalizer.
struct HfStep {
  const nlohmann::json* value;
  std::string path;  // how messages call it
  std::string type;
};

// The steps of a stage in order, sequences (whose parts are under `parts_key`)
// laid flat; none if it is null. They point into `tokenizer`.
absl::StatusOr<std::vector<HfStep>> ReadHfSteps(const nlohmann::json& tokenizer,
                                                const char* stage,
                                                const char* parts_key);

// The types in order: "[A, B]".
std::string TypesOf(const std::vector<HfStep>& steps);

absl::Status UnknownHfSteps(const char* stage, const std::vector<HfStep>& steps,
                            std::string_view known);

}  // namespace sparseserve
