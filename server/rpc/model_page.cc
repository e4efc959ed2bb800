#include "server/rpc/model_page.h"

#include <algorithm>
#include <iterator>

#include "engine/base/status_macros.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/response_conversion.h"

namespace sparseserve {
namespace {

constexpr int kDefaultPageSize = 100;
constexpr int kMaxPageSize = 1000;

}  // namespace

absl::StatusOr<v1::ListModelsResponse> ListPage(
    const v1::ListModelsRequest& request,
    absl::Span<const ServedModel> models) {
  FieldErrors errors;
  errors.CheckRange("page_size", int64_t{request.page_size()}, 0, kMaxPageSize);
  auto first = models.begin();
  if (!request.page_token().empty()) {
    first = std::find_if(models.begin(), models.end(),
                         [&request](const ServedModel& model) {
                           return model.name == request.page_token();
                         });
    if (first == models.end()) {
      errors.Add("page_token", request.page_token(), "from an earlier reply");
    } else {
      ++first;
    }
  }
  RETURN_IF_ERROR(errors.ToStatus());
  const int size =
      request.page_size() == 0 ? kDefaultPageSize : request.page_size();
  v1::ListModelsResponse response;
  for (; first != models.end() && response.models_size() < size; ++first) {
    *response.add_models() = ToModel(*first);
  }
  if (first != models.end()) {
    response.set_next_page_token(std::prev(first)->name);
  }
  return response;
}

}  // namespace sparseserve
