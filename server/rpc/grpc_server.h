#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/server.h"

namespace sparseserve {

std::string GrpcVersion();

// A listening gRPC server with health service. Created by main; any thread.
class GrpcServer {
 public:
  struct Options {
    std::string address;  // "host:port"; port 0 picks one
    int max_request_bytes = 4 << 20;
    int max_concurrent_streams = 1024;
    int max_metadata_bytes = 16 << 10;
    absl::Duration max_connection_age = absl::InfiniteDuration();
    absl::Duration max_connection_idle = absl::Minutes(15);
    absl::Duration keepalive_time = absl::Minutes(1);
    absl::Duration keepalive_timeout = absl::Seconds(20);
    // All of gRPC's buffers together.
    size_t max_buffer_bytes = size_t{512} << 20;
    bool reflection = false;

    // PEM files, which are watched: of the key with its certificate, and of the
    // CAs that a client's certificate must come from, or empty if it needs
    // none. Without it, plaintext.
    struct Tls {
      std::string identity_path;
      std::string client_ca_path;
    };
    std::optional<Tls> tls;
  };

  // Listens and serves, with health NOT_SERVING. `services`, and `others`,
  // which gets the calls of methods that no service has and may be null,
  // outlive the server.
  // UNAVAILABLE if the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const Options& options, const std::vector<grpc::Service*>& services,
      grpc::CallbackGenericService* others);
  ~GrpcServer();  // Shutdown() at once

  int port() const { return port_; }

  // What health checks answer, for the whole server and for each service.
  void SetServing(bool serving);

  // Refuses new calls, waits for those under way, but no longer than `at_most`,
  // then cancels them. Health watchers among them: so wait for the others
  // before.
  void Shutdown(absl::Duration at_most);

 private:
  GrpcServer() = default;

  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace sparseserve
