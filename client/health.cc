// The health calls of Client. They speak grpc.health.v1 without a generated
// stub: wire_format.proto says why.

#include <string>

#include "client/client.h"
#include "client/client_call.h"
#include "client/server_stream.h"
#include "client/wire_format.pb.h"

namespace sparseserve {
namespace {

using client_wire::HealthCheckRequest;
using client_wire::HealthCheckResponse;

Health FromWire(HealthCheckResponse::ServingStatus status) {
  switch (status) {
    case HealthCheckResponse::SERVING:
      return Health::kServing;
    case HealthCheckResponse::NOT_SERVING:
      return Health::kNotServing;
    case HealthCheckResponse::SERVICE_UNKNOWN:
      return Health::kServiceUnknown;
    default:
      return Health::kUnknown;
  }
}

HealthCheckRequest RequestFor(absl::string_view service) {
  HealthCheckRequest request;
  request.set_service(std::string(service));
  return request;
}

}  // namespace

absl::StatusOr<Health> Client::CheckHealth(absl::string_view service,
                                           const CallOptions& call) {
  if (absl::Status valid = ValidateCallOptions(call); !valid.ok()) return valid;
  // On the wire a unary call is a stream of one message.
  ServerStream stream(health_channel_, "/grpc.health.v1.Health/Check",
                      RequestFor(service), call);
  HealthCheckResponse response;
  while (stream.Read(response)) {
  }
  absl::Status status = stream.Finish();
  if (absl::IsNotFound(status)) return Health::kServiceUnknown;
  if (!status.ok()) return status;
  return FromWire(response.status());
}

absl::Status Client::WatchHealth(absl::string_view service,
                                 absl::FunctionRef<bool(Health)> on_change,
                                 const CallOptions& call) {
  if (absl::Status valid = ValidateCallOptions(call); !valid.ok()) return valid;
  ServerStream stream(health_channel_, "/grpc.health.v1.Health/Watch",
                      RequestFor(service), call);
  HealthCheckResponse response;
  while (stream.Read(response)) {
    if (!on_change(FromWire(response.status()))) return absl::OkStatus();
  }
  return stream.Finish();
}

}  // namespace sparseserve
