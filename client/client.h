#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/call_options.h"
#include "grpcpp/channel.h"
#include "grpcpp/security/credentials.h"
#include "sparseserve/v1/inference_service.grpc.pb.h"
#include "sparseserve/v1/model_service.grpc.pb.h"

namespace sparseserve {

class GenerationStreams;

// What a server says about itself or one of its services.
enum class Health { kUnknown, kServing, kNotServing, kServiceUnknown };

// Calls one sparseserve service, however many replicas stand behind its name.
// Keep one for the life of a program: it holds the connections. Thread-safe;
// every call but StartGenerate blocks its own thread until it ends. Calls that
// block must end before the client is destroyed; its destructor waits for what
// StartGenerate started, so none of the events may run it.
//
// Errors carry the server's details, see error_details.h. UNAVAILABLE means
// that no replica could take the call, after the retries of the service config;
// it may be tried again. A stream that broke after its first message is never
// retried: its text was already handed out.
class Client {
 public:
  struct Options {
    // A gRPC target: "host:port", "dns:///service.namespace.svc:9000",
    // "unix:/path".
    std::string server;

    // Null: plaintext, for a loopback address or a network that protects
    // itself. MakeCredentials() of credentials.h reads them from files.
    std::shared_ptr<grpc::ChannelCredentials> credentials;

    // Empty: DefaultServiceConfig().
    std::string service_config_json;

    // Name that the server's certificate must have; empty: that of `server`.
    std::string tls_server_name;
  };

  // Makes the client; does not wait for a connection, which calls open when
  // they need it. INVALID_ARGUMENT names an option that cannot work.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(Options options);

  ~Client();

  // Gets output as it is generated, in the calling thread. Returns false to
  // cancel. A callback that takes long slows its own stream down, and the
  // server ends streams whose reader takes nothing.
  using OnOutput = absl::FunctionRef<bool(const v1::OutputDelta&)>;

  // Generates, handing out each piece as it arrives; returns the final report.
  // CANCELLED if `on_output` or `call.stop` asked for it.
  absl::StatusOr<v1::GenerationReport> Generate(
      const v1::GenerateOptions& options, OnOutput on_output,
      const CallOptions& call = {});

  // What is told of a generation that runs beside its caller: each piece of
  // output, then once how it ended. Called on a thread of the client's, which
  // all started generations share, so they must not block.
  struct GenerationEvents {
    std::function<void(const v1::OutputDelta&)> on_output;
    std::function<void(absl::StatusOr<v1::GenerationReport>)> on_end;
  };

  // Starts a generation and returns at once; thousands may run on that thread.
  // INVALID_ARGUMENT if `call` cannot work: nothing is started then, and
  // nothing told. CANCELLED at the end if `call.stop` asked for it.
  absl::Status StartGenerate(const v1::GenerateOptions& options,
                             GenerationEvents events,
                             const CallOptions& call = {});

  // Generates and returns the whole answer.
  absl::StatusOr<v1::GenerateResponse> GenerateText(
      const v1::GenerateOptions& options, const CallOptions& call = {});

  absl::StatusOr<v1::TokenizeResponse> Tokenize(
      const v1::TokenizeRequest& request, const CallOptions& call = {});

  // Takes up to three times as long as the prompt alone.
  absl::StatusOr<v1::ExplainAttentionResponse> ExplainAttention(
      const v1::ExplainAttentionRequest& request, const CallOptions& call = {});

  // `model` may be empty where the server has only one.
  absl::StatusOr<std::string> Detokenize(absl::string_view model,
                                         const std::vector<int32_t>& token_ids,
                                         const CallOptions& call = {});

  // Of all pages.
  absl::StatusOr<std::vector<v1::Model>> ListModels(
      const CallOptions& call = {});

  // NOT_FOUND if the server has no model of this name, "models/{model}".
  absl::StatusOr<v1::Model> GetModel(absl::string_view name,
                                     const CallOptions& call = {});

  // What one server says of `service`, or of itself if that is empty. Asks also
  // servers that other calls would leave out because they do not serve.
  absl::StatusOr<Health> CheckHealth(absl::string_view service,
                                     const CallOptions& call = {});

  // Hands out the health now and at every change, until `on_change` returns
  // false, which is OK, or the call fails.
  absl::Status WatchHealth(absl::string_view service,
                           absl::FunctionRef<bool(Health)> on_change,
                           const CallOptions& call = {});

 private:
  Client(std::shared_ptr<grpc::Channel> channel,
         std::shared_ptr<grpc::Channel> health_channel);

  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ModelService::Stub> models_;
  // gRPC's stubs share their channel.
  std::shared_ptr<grpc::Channel> channel_;
  // Does not itself follow the servers' health.
  std::shared_ptr<grpc::Channel> health_channel_;
  // Last: waits for its calls while the channels are there.
  std::unique_ptr<GenerationStreams> started_;
};

}  // namespace sparseserve
