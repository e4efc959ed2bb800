#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/rpc/call_access.h"
#include "server/rpc/call_observer.h"
#include "sparseserve/v1/admin_service.grpc.pb.h"

namespace sparseserve {

// The gRPC face of AdminService. Every call, refused ones too, is one line of
// the log, whose event is "audit".
class AdminService final
    : public v1::AdminService::WithRawCallbackMethod_Drain<
          v1::AdminService::WithRawCallbackMethod_FlushPrefixCache<
              v1::AdminService::WithRawCallbackMethod_ReloadSecurityFiles<
                  v1::AdminService::Service>>> {
 public:
  struct Dependencies {  // all outlive the service
    CallObserver& observer;
    // Null where whoever reaches the listener may do everything.
    const CallAccess* access;
    std::function<absl::Time()> clock;
    std::function<void()> drain;  // returns at once
    // Returns at once; as ServingLoop::FlushPrefixCache().
    std::function<void(std::function<void(absl::StatusOr<int>)>)>
        flush_prefix_cache;
    std::function<void()> reload_security_files;
  };
  explicit AdminService(Dependencies dependencies);

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* FlushPrefixCache(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
      grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ReloadSecurityFiles(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
      grpc::ByteBuffer* response) override;

 private:
  CallRecord NewRecord(const grpc::CallbackServerContext& context,
                       const char* method) const;

  const Dependencies d_;
};

}  // namespace sparseserve
