// The health calls of Client. They speak grpc.health.v1 through a generic stub:
// wire_format.proto says why there is no generated one.

#include <memory>
#include <string>

#include "client/client.h"
#include "client/client_call.h"
#include "client/wire_format.pb.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"

namespace sparseserve {
namespace {

using HealthStub = grpc::TemplatedGenericStub<client_wire::HealthCheckRequest,
                                              client_wire::HealthCheckResponse>;

// Waits for the one operation in flight on `queue`; true if it succeeded.
bool Await(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  return queue.Next(&tag, &ok) && ok;
}

Health FromWire(client_wire::HealthCheckResponse::ServingStatus status) {
  switch (status) {
    case client_wire::HealthCheckResponse::SERVING:
      return Health::kServing;
    case client_wire::HealthCheckResponse::NOT_SERVING:
      return Health::kNotServing;
    case client_wire::HealthCheckResponse::SERVICE_UNKNOWN:
      return Health::kServiceUnknown;
    default:
      return Health::kUnknown;
  }
}

// Sends one request and hands out replies until there are no more or `on_reply`
// returns false, which is OK. On the wire a unary call is a stream of one
// message, so this serves both methods.
absl::Status CallHealth(const std::shared_ptr<grpc::Channel>& channel,
                        const std::string& method, absl::string_view service,
                        absl::FunctionRef<bool(Health)> on_reply,
                        const CallOptions& options) {
  if (absl::Status valid = ValidateCallOptions(options); !valid.ok()) {
    return valid;
  }
  ClientCall call(options);
  grpc::CompletionQueue queue;
  HealthStub stub(channel);
  const auto stream = stub.PrepareCall(
      &call.context(), "/grpc.health.v1.Health/" + method, &queue);
  client_wire::HealthCheckRequest request;
  request.set_service(std::string(service));
  stream->StartCall(nullptr);
  bool stopped = false;
  if (Await(queue)) {
    stream->WriteLast(request, grpc::WriteOptions(), nullptr);
    bool more = Await(queue);
    while (more) {
      client_wire::HealthCheckResponse response;
      stream->Read(&response, nullptr);
      more = Await(queue);
      if (more && !on_reply(FromWire(response.status()))) {
        stopped = true;
        more = false;
        call.context().TryCancel();
      }
    }
  }
  grpc::Status status;
  stream->Finish(&status, nullptr);
  Await(queue);
  queue.Shutdown();
  while (Await(queue)) {
  }
  return stopped ? absl::OkStatus() : call.Result(status);
}

}  // namespace

absl::StatusOr<Health> Client::CheckHealth(absl::string_view service,
                                           const CallOptions& call) {
  Health health = Health::kUnknown;
  absl::Status status = CallHealth(
      health_channel_, "Check", service,
      [&health](Health reply) {
        health = reply;
        return true;
      },
      call);
  if (absl::IsNotFound(status)) return Health::kServiceUnknown;
  if (!status.ok()) return status;
  return health;
}

absl::Status Client::WatchHealth(absl::string_view service,
                                 absl::FunctionRef<bool(Health)> on_change,
                                 const CallOptions& call) {
  return CallHealth(health_channel_, "Watch", service, on_change, call);
}

}  // namespace sparseserve
