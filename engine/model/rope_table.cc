#include "engine/model/rope_table.h"

#include <cmath>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve {

absl::StatusOr<RopeTable> BuildRopeTable(Backend& backend, int32_t positions,
                                         int32_t head_dim, double base) {
  SPARSESERVE_CHECK(head_dim % 2 == 0);
  const int32_t pairs = head_dim / 2;
  const int64_t bytes = int64_t{positions} * pairs * sizeof(float);
  RopeTable table;
  ASSIGN_OR_RETURN(table.cosines, backend.Allocate(bytes));
  ASSIGN_OR_RETURN(table.sines, backend.Allocate(bytes));
  for (int32_t pair = 0; pair < pairs; ++pair) {
    const double frequency = std::pow(base, -2.0 * pair / head_dim);
    for (int32_t position = 0; position < positions; ++position) {
      const int64_t at = int64_t{position} * pairs + pair;
      table.cosines.as<float>()[at] =
          static_cast<float>(std::cos(position * frequency));
      table.sines.as<float>()[at] =
          static_cast<float>(std::sin(position * frequency));
    }
  }
  return table;
}

}  // namespace sparseserve
