#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/model/safetensors_file.h"
#include "nlohmann/json.hpp"
#include "tests/testing/rule_attention.h"

namespace sparseserve::testing {

// What transformers' module of one system computed; see
// tests/golden/README.md. Aborts where files are missing or not as expected.
class PatternGolden {
 public:
  // One run of the module.
  struct Case {
    nlohmann::json parameters;  // "name" among them

    std::string name() const { return parameters.at("name"); }
    std::vector<bool> real() const;  // false for padding
  };

  explicit PatternGolden(const std::string& system);

  const std::vector<Case>& cases() const { return cases_; }
  bool Has(const Case& from, const std::string& name) const;
  // The matrix of each head, [heads][rows, columns].
  std::vector<Rows> Heads(const Case& from, const std::string& name) const;
  // The same of whole numbers, or of a tensor without heads as one matrix.
  std::vector<std::vector<std::vector<int64_t>>> Indices(
      const Case& from, const std::string& name) const;
  // Whether each key is visible to a row, from packed bits.
  std::vector<bool> Visible(const Case& from, int64_t head, int64_t row,
                            int64_t keys) const;

 private:
  const SafetensorsTensor& Tensor(const Case& from,
                                  const std::string& name) const;

  std::vector<Case> cases_;
  std::unique_ptr<SafetensorsFile> file_;
};

}  // namespace sparseserve::testing
