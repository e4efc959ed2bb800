#include "engine/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve {
namespace {

// What the i-th frequency is divided by; `wavelength` is its own, in positions.
struct DivisorOf {
  int32_t pair;
  double wavelength;

  double operator()(std::monostate) const { return 1; }
  double operator()(const RopeFrequencies::Linear& linear) const {
    return linear.factor;
  }
  double operator()(const RopeFrequencies::Llama3& llama3) const {
    const double turns = llama3.original_context_tokens / wavelength;
    const double kept =
        std::clamp((turns - llama3.low_factor) /
                       (double{llama3.high_factor} - llama3.low_factor),
                   0.0, 1.0);
    return 1 / ((1 - kept) / llama3.factor + kept);
  }
  double operator()(const RopeFrequencies::Divisors& table) const {
    return table.divisors[pair];
  }
};

double Frequency(const RopeFrequencies& frequencies, int32_t pair,
                 int32_t head_dim) {
  constexpr double kTurn = 2 * M_PI;
  const double plain =
      std::pow(double{frequencies.base}, -2.0 * pair / head_dim);
  return plain /
         std::visit(DivisorOf{pair, kTurn / plain}, frequencies.scaling);
}

}  // namespace

absl::StatusOr<RopeTable> BuildRopeTable(Backend& backend, int32_t positions,
                                         int32_t head_dim,
                                         const RopeFrequencies& frequencies) {
  SPARSESERVE_CHECK(head_dim % 2 == 0);
  const int32_t pairs = head_dim / 2;
  if (const auto* table =
          std::get_if<RopeFrequencies::Divisors>(&frequencies.scaling)) {
    SPARSESERVE_CHECK(static_cast<int32_t>(table->divisors.size()) == pairs);
  }
  const int64_t bytes = int64_t{positions} * pairs * sizeof(float);
  RopeTable table;
  std::vector<float> cosines(int64_t{positions} * pairs);
  std::vector<float> sines(cosines.size());
  ASSIGN_OR_RETURN(table.cosines, backend.Allocate(bytes));
  ASSIGN_OR_RETURN(table.sines, backend.Allocate(bytes));
  for (int32_t pair = 0; pair < pairs; ++pair) {
    const double frequency = Frequency(frequencies, pair, head_dim);
    for (int32_t position = 0; position < positions; ++position) {
      const int64_t at = int64_t{position} * pairs + pair;
      cosines[at] = static_cast<float>(std::cos(position * frequency));
      sines[at] = static_cast<float>(std::sin(position * frequency));
    }
  }
  backend.Upload(cosines.data(), bytes, table.cosines.data());
  backend.Upload(sines.data(), bytes, table.sines.data());
  return table;
}

}  // namespace sparseserve
