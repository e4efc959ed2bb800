#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/server.h"

namespace sparseserve {

// Names of HealthServer besides those of models and services.
inline constexpr char kLivenessName[] = "liveness";
inline constexpr char kReadinessName[] = "readiness";

// grpc.health.v1 in plaintext on a port of its own and nothing else, for probes
// that have no certificate: up from before the model is loaded until the
// process ends. Thread-safe.
class HealthServer {
 public:
  // Alive and not ready when it returns. UNAVAILABLE if the address cannot be
  // bound.
  static absl::StatusOr<std::unique_ptr<HealthServer>> Start(
      const std::string& address);
  ~HealthServer();

  int port() const { return port_; }

  // "liveness": whether the process is worth keeping.
  void SetAlive(bool alive);
  // "readiness", the whole server (""), its services, and `model` if that is
  // not empty: whether callers should come.
  void SetReady(bool ready, const std::string& model);

 private:
  HealthServer() = default;

  grpc::CallbackGenericService others_;  // which it does not implement
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace sparseserve
