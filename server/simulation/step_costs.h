#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "server/scheduling/step_cost_model.h"

namespace sparseserve {

// "TERM=TIME,..." with the terms constant, decode_row, prompt_row,
// decode_block and prompt_block, such as "constant=4ms,prompt_row=0.6ms"; what
// is not named costs nothing. INVALID_ARGUMENT names what cannot be read, and
// costs that are all 0.
absl::StatusOr<StepCosts> ParseStepCosts(std::string_view text);

// The same out of a scrape of a server's metrics,
// sparseserve_step_cost_seconds. NOT_FOUND where a term is missing.
absl::StatusOr<StepCosts> ReadScrapedCosts(std::string_view metrics);

}  // namespace sparseserve
