#include "server/rpc/grpc_server.h"

#include "absl/time/clock.h"
#include "engine/base/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "grpcpp/server_builder.h"
#include "server/rpc/method_names.h"
#include "server/rpc/without_reflection.h"

namespace sparseserve {
namespace {

constexpr int kMaxSyncThreads = 64;

void SetConnectionArguments(const GrpcServer::Options& options,
                            grpc::ServerBuilder& builder) {
  const auto set = [&builder](const char* key, int64_t value) {
    builder.AddChannelArgument(key, static_cast<int>(value));
  };
  const auto set_time = [&set](const char* key, absl::Duration value) {
    if (value != absl::InfiniteDuration()) {
      set(key, absl::ToInt64Milliseconds(value));
    }
  };
  // A second server on the same port is an error, not a load balancer.
  set(GRPC_ARG_ALLOW_REUSEPORT, 0);
  set(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  set(GRPC_ARG_MAX_METADATA_SIZE, options.max_metadata_bytes);
  set_time(GRPC_ARG_MAX_CONNECTION_AGE_MS, options.max_connection_age);
  set_time(GRPC_ARG_MAX_CONNECTION_IDLE_MS, options.max_connection_idle);
  set_time(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, absl::Seconds(10));
  set_time(GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive_time);
  set_time(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options.keepalive_timeout);
  // Routers ping idle connections every 30 s; the defaults would cut them off.
  set(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  set_time(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
           absl::Seconds(10));
  set(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
}

// How often gRPC looks whether the files that it is given changed: they are in
// memory, so it may look often.
constexpr unsigned kWatchSeconds = 1;

std::shared_ptr<grpc::ServerCredentials> CredentialsOf(
    const GrpcServer::Options& options) {
  if (!options.tls.has_value()) return grpc::InsecureServerCredentials();
  namespace tls = grpc::experimental;
  const GrpcServer::Options::Tls& files = *options.tls;
  tls::TlsServerCredentialsOptions settings(
      std::make_shared<tls::FileWatcherCertificateProvider>(
          files.identity_path, files.identity_path, files.client_ca_path,
          kWatchSeconds));
  settings.watch_identity_key_cert_pairs();
  if (files.client_ca_path.empty()) {
    settings.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  } else {
    settings.watch_root_certs();
    settings.set_cert_request_type(
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls::TlsServerCredentials(settings);
}

}  // namespace

std::string GrpcVersion() { return grpc::Version(); }

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const Options& options, const std::vector<grpc::Service*>& services,
    grpc::CallbackGenericService* others) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  if (!options.reflection) {
    builder.SetOption(std::make_unique<WithoutReflection>());
  }
  SetConnectionArguments(options, builder);
  builder.SetMaxReceiveMessageSize(options.max_request_bytes);
  // Threads: of reflection, the only service that uses one for each call.
  builder.SetResourceQuota(grpc::ResourceQuota("server")
                               .Resize(options.max_buffer_bytes)
                               .SetMaxThreads(kMaxSyncThreads));
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (others != nullptr) builder.RegisterCallbackGenericService(others);

  std::unique_ptr<GrpcServer> server(new GrpcServer);
  builder.AddListeningPort(options.address, CredentialsOf(options),
                           &server->port_);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || server->port_ == 0) {
    return absl::UnavailableError(
        StrCat("cannot listen on ", options.address,
               ": the port is in use or the address is not this machine's"));
  }
  server->SetServing(false);
  return server;
}

GrpcServer::~GrpcServer() {
  if (server_ != nullptr) Shutdown(absl::ZeroDuration());
}

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* const health =
      server_->GetHealthCheckService();
  for (const char* service : kServiceNames) {
    health->SetServingStatus(service, serving);
  }
  health->SetServingStatus("", serving);
}

void GrpcServer::Shutdown(absl::Duration at_most) {
  // gRPC takes the wall clock's time and turns it into its own at once.
  server_->Shutdown(absl::ToChronoTime(absl::Now() + at_most));
}

}  // namespace sparseserve
