#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/rpc/call_access.h"
#include "server/rpc/call_observer.h"
#include "server/rpc/served_model.h"
#include "sparseserve/v1/model_service.grpc.pb.h"

namespace sparseserve {

// The gRPC face of ModelService.
class ModelService final
    : public v1::ModelService::WithRawCallbackMethod_ListModels<
          v1::ModelService::WithRawCallbackMethod_GetModel<
              v1::ModelService::Service>> {
 public:
  struct Dependencies {                    // all outlive the service
    absl::Span<const ServedModel> models;  // sorted by name
    CallObserver& observer;
    const CallAccess& access;
    std::function<absl::Time()> clock;
  };
  explicit ModelService(Dependencies dependencies);

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;

 private:
  CallRecord NewRecord(const grpc::CallbackServerContext& context,
                       const char* method) const;
  // The models that the caller may know of.
  absl::Span<const ServedModel> Visible(const CallRecord& record) const;

  const Dependencies d_;
};

}  // namespace sparseserve
