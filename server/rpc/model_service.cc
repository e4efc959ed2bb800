#include "server/rpc/model_service.h"

#include <utility>

#include "server/rpc/method_names.h"
#include "server/rpc/model_page.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/response_conversion.h"
#include "server/rpc/unary_call.h"

namespace sparseserve {
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
