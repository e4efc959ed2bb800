#pragma once

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/rpc/served_model.h"
#include "sparseserve/v1/model_service.pb.h"

namespace sparseserve {

// One page of `models`, which are sorted by name. A page token is the name of
// the last model of the page before.
absl::StatusOr<v1::ListModelsResponse> ListPage(
    const v1::ListModelsRequest& request, absl::Span<const ServedModel> models);

}  // namespace sparseserve
