#include "server/rpc/model_service.h"

#include <algorithm>
#include <utility>

#include "server/rpc/method_names.h"
#include "server/rpc/model_page.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/response_conversion.h"
#include "server/rpc/status_details.h"
#include "server/rpc/unary_call.h"

namespace sparseserve {
ModelService::ModelService(Dependencies dependencies)
    : d_(std::move(dependencies)) {}

grpc::ServerUnaryReactor* ModelService::ListModels(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  const CallRecord record = NewRecord(*context, kListModelsMethod);
  return AnswerCall<v1::ListModelsRequest, v1::ListModelsResponse>(
      {*context, *request, *response, record}, d_.observer,
      [&](const v1::ListModelsRequest& message) {
        return ListPage(message, Visible(record));
      });
}

grpc::ServerUnaryReactor* ModelService::GetModel(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  const CallRecord record = NewRecord(*context, kGetModelMethod);
  return AnswerCall<v1::GetModelRequest, v1::GetModelResponse>(
      {*context, *request, *response, record}, d_.observer,
      [&](const v1::GetModelRequest& message)
          -> absl::StatusOr<v1::GetModelResponse> {
        absl::Status unknown = ModelNotFound(message.name());
        for (const ServedModel& model : Visible(record)) {
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

CallRecord ModelService::NewRecord(const grpc::CallbackServerContext& context,
                                   const char* method) const {
  CallRecord record = RecordOf(context, method, d_.clock());
  record.access = d_.access.Check(context, record);
  return record;
}

absl::Span<const ServedModel> ModelService::Visible(
    const CallRecord& record) const {
  // There is one model so far; of several, those of the rule would be chosen.
  const bool sees_all =
      record.rule == nullptr ||
      std::all_of(d_.models.begin(), d_.models.end(),
                  [&record](const ServedModel& model) {
                    return record.rule->AllowsModel(model.name);
                  });
  return sees_all ? d_.models : absl::Span<const ServedModel>();
}

}  // namespace sparseserve
