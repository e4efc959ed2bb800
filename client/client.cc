#include "client/client.h"

#include <limits>
#include <optional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "client/client_call.h"
#include "client/generation_streams.h"
#include "client/server_stream.h"
#include "client/service_config.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/channel_arguments.h"
#include "grpcpp/support/validate_service_config.h"

namespace sparseserve {
namespace {

// A connection whose other end is gone is noticed within this time plus a
// third, while calls run on it.
constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
// A whole answer with log-probabilities is larger than gRPC's default of 4 MiB.
constexpr int kMaxReplyBytes = 64 << 20;

grpc::ChannelArguments CommonArguments(const Client::Options& options) {
  grpc::ChannelArguments arguments;
  if (!options.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls_server_name);
  }
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetMaxReceiveMessageSize(kMaxReplyBytes);
  return arguments;
}

// Runs one unary call; `method` is a member function of the stub.
template <typename Stub, typename Request, typename Reply>
absl::StatusOr<Reply> CallUnary(
    Stub& stub,
    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
    const Request& request, const CallOptions& options) {
  if (absl::Status valid = ValidateCallOptions(options); !valid.ok()) {
    return valid;
  }
  ClientCall call(options);
  Reply reply;
  absl::Status result =
      call.Result((stub.*method)(&call.context(), request, &reply));
  if (!result.ok()) return result;
  return reply;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(Options options) {
  if (options.server.empty()) {
    return absl::InvalidArgumentError(
        "Client::Options::server is empty; give \"host:port\"");
  }
  if (options.service_config_json.empty()) {
    options.service_config_json = std::string(DefaultServiceConfig());
  }
  const std::string wrong = grpc::experimental::ValidateServiceConfigJSON(
      options.service_config_json);
  if (!wrong.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("Client::Options::service_config_json: ", wrong));
  }
  if (options.credentials == nullptr) {
    options.credentials = grpc::InsecureChannelCredentials();
  }
  grpc::ChannelArguments arguments = CommonArguments(options);
  arguments.SetServiceConfigJSON(options.service_config_json);
  auto channel =
      grpc::CreateCustomChannel(options.server, options.credentials, arguments);
  grpc::ChannelArguments health_arguments = CommonArguments(options);
  health_arguments.SetInt(GRPC_ARG_INHIBIT_HEALTH_CHECKING, 1);
  auto health_channel = grpc::CreateCustomChannel(
      options.server, options.credentials, health_arguments);
  return absl::WrapUnique(
      new Client(std::move(channel), std::move(health_channel)));
}

Client::Client(std::shared_ptr<grpc::Channel> channel,
               std::shared_ptr<grpc::Channel> health_channel)
    : inference_(v1::InferenceService::NewStub(channel)),
      models_(v1::ModelService::NewStub(channel)),
      channel_(std::move(channel)),
      health_channel_(std::move(health_channel)),
      started_(std::make_unique<GenerationStreams>(channel_)) {}

Client::~Client() = default;

absl::StatusOr<v1::GenerationReport> Client::Generate(
    const v1::GenerateOptions& options, OnOutput on_output,
    const CallOptions& call) {
  if (absl::Status valid = ValidateCallOptions(call); !valid.ok()) {
    return valid;
  }
  v1::StreamGenerateRequest request;
  *request.mutable_options() = options;
  ServerStream stream(channel_,
                      "/sparseserve.v1.InferenceService/StreamGenerate",
                      request, call);
  std::optional<v1::GenerationReport> report;
  bool stopped = false;
  v1::StreamGenerateResponse response;
  while (!stopped && stream.Read(response)) {
    if (response.has_report()) {
      report = std::move(*response.mutable_report());
    } else if (response.has_output() && !on_output(response.output())) {
      stopped = true;
      stream.Cancel();
    }
  }
  absl::Status result = stream.Finish();
  if (stopped) return absl::CancelledError("stopped by on_output");
  if (!result.ok()) return result;
  if (!report.has_value()) {
    return absl::InternalError("the stream ended without a report");
  }
  return *std::move(report);
}

absl::Status Client::StartGenerate(const v1::GenerateOptions& options,
                                   GenerationEvents events,
                                   const CallOptions& call) {
  absl::Status valid = ValidateCallOptions(call);
  if (!valid.ok()) return valid;
  v1::StreamGenerateRequest request;
  *request.mutable_options() = options;
  started_->Start(request, call, std::move(events.on_output),
                  std::move(events.on_end));
  return absl::OkStatus();
}

absl::StatusOr<v1::GenerateResponse> Client::GenerateText(
    const v1::GenerateOptions& options, const CallOptions& call) {
  v1::GenerateRequest request;
  *request.mutable_options() = options;
  return CallUnary(*inference_, &v1::InferenceService::Stub::Generate, request,
                   call);
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(
    const v1::TokenizeRequest& request, const CallOptions& call) {
  return CallUnary(*inference_, &v1::InferenceService::Stub::Tokenize, request,
                   call);
}

absl::StatusOr<v1::ExplainAttentionResponse> Client::ExplainAttention(
    const v1::ExplainAttentionRequest& request, const CallOptions& call) {
  return CallUnary(*inference_, &v1::InferenceService::Stub::ExplainAttention,
                   request, call);
}

absl::StatusOr<std::string> Client::Detokenize(
    absl::string_view model, const std::vector<int32_t>& token_ids,
    const CallOptions& call) {
  v1::DetokenizeRequest request;
  request.set_model(std::string(model));
  request.mutable_token_ids()->Add(token_ids.begin(), token_ids.end());
  auto response = CallUnary(
      *inference_, &v1::InferenceService::Stub::Detokenize, request, call);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_text());
}

absl::StatusOr<std::vector<v1::Model>> Client::ListModels(
    const CallOptions& call) {
  std::vector<v1::Model> models;
  v1::ListModelsRequest request;
  do {
    auto response =
        CallUnary(*models_, &v1::ModelService::Stub::ListModels, request, call);
    if (!response.ok()) return response.status();
    for (auto& model : *response->mutable_models()) {
      models.push_back(std::move(model));
    }
    if (!response->next_page_token().empty() &&
        response->next_page_token() == request.page_token()) {
      return absl::InternalError("the server gave the same page token twice");
    }
    request.set_page_token(response->next_page_token());
  } while (!request.page_token().empty());
  return models;
}

absl::StatusOr<v1::Model> Client::GetModel(absl::string_view name,
                                           const CallOptions& call) {
  v1::GetModelRequest request;
  request.set_name(std::string(name));
  auto response =
      CallUnary(*models_, &v1::ModelService::Stub::GetModel, request, call);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_model());
}

}  // namespace sparseserve
