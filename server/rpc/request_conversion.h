#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/rpc/served_model.h"
#include "server/scheduling/request.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// From the API's words to the scheduler's, with every check of fields that
// inference_service.proto promises: all of `options` but the request id (see
// request_id.h) and the prompt, which is checked but not encoded yet. Errors
// name every bad field. `draw_seed` is asked if the caller gave no seed. The
// result's output limit is 0 if the caller gave none: it follows from the
// prompt's length (SetPrompt in prompt_conversion.h).
absl::StatusOr<std::unique_ptr<Request>> ConvertOptions(
    const v1::GenerateOptions& options, const ServedModel& model,
    const std::function<uint64_t()>& draw_seed);

}  // namespace sparseserve
