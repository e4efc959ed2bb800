#include "server/rpc/model_service.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/method_names.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/response_conversion.h"
#include "server/rpc/unary_call.h"

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

ModelService::ModelService(Dependencies dependencies)
    : d_(std::move(dependencies)) {}

grpc::ServerUnaryReactor* ModelService::ListModels(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return AnswerCall<v1::ListModelsRequest, v1::ListModelsResponse>(
      {*context, *request, *response,
       RecordOf(*context, kListModelsMethod, d_.clock())},
      d_.observer, [this](const v1::ListModelsRequest& message) {
        return ListPage(message, d_.models);
      });
}

grpc::ServerUnaryReactor* ModelService::GetModel(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return AnswerCall<v1::GetModelRequest, v1::GetModelResponse>(
      {*context, *request, *response,
       RecordOf(*context, kGetModelMethod, d_.clock())},
      d_.observer,
      [this](const v1::GetModelRequest& message)
          -> absl::StatusOr<v1::GetModelResponse> {
        absl::Status unknown = absl::NotFoundError("no models");
        for (const ServedModel& model : d_.models) {
          unknown = CheckModelName("name", message.name(), model,
                                   /*may_be_empty=*/false);
          if (!unknown.ok()) continue;
          v1::GetModelResponse answer;
          *answer.mutable_model() = ToModel(model);
          return answer;
        }
        return unknown;
      });
}

}  // namespace sparseserve
