#include "server/rpc/health_server.h"

#include "absl/time/clock.h"
#include "engine/base/str_cat.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "server/rpc/method_names.h"
#include "server/rpc/without_reflection.h"

namespace sparseserve {
namespace {

// A probe sends a name; more than this is none.
constexpr int kMaxRequestBytes = 1 << 10;
constexpr int kMaxMetadataBytes = 4 << 10;
constexpr int kMaxStreams = 16;
constexpr size_t kMaxBufferBytes = size_t{16} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<HealthServer>> HealthServer::Start(
    const std::string& address) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<WithoutReflection>());
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreams);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder.SetResourceQuota(
      grpc::ResourceQuota("health").Resize(kMaxBufferBytes));
  std::unique_ptr<HealthServer> server(new HealthServer);
  // gRPC starts no server that has nothing but its own service.
  builder.RegisterCallbackGenericService(&server->others_);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(),
                           &server->port_);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || server->port_ == 0) {
    return absl::UnavailableError(
        StrCat("cannot listen on ", address,
               " for health checks: the port is in use or the address is not "
               "this machine's"));
  }
  server->SetAlive(true);
  server->SetReady(false, "");
  return server;
}

HealthServer::~HealthServer() {
  if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(absl::Now()));
}

void HealthServer::SetAlive(bool alive) {
  server_->GetHealthCheckService()->SetServingStatus(kLivenessName, alive);
}

void HealthServer::SetReady(bool ready, const std::string& model) {
  grpc::HealthCheckServiceInterface* const health =
      server_->GetHealthCheckService();
  health->SetServingStatus(kReadinessName, ready);
  for (const char* service : kServiceNames) {
    health->SetServingStatus(service, ready);
  }
  if (!model.empty()) health->SetServingStatus(model, ready);
  health->SetServingStatus("", ready);
}

}  // namespace sparseserve
